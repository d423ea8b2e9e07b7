"""Targets hour by hour: what has just been resolved, and the regime thresholds as they stand.

The definitions are those of ``features.targets``, of which this gives the newest column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.panel import Panel
from features.targets import MINIMUM_INTERVALS, THRESHOLD_HOURS, THRESHOLD_LEVELS, VARIANCE_FLOOR
from models.ring import Ring

__all__ = ["LiveTargets", "Resolved", "bars_of"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Resolved:
    """What one hour tells about one horizon.

    ``outcome`` (4, n_symbols): variance, log return and both excursions of the interval that has just ended.
    ``thresholds`` (3, n_symbols) and ``now`` (n_symbols,): those of the origin at this hour.
    """

    outcome: Array
    thresholds: Array
    now: Array


class LiveTargets:
    """Remembers the bars of the longest horizon, and two years of each horizon's intervals.

    ``bars``: as ``bars_of`` gives them, at least the longest horizon's; ``trailing``: by horizon, the variance of the
    interval that ended at each hour, (n_symbols, n_hours).
    """

    def __init__(self, bars: Array, trailing: Mapping[int, Array]) -> None:
        self._bars = Ring(bars, max(trailing) + 1)
        self._trailing = {h: Ring(x[None], THRESHOLD_HOURS - h) for h, x in trailing.items()}

    def place(self, rows: npt.NDArray[np.intp]) -> None:
        """Take the symbols anew, as ``Ring.place``."""
        for ring in (self._bars, *self._trailing.values()):
            ring.place(rows)

    def step(self, bars: Array) -> dict[int, Resolved]:
        """Take in the next hour, one column of ``bars_of``, (4, n_symbols)."""
        self._bars.append(bars)
        return {h: self._resolved(h, ring) for h, ring in self._trailing.items()}

    def _resolved(self, h: int, intervals: Ring) -> Resolved:
        variance, close, low, high = self._bars.values
        # Added in time order, as in the batch.
        trailing = np.maximum(np.cumsum(variance[:, -h:], axis=1)[:, -1], VARIANCE_FLOOR)
        if variance.shape[1] < h:
            trailing = np.full(len(trailing), np.nan)
        intervals.append(trailing[None])
        thresholds = _thresholds(intervals.values[0])
        above = (trailing > thresholds).sum(axis=0).astype(np.float64)
        now = np.where(np.isnan(trailing) | np.isnan(thresholds[0]), np.nan, above)
        begin = close[:, -1 - h] if close.shape[1] > h else np.full(len(close), np.nan)
        measures = (
            trailing,
            np.log(close[:, -1] / begin),
            np.maximum(0.0, 1 - low[:, -h:].min(axis=1) / begin),
            np.maximum(0.0, high[:, -h:].max(axis=1) / begin - 1),
        )
        return Resolved(np.where(np.isnan(trailing), np.nan, np.stack(measures)), thresholds, now)


def bars_of(panel: Panel) -> Array:
    """What targets are made of: bar variance, close, low and high, (4, n_symbols, n_hours)."""
    return np.stack([panel.variance, panel.close, panel.field("low"), panel.field("high")])


def _thresholds(trailing: Array) -> Array:
    """Quantiles of each row's finite values, interpolated linearly: (3, n_symbols); NaN where they are too few."""
    out = np.full((len(THRESHOLD_LEVELS), len(trailing)), np.nan)
    for i, row in enumerate(trailing):
        known = row[~np.isnan(row)]
        if len(known) < MINIMUM_INTERVALS:
            continue
        positions = np.array(THRESHOLD_LEVELS) * (len(known) - 1)
        low = np.floor(positions).astype(np.int64)
        high = np.minimum(low + 1, len(known) - 1)
        known.partition(np.union1d(low, high))
        out[:, i] = known[low] + (positions - low) * (known[high] - known[low])
    return out
