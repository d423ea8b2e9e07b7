"""Feather, Parquet and CSV files of columns before they become bytes, and the ways to damage them."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from fuzzing.cells import PER_SECOND
from fuzzing.mangling import FIELDS, Change, mangle_bytes

FLOATS = (
    *(float("nan"), float("inf"), float("-inf"), 0.0, -0.0, -1.0, 1e300, -1e300, 1e-320, 1e12, 0.1, 0.1000001, -0.5),
    *(0.5, 3.0, 24.0, 24.5, 1.0, 2.5, 100.0, 1709251200000.0, None),
)
TIMES = (0, 315_532_800, 1_709_251_200, 1_709_254_800, 10_413_792_000, 4_102_444_800, -1, 253_402_300_799)


@dataclass
class Sheet:
    """A table before it becomes bytes."""

    names: list[str]
    arrays: list[pa.Array]


Fault = Callable[[Sheet, int, int, int], None]


def cells(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Python values as an array, whatever of them does not fit left null."""
    fitting = []
    for value in values:
        try:
            pa.array([value], kind)
            fitting.append(value)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            fitting.append(None)
    return pa.array(fitting, kind)


def _column(sheet: Sheet, j: int) -> int:
    return j % len(sheet.names)


def set_cell(sheet: Sheet, i: int, j: int, k: int) -> None:
    place = _column(sheet, j)
    array = sheet.arrays[place]
    if not len(array):
        return
    i %= len(array)
    kind = array.type
    value: Any = FIELDS[k % len(FIELDS)] if pa.types.is_string(kind) else FLOATS[k % len(FLOATS)]
    if pa.types.is_timestamp(kind):
        raw = pa.array([TIMES[k % len(TIMES)] * PER_SECOND[kind.unit]], pa.int64()).cast(pa.timestamp(kind.unit))
        one = raw.cast(kind) if kind.tz is None else pa.compute.assume_timezone(raw, "UTC").cast(kind)
    else:
        one = cells([value], kind)
    sheet.arrays[place] = pa.concat_arrays([array[:i], one, array[i + 1 :]])


def scale_cell(sheet: Sheet, i: int, j: int, k: int) -> None:
    place = _column(sheet, j)
    array = sheet.arrays[place]
    if pa.types.is_floating(array.type) and len(array):
        values = array.to_pylist()
        i %= len(values)
        factor = (-1.0, 0.0, 10.0, 0.1, 1e3, 1.0000000001, 1.01, 0.99, 1e12)[k % 9]
        values[i] = None if values[i] is None else values[i] * factor
        sheet.arrays[place] = pa.array(values, array.type)


def shift_time(sheet: Sheet, i: int, j: int, k: int) -> None:
    """One instant (or, with odd ``j``, all) moved or read in another unit."""
    for place, array in enumerate(sheet.arrays):
        if not len(array) or not (pa.types.is_timestamp(array.type) or pa.types.is_int64(array.type)):
            continue
        raw = array.cast(pa.int64()).to_pylist()
        unit = array.type.unit if pa.types.is_timestamp(array.type) else "ms"
        second = PER_SECOND[unit]
        move = (1, -1, second, 60 * second, 1800 * second, 3600 * second, -3600 * second, 86400 * second)
        for n in range(len(raw)) if j % 2 else (i % len(raw),):
            if raw[n] is None:
                continue
            moved = raw[n] + move[k % 8] if k % 12 < 8 else raw[n] * 1000 if k % 12 < 10 else raw[n] // 1000
            raw[n] = moved if abs(moved) < 2**62 else raw[n]
        sheet.arrays[place] = pa.array(raw, pa.int64()).cast(array.type)
        return


def swap_cells(sheet: Sheet, i: int, j: int, k: int) -> None:
    one, other = _column(sheet, j), _column(sheet, k)
    a, b = sheet.arrays[one], sheet.arrays[other]
    if len(a) and a.type == b.type:
        i %= len(a)
        sheet.arrays[one] = pa.concat_arrays([a[:i], b[i : i + 1], a[i + 1 :]])
        sheet.arrays[other] = pa.concat_arrays([b[:i], a[i : i + 1], b[i + 1 :]])


def _rows(sheet: Sheet, order: list[int]) -> None:
    sheet.arrays = [array.take(pa.array(order, pa.int64())) for array in sheet.arrays]


def repeat_row(sheet: Sheet, i: int, j: int, k: int) -> None:
    if count := len(sheet.arrays[0]):
        order = list(range(count))
        order.insert(j % (count + 1), i % count)
        _rows(sheet, order)


def drop_row(sheet: Sheet, i: int, j: int, k: int) -> None:
    if count := len(sheet.arrays[0]):
        _rows(sheet, [n for n in range(count) if n != i % count])


