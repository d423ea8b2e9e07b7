"""Members' raw forecasts put on their level, and as rows that can be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.combination import level

__all__ = ["levelled", "rows"]

Array = npt.NDArray[np.float64]


def levelled(
    forecasts: pd.Series, variance: Array, symbols: Sequence[str], times: pd.DatetimeIndex, horizon: int
) -> Array:
    """``ln F`` (n_symbols, n_hours), each symbol on the level of its forecasts that were resolved by then.

    ``forecasts``: ``ln E[V]`` as fitted, by (symbol, origin); those outside the grid are left out. ``variance``: V on the
    grid.
    """
    row = pd.Index(symbols).get_indexer(forecasts.index.get_level_values("symbol"))
    column = times.get_indexer(pd.DatetimeIndex(forecasts.index.get_level_values("origin")).as_unit("us"))
    inside = (row >= 0) & (column >= 0)
    raw = np.full((len(symbols), len(times)), np.nan)
    raw[row[inside], column[inside]] = forecasts.to_numpy(np.float64)[inside]
    with np.errstate(invalid="ignore", divide="ignore"):
        return level(raw, variance, times, horizon)


def rows(
    log_forecasts: Mapping[str, Array], symbols: Sequence[str], times: pd.DatetimeIndex, horizon: int
) -> pd.DataFrame:
    """Forecasts ``ln F`` by model on the grid as rows of the forecast table, with what scoring a variance reads."""
    parts = []
    for model, grid in log_forecasts.items():
        symbol, column = np.nonzero(np.isfinite(grid))
        parts.append(
            pd.DataFrame(
                {
                    "symbol": np.asarray(symbols, dtype=object)[symbol],
                    "origin": times[column],
                    "horizon_hours": horizon,
                    "model": model,
                    "status": "ok",
                    "variance": np.exp(grid[symbol, column]),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
