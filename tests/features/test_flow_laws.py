"""What every family of order flow must obey: no look ahead, live as batch, enough look-back, bounds, missing feeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from features.families import Column, Family
from features.families.flow_proxy import FlowProxy
from features.families.order_book import OrderBook
from features.families.orderflow import Flow, Volume
from features.families.trade_flow import TradeFlow
from features.live import LiveMarket
from features.market import Market
from features.panel import Panel
from features.schemas import TABLES, TRADE_MEASURES
from features.sources import import_data

HOUR = pd.Timedelta(hours=1)
FAMILIES: tuple[type[Family], ...] = (Volume, Flow, FlowProxy, TradeFlow, OrderBook)
FEEDLESS = (Volume, FlowProxy)


def columns(panel: Panel, families: tuple[type[Family], ...] = FAMILIES) -> Iterator[Column]:
    with np.errstate(divide="ignore", invalid="ignore"):
        for family in families:
            yield from family().columns(panel)


@pytest.fixture(scope="module")
def market(rough_market: Market) -> Market:
    """The rough market with measures of trades, from day 20 on, and books that come late, stop, or have no depth."""
    rng = np.random.default_rng(8)
    bars = rough_market.table("bars")
    measured = (bars["close_time"] > bars["close_time"].min() + pd.Timedelta(days=20)) & (rng.random(len(bars)) > 0.01)
    drawn = pd.DataFrame({name: rng.gamma(2.0, 1e-4, len(bars)) for name in TRADE_MEASURES}, index=bars.index)
    drawn["bipower_variation"] = drawn["realised_variance"] * rng.uniform(0.6, 1.1, len(bars))
    drawn["kyle_lambda"] -= 5e-5
    drawn["large_trades"] = rng.poisson(20.0, len(bars))
    bars = bars.join(drawn.where(measured))
    book = rough_market.table("order_book")
    day = (book["event_time"] - book["event_time"].min()) / pd.Timedelta(days=1)
    first, second, third = rough_market.symbols[:3]
    book["available_at"] += pd.to_timedelta(rng.integers(0, 20, len(book)), unit="min")
    shallow = (book["symbol"] == first) & (day > 100)
    book.loc[shallow, ["bid_depth_1pct", "ask_depth_1pct"]] = np.nan
    kept = ~((book["symbol"] == second) & day.between(90, 95)) & ~((book["symbol"] == third) & (day > 120))
    tables = {name: rough_market.table(name) for name in TABLES}
    return Market.from_tables({**tables, "bars": bars, "order_book": book[kept & (rng.random(len(book)) > 0.02)]})


@pytest.fixture(scope="module")
def whole(market: Market) -> tuple[Panel, list[Column]]:
    panel = Panel(market)
    return panel, list(columns(panel))


def bits(x: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Bit patterns, any NaN being like any other."""
    return np.ascontiguousarray(np.where(np.isnan(x), np.nan, x)).view(np.int64)


def assert_same_hours(whole: tuple[Panel, list[Column]], part: Panel, hours: int) -> None:
    """The newest ``hours`` of ``part`` have the bits that the whole has there."""
    panel, expected = whole
    end = int(panel.times.get_indexer(part.times[-1:])[0]) + 1
    rows = [panel.symbols.index(symbol) for symbol in part.symbols]
    for column, found in zip(expected, columns(part), strict=True):
        assert found.name == column.name
        same = bits(column.values[rows, end - hours : end]) == bits(found.values[:, -hours:])
        assert same.all(), f"{column.name} at {part.times[-1]}"


@pytest.mark.parametrize("day", [30.3, 100.2, 110.9, 121.0])
def test_nothing_looks_ahead(market: Market, whole: tuple[Panel, list[Column]], day: float) -> None:
    part = Panel(market.as_of(whole[0].times[0] + pd.Timedelta(days=day)))
    assert_same_hours(whole, part, len(part))


def test_live_is_batch_hour_by_hour(market: Market, whole: tuple[Panel, list[Column]]) -> None:
    start = whole[0].times[0] + pd.Timedelta(days=99.9).ceil("h")
    live, before = LiveMarket(), None
    for step in range(16):  # a listing, and late books
        t = start + HOUR * step
        view = market.as_of(t)
        rows = {name: view.table(name) for name in TABLES}
        if before is not None:
            rows = {name: frame[frame["available_at"] > before] for name, frame in rows.items()}
        panel = live.step(rows, "garman_klass")
        assert_same_hours(whole, panel, 1)
        before = t
    assert len(panel) == 1