def shuffle_rows(sheet: Sheet, i: int, j: int, k: int) -> None:
    order = list(range(len(sheet.arrays[0])))
    random.Random(i).shuffle(order)
    _rows(sheet, order)


def drop_column(sheet: Sheet, i: int, j: int, k: int) -> None:
    if len(sheet.names) > 1:
        place = _column(sheet, j)
        del sheet.names[place], sheet.arrays[place]


def repeat_column(sheet: Sheet, i: int, j: int, k: int) -> None:
    """A name a second time, over cells of another column or the same ones."""
    place, name, array = i % len(sheet.names), sheet.names[_column(sheet, j)], sheet.arrays[_column(sheet, k)]
    sheet.names.insert(place, name)
    sheet.arrays.insert(place, array)


def rename_column(sheet: Sheet, i: int, j: int, k: int) -> None:
    place = _column(sheet, j)
    name = sheet.names[place]
    sheet.names[place] = (name.upper(), name + " ", "", name[:-1], "index", sheet.names[_column(sheet, i)])[k % 6]


def extra_column(sheet: Sheet, i: int, j: int, k: int) -> None:
    place = j % (len(sheet.names) + 1)
    sheet.names.insert(place, "further")
    sheet.arrays.insert(place, pa.nulls(len(sheet.arrays[0])))


def turn_columns(sheet: Sheet, i: int, j: int, k: int) -> None:
    shift = 1 + i % len(sheet.names)
    sheet.names = sheet.names[shift:] + sheet.names[:shift]
    sheet.arrays = sheet.arrays[shift:] + sheet.arrays[:shift]


KINDS = (
    *(pa.float32(), pa.float64(), pa.int64(), pa.int32(), pa.uint8(), pa.string(), pa.large_string(), pa.binary()),
    *(pa.bool_(), pa.date32(), pa.date64(), pa.decimal128(38, 12), pa.duration("s"), pa.time32("s"), pa.null()),
    *(pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", tz="UTC")),
    *(pa.timestamp("ms", tz="Europe/Berlin"), pa.timestamp("ns", tz="America/New_York"), pa.float16()),
)


def change_kind(sheet: Sheet, i: int, j: int, k: int) -> None:
    """A column in another type, where there is a cast, else in a nested one."""
    place = _column(sheet, j)
    array = sheet.arrays[place]
    kinds = len(KINDS) + 3
    try:
        if k % kinds < len(KINDS):
            sheet.arrays[place] = array.cast(KINDS[k % kinds], safe=False)
        elif k % kinds == len(KINDS):
            sheet.arrays[place] = array.dictionary_encode()
        else:
            inner = array.to_pylist() if not pa.types.is_timestamp(array.type) else [1] * len(array)
            wrapped = [[v] if k % kinds == kinds - 1 else {"value": v} for v in inner]
            sheet.arrays[place] = pa.array(wrapped)
    except (pa.ArrowException, ValueError, TypeError):
        return


def null_cell(sheet: Sheet, i: int, j: int, k: int) -> None:
    place = _column(sheet, j)
    array = sheet.arrays[place]
    if len(array):
        keep = pa.array([n != i % len(array) for n in range(len(array))])
        sheet.arrays[place] = pa.compute.if_else(keep, array, pa.scalar(None, array.type))


FAULTS: tuple[Fault, ...] = (
    *(set_cell, set_cell, set_cell, set_cell, scale_cell, scale_cell, shift_time, shift_time, shift_time, swap_cells),
    *(repeat_row, drop_row, shuffle_rows, drop_column, repeat_column, rename_column, extra_column, turn_columns),
    *(change_kind, change_kind, change_kind, change_kind, null_cell, null_cell),
)


def encode(sheet: Sheet, suffix: str, changes: list[Change]) -> bytes:
    """The table as a file of the suffix, its cells and bytes damaged as ``changes`` say."""
    for change in changes:
        if callable(change.what):
            try:
                change.what(sheet, change.i, change.j, change.k)
            except (pa.ArrowException, NotImplementedError, OverflowError):
                continue  # a fault that this column's type cannot have
    table = pa.table(sheet.arrays, names=sheet.names)
    other = any(change.name == "other content" for change in changes)
    suffix = {".feather": ".parquet", ".parquet": ".feather", ".csv": ".parquet"}[suffix] if other else suffix
    try:
        return mangle_bytes(_write(table, suffix), changes)
    except (pa.ArrowException, TypeError):
        return mangle_bytes(b"a type that the format cannot hold", changes)


def _write(table: pa.Table, suffix: str) -> bytes:
    sink = io.BytesIO()
    if suffix == ".feather":
        pa.feather.write_feather(table, sink, compression="uncompressed" if table.num_rows % 2 else "lz4")
    elif suffix == ".parquet":
        pa.parquet.write_table(table, sink)
    else:
        pa.csv.write_csv(table, sink, pa.csv.WriteOptions(quoting_style="needed"))
    return sink.getvalue()
