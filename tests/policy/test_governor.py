"""The governor: bounded, atomic, never a loosening netted against a tightening."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.policy import Params
from forecaster.policy.governor import DAY, Pace, follow, lawful, window_minimum, window_push
from forecaster.policy.types import HOUR, Mode, Vector

PARAMS = Params.default()
CALM = PARAMS.by_mode[Mode.NORMAL]
STRESS = PARAMS.by_mode[Mode.STRESS]
CRISIS = PARAMS.by_mode[Mode.CRISIS]


def vector(im: int, mm: int, penalty: int = 3000, haircut: int = 5000) -> Vector:
    return Vector((im, im + 1000, mm, mm + 500, penalty, haircut))


def pace(im: int, since_rise: float = 1e9, hours: float = 1.0) -> Pace:
    return Pace(hours, since_rise, im, im)


def test_a_small_difference_is_held() -> None:
    now = vector(100_000, 50_000)
    step = follow(now, vector(109_000, 54_000), CALM, pace(100_000), True, PARAMS)
    assert (step.vector, step.reasons) == (now, ("DEADBAND_HOLD",))


def test_a_rise_goes_as_far_as_its_cap_and_all_parts_go_together() -> None:
    now = vector(100_000, 50_000)
    step = follow(now, vector(200_000, 100_000), CALM, pace(100_000), True, PARAMS)
    assert step.vector.im[0] == pytest.approx(110_000, abs=150)  # the second tier, 1 % dearer, binds first
    share = (step.vector.im[0] - 100_000) / 100_000
    assert step.vector.mm[0] == pytest.approx(50_000 + share * 50_000, abs=1)
    assert step.reasons == ("STEP_CAP",)
    assert step.bounds[0][1:] == ("step_up", "high")


def test_a_calm_rise_waits_eight_hours_for_the_next() -> None:
    now, target = vector(100_000, 50_000), vector(200_000, 100_000)
    assert follow(now, target, CALM, pace(100_000, since_rise=7), True, PARAMS).vector == now
    assert follow(now, target, CALM, pace(100_000, since_rise=8), True, PARAMS).vector != now
    assert follow(now, target, STRESS, pace(100_000, since_rise=1), True, PARAMS).vector != now


def test_the_day_limit_counts_from_the_minimum() -> None:
    now, target = vector(190_000, 90_000), vector(400_000, 190_000)
    step = follow(now, target, STRESS, Pace(1, 1, 100_000, 100_000), True, PARAMS)
    assert step.vector.im[0] == pytest.approx(200_000, abs=1)
    assert step.bounds == (("im_ppm", "rise_1d", "high"),)
    full = follow(vector(200_000, 90_000), target, STRESS, Pace(1, 1, 100_000, 100_000), True, PARAMS)
    assert full.vector == vector(200_000, 90_000)
    assert full.bounds == (("im_ppm", "rise_1d", "high"),)


def test_five_days_allow_twice_more() -> None:
    step = follow(vector(290_000, 90_000), vector(600_000, 290_000), STRESS, Pace(1, 1, 200_000, 100_000), True, PARAMS)
    assert step.vector.im[0] == pytest.approx(300_000, abs=1)
    assert step.bounds == (("im_ppm", "rise_5d", "high"),)


def test_a_fall_takes_half_the_way_in_its_half_life() -> None:
    step = follow(vector(200_000, 100_000), vector(100_000, 50_000), CALM, pace(200_000, hours=48), True, PARAMS)
    assert (step.vector.im[0], step.vector.mm[0]) == (150_000, 75_000)
    assert step.reasons == ("DECAY",)


@pytest.mark.parametrize(("limits", "may"), [(STRESS, True), (CALM, False)])
def test_no_fall_in_stress_nor_on_doubtful_data(limits, may) -> None:
    now = vector(200_000, 100_000)
    assert follow(now, vector(100_000, 50_000), limits, pace(200_000), may, PARAMS).vector == now


def test_a_rise_of_one_part_keeps_the_others_from_falling() -> None:
    now = vector(200_000, 50_000)
    step = follow(now, vector(150_000, 60_000), STRESS, pace(200_000), True, PARAMS)
    assert step.vector == vector(200_000, 60_000)


def test_an_unlawful_result_keeps_the_last_vector() -> None:
    now = vector(100_000, 50_000)
    step = follow(now, vector(100_000, 99_990), CRISIS, pace(100_000), True, PARAMS)
    for _ in range(20):
        if "INVARIANT_HOLD" in step.reasons:
            break
        now = step.vector
        step = follow(now, vector(100_000, 99_990), CRISIS, pace(100_000), True, PARAMS)
    assert step.reasons == ("INVARIANT_HOLD",)
    assert step.vector == now
    assert lawful(now, PARAMS)


@st.composite
def lawful_vectors(draw: st.DrawFn) -> Vector:
    im = sorted(draw(st.lists(st.integers(10_000, 1_000_000), min_size=3, max_size=3)))
    mm, least = [], 4_000
    for margin in im:
        least = draw(st.integers(least, max(least, margin - 1250)))
        mm.append(min(least, margin - 1250))
    penalty = draw(st.integers(1, int(0.8 * mm[0])))
    return Vector((*im, *mm, penalty, draw(st.integers(0, 10_000))))


@given(
    path=st.lists(lawful_vectors(), min_size=2, max_size=30),
    modes=st.lists(st.sampled_from(list(Mode)), min_size=30, max_size=30),
    hours=st.lists(st.integers(1, 30), min_size=30, max_size=30),
)
def test_any_path_of_lawful_targets_stays_lawful_and_slow(path, modes, hours) -> None:
    current, as_of, risen = path[0], 0, -(10**18)
    lines = [(0, current.im[0])]
    window = window_push((), 0, current.im[0])
    for target, mode, gap in zip(path[1:], modes, hours, strict=False):
        as_of += gap * HOUR
        # In force within the past day: every line that had not been replaced before it began.
        ends = [t for t, _ in lines[1:]] + [as_of]
        minima = [
            min(im for (_, im), end in zip(lines, ends, strict=True) if end >= as_of - span) for span in (DAY, 5 * DAY)
        ]
        assert [window_minimum(window, as_of, span) for span in (DAY, 5 * DAY)] == minima
        limits = PARAMS.by_mode[mode]
        step = follow(current, target, limits, Pace(gap, (as_of - risen) / HOUR, *minima), True, PARAMS)
        assert lawful(step.vector, PARAMS)
        if step.vector.im[0] > current.im[0]:
            assert step.vector.im[0] <= 2 * minima[0]
            assert step.vector.im[0] <= 3 * minima[1]
        for now, then, goal in zip(step.vector.parts, current.parts, target.parts, strict=True):
            assert now <= then * (1 + limits.step_up) + 1e-6
            assert min(then, goal) <= now <= max(then, goal)
        changes = [now - then for now, then in zip(step.vector.parts, current.parts, strict=True)]
        assert min(changes) >= 0 or max(changes) <= 0
        risen = as_of if step.rose else risen
        current = step.vector
        lines.append((as_of, current.im[0]))
        window = window_push(window, as_of, current.im[0])
