"""How wide the law of a move is, given the variance forecast: the forecast's standard deviation to a power, and a factor.

Squared moves over ``F`` are not equally large at all levels of ``F``: where variance is forecast to be high it comes back
faster than the forecast has it, and the moves of the interval turn out smaller than ``sqrt(F)`` says; where it is low, larger.
The regression of the squared move over ``F`` on ``ln F``, with a logarithmic link, by the quasi-likelihood of the gamma law
(McCullagh and Nelder 1989, Generalized Linear Models, ch. 8), pooled over symbols, finds by how much:
``E[m^2 / F] = exp(b0 + b1 ln F)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["Width", "gamma_fit"]

Array = npt.NDArray[np.float64]

# A crash must not decide the regression: beyond about five standard deviations a move counts as five.
LARGEST_SQUARE: Final = 30.0
# Beyond so many standard deviations of ``ln F`` from its mean the width grows with ``sqrt(F)`` itself again.
LARGEST_DISTANCE: Final = 4.0
# Every so manieth hour of the clock is learnt from; prime to the day, so that all its hours are.
STEP_HOURS: Final = 5
MINIMUM_ROWS: Final = 500
NEWTON_STEPS: Final = 25
CONVERGED: Final = 1e-8


@dataclass(frozen=True)
class Width:
    """What the regression knows: ``ln E[m^2 / F] = level + slope x``, with ``x = (ln F - centre) / unit``."""

    level: float
    slope: float
    centre: float
    unit: float

    @classmethod
    def learn(cls, squares: Array, log_forecast: Array, first_hour: int) -> Width:
        """From squared moves over ``F``, NaN where unresolved, and ``ln F``, both (n_symbols, n_hours).

        ``first_hour``: the hour since the epoch of the first column. With too few rows, or flat prices, the width is
        ``sqrt(F)``.
        """
        thinned = (first_hour + np.arange(squares.shape[1])) % STEP_HOURS == 0
        y, x = squares[:, thinned], log_forecast[:, thinned]
        known = np.isfinite(y) & np.isfinite(x)
        if known.sum() * STEP_HOURS < MINIMUM_ROWS or not (y[known] > 0).any() or np.ptp(x[known]) == 0:
            return cls(0.0, 0.0, 0.0, 1.0)
        y, x = np.minimum(y[known], LARGEST_SQUARE), x[known]
        centre, unit = float(x.mean()), float(x.std())
        level, slope = gamma_fit(_standard(x, centre, unit), y)
        return cls(level, slope, centre, unit)

    def at(self, log_forecast: Array) -> Array:
        """The factor on ``sqrt(F)`` where ``ln F`` is ``log_forecast``."""
        x = _standard(log_forecast, self.centre, self.unit)
        return np.asarray(np.exp(0.5 * (self.level + self.slope * x)))


def _standard(x: Array, centre: float, unit: float) -> Array:
    return np.clip((x - centre) / unit, -LARGEST_DISTANCE, LARGEST_DISTANCE)


def gamma_fit(x: Array, y: Array) -> tuple[float, float]:
    """Level and slope of ``ln E[y]`` on ``x``, both (n_rows,), by gamma quasi-likelihood.

    Newton's method; the loss ``mean(y exp(-s) + s)`` is convex.
    """
    level, slope = math.log(float(y.mean())), 0.0
    loss, steps = _terms(x, y, level, slope)
    for _ in range(NEWTON_STEPS):
        if max(abs(steps[0]), abs(steps[1])) < CONVERGED:
            break
        for size in (1.0, 0.5, 0.25, 0.125):
            ahead = _terms(x, y, level - size * steps[0], slope - size * steps[1])
            if ahead[0] <= loss:
                level, slope = level - size * steps[0], slope - size * steps[1]
                loss, steps = ahead
                break
        else:
            break  # at the optimum, to rounding
    return level, slope


@numba.njit(cache=True, error_model="numpy")
def _terms(x: Array, y: Array, level: float, slope: float) -> tuple[float, tuple[float, float]]:
    """The loss, and Newton's steps of level and slope, with sums added row after row."""
    loss = g0 = g1 = h00 = h01 = h11 = 0.0
    for r in range(len(y)):
        score = level + slope * x[r]
        ratio = y[r] * math.exp(-score)
        loss += ratio + score
        g0 += 1 - ratio
        g1 += (1 - ratio) * x[r]
        h00 += ratio
        h01 += ratio * x[r]
        h11 += ratio * x[r] * x[r]
    determinant = h00 * h11 - h01 * h01
    return loss / len(y), ((h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant)
