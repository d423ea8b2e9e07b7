"""The notice ledger against worked examples."""

from __future__ import annotations

import pytest

from forecaster.policy import Params, position_mm
from forecaster.policy.notice import Published
from forecaster.policy.types import HOUR, Mode

PARAMS = Params.default()


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


def test_a_fall_below_binds_at_once_and_a_margin_once_reached_stays() -> None:
    lines = [line(0, 100), line(1, 80), line(2, 90)]
    assert position_mm(lines, 0, hours(0, 1, 2, 30), PARAMS) == pytest.approx([100, 80, 80, 90])
