"""Laws of past residuals: scales of symbols and states, a pooled shape, and Pareto tails.

Residuals of all symbols are pooled after division by a scale of the symbol and one of the state, so that the shape, and above
all the tail, rests on many rows. Reference: Hosking and Wallis (1987), Technometrics 29 (Pareto by probability-weighted
moments).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["SHAPE_LEVELS", "TAIL_START", "Law", "Residuals", "Tail", "location_scale", "residual_quantiles"]

Array = npt.NDArray[np.float64]

SHAPE_LEVELS: Final = np.concatenate(
    [np.linspace(0, 0.005, 6)[1:-1], np.linspace(0.005, 0.995, 199), [0.996, 0.997, 0.998, 0.999]]
)
NORMAL: Final = np.asarray(stats.norm.ppf(SHAPE_LEVELS))
TAIL_START: Final = 0.95
# Before anything is resolved: a Student t with four degrees of freedom, which no quiet start can make thinner.
STAND_IN: Final = np.asarray(stats.t.ppf(np.linspace(0.0005, 0.9995, 2000), df=4))
LARGEST_SHAPE: Final = 0.5
# Cubic tails and somewhat lighter ones are what crypto returns have after filtering. Excesses at which a sample's own shape
# weighs as much, counted without overlap.
PRIOR_SHAPE: Final = 0.25
SHAPE_SHRINKAGE: Final = 200.0
# Rows at which a symbol's own scale weighs as much as the pool's, counted without overlap.
SCALE_SHRINKAGE: Final = 60.0
# A symbol whose prices stood still has no spread of its own; it must not get a forecast without any.
SMALLEST_OWN_SCALE: Final = 0.1
MINIMUM_ROWS: Final = 500


@dataclass(frozen=True)
class Tail:
    """Generalised Pareto tail beyond the 95 % quantile ``start`` of a standardised residual."""

    start: float
    shape: float
    scale: float

    @classmethod
    def fit(cls, x: Array, horizon: int = 1) -> Tail:
        """From a sample (n,) of overlapping intervals of ``horizon`` hours, by probability-weighted moments.

        The shape is drawn towards ``PRIOR_SHAPE`` and kept below 0.5, so that variance exists.
        """
        start = float(np.quantile(x, TAIL_START))
        excess = np.sort(x[x > start] - start)
        n = len(excess)
        if n < 20 or excess[-1] <= 0:
            return cls(start, 0.0, max(abs(start), 1e-12) / 3)
        mean = excess.mean()
        weighted = float(np.mean((1 - (np.arange(1, n + 1) - 0.35) / n) * excess))
        own = min(2 - mean / (mean - 2 * weighted), LARGEST_SHAPE)
        share = n / (n + SHAPE_SHRINKAGE * horizon)
        shape = share * own + (1 - share) * PRIOR_SHAPE
        return cls(start, shape, mean * (1 - shape))

    @classmethod
    def learn(cls, standard: Array, side: int, horizon: int) -> Tail:
        """The lower (-1) or upper (1) tail of standardised residuals, NaN where unresolved; a Student t for too few."""
        known = standard[np.isfinite(standard)]
        enough = len(known) >= MINIMUM_ROWS and np.ptp(known) > 0
        return cls.fit(side * known, horizon) if enough else cls.fit(side * STAND_IN)

    def quantile(self, p: float) -> float:
        """The quantile at ``p >= 0.95``."""
        odds = (1 - p) / (1 - TAIL_START)
        if abs(self.shape) < 1e-9:
            return self.start - self.scale * float(np.log(odds))
        return float(self.start + self.scale / self.shape * (odds**-self.shape - 1))

    def shortfall(self, p: float) -> float:
        """Mean beyond the quantile at ``p``."""
        return (self.quantile(p) + self.scale - self.shape * self.start) / (1 - self.shape)


@dataclass(frozen=True)
class Residuals:
    """A residual's law at some origins: location and scale (n_symbols, n_hours), and the standardised shape's quantiles.

    ``shape``: at ``SHAPE_LEVELS``, (n_levels,).
    """

    location: Array
    scale: Array
    shape: Array

    def quantile(self, p: float) -> Array:
        """The residual's quantile at every origin, (n_symbols, n_hours)."""
        return self.location + self.scale * np.interp(p, SHAPE_LEVELS, self.shape)

    def exceedance(self, x: Array) -> Array:
        """Probability that the residual exceeds ``x`` (n_symbols, n_hours)."""
        standard = (x - self.location) / self.scale
        return np.where(np.isfinite(standard), 1 - np.interp(standard, self.shape, SHAPE_LEVELS), np.nan)


