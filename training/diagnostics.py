"""What a reader needs beside the scores: gains with intervals, where they live, and what every claim is worth.

Gains and shock days, coverage, pooled calibration; tests of equal ability with everything claimed and tried counted; strata;
back-tests by symbol-year; reliability of probabilities; alarms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from models.base import ENSEMBLE
from training import alarms, losses
from training.claims import equal_ability, superiority
from training.comparison import diebold_mariano, gain, newey_west_lags
from training.multiplicity import holm
from training.published_law import coverage_by_month, pit
from training.reliability import reliability
from training.risk import back_tests, filtered_comparison, stack
from training.sample import Sample, samples, scored
from training.scorecard import nullable
from training.strata import gains_by_stratum

__all__ = ["OPPONENTS", "REFERENCE", "diagnose", "diagnostics", "headline", "joined", "on_grid"]

FloatArray = npt.NDArray[np.float64]

OPPONENTS: Final = ("har_seasonal", "garch", "har", "ewma")
REFERENCE: Final = "har_seasonal"
"""The classical model that claims are made against."""
_STRESS: Final = ("p_stress", "p_crisis")
_BY_MODEL: Final = ("coverage", "pooled")
_LISTS: Final = (
    *("coverage", "gains", "pooled", "tests", "superiority", "strata"),
    *("risk", "shortfall", "reliability", "alarm_curves", "alarm_points", "pit", "coverage_by_month"),
)
_GAIN_COLUMNS: Final = (
    "horizon_hours",
    "opponent",
    "loss",
    "gain",
    "low",
    "high",
    "symbols_better",
    "symbols_significant",
    "symbols",
)


def headline(
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    model: str = ENSEMBLE,
    opponents: Sequence[str] = OPPONENTS,
    *,
    start: pd.Timestamp | str | None = None,
    end: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """The model's gain over each opponent, per horizon, with and without the shock day.

    Returns:
        One row per horizon_hours, opponent and loss (``qlike``, ``qlike_x``): gain with its 90 % interval by
        date (low, high), symbols_better of symbols, and symbols_significant (Diebold-Mariano p < 0.05 among
        those better). Opponents without forecasts are left out.
    """
    first, last = forecasts["origin"].min(), forecasts["origin"].max() + pd.Timedelta(hours=1)
    found = samples(forecasts, realised, first if start is None else start, last if end is None else end)
    rows = [row for sample in found for row in _gains(sample, model, opponents)]
    return pd.DataFrame(rows, columns=_GAIN_COLUMNS)


def diagnostics(
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    *,
    start: pd.Timestamp | str,
    end: pd.Timestamp | str,
    model: str = ENSEMBLE,
    opponents: Sequence[str] = OPPONENTS,
    tried: int = 1,
) -> dict[str, Any]:
    """What a reader needs beside the scores, ready for ``to_json_bytes``.

    ``tried``: configurations that were ever scored, this one among them; claims are deflated by it.

    Returns:
        ``shock_days`` (per horizon, the UTC days that ``qlike_x`` leaves out), ``coverage`` (per model and
        horizon: origins with a complete target, how many of them it forecast, and how many were scored),
        ``gains`` (the rows of ``headline``), ``pooled`` (hits and calibration error over all symbols), ``tests`` (of equal
        ability, per opponent), ``superiority`` (over all models at once), ``strata``, ``risk`` and ``shortfall`` (see
        ``training.risk``), ``reliability``, ``alarm_curves`` and ``alarm_points`` (of 24 h, see ``training.alarms``),
        ``pit`` and ``coverage_by_month`` of the model's law of returns and variances (see ``training.published_law``).
    """
    found = samples(forecasts, realised, start, end)
    return joined(diagnose(sample, model, opponents, realised, tried) for sample in found)


def diagnose(
    sample: Sample,
    model: str = ENSEMBLE,
    opponents: Sequence[str] = OPPONENTS,
    realised: pd.DataFrame | None = None,
    tried: int = 1,
) -> dict[str, Any]:
    """What ``diagnostics`` tells of one horizon.

    ``realised``: of all horizons, with ``regime_now``; without it nothing is told by regime at the origin, and no alarms.
    """
    days = np.unique(sample.days[sample.shocked])
    hours = {"horizon_hours": sample.horizon}
    keys = [{"model": name} | hours for name in sample.models]
    now = None if realised is None else on_grid(realised, sample, sample.horizon, "regime_now")
    rivals = [name for name in opponents if name in sample.models] if model in sample.models else []
    told: dict[str, Any] = {
        "shock_days": {str(sample.horizon): [str(np.datetime64(int(day), "D")) for day in days]},
        "coverage": [key | _coverage(sample, m) for m, key in enumerate(keys)],
        "gains": list(_gains(sample, model, opponents)),
        "pooled": [key | _pooled(sample, m) for m, key in enumerate(keys)],
        "tests": [hours | equal_ability(sample, model, name, now, tried) for name in rivals],
        "superiority": [hours | row for row in superiority(sample, (REFERENCE, model), tried)],
        "strata": [],
        "risk": [key | row for m, key in enumerate(keys) for row in back_tests(sample, m)],
        "shortfall": [],
        "reliability": [key | row for m, key in enumerate(keys) for row in _reliability(sample, m, (model, REFERENCE))],
        "alarm_curves": [],
        "alarm_points": [],
        "pit": [],
        "coverage_by_month": [],
    }
    if model in sample.models:
        own = sample.models.index(model)
        told["pit"] = [hours | row for row in pit(sample, own)]
        told["coverage_by_month"] = [hours | row for row in coverage_by_month(sample, own)]
    if REFERENCE in rivals:
        rows = gains_by_stratum(sample, model, REFERENCE, now)
        told["strata"] = [hours | {"opponent": REFERENCE} | row for row in rows]
    if model in sample.models and "gjr" in sample.models:
        told["shortfall"] = [{"model": model} | hours | row for row in filtered_comparison(sample, model)]
    if realised is not None and now is not None and sample.horizon == alarms.HOURS:
        names = [name for name in (model, REFERENCE, "har") if name in sample.models]
        p = {name: _probability(sample, sample.models.index(name), _STRESS) for name in names}
        told |= alarms.alarm_tables(p, now, on_grid(realised, sample, 1, "variance"))
    return told


def joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``diagnose`` told of several horizons, as one document; its claims are one family."""
    found: dict[str, Any] = {"shock_days": {}, **{name: [] for name in _LISTS}}
    for part in parts:
        found["shock_days"] |= part["shock_days"]
        for name in _LISTS:
            found[name] += part[name]
    for name in _BY_MODEL:
        found[name].sort(key=lambda row: (row["model"], row["horizon_hours"]))
    p_values = [float("nan") if row["dm_p"] is None else row["dm_p"] for row in found["tests"]]
    adjusted = map(nullable, holm(p_values))
    found["tests"] = [row | {"holm_p": p} for row, p in zip(found["tests"], adjusted, strict=True)]
    return found


