"""Markets whose truth is known, and the best forecasts that can be made in them.

A bar of these markets has exactly the Garman-Klass variance ``exp(y)`` that is asked for, so the observed series is a linear
Gaussian one and the Kalman filter is no approximation:

    y_i,t = mu_i + x¹_i,t + x²_i,t + b f_i,t−L + e_i,t,   x^k' = ρ_k x^k + noise,   e ~ N(0, s²),   f ~ N(0, 1)
    r_i,t = exp(y_i,t / 2) z_i,t

``f`` is published as the spread of the order book, ``ln spread = c + 0.3 f``: it leads volatility by ``L`` hours where ``b``
is not zero, and is pure noise where it is. The best forecast is ``E[V | all y and f up to the origin]``, a sum of lognormal
means. References: Harvey, Ruiz and Shephard (1994), Rev. Economic Studies 61 (log variance as a linear state space); Garman
and Klass (1980), J. Business 53.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import solve_discrete_are
from scipy.signal import lfilter

from features.market import Market

__all__ = ["KnownMarket", "Linear", "bars_of", "book_of", "bursts", "kalman", "reversed_in_time", "scaled"]

Array = npt.NDArray[np.float64]

START: Final = "2021-01-01"
PRICE: Final = 100.0
RANGE_SHARE: Final = 2 * math.log(2) - 1
# Beyond it a bar's range could not hold its return: r² <= 2 v / (1 - 2 (2 ln 2 - 1)).
LARGEST_SCORE: Final = 2.9
LOG_SPREAD: Final = -8.0
SPREAD_SCALE: Final = 0.3
BURN_IN: Final = 2_000
SIGNAL_HOURS: Final = 6
SIGNAL: Final = 5.0
BURST_HOURS: Final = 18
BURST_EVERY: Final = 240.0
BURST: Final = math.log(9.0)


@dataclass(frozen=True)
class Linear:
    """Parameters of the module's equations; the defaults resemble hourly bars of a perpetual.

    ``half_lives`` (hours) and ``sds`` (stationary) of the factors, ``noise`` the standard deviation of ``e``, ``lead`` (L) and
    ``effect`` (b) of the feed, ``volatility`` a year's, of the first symbol; the others are each a tenth more volatile.
    Without factors variance is constant but for the noise of its measurement.
    """

    half_lives: tuple[float, ...] = (6.0, 150.0)
    sds: tuple[float, ...] = (0.45, 0.6)
    noise: float = 0.5
    effect: float = 0.0
    lead: int = 1
    volatility: float = 0.6

    def level(self, symbols: int) -> Array:
        """``mu`` of each symbol, (n_symbols,)."""
        volatility = self.volatility * (1 + 0.1 * np.arange(symbols))
        spread = self.noise**2 + self.effect**2 + sum(sd**2 for sd in self.sds)
        return np.asarray(np.log(volatility**2 / 8760) - 0.5 * spread)

    @property
    def persistence(self) -> Array:
        """``ρ`` of each factor, (n_factors,)."""
        return np.asarray(2.0 ** (-1.0 / np.array(self.half_lives)))


@dataclass(frozen=True)
class KnownMarket:
    """One market: ``tables`` as the store has them, and ``y``, ``feed`` and ``returns`` (n_symbols, n_hours).

    Column t is the bar that closes at ``times[t]`` and the book at its close.
    """

    law: Linear
    times: pd.DatetimeIndex
    symbols: tuple[str, ...]
    y: Array = field(repr=False)
    feed: Array = field(repr=False)
    returns: Array = field(repr=False)

    @classmethod
    def draw(cls, law: Linear, seed: int, days: int, symbols: int) -> KnownMarket:
        """Draw a market; the same for the same seed."""
        rng = np.random.default_rng(seed)
        hours = 24 * days
        x = np.zeros((symbols, hours))
        for rho, sd in zip(law.persistence, law.sds, strict=True):
            shocks = sd * math.sqrt(1 - rho**2) * rng.standard_normal((symbols, hours + BURN_IN))
            x += lfilter([1.0], [1.0, -rho], shocks, axis=1)[:, BURN_IN:]
        feed = rng.standard_normal((symbols, hours + law.lead))
        e = law.noise * rng.standard_normal((symbols, hours))
        y = law.level(symbols)[:, None] + x + law.effect * feed[:, :hours] + e
        z = _heavy(rng, (symbols, hours))
        times = pd.date_range(START, periods=hours, freq="h", tz="UTC", unit="us") + pd.Timedelta(hours=1)
        names = tuple(f"S{i}USDT" for i in range(symbols))
        return cls(law, times, names, y, feed[:, law.lead :], np.exp(0.5 * y) * z)

    def market(self, *, delay: int = 0, book: bool = True) -> Market:
        """The market as the product reads it; ``delay``: hours by which the book comes late, ``book``: whether it comes."""
        tables = {"bars": bars_of(self.returns, np.exp(self.y), self.times, self.symbols)}
        if book:
            tables["order_book"] = book_of(np.roll(self.feed, delay, axis=1), self.times, self.symbols)
        return Market.from_tables(tables)

    def best(self, horizons: Sequence[int], delay: int = 0) -> dict[int, Array]:
        """``E[V | what was known delay hours before the origin]`` per horizon, (n_symbols, n_hours)."""
        return kalman(self, horizons, delay)


def scaled(market: KnownMarket, factor: float) -> KnownMarket:
    """Every return times ``factor``, every variance times its square."""
    return replace(market, y=market.y + 2 * math.log(factor), returns=factor * market.returns)


def reversed_in_time(market: KnownMarket) -> KnownMarket:
    """The last hour first, losses for gains; a stationary Gaussian law is the same in both directions."""
    return replace(market, y=market.y[:, ::-1], feed=market.feed[:, ::-1], returns=-market.returns[:, ::-1])


def bursts(seed: int, days: int, symbols: int, *, told: bool, noise: int = 0) -> KnownMarket:
    """A market in which stress begins at times that nothing in the bars foretells; ``told``: the feed does.

    Variance rises ninefold for 18 hours, every ten days on average; in the six hours before, the feed stands five standard
    deviations above its noise, of which ``noise`` counts other draws.
    """
    rng = np.random.default_rng(seed)
    calm = KnownMarket.draw(Linear(sds=(0.3, 0.4), noise=0.4), seed, days, symbols)
    y, hours = calm.y.copy(), 24 * days
    feed = np.random.default_rng([seed, noise]).standard_normal(y.shape)
    for i in range(symbols):
        begin = SIGNAL_HOURS + int(rng.exponential(BURST_EVERY))
        while begin < hours:
            y[i, begin : begin + BURST_HOURS] += BURST
            if told:
                feed[i, begin - SIGNAL_HOURS : begin] += SIGNAL
            begin += BURST_HOURS + SIGNAL_HOURS + int(rng.exponential(BURST_EVERY))
    return replace(calm, y=y, feed=feed, returns=np.exp(0.5 * y) * _heavy(rng, y.shape))


def _heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Standardised t with 6 degrees, as far as a bar's range can hold it."""
    return np.asarray(np.clip(rng.standard_t(6, shape) * math.sqrt(4 / 6), -LARGEST_SCORE, LARGEST_SCORE))


