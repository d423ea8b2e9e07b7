"""What a panel's operations were given last, so that the next bar costs one bar.

Families of features are written once, on whole arrays. Live they run on a panel of the newest column alone, and every
operation that looks back is joined to what it was given before. An operation is known by its place in the order of
calls: a family asks for the same operations whatever the data are. Batch is the same thing in one long step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["Known", "Tape"]

Array = npt.NDArray[np.float64]


@dataclass
class Known:
    """Rows of one entity as they became known: instants (microseconds) of both clocks, and values (n_rows, n_columns)."""

    available: npt.NDArray[np.int64]
    clock: npt.NDArray[np.int64]
    values: Array


@dataclass
class _Cell:
    """One operation's memory: what it is called, and either the newest columns of its input or the newest known rows."""

    label: str
    past: Array | None = None
    known: dict[str, Known] = field(default_factory=dict)


class Tape:
    """The memory of one panel after another, each beginning where the one before ended.

    ``symbols``: rows of the arrays; ``end``: close of the last column, None before the first step; ``is_new``: whether the
    step under way is the first.
    """

    def __init__(self) -> None:
        self.symbols: tuple[str, ...] = ()
        self.end: pd.Timestamp | None = None
        self._cells: list[_Cell] = []
        self._at = 0
        self._rows: npt.NDArray[np.intp] | None = None
        self.is_new = True

    def copy(self) -> Tape:
        """Another tape with the same memory: a step on it leaves this one as it is."""
        other = copy.copy(self)
        # Arrays are replaced by every step and never written to, so that they may be shared.
        other._cells = [_Cell(cell.label, cell.past, dict(cell.known)) for cell in self._cells]
        return other

    def step(self, symbols: Sequence[str], end: pd.Timestamp) -> None:
        """Begin the next step, up to ``end``; symbols never seen before have no past."""
        moved = tuple(symbols) != self.symbols
        self._rows = pd.Index(self.symbols).get_indexer(pd.Index(symbols)) if moved else None
        self.is_new = self.end is None
        self.symbols, self.end, self._at = tuple(symbols), end, 0

    def extend(self, label: str, x: Array, reach: int) -> tuple[Array, int]:
        """``x`` with the columns before it, and how many those are; remembers what the next step's values will read."""
        cell = self._next(label)
        past = cell.past
        # One row is the market's own and has a past whatever symbols come.
        if past is not None and self._rows is not None and len(x) > 1:
            past = np.where((self._rows >= 0)[:, None], past[self._rows], np.nan)
        joined = np.ascontiguousarray(x if past is None else np.concatenate([past, x], axis=1))
        first = joined.shape[1] - x.shape[1]
        cell.past = joined[:, max(joined.shape[1] - reach + 1, 0) :].copy()
        return joined, first

    def known(self, label: str) -> dict[str, Known]:
        """By entity, the newest row known before this step; to be replaced by the caller."""
        return self._next(label).known

    def _next(self, label: str) -> _Cell:
        if self._at == len(self._cells):
            self._cells.append(_Cell(label))
        cell = self._cells[self._at]
        if cell.label != label:
            raise AssertionError(
                f"operation {self._at} was {cell.label} and is now {label}: a family's operations depend on the data"
            )
        self._at += 1
        return cell
