"""What the clock alone says: the season ahead, the hour, the week, the age of a listing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pandas as pd

from features.families import Column, Family
from features.panel import SEASON_HOURS, Array, Panel

__all__ = ["Calendar"]

LISTING_AGE_CAP_DAYS = 730


class Calendar(Family):
    """Known in advance: seasonal variance over each horizon, hour and weekday, and the listing age."""

    name: ClassVar[str] = "calendar"

    def __init__(self, horizons: tuple[int, ...] = (1, 4, 24, 72)) -> None:
        self.horizons = horizons

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Season factors by horizon, then the plain clock."""
        for h in self.horizons:
            yield Column(
                f"log_season_ahead_{h}h",
                panel.log_season_ahead(h),
                f"ln sum S(origin + j), j = 1..{h}",
                "ln variance",
                SEASON_HOURS,
                sign="+",
            )
        yield Column("hour", _every_symbol(panel, panel.times.hour), "hour of day of the origin", "h", 0, ("clock",))
        yield Column("weekday", _every_symbol(panel, panel.times.day_of_week), "0 = Monday", "d", 0, ("clock",))
        age = np.empty((len(panel.symbols), len(panel)))
        first = panel.market.first_bar.reindex(list(panel.symbols))
        for i, listed in enumerate(first):
            days = (panel.times - listed) / pd.Timedelta(days=1)
            age[i] = np.log1p(np.clip(np.asarray(days, dtype=np.float64), 0, LISTING_AGE_CAP_DAYS))
        yield Column(
            "log_listing_age", age, "ln(1 + days since the first bar), at most 730", "ln d", 0, ("symbols",), sign="-"
        )


def _every_symbol(panel: Panel, values: pd.Index) -> Array:
    return np.repeat(values.to_numpy(np.float64)[None, :], len(panel.symbols), axis=0)
