"""Features and targets of all origins as one table of arrays, and which of its rows a fold may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.panel import MICROSECONDS_PER_HOUR
from models.training_rows import TrainingRows
from training.splits import Fold

__all__ = ["Rows", "micros", "purged_labels", "training_rows"]


@dataclass(frozen=True)
class Rows:
    """Features and targets of all origins as plain arrays, so that worker processes share them without a copy.

    ``features`` (n_rows, n_features), ``variance`` (n_rows, n_horizons), ``origin`` microseconds since the epoch,
    ``symbol`` codes into ``symbols``; rows are sorted by symbol, then origin. ``thresholds`` (n_rows, n_horizons, 3) of the
    regimes and ``now`` (n_rows, n_horizons), the class of the trailing interval, are for the classifier of regimes.
    """

    features: npt.NDArray[np.float64]
    columns: tuple[str, ...]
    variance: npt.NDArray[np.float64]
    horizons: tuple[int, ...]
    symbol: npt.NDArray[np.int64]
    symbols: tuple[str, ...]
    origin: npt.NDArray[np.int64]
    thresholds: npt.NDArray[np.float64] | None = None
    now: npt.NDArray[np.float64] | None = None

    def frame(self, mask: npt.NDArray[np.bool_]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Features and targets of the rows under ``mask``, indexed by (symbol, origin)."""
        origins = pd.DatetimeIndex(self.origin[mask].astype("datetime64[us]"), tz="UTC")
        index = pd.MultiIndex.from_arrays(
            [pd.Index(self.symbols)[self.symbol[mask]], origins], names=["symbol", "origin"]
        )
        X = pd.DataFrame(self.features[mask], index=index, columns=list(self.columns), copy=False)
        y = pd.DataFrame(self.variance[mask], index=index, columns=list(self.horizons), copy=False)
        return X, y

    def training(self, mask: npt.NDArray[np.bool_]) -> TrainingRows:
        """The rows under ``mask``, to be learnt from; features are not copied."""
        at = np.flatnonzero(mask)
        return TrainingRows(
            self.features, self.columns, at, self.symbol[at], self.symbols, self.origin[at], self.variance[at],
            self.horizons, None, *(None if x is None else x[at] for x in (self.thresholds, self.now)),
        )  # fmt: skip

    def regimes(self, mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Thresholds and present classes of the rows under ``mask``; raises ``DataInvalid`` where they were left out."""
        if self.thresholds is None or self.now is None:
            raise DataInvalid("these rows have no thresholds of the regimes; make Rows with thresholds and now")
        return self.thresholds[mask], self.now[mask]


def training_rows(fold: Fold, rows: Rows, exclude: Sequence[str] = ()) -> TrainingRows:
    """The rows that may train a fold: origins before its border, labels known by then (law P), no symbol of ``exclude``."""
    past = rows.origin < micros(fold.test_start)
    past &= ~np.isin(rows.symbol, [code for code, name in enumerate(rows.symbols) if name in exclude])
    if fold.train_start is not None:
        past &= rows.origin >= micros(fold.train_start)
    return purged_labels(rows.training(past), fold.train_end)


def purged_labels(past: TrainingRows, known_by: pd.Timestamp) -> TrainingRows:
    """The same rows with every label nulled whose interval ends after ``known_by`` (law P)."""
    ends = past.origin[:, None] + np.array(past.horizons) * MICROSECONDS_PER_HOUR
    return replace(past, variance=np.where(ends <= micros(known_by), past.variance, np.nan))


def micros(t: pd.Timestamp) -> int:
    """Microseconds since the epoch."""
    return t.value // 1000
