"""Finished folds on disk: a folder each, which appears whole or not at all and is known by its key and its hashes."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Final

import pandas as pd

from training.contributions import CONTRIBUTIONS, keep
from training.folds import FoldResult

__all__ = ["FORECASTS", "commit", "committed", "flat", "read_fold", "read_terms", "tells_terms", "wide"]

RESULT: Final = "fold.json"
FORECASTS: Final = "forecasts.parquet"
EFFECTS: Final = "effects.parquet"


def commit(result: FoldResult, folder: Path, key: str) -> None:
    """Keep a fold: write beside, flush to disk, rename, so that a kill leaves the old state or the new one."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    beside.mkdir(parents=True)
    try:
        flat(result.forecasts).to_parquet(beside / FORECASTS, index=False)
        if not result.effects.empty:
            result.effects.to_parquet(beside / EFFECTS, index=False)
        if not result.terms.empty:
            keep(flat(result.terms), beside / CONTRIBUTIONS)
        facts = {
            "key": key,
            "first_origin": result.first_origin.isoformat(),
            "params_sha256": dict(result.params_sha256),
            "files": _hashes(beside),
        }
        (beside / RESULT).write_text(json.dumps(facts, sort_keys=True, indent=1))
        for file in [*beside.iterdir(), beside]:
            _sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def committed(folder: Path, key: str) -> bool:
    """Whether the folder holds a finished fold made under this key, undamaged."""
    try:
        facts = json.loads((folder / RESULT).read_text())
        return bool(facts["key"] == key and facts["files"] == _hashes(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_fold(folder: Path) -> FoldResult:
    """A finished fold."""
    facts = json.loads((folder / RESULT).read_text())
    return FoldResult(
        pd.Timestamp(facts["first_origin"]),
        wide(pd.read_parquet(folder / FORECASTS)),
        facts["params_sha256"],
        pd.read_parquet(folder / EFFECTS) if (folder / EFFECTS).is_file() else pd.DataFrame(),
    )


def tells_terms(folder: Path) -> bool:
    """Whether a finished fold holds the terms of its forecasts."""
    return (folder / CONTRIBUTIONS).is_file()


def read_terms(folder: Path) -> pd.DataFrame:
    """The terms of a finished fold's forecasts, where it ``tells_terms``."""
    return _split(pd.read_parquet(folder / CONTRIBUTIONS), ["member", "term", "horizon_hours"])


def flat(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Members' forecasts as a table: columns symbol, origin, ``<member>:<horizon>``."""
    return forecasts.set_axis(
        [":".join(map(str, column)) for column in forecasts.columns.tolist()], axis=1
    ).reset_index()


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The inverse of ``flat``."""
    return _split(table, ["member", "horizon_hours"])


def _split(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """A table as ``flat`` makes it, its columns' names taken apart again; the last part is a number of hours."""
    values = table.set_index(["symbol", "origin"])
    parts = [name.rsplit(":", len(names) - 1) for name in map(str, values.columns)]
    values.columns = pd.MultiIndex.from_tuples([(*words, int(hours)) for *words, hours in parts], names=names)
    return values


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every table in a fold's folder, by name."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.parquet")}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
