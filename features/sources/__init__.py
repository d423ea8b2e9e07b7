"""Readers of market data, one file a format, and the one door through which they enter a store.

A reader lays one file out as rows; here they are judged, and written or quarantined. Nothing disappears in
silence: a file is written, named as skipped, or refused, and every bad row is kept with its cause.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

import pandas as pd

from features.errors import DataInvalid, UsageError
from features.schemas import INTERVALS, nearest
from features.schemas import table as table_named
from features.sources.reading import BadRow, Reading, Skip
from features.store import Store, Writer, digest

__all__ = ["BadRow", "ImportReport", "Kind", "import_data"]

Kind = Literal["freqtrade", "vision", "trades", "parquet", "simulated"]
# Above this share of bad rows a file is not damaged but misread.
MAX_BAD_SHARE: Final = 0.5

_Reader = Callable[[Path, bytes], Reading | Skip]


@dataclass(frozen=True)
class ImportReport:
    """What one import did.

    ``written``: new files of the store (none if all was there before). ``rows``: sound rows by table, whether
    new or there before. ``quarantined``: bad rows and refused files, each with its cause; where it is not
    empty the input was not sound. ``skipped``: ``(file, reason)`` of files that hold nothing for the store.
    ``notes``: ``(file, remark)`` on what was read but looks odd.
    """

    source: str
    written: tuple[str, ...]
    rows: Mapping[str, int]
    quarantined: tuple[BadRow, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "source": self.source,
            "written": list(self.written),
            "rows": dict(self.rows),
            "quarantined": [asdict(row) for row in self.quarantined],
            "skipped": [{"file": file, "reason": reason} for file, reason in self.skipped],
            "notes": [{"file": file, "remark": remark} for file, remark in self.notes],
        }

    def summary(self) -> str:
        """The report in a few lines; the first bad rows and skipped files stand for all."""
        held = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        told = [f"quarantined: {row}" for row in self.quarantined]
        lines = [f"{len(self.written):,} files written; sound rows: {held or 'none'}", *_some(told)]
        lines += _some([f"note: {file}: {remark}" for file, remark in self.notes])
        lines += _some([f"skipped: {file}: {reason}" for file, reason in self.skipped])
        return "\n".join(lines)


def _some(lines: list[str], limit: int = 10) -> list[str]:
    return lines if len(lines) <= limit else [*lines[:limit], f"… and {len(lines) - limit:,} more"]


def import_data(
    kind: Kind,
    path: str | Path,
    store: str | Path,
    *,
    table: str | None = None,
    columns: Mapping[str, str] | None = None,
    set_: Mapping[str, str] | None = None,
    delay: pd.Timedelta | None = None,
    intervals: Sequence[str] | None = None,
) -> ImportReport:
    """Read ``path``, check every row, and add what is sound to ``store``; idempotent.

    Parameters
    ----------
    kind
        The format. For ``simulated``, ``path`` is ``seed:7``, or a TOML or JSON file with ``seed``, ``days``
        and ``symbols``; for the others it is a file, or a folder that is searched.
    table, columns, set_, delay
        For ``parquet`` only: the table to fill, ``target -> source`` column names, constant columns, and how
        long after its clock a row becomes known.
    intervals
        For ``trades`` only: the lengths of the bars to make of them (default: ``1m`` and ``1h``).

    Raises
    ------
    UsageError
        Unknown kind, table or column; arguments that do not belong to the kind; a path that does not exist.
    DataInvalid
        Nothing of the input can be read.
    Locked
        Another process is writing the store.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"there is no source {kind!r}{nearest(kind, get_args(Kind))}")
    mapping = {"table": table, "columns": columns, "set_": set_, "delay": delay}
    given = [name.rstrip("_") for name, value in mapping.items() if value is not None]
    if kind != "parquet" and given:
        raise UsageError(f"--{given[0]} belongs to --from parquet; leave it out for --from {kind}")
    if kind != "trades" and intervals is not None:
        raise UsageError(f"--intervals belongs to --from trades; leave it out for --from {kind}")
    reader = _reader(kind, mapping)
    lengths = _lengths(intervals)
    with Store(store).writing() as writer:
        job = _Import(kind, writer)
        if kind == "simulated":
            job.simulate(str(path))
        elif kind == "trades":
            job.stream(Path(path), lengths)
        else:
            job.read(Path(path), reader)
    return job.report(str(path))


def _reader(kind: Kind, mapping: Mapping[str, Any]) -> _Reader:
    if kind == "freqtrade":
        from features.sources import freqtrade

        return freqtrade.read
    if kind == "vision":
        from features.sources import vision

        return vision.read
    from features.sources import parquet

    if kind == "parquet" and mapping["table"] is None:
        raise UsageError("--from parquet needs --table, the table that the file fills")
    return partial(parquet.read, **mapping)


def _lengths(intervals: Sequence[str] | None) -> tuple[str, ...]:
    """The intervals of the bars made of trades, each once."""
    wanted = ("1m", "1h") if intervals is None else tuple(dict.fromkeys(intervals))
    unknown = [name for name in wanted if name not in INTERVALS]
    if unknown or not wanted:
        word = unknown[0] if unknown else ""
        raise UsageError(f"--intervals: {word!r} is no interval{nearest(word, INTERVALS)}")
    return wanted


