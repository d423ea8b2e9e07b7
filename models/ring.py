"""The newest hours of arrays, in memory that is taken once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Ring"]

Array = npt.NDArray[np.float64]

# Columns move to the front whenever this part of the width has been written, so that a view of them is always contiguous.
SPARE = 8


class Ring:
    """The last ``width`` columns of ``values`` (n_fields, n_symbols, n_hours), and of what is appended to them.

    A view of the columns changes with the next ``append``.
    """

    def __init__(self, values: Array, width: int) -> None:
        self._width = width
        self._end: int = min(values.shape[2], width)
        # Written through at once: pages that are first touched later would look like a leak.
        self._data = np.full((*values.shape[:2], width + width // SPARE + 1), np.nan)
        self._data[:, :, : self._end] = values[:, :, values.shape[2] - self._end :]

    def __len__(self) -> int:
        return min(self._end, self._width)

    @property
    def values(self) -> Array:
        """The columns, oldest first, (n_fields, n_symbols, n_hours)."""
        return self._data[:, :, self._end - len(self) : self._end]

    def append(self, column: Array) -> None:
        """Add the next hour, (n_fields, n_symbols)."""
        if self._end == self._data.shape[2]:
            kept = self._width - 1
            for field in self._data:  # one at a time: an overlapping move copies what it moves
                field[:, :kept] = field[:, self._end - kept : self._end]
            self._end = kept
        self._data[:, :, self._end] = column
        self._end += 1

    def place(self, rows: npt.NDArray[np.intp]) -> None:
        """Take the symbols anew: row ``i`` becomes what was row ``rows[i]``, without a past where that is negative."""
        self._data = np.where((rows >= 0)[None, :, None], self._data[:, rows], np.nan)
