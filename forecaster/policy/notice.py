"""The notice ledger: which maintenance margin binds a position that is already open.

A published maintenance margin binds new and increased positions at once. An open position follows each rise
only after the notice of the mode that published it, then along a ramp; a fall cancels the youngest pending
rises first. The schedule alone is the announcement, and anyone recomputes any position's margin from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from .params import Params
from .types import HOUR, MODES, Governed, Mode

__all__ = ["Published", "allowed_mm", "position_mm"]

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Published:
    """A line's maintenance margin (ppm), the instant at which it takes effect (microseconds), its mode."""

    at: int
    mm: int
    mode: Mode


def position_mm(lines: Sequence[Published], entry: int, times: Sequence[int], params: Params) -> list[float]:
    """Maintenance margin (ppm) binding a position opened at ``entry``, at each of the rising ``times``.

    ``mm_i(t) = min(m(t), max(mm_i(t-), A(t)))``, ``A(t) = m(t) - sum of pending rises``, ``mm_i(entry) =
    m(entry)``. ``lines`` ascend by ``at``; the first must not be later than ``entry``. The margin is exact at
    the instants of lines and of ``times``.
    """
    at = np.array([line.at for line in lines], dtype=np.int64)
    mm = np.array([line.mm for line in lines], dtype=np.int64)
    mode = np.array([MODES.index(line.mode) for line in lines])
    events = np.array(sorted({*at[at <= times[-1]].tolist(), entry, *times}), dtype=np.int64)
    allowed, published = _allowed(at, mm, *_delays(params, mode), events)
    binding, out = 0.0, {}
    for t, a, m in zip(events.tolist(), allowed.tolist(), published.tolist(), strict=True):
        binding = m if t <= entry else min(m, max(binding, a))
        out[t] = binding
    return [out[t] for t in times]


def allowed_mm(governed: Governed, symbol: str) -> Floats:
    """A(t) of a symbol at each of its lines' ``as_of`` (ppm): what open positions owe whatever their entry.

    With m(t) the maintenance margin in force, that of position i follows bar by bar as ``min(m(t), max(mm_i(t-1),
    A(t)))``: exact where lines take effect on the grid of the lines. Raises UsageError where the symbol is not
    governed.
    """
    lines = governed.of(symbol)
    at, mm, mode = governed.effective_at[lines], governed.mm[lines], governed.mode[lines]
    # A later line that takes effect earlier ends the wait of those before it.
    later = np.minimum.accumulate(np.append(at, np.iinfo(np.int64).max)[::-1])[::-1][1:]
    kept = np.flatnonzero(at < later)
    allowed, _ = _allowed(at[kept], mm[kept], *_delays(governed.params, mode[kept]), governed.as_of[lines])
    return np.asarray(allowed)


def _delays(params: Params, mode: Integers) -> tuple[Integers, Integers]:
    """Notice and ramp of each line in microseconds; an override gives open positions the longest notice."""
    limits = [params.by_mode[mode] if mode is not Mode.OVERRIDE else params.governor.normal for mode in MODES]
    notice = np.array([limit.notice_hours * HOUR for limit in limits], dtype=np.int64)
    ramp = np.array([limit.ramp_hours * HOUR for limit in limits], dtype=np.int64)
    return notice[mode], ramp[mode]


@njit(cache=True)
def _allowed(at: Integers, mm: Integers, notice: Integers, ramp: Integers, times: Integers) -> tuple[Floats, Floats]:
    """A(t) and m(t) at the rising ``times``, none before the first line, from the lines ascending by ``at``."""
    allowed, published = np.empty(len(times)), np.empty(len(times))
    rise, size = np.empty(len(at), dtype=np.int64), np.empty(len(at), dtype=np.int64)  # a stack, youngest on top
    bottom, top, line = 0, 0, 1
    for j in range(len(times)):
        t = times[j]
        while line < len(at) and at[line] <= t:
            change = mm[line] - mm[line - 1]
            if change > 0:
                rise[top], size[top] = line, change
                top += 1
            while change < 0 and top > bottom:
                youngest = rise[top - 1]
                if at[line] >= at[youngest] + notice[youngest] + ramp[youngest]:  # it binds already: nothing to cancel
                    top -= 1
                    continue
                cancelled = min(-change, size[top - 1])
                size[top - 1] -= cancelled
                change += cancelled
                if size[top - 1] == 0:
                    top -= 1
            line += 1
        while bottom < top and t >= at[rise[bottom]] + notice[rise[bottom]] + ramp[rise[bottom]]:
            bottom += 1
        pending = 0.0
        for k in range(bottom, top):
            waited = t - at[rise[k]] - notice[rise[k]]
            if waited < ramp[rise[k]]:
                pending += size[k] * (1 - max(0.0, waited / ramp[rise[k]])) if waited > 0 else size[k]
        published[j] = mm[line - 1]
        allowed[j] = mm[line - 1] - pending
    return allowed, published
