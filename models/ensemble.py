"""The product's own forecast: members levelled, combined, given a predictive law, and calibrated, all on resolved rows.

``Ensemble.parts`` is what it is made of, and ``models.parts`` says how a part is added. ``assemble`` takes the parts through
the out-of-sample forecasts of the members on a complete hourly grid: the walk-forward over its folds, and serving over stored
history and the newest forecasts. ``LiveEnsemble`` takes the same parts on from there, an hour at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from models.base import ENSEMBLE, EXCURSION_COLUMNS, THRESHOLDS
from models.combination import Clip, Combine, Ladder, Levels
from models.conformal import Conformal
from models.distribution import Cover, ExcursionLaw, Reference, ReturnLaw, States, VarianceLaw
from models.parts import Part, Run
from models.past import Hour, Past, Record, levelled
from models.regimes import Calibration
from models.trailing import FOUR_WEEKS

__all__ = ["Assembly", "Combination", "Ensemble", "LiveEnsemble"]

Array = npt.NDArray[np.float64]

STRONG: Final = ("har_x", "lightgbm")
PLAIN: Final = ("har_seasonal", "gjr", "garch", "har", "ewma")
# The textbook references that also carry lognormal probabilities.
REFERENCES: Final = ("har", "har_seasonal")
CHUNK: Final = 6 * FOUR_WEEKS


@dataclass(frozen=True)
class Combination:
    """One horizon's combination on the hourly grid.

    ``log_forecast`` (n_symbols, n_hours): ``ln F``; ``weights`` (n_refreshes, n_members) in force from the times
    of its index.
    """

    log_forecast: Array
    weights: pd.DataFrame


@dataclass(frozen=True)
class Assembly:
    """The forecast columns of every model for one horizon, and how the ensemble came about.

    ``columns``: model to column to array (n_symbols, n_hours). ``answered``: for the ensemble, the index into ``ladder``
    of what answered (0: itself), -1 where nothing could. ``clipped``: -1 or 1 where the combination was held to its bounds.
    """

    horizon: int
    columns: Mapping[str, Mapping[str, Array]]
    combination: Combination
    answered: npt.NDArray[np.int64]
    clipped: npt.NDArray[np.int64]
    ladder: tuple[str, ...]
    levelled: Mapping[str, Array] = field(repr=False)


class Ensemble:
    """Combination, predictive law and regime probabilities.

    ``members``: which are combined (others are forecast and scored beside it). ``shrinkage``: how far the weights move
    from the best on resolved rows towards equal ones. ``screen``: a member that the last year rejects at this size is left
    out (None: nobody is).
    """

    def __init__(
        self, members: Sequence[str] | None = None, shrinkage: float = 0.5, screen: float | None = 0.02
    ) -> None:
        self.members = members
        self.shrinkage = shrinkage
        self.screen = screen

    def parts(self, members: Sequence[str], horizon: int) -> list[Part[Any]]:
        """What one horizon's ensemble of these members is made of, in the order in which the parts read one another."""
        return [
            Levels(members),
            *(Reference(name) for name in members if name in REFERENCES),
            Combine(self.chosen(members), self.shrinkage, self.screen),
            Clip(),
            Ladder(members),
            States(),
            VarianceLaw(),
            Calibration(),
            ReturnLaw(),
            ExcursionLaw("long"),
            ExcursionLaw("short"),
            Conformal(horizon),
            Cover(),
        ]

    def chosen(self, members: Sequence[str]) -> list[str]:
        """Which of the ``members`` are combined; raises ``UsageError`` for one that is not there."""
        wanted = self.members
        if wanted is None:
            # Averaging in a weaker member costs more than it brings: without the strong ones, the best of the plain ones.
            wanted = [m for m in STRONG if m in members] or [m for m in PLAIN if m in members][:1]
        if missing := sorted(set(wanted) - set(members)):
            raise UsageError(f"ensemble.members names {missing[0]}, which is not among the members {sorted(members)}")
        return list(wanted) or list(members)

    def assemble(self, records: Sequence[Record], times: pd.DatetimeIndex) -> dict[int, Assembly]:
        """Forecast columns for every horizon, the shortest first; ``times`` are the grid's hours.

        Row ``[:, t]`` reads members' forecasts up to ``t`` and outcomes resolved by ``t`` only.
        """
        whole = slice(0, len(times))
        return _widened(_Horizon(self, record, times).assembly(whole) for record in _sorted(records))


class LiveEnsemble:
    """``Ensemble.assemble``, continued; ``records``: every horizon's past so far, on the grid of ``times``."""

    def __init__(self, ensemble: Ensemble, records: Sequence[Record], times: pd.DatetimeIndex) -> None:
        self._horizons = []
        for record in _sorted(records):
            horizon = _Horizon(ensemble, record, times)
            for start in range(0, len(times), CHUNK):  # columns of the past are not wanted, and take room
                horizon.run.advance(slice(start, min(start + CHUNK, len(times))))
            self._horizons.append((horizon, horizon.run.shorten()))

    def place(self, rows: npt.NDArray[np.intp]) -> None:
        """Take the symbols anew, as ``Ring.place``."""
        for horizon, past in self._horizons:
            past.place(rows)
            horizon.run.place(rows)

    def step(self, hour: Mapping[int, Hour]) -> dict[int, Assembly]:
        """The next hour's columns, each (n_symbols, 1), from what it tells by horizon."""
        assemblies = []
        for horizon, past in self._horizons:
            past.append(hour[past.horizon])
            assemblies.append(horizon.assembly(slice(len(past) - 1, len(past))))
        return _widened(assemblies)


class _Horizon:
    """One horizon's parts, and their way through its hours."""

    def __init__(self, ensemble: Ensemble, record: Record, times: pd.DatetimeIndex) -> None:
        self._members = tuple(record.members)
        parts = ensemble.parts(self._members, record.horizon)
        self._combine = next(part for part in parts if isinstance(part, Combine))
        self._ladder = next(part for part in parts if isinstance(part, Ladder))
        self.run = Run(parts, Past.of(record, times))

    def assembly(self, span: slice) -> Assembly:
        """What the parts make of the next hours."""
        columns = self.run.advance(span)
        past = self.run.past
        thresholds = {name: past[name][:, span].copy() for name in THRESHOLDS}
        for of_model in columns.values():
            of_model.update(thresholds)
        weights = self.run.learnt(self._combine)
        since = pd.DatetimeIndex(np.array([hour for hour, _ in weights], dtype="datetime64[h]"), tz="UTC").as_unit("us")
        table = pd.DataFrame([w for _, w in weights], index=since, columns=list(self._combine.members))
        return Assembly(
            past.horizon,
            columns,
            Combination(past["combined"][:, span].copy(), table),
            past["answered"][:, span].astype(np.int64),
            past["clipped"][:, span].astype(np.int64),
            self._ladder.steps,
            {name: past[levelled(name)][:, span].copy() for name in self._members},
        )


def _sorted(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.horizon)


def _widened(assemblies: Iterable[Assembly]) -> dict[int, Assembly]:
    """By horizon, from the shortest on. A longer interval contains a shorter one: its excursions are at least as large."""
    out: dict[int, Assembly] = {}
    shorter: dict[str, Array] = {}
    for assembly in assemblies:
        columns = assembly.columns[ENSEMBLE]
        for name in (*EXCURSION_COLUMNS["long"], *EXCURSION_COLUMNS["short"]):
            if name in shorter:
                np.fmax(columns[name], shorter[name], out=columns[name])
            shorter[name] = columns[name]
        out[assembly.horizon] = assembly
    return out
