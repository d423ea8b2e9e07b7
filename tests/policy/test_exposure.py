"""The overlay: monotone, bounded, without flapping, and one step inside the multiplier never crosses the floor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.policy import Params, PolicyState, decide
from forecaster.policy.exposure import scale
from forecaster.policy.governor import next_exposure
from forecaster.policy.modes import rules

from .conftest import make_rows

GUARDED = {"target_vol": 0.6, "scale_min": 0.25, "scale_max": 1.5, "drawdown": 0.3, "multiplier": 5.0}
PARAMS = Params.default().overlaid({"exposure": GUARDED}, "test")
LIMITS = PARAMS.exposure
RULES = rules(PARAMS)
DEEP = 1e12
MORE = st.floats(1.0, 3.0)


def free_of_falls() -> Params:
    return PARAMS.overlaid({"exposure": {"multiplier": 0.0, "no_trade_band": 0.1}}, "test")


def at(sigma: float = 0.6, drawdown: float = 0.0, worst: float = 0.1, depth: float = DEEP) -> float:
    return float(scale(*(np.array([value]) for value in (sigma, np.nan, drawdown, worst, depth)), PARAMS)[0])


@given(
    sigma=st.floats(0.01, 5.0),
    drawdown=st.floats(0.0, 0.99),
    worst=st.floats(1e-3, 0.99),
    depth=st.floats(1e3, 1e9),
    more=MORE,
)
def test_more_risk_never_raises_exposure(
    sigma: float, drawdown: float, worst: float, depth: float, more: float
) -> None:
    base = at(sigma, drawdown, worst, depth)
    assert 0 <= base <= LIMITS.scale_max
    assert at(sigma * more, drawdown, worst, depth) <= base
    assert at(sigma, 1 - (1 - drawdown) / more, worst, depth) <= base
    assert at(sigma, drawdown, min(worst * more, 1.0), depth) <= base
    assert at(sigma, drawdown, worst, depth / more) <= base


def test_each_term_binds_alone() -> None:
    assert at() == 1.0
    assert at(sigma=0.1) == LIMITS.scale_max
    assert at(sigma=10.0) == LIMITS.scale_min
    # m = min(5, 1 / 0.25) = 4; 4 * (1 - 0.7 / 0.8) = 0.5
    assert at(drawdown=0.2, worst=0.25) == pytest.approx(0.5)
    assert at(drawdown=0.2, worst=0.01) == pytest.approx(5 * (1 - 0.7 / 0.8))
    assert at(drawdown=LIMITS.drawdown) == pytest.approx(0.0, abs=1e-12)
    assert at(drawdown=0.9) == 0.0
    assert at(depth=0.4 * LIMITS.reference_usd) == pytest.approx(0.4)


def test_unknown_inputs() -> None:
    assert at(depth=np.nan) == 1.0
    assert at(sigma=np.nan) == at(drawdown=np.nan) == at(worst=np.nan) == LIMITS.scale_min
    free = dataclasses.replace(PARAMS, exposure=dataclasses.replace(LIMITS, reference_usd=0.0))
    args = [np.array([value]) for value in (0.6, np.nan, 0.0, 0.1, 1.0)]
    assert scale(*args, free)[0] == 1.0


def test_without_a_target_the_symbol_s_own_usual_volatility_is_it_and_without_a_multiplier_no_fall_matters() -> None:
    own = Params.default()
    usual, sigma = np.array([0.8, 0.8, 0.8, np.nan]), np.array([0.4, 1.0, 4.0, 0.8])
    fallen, deep = np.full(4, 0.9), np.full(4, DEEP)
    found = scale(sigma, usual, fallen, np.full(4, 0.5), deep, own)
    assert found == pytest.approx([own.exposure.scale_max, 0.8, own.exposure.scale_min, own.exposure.scale_min])


@given(
    peak=st.floats(1.0, 1e6),
    drawdown=st.floats(0.0, 0.3),
    worst=st.floats(0.01, 0.9),
    share=st.floats(0.0, 1.0),
    sigma=st.floats(0.05, 3.0),
)
def test_a_step_within_its_worst_loss_never_crosses_the_floor(
    peak: float, drawdown: float, worst: float, share: float, sigma: float
) -> None:
    wealth, floor = (1 - drawdown) * peak, (1 - LIMITS.drawdown) * peak
    after = wealth * (1 - at(sigma, drawdown, worst) * share * worst)
    assert after >= floor * (1 - 1e-9)


def test_a_managed_account_keeps_its_floor_along_a_crash() -> None:
    rng = np.random.default_rng(11)
    worst, wealth, peak, lowest = 0.08, 1.0, 1.0, 1.0
    for _ in range(5_000):
        held = at(0.6, 1 - wealth / peak, worst)
        wealth *= 1 + held * float(np.clip(rng.normal(-0.001, 0.03), -worst, 0.2))
        peak = max(peak, wealth)
        lowest = min(lowest, wealth / peak)
    assert 1 - LIMITS.drawdown - 1e-9 <= lowest < 1 - 0.9 * LIMITS.drawdown


CAPS = st.sampled_from([500_000, 1_000_000, 1_500_000])


@given(target=st.integers(0, 1_500_000), held=st.integers(0, 1_500_000), cap=CAPS, grow=st.booleans())
def test_following_trades_outside_the_band_and_never_grows_in_trouble(
    target: int, held: int, cap: int, grow: bool
) -> None:
    after = next_exposure(held, target, cap, grow, RULES)
    wanted = min(target, cap)
    assert after in (min(held, cap), wanted)
    assert after <= cap
    if not grow:
        assert after <= held
    if abs(wanted - held) <= LIMITS.no_trade_band * held:
        assert after == min(held, cap)
    # Once there, it stays.
    assert next_exposure(after, target, cap, grow, RULES) == after


def test_the_mode_is_the_volatility_band() -> None:
    """Exposure above the stress cap is cut above the entry ratio, and given back after a quiet day below the release."""
    hours = pd.date_range("2024-03-01", periods=140, freq="h", tz="UTC").as_unit("us")
    sigma = np.full(140, 0.004)
    ratio = np.r_[np.full(20, 1.0), np.full(20, 1.6), np.full(40, 1.3), np.full(60, 1.2)]
    frame = make_rows("BTCUSDT", hours, sigma).assign(
        obs_sigma_median=np.repeat(sigma * np.sqrt(24) / ratio, 3), obs_daily_volume_usd=1e10
    )
    exposure = [line.exposure for line in decide(frame, PolicyState.initial(), free_of_falls())[0]]
    free, cap = exposure[0], int(LIMITS.stress_cap * 1e6)
    assert free > cap
    assert set(exposure[:20]) == {free}
    assert set(exposure[20:80]) == {cap}  # between the bands it stays cut
    assert exposure[-1] == free
