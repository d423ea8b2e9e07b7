"""The insurance fund: how large it should be, what it charges, who bears which layer of loss.

Losses are draws, in USD or as a fraction of notional, whichever the caller keeps to; draws come from a simulation
or from past excursions, and all are taken as equally likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from features.errors import DataInvalid, UsageError

from .constants import Protection
from .params import Params

__all__ = [
    "Pooling",
    "RiskPrice",
    "expected_shortfall",
    "fund_target",
    "joint_draws",
    "pooling",
    "premium",
    "price_of_risk",
    "tranche",
    "tranche_prices",
]

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


@dataclass(frozen=True)
class Pooling:
    """The funds of several venues kept apart, and the same money in one; in the unit of the losses."""

    premium_apart: float
    premium_pooled: float
    unpaid_apart: float  # expected loss that the funds leave
    unpaid_pooled: float
    lent: float  # expected loss that one venue's fund pays for another's; what pooling asks of the sounder ones


def fund_target(losses_beyond_margin: Floats, shortfalls: Floats, params: Params) -> int:
    """Target of the fund in whole USD, rounded up (0 without any account and any draw).

    The larger of the ``largest_accounts`` greatest losses beyond margin under the stress move, one number an
    account (cover-2, CPMI-IOSCO principle 4, adapted), and the ``shortfall_quantile`` of simulated shortfalls over
    ``shortfall_days``, one number a draw.

    Raises DataInvalid where a loss or a shortfall is not a number.
    """
    limits = params.insurance
    for name, values in (("loss beyond margin", losses_beyond_margin), ("simulated shortfall", shortfalls)):
        if not np.isfinite(values).all():
            raise DataInvalid(
                f"{name} {int(np.argmin(np.isfinite(values)))} is not a number; simulate or price it anew"
            )
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
    """Loss of the layer [A, B): min(max(L - A, 0), B - A). Adjoining layers add to the layer that they make up.

    Raises UsageError where B is below A.
    """
    if not attachment <= detachment:
        raise UsageError(f"a layer must end where it begins or above, not run from {attachment:g} to {detachment:g}")
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


def joint_draws(losses: Sequence[Floats], correlation: Floats, count: int, seed: int) -> Floats:
    """Losses of V venues together (count, V): each venue's own draws, in ranks of a Gaussian copula.

    A draw is one of the venue's own, chosen by rank. Raises UsageError where ``correlation`` (V, V) is none.
    """
    matrix = np.asarray(correlation, dtype=np.float64)
    shaped = matrix.shape == (len(losses), len(losses)) and bool((np.diag(matrix) == 1).all())
    if not shaped or not np.array_equal(matrix, matrix.T) or np.linalg.eigvalsh(matrix)[0] < -1e-9:
        raise UsageError(
            f"correlation must be symmetric, {len(losses)} by {len(losses)}, of diagonal 1 and no negative eigenvalue"
        )
    values, vectors = np.linalg.eigh(matrix)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))
    ranks = ndtr(np.random.default_rng(seed).standard_normal((count, len(losses))) @ factor.T)
    columns = [
        np.sort(own)[np.minimum((rank * len(own)).astype(np.int64), len(own) - 1)]
        for own, rank in zip(losses, ranks.T, strict=True)
    ]
    return np.column_stack(columns)


def pooling(losses: Floats, funds: Floats, params: Params) -> Pooling:
    """What ``funds`` (V,) pay of joint losses (m, V), at least 0, apart and as one, and what each way should cost.

    As one they leave no more unpaid in any draw, and the premium is no higher: expected shortfall is sub-additive
    (Acerbi and Tasche 2002). Where losses are comonotone the premium is the same: what comes together cannot be
    diversified.
    """
    total = losses.sum(axis=1)
    short = np.maximum(losses - funds, 0.0).sum(axis=1)
    left = np.maximum(total - funds.sum(), 0.0)
    return Pooling(
        premium_apart=sum(premium(venue, params) for venue in losses.T),
        premium_pooled=premium(total, params),
        unpaid_apart=float(short.mean()),
        unpaid_pooled=float(left.mean()),
        lent=float((short - left).mean()),
    )
