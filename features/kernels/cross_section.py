"""Statistics over symbols, one column a value.

Summed symbol by symbol: a library sum groups its terms by their number and their place in memory, so that a symbol listed
later would change the bits of the past.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["cross_mean", "cross_mean_of_others", "cross_sd"]

Float64Array2D = npt.NDArray[np.float64]


@numba.njit(cache=True)
def cross_mean(x: Float64Array2D) -> npt.NDArray[np.float64]:
    """Mean over the symbols that are finite at each hour, shape (n_hours,); NaN where none is.

    Summed symbol by symbol: a library sum groups its terms by their number and their place in memory, so that a symbol
    listed later would change the bits of the past.
    """
    n, hours = x.shape
    out = np.full(hours, np.nan)
    for t in range(hours):
        total = 0.0
        count = 0
        for i in range(n):
            if not math.isnan(x[i, t]):
                total += x[i, t]
                count += 1
        if count > 0:
            out[t] = total / count
    return out


@numba.njit(cache=True)
def cross_mean_of_others(x: Float64Array2D) -> Float64Array2D:
    """Mean over the *other* symbols that are finite at each hour, shape (n_symbols, n_hours), as in ``cross_mean``.

    Each symbol's own sum over the others, not total minus own: a difference has other bits when a symbol is added.
    """
    n, hours = x.shape
    out = np.full((n, hours), np.nan)
    for i in range(n):
        for t in range(hours):
            total = 0.0
            count = 0
            for j in range(n):
                if j != i and not math.isnan(x[j, t]):
                    total += x[j, t]
                    count += 1
            if count > 0:
                out[i, t] = total / count
    return out


@numba.njit(cache=True)
def cross_sd(x: Float64Array2D) -> npt.NDArray[np.float64]:
    """Standard deviation (ddof 0) over the symbols that are finite at each hour, as in ``cross_mean``."""
    n, hours = x.shape
    mean = cross_mean(x)
    out = np.full(hours, np.nan)
    for t in range(hours):
        squares = 0.0
        count = 0
        for i in range(n):
            if not math.isnan(x[i, t]):
                squares += (x[i, t] - mean[t]) ** 2
                count += 1
        if count > 0:
            out[t] = math.sqrt(squares / count)
    return out
