"""The order book as of each hour: what a trade costs now, and what stands in the way of the next ones.

Nobody sells its past, so books are recorded forward, by the minute or the hour; the rows come in through
``forecaster data import --from parquet --table order_book``. Best bid and ask with their sizes (base currency), and where
the recorder has it, the depth within one per cent of the mid (quote currency).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np

from features.families import Column, Family
from features.families.transforms import WEEK, log_positive, log_ratio, quote_volume, ratio
from features.panel import Panel

__all__ = ["OrderBook"]

# A book older than an hour belongs to another market.
LIFE_HOURS: Final = 1
# Share of the hours that a mean asks for: whoever records a book has outages.
RECORDED: Final = 0.5
FEEDS: Final = ("order_book",)
AGE_CAP_HOURS: Final = 720
KYLE: Final = "Kyle (1985)"


class OrderBook(Family):
    """Spread, depth and their imbalance, from the newest snapshot known at the origin."""

    name: ClassVar[str] = "order_book"
    group: ClassVar = "flow"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Cost, leaning and depth of the book, each against its own past or by its two sides; NaN without the feed."""
        rows = panel.market.table("order_book")
        fields = ("bid", "ask", "bid_size", "ask_size", "bid_depth_1pct", "ask_depth_1pct")
        book = panel.as_of(rows, {name: name for name in fields}, LIFE_HOURS)
        spread = ratio(book["ask"] - book["bid"], 0.5 * (book["ask"] + book["bid"]))
        log_spread = log_positive(spread)
        yield Column("log_spread", log_spread, "ln((ask - bid) / mid)", "ln fraction", LIFE_HOURS, FEEDS, sign="+")
        yield Column(
            "log_spread_excess_168h",
            log_spread - panel.mean(log_spread, (WEEK,), RECORDED)[0],
            "ln spread - its mean_168h",
            "ln ratio",
            WEEK + LIFE_HOURS,
            FEEDS,
            "Glosten and Milgrom (1985)",
            "+",
        )
        touch = ratio(book["bid_size"] - book["ask_size"], book["bid_size"] + book["ask_size"])
        yield Column(
            "touch_imbalance",
            touch,
            "(bid_size - ask_size) / (bid_size + ask_size)",
            "fraction",
            LIFE_HOURS,
            FEEDS,
            "Gould and Bonart (2016)",
        )
        depth = book["bid_depth_1pct"] + book["ask_depth_1pct"]
        leaning = ratio(book["bid_depth_1pct"] - book["ask_depth_1pct"], depth)
        formula = "(bid_depth_1pct - ask_depth_1pct) / their sum"
        yield Column("depth_imbalance", leaning, formula, "fraction", LIFE_HOURS, FEEDS, sign="-")
        yield Column(
            "log_depth_excess_168h",
            log_ratio(depth, panel.mean(depth, (WEEK,), RECORDED)[0]),
            "ln(depth_1pct / its mean_168h), within ± ln 10",
            "ln ratio",
            WEEK + LIFE_HOURS,
            FEEDS,
            KYLE,
            "-",
        )
        turnover = panel.mean(quote_volume(panel), (24,))[0]
        yield Column(
            "log_depth_turnover_24h",
            np.log1p(ratio(depth, turnover)),
            "ln(1 + depth_1pct / mean_24h(quote volume))",
            "ln h",
            24,
            (*FEEDS, "bars"),
            KYLE,
            "-",
        )
        yield Column("age_order_book", book["age"], "hours since the last book known", "h", AGE_CAP_HOURS, FEEDS)
