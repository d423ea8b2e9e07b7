"""The figures behind the goals, from a finished evaluation's forecasts in a window of time and on some of its symbols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from models import table
from models.base import ENSEMBLE, PROBABILITIES, VARIANCE_LEVELS
from training import losses, regime_switches
from training.comparison import gain
from training.diagnostics import OPPONENTS, REFERENCE, diagnose, joined, on_grid
from training.goals import TESTS, Figure
from training.risk import stack
from training.sample import Sample, samples
from training.scorecard import SCORED_COLUMNS, score_document, score_rows

__all__ = ["Measured", "Window", "measure"]

FloatArray = npt.NDArray[np.float64]

SIDES: Final = ("long", "short")
COLUMNS: Final = tuple(dict.fromkeys([*SCORED_COLUMNS, "ret_es010", *(f"mae_{side}_q995" for side in SIDES)]))
STRESSED: Final = 2


@dataclass(frozen=True)
class Window:
    """What is judged: origins of ``start <= origin < end`` of these symbols. ``best``: B* by horizon."""

    name: str
    start: pd.Timestamp
    end: pd.Timestamp
    symbols: tuple[str, ...]
    best: Mapping[int, str]


@dataclass(frozen=True)
class Measured:
    """A window's scores and diagnostics, as an evaluation of it alone would tell them, and its figures by name."""

    window: Window
    scores: Mapping[str, Any] = field(repr=False)
    diagnostics: Mapping[str, Any] = field(repr=False)
    figures: Mapping[str, Figure] = field(repr=False)

    @property
    def symbol_years(self) -> int:
        """Symbol-years on which the ensemble's back-tests rest, at the shortest horizon."""
        rows = [row for row in self.diagnostics["risk"] if row["model"] == ENSEMBLE and row["test"] == "kupiec"]
        return min(rows, key=lambda row: int(row["horizon_hours"]))["symbol_years"] if rows else 0


def measure(
    path: str | Path, realised: pd.DataFrame, windows: Sequence[Window], *, proxy: str, tried: int = 1
) -> list[Measured]:
    """Score every window of the forecast table at ``path``, one horizon in memory at a time.

    ``realised``: as ``Evaluation.realised``; ``tried``: configurations that were ever scored.
    """
    rows: list[list[dict[str, Any]]] = [[] for _ in windows]
    told: list[list[dict[str, Any]]] = [[] for _ in windows]
    figures: list[dict[str, Figure]] = [{} for _ in windows]
    for forecasts in table.read_horizons(path, COLUMNS):
        for k, window in enumerate(windows):
            chosen = forecasts["symbol"].isin(window.symbols)
            inside = forecasts["origin"].between(window.start, window.end, inclusive="left")
            part = forecasts[chosen & inside]
            for sample in samples(part, realised, window.start, window.end) if len(part) else ():
                best = window.best.get(sample.horizon)
                rivals = dict.fromkeys([*OPPONENTS, *([best] if best else [])])
                rows[k] += score_rows(sample)
                told[k].append(diagnose(sample, ENSEMBLE, list(rivals), realised, tried))
                figures[k] |= dict(_of_sample(sample, realised, best))
    out = []
    for k, window in enumerate(windows):
        scores = score_document(rows[k], start=window.start, end=window.end, proxy=proxy)
        diagnostics = joined(told[k])
        found = figures[k] | dict(_of_scores(scores["scores"])) | dict(_of_diagnostics(diagnostics, window))
        out.append(Measured(window, scores, diagnostics, found))
    return out


