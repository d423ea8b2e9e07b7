"""Windowed kernels: compiled, causal, and blind to where the history starts.

Every kernel maps an array of shape (n_symbols, n_hours) to one of the same shape; row order is time, hourly, without
holes in the clock (a missing bar is NaN). Value ``[i, t]`` depends on ``x[i, :t + 1]`` only, and only on a declared
number of hours before ``t``. Sums are formed afresh in a fixed order, never updated by adding and subtracting: a
running sum carries the rounding of everything before it, so the same hour would have other bits after a restart.

``EWMA`` sums restart at midnight UTC: the sum at the first hour of a day is formed from ``reach`` hours, and the hours
of that day extend it. The kernel's length therefore lies between ``reach`` and ``reach + 23`` hours, fixed by the clock
alone, and the cost per value falls by a factor of about 24.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

__all__ = [
    "cross_mean",
    "cross_sd",
    "ewma",
    "ewma_reach",
    "hours_since_finite",
    "season_curves",
    "trailing_quantiles",
    "window_mean",
    "window_sd",
]

Float64Array2D = npt.NDArray[np.float64]
Float64Array3D = npt.NDArray[np.float64]

HALF_LIVES_REACHED = 5


def ewma_reach(half_life: float) -> int:
    """Hours that an EWMA of this half-life looks back at the least: five half-lives, 97 % of its weight."""
    return max(math.ceil(HALF_LIVES_REACHED * half_life), 1)


@numba.njit(cache=True)
def window_mean(x: Float64Array2D, lengths: npt.NDArray[np.int64], coverage: float) -> Float64Array3D:
    """Mean of the finite values among the last ``L`` hours, for each ``L`` of the ascending ``lengths``.

    Shape (n_lengths, n_symbols, n_hours). NaN where fewer than ``coverage * L`` of the hours are finite. Longer windows
    continue the sum of shorter ones, so all lengths cost as much as the longest.
    """
    n, hours = x.shape
    out = np.full((len(lengths), n, hours), np.nan)
    for i in range(n):
        for t in range(hours):
            total = 0.0
            count = 0
            back = 0
            for j in range(len(lengths)):
                stop = min(lengths[j], t + 1)
                while back < stop:
                    value = x[i, t - back]
                    if not math.isnan(value):
                        total += value
                        count += 1
                    back += 1
                if count >= coverage * lengths[j] and count > 0:
                    out[j, i, t] = total / count
    return out


@numba.njit(cache=True)
def window_sd(x: Float64Array2D, length: int, coverage: float) -> Float64Array2D:
    """Standard deviation (ddof 1) of the finite values among the last ``length`` hours; NaN as in ``window_mean``."""
    n, hours = x.shape
    out = np.full((n, hours), np.nan)
    for i in range(n):
        for t in range(hours):
            first = max(t - length + 1, 0)
            total = 0.0
            count = 0
            for s in range(first, t + 1):
                if not math.isnan(x[i, s]):
                    total += x[i, s]
                    count += 1
            if count >= coverage * length and count > 1:
                mean = total / count
                squares = 0.0
                for s in range(first, t + 1):
                    if not math.isnan(x[i, s]):
                        squares += (x[i, s] - mean) ** 2
                out[i, t] = math.sqrt(squares / (count - 1))
    return out


@numba.njit(cache=True)
def ewma(x: Float64Array2D, half_life: float, reach: int, first_hour: int) -> Float64Array2D:
    """Exponentially weighted mean of the finite values, truncated as the module says.

    ``first_hour``: hour of day (0-23) at which column 0 stands. NaN where the values present carry less than half of the
    weight that a full kernel of ``reach`` hours has.
    """
    n, hours = x.shape
    out = np.full((n, hours), np.nan)
    decay = 0.5 ** (1.0 / half_life)
    full = (1.0 - decay**reach) / (1.0 - decay)
    for i in range(n):
        total = 0.0
        weight = 0.0
        for t in range(hours):
            start = t
            if t == 0 or (first_hour + t) % 24 == 0:
                total = 0.0
                weight = 0.0
                start = max(t - reach + 1, 0)
            for s in range(start, t + 1):
                total *= decay
                weight *= decay
                if not math.isnan(x[i, s]):
                    total += x[i, s]
                    weight += 1.0
            if weight >= 0.5 * full:
                out[i, t] = total / weight
    return out


@numba.njit(cache=True)
def hours_since_finite(x: Float64Array2D, cap: int) -> Float64Array2D:
    """Hours since the last finite value, ``cap`` where there was none within ``cap`` hours."""
    n, hours = x.shape
    out = np.empty((n, hours))
    for i in range(n):
        age = cap
        for t in range(hours):
            age = 0 if not math.isnan(x[i, t]) else min(age + 1, cap)
            out[i, t] = age
    return out


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


@numba.njit(cache=True)
def season_curves(
    log_v: Float64Array2D, refresh: npt.NDArray[np.int64], first_slot: int, length: int, shrinkage: float
) -> Float64Array3D:
    """Hour-of-week curves of log variance, one per refresh: shape (n_refresh, n_symbols, 168).

    ``refresh[w]``: the first column that is *not* yet known when curve ``w`` is made; the curve reads the ``length``
    columns before it. ``first_slot``: hour of week (0 = Monday 00:00-01:00) of column 0. Each symbol's deviations from
    its own mean are shrunk to the cross-symbol mean curve with weight ``n / (n + shrinkage)``, n the observations of that
    hour of week, and the cross-symbol curve likewise to a flat one; a symbol without history has the cross-symbol curve.
    Every curve has mean zero.
    """
    n, _ = log_v.shape
    out = np.zeros((len(refresh), n, 168))
    for w in range(len(refresh)):
        sums = np.zeros((n, 168))
        counts = np.zeros((n, 168))
        for i in range(n):
            for t in range(max(refresh[w] - length, 0), refresh[w]):
                if not math.isnan(log_v[i, t]):
                    slot = (first_slot + t) % 168
                    sums[i, slot] += log_v[i, t]
                    counts[i, slot] += 1.0
        pool_sum = np.zeros(168)
        pool_count = np.zeros(168)
        deviation = np.zeros((n, 168))
        for i in range(n):
            total = 0.0
            present = 0
            for k in range(168):
                if counts[i, k] > 0:
                    total += sums[i, k] / counts[i, k]
                    present += 1
            # Under a full week of slots the mean itself would be a seasonal artefact.
            if present < 168:
                continue
            for k in range(168):
                deviation[i, k] = sums[i, k] / counts[i, k] - total / present
                pool_sum[k] += counts[i, k] * deviation[i, k]
                pool_count[k] += counts[i, k]
        for i in range(n):
            mean = 0.0
            for k in range(168):
                pool = pool_sum[k] / (pool_count[k] + shrinkage)
                own = counts[i, k] / (counts[i, k] + shrinkage)
                # A symbol left out of the pool has no deviation of its own yet.
                out[w, i, k] = pool + own * (deviation[i, k] - pool) if deviation[i].any() else pool
                mean += out[w, i, k]
            for k in range(168):
                out[w, i, k] -= mean / 168
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
