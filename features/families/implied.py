"""Implied volatility: what the options market expects, and what it charges for it.

An index of implied volatility such as Deribit's DVOL is the square root of the variance expected over the next 30 days
under pricing probabilities, annualised, per cent. One series serves every symbol. A candle is believed for three hours;
in the holes of the feed, about a day each, everything here is NaN and the age grows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np

from features import kernels
from features.families import Column, Family, Group
from features.families.cross import LEADERS
from features.families.transforms import for_every_symbol, row_of
from features.panel import Array, Panel

__all__ = ["Implied"]

LIFE_HOURS: Final = 3
HOURS_PER_YEAR: Final = 8760.0
FEEDS: Final = ("implied_vol",)
BOTH: Final = ("implied_vol", "bars")
PREMIUM: Final = "Bollerslev, Tauchen and Zhou (2009)"
BITCOIN, ETHER = "BTC", "ETH"
# A source that has more than one maturity names it: days after the underlying.
NEAR, FAR = "BTC-7D", "BTC-30D"


class Implied(Family):
    """Level, change, range and term structure of implied volatility, and its premium over the realised one."""

    name: ClassVar[str] = "implied"
    group: ClassVar[Group] = "implied"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Bitcoin's index for every symbol, ether's beside it; premia are over the trailing realised variance."""
        candle = _candle(panel, BITCOIN)
        level = np.log(candle["close"])
        parts = (
            _level(panel, level),
            _range(panel, candle),
            _premium(panel, level),
            _rest(panel, candle),
            _ether(panel),
        )
        for part in parts:
            yield from for_every_symbol(panel, part)


def _candle(panel: Panel, underlying: str) -> dict[str, Array]:
    rows = panel.market.implied_vol()
    values = {name: name for name in ("high", "low", "close")}
    return panel.common(rows[rows["underlying"] == underlying], values, LIFE_HOURS)


def _hourly_variance(level: Array) -> Array:
    """Log variance of one hour out of the log of a volatility in per cent a year."""
    hourly: Array = 2.0 * (level - np.log(100.0)) - np.log(HOURS_PER_YEAR)
    return hourly


def _level(panel: Panel, level: Array) -> Iterator[Column]:
    yield Column("log_dvol_btc", level, "ln DVOL", "ln %", LIFE_HOURS, FEEDS, "Hoang and Baur (2020)", "+")
    for hours in (1, 24, 168):
        yield Column(
            f"dvol_change_{hours}h",
            level - panel.shift(level, hours),
            f"ln DVOL - ln DVOL {hours}h before",
            "ln vol",
            LIFE_HOURS + hours,
            FEEDS,
            sign="+",
        )
    yield Column(
        "dvol_deviation_168h",
        level - panel.ewma(level, 168),
        "ln DVOL - ew_168h(ln DVOL)",
        "ln vol",
        kernels.ewma_reach(168) + 23 + LIFE_HOURS,
        FEEDS,
        sign="+",
    )
    # The volatility of implied volatility, as VVIX is to VIX.
    yield Column(
        "dvol_vol_168h",
        np.log1p(100.0 * panel.sd(level - panel.shift(level, 1), 168)),
        "ln(1 + 100 sd_168h(change of ln DVOL over 1h))",
        "ln %",
        169 + LIFE_HOURS,
        FEEDS,
        "Huang, Schlag, Shaliastovich and Thimme (2019)",
        "+",
    )


def _range(panel: Panel, candle: dict[str, Array]) -> Iterator[Column]:
    width = np.log(candle["high"] / candle["low"])
    yield Column("dvol_range_1h", width, "ln(high / low) of the DVOL candle", "ln vol", LIFE_HOURS, FEEDS, sign="+")
    yield Column(
        "dvol_range_24h",
        panel.mean(width, (24,))[0],
        "mean_24h(ln(high / low)) of the DVOL candles",
        "ln vol",
        24 + LIFE_HOURS,
        FEEDS,
        sign="+",
    )


def _premium(panel: Panel, level: Array) -> Iterator[Column]:
    implied = _hourly_variance(level)
    realised = np.log(panel.mean(panel.capped_variance, (24, 168)))
    for hours, own in zip((24, 168), realised, strict=True):
        premium = implied - row_of(panel, LEADERS[0], own)
        yield Column(
            f"variance_premium_{hours}h",
            premium,
            f"ln((DVOL / 100)^2 * {hours} / 8760) - ln sum_{hours}h(v) of BTC",
            "ln variance",
            hours + LIFE_HOURS,
            BOTH,
            PREMIUM,
            "+",
        )
        yield Column(
            f"dvol_to_own_{hours}h",
            implied - own,
            f"ln((DVOL / 100)^2 * {hours} / 8760) - ln sum_{hours}h(v) of the symbol itself",
            "ln variance",
            hours + LIFE_HOURS,
            BOTH,
            PREMIUM,
            "+",
        )
        if hours == 24:
            yield Column(
                "variance_premium_change_24h",
                premium - panel.shift(premium, 24),
                "variance_premium_24h - the same 24h before",
                "ln variance",
                48 + LIFE_HOURS,
                BOTH,
                PREMIUM,
            )


def _rest(panel: Panel, candle: dict[str, Array]) -> Iterator[Column]:
    yield Column("age_implied_vol", candle["age"], "hours since the last DVOL candle of BTC known", "h", 720, FEEDS)
    yield Column(
        "implied_term_slope",
        np.log(_candle(panel, FAR)["close"]) - np.log(_candle(panel, NEAR)["close"]),
        f"ln implied volatility of {FAR} - ln that of {NEAR}",
        "ln vol",
        LIFE_HOURS,
        FEEDS,
        "Mixon (2007)",
        "-",
    )


def _ether(panel: Panel) -> Iterator[Column]:
    candle = _candle(panel, ETHER)
    level = np.log(candle["close"])
    realised = row_of(panel, LEADERS[1], np.log(panel.mean(panel.capped_variance, (24,))[0]))
    yield Column("log_dvol_eth", level, "ln DVOL of ETH", "ln %", LIFE_HOURS, FEEDS, sign="+")
    yield Column(
        "dvol_eth_change_24h",
        level - panel.shift(level, 24),
        "ln DVOL of ETH - the same 24h before",
        "ln vol",
        24 + LIFE_HOURS,
        FEEDS,
        sign="+",
    )
    yield Column(
        "variance_premium_eth_24h",
        _hourly_variance(level) - realised,
        "ln((DVOL / 100)^2 * 24 / 8760) - ln sum_24h(v), both of ETH",
        "ln variance",
        24 + LIFE_HOURS,
        BOTH,
        PREMIUM,
        "+",
    )
    yield Column("age_implied_vol_eth", candle["age"], "hours since the last DVOL candle of ETH known", "h", 720, FEEDS)
