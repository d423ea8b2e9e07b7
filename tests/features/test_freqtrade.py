from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataInvalid, UsageError
from features.market import Market
from features.sources import import_data
from features.sources.freqtrade import read
from features.sources.reading import Reading, Skip

START = 1_709_251_200_000  # 2024-03-01 00:00 UTC, in milliseconds
HOUR = 3_600_000


def save(path: Path, dates: Sequence[int], rows: Sequence[Sequence[float]]) -> Path:
    """A file as freqtrade writes it: ``date`` in milliseconds UTC and five float columns."""
    columns = [pa.array(dates, pa.timestamp("ms", tz="UTC"))]
    columns += [pa.array([float(row[i]) for row in rows], pa.float64()) for i in range(5)]
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["date", "open", "high", "low", "close", "volume"]
    pyarrow.feather.write_feather(pa.table(columns, names=names), str(path))
    return path


def flat(count: int) -> list[list[float]]:
    return [[100.0, 101.0, 99.0, 100.5, 2.0]] * count


def tree(folder: Path) -> Path:
    opens = [START + i * HOUR for i in range(4)]
    save(folder / "futures" / "BTC_USDT_USDT-1h-futures.feather", opens, flat(4))
    save(folder / "futures" / "BTC_USDT_USDT-1h-mark.feather", opens, [[*row[:4], 0.0] for row in flat(4)])
    quarter = [START + i * HOUR // 4 for i in range(4)]
    save(folder / "futures" / "BTC_USDT_USDT-15m-futures.feather", quarter, flat(4))
    settled = [START + hours * HOUR for hours in (0, 8, 16, 64, 68, 76)]
    save(folder / "futures" / "BTC_USDT_USDT-8h-funding_rate.feather", settled, [[1e-4, 0, 0, 0, 0]] * 6)
    save(folder / "BTC_USDT-1h.feather", opens, flat(4))
    return folder


def test_every_file_of_the_layout_fills_its_table(tmp_path: Path) -> None:
    report = import_data("freqtrade", tree(tmp_path / "data"), tmp_path / "store")
    assert dict(report.rows) == {"bars": 8, "funding": 6, "mark": 4, "spot": 4}
    assert report.quarantined == report.skipped == report.notes == ()
    market = Market.open(tmp_path / "store")
    bars = market.bars().loc["BTCUSDT"]
    assert bars.index[0] == pd.Timestamp("2024-03-01 01:00", tz="UTC")
    assert (bars["available_at"] == bars.index).all()
    assert bars["trades"].isna().all()
    assert bars["taker_buy_volume"].isna().all()
    assert market.bars("15m").index[0] == ("BTCUSDT", pd.Timestamp("2024-03-01 00:15", tz="UTC"))
    assert list(market.mark().columns) == ["open", "high", "low", "close", "available_at", "source"]
    assert market.spot()["volume"].tolist() == [2.0] * 4


def test_the_settlement_interval_follows_from_the_spacing_and_is_null_across_a_hole(tmp_path: Path) -> None:
    import_data("freqtrade", tree(tmp_path / "data"), tmp_path / "store")
    funding = Market.open(tmp_path / "store").funding()
    assert funding["interval_hours"].fillna(-1).tolist() == [-1, 8, 8, -1, 4, 8]
    assert funding["funding_rate"].tolist() == [1e-4] * 6
    assert (funding["available_at"] == funding["funding_time"]).all()
    assert funding["funding_time"].iloc[0] == pd.Timestamp("2024-03-01", tz="UTC")
    assert set(funding["exchange"]) == {"binance"}


def test_the_settlement_interval_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    hours = [0, 16, 8, 8, 20, 12]
    rate = [[1e-4, 0, 0, 0, 0]] * len(hours)
    save(tmp_path / "BTC_USDT_USDT-8h-funding_rate.feather", [START + hour * HOUR for hour in hours], rate)
    report = import_data("freqtrade", tmp_path, tmp_path / "store")
    assert [bad.line for bad in report.quarantined] == [4]
    funding = Market.open(tmp_path / "store").funding()
    assert funding["interval_hours"].fillna(-1).tolist() == [-1, 8, 4, 4, 4]


def table(**changed: pa.Array) -> pa.Table:
    """Four sound bars with some columns replaced, or added."""
    opens = pa.array([START + i * HOUR for i in range(4)], pa.timestamp("ms", tz="UTC"))
    names = ["open", "high", "low", "close", "volume"]
    columns = {"date": opens} | {name: pa.array([row[i] for row in flat(4)]) for i, name in enumerate(names)}
    return pa.table(columns | changed)


def refusal(folder: Path, content: pa.Table) -> str:
    file = folder / "BTC_USDT_USDT-1h-futures.feather"
    pyarrow.feather.write_feather(content, str(file))
    with pytest.raises(DataInvalid) as refused:
        import_data("freqtrade", file, folder / "store")
    return str(refused.value)


def test_truth_values_and_times_are_no_prices(tmp_path: Path) -> None:
    yes = pa.array([True] * 4)
    for kind in (yes, pa.array([True, None, True, True]), yes.dictionary_encode(), pa.array([1] * 4, pa.duration("s"))):
        assert "column volume" in refusal(tmp_path, table(volume=kind))
    assert "column high" in refusal(tmp_path, table(high=pa.array([START] * 4, pa.timestamp("ms"))))
    assert "column close" in refusal(tmp_path, table(close=pa.array([b"100.5"] * 4)))


@pytest.mark.parametrize(
    "dates",
    [
        pa.array(["now"] * 4),
        pa.array([f"2024-03-{day}" for day in range(1, 5)]),
        pa.array([2**53] * 4, pa.timestamp("s")),
        pa.array([253_402_300_799] * 4, pa.timestamp("s", tz="UTC")),
        pa.array([1] * 4, pa.duration("s")),
        pa.nulls(4).dictionary_encode(),
    ],
    ids=["word", "torn text", "beyond any range", "year 9999", "length", "nothing"],
)
def test_what_is_no_instant_of_this_age_is_refused(tmp_path: Path, dates: pa.Array) -> None:
    told = refusal(tmp_path, table(date=dates))
    assert "column close_time: is missing" in told if dates.null_count else "column date" in told


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    twice = table().append_column("close", pa.array([1.0] * 4))
    assert "has twice freqtrade's column 'close'" in refusal(tmp_path, twice)


def test_cells_mean_the_same_in_a_dictionary(tmp_path: Path) -> None:
    plain = table(volume=pa.array(["2.5", "2.5", "x", "3"]))
    file = tmp_path / "BTC_USDT_USDT-1h-futures.feather"
    encoded = [column.dictionary_encode() for column in plain.columns]
    pyarrow.feather.write_feather(pa.table(encoded, names=plain.column_names), str(file))
    report = import_data("freqtrade", file, tmp_path / "store")
    assert [(bad.line, bad.column) for bad in report.quarantined] == [(3, "volume")]
    assert Market.open(tmp_path / "store").bars()["volume"].tolist() == [2.5, 2.5, 3.0]


def test_importing_again_is_a_no_op(tmp_path: Path) -> None:
    store = tmp_path / "store"
    tree(tmp_path / "data")
    import_data("freqtrade", tmp_path / "data", store)
    before = {path: path.read_bytes() for path in store.rglob("*.parquet")} | {
        "m": (store / "manifest.json").read_bytes()
    }
    again = import_data("freqtrade", tmp_path / "data", store)
    assert again.written == ()
    after = {path: path.read_bytes() for path in store.rglob("*.parquet")} | {
        "m": (store / "manifest.json").read_bytes()
    }
    assert after == before


def test_a_single_file_is_enough(tmp_path: Path) -> None:
    file = tree(tmp_path / "data") / "BTC_USDT-1h.feather"
    assert dict(import_data("freqtrade", file, tmp_path / "store").rows) == {"spot": 4}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notes.txt", "its name is not"),
        ("BTC_USDT_USDT-1h-premiumIndex.feather", "premiumIndex"),
        ("BTC_USDT_USDT-1w-futures.feather", "1w"),
        ("BTC_USD_BTC-1h-futures.feather", "settles in BTC"),
    ],
)
def test_other_files_are_skipped_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    skipped = read(tmp_path / name, b"")
    assert isinstance(skipped, Skip)
    assert reason in skipped.reason


