"""Three measures of a portfolio's risk, each the largest under estimated, no and full correlation.

Positions (a, s) in USD at mark, signed; options beside them; results (a,) in USD, at least 0. Without correlation what each
symbol loses alone adds up as the root of squares; with full correlation all symbols make the move of the same rank, so that a
short offsets a long.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from forecaster.policy.hedging.greeks import greeks

from .params import PortfolioParams
from .scan import DAY_HOURS, Options, option_scan, price_moves, scan_range
from .state import RiskState

__all__ = ["combined", "parametric_measure", "scan_measure", "shortfall_measure", "tail_mean"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def combined(signed: Floats, correlation: Floats) -> Floats:
    """sqrt(e' C e) of signed risks (..., s), and no less than without correlation."""
    joint = (signed @ correlation * signed).sum(axis=-1)
    return np.asarray(np.sqrt(np.maximum(joint, (signed * signed).sum(axis=-1))))


def tail_mean(losses: Floats, level: float) -> Floats:
    """Expected shortfall of equally likely losses (..., T): mean of the worst 1 - level, the last one in part."""
    tail = (1 - level) * losses.shape[-1]
    whole = min(int(tail), losses.shape[-1] - 1)
    edge = losses.shape[-1] - whole - 1
    worst = np.partition(losses, edge, axis=-1)[..., edge:]
    return np.asarray((worst[..., 1:].sum(axis=-1) + worst[..., 0] * (tail - whole)) / tail)


def scan_measure(notional: Floats, options: Options, state: RiskState, params: PortfolioParams) -> Floats:
    """Worst loss of the scan; with full correlation every symbol makes the same rung's move, and revaluation is exact.

    Under the estimated correlation a symbol's own worst loss counts with the side on which it is made.
    """
    moves, widest = price_moves(params), scan_range(state, params)
    losses = -notional[:, :, None, None] * widest[:, None, None] * moves[:, None] * np.ones(3)
    each = option_scan(options, state.price[options.symbol], widest[options.symbol], params)
    np.add.at(losses, (options.account, options.symbol), each)
    rungs = losses.reshape(*notional.shape, 3 * len(moves))
    side = -np.sign(np.repeat(moves, 3))[rungs.argmax(axis=-1)]
    alone = combined(side * np.maximum(rungs.max(axis=-1), 0.0), state.correlation)
    return np.asarray(np.maximum(alone, rungs.sum(axis=1).max(axis=-1)))


def parametric_measure(notional: Floats, options: Options, state: RiskState) -> Floats:
    """``sqrt(E' C E)``, E the signed stand-alone margin of each symbol's net delta.

    Reya's ``sqrt(E' A E)`` (its page "The margin system") with the schedule's own rates on the diagonal of A. Linear: it
    errs high for options bought and low for options sold, where the scan rules.
    """
    spot, delta = state.price[options.symbol], notional.copy()
    slope = greeks(options.kind, spot, options.strike, options.hours, options.sigma).delta
    np.add.at(delta, (options.account, options.symbol), slope * options.quantity * spot)
    signed = np.sign(delta) * state.required(np.abs(delta), state.im)
    return np.asarray(np.maximum(combined(signed, state.correlation), np.abs(signed.sum(axis=1))))


def shortfall_measure(
    notional: Floats, options: Options, state: RiskState, params: PortfolioParams
) -> tuple[Floats, Flags]:
    """Expected shortfall over 24 h of filtered historical simulation, and whether the joint history is too short (a,).

    Draws are past joint standardised returns times today's forecast standard deviations (Barone-Adesi, Giannopoulos and
    Vosper 1999), of the hours in which every symbol held has one; options are revalued a day later. With full
    correlation every symbol takes its own draw of the same rank.
    """
    held = notional != 0
    held[options.account, options.symbol] = True
    gaps = ~np.isfinite(state.standardised)
    patterns, group = np.unique(held & gaps.any(axis=0), axis=0, return_inverse=True)
    measure, short = np.zeros(len(notional)), np.zeros(len(notional), dtype=np.bool_)
    for number, pattern in enumerate(patterns):
        mine = group.ravel() == number
        draws = np.where(gaps, 0.0, state.standardised)[~gaps[:, pattern].any(axis=1)]
        short[mine] = len(draws) < params.least_history_hours
        if not short[mine].all():
            measure[mine] = _simulated(notional[mine], options.of(np.flatnonzero(mine)), draws, state, params)
    return measure, short


def _simulated(notional: Floats, options: Options, draws: Floats, state: RiskState, params: PortfolioParams) -> Floats:
    level, joint = params.shortfall_level, state.sigma * draws
    ranked = np.sort(joint, axis=0)
    both = [tail_mean(-_gains(notional, options, log_returns, state), level) for log_returns in (joint, ranked)]
    simple = np.expm1(joint).T
    long, short = tail_mean(-simple, level), tail_mean(simple, level)
    own = np.where(notional > 0, notional * long, -notional * short)
    for account, symbol in np.unique(np.column_stack([options.account, options.symbol]), axis=0).tolist():
        chosen = (options.account == account) & (options.symbol == symbol)
        moved = _option_gains(options.take(chosen), joint, state).sum(axis=0)
        own[account, symbol] = tail_mean(-(notional[account, symbol] * simple[symbol] + moved), level)
    apart = np.sqrt((np.maximum(own, 0.0) ** 2).sum(axis=1))
    return np.asarray(np.maximum(apart, np.maximum(*both)))


def _gains(notional: Floats, options: Options, log_returns: Floats, state: RiskState) -> Floats:
    gains = notional @ np.expm1(log_returns).T
    np.add.at(gains, options.account, _option_gains(options, log_returns, state))
    return np.asarray(gains)


def _option_gains(options: Options, log_returns: Floats, state: RiskState) -> Floats:
    spot = state.price[options.symbol]
    after = spot[:, None] * np.exp(log_returns.T[options.symbol])
    return options.gain(spot, after, hours=DAY_HOURS)
