"""Auto-deleveraging: who among the winners is reduced, and by how much, once fund and equity are gone.

- ``water_filling``: close x_i = max(0, N_i - l E_i) with the level l such that the sum is the amount: the
  highest leverages come down to one level (leverage water-filling, Campbell, Hey & Moallemi). x depends on an
  account through N and E alone and is homogeneous in them, so that splitting an account changes no total.
- ``queue``: whole positions in the order of profit ratio times leverage, until the amount is reached; the last
  one overshoots.
- ``pro_rata``: the same share of everyone's notional.

Every payer is closed at the loser's bankruptcy price, ``gap`` away from the mark, so that it pays x_i * gap.
One that would be pushed below its maintenance margin is skipped, and the level falls for the others.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from features.errors import UsageError

from .kernels import adl_room, adl_shares
from .params import ADL_METHODS

__all__ = ["reductions"]

Floats = npt.NDArray[np.float64]


def reductions(
    method: Literal["water_filling", "queue", "pro_rata"],
    notional: Floats,
    equity: Floats,
    maintenance: Floats,
    score: Floats,
    amount: float,
    gap: float,
) -> Floats:
    """USD by which each winner is reduced, shape (n,); the engine runs the same kernel.

    ``notional`` and ``equity`` in USD, ``maintenance`` a fraction, ``score`` ranks the queue (largest first),
    ``amount`` the USD to close and ``gap`` the haircut on it as a fraction. The sum is below ``amount`` where
    the winners cannot give more. Raises UsageError for an unknown method or arrays of unlike shapes.
    """
    if method not in ADL_METHODS[:3]:
        raise UsageError(f"ADL method {method!r} is none of {', '.join(ADL_METHODS[:3])}")
    arrays = [np.ascontiguousarray(x, np.float64) for x in (notional, equity, maintenance, score)]
    if len({x.shape for x in arrays}) != 1 or arrays[0].ndim != 1:
        raise UsageError("notional, equity, maintenance and score must be one-dimensional and of one length")
    room = np.array([adl_room(n, e, mm, gap) for n, e, mm in zip(*arrays[:3], strict=True)])
    result: Floats = adl_shares(ADL_METHODS.index(method), arrays[0], arrays[1], room, arrays[3], amount)
    return result
