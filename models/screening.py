"""Which members may be combined: those that the past year cannot tell from the best.

Reference: Hansen, Lunde and Nason (2011), Econometrica 79 (model confidence set); Samuels and Sekkel (2017), International J.
Forecasting 33 (combining the models of the set).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.errors import DataInvalid
from features.kernels import cross_mean

__all__ = ["BLOCK_DAYS", "daily_losses", "model_confidence_set"]

Array = npt.NDArray[np.float64]

BLOCK_DAYS: Final = 10
"""Mean length of the blocks of every stationary bootstrap, in days."""
SEED: Final = 20230701
DAY: Final = 24


def model_confidence_set(
    losses: Any, block: int, *, size: float = 0.10, reps: int = 500, seed: int = SEED
) -> npt.NDArray[np.bool_]:
    """Which models (columns of rows × models, in order of time) the data cannot tell from the best one.

    Range statistic, stationary bootstrap with blocks of ``block`` rows on average; ``size``: how often the best one may be
    left out. Models with identical losses stand or fall together.

    Raises:
        DataInvalid: for nulls or fewer than two blocks of rows.
    """
    table = np.asarray(losses, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise DataInvalid("losses must be rows × models without nulls; keep the rows that every model forecast")
    if len(table) < 2 * block:
        raise DataInvalid(f"{len(table)} rows are too few for blocks of {block}; use a longer window")
    distinct, column = np.unique(table, axis=1, return_inverse=True)
    if distinct.shape[1] == 1:
        return np.ones(table.shape[1], dtype=np.bool_)
    from arch.bootstrap import MCS

    test = MCS(distinct, size=size, method="R", block_size=block, reps=reps, seed=seed)
    test.compute()
    inside = np.isin(np.arange(distinct.shape[1]), np.asarray(test.included))
    return np.asarray(inside[column.reshape(-1)])


def daily_losses(log_forecasts: Array, variance: Array, first_hour: int) -> Array:
    """QLIKE by day, averaged over symbols and hours: (n_days, n_members), of the days on which every member has one.

    ``log_forecasts`` (n_members, n_symbols, n_hours): ``ln F``; ``variance`` (n_symbols, n_hours): V; ``first_hour``: the hour
    since the epoch of column 0. Rows that a member lacks are missing for all.
    """
    whole = slice(-first_hour % DAY, None)
    n_days = variance[:, whole].shape[1] // DAY
    hours = slice(whole.start, whole.start + n_days * DAY)
    ratio = np.log(variance[:, hours]) - log_forecasts[:, :, hours]
    ratio[:, ~np.isfinite(ratio).all(axis=0)] = np.nan
    hourly = np.stack([cross_mean(np.ascontiguousarray(np.exp(x) - x - 1)) for x in ratio])
    by_day = np.ascontiguousarray(hourly.reshape(len(ratio), n_days, DAY))
    known = np.isfinite(by_day)
    rows = known.sum(axis=2)
    mean = np.where(known, by_day, 0.0).sum(axis=2) / np.maximum(rows, 1)
    return np.asarray(mean[:, (rows > 0).all(axis=0)].T)
