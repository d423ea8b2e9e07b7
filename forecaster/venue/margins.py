"""Margins in force over a path: what a policy hands to the venue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from features.errors import UsageError

__all__ = ["Margins"]

PPM: Final = 1_000_000
Variant = Literal["now", "notice", "grandfathered"]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Margins:
    """Arrays over the bars of a path, parts per million of notional, in force from each bar's open.

    ``im`` binds new positions; ``mm`` is published and binds new positions; ``allowed`` is A(t), how far rises
    of ``mm`` have matured for open positions: mm_i(t) = min(mm(t), max(mm_i(t-1), A(t))). ``penalty`` is the
    liquidation penalty. Raises UsageError unless ``0 < penalty < mm < im <= 1e6`` and ``0 <= allowed <= mm``.
    """

    im: Integers
    mm: Integers
    allowed: Integers
    penalty: Integers

    def __post_init__(self) -> None:
        for name in ("im", "mm", "allowed", "penalty"):
            array = getattr(self, name)
            if array.dtype != np.int64 or array.shape != self.im.shape or array.ndim != 1:
                raise UsageError(f"margins.{name}: must be int64 of shape (T,), as im is; got {array.dtype}")
        lawful = (self.penalty > 0) & (self.penalty < self.mm) & (self.mm < self.im) & (self.im <= PPM)
        lawful &= (self.allowed >= 0) & (self.allowed <= self.mm)
        if not lawful.all():
            bar = int(np.argmin(lawful))
            raise UsageError(
                f"margins of bar {bar}: im {self.im[bar]}, mm {self.mm[bar]}, allowed {self.allowed[bar]}, penalty "
                f"{self.penalty[bar]} ppm break 0 < penalty < mm < im <= 1e6 or 0 <= allowed <= mm"
            )

    def __len__(self) -> int:
        return len(self.im)

    def __getitem__(self, part: slice) -> Margins:
        """The margins over some of the bars."""
        return Margins(self.im[part], self.mm[part], self.allowed[part], self.penalty[part])

    @classmethod
    def constant(cls, im: float, bars: int, mm_share: float = 0.5, penalty: float = 0.0025) -> Margins:
        """One initial margin (a fraction) for all bars, and a maintenance margin that is a share of it."""
        ppm = [round(value * PPM) for value in (im, im * mm_share, im * mm_share, penalty)]
        return cls(*(np.full(bars, value, np.int64) for value in ppm))

    @classmethod
    def published(
        cls,
        im: Integers,
        mm: Integers,
        penalty: Integers,
        hours: Integers,
        notice: npt.NDArray[np.float64],
        ramp: npt.NDArray[np.float64],
        variant: Variant = "notice",
    ) -> Margins:
        """Margins whose rises of ``mm`` reach open positions by notice and ramp.

        ``hours`` (T,) is each bar's open in hours, ``notice`` and ``ramp`` (T,) the hours that a rise published
        there carries. ``now`` waives them, ``grandfathered`` makes the notice infinite.
        """
        if variant not in ("now", "notice", "grandfathered"):
            raise UsageError(f"variant {variant!r} is none of now, notice, grandfathered")
        wait = {"now": np.zeros(len(mm)), "notice": notice, "grandfathered": np.full(len(mm), np.inf)}[variant]
        length = np.zeros(len(mm)) if variant == "now" else ramp
        return cls(im, mm, _allowed(mm, hours, wait, length), penalty)


def _allowed(mm: Integers, hours: Integers, notice: npt.NDArray[np.float64], ramp: npt.NDArray[np.float64]) -> Integers:
    """A(t) = m(t) - sum of pending rises; a fall cancels the youngest of those that do not bind yet. Rounded down."""
    pending: list[tuple[float, float, float]] = []  # size, instant at which the ramp begins, its length
    allowed = mm.copy()
    for t in range(1, len(mm)):
        change = float(mm[t] - mm[t - 1])
        pending = [rise for rise in pending if _share_left(hours[t], *rise[1:]) > 0]
        if change > 0:
            pending.append((change, hours[t] + notice[t], ramp[t]))
        while change < 0 and pending:
            size, begin, length = pending.pop()
            change += size
            if change > 0:
                pending.append((change, begin, length))
        left = [size * _share_left(hours[t], begin, length) for size, begin, length in pending]
        allowed[t] = int(np.floor(mm[t] - sum(left)))
    return allowed


def _share_left(t: float, begin: float, length: float) -> float:
    if t < begin:
        return 1.0
    return max(0.0, 1 - (t - begin) / length) if length > 0 else 0.0
