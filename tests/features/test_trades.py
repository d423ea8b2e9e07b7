"""Files of aggregate trades of every era and kind, into a store."""

from __future__ import annotations

import hashlib
import json
import re
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
from features.sources.trade_cells import SPELLINGS, typed
from features.sources.trades import TradeReading
from features.sources.trades import read as read_files
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
        frame[["first_trade_id", "last_trade_id"]] += 9_000 * (per == 1_000)
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


def test_missing_hours_have_no_bars_until_a_complete_file_brings_them(tmp_path: Path) -> None:
    frame = trades(days=2)
    hour = frame["transact_time"] // 3_600_000 % 24
    holed = frame[(hour < 6) | (hour >= 12)]
    daily(tmp_path / "in", holed)
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    made = bars(tmp_path / "store")
    assert len(made) == 36
    assert (made["volume"] > 0).all()
    touched = made[made["close_time"].dt.hour.isin([6, 13]) | (made.index == 0)]
    assert made.index[made["realised_variance"].isna()].equals(touched.index)
    assert made["signed_volume"].isna().sum() == 4
    assert len([remark for _, remark in report.notes if remark.startswith("2 1h bars touch a jump")]) == 2
    daily(tmp_path / "whole", frame)
    read(tmp_path / "whole", tmp_path / "store", intervals=["1h"])
    mended = bars(tmp_path / "store").drop_duplicates("close_time")
    assert len(mended) == 48


def test_a_day_cut_short_is_found_by_the_next_ones_first_trade(tmp_path: Path) -> None:
    frame = trades()
    time = frame["transact_time"]
    noon = pd.Timestamp("2024-01-02T11:30").value // 1_000_000
    midnight = pd.Timestamp("2024-01-03").value // 1_000_000
    files = daily(tmp_path / "in", frame[(time < noon) | (time >= midnight)])
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    made = bars(tmp_path / "store")
    assert len(made) == 24 + 12 + 24
    assert made["amihud"].isna().tolist() == [i in (0, 35, 36) for i in range(60)]
    [told] = [(file, remark) for file, remark in report.notes if "does not follow" in remark]
    assert told[0] == str(files[1])
    assert told[1].startswith(f"{files[2].name} does not follow it: trades are missing after 2024-01-02T11:")
    # The day before counts for the third day, the one cut short does not.
    whole = pd.concat([frame[time < midnight - DAY], frame[time >= midnight]])
    daily(tmp_path / "two", whole)
    read(tmp_path / "two", tmp_path / "other", intervals=["1h"])
    third = [
        rows[rows["close_time"] > pd.Timestamp(midnight, unit="ms", tz="UTC")]
        for rows in (made, bars(tmp_path / "other"))
    ]
    assert np.array_equal(third[0]["large_trades"][1:], third[1]["large_trades"][1:])


def test_silence_at_the_end_is_flat_once_the_next_file_follows(tmp_path: Path) -> None:
    frame = trades(days=2, count=400)
    frame = frame[frame["transact_time"] // 3_600_000 % 24 < 20].assign(agg_trade_id=lambda d: np.arange(len(d)))
    files = daily(tmp_path / "in", frame)
    report = read(files[0], tmp_path / "store", intervals=["1h"])
    assert len(bars(tmp_path / "store")) == 20
    assert [remark for _, remark in report.notes if remark.startswith("4 bars after its last trade are left out")]
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    made = bars(tmp_path / "store")
    assert len(report.written) == 1
    assert made["close_time"].diff()[1:].eq(pd.Timedelta("1h")).all()
    assert len(made) == 44
    assert (made["volume"][20:24] == 0).all()
    assert (made["realised_variance"][20:24] == 0).all()


def test_a_file_without_rows_is_skipped_and_the_ids_tell_whether_the_next_follows(tmp_path: Path) -> None:
    frame = trades(days=3)
    time, start = frame["transact_time"], frame["transact_time"].iloc[0] // DAY * DAY
    frame = frame[(time < start + DAY) | (time >= start + 2 * DAY)]
    for name, step in (("follows", 0), ("jumps", 1)):
        later = frame["transact_time"] >= start + 2 * DAY
        ids = np.arange(len(frame)) + later * step
        daily(tmp_path / name, frame.assign(agg_trade_id=ids))
        write(place(tmp_path / name, "2024-01-02"), ",".join(COLUMNS) + ("\n" if step else ""))
        pq.write_table(
            pa.Table.from_pandas(frame[:0], preserve_index=False), place(tmp_path / name, "2024", ".parquet")
        )
        report = read(tmp_path / name, tmp_path / f"{name}.store", intervals=["1h"])
        assert [reason for _, reason in report.skipped] == ["it holds no rows"] * 2
        assert len(bars(tmp_path / f"{name}.store")) == (48 if step else 72)


def test_a_first_id_of_one_continues_nothing(tmp_path: Path) -> None:
    frame = trades().assign(agg_trade_id=lambda d: np.arange(len(d)) + 1)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), place(tmp_path / "in", "x", ".parquet"))
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    made = bars(tmp_path / "store")
    # The first day is known in part and measures nothing; the first hour is left out.
    assert len(made) == 70
    assert made["large_trades"].isna().tolist() == [i < 47 for i in range(70)]
    assert any("1 bars that begin before its first trade" in remark for _, remark in report.notes)


