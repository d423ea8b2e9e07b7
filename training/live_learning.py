"""What the ensemble learns at a refresh, from the hours before it: the live half of levels, weights, laws and calibration.

``models.combination``, ``models.distribution`` and ``models.regimes`` say what is estimated, over a whole history at all of
its refreshes; here it is estimated at one refresh, from a past of bounded length, to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from models.base import THRESHOLDS
from models.combination import (
    LEVEL_BOUNDS,
    LEVEL_SHRINKAGE,
    WEIGHT_HOURS,
    WEIGHT_STEP_HOURS,
    YEAR,
    simplex_weights,
)
from models.distribution import (
    MINIMUM_ROWS,
    SAMPLE_HOURS,
    SHAPE_LEVELS,
    Residuals,
    Tail,
    location_scale,
    residual_quantiles,
)
from models.ensemble import REFERENCES
from models.regimes import CALIBRATION_HOURS, calibration_design, logistic_fit
from models.regimes import MINIMUM_ROWS as MINIMUM_CALIBRATION_ROWS
from models.trailing import FOUR_WEEKS, trailing_level, window
from training.ring import Ring

__all__ = ["ABOVE", "OUTCOMES", "SCALES", "Law", "Learnt", "Past", "learn", "levels", "moves"]

Array = npt.NDArray[np.float64]

SCALES: Final = ("scale_return", "scale_long", "scale_short")
ABOVE: Final = ("above_normal", "above_stress", "above_crisis")
OUTCOMES: Final = ("variance", "log_return", "mae_long", "mae_short")
FIELDS: Final = ("forecast", "state", "learnt", "now", *SCALES, *ABOVE, *THRESHOLDS, *OUTCOMES)
NORMAL: Final = np.asarray(stats.norm.ppf(SHAPE_LEVELS))
# Before anything is resolved, as in models.distribution: a Student t with four degrees of freedom.
STAND_IN: Final = np.asarray(stats.t.ppf(np.linspace(0.0005, 0.9995, 2000), df=4))


class Past:
    """One horizon's hours, as they were forecast at the time: each member as fitted and as levelled, and ``FIELDS``.

    ``values`` (2 n_members + n_fields, n_symbols, n_hours) in that order; ``newest``: the last one's hour since the epoch.
    """

    def __init__(self, horizon: int, members: Sequence[str], values: Array, newest: int) -> None:
        self.horizon = horizon
        self.members = tuple(members)
        self.newest = newest
        # Wide enough for a year before the last refresh, wherever between two refreshes the newest hour stands.
        self._ring = Ring(values, YEAR + horizon + FOUR_WEEKS)

    def __len__(self) -> int:
        return len(self._ring)

    def field(self, name: str) -> Array:
        """A view of one field, (n_symbols, n_hours)."""
        view: Array = self._ring.values[2 * len(self.members) + FIELDS.index(name)]
        return view

    def raw(self, member: str) -> Array:
        """A member's ``ln E[V]`` as fitted."""
        view: Array = self._ring.values[self.members.index(member)]
        return view

    def levelled(self, member: str) -> Array:
        """The same with its level set."""
        view: Array = self._ring.values[len(self.members) + self.members.index(member)]
        return view

    def column(self, hour: int) -> int:
        """Where an hour stands; the one that comes next stands after all."""
        return hour - self.newest + len(self) - 1

    def append(self, column: Array) -> None:
        """The next hour."""
        self._ring.append(column)
        self.newest += 1

    def resolve(self, outcome: Array) -> None:
        """What came of the interval that ends with the next hour, (4, n_symbols)."""
        if len(self) >= self.horizon:
            for name, values in zip(OUTCOMES, outcome, strict=True):
                self.field(name)[:, -self.horizon] = values

    def place(self, rows: npt.NDArray[np.intp]) -> None:
        """Take the symbols anew, as ``Ring.place``."""
        self._ring.place(rows)


@dataclass(frozen=True)
class Law:
    """One residual's law since a refresh: location and scale (n_symbols, 3) by state, and the shape's quantiles."""

    location: Array
    scale: Array
    shape: Array
    learnt: bool

    def at(self, state: Array) -> Residuals:
        """The law of one hour, whose states are ``state`` (n_symbols, 1)."""
        rows, which = np.arange(len(state))[:, None], state.astype(np.int64)
        begin, learnt = np.zeros(1, dtype=np.int64), np.array([self.learnt])
        return Residuals(self.location[rows, which], self.scale[rows, which], self.shape[:, None], begin, learnt)


@dataclass(frozen=True)
class Learnt:
    """What stands from one refresh to the next.

    ``law`` is that of ``ln V - ln F``; ``moves`` are those of the return and of both excursions over ``sqrt(F)``;
    ``tails``: the return's lower and upper one, and the upper ones of the excursions; ``calibration``: coefficients of each
    threshold's exceedance, None where too little was resolved.
    """

    weights: Array
    law: Law
    moves: tuple[Law, ...]
    tails: tuple[Tail, ...]
    references: Mapping[str, Law]
    calibration: tuple[Array | None, ...]


