from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataInvalid
from features.market import Market
from features.sources import ImportReport, import_data
from features.sources.reading import Reading, Skip
from features.sources.vision import read

KLINE_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
FUNDING_HEADER = "calc_time,funding_interval_hours,last_funding_rate"
METRICS_HEADER = (
    "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
    "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio"
)
MARCH = 1_709_251_200_000  # 2024-03-01 00:00 UTC, in milliseconds
YEAR_2025 = 1_735_689_600_000
HOUR = 3_600_000


def kline(opened: int | str, step: int = HOUR, **changed: object) -> str:
    row: dict[str, object] = {
        "open_time": opened, "open": "100.5", "high": "101", "low": "99", "close": "100", "volume": "7.5",
        "close_time": int(float(opened)) + step - 1, "quote_volume": "750", "count": "12",
        "taker_buy_volume": "3", "taker_buy_quote_volume": "300", "ignore": "0",
    }  # fmt: skip
    return ",".join(str(value) for value in (row | changed).values())


def pack(path: Path, lines: Sequence[str], checksum: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.stem + ".csv", "\n".join(lines) + "\n")
    if checksum:
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(path.name + ".CHECKSUM").write_text(f"{sha}  {path.name}\n")
    return path


def perpetual(folder: Path, period: str = "2024-03") -> Path:
    return folder / f"data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-{period}.zip"


def spot(folder: Path, period: str) -> Path:
    return folder / f"data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-{period}.zip"


def load(folder: Path) -> tuple[ImportReport, Market]:
    report = import_data("vision", folder / "data", folder / "store")
    return report, Market.open(folder / "store")


@pytest.mark.parametrize("header", [[KLINE_HEADER], []])
def test_klines_of_both_header_eras(tmp_path: Path, header: list[str]) -> None:
    pack(perpetual(tmp_path), [*header, *(kline(MARCH + i * HOUR) for i in range(3))])
    report, market = load(tmp_path)
    assert report.quarantined == ()
    bars = market.bars().loc["BTCUSDT"]
    assert bars.index.tolist() == [pd.Timestamp(f"2024-03-01 0{i}:00", tz="UTC") for i in (1, 2, 3)]
    assert (bars["available_at"] == bars.index).all()
    values = bars.iloc[0].drop(["available_at", "source"]).to_dict()
    assert values == {
        "open": 100.5, "high": 101.0, "low": 99.0, "close": 100.0, "volume": 7.5, "quote_volume": 750.0,
        "trades": 12.0, "taker_buy_volume": 3.0, "taker_buy_quote_volume": 300.0,
    }  # fmt: skip


def test_a_header_is_read_by_name_not_by_position(tmp_path: Path) -> None:
    names = KLINE_HEADER.split(",")
    turned = ",".join(names[::-1])
    pack(perpetual(tmp_path), [turned, ",".join(kline(MARCH).split(",")[::-1])])
    # The reversed header begins with a letter, so the first line is recognised for what it is.
    _, market = load(tmp_path)
    assert market.bars()["high"].tolist() == [101.0]


def test_spot_is_milliseconds_before_2025_and_microseconds_from_then_on(tmp_path: Path) -> None:
    pack(spot(tmp_path, "2024-12"), [kline(YEAR_2025 - HOUR)])
    pack(spot(tmp_path, "2025-01"), [kline(YEAR_2025 * 1000, HOUR * 1000)])
    _, market = load(tmp_path)
    closes = market.spot().loc["BTCUSDT"].index.tolist()
    assert closes == [pd.Timestamp("2025-01-01 00:00", tz="UTC"), pd.Timestamp("2025-01-01 01:00", tz="UTC")]