@pytest.mark.parametrize(
    ("column", "value", "last"),
    [
        ("transact_time", 1704153599999, False),
        *(("agg_trade_id", 10**12, last) for last in (False, True)),
        *(("last_trade_id", 10**5, last) for last in (False, True)),
    ],
)
def test_one_trade_ahead_of_all_others_costs_only_itself(tmp_path: Path, column: str, value: int, last: bool) -> None:
    frame = trades(days=2, count=1_000)
    at = int((frame["transact_time"] < 1704153600000).sum()) - 1 if last else 50
    broken = frame.copy()
    broken.loc[at, column] = value
    files = daily(tmp_path / "in", broken)
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert [(row.file, row.line, row.column) for row in report.quarantined] == [(str(files[0]), at + 2, column)]
    kept = (frame["last_trade_id"] - frame["first_trade_id"] + 1).drop(index=at).sum()
    made = bars(tmp_path / "store")
    assert made["trades"].sum() == kept
    assert made["signed_volume"].isna().sum() in (1, 2)


def test_a_thousandth_of_bad_rows_is_too_much(tmp_path: Path) -> None:
    lines = text_of(trades(days=1, count=20_000), header=True).splitlines()
    for name, count in (("few", 20), ("many", 21)):
        bad = [line + ",9" if 0 < i <= count * 7 and i % 7 == 0 else line for i, line in enumerate(lines)]
        write(place(tmp_path / name, "2024-01-01"), "\n".join(bad) + "\n")
    assert len(read(tmp_path / "few", tmp_path / "store", intervals=["1h"]).quarantined) == 20
    with pytest.raises(DataInvalid, match=r"21 of 20,000 rows are bad, so the file is refused"):
        read(tmp_path / "many", tmp_path / "store", intervals=["1h"])


def test_the_text_of_bad_rows_is_kept_in_part(tmp_path: Path) -> None:
    lines = text_of(trades(days=1, count=500), header=True).splitlines()
    lines[100] = "x," * 100_000
    lines[200] = lines[200].replace("true", "y" * 300_000).replace("false", "y" * 300_000)
    write(place(tmp_path / "in", "2024-01-01", ".csv"), "\n".join(lines) + "\n")
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    assert [row.line for row in report.quarantined] == [101, 201]
    assert report.quarantined[0].cause == "has 100001 fields where the layout has 7"
    assert sum(path.stat().st_size for path in (tmp_path / "store" / "quarantine").rglob("*.jsonl")) < 4_096
    assert len(str(report.quarantined)) < 4_096


def test_a_period_that_is_not_over_is_refused(tmp_path: Path) -> None:
    today = f"{pd.Timestamp.now('UTC'):%Y-%m-%d}"
    for period in (today, today[:7]):
        write(place(tmp_path / period, period), text_of(trades(today, days=1), header=True))
        with pytest.raises(DataInvalid, match=r"its period is not over; download the file again after \d{4}-"):
            read(tmp_path / period, tmp_path / "store", intervals=["1h"])


