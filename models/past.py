"""One horizon's past as it was forecast at the time: named fields on the hourly grid, whole or of bounded length.

A field is an array (n_symbols, n_hours), NaN where there is nothing. Some are brought in: what is known at each origin (the
members' forecasts, the regime thresholds and the present class, further named grids) and, once its interval has ended, what
came of it. The others are made by the parts of the ensemble (``models.parts``). A walk-forward keeps whole histories in
``Past``; a forecaster that goes on hour by hour keeps the newest hours in ``RecentPast``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.panel import MICROSECONDS_PER_HOUR
from models.base import THRESHOLDS
from models.ring import Ring

__all__ = ["Hour", "Outcome", "Past", "RecentPast", "Record", "levelled", "raw"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What came of each origin for one horizon, arrays (n_symbols, n_hours), NaN until the interval is complete."""

    variance: Array
    log_return: Array
    mae_long: Array
    mae_short: Array

    def fields(self) -> dict[str, Array]:
        """As they are learnt from: excursions on the log scale, ``fall`` below and ``rise`` above the price at the origin."""
        return {
            "variance": self.variance,
            "log_variance": np.log(self.variance),
            "log_return": self.log_return,
            "fall": -np.log1p(-self.mae_long),
            "rise": np.log1p(self.mae_short),
        }


@dataclass(frozen=True)
class Record:
    """One horizon's past on the hourly grid: arrays (n_symbols, n_hours), NaN where there is nothing.

    ``members``: ``ln E[V]`` of each member as fitted. ``thresholds`` (3, n_symbols, n_hours). ``now``: class 0-3 of the
    trailing interval. ``inputs``: further grids by name, each known at its origin, for the parts that ask for them.
    """

    horizon: int
    members: Mapping[str, Array]
    outcome: Outcome
    thresholds: Array
    now: Array
    inputs: Mapping[str, Array] = field(default_factory=dict)

    def fields(self) -> dict[str, Array]:
        """All of it by name."""
        return _known(self.members, self.thresholds, self.now, self.inputs) | self.outcome.fields()


@dataclass(frozen=True)
class Hour:
    """What the next hour tells one horizon, as ``Record`` without its last axis.

    ``outcome`` is that of the interval which has just ended, so it belongs to the origin ``horizon`` hours ago.
    """

    members: Mapping[str, Array]
    outcome: Outcome
    thresholds: Array
    now: Array
    inputs: Mapping[str, Array] = field(default_factory=dict)


def raw(member: str) -> str:
    """The field of a member's ``ln E[V]`` as fitted."""
    return f"raw {member}"


def levelled(member: str) -> str:
    """The field of the same with its level set."""
    return f"levelled {member}"


class Past:
    """The fields of whole histories. ``first_hour``: the hour since the epoch of column 0."""

    def __init__(self, horizon: int, first_hour: int, fields: Mapping[str, Array]) -> None:
        self.horizon = horizon
        self._first_hour = first_hour
        self._fields = dict(fields)

    @classmethod
    def beginning(cls, times: pd.DatetimeIndex, horizon: int, fields: Mapping[str, Array]) -> Past:
        """On the grid of ``times``."""
        return Past(horizon, int(times.as_unit("us").asi8[0]) // MICROSECONDS_PER_HOUR, fields)

    @classmethod
    def of(cls, record: Record, times: pd.DatetimeIndex) -> Past:
        """All that was brought in, on the grid of ``times``."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return cls.beginning(times, record.horizon, record.fields())

    @property
    def first_hour(self) -> int:
        """The hour since the epoch of column 0."""
        return self._first_hour

    @property
    def names(self) -> tuple[str, ...]:
        """Every field there is by now."""
        return tuple(self._fields)

    @property
    def n_symbols(self) -> int:
        """How many symbols there are."""
        return len(self["variance"])

    def __len__(self) -> int:
        return int(self["variance"].shape[1])

    def __getitem__(self, name: str) -> Array:
        """A view of one field, (n_symbols, n_hours)."""
        return self._fields[name]

    def stack(self, names: Sequence[str], columns: slice) -> Array:
        """A copy of some fields' columns, (n_names, n_symbols, n_columns)."""
        return np.stack([self[name][:, columns] for name in names])

    def begin(self, name: str) -> None:
        """Make room for a field."""
        self._fields[name] = np.full((self.n_symbols, len(self)), np.nan)

    def keep(self, name: str, columns: slice, values: Array | float) -> None:
        """Write what has been made of some hours."""
        self[name][:, columns] = values


class RecentPast(Past):
    """The same fields, of the newest ``width`` hours of ``past`` and of those that follow, in memory that is taken once."""

    def __init__(self, past: Past, width: int) -> None:
        super().__init__(past.horizon, past.first_hour, {})
        self._row = {name: k for k, name in enumerate(past.names)}
        self._newest = past.first_hour + len(past) - 1
        self._ring = Ring(past.stack(past.names, slice(max(len(past) - width, 0), None)), width)

    @property
    def first_hour(self) -> int:
        """The hour since the epoch of the oldest column."""
        return self._newest - len(self) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Every field there is."""
        return tuple(self._row)

    def __getitem__(self, name: str) -> Array:
        view: Array = self._ring.values[self._row[name]]
        return view

    def append(self, hour: Hour) -> None:
        """Begin the next hour, and write down what came of the one whose interval ends with it."""
        if len(self) >= self.horizon:
            with np.errstate(invalid="ignore", divide="ignore"):
                resolved = hour.outcome.fields()
            for name, values in resolved.items():
                self[name][:, -self.horizon] = values
        self._ring.append(np.full((len(self._row), self.n_symbols), np.nan))
        self._newest += 1
        for name, values in _known(hour.members, hour.thresholds, hour.now, hour.inputs).items():
            self[name][:, -1] = values

    def place(self, rows: npt.NDArray[np.intp]) -> None:
        """Take the symbols anew, as ``Ring.place``."""
        self._ring.place(rows)


def _known(
    members: Mapping[str, Array], thresholds: Array, now: Array, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Fields of what is known at an origin."""
    own = {raw(name): x for name, x in members.items()} | dict(zip(THRESHOLDS, thresholds, strict=True)) | {"now": now}
    return own | dict(inputs)
