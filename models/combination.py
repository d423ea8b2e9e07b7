"""Combining members: levels, a screen and weights from resolved out-of-sample rows alone, and who answers where they cannot.

Reference: Bates and Granger (1969), Operational Research Quarterly 20; Patton (2011), J. Econometrics 160 (the level that
minimises QLIKE is the mean of ``V/F``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from models.base import ENSEMBLE
from models.parts import Fixed, Hours, Made, Part, Run, Sequential
from models.past import Past, levelled, raw
from models.screening import BLOCK_DAYS, daily_losses, model_confidence_set
from models.trailing import DAY, trailing_level, window

__all__ = ["VARIANCE_FLOOR", "Clip", "Combine", "Ladder", "Levels", "level", "mean_columns", "simplex_weights"]

Array = npt.NDArray[np.float64]

YEAR: Final = 365 * DAY
FALLBACKS: Final = ("gjr", "garch", "har_seasonal", "har", "ewma")
VARIANCE_FLOOR: Final = 1e-8
HOURS_PER_YEAR: Final = 8760.0
# Hours at which a symbol's own level weighs as much as the pool's. The mean of ``V/F`` over a year is ruled by few days,
# which symbols share: the pool knows them better.
LEVEL_SHRINKAGE: Final = 8000.0
LEVEL_BOUNDS: Final = (np.log(0.5), np.log(2.0))
SCREEN_HOURS: Final = YEAR
# Of 500 draws, the resolution of a size of 2 % is that of ten.
SCREEN_DRAWS: Final = 500
MINIMUM_SCREEN_DAYS: Final = 60
WEIGHT_HOURS: Final = 180 * DAY
CLIP_FACTOR: Final = 2.0
MINIMUM_CLIP_ROWS: Final = 90 * DAY
WEIGHT_STEP_HOURS: Final = 5
MINIMUM_WEIGHT_ROWS: Final = 2000
GRADIENT_STEPS: Final = 200
FIRST_STEP: Final = 0.3
STEP_DECAY: Final = 0.97


class Levels(Part[Array]):
    """Sets each member's level daily to the mean of ``V/F`` over the resolved rows of the last year, symbol by symbol."""

    every = DAY
    reach = YEAR

    def __init__(self, members: Sequence[str]) -> None:
        self.members = tuple(members)
        self.makes = tuple(levelled(m) for m in members)

    def learn(self, past: Past, at: int) -> Array:
        """Log shifts (n_members, n_symbols)."""
        return next(self.states(past, np.array([at])))

    def states(self, past: Past, refreshes: npt.NDArray[np.int64]) -> Iterator[Array]:
        """All at once: one pass over the hours serves every refresh."""
        if not len(refreshes):
            return iter(())
        oldest, newest = (window(int(at), past.horizon, YEAR) for at in (refreshes[0], refreshes[-1]))
        read = slice(oldest.start, newest.stop)
        variance, at = past["variance"][:, read], refreshes - read.start
        shifts = [
            trailing_level(variance / np.exp(past[raw(m)][:, read]), at, past.horizon, YEAR, LEVEL_SHRINKAGE)
            for m in self.members
        ]
        return iter(np.moveaxis(np.clip(np.stack(shifts), *LEVEL_BOUNDS), 2, 0))

    def apply(self, state: Array, hours: Hours) -> Made:
        """The levelled members, and their columns of the forecast table."""
        made = {m: hours[raw(m)] + shift[:, None] for m, shift in zip(self.members, state, strict=True)}
        return Made(
            {levelled(m): x for m, x in made.items()}, {m: mean_columns(x, hours.horizon) for m, x in made.items()}
        )


def level(log_forecast: Array, variance: Array, times: pd.DatetimeIndex, horizon: int) -> Array:
    """One forecast ``ln F`` with its level set as that of a member is, on the grid of ``times``."""
    past = Past.beginning(times, horizon, {raw("one"): log_forecast, "variance": variance})
    Run([Levels(["one"])], past).advance(slice(0, len(past)))
    return past[levelled("one")]


