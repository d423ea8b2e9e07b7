"""What the ensemble is made of: parts that learn at a refresh and are applied to the hours up to the next one.

The ensemble of a horizon is an ordered list of parts over one ``Past``. Whole histories and single hours go through the same
two methods: ``Run.advance`` takes part after part through the hours it is given, from refresh to refresh, and those hours are
a history of years in a walk-forward and one hour in a forecaster that goes on.

To add a part:

- Derive from ``Part``, or from ``Fixed`` if it learns nothing. Name its clock ``every`` (``models.trailing.DAY`` or
  ``FOUR_WEEKS``), what fields it ``makes``, which no other part may, and its ``reach``: how many hours before a refresh, or
  before an hour that it is applied to, it reads.
- ``learn(past, at)`` returns what stands from the refresh at column ``at`` on: anything that does not change afterwards.
  It reads resolved rows only, ``models.trailing.window(at, past.horizon, length)``: of every part before it and of itself,
  and outcomes. ``past[levelled("har")][:, span]`` are a member's forecasts, ``past["variance"][:, span]`` what came of them.
- ``apply(state, hours)`` returns a ``Made``: the ``fields`` that the part ``makes``, each (n_symbols, n_hours of ``hours``),
  which the past remembers; and ``columns`` of the forecast table by model. ``hours["forecast"]`` is a field of these
  hours, made by a part before; ``hours.column(ENSEMBLE, "ret_q010")`` a column given by a part before, which may be given
  again, changed. Columns of earlier hours are not remembered: what a part will want to look back on, it makes a field too.
  ``hours.past`` has the hours before; in a whole history also those after are filled already, and none may be read.
- A part whose state moves every hour derives from ``Sequential``: ``follow(state, carried, hours)`` also takes the state
  that it carries, (n_symbols, ...), and returns it as it stands after these hours. Within, a kernel goes hour by hour; at
  column ``t`` it may read what came of column ``t - horizon`` and before, and so can learn from each outcome as it is
  resolved (the last ``horizon`` hours are always remembered). Many hours at once and one at a time must leave the same bits.
- Results must not depend on how many hours are applied at once, nor on symbols that are yet to come, whose rows are NaN:
  elementwise or in time order, over the finite values alone, no BLAS product, no sum along an axis whose order of addition
  depends on the shape. A state by symbol has the pool's value where a symbol has no past.
- Further inputs, such as a classifier's logits, come with ``Record.inputs`` and are fields under their own names.
- Put the part into ``models.ensemble.Ensemble.parts``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from models.past import Past, RecentPast
from models.trailing import FOUR_WEEKS, strikes

__all__ = ["Columns", "Fixed", "Hours", "Made", "Part", "Run", "Sequential"]

Array = npt.NDArray[np.float64]
State = TypeVar("State")
Columns = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True)
class Made:
    """What a part makes of some hours: fields of the past by name, and columns of the forecast table by model."""

    fields: Mapping[str, Array | float] = field(default_factory=dict)
    columns: Columns = field(default_factory=dict)


@dataclass(frozen=True)
class Hours:
    """The hours that a part is applied to: columns ``span`` of ``past``, and the forecast table's columns for them so far.

    ``given``: by model and name, arrays of which these hours are the columns ``within``.
    """

    past: Past
    span: slice
    given: Columns
    within: slice

    @property
    def horizon(self) -> int:
        """Hours ahead."""
        return self.past.horizon

    def __getitem__(self, name: str) -> Array:
        """One field of these hours, (n_symbols, n_hours)."""
        return self.past[name][:, self.span]

    def stack(self, names: Sequence[str]) -> Array:
        """Some fields of these hours, (n_names, n_symbols, n_hours)."""
        return self.past.stack(names, self.span)

    def column(self, model: str, name: str) -> Array:
        """A column of the forecast table as it stands by now, (n_symbols, n_hours)."""
        return self.given[model][name][:, self.within]


class Part(ABC, Generic[State]):
    """Learns at its refreshes; in between, what was learnt is applied to each hour. See the module's text."""

    every: int | None = FOUR_WEEKS
    reach: int = 0
    makes: tuple[str, ...] = ()

    @abstractmethod
    def learn(self, past: Past, at: int) -> State:
        """What stands from the refresh at column ``at`` on."""

    @abstractmethod
    def apply(self, state: State, hours: Hours) -> Made:
        """What these hours' forecasts are, or are called for."""

    def states(self, past: Past, refreshes: npt.NDArray[np.int64]) -> Iterator[State]:
        """What is learnt at each of several refreshes; asked for one by one, once the hours before have been applied.

        A part that reads only what was brought in may learn them all in one pass.
        """
        return (self.learn(past, int(at)) for at in refreshes)


class Fixed(Part[None]):
    """A part that learns nothing."""

    every = None

    def learn(self, past: Past, at: int) -> None:
        """Nothing."""


