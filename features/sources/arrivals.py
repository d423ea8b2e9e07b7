"""From the archive folder into the tables: what each downloaded file adds, and from when on it was known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features.schemas import TABLES
from features.sources import vision
from features.sources.archive_layout import Dataset, period
from features.sources.importing import Import, ImportReport, Outcome, Progress, some
from features.sources.ledger import Archive, Entry, now
from features.sources.reading import Reading, Skip
from features.store import Store

__all__ = ["FetchReport", "bring_in", "newest"]

TRADES: Final = "/aggTrades/"
TRADE_BARS: Final = ("1m", "1h")
INSTANT: Final = pd.Timedelta(microseconds=1)
# So far back a bar of trades may look: to the last 50 buckets of the volume clock, and seven days behind each. Where the
# volume falls, buckets are too large for seven days and then as small as it; so these are the days of all 50, with some over.
MEMORY: Final = timedelta(days=21)


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
        lines += some([f"refused: {why}" for _, why in self.refused])
        lines += some([f"re-published, kept beside the first version: {file}" for file in self.revised])
        lines += some([f"not published: {file}" for file in self.not_published])
        return "\n".join(lines)


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
    Bars, funding and open interest are one transaction of the store, the trades of each symbol are another one.
    """
    waiting = [entry for entry in archive.held() if not archive.is_imported(entry)]
    trades = [entry for entry in waiting if TRADES in entry.file]
    tables = [entry for entry in waiting if TRADES not in entry.file]
    reports = []
    if tables:
        reports.append(_tables(archive, tables, store, progress))
    if trades:
        reports.append(_trades(archive, trades, store, progress))
    return tuple(reports)


def _tables(archive: Archive, waiting: list[Entry], store: Path, progress: Progress) -> ImportReport:
    days = _imported_days(archive)
    with Store(store).writing() as writer:
        job = Import("vision", writer)
        for done, entry in enumerate(waiting, start=1):
            job.read([archive.folder / entry.kept], partial(_read, entry=entry, days=days))
            progress("import", done, len(waiting))
    _note(archive, waiting, job)
    return job.report()


def _note(archive: Archive, waiting: list[Entry], job: Import) -> None:
    """Note in the ledger what has been imported; files that the reader refused are tried again next time."""
    refused = {row.file for row in job.quarantined if row.line is None}
    taken = [entry for entry in waiting if str(archive.folder / entry.kept) not in refused]
    archive.append(replace(entry, event="imported", at=now()) for entry in taken)


def _trades(archive: Archive, waiting: list[Entry], store: Path, progress: Progress) -> ImportReport:
    with Store(store).writing() as writer:
        job = Import("trades", writer)
        trades = _Trades(archive, job, _imported_days(archive), len(waiting), progress)
        for symbol in dict.fromkeys(_symbol(entry) for entry in waiting):
            own = [entry for entry in waiting if _symbol(entry) == symbol]
            trades.bring_in(symbol, own)
            writer.commit()
            _note(archive, own, job)
    return job.report()


