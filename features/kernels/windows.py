"""Windows put together from days of UTC: what is left of their oldest day, the whole days between, and today so far.

The order of the terms, and with it every bit, is fixed by the clock alone, and a window costs three terms whatever its
length. ``first_hour`` is the hour of day (0-23) of column 0. An exponentially weighted mean reads whole days before today.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["ewma", "ewma_reach", "window_mean", "window_pair", "window_sd"]

Float64Array1D = npt.NDArray[np.float64]
Float64Array2D = npt.NDArray[np.float64]
Float64Array3D = npt.NDArray[np.float64]
Moments: TypeAlias = tuple[float, float, float, float, float, float]

NONE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
HALF_LIVES_REACHED = 5
DAY = 24


def ewma_reach(half_life: float) -> int:
    """Hours before today that an EWMA reads: whole days, five half-lives at the least, 97 % of its weight.

    With the hours of today itself, its kernel is at most 23 hours longer.
    """
    return max(math.ceil(HALF_LIVES_REACHED * half_life / DAY), 1) * DAY


@numba.njit(cache=True)
def _windows(
    hours: int, length: int, first_hour: int, first: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How windows of ``length`` hours are put together: their oldest column, their whole days, and all spans of days.

    ``oldest`` and ``span`` have an entry for each column from ``first`` on; ``spans`` (n_spans, 2) has the last hour of the
    first whole day and the first hour of today. ``oldest`` is ``hours`` where the oldest day lies before the data. ``span``
    is -1 for a window within today, which begins at ``oldest``.
    """
    oldest = np.empty(hours - first, dtype=np.int64)
    span = np.empty(hours - first, dtype=np.int64)
    spans = np.empty((2 * (hours - first) // DAY + 4, 2), dtype=np.int64)
    n = 0
    for t in range(first, hours):
        start = t - length + 1
        midnight = t - (first_hour + t) % DAY
        oldest[t - first] = max(start, 0)
        span[t - first] = -1
        if start < midnight:
            ends = start + DAY - 1 - (first_hour + start) % DAY
            if ends < 0:
                oldest[t - first] = hours
            if n == 0 or spans[n - 1, 0] != ends + DAY or spans[n - 1, 1] != midnight:
                spans[n, 0] = ends + DAY
                spans[n, 1] = midnight
                n += 1
            span[t - first] = n - 1
    return oldest, span, spans[:n]


@numba.njit(cache=True)
def _day_sums(x: Float64Array1D, first_hour: int, head: Float64Array2D, tail: Float64Array2D) -> None:
    """Sum and count of the finite values from midnight up to each hour, and from each hour to the end of its day.

    Shapes (2, n_hours) and (2, n_hours + 1): the last column of ``tail`` is an empty day.
    """
    hours = len(x)
    total, count = 0.0, 0.0
    for t in range(hours):
        if (first_hour + t) % DAY == 0:
            total, count = 0.0, 0.0
        if not math.isnan(x[t]):
            total += x[t]
            count += 1.0
        head[0, t], head[1, t] = total, count
    total, count = 0.0, 0.0
    tail[0, hours], tail[1, hours] = total, count
    for t in range(hours - 1, -1, -1):
        if (first_hour + t) % DAY == DAY - 1:
            total, count = 0.0, 0.0
        if not math.isnan(x[t]):
            total += x[t]
            count += 1.0
        tail[0, t], tail[1, t] = total, count


@numba.njit(cache=True)
def window_mean(
    x: Float64Array2D, lengths: npt.NDArray[np.int64], coverage: float, first_hour: int, first: int = 0
) -> Float64Array3D:
    """Mean of the finite values among the last ``L`` hours, for each ``L`` of ``lengths``.

    Shape (n_lengths, n_symbols, n_hours - first). NaN where fewer than ``coverage * L`` of the hours are finite.
    """
    n, hours = x.shape
    out = np.empty((len(lengths), n, hours - first))
    head = np.empty((2, hours))
    tail = np.empty((2, hours + 1))
    windows = [_windows(hours, length, first_hour, first) for length in lengths]
    for i in range(n):
        _day_sums(x[i], first_hour, head, tail)
        for j in range(len(lengths)):
            oldest, span, spans = windows[j]
            needed = max(coverage * lengths[j], 1.0)
            whole = np.empty((2, len(spans)))
            for k in range(len(spans)):
                total, count = 0.0, 0.0
                for last in range(spans[k, 0], spans[k, 1], DAY):
                    if last >= 0:
                        total += head[0, last]
                        count += head[1, last]
                whole[0, k], whole[1, k] = total, count
            for t in range(first, hours):
                begin, k = oldest[t - first], span[t - first]
                if k >= 0:
                    total = (tail[0, begin] + whole[0, k]) + head[0, t]
                    count = (tail[1, begin] + whole[1, k]) + head[1, t]
                else:
                    total, count = 0.0, 0.0
                    for s in range(begin, t + 1):
                        if not math.isnan(x[i, s]):
                            total += x[i, s]
                            count += 1.0
                out[j, i, t - first] = total / count if count >= needed else np.nan
    return out


@numba.njit(cache=True)
def _added(a: Moments, x: float, y: float) -> Moments:
    """Moments with one pair more (Welford 1962, Technometrics 4); a pair with a NaN is none.

    Moments are: count, means of x and of y, sums of squares of x, of y, and of products, about the means.
    """
    if math.isnan(x) or math.isnan(y):
        return a
    count = a[0] + 1.0
    dx = x - a[1]
    dy = y - a[2]
    mean_x = a[1] + dx / count
    mean_y = a[2] + dy / count
    return count, mean_x, mean_y, a[3] + dx * (x - mean_x), a[4] + dy * (y - mean_y), a[5] + dx * (y - mean_y)


@numba.njit(cache=True)
def _joined(a: Moments, b: Moments, c: Moments) -> Moments:
    """Moments of three samples together (Chan, Golub and LeVeque 1983, The American Statistician 37).

    All are moved to the mean of one of them first, so that nothing is lost where the mean is large against the spread, and
    constant data have no spread at all.
    """
    centre = b if b[0] > 0.0 else c if c[0] > 0.0 else a
    count = (a[0] + b[0]) + c[0]
    if count == 0.0:
        return centre
    ax, bx, cx = a[1] - centre[1], b[1] - centre[1], c[1] - centre[1]
    ay, by, cy = a[2] - centre[2], b[2] - centre[2], c[2] - centre[2]
    x = (a[0] * ax + b[0] * bx) + c[0] * cx
    y = (a[0] * ay + b[0] * by) + c[0] * cy
    xx = (a[3] + a[0] * ax * ax) + (b[3] + b[0] * bx * bx) + (c[3] + c[0] * cx * cx)
    yy = (a[4] + a[0] * ay * ay) + (b[4] + b[0] * by * by) + (c[4] + c[0] * cy * cy)
    xy = (a[5] + a[0] * ax * ay) + (b[5] + b[0] * bx * by) + (c[5] + c[0] * cx * cy)
    mean_x, mean_y = x / count, y / count
    return (
        count,
        centre[1] + mean_x,
        centre[2] + mean_y,
        max(xx - x * mean_x, 0.0),
        max(yy - y * mean_y, 0.0),
        xy - x * mean_y,
    )


@numba.njit(cache=True)
def _moments_of(a: Float64Array1D) -> Moments:
    return a[0], a[1], a[2], a[3], a[4], a[5]


@numba.njit(cache=True)
def _keep(a: Float64Array1D, m: Moments) -> None:
    a[0], a[1], a[2], a[3], a[4], a[5] = m


@numba.njit(cache=True)
def _day_moments(
    x: Float64Array1D, y: Float64Array1D, first_hour: int, head: Float64Array2D, tail: Float64Array2D
) -> None:
    """Moments of the pairs from midnight up to each hour, and from each hour to the end of its day.

    Shapes (n_hours, 6) and (n_hours + 1, 6), as in ``_day_sums``.
    """
    hours = len(x)
    moments = NONE
    for t in range(hours):
        if (first_hour + t) % DAY == 0:
            moments = NONE
        moments = _added(moments, x[t], y[t])
        _keep(head[t], moments)
    moments = NONE
    _keep(tail[hours], moments)
    for t in range(hours - 1, -1, -1):
        if (first_hour + t) % DAY == DAY - 1:
            moments = NONE
        moments = _added(moments, x[t], y[t])
        _keep(tail[t], moments)


@numba.njit(cache=True)
def _whole_days(head: Float64Array2D, spans: npt.NDArray[np.int64], whole: Float64Array2D) -> None:
    """Moments of the whole days of each span."""
    for k in range(len(spans)):
        moments = NONE
        for last in range(spans[k, 0], spans[k, 1], DAY):
            if last >= 0:
                moments = _joined(moments, _moments_of(head[last]), NONE)
        _keep(whole[k], moments)


@numba.njit(cache=True)
def window_pair(
    x: Float64Array2D, y: Float64Array2D, length: int, coverage: float, first_hour: int, first: int = 0
) -> Float64Array3D:
    """Means, variances and covariance (ddof 0) of the pairs, both finite, among the last ``length`` hours.

    Shape (5, n_symbols, n_hours - first): mean of x, mean of y, variance of x, variance of y, covariance. NaN where fewer
    than ``coverage * length`` pairs, or fewer than two, are there.
    """
    n, hours = x.shape
    out = np.empty((5, n, hours - first))
    head = np.empty((hours, 6))
    tail = np.empty((hours + 1, 6))
    oldest, span, spans = _windows(hours, length, first_hour, first)
    whole = np.empty((len(spans), 6))
    needed = max(coverage * length, 2.0)
    for i in range(n):
        _day_moments(x[i], y[i], first_hour, head, tail)
        _whole_days(head, spans, whole)
        for t in range(first, hours):
            begin, k = oldest[t - first], span[t - first]
            if k >= 0:
                m = _joined(_moments_of(tail[begin]), _moments_of(whole[k]), _moments_of(head[t]))
            else:
                m = NONE
                for s in range(begin, t + 1):
                    m = _added(m, x[i, s], y[i, s])
            share = 1.0 / m[0] if m[0] >= needed else np.nan
            out[0, i, t - first] = m[1] if m[0] >= needed else np.nan
            out[1, i, t - first] = m[2] if m[0] >= needed else np.nan
            out[2, i, t - first] = m[3] * share
            out[3, i, t - first] = m[4] * share
            out[4, i, t - first] = m[5] * share
    return out


@numba.njit(cache=True)
def window_sd(x: Float64Array2D, length: int, coverage: float, first_hour: int, first: int = 0) -> Float64Array2D:
    """Standard deviation (ddof 1) of the finite values among the last ``length`` hours; NaN as in ``window_pair``."""
    n, hours = x.shape
    out = np.empty((n, hours - first))
    head = np.empty((hours, 6))
    tail = np.empty((hours + 1, 6))
    oldest, span, spans = _windows(hours, length, first_hour, first)
    whole = np.empty((len(spans), 6))
    needed = max(coverage * length, 2.0)
    for i in range(n):
        _day_moments(x[i], x[i], first_hour, head, tail)
        _whole_days(head, spans, whole)
        # As in window_pair, written out: a function that both call is not inlined, and makes either several times slower.
        for t in range(first, hours):
            begin, k = oldest[t - first], span[t - first]
            if k >= 0:
                m = _joined(_moments_of(tail[begin]), _moments_of(whole[k]), _moments_of(head[t]))
            else:
                m = NONE
                for s in range(begin, t + 1):
                    m = _added(m, x[i, s], x[i, s])
            out[i, t - first] = math.sqrt(m[3] / (m[0] - 1.0)) if m[0] >= needed else np.nan
    return out


@numba.njit(cache=True)
def ewma(x: Float64Array2D, half_life: float, first_hour: int, first: int = 0) -> Float64Array2D:
    """Exponentially weighted mean of the finite values of today and of ``ewma_reach(half_life)`` hours before today.

    NaN where the values present carry less than half of the weight that a full kernel of that reach has.
    """
    n, hours = x.shape
    out = np.empty((n, hours - first))
    decay = 0.5 ** (1.0 / half_life)
    daily = decay**DAY
    days = max(math.ceil(HALF_LIVES_REACHED * half_life / DAY), 1)
    full = (1.0 - decay ** (days * DAY)) / (1.0 - decay)
    # Weighted sums of each day as of its last hour.
    past = (first_hour + hours - 1) // DAY + 1
    totals = np.zeros((2, past))
    for i in range(n):
        total = 0.0
        weight = 0.0
        for t in range(hours):
            if (first_hour + t) % DAY == 0:
                total = 0.0
                weight = 0.0
            total *= decay
            weight *= decay
            if not math.isnan(x[i, t]):
                total += x[i, t]
                weight += 1.0
            totals[0, (first_hour + t) // DAY] = total
            totals[1, (first_hour + t) // DAY] = weight
        total = 0.0
        weight = 0.0
        for t in range(max(first - (first_hour + first) % DAY, 0), hours):
            if (first_hour + t) % DAY == 0:
                today = (first_hour + t) // DAY
                total = 0.0
                weight = 0.0
                for d in range(max(today - days, 0), today):
                    total = total * daily + totals[0, d]
                    weight = weight * daily + totals[1, d]
            total *= decay
            weight *= decay
            if not math.isnan(x[i, t]):
                total += x[i, t]
                weight += 1.0
            if t >= first:
                out[i, t - first] = total / weight if weight >= 0.5 * full else np.nan
    return out
