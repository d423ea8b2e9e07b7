"""Cells of Feather, Parquet and CSV files as plain Python, read slowly and surely."""

from __future__ import annotations

import csv
import io
import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from fuzzing.contract import BAD, Bad, micros, number

# What a reader of tables takes for a missing cell of a text file.
MISSING = {
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A", "NA", "NULL"),
    *("NaN", "n/a", "nan", "null"),
}
ISO_8601 = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
FIRST, LAST = (micros(datetime(year, 1, 1, tzinfo=UTC)) for year in (1678, 2262))
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Instant:
    """A cell that is an instant, in nanoseconds since 1970."""

    nanoseconds: int


def load(content: bytes, suffix: str) -> tuple[list[str], list[list[Any]], list[int]] | str:
    """Names, cells by column and the rows' lines, or why the file cannot be read."""
    if suffix == ".csv":
        return _load_text(content)
    reader = pa.feather.read_table if suffix == ".feather" else pa.parquet.read_table
    try:
        table = reader(io.BytesIO(content))
        table.validate(full=True)
        for kind in table.schema.types:
            if pa.types.is_timestamp(kind) and kind.tz is not None:
                zoneinfo.ZoneInfo(kind.tz)  # an instant of a zone that there is not
        columns = [plain(column) for column in table.columns]
        return list(table.column_names), columns, list(range(1, table.num_rows + 1))
    except Exception as fault:
        return f"it cannot be read: {fault!r}"


def _load_text(content: bytes) -> tuple[list[str], list[list[Any]], list[int]] | str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "it is no UTF-8"
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=""))
    for row in reader:
        if row:
            rows.append(row)
            lines.append(reader.line_num)
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        return "it is empty or ragged"
    if any("\n" in cell or "\r" in cell for row in rows for cell in row):
        return "a line break lies inside a field"
    columns = [[None if cell in MISSING else cell for cell in column] for column in zip(*rows[1:], strict=True)]
    return rows[0], columns or [[] for _ in rows[0]], lines[1:]


def plain(column: pa.ChunkedArray) -> list[Any]:
    """Cells as float, int, str, Instant, None, or BAD for whatever is none of these."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain(pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], kind.value_type))
    if pa.types.is_timestamp(kind):
        per = 10**9 // PER_SECOND[kind.unit]
        return [None if v is None else Instant(v * per) for v in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_date(kind):
        return [None if d is None else _day(d) for d in column.to_pylist()]
    values = column.to_pylist()
    if pa.types.is_boolean(kind):
        return [None if v is None else BAD for v in values]
    return [_cell(v) for v in values]


def _day(day: Any) -> Instant:
    return Instant(micros(datetime(day.year, day.month, day.day, tzinfo=UTC)) * 1000)


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and value != value):
        return None
    return value if isinstance(value, int | float | str | Decimal) else BAD


def numeric(cell: Any) -> float | Bad | None:
    """A cell as the number it is."""
    if isinstance(cell, str):
        return number(cell)
    return float(cell) if isinstance(cell, int | float | Decimal) else None if cell is None else BAD


def instants(column: list[Any]) -> list[int | Bad | None]:
    """A column as microseconds: instants, ISO 8601 text, or whole numbers in the unit that their median shows."""
    given = [cell for cell in column if cell is not None]
    if given and all(isinstance(cell, str) and re.fullmatch("[0-9]+", cell) for cell in given):
        column = [None if cell is None else int(cell) for cell in column]
        given = [cell for cell in column if cell is not None]
    numbers = sorted(cell for cell in given if isinstance(cell, int | float) and abs(cell) != float("inf"))
    if not numbers:
        return [_instant(cell) for cell in column]
    half = len(numbers) // 2
    middle = numbers[half] if len(numbers) % 2 else (numbers[half - 1] + numbers[half]) / 2
    unit = next((u for u in (1, 10**3, 10**6) if middle < 10**10 * u), 10**9)
    found: list[int | Bad | None] = []
    for cell in column:
        if isinstance(cell, int | float):
            found.append(int(cell) * 10**6 // unit if 3 * 10**8 * unit < cell < 10**10 * unit else BAD)
        else:
            found.append(_instant(cell))
    return found


def _instant(cell: Any) -> int | Bad | None:
    if cell is None:
        return None
    if isinstance(cell, Instant):
        return _in_range(cell.nanoseconds // 1000)
    if not isinstance(cell, str) or not ISO_8601.fullmatch(cell):
        return BAD
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return BAD
    return _in_range(micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC)))


def _in_range(micro: int) -> int | Bad:
    """An instant that any unit can hold, which none of a market's is beyond."""
    return micro if FIRST <= micro < LAST else BAD


def later(moment: Any, span: timedelta) -> Any:
    """An instant moved on; what is none stays as it is."""
    return moment + span // timedelta(microseconds=1) if isinstance(moment, int) else moment
