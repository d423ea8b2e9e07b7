"""Targets before the loop, and what follows it: levels, combination, empirical laws, scores, in plain pandas.

Frames are hours by symbols, the layout in which pandas is fastest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.panel import Panel
from models.base import EXCURSION_COLUMNS, RETURN_LEVELS, SHORTFALL_LEVELS, VARIANCE_LEVELS

__all__ = ["Frames", "finish", "targets"]

Array = npt.NDArray[np.float64]
Frames = dict[str, pd.DataFrame]

YEAR: Final = 365 * 24
FOUR_WEEKS: Final = 4 * 7 * 24
FLOOR: Final = 1e-8
THRESHOLDS: Final = {"normal": 0.30, "stress": 0.90, "crisis": 0.975}
THRESHOLD_HOURS: Final = 730 * 24
THRESHOLD_ROWS: Final = 2160
LEVEL_SHRINKAGE: Final = 8000.0
LAW_ROWS: Final = 500
COMBINED: Final = ("har_x", "lightgbm")
FALLBACKS: Final = ("gjr", "garch", "har_seasonal", "har", "ewma")


def targets(panel: Panel, h: int) -> Frames:
    """Variance, return, adverse excursions and regime thresholds of the interval of ``h`` hours after each origin."""

    def wide(values: Array) -> pd.DataFrame:
        return pd.DataFrame(values.T, panel.times, panel.symbols)

    close, low, high = wide(panel.close), wide(panel.field("low")), wide(panel.field("high"))
    trailing = wide(panel.variance).rolling(h).sum().clip(lower=FLOOR)
    variance = trailing.shift(-h)
    complete = variance.notna()
    rolled = trailing.rolling(THRESHOLD_HOURS - h, min_periods=THRESHOLD_ROWS)
    return {
        "variance": variance,
        "log_return": np.log(close.shift(-h) / close).where(complete),
        "mae_long": (1 - low.rolling(h).min().shift(-h) / close).clip(lower=0).where(complete),
        "mae_short": (high.rolling(h).max().shift(-h) / close - 1).clip(lower=0).where(complete),
        # Rows without a trailing variance of their own have no threshold either.
        **{f"threshold_{name}": rolled.quantile(q).where(trailing.notna()) for name, q in THRESHOLDS.items()},
    }


def finish(
    forecasts: pd.DataFrame, came: Mapping[int, Frames], start: pd.Timestamp, end: pd.Timestamp, out: Path
) -> dict[str, dict[int, dict[str, float]]]:
    """From the members' ``ln E[V]`` by (symbol, origin) to a written forecast table and scores by model and horizon."""
    scores: dict[str, dict[int, dict[str, float]]] = {}
    for h, truth in came.items():
        grid = truth["variance"]
        inside = (grid.index >= start) & (grid.index < end)
        members = {
            str(name): levelled(placed(forecasts[name, h], grid), grid, h)
            for name in forecasts.columns.unique("member")
        }
        ensemble = combined(members)
        columns = law(ensemble, truth, h)
        table = {f"variance_{name}": np.exp(values) for name, values in (members | {"ensemble": ensemble}).items()}
        for name, values in (members | {"ensemble": ensemble}).items():
            scores.setdefault(name, {})[h] = variance_scores(values[inside], grid[inside])
        scores["ensemble"][h] |= law_scores(columns, ensemble, truth, inside)
        for name, share in confidence_sets(members | {"ensemble": ensemble}, grid, inside, h).items():
            scores[name][h]["share_in_mcs90"] = share
        stacked = {name: values[inside].stack(future_stack=True) for name, values in (table | columns).items()}
        pd.DataFrame(stacked).dropna(how="all").to_parquet(out / f"forecasts-{h}h.parquet")
    return scores


def placed(column: pd.Series, grid: pd.DataFrame) -> pd.DataFrame:
    """A member's forecasts on the grid."""
    return column.unstack("symbol").reindex(index=grid.index, columns=grid.columns)


