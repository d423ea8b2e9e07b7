"""One import under way: rows are judged, written or quarantined, and whatever became of a file is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import pandas as pd

from features.errors import DataInvalid
from features.schemas import Table
from features.schemas import table as table_named
from features.sources.reading import BadRow, Reading, Skip
from features.store import Writer, digest

if TYPE_CHECKING:
    from features.sources.trades import TradeReading

__all__ = ["Import", "ImportReport", "Kind", "NothingImported", "Outcome", "Progress", "Reader", "some"]

Kind = Literal["freqtrade", "vision", "parquet", "trades", "simulated"]
Progress = Callable[[str, int, int], None]  # stage, done, total
Reader = Callable[[Path, bytes], Reading | Skip]
# What a reader says of a file: its rows, why it has none, why it is refused, or a remark.
Outcome: TypeAlias = "Reading | TradeReading | Skip | DataInvalid | str"

# Above this share of bad rows a file is not damaged but misread.
MAX_BAD_SHARE: Final = 0.5


class NothingImported(DataInvalid):
    """Not one file of an import gave rows; ``recognised``: at least one was of the format that was named."""

    def __init__(self, message: str, recognised: bool) -> None:
        super().__init__(message)
        self.recognised = recognised


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
        lines = [f"{len(self.written):,} files written; sound rows: {held or 'none'}", *some(told)]
        lines += some([f"note: {file}: {remark}" for file, remark in self.notes])
        lines += some([f"skipped: {file}: {reason}" for file, reason in self.skipped])
        return "\n".join(lines)


def some(lines: list[str], limit: int = 10) -> list[str]:
    """The first lines, and how many more there are."""
    return lines if len(lines) <= limit else [*lines[:limit], f"… and {len(lines) - limit:,} more"]


class _Judged(NamedTuple):
    """The rows of one reading, told apart; ``kept``: what the quarantine keeps of the bad ones."""

    spec: Table
    import_id: str
    good: pd.DataFrame
    bad: list[BadRow]
    kept: list[dict[str, Any]]
    notes: tuple[str, ...]


@dataclass
class Import:
    """One import under way, into a store whose lock is held by ``writer``."""

    kind: Kind
    writer: Writer
    progress: Progress = lambda stage, done, total: None
    written: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    quarantined: list[BadRow] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def read(self, files: Sequence[Path], reader: Reader) -> None:
        """Files that are read one by one; a refused one does not stop the others."""
        for done, file in enumerate(files, start=1):
            content = file.read_bytes()
            found: Outcome
            try:
                found = reader(file, content)
            except DataInvalid as refusal:
                found = refusal
            self.outcome(file, found, content)
            self.progress("import", done, len(files))

    def stream(self, files: Sequence[Path], intervals: Sequence[str]) -> None:
        """The trades of files, symbol by symbol in order of time, as bars; what a symbol gave is committed at its end."""
        from features.sources import trades

        symbol, seen = "", set()
        for file, found in trades.read(files, intervals):
            if file.stem.split("-")[0] != symbol:
                symbol = file.stem.split("-")[0]
                self.writer.commit()
            self.outcome(file, found)
            seen.add(file)
            self.progress("import of trades", len(seen), len(files))

    def outcome(self, file: Path, found: Outcome, content: bytes = b"") -> None:
        """Keep what a reader said of one file; ``content`` are the bytes that a ``Reading`` was made of.

        A file is taken with all its readings or refused as a whole.
        """
        name = str(file)
        if isinstance(found, str):
            self.notes.append((name, found))
        elif isinstance(found, Skip):
            self.skipped.append((name, found.reason))
        elif isinstance(found, DataInvalid):
            self._refuse(name, found)
        elif isinstance(found, Reading) and found.frame.empty and not found.torn:
            self.skipped.append((name, "it holds no rows"))
        else:
            try:
                judged = self._judged(found, name, content)
            except DataInvalid as refusal:
                self._refuse(name, refusal)
            else:
                self._keep(name, judged)

    def simulate(self, parameters: Mapping[str, Any], path: str) -> None:
        """The tables of a simulated market, and its true states beside them."""
        from features.sources.simulated import simulate

        simulation = simulate(**parameters)
        import_id = digest(b"", parameters)
        for name, frame in simulation.tables.items():
            rows = frame.drop(columns="source", errors="ignore").reset_index(drop=True)
            self._keep(path, [self._judge(Reading(name, rows, parameters), path, import_id)])
        self.written += self.writer.add_truth(simulation.truth, import_id)

    def _refuse(self, file: str, refusal: DataInvalid) -> None:
        self.quarantined.append(BadRow(file, None, None, str(refusal)))

    def _judged(self, found: Reading | TradeReading, file: str, content: bytes) -> list[_Judged]:
        if isinstance(found, Reading):
            return [self._judge(found, file, digest(content, found.parameters))]
        content = found.sha256.encode()
        bad = [BadRow(file, torn.line, torn.column, torn.cause) for torn in found.bad]
        kept = [{**asdict(row), "row": torn.text} for row, torn in zip(bad, found.bad, strict=True)]
        torn = _Judged(table_named(found.table), digest(content, {}), pd.DataFrame(), bad, kept, ())
        bars = [self._judge(reading, file, digest(content, reading.parameters)) for reading in found.bars]
        return [*([torn] if bad else []), *bars]

    def _judge(self, reading: Reading, file: str, import_id: str) -> _Judged:
        """Tell the sound rows from the others; ``DataInvalid`` if these are too many."""
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
        return _Judged(spec, import_id, good, bad, kept, reading.notes)

    def _keep(self, file: str, judged: Iterable[_Judged]) -> None:
        """Write the sound rows of one file and quarantine the others."""
        for spec, import_id, good, bad, kept, notes in judged:
            self.writer.quarantine(spec.name, self.kind, import_id, kept)
            self.quarantined += sorted(bad, key=lambda row: row.line or 0)
            self.notes += [(file, note) for note in notes]
            if good.empty:
                continue
            self.written += self.writer.add(good, spec, self.kind, import_id)
            self.rows[spec.name] = self.rows.get(spec.name, 0) + len(good)
            apart = [name for name in spec.identity if name not in (spec.clock, "tier")]
            if not good.groupby(apart)[spec.clock].is_monotonic_increasing.all():
                self.notes.append((file, "its rows are not in order of time; they are sorted"))

    def report(self) -> ImportReport:
        """What happened so far."""
        return ImportReport(
            source=self.kind,
            written=tuple(self.written),
            rows=dict(sorted(self.rows.items())),
            quarantined=tuple(self.quarantined),
            skipped=tuple(self.skipped),
            notes=tuple(self.notes),
        )

    def report_or_refuse(self, path: str) -> ImportReport:
        """What happened; ``NothingImported`` with the reasons if ``path`` gave no rows at all."""
        if not self.rows:
            told = [f"{file}: {why}" for file, why in (*self.skipped, *self.notes)]
            reasons = "; ".join(some([*map(str, self.quarantined), *told], 3)) or "it holds no files"
            recognised = bool(self.quarantined or self.notes)
            raise NothingImported(f"nothing of {path} can be imported from {self.kind}: {reasons}", recognised)
        return self.report()