def _of_scores(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Figure]]:
    own = [row for row in rows if row["model"] == ENSEMBLE]
    for row in own:
        if row["symbol"] == "*":
            yield f"stress skill, {row['horizon_hours']} h", Figure.of(row["brier_skill_stress"])
            yield f"onset skill, {row['horizon_hours']} h", Figure.of(row["brier_skill_onset"])
    alone = [row for row in own if row["symbol"] != "*"]
    for h in sorted({row["horizon_hours"] for row in alone}):
        errors = [row["ece_stress"] for row in alone if row["horizon_hours"] == h and row["ece_stress"] is not None]
        yield f"worst calibration error, {h} h", Figure.of(max(errors, default=None))
        away = [
            abs(row["coverage_var_90"] - 0.90)
            for row in alone
            if row["horizon_hours"] == h and row["coverage_var_90"] is not None
        ]
        yield f"worst coverage, distance, {h} h", Figure.of(max(away, default=None))
    inside: dict[tuple[int, str], list[str]] = {}
    for row in rows:
        if row["symbol"] != "*" and row["horizon_hours"] <= 24 and row["in_mcs90"] is not None:
            held = inside.setdefault((row["horizon_hours"], row["symbol"]), [])
            held += [row["model"]] if row["in_mcs90"] else []
    if inside:
        yield "in the set", Figure.of(float(np.mean([ENSEMBLE in held for held in inside.values()])))
        yield "alone in the set", Figure.of(float(np.mean([held == [ENSEMBLE] for held in inside.values()])))


def _of_diagnostics(told: Mapping[str, Any], window: Window) -> Iterator[tuple[str, Figure]]:
    for row in told["gains"]:
        if row["loss"] != "qlike_x":
            continue
        h, opponent = row["horizon_hours"], row["opponent"]
        found = Figure.of(row["gain"], row["low"], row["high"])
        yield f"vs {opponent}, {h} h", found
        if opponent == window.best.get(h):
            yield f"vs B*, {h} h", Figure.of(found.value, found.low, found.high, why=f"B* is {opponent}")
        if opponent == REFERENCE and row["symbols"]:
            yield f"symbols better, {h} h", Figure.of(row["symbols_better"] / row["symbols"])
            yield f"symbols clearly better, {h} h", Figure.of(row["symbols_significant"] / row["symbols"])
    for row in told["pooled"]:
        if row["model"] == ENSEMBLE:
            h = row["horizon_hours"]
            yield f"calibration error, {h} h", Figure.of(row["ece_stress"])
            yield f"1 % hits, {h} h", Figure.of(row["var_hit_010"])
            yield f"5 % hits, {h} h", Figure.of(row["var_hit_050"])
    for row in told["risk"]:
        if row["model"] == ENSEMBLE and row["symbol_years"]:
            share = Figure.of(row["passed"] / row["symbol_years"], why=f"of {row['symbol_years']} symbol-years")
            name = "symbol-years in their 95 % band" if row["test"] == "band" else f"pass {TESTS[row['test']]}"
            yield f"{name}, {row['horizon_hours']} h", share
    for row in told["shortfall"]:
        # What is saved of exp(FZ0) falls as the difference rises: the ends of the interval keep their order.
        value, low, high = (1.0 - float(np.exp(-row[name])) for name in ("difference", "low", "high"))
        yield f"FZ0 saved at {row['level'] * 100:g} %, {row['horizon_hours']} h", Figure.of(value, low, high)
    for row in told["strata"]:
        if (row["kind"], row["value"]) == ("onset", "just begun"):
            yield f"1 % hits at onset, {row['horizon_hours']} h", Figure.of(row["var_hit_010"])
    yield from _of_alarms(told["alarm_points"])


def _of_alarms(points: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Figure]]:
    for row in points:
        if row["model"] != ENSEMBLE:
            continue
        rate, why = f"{row['rate']:g}", f"{row['events']} events, {row['false_alarms']:.1f} false alarms a symbol-year"
        if row["event"] == "trailing" and None not in (row["recall"], row["shifted_recall"]):
            above = row["recall"] - row["shifted_recall"]
            yield f"recall above shifted @ {rate}", Figure.of(above, why=f"recall {row['recall']:.2f}; {why}")
        if row["event"] == "burst":
            yield f"median lead on bursts @ {rate}, hours", Figure.of(row["lead"], why=why)


