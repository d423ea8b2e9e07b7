"""The embedded simulated market: the contract's tables from a model whose truth is known.

Its law of motion stands in ``simulated_dynamics``, its walk in ``simulated_paths``, its order book in
``simulated_book``, the best possible forecast in ``simulated_oracle``. This module writes down what an exchange
would publish. Around the price P and the variance and state (ν, g, q, o) of those pages, with an own noise z
wherever it stands:

    direction' = ρ_d direction + z + …z_r,  imbalance = tanh(a e^{q/2} (direction + z) ± jumps)
    ln volume = ½ ln(ν √g) + ¼ q + z + AR,  ln trades = ln volume + ¼ q + z   toxic flow: busy and one-sided
    premium' = ρ_p premium + …(z_r, direction, jumps),  spot = P e^{−premium},  mark = spot e^{EMA(premium)}
    funding = clip(mean premium + clip(interest − mean premium, ± 0.05 %), ± 0.3 %) per 8 hours
    open interest = e^o,  DVOL = sqrt(E[variance of the next 30 days | state]) e^{premium + AR}

Skill measured here is evidence that the code is right, never that a market is predictable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypedDict

import numpy as np
import pandas as pd

from features.errors import UsageError
from features.schemas import TABLES
from features.sources.simulated_book import order_book
from features.sources.simulated_dynamics import (
    PROFILES,
    STATES,
    STEPS_PER_HOUR,
    STEPS_PER_WEEK,
    Array,
    Dynamics,
    Profile,
    persistence,
    step_of_week,
)
from features.sources.simulated_oracle import best_forecast, level, step_variance
from features.sources.simulated_paths import (
    BURN_IN,
    JUMP_COMMON,
    Path,
    Shocks,
    ar,
    hawkes,
    stress_chain,
    truth_of,
    walk,
)

__all__ = ["DEMO", "Dynamics", "Simulation", "best_forecast", "simulate"]


class Preset(TypedDict):
    """The size of a simulated market."""

    seed: int
    days: int
    symbols: int


# Regimes need 90 days of history and every fold some training: this leaves half of the time out of sample.
DEMO: Final[Preset] = {"seed": 7, "days": 300, "symbols": 6}

SOURCE: Final = "simulated"
STEP: Final = pd.Timedelta(minutes=60 // STEPS_PER_HOUR)
FUNDING_CAP: Final = 0.003
INTEREST: Final = 1e-4
SPOT_SHARE: Final = 0.35  # of the perpetual's volume
SPOT_IMBALANCE: Final = 0.6
SHORT_INTERVAL: Final = ("DOGEUSDT", 150)  # settles every 4 hours from that day on


@dataclass(frozen=True)
class Simulation:
    """One simulated market.

    ``tables``: the store's tables by name, long, with the contract's columns. ``truth``: per symbol and hour
    ``close_time``, the ``integrated_variance`` of that hour and, as of its end, the state on which the future
    depends: ``stress`` (1 in the stress regime), ``STATES`` and ``jump_intensity``.
    """

    tables: dict[str, pd.DataFrame]
    truth: pd.DataFrame
    dynamics: Dynamics


def simulate(
    seed: int = 7,
    days: int = 400,
    symbols: int = 6,
    start: str = "2023-01-01",
    dynamics: Dynamics | None = None,
) -> Simulation:
    """Simulate ``symbols`` perpetuals for ``days`` days from ``start`` (UTC), the same for the same ``seed``.

    Raises ``UsageError`` where days or symbols are out of range or ``start`` is not a full UTC day.
    """
    dynamics = dynamics or Dynamics()
    if days < 1:
        raise UsageError(f"days {days}: simulate at least one day")
    if not 1 <= symbols <= len(PROFILES):
        raise UsageError(f"symbols {symbols}: choose between 1 and {len(PROFILES)}")
    begin = pd.Timestamp(start)
    begin = begin.tz_localize("UTC") if begin.tzinfo is None else begin.tz_convert("UTC")
    if begin != begin.normalize():
        raise UsageError(f"start {start}: give the first instant of a UTC day, such as 2023-01-01")
    steps = days * 24 * STEPS_PER_HOUR
    total = steps + BURN_IN
    market = Shocks.draw(seed, 0, total)
    chain = stress_chain(seed, total, dynamics)
    clock = step_of_week(pd.DatetimeIndex([begin]))[0] + np.arange(-BURN_IN, steps)
    season = dynamics.season[clock % STEPS_PER_WEEK]
    multiplier = season * np.exp(dynamics.stress_shift * chain[:-1])
    jumps = hawkes(market.jump, JUMP_COMMON, dynamics)
    paths = []
    for stream, profile in enumerate(PROFILES[:symbols], start=1):
        own, at_rest = Shocks.draw(seed, stream, total), level(profile, dynamics)
        paths.append(walk(profile, market.normal, own, jumps, at_rest, multiplier, dynamics))
    boundaries = pd.date_range(begin, periods=steps + 1, freq=STEP, unit="us")
    hours = boundaries[STEPS_PER_HOUR::STEPS_PER_HOUR]
    truth = truth_of(paths, chain[BURN_IN:], hours)
    frames = {
        "bars": [_bars(p, hours, spot=False) for p in paths],
        "mark": [_mark(p, hours) for p in paths],
        "spot": [_bars(p, hours, spot=True) for p in paths],
        "funding": [_funding(p, hours) for p in paths],
        "open_interest": [_open_interest(p, hours) for p in paths],
        "order_book": [order_book(p, hours) for p in paths],
        "implied_vol": [_implied_vol(truth, paths[0], dynamics)],
        "daily": [_daily(truth, market.normal[BURN_IN:], days, begin)],
        "margin_tiers": [_margin_tiers(p.profile, begin) for p in paths],
    }
    return Simulation({name: _publish(name, parts) for name, parts in frames.items()}, truth, dynamics)


def _publish(name: str, parts: list[pd.DataFrame]) -> pd.DataFrame:
    """One table in the store's columns and order."""
    table = pd.concat(parts, ignore_index=True).assign(source=SOURCE)
    return table[list(TABLES[name].columns)].sort_values(list(TABLES[name].identity), ignore_index=True)