def moves(log_return: Array, mae_long: Array, mae_short: Array) -> tuple[Array, Array, Array]:
    """Return and excursions on the log scale, as their laws are learnt."""
    return log_return, -np.log1p(-mae_long), np.log1p(mae_short)


def levels(past: Past, hour: int) -> Array:
    """Log level of each member and symbol at a refresh, (n_members, n_symbols), as ``models.combination.level``."""
    span = window(past.column(hour), past.horizon, YEAR)
    variance = past.field("variance")[:, span]
    # Twice the same refresh: numpy adds the rows of a single column in another order than those of many.
    at = np.repeat(span.stop - span.start + past.horizon - 1, 2)
    shifts = [
        trailing_level(variance / np.exp(past.raw(member)[:, span]), at, past.horizon, YEAR, LEVEL_SHRINKAGE)[:, 0]
        for member in past.members
    ]
    return np.clip(np.stack(shifts), *LEVEL_BOUNDS)


def learn(past: Past, hour: int, chosen: Sequence[str], shrinkage: float) -> Learnt:
    """Everything that is refreshed every four weeks, as of one of these refreshes."""
    at = past.column(hour)
    span = window(at, past.horizon, SAMPLE_HOURS)
    log_variance, forecast = np.log(past.field("variance")[:, span]), past.field("forecast")[:, span]
    state = past.field("state")[:, span]
    state = np.where(np.isnan(state), 1.0, state)  # of a symbol that came later
    sigma = np.exp(0.5 * forecast)
    moved = moves(*(past.field(name)[:, span] for name in OUTCOMES[1:]))
    returns, *excursions = (x / (sigma * past.field(name)[:, span]) for x, name in zip(moved, SCALES, strict=True))
    plain = partial(_law, state=np.ones_like(state), horizon=past.horizon, centred=True, shaped=False)
    return Learnt(
        _weights(past, at, chosen, shrinkage),
        _law(log_variance - forecast, state, past.horizon, centred=True),
        tuple(_law(x / sigma, state, past.horizon, centred=False) for x in moved),
        (_tail(returns, -1), _tail(returns, 1), *(_tail(x, 1) for x in excursions)),
        {m: plain(log_variance - past.levelled(m)[:, span]) for m in REFERENCES if m in past.members},
        tuple(_calibration(past, at, *names) for names in zip(ABOVE, THRESHOLDS, strict=True)),
    )


def _weights(past: Past, at: int, chosen: Sequence[str], shrinkage: float) -> Array:
    """Weights of the chosen members, as ``models.combination.combine``."""
    span = window(at, past.horizon, WEIGHT_HOURS)
    hours = np.arange(span.start, span.stop) + past.newest - len(past) + 1
    thinned = hours % WEIGHT_STEP_HOURS == 0
    stack = np.stack([past.levelled(member) for member in chosen])
    best = simplex_weights(stack[:, :, span][:, :, thinned], past.field("variance")[:, span][:, thinned])
    return (1 - shrinkage) * best + shrinkage / len(chosen)


def _law(residual: Array, state: Array, horizon: int, *, centred: bool, shaped: bool = True) -> Law:
    """The law of resolved rows, as ``models.distribution.residual_law``."""
    n = len(residual)
    known = residual[np.isfinite(residual)]
    if len(known) < MINIMUM_ROWS or np.ptp(known) == 0:
        return Law(np.zeros((n, 3)), np.ones((n, 3)), NORMAL, learnt=False)
    location, scale = location_scale(residual, state, horizon, centred=centred)
    if not shaped:
        return Law(location, scale, NORMAL, learnt=True)
    rows, which = np.arange(n)[:, None], state.astype(np.int64)
    standard = (residual - location[rows, which]) / scale[rows, which]
    return Law(location, scale, residual_quantiles(standard[np.isfinite(standard)], SHAPE_LEVELS), learnt=True)


def _tail(standard: Array, side: int) -> Tail:
    """One tail of a standardised residual, as in ``models.distribution``."""
    known = standard[np.isfinite(standard)]
    return Tail.fit(side * (known if len(known) >= MINIMUM_ROWS and np.ptp(known) > 0 else STAND_IN))


def _calibration(past: Past, at: int, above: str, threshold: str) -> Array | None:
    """Coefficients of one exceedance, as ``models.regimes.calibrate``."""
    span = window(at, past.horizon, CALIBRATION_HOURS)
    design = calibration_design(past.field(above)[:, span], past.field("now")[:, span])
    evidence = np.where(past.field("learnt")[:, span] == 1, past.field("variance")[:, span], np.nan)
    hit = np.where(np.isfinite(evidence), (evidence > past.field(threshold)[:, span]).astype(np.float64), np.nan)
    rows = np.isfinite(design).all(axis=0) & np.isfinite(hit)
    if rows.sum() < MINIMUM_CALIBRATION_ROWS:
        return None
    return logistic_fit(design[:, rows], hit[rows], past.horizon)
