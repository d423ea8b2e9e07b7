"""Planted leaks of clocks: rows read before they were known, or by another instant than ``available_at``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features import market as markets
from features import panel as panels
from features.market import Market
from features.panel import Panel

Array = np.ndarray[Any, np.dtype[np.float64]]
HOUR = pd.Timedelta(hours=1)
DAY = pd.Timedelta(days=1)
FUNDING = {"funding_rate_1h", "abs_funding_rate_1h", "age_funding"}


def by(shipped: Any, clock: str) -> Any:
    """A join that takes every row as known at its clock."""

    def joined(self: Panel, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> Any:
        known = frame[clock] if clock in frame else frame["available_at"]
        return shipped(self, frame.assign(available_at=known), values, life_hours)

    return joined


def test_funding_by_its_label(trial: Any) -> None:
    trial.plant(Panel, "as_of", by(Panel.as_of, "funding_time"))
    of_long = {"tables": ("bars", "funding"), "of": "long_market", "only": "funding"}
    trial.is_found_by("prefix", FUNDING, families=("funding", "volume"), cuts=10, **of_long)


def test_funding_by_its_label_where_both_clocks_agree(trial: Any) -> None:
    trial.plant(Panel, "as_of", by(Panel.as_of, "funding_time"))
    # Nothing but a delay shows it.
    settings = {"tables": ("bars", "funding"), "only": "funding", "misses": ("prefix", "poison", "restart")}
    trial.is_found_by("arrival", FUNDING, families=("funding",), cuts=2, deep_cuts=1, **settings)


def test_open_interest_by_its_event_time(trial: Any) -> None:
    trial.plant(Panel, "as_of", by(Panel.as_of, "event_time"))
    named = {"oi_change_1h", "log_oi_turnover_24h", "age_open_interest"}
    only = "oi_|open_interest|liquidation|build_up"
    trial.is_found_by("prefix", named, only=only, sample="interest")


def test_dvol_candle_by_its_open(trial: Any) -> None:
    shipped = Panel.common

    def opened(self: Panel, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> Any:
        return shipped(self, frame.assign(available_at=frame["available_at"] - HOUR), values, life_hours)

    trial.plant(Panel, "common", opened)
    named = {"log_dvol_btc", "dvol_change_1h", "variance_premium_24h"}
    only = "dvol|variance_premium|age_implied|term"
    trial.is_found_by("prefix", named, only=only, sample="implied")


def test_hole_of_dvol_filled_from_the_next_candle(trial: Any) -> None:
    shipped = Panel.common

    def filled(self: Panel, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> dict[str, Array]:
        out = shipped(self, frame, values, life_hours)
        return out | {name: pd.DataFrame(out[name].T).bfill().to_numpy().T for name in values}

    trial.plant(Panel, "common", filled)
    named = {"log_dvol_btc", "dvol_change_24h", "variance_premium_168h"}
    only = "dvol|variance_premium|term"
    # The hole is a gap of one series: only a cut inside it, or before the first candle, can see it.
    trial.is_found_by("prefix", named, only=only, sample="implied")


def test_daily_close_known_at_midnight_of_its_date(trial: Any) -> None:
    trial.plant(Panel, "common", by(Panel.common, "date"))
    named = {"log_vix", "log_dxy", "age_vix"}
    trial.is_found_by("prefix", named, only="vix|dxy|spy|etf|credit|gld", sample="daily")


def test_vix_of_monday_on_the_weekend_before(trial: Any) -> None:
    shipped = Panel.common

    def early(self: Panel, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> Any:
        monday = (frame["date"].dt.day_of_week == 0) & (frame["series"] == "VIX")
        known = frame["available_at"].mask(monday, frame["available_at"] - 3 * DAY)
        return shipped(self, frame.assign(available_at=known), values, life_hours)

    trial.plant(Panel, "common", early)
    named = {"log_vix", "vix_change_168h"}
    trial.is_found_by("prefix", named, only="vix", sample="daily")


def test_funding_interval_by_the_next_settlement(trial: Any) -> None:
    shipped = Market.funding

    def spaced(self: Market, exchange: str = "binance") -> pd.DataFrame:
        rows = shipped(self, exchange)
        ahead = rows.groupby("symbol")["funding_time"].shift(-1) - rows["funding_time"]
        return rows.assign(interval_hours=(ahead / HOUR).round())

    trial.plant(Market, "funding", spaced)
    named = {"funding_rate_1h", "funding_interval", "funding_cycle"}
    trial.is_found_by("prefix", named, only="funding|venue", sample="funded")


def test_settlement_rounded_down_to_its_hour(trial: Any) -> None:
    shipped = Market.funding

    def rounded(self: Market, exchange: str = "binance") -> pd.DataFrame:
        rows = shipped(self, exchange)
        return rows.assign(available_at=rows["available_at"].dt.floor("h"))

    trial.plant(Market, "funding", rounded)
    trial.is_found_by("prefix", FUNDING, only="funding|venue", sample="funded")


def test_other_venues_by_the_nearest_settlement(trial: Any) -> None:
    shipped = Market.funding

    def nearest(self: Market, exchange: str = "binance") -> pd.DataFrame:
        rows = shipped(self, exchange)
        if exchange == "binance":
            return rows
        before = rows.groupby("symbol")["available_at"].shift().fillna(rows["available_at"])
        return rows.assign(available_at=before + (rows["available_at"] - before) / 2)

    trial.plant(Market, "funding", nearest)
    named = {"venue_funding_mean", "venue_funding_sd", "venue_funding_mean_btc"}
    trial.is_found_by("prefix", named, only="venue", sample="funded")


def test_measure_of_the_hour_reads_the_following_quarter(trial: Any) -> None:
    shipped = panels.sum_inside_hours

    def following(bars: pd.DataFrame, bars_per_hour: int) -> dict[str, pd.Series]:
        closes = bars.index.get_level_values("close_time") - pd.Timedelta(minutes=15)
        index = pd.MultiIndex.from_arrays([bars.index.get_level_values("symbol"), closes], names=bars.index.names)
        return shipped(bars.set_axis(index), bars_per_hour)

    trial.plant(panels, "sum_inside_hours", following)
    named = {"log_rv_15m_1h", "med_rv_share_1h", "semivariance_15m_24h"}
    only = "15m|med_rv|quarticity"
    trial.is_found_by("prefix", named, families=("realised",), intervals=("1h", "15m"), only=only, cuts=4)


def test_bars_known_at_their_open(trial: Any) -> None:
    shipped = Panel._widen

    def opened(self: Panel, frame: pd.DataFrame) -> dict[str, Array]:
        closes = pd.DatetimeIndex(frame.index.get_level_values("close_time"))
        index = [frame.index.get_level_values("symbol"), closes - HOUR]
        return shipped(self, frame.set_index(pd.MultiIndex.from_arrays(index, names=["symbol", "close_time"])))

    trial.plant(Panel, "_widen", opened)
    trial.is_found_by("prefix", {"log_return_1h", "log_season_1h"}, only="", sample="history")


def test_late_bars_used_at_their_close(trial: Any) -> None:
    trial.plant(panels, "_in_time", lambda bars: bars)
    trial.is_found_by("prefix", {"log_return_1h", "trend_2h"}, only="", sample="history")


def test_late_bars_used_at_their_close_where_none_is_late(trial: Any) -> None:
    trial.plant(panels, "_in_time", lambda bars: bars)
    settings = {"of": "long_market", "only": "", "misses": ("prefix", "poison", "restart")}
    trial.is_found_by("arrival", {"log_return_1h", "trend_2h"}, families=("path",), cuts=1, deep_cuts=1, **settings)


def test_revision_in_the_name_of_the_first_import(trial: Any, tmp_path: Path) -> None:
    shipped = markets.merge

    def revised(imports: Any, spec: Any) -> pd.DataFrame:
        rows = pd.concat(list(imports), ignore_index=True)
        key = list(spec.identity)
        newest = rows.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)
        return newest.assign(available_at=shipped([rows], spec)["available_at"])

    trial.plant(markets, "merge", revised)
    trial.is_found_by(
        "prefix", {"close", "high"}, families=("path",), table="bars", stored_in=tmp_path, only="", cuts=4
    )