@dataclass
class _Trades:
    """Trades of the archive on their way into bars."""

    archive: Archive
    job: Import
    days: Mapping[str, list[pd.Timestamp]]
    total: int
    progress: Progress
    seen: set[Path] = field(default_factory=set)

    def bring_in(self, symbol: str, waiting: list[Entry]) -> None:
        """One symbol: its first versions in one pass, because each goes on where the last one ended; then revisions."""
        held = [entry for entry in self.archive.held() if TRADES in entry.file and _symbol(entry) == symbol]
        originals = [entry for entry in held if entry.kept == entry.file]
        first = [entry for entry in waiting if entry.kept == entry.file]
        for batch in (first, *([entry] for entry in waiting if entry.kept != entry.file)):
            self._stream(batch, originals)

    def _stream(self, batch: list[Entry], originals: list[Entry]) -> None:
        """Bars of the files of ``batch``, from the state in which the files before each of them left the trades.

        Of the files that are in the store already only those are read again on which a bar can depend: those before,
        and the one behind, whose first trade tells that there were none at the end of the file before.
        """
        from features.sources import trades

        new, closed_by = set(batch), {period(entry.file)[1]: entry for entry in batch}
        held = [entry for entry in originals if entry not in new]
        around = [e for e in held if period(e.file)[0] in closed_by or any(_precedes(e, entry) for entry in batch)]
        entries = {self.archive.folder / entry.kept: entry for entry in (*around, *batch)}
        for file, found in trades.read(entries, TRADE_BARS):
            entry = entries[file]
            before = closed_by.get(period(entry.file)[0])
            known = [other.sha256 for other in originals if _precedes(other, entry)]
            if entry in new:
                self.job.outcome(file, self._dated(found, entry, known))
                self.seen.add(file)
                self.progress("import of trades", len(self.seen), self.total)
            elif before is not None and isinstance(found, trades.TradeReading):
                end = pd.Timestamp(period(before.file)[1], tz="UTC")
                quiet = [bar for bar in (_until(bar, end) for bar in found.bars) if len(bar.frame)]
                found = replace(found, bars=tuple(quiet), bad=())
                self.job.outcome(file, self._dated(found, before, [*known, f"closes {before.sha256}"]))

    def _dated(self, found: Outcome, entry: Entry, known: list[str]) -> Outcome:
        """The same bars, known from the fetch of ``entry`` on where it revises others.

        ``known``, and not where the reading began, decides the import's id: what the files before had said.
        """
        from features.sources import trades

        if not isinstance(found, trades.TradeReading):
            return found
        bars = (replace(bar, parameters={**bar.parameters, "known": [trades.RECIPE, *known]}) for bar in found.bars)
        return replace(found, bars=tuple(_known_from(bar, entry, self.days) for bar in bars))


def _until(reading: Reading, end: pd.Timestamp) -> Reading:
    """The rows that happened by then."""
    return replace(reading, frame=reading.frame[reading.frame[TABLES[reading.table].clock] <= end])


def _precedes(other: Entry, entry: Entry) -> bool:
    """Whether a bar of ``entry`` may depend on ``other``, which ends before it begins."""
    end, start = period(other.file)[1], period(entry.file)[0]
    return start - MEMORY < end <= start


def _symbol(entry: Entry) -> str:
    return entry.file.split("/")[-2]


def _imported_days(archive: Archive) -> dict[str, list[pd.Timestamp]]:
    """The days whose daily files are in the store, by the name that a daily file of the whole month would have."""
    found: dict[str, list[pd.Timestamp]] = {}
    for entry in archive.held():
        if "/daily/" in entry.file and archive.is_imported(entry):
            month, day = entry.file.removesuffix(".zip")[:-3], entry.file.removesuffix(".zip")[-10:]
            found.setdefault(f"{month}.zip", []).append(pd.Timestamp(day, tz="UTC"))
    return found


def _read(file: Path, content: bytes, entry: Entry, days: Mapping[str, list[pd.Timestamp]]) -> Reading | Skip:
    reading = vision.read(file, content)
    return reading if isinstance(reading, Skip) else _known_from(reading, entry, days)


def _known_from(reading: Reading, entry: Entry, days: Mapping[str, list[pd.Timestamp]]) -> Reading:
    """The same rows; of those that revise what had been imported, none was known before the fetch.

    A later version revises all of its days, a monthly file that comes after ``days`` of its month revises these.
    """
    fetched = pd.Timestamp(entry.at)
    available, clock = reading.frame["available_at"], reading.frame[TABLES[reading.table].clock]
    late = available < fetched
    if entry.kept == entry.file:
        # A day's last bar closes at the next midnight.
        revised = days.get(entry.file.replace("/monthly/", "/daily/"), [])
        late &= (clock - INSTANT).dt.floor("D").isin(revised)
    return replace(reading, frame=reading.frame.assign(available_at=available.mask(late, fetched)))