class Sequential(Part[State]):
    """A part that also carries a state (n_symbols, ...) from hour to hour."""

    @abstractmethod
    def begin(self, n_symbols: int) -> Array:
        """The state of symbols that have no forecast yet; hours without one must leave it so."""

    @abstractmethod
    def follow(self, state: State, carried: Array, hours: Hours) -> tuple[Made, Array]:
        """What is made of these hours, and the state after them; ``carried`` itself is left as it is."""

    def apply(self, state: State, hours: Hours) -> Made:
        """Raises: what is carried would be lost."""
        raise TypeError(f"{type(self).__name__} carries a state from hour to hour: it is followed, not applied")

    def place(self, carried: Array, rows: npt.NDArray[np.intp]) -> Array:
        """Take the symbols anew, as ``Ring.place``."""
        out = self.begin(len(rows))
        out[rows >= 0] = carried[rows[rows >= 0]]
        return out


class Run:
    """Parts on their way through one horizon's hours, each with what it knows by now.

    Raises ``ValueError`` where a part makes a field that is there already.
    """

    def __init__(self, parts: Sequence[Part[Any]], past: Past) -> None:
        self.past = past
        self._standing = [_Standing(part) for part in parts]
        for part in parts:
            for name in part.makes:
                if name in past.names:
                    raise ValueError(
                        f"{type(part).__name__} makes {name!r}, which is there already: give it another name"
                    )
                past.begin(name)

    def advance(self, span: slice) -> dict[str, dict[str, Array]]:
        """Take all parts through the columns ``span`` of the past, which follow those of the call before.

        Returns the columns of the forecast table, (n_symbols, n_hours of ``span``), by model.
        """
        columns: dict[str, dict[str, Array]] = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            for standing in self._standing:
                for block in standing.blocks(self.past, span):
                    within = slice(block.start - span.start, block.stop - span.start)
                    made = standing.apply(Hours(self.past, block, columns, within))
                    for name in standing.part.makes:
                        self.past.keep(name, block, made.fields[name])
                    _give(made.columns, columns, within, (self.past.n_symbols, span.stop - span.start))
        return columns

    def learnt(self, part: Part[State]) -> list[tuple[int, State]]:
        """What stood in the hours of the last ``advance``: each refresh's hour since the epoch, and what was learnt."""
        return next(standing.in_force for standing in self._standing if standing.part is part)

    def shorten(self) -> RecentPast:
        """Go on with the newest hours alone: as many as any part reads, wherever between two refreshes the newest stands."""
        reach = max(standing.part.reach for standing in self._standing)
        past = RecentPast(self.past, reach + self.past.horizon + FOUR_WEEKS)
        self.past = past
        return past

    def place(self, rows: npt.NDArray[np.intp]) -> None:
        """The past's symbols have been taken anew, as ``Ring.place``: what stands is learnt again, for all of them."""
        with np.errstate(invalid="ignore", divide="ignore"):
            for standing in self._standing:
                standing.place(self.past, rows)


def _give(given: Columns, columns: dict[str, dict[str, Array]], within: slice, shape: tuple[int, int]) -> None:
    for model, of_model in given.items():
        table = columns.setdefault(model, {})
        for name, values in of_model.items():
            if name not in table:
                table[name] = np.empty(shape)
            table[name][:, within] = values


class _Standing:
    """One part and what it knows by now: ``in_force`` has the refreshes of the newest hours, the last one stands."""

    def __init__(self, part: Part[Any]) -> None:
        self.part = part
        self.in_force: list[tuple[int, Any]] = []
        self._carried: Array | None = None

    def blocks(self, past: Past, span: slice) -> Iterator[slice]:
        """``span`` from refresh to refresh; what is learnt at the beginning of each stands when it is given."""
        due: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        if self.part.every is not None:
            due = strikes(past.first_hour, span, self.part.every)
            if not self.in_force:  # what stands in before anything is known
                due = np.union1d([span.start], due)
        states = self.part.states(past, due)
        self.in_force = self.in_force[-1:] if span.start not in due else []
        for start, stop in pairwise([*np.union1d([span.start], due).tolist(), span.stop]):
            if start in due:
                self.in_force.append((past.first_hour + start, next(states)))
            yield slice(start, stop)

    def apply(self, hours: Hours) -> Made:
        state = self.in_force[-1][1] if self.in_force else None
        if not isinstance(self.part, Sequential):
            return self.part.apply(state, hours)
        if self._carried is None:
            self._carried = self.part.begin(hours.past.n_symbols)
        made, self._carried = self.part.follow(state, self._carried, hours)
        return made

    def place(self, past: Past, rows: npt.NDArray[np.intp]) -> None:
        if self.in_force:
            hour = self.in_force[-1][0]
            at = np.array([hour - past.first_hour], dtype=np.int64)
            self.in_force = [(hour, state) for state in self.part.states(past, at)]
        if isinstance(self.part, Sequential) and self._carried is not None:
            self._carried = self.part.place(self._carried, rows)