@pytest.mark.parametrize("second", [["1h"], ["1h", "1m"], ["1m"]])
def test_the_list_of_intervals_and_its_order_write_no_bar_again(tmp_path: Path, second: list[str]) -> None:
    daily(tmp_path / "in", trades())
    for first, then in ((["1m", "1h"], second), (second, ["1m", "1h"])):
        store = tmp_path / "-".join(first)
        held = read(tmp_path / "in", store, intervals=first).written
        more = read(tmp_path / "in", store, intervals=then).written
        assert len(held) + len(more) == 6


def test_a_start_without_known_state_is_told_once(tmp_path: Path) -> None:
    files = daily(tmp_path / "in", trades())
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    [(file, told)] = [note for note in report.notes if "without known state" in note[1]]
    assert file == str(files[0])
    assert "null until 2024-01-02T00:00:00.000000Z at least, and rest on fewer than 7 days until 2024-01-08" in told
    assert told.endswith("import it together with the 7 days before")
    made = bars(tmp_path / "store")
    assert made["large_trades"].isna().sum() == 24


def test_the_nearest_folder_names_the_market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [file] = daily(tmp_path / "spot" / "cm", trades(days=1))
    read(file, tmp_path / "store", intervals=["1h"])
    assert len(bars(tmp_path / "store")) == 24
    for folder in (file.parent, file.parents[2]):
        monkeypatch.chdir(folder)
        report = read(Path(), tmp_path / "store", intervals=["1h"])
        assert report.rows == {"bars": 24}


def test_what_is_left_open_is_told_of_the_file_that_ends(tmp_path: Path) -> None:
    frame = trades(days=2)
    later = frame["transact_time"] >= frame["transact_time"].iloc[0] // DAY * DAY + DAY
    names = {"a": frame[later].assign(agg_trade_id=lambda d: d["agg_trade_id"] + 5), "b": frame[~later]}
    for name, part in names.items():
        pq.write_table(pa.Table.from_pandas(part, preserve_index=False), place(tmp_path / "in", name, ".parquet"))
    report = read(tmp_path / "in", tmp_path / "store", intervals=["1h"])
    told = [Path(file).stem[-1] for file, remark in report.notes if "unfinished" in remark]
    assert told == ["b", "a"]


def test_an_imports_id_tells_closes_apart_to_the_last_bit(tmp_path: Path) -> None:
    frame = trades(days=2).drop(columns="is_buyer_maker")
    later = frame["transact_time"] >= frame["transact_time"].iloc[0] // DAY * DAY + DAY
    found = []
    for name, price in (("a", 100.0), ("b", 100.0 + 1e-11)):
        # The last trade of an hour in the middle of the first day.
        hour = int((frame["transact_time"] // 3_600_000 % 24 < 12).to_numpy().argmin()) - 1
        files = []
        for period, part in (("2024-01-01", frame[~later]), ("2024-01-02", frame[later])):
            part = part.assign(price=part["price"].where(part.index != hour, price))
            files.append(place(tmp_path / name, period, ".parquet"))
            pq.write_table(pa.Table.from_pandas(part, preserve_index=False), files[-1])
        readings = dict(outcome for outcome in read_files(files, ["1h"]) if isinstance(outcome[1], TradeReading))
        found.append(readings[files[1]].bars[0].parameters["known"])
    assert found[0][:2] == found[1][:2]
    assert found[0] != found[1]


CELLS = ["1", "17.5", "+1", "0x10", ".5", "1.", "-3", "1e5", "inf", "nan", "", " 1", "/", "1.2.3", "0", "true", "FALSE",
         "tRue", "9" * 19, "9" * 31, "-", "yes", "é", "٣"]  # fmt: skip


@given(st.lists(st.sampled_from(CELLS), max_size=6), st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_a_cell_is_judged_by_itself_and_its_pattern(cells: list[str], skipped: int) -> None:
    for kind, (pattern, _, _) in SPELLINGS.items():
        column = pa.array(["x" * 9] * skipped + cells, pa.string())[skipped:]
        values, bad = typed(column, kind)
        assert len(values) == len(cells)
        for i, cell in enumerate(cells):
            assert (bad is None or not bad[i]) == bool(re.search(pattern, cell))
            if bad is None or not bad[i]:
                expected = cell.lower() == "true" if kind == pa.bool_() else float(cell)
                assert values[i].as_py() == expected


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
