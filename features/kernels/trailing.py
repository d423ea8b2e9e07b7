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


@numba.njit(cache=True)
def trailing_quantiles(x: Float64Array2D, length: int, minimum: int, levels: npt.NDArray[np.float64]) -> Float64Array3D:
    """Quantiles (linear interpolation) of the finite values among the last ``length`` hours: (n_levels, n, hours).

    NaN with fewer than ``minimum`` finite values. The window is kept sorted, so a step costs one search and one shift.
    """
    n, hours = x.shape
    out = np.full((len(levels), n, hours), np.nan)
    window = np.empty(length + 1)
    for i in range(n):
        size = 0
        for t in range(hours):
            value = x[i, t]
            comes = not math.isnan(value)
            leaves = t >= length and not math.isnan(x[i, t - length])
            # The place that falls vacant, and the one that the value will take among those that stay.
            vacant = np.searchsorted(window[:size], x[i, t - length]) if leaves else size
            at = np.searchsorted(window[:size], value) if comes else size
            size += int(comes) - int(leaves)
            if at > vacant:
                at -= int(leaves)
                for s in range(vacant, at):
                    window[s] = window[s + 1]
            else:
                for s in range(vacant, at, -1):
                    window[s] = window[s - 1]
            if comes:
                window[at] = value
            if size >= minimum:
                for q in range(len(levels)):
                    position = levels[q] * (size - 1)
                    low = math.floor(position)
                    high = min(low + 1, size - 1)
                    out[q, i, t] = window[low] + (position - low) * (window[high] - window[low])
    return out
