"""The terms of every forecast of the ensemble, written beside the forecast table as ``contributions.parquet``.

One row per symbol, origin and horizon of the ensemble's forecasts. Columns ``term:<name>`` add up, in their order, to the
natural log of the published variance, to the bit; ``weight:<member>`` is each member's weight in that forecast. A fold
splits its members' forecasts while it has them at hand; weights and levels are known when all folds are assembled.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.pipeline import DEFAULT_FAMILIES, FeaturePipeline
from models.base import ENSEMBLE, TIMESTAMP
from models.explanation import REMAINDER, in_order, joint, shares, stored
from models.members import Member
from training.config import RunConfig

if TYPE_CHECKING:
    from models.ensemble import Assembly

__all__ = [
    "CONTRIBUTIONS",
    "KEY",
    "TERM",
    "WEIGHT",
    "Published",
    "contributions",
    "explained",
    "feature_families",
    "keep",
    "member_terms",
    "merge",
    "place",
    "write",
]

Array = npt.NDArray[np.float64]
Cells: TypeAlias = npt.NDArray[np.intp]

CONTRIBUTIONS: Final = "contributions.parquet"
KEY: Final = ("symbol", "origin", "horizon_hours")
TERM: Final = "term:"
WEIGHT: Final = "weight:"


def feature_families(config: RunConfig) -> dict[str, str]:
    """The family of each feature that a run computes."""
    chosen = config.features.families or DEFAULT_FAMILIES
    described = FeaturePipeline(chosen, config.horizons, config.proxy).describe()
    return dict(zip(described["name"], described["family"], strict=True))


def member_terms(member: Member, X: pd.DataFrame, families: Mapping[str, str]) -> pd.DataFrame:
    """The terms of a member's ``ln E[V]``: on the rows of ``X``, columns (term, horizon), single precision."""
    parts = {
        (term, h): values[:, j].astype(np.float32)
        for term, values in member.contributions(X, families).items()
        for j, h in enumerate(member.horizons_)
    }
    columns = pd.MultiIndex.from_tuples(list(parts), names=["term", "horizon_hours"])
    return pd.DataFrame(np.column_stack(list(parts.values())), index=X.index, columns=columns)


@dataclass(frozen=True)
class Published:
    """One horizon as the ensemble published it, on its grid: arrays (n_symbols, n_hours).

    ``share`` and ``levelled`` by member: its weight in each forecast, and its ``ln F``. ``log_forecast``: the ensemble's.
    """

    share: Mapping[str, Array]
    levelled: Mapping[str, Array]
    log_forecast: Array

    @classmethod
    def of(cls, assembly: Assembly, times: pd.DatetimeIndex) -> Published:
        """From what the ensemble assembled on the hours ``times``."""
        levelled = assembly.levelled
        share = shares(assembly.combination.weights, times, levelled, assembly.answered, assembly.ladder)
        log_forecast = np.log(assembly.columns[ENSEMBLE]["variance"])
        return cls(share, {name: levelled[name] for name in share}, log_forecast)


def explained(
    folds: Iterable[tuple[pd.DataFrame, pd.DataFrame]],
    assemblies: Mapping[int, Assembly],
    symbols: Sequence[str],
    times: pd.DatetimeIndex,
    wanted: Sequence[str],
) -> Iterator[pd.DataFrame]:
    """``contributions`` of the forecasts of ``wanted`` symbols, fold by fold: all of them at once would be large.

    ``folds``: the terms and the members' ``ln E[V]`` of each. ``symbols`` and ``times``: the grid of ``assemblies``.
    """
    published = {h: Published.of(assembly, times) for h, assembly in assemblies.items()}
    for terms, raw in folds:
        kept = terms.index.isin(wanted, level="symbol")
        yield contributions(terms[kept], raw[kept], published, symbols, times)


def contributions(
    terms: pd.DataFrame,
    raw: pd.DataFrame,
    published: Mapping[int, Published],
    symbols: Sequence[str],
    times: pd.DatetimeIndex,
) -> pd.DataFrame:
    """The rows of the contributions table for the rows of ``terms``, where there is a forecast.

    ``terms`` as from ``member_terms``, ``raw`` the members' ``ln E[V]`` on the same rows, columns (member, horizon).
    ``symbols`` and ``times`` span the grid of ``published``; rows that lie outside are left out.
    """
    row = pd.Index(symbols).get_indexer(terms.index.get_level_values("symbol"))
    column = times.get_indexer(pd.DatetimeIndex(terms.index.get_level_values("origin")).as_unit("us"))
    known = (row >= 0) & (column >= 0)
    frames = []
    for h, told in published.items():
        of_terms, of_raw = (pd.DataFrame(x.xs(h, axis=1, level="horizon_hours"))[known] for x in (terms, raw))
        frames.append(_rows(h, told, of_terms, of_raw, (row[known], column[known])))
    return pd.concat(frames, ignore_index=True)


