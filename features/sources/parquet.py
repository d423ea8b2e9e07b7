"""Reader of any tidy Parquet (or Feather, or CSV) file, into any table.

The caller says which table, which columns, what is constant, and how long after its clock a row is known.
``open_time`` with ``interval`` may stand for a table's ``close_time``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from features.errors import DataInvalid, UsageError
from features.schemas import INTERVALS, Table, nearest, to_utc
from features.schemas import table as table_named
from features.sources.reading import Reading

__all__ = ["read"]

READERS: Final = {
    ".parquet": pyarrow.parquet.read_table,
    ".feather": pyarrow.feather.read_table,
    ".csv": pyarrow.csv.read_csv,
}


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
    for target in (*mapping, *constant):
        if target not in accepted:
            raise UsageError(f"table {table!r} has no column {target!r}{nearest(target, accepted)}")
    for wanted in mapping.values():
        if wanted not in held:
            raise UsageError(f"{file} has no column {wanted!r}{nearest(wanted, map(str, held))}")
    frame = pd.DataFrame({target: held[wanted] for target, wanted in mapping.items()}, index=held.index)
    frame = _closed(frame.assign(**constant), spec)
    values = frame[[name for name in spec.values if name in frame]]
    void = values.isna().all(axis=1) if values.shape[1] else pd.Series(False, index=frame.index)
    frame = _available(frame[~void], spec, delay)
    parameters = {"table": table, "columns": mapping, "set": constant, "delay": str(delay)}
    notes = (f"{int(void.sum()):,} rows hold no value and are left out",) if void.any() else ()
    return Reading(table, frame, parameters, notes=notes)


def _load(file: Path, content: bytes) -> pd.DataFrame:
    if file.suffix not in READERS:
        raise DataInvalid(f"{file} is none of {', '.join(READERS)}; convert it, or name only files that are")
    try:
        frame: pd.DataFrame = READERS[file.suffix](io.BytesIO(content)).to_pandas(ignore_metadata=True)
    except (OSError, pa.ArrowException) as fault:
        raise DataInvalid(f"{file} is no {file.suffix[1:]} file ({fault}); mend or replace it") from None
    header = 1 if file.suffix == ".csv" else 0
    return frame.set_axis(range(1 + header, len(frame) + 1 + header), axis=0)


def _closed(frame: pd.DataFrame, spec: Table) -> pd.DataFrame:
    """``open_time`` and ``interval`` turned into the ``close_time`` they stand for."""
    if "open_time" in frame:
        if "interval" not in frame:
            raise UsageError("open_time needs the bars' length: --set interval=1h")
        length = frame["interval"].map(INTERVALS)
        if length.isna().any():
            wrong = frame["interval"][length.isna()].iloc[0]
            raise UsageError(f"interval {wrong!r} is none of {', '.join(INTERVALS)}")
        frame = frame.assign(close_time=to_utc(frame["open_time"]) + length.astype("timedelta64[us]"))
    extra = [name for name in ("open_time", "interval") if name in frame and name not in spec.columns]
    return frame.drop(columns=extra)


def _available(frame: pd.DataFrame, spec: Table, delay: pd.Timedelta | None) -> pd.DataFrame:
    """``available_at``: as the file says, or the row's clock and the delay."""
    if delay is not None and delay < pd.Timedelta(0):
        raise UsageError(f"--delay {delay} is negative: nothing is known before it happens")
    if "available_at" in frame:
        if delay is not None:
            raise UsageError("--delay and a column available_at contradict each other; leave one out")
        return frame
    if delay is None and spec.clock == "date":
        raise UsageError("a day's close is not known when the day begins: give --delay 24h, or a column available_at")
    if spec.clock not in frame:
        hint = f"--columns {spec.clock}=…"
        raise UsageError(f"table {spec.name!r} needs the column {spec.clock!r}: name it with {hint}")
    clock: Any = to_utc(frame[spec.clock])
    return frame.assign(**{spec.clock: clock, "available_at": clock + (delay or pd.Timedelta(0))})
