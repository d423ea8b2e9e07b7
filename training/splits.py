"""Purged walk-forward folds: cut on time, across all symbols at once, purged by label end.

A row may train a fold only if its label was known by the fold's first test instant. Purging by a count of
rows lets labels of the test period in wherever rows are missing or symbols share a table, so the label's own
end decides, and nothing else (López de Prado, Advances in Financial Machine Learning, chapter 7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid, UsageError

__all__ = ["Fold", "PurgedWalkForward", "utc"]

IndexArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fold:
    """One refit: test origins lie in ``[test_start, test_end)``; warm-up folds have negative indices.

    Rows train if their origin is not before ``train_start`` (None: any) and their label ended by
    ``train_end``.
    """

    index: int
    test_start: pd.Timestamp
    test_end: pd.Timestamp
    train_start: pd.Timestamp | None
    train_end: pd.Timestamp

    def test_mask(self, origin: Any) -> BoolArray:
        """Rows tested in this fold, as booleans of ``origin``'s length."""
        at = _instants(origin, "origin")
        return np.asarray((at >= self.test_start) & (at < self.test_end))

    def train_mask(self, origin: Any, label_end: Any) -> BoolArray:
        """Rows that may train this fold; a null label end means no label, and never trains."""
        at, resolved = _rows(origin, label_end)
        keep = np.asarray((resolved <= self.train_end) & (at < self.test_start))
        if self.train_start is not None:
            keep &= np.asarray(at >= self.train_start)
        return keep


class PurgedWalkForward:
    """Forward-only folds over ``[start, end)``, anchored at ``start``.

    Law P holds for every fold: ``max(label_end[train]) <= min(origin[test]) - embargo``. The cut is the
    fold's border, not its first row: what trains a fold is settled at the border, as in production.

    Args:
        start: first test instant. Naive times are UTC.
        end: exclusive end of the last fold, which may be shorter than the others.
        step: length of a fold: ``"1MS"``, ``"3MS"`` (calendar months from ``start``) or a Timedelta.
        embargo: distance between the last training label and the border. Zero is right for causal
            features.
        window: length of a rolling training window, measured back from the training cut; None expands.
        warmup: folds before ``start``, numbered from ``-warmup``, for what learns from earlier forecasts.

    Raises:
        UsageError: for an empty span or a length that is not positive.
    """

    def __init__(
        self,
        start: pd.Timestamp | str,
        end: pd.Timestamp | str,
        step: pd.Timedelta | str,
        embargo: pd.Timedelta | str = "0h",
        window: pd.Timedelta | str | None = None,
        warmup: int = 0,
    ) -> None:
        self.start, self.end = utc(start), utc(end)
        self.step = _step(step)
        self.embargo = pd.Timedelta(embargo)
        self.window = None if window is None else pd.Timedelta(window)
        self.warmup = warmup
        zero = pd.Timedelta(0)
        if not self.start < self.end:
            raise UsageError(f"walk-forward: start {self.start} is not before end {self.end}; end later")
        if self.start + self.step <= self.start:
            raise UsageError(f"walk-forward: step {step!r} is not positive; give e.g. '1MS' or '30D'")
        if self.embargo < zero or (self.window is not None and self.window <= zero) or warmup < 0:
            raise UsageError(
                f"walk-forward: embargo {embargo!r} and warmup {warmup!r} must not be negative, "
                f"window {window!r} must be positive or None"
            )

    def folds(self) -> list[Fold]:
        """All folds in order of time, warm-up folds first."""
        found = []
        index = -self.warmup
        while (test_start := self._border(index)) < self.end:
            train_end = test_start - self.embargo
            train_start = None if self.window is None else train_end - self.window
            test_end = min(self._border(index + 1), self.end)
            found.append(Fold(index, test_start, test_end, train_start, train_end))
            index += 1
        return found

    def split(self, origin: Any, label_end: Any) -> Iterator[tuple[IndexArray, IndexArray]]:
        """Positions of the training and the test rows of every fold that has test rows.

        Args:
            origin: instants at which the rows' forecasts are made, in any order, all symbols together.
            label_end: instants at which their labels are known (``origin + horizon``); null: no label.

        Raises:
            DataInvalid: where the two differ in length, an origin is null, or a label ends before its origin.
        """
        at, resolved = _rows(origin, label_end)
        for fold in self.folds():
            test = np.flatnonzero(fold.test_mask(at))
            if test.size:
                yield np.flatnonzero(fold.train_mask(at, resolved)), test

    def _border(self, index: int) -> pd.Timestamp:
        # Counted from the anchor: stepping from border to border would turn the 31st into the 28th.
        return self.start + index * self.step


def _step(step: pd.Timedelta | str) -> pd.Timedelta | pd.DateOffset:
    months = re.fullmatch(r"(\d+)MS", step) if isinstance(step, str) else None
    try:
        return pd.DateOffset(months=int(months[1])) if months else pd.Timedelta(step)
    except ValueError as error:
        raise UsageError(f"walk-forward: step {step!r} is no time span; give e.g. '1MS' or '30D'") from error


def utc(instant: pd.Timestamp | str) -> pd.Timestamp:
    """An instant in UTC; naive times are read as UTC."""
    at = pd.Timestamp(instant)
    return at.tz_localize("UTC") if at.tzinfo is None else at.tz_convert("UTC")


def _instants(values: Any, name: str) -> pd.DatetimeIndex:
    index = pd.Index(values)
    if not isinstance(index, pd.DatetimeIndex):
        raise DataInvalid(f"{name} holds {index.dtype}, not instants; pass datetime64 values")
    return index.tz_localize("UTC") if index.tz is None else index


def _rows(origin: Any, label_end: Any) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    at, resolved = _instants(origin, "origin"), _instants(label_end, "label_end")
    if len(at) != len(resolved):
        raise DataInvalid(f"origin has {len(at)} rows, label_end {len(resolved)}; pass one of each per row")
    if at.hasnans:
        raise DataInvalid(f"origin is null in row {int(np.flatnonzero(at.isna())[0])}; drop rows without an origin")
    backward = np.flatnonzero(np.asarray(resolved < at))
    if backward.size:
        row = int(backward[0])
        raise DataInvalid(
            f"label_end {resolved[row]} in row {row} is before its origin {at[row]}; it is origin + horizon"
        )
    return at, resolved
