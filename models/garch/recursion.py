"""The recursions of the GARCH family one step at a time: filter, update, forecast, simulate.

The same equations as ``models.garch.lanes``, for one series with known parameters. Filter, forecast and update share one
step, so that they agree bit for bit. A missing return (NaN) is taken at its expectation, e² = v and e² 1(e < 0) = v / 2
(EGARCH: z = 0): the variance moves towards its long-run level. A closed-form forecast is the same thing, a run of
missing returns.

``weights`` is (omega, alpha, gamma, beta, logarithmic). ``state`` has shape (4, m) with m = max(p, o, q, 1): by row what
alpha, gamma and beta multiply, newest lag first (e², e² 1(e < 0), v; for EGARCH |z| - sqrt(2 / pi), z, ln v), and in the
last row's first cell what the exogenous terms add to the next variance.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Weights", "filter_variance", "initial_state", "next_variance", "simulate_variance", "step"]

Array = NDArray[np.float64]
Weights: TypeAlias = tuple[float, Array, Array, Array, bool]

MEAN_ABSOLUTE: Final = math.sqrt(2.0 / math.pi)
EXOGENOUS: Final = 3


def initial_state(backcast: float, lags: int, logarithmic: bool = False) -> Array:
    """The state (4, lags) before the first observation, every lag at the variance ``backcast``."""
    state = np.zeros((4, max(lags, 1)))
    if logarithmic:
        state[2] = math.log(backcast)
    else:
        state[:3] = backcast
        state[1] *= 0.5
    return state


@njit(cache=True)
def _level(weights: Any, state: Any) -> float:
    omega, alpha, gamma, beta, _ = weights
    level = omega
    for i in range(alpha.size):
        level += alpha[i] * state[0, i]
    for j in range(gamma.size):
        level += gamma[j] * state[1, j]
    for k in range(beta.size):
        level += beta[k] * state[2, k]
    return float(level + state[EXOGENOUS, 0])


@njit(cache=True)
def _variance(level: float, weights: Any) -> float:
    return math.exp(level) if weights[4] else level


@njit(cache=True)
def next_variance(weights: Any, state: Any) -> float:
    """The variance of the next return given ``state``."""
    return _variance(_level(weights, state), weights)


@njit(cache=True)
def _absorb(residual: float, level: float, variance: float, weights: Any, state: Any, exogenous: float) -> None:
    """Move ``state`` on by one observation, whose level and variance were these; a NaN enters at its expectation."""
    for i in range(state.shape[1] - 1, 0, -1):
        for row in range(3):
            state[row, i] = state[row, i - 1]
    missing = math.isnan(residual)
    if weights[4]:
        z = 0.0 if missing else residual / math.sqrt(variance)
        state[0, 0] = 0.0 if missing else abs(z) - MEAN_ABSOLUTE
        state[1, 0] = z
    elif missing:
        state[0, 0] = level
        state[1, 0] = 0.5 * level
    else:
        square = residual * residual
        state[0, 0] = square
        state[1, 0] = square if residual < 0.0 else 0.0
    state[2, 0] = level
    state[EXOGENOUS, 0] = exogenous


@njit(cache=True)
def filter_variance(residuals: Any, exogenous: Any, weights: Any, state: Any) -> Any:
    """The variance (T,) of each residual given the earlier ones; ``state`` moves to the end.

    ``exogenous`` (T,) is what the regressors known with each residual add to the variance of the next one.
    """
    variance = np.empty(residuals.size)
    for t in range(residuals.size):
        level = _level(weights, state)
        variance[t] = _variance(level, weights)
        _absorb(residuals[t], level, variance[t], weights, state, exogenous[t])
    return variance


@njit(cache=True)
def step(residual: float, exogenous: float, weights: Any, state: Any) -> float:
    """Absorb one residual and return the variance of the next."""
    level = _level(weights, state)
    _absorb(residual, level, _variance(level, weights), weights, state, exogenous)
    return next_variance(weights, state)


@njit(cache=True)
def simulate_variance(shocks: Any, exogenous: Any, weights: Any, state: Any) -> Any:
    """Variance paths (n, horizon) of returns sqrt(v) z, z the ``shocks`` (n, horizon), all from ``state``."""
    paths = np.empty(shocks.shape)
    for i in range(shocks.shape[0]):
        own = state.copy()
        for t in range(shocks.shape[1]):
            level = _level(weights, own)
            paths[i, t] = _variance(level, weights)
            _absorb(math.sqrt(paths[i, t]) * shocks[i, t], level, paths[i, t], weights, own, exogenous[t])
    return paths
