"""The market played again, bar by bar: what a live process would have computed, restarts and all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pandas as pd

from features.errors import UsageError
from features.leak_report import Finding, differences
from features.market import Market
from features.pipeline import FeaturePipeline
from features.schemas import TABLES

__all__ = ["arrivals", "check", "replay"]

HOUR: Final = pd.Timedelta(hours=1)


def replay(market: Market, pipeline: FeaturePipeline, start: pd.Timestamp, bars: int) -> pd.DataFrame:
    """Features of the ``bars`` hours after ``start``, each from ``update`` alone; shape and index as ``transform``.

    A new pipeline of the same settings begins at ``start`` with the warm-up before it, as after a restart. Hours without any
    bar give no row.
    """
    live = FeaturePipeline(pipeline.families, pipeline.horizons, pipeline.proxy)
    live.update(_tables(market.since(start - (live.warmup + 1) * HOUR).as_of(start)), checked=False)
    rows = [live.update(new, checked=False) for new in arrivals(market, start, start + bars * HOUR)]
    return pd.concat(rows).sort_index(kind="stable") if rows else pd.DataFrame()


def check(
    market: Market,
    pipeline: FeaturePipeline,
    batch: pd.DataFrame,
    bars: int,
    restarts: int,
    seed: int = 0,
    *,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[tuple[pd.Timestamp, Finding]]:
    """Play ``bars`` hours again in ``restarts`` equal stretches that begin at random, and compare with ``batch``.

    Yields, for each stretch, where it began and what differed from the rows of ``batch`` (``transform`` of the market), bit
    for bit. Raises ``UsageError`` where the stretches do not fit into the market.
    """
    from joblib import Parallel, delayed

    origins = pd.DatetimeIndex(batch.index.get_level_values("origin"))
    hours = origins.unique().sort_values()
    each = -(-bars // restarts)
    if len(hours) <= each + restarts:
        raise UsageError(f"{restarts} stretches of {each} bars do not fit into {len(hours)} hours; ask for fewer")
    chosen = np.random.default_rng(seed).choice(len(hours) - each - 1, restarts, replace=False)
    starts = list(hours[np.sort(chosen)])
    expected = (batch[(origins > t) & (origins <= t + each * HOUR)] for t in starts)
    tasks = (delayed(_stretch)(market, pipeline, t, each, rows) for t, rows in zip(starts, expected, strict=True))
    with warnings.catch_warnings():
        # A process that has grown by 300 MB is replaced between its tasks, with this warning.
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        made = Parallel(n_jobs=jobs, return_as="generator")(tasks)
        for done, (start, finding) in enumerate(zip(starts, made, strict=True), start=1):
            if progress is not None:
                progress("live replay", done, restarts)
            yield start, finding


def _stretch(
    market: Market, pipeline: FeaturePipeline, start: pd.Timestamp, bars: int, expected: pd.DataFrame
) -> Finding:
    return differences(expected, replay(market, pipeline, start, bars), "live", "features", start)


def arrivals(market: Market, after: pd.Timestamp, until: pd.Timestamp) -> Iterator[dict[str, pd.DataFrame]]:
    """For each hour in ``(after, until]`` that has a bar: all tables' rows that became known since the one before."""
    tables = {
        name: rows.sort_values("available_at", kind="stable") for name, rows in _tables(market.as_of(until)).items()
    }
    known = {name: pd.DatetimeIndex(rows["available_at"]) for name, rows in tables.items()}
    bars = tables["bars"][tables["bars"]["interval"] == "1h"]
    in_time = bars["close_time"].where(bars["available_at"] <= bars["close_time"]).dropna()
    seen = after
    for origin in np.sort(in_time[(in_time > after) & (in_time <= until)].unique()):
        new = {}
        for name, rows in tables.items():
            first, last = known[name].searchsorted([seen, origin], side="right")
            if last > first:
                new[name] = rows.iloc[first:last]
        yield new
        seen = origin


def _tables(market: Market) -> dict[str, pd.DataFrame]:
    return {name: rows for name in TABLES if len(rows := market.table(name))}
