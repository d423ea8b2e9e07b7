"""The notice ledger: which maintenance margin binds a position that is already open.

A published maintenance margin binds new and increased positions at once. An open position follows each rise
only after the notice of the mode that published it, then along a ramp; a fall cancels the youngest pending
rises first. The schedule alone is the announcement, and anyone recomputes any position's margin from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .params import Params
from .types import HOUR, Mode

__all__ = ["Published", "position_mm"]


@dataclass(frozen=True, slots=True)
class Published:
    """A line's maintenance margin (ppm), the instant at which it takes effect (microseconds), its mode."""

    at: int
    mm: int
    mode: Mode


@dataclass
class _Rise:
    at: int
    size: float
    notice: float
    ramp: float

    def pending(self, t: int) -> float:
        done = (t - self.at - self.notice) / self.ramp if self.ramp else float(t >= self.at + self.notice)
        return self.size * (1 - min(1.0, max(0.0, done)))


def position_mm(lines: Sequence[Published], entry: int, times: Sequence[int], params: Params) -> list[float]:
    """Maintenance margin (ppm) binding a position opened at ``entry``, at each of the rising ``times``.

    ``mm_i(t) = min(m(t), max(mm_i(t-), A(t)))``, ``A(t) = m(t) - sum of pending rises``, ``mm_i(entry) =
    m(entry)``. ``lines`` ascend by ``at``; the first must not be later than ``entry``. The margin is exact at
    the instants of lines and of ``times``.
    """
    rises: list[_Rise] = []
    published, binding, head = lines[0].mm, 0.0, 0
    out = []
    events = sorted({*(line.at for line in lines if line.at <= times[-1]), entry, *times})
    wanted = set(times)
    for t in events:
        while head < len(lines) and lines[head].at <= t:
            _publish(rises, lines[head], lines[head].mm - published, params)
            published = lines[head].mm
            head += 1
        allowed = published - sum(rise.pending(t) for rise in rises)
        binding = published if t <= entry else min(published, max(binding, allowed))
        if t in wanted:
            out.append(float(binding))
    return out


def _publish(rises: list[_Rise], line: Published, change: int, params: Params) -> None:
    limits = params.by_mode[line.mode]
    if change > 0:
        rises.append(_Rise(line.at, float(change), limits.notice_hours * HOUR, limits.ramp_hours * HOUR))
        return
    fall = float(-change)
    while rises and fall > 0:
        cancelled = min(fall, rises[-1].size)
        rises[-1].size -= cancelled
        fall -= cancelled
        if rises[-1].size <= 0:
            rises.pop()