def _rows(h: int, told: Published, terms: pd.DataFrame, raw: pd.DataFrame, cells: tuple[Cells, Cells]) -> pd.DataFrame:
    """One horizon's rows; ``terms`` by (member, term) and ``raw`` by member, on the ``cells`` of the grid."""
    there = np.isfinite(told.log_forecast[cells])
    terms, raw, cells = terms[there], raw[there], (cells[0][there], cells[1][there])
    share = {name: values[cells] for name, values in told.share.items()}
    log_forecast = told.log_forecast[cells]
    summed = joint(
        {name: {str(term): part.to_numpy() for term, part in terms[name].items()} for name in share},
        share,
        {name: raw[name].to_numpy(np.float64) for name in share},
        {name: told.levelled[name][cells] for name in share},
        log_forecast,
    )
    return pd.DataFrame(
        {
            "symbol": terms.index.get_level_values("symbol"),
            "origin": terms.index.get_level_values("origin"),
            "horizon_hours": np.int16(h),
            **{TERM + name: values for name, values in stored(summed, log_forecast).items()},
            **{WEIGHT + name: values for name, values in share.items()},
        }
    )


def place(forecasts: Path) -> Path:
    """Where the contributions of a forecast table lie: a file beside it or, of a sink's folder, a folder of days in it.

    Readers of Parquet pass over a folder whose name begins with an underscore.
    """
    return forecasts / "_contributions" if forecasts.is_dir() else forecasts.with_name(CONTRIBUTIONS)


def keep(terms: pd.DataFrame, path: Path) -> None:
    """Write the terms of a fold's members, a column each beside symbol and origin."""
    terms.to_parquet(path, index=False, **_encoded(list(terms.columns), list(terms.columns[2:])))


def _encoded(columns: Sequence[str], numbers: Sequence[str]) -> dict[str, Any]:
    """Numbers that differ row by row shrink when their bytes stand apart; what repeats for hours or weeks goes by word."""
    words = [name for name in columns if name not in numbers]
    return {"compression": "zstd", "use_dictionary": words, "use_byte_stream_split": list(numbers)}


def write(frames: Iterable[pd.DataFrame], path: Path) -> None:
    """Write tables of contributions, each sorted by the key, one after the other as the row groups of one file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tables = map(_arrow, frames)
    first = next(tables)
    terms = [name for name in first.column_names if name.startswith(TERM)]
    try:
        with pq.ParquetWriter(beside, first.schema, **_encoded(first.column_names, terms)) as writer:
            for table in (first, *tables):
                writer.write_table(table, row_group_size=max(len(table), 1))
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def merge(frame: pd.DataFrame, path: Path) -> None:
    """Write rows into a table that may be there already; the last row written for a key stands."""
    if path.exists():
        old = pq.read_table(path, partitioning=None).to_pandas().set_index(list(KEY))
        kept = old[~old.index.isin(frame.set_index(list(KEY)).index)].reset_index()
        frame = pd.concat([kept, frame]) if len(kept) else frame
    write([frame[_columns(frame.columns)]], path)


def _columns(names: Iterable[str]) -> list[str]:
    """The key, the terms in the order in which they are added, the remainder last of them, and the weights."""
    given = list(names)
    terms = in_order(name.removeprefix(TERM) for name in given if name.startswith(TERM))
    ordered = [*(name for name in terms if name != REMAINDER), *(name for name in terms if name == REMAINDER)]
    return [*KEY, *(TERM + name for name in ordered), *(name for name in given if name.startswith(WEIGHT))]


def _arrow(frame: pd.DataFrame) -> pa.Table:
    kinds = {"symbol": pa.string(), "origin": TIMESTAMP, "horizon_hours": pa.int16()}
    values = {str(name): frame[name] for name in frame.columns}
    values["origin"] = values["origin"].dt.tz_convert(None)
    table = pa.table({name: pa.array(x.to_numpy(), kinds.get(name)) for name, x in values.items()})
    return table.sort_by([(name, "ascending") for name in KEY])
