"""Readers of market data, one file a format, and the one door through which they enter a store.

A reader lays one file out as rows; here they are judged, and written or quarantined. Nothing disappears in
silence: a file is written, named as skipped, or refused, and every bad row is kept with its cause.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from features.errors import UsageError
from features.schemas import INTERVALS, nearest
from features.sources.importing import Import, ImportReport, Kind, Progress, Reader
from features.sources.ledger import set_aside
from features.sources.reading import BadRow
from features.store import Store

__all__ = ["BadRow", "ImportReport", "Kind", "import_data"]


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
    progress: Progress = lambda stage, done, total: None,
) -> ImportReport:
    """Read ``path``, check every row, and add what is sound to ``store``; idempotent.

    Parameters
    ----------
    kind
        The format. For ``simulated``, ``path`` is ``seed:7``, or a TOML or JSON file with ``seed``, ``days``
        and ``symbols``; for the others it is a file, or a folder that is searched. Of the archive folder of a store
        the first versions of files are read: only ``fetch`` knows since when a later one was known.
    table, columns, set_, delay
        For ``parquet`` only: the table to fill, ``target -> source`` column names, constant columns, and how
        long after its clock a row becomes known.
    intervals
        For ``trades`` only: the lengths of the bars to make of them (default: ``1m`` and ``1h``).

    Raises
    ------
    UsageError
        Unknown kind, table or column; arguments that do not belong to the kind; a path that does not exist.
    NothingImported
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
    parameters = _simulation(str(path)) if kind == "simulated" else {}
    files = [] if kind == "simulated" else _files(Path(path))
    aside = {file: reason for file in files if (reason := set_aside(file))}
    files = [file for file in files if file not in aside]
    with Store(store).writing() as writer:
        job = Import(kind, writer, progress)
        job.skipped += [(str(file), reason) for file, reason in aside.items()]
        if kind == "simulated":
            job.simulate(parameters, str(path))
        elif kind == "trades":
            job.stream(files, lengths)
        else:
            job.read(files, reader)
    return job.report_or_refuse(str(path))


def _reader(kind: Kind, mapping: Mapping[str, Any]) -> Reader:
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
