"""The predictive law around a variance forecast: filtered historical simulation with Pareto tails.

What is simulated are residuals of *out-of-sample* forecasts that were resolved by the time of use: ``e = ln V - ln F``,
``z = r / sqrt(F)`` and ``a / sqrt(F)`` for the adverse excursions on the log scale. Residuals of all symbols are pooled
after division by a scale of the symbol and one of the state (how high the forecast stands against its own month), so that
the shape, and above all the tail, rests on many rows. References: Barone-Adesi, Giannopoulos and Vosper (1999), J. Futures
Markets 19; McNeil and Frey (2000), J. Empirical Finance 7; Hosking and Wallis (1987), Technometrics 29 (Pareto by
probability-weighted moments).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from features import kernels
from models.base import EXCURSION_COLUMNS, RETURN_LEVELS, SHORTFALL_LEVELS, VARIANCE_LEVELS
from models.trailing import DAY, FOUR_WEEKS, carry_forward, refreshes, window

__all__ = [
    "Outcome",
    "Tail",
    "excursion_columns",
    "location_scale",
    "lognormal_residuals",
    "residual_law",
    "residual_quantiles",
    "return_columns",
    "states",
]

Array = npt.NDArray[np.float64]

SAMPLE_HOURS: Final = 365 * DAY
STATE_HALF_LIFE: Final = 30.0 * DAY
SHAPE_LEVELS: Final = np.concatenate(
    [np.linspace(0, 0.005, 6)[1:-1], np.linspace(0.005, 0.995, 199), [0.996, 0.997, 0.998, 0.999]]
)
TAIL_START: Final = 0.95
LARGEST_SHAPE: Final = 0.5
# Rows at which a symbol's own scale weighs as much as the pool's, counted without overlap.
SCALE_SHRINKAGE: Final = 60.0
# A symbol whose prices stood still has no spread of its own; it must not get a forecast without any.
SMALLEST_OWN_SCALE: Final = 0.1
MINIMUM_ROWS: Final = 500


@dataclass(frozen=True)
class Outcome:
    """What came of each origin for one horizon, arrays (n_symbols, n_hours), NaN until the interval is complete."""

    variance: Array
    log_return: Array
    mae_long: Array
    mae_short: Array


@dataclass(frozen=True)
class Tail:
    """Generalised Pareto tail beyond the 95 % quantile ``start`` of a standardised residual."""

    start: float
    shape: float
    scale: float

    @classmethod
    def fit(cls, x: Array) -> Tail:
        """From a sample (n,), by probability-weighted moments; the shape is kept below 0.5, so that variance exists."""
        start = float(np.quantile(x, TAIL_START))
        excess = np.sort(x[x > start] - start)
        n = len(excess)
        if n < 20 or excess[-1] <= 0:
            return cls(start, 0.0, max(abs(start), 1e-12) / 3)
        mean = excess.mean()
        weighted = float(np.mean((1 - (np.arange(1, n + 1) - 0.35) / n) * excess))
        shape = min(2 - mean / (mean - 2 * weighted), LARGEST_SHAPE)
        return cls(start, shape, mean * (1 - shape))

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
    """Trailing law of one residual: location and scale at every origin, and the pooled standardised shape.

    ``location``, ``scale`` (n_symbols, n_hours). ``shape``: quantiles at ``SHAPE_LEVELS``, (n_levels, n_refreshes), in
    force from column ``at``. ``learnt`` (n_hours,): where the law rests on resolved rows, not on what stands in before.
    """

    location: Array
    scale: Array
    shape: Array
    at: npt.NDArray[np.int64]
    learnt: npt.NDArray[np.bool_]

    def quantile(self, p: float) -> Array:
        """The residual's quantile at every origin, (n_symbols, n_hours)."""
        standard = np.array([np.interp(p, SHAPE_LEVELS, column) for column in self.shape.T])
        return self.location + self.scale * carry_forward(standard, self.at, self.location.shape[1])

    def exceedance(self, x: Array) -> Array:
        """Probability that the residual exceeds ``x`` (n_symbols, n_hours)."""
        standard = (x - self.location) / self.scale
        out = np.empty_like(standard)
        stops = np.append(self.at[1:], standard.shape[1])
        for column, start, stop in zip(self.shape.T, self.at, stops, strict=True):
            out[:, start:stop] = 1 - np.interp(standard[:, start:stop], column, SHAPE_LEVELS)
        return np.where(np.isfinite(standard), out, np.nan)


def states(log_forecast: Array, times: pd.DatetimeIndex) -> Array:
    """State of each origin: 0, 1 or 2 as the forecast stands low, middling or high against its own trailing month."""
    monthly = kernels.ewma(np.ascontiguousarray(log_forecast), STATE_HALF_LIFE, int(times[0].hour))
    distance = log_forecast - monthly
    return np.where(np.isfinite(distance), (distance > -0.25).astype(float) + (distance > 0.35), 1.0)


