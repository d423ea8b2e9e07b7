"""What a step from one set of features to a larger one is worth, on the common sample of both.

QLIKE is that of ``training.scorecard``, without the shock day; onset skill is ``brier_skill_onset``. Each is a mean over
symbols with equal weight, and its interval resamples whole days, all symbols together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.panel import MICROSECONDS_PER_HOUR
from training.comparison import Gain, gain
from training.config import RunConfig
from training.evaluation import CLIMATOLOGY
from training.feature_arms import CLASSICAL, LOG_MEAN, REFERENCES, Arm, Forecasts
from training.material import NEEDED, Material
from training.sample import Sample, samples
from training.scorecard import nullable
from training.splits import Fold

__all__ = ["OWN", "REFERENCE", "Kind", "Scores", "Step", "gains"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Kind: TypeAlias = Literal["ladder", "removed", "family_added", "family_removed"]

OWN: Final = "har_x_own"
"""The ridge that is trained on the focus symbol's own rows."""
REFERENCE: Final = "har_seasonal"
AGE: Final = "age_"
LEVEL: Final = 0.90
LEAST_PRESENT: Final = 0.5
LEAST_LEARNT: Final = 720


@dataclass(frozen=True)
class Step:
    """From the families of ``base`` to those of ``full``, which have the ``subject`` (a group or a family) besides.

    ``columns``: by which the hours are known at which the subject's feeds exist.
    """

    subject: str
    kind: Kind
    base: tuple[str, ...]
    full: tuple[str, ...]
    columns: tuple[str, ...]


class Scores(NamedTuple):
    """``steps``: one row per step, model and horizon. ``levels``: per set of families, model and horizon. ``shock_days``."""

    steps: list[dict[str, Any]]
    levels: list[dict[str, Any]]
    shock_days: dict[str, list[str]]


def gains(
    steps: Sequence[Step],
    forecasts: Mapping[Arm, Forecasts],
    material: Material,
    config: RunConfig,
    folds: Sequence[Fold],
    start: pd.Timestamp,
    end: pd.Timestamp,
    symbols: Sequence[str],
    focus: str | None = None,
) -> Scores:
    """Score every step at ``start <= origin < end`` on these symbols.

    With ``focus``, a step is scored on the hours only at which more than half of its columns exist for that symbol (ages of
    feeds not counted) and had existed for 720 hours before the fold's border: what no fit has seen cannot be worth anything.
    The ridge of the symbol's own rows then stands beside the pooled models.
    """
    joint = 1 - (1 - LEVEL) / (2 * len(config.horizons))  # Bonferroni: two losses at every horizon
    realised = material.realised(start - CLIMATOLOGY, end)
    scores = Scores([], [], {})
    sets = list(dict.fromkeys(families for step in steps for families in (step.base, step.full)))
    models = [*(m.kind for m in config.members), LOG_MEAN, *([OWN] if focus else [])]
    for horizon in config.horizons:
        came = realised[realised.index.get_level_values("horizon_hours") == horizon]
        for model in models:
            rivals = {m.kind: (forecasts[REFERENCES], (m.kind, horizon)) for m in CLASSICAL}
            for families in sets:
                arm = Arm(families, "own" if model == OWN else "signals", focus)
                rivals[_label(families)] = forecasts[arm], (LOG_MEAN if model == OWN else model, horizon)
            (sample,) = samples(_table(rivals, material, horizon, symbols, start, end), came, start, end)
            key = {"model": model, "horizon_hours": horizon}
            onset = _brier(sample)
            if model == LOG_MEAN:
                told = _level(sample, onset, REFERENCE)
                scores.levels.append({"families": list(NEEDED), "model": REFERENCE, "horizon_hours": horizon} | told)
                days = np.unique(sample.days[sample.shocked])
                scores.shock_days[str(horizon)] = [str(np.datetime64(int(day), "D")) for day in days]
            for step in steps:
                where = np.ones(len(sample.hours), dtype=np.bool_)
                if focus is not None:
                    where = _learnable(material, sample, step, focus, folds)
                scores.steps.append(
                    {"subject": step.subject, "kind": step.kind} | key | _worth(sample, onset, step, where, joint)
                )
            scores.levels.extend({"families": list(f)} | key | _level(sample, onset, _label(f)) for f in sets)
    return scores


def _label(families: Sequence[str]) -> str:
    return "+".join(families)


def _table(
    rivals: Mapping[str, tuple[Forecasts, tuple[str, int]]],
    material: Material,
    horizon: int,
    symbols: Sequence[str],
    start: pd.Timestamp,
    end: pd.Timestamp,
) -> pd.DataFrame:
    """The rivals' forecasts as rows of the forecast table, with no more columns than scoring reads here."""
    chosen = pd.Index(material.symbols).get_indexer(pd.Index(symbols))
    codes: dict[str, list[npt.NDArray[Any]]] = {"symbol": [], "model": [], "origin": [], "log": [], "p_onset": []}
    for code, (forecasts, key) in enumerate(rivals.values()):
        times = material.times[forecasts.span]
        inside = np.asarray((times >= start) & (times < end))
        log_variance = forecasts.log_variance[key][chosen][:, inside]
        symbol, column = np.nonzero(np.isfinite(log_variance))
        onset = forecasts.p_onset.get(key)
        p = np.full(len(symbol), np.nan) if onset is None else onset[chosen][:, inside][symbol, column]
        new = symbol, np.full(len(symbol), code), times.asi8[inside][column], log_variance[symbol, column], p
        for part, values in zip(codes.values(), new, strict=True):
            part.append(values)
    whole = {name: np.concatenate(parts) for name, parts in codes.items()}
    return pd.DataFrame(
        {
            "symbol": pd.Categorical.from_codes(whole["symbol"], pd.Index(list(symbols))),
            "model": pd.Categorical.from_codes(whole["model"], pd.Index(list(rivals))),
            "origin": pd.DatetimeIndex(whole["origin"].astype("datetime64[us]"), tz="UTC"),
            "horizon_hours": np.int16(horizon),
            "status": pd.Categorical.from_codes(np.zeros(len(whole["log"]), dtype=np.int8), pd.Index(["ok"])),
            "variance": np.exp(whole["log"]),
            "p_onset": whole["p_onset"],
        }
    )


