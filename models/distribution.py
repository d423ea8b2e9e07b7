"""The predictive law around a variance forecast: filtered historical simulation with Pareto tails.

What is simulated are residuals of *out-of-sample* forecasts that were resolved by the time of use: ``e = ln V - ln F``,
``z = r / w`` and ``a / w`` for the adverse excursions on the log scale, where the width ``w`` is ``sqrt(F)`` times what
``models.scale`` makes of it. Their laws are refreshed every four weeks: that of V from the rows of the last year, where the
state is how high the forecast stands against its own month, and those of the moves likewise, but for their tails: beyond an
hour ahead a year has too few rows that do not overlap, and they rest on two.
References: Barone-Adesi, Giannopoulos and Vosper (1999), J. Futures Markets 19; McNeil and Frey (2000), J. Empirical
Finance 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from features import kernels
from features.measures import VARIANCE_FLOOR
from models.base import (
    ENSEMBLE,
    EXCURSION_COLUMNS,
    PROBABILITIES,
    RETURN_LEVELS,
    SHORTFALL_LEVELS,
    THRESHOLDS,
    VARIANCE_LEVELS,
)
from models.parts import Fixed, Hours, Made, Part
from models.past import Past, levelled
from models.residuals import TAIL_START, Law, Residuals, Tail
from models.scale import Width
from models.trailing import DAY, window

__all__ = [
    "ABOVE",
    "SAMPLE_HOURS",
    "Cover",
    "ExcursionLaw",
    "Reference",
    "ReturnLaw",
    "Spread",
    "States",
    "VarianceLaw",
    "exceedances",
    "probability_columns",
    "variance_columns",
]

Array = npt.NDArray[np.float64]

SAMPLE_HOURS: Final = 365 * DAY
LONG_SAMPLE_HOURS: Final = 2 * SAMPLE_HOURS
LOG_FLOOR: Final = float(np.log(VARIANCE_FLOOR)) + 1e-6
STATE_HALF_LIFE: Final = 30.0 * DAY
ABOVE: Final = ("above_normal", "above_stress", "above_crisis")
"""Fields of the probabilities that V exceeds the three thresholds."""


class States(Fixed):
    """How the forecast stands against its own trailing month."""

    reach = kernels.ewma_reach(STATE_HALF_LIFE) + DAY
    makes = ("state",)

    def apply(self, state: None, hours: Hours) -> Made:
        """``state``: 0 low, 1 middling, 2 high."""
        before = max(hours.span.start - self.reach, 0)
        seen = np.ascontiguousarray(hours.past["forecast"][:, before : hours.span.stop])
        hour_of_day = (hours.past.first_hour + before) % DAY
        monthly = kernels.ewma(seen, STATE_HALF_LIFE, hour_of_day, hours.span.start - before)
        distance = hours["forecast"] - monthly
        middling = np.where(np.isfinite(distance), (distance > -0.25).astype(float) + (distance > 0.35), 1.0)
        return Made({"state": middling})


class VarianceLaw(Part[Law]):
    """The law of ``ln V - ln F``."""

    reach = SAMPLE_HOURS
    makes = (*ABOVE, "learnt")

    def learn(self, past: Past, at: int) -> Law:
        """From the rows of the last year."""
        span = window(at, past.horizon, SAMPLE_HOURS)
        residual = past["log_variance"][:, span] - past["forecast"][:, span]
        return Law.learn(residual, past["state"][:, span], past.horizon, centred=True)

    def apply(self, state: Law, hours: Hours) -> Made:
        """Quantiles of V; the fields ``ABOVE``; and ``learnt``: whether they rest on resolved rows."""
        forecast, law = hours["forecast"], state.at(hours["state"])
        above = exceedances(forecast, law, hours.stack(THRESHOLDS))
        fields = dict(zip(ABOVE, above, strict=True)) | {"learnt": float(state.learnt)}
        return Made(fields, {ENSEMBLE: variance_columns(forecast, law)})


class Reference(Part[Law]):
    """The textbook's law around one member: ``ln V - ln F`` is normal, with each symbol's trailing location and scale."""

    reach = SAMPLE_HOURS

    def __init__(self, member: str) -> None:
        self.member = member

    def learn(self, past: Past, at: int) -> Law:
        """From the rows of the last year."""
        span = window(at, past.horizon, SAMPLE_HOURS)
        residual = past["log_variance"][:, span] - past[levelled(self.member)][:, span]
        return Law.learn(residual, np.ones_like(residual), past.horizon, centred=True, shaped=False)

    def apply(self, state: Law, hours: Hours) -> Made:
        """The member's quantiles of V and probabilities of the regimes."""
        forecast = hours[levelled(self.member)]
        law = state.at(np.ones_like(forecast))
        above = exceedances(forecast, law, hours.stack(THRESHOLDS))
        columns = variance_columns(forecast, law) | probability_columns(above, hours["now"])
        return Made(columns={self.member: columns})


