"""The store: one folder of Hive-partitioned Parquet files, each one import, never edited in place.

``manifest.json`` is the store's table of contents: a file that it does not list does not exist. Files and
manifest are written beside their place, flushed to the disk and renamed, so that a reader sees the old state
or the new one; one process writes at a time, under ``.lock``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features import locking
from features.errors import DataInvalid
from features.schemas import TABLES, TIMESTAMP, Table, in_time, to_arrow

__all__ = ["Store", "StoredFile", "digest", "write_atomically"]

MANIFEST: Final = "manifest.json"
SYMBOLS: Final = "symbols.parquet"
QUARANTINE: Final = "quarantine"
TEMPORARY: Final = ".tmp"
SCHEMA_VERSION: Final = 1
SYMBOLS_SCHEMA: Final = pa.schema([("symbol", pa.string()), ("first_bar", TIMESTAMP)])


@dataclass(frozen=True)
class StoredFile:
    """One line of the manifest: a file, what it holds, and the hash it must have."""

    path: str
    table: str
    source: str
    sha256: str
    rows: int
    first: str
    last: str
    interval: str | None = None
    symbol: str | None = None


def digest(content: bytes, parameters: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for an input and the parameters it was read with."""
    canonical = json.dumps(parameters, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(hashlib.sha256(content).digest() + canonical.encode()).hexdigest()[:12]


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds all of it or is untouched, even if the machine stops."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


class Store:
    """The files of one store folder.

    ``files`` is the manifest as of construction, in order of import; imports by others do not change it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files: tuple[StoredFile, ...] = self._manifest()

    def _manifest(self) -> tuple[StoredFile, ...]:
        path = self.path / MANIFEST
        if not path.exists():
            return ()
        try:
            listed = json.loads(path.read_bytes())
            return tuple(StoredFile(**entry) for entry in listed["files"])
        except (ValueError, TypeError, KeyError) as fault:
            raise DataInvalid(
                f"{path} is no manifest of a store ({fault}); restore a copy, or import into a new folder"
            ) from None

    @property
    def sha256(self) -> str:
        """The hash of all files' hashes, in order of import: where keys repeat, the order decides."""
        text = "".join(f"{file.path}\n{file.sha256}\n" for file in self.files)
        return hashlib.sha256(text.encode()).hexdigest()

    def find(self, table: str, interval: str | None = None) -> list[StoredFile]:
        """The files of one table (and interval), in order of import."""
        return [f for f in self.files if f.table == table and interval in (None, f.interval)]

    def without(self, paths: Collection[str]) -> Store:
        """The same store as if these files were not listed."""
        rest = Store(self.path)
        rest.files = tuple(file for file in self.files if file.path not in paths)
        return rest

    def read(self, file: StoredFile) -> pd.DataFrame:
        """One file's rows with all the table's columns, the partition columns among them."""
        spec = TABLES[file.table]
        try:
            content = pq.ParquetFile(self.path / file.path).read()
        except (OSError, pa.ArrowInvalid) as fault:
            raise DataInvalid(
                f"{self.path / file.path} cannot be read ({fault}); import its input into a new store"
            ) from None
        frame: pd.DataFrame = content.to_pandas()
        for column in spec.partitions:
            frame[column] = pd.Series(getattr(file, column), index=frame.index, dtype="str")
        further = [name for name in spec.further if name in frame]
        return frame.reindex(columns=[*spec.columns, *further])

    def symbols(self) -> pd.DataFrame:
        """The table ``symbol, first_bar``: the close of each symbol's first hourly bar."""
        path = self.path / SYMBOLS
        rows = pq.ParquetFile(path).read() if path.exists() else SYMBOLS_SCHEMA.empty_table()
        frame: pd.DataFrame = rows.to_pandas()
        return frame

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Hold the store's lock; what the writer added is listed in the manifest when the block ends well.

        Raises
        ------
        Locked
            Another process is writing.
        """
        with locking.writing(self.path):
            for orphan in self.path.rglob(f".*{TEMPORARY}"):
                orphan.unlink(missing_ok=True)
            self.files = self._manifest()
            writer = Writer(self)
            yield writer
            writer.commit()


class Writer:
    """Adds files to a store whose lock is held."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files = {file.path: file for file in store.files}
        self._symbols: dict[str, pd.Timestamp] = dict(store.symbols().itertuples(index=False, name=None))

    def add(self, rows: pd.DataFrame, spec: Table, source: str, import_id: str) -> list[str]:
        """Write checked rows, one file a partition; returns the files that were not there before."""
        groups = rows.groupby(list(spec.partitions), sort=True) if spec.partitions else [((), rows)]
        written = []
        for values, part in groups:
            hive = {column: str(value) for column, value in zip(spec.partitions, values, strict=True)}
            folders = [f"{column}={value}" for column, value in hive.items()]
            path = "/".join([spec.name, *folders, f"{source}-{import_id}.parquet"])
            if path in self._files:
                continue
            ordered = part.sort_values(list(spec.key), kind="stable", ignore_index=True)
            further = [name for name in spec.further if name in ordered]
            kept = [name for name in (*spec.columns, *further) if name not in spec.partitions]
            self._write(path, ordered[kept], spec, source, hive)
            written.append(path)
            if spec.name == "bars" and hive["interval"] == "1h":
                for first in in_time(ordered)["close_time"].iloc[:1]:
                    symbol = hive["symbol"]
                    self._symbols[symbol] = min(first, self._symbols.get(symbol, first))
        return written

    def add_truth(self, rows: pd.DataFrame, import_id: str) -> list[str]:
        """Write a simulated market's true states (with ``close_time``), which no market table may hold."""
        path = f"truth/simulated-{import_id}.parquet"
        if path in self._files:
            return []
        kinds = {"close_time": TIMESTAMP, "symbol": pa.string()}
        schema = pa.schema([pa.field(name, kinds.get(name, pa.float64())) for name in map(str, rows)])
        spec = Table("truth", ("symbol", "close_time"), "close_time", schema)
        self._write(path, rows, spec, "simulated", {})
        return [path]

    def _write(self, path: str, rows: pd.DataFrame, spec: Table, source: str, hive: dict[str, str]) -> None:
        known = spec.schema.names
        schema = pa.schema([spec.schema.field(c) if c in known else pa.field(c, pa.float64()) for c in rows])
        content = _parquet(to_arrow(rows, schema))
        write_atomically(self._store.path / path, content)
        clock = rows[spec.clock]
        self._files[path] = StoredFile(
            path=path,
            table=spec.name,
            source=source,
            sha256=hashlib.sha256(content).hexdigest(),
            rows=len(rows),
            first=clock.min().isoformat(),
            last=clock.max().isoformat(),
            interval=hive.get("interval"),
            symbol=hive.get("symbol"),
        )

    def quarantine(self, table: str, source: str, import_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows that failed, with file, line, column and cause, one JSON object a line."""
        path = self._store.path / QUARANTINE / table / f"{source}-{import_id}.jsonl"
        if rows and not path.exists():
            lines = (json.dumps(row, sort_keys=True, default=str, ensure_ascii=False) for row in rows)
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode())

    def commit(self) -> None:
        """List in the manifest what was added."""
        files = tuple(self._files.values())
        if files == self._store.files:
            return
        firsts = [{"symbol": name, "first_bar": first} for name, first in sorted(self._symbols.items())]
        symbols = pa.Table.from_pylist(firsts, SYMBOLS_SCHEMA)
        write_atomically(self._store.path / SYMBOLS, _parquet(symbols))
        entries = [{k: v for k, v in asdict(file).items() if v is not None} for file in files]
        manifest = {"schema_version": SCHEMA_VERSION, "files": entries}
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        write_atomically(self._store.path / MANIFEST, text.encode())
        self._store.files = files