def _learnable(material: Material, sample: Sample, step: Step, focus: str, folds: Sequence[Fold]) -> Mask:
    """Hours of the sample at which the step's feeds exist, and were there for long enough before the fold's border."""
    row = material.symbols.index(focus)
    names = [name for name in step.columns if not name.startswith(AGE)] or step.columns
    known = np.mean([np.isfinite(material.feature(name)[row]) for name in names], axis=0) > LEAST_PRESENT
    seen = np.cumsum(known)
    borders = material.times.get_indexer(pd.DatetimeIndex([fold.train_end for fold in folds]), method="ffill")
    starts = pd.DatetimeIndex([fold.test_start for fold in folds]).as_unit("us").asi8
    newest = np.searchsorted(starts, material.times.asi8, side="right") - 1
    known &= (newest >= 0) & (seen[borders[newest]] >= LEAST_LEARNT)
    column = sample.hours - material.times.asi8[0] // MICROSECONDS_PER_HOUR
    inside = (column >= 0) & (column < len(known))
    return np.asarray(inside & known[np.where(inside, column, 0)])


def _worth(sample: Sample, onset: tuple[Array, Array], step: Step, where: Mask, joint: float) -> dict[str, Any]:
    """The gain of the step's full set over its base, and the change in onset skill, overall and by year.

    Beside the 90 % intervals stand those at the level ``joint``, which all hold at once in 90 of 100 studies.
    """
    full, base = (sample.models.index(_label(families)) for families in (step.full, step.base))
    first, second = (np.where(where, sample.qlike_x[m], np.nan) for m in (full, base))
    without_exclusion = gain(sample.qlike[full], np.where(where, sample.qlike[base], np.nan), sample.days, reps=1)
    brier, climatology = onset
    # Skill is 1 - Brier / climatology: with the climatology as opponent, this loss gains the difference of two skills.
    moved, unmoved = climatology + brier[full] - brier[base], np.where(where, climatology, np.nan)
    years = sample.hours.astype("datetime64[h]").astype("datetime64[Y]").astype(np.int64) + 1970

    def by_year(a: Array, b: Array) -> dict[str, float | None]:
        found = {}
        for year in np.unique(years[where]).tolist():
            found[str(year)] = nullable(gain(a, np.where(years == year, b, np.nan), sample.days, reps=1).value)
        return found

    compared = np.isfinite(first) & np.isfinite(second)
    return {
        "rows": int(compared.sum()),
        "days": len(np.unique(sample.days[compared.any(axis=0)])),
        **_fields("gain", gain(first, second, sample.days)),
        **_joint("gain", gain(first, second, sample.days, level=joint)),
        "gain_full": nullable(without_exclusion.value),
        "gain_by_year": by_year(first, second),
        **_fields("onset", gain(moved, unmoved, sample.days)),
        **_joint("onset", gain(moved, unmoved, sample.days, level=joint)),
        "onset_by_year": by_year(moved, unmoved),
    }


def _fields(name: str, found: Gain) -> dict[str, Any]:
    return {
        name: nullable(found.value),
        f"{name}_low": nullable(found.low),
        f"{name}_high": nullable(found.high),
        f"{name}_better": found.better,
        f"{name}_symbols": found.symbols,
    }


def _joint(name: str, found: Gain) -> dict[str, Any]:
    return {f"{name}_joint_low": nullable(found.low), f"{name}_joint_high": nullable(found.high)}


def _brier(sample: Sample) -> tuple[Array, Array]:
    """Squared error of each model's onset probability (models × symbols × hours), and of the climatology."""
    onset, trailing = sample.truth["onset"], sample.truth["onset_climatology"]
    symbols = range(len(sample.symbols))
    p = np.stack([[sample.column(m, s, "p_onset") for s in symbols] for m in range(len(sample.models))])
    return (p - onset) ** 2, (trailing - onset) ** 2


def _level(sample: Sample, onset: tuple[Array, Array], model: str) -> dict[str, Any]:
    """The model's own losses, its gain over the reference, and its onset skill."""
    own, reference = sample.models.index(model), sample.models.index(REFERENCE)
    brier, climatology = onset
    skill = gain(brier[own], np.where(np.isfinite(brier[own]), climatology, np.nan), sample.days, reps=1)
    return {
        "qlike": _mean(sample.qlike[own]),
        "qlike_x": _mean(sample.qlike_x[own]),
        **_fields("gain", gain(sample.qlike_x[own], sample.qlike_x[reference], sample.days)),
        "onset_skill": nullable(skill.value),
    }


def _mean(loss: Array) -> float | None:
    """Mean over symbols of their means, null where nothing was scored."""
    scored = loss[np.isfinite(loss).any(axis=1)]
    return nullable(float(np.nanmean(scored, axis=1).mean())) if len(scored) else None
