"""Accounts as slots, each with an exogenous sequence of positions.

Every number is a hash of (seed, slot, position, field): a counter-based generator, so that position k of slot
j is the same person for every policy, every market and every length of the run (common random numbers).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from .params import PopulationConstants

__all__ = ["Population"]

HOLD, IDLE, SIDE, SIZE, LEVERAGE, TOPUP, DELEVERAGE, START = range(8)
FIELDS: Final = 8
GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Population:
    """Positions in order of entry; arrays (n_positions,), hours counted from the first bar's open.

    ``weight`` is signed (long > 0) with a mean size of 1; ``leverage`` is the desired one, before truncation.
    A slot holds one position at a time: ``leave`` of one never exceeds ``enter`` of the next.
    """

    slots: int
    hours: int
    occupancy: float
    enter: npt.NDArray[np.int64]
    leave: npt.NDArray[np.int64]
    slot: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]
    leverage: npt.NDArray[np.float64]
    tops_up: npt.NDArray[np.bool_]
    deleverages: npt.NDArray[np.bool_]

    @classmethod
    def draw(cls, constants: PopulationConstants, hours: int) -> Population:
        """The positions that enter within ``hours``; slots start in their stationary state."""
        chunks = [
            _positions(constants, np.arange(first, min(first + 1000, constants.slots)), hours)
            for first in range(0, constants.slots, 1000)
        ]
        slot, index, enter, leave = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        order = np.lexsort((slot, enter))
        slot, index, enter, leave = slot[order], index[order], enter[order], leave[order]

        def uniform(field: int) -> npt.NDArray[np.float64]:
            return _uniform(constants.seed, slot, index, field)

        size = np.exp(constants.size_log_sd * ndtri(uniform(SIZE)) - constants.size_log_sd**2 / 2)
        return cls(
            slots=constants.slots,
            hours=hours,
            occupancy=_occupancy(constants),
            enter=enter,
            leave=leave,
            slot=slot,
            weight=np.where(uniform(SIDE) < constants.long_share, size, -size),
            leverage=constants.leverage_median * np.exp(constants.leverage_log_sd * ndtri(uniform(LEVERAGE))),
            tops_up=uniform(TOPUP) < constants.topup_propensity,
            deleverages=uniform(DELEVERAGE) < constants.deleveraging_propensity,
        )

    def since(self, hour: int) -> Population:
        """The same people from ``hour`` on, counted from there; who is in the middle of a stay enters at once."""
        kept = self.leave > hour
        columns = {name: getattr(self, name)[kept] for name in ("slot", "weight", "leverage", "tops_up", "deleverages")}
        enter, leave = np.maximum(self.enter[kept] - hour, 0), self.leave[kept] - hour
        return replace(self, hours=self.hours - hour, enter=enter, leave=leave, **columns)


def _occupancy(constants: PopulationConstants) -> float:
    return constants.hold_hours / (constants.hold_hours + constants.idle_hours)


def _positions(
    constants: PopulationConstants, slots: npt.NDArray[np.int64], hours: int
) -> tuple[npt.NDArray[np.int64], ...]:
    """Slot, index, entry and exit hour of the positions of some slots; an exponential remainder has no memory."""
    cycle = constants.hold_hours + constants.idle_hours
    count = int(hours / cycle + 8 * np.sqrt(hours / cycle) + 16)
    slot, index = np.meshgrid(slots, np.arange(count), indexing="ij")
    hold = -constants.hold_hours * np.log(_uniform(constants.seed, slot, index, HOLD))
    idle = -constants.idle_hours * np.log(_uniform(constants.seed, slot, index, IDLE))
    occupied = _uniform(constants.seed, slots, np.zeros_like(slots), START) < _occupancy(constants)
    idle[occupied, 0] = 0.0
    start = np.cumsum(idle, axis=1) + np.cumsum(hold, axis=1) - hold
    if start[:, -1].min() <= hours:
        raise RuntimeError("the count of positions a slot is too small for the hours asked for")
    enter = np.ceil(start).astype(np.int64)
    leave = np.maximum(np.ceil(start + hold).astype(np.int64), enter + 1)
    for k in range(1, count):  # rounding to whole hours may let a short stay reach into the next: that one waits
        enter[:, k] = np.maximum(enter[:, k], leave[:, k - 1])
        leave[:, k] = np.maximum(leave[:, k], enter[:, k] + 1)
    within = enter < hours
    return slot[within], index[within], enter[within], leave[within]


def _uniform(
    seed: int, slot: npt.NDArray[np.int64], index: npt.NDArray[np.int64], field: int
) -> npt.NDArray[np.float64]:
    """Uniform on (0, 1): the finaliser of SplitMix64 (Steele, Lea & Flood 2014) over nested counters."""
    with np.errstate(over="ignore"):
        state = _mix(np.uint64(seed) + GOLDEN)
        state = _mix(state + slot.astype(np.uint64) * GOLDEN)
        state = _mix(state + (index.astype(np.uint64) * np.uint64(FIELDS) + np.uint64(field + 1)) * GOLDEN)
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(z: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
