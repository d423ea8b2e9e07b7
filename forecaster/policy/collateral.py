"""Collateral: what an asset counts for, and that everyone counts with the same price.

The haircut covers what the asset may lose until it is sold, what selling it costs, its peg, and its habit of
falling with the position it secures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.errors import DataInvalid

from .params import Params

__all__ = ["Prices", "collateral_value", "haircut", "haircut_ppm", "impermanent_loss", "risk_weight"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prices:
    """Prices in USD by asset, all as of one instant (seconds)."""

    as_of: float
    usd: Mapping[str, float]


def haircut(loss: Floats, cost: Floats, depeg: Floats, correlation: Floats) -> Floats:
    """Haircut of an asset, in [0, 1]; unknown parts make it 1.

    ``loss``: the asset's 99 % loss over its liquidation horizon; ``cost``: spread and impact of selling it;
    ``depeg``: allowance for a broken peg; ``correlation`` of its return with that of the position it secures:
    wrong-way risk adds ``max(0, correlation) * loss``. All fractions.
    """
    total = loss + cost + depeg + np.maximum(0.0, correlation) * loss
    return np.clip(np.nan_to_num(total, nan=1.0), 0.0, 1.0)


def haircut_ppm(fraction: float) -> int:
    """Parts per million, rounded up; a millionth of a part absorbs the rounding of binary fractions."""
    return int(np.ceil(min(max(fraction, 0.0), 1.0) * 1e6 - 1e-6))


def risk_weight(cut: Floats, holding_usd: Floats, params: Params) -> Floats:
    """1 - haircut, falling with the root of the holding beyond ``concentration_usd``: more of it never counts less
    in total, and each further dollar counts less (after Drift's size discount).
    """
    crowding = np.sqrt(params.collateral.concentration_usd / np.maximum(holding_usd, 1e-9))
    return (1 - cut) * np.minimum(1.0, crowding)


def impermanent_loss(ratio: Floats) -> Floats:
    """Loss of a constant-product pool share against holding, 1 - 2 sqrt(k) / (1 + k), at price ratio k > 0."""
    return np.asarray(1 - 2 * np.sqrt(ratio) / (1 + ratio))


def collateral_value(
    amounts: Mapping[str, float], valuation: Prices, liquidation: Prices, weights: Mapping[str, float], params: Params
) -> float:
    """Weighted value in USD of an account's collateral, at the one price that its liquidation would read too.

    Raises DataInvalid where the two price sets are of different instants or disagree on an asset held, naming
    it: an account judged solvent on one price and sold on another has been robbed. Likewise where an asset has no
    weight or its amount is no number of at least 0: what is owed is no collateral, and a weight would shrink it.
    """
    apart = abs(valuation.as_of - liquidation.as_of)
    if not apart <= params.collateral.match_tolerance_seconds:
        raise DataInvalid(f"collateral is valued {apart:g} s apart from its liquidation; read both from one price set")
    total = 0.0
    for asset, amount in amounts.items():
        if asset not in valuation.usd or valuation.usd[asset] != liquidation.usd.get(asset):
            raise DataInvalid(f"{asset}: valuation and liquidation do not share a price; read both from one price set")
        if not 0 <= amount < np.inf or asset not in weights:
            raise DataInvalid(
                f"{asset}: collateral needs an amount of at least 0 and a weight; take debts off the equity"
            )
        total += amount * valuation.usd[asset] * weights[asset]
    return total
