"""Laws of the whole group: the past stays, live is batch, look-backs hold, missing is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from funding_oracle import HOUR, START, after, columns

from features.families import Family
from features.families.basis import Basis
from features.families.carry import Funding
from features.families.leverage import OpenInterest
from features.families.venues import OTHER_VENUES, Venues
from features.live import LiveMarket
from features.market import Market
from features.panel import Panel
from features.schemas import TABLES
from features.sources import import_data

FAMILIES: tuple[type[Family], ...] = (Funding, Venues, Basis, OpenInterest)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_the_past_does_not_change(family: type[Family], market: Market, panel: Panel) -> None:
    whole = columns(family, panel)
    for day in (0.2, 31.1, 44.5, 48.0, 55.2, 60.4):
        view = Panel(market.as_of(after(day)))
        for name, column in columns(family, view).items():
            rows = [panel.symbols.index(symbol) for symbol in view.symbols]
            same = np.array_equal(whole[name].values[rows, : len(view)], column.values, equal_nan=True)
            assert same, (name, day)


@pytest.mark.parametrize("day", [44.4, 49.9, 55.0])  # a hole, a shorter interval, a gap in the bars
def test_bar_by_bar_is_the_batch(day: float, market: Market, panel: Panel) -> None:
    batch = {family: columns(family, panel) for family in FAMILIES}
    # A store refuses open interest of zero; a market that holds such rows and one without them say the same.
    oi = market.table("open_interest")
    sound = market.with_tables(open_interest=oi[oi["open_interest"] > 0])
    start = after(day).ceil("h")
    live, last = LiveMarket(), START - HOUR
    for t in pd.date_range(start, start + 12 * HOUR, freq="h"):
        tables = {name: sound.as_of(t).table(name) for name in TABLES}
        newest = live.step({n: x[x["available_at"] > last] for n, x in tables.items()}, "garman_klass")
        rows, last = [panel.symbols.index(symbol) for symbol in newest.symbols], t
        for family in FAMILIES:
            for name, column in columns(family, newest).items():
                expected = batch[family][name].values[rows, panel.times.get_loc(t)]
                assert np.array_equal(column.values[:, -1], expected, equal_nan=True), (name, t)


def test_the_declared_look_backs_are_enough(market: Market, panel: Panel) -> None:
    """A feed is carried for a day, and a capped variance reads a day and a bar: 26 hours beside the window."""
    batch = {name: c for family in FAMILIES for name, c in columns(family, panel).items()}
    groups: dict[int, list[str]] = {}
    for name, column in batch.items():
        groups.setdefault(column.lookback, []).append(name)

    def wrong(hours: int, names: list[str]) -> list[str]:
        short = Panel(market.since(panel.times[-1] - hours * HOUR))
        made = {name: c for family in FAMILIES for name, c in columns(family, short).items()}
        same = {n: np.array_equal(made[n].values[:, -1], batch[n].values[:, -1], equal_nan=True) for n in names}
        return [name for name in names if not same[name]]

    for lookback, names in groups.items():
        assert not wrong(lookback + 26, names)
    assert {"funding_rank_720h", "oi_z_720h", "funding_ar_surprise_720h"} <= set(wrong(720 - 48, list(batch)))


def test_no_column_is_empty_or_constant_where_its_feeds_exist(panel: Panel) -> None:
    every = [column for family in FAMILIES for column in family().columns(panel)]
    assert len({column.name for column in every}) == len(every) == 64
    eth = panel.symbols.index("ETHUSDT")
    for column in every:
        values = column.values[eth]
        assert column.values.shape == (len(panel.symbols), len(panel))
        assert not np.isinf(column.values).any(), column.name
        assert np.nanstd(values) > 0, column.name
        assert np.isfinite(values).mean() > 0.5, column.name
        assert all((column.formula, column.unit, column.feeds))
        assert 0 < column.lookback <= 3623


def test_without_feeds_all_is_missing_but_the_ages(market: Market) -> None:
    bars = market.table("bars", "1h")[["interval", "symbol", "close_time", "open", "high", "low", "close", "volume"]]
    bare = Panel(Market.from_tables({"bars": bars[bars["close_time"] <= after(5)]}))
    for family in FAMILIES:
        for name, column in columns(family, bare).items():
            if name.startswith("age_"):
                assert (column.values == 720).all(), name
            elif name != "hours_to_funding":
                assert np.isnan(column.values).all(), name


@pytest.fixture(scope="module")
def real_panel(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Panel:
    """Bitcoin with seven venues, XRP with mark and spot, SOL with a hole of two months in its funding."""
    folder = tmp_path_factory.mktemp("real")
    for file in _files(real_data / "freqtrade", ("BTC", "XRP", "SOL")):
        shutil.copy(file, folder)
    import_data("freqtrade", folder, folder / "store")
    venues = real_data / "funding_multi_exchange" / "BTC_ETH-2020_2024.parquet"
    import_data("parquet", venues, folder / "store", table="funding")
    return Panel(Market.open(folder / "store"))


def _files(folder: Path, coins: Iterable[str]) -> list[Path]:
    hourly = [file for file in folder.rglob("*.feather") if "15m" not in file.name]
    return [file for file in hourly if file.name.split("_")[0] in coins]


@pytest.mark.real
def test_each_venue_settles_as_often_as_is_taken_for_granted(real_panel: Panel) -> None:
    rows = real_panel.market.table("funding")
    for venue, interval in OTHER_VENUES.items():
        theirs = rows[(rows["exchange"] == venue) & (rows["symbol"] == "BTCUSDT")]
        assert theirs["interval_hours"].isna().all()
        assert (theirs["funding_time"].diff().dropna() == interval * HOUR).mean() > 0.99, venue


@pytest.mark.real
def test_real_markets_are_covered_and_bounded(real_panel: Panel) -> None:
    made = {name: c for family in FAMILIES for name, c in columns(family, real_panel).items()}
    frames = {
        s: pd.DataFrame({n: c.values[i] for n, c in made.items()}, real_panel.times)
        for i, s in enumerate(real_panel.symbols)
    }
    btc, xrp, sol = frames["BTCUSDT"], frames["XRPUSDT"], frames["SOLUSDT"]
    assert btc.loc["2022-01-02":"2023-12-30", "venue_count"].eq(7).all()
    assert btc.loc["2024-01-02":, "venue_funding_sd"].isna().all()
    assert sol.loc["2022-01-02":"2023-12-30", "venue_funding_sd_btc"].equals(
        btc.loc["2022-01-02":"2023-12-30", "venue_funding_sd"]
    )
    assert sol.loc["2024-12-06":"2025-01-31", "log_funding_rate"].isna().all()
    assert sol.loc["2025-01-31", "age_funding"].eq(720).all()
    steady = [n for n in made if n.startswith(("funding_", "log_funding", "basis_", "premium"))]
    assert xrp.loc["2020-03":, steady].notna().mean().min() > 0.97
    for frame in frames.values():
        bounded = frame.drop(columns=[n for n in frame if n.startswith(("age_", "hours_", "funding_rate_z"))])
        assert bounded.abs().max().max() < 10
    # The cheapest money of March 2020 and the dearest of 2021 stand where they happened.
    assert btc.loc["2020-03-12":"2020-03-14", "log_funding_rate"].min() < -2
    assert btc.loc["2021-01":"2021-04", "funding_sum_720h"].max() > 0.06
