"""The governor: bounded, atomic, never a loosening netted against a tightening; and equal to a plain twin."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.policy import Params, governor
from forecaster.policy.breakers import BREAKERS
from forecaster.policy.governor import BOUNDS, DAY, FLAGS, FREE
from forecaster.policy.modes import rules
from forecaster.policy.types import HOUR, MODES, REASONS, Mode, Vector

from .conftest import DESIGNED

PARAMS = Params.default().overlaid(DESIGNED, "designed")
RULES = rules(PARAMS)
MACHINE = [mode for mode in Mode if mode is not Mode.OVERRIDE]


def vector(im: int, mm: int, penalty: int = 3000, haircut: int = 5000) -> Vector:
    return Vector((im, im + 1000, mm, mm + 500, penalty, haircut))


def follow(
    now: Vector,
    target: Vector,
    mode: Mode = Mode.NORMAL,
    day: int | None = None,
    five_days: int | None = None,
    since_rise: float = 1e9,
    hours: float = 1.0,
    may_loosen: bool = True,
) -> tuple[Vector, set[str], tuple[str, int] | None]:
    """The compiled step: vector, reasons, and the bound met with the place of its part."""
    parts, flags, bound, part = governor.follow(
        np.array(now.parts),
        np.array(target.parts),
        MODES.index(mode),
        float(hours),
        float(since_rise),
        now.im[0] if day is None else day,
        now.im[0] if five_days is None else five_days,
        may_loosen,
        RULES,
    )
    reasons = {name for place, name in enumerate(FLAGS) if flags >> place & 1}
    return Vector(tuple(parts.tolist())), reasons, None if bound == FREE else (BOUNDS[bound][0], part)


def lawful(candidate: Vector) -> bool:
    """The invariants, said once more."""
    im, mm, penalty = candidate.im, candidate.mm, candidate.penalty
    gap = PARAMS.clamp_gap * 1e6
    return (
        0 < penalty < mm[0]
        and penalty <= PARAMS.penalty.share_of_mm * mm[0]
        and im[-1] <= 1_000_000
        and all(m < i and i - m >= gap for i, m in zip(im, mm, strict=True))
        and all(a <= b for a, b in (*pairwise(im), *pairwise(mm)))
        and 0 <= candidate.haircut <= 1_000_000
    )


def test_codes_are_those_of_the_package() -> None:
    names = ("CALM", "NORMAL", "COOLDOWN", "STRESS", "CRISIS", "FAILSAFE", "OVERRIDE")
    assert [mode.name for mode in MODES] == list(names)
    assert [getattr(governor, name) for name in names] == list(range(7))
    assert {*FLAGS, *BREAKERS} <= set(REASONS)
    assert governor.HOUR == HOUR


def test_a_small_difference_is_held() -> None:
    now = vector(100_000, 50_000)
    assert follow(now, vector(109_000, 54_000)) == (now, {"DEADBAND_HOLD"}, None)
    assert follow(now, now) == (now, set(), None)


def test_a_rise_goes_as_far_as_its_cap_and_all_parts_go_together() -> None:
    now = vector(100_000, 50_000)
    moved, reasons, bound = follow(now, vector(200_000, 100_000))
    assert moved.im[0] == pytest.approx(110_000, abs=150)  # the second tier, 1 % dearer, binds first
    share = (moved.im[0] - 100_000) / 100_000
    assert moved.mm[0] == pytest.approx(50_000 + share * 50_000, abs=1)
    assert reasons == {"STEP_CAP"}
    assert bound is not None
    assert bound[0] == "step_up"


def test_a_calm_rise_waits_eight_hours_for_the_next() -> None:
    now, target = vector(100_000, 50_000), vector(200_000, 100_000)
    assert follow(now, target, since_rise=7) == (now, {"STEP_CAP"}, ("step_hours", 0))
    assert follow(now, target, since_rise=8)[0] != now
    assert follow(now, target, Mode.STRESS, since_rise=1)[0] != now


def test_the_day_limit_counts_from_the_minimum() -> None:
    now, target = vector(190_000, 90_000), vector(400_000, 190_000)
    moved, _, bound = follow(now, target, Mode.STRESS, 100_000, 100_000, 1)
    assert moved.im[0] == pytest.approx(200_000, abs=1)
    assert bound == ("rise_1d", 0)
    full = vector(200_000, 90_000)
    assert follow(full, target, Mode.STRESS, 100_000, 100_000, 1) == (full, {"STEP_CAP"}, ("rise_1d", 0))


def test_five_days_allow_twice_more() -> None:
    moved, _, bound = follow(vector(290_000, 90_000), vector(600_000, 290_000), Mode.STRESS, 200_000, 100_000, 1)
    assert moved.im[0] == pytest.approx(300_000, abs=1)
    assert bound == ("rise_5d", 0)


def test_a_fall_takes_half_the_way_in_its_half_life() -> None:
    moved, reasons, _ = follow(vector(200_000, 100_000), vector(100_000, 50_000), hours=24)
    assert (moved.im[0], moved.mm[0]) == (150_000, 75_000)
    assert reasons == {"DECAY"}


@pytest.mark.parametrize(
    ("mode", "may"), [(Mode.CRISIS, True), (Mode.FAILSAFE, True), (Mode.CALM, False), (Mode.STRESS, False)]
)
def test_no_fall_in_trouble_nor_on_doubtful_data(mode: Mode, may: bool) -> None:
    now = vector(200_000, 100_000)
    assert follow(now, vector(100_000, 50_000), mode, may_loosen=may)[0] == now


def test_a_rise_of_one_part_keeps_the_others_from_falling() -> None:
    assert follow(vector(200_000, 50_000), vector(150_000, 60_000), Mode.STRESS)[0] == vector(200_000, 60_000)


def test_an_unlawful_result_keeps_the_last_vector() -> None:
    now, target, reasons = vector(100_000, 50_000), vector(100_000, 99_990), set[str]()
    for _ in range(20):
        moved, reasons, _ = follow(now, target, Mode.CRISIS)
        if "INVARIANT_HOLD" in reasons:
            assert moved == now
            break
        now = moved
    assert reasons == {"INVARIANT_HOLD"}
    assert lawful(now)


@st.composite
def lawful_vectors(draw: st.DrawFn) -> Vector:
    im = sorted(draw(st.lists(st.integers(10_000, 1_000_000), min_size=3, max_size=3)))
    mm, least = [], 4_000
    for margin in im:
        least = draw(st.integers(least, max(least, margin - 1250)))
        mm.append(min(least, margin - 1250))
    penalty = draw(st.integers(1, int(0.8 * mm[0])))
    return Vector((*im, *mm, penalty, draw(st.integers(0, 10_000))))


def plain_follow(
    now: Vector, target: Vector, mode: Mode, day: int, five_days: int, since_rise: float, hours: float
) -> Vector:
    """The step in plain words: every component's room first, then the least of them."""
    limits = PARAMS.by_mode[mode]
    pairs = list(zip(now.parts, target.parts, strict=True))
    if any(goal > then * (1 + limits.dead_band) for then, goal in pairs):
        if since_rise < limits.step_hours:
            return now
        goals = [max(pair) for pair in pairs]
        caps = [(k, floor(then * (1 + limits.step_up) + 1e-6)) for k, then in enumerate(now.parts)]
        rise = min(limits.day_rise, PARAMS.limits.day_rise)
        caps.append((0, floor(day * (1 + rise) + 1e-6)))
        caps.append((0, floor(five_days * (1 + PARAMS.limits.five_day_rise) + 1e-6)))
        open_caps = [(k, cap) for k, cap in caps if goals[k] > max(cap, now.parts[k])]
        rooms = [max(0.0, (cap - now.parts[k]) / (goals[k] - now.parts[k])) for k, cap in open_caps]
        share = min(rooms, default=1.0)
    elif limits.half_life_hours and any(goal < then * (1 - limits.dead_band) for then, goal in pairs):
        goals, share = [min(pair) for pair in pairs], 1 - 0.5 ** (hours / limits.half_life_hours)
    else:
        return now
    moved = [then + share * (goal - then) for then, goal in zip(now.parts, goals, strict=True)]
    parts = [ceil(x - 1e-6) for x in moved]
    parts[-2] = floor(moved[-2] + 1e-6)
    return Vector(tuple(parts)) if lawful(Vector(tuple(parts))) else now