def levelled(log_forecast: pd.DataFrame, variance: pd.DataFrame, h: int) -> pd.DataFrame:
    """Each symbol's level set to the trailing mean of V/F over a year of resolved rows, shrunk to all symbols'."""
    ratio = (variance / np.exp(log_forecast)).shift(h)
    total = ratio.rolling(YEAR, min_periods=1).sum().fillna(0.0)
    count = ratio.rolling(YEAR, min_periods=0).count()
    pool = (total.sum(axis=1) / count.sum(axis=1)).fillna(1.0)
    shift = np.log(total.add(LEVEL_SHRINKAGE * pool, axis=0) / (count + LEVEL_SHRINKAGE))
    return log_forecast + shift.clip(np.log(0.5), np.log(2.0))


def combined(members: Frames) -> pd.DataFrame:
    """The mean of the strong members' logs; where there is none, down the ladder."""
    strong = [members[name] for name in COMBINED if name in members]
    out = sum(strong[1:], strong[0]) / len(strong) if strong else next(iter(members.values())) * np.nan
    for name in FALLBACKS:
        if name in members:
            out = out.fillna(members[name])
    return out.clip(lower=np.log(FLOOR))


def law(log_forecast: pd.DataFrame, truth: Frames, h: int) -> Frames:
    """Empirical quantiles of the last year's resolved residuals of all symbols, refreshed every four weeks."""
    sigma = np.exp(0.5 * log_forecast)
    error = np.log(truth["variance"]) - log_forecast
    standard = {
        "return": truth["log_return"] / sigma,
        "long": -np.log1p(-truth["mae_long"]) / sigma,
        "short": np.log1p(truth["mae_short"]) / sigma,
    }
    parts: list[dict[str, Array]] = []
    for block, past in refreshes(len(error), h):
        f, s = log_forecast.to_numpy()[block], sigma.to_numpy()[block]
        e, sample = known(error, past), {name: known(frame, past) for name, frame in standard.items()}
        row: dict[str, Array] = {}
        for name, q in zip(VARIANCE_LEVELS, quantiles(e, list(VARIANCE_LEVELS.values())), strict=True):
            row[name] = np.exp(f + q)
        for name, q in zip(RETURN_LEVELS, quantiles(sample["return"], list(RETURN_LEVELS.values())), strict=True):
            row[name] = s * q
        for name, p in SHORTFALL_LEVELS.items():
            row[name] = s * shortfall(sample["return"], p)
        for side, sign in (("long", -1.0), ("short", 1.0)):
            levels = EXCURSION_COLUMNS[side]
            for name, q in zip(levels, quantiles(sample[side], list(levels.values())), strict=True):
                row[name] = sign * np.expm1(sign * s * q)
        above = [1.0 - place(e, np.log(truth[f"threshold_{name}"].to_numpy()[block]) - f) for name in THRESHOLDS]
        row |= {"p_calm": 1 - above[0], "p_normal": above[0] - above[1], "p_stress": above[1] - above[2]}
        row["p_crisis"] = above[2]
        parts.append(row)
    return {
        name: pd.DataFrame(np.concatenate([part[name] for part in parts]), error.index, error.columns)
        for name in parts[0]
    }