@pytest.mark.parametrize(
    ("line", "column", "cause"),
    [
        (kline((MARCH + HOUR) * 1000, HOUR * 1000), "open_time", "milliseconds"),
        (kline((MARCH + HOUR) // 1000, HOUR // 1000), "open_time", "milliseconds"),
        (kline(MARCH + HOUR, close_time=MARCH + 2 * HOUR), "close_time", "open_time + 1h - 1"),
        (kline(MARCH + HOUR, step=HOUR // 4), "close_time", "open_time + 1h - 1"),
        (kline(MARCH + HOUR + 1), "close_time", "whole multiple"),
        (kline(MARCH - HOUR), "open_time", "outside BTCUSDT-1h-2024-03"),
        (kline(MARCH), "close_time", "repeats the key"),
        (kline(MARCH + HOUR, open="1e400"), "open", "not finite"),
        (kline(MARCH + HOUR, close="nan"), "close", "'nan' is not a number"),
        (kline(MARCH + HOUR, close="inf", high="inf"), "high", "not finite"),
        (kline(MARCH + HOUR, volume="seven"), "volume", "'seven' is not a number"),
        (kline(MARCH + HOUR, volume=""), "volume", "not a number"),
        (kline(MARCH + HOUR, volume="-1"), "volume", "negative"),
        (kline(MARCH + HOUR, volume='"7.5"'), "volume", "not a number"),
        (kline(MARCH + HOUR, count="2.5"), "trades", "not a whole number"),
        (kline(f"{MARCH + HOUR}.0"), "open_time", "milliseconds"),
        (kline(MARCH + HOUR, low="102"), "low", "above open or close"),
        (kline(MARCH + HOUR, high="50"), "high", "below open or close"),
        (kline(MARCH + HOUR, high="101000"), "high", "more than 10 times open and close"),
        (kline(MARCH + HOUR, low="0.1"), "low", "less than 1/10 of open and close"),
        (kline(MARCH + HOUR, taker_buy_volume="8"), "taker_buy_volume", "more than volume"),
        (kline(MARCH + HOUR, open_time="abc"), "open_time", "no instant"),
        (kline(MARCH + HOUR).rsplit(",", 3)[0], None, "has 9 fields"),
        (kline(MARCH + HOUR) + ",9", None, "has 13 fields"),
    ],
)
def test_a_bad_line_is_quarantined_by_number_column_and_cause(
    tmp_path: Path, line: str, column: str | None, cause: str
) -> None:
    file = pack(perpetual(tmp_path), [KLINE_HEADER, kline(MARCH), line, kline(MARCH + 2 * HOUR)])
    report, market = load(tmp_path)
    [bad] = report.quarantined
    assert (bad.file, bad.line) == (str(file), 3)
    assert bad.column == column
    assert cause in bad.cause
    assert len(market.bars()) == 2
    [kept] = (tmp_path / "store/quarantine/bars").glob("*.jsonl")
    assert len(kept.read_text().splitlines()) == 1


def test_a_stray_quote_does_not_swallow_the_lines_below(tmp_path: Path) -> None:
    lines = [kline(MARCH + i * HOUR) for i in range(6)]
    lines[1] = kline(MARCH + HOUR, close='"100')
    # The last column is not read: a quote in it is no reason to lose what follows.
    lines[3] = kline(MARCH + 3 * HOUR, ignore='"0')
    pack(perpetual(tmp_path), lines)
    report, market = load(tmp_path)
    assert [(bad.line, bad.column) for bad in report.quarantined] == [(2, "close")]
    assert len(market.bars()) == 5


def test_lines_out_of_order_are_sorted_and_reported(tmp_path: Path) -> None:
    pack(perpetual(tmp_path), [kline(MARCH + HOUR), kline(MARCH)])
    report, market = load(tmp_path)
    assert market.bars().index.is_monotonic_increasing
    assert "not in order of time" in report.notes[0][1]


def test_a_wrong_checksum_refuses_the_file_and_only_it(tmp_path: Path) -> None:
    file = pack(perpetual(tmp_path), [kline(MARCH)])
    pack(spot(tmp_path, "2024-03"), [kline(MARCH)])
    file.with_name(file.name + ".CHECKSUM").write_text(f"{'0' * 64}  {file.name}\n")
    report, market = load(tmp_path)
    [refused] = report.quarantined
    assert refused.file == str(file)
    assert "sha256" in refused.cause
    assert market.bars().empty
    assert len(market.spot()) == 1


def bomb(path: Path) -> None:
    pack(path, ["0" * 5_000_000], checksum=False)


def two_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", kline(MARCH))
        archive.writestr("b.csv", kline(MARCH))


def climbing(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped.csv", kline(MARCH))


def encrypted(path: Path) -> None:
    pack(path, [kline(MARCH)], checksum=False)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag in the local header, and in the central directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def lying(path: Path) -> None:
    """States a small size in both headers and holds more."""
    pack(path, ["0" * 5_000_000], checksum=False)
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    for place in (22, directory + 24):
        content[place : place + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)


def renamed(path: Path) -> None:
    """Another symbol's rows: nothing else in the file says whose they are."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(path.stem.replace("BTC", "ETH") + ".csv", kline(MARCH))


def spoilt(method: int, path: Path) -> None:
    """The member's bytes do not fit its compression."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(path.stem + ".csv", "\n".join(kline(MARCH + i * HOUR) for i in range(50)))
    content = bytearray(path.read_bytes())
    start = 30 + len(path.stem + ".csv")
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)


def nameless(path: Path) -> None:
    """The member's name is marked as UTF-8 and is none."""
    pack(path, [kline(MARCH)], checksum=False)
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 9] |= 8
    content[directory + 46] = 0xFF
    path.write_bytes(content)


def torn(path: Path) -> None:
    pack(path, [kline(MARCH + i * HOUR) for i in range(50)], checksum=False)
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("attack", "cause"),
    [
        (bomb, "bomb"),
        (two_members, "2 members"),
        (climbing, "a path and not a file name"),
        (encrypted, "encrypted"),
        (lying, "sound zip|bomb"),
        (torn, "no sound zip file"),
        (renamed, "not BTCUSDT-1h-2024-03.csv"),
        (partial(spoilt, zipfile.ZIP_LZMA), "no sound zip file"),
        (partial(spoilt, zipfile.ZIP_BZIP2), "no sound zip file"),
        (nameless, "no sound zip file"),
    ],
)
def test_hostile_and_broken_zips_are_refused(tmp_path: Path, attack: object, cause: str) -> None:
    path = perpetual(tmp_path)
    path.parent.mkdir(parents=True)
    attack(path)  # type: ignore[operator]
    with pytest.raises(DataInvalid, match=cause):
        read(path, path.read_bytes())
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"a,b\n1,2\n", "lacks the column 'open_time'"),
        (KLINE_HEADER.replace("close,", "open,").encode(), "has twice the column 'open'"),
    ],
)
def test_text_that_is_no_kline_file_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    with pytest.raises(DataInvalid, match=cause):
        read(tmp_path / "futures/um/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-03-01.csv", content)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("futures/cm/monthly/klines/X/1h/BTCUSD-1h-2024-03.zip", "coin-margined"),
        ("futures/um/monthly/klines/X/1w/BTCUSDT-1w-2024-03.zip", "1w"),
        ("futures/um/monthly/klines/X/1h/BTCUSDT_240329-1h-2024-03.zip", "dated future"),
        ("futures/um/monthly/klines/X/1h/README.txt", "its name is not"),
    ],
)
def test_other_files_are_skipped_with_the_reason(tmp_path: Path, place: str, reason: str) -> None:
    skipped = read(tmp_path / place, b"")
    assert isinstance(skipped, Skip)
    assert reason in skipped.reason