def on_grid(realised: pd.DataFrame, sample: Sample, horizon: int, name: str) -> FloatArray:
    """A column of ``realised`` on the sample's grid; null where it has no row."""
    if name not in realised:
        raise DataInvalid(f"realised has no column {name}; pass all that features.targets.realised gives")
    chosen = realised.loc[realised.index.get_level_values("horizon_hours") == horizon, name]
    symbol = pd.Index(sample.symbols).get_indexer(chosen.index.get_level_values("symbol"))
    origins = pd.DatetimeIndex(chosen.index.get_level_values("origin")).as_unit("us").asi8
    hour = origins // 3_600_000_000 - sample.hours[0]
    inside = (symbol >= 0) & (hour >= 0) & (hour < len(sample.hours))
    out = np.full((len(sample.symbols), len(sample.hours)), np.nan)
    out[symbol[inside], hour[inside]] = chosen.to_numpy(dtype=np.float64)[inside]
    return out


def _reliability(sample: Sample, m: int, chosen: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Curves of stress and of onset, over all symbols, of the models ``chosen``."""
    if sample.models[m] not in chosen:
        return
    for outcome, names in (("stress", _STRESS), ("onset", ("p_onset",))):
        p = _probability(sample, m, names)
        came = sample.truth[outcome]
        known = np.isfinite(p) & np.isfinite(came)
        if known.any():
            curve = reliability(p[known], came[known], np.broadcast_to(sample.days, p.shape)[known])
            yield {"outcome": outcome} | {name: values.tolist() for name, values in vars(curve).items()}


def _probability(sample: Sample, m: int, names: Sequence[str]) -> FloatArray:
    return np.asarray(np.sum([stack(sample, m, name) for name in names], axis=0))


def _gains(sample: Sample, model: str, opponents: Sequence[str]) -> Iterator[dict[str, Any]]:
    if model not in sample.models:
        return
    own = sample.models.index(model)
    for opponent in opponents:
        if opponent not in sample.models:
            continue
        other = sample.models.index(opponent)
        for name, loss in (("qlike", sample.qlike), ("qlike_x", sample.qlike_x)):
            found = gain(loss[own], loss[other], sample.days)
            values = (sample.horizon, opponent, name, *map(nullable, found[:3]), found.better)
            significant = sum(
                _clearly_better(a, b, sample.horizon) for a, b in zip(loss[own], loss[other], strict=True)
            )
            yield dict(zip(_GAIN_COLUMNS, (*values, significant, found.symbols), strict=True))


def _clearly_better(own: FloatArray, other: FloatArray, horizon: int) -> bool:
    known = np.isfinite(own) & np.isfinite(other)
    if known.sum() <= newey_west_lags(horizon):
        return False
    test = diebold_mariano(own[known], other[known], horizon)
    return test.statistic < 0 and test.p_value < 0.05


def _coverage(sample: Sample, m: int) -> dict[str, Any]:
    complete = ~np.isnan(sample.truth["variance"])
    rows = sample.rows[m][complete & (sample.rows[m] >= 0)]
    forecast = int(np.isfinite(sample.forecasts["variance"].to_numpy()[rows]).sum())
    scored_rows = int(np.isfinite(sample.qlike[m]).sum())
    return {"origins": int(complete.sum()), "forecast": forecast, "scored": scored_rows}


def _pooled(sample: Sample, m: int) -> dict[str, Any]:
    def pool(name: str) -> FloatArray:
        return np.concatenate([sample.column(m, s, name) for s in range(len(sample.symbols))])

    r, stress = sample.truth["log_return"].ravel(), sample.truth["stress"].ravel()
    return {
        "var_hit_010": nullable(scored(losses.hit_rate, r, pool("ret_q010"))),
        "var_hit_050": nullable(scored(losses.hit_rate, r, pool("ret_q050"))),
        "ece_stress": nullable(scored(losses.ece, stress, pool("p_stress") + pool("p_crisis"))),
    }
