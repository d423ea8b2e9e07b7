from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.families.order_book import OrderBook
from features.market import Market
from features.panel import Panel
from features.sources import import_data

HOUR = pd.Timedelta(hours=1)
START = pd.Timestamp("2024-03-01", tz="UTC")


def bars(hours: int = 30) -> pd.DataFrame:
    close_time = [START + HOUR * k for k in range(1, hours + 1)]
    frame = pd.DataFrame({"interval": "1h", "symbol": "BTCUSDT", "close_time": close_time})
    return frame.assign(open=100.0, high=101.0, low=99.0, close=100.0, volume=10.0)


def books(*minutes: float, **columns: Any) -> pd.DataFrame:
    times = [START + pd.Timedelta(minutes=m) for m in minutes]
    frame = pd.DataFrame({"symbol": "BTCUSDT", "event_time": times, "available_at": times})
    book = {"bid": 99.9, "ask": 100.1, "bid_size": 3.0, "ask_size": 1.0}
    return frame.assign(**(book | {"bid_depth_1pct": 500.0, "ask_depth_1pct": 1500.0} | columns))


def features(book: pd.DataFrame, hours: int = 30) -> dict[str, Any]:
    panel = Panel(Market.from_tables({"bars": bars(hours), "order_book": book}))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {column.name: column.values[0] for column in OrderBook().columns(panel)}


def test_a_book_by_hand() -> None:
    found = features(books(*(60 * k for k in range(1, 31))))
    assert found["log_spread"][-1] == pytest.approx(math.log(0.2 / 100))
    assert found["touch_imbalance"][-1] == pytest.approx(0.5)
    assert found["depth_imbalance"][-1] == pytest.approx(-0.5)
    # Two thousand in quote stand against a turnover of ten times a hundred an hour.
    assert found["log_depth_turnover_24h"][-1] == pytest.approx(math.log(3))
    assert (found["age_order_book"] == 0).all()


def test_spread_and_depth_against_their_week() -> None:
    hours = 200
    rng = np.random.default_rng(6)
    wide, deep = rng.uniform(0.1, 0.5, hours), rng.uniform(100, 900, hours)
    book = books(*(60 * k for k in range(1, hours + 1)), ask=99.9 + wide, bid_depth_1pct=deep)
    found = features(book, hours)
    log_spread = np.log(wide / (99.9 + wide / 2))
    depth = deep + 1500
    for t in (170, 199):
        week = slice(t - 167, t + 1)
        assert found["log_spread_excess_168h"][t] == pytest.approx(log_spread[t] - log_spread[week].mean())
        assert found["log_depth_excess_168h"][t] == pytest.approx(math.log(depth[t] / depth[week].mean()))
    assert np.isnan(found["log_depth_excess_168h"][50])


def test_a_book_counts_from_when_it_is_known_and_no_longer_than_an_hour() -> None:
    book = books(60, 175)
    book.loc[0, "available_at"] += pd.Timedelta(minutes=20)
    found = features(book, 6)
    np.testing.assert_array_equal(np.isnan(found["log_spread"]), [True, False, False, True, True, True])
    assert found["age_order_book"][:4] == pytest.approx([720, 40 / 60, 5 / 60, 65 / 60])


def test_a_recorder_of_best_prices_alone_leaves_depth_missing() -> None:
    book = books(60, 120, 180).drop(columns=["bid_depth_1pct", "ask_depth_1pct"])
    found = features(book, 3)
    assert np.isfinite(found["touch_imbalance"]).all()
    for name in ("depth_imbalance", "log_depth_turnover_24h", "log_depth_excess_168h"):
        assert np.isnan(found[name]).all()


def test_recorded_books_are_imported_and_crossed_ones_kept_out(tmp_path: Path) -> None:
    stamps = pa.array([START + HOUR * k for k in range(4)], pa.timestamp("ms", tz="UTC"))
    file = tmp_path / "books.parquet"
    content = {
        "ts": stamps,
        "best_bid": [99.0, 100.2, 99.0, 99.0],
        "best_ask": [100.0, 100.0, 100.0, 100.0],
        "bid_size": [1.0, 1.0, 0.0, 2.0],
        "ask_size": [2.0, 2.0, 2.0, 2.0],
    }
    pq.write_table(pa.table(content), file)
    mapping = {"event_time": "ts", "bid": "best_bid", "ask": "best_ask", "bid_size": "bid_size", "ask_size": "ask_size"}
    report = import_data(
        "parquet",
        file,
        tmp_path / "store",
        table="order_book",
        columns=mapping,
        set_={"symbol": "BTCUSDT"},
        delay=pd.Timedelta("2s"),
    )
    assert report.rows == {"order_book": 2}
    causes = [(bad.line, bad.column, bad.cause) for bad in report.quarantined]
    assert causes == [(2, "bid", "is not below ask"), (3, "bid_size", "is not positive")]
    rows = Market.open(tmp_path / "store").table("order_book")
    assert rows["bid_size"].tolist() == [1.0, 2.0]
    assert (rows["available_at"] - rows["event_time"] == pd.Timedelta("2s")).all()
    assert rows["bid_depth_1pct"].isna().all()
