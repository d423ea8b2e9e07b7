"""Funding: what holding a perpetual costs, per hour whatever the settlement interval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from features import kernels
from features.family import Column, Family
from features.panel import Panel

__all__ = ["Funding"]

LIFE_HOURS = 24
DEFAULT_INTERVAL_HOURS = 8.0


class Funding(Family):
    """Settled funding as of each hour, and the clock of the next settlement."""

    name: ClassVar[str] = "funding"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Level, size, surprise, cumulative carry and time to the next settlement; NaN without the feed, with its age."""
        known = panel.as_of(panel.market.funding(), {"rate": "funding_rate", "interval": "interval_hours"}, LIFE_HOURS)
        feeds = ("funding",)
        rate = known["rate"] / known["interval"]
        yield Column("funding_rate_1h", rate, "rate / interval_hours", "fraction/h", LIFE_HOURS, feeds)
        yield Column("abs_funding_rate_1h", np.abs(rate), "|rate / interval_hours|", "fraction/h", LIFE_HOURS, feeds)
        yield Column(
            "funding_surprise_168h",
            rate - panel.ewma(rate, 168),
            "f - ew_168h(f)",
            "fraction/h",
            kernels.ewma_reach(168) + 23,
            feeds,
        )
        yield Column("funding_sum_72h", 72 * panel.mean(rate, (72,))[0], "sum of f over 72h", "fraction", 72, feeds)
        spread = panel.sd(rate, 168)
        score = (rate - panel.mean(rate, (168,))[0]) / np.where(spread > 0, spread, np.nan)
        yield Column("funding_rate_z_168h", score, "(f - mean_168h(f)) / sd_168h(f)", "sd", 168, feeds)
        # Settlements fall on multiples of the interval since midnight UTC; eight hours is the convention before one is seen.
        interval = np.where(np.isnan(known["interval"]), DEFAULT_INTERVAL_HOURS, known["interval"])
        hour = panel.times.hour.to_numpy(np.float64)[None, :]
        to_next = interval - np.mod(hour, interval)
        yield Column("hours_to_funding", to_next, "interval - hour mod interval", "h", LIFE_HOURS, feeds)
        yield Column("age_funding", known["age"], "hours since the last settlement known", "h", 720, feeds)
