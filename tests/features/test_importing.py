"""What becomes of each file of an import, whatever its reader says of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import DataInvalid
from features.market import Market
from features.sources import import_data

HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"


def trades(folder: Path, symbol: str, period: str, count: int = 48) -> Path:
    """A trade every half an hour from the beginning of the period on."""
    tier = "monthly" if len(period) == 7 else "daily"
    file = folder / f"futures/um/{tier}/aggTrades/{symbol}/{symbol}-aggTrades-{period}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    start = int(pd.Timestamp(period, tz="UTC").timestamp() * 1000)
    ids = range(start // 1_800_000, start // 1_800_000 + count)
    rows = [f"{i},{100 + i % 5},1,{i},{i},{i * 1_800_000},{i % 2 == 0}" for i in ids]
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    return file


def test_a_file_whose_bars_no_table_takes_is_refused_and_the_sound_one_beside_it_is_taken(tmp_path: Path) -> None:
    strange = trades(tmp_path / "in", "ADA USDT", "2024-01-01")
    trades(tmp_path / "in", "BTCUSDT", "2024-01-01")
    report = import_data("trades", tmp_path / "in", tmp_path / "store")
    [refused] = report.quarantined
    assert (refused.file, refused.line) == (str(strange), None)
    assert "so the file is refused; first: " in refused.cause
    assert "column symbol: is no name" in refused.cause
    # Of a refused file nothing is written, neither of one interval nor of the other.
    assert Market.open(tmp_path / "store").symbols == ("BTCUSDT",)
    assert {file.split("/")[2] for file in report.written} == {"symbol=BTCUSDT"}


def test_each_symbol_of_trades_is_committed_and_progress_is_told(tmp_path: Path) -> None:
    for symbol in ("ADAUSDT", "BTCUSDT"):
        for day in ("2024-01-01", "2024-01-02"):
            trades(tmp_path / "in", symbol, day)
    told = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_data("trades", tmp_path / "in", tmp_path / "store", intervals=["1h"], progress=stop)
    assert list(dict.fromkeys(told)) == [(1, 4), (2, 4), (3, 4)]
    assert Market.open(tmp_path / "store").symbols == ("ADAUSDT",)
    again = import_data("trades", tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert len(again.written) == 2
    assert Market.open(tmp_path / "store").symbols == ("ADAUSDT", "BTCUSDT")


def test_an_import_without_rows_says_what_its_notes_say(tmp_path: Path) -> None:
    """Three trades of a file without period, within one hour: all of its bars are left out."""
    file = tmp_path / "in/um/BTCUSDT-aggTrades.parquet"
    file.parent.mkdir(parents=True)
    start = pd.Timestamp("2024-01-01 00:10", tz="UTC")
    ids = pa.array(range(3), pa.int64())
    columns = {"agg_trade_id": ids, "price": pa.array([100.0] * 3), "quantity": pa.array([1.0] * 3)}
    columns |= {"first_trade_id": ids, "last_trade_id": ids, "is_buyer_maker": pa.array([True] * 3)}
    stamps = pa.array([start + pd.Timedelta(minutes=i) for i in range(3)], pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table(columns | {"transact_time": stamps}), file)
    with pytest.raises(DataInvalid, match=r"unfinished|begin before its first trade") as refusal:
        import_data("trades", tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert "holds no files" not in str(refusal.value)


def test_a_folder_without_files_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataInvalid, match="it holds no files"):
        import_data("trades", tmp_path / "in", tmp_path / "store")
