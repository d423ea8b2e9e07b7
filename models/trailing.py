"""Statistics of resolved forecasts: what a fixed clock lets be known, and nothing later.

A row made at origin ``s`` for a horizon ``h`` is resolved at ``s + h``. Everything here that is estimated at a refresh
``t`` reads rows with ``s + h <= t`` only. Refreshes fall on a clock anchored at Monday 1970-01-05 00:00 UTC, so they do
not depend on where a history starts. Arrays have shape (n_symbols, n_hours), NaN where there is nothing.
"""

from __future__ import annotations

import math
from typing import Final

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from features.panel import FIRST_MONDAY_HOUR, MICROSECONDS_PER_HOUR, WEEK

__all__ = ["DAY", "FOUR_WEEKS", "refreshes", "strikes", "trailing_level", "window"]

Array = npt.NDArray[np.float64]

DAY: Final = 24
FOUR_WEEKS: Final = 4 * WEEK


def refreshes(times: pd.DatetimeIndex, every: int) -> npt.NDArray[np.int64]:
    """Columns of ``times`` at which a statistic refreshed every ``every`` hours is estimated anew, and column 0."""
    hours = times.as_unit("us").asi8 // MICROSECONDS_PER_HOUR - FIRST_MONDAY_HOUR
    at = np.flatnonzero(hours % every == 0)
    return np.union1d([0], at).astype(np.int64)


def strikes(first_hour: int, columns: slice, every: int) -> npt.NDArray[np.int64]:
    """Those of ``columns`` of a complete grid, whose column 0 is ``first_hour`` since the epoch, that are such refreshes."""
    wait = (FIRST_MONDAY_HOUR - first_hour - columns.start) % every
    return np.arange(columns.start + wait, columns.stop, every, dtype=np.int64)


def window(at: int, horizon: int, length: int) -> slice:
    """The columns of origins that are resolved at column ``at`` and no older than ``length`` hours before that."""
    stop = max(at - horizon + 1, 0)
    return slice(max(stop - length, 0), stop)


def trailing_level(ratio: Array, at: npt.NDArray[np.int64], horizon: int, length: int, shrinkage: float) -> Array:
    """Log of the mean of ``V/F`` over the resolved rows of the last ``length`` hours: (n_symbols, n_refreshes).

    The level under which QLIKE is least. Each symbol's mean is shrunk to the mean over all rows with weight
    ``n / (n + shrinkage)``; zero where nothing is resolved.
    """
    total, count = _sums(ratio, at, horizon, length)
    # Symbol after symbol: the order in which numpy adds an axis depends on how many refreshes there are.
    rows = count.sum(axis=0)
    pool = np.where(rows > 0, np.cumsum(total, axis=0)[-1] / np.maximum(rows, 1.0), 1.0)
    return np.asarray(np.log((total + shrinkage * pool) / (count + shrinkage)))


@numba.njit(cache=True)
def _sums(x: Array, at: npt.NDArray[np.int64], lag: int, length: int) -> tuple[Array, Array]:
    """Sum and number of the finite values in the window of each refresh, added in time order.

    Each value is added to all windows that hold it, side by side, so that one pass over the hours serves every refresh.
    """
    n, hours = x.shape
    total = np.zeros((n, len(at)))
    count = np.zeros((n, len(at)))
    stops = np.maximum(at - lag + 1, 0)
    starts = np.maximum(stops - length, 0)
    columns = np.arange(stops[-1])
    opened = np.searchsorted(starts, columns, side="right")
    closed = np.searchsorted(stops, columns, side="right")
    known = np.zeros(hours + 1)
    for i in range(n):
        for t in range(hours):
            known[t + 1] = known[t] + (not math.isnan(x[i, t]))
        count[i] = known[stops] - known[starts]
        for t in columns:
            value = x[i, t]
            if not math.isnan(value):
                around = total[i, closed[t] : opened[t]]
                for w in range(len(around)):
                    around[w] += value
    return total, count
