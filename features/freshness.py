"""How old the newest row of each feed is, whether or not a feature reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from features.panel import Array, Panel

__all__ = ["FEED_LIVES", "feed_ages"]

# Hours after which a feed that a symbol has had counts as stale.
FEED_LIVES: Final[Mapping[str, float]] = {"funding": 24.0, "taker volume": 4.0, "15 min feed": 4.0}


def feed_ages(panel: Panel) -> dict[str, Array]:
    """Hours since each feed of ``FEED_LIVES`` was last known, (n_symbols, n_hours), at most 720."""
    settled = panel.as_of(panel.market.funding(), {"rate": "funding_rate"}, int(FEED_LIVES["funding"]))
    return {
        "funding": settled["age"],
        "taker volume": panel.age(panel.field("taker_buy_volume")),
        "15 min feed": panel.age(panel.inside_hours("squared_returns")),
    }
