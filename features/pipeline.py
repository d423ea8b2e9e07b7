"""The feature pipeline: every family on one panel, in batch and live through the same code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from features.families import Column, Family
from features.families.basis import Basis
from features.families.calendar import Calendar
from features.families.carry import Funding
from features.families.comovement import Comovement
from features.families.cross import Cross
from features.families.flow_proxy import FlowProxy
from features.families.implied import Implied
from features.families.leverage import OpenInterest
from features.families.macro import Macro
from features.families.memory import Ladder, Path
from features.families.order_book import OrderBook
from features.families.orderflow import Flow, Volume
from features.families.realised import Realised
from features.families.scheduled import Scheduled
from features.families.spot_flow import SpotFlow
from features.families.trade_flow import TradeFlow
from features.families.venues import Venues
from features.live import LiveMarket
from features.market import Market
from features.panel import LOOKBACK_HOURS, Panel, Proxy

__all__ = ["DEFAULT_FAMILIES", "FAMILIES", "FeaturePipeline"]

DEFAULT_HORIZONS = (1, 4, 24, 72)
FAMILIES: Mapping[str, type[Family]] = {
    family.name: family
    for family in (
        *(Ladder, Path, Calendar, Scheduled, Realised, Volume),
        *(Cross, Comovement),
        *(Funding, Venues, Basis, OpenInterest),
        *(Flow, SpotFlow, FlowProxy, TradeFlow, OrderBook),
        *(Implied, Macro),
    )
}
# On forecasts of 2021-07 to 2023-06 the cross-section paid on top of a market's own history; funding, flow and implied
# volatility showed no evidence of a gain (README), and stay a configuration's choice.
DEFAULT_FAMILIES = ("memory", "path", "calendar", "scheduled", "realised", "volume", "cross", "comovement")


class FeaturePipeline:
    """Computes all features of a market; learns nothing, so one result serves every fold and the live bar.

    ``families``: names out of ``FAMILIES``; ``horizons``: hours for which the season ahead is given; ``proxy``: the bar
    variance. ``warmup``: how many hourly bars before an origin decide its row, whatever came earlier.
    """

    warmup: int = LOOKBACK_HOURS

    def __init__(
        self,
        families: Sequence[str] = DEFAULT_FAMILIES,
        horizons: Sequence[int] = DEFAULT_HORIZONS,
        proxy: Proxy = "garman_klass",
    ) -> None:
        unknown = sorted(set(families) - set(FAMILIES))
        if unknown:
            raise UsageError(f"unknown feature families {unknown}; there are {sorted(FAMILIES)}")
        self.families = tuple(families)
        self.horizons = tuple(horizons)
        self.proxy: Proxy = proxy
        self._live: LiveMarket | None = None

    @classmethod
    def default(cls) -> FeaturePipeline:
        """The default families and horizons, Garman-Klass variance."""
        return cls()

    def transform(self, market: Market) -> pd.DataFrame:
        """Features of every origin, indexed by (symbol, origin), float64.

        A row exists for each hourly bar. It depends only on rows with ``available_at <= origin`` and on the last
        ``warmup`` hours. Raises ``DataInvalid`` where the market has no hourly bars.
        """
        return self.transform_panel(Panel(market, self.proxy))

    def transform_panel(self, panel: Panel) -> pd.DataFrame:
        """``transform`` of a panel that is at hand already."""
        return self._frame(panel, ~np.isnan(panel.close))

    def _frame(self, panel: Panel, wanted: npt.NDArray[np.bool_]) -> pd.DataFrame:
        """The cells where ``wanted`` (n_symbols, n_hours) holds, one row each."""
        rows, columns = np.nonzero(wanted)
        index = pd.MultiIndex.from_arrays(
            [pd.Index(panel.symbols)[rows], panel.times[columns]], names=["symbol", "origin"]
        )
        cells = np.flatnonzero(wanted)
        # Column by column into one block: a frame made of separate columns would copy them all once more.
        values = np.empty((len(self._names), len(cells)))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for out, column in zip(values, self._columns(panel), strict=True):
                if column.values.shape != wanted.shape:
                    raise AssertionError(f"{column.name} has shape {column.values.shape}, not {wanted.shape}")
                np.take(column.values, cells, out=out, mode="clip")  # the default mode buffers
        return pd.DataFrame(values.T, index=index, columns=self._names, copy=False)

    def update(self, rows: Mapping[str, pd.DataFrame], *, checked: bool = True) -> pd.DataFrame:
        """Take in all tables' new rows up to one origin and return that origin's features, as in ``transform``.

        The first call may bring a whole history (at least ``warmup`` bars, if there are as many); each further one costs
        one hour, whatever the history. Rows of every symbol come together, because the cross-section reads them all; after
        an outage one call brings all missed rows. ``checked=False`` leaves out the check of every row, for rows of a store.
        Raises ``DataInvalid`` without any new hourly bar, and where a row was known before the last origin or becomes known
        after this one: batch would have used it at another hour.
        """
        live = self._live.copy() if self._live is not None else LiveMarket()
        panel = live.step(rows, self.proxy, checked)
        newest = np.zeros((len(panel.symbols), len(panel)), dtype=np.bool_)
        newest[:, -1] = ~np.isnan(panel.close[:, -1])
        features = self._frame(panel, newest)
        self._live = live  # an update that fails leaves nothing behind
        return features

    def describe(self) -> pd.DataFrame:
        """Name, formula, unit, look-back (hours), feeds, reference, sign, family and group of each feature, in column order.

        The look-back counts the hours in the feature's own window. Inside it, a return or a variance reads one close more, a
        capped variance the 24 hours before it, and its season the two years before that; ``warmup`` covers all of it.
        """
        rows = [
            (c.name, c.formula, c.unit, c.lookback, ", ".join(c.feeds), c.reference, c.sign, family.name, family.group)
            for family in map(self._family, self.families)
            for c in family.columns(Panel(_one_bar(), "garman_klass"))
        ]
        told = ["name", "formula", "unit", "lookback", "feeds", "reference", "sign", "family", "group"]
        return pd.DataFrame(rows, columns=told)

    @cached_property
    def _names(self) -> list[str]:
        return list(self.describe()["name"])

    def _columns(self, panel: Panel) -> Iterator[Column]:
        for name in self.families:
            yield from self._family(name).columns(panel)

    def _family(self, name: str) -> Family:
        by_horizon: Mapping[str, type[Calendar] | type[Scheduled]] = {"calendar": Calendar, "scheduled": Scheduled}
        return by_horizon[name](self.horizons) if name in by_horizon else FAMILIES[name]()


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
