"""The governor: how fast margins may move, and that they move together.

The whole vector takes one share of the way to its target, the largest for which no component breaks a limit.
Clamping one parameter alone has liquidated healthy positions elsewhere. Maxima, minima and convex
combinations keep every invariant of the vector, and so does rounding margins up and the penalty down.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor

from .params import ModeLimits, Params
from .types import HOUR, Vector

__all__ = ["Pace", "Step", "follow", "lawful", "window_minimum", "window_push"]

FIVE_DAYS = 5 * 24 * HOUR
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Pace:
    """Hours since the symbol's last line and last rise, and IM's minima (ppm) over the windows."""

    hours: float
    since_rise: float
    day_minimum: int
    five_day_minimum: int


@dataclass(frozen=True, slots=True)
class Step:
    """Where the vector went, and what held it back."""

    vector: Vector
    rose: bool = False
    reasons: tuple[str, ...] = ()
    bounds: tuple[tuple[str, str, str], ...] = ()


def follow(current: Vector, target: Vector, limits: ModeLimits, pace: Pace, may_loosen: bool, params: Params) -> Step:
    """One bounded step of the vector toward its target."""
    band = limits.dead_band
    pairs = list(zip(current.parts, target.parts, strict=True))
    if any(goal > now * (1 + band) for now, goal in pairs):
        step = _rise(current, [max(pair) for pair in pairs], limits, pace, params)
    elif may_loosen and limits.half_life_hours and any(goal < now * (1 - band) for now, goal in pairs):
        share = 1 - 0.5 ** (pace.hours / limits.half_life_hours)
        step = Step(_toward(current, [min(pair) for pair in pairs], share), reasons=("DECAY",))
    else:
        still = all(now == goal for now, goal in pairs)
        return Step(current, reasons=() if still else ("DEADBAND_HOLD",))
    return step if lawful(step.vector, params) else Step(current, reasons=("INVARIANT_HOLD",))


def _rise(current: Vector, goals: list[int], limits: ModeLimits, pace: Pace, params: Params) -> Step:
    if pace.since_rise < limits.step_hours:
        return Step(current, reasons=("STEP_CAP",), bounds=(("im_ppm", "step_hours", "high"),))
    day = min(limits.day_rise, params.limits.day_rise)
    caps = [("step_up", i, _grown(now, limits.step_up)) for i, now in enumerate(current.parts)]
    caps.append(("rise_1d", 0, _grown(pace.day_minimum, day)))
    caps.append(("rise_5d", 0, _grown(pace.five_day_minimum, params.limits.five_day_rise)))
    share, bound = 1.0, None
    for name, i, cap in caps:
        now, goal = current.parts[i], goals[i]
        if goal > max(cap, now) and (room := max(0.0, (cap - now) / (goal - now))) < share:
            share, bound = room, (_part(i, current.tiers), name, "high")
        elif goal > now >= cap:
            share, bound = 0.0, (_part(i, current.tiers), name, "high")
    vector = _toward(current, goals, share)
    held = (("STEP_CAP",), (bound,)) if bound else ((), ())
    return Step(vector, vector != current, *held)


def _toward(current: Vector, goals: list[int], share: float) -> Vector:
    """Part of the way; margins and haircut rounded up, the penalty down, none beyond its goal."""
    moved = [now + share * (goal - now) for now, goal in zip(current.parts, goals, strict=True)]
    parts = [ceil(x - 1e-6) for x in moved]
    parts[-2] = floor(moved[-2] + 1e-6)
    return Vector(tuple(parts))


def _grown(value: int, share: float) -> int:
    return floor(value * (1 + share) + 1e-6)


def _part(index: int, tiers: int) -> str:
    if index >= 2 * tiers:
        return ("liquidation_penalty_ppm", "haircut_ppm")[index - 2 * tiers]
    name = "im_ppm" if index < tiers else "mm_ppm"
    return name if index % tiers == 0 else f"tiers[{index % tiers}].{name}"


def lawful(vector: Vector, params: Params) -> bool:
    """0 < penalty < MM < IM <= 1, tiers rising, penalty share, funding clamp, haircut in [0, 1]."""
    im, mm, penalty = vector.im, vector.mm, vector.penalty
    gap = params.clamp_gap * 1e6
    return (
        0 < penalty < mm[0]
        and penalty <= params.penalty.share_of_mm * mm[0]
        and im[-1] <= 1_000_000
        and all(m < i and i - m >= gap for i, m in zip(im, mm, strict=True))
        and all(a <= b for a, b in pairwise(im))
        and all(a <= b for a, b in pairwise(mm))
        and 0 <= vector.haircut <= 1_000_000
    )


def window_push(window: tuple[tuple[int, int], ...], as_of: int, im: int) -> tuple[tuple[int, int], ...]:
    """Add a line's IM. Entries are (last instant in force, IM), rising in both: minima that still matter."""
    kept = [entry for entry in window_close(window, as_of) if entry[1] < im]
    return (*kept, (as_of, im))


def window_close(window: tuple[tuple[int, int], ...], as_of: int) -> list[tuple[int, int]]:
    """The window at ``as_of``: the newest line was in force until now; what ended five days ago is gone."""
    if not window:
        return []
    newest = (as_of, window[-1][1])
    return [entry for entry in (*window[:-1], newest) if entry[0] >= as_of - FIVE_DAYS]


def window_minimum(window: tuple[tuple[int, int], ...], as_of: int, span: int) -> int:
    """Least IM in force at any instant of the past ``span`` microseconds."""
    return min(im for last, im in window_close(window, as_of) if last >= as_of - span)