def test_a_file_without_its_folders_is_refused_because_its_market_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="keep the archive's folders"):
        read(tmp_path / "BTCUSDT-1h-2024-03.zip", b"")


def test_mark_prices_have_no_volume(tmp_path: Path) -> None:
    pack(tmp_path / "data/futures/um/monthly/markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip", [kline(MARCH)])
    _, market = load(tmp_path)
    assert list(market.mark().columns) == ["open", "high", "low", "close", "available_at", "source"]


def test_funding_loses_its_jitter_but_is_not_known_early(tmp_path: Path) -> None:
    path = tmp_path / "data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-03.zip"
    eight = 8 * HOUR
    lines = [
        f"{MARCH + 7},8,0.0001",
        f"{MARCH + eight - 3},8,-0.00002",
        f"{MARCH + 2 * eight + 1800_000},8,0",
    ]
    pack(path, [FUNDING_HEADER, *lines])
    report, market = load(tmp_path)
    [bad] = report.quarantined
    assert (bad.line, bad.column) == (4, "calc_time")
    funding = market.funding()
    midnight = pd.Timestamp("2024-03-01", tz="UTC")
    assert funding["funding_time"].tolist() == [midnight, midnight + pd.Timedelta(hours=8)]
    assert funding["available_at"].tolist() == [
        midnight + pd.Timedelta(milliseconds=7),
        midnight + pd.Timedelta(hours=8),
    ]
    assert funding["interval_hours"].tolist() == [8.0, 8.0]
    assert funding["funding_rate"].tolist() == [0.0001, -0.00002]


