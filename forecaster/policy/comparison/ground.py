"""The ground on which policies meet: hours, origins to score, what came after each, and when scalars are refitted.

Grids are arrays (n_symbols, n_hours) on the market's hourly panel. What happened after an origin is for scoring; a margin
may read columns up to its own only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from features.panel import Array
from features.targets import interval_arrays
from forecaster.policy.inputs import Inputs
from forecaster.policy.observables import DAY, MarketHistory

__all__ = [
    *("ALL", "EVENTS", "HOURS_A_YEAR", "MISS", "WHOLE"),
    *("Floats", "Ground", "Margins", "Mask", "event_windows", "ground_of", "quarter_starts"),
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ALL: Final = "*"
"""In place of a symbol: all of them together."""
WHOLE: Final = "all"
"""The window that is the whole scored span."""
MISS: Final = 0.005
"""Share of excursions that a margin may leave beyond it: margins are quantiles at 99.5 %."""
HOURS_A_YEAR: Final = 8760.0
EVENTS: Final[Mapping[str, tuple[str, str]]] = {
    "covid_2020_03": ("2020-03-12", "2020-03-13"),
    "may_2021": ("2021-05-19", "2021-05-19"),
    "luna_2022_05": ("2022-05-09", "2022-05-12"),
    "ftx_2022_11": ("2022-11-08", "2022-11-09"),
    "yen_2024_08": ("2024-08-05", "2024-08-05"),
    "oct_2025": ("2025-10-10", "2025-10-10"),
}
"""The named events, first and last whole day (UTC)."""


@dataclass(frozen=True)
class Margins:
    """Margins of one policy in force at each hour, fractions of notional, (n_symbols, n_hours); NaN where it has none.

    Nobody asks for more than the whole notional: the governed schedule cannot, so that its opponents do not, either.
    """

    im: Array
    mm: Array

    @classmethod
    def of(cls, im: Array) -> Margins:
        """At most the whole notional, with a maintenance margin of half the initial one."""
        im = np.minimum(im, 1.0)
        return cls(im, im / 2)

    def times(self, scale: Floats) -> Margins:
        """Scaled hour by hour, ``scale`` (n_hours,), to at most the whole notional."""
        return Margins(np.minimum(self.im * scale, 1.0), np.minimum(self.mm * scale, 1.0))


@dataclass(frozen=True)
class Ground:
    """What every policy is measured on."""

    history: MarketHistory
    rows: Integers  # (n_lines,) symbol and hour of each line of the forecasts
    columns: Integers
    excursion: Array  # larger adverse excursion over the 24 h after each hour, a fraction of its price
    variance: Array  # realised variance of those 24 h
    state: Array  # class of the 24 h that end here: 0 calm to 3 crisis, NaN unknown
    origins: Mask  # hours with a forecast line, warm-up included
    scored: Mask  # those inside the scored span
    folds: Integers  # columns at which scalars are refitted, ascending; the first is the start of the scored span
    warm_up: bool  # whether forecasts exist before the scored span; else its first month is burn-in, already cut off

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the rows."""
        return self.history.panel.symbols

    @property
    def times(self) -> pd.DatetimeIndex:
        """Instants of the columns."""
        return self.history.panel.times

    @property
    def days(self) -> Integers:
        """Day number of each column."""
        return self.history.panel.hours // DAY

    def spread(self, values: npt.NDArray[np.generic]) -> Array:
        """Values of the lines on the grid, NaN elsewhere."""
        grid = np.full(self.excursion.shape, np.nan)
        grid[self.rows, self.columns] = values
        return grid

    def by_fold(self, values: Floats) -> Floats:
        """One value per fold as a value per hour, NaN before the first fold."""
        fold = np.searchsorted(self.folds, np.arange(self.excursion.shape[1]), side="right") - 1
        return np.where(fold >= 0, values[np.maximum(fold, 0)], np.nan)


def ground_of(
    inputs: Inputs, history: MarketHistory, start: pd.Timestamp | None = None, end: pd.Timestamp | None = None
) -> Ground:
    """The ground of the forecasts' lines with ``start <= origin < end``.

    With no line before ``start`` (default: the first line) the first month is burn-in: the scalars have no other past.

    Raises UsageError where no line is left to score.
    """
    panel = history.panel
    lines = inputs.lines
    rows, columns = history.positions(lines)
    known = (rows >= 0) & (columns >= 0)
    if not known.all():
        raise UsageError(
            f"the market has no bar for {lines.loc[~known, 'symbol'].iloc[0]}; pass the forecasts' own store"
        )
    after = interval_arrays(panel, DAY)
    origins = np.zeros(after["variance"].shape, dtype=np.bool_)
    origins[rows, columns] = True
    first = lines["origin"].min()
    begin = first if start is None else start
    warm_up = bool(begin > first)
    if not warm_up:
        begin = first + pd.DateOffset(months=1)
    inside = np.asarray(panel.times >= begin) & (True if end is None else np.asarray(panel.times < end))
    scored = origins & inside
    if not scored.any():
        raise UsageError(f"no forecast between {begin} and {end}; name a span that the forecasts cover")
    at = int(scored.any(axis=0).argmax())
    later = [q for q in quarter_starts(panel.times) if q > at]
    return Ground(
        history=history,
        rows=rows,
        columns=columns,
        excursion=np.maximum(after["mae_long"], after["mae_short"]),
        variance=after["variance"],
        state=after["regime_now"],
        origins=origins,
        scored=scored,
        folds=np.array([at, *later], dtype=np.int64),
        warm_up=warm_up,
    )


def quarter_starts(times: pd.DatetimeIndex) -> list[int]:
    """Columns at which a calendar quarter begins."""
    quarter = np.asarray(times.year * 4 + times.quarter)
    return (np.flatnonzero(np.diff(quarter)) + 1).tolist()


def event_windows(times: pd.DatetimeIndex) -> dict[str, Mask]:
    """Columns of the whole days of each named event, empty where the panel does not reach."""
    day = times.normalize()
    return {
        name: np.asarray((day >= pd.Timestamp(first, tz="UTC")) & (day <= pd.Timestamp(last, tz="UTC")))
        for name, (first, last) in EVENTS.items()
    }
