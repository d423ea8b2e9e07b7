"""Planted leaks of the universe: who is in it, known before the listing, or from the end of the sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from features.market import Market
from features.panel import Panel

Array = np.ndarray[Any, np.dtype[np.float64]]
HOUR = pd.Timedelta(hours=1)
MARKET = {"market_log_ew_3h", "own_less_market_3h", "market_burst_dispersion"}
ONLY = "market|breadth|concentration|burst|contagion|connectedness"


def test_universe_of_the_largest_in_the_whole_sample(trial: Any) -> None:
    def largest(self: Panel, x: Array, statistic: Any) -> Array:
        order = np.argsort(-np.nansum(self.field("volume") * (1 + np.arange(len(self)) / 100), axis=1), kind="stable")
        return np.repeat(statistic(np.ascontiguousarray(x[order[:2]]))[None, :], len(x), axis=0)

    trial.plant(Panel, "across", largest)
    trial.is_found_by("prefix", MARKET, families=("cross",), only=ONLY, of="long_market")


def test_survivors_only(trial: Any) -> None:
    def survivors(self: Panel, x: Array, statistic: Any) -> Array:
        alive = ~np.isnan(self.close[:, -1])
        return np.repeat(statistic(np.ascontiguousarray(x[alive]))[None, :], len(x), axis=0)

    trial.plant(Panel, "across", survivors)
    trial.is_found_by("prefix", MARKET, only=ONLY, sample="cross")


def test_symbol_counted_before_its_listing(trial: Any) -> None:
    def of_all(self: Panel, x: Array, statistic: Any) -> Array:
        return np.repeat(statistic(np.nan_to_num(x))[None, :], len(x), axis=0)

    trial.plant(Panel, "across", of_all)
    trial.is_found_by("prefix", MARKET, only=ONLY, sample="cross")


def test_symbol_counted_before_a_listing_that_never_came(trial: Any) -> None:
    def of_all(self: Panel, x: Array, statistic: Any) -> Array:
        return np.repeat(statistic(np.nan_to_num(x))[None, :], len(x), axis=0)

    trial.plant(Panel, "across", of_all)
    # Where every market has been listed from the start, it takes one that nobody had heard of.
    settings = {"of": "listed_market", "misses": ("prefix", "restart")}
    trial.is_found_by("poison", MARKET, families=("cross",), only=ONLY, cuts=2, **settings)


def test_cross_section_holds_the_first_value_before_the_listing(trial: Any) -> None:
    def early(self: Panel, x: Array, statistic: Any) -> Array:
        filled = pd.DataFrame(x.T).bfill().to_numpy().T
        return np.repeat(statistic(np.ascontiguousarray(filled))[None, :], len(x), axis=0)

    trial.plant(Panel, "across", early)
    trial.is_found_by("prefix", MARKET, only=ONLY, sample="cross")


def test_listing_age_by_the_newest_listing(trial: Any) -> None:
    def relisted(self: Market) -> pd.Series:
        bars = self.table("bars", "1h")
        new = bars.groupby("symbol")["close_time"].diff() != HOUR
        return bars[new].groupby("symbol")["close_time"].max()

    trial.plant(Market, "first_bar", property(relisted))
    trial.is_found_by("prefix", {"log_listing_age"}, only="log_listing_age", sample="history")
