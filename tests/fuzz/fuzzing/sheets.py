"""Text files of the public archive before they become bytes, and the ways to damage them, from the row to the zip."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from fuzzing.contract import HOUR, NUMBER
from fuzzing.mangling import BYTES, FIELDS, Change, mangle_bytes

KLINES = (
    *("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count"),
    *("taker_buy_volume", "taker_buy_quote_volume", "ignore"),
)
FUNDING = ("calc_time", "funding_interval_hours", "last_funding_rate")
METRICS = (
    *("create_time", "symbol", "sum_open_interest", "sum_open_interest_value"),
    *("count_toptrader_long_short_ratio", "sum_toptrader_long_short_ratio"),
    *("count_long_short_ratio", "sum_taker_long_short_vol_ratio"),
)
SYMBOL = "BTCUSDT"


@dataclass(frozen=True)
class Era:
    """One dataset as published at one time."""

    name: str
    table: str
    folder: str
    layout: tuple[str, ...]
    period: str
    what: str
    header: bool
    per_second: int = 1_000
    clock: int = 0

    @property
    def start(self) -> datetime:
        text = self.period if len(self.period) == 10 else self.period + "-01"
        return datetime.fromisoformat(text).replace(tzinfo=UTC)

    @property
    def end(self) -> datetime:
        if len(self.period) == 10:
            return self.start + timedelta(days=1)
        return (self.start + timedelta(days=32)).replace(day=1)

    @property
    def stem(self) -> str:
        return f"{SYMBOL}-{self.what}-{self.period}"


@dataclass
class Sheet:
    """A text file before it becomes bytes."""

    era: Era
    header: list[str] | None
    rows: list[list[str]]
    delimiter: str = ","
    newline: str = "\n"
    blanks: list[int] = field(default_factory=list)

    def lines(self) -> list[str]:
        listed = [self.delimiter.join(row) for row in ([self.header] if self.header else []) + self.rows]
        for place in sorted(self.blanks):
            listed.insert(place % (len(listed) + 1), "")
        return listed

    def encode(self) -> bytes:
        return "".join(line + self.newline for line in self.lines()).encode("utf-8", "surrogatepass")


def _at(sheet: Sheet, i: int) -> list[str]:
    return sheet.rows[i % len(sheet.rows)] if sheet.rows else []


def set_field(sheet: Sheet, i: int, j: int, k: int) -> None:
    if row := _at(sheet, i):
        row[j % len(row)] = FIELDS[k % len(FIELDS)]


def swap_fields(sheet: Sheet, i: int, j: int, k: int) -> None:
    if row := _at(sheet, i):
        a, b = j % len(row), k % len(row)
        row[a], row[b] = row[b], row[a]


def drop_field(sheet: Sheet, i: int, j: int, k: int) -> None:
    if row := _at(sheet, i):
        del row[j % len(row)]


def insert_field(sheet: Sheet, i: int, j: int, k: int) -> None:
    if row := _at(sheet, i):
        row.insert(j % (len(row) + 1), FIELDS[k % len(FIELDS)])


def repeat_field(sheet: Sheet, i: int, j: int, k: int) -> None:
    if row := _at(sheet, i):
        row.insert(j % len(row), row[j % len(row)])


def scale_value(sheet: Sheet, i: int, j: int, k: int) -> None:
    factor = ("-1", "0", "10", "0.1", "1000", "0.001", "1e6", "1e12", "1.0000000001", "1.01", "0.99", "1e300")[k % 12]
    if row := _at(sheet, i):
        j %= len(row)
        row[j] = str(Decimal(row[j]) * Decimal(factor)) if NUMBER.fullmatch(row[j]) else row[j]


def copy_value(sheet: Sheet, i: int, j: int, k: int) -> None:
    if row := _at(sheet, i):
        row[j % len(row)] = row[k % len(row)]


def spaced(sheet: Sheet, i: int, j: int, k: int) -> None:
    pairs = ((" ", ""), ("", " "), ("\t", ""), ('"', '"'), ('"', ""), ("", '"'), ("'", "'"), ("+", ""), ("0", ""))
    before, after = pairs[k % len(pairs)]
    if row := _at(sheet, i):
        row[j % len(row)] = before + row[j % len(row)] + after


def _shift(text: str, change: int, era: Era) -> str:
    """An epoch moved by µs, in the era's unit."""
    return str(int(text) + change * era.per_second // 1_000_000) if text.lstrip("-").isdecimal() else text


def shift_time(sheet: Sheet, i: int, j: int, k: int) -> None:
    """A row moved in time, as a whole or only its opening or closing instant."""
    steps = (1_000, -1_000, 7_000, 30_000_000, 61_000_000, -59_000_000, 60_000_000, HOUR // 2, HOUR, -HOUR, 24 * HOUR)
    change = (*steps, 31 * 24 * HOUR, -366 * 24 * HOUR, 276 * 8766 * HOUR)[k % (len(steps) + 3)]
    row = _at(sheet, i)
    if row and sheet.era.layout is METRICS:
        try:
            moved = datetime.fromisoformat(row[0]) + timedelta(microseconds=change)
            row[0] = f"{moved:%Y-%m-%d %H:%M:%S}"
        except ValueError:
            return
    elif row:
        places = {0: (0, 6), 1: (0,), 2: (6,)}[j % 3] if sheet.era.layout is KLINES else (sheet.era.clock,)
        for place in places:
            if place < len(row):
                row[place] = _shift(row[place], change, sheet.era)


def change_unit(sheet: Sheet, i: int, j: int, k: int) -> None:
    """One row, or every row, in another unit of time."""
    for row in sheet.rows if j % 2 else [_at(sheet, i)]:
        for place in (0, 6) if sheet.era.layout is KLINES else (sheet.era.clock,):
            if place < len(row) and row[place].isdecimal():
                stamp = int(row[place])
                row[place] = str((stamp * 1000, stamp // 1000, stamp * 10**6, stamp // 10**6)[k % 4])


def repeat_row(sheet: Sheet, i: int, j: int, k: int) -> None:
    if row := _at(sheet, i):
        sheet.rows.insert(j % (len(sheet.rows) + 1), list(row))


def swap_rows(sheet: Sheet, i: int, j: int, k: int) -> None:
    if sheet.rows:
        a, b = i % len(sheet.rows), j % len(sheet.rows)
        sheet.rows[a], sheet.rows[b] = sheet.rows[b], sheet.rows[a]


def drop_row(sheet: Sheet, i: int, j: int, k: int) -> None:
    if sheet.rows:
        del sheet.rows[i % len(sheet.rows)]


def reverse_rows(sheet: Sheet, i: int, j: int, k: int) -> None:
    sheet.rows.reverse()


def insert_header(sheet: Sheet, i: int, j: int, k: int) -> None:
    sheet.rows.insert(i % (len(sheet.rows) + 1), list(sheet.era.layout))


def no_header(sheet: Sheet, i: int, j: int, k: int) -> None:
    sheet.header = None


def turn_header(sheet: Sheet, i: int, j: int, k: int) -> None:
    """Header and rows in another order of columns: sound, if every row follows."""
    if sheet.header:
        shift = 1 + i % len(sheet.header)
        sheet.header = sheet.header[shift:] + sheet.header[:shift]
        sheet.rows = [row[shift:] + row[:shift] for row in sheet.rows]


def change_header(sheet: Sheet, i: int, j: int, k: int) -> None:
    if sheet.header:
        name = sheet.header[i % len(sheet.header)]
        other = sheet.header[j % len(sheet.header)]
        sheet.header[i % len(sheet.header)] = (name.upper(), name[:-1], f" {name}", other, f'"{name}"', "")[k % 6]


def extra_column(sheet: Sheet, i: int, j: int, k: int) -> None:
    place = j % (len(sheet.era.layout) + 1)
    for row in ([sheet.header] if sheet.header else []) + sheet.rows:
        row.insert(place, "further" if row is sheet.header else "1")


def delimit(sheet: Sheet, i: int, j: int, k: int) -> None:
    sheet.delimiter = (";", "\t", "|", ", ", ",,")[k % 5]


def end_lines(sheet: Sheet, i: int, j: int, k: int) -> None:
    sheet.newline = ("\r\n", "\r", "\n\n", "\n\r", "\r\r\n", " \n", ",\n")[k % 7]


def blank_line(sheet: Sheet, i: int, j: int, k: int) -> None:
    sheet.blanks.append(i)


ROWS = (
    *(set_field, set_field, set_field, swap_fields, drop_field, insert_field, repeat_field, scale_value, scale_value),
    *(copy_value, spaced, spaced, shift_time, shift_time, shift_time, change_unit, repeat_row, swap_rows, drop_row),
    *(reverse_rows, insert_header, no_header, turn_header, change_header, extra_column, delimit, end_lines, blank_line),
)
ZIPS = ("two members", "no member", "path", "folder", "renamed", "encrypted", "bomb", "lying", "method", "flip", "cut")


def pack(stem: str, content: bytes, changes: list[Change]) -> bytes:
    """The zip that holds the file, damaged as ``changes`` say."""
    how = {change.name: change for change in changes}
    name = f"{stem}.csv"
    if "path" in how:
        name = ("../" + name, "/" + name, "a/" + name, "..\\" + name, "C:\\" + name)[how["path"].i % 5]
    if "renamed" in how:
        name = (name.replace("BTC", "ETH"), name.replace("20", "21"), "data.csv", stem)[how["renamed"].i % 4]
    if "folder" in how:
        name += "/"
    if "bomb" in how:
        content = content + b"0" * 3_000_000 if how["bomb"].i % 2 else content.split(b"\n")[0] + b"\n" * 3_000_000
    methods = (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    method = methods[how["method"].i % 4] if "method" in how else zipfile.ZIP_DEFLATED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        if "no member" not in how:
            archive.writestr(name, content)
        if "two members" in how:
            archive.writestr("second.csv", content)
    packed = bytearray(buffer.getvalue())
    directory = packed.rfind(b"PK\x01\x02")
    if "encrypted" in how and directory >= 0:
        packed[6] |= 1
        packed[directory + 8] |= 1
    if "lying" in how and directory >= 0:
        for place in (22, directory + 24):
            packed[place : place + 4] = how["lying"].i.to_bytes(4, "little")
    for change in changes:
        if change.name == "flip":
            packed[-1 - (change.i * 1000 + change.j) % len(packed)] ^= 1 << change.k % 8
        if change.name == "cut":
            packed = packed[: len(packed) * change.i // 1000]
    return bytes(packed)


def unpack(stem: str, content: bytes, declared: bool = True) -> bytes | str:
    """The only member's bytes, or why there are none; ``declared``: a size stated beyond reason is enough."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) != 1:
                return "it has not one member"
            if members[0].filename != f"{stem}.csv":
                return "its member is another file"
            if members[0].flag_bits & 1:
                return "it is encrypted"
            if declared and members[0].file_size > 200 * max(members[0].compress_size, 1):
                return "it is a bomb"
            held = archive.read(members[0])
            return held if len(held) <= 200 * len(content) else "it is a bomb"
    except Exception as fault:
        return f"it cannot be unpacked: {fault!r}"


_numbers = st.integers(0, 999)
changes = st.builds(
    Change, st.sampled_from([*ROWS, *BYTES, *ZIPS]), _numbers, _numbers, _numbers
)  # fmt: skip


def written(sheet: Sheet, zipped: bool, made: list[Change]) -> tuple[str, bytes]:
    """Place and bytes of the sheet with all changes made."""
    era = sheet.era
    for change in made:
        if callable(change.what):
            change.what(sheet, change.i, change.j, change.k)
    content = mangle_bytes(sheet.encode(), made)
    content = pack(era.stem, content, made) if zipped else content
    return f"{era.folder}/{era.stem}.{'zip' if zipped else 'csv'}", content
