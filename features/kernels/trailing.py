"""The age of a feed, and trailing quantiles."""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["hours_since_finite", "trailing_quantiles"]

Float64Array2D = npt.NDArray[np.float64]
Float64Array3D = npt.NDArray[np.float64]


@numba.njit(cache=True)
def hours_since_finite(x: Float64Array2D, cap: int, first: int = 0) -> Float64Array2D:
    """Hours since the last finite value, ``cap`` where there was none within ``cap`` hours."""
    n, hours = x.shape
    out = np.empty((n, hours - first))
    for i in range(n):
        age = cap
        for t in range(hours):
            age = 0 if not math.isnan(x[i, t]) else min(age + 1, cap)
            if t >= first:
                out[i, t - first] = age
    return out


def trailing_quantiles(x: Float64Array2D, length: int, minimum: int, levels: npt.NDArray[np.float64]) -> Float64Array3D:
    """Quantiles (linear interpolation) of the finite values among the last ``length`` hours: (n_levels, n, hours).

    NaN with fewer than ``minimum`` finite values. All values are ranked once; which of them stand in the window is counted
    in a binary indexed tree over the ranks (Fenwick 1994, Software: Practice and Experience 24), so that a step costs a
    few times the logarithm of the hours, however long the window.
    """
    return _quantiles(x, np.argsort(x, axis=1, kind="stable"), length, minimum, levels)


@numba.njit(cache=True)
def _quantiles(
    x: Float64Array2D, orders: npt.NDArray[np.int64], length: int, minimum: int, levels: npt.NDArray[np.float64]
) -> Float64Array3D:
    n, hours = x.shape
    out = np.full((len(levels), n, hours), np.nan)
    top = 1
    while 2 * top <= hours:
        top *= 2
    for i in range(n):
        order = orders[i]
        rank = np.empty(hours, dtype=np.int64)
        rank[order] = np.arange(1, hours + 1)
        counts = np.zeros(hours + 1, dtype=np.int64)
        size = 0
        for t in range(hours):
            if not math.isnan(x[i, t]):
                _count(counts, rank[t], 1)
                size += 1
            if t >= length and not math.isnan(x[i, t - length]):
                _count(counts, rank[t - length], -1)
                size -= 1
            if size >= minimum:
                for q in range(len(levels)):
                    position = levels[q] * (size - 1)
                    low = math.floor(position)
                    below = x[i, order[_at(counts, low, top)]]
                    above = x[i, order[_at(counts, min(low + 1, size - 1), top)]]
                    out[q, i, t] = below + (position - low) * (above - below)
    return out


@numba.njit(cache=True)
def _count(counts: npt.NDArray[np.int64], rank: int, change: int) -> None:
    """Change by so much how often a rank, from 1 on, is there."""
    while rank < len(counts):
        counts[rank] += change
        rank += rank & -rank


@numba.njit(cache=True)
def _at(counts: npt.NDArray[np.int64], position: int, top: int) -> int:
    """Rank less one of the value at this position, from 0 on; ``top`` is the largest power of two among the ranks."""
    rank = 0
    while top > 0:
        ahead = rank + top
        if ahead < len(counts) and counts[ahead] <= position:
            rank = ahead
            position -= counts[ahead]
        top //= 2
    return rank
