"""Market data into a store, and what is wrong with a store's data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import pandas as pd

from features.errors import UsageError
from features.quality import QualityReport, check
from features.sources import ImportReport, Kind, import_data
from features.sources.importing import NothingImported
from forecaster.commands.inputs import StoreLike, instant, place_of, read
from forecaster.terminal import Progress

if TYPE_CHECKING:
    from features.sources.fetch import FetchReport

__all__ = ["data_check", "data_fetch", "data_import"]

SPAN: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,6})? ?(s|min|h|D)")


def data_import(
    kind: str,
    path: str | Path,
    store: str | Path | None = None,
    *,
    table: str | None = None,
    columns: Sequence[str] = (),
    set_: Sequence[str] = (),
    delay: str | None = None,
    intervals: Sequence[str] = (),
    progress: Progress = lambda stage, done, total: None,
) -> ImportReport:
    """Read, check and store market data; see ``features.sources.import_data``.

    ``columns`` and ``set_`` are ``target=source`` and ``column=value`` texts, ``delay`` a span such as ``24h``;
    ``intervals`` are the bars to make of trades.
    """
    place = place_of(store)
    if kind != "simulated" and not Path(path).exists():
        raise UsageError(f"{path} does not exist; name a file or a folder of files")
    try:
        return import_data(
            kind,  # type: ignore[arg-type]  # an unknown word is refused there, by its nearest
            path,
            place,
            table=table,
            columns=_pairs("--columns", columns) or None,
            set_=_pairs("--set", set_) or None,
            delay=None if delay is None else _span(delay),
            intervals=tuple(intervals) or None,
            progress=progress,
        )
    except NothingImported as refusal:
        hint = _other_layout(kind, Path(path), refusal.recognised)
        raise NothingImported(f"{refusal}{hint}", refusal.recognised) from None


def data_fetch(
    venue: str,
    symbols: Sequence[str],
    since: str | date,
    store: str | Path | None = None,
    *,
    until: str | date | None = None,
    datasets: Sequence[str] = (),
    interval: str = "1h",
    base_url: str | None = None,
    connections: int = 1,
    recheck: int = 90,
    progress: Progress = lambda stage, done, total: None,
) -> FetchReport:
    """Bring a venue's public archive into the store; see ``features.sources.fetch.fetch``.

    ``venue`` is ``binance``. ``since`` and ``until`` (exclusive) are dates or instants in UTC, of which the day
    counts; without ``datasets`` come all but the trades.
    """
    from features.sources.download import Manners
    from features.sources.fetch import ARCHIVE_URL, DEFAULT_DATASETS, fetch

    if venue != "binance":
        raise UsageError(f"there is no archive of {venue!r}; the one that can be fetched is binance")
    first, end = instant(since, "--since"), instant(until, "--until")
    if first is None:
        raise UsageError("data fetch needs --since, the first day to bring")
    return fetch(
        symbols,
        first.date(),
        place_of(store),
        until=None if end is None else end.ceil("D").date(),
        datasets=datasets or DEFAULT_DATASETS,
        interval=interval,
        base_url=base_url or ARCHIVE_URL,
        recheck=recheck,
        manners=Manners(connections=connections),
        progress=progress,
    )


def data_check(store: StoreLike = None) -> QualityReport:
    """Gaps, duplicates, impossible prices, stale feeds, disagreements and damaged files of a store."""
    return check(read(store))


def _pairs(option: str, texts: Sequence[str]) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {text}: write name=value, such as close_time=timestamp")
        if name in pairs:
            raise UsageError(f"{option} {text}: {name} is {pairs[name]!r} already; name each column once")
        pairs[name] = value
    return pairs


def _span(text: str) -> pd.Timedelta:
    if not SPAN.fullmatch(text):
        raise UsageError(f"--delay {text}: write a number and its unit (s, min, h or D), such as 24h or 5min")
    return pd.Timedelta(text)


def _other_layout(kind: str, path: Path, recognised: bool) -> str:
    """``; the files look like --from …`` where they have the names of another source, or what sources there are."""
    from features.sources import freqtrade, trade_places, vision

    # Of names that two sources know, the first one named here is meant.
    names = {"trades": trade_places.NAME, "freqtrade": freqtrade.NAME, "vision": vision.NAME}
    stems = [file.stem for file in path.rglob("*")] if path.is_dir() else [path.stem]
    counts = {other: sum(bool(name.fullmatch(stem)) for stem in stems) for other, name in names.items()}
    best = max(counts, key=lambda other: counts[other])
    if counts[best] and best != kind:
        return f"; the files look like --from {best}"
    return "" if recognised else f"; the sources are {', '.join(get_args(Kind))}"
