"""The public archive of Binance, brought into a store: downloaded, verified, kept, imported.

**Which files.** Whole past months come as monthly files, parts of months and the current one as daily files,
and so does a month whose monthly file is missing. A month of which days are held goes on by days. What the
archive does not have (status 404) is named as not published; it lags the market by a day or two.

**What is accepted.** A file whose SHA-256 equals its ``.CHECKSUM``; another one is asked for once more, past
any cache, then kept in ``archive/quarantine`` and reported.

**Re-published files are revisions.** The checksums of held files of the last days (``recheck``) are asked
again. Where one has changed, the new file is kept beside the old one and imported as a further import of the
same source, under the law of the store: what was known does not change. A key that the first version lacked
enters with ``available_at`` no earlier than the fetch, because until then nobody could have known it. A
key that it had keeps its first values; the new ones stay in the store as well, and ``data check`` lists where
they disagree. The same holds for rows that a monthly file adds to days that were imported before it came.

Everything is resumable: a process killed at any point leaves finished files, the part of an unfinished one, and
a ledger; the next fetch downloads the rest and imports what has not been.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from features import locking
from features.errors import DataInvalid, Interrupted, UsageError
from features.sources.archive_layout import DATASETS, ArchiveFile, Dataset, Series, months, series_of, stated_sha256
from features.sources.arrivals import FetchReport, bring_in, newest
from features.sources.download import Client, Manners, NotPublished, TransferFailed, Unreachable, discard
from features.sources.importing import ImportReport, Progress
from features.sources.ledger import REFUSED, REVISIONS, Archive, Entry, now, sha256_of
from features.store import Store

__all__ = ["ARCHIVE_URL", "DEFAULT_DATASETS", "FetchReport", "fetch"]

ARCHIVE_URL: Final = "https://data.binance.vision"
# Trades are a thousand times larger than bars: they come when they are named.
DEFAULT_DATASETS: Final = ("klines", "mark", "funding", "metrics", "spot")
FOLDER: Final = "archive"
CHECKSUM_BYTES: Final = 1024
# For so long after a month its files may still be on their way.
SETTLED: Final = timedelta(days=40)
# So many files in a row that cannot be had are the server's trouble, not the files'.
MAX_FAILURES: Final = 5
FULL: Final = (errno.ENOSPC, errno.EDQUOT)

Month = tuple[Series, date]


def fetch(
    symbols: Sequence[str],
    since: date,
    store: str | Path,
    *,
    until: date | None = None,
    datasets: Sequence[str] = DEFAULT_DATASETS,
    interval: str = "1h",
    base_url: str = ARCHIVE_URL,
    recheck: int = 90,
    manners: Manners | None = None,
    today: date | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> FetchReport:
    """Bring what the archive has of ``since <= day < until`` into ``store``; repeated, only what is missing.

    Parameters
    ----------
    symbols, datasets, interval
        Exchange names such as ``BTCUSDT``; names of ``archive_layout.DATASETS``; the length of the bars.
    until
        Exclusive; None: today, whose file is not written yet. Funding comes by whole months.
    recheck
        Checksums of held files whose period ended within so many days are asked again; 0 asks for none.
    today
        The day (UTC) to take for today, instead of the clock's.

    Raises
    ------
    UsageError
        Unknown dataset or interval, a malformed symbol, an empty span, no HTTP address, an unusable proxy.
    DataInvalid
        The archive has nothing of a symbol in the span, nor has an earlier fetch brought any; all else is in
        the store.
    Locked
        Another fetch into the store, or another writer of it, is under way.
    Interrupted
        The server cannot be reached, or fails again and again; what had come is in the store. Or no room is left.
    """
    today = today or datetime.now(UTC).date()
    end = min(until or today, today)
    if since >= end:
        raise UsageError(f"there is no whole day from {since} to {end}; give an earlier --since or a later --until")
    series = series_of(symbols, datasets, interval)
    manners = manners or Manners()
    client = Client(base_url, manners)
    place = Path(store) / FOLDER
    with _room(place), locking.writing(place):
        job = _Fetch(client, Archive(place), since, end, today, today - timedelta(days=recheck))
        stopped = job.download(series, manners.connections, progress)
        imports = bring_in(job.archive, Path(store), progress)
    if stopped is not None:
        raise Unreachable(f"{stopped}; what had come is in the store: run the same command again to go on")
    if missing := job.without_anything(symbols):
        raise DataInvalid(
            f"the archive has nothing of {', '.join(missing)} from {since} to {end}: check the spelling and the dates "
            f"(it lags by a day or two; look at {base_url}); all else is in the store"
        )
    return job.report(imports, Path(store), [DATASETS[name] for name in dict.fromkeys(datasets)])


@dataclass
class _Fetch:
    """One fetch under way: what is asked of the archive, and what came of it."""

    client: Client
    archive: Archive
    since: date
    end: date
    today: date
    recheck_from: date
    downloaded: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    revised: list[str] = field(default_factory=list)
    not_published: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    failures: int = 0

    def download(self, series: Iterable[Series], connections: int, progress: Progress) -> Unreachable | None:
        """Everything that is missing; the reason if the server made an end of it."""
        asked = [(one, start) for one in series for start in months(max(self.since, one.dataset.first), self.end)]
        try:
            with _workers(connections) as each:
                for done, _ in enumerate(each(self._month, asked), start=1):
                    progress("download", done, len(asked))
        except Unreachable as stop:
            return stop
        return None

    def without_anything(self, symbols: Iterable[str]) -> list[str]:
        """The symbols of which nothing is held, nor is there but refused."""
        known = [*(entry.file for entry in self.archive.held()), *(file for file, _ in self.refused)]
        folders = {folder for file in known for folder in file.split("/")[-3:-1]}
        return [symbol for symbol in dict.fromkeys(symbols) if symbol not in folders]

    def _month(self, month: Month) -> None:
        """One dataset of one symbol in one month."""
        series, start = month
        data, whole = series.dataset, series.month(start)
        first, end = max(self.since, start), min(self.end, whole.end)
        if not data.daily:
            if whole.end <= self.today:
                self._named(whole)
            return
        all_of_it = data.monthly and (first, end) == (start, whole.end)
        by_days = any(self.archive.versions(day.path) for day in series.days(start, whole.end))
        if data.monthly and self.archive.versions(whole.path):
            self._take(whole)
        elif not (all_of_it and not by_days and self._named(whole)):
            complete = self._days(series.days(first, end))
            if all_of_it and by_days and not complete:
                self._named(whole)

    def _days(self, days: list[ArchiveFile]) -> bool:
        """Daily files of one month; whether all are published.

        Where an old month has neither its first day, nor a middle one, nor its last, the others are not asked.
        """
        probes = [days[0], days[len(days) // 2], days[-1]] if days[-1].end < self.today - SETTLED else []
        there = {day: self._take(day) for day in dict.fromkeys(probes)}
        if there and not any(there.values()) and not any(self.archive.versions(day.path) for day in days):
            span = days[0].path if len(days) == 1 else f"{days[0].path} to {days[-1].start:%d}"
            self.not_published.append(span)
            return False
        there |= {day: self._take(day) for day in days if day not in there}
        absent = [day.path for day in days if not there[day]]
        self.not_published += absent
        return not absent

    def _named(self, file: ArchiveFile) -> bool:
        """``_take``, and the file's name among those that are not published."""
        there = self._take(file)
        if not there:
            self.not_published.append(file.path)
        return there

    def _take(self, file: ArchiveFile) -> bool:
        """Have the newest version of one file; False if it is not published."""
        try:
            self._have(file)
        except NotPublished:
            return False
        except TransferFailed as fault:
            self.refused.append((file.path, str(fault)))
            self.failures += 1
            if self.failures >= MAX_FAILURES:
                told = f"{self.client.base_url} failed on {self.failures} files in a row"
                raise Unreachable(f"{told} (last: {fault})") from None
            return True
        except DataInvalid as fault:
            self.refused.append((file.path, str(fault)))
        self.failures = 0
        return True

    def _have(self, file: ArchiveFile) -> None:
        versions = self.archive.versions(file.path)
        known = {version.sha256 for version in versions}
        if versions and (file.end <= self.recheck_from or self._unchanged(file.path, known)):
            self.present.append(file.path)
        else:
            self._bring(file, known)
            (self.revised if versions else self.downloaded).append(file.path)

    def _unchanged(self, path: str, known: set[str]) -> bool:
        """Whether the archive still states the checksum of a version that is held; a withdrawn file is kept."""
        try:
            stated = self._stated(path, fresh=False)
        except NotPublished:
            self.not_published.append(f"{path}.CHECKSUM")
            return True
        if stated is None:
            raise DataInvalid(f"{path}.CHECKSUM states no sha256; what is held stands, try again later")
        return stated in known

    def _stated(self, path: str, fresh: bool) -> str | None:
        """The checksum that the archive states for a file now."""
        checksum = self.client.read(f"{path}.CHECKSUM", CHECKSUM_BYTES, fresh)
        return stated_sha256(path, checksum)

    def _bring(self, file: ArchiveFile, known: set[str]) -> None:
        """Download, verify and keep one file; what fails twice is quarantined."""
        path, part = file.path, self.archive.part(file.path)
        stated: str | None = None
        for fresh in (False, True):
            etag = self.client.download(path, part, file.series.dataset.max_bytes, fresh)
            sha256 = sha256_of(part)
            try:
                stated = self._stated(path, fresh)
            except NotPublished:
                raise DataInvalid(f"{path} has no .CHECKSUM beside it, so nothing vouches for it; try later") from None
            if sha256 == stated:
                kept = f"{REVISIONS}/{sha256[:12]}/{path}" if known else path
                self.archive.accept(self._entry("fetched", path, kept, sha256, etag))
                discard(part)
                return
        told = f"has the sha256 {sha256}, its .CHECKSUM states {stated or 'none'}; twice"
        kept = f"quarantine/{sha256[:12]}/{path}{REFUSED}"
        self.archive.quarantine(self._entry("refused", path, kept, sha256, etag, told))
        discard(part)
        raise DataInvalid(f"{path} {told}; kept in {FOLDER}/{kept}, try again later")

    def _entry(
        self,
        event: Literal["fetched", "refused"],
        path: str,
        kept: str,
        sha256: str,
        etag: str | None,
        reason: str = "",
    ) -> Entry:
        size = self.archive.part(path).stat().st_size
        return Entry(event, path, kept, sha256, now(), f"{self.client.base_url}/{path}", size, etag, reason)

    def report(self, imports: tuple[ImportReport, ...], store: Path, datasets: Iterable[Dataset]) -> FetchReport:
        """What was done, in order of name."""
        return FetchReport(
            downloaded=tuple(sorted(self.downloaded)),
            present=tuple(sorted(self.present)),
            revised=tuple(sorted(self.revised)),
            not_published=tuple(sorted(self.not_published)),
            refused=tuple(sorted(self.refused)),
            imports=imports,
            newest=newest(Store(store), datasets),
        )


@contextmanager
def _room(place: Path) -> Iterator[None]:
    """``Interrupted`` where the disk is full: files are written whole or not at all, so that a fetch can go on."""
    try:
        yield
    except OSError as fault:
        if fault.errno not in FULL:
            raise
        raise Interrupted(f"{place}: {fault.strerror}; make room, then run the same command again to go on") from None


@contextmanager
def _workers(connections: int) -> Iterator[Callable[[Callable[[Month], None], list[Month]], Iterator[None]]]:
    """``map``, over several connections where more than one was asked for."""
    if connections == 1:  # in this thread, where Ctrl-C is heard at once
        yield map
        return
    with ThreadPoolExecutor(connections) as pool:
        yield pool.map
