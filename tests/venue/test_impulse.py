from __future__ import annotations

import math

import numpy as np
import pytest

from features.errors import UsageError
from forecaster.policy import Params
from forecaster.venue.impulse import Experiment, impulse, margins_under, measure

WHOLE = {"sigma": 0.006, "step": 3.0, "hours": 240, "warm_up": 400 * 24, "forecasts": 40 * 24, "after": 480}
EXPERIMENT = Experiment(**WHOLE, half_life=0, daily_volume_usd=1e9, seed=3)  # type: ignore[arg-type]
START, END = EXPERIMENT.forecasts, EXPERIMENT.forecasts + EXPERIMENT.hours


@pytest.fixture(scope="module")
def margins() -> dict[str, np.ndarray]:
    return margins_under(EXPERIMENT, Params.default())


def test_a_response_by_hand() -> None:
    quiet, climb, fall = np.full(5, 0.1), [0.15, 0.19, 0.24, 0.2, 0.2], [0.2, 0.12, 0.105, 0.1]
    response = measure(np.concatenate([quiet, climb, fall]), 5, 5)
    assert (response.before, response.settled, response.peak) == (0.1, 0.2, 0.24)
    assert response.overshoot == pytest.approx(0.2)
    assert (response.hours_to_90, response.hours_to_return) == (1.0, 2.0)
    stuck = measure(np.concatenate([quiet, np.full(9, 0.2)]), 5, 5)
    assert stuck.hours_to_90 == 0.0
    assert math.isnan(stuck.hours_to_return)
    flat = measure(np.full(14, 0.1), 5, 5)
    assert math.isnan(flat.hours_to_90)
    assert math.isnan(flat.hours_to_return)


def test_a_target_that_knows_the_volatility_answers_at_once_and_the_governor_later(
    margins: dict[str, np.ndarray],
) -> None:
    found = impulse(EXPERIMENT, Params.default())
    assert found["targets"].hours_to_90 == 0
    assert 0 < found["governed"].hours_to_90 < found["fhs"].hours_to_90 < found["ewma"].hours_to_90
    assert found["governed"].hours_to_return > found["targets"].hours_to_return
    assert found["governed"].overshoot < 0.01


def test_the_governed_margin_keeps_its_limits_and_its_half_life(margins: dict[str, np.ndarray]) -> None:
    im, limits = margins["governed"], Params.default().limits
    least = np.array([im[max(0, t - 24) : t + 1].min() for t in range(len(im))])
    assert (im <= least * (1 + limits.day_rise) + 2e-6).all()
    assert (margins["targets"] * 0.9 <= im * 1.0000001 + 2e-6)[: START - 1].all()  # calm: within the dead-band
    gap = (im - margins["targets"])[END:]
    falling = np.flatnonzero(np.diff(im[END:]) < 0)
    begun = int(falling[0])
    ratio = gap[begun + Params.default().governor.normal.half_life_hours] / gap[begun]
    assert ratio == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("rule", "half_life"), [("fhs", 48), ("ewma", 120)])
def test_scaled_margins_follow_the_exponential_average(
    rule: str, half_life: int, margins: dict[str, np.ndarray]
) -> None:
    im, k = margins[rule], EXPERIMENT.step
    for hours in (12, 20):  # before excursions of the step are resolved the quantile stays what it was
        expected = math.sqrt(1 + (k**2 - 1) * (1 - 0.5 ** (hours / half_life)))
        assert im[START + hours - 1] / im[START - 1] == pytest.approx(expected, rel=0.03)


def test_a_forecaster_that_learns_is_later(margins: dict[str, np.ndarray]) -> None:
    slow = Experiment(**WHOLE, half_life=24, daily_volume_usd=1e9, seed=3)  # type: ignore[arg-type]
    learnt = impulse(slow, Params.default())
    assert learnt["targets"].hours_to_90 > 24
    again = margins_under(slow, Params.default())
    for rule in ("fhs", "ewma", "static"):  # they see the bars alone
        np.testing.assert_array_equal(again[rule], margins[rule])


def test_impossible_experiments_are_refused() -> None:
    with pytest.raises(UsageError, match="step > 1"):
        Experiment(0.01, 1.0, 24, 100, 50, 24, 0, 1e9, 1)
    with pytest.raises(UsageError, match="warm-up of 100"):
        Experiment(0.01, 2.0, 24, 100, 100, 24, 0, 1e9, 1)