def refreshes(hours: int, h: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of four weeks, and the rows of the year before each that were resolved by then."""
    for begin in range(0, hours, FOUR_WEEKS):
        stop = max(begin - h + 1, 0)
        yield slice(begin, min(begin + FOUR_WEEKS, hours)), slice(max(stop - YEAR, 0), stop)


def known(frame: pd.DataFrame, past: slice) -> Array:
    """The finite values of the window, in order of size."""
    values = frame.to_numpy()[past]
    return np.sort(values[np.isfinite(values)])


def quantiles(ordered: Array, levels: list[float]) -> Array:
    """Empirical quantiles; null where there are too few rows."""
    return np.quantile(ordered, levels) if len(ordered) >= LAW_ROWS else np.full(len(levels), np.nan)


def shortfall(ordered: Array, p: float) -> float:
    """Mean beyond the quantile at ``p``, in its tail."""
    if len(ordered) < LAW_ROWS:
        return float("nan")
    beyond = max(int(min(p, 1 - p) * len(ordered)), 1)
    return float((ordered[:beyond] if p < 0.5 else ordered[-beyond:]).mean())


def place(ordered: Array, x: Array) -> Array:
    """Share of the sample that is not above each of ``x``; null where either is unknown."""
    if len(ordered) < LAW_ROWS:
        return np.full(x.shape, np.nan)
    return np.where(np.isfinite(x), np.searchsorted(ordered, x, side="right") / len(ordered), np.nan)


def variance_scores(log_forecast: pd.DataFrame, variance: pd.DataFrame) -> dict[str, float]:
    """Means over symbols of each symbol's mean."""
    error = np.log(variance) - log_forecast
    return {"qlike": mean(np.exp(error) - error - 1.0), "mse_log": mean(error**2)}


def law_scores(
    columns: Frames, log_forecast: pd.DataFrame, truth: Frames, inside: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Coverage, CRPS by pinball losses, return quantiles, and the Brier score of stress."""
    v, r = truth["variance"][inside], truth["log_return"][inside]
    q = {name: columns[name][inside] for name in columns}
    stress = (v > truth["threshold_stress"][inside]).where(truth["threshold_stress"][inside].notna() & v.notna())
    covered = ((v >= q["var_q05"]) & (v <= q["var_q95"])).where(v.notna() & q["var_q05"].notna())
    sigma = np.exp(0.5 * log_forecast[inside])
    return {
        "coverage_var_90": mean(covered.astype(np.float64)),
        "crps_log": sum(mean(pinball(np.log(v), np.log(q[n]), p)) for n, p in VARIANCE_LEVELS.items()) * 0.4,
        "pinball_ret": float(np.mean([mean(pinball(r, q[n], p) / sigma) for n, p in RETURN_LEVELS.items()])),
        "var_hit_010": mean((r < q["ret_q010"]).where(r.notna() & q["ret_q010"].notna()).astype(np.float64)),
        "brier_stress": mean((stress.astype(np.float64) - q["p_stress"] - q["p_crisis"]) ** 2),
    }


def confidence_sets(models: Frames, variance: pd.DataFrame, inside: npt.NDArray[np.bool_], h: int) -> dict[str, float]:
    """Share of the symbols, and of their mean, in whose model confidence set (arch's) a model is; as many draws as ours."""
    from arch.bootstrap import MCS

    spaced = inside & (variance.index.as_unit("s").asi8 // 3600 % h == 0)
    losses = {}
    for name, log_forecast in models.items():
        error = np.log(variance[spaced]) - log_forecast[spaced]
        losses[name] = np.exp(error) - error - 1.0
    sets: list[list[str]] = []
    for symbol in [*variance.columns, None]:
        columns = {name: loss[symbol] if symbol else loss.mean(axis=1, skipna=False) for name, loss in losses.items()}
        daily = pd.DataFrame(columns).dropna().resample("D").mean().dropna()
        block = int(np.ceil(10 / max(1, h / 24)))
        if len(daily) >= 2 * block:
            test = MCS(daily, size=0.10, method="R", block_size=block, reps=500, seed=1)
            test.compute()
            sets.append(list(test.included))
    return {name: sum(name in found for found in sets) / max(len(sets), 1) for name in models}


def pinball(y: pd.DataFrame, quantile: pd.DataFrame, level: float) -> pd.DataFrame:
    error = y - quantile
    return error * (level - (error < 0))


def mean(frame: Any) -> float:
    return float(frame.mean().mean())
