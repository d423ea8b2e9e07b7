"""The hedge that each line publishes: that of its own forecast or, without a usable one, the last.

A record is the row of ``Hedges.table``: integers that state, schedule and ``Hedges.objects`` share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from .hedging import HedgeInputs, hedges_of
from .hedging.reference import BEYOND, UNHEDGED
from .inputs import USABLE, Inputs
from .types import Governed

__all__ = ["infeasible", "standing_hedges"]

Integers = npt.NDArray[np.int64]

# Beyond these a double overflows, and no price has gone there: e^50 times itself in a day, 0.01 % a year.
LOG_RETURN: Final = 50.0
LEAST_SIGMA: Final = 1e-4


def standing_hedges(governed: Governed, inputs: Inputs, prior: Sequence[tuple[int, ...] | None]) -> Integers:
    """Records (S + n, R): what each symbol brings along, ``UNHEDGED`` where None, then one per line.

    ``prior`` by ``governed.symbols``. Each line's hedge rests on its own inputs; a line without a usable forecast
    holds the record before.
    """
    count, rows = len(governed.symbols), governed.row
    own = rows >= 0
    own[own] = inputs.fault[rows[own]] == USABLE
    brought = np.array([UNHEDGED if record is None else record for record in prior], dtype=np.int64)
    made = hedges_of(_facts(inputs).take(rows[own]), governed.params.hedging).table
    place = np.full(count + len(rows), -1, dtype=np.int64)
    place[:count] = np.arange(count)
    place[count:][own] = count + np.arange(len(made))
    # Symbol by symbol in time; each begins with a record, so that none is filled from another's.
    order = np.argsort(np.concatenate([np.arange(count), governed.code]), kind="stable")
    newest = np.maximum.accumulate(np.where(place[order] >= 0, np.arange(len(order)), 0))
    place[order] = place[order][newest]
    return np.asarray(np.concatenate([brought.reshape(count, len(UNHEDGED)), made])[place])


def infeasible(records: Integers) -> npt.NDArray[np.bool_]:
    """Whether the largest lawful hedge of each record missed its budget (n,)."""
    return np.asarray(records[:, -1] == BEYOND)


def _facts(inputs: Inputs) -> HedgeInputs:
    seen = inputs.observed
    # Quantiles that rounding let cross are equal; the check of the rows let no more pass.
    ordered = np.maximum.accumulate(np.clip(inputs.returns, -LOG_RETURN, LOG_RETURN), axis=1)
    return HedgeInputs(
        returns=ordered,
        sigma=np.maximum(inputs.sigma_annual, LEAST_SIGMA),
        implied=seen["implied_vol"],
        stress_move=seen["stress_fall"],
        short_funding=seen["short_funding"],
        daily_volume_usd=seen["daily_volume_usd"],
        usable=inputs.fault == USABLE,
    )
