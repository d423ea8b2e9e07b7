"""Where the public archive of Binance (https://data.binance.vision) keeps what, as paths below its root.

``data/futures/um/{monthly,daily}/DATASET/SYMBOL[/INTERVAL]/SYMBOL-WHAT-YYYY-MM[-DD].zip`` and likewise under
``data/spot``; beside each file stands ``NAME.CHECKSUM`` with its SHA-256. Funding is published by the month
only, metrics by the day only, everything else both ways. Days follow with a lag of a day or two, months in
the first days of the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import Final

from features.errors import UsageError
from features.schemas import INTERVALS, nearest

__all__ = [
    "DATASETS",
    "SYMBOL",
    "ArchiveFile",
    "Dataset",
    "Series",
    "days",
    "months",
    "period",
    "series_of",
    "stated_sha256",
]

SYMBOL: Final = re.compile(r"[A-Z0-9]{3,30}")
SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
PERIOD: Final = re.compile(r"(\d{4}-\d{2}(?:-\d{2})?)\.zip$")
MEBIBYTE: Final = 2**20
ONE_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Dataset:
    """One kind of file: its folder, the table it fills, how it is published, and how large it may be."""

    name: str
    market: str
    folder: str
    table: str
    first: date
    monthly: bool = True
    daily: bool = True
    by_interval: bool = True
    max_bytes: int = 64 * MEBIBYTE


# No file is older than its market: perpetuals opened in September 2019, spot in July 2017.
_PERPETUAL: Final = ("futures/um", date(2019, 9, 1))
_SPOT: Final = ("spot", date(2017, 7, 1))


def _dataset(name: str, market: tuple[str, date], folder: str, table: str, **more: bool | int) -> Dataset:
    place, first = market
    return Dataset(name, place, folder, table, first, **more)  # type: ignore[arg-type]  # bools and one int, by name


DATASETS: Final[dict[str, Dataset]] = {
    d.name: d
    for d in (
        _dataset("klines", _PERPETUAL, "klines", "bars"),
        _dataset("mark", _PERPETUAL, "markPriceKlines", "mark"),
        _dataset("funding", _PERPETUAL, "fundingRate", "funding", daily=False, by_interval=False),
        _dataset("metrics", _PERPETUAL, "metrics", "open_interest", monthly=False, by_interval=False),
        _dataset("spot", _SPOT, "klines", "spot"),
        _dataset("aggTrades", _PERPETUAL, "aggTrades", "bars", by_interval=False, max_bytes=8192 * MEBIBYTE),
    )
}


@dataclass(frozen=True)
class ArchiveFile:
    """One file of the archive: the day, or the month, that begins at ``start``."""

    series: Series
    start: date
    monthly: bool

    @property
    def end(self) -> date:
        """The first day after its period."""
        return next_month(self.start) if self.monthly else self.start + ONE_DAY

    @property
    def path(self) -> str:
        """Its place below the archive's root."""
        data, symbol, interval = self.series.dataset, self.series.symbol, self.series.interval
        tier, period = ("monthly", f"{self.start:%Y-%m}") if self.monthly else ("daily", f"{self.start}")
        folders = [data.market, tier, data.folder, symbol, *([interval] if data.by_interval else [])]
        what = interval if data.by_interval else data.folder
        return f"data/{'/'.join(folders)}/{symbol}-{what}-{period}.zip"


@dataclass(frozen=True)
class Series:
    """One dataset of one symbol (and interval)."""

    dataset: Dataset
    symbol: str
    interval: str

    def month(self, start: date) -> ArchiveFile:
        """The file of the month that begins at ``start``."""
        return ArchiveFile(self, start, monthly=True)

    def days(self, first: date, end: date) -> list[ArchiveFile]:
        """The files of the days ``first <= day < end``."""
        return [ArchiveFile(self, day, monthly=False) for day in days(first, end)]


def series_of(symbols: Sequence[str], datasets: Sequence[str], interval: str) -> list[Series]:
    """One series for each dataset and symbol; ``UsageError`` names a word that is none."""
    if not symbols or not datasets:
        raise UsageError("name at least one symbol and one dataset, such as --symbols BTCUSDT --datasets klines")
    for name in datasets:
        if name not in DATASETS:
            raise UsageError(f"there is no dataset {name!r}{nearest(name, DATASETS)}")
    for symbol in symbols:
        if not SYMBOL.fullmatch(symbol):
            raise UsageError(f"{symbol!r} is no symbol of the exchange; write it as BTCUSDT")
    if interval not in INTERVALS:
        raise UsageError(f"there are no bars of {interval!r}{nearest(interval, INTERVALS)}")
    names = [(data, symbol) for data in dict.fromkeys(datasets) for symbol in dict.fromkeys(symbols)]
    return [Series(DATASETS[data], symbol, interval) for data, symbol in names]


def next_month(day: date) -> date:
    """The first day of the month after the one that holds ``day``."""
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


@cache
def period(path: str) -> tuple[date, date]:
    """First day, and first day after, of the month or day that a file's name ends with."""
    year, month, *day = map(int, PERIOD.findall(path)[-1].split("-"))
    start = date(year, month, *(day or [1]))
    return start, start + ONE_DAY if day else next_month(start)


def months(first: date, end: date) -> Iterator[date]:
    """The first days of the months that share a day with ``first <= day < end``."""
    start = first.replace(day=1)
    while start < end:
        yield start
        start = next_month(start)


def days(first: date, end: date) -> list[date]:
    """The days ``first <= day < end``."""
    return [first + timedelta(days=i) for i in range((end - first).days)]


def stated_sha256(path: str, checksum: bytes) -> str | None:
    """The SHA-256 that a ``.CHECKSUM`` states for the file at ``path``; None if it reads otherwise."""
    words = checksum.decode("ascii", errors="replace").split()
    named = len(words) == 2 and words[1].lstrip("*") == path.rsplit("/", 1)[-1]
    return words[0].lower() if named and SHA256.fullmatch(words[0]) else None
