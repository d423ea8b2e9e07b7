"""Accounts: what they must hold, how near they are to trouble, and the least that brings them back.

Arrays over accounts of one symbol. Equity and notional in USD (notional at mark, unsigned), margins and
penalty as fractions of notional. Probabilities come from the forecast's excursion quantiles of the side that
hurts: ``mae_long`` for a long position.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from .params import Params

__all__ = [
    "Excursions",
    "Level",
    "deductions",
    "health",
    "hours_to_margin",
    "levels",
    "liquidation_step",
    "liquidator_profit",
    "preemptive_reduction",
    "requirement",
    "restoring_size",
    "ruin_probability",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

EXCURSION_LEVELS: Final = (0.95, 0.99, 0.995, 0.999)
# By the reflection principle a driftless walk passes x with probability 2 (1 - Phi(x / sigma)): the scores at
# which the levels lie. Between them excursions are interpolated in the score, exactly so for that walk.
SCORES: Final = ndtri(1 - (1 - np.array((0.0, *EXCURSION_LEVELS))) / 2)
MEDIAN_SCORE: Final = float(ndtri(0.75))


class Level(IntEnum):
    """How an account stands, from sound to bankrupt's edge."""

    HEALTHY = 0
    WARNING = 1
    SEARCH = 2  # a first reduce-only step is offered
    LIQUIDATION = 3
    BACKSTOP = 4  # the whole position goes to the backstop


@dataclass(frozen=True)
class Excursions:
    """One side's forecast: ``quantiles`` (H, 4) at ``EXCURSION_LEVELS`` for ``horizons`` in hours, ascending."""

    horizons: tuple[int, ...]
    quantiles: Floats

    def at(self, hours: float) -> Floats:
        """Quantiles (5,) at any horizon, 0 first: linear in ln Q over ln h, root of time beyond the grid."""
        grid = np.log(self.horizons)
        inside = float(np.clip(np.log(hours), grid[0], grid[-1]))
        logs = np.log(np.maximum(self.quantiles, 1e-12))
        levels = np.array([np.interp(inside, grid, column) for column in logs.T])
        return np.concatenate([[0.0], np.exp(levels + (np.log(hours) - inside) / 2)])


# -- requirements -------------------------------------------------------------------------------------


def deductions(caps: Integers, rates: Integers) -> Integers:
    """What each tier's rate charges too much on the tiers below it, micro-USD (K,).

    ``ded_k = ded_(k-1) + X_(k-1) * (r_k - r_(k-1))``: with it the requirement is continuous in size, as with
    Binance's ``cum_maint_amount``. ``caps`` in USD, ``rates`` in ppm.
    """
    return np.concatenate([[0], np.cumsum(caps[:-1] * np.diff(rates))]).astype(np.int64)


def requirement(notional_usd: Integers, caps: Integers, rates: Integers) -> Integers:
    """Margin of positions of whole USD, in micro-USD, exact: ``N * r_k - ded_k`` in N's tier k.

    A position at a cap belongs to the lower tier; beyond the last cap no new position is accepted, and what
    stands there pays the last rate.
    """
    tier = np.minimum(np.searchsorted(caps, notional_usd, side="left"), len(caps) - 1)
    return np.asarray(notional_usd * rates[tier] - deductions(caps, rates)[tier])


# -- levels -------------------------------------------------------------------------------------------


