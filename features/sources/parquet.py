"""Reader of any tidy Parquet (or Feather, or CSV) file, into any table.

The caller says which table, which columns, what is constant, and how long after its clock a row is known.
``open_time`` with ``interval`` may stand for a table's ``close_time``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from features.errors import DataInvalid, UsageError
from features.schemas import INTERVALS, Table, nearest
from features.schemas import table as table_named
from features.sources.reading import Reading, columnar, timed

__all__ = ["read"]


def read(
    file: Path,
    content: bytes,
    *,
    table: str,
    columns: Mapping[str, str] | None,
    set_: Mapping[str, str] | None,
    delay: pd.Timedelta | None,
) -> Reading:
    """One file's rows as rows of ``table``.

    Without ``columns`` the file's own names are taken, those that the table knows. Rows without any value (a
    weekend in a wide file) are no observations: they are left out and counted in a note.

    Raises
    ------
    UsageError
        A target that the table does not have, a source column that the file does not have, a negative delay,
        or no word on when a row becomes known where its clock does not say it.
    DataInvalid
        The file cannot be read.
    """
    spec = table_named(table)
    held = _load(file, content)
    constant = dict(set_ or {})
    accepted = {*spec.columns, *spec.further} - {"source"}
    if "close_time" in accepted:
        accepted |= {"open_time", "interval"}
    mapping = dict(columns) if columns else {c: c for c in held if c in accepted and c not in constant}
    if constant.get("interval", "1h") not in INTERVALS:
        raise UsageError(f"interval {constant['interval']!r} is none of {', '.join(INTERVALS)}")
    for target in (*mapping, *constant):
        if target not in accepted:
            raise UsageError(f"table {table!r} has no column {target!r}{nearest(target, accepted)}")
    names = [str(name) for name in held]
    for wanted in mapping.values():
        if wanted not in names:
            raise UsageError(f"{file} has no column {wanted!r}{nearest(wanted, names)}")
        if names.count(wanted) > 1:
            raise DataInvalid(f"{file} has the column {wanted!r} twice; which one is meant? Rename one of them")
    frame = pd.DataFrame({target: held[wanted] for target, wanted in mapping.items()}, index=held.index)
    frame = frame.assign(**constant)
    values = frame[[name for name in spec.values if name in frame]]
    void = values.isna().all(axis=1) if values.shape[1] else pd.Series(False, index=frame.index)
    frame, torn = timed(file, frame[~void], ("open_time", spec.clock, "available_at"))
    frame = _available(_closed(frame, spec, file), spec, delay, file)
    parameters = {"table": table, "columns": mapping, "set": constant, "delay": str(delay)}
    notes = (f"{int(void.sum()):,} rows hold no value and are left out",) if void.any() else ()
    return Reading(table, frame, parameters, torn, notes)


def _load(file: Path, content: bytes) -> pd.DataFrame:
    if file.suffix not in READERS:
        raise DataInvalid(f"{file} is none of {', '.join(READERS)}; convert it, or name only files that are")
    frame = columnar(file, content, READERS[file.suffix])
    if file.suffix != ".csv":
        return frame
    lines = [number for number, line in enumerate(content.splitlines(), 1) if line]
    broken = any(cells.str.contains("\n", regex=False).any() for _, cells in frame.items())
    if broken or len(lines) != len(frame) + 1:
        raise DataInvalid(f"{file} has a line break inside a quoted field; write every row on one line")
    return frame.set_axis(lines[1:], axis=0)


def _text(stream: io.BytesIO) -> pa.Table:
    """A CSV with every cell as the text it is: a guessed type would make one cell's meaning depend on others."""
    names = pyarrow.csv.open_csv(stream).schema.names
    stream.seek(0)
    text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
    return pyarrow.csv.read_csv(stream, convert_options=text)


READERS: Final = {
    ".parquet": pyarrow.parquet.read_table,
    ".feather": pyarrow.feather.read_table,
    ".csv": _text,
}


def _closed(frame: pd.DataFrame, spec: Table, file: Path) -> pd.DataFrame:
    """``open_time`` and ``interval`` turned into the ``close_time`` they stand for."""
    if "open_time" in frame:
        if "interval" not in frame:
            raise UsageError(f"{file}: open_time needs the bars' length: --set interval=1h")
        length = pd.to_timedelta(frame["interval"].astype("object").map(lambda name: INTERVALS.get(str(name))))
        frame = frame.assign(close_time=frame["open_time"] + length.astype("timedelta64[us]"))
    extra = [name for name in ("open_time", "interval") if name in frame and name not in spec.columns]
    return frame.drop(columns=extra)


def _available(frame: pd.DataFrame, spec: Table, delay: pd.Timedelta | None, file: Path) -> pd.DataFrame:
    """``available_at``: as the file says, or the row's clock and the delay."""
    if delay is not None and delay < pd.Timedelta(0):
        raise UsageError(f"--delay {delay} is negative: nothing is known before it happens")
    if "available_at" in frame and delay is not None:
        raise UsageError("--delay and a column available_at contradict each other; leave one out")
    if "available_at" not in frame and delay is None and spec.clock == "date":
        raise UsageError("a day's close is not known when the day begins: give --delay 24h, or a column available_at")
    if spec.clock not in frame:
        hint = f"--columns {spec.clock}=…"
        raise UsageError(f"{file}: table {spec.name!r} needs the column {spec.clock!r}: name it with {hint}")
    if "available_at" in frame:
        return frame
    return frame.assign(available_at=frame[spec.clock] + (delay or pd.Timedelta(0)))
