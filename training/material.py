"""What a run learns from: every origin's features and targets, computed once for all folds."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from features.freshness import feed_ages
from features.market import Market
from features.panel import Panel
from features.pipeline import DEFAULT_FAMILIES, FeaturePipeline
from features.targets import interval_arrays
from models.base import THRESHOLDS
from training.config import RunConfig
from training.rows import Rows

__all__ = ["Material", "give_back", "prepare"]

Array = npt.NDArray[np.float64]

NEEDED = ("calendar", "memory")
# Features that say how far a forecast may be trusted.
STATUS = ("log_rv_raw_24h", "log_listing_age")


@dataclass(frozen=True)
class Material:
    """Features and targets of a market.

    ``rows``: what members are fitted on, sorted by symbol and origin. ``times``, ``symbols``: the hourly grid, on which
    ``column`` (n_rows,) places each row. ``targets``: horizon to name to (n_symbols, n_hours). ``ages``: of each feed.
    """

    rows: Rows
    times: pd.DatetimeIndex
    symbols: tuple[str, ...]
    column: npt.NDArray[np.int64]
    targets: Mapping[int, Mapping[str, Array]]
    ages: Mapping[str, Array]

    def feature(self, name: str) -> Array:
        """One feature on the grid; all NaN where the configuration leaves it out."""
        if name not in self.rows.columns:
            return np.full((len(self.symbols), len(self.times)), np.nan)
        return self.place(self.rows.features[:, self.rows.columns.index(name)])

    def place(self, values: Array) -> Array:
        """Values of the rows on the grid, NaN where there is no bar."""
        out = np.full((len(self.symbols), len(self.times)), np.nan)
        out[self.rows.symbol, self.column] = values
        return out

    def settled(self) -> Material:
        """The same for what comes after the folds, which reads no other features than those of ``STATUS``."""
        kept = [name for name in STATUS if name in self.rows.columns]
        features = self.rows.features[:, [self.rows.columns.index(name) for name in kept]]
        rows = replace(self.rows, features=features, columns=tuple(kept), thresholds=None, now=None)
        return replace(self, rows=rows)

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """Where a bar exists, (n_symbols, n_hours)."""
        return ~np.isnan(self.place(np.ones(len(self.column))))

    def realised(self, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
        """Targets of ``start <= origin < end``, in the shape of ``features.targets.realised``."""
        alive = self.alive & np.asarray((self.times >= start) & (self.times < end))
        row, column = np.nonzero(alive)
        frames = []
        for h, arrays in self.targets.items():
            index = pd.MultiIndex.from_arrays(
                [pd.Index(self.symbols)[row], self.times[column], np.full(len(row), h, dtype=np.int16)],
                names=["symbol", "origin", "horizon_hours"],
            )
            frame = pd.DataFrame({name: x[alive] for name, x in arrays.items()}, index=index)
            frame.insert(0, "target_end", self.times[column] + pd.Timedelta(hours=h))
            frames.append(frame)
        return pd.concat(frames)


def prepare(market: Market, config: RunConfig) -> Material:
    """Features and targets of every origin of the market, under the configuration's proxy, families and horizons."""
    families = config.features.families or DEFAULT_FAMILIES
    if missing := sorted(set(NEEDED) - set(families)):
        raise UsageError(
            f"features.families lacks {', '.join(missing)}: every member, and each forecast's status, is made of "
            f"{' and '.join(NEEDED)}; add them"
        )
    panel = Panel(market, config.proxy)
    pipeline = FeaturePipeline(families, config.horizons, config.proxy)
    frame = pipeline.transform_panel(panel)
    symbols = frame.index.get_level_values("symbol")
    origins = pd.DatetimeIndex(frame.index.get_level_values("origin")).as_unit("us")
    code = pd.Index(panel.symbols).get_indexer(symbols).astype(np.int64)
    column = panel.times.get_indexer(origins).astype(np.int64)
    targets = {h: interval_arrays(panel, h) for h in config.horizons}
    variance, now = (
        np.column_stack([targets[h][name][code, column] for h in config.horizons])
        for name in ("variance", "regime_now")
    )
    thresholds = np.stack(
        [np.column_stack([targets[h][t][code, column] for t in THRESHOLDS]) for h in config.horizons], 1
    )
    rows = Rows(
        np.ascontiguousarray(frame.to_numpy()),
        tuple(map(str, frame.columns)),
        variance,
        tuple(config.horizons),
        code,
        panel.symbols,
        origins.asi8,
        thresholds,
        now,
    )
    material = Material(rows, panel.times, panel.symbols, column, targets, feed_ages(panel))
    del frame, panel
    give_back()
    return material


def give_back() -> None:
    """Hand freed memory back to the system.

    The C library of Linux keeps what arrays of some MB leave behind: gigabytes here, which count as the process's own
    until it is asked for them.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