def residual_law(
    residual: Array,
    state: Array,
    times: pd.DatetimeIndex,
    horizon: int,
    *,
    centred: bool,
    shaped: bool = True,
) -> Residuals:
    """Trailing law of ``residual``: symbol and state scales (and, if ``centred``, locations), then the pooled shape.

    Refreshed every four weeks from rows resolved in the last year; a standard normal stands in until 500 are. Unless
    ``shaped``, the shape stays standard normal.
    """
    at = refreshes(times, FOUR_WEEKS)
    n = len(residual)
    location, scale = np.zeros((n, 3, len(at))), np.ones((n, 3, len(at)))
    shape = np.repeat(stats.norm.ppf(SHAPE_LEVELS)[:, None], len(at), axis=1)
    learnt = np.zeros(len(at), dtype=np.bool_)
    for w, column in enumerate(at):
        past = window(int(column), horizon, SAMPLE_HOURS)
        x, s = residual[:, past], state[:, past]
        known = x[np.isfinite(x)]
        # Flat prices leave residuals without any spread, which are no law.
        if len(known) >= MINIMUM_ROWS and np.ptp(known) > 0:
            learnt[w] = True
            location[:, :, w], scale[:, :, w] = location_scale(x, s, horizon, centred=centred)
            if not shaped:
                continue
            which = s.astype(np.int64)
            rows = np.arange(n)[:, None]
            standard = (x - location[rows, which, w]) / scale[rows, which, w]
            shape[:, w] = residual_quantiles(standard[np.isfinite(standard)], SHAPE_LEVELS)
    hours = residual.shape[1]
    newest = carry_forward(np.arange(len(at), dtype=np.float64), at, hours).astype(np.int64)
    rows, which = np.arange(n)[:, None], state.astype(np.int64)
    return Residuals(location[rows, which, newest], scale[rows, which, newest], shape, at, learnt[newest])


def lognormal_residuals(residual: Array, times: pd.DatetimeIndex, horizon: int) -> Residuals:
    """The textbook law of ``ln V - ln F``: normal, with each symbol's trailing location and scale."""
    return residual_law(residual, np.ones_like(residual), times, horizon, centred=True, shaped=False)


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


def variance_columns(log_forecast: Array, law: Residuals) -> dict[str, Array]:
    """``var_q…``: quantiles of V."""
    return {name: np.exp(log_forecast + law.quantile(p)) for name, p in VARIANCE_LEVELS.items()}


def return_columns(
    log_forecast: Array, outcome: Outcome, state: Array, times: pd.DatetimeIndex, horizon: int
) -> dict[str, Array]:
    """``ret_q…`` and ``ret_es…``: quantiles of the log return and expected shortfall in either tail."""
    sigma = np.exp(0.5 * log_forecast)
    law = residual_law(outcome.log_return / sigma, state, times, horizon, centred=False)
    scale = sigma * law.scale
    tails = _tails(outcome.log_return / scale, times, horizon, (-1, 1))
    out: dict[str, Array] = {}
    for name, p in RETURN_LEVELS.items():
        if p <= 1 - TAIL_START:
            out[name] = -scale * tails(-1, partial(Tail.quantile, p=1 - p))
        elif p >= TAIL_START:
            out[name] = scale * tails(1, partial(Tail.quantile, p=p))
        else:
            out[name] = sigma * law.quantile(p)
    # Tails and middle are standardised apart; where the sample is odd enough for them to cross, the wider one holds.
    for lower, upper in pairwise(RETURN_LEVELS):
        out[upper] = np.maximum(out[upper], out[lower])
    for name, p in SHORTFALL_LEVELS.items():
        side = -1 if p < 0.5 else 1
        out[name] = side * scale * tails(side, partial(Tail.shortfall, p=max(p, 1 - p)))
    return out


def excursion_columns(
    log_forecast: Array, outcome: Outcome, state: Array, times: pd.DatetimeIndex, horizon: int
) -> dict[str, Array]:
    """``mae_long_q…`` and ``mae_short_q…``: quantiles of adverse excursion as fractions of the price at the origin."""
    sigma = np.exp(0.5 * log_forecast)
    sides: Mapping[str, tuple[Array, Callable[[Array], Array]]] = {
        "long": (-np.log1p(-outcome.mae_long), lambda a: -np.expm1(-a)),
        "short": (np.log1p(outcome.mae_short), np.expm1),
    }
    out: dict[str, Array] = {}
    for side, (excursion, back) in sides.items():
        law = residual_law(excursion / sigma, state, times, horizon, centred=False)
        scale = sigma * law.scale
        tails = _tails(excursion / scale, times, horizon, (1,))
        for name, p in EXCURSION_COLUMNS[side].items():
            out[name] = back(scale * tails(1, partial(Tail.quantile, p=p)))
    return out


def _tails(
    standard: Array, times: pd.DatetimeIndex, horizon: int, sides: Sequence[int]
) -> Callable[[int, Callable[[Tail], float]], Array]:
    """Tails (-1 the lower, 1 the upper) of a standardised residual per refresh; returns ``read(side, statistic)``."""
    at = refreshes(times, FOUR_WEEKS)
    fitted: dict[int, list[Tail]] = {side: [] for side in sides}
    # Before anything is resolved: a Student t with four degrees of freedom, which no quiet start can make thinner.
    stand_in = np.asarray(stats.t.ppf(np.linspace(0.0005, 0.9995, 2000), df=4))
    for column in at:
        x = standard[:, window(int(column), horizon, SAMPLE_HOURS)]
        x = x[np.isfinite(x)]
        sample = x if len(x) >= MINIMUM_ROWS and np.ptp(x) > 0 else stand_in
        for side, tails in fitted.items():
            tails.append(Tail.fit(side * sample))

    def read(side: int, statistic: Callable[[Tail], float]) -> Array:
        values = np.array([statistic(tail) for tail in fitted[side]])
        return carry_forward(values, at, standard.shape[1])

    return read
