"""Funding across venues: where they disagree, capital does not flow, and leverage is one-sided somewhere.

Reference: Makarov and Schoar (2020), J. Financial Economics 135 (price dispersion across exchanges as a measure of
limits to arbitrage).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar, Final

import numpy as np

from features.families import Column, Family, Group, Sign
from features.families.carry import FUNDING_LIFE_HOURS, RATE_TICK, RATE_UNIT, settled
from features.families.carry_kernels import venue_spread
from features.families.transforms import signed_log
from features.panel import Array, Panel

__all__ = ["OTHER_VENUES", "Venues"]

# Venues whose histories state no interval, and the hours at which each settled BTC and ETH from 2020 to 2023.
OTHER_VENUES: Final[Mapping[str, float]] = {
    "bybit": 8.0,
    "dydx": 1.0,
    "gate": 8.0,
    "htx": 8.0,
    "kucoin": 8.0,
    "mexc": 8.0,
}
ALIVE: Final = 2
LEADER: Final = "BTCUSDT"

_column = partial(Column, feeds=("funding",), reference="Makarov and Schoar (2020)")


class Venues(Family):
    """Funding on seven venues: the main one and ``OTHER_VENUES``; rows of any other exchange are not read.

    A venue is alive for 24 hours from a settlement; where fewer than two are, every feature but the age is NaN. Few
    symbols have other venues, so Bitcoin's values are also given to every symbol (``…_btc``).
    """

    name: ClassVar[str] = "venues"
    group: ClassVar[Group] = "funding"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Mean, disagreement, the main venue's distance from the others, and how many there are."""
        rates = np.stack([settled(panel).rate, *(_rate(panel, venue) for venue in OTHER_VENUES)])
        mean, sd, width, count, lead = venue_spread(rates, ALIVE)
        disagreement = np.log1p(np.maximum(sd, RATE_TICK) / RATE_UNIT)
        usual = panel.mean(disagreement, (168,))[0]
        own: tuple[tuple[str, Array, str, Sign], ...] = (
            ("mean", signed_log(mean, RATE_UNIT), "signed ln(1 + |m| / f0), m = mean of f over venues", "±"),
            ("sd", disagreement, "ln(1 + sd of f over venues / f0), f0 = 0.01% per 8h", "+"),
            ("range", np.log1p(width / RATE_UNIT), "ln(1 + (max - min of f over venues) / f0)", "+"),
            ("lead", signed_log(lead, RATE_UNIT), "signed ln(1 + |d| / f0), d = f - median of f elsewhere", "±"),
        )
        life = FUNDING_LIFE_HOURS
        for name, values, formula, sign in own:
            yield _column(f"venue_funding_{name}", values, formula, "ln ratio", life, sign=sign)
        formula = "ln(1 + sd over venues / f0) - its mean_168h"
        yield _column("venue_funding_sd_excess_168h", disagreement - usual, formula, "ln ratio", 168, sign="+")
        yield _column("venue_count", count, "venues with a settlement in 24h", "count", life)
        for name, values, formula, sign in own:
            if name != "range":
                label = f"{formula}, of {LEADER}"
                yield _column(f"venue_funding_{name}_btc", _of(panel, values), label, "ln ratio", life, sign=sign)
        yield _column("age_venues", panel.age(mean), "hours since two venues were last alive", "h", 720)


def _rate(panel: Panel, venue: str) -> Array:
    """A venue's newest settled rate per hour; a row that states no interval has the venue's own."""
    rows = panel.market.funding(venue)
    per_hour = rows["funding_rate"] / rows["interval_hours"].fillna(OTHER_VENUES[venue])
    return panel.as_of(rows.assign(per_hour=per_hour), {"rate": "per_hour"}, FUNDING_LIFE_HOURS)["rate"]


def _of(panel: Panel, values: Array) -> Array:
    """The leader's row, given to every symbol; NaN where the market has no such symbol."""
    out = np.full_like(values, np.nan)
    if LEADER in panel.symbols:
        out[:] = values[panel.symbols.index(LEADER)]
    return out
