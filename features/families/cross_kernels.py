"""Compiled kernels of the cross-section: ranks, concentration and pairs over symbols, and the peak of a window.

Those over symbols take an array of shape (n_symbols, n_hours) and read one column a value; they loop symbol by symbol in
row order and skip NaN, so that a symbol listed later leaves the bits of the past alone.
"""

from __future__ import annotations

import math
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["concentration", "mean_pair_product", "rank", "window_max"]

Float64Array1D = npt.NDArray[np.float64]
Float64Array2D = npt.NDArray[np.float64]

DAY: Final = 24


@numba.njit(cache=True)
def rank(x: Float64Array2D) -> Float64Array2D:
    """Share of the other symbols that stand below, a tie counting half: 0 lowest, 1 highest; NaN alone or absent."""
    n, hours = x.shape
    out = np.full((n, hours), np.nan)
    for i in range(n):
        for t in range(hours):
            below = 0.0
            count = 0
            for j in range(n):
                if j != i and not math.isnan(x[j, t]):
                    below += 1.0 if x[j, t] < x[i, t] else 0.5 if x[j, t] == x[i, t] else 0.0
                    count += 1
            if count > 0 and not math.isnan(x[i, t]):
                out[i, t] = below / count
    return out


@numba.njit(cache=True)
def concentration(x: Float64Array2D) -> Float64Array1D:
    """Herfindahl index of non-negative values over symbols, shape (n_hours,): 0 all equal, 1 all in one symbol.

    ``(H - 1/n) / (1 - 1/n)``, so that a listing does not move it by itself; NaN with fewer than two symbols or no sum.
    """
    n, hours = x.shape
    out = np.full(hours, np.nan)
    for t in range(hours):
        total = 0.0
        squares = 0.0
        count = 0
        for i in range(n):
            if not math.isnan(x[i, t]):
                total += x[i, t]
                squares += x[i, t] * x[i, t]
                count += 1
        if count > 1 and total > 0.0:
            out[t] = (squares / (total * total) - 1.0 / count) / (1.0 - 1.0 / count)
    return out


@numba.njit(cache=True)
def mean_pair_product(x: Float64Array2D) -> Float64Array1D:
    """Mean of ``x_i x_j`` over all pairs of different symbols, shape (n_hours,); NaN with fewer than two.

    ``((sum x)^2 - sum x^2) / (n (n - 1))``: all pairs at the cost of one pass.
    """
    n, hours = x.shape
    out = np.full(hours, np.nan)
    for t in range(hours):
        total = 0.0
        squares = 0.0
        count = 0
        for i in range(n):
            if not math.isnan(x[i, t]):
                total += x[i, t]
                squares += x[i, t] * x[i, t]
                count += 1
        if count > 1:
            out[t] = (total * total - squares) / (count * (count - 1.0))
    return out


@numba.njit(cache=True)
def window_max(x: Float64Array2D, days: int, coverage: float, first: int) -> Float64Array2D:
    """Largest finite value of the last ``24 * days`` hours, shape (n_symbols, n_hours - first); NaN below ``coverage``.

    From the largest of each 24 hours: a maximum has the same bits in any order, so no clock need fix it.
    """
    n, hours = x.shape
    out = np.full((n, hours - first), np.nan)
    highest = np.empty(hours)
    present = np.empty(hours)
    for i in range(n):
        for t in range(max(first - DAY * (days - 1), 0), hours):
            top = -math.inf
            count = 0.0
            for s in range(max(t - DAY + 1, 0), t + 1):
                if not math.isnan(x[i, s]):
                    top = max(top, x[i, s])
                    count += 1.0
            highest[t] = top
            present[t] = count
        for t in range(first, hours):
            top = -math.inf
            count = 0.0
            for s in range(t, max(t - DAY * days, -1), -DAY):
                top = max(top, highest[s])
                count += present[s]
            if count > 0.0 and count >= coverage * (DAY * days):
                out[i, t - first] = top
    return out
