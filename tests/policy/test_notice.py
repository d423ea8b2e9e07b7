"""The notice ledger against worked examples."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecaster.policy import Params, position_mm
from forecaster.policy.decide import govern
from forecaster.policy.inputs import read
from forecaster.policy.notice import Published, allowed_mm
from forecaster.policy.types import HOUR, MODES, Mode

from .conftest import DESIGNED

PARAMS = Params.default().overlaid(DESIGNED, "designed")


def hours(*values: int) -> list[int]:
    return [value * HOUR for value in values]


def line(hour: int, mm: int, mode: Mode = Mode.NORMAL) -> Published:
    return Published(hour * HOUR, mm, mode)


def test_an_open_position_follows_after_notice_along_the_ramp() -> None:
    lines = [line(0, 100), line(10, 160)]
    found = position_mm(lines, 0, hours(9, 10, 18, 21, 24, 30, 40), PARAMS)
    assert found == pytest.approx([100, 100, 100, 115, 130, 160, 160])  # 8 h of notice, 12 h of ramp


def test_a_new_position_is_bound_at_once() -> None:
    assert position_mm([line(0, 100), line(10, 160)], 10 * HOUR, hours(10, 11), PARAMS) == [160, 160]


def test_stress_is_quicker() -> None:
    found = position_mm([line(0, 100), line(10, 160, Mode.STRESS)], 0, hours(11, 13, 15), PARAMS)
    assert found == pytest.approx([100, 130, 160])


def test_a_fall_cancels_the_youngest_rise_first() -> None:
    lines = [line(0, 100), line(1, 130), line(2, 150), line(3, 120)]
    # The fall of 30 cancels the rise of 20 and a third of that of 30: 20 of it remain pending from hour 1 on.
    found = position_mm(lines, 0, hours(3, 9, 15, 21), PARAMS)
    assert found == pytest.approx([100, 100, 110, 120])


def test_a_fall_cancels_nothing_that_binds_already() -> None:
    lines = [line(0, 1000), line(10, 1100), line(12, 1150, Mode.CRISIS), line(14, 1090)]
    # The crisis rise of 50 is through by 13: the fall of 60 takes from the normal rise of 100, which leaves 40 pending.
    assert position_mm(lines, 0, hours(24, 28), PARAMS) == pytest.approx([1070, 1090 - 40 / 6])


def test_a_fall_below_binds_at_once_and_a_margin_once_reached_stays() -> None:
    lines = [line(0, 100), line(1, 80), line(2, 90)]
    assert position_mm(lines, 0, hours(0, 1, 2, 30), PARAMS) == pytest.approx([100, 80, 80, 90])


def plain_allowed(lines: list[Published], t: int) -> float:
    """A(t) by the definition: every rise so far, falls taken from the youngest that does not bind in full yet."""
    rises: list[list[float]] = []
    published = lines[0].mm
    for before, now in pairwise(lines):
        if now.at > t:
            break
        left, published = before.mm - now.mm, now.mm
        if left < 0:
            limits = PARAMS.by_mode[now.mode]
            rises.append([-left, now.at + limits.notice_hours * HOUR, limits.ramp_hours * HOUR])
        for rise in reversed(rises):
            pending = now.at < rise[1] + rise[2]
            taken = min(max(left, 0), rise[0]) if pending else 0
            rise[0] -= taken
            left -= taken
    pending = sum(size * (1 - min(1.0, max(0.0, (t - start) / ramp))) for size, start, ramp in rises)
    return published - pending


@settings(deadline=None)
@given(
    margins=st.lists(st.integers(50, 500), min_size=2, max_size=40),
    gaps=st.lists(st.integers(1, 9), min_size=40, max_size=40),
    modes=st.lists(st.sampled_from([mode for mode in Mode if mode is not Mode.OVERRIDE]), min_size=40, max_size=40),
    entry=st.integers(0, 60),
)
def test_a_position_follows_the_definition(margins: Any, gaps: Any, modes: Any, entry: int) -> None:
    at = np.cumsum([0, *gaps]).tolist()
    lines = [line(hour, mm, mode) for hour, mm, mode in zip(at, margins, modes, strict=False)]
    end = at[len(lines)] + 30
    found = position_mm(lines, entry * HOUR, hours(*range(entry, max(end, entry + 1))), PARAMS)
    binding = float("inf")
    for hour, value in zip(range(entry, end), found, strict=False):
        published = next(x.mm for x in reversed(lines) if x.at <= hour * HOUR)
        allowed = plain_allowed(lines, hour * HOUR)
        binding = published if hour == entry else min(published, max(binding, allowed))
        assert value == pytest.approx(binding)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.floats(-1.5, 1.5), min_size=12, max_size=12),
    stressed=st.lists(st.booleans(), min_size=12, max_size=12),
    entry=st.integers(0, 100),
)
def test_the_venues_recursion_on_the_hourly_grid_is_the_ledger(rows_of: Any, steps: Any, stressed: Any, entry: int):
    sigma = np.repeat(0.006 * np.exp(steps), 12)
    origins = pd.date_range("2024-03-01", periods=len(sigma), freq="h", tz="UTC").as_unit("us")
    frame = rows_of("BTCUSDT", origins, sigma)
    frame["obs_sigma_median"] = np.where(np.repeat(np.repeat(stressed, 12), 3), 1e-9, np.nan)
    governed = govern(read(frame, PARAMS), PARAMS)
    times = governed.as_of.tolist()
    in_force: list[Published] = []
    newest = 0  # the newest line effective by each hour
    for t in times:
        newest = max(at for at, effective in enumerate(governed.effective_at.tolist()) if effective <= t)
        mm, mode = int(governed.mm[newest]), MODES[governed.mode[newest]]
        if not in_force or in_force[-1].mm != mm:
            in_force.append(Published(t, mm, mode))
    wanted = position_mm(in_force, times[entry], times[entry:], PARAMS)
    allowed = allowed_mm(governed, "BTCUSDT")
    published = [next(x.mm for x in reversed(in_force) if x.at <= t) for t in times]
    binding, found = float(published[entry]), []
    for at in range(entry, len(times)):
        binding = min(published[at], max(binding, allowed[at])) if at > entry else binding
        found.append(binding)
    assert found == pytest.approx(wanted)