class Combine(Part[Array]):
    """``ln F = sum_m w_m ln F_m`` with weights refreshed every four weeks from the last 180 days of resolved rows.

    A member that the last year rejects with confidence ``1 - screen`` has no weight (None: all have). The others' minimise
    QLIKE on the simplex, pooled over symbols, then move by ``shrinkage`` towards equal ones. A member missing on a row leaves
    its weight to the others.
    """

    reach = max(WEIGHT_HOURS, SCREEN_HOURS)
    makes = ("combined",)

    def __init__(self, members: Sequence[str], shrinkage: float, screen: float | None = None) -> None:
        self.members = tuple(members)
        self.shrinkage = shrinkage
        self.screen = screen

    def learn(self, past: Past, at: int) -> Array:
        """Weights (n_members,), zero for those screened out."""
        inside = self._inside(past, at)
        span = window(at, past.horizon, WEIGHT_HOURS)
        # Thinned on the clock, so that the sample does not depend on where the history starts.
        thinned = (np.arange(span.start, span.stop) + past.first_hour) % WEIGHT_STEP_HOURS == 0
        stack = past.stack([levelled(self.members[m]) for m in inside], span)
        best = simplex_weights(stack[:, :, thinned], past["variance"][:, span][:, thinned])
        weights = np.zeros(len(self.members))
        weights[inside] = (1 - self.shrinkage) * best + self.shrinkage / len(inside)
        return weights

    def _inside(self, past: Past, at: int) -> npt.NDArray[np.int64]:
        """The places of the members that are not screened out; all of them while too little is resolved."""
        every = np.arange(len(self.members))
        if self.screen is None or len(every) == 1:
            return every
        span = window(at, past.horizon, SCREEN_HOURS)
        stack = past.stack([levelled(m) for m in self.members], span)
        losses = daily_losses(stack, past["variance"][:, span], past.first_hour + span.start)
        # Days of an interval longer than one overlap.
        block = BLOCK_DAYS + math.ceil(past.horizon / DAY) - 1
        if len(losses) < max(MINIMUM_SCREEN_DAYS, 2 * block):
            return every
        return np.flatnonzero(model_confidence_set(losses, block, size=self.screen, reps=SCREEN_DRAWS))

    def apply(self, state: Array, hours: Hours) -> Made:
        """``combined``: ``ln F``, NaN where no member has an answer."""
        mean, total = np.zeros(hours["variance"].shape), np.zeros(hours["variance"].shape)
        for member, weight in zip(self.members, state, strict=True):
            forecast = hours[levelled(member)]
            present = np.isfinite(forecast)
            mean += weight * present * np.where(present, forecast, 0.0)
            total += weight * present
        return Made({"combined": np.where(total > 0, mean / total, np.nan)})


class Clip(Sequential[None]):
    """Keeps the combination within half the least and twice the largest V that the symbol has ever had in this past.

    A young symbol has the bounds of all symbols together. ``clipped`` is -1 and 1 where a bound held, zero elsewhere.
    """

    every = None
    makes = ("bounded", "clipped")

    def learn(self, past: Past, at: int) -> None:
        """Nothing: the bounds are carried."""

    def begin(self, n_symbols: int) -> Array:
        """Least and largest ``ln V`` and their number, (n_symbols, 3)."""
        return np.tile([np.inf, -np.inf, 0.0], (n_symbols, 1))

    def follow(self, state: None, carried: Array, hours: Hours) -> tuple[Made, Array]:
        """``bounded``: ``ln F`` within its bounds, and which of them held."""
        after = carried.copy()
        out, side = _clip(hours["combined"], hours.past["log_variance"], hours.span.start, hours.horizon, after)
        return Made({"bounded": out, "clipped": side}), after


