"""Circuit breakers: when they trip, and what they do.

Four breakers, each an observable anyone can recompute. Their actions escalate while the cause lasts, each has a
longest duration, and a halt is followed by a grace in which nobody is liquidated for the move made while halted:
``governor.next_action`` carries them from line to line.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from .inputs import Inputs
from .margin import Targets
from .params import Params

__all__ = ["BREAKERS", "Action", "may_liquidate", "tripped"]

BREAKERS: Final = ("CB1", "CB2", "CB3", "CB4")
FIVE_MINUTES_A_DAY: Final = 288


class Action(IntEnum):
    """What stands, each with all that stands before it; GRACE follows a halt."""

    CLEAR = 0
    REDUCE_ONLY = 1
    PRICE_BAND = 2
    HALT = 3
    WITHDRAW_GATE = 4
    GRACE = 5


def tripped(inputs: Inputs, targets: Targets, params: Params) -> dict[str, npt.NDArray[np.bool_]]:
    """Whether each breaker trips at each line (n,); an absent observable trips nothing.

    CB1: a move within the past hour, or a 5-minute return in units of its forecast standard deviation. CB2: the gap
    to the mark, or to the venue's own oracle where it is told, the least of the last ``gap_observations`` and net of
    confidence (``oracle.persistent_gap``), beyond the limit of the symbol's volume. CB3: modelled depth over its
    30-day median. CB4: the insurance fund over its target.
    """
    seen, limits = inputs.observed, params.breakers
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma = np.sqrt(inputs.variance / FIVE_MINUTES_A_DAY)
        # Volumes fall from one class to the next; an unknown volume is in the last, whose limit is the widest.
        volume = np.nan_to_num(seen["daily_volume_usd"])[:, None]
        rank = (volume < np.array(limits.gap_volumes_usd)).sum(axis=1)
        fund, target = seen["insurance_fund_usd"], targets.insurance_usd
        return {
            "CB1": (seen["hour_move"] >= limits.hour_move)
            | (seen["five_minute_move"] > limits.five_minute_sigmas * sigma),
            "CB2": np.fmax(seen["mark_gap"], seen["oracle_gap"]) > np.array(limits.gap_limits)[rank],
            "CB3": targets.depth_ratio < limits.depth_ratio,
            "CB4": fund < limits.fund_ratio * target,
        }


def may_liquidate(action: Action, below_now: bool, below_at_halt: bool) -> bool:
    """Whether an account may be liquidated: never while halted, and in the grace only where it already stood
    below its maintenance margin when the halt began.
    """
    if action in (Action.HALT, Action.WITHDRAW_GATE):
        return False
    return below_now and (action is not Action.GRACE or below_at_halt)