@dataclass
class _Import:
    """One import under way."""

    kind: Kind
    writer: Writer
    written: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    quarantined: list[BadRow] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def read(self, path: Path, reader: _Reader) -> None:
        """Every file of ``path``, in order of name; a refused one does not stop the others."""
        for file in _files(path):
            content = file.read_bytes()
            try:
                reading = reader(file, content)
                if isinstance(reading, Skip):
                    self.skipped.append((str(file), reading.reason))
                elif reading.frame.empty and not reading.torn:
                    self.skipped.append((str(file), "it holds no rows"))
                else:
                    self.take(reading, str(file), digest(content, reading.parameters))
            except DataInvalid as refusal:
                self.quarantined.append(BadRow(str(file), None, None, str(refusal)))

    def stream(self, path: Path, intervals: Sequence[str]) -> None:
        """The trades of every file of ``path``, symbol by symbol in order of time, as bars."""
        from features.sources import trades

        for file, outcome in trades.read(_files(path), intervals):
            if isinstance(outcome, Skip):
                self.skipped.append((str(file), outcome.reason))
            elif isinstance(outcome, DataInvalid):
                self.quarantined.append(BadRow(str(file), None, None, str(outcome)))
            elif isinstance(outcome, str):
                self.notes.append((str(file), outcome))
            else:
                bad = [BadRow(str(file), line, column, cause) for line, column, cause, _ in outcome.bad]
                kept = [{**asdict(row), "row": torn.text} for row, torn in zip(bad, outcome.bad, strict=True)]
                self.writer.quarantine(outcome.table, self.kind, digest(outcome.sha256.encode(), {}), kept)
                self.quarantined += bad
                for reading in outcome.bars:
                    self.take(reading, str(file), digest(outcome.sha256.encode(), reading.parameters))

    def take(self, reading: Reading, file: str, import_id: str) -> None:
        """Judge the rows of one file, write the sound ones and quarantine the others."""
        from features.rules import inspect

        spec = table_named(reading.table)
        good, faults = inspect(reading.frame.assign(source=self.kind), spec)
        bad = [row for row, _ in reading.torn]
        kept = [{**asdict(row), "row": text} for row, text in reading.torn]
        for line, column, cause in faults.itertuples(index=False, name=None):
            row = BadRow(file, line, column, cause)
            bad.append(row)
            kept.append({**asdict(row), "row": reading.frame.loc[line].astype("str").to_dict()})
        total = len(reading.frame) + len(reading.torn)
        if len(bad) > MAX_BAD_SHARE * total:
            raise DataInvalid(f"{len(bad):,} of {total:,} rows are bad, so the file is refused; first: {bad[0]}")
        self.writer.quarantine(spec.name, self.kind, import_id, kept)
        self.written += self.writer.add(good, spec, self.kind, import_id)
        self.rows[spec.name] = self.rows.get(spec.name, 0) + len(good)
        self.quarantined += sorted(bad, key=lambda row: row.line or 0)
        self.notes += [(file, note) for note in reading.notes]
        apart = [name for name in spec.identity if name not in (spec.clock, "tier")]
        if len(good) and not good.groupby(apart)[spec.clock].is_monotonic_increasing.all():
            self.notes.append((file, "its rows are not in order of time; they are sorted"))

    def simulate(self, path: str) -> None:
        """The tables of a simulated market, and its true states beside them."""
        from features.sources.simulated import simulate

        parameters = _simulation(path)
        simulation = simulate(**parameters)
        import_id = digest(b"", parameters)
        for name, frame in simulation.tables.items():
            rows = frame.drop(columns="source", errors="ignore").reset_index(drop=True)
            self.take(Reading(name, rows, parameters), path, import_id)
        self.written += self.writer.add_truth(simulation.truth, import_id)

    def report(self, path: str) -> ImportReport:
        """What happened; ``DataInvalid`` if nothing could be read."""
        if not self.rows:
            told = [*map(str, self.quarantined), *(f"{file}: {why}" for file, why in self.skipped)]
            reasons = "; ".join(_some(told, 3)) or "it holds no files"
            raise DataInvalid(f"nothing of {path} can be imported from {self.kind}: {reasons}")
        return ImportReport(
            source=self.kind,
            written=tuple(self.written),
            rows=dict(sorted(self.rows.items())),
            quarantined=tuple(self.quarantined),
            skipped=tuple(self.skipped),
            notes=tuple(self.notes),
        )


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UsageError(f"{path} does not exist; name a file or a folder of files")
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [f for f in found if f.is_file() and f.suffix != ".CHECKSUM" and not f.name.startswith(".")]


def _simulation(path: str) -> dict[str, Any]:
    """The simulation's parameters: ``seed:7``, or a TOML or JSON file."""
    if path.startswith("seed:") and path[5:].isdecimal():
        return {"seed": int(path[5:])}
    kinds = {"days": int, "seed": int, "start": str, "symbols": int}
    file = Path(path)
    if file.suffix not in {".toml", ".json"} or not file.is_file():
        raise UsageError(f"{path!r} names no simulation; give seed:7, or a TOML or JSON file of {', '.join(kinds)}")
    try:
        text = file.read_text(encoding="utf-8")
        given: dict[str, Any] = tomllib.loads(text) if file.suffix == ".toml" else dict(json.loads(text))
    except (ValueError, TypeError) as fault:
        raise UsageError(f"{file} cannot be read ({fault}); it takes {', '.join(kinds)}") from None
    for name, value in given.items():
        if name not in kinds:
            raise UsageError(f"{file}: unknown key {name!r}{nearest(name, kinds)}")
        if type(value) is not kinds[name]:
            raise UsageError(f"{file}: {name} = {value!r} must be of type {kinds[name].__name__}")
    return given
