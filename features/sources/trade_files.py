"""Files of aggregate trades as streams of batches: zip, CSV or Parquet, never in memory as a whole."""

from __future__ import annotations

import codecs
import hashlib
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from features.errors import DataInvalid
from features.sources.trade_cells import SPELLINGS, typed
from features.trades.bars import Trades

__all__ = ["COLUMNS", "MAX_BAD_ROWS", "Batch", "Torn", "batches", "has_side", "sha256", "stamped"]

COLUMNS: Final = {
    "transact_time": pa.int64(),
    "price": pa.float64(),
    "quantity": pa.float64(),
    "agg_trade_id": pa.int64(),
    "first_trade_id": pa.int64(),
    "last_trade_id": pa.int64(),
    "is_buyer_maker": pa.bool_(),
}
# The order of a file without header; spot files add the last one.
LAYOUT: Final = (
    *("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker"),
    "is_best_match",
)
BATCH: Final = 2**16
# More bad rows than these are not kept one by one: the file is not what its name says.
MAX_BAD_ROWS: Final = 10_000
# Bytes of a bad row's text that are kept.
MAX_TEXT: Final = 1_024
BLOCK: Final = 8 * 2**20
READ: Final = 2**20
MAX_RATIO: Final = 200
# What damaged files raise: Arrow, zip files, their compressions, member names, and unknown methods.
DAMAGE: Final = (
    *(pa.ArrowException, OSError, ValueError, EOFError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
MAX_BYTES: Final = 64 * 2**30


class Torn(NamedTuple):
    """A row that is not taken: its line, the column at fault (None: the whole line), why, and its text."""

    line: int
    column: str | None
    cause: str
    text: str


class Batch(NamedTuple):
    """Consecutive rows of a file: those that are numbers, their lines, and the others with their text."""

    trades: Trades
    lines: npt.NDArray[np.int64]
    torn: list[Torn]


def sha256(file: Path) -> str:
    """The file's hash; ``DataInvalid`` if a ``.CHECKSUM`` beside it states another one."""
    hashed = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(READ):
            hashed.update(block)
    beside = file.with_name(file.name + ".CHECKSUM")
    if beside.is_file():
        words = beside.read_text(errors="replace").split()
        if not words or words[0].lower() != hashed.hexdigest():
            raise DataInvalid(f"{file} does not have the sha256 that {beside.name} states; download both again")
    return hashed.hexdigest()


def batches(file: Path, block: int = BLOCK) -> Generator[Batch]:
    """The rows of a file in batches of bounded size; Parquet time stamps come as microseconds.

    ``block``: bytes of text decoded at a time; no line may be longer.

    Raises
    ------
    DataInvalid
        The file is damaged, is a decompression bomb, or lacks one of the columns.
    """
    try:
        yield from _columnar(file) if file.suffix == ".parquet" else _text(file, block)
    except DAMAGE as fault:
        raise DataInvalid(f"{file} is no sound {file.suffix[1:]} file ({fault}); download it again") from None


def has_side(file: Path) -> bool:
    """Whether each trade says its side; text files always do."""
    return file.suffix != ".parquet" or "is_buyer_maker" in _schema(file).names


def stamped(file: Path) -> bool:
    """Whether times are time stamps, which know their unit, and not bare numbers."""
    return file.suffix == ".parquet" and pa.types.is_timestamp(_schema(file).field("transact_time").type)


def _schema(file: Path) -> pa.Schema:
    try:
        schema = pa.parquet.read_schema(file)
    except (pa.ArrowException, OSError) as fault:
        raise DataInvalid(f"{file} is no sound parquet file ({fault}); mend or replace it") from None
    _require(file, schema.names, optional="is_buyer_maker")
    return schema


def _require(file: Path, names: list[str], optional: str | None = None) -> None:
    missing = [name for name in COLUMNS if name not in names and name != optional]
    if missing:
        raise DataInvalid(f"{file} lacks the column {missing[0]!r}; it has {', '.join(names)}")


def _columnar(file: Path) -> Iterator[Batch]:
    schema = _schema(file)
    wanted = [name for name in COLUMNS if name in schema.names]
    row = 1
    # Buffered, so that a row group of the whole file is decoded page by page.
    with pa.parquet.ParquetFile(file, buffer_size=READ, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(BATCH, columns=wanted, use_threads=False):
            lines = np.arange(row, row + batch.num_rows)
            row += batch.num_rows
            columns = {name: batch.column(name) for name in wanted}
            yield _batch(columns, lines, [])


def _text(file: Path, block: int) -> Iterator[Batch]:
    """Batches of a CSV file with or without a header line; lines of another width are torn."""
    with _opened(file) as stream:
        first = stream.readline(READ).decode("utf-8-sig").strip()
        more = bool(stream.read(1))
    if not first:
        raise DataInvalid(f"{file} begins with an empty line; download it again")
    fields = first.split(",")
    headed = not first[0].isdigit()
    names = fields if headed else list(LAYOUT[: max(len(fields), len(LAYOUT) - 1)])
    _require(file, names)
    if headed and not more:
        return
    torn: list[Torn] = []

    def tear(row: Any) -> str:
        cause = f"has {row.actual_columns} fields where the layout has {row.expected_columns}"
        torn.append(Torn(row.number, None, cause, row.text[:MAX_TEXT]))
        return "skip" if len(torn) <= MAX_BAD_ROWS else "error"

    with _opened(file) as stream:
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(_Counted(stream, file), mode="r"),
            # Lines have numbers only where one thread reads them.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=block, column_names=names, skip_rows=int(headed)),
            pyarrow.csv.ParseOptions(quote_char=False, ignore_empty_lines=False, invalid_row_handler=tear),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=list(COLUMNS), strings_can_be_null=False
            ),
        )
        line, told = 1 + int(headed), 0
        for batch in reader:
            lines = _lines(line, batch.num_rows, [entry.line for entry in torn[told:]])
            line = int(lines[-1]) + 1 if len(lines) else line
            # The reader is ahead of its batches, and so are the torn lines.
            known = [entry for entry in torn[told:] if entry.line < line]
            told += len(known)
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield _batch(columns, lines, known)
        if torn[told:]:
            nothing = {name: pa.array([], kind) for name, kind in COLUMNS.items()}
            yield _batch(nothing, _lines(line, 0, []), torn[told:])


def _lines(line: int, count: int, torn: list[int]) -> npt.NDArray[np.int64]:
    """The numbers of ``count`` lines from ``line`` on that are not torn."""
    lines = np.arange(line, line + count + len(torn))
    return lines[~np.isin(lines, torn)][:count] if torn else lines


def _batch(columns: Mapping[str, pa.Array], lines: npt.NDArray[np.int64], torn: list[Torn]) -> Batch:
    """The columns as arrays without copies; rows with a value that is none are torn."""
    sound = np.ones(len(lines), dtype=bool)
    values = {}
    for name, kind in COLUMNS.items():
        if name not in columns:
            values[name] = pa.array(np.zeros(len(lines), dtype=bool))
            continue
        values[name], bad = typed(columns[name], kind)
        if bad is None:
            continue
        # One more than a file may have, and it is refused.
        for row in np.flatnonzero(bad & sound)[: MAX_BAD_ROWS + 1]:
            cause = f"{_shown(columns[name], row)!r} is not {SPELLINGS[kind][1]}"
            text = ",".join(_shown(column, row) for column in columns.values())
            torn.append(Torn(int(lines[row]), name, cause, text))
        sound &= ~bad
    if not sound.all():
        mask = pa.array(sound)
        values = {name: column.filter(mask) for name, column in values.items()}
        lines = lines[sound]
    maker = values.pop("is_buyer_maker")
    packed = np.frombuffer(maker.buffers()[1] or b"\0", dtype=np.uint8)
    time, price, quantity, agg_id, first_id, last_id = (_array(column) for column in values.values())
    return Batch(Trades(time, price, quantity, agg_id, first_id, last_id, packed, maker.offset), lines, torn)


def _shown(column: pa.Array, row: np.int64) -> str:
    """A cell's text; its beginning, if it is long."""
    return str(column[int(row)].as_py())[: MAX_TEXT // len(COLUMNS)]


def _array(values: pa.Array) -> npt.NDArray[Any]:
    """The memory of eight-byte values without nulls; unlike ``to_numpy`` it does not import pandas."""
    kind = np.float64 if values.type == pa.float64() else np.int64
    if not len(values):
        return np.empty(0, kind)
    return np.frombuffer(values.buffers()[1], kind, len(values), values.offset * 8)


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of the only member of a zip; the member's name is never used as a path."""
    if file.suffix != ".zip":
        with file.open("rb") as stream:
            yield stream
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) != 1:
            raise DataInvalid(f"{file} holds {len(members)} members where the archive has one; download it again")
        name = members[0].filename
        if members[0].is_dir() or PurePosixPath(name.replace("\\", "/")).name != name:
            raise DataInvalid(f"{file} holds {name!r}, a path and not a file name; refused, take it from the archive")
        if name != f"{file.stem}.csv":
            # Rows do not name their symbol: the member's name is the only witness that the file is what it says.
            raise DataInvalid(
                f"{file} holds {name!r}, not {file.stem}.csv; give the file its name, or download it again"
            )
        if members[0].flag_bits & 0x1:
            raise DataInvalid(f"{file} is encrypted; the public archive is not, download it again")
        with archive.open(members[0]) as member:
            yield member


class _Counted(io.RawIOBase):
    """A stream that refuses what is no UTF-8, and to grow far beyond its file, whatever the headers say of sizes."""

    def __init__(self, stream: IO[bytes], file: Path) -> None:
        self._stream = stream
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._rest = min(MAX_BYTES, MAX_RATIO * max(file.stat().st_size, 1))

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; ``DataInvalid`` once there are too many, ``UnicodeDecodeError`` if they are none."""
        block = self._stream.read(READ if size < 0 else size)
        self._rest -= len(block)
        if self._rest < 0:
            raise DataInvalid(f"{self._file} grows beyond what a sound archive does; refused as a decompression bomb")
        # Arrow would find out while it hands over a torn line, where no error can be raised.
        if not block.isascii() or self._decoder.getstate()[0]:
            self._decoder.decode(block, final=not block)
        return block