def _ohlc(boundary: Array, high: Array, low: Array, per: int) -> dict[str, Array]:
    """Prices of bars of ``per`` steps from log prices."""
    return {
        "open": np.exp(boundary[:-1:per]),
        "high": np.exp(high.reshape(-1, per).max(axis=1)),
        "low": np.exp(low.reshape(-1, per).min(axis=1)),
        "close": np.exp(boundary[per::per]),
    }


def _flows(path: Path, *, spot: bool) -> dict[str, Array]:
    """Volumes and trade counts by step."""
    profile, z, toxicity = path.profile, path.normal, path.state[:-1, 0]
    share = (SPOT_SHARE if spot else 1.0) / (24 * STEPS_PER_HOUR)
    lasting = ar(persistence(6.0), 0.048 * z[:, 17])[1:]
    turnover = 0.5 * path.activity + 0.25 * toxicity + 0.3 * z[:, 11 if spot else 10] + lasting - 0.5
    quote = share * profile.daily_quote_volume * np.exp(turnover)
    busy = share * 0.08 * profile.daily_quote_volume**0.75
    trades = np.ceil(busy * np.exp(turnover + 0.25 * toxicity + 0.5 * z[:, 12 if spot else 13]))
    bought = 0.5 * (1.0 + (SPOT_IMBALANCE if spot else 1.0) * path.imbalance)
    price = np.exp(0.5 * (path.log_price[1:] + path.log_price[:-1]))
    if spot:
        price = price * np.exp(-0.5 * (path.premium[1:] + path.premium[:-1]))
    return {
        "volume": quote / price,
        "quote_volume": quote,
        "trades": trades,
        "taker_buy_volume": bought * quote / price,
        "taker_buy_quote_volume": bought * quote,
    }


def _bars(path: Path, hours: pd.DatetimeIndex, *, spot: bool) -> pd.DataFrame:
    """Bars of the perpetual (1h and 15m) or of the spot market (1h)."""
    boundary, high, low = path.log_price, path.log_high, path.log_low
    if spot:
        boundary, high, low = path.shifted(-path.premium)
    quarter = STEPS_PER_HOUR // 4
    quarters = {name: x.reshape(-1, quarter).sum(axis=1) for name, x in _flows(path, spot=spot).items()}
    hourly = {name: x.reshape(-1, 4).sum(axis=1) for name, x in quarters.items()}
    frames = [_frame(path.profile, hours, "1h", _ohlc(boundary, high, low, STEPS_PER_HOUR) | hourly)]
    if not spot:
        ends = pd.date_range(end=hours[-1], periods=4 * len(hours), freq="15min", unit="us")
        frames.append(_frame(path.profile, ends, "15m", _ohlc(boundary, high, low, quarter) | quarters))
    return pd.concat(frames, ignore_index=True)


def _frame(profile: Profile, ends: pd.DatetimeIndex, interval: str, columns: dict[str, Array]) -> pd.DataFrame:
    """Rows of a bar table; a bar is known at its end."""
    return pd.DataFrame(
        {"interval": interval, "symbol": profile.symbol, "close_time": ends, **columns, "available_at": ends}
    )


def _mark(path: Path, hours: pd.DatetimeIndex) -> pd.DataFrame:
    bars = _ohlc(*path.shifted(path.mark_shift), STEPS_PER_HOUR)
    return _frame(path.profile, hours, "1h", bars)