def bars_of(returns: Array, variance: Array, times: pd.DatetimeIndex, symbols: Sequence[str]) -> pd.DataFrame:
    """Hourly bars with these log returns and Garman-Klass variances, (n_symbols, n_hours); each opens at the last close."""
    close = math.log(PRICE) + np.cumsum(returns, axis=1)
    opening = close - returns
    span = np.sqrt(2 * (variance + RANGE_SHARE * returns**2))
    slack = span - np.abs(returns)
    if (slack < 0).any():
        raise AssertionError("a return is larger than its bar's variance allows")
    # As far above as below the body.
    high, low = np.maximum(opening, close) + 0.5 * slack, np.minimum(opening, close) - 0.5 * slack
    logs = {"open": opening, "high": high, "low": low, "close": close}
    prices = {name: np.exp(x).ravel() for name, x in logs.items()}
    clock = np.tile(np.asarray(times), len(symbols))
    turnover = {
        "volume": 1e4,
        "quote_volume": 1e6,
        "trades": 1e3,
        "taker_buy_volume": 5e3,
        "taker_buy_quote_volume": 5e5,
    }
    frame = pd.DataFrame(
        {"interval": "1h", "symbol": np.repeat(symbols, len(times)), "close_time": clock, **prices, **turnover}
    )
    utc = frame["close_time"].astype("datetime64[us, UTC]")
    return frame.assign(close_time=utc, available_at=utc, source="simulated")


