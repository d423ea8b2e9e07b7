"""Combining members: levels and weights from resolved out-of-sample rows alone.

Reference: Bates and Granger (1969), Operational Research Quarterly 20; Patton (2011), J. Econometrics 160 (the level that
minimises QLIKE is the mean of ``V/F``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.panel import MICROSECONDS_PER_HOUR
from models.trailing import DAY, FOUR_WEEKS, carry_forward, refreshes, trailing_level, window

__all__ = ["Combination", "combine", "level", "simplex_weights"]

Array = npt.NDArray[np.float64]

YEAR: Final = 365 * DAY
# Hours at which a symbol's own level weighs as much as the pool's. The mean of ``V/F`` over a year is ruled by few days,
# which symbols share: the pool knows them better.
LEVEL_SHRINKAGE: Final = 8000.0
LEVEL_BOUNDS: Final = (np.log(0.5), np.log(2.0))
WEIGHT_HOURS: Final = 180 * DAY
WEIGHT_STEP_HOURS: Final = 5
MINIMUM_WEIGHT_ROWS: Final = 2000
GRADIENT_STEPS: Final = 200
FIRST_STEP: Final = 0.3
STEP_DECAY: Final = 0.97


@dataclass(frozen=True)
class Combination:
    """One horizon's ensemble on the hourly grid.

    ``log_forecast`` (n_symbols, n_hours): ``ln F``; ``weights`` (n_refreshes, n_members) in force from the times
    of its index.
    """

    log_forecast: Array
    weights: pd.DataFrame


def level(log_forecast: Array, variance: Array, times: pd.DatetimeIndex, horizon: int) -> Array:
    """``ln F`` with each symbol's level set daily to the mean of ``V/F`` over the resolved rows of the last year."""
    at = refreshes(times, DAY)
    shift = trailing_level(variance / np.exp(log_forecast), at, horizon, YEAR, LEVEL_SHRINKAGE)
    return log_forecast + carry_forward(np.clip(shift, *LEVEL_BOUNDS), at, len(times))


def combine(
    levelled: Mapping[str, Array],
    variance: Array,
    times: pd.DatetimeIndex,
    horizon: int,
    *,
    members: Sequence[str],
    shrinkage: float,
) -> Combination:
    """``ln F = sum_m w_m ln F_m`` with weights refreshed every four weeks from the last 180 days of resolved rows.

    Weights minimise QLIKE on the simplex, pooled over symbols, then move by ``shrinkage`` towards equal weights of the
    ``members``. A member missing on a row leaves its weight to the others.
    """
    stack = np.stack([levelled[m] for m in members])
    at = refreshes(times, FOUR_WEEKS)
    weights = np.empty((len(at), len(members)))
    for w, column in enumerate(at):
        past = window(int(column), horizon, WEIGHT_HOURS)
        # Thinned on the clock, so that the sample does not depend on where the history starts.
        hours = times[past].as_unit("us").asi8 // MICROSECONDS_PER_HOUR % WEIGHT_STEP_HOURS == 0
        best = simplex_weights(stack[:, :, past][:, :, hours], variance[:, past][:, hours])
        weights[w] = (1 - shrinkage) * best + shrinkage / len(members)
    present = np.isfinite(stack)
    spread = carry_forward(weights.T, at, len(times))[:, None, :] * present
    total = spread.sum(axis=0)
    mean = np.zeros_like(variance)
    for m in range(len(members)):
        mean += spread[m] * np.where(present[m], stack[m], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_forecast = np.where(total > 0, mean / total, np.nan)
    table = pd.DataFrame(weights, index=times[at], columns=list(members))
    return Combination(log_forecast, table)


def simplex_weights(log_forecasts: Array, variance: Array) -> Array:
    """Weights (n_members,) on the simplex with the least mean QLIKE; equal where too few rows are resolved.

    Exponentiated gradient on the convex problem ``min_w mean(V exp(-w'l) + w'l)`` (Kivinen and Warmuth, 1997).
    """
    count = len(log_forecasts)
    rows = np.isfinite(log_forecasts).all(axis=0) & np.isfinite(variance)
    weights = np.full(count, 1.0 / count)
    if rows.sum() < MINIMUM_WEIGHT_ROWS or count == 1:
        return weights
    logs, v = log_forecasts[:, rows], variance[rows]
    # Centred on their mean: only differences between members matter.
    centre = logs.mean(axis=0)
    logs, v = logs - centre, v / np.exp(centre)
    for step in range(GRADIENT_STEPS):
        combined = np.einsum("m,mn->n", weights, logs)
        slope = np.einsum("mn,n->m", logs, 1 - v / np.exp(combined)) / len(v)
        # The step shrinks, or the weights end up swinging about their optimum.
        pace = FIRST_STEP * STEP_DECAY**step / max(float(np.abs(slope).max()), 1e-3)
        weights = weights * np.exp(-pace * slope)
        weights /= weights.sum()
    return weights
