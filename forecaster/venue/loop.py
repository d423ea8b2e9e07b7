"""Policy and venue in a closed loop: the margins move the fund and the open interest, and these the margins.

A back-test replays a schedule that was made without the venue. Here each line sees what the venue's own bars before it
left behind: the insurance fund (the fund term, breaker CB4) and the open interest (the open-interest term). The two are
computed in turn, whole paths at a time, until nothing changes any more: as a line acts on later bars only, and bars on later
lines only, the right answer grows from the first bar on with every round, and an answer that repeats itself is the loop's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from forecaster.policy.decide import govern
from forecaster.policy.inputs import Inputs
from forecaster.policy.params import Params
from forecaster.policy.types import Governed

from .contestants import OURS, VARIANTS, in_force_on, published
from .engine import VenueResult, simulate
from .params import VenueParams
from .path import Path
from .population import Population

__all__ = ["Closed", "close_loop"]

Floats = npt.NDArray[np.float64]

FED_BACK: Final = ("insurance_fund_usd", "open_interest_usd")


@dataclass(frozen=True)
class Closed:
    """A loop that has settled, and the round without feedback beside it.

    ``im``, ``open_im``: (T,) initial margin in force at each bar's open, ppm, with and without feedback; ``fund``: (T,) what
    the lines saw, USD, NaN before the first bar's end; ``rounds``: until nothing changed.
    """

    rounds: int
    im: npt.NDArray[np.int64]
    open_im: npt.NDArray[np.int64]
    fund: Floats
    result: VenueResult
    open_result: VenueResult


def close_loop(
    inputs: Inputs, path: Path, people: Population, params: Params, venue: VenueParams, *, rounds: int = 200
) -> Closed:
    """Run policy and venue until the margins over ``path`` no longer change.

    ``inputs``: lines of the path's symbol alone, from the path's first open or earlier on, without venue's observables of
    their own. Raises UsageError where lines of another symbol are among them, or the loop has not settled after ``rounds``.
    """
    if set(inputs.symbol) != {path.symbol}:
        raise UsageError(f"a loop is closed on one symbol: leave only lines of {path.symbol} among the inputs")
    # The bar that closes at a line's origin is the last that the line knows; a line before the path knows none.
    known = np.searchsorted(path.close_time, inputs.origin, side="right") - 1
    governed, first = govern(inputs, params), None
    fund = np.full(len(path), np.nan)
    for done in range(1, rounds + 1):
        held = in_force_on(governed, path)
        result = simulate(path, published(governed, held, path, venue, VARIANTS[OURS]), people, venue)
        first = first or (governed.im[held], result)
        fund = np.append(np.nan, result.fund)[known + 1]
        interest = np.append(np.nan, result.open_interest)[known + 1]
        after = govern(_fed(inputs, fund, interest), params)
        if _same(after, governed):
            return Closed(done, governed.im[held], first[0], fund[held], result, first[1])
        governed = after
    raise UsageError(f"{path.symbol}: the loop has not settled after {rounds} rounds; allow more, or shorten the path")


def _fed(inputs: Inputs, fund: Floats, interest: Floats) -> Inputs:
    seen = inputs.observed | dict(zip(FED_BACK, (fund, interest), strict=True))
    return replace(inputs, observed=seen)


def _same(a: Governed, b: Governed) -> bool:
    return all(
        np.array_equal(x, y) for x, y in ((a.vector, b.vector), (a.effective_at, b.effective_at), (a.mode, b.mode))
    )
