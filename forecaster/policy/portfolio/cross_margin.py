"""Cross-margin: what a portfolio must hold, given what its positions must hold alone.

The largest of the three ``measures``, between ``1 - offset_cap`` of the stand-alone sum and the sum itself. The sum is a safe
cap: pooled, margins leave no more loss uncovered than the same margins kept apart. One perpetual pays exactly its own margin,
as one of the measures is that margin. Every measure is sub-additive over portfolios without a common symbol; so is the
requirement as long as no cap binds. Stand-alone margins are convex in the size held of one symbol: two halves of a large
position may pay less apart than together, by what tiers charge for size.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from features.errors import DataInvalid
from forecaster.policy.hedging.greeks import CALL, PUT

from .measures import parametric_measure, scan_measure, shortfall_measure
from .params import PortfolioParams
from .scan import Options, option_scan, scan_range
from .state import RiskState

__all__ = ["CrossMargin", "Fallback", "cross_margin"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

CHUNK: Final = 256  # accounts at once


class Fallback(IntEnum):
    """Why an account gets no offset; where several hold, the last."""

    NONE = 0
    HISTORY_SHORT = 1
    SIGMA_UNKNOWN = 2
    IMPLIED_VOL_UNKNOWN = 3
    LINE_STALE = 4  # expired, or no line at all


@dataclass(frozen=True)
class CrossMargin:
    """Arrays (a,) in USD; the measures before floor and cap, 0 where ``reason`` gives no offset."""

    stand_alone: Floats
    scan: Floats
    shortfall: Floats
    parametric: Floats
    requirement: Floats
    reason: Integers  # Fallback

    @property
    def share(self) -> Floats:
        """Requirement over the stand-alone sum; 1 without a position."""
        some = self.stand_alone > 0
        return np.divide(self.requirement, self.stand_alone, out=np.ones(len(some)), where=some)


def cross_margin(
    notional: Floats,
    symbols: tuple[str, ...],
    state: RiskState,
    params: PortfolioParams,
    options: Options | None = None,
) -> CrossMargin:
    """Initial margin of a accounts; positions (a, s) in USD at mark, signed, columns ``symbols``.

    An option alone must hold its own worst loss on the scan, with moves as wide as the margin of its whole underlying,
    and a charge if it is sold, which nothing offsets; without an implied volatility, its underlying in full. A symbol
    without a line in force, an unknown standard deviation or volatility, or too short a joint history gives no
    offset: the stand-alone sum is due, with the reason.

    Raises DataInvalid naming the account whose position is not a number, or the option that is not one.
    """
    held = Options.none() if options is None else options
    _whole(notional, symbols, held)
    aligned = state.aligned(symbols)
    parts = []
    for start in range(0, max(len(notional), 1), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(notional)))
        parts.append(_margins(notional[rows], held.of(rows), aligned, params))
    names = [field.name for field in fields(CrossMargin)]
    return CrossMargin(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _margins(notional: Floats, options: Options, state: RiskState, params: PortfolioParams) -> CrossMargin:
    spot = state.price[options.symbol]
    known = np.isfinite(options.sigma) & (options.sigma >= 0) & np.isfinite(spot) & (spot > 0)
    valued, clean = options.take(known), state.clean
    alone, charge = _alone(notional, options, known, state, params), _charge(len(notional), options, state, params)
    scan = scan_measure(notional, valued, clean, params)
    parametric = parametric_measure(notional, valued, clean)
    shortfall, short = shortfall_measure(notional, valued, clean, params)
    reason = _reason(notional, options, known, short, state)
    sound = reason == Fallback.NONE
    measures = [np.where(sound, measure, 0.0) for measure in (scan, shortfall, parametric)]
    risk = np.where(sound, np.maximum.reduce(measures), alone)
    required = np.clip(risk, (1 - params.offset_cap) * alone, alone) + charge
    return CrossMargin(alone + charge, measures[0], measures[1], measures[2], required, reason)


def _alone(notional: Floats, options: Options, known: Flags, state: RiskState, params: PortfolioParams) -> Floats:
    """Sum of stand-alone margins (a,) without the charge on options sold."""
    total = state.required(np.abs(notional), state.im).sum(axis=1)
    underlying = _underlying(options, state)
    valued, full = options.take(known), underlying[known]
    spread = np.zeros((len(valued), len(state.symbols)))
    spread[np.arange(len(valued)), valued.symbol] = full
    own = state.required(spread, state.im).sum(axis=1)
    rate = np.divide(own, full, out=np.zeros(len(full)), where=full > 0)
    widest = np.maximum(scan_range(state, params)[valued.symbol], rate)
    worst = option_scan(valued, state.price[valued.symbol], widest, params)
    np.add.at(total, valued.account, worst.max(axis=(1, 2), initial=0.0))
    np.add.at(total, options.account[~known], underlying[~known])
    return np.asarray(total)


def _underlying(options: Options, state: RiskState) -> Floats:
    """Value (o,) of each option's whole underlying; at the strike where the price is unknown or lower."""
    spot = state.price[options.symbol]
    return np.asarray(np.abs(options.quantity) * np.fmax(np.where(np.isfinite(spot), spot, np.nan), options.strike))


def _charge(count: int, options: Options, state: RiskState, params: PortfolioParams) -> Floats:
    """What options sold pay beside (a,), whatever else is held."""
    sold = np.where(options.quantity < 0, _underlying(options, state), 0.0)
    return np.asarray(
        np.bincount(options.account, params.short_option_charge * sold, minlength=count), dtype=np.float64
    )


def _reason(notional: Floats, options: Options, known: Flags, short: Flags, state: RiskState) -> Integers:
    held = notional != 0
    held[options.account, options.symbol] = True
    reason = np.where(short, Fallback.HISTORY_SHORT, Fallback.NONE).astype(np.int64)
    blind = np.zeros(len(notional), dtype=np.bool_)
    blind[options.account[~known]] = True
    reason[(held & np.isnan(state.correlation.diagonal())).any(axis=1)] = Fallback.HISTORY_SHORT
    reason[(held & ~(np.isfinite(state.sigma) & (state.sigma > 0))).any(axis=1)] = Fallback.SIGMA_UNKNOWN
    reason[blind] = Fallback.IMPLIED_VOL_UNKNOWN
    reason[(held & ~state.usable).any(axis=1)] = Fallback.LINE_STALE
    return reason


def _whole(notional: Floats, symbols: tuple[str, ...], options: Options) -> None:
    holes = ~np.isfinite(notional)
    if notional.ndim != 2 or notional.shape[1] != len(symbols):
        raise DataInvalid(f"positions of shape {notional.shape} for {len(symbols)} symbols; pass one column a symbol")
    if holes.any():
        account, symbol = np.argwhere(holes)[0].tolist()
        raise DataInvalid(f"account {account}: its position in {symbols[symbol]} is not a number; read it again")
    lawful = np.isfinite(options.quantity) & (options.strike > 0) & (options.hours >= 0) & np.isfinite(options.strike)
    lawful &= (options.account >= 0) & (options.account < len(notional))
    lawful &= (options.symbol >= 0) & (options.symbol < len(symbols)) & np.isin(options.kind, (CALL, PUT))
    if not lawful.all():
        place = int((~lawful).argmax())
        raise DataInvalid(f"option {place}: not a lawful call or put of a listed account and symbol; correct its row")