@settings(deadline=None)
@given(
    path=st.lists(lawful_vectors(), min_size=2, max_size=30),
    modes=st.lists(st.sampled_from(MACHINE), min_size=30, max_size=30),
    hours=st.lists(st.integers(1, 30), min_size=30, max_size=30),
)
def test_any_path_of_lawful_targets_stays_lawful_and_slow(path: Any, modes: Any, hours: Any) -> None:
    current, as_of, risen = path[0], 0, -(10**18)
    lines = [(0, current.im[0])]
    for target, mode, gap in zip(path[1:], modes, hours, strict=False):
        as_of += gap * HOUR
        # In force within the past day: every line that had not been replaced before it began.
        ends = [t for t, _ in lines[1:]] + [as_of]
        day, five_days = (
            min(im for (_, im), end in zip(lines, ends, strict=True) if end >= as_of - span) for span in (DAY, 5 * DAY)
        )
        instants = np.array([*(t for t, _ in lines), as_of])
        margins = np.array([*(im for _, im in lines), 1])
        assert governor.window_minima(instants, margins, DAY)[-1] == day
        assert governor.window_minima(instants, margins, 5 * DAY)[-1] == five_days
        since_rise = (as_of - risen) / HOUR
        moved, _, _ = follow(current, target, mode, day, five_days, since_rise, gap)
        assert moved == plain_follow(current, target, mode, day, five_days, since_rise, gap)
        assert lawful(moved)
        if moved.im[0] > current.im[0]:
            assert moved.im[0] <= 2 * day
            assert moved.im[0] <= 3 * five_days
        limits = PARAMS.by_mode[mode]
        for now, then, goal in zip(moved.parts, current.parts, target.parts, strict=True):
            assert now <= then * (1 + limits.step_up) + 1e-6
            assert min(then, goal) <= now <= max(then, goal)
        changes = [now - then for now, then in zip(moved.parts, current.parts, strict=True)]
        assert min(changes) >= 0 or max(changes) <= 0
        risen = as_of if max(changes) > 0 else risen
        current = moved
        lines.append((as_of, current.im[0]))


@settings(deadline=None)
@given(now=lawful_vectors(), low=lawful_vectors(), raised=lawful_vectors(), mode=st.sampled_from(MACHINE))
def test_what_one_part_would_loosen_never_holds_back_what_another_tightens(
    now: Any, low: Any, raised: Any, mode: Any
) -> None:
    """Lowering any target that lies below the vector changes nothing about a rise."""
    mixed = Vector(tuple(max(then, goal) for then, goal in zip(now.parts, raised.parts, strict=True)))
    lower = tuple(
        min(then, less) if goal <= then else goal
        for then, goal, less in zip(now.parts, mixed.parts, low.parts, strict=True)
    )
    if mixed != now and "DEADBAND_HOLD" not in follow(now, mixed, mode)[1]:
        assert follow(now, Vector(lower), mode)[0] == follow(now, mixed, mode)[0]