def book_of(feed: Array, times: pd.DatetimeIndex, symbols: Sequence[str]) -> pd.DataFrame:
    """A snapshot an hour whose log spread is the feed; nothing else in it says anything."""
    spread = np.exp(LOG_SPREAD + SPREAD_SCALE * feed).ravel()
    clock = pd.Series(np.tile(np.asarray(times), len(symbols))).astype("datetime64[us, UTC]")
    sizes = dict.fromkeys(("bid_size", "ask_size", "bid_depth_1pct", "ask_depth_1pct"), 100.0)
    return pd.DataFrame(
        {
            "symbol": np.repeat(symbols, len(times)),
            "event_time": clock,
            "bid": PRICE * (1 - 0.5 * spread),
            "ask": PRICE * (1 + 0.5 * spread),
            **sizes,
            "available_at": clock,
            "source": "simulated",
        }
    )


def kalman(market: KnownMarket, horizons: Sequence[int], delay: int = 0) -> dict[int, Array]:
    """``E[V | y and f up to delay hours before the origin]`` per horizon, (n_symbols, n_hours), by the steady filter."""
    law, (symbols, hours) = market.law, market.y.shape
    level = law.level(symbols)[:, None]
    known = _led(market)
    longest = max(horizons)
    own, prior = _filtered(market.y - level - law.effect * known[:, :hours], law)
    ahead: Mapping[int, Array] = {h: np.zeros((symbols, hours)) for h in horizons}
    persistence, stationary = law.persistence, np.array(law.sds) ** 2
    for k in range(1, longest + 1):
        # The hour t + k, from the filter at t - delay.
        steps = k + delay
        late = np.zeros_like(own)
        late[:, :, delay:] = own[:, :, : hours - delay]
        mean = level + np.einsum("f,fst->st", persistence**steps, late)
        grown = np.outer(persistence, persistence) ** steps * prior
        fresh = stationary * (1 - persistence ** (2 * steps))
        variance = grown.sum() + fresh.sum() + law.noise**2
        # f that moves the hour t + k stands at t + k - L; what comes after t - delay is not known.
        if steps <= law.lead:
            mean = mean + law.effect * known[:, k : k + hours]
        else:
            variance += law.effect**2
        term = np.exp(mean + 0.5 * variance)
        for h, total in ahead.items():
            if k <= h:
                total += term
    return dict(ahead)


def _led(market: KnownMarket) -> Array:
    """f as it moves the bar of each column and of the ``lead`` columns after the last."""
    first = np.zeros((len(market.symbols), market.law.lead))
    return np.concatenate([first, market.feed], axis=1)


def _filtered(observed: Array, law: Linear) -> tuple[Array, Array]:
    """Means of the factors (n_factors, n_symbols, n_hours) and their covariance, given the observations up to each hour."""
    n = len(law.sds)
    if n == 0:
        return np.zeros((0, *observed.shape)), np.zeros((0, 0))
    persistence = law.persistence
    innovation = np.diag(np.array(law.sds) ** 2 * (1 - persistence**2))
    seen = np.ones((1, n))
    predicted = solve_discrete_are(np.diag(persistence), seen.T, innovation, np.array([[law.noise**2]]))
    gain = predicted.sum(axis=1) / (predicted.sum() + law.noise**2)
    posterior = predicted - np.outer(gain, predicted.sum(axis=0))
    means = np.zeros((n, *observed.shape))
    state = np.zeros((n, len(observed)))
    for t in range(observed.shape[1]):
        state = persistence[:, None] * state
        state = state + gain[:, None] * (observed[:, t] - state.sum(axis=0))
        means[:, :, t] = state
    return means, posterior
