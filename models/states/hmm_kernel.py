"""Compiled passes of the Gaussian hidden Markov model with diagonal covariances: the filter, and a whole EM fit.

The filter is the forward recursion of Hamilton (1989); the fit is that of Baum, Petrie, Soules and Weiss (1970) as set
out by Rabiner (1989). A missing value (NaN) is no evidence: a bar without any moves the filter by its prediction only.

Densities enter relative to the largest of their bar, not below e^``FAINT``, and no fitted transition is less likely than
``RARE``. So every bar's most likely state was expected with at least ``RARE``, which puts the floor of the densities
below double precision; and no recursion falls by more than 1e-48 in ``CHECK`` bars, so that it is scaled, and a logarithm
taken, only when it has become ``SMALL``, once in a hundred bars or so.

The fit keeps the bars in blocks of ``LANES``, time innermost, where its loops run in vector instructions. ``blank`` is a
tuple of K tuples of K zeros: with K in the type, loops over states unroll and a recursion's state stays in registers.
A fit's sums are taken in any order, so that its last bits depend on the processor's vectors; those of the filter do not.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import njit
from numba.cpython.unsafe.tuple import tuple_setitem
from numpy.typing import NDArray

__all__ = ["LANES", "RARE", "absorb", "fit_em", "forward"]

Array = NDArray[np.float64]

LANES: Final = 256
RARE: Final = 1e-12
FAINT: Final = -138.0  # a relative density of 1e-60
# The recursions are looked at every CHECK bars, and scaled up where they have become SMALL.
CHECK: Final = 4
SMALL: Final = 1e-50
LOG_TWO_PI: Final = math.log(2.0 * math.pi)
# ln 2 in two parts, of which the first has few enough bits for exact products with an exponent (Cody & Waite 1980).
LN2_HIGH: Final = 6.93147180369123816490e-01
LN2_LOW: Final = 1.90821492927058770002e-10
LOG2_E: Final = 1.0 / math.log(2.0)
# 1 / n! from n = 12 down: at |r| <= ln 2 / 2 the rest of the series is below 2e-16.
SERIES: Final = tuple(1.0 / math.factorial(n) for n in range(12, -1, -1))
# A tuple with one of its elements replaced.
replaced: Final[Any] = tuple_setitem
# A product may be fused with a sum, and a sum taken in any order: for the fit, never for the filter.
LOOSE: Final = {"contract", "reassoc", "nsz"}


@njit(cache=True, error_model="numpy", inline="always")
def _exp(x: float) -> Any:
    """``exp(x)`` of a moderate x (|x| < 700) to 1e-15, by operations that exist as vector instructions."""
    k = math.floor(x * LOG2_E + 0.5)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    series = SERIES[0]
    for n in range(1, len(SERIES)):
        series = series * r + SERIES[n]
    return series * np.int64((np.int64(k) + 1023) << 52).view(np.float64)


_loose_exp = njit(cache=True, error_model="numpy", inline="always", fastmath=LOOSE)(_exp.py_func)


@njit(cache=True, error_model="numpy")
def absorb(x: Array, predicted: Array, transition: Array, means: Array, c: Array, h: Array, filtered: Array) -> float:
    """Move the filter by one bar ``x`` (d,); return its log-likelihood given the bars before.

    ``predicted`` (K,) is P(s_t | data < t) on entry and P(s_{t+1} | data <= t) on return; ``filtered`` (K,) becomes
    P(s_t | data <= t). ``c`` and ``h`` are (K, d) of the log-density ``c - h (x - mean)²``.
    """
    states = predicted.size
    peak = -math.inf
    for k in range(states):
        filtered[k] = 0.0
        for i in range(x.size):
            if not math.isnan(x[i]):
                e = x[i] - means[k, i]
                filtered[k] += c[k, i] - h[k, i] * (e * e)
        peak = max(peak, filtered[k])
    total = 0.0
    for k in range(states):
        filtered[k] = predicted[k] * _exp(max(filtered[k] - peak, FAINT))
        total += filtered[k]
    for k in range(states):
        filtered[k] /= total
        predicted[k] = 0.0
    for i in range(states):
        for j in range(states):
            predicted[j] += filtered[i] * transition[i, j]
    return peak + math.log(total)


@njit(cache=True, error_model="numpy")
def forward(x: Array, predicted: Array, transition: Array, means: Array, c: Array, h: Array, filtered: Array) -> float:
    """``absorb`` every row of ``x`` (T, d) into ``filtered`` (T, K); return the log-likelihood of all."""
    loglikelihood = 0.0
    for t in range(x.shape[0]):
        loglikelihood += absorb(x[t], predicted, transition, means, c, h, filtered[t])
    return loglikelihood


@njit(cache=True, error_model="numpy", fastmath=LOOSE)
def _densities(x: Array, means: Array, variances: Array, density: Array) -> float:
    """Densities (n_blocks, K, LANES) of ``x`` relative to each bar's largest; return the sum of the logs of those."""
    states, columns = means.shape
    c, h = -0.5 * (LOG_TWO_PI + np.log(variances)), 0.5 / variances
    peak, logs = np.empty(LANES), np.zeros(LANES)
    for block in range(x.shape[0]):
        peak[:] = -np.inf
        for k in range(states):
            row = density[block, k]
            row[:] = 0.0
            for i in range(columns):
                values, mean, top, slope = x[block, i], means[k, i], c[k, i], h[k, i]
                for w in range(LANES):
                    e = values[w] - mean
                    row[w] += top - slope * (e * e) if e == e else 0.0
            for w in range(LANES):
                peak[w] = max(peak[w], row[w])
        for w in range(LANES):
            logs[w] += peak[w]
        for k in range(states):
            row = density[block, k]
            for w in range(LANES):
                row[w] = _loose_exp(max(row[w] - peak[w], FAINT))
    return float(logs.sum())