@pytest.mark.parametrize(
    ("day", "label", "known"),
    [
        ("2026-06-24", "2026-06-24 12:00:00", "2026-06-24 12:00"),
        ("2026-06-25", "2026-06-25 12:00:00", "2026-06-25 12:05"),
    ],
)
def test_open_interest_before_and_after_the_labels_moved(tmp_path: Path, day: str, label: str, known: str) -> None:
    content = f"{METRICS_HEADER}\n{label},BTCUSDT,10.5,1050,1,1,1,1\n".encode()
    reading = read(tmp_path / f"BTCUSDT-metrics-{day}.csv", content)
    assert isinstance(reading, Reading)
    [row] = reading.frame.to_dict("records")
    assert row["event_time"] == row["available_at"] == pd.Timestamp(known, tz="UTC")


@pytest.mark.parametrize(
    ("day", "label"),
    [
        ("2024-03-01", "now"),
        ("2024-03-01", "2024-03-01"),
        ("2024-03-01", "2024-03-01 00:1"),
        ("2024-03-01", "2024-03-01 00:05:60"),
        ("2024-03-01", "2024-03-02 00:05:00"),
        # Labelled with the start of its five minutes, midnight is the next day's.
        ("2026-06-25", "2026-06-26 00:00:00"),
    ],
)
def test_a_torn_or_foreign_label_is_no_instant_of_the_file(tmp_path: Path, day: str, label: str) -> None:
    rows = [f"{text},BTCUSDT,10.5,1050,1,1,1,1" for text in (f"{day} 00:00:00", label, f"{day} 12:00:00")]
    content = "\n".join([METRICS_HEADER, *rows]).encode()
    reading = read(tmp_path / f"BTCUSDT-metrics-{day}.csv", content)
    assert isinstance(reading, Reading)
    assert [(bad.line, bad.column) for bad, _ in reading.torn] == [(3, "create_time")]
    assert len(reading.frame) == 2


def test_open_interest_with_repeats_and_zeros(tmp_path: Path) -> None:
    rows = ["2024-03-01 00:05:00,BTCUSDT,10.5,1050,1,1,1,1"] * 2
    rows += [f"2024-03-01 00:{minute}:00,BTCUSDT,11,1100,,,," for minute in (10, 15, 20)]
    rows += ["2024-03-01 00:25:00,BTCUSDT,0,0,,,,", "2024-03-02 00:00:00,BTCUSDT,12,,,,,"]
    pack(
        tmp_path / "data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2024-03-01.zip",
        [METRICS_HEADER, *rows],
    )
    report, market = load(tmp_path)
    assert [(bad.line, bad.column) for bad in report.quarantined] == [(7, "open_interest")]
    assert "repeat" in report.notes[0][1]
    table = market.open_interest()
    assert table["open_interest"].tolist() == [10.5, 11, 11, 11, 12]
    assert table["open_interest_value"].isna().tolist() == [False] * 4 + [True]