@pytest.mark.real
def test_real_flow_never_looks_ahead_and_lives_as_in_batch(real_data: Path, tmp_path: Path) -> None:
    """The perpetual with its real taker side, five months of it."""
    klines = real_data / "binance_vision" / "data" / "futures" / "um" / "monthly" / "klines"
    import_data("vision", klines, tmp_path / "store")
    real = Market.open(tmp_path / "store")
    panel = Panel(real)
    whole = panel, list(columns(panel))
    for hours in (700, 2900):
        part = Panel(real.as_of(panel.times[hours]))
        assert_same_hours(whole, part, len(part))
    live = LiveMarket()
    bars = real.table("bars")
    for t, before in (
        (panel.times[3000], panel.times[0] - HOUR),
        *zip(panel.times[3001:3030], panel.times[3000:3029], strict=True),
    ):
        new = bars[(bars["available_at"] > before) & (bars["available_at"] <= t)]
        assert_same_hours(whole, live.step({"bars": new}, "garman_klass"), 1)


def test_declared_look_backs_are_enough_and_not_too_long(market: Market, whole: tuple[Panel, list[Column]]) -> None:
    panel, expected = whole
    last = panel.times[-1]
    margin = 26  # a capped variance reads a day and a bar more
    by_name = {column.name: column for column in expected}

    def changed(hours: int) -> set[str]:
        short = Panel(market.since(last - HOUR * hours))
        rows = [panel.symbols.index(symbol) for symbol in short.symbols]
        return {
            c.name for c in columns(short) if (bits(c.values[:, -1]) != bits(by_name[c.name].values[rows, -1])).any()
        }

    for lookback in sorted({column.lookback for column in expected}):
        wrong = {name for name in changed(lookback + margin) if by_name[name].lookback <= lookback}
        assert not wrong, (lookback, wrong)
    # A look-back that says far too much is no look-back: half of it must be too short.
    for lookback in (168, 720):
        long = {
            name
            for name, column in by_name.items()
            if column.lookback >= lookback and not name.startswith(("age", "vpin"))
        }
        assert long - changed(lookback // 2) == set()


def test_columns_vary_are_bounded_and_speak_for_themselves(whole: tuple[Panel, list[Column]]) -> None:
    panel, found = whole
    names = [column.name for column in found]
    assert len(set(names)) == len(names)
    alive = ~np.isnan(panel.close)
    for column in found:
        values = column.values[alive]
        # A bar of the simulated market has its taker side whenever it is there at all.
        assert np.nanstd(values) > 0 or column.name == "age_taker_flow", column.name
        assert not np.isinf(values).any(), column.name
        assert np.isfinite(values).mean() > 0.5, column.name
        limit = 720 if column.name.startswith("age_") else 15
        assert np.nanmax(np.abs(values)) <= limit, column.name
        assert column.formula
        assert column.unit
        assert column.feeds
    ages = [column for column in found if column.name.startswith("age_")]
    assert {column.name for column in ages} == {"age_taker_flow", "age_trades", "age_order_book"}


def test_without_their_feeds_all_is_missing_and_old(rough_market: Market) -> None:
    plain = rough_market.table("bars", "1h")[
        ["interval", "symbol", "close_time", "open", "high", "low", "close", "volume"]
    ]
    bare = Panel(Market.from_tables({"bars": plain}))
    whole = list(columns(Panel(rough_market)))
    assert [c.name for c in columns(bare)] == [c.name for c in whole]
    for column in columns(bare, (Flow, TradeFlow, OrderBook)):
        if column.name.startswith("age_"):
            assert (column.values == 720).all()
        else:
            assert np.isnan(column.values).all(), column.name
    for column in columns(bare, FEEDLESS):
        assert np.isfinite(column.values).any(), column.name


def test_groups_are_those_of_the_ladder() -> None:
    assert [(family.name, family.group) for family in FAMILIES] == [
        ("volume", "history"),
        ("flow", "flow"),
        ("flow_proxy", "flow"),
        ("trades", "flow"),
        ("order_book", "flow"),
    ]
