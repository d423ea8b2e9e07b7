"""The forecast table on its way in and out: checked, sorted, and written whole or not at all.

A frame in memory has the columns of ``FORECAST_SCHEMA``, one row per symbol, origin, horizon and model. On
disk it is Parquet with the same columns in the same order, sorted by that key: equal tables are equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import DataInvalid
from features.store import write_atomically
from models.base import (
    ENSEMBLE,
    EXCURSION_COLUMNS,
    FORECAST_SCHEMA,
    KEY,
    PROBABILITIES,
    RETURN_LEVELS,
    SCHEMA_VERSION,
    SHORTFALL_LEVELS,
    STATUSES,
    THRESHOLDS,
    VARIANCE_LEVELS,
)

__all__ = ["read_horizons", "read_parquet", "to_arrow", "validate", "write_parquet", "write_parts"]

Mask: TypeAlias = npt.NDArray[np.bool_]

HOURS_PER_YEAR: Final = 8760.0
RELATIVE: Final = 1e-9  # rounding of one square root, or of a sum of four probabilities

NUMBERS: Final = tuple(f.name for f in FORECAST_SCHEMA if pa.types.is_floating(f.type))
WORDS: Final = tuple(f.name for f in FORECAST_SCHEMA if pa.types.is_string(f.type))
REQUIRED: Final = tuple(f.name for f in FORECAST_SCHEMA if not f.nullable)
HASHES: Final = ("model_sha256", "config_sha256", "data_sha256")
# Words repeat and are written once a row group; numbers do not, and building a dictionary of them first costs half the time.
WRITTEN: Final = {"compression": "zstd", "use_dictionary": list(WORDS)}
MONOTONE: Final = (
    tuple(VARIANCE_LEVELS),
    tuple(RETURN_LEVELS),
    *(tuple(columns) for columns in EXCURSION_COLUMNS.values()),
    THRESHOLDS,
)
EXCURSIONS: Final = (*EXCURSION_COLUMNS["long"], *EXCURSION_COLUMNS["short"])
REGIME_COLUMNS: Final = (*PROBABILITIES, *THRESHOLDS)
DISTRIBUTION: Final = (
    "variance",
    "vol_annualised",
    *VARIANCE_LEVELS,
    *RETURN_LEVELS,
    *SHORTFALL_LEVELS,
    *EXCURSIONS,
)


def validate(frame: pd.DataFrame) -> None:
    """Check a forecast frame against every rule of the forecast table.

    Raises ``DataInvalid`` naming the first offending row and column: wrong columns or types, a repeated key,
    missing provenance, numbers that are not finite, variance that is not positive on a row that is not
    blocked, quantiles or thresholds that cross, probabilities that do not sum to one, holes in the ensemble.
    """
    _columns(frame)
    for column in REQUIRED:
        _refuse(frame, frame[column].isna(), column, "is missing", "every row carries its key and provenance")
    _types(frame)
    _key(frame)
    _provenance(frame)
    _numbers(frame)
    _probabilities(frame)
    _ensemble(frame)


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    """The frame as an Arrow table: exactly ``FORECAST_SCHEMA``, sorted by the key, NaN as null.

    Raises ``DataInvalid`` where columns are missing, unknown, or not of their type.
    """
    _columns(frame)
    arrays = []
    for field in FORECAST_SCHEMA:
        try:
            arrays.append(_column(frame[field.name], field.type))
        except (AttributeError, pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataInvalid(f"forecast table, column {field.name}: not {field.type} ({error})") from error
        if arrays[-1].null_count and not field.nullable:
            raise DataInvalid(f"forecast table, column {field.name}: {arrays[-1].null_count} rows are null; fill them")
    made = pa.Table.from_arrays(arrays, schema=FORECAST_SCHEMA)
    if not _in_order(made):
        made = made.take(pc.sort_indices(made, sort_keys=[(name, "ascending") for name in KEY]))
    return made.combine_chunks()


def write_parquet(frame: pd.DataFrame, path: str | Path) -> None:
    """Write the frame to ``path`` atomically; the same rows in any order give the same bytes.

    Raises ``DataInvalid`` as ``to_arrow`` does. The rules of ``validate`` are the caller's to check.
    """
    buffer = pa.BufferOutputStream()
    pq.write_table(to_arrow(frame), buffer, **WRITTEN)
    write_atomically(Path(path), buffer.getvalue().to_pybytes())


def write_parts(frames: Iterable[pd.DataFrame], path: str | Path) -> int:
    """Write frames one after the other as the row groups of one file, atomically; returns the number of rows.

    For tables that do not fit in memory twice. The frames must be in order of the key. Raises as ``to_arrow`` does.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    rows = 0
    try:
        with pq.ParquetWriter(beside, FORECAST_SCHEMA, **WRITTEN) as writer:
            for frame in frames:
                table = to_arrow(frame)
                writer.write_table(table, row_group_size=max(len(table), 1))
                rows += len(table)
                del frame, table  # before the next frame is made
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return rows


