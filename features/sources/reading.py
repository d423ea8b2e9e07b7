"""What a reader hands over: the rows of one file, and what it could not lay out as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = ["BadRow", "Reading", "Skip"]


@dataclass(frozen=True)
class BadRow:
    """A row (or, without a line, a whole file) that was kept out, and why."""

    file: str
    line: int | None
    column: str | None
    cause: str

    def __str__(self) -> str:
        line = "" if self.line is None else f", line {self.line}"
        column = "" if self.column is None else f", column {self.column}"
        return f"{self.file}{line}{column}: {self.cause}"


@dataclass(frozen=True)
class Skip:
    """A file that holds nothing for the store, and why."""

    reason: str


@dataclass(frozen=True)
class Reading:
    """The rows of one file.

    ``frame`` is indexed by line (text: line of the file; columnar: row, from 1) and carries the table's
    columns but ``source``; ``parameters`` is whatever besides the file's bytes decided the rows; ``torn`` are
    lines that the reader itself could not accept as rows, with their text.
    """

    table: str
    frame: pd.DataFrame
    parameters: Mapping[str, Any]
    torn: tuple[tuple[BadRow, str], ...] = ()
    notes: tuple[str, ...] = ()