@dataclass(frozen=True)
class Law:
    """What is known of a residual: location and scale (n_symbols, 3) by state, and the pooled shape.

    ``learnt``: it rests on resolved rows, and is not the standard normal that stands in before.
    """

    location: Array
    scale: Array
    shape: Array
    learnt: bool

    @classmethod
    def learn(cls, residual: Array, state: Array, horizon: int, *, centred: bool, shaped: bool = True) -> Law:
        """From residuals and states of the past (n_symbols, n_hours), NaN where unresolved.

        With fewer than 500, or if none differs from another, a standard normal stands in. Scales of symbols and states
        (and, if ``centred``, locations) come first, then the shape, which unless ``shaped`` stays normal.
        """
        known = residual[np.isfinite(residual)]
        # Flat prices leave residuals without any spread, which are no law.
        if len(known) < MINIMUM_ROWS or np.ptp(known) == 0:
            return cls(np.zeros((len(residual), 3)), np.ones((len(residual), 3)), NORMAL, learnt=False)
        location, scale = location_scale(residual, state, horizon, centred=centred)
        if not shaped:
            return cls(location, scale, NORMAL, learnt=True)
        at = _own(state)
        standard = (residual - location[at]) / scale[at]
        return cls(location, scale, residual_quantiles(standard[np.isfinite(standard)], SHAPE_LEVELS), learnt=True)

    def at(self, state: Array) -> Residuals:
        """At origins in these states (n_symbols, n_hours)."""
        return Residuals(self.location[_own(state)], self.scale[_own(state)], self.shape)


def _own(state: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each row's location and scale stand; rows from before a symbol was there have no state, and count as middling."""
    return np.arange(len(state))[:, None], np.where(np.isnan(state), 1.0, state).astype(np.int64)


def residual_quantiles(x: Array, levels: Array) -> Array:
    """``np.quantile(x, levels)``, to the bit: for hundreds of levels one sort costs less than its many partitions."""
    ordered = np.sort(x)
    position = (len(x) - 1) * levels
    below = np.floor(position).astype(np.int64)
    share = position - below
    low, high = ordered[below], ordered[np.minimum(below + 1, len(x) - 1)]
    return np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


def location_scale(x: Array, state: Array, horizon: int, *, centred: bool) -> tuple[Array, Array]:
    """Location and scale (n_symbols, 3): pooled by state, moved by symbol with shrinkage."""

    def moments(values: Array) -> tuple[float, float]:
        middle = float(values.mean()) if centred else 0.0
        return middle, float(np.sqrt(np.mean((values - middle) ** 2)))

    finite = np.isfinite(x)
    pool_location, pool_scale = moments(x[finite])
    by_state = [
        moments(x[finite & (state == k)])
        if (finite & (state == k)).sum() >= MINIMUM_ROWS
        else (pool_location, pool_scale)
        for k in range(3)
    ]
    location, scale = np.empty((len(x), 3)), np.empty((len(x), 3))
    for i in range(len(x)):
        n = float(finite[i].sum()) / horizon
        own = moments(x[i, finite[i]]) if n >= 1 else (pool_location, pool_scale)
        share = n / (n + SCALE_SHRINKAGE)
        for k, (state_location, state_scale) in enumerate(by_state):
            location[i, k] = state_location + share * (own[0] - pool_location)
            scale[i, k] = state_scale * max(own[1] / pool_scale, SMALLEST_OWN_SCALE) ** share
    return location, scale