def _of_sample(sample: Sample, realised: pd.DataFrame, best: str | None) -> Iterator[tuple[str, Figure]]:
    if ENSEMBLE not in sample.models:
        return
    own, h = sample.models.index(ENSEMBLE), sample.horizon
    if REFERENCE in sample.models:
        found = gain(_crps(sample, own), _crps(sample, sample.models.index(REFERENCE)), sample.days)
        yield f"crps_log vs har_seasonal, {h} h", Figure.of(found.value, found.low, found.high)
    stressed = on_grid(realised, sample, sample.horizon, "regime_now") >= STRESSED
    low, high, y = stack(sample, own, "var_q05"), stack(sample, own, "var_q95"), sample.truth["variance"]
    covered = np.where(np.isfinite(low + high + y) & stressed, (low <= y) & (y <= high), np.nan)
    shares = [float(np.nanmean(row)) for row in covered if np.isfinite(row).any()]
    yield (
        f"worst coverage inside stress, distance, {h} h",
        Figure.of(max((abs(share - 0.90) for share in shares), default=None)),
    )
    for side in SIDES:
        quantile = stack(sample, own, f"mae_{side}_q995")
        came = on_grid(realised, sample, sample.horizon, f"mae_{side}")
        beyond = np.where(np.isfinite(quantile + came), came > quantile, np.nan)
        yield f"beyond mae_{side}_q995, {h} h", Figure.of(_mean(beyond))
        yield f"beyond mae_{side}_q995 in stress, {h} h", Figure.of(_mean(beyond[stressed]))
    if h == 24:
        yield "switches vs filtered HMM", _switches(sample, own, realised)
        if best in sample.models:
            yield from _periods(sample, own, sample.models.index(best))


def _periods(sample: Sample, own: int, other: int) -> Iterator[tuple[str, Figure]]:
    months = sample.hours.astype("datetime64[h]").astype("datetime64[M]").astype(np.int64)
    for word, length in (("years", 12), ("quarters", 3)):
        better = []
        for period in np.unique(months // length):
            rows = np.where(months // length == period, sample.qlike_x[own], np.nan)
            found = gain(rows, sample.qlike_x[other], sample.days, reps=0)
            better += [found.value > 0.0] if found.symbols else []
        share = float(np.mean(better)) if better else None
        yield f"{word} better than B*, 24 h", Figure.of(share, why=f"{sum(better)} of {len(better)}")


def _switches(sample: Sample, own: int, realised: pd.DataFrame) -> Figure:
    history = regime_switches.FIT_HOURS
    longer = replace(sample, hours=np.arange(sample.hours[0] - history, sample.hours[-1] + 1))
    trailing, threshold, regime = (
        on_grid(realised, longer, sample.horizon, name) for name in ("trailing_variance", "threshold_normal", "regime")
    )
    hmm = regime_switches.hmm_probabilities(np.log(trailing / threshold), regime, history, sample.horizon)
    p = np.stack([stack(sample, own, name) for name in PROBABILITIES], axis=2)
    found = regime_switches.compare(p, hmm[:, history:], regime[:, history:], sample.days)
    if found is None:
        return Figure.of(None)
    (first, second), (own_loss, hmm_loss), (own_life, hmm_life) = found.as_forecast, found.log_loss, found.half_life
    why = (
        f"{found.own:.0f} against {found.hmm:.0f} switches a symbol-year, smoothed with half-lives of {own_life:.0f} and "
        f"{hmm_life:.0f} h; as forecast {first:.0f} against {second:.0f}, log-loss {own_loss:.3f} against {hmm_loss:.3f}"
        f"{'' if found.equal else '; a longer half-life would still not cost as much'}"
    )
    return Figure.of(found.change, found.low, found.high, why=why)


def _crps(sample: Sample, m: int) -> FloatArray:
    """CRPS of ln V, symbols × hours, without the shock day."""
    out = np.full(sample.qlike[m].shape, np.nan)
    for s in range(len(sample.symbols)):
        quantiles, y = sample.table(m, s, tuple(VARIANCE_LEVELS)), sample.truth["variance"][s]
        known = np.isfinite(quantiles).all(axis=1) & np.isfinite(y) & ~sample.shocked
        if known.any():
            out[s, known] = losses.crps_log_terms(y[known], quantiles[known])
    return out


def _mean(values: FloatArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None
