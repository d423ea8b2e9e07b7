"""What a leak check compares and reports: cells, bit for bit, and the first bad one of every column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import LeakFound

__all__ = ["FORWARD", "Check", "Finding", "Leak", "LeakReport", "Part", "differences"]

Check = Literal["prefix", "poison", "restart", "arrival", "live"]
LISTED = 20
FORWARD: Final = frozenset({"variance", "log_return", "mae_long", "mae_short", "regime", "onset"})
"""Target columns that speak of the interval after the origin."""


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


@dataclass(frozen=True)
class Part:
    """Some rows of a frame, read column by column: a table of gigabytes is compared without being copied.

    ``rows``: positions in ``frame``, which is indexed by (symbol, origin[, horizon_hours[, model]]). ``unknown``: which of
    them have no ``FORWARD`` columns yet.
    """

    frame: pd.DataFrame
    rows: npt.NDArray[np.int64]
    unknown: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        after: pd.Timestamp | None = None,
        upto: pd.Timestamp | None = None,
        known: pd.Timestamp | None = None,
    ) -> Part:
        """The rows with ``after < origin <= upto``; ``FORWARD`` columns are null where ``target_end > known``."""
        index = cast(pd.MultiIndex, frame.index)
        level = index.names.index("origin")
        origins = index.levels[level]
        inside = np.ones(len(origins), dtype=np.bool_)
        if after is not None:
            inside &= np.asarray(origins > after)
        if upto is not None:
            inside &= np.asarray(origins <= upto)
        rows = np.flatnonzero(inside[index.codes[level]])
        unknown = None
        if known is not None and "target_end" in frame:
            unknown = np.asarray(frame["target_end"] > known)[rows]
        return cls(frame, rows, unknown)

    @property
    def index(self) -> pd.MultiIndex:
        """The rows' index."""
        index = cast(pd.MultiIndex, self.frame.index)
        return index if len(self.rows) == len(index) else index.take(self.rows)

    def bits(self, column: str) -> npt.NDArray[np.int64]:
        """A column's bits, one NaN for all."""
        values = self.frame[column]
        whole = len(self.rows) == len(values)
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            return values.to_numpy("datetime64[us]").view(np.int64)[self.rows]
        if not pd.api.types.is_numeric_dtype(values.dtype):
            hashes = pd.util.hash_pandas_object(values.iloc[self.rows], index=False)
            return hashes.to_numpy().view(np.int64)
        floats = values.to_numpy(np.float64)
        floats = floats if whole else floats[self.rows]
        absent = np.isnan(floats)
        if self.unknown is not None and column in FORWARD:
            absent |= self.unknown
        return np.where(absent, np.nan, floats).view(np.int64)


def differences(
    expected: Part | pd.DataFrame, found: Part | pd.DataFrame, check: Check, table: str, cut: pd.Timestamp
) -> Finding:
    """The earliest differing cell of every column; equal means equal bits, and any NaN equals any other.

    Frames are indexed by (symbol, origin[, horizon_hours[, model]]). A row or a column that only one of them has differs in
    every cell.
    """
    expected, found = (of if isinstance(of, Part) else Part.of(of) for of in (expected, found))
    index, alone = expected.index, None
    if not index.equals(found.index):
        index, expected, found, alone = _aligned(expected, found)
    columns = list(dict.fromkeys([*expected.frame.columns, *found.frame.columns]))
    leaks = []
    for column in columns:
        shared = column in expected.frame and column in found.frame and (alone is None or not alone.all())
        differs = expected.bits(column) != found.bits(column) if shared else np.ones(len(index), dtype=np.bool_)
        bad = np.flatnonzero(differs if alone is None else differs | alone)
        if bad.size:
            origins = pd.DatetimeIndex(index.take(bad).get_level_values("origin"))
            symbol, time, *of = index[bad[np.argmin(origins.asi8)]]
            leaks.append(Leak(check, table, str(column), str(symbol), time, cut, *_plain(of)))
    return Finding({f"{check} {table}": len(index) * len(columns)}, tuple(leaks))


def _aligned(expected: Part, found: Part) -> tuple[pd.MultiIndex, Part, Part, npt.NDArray[np.bool_]]:
    """Both on the union of their rows, and which of those only one of them has; there any row of the other stands in."""
    index = expected.index.union(found.index)
    alone = np.zeros(len(index), dtype=np.bool_)
    parts = []
    for part in (expected, found):
        at = part.index.get_indexer(index)
        alone |= at < 0
        unknown = None if part.unknown is None or not len(part.rows) else part.unknown[at]
        rows = part.rows[at] if len(part.rows) else np.empty(0, dtype=np.int64)
        parts.append(Part(part.frame, rows, unknown))
    return index, parts[0], parts[1], alone


def _plain(key: Sequence[Any]) -> list[Any]:
    return [value if isinstance(value, str) else int(value) for value in key]


def _firsts(leaks: Iterable[Leak]) -> tuple[Leak, ...]:
    """The earliest leak of every check, table and column, in order of time."""
    earliest: dict[tuple[str, str, str], Leak] = {}
    for leak in sorted(leaks, key=lambda leak: leak.time):
        earliest.setdefault((leak.check, leak.table, leak.column), leak)
    return tuple(earliest.values())