@dataclass(frozen=True)
class Spread:
    """What is known of a return or an excursion: its width, the law of it over that, and the tails of what both standardise.

    ``tails``: -1 the lower one, turned over, 1 the upper one.
    """

    width: Width
    law: Law
    tails: Mapping[int, Tail]

    @classmethod
    def learn(cls, past: Past, at: int, outcome: str, scale: str, sides: Sequence[int]) -> Spread:
        """From the field ``outcome`` of resolved rows, and the field ``scale`` as it was on them."""
        # An interval in which the price stood still says nothing of how far it moves: a symbol that never trades would
        # otherwise rule the pooled width.
        moves = np.where(past["log_variance"] > LOG_FLOOR, past[outcome], np.nan)
        span = window(at, past.horizon, SAMPLE_HOURS)
        moved, forecast = moves[:, span] / past["sigma"][:, span], past["forecast"][:, span]
        width = Width.learn(moved**2, forecast, past.first_hour + span.start)
        law = Law.learn(moved / width.at(forecast), np.ones_like(moved), past.horizon, centred=False)
        span = window(at, past.horizon, SAMPLE_HOURS if past.horizon == 1 else LONG_SAMPLE_HOURS)
        standard = moves[:, span] / past[scale][:, span]
        return cls(width, law, {side: Tail.learn(standard, side, past.horizon) for side in sides})

    def at(self, hours: Hours) -> Residuals:
        """The law of the move itself at these hours."""
        width = hours["sigma"] * self.width.at(hours["forecast"])
        law = self.law.at(np.ones_like(width))
        return Residuals(width * law.location, width * law.scale, law.shape)


class ReturnLaw(Part[Spread]):
    """The law of the log return."""

    reach = LONG_SAMPLE_HOURS
    makes = ("scale_return",)

    def learn(self, past: Past, at: int) -> Spread:
        """From the rows of the last year, the tails beyond one hour from two."""
        return Spread.learn(past, at, "log_return", "scale_return", (-1, 1))

    def apply(self, state: Spread, hours: Hours) -> Made:
        """Quantiles, expected shortfall in either tail, and ``scale_return``: what standardises the return."""
        law = state.at(hours)
        scale = law.scale
        out: dict[str, Array] = {}
        for name, p in RETURN_LEVELS.items():
            if p <= 1 - TAIL_START:
                out[name] = -scale * state.tails[-1].quantile(1 - p)
            elif p >= TAIL_START:
                out[name] = scale * state.tails[1].quantile(p)
            else:
                out[name] = law.quantile(p)
        # Tails and middle are standardised apart; where the sample is odd enough for them to cross, the wider one holds.
        names = list(RETURN_LEVELS)
        middle = names.index("ret_q500")
        for inner, outer in pairwise(names[middle::-1]):
            out[outer] = np.minimum(out[outer], out[inner])
        for inner, outer in pairwise(names[middle:]):
            out[outer] = np.maximum(out[outer], out[inner])
        for name, p in SHORTFALL_LEVELS.items():
            side = -1 if p < 0.5 else 1
            beyond = scale * state.tails[side].shortfall(max(p, 1 - p))
            out[name] = side * np.maximum(side * out[name.replace("es", "q")], beyond)
        return Made({"scale_return": scale}, {ENSEMBLE: out})


class ExcursionLaw(Part[Spread]):
    """The law of the adverse excursion of one side, on the log scale."""

    reach = LONG_SAMPLE_HOURS

    def __init__(self, side: Literal["long", "short"]) -> None:
        self.side = side
        self.makes = (f"scale_{side}",)

    def learn(self, past: Past, at: int) -> Spread:
        """From the rows of the last year, the tails beyond one hour from two."""
        return Spread.learn(past, at, "fall" if self.side == "long" else "rise", f"scale_{self.side}", (1,))

    def apply(self, state: Spread, hours: Hours) -> Made:
        """Quantiles, as fractions of the price at the origin, and ``scale_long`` or ``scale_short``."""
        scale = state.at(hours).scale
        sizes = {name: scale * state.tails[1].quantile(p) for name, p in EXCURSION_COLUMNS[self.side].items()}
        out = {name: -np.expm1(-x) if self.side == "long" else np.expm1(x) for name, x in sizes.items()}
        return Made({f"scale_{self.side}": scale}, {ENSEMBLE: out})


class Cover(Fixed):
    """The low is never above the close, so an excursion's quantile is at least the return's at the same level."""

    def apply(self, state: None, hours: Hours) -> Made:
        """The excursions' quantiles, widened."""
        out: dict[str, Array] = {}
        for side, sign in (("long", -1), ("short", 1)):
            for name, p in EXCURSION_COLUMNS[side].items():
                level = p if side == "short" else 1 - p
                of_return = next(column for column, q in RETURN_LEVELS.items() if abs(q - level) < 1e-9)
                least = sign * np.expm1(hours.column(ENSEMBLE, of_return))
                out[name] = np.maximum(hours.column(ENSEMBLE, name), least)
        return Made(columns={ENSEMBLE: out})


def exceedances(log_forecast: Array, law: Residuals, thresholds: Array) -> Array:
    """``P(V > threshold_k)`` for the three thresholds (3, n_symbols, n_hours)."""
    return np.stack([law.exceedance(np.log(threshold) - log_forecast) for threshold in thresholds])


def variance_columns(log_forecast: Array, law: Residuals) -> dict[str, Array]:
    """``var_q…``: quantiles of V."""
    return {name: np.exp(log_forecast + law.quantile(p)) for name, p in VARIANCE_LEVELS.items()}


def probability_columns(exceedance: Array, now: Array) -> dict[str, Array]:
    """``p_calm … p_crisis``, which sum to one, and ``p_onset`` on rows that are calm or normal now."""
    above, stress, crisis = exceedance
    parts = (1 - above, above - stress, stress - crisis, crisis)
    out = dict(zip(PROBABILITIES, parts, strict=True))
    out["p_onset"] = np.where(now <= 1, out["p_stress"] + out["p_crisis"], np.nan)
    return out