def test_a_damaged_file_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    data = tree(tmp_path / "data")
    broken = data / "ETH_USDT-1h.feather"
    broken.write_bytes((data / "BTC_USDT-1h.feather").read_bytes()[:200])
    report = import_data("freqtrade", data, tmp_path / "store")
    assert report.rows["spot"] == 4
    [refused] = report.quarantined
    assert refused.file == str(broken)
    assert refused.line is None
    assert "download it again" in refused.cause


def test_nothing_readable_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataInvalid, match="holds no files"):
        import_data("freqtrade", tmp_path / "data", tmp_path / "store")
    (tmp_path / "data" / "ETH_USDT-1h.feather").write_bytes(b"junk")
    with pytest.raises(DataInvalid, match=r"ETH_USDT-1h\.feather.*download it again"):
        import_data("freqtrade", tmp_path / "data", tmp_path / "store")
    with pytest.raises(UsageError, match="does not exist"):
        import_data("freqtrade", tmp_path / "nowhere", tmp_path / "store")
    with pytest.raises(UsageError, match="--delay belongs to --from parquet"):
        import_data("freqtrade", tmp_path / "data", tmp_path / "store", delay=pd.Timedelta("1h"))


def test_an_empty_file_is_skipped_and_alone_refused(tmp_path: Path) -> None:
    save(tmp_path / "data" / "ETH_USDT-1h.feather", [], [])
    with pytest.raises(DataInvalid, match=r"ETH_USDT-1h\.feather: it holds no rows"):
        import_data("freqtrade", tmp_path / "data", tmp_path / "store")
    tree(tmp_path / "data")
    report = import_data("freqtrade", tmp_path / "data", tmp_path / "store")
    assert [reason for _, reason in report.skipped] == ["it holds no rows"]
    assert report.quarantined == ()