def health(equity: Floats, notional: Floats, mm: Floats) -> Floats:
    """Health factor E / (MM * N); infinite without a position, NaN where anything is unknown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(notional == 0, np.inf, equity / (mm * notional))


def levels(factor: Floats, before: Integers, params: Params) -> Integers:
    """The level of each account, given the one before.

    Once searched or liquidated an account is released only above ``release_level``; a NaN counts as below all.
    """
    limits = params.accounts
    factor = np.nan_to_num(factor, nan=-np.inf, posinf=np.inf)
    bounds = (limits.backstop_level, 1.0, limits.search_level, limits.warning_level)
    fresh = len(bounds) - np.searchsorted(bounds, factor, side="right")
    held = (before >= Level.SEARCH) & (factor < limits.release_level)
    return np.where(held, np.maximum(fresh, Level.SEARCH), fresh)


# -- probabilities ------------------------------------------------------------------------------------


def ruin_probability(distance: Floats, forecast: Excursions, hours: float) -> Floats:
    """P(the adverse excursion within ``hours`` reaches ``distance`` = E / N).

    Beyond the last level the last slope goes on; a distance of 0 or less is reached for certain.
    """
    knots = forecast.at(hours)
    slope = (SCORES[-1] - SCORES[-2]) / max(knots[-1] - knots[-2], 1e-12)
    inside = np.interp(distance, knots, SCORES)
    score = inside + np.maximum(0.0, distance - knots[-1]) * slope
    return np.asarray(2 * ndtr(-score))


def hours_to_margin(distance: Floats, forecast: Excursions) -> Floats:
    """Least horizon at which the median excursion reaches ``distance`` = E/N - MM; 0 where it is not above 0."""
    share = MEDIAN_SCORE / SCORES[1]  # the score grows from 0 to the first level linearly
    medians = np.log(np.maximum.accumulate(np.maximum(forecast.quantiles[:, 0], 1e-12)) * share)
    grid = np.log(forecast.horizons)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.log(distance)
        inside = np.clip(wanted, medians[0], medians[-1])
        # Where medians stand still the earliest horizon counts; beyond the grid it goes on from its last one.
        rising = np.concatenate([[True], np.diff(medians) > 0])
        start = np.where(wanted > medians[-1], grid[-1], np.interp(inside, medians[rising], grid[rising]))
        hours = np.exp(start + 2 * (wanted - inside))
    return np.where(distance > 0, hours, 0.0)


def preemptive_reduction(equity: Floats, notional: Floats, forecast: Excursions, params: Params) -> Floats:
    """Notional to close so that P(ruin) over ``ruin_hours`` falls to ``ruin_probability``; 0 where it is lower.

    Closing leaves equity as it is: the position kept is E over the excursion of that probability.
    """
    limits = params.accounts
    score = float(ndtri(1 - limits.ruin_probability / 2))
    knots = forecast.at(limits.ruin_hours)
    slope = (knots[-1] - knots[-2]) / (SCORES[-1] - SCORES[-2])
    reach = float(np.interp(score, SCORES, knots)) + max(0.0, score - SCORES[-1]) * slope
    return np.asarray(np.clip(notional - np.maximum(equity, 0.0) / max(reach, 1e-12), 0.0, notional))


# -- liquidation --------------------------------------------------------------------------------------


def restoring_size(equity: Floats, notional: Floats, mm: Floats, penalty: Floats, params: Params) -> Floats:
    """x* = (l MM N - E) / (l MM - penalty): closing it brings health to the search level l.

    In [0, N]; all of N where the penalty eats what closing frees.
    """
    level = params.accounts.search_level * mm
    freed = level - penalty
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(freed > 0, (level * notional - equity) / freed, np.inf)
    return np.where(equity < level * notional, np.clip(size, 0.0, notional), 0.0)


def liquidation_step(
    equity: Floats, notional: Floats, mm: Floats, penalty: Floats, depth_usd: Floats, params: Params
) -> Floats:
    """Notional of the next liquidation step.

    At most ``step_share`` of the position and ``participation`` of the depth; the whole position below the
    backstop level, none from a health of 1 on.
    """
    factor = health(equity, notional, mm)
    room = np.minimum(params.accounts.step_share * notional, params.liquidity.participation * depth_usd)
    step = np.minimum(restoring_size(equity, notional, mm, penalty, params), room)
    below = np.where(factor < params.accounts.backstop_level, notional, step)
    return np.where(factor < 1, below, 0.0)


def liquidator_profit(size: Floats, penalty: Floats, sigma: Floats, volume: Floats, params: Params) -> Floats:
    """Expected profit in USD of closing ``size`` USD: penalty less half the spread, impact, capital and gas.

    The participation constraint: over the sizes that are liquidated its mean must not be negative, or nobody
    comes. ``sigma`` over 24 h, ``volume`` of a day in USD.
    """
    liquidity, costs = params.liquidity, params.penalty
    impact = liquidity.impact * sigma * np.sqrt(size / volume)
    return np.asarray(size * (penalty - liquidity.spread / 2 - impact - costs.capital_charge) - costs.gas_usd)
