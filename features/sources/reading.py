"""What a reader hands over: the rows of one file, and what it could not lay out as rows.

Files of columns are opened here, for every reader that takes them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from features.errors import DataInvalid
from features.schemas import to_utc

__all__ = ["BadRow", "Reading", "Skip", "columnar", "timed"]

# Spelt out, because pandas takes a torn date, and even the word now, for an instant as well.
ISO_8601: Final = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
RANGE: Final = (pd.Timestamp("1678-01-01"), pd.Timestamp("2262-01-01"))


@dataclass(frozen=True)
class BadRow:
    """A row (or, without a line, a whole file) that was kept out, and why."""

    file: str
    line: int | None
    column: str | None
    cause: str

    def __str__(self) -> str:
        line = "" if self.line is None else f", line {self.line}"
        column = "" if self.column is None else f", column {self.column}"
        return f"{self.file}{line}{column}: {self.cause}"


@dataclass(frozen=True)
class Skip:
    """A file that holds nothing for the store, and why."""

    reason: str


@dataclass(frozen=True)
class Reading:
    """The rows of one file.

    ``frame`` is indexed by line (text: line of the file; columnar: row, from 1) and carries the table's
    columns but ``source``; ``parameters`` is whatever besides the file's bytes decided the rows; ``torn`` are
    lines that the reader itself could not accept as rows, with their text.
    """

    table: str
    frame: pd.DataFrame
    parameters: Mapping[str, Any]
    torn: tuple[tuple[BadRow, str], ...] = ()
    notes: tuple[str, ...] = ()


def columnar(file: Path, content: bytes, read: Callable[[io.BytesIO], pa.Table]) -> pd.DataFrame:
    """The columns of a Feather, Parquet or CSV file, indexed by row from 1; ``DataInvalid`` if it is none."""
    try:
        held = read(io.BytesIO(content))
        # Damaged offsets would otherwise be followed out of the file's memory.
        held.validate(full=True)
        # A cell means the same whether or not it was written as a dictionary's.
        plain = [c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for c in held.columns]
        # Numbered, because pandas finds a column's type by its name, and two may have the same.
        numbered = pa.Table.from_arrays(plain, names=[str(place) for place in range(len(plain))])
        frame: pd.DataFrame = numbered.to_pandas(ignore_metadata=True)
    except (OSError, ValueError, pa.ArrowException) as fault:
        raise DataInvalid(f"{file} is no {file.suffix[1:]} file ({fault}); mend it, or download it again") from None
    return frame.set_axis(held.column_names, axis=1).set_axis(range(1, len(frame) + 1), axis=0)


def timed(
    file: Path, frame: pd.DataFrame, columns: Iterable[str]
) -> tuple[pd.DataFrame, tuple[tuple[BadRow, str], ...]]:
    """Those of ``columns`` that there are as instants, without the rows where one is given and is none: these apart."""
    torn: list[tuple[BadRow, str]] = []
    for column in columns:
        if column not in frame:
            continue
        moments = instants(frame[column])
        lost = moments.isna() & frame[column].notna()
        for line, row in frame[lost].apply(_spelt).iterrows() if lost.any() else ():
            cause = f"{row[column]!r} is not an instant"
            text = ", ".join(f"{name}={value}" for name, value in row.items())
            torn.append((BadRow(str(file), int(str(line)), column, cause), text))
        frame = frame.assign(**{column: moments})[~lost]
    return frame, tuple(torn)


def _spelt(values: pd.Series) -> pd.Series:
    try:
        return values.astype("str")
    except NotImplementedError:  # a year that Python cannot spell: the number behind it
        return values.astype("int64").astype("str")


def instants(values: pd.Series) -> pd.Series:
    """Untrusted cells as ``datetime64[us, UTC]``: instants, ISO 8601 text, or epochs; anything else becomes NaT."""
    if isinstance(values.dtype, pd.StringDtype):
        if (values.str.fullmatch("[0-9]+") | values.isna()).all():
            numbers = pd.to_numeric(values)
            # More digits than an integer holds come back as Python's own integers.
            values = numbers.astype("float64") if numbers.dtype == "object" else numbers
        else:
            values = values.where(values.str.fullmatch(ISO_8601))
    elif values.dtype.kind == "m":
        values = pd.Series(pd.NaT, index=values.index)  # a length of time is no instant
    elif values.dtype.kind == "M":
        values = _within_range(values)
    return _within_range(to_utc(values))


def _within_range(times: pd.Series) -> pd.Series:
    """Instants that any unit can hold; others would overflow when the unit changes, or a delay is added."""
    first, last = (bound.tz_localize(getattr(times.dtype, "tz", None)) for bound in RANGE)
    return times.where((times >= first) & (times < last))
