"""Files of aggregate trades of every era and kind, into a store."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataInvalid, UsageError
from features.market import Market
from features.sources import ImportReport, import_data
from features.store import Store
from features.trades.bars import SIDED

DAY = 86_400_000
COLUMNS = ["agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker"]


def trades(first: str = "2024-01-01", days: int = 3, count: int = 3_000, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    last = rng.geometric(0.5, count).cumsum()
    start = pd.Timestamp(first).value // 1_000_000
    return pd.DataFrame(
        {
            "agg_trade_id": np.arange(count) + 7,
            "price": np.round(100 * np.exp(rng.normal(0, 1e-3, count).cumsum()), 2),
            "quantity": np.round(rng.lognormal(0, 1, count), 3) + 0.001,
            "first_trade_id": np.concatenate([[0], last[:-1]]) + 1,
            "last_trade_id": last,
            "transact_time": np.sort(rng.integers(0, days * DAY, count)) + start,
            "is_buyer_maker": rng.random(count) < 0.5,
        }
    )


def text_of(frame: pd.DataFrame, header: bool, spot: bool = False) -> str:
    sides = {True: "True", False: "False"} if spot else {True: "true", False: "false"}
    spelt = frame.assign(is_buyer_maker=frame["is_buyer_maker"].map(sides))
    return str((spelt.assign(is_best_match="True") if spot else spelt).to_csv(index=False, header=header))


def place(folder: Path, period: str, suffix: str = ".zip", market: str = "futures/um", symbol: str = "BTCUSDT") -> Path:
    kind = "monthly" if len(period) == 7 else "daily"
    file = folder / market / kind / "aggTrades" / symbol / f"{symbol}-aggTrades-{period}{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def write(file: Path, text: str) -> Path:
    if file.suffix == ".csv":
        file.write_text(text)
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{file.stem}.csv", text)
    return file


def daily(folder: Path, frame: pd.DataFrame, *, header: bool = True, suffix: str = ".zip") -> list[Path]:
    days = frame["transact_time"] // DAY * DAY
    return [
        write(place(folder, str(np.datetime64(int(day), "ms"))[:10], suffix), text_of(part, header))
        for day, part in frame.groupby(days)
    ]


def bars(store: Path, interval: str = "1h", table: str = "bars") -> pd.DataFrame:
    opened = Store(store)
    parts = [opened.read(file) for file in opened.find(table, interval)]
    return pd.concat(parts, ignore_index=True).sort_values("close_time", ignore_index=True)


def read(folder: Path, store: Path, **more: Any) -> ImportReport:
    return import_data("trades", folder, store, **more)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("reference")
    daily(folder / "in", trades())
    read(folder / "in", folder / "store")
    return bars(folder / "store")


def test_daily_zips_make_bars_of_both_intervals(tmp_path: Path, reference: pd.DataFrame) -> None:
    frame = trades()
    for file in daily(tmp_path / "in", frame):
        beside = file.with_name(file.name + ".CHECKSUM")
        beside.write_text(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
    report = read(tmp_path / "in", tmp_path / "store")
    assert not report.quarantined
    assert not report.skipped
    hour, minute = bars(tmp_path / "store"), bars(tmp_path / "store", "1m")
    assert len(hour) == 72
    assert hour["trades"].sum() == (frame["last_trade_id"] - frame["first_trade_id"] + 1).sum()
    assert minute["volume"].sum() == pytest.approx(frame["quantity"].sum(), rel=1e-12)
    assert (hour["available_at"] == hour["close_time"]).all()
    assert set(hour["source"]) == {"trades"}
    assert np.isfinite(hour["vpin"].iloc[-1])
    assert any("flat" in remark for _, remark in report.notes)
    pd.testing.assert_frame_equal(hour, reference)
    market = Market.open(tmp_path / "store")
    assert list(market.symbols) == ["BTCUSDT"]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("suffix", [".zip", ".csv"])
def test_every_text_layout_gives_the_same_bits(
    tmp_path: Path, reference: pd.DataFrame, header: bool, suffix: str
) -> None:
    daily(tmp_path / "in", trades(), header=header, suffix=suffix)
    read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    pd.testing.assert_frame_equal(bars(tmp_path / "store"), reference)


@pytest.mark.parametrize("stamp", [None, "ms", "us", "ns"])
@pytest.mark.parametrize("rows", [500, 10_000])
def test_parquet_of_any_row_groups_gives_the_same_bits(
    tmp_path: Path, reference: pd.DataFrame, stamp: str | None, rows: int
) -> None:
    held = pa.Table.from_pandas(trades(), preserve_index=False)
    if stamp:
        column = held["transact_time"].cast(pa.timestamp("ms", tz="UTC")).cast(pa.timestamp(stamp, tz="UTC"))
        held = held.set_column(5, "transact_time", column)
    day = 3_000 // 3
    for name, part in (("0001", held.slice(0, day)), ("0002", held.slice(day))):
        pq.write_table(part, place(tmp_path / "in", name, ".parquet"), row_group_size=rows)
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    made = bars(tmp_path / "store")
    # Without a period the first and the last hour are not known to be whole, nor is the first day.
    assert len(made) == 70
    assert sum("begin before its first trade" in remark or "unfinished" in remark for _, remark in report.notes) == 2
    exact = [name for name in made if name not in (*("vpin", "large_trades", "duration_mean", "duration_cv"),)]
    pd.testing.assert_frame_equal(made[exact].iloc[1:], reference[exact].iloc[2:-1].set_axis(made.index[1:]))


def test_spot_is_read_in_the_unit_of_its_era(tmp_path: Path) -> None:
    for first, per in (("2024-12-30", 1), ("2025-01-01", 1_000)):
        frame = trades(first, days=2)
        frame["agg_trade_id"] += 3_000 * (per == 1_000)
        scaled = frame.assign(transact_time=frame["transact_time"] * per)
        for day, part in scaled.groupby(scaled["transact_time"] // (DAY * per)):
            period = str(np.datetime64(int(day), "D"))
            write(place(tmp_path / "in", period, market="spot"), text_of(part, header=False, spot=True))
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert not report.quarantined
    made = bars(tmp_path / "store", table="spot")
    assert len(made) == 96
    assert made["trades"].sum() > 0


def test_another_unit_than_the_eras_is_refused(tmp_path: Path) -> None:
    wrong = trades().assign(transact_time=lambda d: d["transact_time"] * 1_000)
    file = write(place(tmp_path / "in", "2024-01"), text_of(wrong, header=True))
    with pytest.raises(DataInvalid, match=r"line 2, column transact_time: is no instant in milliseconds"):
        read(file, tmp_path / "store")


def test_a_second_import_writes_nothing_and_a_further_interval_only_itself(tmp_path: Path) -> None:
    daily(tmp_path / "in", trades())
    first = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert len(first.written) == 3
    assert read(tmp_path / "in", tmp_path / "store", intervals=["1h"]).written == ()
    more = read(tmp_path / "in", tmp_path / "store", intervals=["1h", "4h"])
    assert len(more.written) == 3
    assert all("interval=4h" in file for file in more.written)


def test_a_file_read_after_other_days_is_another_import(tmp_path: Path) -> None:
    files = daily(tmp_path / "in", trades())
    read(files[2], tmp_path / "store", intervals=["1h"])
    assert len(read(tmp_path / "in", tmp_path / "store", intervals=["1h"]).written) == 3


def test_a_missing_day_is_told_and_has_no_bars(tmp_path: Path) -> None:
    files = daily(tmp_path / "in", trades(days=4, count=4_000))
    files[1].unlink()
    report = read(tmp_path / "in", tmp_path / "store")
    hour = bars(tmp_path / "store")
    assert len(hour) == 72
    assert not hour["close_time"].dt.strftime("%d-%H").between("02-01", "03-00").any()
    assert any("no trades from 2024-01-02" in remark and "1 days" in remark for _, remark in report.notes)


def test_jumps_in_ids_are_counted_and_their_bars_kept(tmp_path: Path) -> None:
    daily(tmp_path / "in", trades().drop(index=[100, 101, 900]))
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert len(bars(tmp_path / "store")) == 72
    remarks = [remark for _, remark in report.notes if "jump" in remark]
    assert "2 jumps in the aggregate ids, 3 ids are missing, first 2 before line 102" in remarks[0]
    assert "touch a jump" in remarks[1]


FAULTS: dict[str, tuple[str, Any]] = {
    "price": ("price", "-1"),
    "zero": ("quantity", "0"),
    "text": ("price", "abc"),
    "infinite": ("price", "inf"),
    "empty": ("quantity", ""),
    "fraction": ("agg_trade_id", "17.5"),
    "overflow": ("transact_time", "9" * 25),
    "side": ("is_buyer_maker", "maybe"),
    "period": ("transact_time", "1704240000000"),
    "seconds": ("transact_time", "1704067200"),
    "order": ("transact_time", "1704067200000"),
    "repeated": ("agg_trade_id", "7"),
    "ids": ("last_trade_id", "-1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_trades_are_quarantined_by_line(tmp_path: Path, name: str) -> None:
    column, value = FAULTS[name]
    lines = text_of(trades(days=1, count=500), header=True).splitlines()
    fields = lines[250].split(",")
    fields[COLUMNS.index(column)] = value
    lines[250] = ",".join(fields)
    write(place(tmp_path / "in", "2024-01-01"), "\n".join(lines) + "\n")
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert [(row.line, row.column) for row in report.quarantined] == [(251, column)]
    kept = [json.loads(line) for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert [entry["line"] for entry in kept] == [251]
    assert len(bars(tmp_path / "store")) >= 23


def test_torn_lines_are_quarantined_and_do_not_shift_the_others(tmp_path: Path) -> None:
    lines = text_of(trades(days=1, count=500), header=True).splitlines()
    lines[100] = "1,2,3"
    lines[200] += ",8,9"
    lines[300] = lines[300].replace("100", "x", 1) if "100" in lines[300] else "x" + lines[300]
    write(place(tmp_path / "in", "2024-01-01"), "\n".join(lines) + "\n")
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert [row.line for row in report.quarantined] == [101, 201, 301]


def test_a_file_of_mostly_bad_rows_is_refused_and_the_next_goes_on(tmp_path: Path) -> None:
    files = daily(tmp_path / "in", trades())
    lines = zipfile.ZipFile(files[1]).read(f"{files[1].stem}.csv").decode().splitlines()
    lines = [line if i % 3 == 0 else "torn" for i, line in enumerate(lines)]
    write(files[1], "\n".join(lines))
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert "rows are bad, so the file is refused" in report.quarantined[0].cause
    assert len(bars(tmp_path / "store")) == 48
    assert any("1 days are missing" in remark for _, remark in report.notes)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    text = text_of(trades(days=1, count=2_000), header=True)
    whole = write(place(tmp_path / "a", "2024-01-01"), text)
    content = whole.read_bytes()
    broken = {
        "cut": content[: len(content) // 2],
        "flipped": bytes(b ^ (0xFF if i == len(content) // 3 else 0) for i, b in enumerate(content)),
        "nothing": b"",
    }
    for name, damaged in broken.items():
        file = place(tmp_path / name, "2024-01-01")
        file.write_bytes(damaged)
        with pytest.raises(DataInvalid, match="no sound zip file"):
            read(file, tmp_path / "store")
    whole.with_name(whole.name + ".CHECKSUM").write_text("0" * 64)
    with pytest.raises(DataInvalid, match="does not have the sha256"):
        read(whole, tmp_path / "store")
    bomb = place(tmp_path / "bomb", "2024-01-01")
    write(bomb, text + "0" * 60_000_000)
    with pytest.raises(DataInvalid, match="bomb"):
        read(bomb, tmp_path / "store")
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("../evil.csv", text)
    with pytest.raises(DataInvalid, match="a path and not a file name"):
        read(bomb, tmp_path / "store")
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("ETHUSDT-aggTrades-2024-01-01.csv", text)
    with pytest.raises(DataInvalid, match="not BTCUSDT-aggTrades-2024-01-01"):
        read(bomb, tmp_path / "store")
    place(tmp_path / "p", "2024-01-01", ".parquet").write_bytes(content)
    with pytest.raises(DataInvalid, match="no sound parquet file"):
        read(tmp_path / "p", tmp_path / "store")


def test_without_side_the_proxy_stands_in_its_own_columns(tmp_path: Path) -> None:
    frame = trades(count=6_000)
    file = place(tmp_path / "in", "2024-01", ".parquet")
    pq.write_table(pa.Table.from_pandas(frame.drop(columns="is_buyer_maker"), preserve_index=False), file)
    read(file, tmp_path / "store", intervals=["1m"])
    made = bars(tmp_path / "store", "1m")
    assert made[list(SIDED)].isna().all(axis=None)
    change = np.log(made["close"]).diff()
    scale = change.rolling(120).std().shift()
    known = scale.notna() & (scale > 0)
    assert made["bvc_taker_buy_volume"].notna().equals(known)
    from scipy.stats import norm

    expected = made["volume"] * norm.cdf(change / scale)
    np.testing.assert_allclose(made["bvc_taker_buy_volume"][known], expected[known], rtol=1e-6)
    np.testing.assert_allclose(
        made["bvc_signed_volume"][known], (2 * expected - made["volume"])[known], rtol=1e-6, atol=1e-9
    )


def test_what_holds_no_perpetuals_trades_is_skipped_or_refused(tmp_path: Path) -> None:
    text = text_of(trades(days=1), header=True)
    daily(tmp_path / "in", trades(days=1))
    write(place(tmp_path / "in", "2024-01"), text)
    write(place(tmp_path / "in", "2024-01-01", market="futures/cm", symbol="BTCUSD_PERP"), text)
    write(place(tmp_path / "in", "2024-01-01", symbol="BTCUSDT_240329"), text)
    (tmp_path / "in" / "readme.txt").write_text("x")
    write(place(tmp_path / "in", "2024-01-01", market="elsewhere"), text)
    write(place(tmp_path / "in", "2024-13"), text)
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert sorted(reason.split(":")[0].split(",")[0] for _, reason in report.skipped) == [
        "a dated future", "coin-margined", "its time is in an earlier file; of files that overlap the first and longest"
        " counts", "not named SYMBOL-aggTrades-PERIOD as .zip",
    ]  # fmt: skip
    assert [row.cause.split("; ")[-1] for row in report.quarantined] == [
        "keep the archive's folders, such as futures/um/daily/aggTrades",
        "keep the archive's name",
    ]


def test_intervals_are_checked_before_anything_is_done(tmp_path: Path) -> None:
    daily(tmp_path / "in", trades(days=1))
    with pytest.raises(UsageError, match="'7m' is no interval"):
        read(tmp_path / "in", tmp_path / "store", intervals=["7m"])
    with pytest.raises(UsageError, match="--intervals belongs to --from trades"):
        import_data("vision", tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert not (tmp_path / "store").exists()


@given(
    at=st.integers(0, 499),
    junk=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_any_line_is_taken_or_named(tmp_path_factory: pytest.TempPathFactory, at: int, junk: str) -> None:
    folder = tmp_path_factory.mktemp("junk")
    frame = trades(days=1, count=500)
    lines = text_of(frame, header=False).splitlines()
    lines[at] = junk
    write(place(folder, "2024-01-01", ".csv"), "\n".join(lines) + "\n")
    try:
        report = read(folder, folder / "store", intervals=["1h"])
    except DataInvalid:
        assert at == 0
        return
    assert [row.line for row in report.quarantined] == [at + 1]
