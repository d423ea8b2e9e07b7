"""Every account's risk and the system's, from one state at one instant, in one pass over all accounts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from forecaster.policy.accounts import MEDIAN_SCORE, SCORES, Level, health, levels
from forecaster.policy.insurance import fund_target
from forecaster.policy.params import Params
from forecaster.policy.types import PPM

from .cross_margin import CrossMargin, cross_margin
from .measures import combined
from .params import PortfolioParams
from .state import RiskState

__all__ = ["AccountRisk", "SystemRisk", "assess", "portfolio_excursions"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AccountRisk:
    """Arrays over accounts (a,), USD unless noted."""

    as_of: int
    equity: Floats
    notional: Floats  # gross
    im: Floats  # cross-margin
    mm: Floats  # the sum of maintenance margins, times the same share that cross-margin leaves of initial ones
    health: Floats
    level: Integers  # accounts.Level
    ruin: Floats  # P(losses reach equity within ruin_hours)
    hours_to_mm: Floats  # horizon at which the median excursion reaches the maintenance margin
    liquidation_price: Floats  # (a, s), all other prices as they are; NaN where no price liquidates
    reason: Integers  # cross_margin.Fallback


@dataclass(frozen=True)
class SystemRisk:
    """The same accounts together."""

    as_of: int
    gross_notional: float
    gross_leverage: float  # over the equity of those that have any
    beyond_warning: float  # share of open notional whose account stands at the warning level or a worse one ...
    beyond_search: float  # ... at the search level or a worse one
    cover: int  # losses beyond margin of the largest accounts (cover-2) in the worse of the two stresses, USD
    fund_target: int  # IF*, USD
    fund_ratio: float  # fund / IF*; infinite where nothing is to be covered


def assess(
    equity: Floats,
    notional: Floats,
    before: Integers,
    symbols: tuple[str, ...],
    state: RiskState,
    fund: float,
    shortfalls: Floats,
    params: Params,
    portfolio: PortfolioParams,
) -> tuple[AccountRisk, SystemRisk]:
    """Risk of a accounts with perpetuals (a, s) in USD at mark, signed, and of all of them.

    ``before`` (a,): each account's last level; ``fund``: the insurance fund in USD; ``shortfalls``: simulated ones for
    its target. An equity that is not a number counts as lost; an account without a known excursion as ruined.

    Raises DataInvalid naming the account whose position is not a number.
    """
    cross, aligned = cross_margin(notional, symbols, state, portfolio), state.aligned(symbols)
    gross, single = np.abs(notional), aligned.required(np.abs(notional), aligned.mm)
    total, mm = gross.sum(axis=1), single.sum(axis=1) * cross.share
    factor = health(equity, total, np.divide(mm, total, out=np.zeros(len(total)), where=total > 0))
    reach = portfolio_excursions(notional, aligned, cross)
    open_ = total > 0
    accounts = AccountRisk(
        as_of=state.as_of,
        equity=equity,
        notional=total,
        im=cross.requirement,
        mm=mm,
        health=factor,
        level=levels(factor, before, params),
        ruin=np.where(open_, _ruin(equity, reach, aligned.horizons, params.accounts.ruin_hours), 0.0),
        hours_to_mm=np.where(open_, _hours(equity - mm, reach, aligned.horizons), np.inf),
        liquidation_price=_liquidation_price(equity - mm, notional, cross.share, aligned),
        reason=cross.reason,
    )
    return accounts, _system(accounts, notional, aligned, fund, shortfalls, params)


def portfolio_excursions(notional: Floats, state: RiskState, cross: CrossMargin) -> Floats:
    """Excursion quantiles (a, H, 4) in USD: those of the hurting sides, the largest of the three correlations.

    One position's are its own. Without an offset the sides add up.
    """
    sides = np.where(notional[:, :, None, None] > 0, state.long, state.short)
    signed = np.where(notional[:, :, None, None] != 0, notional[:, :, None, None] * sides, 0.0)
    wide = np.moveaxis(signed, 1, -1)
    joint = np.maximum(combined(wide, state.clean.correlation), np.abs(wide.sum(axis=-1)))
    reach = np.where(cross.reason[:, None, None] > 0, np.abs(wide).sum(axis=-1), joint)
    return np.asarray(np.maximum.accumulate(reach, axis=-1))


# -- probabilities: those of ``accounts`` with one law an account -----------------------------------------


def _piecewise(x: Floats, knots: Floats, values: Floats) -> Floats:
    """Interpolation (a,) at x (a,) through knots (a, k) that never fall and values (..., k), flat outside them."""
    width, inside = np.diff(knots, axis=1), x[:, None] - knots[:, :-1]
    share = np.divide(inside, width, out=(inside > 0).astype(np.float64), where=width > 0)
    return np.asarray(values[..., 0] + (np.clip(share, 0.0, 1.0) * np.diff(values)).sum(axis=1))


def _ruin(distance: Floats, reach: Floats, horizons: tuple[int, ...], hours: float) -> Floats:
    grid, logs = np.log(horizons), np.log(np.maximum(reach, 1e-12))
    inside = float(np.clip(np.log(hours), grid[0], grid[-1]))
    weights = np.array([np.interp(inside, grid, row) for row in np.eye(len(grid))])
    quantiles = np.exp(np.einsum("h,ahl->al", weights, logs) + (np.log(hours) - inside) / 2)
    knots = np.concatenate([np.zeros((len(quantiles), 1)), quantiles], axis=1)
    slope = (SCORES[-1] - SCORES[-2]) / np.maximum(knots[:, -1] - knots[:, -2], 1e-12)
    score = _piecewise(distance, knots, SCORES) + np.maximum(0.0, distance - knots[:, -1]) * slope
    return np.asarray(np.nan_to_num(2 * ndtr(-score), nan=1.0))


def _hours(distance: Floats, reach: Floats, horizons: tuple[int, ...]) -> Floats:
    medians = np.maximum.accumulate(np.maximum(reach[:, :, 0], 1e-12), axis=1) * MEDIAN_SCORE / SCORES[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs, wanted = np.log(medians), np.log(distance)
        inside = np.clip(wanted, logs[:, 0], logs[:, -1])
        # Where medians stand still the earliest horizon counts; beyond the grid it goes on from its last one.
        rising = np.diff(logs, axis=1, prepend=-np.inf) > 0
        grid = np.maximum.accumulate(np.where(rising, np.log(horizons), -np.inf), axis=1)
        start = np.where(wanted > logs[:, -1], np.log(horizons[-1]), _piecewise(inside, logs, grid))
        hours = np.exp(start + 2 * (wanted - inside))
    return np.nan_to_num(np.where(distance > 0, hours, 0.0), nan=0.0, posinf=np.inf)


# -- prices and the system --------------------------------------------------------------------------------


def _liquidation_price(room: Floats, notional: Floats, share: Floats, state: RiskState) -> Floats:
    """Price (a, s) at which equity meets the maintenance margin, whose tier and offset are held.

    ``E + N x = MM + share r |N| x`` for the move x, r the position's marginal rate; at once where room is gone.
    """
    size = np.abs(notional)
    tiers = np.stack(
        [np.searchsorted(caps, np.ceil(size[:, i]), side="left") for i, caps in enumerate(state.caps)], axis=1
    )
    last = state.mm.shape[1] - 1
    rate = np.take_along_axis(state.mm, np.minimum(tiers, last).T, axis=1).T / PPM
    gained = notional - share[:, None] * rate * size
    with np.errstate(divide="ignore", invalid="ignore"):
        move = -np.maximum(room, 0.0)[:, None] / gained
    price = state.price * (1 + move)
    return np.where((size > 0) & (price > 0), price, np.nan)


def _system(
    accounts: AccountRisk, notional: Floats, state: RiskState, fund: float, shortfalls: Floats, params: Params
) -> SystemRisk:
    total, capital = float(accounts.notional.sum()), float(np.fmax(accounts.equity, 0.0).sum())
    # What exceeds the initial margin can be withdrawn before the stress.
    bound = np.fmin(np.nan_to_num(accounts.equity), accounts.im)
    worst = np.minimum(np.fmax(state.stress, params.margin.gap), 1.0)
    losses = [side * notional @ worst - bound for side in (1.0, -1.0)]  # all fall, all rise
    cover = max(fund_target(loss, np.empty(0), params) for loss in losses)
    target = max(fund_target(loss, shortfalls, params) for loss in losses)
    return SystemRisk(
        as_of=accounts.as_of,
        gross_notional=total,
        gross_leverage=total / capital if capital > 0 else (np.inf if total > 0 else 0.0),
        beyond_warning=_share(accounts, Level.WARNING),
        beyond_search=_share(accounts, Level.SEARCH),
        cover=cover,
        fund_target=target,
        fund_ratio=fund / target if target > 0 else np.inf,
    )


def _share(accounts: AccountRisk, level: Level) -> float:
    total = float(accounts.notional.sum())
    return float(accounts.notional[accounts.level >= level].sum()) / total if total > 0 else 0.0
