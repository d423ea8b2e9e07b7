"""Compiled recursions of the GARCH family: conditional variance, log-likelihood and its exact gradient.

The variance follows Bollerslev (1986) with the threshold term of Glosten, Jagannathan and Runkle (1993):

    v[t] = omega + sum alpha[i] e[t-i]² + sum gamma[j] e[t-j]² 1(e[t-j] < 0) + sum beta[k] v[t-k]

A missing return (NaN) is taken at its expectation, e² = v and e² 1(e < 0) = v / 2: the variance moves towards
its long-run level and the likelihood gains no term. A forecast is the same thing, a run of missing returns.

``state`` has shape (3, m) with m = max(p, o, q); its rows are e², e² 1(e < 0) and v, newest lag first.
Filter, forecast, update and likelihood share one step, so that they agree bit for bit.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["absorb", "filter_variance", "initial_state", "next_variance", "score", "step"]

Array = NDArray[np.float64]

LOG_TWO_PI: Final = math.log(2.0 * math.pi)
# Logs are taken of running products, far inside the range of doubles, instead of term by term.
SMALL: Final = 1e-100
LARGE: Final = 1e100


def initial_state(backcast: float, lags: int) -> Array:
    """Return the state (3, lags) before the first observation, every lag at ``backcast``."""
    state = np.full((3, lags), backcast)
    state[1] *= 0.5
    return state


@njit(cache=True)
def next_variance(omega: float, alpha: Array, gamma: Array, beta: Array, state: Array) -> float:
    """Return the variance of the next return given ``state``."""
    variance = omega
    for i in range(alpha.size):
        variance += alpha[i] * state[0, i]
    for j in range(gamma.size):
        variance += gamma[j] * state[1, j]
    for k in range(beta.size):
        variance += beta[k] * state[2, k]
    return variance


@njit(cache=True)
def absorb(residual: float, variance: float, state: Array) -> None:
    """Move ``state`` on by one observation; a NaN ``residual`` enters at its expectation."""
    for i in range(state.shape[1] - 1, 0, -1):
        for row in range(3):
            state[row, i] = state[row, i - 1]
    if math.isnan(residual):
        state[0, 0] = variance
        state[1, 0] = 0.5 * variance
    else:
        square = residual * residual
        state[0, 0] = square
        state[1, 0] = square if residual < 0.0 else 0.0
    state[2, 0] = variance


@njit(cache=True)
def filter_variance(residuals: Array, omega: float, alpha: Array, gamma: Array, beta: Array, state: Array) -> Array:
    """Return the variance (T,) of each residual given the earlier ones; ``state`` moves to the end."""
    variance = np.empty(residuals.size)
    for t in range(residuals.size):
        variance[t] = next_variance(omega, alpha, gamma, beta, state)
        absorb(residuals[t], variance[t], state)
    return variance


@njit(cache=True)
def step(
    residual: float, variance: float, omega: float, alpha: Array, gamma: Array, beta: Array, state: Array
) -> float:
    """Absorb one residual, whose variance was ``variance``, and return the variance of the next."""
    absorb(residual, variance, state)
    return next_variance(omega, alpha, gamma, beta, state)


@njit(cache=True)
def _derive(alpha: Array, gamma: Array, beta: Array, state: Array, residuals: Array, past: Array, out: Array) -> None:
    """Write the derivative of the next variance by (mu, omega, alpha, gamma, beta) to ``out``.

    ``past`` (m, k) holds the derivatives of the lagged variances, ``residuals`` (m,) the lagged residuals,
    NaN where the return was missing or lies before the sample.
    """
    p, o, q = alpha.size, gamma.size, beta.size
    for k in range(out.size):
        out[k] = 0.0
    for lag in range(residuals.size):
        shock = alpha[lag] if lag < p else 0.0
        feedback = beta[lag] if lag < q else 0.0
        if math.isnan(residuals[lag]):
            feedback += shock + (0.5 * gamma[lag] if lag < o else 0.0)
        else:
            if lag < o and residuals[lag] < 0.0:
                shock += gamma[lag]
            out[0] -= 2.0 * shock * residuals[lag]
        for k in range(out.size):
            out[k] += feedback * past[lag, k]
    out[1] += 1.0
    for i in range(p):
        out[2 + i] += state[0, i]
    for j in range(o):
        out[2 + p + j] += state[1, j]
    for i in range(q):
        out[2 + p + o + i] += state[2, i]


@njit(cache=True)
def score(
    returns: Array, dynamics: Array, p: int, o: int, q: int, backcast: float, density: Array
) -> tuple[float, Array]:
    """Return the log-likelihood and its gradient, both summed over the returns present.

    ``dynamics`` is (mu, omega, alpha, gamma, beta). ``density`` is empty for normal errors, else the rows
    (value, d/deta, d/dlambda) by columns (eta, lambda, a, b, log(b c)) of Hansen's (1994) skewed Student t,
    whose symmetric case lambda = 0 is the Student t. The gradient has the order of ``dynamics``, then eta and
    lambda.
    """
    mu, omega = dynamics[0], dynamics[1]
    alpha, gamma, beta = dynamics[2 : 2 + p], dynamics[2 + p : 2 + p + o], dynamics[2 + p + o :]
    size = dynamics.size
    lags = max(p, o, q)
    state = np.full((3, lags), backcast)
    state[1] *= 0.5
    residuals = np.full(lags, np.nan)
    past = np.zeros((lags, size))
    change = np.empty(size)
    gradient = np.zeros(size + 2)
    total, tails = 0.0, 0.0
    variances, spreads = 1.0, 1.0
    for t in range(returns.size):
        variance = next_variance(omega, alpha, gamma, beta, state)
        _derive(alpha, gamma, beta, state, residuals, past, change)
        residual = returns[t] - mu
        if not math.isnan(residual):
            scale = math.sqrt(variance)
            z = residual / scale
            if density.size:
                eta, a, b = density[0, 0], density[0, 2], density[0, 3]
                sign = 1.0 if b * z + a >= 0.0 else -1.0
                stretch = 1.0 / (1.0 + sign * density[0, 1])
                y = (b * z + a) * stretch
                spread = eta - 2.0 + y * y
                spreads *= spread / (eta - 2.0)
                by_y = -(eta + 1.0) * y / spread
                by_z = by_y * b * stretch
                total += density[0, 4]
                gradient[size] += (
                    density[1, 4] - 0.5 * by_y * y / (eta - 2.0) + by_y * stretch * (density[1, 3] * z + density[1, 2])
                )
                gradient[size + 1] += density[2, 4] + by_y * stretch * (density[2, 3] * z + density[2, 2] - sign * y)
            else:
                by_z = -z
                total -= 0.5 * (LOG_TWO_PI + z * z)
            variances *= variance
            if not (SMALL < variances < LARGE and spreads < LARGE):
                total -= 0.5 * math.log(variances)
                tails += 0.5 * math.log(spreads)
                variances, spreads = 1.0, 1.0
            weight = -0.5 * (1.0 + by_z * z) / variance
            for k in range(size):
                gradient[k] += weight * change[k]
            gradient[0] -= by_z / scale
        for lag in range(lags - 1, 0, -1):
            residuals[lag] = residuals[lag - 1]
            past[lag] = past[lag - 1]
        residuals[0] = residual
        for k in range(size):
            past[0, k] = change[k]
        absorb(residual, variance, state)
    total -= 0.5 * math.log(variances)
    tails += 0.5 * math.log(spreads)
    if density.size:
        total -= (density[0, 0] + 1.0) * tails
        gradient[size] -= tails
    return total, gradient