@njit(cache=True, error_model="numpy")
def _rows(matrix: Array, blank: Any) -> Any:
    """``matrix`` (K, K) as a tuple of tuples."""
    for i in range(len(blank)):
        row = blank[i]
        for j in range(len(blank)):
            row = replaced(row, j, matrix[i, j])
        blank = replaced(blank, i, row)
    return blank


@njit(cache=True, error_model="numpy")
def _total(masses: Any) -> float:
    """The sum of a tuple."""
    total = 0.0
    for mass in masses:
        total += mass
    return total


@njit(cache=True, error_model="numpy")
def _scaled(masses: Any, factor: float) -> Any:
    """A tuple times a number."""
    for k in range(len(masses)):
        masses = replaced(masses, k, masses[k] * factor)
    return masses


@njit(cache=True, error_model="numpy")
def _forward_backward(
    bars: int, first: Array, transition: Array, density: Array, past: Array, future: Array, blank: Any
) -> float:
    """The two recursions of Baum and others, each up to a factor a bar; return the log of the summed densities.

        past[t](j) = P(s_{t-1} = j, x_1 … x_{t-1}),    future[t](j) = p(x_t, x_{t+1}, … | s_t = j)

    Neither needs the other, so one step of each is made at a time, and a processor works on both at once.
    """
    states, last = len(blank), bars - 1
    P = _rows(transition, blank)
    a, z = blank[0], blank[0]
    for k in range(states):
        a = replaced(a, k, first[k] * density[0, k, 0])
        z = replaced(z, k, density[last // LANES, k, last % LANES])
        future[last // LANES, k, last % LANES] = z[k]
    loglikelihood = 0.0
    for t in range(1, bars):
        block, w = t // LANES, t % LANES
        onward = a
        for j in range(states):
            past[block, j, w] = a[j]
            mass = 0.0
            for i in range(states):
                mass += a[i] * P[i][j]
            onward = replaced(onward, j, mass * density[block, j, w])
        block, w = (last - t) // LANES, (last - t) % LANES
        before = z
        for i in range(states):
            mass = 0.0
            for j in range(states):
                mass += P[i][j] * z[j]
            before = replaced(before, i, mass * density[block, i, w])
            future[block, i, w] = before[i]
        a, z = onward, before
        if t % CHECK == 0:
            sum_a, sum_z = _total(a), _total(z)
            if sum_a < SMALL:
                loglikelihood += math.log(sum_a)
                a = _scaled(a, 1.0 / sum_a)
            if sum_z < SMALL:
                z = _scaled(z, 1.0 / sum_z)
    return loglikelihood + math.log(_total(a))


@njit(cache=True, error_model="numpy", fastmath=LOOSE)
def _posterior(past: Array, future: Array, P: Any, share: Array, gamma: Array) -> None:
    """P(s_t = j | all data) of a block into ``gamma`` (K * LANES,), and past[t](i) / p(all data) into ``share``."""
    states = len(P)
    for w in range(LANES):
        total = 0.0
        for j in range(states):
            mass = 0.0
            for i in range(states):
                mass += past[i * LANES + w] * P[i][j]
            mass *= future[j * LANES + w]
            gamma[j * LANES + w] = mass
            total += mass
        scale = 1.0 / total
        for j in range(states):
            gamma[j * LANES + w] *= scale
            share[j * LANES + w] = past[j * LANES + w] * scale


@njit(cache=True, error_model="numpy", fastmath=LOOSE)
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for w in range(a.size):
        total += a[w] * b[w]
    return total


@njit(cache=True, error_model="numpy", fastmath=LOOSE)
def _moments(values: Array, weight: Array, mean: float) -> tuple[float, float, float]:
    """The weight of the bars that have a value, and its weighted first and second moments about ``mean``."""
    zeroth, first, second = 0.0, 0.0, 0.0
    for w in range(values.size):
        e = values[w] - mean
        known = e == e
        g = weight[w] if known else 0.0
        e = e if known else 0.0
        zeroth += g
        first += g * e
        second += g * (e * e)
    return zeroth, first, second


@njit(cache=True, error_model="numpy")
def _simplex(weights: Array) -> None:
    """Scale ``weights`` to sum to one, none below ``RARE``; all zero, they become equal."""
    total = weights.sum()
    for k in range(weights.size):
        weights[k] = max(weights[k] / total, RARE) if total > 0.0 else 1.0
    weights /= weights.sum()


@njit(cache=True, error_model="numpy")
def _statistics(
    x: Array, bars: int, first: Array, transition: Array, means: Array, past: Array, future: Array, moments: Array,
    blank: Any,
) -> None:  # fmt: skip
    """What the M step needs of the E step, in place: ``first`` (K,), ``moments`` (K, d, 3), and ``transition``.

        P(s_{t-1} = i, s_t = j | all data) = past[t](i) P_ij future[t](j) / p(all data)

    summed over t is the expected number of transitions (K, K).
    """
    states, columns = means.shape
    P = _rows(transition, blank)
    pairs = np.zeros((states, states))
    share, gamma = np.empty((states, LANES)), np.empty((states, LANES))
    moments[:] = 0.0
    for block in range(x.shape[0]):
        begin, end = int(block == 0), min(bars - block * LANES, LANES)
        onward = future[block]
        _posterior(past[block].ravel(), onward.ravel(), P, share.ravel(), gamma.ravel())
        if block == 0:
            first *= onward[:, 0]
            _simplex(first)
            gamma[:, 0] = first
        for k in range(states):
            for j in range(states):
                pairs[k, j] += _dot(share[k, begin:end], onward[j, begin:end])
            for i in range(columns):
                zeroth, one, two = _moments(x[block, i, :end], gamma[k, :end], means[k, i])
                moments[k, i, 0] += zeroth
                moments[k, i, 1] += one
                moments[k, i, 2] += two
    transition *= pairs


@njit(cache=True, error_model="numpy")
def _maximise(
    moments: Array, floors: Array, transition: Array, means: Array, variances: Array, occupancy: Array
) -> None:
    """The M step: the parameters of highest expected log-likelihood, variances not below ``floors`` (d,)."""
    states, columns = means.shape
    for k in range(states):
        occupancy[k] = transition[k].sum()
        _simplex(transition[k])
        for i in range(columns):
            weight = moments[k, i, 0]
            if weight > 0.0:
                shift = moments[k, i, 1] / weight
                means[k, i] += shift
                variances[k, i] = max(moments[k, i, 2] / weight - shift * shift, floors[i])


@njit(cache=True, error_model="numpy")
def fit_em(
    x: Array, bars: int, first: Array, transition: Array, means: Array, variances: Array, floors: Array,
    tolerance: float, limit: int, blank: Any,
) -> tuple[float, float, int, Array]:  # fmt: skip
    """Climb by EM from the given parameters, which are replaced by those reached.

    ``x`` (n_blocks, d, LANES) holds ``bars`` bars, NaN behind them. Stops when an iteration gains ``tolerance`` nats or
    less, at latest after ``limit``. Returns the log-likelihood of the last E step, its gain over the one before, the
    number of iterations, and the expected number of bars (K,) in each state.
    """
    blocks, columns, states = x.shape[0], x.shape[1], len(blank)
    density = np.empty((blocks, states, LANES))
    past, future = np.ones_like(density), np.ones_like(density)
    moments, occupancy = np.empty((states, columns, 3)), np.empty(states)
    loglikelihood, gain, iteration = -math.inf, math.inf, 0
    while iteration < limit and gain > tolerance:
        iteration += 1
        total = _densities(x, means, variances, density)
        total += _forward_backward(bars, first, transition, density, past, future, blank)
        gain, loglikelihood = total - loglikelihood, total
        _statistics(x, bars, first, transition, means, past, future, moments, blank)
        _maximise(moments, floors, transition, means, variances, occupancy)
    return loglikelihood, gain, iteration, occupancy
