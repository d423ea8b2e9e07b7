"""What a leak check compares and reports: cells, bit for bit, and the first bad one of every column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import LeakFound

__all__ = ["Check", "Finding", "Leak", "LeakReport", "differences"]

Check = Literal["prefix", "poison", "restart", "arrival", "live"]
LISTED = 20


@dataclass(frozen=True)
class Leak:
    """The earliest cell of a column that depends on what was not known at ``cut``."""

    check: Check
    table: str
    column: str
    symbol: str
    time: pd.Timestamp
    cut: pd.Timestamp
    horizon_hours: int | None = None
    model: str | None = None

    def __str__(self) -> str:
        horizon = "" if self.horizon_hours is None else f", horizon {self.horizon_hours} h"
        horizon += "" if self.model is None else f", model {self.model}"
        return (
            f"{self.check} check: table {self.table!r}, column {self.column!r}, symbol {self.symbol}, "
            f"time {self.time.isoformat()}{horizon} (cut {self.cut.isoformat()})"
        )


@dataclass(frozen=True)
class Finding:
    """One comparison: the number of cells by check and table, and what differed."""

    cells: dict[str, int]
    leaks: tuple[Leak, ...]

    def __add__(self, other: Finding) -> Finding:
        names = dict.fromkeys([*self.cells, *other.cells])
        cells = {name: self.cells.get(name, 0) + other.cells.get(name, 0) for name in names}
        return Finding(cells, self.leaks + other.leaks)


@dataclass(frozen=True)
class LeakReport:
    """What was compared and what was found.

    ``cuts``: instants of the checks. ``cells``: compared cells by check and table. ``leaks``: the first bad cell of
    every bad column and check, earliest first. ``scope``: what the checks covered, in words.
    """

    cuts: tuple[pd.Timestamp, ...]
    cells: dict[str, int]
    leaks: tuple[Leak, ...]
    scope: str

    @classmethod
    def of(cls, cuts: Iterable[pd.Timestamp], findings: Iterable[Finding], scope: str) -> LeakReport:
        """The report of these comparisons."""
        total = sum(findings, Finding({}, ()))
        return cls(tuple(cuts), total.cells, _firsts(total.leaks), scope)

    @property
    def first(self) -> Leak | None:
        """The first bad cell, None where there is none."""
        return self.leaks[0] if self.leaks else None

    def raise_if_found(self) -> None:
        """Raise ``LeakFound`` that names the first bad cell."""
        if self.first is not None:
            others = len({(leak.table, leak.column) for leak in self.leaks}) - 1
            more = f"; {others} other columns are bad too" if others else ""
            raise LeakFound(f"{self.first}{more}; derive it from rows with available_at <= time alone")

    def joined(self, other: LeakReport) -> LeakReport:
        """Both reports in one."""
        findings = [Finding(self.cells, self.leaks), Finding(other.cells, other.leaks)]
        return LeakReport.of(sorted({*self.cuts, *other.cuts}), findings, f"{self.scope} {other.scope}")

    def summary(self) -> str:
        """The report in a few lines."""
        compared = ", ".join(f"{name} {count:,}" for name, count in sorted(self.cells.items()))
        verdict = f"{len(self.leaks)} first bad cells:" if self.leaks else "No leak found."
        listed = [f"  {leak}" for leak in self.leaks[:LISTED]]
        rest = [f"  … and {len(self.leaks) - LISTED} more"] if len(self.leaks) > LISTED else []
        return "\n".join([f"{len(self.cuts)} cuts; cells compared: {compared}.", self.scope, verdict, *listed, *rest])

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "clean": not self.leaks,
            "cuts": [t.isoformat() for t in self.cuts],
            "cells": dict(sorted(self.cells.items())),
            "scope": self.scope,
            "leaks": [
                asdict(leak) | {"time": leak.time.isoformat(), "cut": leak.cut.isoformat()} for leak in self.leaks
            ],
        }


def differences(expected: pd.DataFrame, found: pd.DataFrame, check: Check, table: str, cut: pd.Timestamp) -> Finding:
    """The earliest differing cell of every column; equal means equal bits, and any NaN equals any other.

    Frames are indexed by (symbol, origin[, horizon_hours[, model]]). A row or a column that only one of them has differs in
    every cell.
    """
    index, alone = expected.index, np.zeros(len(expected), dtype=np.bool_)
    if not index.equals(found.index):
        index = index.union(found.index)
        alone = np.asarray(~(index.isin(expected.index) & index.isin(found.index)))
        expected, found = expected.reindex(index), found.reindex(index)
    origins = pd.DatetimeIndex(index.get_level_values("origin")).asi8
    columns = list(dict.fromkeys([*expected.columns, *found.columns]))
    leaks = []
    for column in columns:
        shared = column in expected and column in found
        differs = _bits(expected[column]) != _bits(found[column]) if shared else np.ones(len(index), dtype=np.bool_)
        bad = np.flatnonzero(differs | alone)
        if bad.size:
            symbol, time, *of = index[bad[np.argmin(origins[bad])]]
            leaks.append(Leak(check, table, str(column), str(symbol), time, cut, *_plain(of)))
    return Finding({f"{check} {table}": len(index) * len(columns)}, tuple(leaks))


def _plain(key: Sequence[Any]) -> list[Any]:
    return [value if isinstance(value, str) else int(value) for value in key]


def _bits(values: pd.Series) -> npt.NDArray[np.int64]:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return np.asarray(values.astype("int64"))
    if not pd.api.types.is_numeric_dtype(values.dtype):
        return pd.util.hash_pandas_object(values, index=False).to_numpy().view(np.int64)
    floats = values.to_numpy(np.float64)
    return np.where(np.isnan(floats), np.nan, floats).view(np.int64)


def _firsts(leaks: Iterable[Leak]) -> tuple[Leak, ...]:
    """The earliest leak of every check, table and column, in order of time."""
    earliest: dict[tuple[str, str, str], Leak] = {}
    for leak in sorted(leaks, key=lambda leak: leak.time):
        earliest.setdefault((leak.check, leak.table, leak.column), leak)
    return tuple(earliest.values())
