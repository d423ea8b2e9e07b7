"""Window kernels of the funding group: place in a range, slope, forecast of a settlement, spread over venues.

They follow the rules of ``features.kernels``: hourly columns, a missing hour is NaN, every value is summed afresh in a
fixed order over a declared number of columns. ``first`` is the first column to compute; the result starts there. A
window that the history does not fill is cut short, and ``coverage`` decides whether enough of it is there.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["ar_surprise", "venue_spread", "window_place", "window_slope"]

Float64Array2D = npt.NDArray[np.float64]
Float64Array3D = npt.NDArray[np.float64]


@numba.njit(cache=True)
def window_place(x: Float64Array2D, length: int, coverage: float, first: int) -> Float64Array3D:
    """Where the newest value stands among the last ``length`` hours: shape (2, n_symbols, n_hours - first).

    First its rank, the share of the finite values that are lower, equal ones counted half (between 0 and 1); then its
    place in the range, ``(x - min) / (max - min)``. NaN where the newest value is missing, where fewer than ``coverage *
    length`` hours are finite, and (place only) where all of them are equal.
    """
    n, hours = x.shape
    out = np.full((2, n, hours - first), np.nan)
    for i in range(n):
        for t in range(first, hours):
            value = x[i, t]
            if math.isnan(value):
                continue
            count, below = 0, 0.0
            low, high = value, value
            for s in range(max(t - length + 1, 0), t + 1):
                other = x[i, s]
                if math.isnan(other):
                    continue
                count += 1
                below += 1.0 if other < value else 0.5 if other == value else 0.0
                low, high = min(low, other), max(high, other)
            if count >= coverage * length:
                out[0, i, t - first] = below / count
                if high > low:
                    out[1, i, t - first] = (value - low) / (high - low)
    return out


@numba.njit(cache=True)
def window_slope(x: Float64Array2D, length: int, coverage: float, first: int) -> Float64Array2D:
    """Least-squares slope per hour of the finite values among the last ``length`` hours: (n_symbols, n_hours - first).

    NaN where fewer than ``coverage * length`` of them, or fewer than two, are finite.
    """
    n, hours = x.shape
    out = np.full((n, hours - first), np.nan)
    for i in range(n):
        for t in range(first, hours):
            begin = max(t - length + 1, 0)
            count, clock, total = 0, 0.0, 0.0
            for s in range(begin, t + 1):
                if not math.isnan(x[i, s]):
                    count += 1
                    clock += t - s
                    total += x[i, s]
            if count < 2 or count < coverage * length:
                continue
            middle, mean = clock / count, total / count
            squares, products = 0.0, 0.0
            for s in range(begin, t + 1):
                if not math.isnan(x[i, s]):
                    ahead = middle - (t - s)
                    squares += ahead * ahead
                    products += ahead * (x[i, s] - mean)
            out[i, t - first] = products / squares
    return out


@numba.njit(cache=True)
def ar_surprise(x: Float64Array2D, length: int, life: int, minimum: int, tick: float, first: int) -> Float64Array3D:
    """Surprise of the newest settlement against a first-order autoregression fitted to those before it.

    ``x`` holds a rate at the hour at which it settled and NaN elsewhere. Among the settlements of the last ``length``
    hours, the newest is forecast from its predecessor by least squares on the earlier pairs of neighbours no more than
    ``life`` hours apart. Shape (2, n_symbols, n_hours - first): the forecast error over the residual standard deviation
    (at least ``tick``, the resolution of the rates), and the coefficient, NaN while the rates do not move. Both hold
    from one settlement to the next, and are NaN with fewer than ``minimum`` pairs or once the newest settlement or its
    predecessor is out of date.
    """
    n, hours = x.shape
    out = np.full((2, n, hours - first), np.nan)
    rate = np.empty(length)
    hour = np.empty(length, dtype=np.int64)
    for i in range(n):
        size = 0
        for t in range(first, hours):
            leaves = t >= length and not math.isnan(x[i, t - length])
            if t > first and math.isnan(x[i, t]) and not leaves:
                # The same settlements as an hour ago, and the same answer while the newest is in date.
                if size > 0 and t - hour[size - 1] <= life:
                    out[:, i, t - first] = out[:, i, t - first - 1]
                continue
            size = 0
            for s in range(max(t - length + 1, 0), t + 1):
                if not math.isnan(x[i, s]):
                    rate[size], hour[size] = x[i, s], s
                    size += 1
            newest = size - 1
            if size < 3 or t - hour[newest] > life or hour[newest] - hour[newest - 1] > life:
                continue
            pairs, lag_sum, lead_sum = 0, 0.0, 0.0
            for k in range(1, newest):
                if hour[k] - hour[k - 1] <= life:
                    pairs += 1
                    lag_sum += rate[k - 1]
                    lead_sum += rate[k]
            if pairs < minimum:
                continue
            lag_mean, lead_mean = lag_sum / pairs, lead_sum / pairs
            squares, products = 0.0, 0.0
            for k in range(1, newest):
                if hour[k] - hour[k - 1] <= life:
                    squares += (rate[k - 1] - lag_mean) ** 2
                    products += (rate[k - 1] - lag_mean) * (rate[k] - lead_mean)
            # Below the resolution of the rates their differences are rounding, and so would be their regression.
            moves = squares > pairs * tick * tick
            slope = products / squares if moves else 0.0
            errors = 0.0
            for k in range(1, newest):
                if hour[k] - hour[k - 1] <= life:
                    errors += (rate[k] - lead_mean - slope * (rate[k - 1] - lag_mean)) ** 2
            forecast = lead_mean + slope * (rate[newest - 1] - lag_mean)
            out[0, i, t - first] = (rate[newest] - forecast) / max(math.sqrt(errors / (pairs - 2)), tick)
            if moves:
                out[1, i, t - first] = slope
    return out


@numba.njit(cache=True)
def venue_spread(rates: Float64Array3D, minimum: int) -> Float64Array3D:
    """Statistics over the venues that are alive at each hour; ``rates`` is (n_venues, n_symbols, n_hours).

    Shape (5, n_symbols, n_hours): mean, standard deviation (ddof 0), range, number of venues, and the first venue less
    the median of the others alive. NaN where fewer than ``minimum`` are, and the last without the first venue. Summed
    venue by venue, so that a value has the same bits in any array that holds its hour.
    """
    venues, n, hours = rates.shape
    out = np.full((5, n, hours), np.nan)
    alive = np.empty(venues)
    for i in range(n):
        for t in range(hours):
            count, total = 0, 0.0
            for k in range(venues):
                if not math.isnan(rates[k, i, t]):
                    alive[count] = rates[k, i, t]
                    total += alive[count]
                    count += 1
            if count < minimum:
                continue
            mean = total / count
            squares = 0.0
            for k in range(count):
                squares += (alive[k] - mean) ** 2
            # The first venue, if alive, stands first; the others are sorted behind it.
            led = not math.isnan(rates[0, i, t])
            begin = 1 if led else 0
            low = high = alive[0]
            for k in range(1, count):
                low, high = min(low, alive[k]), max(high, alive[k])
            out[0, i, t] = mean
            out[1, i, t] = math.sqrt(squares / count)
            out[2, i, t] = high - low
            out[3, i, t] = count
            if led and count > 1:
                others = np.sort(alive[begin:count])
                middle = len(others) // 2
                median = others[middle] if len(others) % 2 else 0.5 * (others[middle - 1] + others[middle])
                out[4, i, t] = alive[0] - median
    return out
