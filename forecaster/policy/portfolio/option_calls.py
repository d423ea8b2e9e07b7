"""Margin calls of option books before the loss is there: by price, volatility and time, and which of them called.

The worst loss of a full revaluation over a ladder of price, volatility and time stands against equity, and equity over it is
judged by the levels of ``accounts``: warning, search, liquidation, backstop, in that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from forecaster.policy.accounts import Level, levels
from forecaster.policy.hedging.greeks import Book
from forecaster.policy.params import Params

from .params import PortfolioParams
from .scan import price_moves, shifted_sigma

__all__ = ["TRIGGERS", "OptionCall", "option_call"]

TRIGGERS: Final = ("delta", "gamma", "vega", "theta")


@dataclass(frozen=True)
class OptionCall:
    """The call of one book. The parts, losses in USD, sum to ``loss``; the trigger is the largest, "" when healthy."""

    level: Level
    trigger: str
    loss: float
    parts: Mapping[str, float]
    move: float  # of the price, a fraction, at the worst rung ...
    sigma: str  # ... volatility "same", "up" or "down" ...
    hours: float  # ... and hours from now


def option_call(
    book: Book, spot: float, equity: float, before: Level, widest: float, params: Params, portfolio: PortfolioParams
) -> OptionCall:
    """The call of one underlying's book of options and perpetuals with ``equity`` in USD, its value included.

    Price moves are those of the scan, to +-``widest`` (``scan.scan_range``); volatility shifts each option by its own time
    to expiry. The worst rung's loss is split by exact revaluations in turn: delta is the slope times the move, gamma what
    the price adds to it, vega what the shift of volatility adds, theta what time adds. ``before``: the level so far. An
    equity that is not a number counts as lost. Of equal rungs the earliest counts.

    Raises UsageError where the book holds an unlawful price, strike, time or volatility (``hedging.greeks``).
    """
    now, moved = book.at(spot), spot * (1 + widest * price_moves(portfolio))
    shifted = shifted_sigma(book.sigma, book.hours, portfolio) - book.sigma[:, None]
    rungs = np.array(
        [
            [book.later(hours, shifted[:, k]).at(moved).price for k in range(shifted.shape[1])]
            for hours in portfolio.ladder_hours
        ]
    )
    t, k, x = np.unravel_index(rungs.argmin(), rungs.shape)
    hours, spot_then = portfolio.ladder_hours[t], float(moved[x])
    slope = float(now.delta) * (spot_then - spot)
    by_price, by_sigma = (float(book.later(0.0, change).at(spot_then).price) for change in (0.0, shifted[:, k]))
    parts = {
        "delta": -slope,
        "gamma": float(now.price) + slope - by_price,
        "vega": by_price - by_sigma,
        "theta": by_sigma - float(rungs[t, k, x]),
    }
    loss = float(now.price - rungs[t, k, x])
    factor = equity / loss if loss > 0 else np.inf
    level = Level(int(levels(np.array([factor]), np.array([int(before)]), params)[0]))
    trigger = max(TRIGGERS, key=parts.__getitem__) if level > Level.HEALTHY else ""
    return OptionCall(level, trigger, loss, parts, float(moved[x]) / spot - 1, ("same", "up", "down")[k], hours)
