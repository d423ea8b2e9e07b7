"""The insurance fund: how large it should be, what it charges, who bears which layer of loss.

Losses are draws, in USD or as a fraction of notional, whichever the caller keeps to; draws come from a simulation
or from past excursions, and all are taken as equally likely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .constants import Protection
from .params import Params

__all__ = ["RiskPrice", "expected_shortfall", "fund_target", "premium", "price_of_risk", "tranche", "tranche_prices"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RiskPrice:
    """What a tier of protection costs; all in the unit of the losses."""

    tier: str
    retained: float  # expected loss that the position bears itself
    hedged: float  # expected loss passed to the options market: its fair value, before the market's own mark-up
    insured: float  # expected loss that the fund bears
    tail: float  # expected shortfall of what the fund bears
    premium: float  # the fund's price of it


def fund_target(losses_beyond_margin: Floats, shortfalls: Floats, params: Params) -> int:
    """Target of the fund in whole USD, rounded up (0 without any account and any draw).

    The larger of the ``largest_accounts`` greatest losses beyond margin under the stress move, one number an
    account (cover-2, CPMI-IOSCO principle 4, adapted), and the ``shortfall_quantile`` of simulated shortfalls over
    ``shortfall_days``, one number a draw.
    """
    limits = params.insurance
    worst = np.sort(np.maximum(losses_beyond_margin, 0.0))[::-1][: limits.largest_accounts].sum()
    simulated = np.quantile(shortfalls, limits.shortfall_quantile) if len(shortfalls) else 0.0
    return int(np.ceil(max(worst, float(simulated))))


def expected_shortfall(losses: Floats, level: float) -> float:
    """Mean of the worst ``1 - level`` of the draws, the last one in part (Rockafellar and Uryasev 2002)."""
    tail = (1 - level) * len(losses)
    worst = np.sort(losses)[::-1]
    whole = int(tail)
    part = worst[whole] * (tail - whole) if whole < len(worst) else 0.0
    return float((worst[:whole].sum() + part) / tail)


def premium(losses: Floats, params: Params) -> float:
    """(1 + load) E[L] + k_cap (ES(L) - E[L]): the expected loss, loaded, and the cost of capital held against it."""
    terms = params.insurance
    mean = float(losses.mean())
    return (1 + terms.load) * mean + terms.capital_charge * (expected_shortfall(losses, terms.tail) - mean)


def tranche(losses: Floats, attachment: float, detachment: float) -> Floats:
    """Loss of the layer [A, B): min(max(L - A, 0), B - A). Adjoining layers add to the layer that they make up."""
    return np.clip(losses - attachment, 0.0, detachment - attachment)


def tranche_prices(losses: Floats, target: float, params: Params) -> list[tuple[float, float]]:
    """Expected loss and premium of each tranche of a fund, junior first, the layer beyond the last cap at the end."""
    edges = [0.0, *(target * cap for cap in params.insurance.tranche_caps), np.inf]
    layers = [tranche(losses, low, high) for low, high in pairwise(edges)]
    return [(float(layer.mean()), premium(layer, params)) for layer in layers]


def price_of_risk(losses: Floats, im: Floats, tiers: Mapping[str, Protection], params: Params) -> list[RiskPrice]:
    """What each tier of protection costs on the same draws of a position's loss.

    ``losses`` and ``im`` (m,): loss and initial margin as fractions of notional. The position bears the layer up to
    ``retained`` times its margin; of the layer from there to the margin the options market bears
    ``hedged_share``; the fund bears the rest, and everything beyond the margin.
    """
    table = []
    for tier, terms in tiers.items():
        own = np.minimum(losses, terms.retained * im)
        upper = np.clip(losses - terms.retained * im, 0.0, np.maximum(im - terms.retained * im, 0.0))
        hedged = terms.hedged_share * upper
        fund = losses - own - hedged
        table.append(
            RiskPrice(
                tier=tier,
                retained=float(own.mean()),
                hedged=float(hedged.mean()),
                insured=float(fund.mean()),
                tail=expected_shortfall(fund, params.insurance.tail),
                premium=premium(fund, params),
            )
        )
    return table