@numba.njit(cache=True)
def _clip(forecast: Array, log_variance: Array, start: int, horizon: int, extremes: Array) -> tuple[Array, Array]:
    """Hour by hour: take in what has just been resolved, then bound what is forecast. ``extremes`` is moved on."""
    n, hours = forecast.shape
    out, side = forecast.copy(), np.zeros(forecast.shape)
    for t in range(hours):
        resolved = start + t - horizon
        for i in range(n):
            if resolved >= 0 and not math.isnan(log_variance[i, resolved]):
                extremes[i, 0] = min(extremes[i, 0], log_variance[i, resolved])
                extremes[i, 1] = max(extremes[i, 1], log_variance[i, resolved])
                extremes[i, 2] += 1.0
        least, largest, count = extremes[:, 0].min(), extremes[:, 1].max(), extremes[:, 2].sum()
        for i in range(n):
            own = extremes[i, 2] >= MINIMUM_CLIP_ROWS
            if not own and count < MINIMUM_CLIP_ROWS:
                continue
            low = (extremes[i, 0] if own else least) - math.log(CLIP_FACTOR)
            high = (extremes[i, 1] if own else largest) + math.log(CLIP_FACTOR)
            if out[i, t] < low:
                out[i, t], side[i, t] = low, -1.0
            elif out[i, t] > high:
                out[i, t], side[i, t] = high, 1.0
    return out, side


class Ladder(Fixed):
    """The combination, or down the ladder the first member that has an answer; never below the least variance there is.

    ``steps``: who is asked, in order.
    """

    makes = ("forecast", "sigma", "answered")

    def __init__(self, members: Sequence[str]) -> None:
        self.steps = (ENSEMBLE, *(m for m in FALLBACKS if m in members))

    def apply(self, state: None, hours: Hours) -> Made:
        """``forecast``, ``ln F``; ``sigma``, ``sqrt(F)``; ``answered``, the index into ``steps``, -1 where nobody could."""
        out = hours["bounded"].copy()
        answered = np.where(np.isfinite(out), 0.0, -1.0)
        for step, name in enumerate(self.steps[1:], start=1):
            stands_in = hours[levelled(name)]
            missing = (answered < 0) & np.isfinite(stands_in)
            out[missing] = stands_in[missing]
            answered[missing] = step
        forecast = np.maximum(out, np.log(VARIANCE_FLOOR))
        fields = {"forecast": forecast, "sigma": np.exp(0.5 * forecast), "answered": answered}
        return Made(fields, {ENSEMBLE: mean_columns(forecast, hours.horizon)})


def mean_columns(log_forecast: Array, horizon: int) -> dict[str, Array]:
    """The columns of a mean forecast ``ln F`` over ``horizon`` hours: ``variance``, and its annualised volatility."""
    variance = np.maximum(np.exp(log_forecast), VARIANCE_FLOOR)
    return {"variance": variance, "vol_annualised": np.sqrt(variance * HOURS_PER_YEAR / horizon)}


def simplex_weights(log_forecasts: Array, variance: Array) -> Array:
    """Weights (n_members,) on the simplex with the least mean QLIKE; equal where too few rows are resolved.

    Exponentiated gradient on the convex problem ``min_w mean(V exp(-w'l) + w'l)`` (Kivinen and Warmuth, 1997).
    """
    count = len(log_forecasts)
    rows = np.isfinite(log_forecasts).all(axis=0) & np.isfinite(variance)
    weights = np.full(count, 1.0 / count)
    if rows.sum() < MINIMUM_WEIGHT_ROWS or count == 1:
        return weights
    logs, v = log_forecasts[:, rows], variance[rows]
    # Centred on their mean: only differences between members matter.
    centre = logs.mean(axis=0)
    logs, v = logs - centre, v / np.exp(centre)
    for step in range(GRADIENT_STEPS):
        combined = np.einsum("m,mn->n", weights, logs)
        slope = np.einsum("mn,n->m", logs, 1 - v / np.exp(combined)) / len(v)
        # The step shrinks, or the weights end up swinging about their optimum.
        pace = FIRST_STEP * STEP_DECAY**step / max(float(np.abs(slope).max()), 1e-3)
        weights = weights * np.exp(-pace * slope)
        weights /= weights.sum()
    return weights
