"""A folder of Parquet files, one a UTC day of origins, that holds each forecast once.

Every file is a plain forecast table, so the folder as a whole is one too, for any reader of Parquet. Each
file is replaced whole: a killed writer leaves days as they were or as they are to be, and writing again
completes the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from features import locking
from features.store import TEMPORARY
from models.base import FORECAST_SCHEMA, KEY
from models.table import read_parquet, to_arrow, validate, write_parquet
from training.contributions import merge, place

__all__ = ["Written", "read", "write"]

CONTENT: Final = [name for name in FORECAST_SCHEMA.names if name not in {*KEY, "made_at"}]


@dataclass(frozen=True)
class Written:
    """How many rows were new, took the place of another, or stood there already."""

    inserted: int
    replaced: int
    unchanged: int


def write(frame: pd.DataFrame, folder: str | Path, contributions: pd.DataFrame | None = None) -> Written:
    """Merge a forecast table into the sink, and its contributions; the last row written for a key stands.

    A row that differs from the one standing there in nothing but ``made_at`` leaves it: the forecast was made
    then, and writing it again changes no byte. Raises ``DataInvalid`` where the frame breaks the forecast
    table's rules or a file of the sink is damaged, ``Locked`` where another process is writing.
    """
    validate(frame)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    total = np.zeros(3, np.int64)
    with _writing(root):
        # First: terms without a forecast are found by nobody, a forecast without them cannot be explained.
        for day, rows in _days(contributions):
            merge(rows, place(root) / f"{day}.parquet")
        for day, rows in _days(frame):
            total += _merge(rows, root / f"{day}.parquet")
    return Written(*(int(count) for count in total))


def _days(frame: pd.DataFrame | None) -> Iterator[tuple[str, pd.DataFrame]]:
    if frame is not None:
        yield from ((str(day), rows) for day, rows in frame.groupby(frame["origin"].dt.strftime("%Y-%m-%d"), sort=True))


def read(folder: str | Path) -> pd.DataFrame:
    """The whole sink as one forecast frame, sorted by the key; empty where nothing was written yet."""
    days = [read_parquet(file) for file in sorted(Path(folder).glob("[!.]*.parquet"))]
    if not days:
        empty: pd.DataFrame = FORECAST_SCHEMA.empty_table().to_pandas()
        return empty
    return pd.concat(days, ignore_index=True).sort_values(list(KEY), ignore_index=True)


def _merge(rows: pd.DataFrame, file: Path) -> tuple[int, int, int]:
    """Write one day; counts of inserted, replaced and unchanged rows."""
    if not file.exists():
        write_parquet(rows, file)
        return len(rows), 0, 0
    # Through Arrow and back, so that both sides have the same types to compare.
    old = read_parquet(file).set_index(list(KEY))
    new = to_arrow(rows).to_pandas().set_index(list(KEY))
    inserted = ~new.index.isin(old.index)
    known = new[~inserted]
    before = old.loc[known.index]
    same = ((known[CONTENT] == before[CONTENT]) | (known[CONTENT].isna() & before[CONTENT].isna())).all(axis=1)
    changed = pd.concat([new[inserted], known[~same]])
    if len(changed):
        write_parquet(pd.concat([old.drop(known.index[~same]), changed]).reset_index(), file)
    return int(inserted.sum()), int((~same).sum()), int(same.sum())


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Hold the sink's lock, which ends with its process, and remove what killed writers left."""
    with locking.writing(root):
        for orphan in root.glob(f".*{TEMPORARY}"):
            orphan.unlink(missing_ok=True)
        yield