def read_parquet(
    path: str | Path, *, columns: Sequence[str] | None = None, models: Sequence[str] | None = None
) -> pd.DataFrame:
    """The forecast frame stored at ``path``, or only some of its columns and models.

    Raises ``DataInvalid`` naming the file where it is missing, unreadable, or not a forecast table.
    """
    stored = _open(path)
    wanted = list(FORECAST_SCHEMA.names if columns is None else columns)
    parts = []
    for group in range(stored.num_row_groups):
        part = stored.read_row_group(group, columns=wanted if models is None else [*{*wanted, "model"}])
        if models is not None:
            part = part.filter(pc.is_in(part["model"], pa.array(list(models))))
        parts.append(part.select(wanted))
    empty = pa.schema([FORECAST_SCHEMA.field(name) for name in wanted]).empty_table()
    whole = pa.concat_tables(parts or [empty])
    del parts
    # Column by column, each Arrow column freed as it is copied: the table is never held twice.
    frame: pd.DataFrame = whole.to_pandas(split_blocks=True, self_destruct=True)
    return frame


def read_horizons(path: str | Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The stored rows one horizon at a time, the shortest first, each symbol model by model; words are categories.

    For tables that do not fit in memory: until its turn, a horizon holds only the columns that a model fills. Raises as
    ``read_parquet`` does.
    """
    _open(path)
    stored = pq.ParquetFile(path, read_dictionary=list(WORDS))
    read = list(dict.fromkeys([*columns, "horizon_hours", "model"]))
    pieces: dict[int, list[pa.Table]] = {}
    for group in range(stored.num_row_groups):
        part = stored.read_row_group(group, columns=read).unify_dictionaries()
        if not len(part):
            continue
        hours, models = part["horizon_hours"].to_numpy(), part["model"].combine_chunks().indices.to_numpy()
        order = np.lexsort((models, hours))
        borders = np.diff(hours[order]).astype(bool) | np.diff(models[order]).astype(bool)
        for rows in np.split(order, np.flatnonzero(borders) + 1):
            piece = part.take(rows)
            filled = [name for name in columns if name not in NUMBERS or piece[name].null_count < len(rows)]
            pieces.setdefault(int(hours[rows[0]]), []).append(piece.select(filled))
    for horizon in sorted(pieces):
        yield _joined(pieces.pop(horizon), columns)


def _joined(pieces: Sequence[pa.Table], columns: Sequence[str]) -> pd.DataFrame:
    """The pieces below one another, column by column; numbers that a piece lacks are missing."""
    series: dict[str, pd.Series | npt.NDArray[np.float64]] = {}
    for name in columns:
        if name in NUMBERS:
            held = [
                piece[name].to_numpy() if name in piece.schema.names else np.full(len(piece), np.nan)
                for piece in pieces
            ]
            series[name] = np.concatenate(held)
        else:
            whole = pa.concat_tables([piece.select([name]) for piece in pieces])
            series[name] = whole.unify_dictionaries().to_pandas()[name]
    return pd.DataFrame(series, copy=False)


def _open(path: str | Path) -> pq.ParquetFile:
    """The file at ``path``, found to have the columns of a forecast table."""
    file = Path(path)
    try:
        # A plain file, never a data set: Hive names in the path must not add columns.
        stored = pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise DataInvalid(f"{file}: not a readable Parquet file ({error}); write the forecasts again") from error
    found = {field.name: field.type for field in stored.schema_arrow}
    for field in FORECAST_SCHEMA:
        if (kind := found.get(field.name, "no such column")) != field.type:
            raise DataInvalid(
                f"{file}, column {field.name}: expected {field.type}, found {kind};"
                " this is not a forecast table of schema version 1"
            )
    if unknown := sorted(found.keys() - set(FORECAST_SCHEMA.names)):
        raise DataInvalid(f"{file}: unknown column {unknown[0]}; a forecast table has exactly the schema's columns")
    return stored


def _in_order(rows: pa.Table) -> bool:
    """Whether no row comes before the one above it, by the key."""
    above, below = rows.slice(0, max(len(rows) - 1, 0)), rows.slice(1)
    rising = pa.scalar(True)
    for name in reversed(KEY):
        a, b = above[name], below[name]
        rising = pc.or_(pc.less(a, b), pc.and_(pc.equal(a, b), rising))
    return pc.all(rising, min_count=0).as_py() is True


def _column(values: pd.Series, kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind):
        return pa.array(values.dt.tz_convert(None).to_numpy("datetime64[us]"), type=kind)
    return pa.Array.from_pandas(values, type=kind)


def _columns(frame: pd.DataFrame) -> None:
    names = FORECAST_SCHEMA.names
    if list(frame.columns) == names:
        return
    if missing := [name for name in names if name not in frame.columns]:
        raise DataInvalid(f"forecast table: column {missing[0]} is missing; the schema has {len(names)} columns")
    if unknown := [str(name) for name in frame.columns if name not in names]:
        raise DataInvalid(f"forecast table: unknown column {unknown[0]}; drop it, the schema is pinned")
    if len(frame.columns) != len(names):
        raise DataInvalid("forecast table: a column name appears twice")


def _types(frame: pd.DataFrame) -> None:
    for field in FORECAST_SCHEMA:
        dtype = frame[field.name].dtype
        if pa.types.is_timestamp(field.type):
            right = isinstance(dtype, pd.DatetimeTZDtype) and str(dtype.tz) == "UTC"
        elif pa.types.is_integer(field.type):
            right = pd.api.types.is_integer_dtype(dtype)
        elif pa.types.is_floating(field.type):
            right = pd.api.types.is_float_dtype(dtype)
        else:
            right = pd.api.types.is_string_dtype(frame[field.name])
        if not right:
            raise DataInvalid(f"forecast table, column {field.name}: expected {field.type}, found {dtype}")


def _key(frame: pd.DataFrame) -> None:
    repeated = frame.duplicated(list(KEY))
    _refuse(frame, repeated, "model", "repeats a key", "symbol, origin, horizon and model name one row")
    wrong = frame["schema_version"] != SCHEMA_VERSION
    _refuse(frame, wrong, "schema_version", "is not 1", "this version writes schema version 1")
    _refuse(frame, frame["horizon_hours"] <= 0, "horizon_hours", "is not positive", "horizons are whole hours")
    ends = frame["origin"] + pd.to_timedelta(frame["horizon_hours"].astype("int64"), unit="h")
    _refuse(frame, frame["target_end"] != ends, "target_end", "is not origin + horizon_hours", "compute it so")


def _provenance(frame: pd.DataFrame) -> None:
    late = frame["data_asof"] > frame["origin"]
    _refuse(frame, late, "data_asof", "lies after the origin", "only what was available by then may be used")
    unknown = ~frame["status"].isin(STATUSES)
    _refuse(frame, unknown, "status", "is unknown", f"it is one of {', '.join(STATUSES)}")
    for column in HASHES:
        # Hashes repeat on every row: a few distinct values are matched, not millions of cells.
        distinct = pd.Series(frame[column].unique())
        bad = distinct[~distinct.astype("str").str.fullmatch("[0-9a-f]{64}")]
        _refuse(frame, frame[column].isin(bad), column, "is not a sha256", "write 64 lower-case hex digits")
    empty = frame["model_uri"] == ""
    _refuse(frame, empty, "model_uri", "is empty", "name the model that made the forecast")


def _numbers(frame: pd.DataFrame) -> None:
    for column in NUMBERS:
        infinite = np.isinf(_values(frame, column))
        _refuse(frame, infinite, column, "is infinite", "missing is null, everything else is finite")
    for column in ("variance", "vol_annualised", *THRESHOLDS):
        _refuse(frame, _values(frame, column) <= 0, column, "is not positive", "floor variances at 1e-8")
    open_rows = frame["status"].to_numpy() != "blocked"
    for column in ("variance", "vol_annualised"):
        hole = np.isnan(_values(frame, column)) & open_rows
        _refuse(frame, hole, column, "is missing on a row that is not blocked", "forecast it or block the row")
    for column in (*VARIANCE_LEVELS, *EXCURSIONS):
        _refuse(frame, _values(frame, column) < 0, column, "is negative", "variances and excursions are not")
    annualised = np.sqrt(_values(frame, "variance") * HOURS_PER_YEAR / frame["horizon_hours"].to_numpy(np.float64))
    off = np.abs(_values(frame, "vol_annualised") - annualised) > RELATIVE * annualised
    rule = "it is sqrt(variance * 8760 / horizon_hours)"
    _refuse(frame, off, "vol_annualised", "disagrees with variance", rule)
    for group in MONOTONE:
        _increasing(frame, group)


def _increasing(frame: pd.DataFrame, group: tuple[str, ...]) -> None:
    highest = _values(frame, group[0])
    for column in group[1:]:
        values = _values(frame, column)
        _refuse(
            frame,
            values < highest,
            column,
            "lies under a lower level",
            f"{group[0]} … {group[-1]} must not cross",
        )
        highest = np.fmax(highest, values)


def _probabilities(frame: pd.DataFrame) -> None:
    for column in (*PROBABILITIES, "p_onset"):
        values = _values(frame, column)
        _refuse(frame, (values < 0) | (values > 1), column, "is not a probability", "it lies between 0 and 1")
    block = np.column_stack([_values(frame, column) for column in PROBABILITIES])
    given = np.isfinite(block)
    partial = given.any(axis=1) & ~given.all(axis=1)
    for index, column in enumerate(PROBABILITIES):
        hole = partial & ~given[:, index]
        _refuse(frame, hole, column, "is missing beside the others", "give all four regime probabilities or none")
    off = np.abs(block.sum(axis=1) - 1.0) > RELATIVE
    _refuse(frame, off, PROBABILITIES[0], "and its three sisters do not sum to 1", "normalise them")


def _ensemble(frame: pd.DataFrame) -> None:
    own = (frame["model"] == ENSEMBLE).to_numpy() & (frame["status"] != "blocked").to_numpy()
    settled = own & (frame["status"] != "degraded").to_numpy()
    for columns, rows, way in (
        (DISTRIBUTION, own, "the ensemble forecasts every column or its row is blocked"),
        (REGIME_COLUMNS, settled, "a symbol with under 90 days of history is degraded, others have regimes"),
    ):
        for column in columns:
            _refuse(frame, np.isnan(_values(frame, column)) & rows, column, "is missing on an ensemble row", way)


def _values(frame: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    return frame[column].to_numpy(np.float64, na_value=np.nan)


def _refuse(frame: pd.DataFrame, bad: pd.Series | Mask, column: str, fault: str, way_out: str) -> None:
    rows = np.flatnonzero(np.asarray(bad))
    if not rows.size:
        return
    row = int(rows[0])
    symbol, origin, hours, model = (frame[name].iloc[row] for name in KEY)
    more = f" (and {rows.size - 1} more rows)" if rows.size > 1 else ""
    raise DataInvalid(
        f"forecast table row {row} ({symbol} {origin} {hours}h {model}), column {column}: "
        f"{frame[column].iloc[row]} {fault}{more}; {way_out}"
    )
