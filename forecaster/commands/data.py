"""Market data into a store, and what is wrong with a store's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import pandas as pd

from features.errors import DataInvalid, UsageError
from features.quality import QualityReport, check
from features.sources import ImportReport, Kind, import_data
from forecaster.commands.inputs import StoreLike, place_of, read

__all__ = ["data_check", "data_import"]


def data_import(
    kind: str,
    path: str | Path,
    store: str | Path | None = None,
    *,
    table: str | None = None,
    columns: Sequence[str] = (),
    set_: Sequence[str] = (),
    delay: str | None = None,
) -> ImportReport:
    """Read, check and store market data; see ``features.sources.import_data``.

    ``columns`` and ``set_`` are ``target=source`` and ``column=value`` texts, ``delay`` a span such as ``24h``.
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
        )
    except DataInvalid as refusal:
        raise DataInvalid(f"{refusal}{_other_layout(kind, Path(path))}") from None


def data_check(store: StoreLike = None) -> QualityReport:
    """Gaps, duplicates, impossible prices, stale feeds, disagreements and damaged files of a store."""
    return check(read(store))


def _pairs(option: str, texts: Sequence[str]) -> Mapping[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {text}: write name=value, such as close_time=timestamp")
        pairs[name] = value
    return pairs


def _span(text: str) -> pd.Timedelta:
    try:
        return pd.Timedelta(text)
    except ValueError:
        raise UsageError(f"--delay {text}: write a span of time, such as 24h or 5min") from None


def _other_layout(kind: str, path: Path) -> str:
    """``; did you mean --from …?`` where the files have the names of another source."""
    from features.sources import freqtrade, vision

    names = {"freqtrade": freqtrade.NAME, "vision": vision.NAME}
    stems = [file.stem for file in path.rglob("*")] if path.is_dir() else [path.stem]
    counts = {other: sum(bool(name.fullmatch(stem)) for stem in stems) for other, name in names.items()}
    best = max(counts, key=lambda other: counts[other])
    if counts[best] and best != kind:
        return f"; the files look like --from {best}"
    return f"; the sources are {', '.join(get_args(Kind))}"
