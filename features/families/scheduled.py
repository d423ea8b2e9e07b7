"""How much more variance lies ahead because of what is scheduled.

At a release of prices, employment or interest rates the hour's variance is several times the ordinary one, and the hour is
known a year before: no model of past volatility can see it coming. The lift of a release, hour by hour around it, is the
mean response of the market at past releases of its kind over that at the same hour of week in the eight weeks before, and
is learnt from the past two years only. Reference: Andersen, Bollerslev, Diebold and Vega (2003), American Economic Review 93
(announcements and intraday volatility).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Final

import numba
import numpy as np
import numpy.typing as npt

from features.families import Column, Family, Group
from features.kernels import cross_mean
from features.panel import FIRST_MONDAY_HOUR, SEASON_HOURS, WEEK, Array, Panel
from features.schedule import Schedule, scheduled

__all__ = ["Scheduled", "lifts"]

Integers = npt.NDArray[np.int64]

FIRST_OFFSET: Final = -1
OFFSETS: Final = 5
DAY: Final = 24
# The mean that a response is measured against ends before the first hour that an event can move.
SETTLED: Final = OFFSETS
# One burst of one release must not become the expectation of the next.
LARGEST_RESPONSE: Final = 50.0
HALF_LIFE_WEEKS: Final = 52.0
CONTROLS: Final = 8
# Releases at which the lift learnt weighs as much as none.
SHRINKAGE: Final = 2.0
# Lifts of releases in one hour add; however quiet they are, some variance is left.
LEAST_CHANGE: Final = -0.95
REACH: Final = SEASON_HOURS + WEEK + (CONTROLS + 1) * WEEK


class Scheduled(Family):
    """The season ahead, lifted where releases are scheduled, by horizon; the season's own where nothing is.

    ``schedule``: the releases (None: those of the package).
    """

    name: ClassVar[str] = "scheduled"
    group: ClassVar[Group] = "scheduled"

    def __init__(self, horizons: tuple[int, ...] = (1, 4, 24, 72), schedule: Schedule | None = None) -> None:
        self.horizons = horizons
        self.schedule = schedule or scheduled()

    def columns(self, panel: Panel) -> Iterator[Column]:
        """One column a horizon."""
        events = self.schedule
        weekly, week = self._lifts(panel)
        hours, (curves, of_column) = panel.hours, panel.season_curves
        for h in self.horizons:
            season = panel.log_season_ahead(h)
            extra = _extra(weekly, week, curves, of_column, hours, h, events.kind, events.hour, events.known)
            yield Column(
                f"log_scheduled_ahead_{h}h",
                season + np.log1p(np.maximum(extra / np.exp(season), LEAST_CHANGE)),
                f"ln sum S(origin + j) L(origin + j), j = 1..{h}; L: lift of releases scheduled there",
                "ln variance",
                REACH,
                reference="Andersen, Bollerslev, Diebold and Vega (2003)",
                sign="+",
            )

    def _lifts(self, panel: Panel) -> tuple[Array, Integers]:
        """Lifts by week, release and hour around it, and each column's week."""
        events = self.schedule
        before = panel.shift(panel.mean(panel.capped_variance, (DAY,), coverage=0.5)[0], SETTLED)
        response = cross_mean(np.minimum(panel.capped_variance / before, LARGEST_RESPONSE))[None]
        joined, first = panel.history("response to releases", response, REACH)
        weeks = (panel.hours - FIRST_MONDAY_HOUR) // WEEK
        refresh = np.arange(weeks[0], weeks[-1] + 1) * WEEK + FIRST_MONDAY_HOUR
        oldest = int(panel.hours[0]) - first
        learnt = lifts(joined[0], oldest, refresh, events.kind, events.hour, int(events.kind.max()) + 1)
        return learnt, weeks - weeks[0]


@numba.njit(cache=True)
def lifts(
    response: npt.NDArray[np.float64], oldest: int, refresh: Integers, kind: Integers, hour: Integers, kinds: int
) -> Array:
    """Lift of each kind of event, (n_refreshes, n_kinds, n_offsets), from what was known at each refresh.

    ``response`` (n_hours,): the bar's variance over its own recent mean, from hour ``oldest`` on; ``kind``, ``hour``
    (n_events,). Hours count from the epoch. A response known at a refresh closed by then and no more than two years before.
    """
    out = np.ones((len(refresh), kinds, OFFSETS))
    for w in range(len(refresh)):
        newest = refresh[w]
        for k in range(kinds):
            for o in range(OFFSETS):
                at_events, ordinary, weight = 0.0, 0.0, 0.0
                for e in range(len(hour)):
                    bar = hour[e] + FIRST_OFFSET + o
                    if kind[e] != k or bar > newest or bar <= newest - SEASON_HOURS:
                        continue
                    total, count = 0.0, 0
                    for c in range(1, CONTROLS + 1):
                        place = bar - c * WEEK - oldest
                        if place >= 0 and not math.isnan(response[place]):
                            total += response[place]
                            count += 1
                    place = bar - oldest
                    if count == 0 or math.isnan(response[place]):
                        continue
                    share = 0.5 ** ((newest - bar) / (HALF_LIFE_WEEKS * WEEK))
                    at_events += share * response[place]
                    ordinary += share * total / count
                    weight += share
                if weight > 0:
                    normal = ordinary / weight
                    out[w, k, o] = (at_events + SHRINKAGE * normal) / ((weight + SHRINKAGE) * normal)
    return out


@numba.njit(cache=True)
def _extra(
    weekly: Array,
    week: Integers,
    curves: Array,
    of_column: Integers,
    hours: Integers,
    horizon: int,
    kind: Integers,
    hour: Integers,
    known: Integers,
) -> Array:
    """``sum_j S(origin + j) (L(origin + j) - 1)`` over the horizon, (n_symbols, n_hours)."""
    n = curves.shape[1]
    out = np.zeros((n, len(hours)))
    for e in range(len(hour)):
        for o in range(OFFSETS):
            bar = hour[e] + FIRST_OFFSET + o
            slot = (bar - FIRST_MONDAY_HOUR - 1) % WEEK
            for t in range(max(bar - horizon - hours[0], 0), min(bar - hours[0], len(hours))):
                if known[e] > hours[t]:
                    continue
                above = weekly[week[t], kind[e], o] - 1.0
                for i in range(n):
                    out[i, t] += math.exp(curves[of_column[t], i, slot]) * above
    return out
