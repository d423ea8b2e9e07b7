"""The feature pipeline: every family on one panel, in batch and live through the same code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from features.calendar import Calendar
from features.carry import Funding
from features.cross import Cross
from features.errors import DataInvalid, UsageError
from features.family import Column, Family
from features.market import Market
from features.memory import Ladder, Path
from features.orderflow import Flow, Volume
from features.panel import LOOKBACK_HOURS, Panel, Proxy
from features.realised import Realised

__all__ = ["FAMILIES", "FeaturePipeline"]

DEFAULT_HORIZONS = (1, 4, 24, 72)
FAMILIES: Mapping[str, type[Family]] = {
    family.name: family for family in (Ladder, Path, Calendar, Realised, Volume, Flow, Funding, Cross)
}


class FeaturePipeline:
    """Computes all features of a market; learns nothing, so one result serves every fold and the live bar.

    ``families``: names out of ``FAMILIES``; ``horizons``: hours for which the season ahead is given; ``proxy``: the bar
    variance. ``warmup``: how many hourly bars before an origin decide its row, whatever came earlier.
    """

    warmup: int = LOOKBACK_HOURS

    def __init__(
        self,
        families: Sequence[str] = tuple(FAMILIES),
        horizons: Sequence[int] = DEFAULT_HORIZONS,
        proxy: Proxy = "garman_klass",
    ) -> None:
        unknown = sorted(set(families) - set(FAMILIES))
        if unknown:
            raise UsageError(f"unknown feature families {unknown}; there are {sorted(FAMILIES)}")
        self.families = tuple(families)
        self.horizons = tuple(horizons)
        self.proxy: Proxy = proxy
        self._live: Market | None = None

    @classmethod
    def default(cls) -> FeaturePipeline:
        """All families, the default horizons, Garman-Klass variance."""
        return cls()

    def transform(self, market: Market) -> pd.DataFrame:
        """Features of every origin, indexed by (symbol, origin), float64.

        A row exists for each hourly bar. It depends only on rows with ``available_at <= origin`` and on the last
        ``warmup`` hours. Raises ``DataInvalid`` where the market has no hourly bars.
        """
        return self.transform_panel(Panel(market, self.proxy))

    def transform_panel(self, panel: Panel) -> pd.DataFrame:
        """``transform`` of a panel that is at hand already."""
        alive = ~np.isnan(panel.close)
        data = {column.name: column.values[alive] for column in self._columns(panel)}
        rows, columns = np.nonzero(alive)
        index = pd.MultiIndex.from_arrays(
            [pd.Index(panel.symbols)[rows], panel.times[columns]], names=["symbol", "origin"]
        )
        return pd.DataFrame(data, index=index)

    def update(self, rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Take in all tables' new rows up to one origin and return that origin's features, as in ``transform``.

        The first call may bring a whole history (at least ``warmup`` bars, if there are as many). Rows of every symbol
        come together, because the cross-section reads them all. Raises ``DataInvalid`` without any new hourly bar.
        """
        new = rows.get("bars", pd.DataFrame({"interval": []}))
        closes = new.loc[new["interval"] == "1h", "close_time"] if len(new) else pd.Series(dtype="datetime64[us, UTC]")
        if closes.empty:
            raise DataInvalid("update needs new 1h rows of table 'bars'; pass every table's rows up to one origin")
        known = self._live
        if known is not None and closes.nunique() > 1:
            raise DataInvalid(
                f"update takes the rows of one origin at a time, these close at {closes.min()} to {closes.max()}; "
                "call it once an hour, oldest first"
            )
        market = Market.from_tables(rows) if known is None else known.extended(rows)
        origin = closes.max()
        # One hour more than the warm-up: the first bar's return and variance need the close before it.
        self._live = market.since(origin - pd.Timedelta(hours=self.warmup + 1))
        features = self.transform(self._live)
        newest = features.index.get_level_values("origin") == origin
        return pd.DataFrame(features[newest])

    def describe(self) -> pd.DataFrame:
        """Name, family, formula, unit, look-back in hours, feeds and reference of every feature, in column order.

        The look-back counts the hours in the feature's own window. Inside it, a return or a variance reads one close more, a
        capped variance the 24 hours before it, and its season the two years before that; ``warmup`` covers all of it.
        """
        empty = Panel(_one_bar(), self.proxy)
        rows = [
            (c.name, family, c.formula, c.unit, c.lookback, ", ".join(c.feeds), c.reference)
            for family in self.families
            for c in self._family(family).columns(empty)
        ]
        return pd.DataFrame(rows, columns=["name", "family", "formula", "unit", "lookback", "feeds", "reference"])

    def _family(self, name: str) -> Family:
        return Calendar(self.horizons) if name == "calendar" else FAMILIES[name]()

    def _columns(self, panel: Panel) -> list[Column]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return [column for name in self.families for column in self._family(name).columns(panel)]


def _one_bar() -> Market:
    """The smallest market: names and meanings of features do not depend on data."""
    close = pd.Timestamp("2020-01-01 01:00", tz="UTC")
    bar = {
        "symbol": "BTCUSDT",
        "interval": "1h",
        "close_time": close,
        "available_at": close,
        "source": "parquet",
    }
    prices = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    return Market.from_tables({"bars": pd.DataFrame([bar | prices])})
