"""One damaged file through ``import_data`` into a fresh store, held against the oracle's verdict."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import DataInvalid, UsageError
from features.sources import import_data
from fuzzing.contract import CLOCK, KEYS, VALUES, Verdict


@dataclass(frozen=True)
class Sample:
    """One file: where it lies below a folder, its bytes, how it is imported and what must become of it."""

    place: str
    content: bytes
    kind: str
    verdict: Verdict
    arguments: dict[str, Any] = field(default_factory=dict)


class SilentAcceptError(AssertionError):
    """The store holds what the oracle calls bad, or another value than the file."""


class LossError(AssertionError):
    """A sound row is neither in the store nor reported."""


class UnnamedError(AssertionError):
    """A refusal that does not name its file, line or column, or one without reason."""


class Harness:
    """Imports samples one after the other below one folder and counts what became of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0

    def write(self, sample: Sample) -> Path:
        """The sample as the only file below ``data``, beside no store."""
        for name in ("data", "store"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        path = self.folder / "data" / sample.place
        path.parent.mkdir(parents=True)
        path.write_bytes(sample.content)
        return path

    def check(self, sample: Sample) -> None:
        """Import the sample; anything but a refusal of the family, or the verdict's rows, fails."""
        path, store, verdict = self.write(sample), self.folder / "store", sample.verdict
        self.counts["files"] += 1
        begin = time.process_time()
        try:
            report = import_data(sample.kind, path, store, **sample.arguments)  # type: ignore[arg-type]
        except (DataInvalid, UsageError) as refusal:
            self.seconds += time.process_time() - begin
            self._refused(path, verdict, refusal)
            return
        self.seconds += time.process_time() - begin
        if verdict.refused is not None:
            raise SilentAcceptError(f"accepted {dict(report.rows)} where {verdict.refused}")
        self._rows(verdict, stored(store, verdict.table))
        if dict(report.rows) != {verdict.table: len(verdict.rows)}:
            raise LossError(f"reports {dict(report.rows)} rows where {len(verdict.rows)} are sound")
        self._quarantine(path, verdict, [(row.file, row.line, row.column) for row in report.quarantined])
        told = sum(
            int(n) for _, note in report.notes for n in re.findall(r"^(\d+) (?:lines repeat|rows hold no)", note)
        )
        if told != verdict.left_out:
            raise LossError(f"notes tell of {told} rows left out where there are {verdict.left_out}: {report.notes}")
        self.counts["accepted rows"] += len(verdict.rows)
        self.counts["quarantined rows"] += len(verdict.bad)

    def _refused(self, path: Path, verdict: Verdict, refusal: DataInvalid | UsageError) -> None:
        self.counts["refused files"] += 1
        if verdict.refused is None:
            raise LossError(f"refused, where {len(verdict.rows)} rows are sound: {refusal}")
        if isinstance(refusal, UsageError) and not verdict.usage:
            raise UnnamedError(f"{type(refusal).__name__} for a file of which {verdict.refused}: {refusal}")
        if str(path) not in str(refusal):
            raise UnnamedError(f"the refusal does not name {path}: {refusal}")
        if list((self.folder / "store").rglob("*.parquet")):
            raise SilentAcceptError("a refused file left rows in the store")

    def _rows(self, verdict: Verdict, held: list[dict[str, Any]]) -> None:
        names = [*KEYS[verdict.table], CLOCK[verdict.table]]
        seen = {tuple(row[name] for name in names): row for row in held}
        if len(seen) != len(held):
            raise SilentAcceptError("the store holds a key twice")
        if extra := seen.keys() - verdict.rows.keys():
            raise SilentAcceptError(f"accepted rows that are bad: {extra}; {verdict.bad}")
        if missing := verdict.rows.keys() - seen.keys():
            raise LossError(f"sound rows are missing: {missing}")
        for key, expected in verdict.rows.items():
            for name in (*VALUES[verdict.table], "available_at"):
                if not same(seen[key][name], expected[name], verdict.tolerance):
                    raise SilentAcceptError(f"{key} {name} is {seen[key][name]!r}, the file says {expected[name]!r}")

    def _quarantine(self, path: Path, verdict: Verdict, told: list[tuple[str, int | None, str | None]]) -> None:
        if sorted(line or 0 for _, line, _ in told) != sorted(verdict.bad):
            raise LossError(f"quarantined {told} where the bad lines are {verdict.bad}")
        for file, line, column in told:
            if file != str(path) or column not in verdict.bad[line or 0]:
                raise UnnamedError(f"{file}, line {line}, column {column}, where at fault are {verdict.bad[line or 0]}")
        kept = [
            json.loads(text)
            for file in (self.folder / "store" / "quarantine").rglob("*.jsonl")
            for text in file.read_text(encoding="utf-8").splitlines()
        ]
        if sorted(row["line"] for row in kept) != sorted(verdict.bad) or not all("row" in row for row in kept):
            raise LossError(f"the quarantine keeps lines {[row['line'] for row in kept]} of {sorted(verdict.bad)}")


def same(one: float | int | None, other: float | int | None, tolerance: float = 0.0) -> bool:
    """Equal as floats, or both missing."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=0.0)


def stored(store: Path, table: str) -> list[dict[str, Any]]:
    """Every row of the store's files as plain Python, instants in µs; another table's file fails."""
    rows = []
    for path in store.rglob("*.parquet"):
        place = path.relative_to(store).parts
        if place == ("symbols.parquet",):
            continue
        if place[0] != table:
            raise SilentAcceptError(f"filled {place[0]} where the file is of {table}")
        hive = dict(part.split("=", 1) for part in place[1:-1])
        content = pq.ParquetFile(path).read()
        columns = {
            name: (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
            for name, column in zip(content.column_names, content.columns, strict=True)
        }
        rows += [hive | dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return rows