def slow_validator(text: str) -> list[tuple[int, float]]:
    """Which hourly bars of March 2024 a careful person would accept, one line at a time."""
    accepted: dict[int, float] = {}
    for row in csv.reader(io.StringIO(text)):
        try:
            opened, closed = int(row[0]), int(row[6])
            open_, high, low, close, volume, quote, _, buy, buy_quote = (
                float(row[i]) for i in (1, 2, 3, 4, 5, 7, 8, 9, 10)
            )
        except (ValueError, IndexError):
            continue
        numbers = (open_, high, low, close, volume, quote, buy, buy_quote)
        sane = len(row) == 12 and all(0 <= x < float("inf") for x in numbers) and low > 0
        ordered = low <= min(open_, close) and high >= max(open_, close) and buy <= volume and buy_quote <= quote
        near = high <= 10 * max(open_, close) and 10 * low >= min(open_, close)
        timed = MARCH <= opened < MARCH + 31 * 24 * HOUR and opened % HOUR == 0 and closed == opened + HOUR - 1
        if sane and ordered and near and timed and opened not in accepted:
            accepted[opened] = close
    return sorted(accepted.items())


field = st.sampled_from(["open_time", "open", "high", "low", "close", "volume", "close_time", "taker_buy_volume"])
value = st.sampled_from(["", "nan", "inf", "-1", "0", "1e400", "abc", "100", "1e-9", str(MARCH), str(MARCH * 1000)])
damage = st.tuples(st.integers(0, 29), field, value)


@settings(max_examples=50, deadline=None)
@given(st.lists(damage, max_size=8), st.lists(st.integers(0, 29), max_size=3))
def test_a_damaged_file_yields_exactly_its_sound_lines(
    tmp_path_factory: pytest.TempPathFactory, damages: list[tuple[int, str, str]], cut: list[int]
) -> None:
    changes: dict[int, dict[str, str]] = {}
    for line, column, text in damages:
        changes.setdefault(line, {})[column] = text
    lines = [kline(MARCH + i * HOUR, **changes.get(i, {})) for i in range(30)]
    lines = [line[: len(line) // 2] if i in cut else line for i, line in enumerate(lines)]
    # The first field decides whether a file has a header: keep it a number.
    lines.insert(0, kline(MARCH + 30 * HOUR))
    folder = tmp_path_factory.mktemp("damaged")
    pack(perpetual(folder), lines)
    report, market = load(folder)
    bars = market.bars().loc["BTCUSDT"]
    opened = [int(time.timestamp()) * 1000 - HOUR for time in bars.index]
    assert list(zip(opened, bars["close"], strict=True)) == slow_validator("\n".join(lines))
    assert len(bars) + len(report.quarantined) == len(lines)


@pytest.mark.real
def test_the_real_archive_is_read_line_for_line(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "binance_vision"
    report = import_data("vision", source, tmp_path / "store")
    assert report.quarantined == ()
    counted = {"klines": 0, "fundingRate": 0}
    total = 0.0
    for path in source.rglob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            lines = archive.read(archive.namelist()[0]).decode().split()
        rows = [line.split(",") for line in lines if line[0].isdigit()]
        counted["klines" if "klines" in path.parts else "fundingRate"] += len(rows)
        total += sum(float(row[5]) for row in rows if "um" in path.parts and "klines" in path.parts)
    assert report.rows["bars"] + report.rows["spot"] == counted["klines"]
    assert report.rows["funding"] == counted["fundingRate"]
    market = Market.open(tmp_path / "store")
    assert market.bars()["volume"].sum() == pytest.approx(total, rel=1e-12)
    # Hourly without a hole across the change of units at the turn of the year.
    spot_closes = market.spot().loc["BTCUSDT"].loc["2024-12-31":"2025-01-02"].index
    assert set(spot_closes.diff().dropna()) == {pd.Timedelta(hours=1)}