def test_bad_rows_are_quarantined_with_their_text_and_good_ones_kept(tmp_path: Path) -> None:
    rows = flat(4)
    rows[2] = [100.0, 90.0, 99.0, 100.5, 2.0]
    opens = [START + i * HOUR for i in range(4)]
    save(tmp_path / "data" / "BTC_USDT_USDT-1h-futures.feather", opens, rows)
    report = import_data("freqtrade", tmp_path / "data", tmp_path / "store")
    [bad] = report.quarantined
    assert (bad.line, bad.column, bad.cause) == (3, "high", "is below open or close")
    assert report.rows["bars"] == 3
    [kept] = (tmp_path / "store" / "quarantine" / "bars").glob("freqtrade-*.jsonl")
    told = json.loads(kept.read_text())
    assert (told["line"], told["column"], told["row"]["high"]) == (3, "high", "90.0")
    assert len(Market.open(tmp_path / "store").bars()) == 3


def test_a_file_that_is_mostly_bad_is_refused_whole(tmp_path: Path) -> None:
    rows = [[100.0, 90.0, 99.0, 100.5, 2.0]] * 3 + flat(1)
    opens = [START + i * HOUR for i in range(4)]
    save(tmp_path / "BTC_USDT_USDT-1h-futures.feather", opens, rows)
    with pytest.raises(DataInvalid, match="3 of 4 rows are bad"):
        import_data("freqtrade", tmp_path, tmp_path / "store")


price = st.floats(1.0, 1000.0, allow_nan=False)
candle = st.tuples(price, price, price, price, st.floats(0.0, 1e6)).map(
    lambda p: (p[0], max(p[:4]), min(p[:4]), p[3], p[4])
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(0, 400), candle, min_size=1, max_size=12))
def test_reading_is_exact(tmp_path_factory: pytest.TempPathFactory, candles: dict[int, tuple[float, ...]]) -> None:
    folder = tmp_path_factory.mktemp("layout")
    path = save(folder / "X_USDT_USDT-1h-futures.feather", [START + h * HOUR for h in candles], list(candles.values()))
    reading = read(path, path.read_bytes())
    assert isinstance(reading, Reading)
    for row, (hour, expected) in zip(reading.frame.to_dict("records"), candles.items(), strict=True):
        closed = pd.Timestamp(START + (hour + 1) * HOUR, unit="ms", tz="UTC")
        assert row["close_time"] == row["available_at"] == closed
        assert (row["open"], row["high"], row["low"], row["close"], row["volume"]) == expected


@pytest.mark.real
def test_the_real_tree_is_read_row_for_row(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "freqtrade" / "futures" / "SOL_USDT_USDT-8h-funding_rate.feather"
    raw = pyarrow.feather.read_table(source)
    import_data("freqtrade", source, tmp_path / "store")
    funding = Market.open(tmp_path / "store").funding()
    assert funding["funding_rate"].tolist() == raw["open"].to_pylist()
    # The file has one hole of 59 days, and nothing is known before its first row.
    hole = funding[funding["interval_hours"].isna()]
    assert hole["funding_time"].tolist() == [
        pd.Timestamp("2024-01-06 08:00", tz="UTC"),
        pd.Timestamp("2025-02-01 00:00", tz="UTC"),
    ]
    bars = real_data / "freqtrade" / "futures" / "BTC_USDT_USDT-1h-futures.feather"
    raw = pyarrow.feather.read_table(bars)
    report = import_data("freqtrade", bars, tmp_path / "store")
    assert report.rows["bars"] == raw.num_rows
    assert report.quarantined == ()
    stored = Market.open(tmp_path / "store").bars().loc["BTCUSDT"]
    assert stored["close"].tolist() == raw["close"].to_pylist()
    # 2020-03-12 10:00 to 11:00 UTC, the first hour of the crash.
    assert stored.loc[pd.Timestamp("2020-03-12 11:00", tz="UTC"), "low"] < 7000


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "table", "symbol", "hour", "column", "price"),
    [
        ("LINK_USDT-1h", "spot", "LINKUSDT", "2020-03-12 11:00", "low", 0.0001),
        ("futures/ETH_USDT_USDT-1h-futures", "bars", "ETHUSDT", "2020-03-13 03:00", "high", 323.0),
    ],
)
def test_the_farthest_real_prices_stay(
    real_data: Path, tmp_path: Path, file: str, table: str, symbol: str, hour: str, column: str, price: float
) -> None:
    """Spot sold down to its tick within an hour, and a perpetual at three times its price: both were traded."""
    report = import_data("freqtrade", real_data / "freqtrade" / f"{file}.feather", tmp_path / "store")
    assert report.quarantined == ()
    market = Market.open(tmp_path / "store")
    stored = (market.spot() if table == "spot" else market.bars()).loc[symbol]
    assert stored.loc[pd.Timestamp(hour, tz="UTC"), column] == price