def _funding(path: Path, hours: pd.DatetimeIndex) -> pd.DataFrame:
    """Settlements every 8 hours (later 4 for one symbol) on the mean premium since the last."""
    interval = np.full(len(hours), 8)
    symbol, day = SHORT_INTERVAL
    if path.profile.symbol == symbol:
        interval[day * 24 :] = 4
    settled = np.flatnonzero(hours.hour.to_numpy() % interval == 0)
    premium = np.concatenate([[0.0], np.cumsum(path.premium[1:].reshape(-1, STEPS_PER_HOUR).mean(axis=1))])
    length = interval[settled]
    mean = (premium[settled + 1] - premium[settled + 1 - length]) / length
    rate = np.clip(mean + np.clip(INTEREST - mean, -5e-4, 5e-4), -FUNDING_CAP, FUNDING_CAP) * length / 8
    times = hours[settled]
    return pd.DataFrame(
        {
            "exchange": "binance",
            "symbol": path.profile.symbol,
            "funding_time": times,
            "funding_rate": rate,
            "interval_hours": length.astype(np.float64),
            "available_at": times,
        }
    )


def _open_interest(path: Path, hours: pd.DatetimeIndex) -> pd.DataFrame:
    """Hourly snapshots, in coins and at mark."""
    profile = path.profile
    at_rest = profile.open_interest_ratio * profile.daily_quote_volume / profile.price
    hourly = slice(STEPS_PER_HOUR, None, STEPS_PER_HOUR)
    coins = at_rest * np.exp(path.state[hourly, 4])
    mark = np.exp((path.log_price + path.mark_shift)[hourly])
    return pd.DataFrame(
        {
            "symbol": profile.symbol,
            "event_time": hours,
            "open_interest": coins,
            "open_interest_value": coins * mark,
            "available_at": hours,
        }
    )


def _implied_vol(truth: pd.DataFrame, path: Path, dynamics: Dynamics) -> pd.DataFrame:
    """30-day implied volatility of the first symbol: the true expectation, a premium, and noise."""
    own = truth[truth["symbol"] == path.profile.symbol]
    state, chain = own[[*STATES, "jump_intensity"]].to_numpy(np.float64), own["stress"].to_numpy(np.float64)
    leads = range(0, 30 * 24 * STEPS_PER_HOUR, 4 * STEPS_PER_HOUR)
    mean = np.mean([step_variance(state, chain, lead, dynamics) for lead in leads], axis=0)
    annual = level(path.profile, dynamics) * mean * 365 * 24 * STEPS_PER_HOUR
    z = path.normal[::STEPS_PER_HOUR]
    noise = ar(0.98, 0.006 * z[:, 15])[1:]
    close = 100.0 * np.sqrt(annual) * np.exp(0.06 + noise)
    opening = np.concatenate([close[:1], close[:-1]])
    reach = np.exp(0.004 * np.abs(z[:, 9]))
    return pd.DataFrame(
        {
            "underlying": path.profile.symbol.removesuffix("USDT"),
            "close_time": own["close_time"],
            "open": opening,
            "high": np.maximum(opening, close) * reach,
            "low": np.minimum(opening, close) / reach,
            "close": close,
            "available_at": own["close_time"],
        }
    ).reset_index(drop=True)


def _daily(truth: pd.DataFrame, normal: Array, days: int, begin: pd.Timestamp) -> pd.DataFrame:
    """VIX, which shares crypto's slow volatility, and DXY, which shares nothing; known a day later."""
    dates = pd.date_range(begin, periods=days, freq="D", unit="us")
    business = dates.day_of_week < 5
    slow = truth["log_variance_slow"].to_numpy(np.float64)[23 : 24 * days : 24]
    z = normal[:: 24 * STEPS_PER_HOUR, 14]
    series = {"VIX": 17.0 * np.exp(0.4 * slow + 0.05 * z), "DXY": 103.0 * np.exp(np.cumsum(0.004 * z))}
    frames = [
        pd.DataFrame({"series": name, "date": dates[business], "close": close[business]})
        for name, close in series.items()
    ]
    table = pd.concat(frames, ignore_index=True)
    return table.assign(available_at=table["date"] + pd.Timedelta(days=1))


def _margin_tiers(profile: Profile, begin: pd.Timestamp) -> pd.DataFrame:
    """The venue's tiers, as observed on the first day; caps follow the symbol's turnover."""
    leverage = np.array([100.0, 50.0, 25.0, 10.0, 5.0, 2.0])
    bounds = profile.daily_quote_volume * np.array([0.0, 1e-4, 5e-4, 2e-3, 5e-3, 1e-2, 3e-2])
    rate = 0.5 / leverage
    # Maintenance is continuous in the notional: each tier deducts what the higher rate overcharges below it.
    deduction = np.cumsum(bounds[:-1] * np.diff(rate, prepend=0.0))
    return pd.DataFrame(
        {
            "symbol": profile.symbol,
            "observed_at": begin,
            "tier": np.arange(1, len(leverage) + 1),
            "min_notional": bounds[:-1],
            "max_notional": bounds[1:],
            "maint_margin_rate": rate,
            "max_leverage": leverage,
            "cum_maint_amount": deduction,
            "available_at": begin,
        }
    )
