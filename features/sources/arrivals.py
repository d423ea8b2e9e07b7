"""From the archive folder into the tables: what each downloaded file adds, and from when on it was known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features.errors import DataInvalid
from features.schemas import TABLES
from features.sources import BadRow, ImportReport, _Import, import_data, vision
from features.sources.archive_layout import Dataset
from features.sources.ledger import Archive, Entry, now
from features.sources.reading import Reading, Skip
from features.store import Store, digest

__all__ = ["FetchReport", "bring_in", "newest"]

Progress = Callable[[str, int, int], None]
TRADED: Final = "data/futures/um"
TRADE_BARS: Final = ("1m", "1h")
INSTANT: Final = pd.Timedelta(microseconds=1)


@dataclass(frozen=True)
class FetchReport:
    """What one fetch did; files are named by their path in the archive.

    ``downloaded``: new here. ``present``: held before and unchanged. ``revised``: held in another version, and
    re-published since. ``not_published``: asked for, and not there. ``refused``: ``(file, why)``, not
    accepted. ``imports``: what became of the rows. ``newest``: for each dataset, the newest instant of which the
    store has a row from this source (None: it has none).
    """

    downloaded: tuple[str, ...]
    present: tuple[str, ...]
    revised: tuple[str, ...]
    not_published: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    imports: tuple[ImportReport, ...]
    newest: Mapping[str, str | None]

    @property
    def sound(self) -> bool:
        """Whether no file and no row had to be kept out."""
        return not self.refused and not any(done.quarantined for done in self.imports)

    @property
    def rows(self) -> dict[str, int]:
        """Sound rows of the files imported now, by table."""
        names = sorted({name for done in self.imports for name in done.rows})
        return {name: sum(done.rows.get(name, 0) for done in self.imports) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "downloaded": list(self.downloaded),
            "present": list(self.present),
            "revised": list(self.revised),
            "not_published": list(self.not_published),
            "refused": [{"file": file, "reason": why} for file, why in self.refused],
            "imports": [done.to_dict() for done in self.imports],
            "rows": self.rows,
            "newest": dict(self.newest),
        }

    def summary(self) -> str:
        """The report in a few lines."""
        counts = {
            "downloaded": self.downloaded,
            "already there": self.present,
            "re-published": self.revised,
            "not published": self.not_published,
            "refused": self.refused,
        }
        lines = [", ".join(f"{len(files):,} {what}" for what, files in counts.items())]
        lines += [done.summary() for done in self.imports]
        lines += [f"{dataset}: up to {time or 'nothing yet'}" for dataset, time in self.newest.items()]
        lines += _some([f"refused: {why}" for _, why in self.refused])
        lines += _some([f"re-published, kept beside the first version: {file}" for file in self.revised])
        lines += _some([f"not published: {file}" for file in self.not_published])
        return "\n".join(lines)


def _some(lines: list[str], limit: int = 10) -> list[str]:
    return lines if len(lines) <= limit else [*lines[:limit], f"… and {len(lines) - limit:,} more"]


def newest(store: Store, datasets: Iterable[Dataset]) -> dict[str, str | None]:
    """The newest instant that each dataset has in the store."""
    found: dict[str, str | None] = {}
    for data in datasets:
        source = "trades" if data.name == "aggTrades" else "vision"
        last = [file.last for file in store.find(data.table) if file.source == source]
        found[data.name] = max(last, default=None)
    return found


def bring_in(archive: Archive, store: Path, progress: Progress) -> tuple[ImportReport, ...]:
    """Import every held file whose rows are not in the store yet; first versions before revisions.

    The store's lock is held meanwhile; ``Locked`` if another process has it (the files stay, for the next time).
    """
    waiting = [entry for entry in archive.held() if not archive.is_imported(entry)]
    trades = [entry for entry in waiting if "/aggTrades/" in entry.file]
    tables = [entry for entry in waiting if "/aggTrades/" not in entry.file]
    reports = [_tables(archive, tables, store, progress)] if tables else []
    if trades:
        progress("import of trades", 0, 1)
        reports += _trades(archive, trades, store)
        progress("import of trades", 1, 1)
    return tuple(reports)


def _tables(archive: Archive, waiting: list[Entry], store: Path, progress: Progress) -> ImportReport:
    """Bars, funding and open interest: one transaction of the store."""
    days = _imported_days(archive)
    with Store(store).writing() as writer:
        job = _Import("vision", writer)
        for done, entry in enumerate(waiting, start=1):
            # A monthly file that comes after days of its month revises those days.
            revised = None if entry.kept != entry.file else days.get(entry.file.replace("/monthly/", "/daily/"), [])
            job.read(archive.folder / entry.kept, partial(_read, fetched=pd.Timestamp(entry.at), days=revised))
            progress("import", done, len(waiting))
    return _done(archive, waiting, job)


def _done(archive: Archive, waiting: list[Entry], job: _Import) -> ImportReport:
    """Note in the ledger what has been imported; files that the reader refused are tried again next time."""
    report = ImportReport(
        job.kind, tuple(job.written), dict(sorted(job.rows.items())), tuple(job.quarantined), tuple(job.skipped),
        tuple(job.notes),
    )  # fmt: skip
    _note(archive, waiting, report)
    return report


def _note(archive: Archive, waiting: list[Entry], report: ImportReport) -> None:
    refused = {row.file for row in report.quarantined if row.line is None}
    taken = [e for e in waiting if not {str(archive.folder / e.kept), str(archive.folder / TRADED)} & refused]
    archive.append(replace(entry, event="imported", at=now()) for entry in taken)


def _trades(archive: Archive, waiting: list[Entry], store: Path) -> list[ImportReport]:
    """Bars of trades: all files of the archive in order of time, because each goes on where the last one ended."""
    first = [entry for entry in waiting if entry.kept == entry.file]
    reports = []
    if first:
        report = _all_trades(archive.folder / TRADED, store)
        reports.append(report)
        _note(archive, first, report)
    revised = [entry for entry in waiting if entry.kept != entry.file]
    if revised:
        with Store(store).writing() as writer:
            job = _Import("trades", writer)
            for entry in revised:
                _revised_trades(archive, entry, job)
        reports.append(_done(archive, revised, job))
    return reports


def _all_trades(folder: Path, store: Path) -> ImportReport:
    try:
        report = import_data("trades", folder, store, intervals=TRADE_BARS)
    except DataInvalid as refusal:  # not one file can be read
        return ImportReport("trades", (), {}, (BadRow(str(folder), None, None, str(refusal)),), (), ())
    return replace(report, skipped=tuple((file, why) for file, why in report.skipped if "/aggTrades/" in file))


def _revised_trades(archive: Archive, entry: Entry, job: _Import) -> None:
    """Bars of a re-published file, from the state in which the files before it left them."""
    from features.sources import trades

    place, folder = archive.folder / entry.kept, f"/aggTrades/{entry.file.split('/')[-2]}/"
    held = [other for other in archive.held() if folder in other.file and other.kept == other.file]
    before = [archive.folder / other.kept for other in held if _period(other.file) < _period(entry.file)]
    for file, outcome in trades.read([*before, place], TRADE_BARS):
        if file != place:
            continue
        if isinstance(outcome, trades.TradeReading):
            bad = [BadRow(str(file), torn.line, torn.column, torn.cause) for torn in outcome.bad]
            kept = [{**asdict(row), "row": torn.text} for row, torn in zip(bad, outcome.bad, strict=True)]
            job.writer.quarantine(outcome.table, job.kind, digest(outcome.sha256.encode(), {}), kept)
            job.quarantined += bad
            for reading in outcome.bars:
                import_id = digest(outcome.sha256.encode(), reading.parameters)
                job.take(_known_from(reading, pd.Timestamp(entry.at)), str(file), import_id)
        elif isinstance(outcome, DataInvalid):
            job.quarantined.append(BadRow(str(file), None, None, str(outcome)))


def _imported_days(archive: Archive) -> dict[str, list[pd.Timestamp]]:
    """The days whose daily files are in the store, by the name that a daily file of the whole month would have."""
    found: dict[str, list[pd.Timestamp]] = {}
    for entry in archive.held():
        if "/daily/" in entry.file and archive.is_imported(entry):
            month, day = entry.file.removesuffix(".zip")[:-3], entry.file.removesuffix(".zip")[-10:]
            found.setdefault(f"{month}.zip", []).append(pd.Timestamp(day, tz="UTC"))
    return found


def _read(file: Path, content: bytes, fetched: pd.Timestamp, days: list[pd.Timestamp] | None) -> Reading | Skip:
    """The archive's rows; of those that revise ``days`` (None: all), none was known before the fetch."""
    reading = vision.read(file, content)
    return reading if isinstance(reading, Skip) or days == [] else _known_from(reading, fetched, days)


def _known_from(reading: Reading, fetched: pd.Timestamp, days: list[pd.Timestamp] | None = None) -> Reading:
    available, clock = reading.frame["available_at"], reading.frame[TABLES[reading.table].clock]
    # A day's last bar closes at the next midnight.
    late = pd.Series(True, index=clock.index) if days is None else (clock - INSTANT).dt.floor("D").isin(days)
    return replace(
        reading, frame=reading.frame.assign(available_at=available.mask(late & (available < fetched), fetched))
    )


def _period(file: str) -> str:
    """The month or day that a file's name ends with; in order of time."""
    return file.removesuffix(".zip").split("aggTrades-")[-1]
