"""The schedule's hedge against the full programme, and its lawful forms."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from forecaster.policy.hedging.greeks import YEAR_HOURS
from forecaster.policy.hedging.params import HedgingParams
from forecaster.policy.hedging.protection import INFEASIBLE, Limits, allocate, put_menu
from forecaster.policy.hedging.reference import REASONS, UNHEDGED, HedgeInputs, described, hedge_of, hedges_of
from forecaster.policy.hedging.scenarios import LEVELS, expected_shortfall, predictive_draws, with_stress

NO_HEDGE = described(UNHEDGED)
PARAMS = HedgingParams(
    notional_usd=1e6,
    budget=0.08,
    level=0.99,
    stress_weight=0.001,
    put_steps=(0.5, 1.0, 1.5, 2.0, 2.5),
    put_cap=1.0,
    iv_markup=0.1,
    iv_skew=0.1,
    option_fee=0.0003,
    option_fee_cap=0.125,
    gas_usd=1.0,
    gamma_max=0.25,
    vega_min=0.0,
    trade_cost=0.0006,
    participation=0.1,
    risk_aversion=10.0,
    vol_of_vol=2.0,
)


def inputs(sigma: object = 0.9, implied: object = math.nan, **other: object) -> HedgeInputs:
    """Lines with a Student-like law of the given volatility."""
    s, iv = np.broadcast_arrays(np.atleast_1d(np.asarray(sigma, dtype=float)), np.asarray(implied, dtype=float))
    day = s * math.sqrt(24 / YEAR_HOURS)
    shape = np.sinh(0.5 * ndtri(LEVELS)) / 0.5
    n = len(s)
    columns = {
        "returns": day[:, None] * shape,
        "sigma": s.copy(),
        "implied": iv.copy(),
        "stress_move": np.full(n, 0.4),
        "short_funding": np.full(n, 0.0003),
        "daily_volume_usd": np.full(n, 1e9),
        "usable": np.ones(n, dtype=bool),
    }
    for name, value in other.items():
        columns[name] = np.broadcast_to(np.asarray(value, dtype=columns[name].dtype), columns[name].shape).copy()
    return HedgeInputs(**columns)


def scenario(line: HedgeInputs) -> tuple[np.ndarray, np.ndarray]:
    draws, weights = predictive_draws(line.returns)
    mixed, mass = with_stress(draws, weights, np.log1p(-line.stress_move)[:, None], PARAMS.stress_weight)
    return mixed[0], mass[0]


def test_within_the_budget_nothing_is_held() -> None:
    hedge, infeasible = hedge_of(inputs(0.2), PARAMS)
    assert hedge == {**NO_HEDGE, "reason": "the expected shortfall is within its budget"}
    assert not infeasible


def test_without_implied_volatility_the_short_meets_the_budget() -> None:
    line = inputs(0.9)
    hedge, infeasible = hedge_of(line, PARAMS)
    draws, mass = scenario(line)
    losses = -np.expm1(draws)
    before = float(expected_shortfall(losses[None], mass[None], 0.99)[0])
    assert hedge["instrument"] == "perpetual"
    assert not infeasible
    assert hedge["quantity_milli"] == -math.ceil(1000 * (1 - 0.08 / before))
    held = -int(hedge["quantity_milli"]) / 1000
    assert float(expected_shortfall((1 - held) * losses[None], mass[None], 0.99)[0]) <= 0.08
    assert hedge["avoided_es_usd"] == math.floor(1e6 * held * before + 1e-6)
    assert hedge["cost_usd"] == math.ceil(1e6 * held * (2 * 0.0006 + 0.0003) + 2)
    width = (1.5 * 0.0006 * ((1 - held) * 2.0 / 0.9) ** 2 / 10.0) ** (1 / 3)
    assert hedge["band_ppm"] == math.floor(width * 1e6)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 1.5), st.floats(0.3, 1.2), st.integers(0, 4))
def test_one_strike_is_the_programme_s_answer(sigma: float, iv_share: float, step: int) -> None:
    """The closed form against the linear programme over the same draws and the same single put."""
    iv = sigma * iv_share
    params = replace(PARAMS, put_steps=(PARAMS.put_steps[step],), gamma_max=math.inf)
    line = inputs(sigma, iv, daily_volume_usd=0.0)
    hedge, infeasible = hedge_of(line, params)
    draws, mass = scenario(line)
    strike = np.exp([-params.put_steps[0] * iv * math.sqrt(24 / YEAR_HOURS)])
    menu = put_menu(
        1.0, strike, 24.0, iv * (1.1 + 0.1 * params.put_steps[0]), draws, fee=0.0003, fee_cap=0.125, gas=0.0, cap=1.0
    )
    limits = Limits(params.budget, params.level, math.inf, -math.inf)
    found = allocate(-np.expm1(draws), mass, menu, limits)
    assert infeasible == (not found.feasible)
    if infeasible:
        least = float(hedges_of(line, params).least_budget[0])
        assert least == pytest.approx(found.least_budget, abs=1e-9)  # a cap of one unit is whole thousandths
        assert hedge["quantity_milli"] in (0, 1000)
    elif hedge["instrument"].startswith("put"):
        assert found.bought
        assert 0 <= hedge["quantity_milli"] - 1000 * found.quantity[0] < 1.001
        # What is published is the cost of the quantity that is published.
        rounded = hedge["quantity_milli"] / 1000 / found.quantity[0]
        assert hedge["cost_usd"] == pytest.approx(1e6 * found.cost * rounded + 1, abs=1.01)
        assert hedge["avoided_es_usd"] == pytest.approx(1e6 * found.avoided * rounded, abs=2)
    else:
        assert not found.bought


def test_the_cheaper_of_put_and_short_is_taken() -> None:
    cheap, dear = hedges_of(inputs(0.9, [0.45, 1.4]), PARAMS).objects()
    assert str(cheap["instrument"]).startswith("put-24h-")
    assert int(cheap["quantity_milli"]) > 0
    assert dear["instrument"] == "perpetual"
    assert int(dear["quantity_milli"]) < 0


def test_a_market_too_thin_is_infeasible_and_says_so() -> None:
    made = hedges_of(inputs(1.2, daily_volume_usd=2e6), PARAMS)
    hedge = next(made.objects())
    assert made.infeasible.tolist() == [True]
    assert str(hedge["reason"]).startswith(INFEASIBLE)
    assert hedge["quantity_milli"] == -200
    assert made.least_budget[0] > PARAMS.budget
    again = hedges_of(inputs(1.2, daily_volume_usd=2e6), replace(PARAMS, budget=float(made.least_budget[0]) + 1e-9))
    assert not again.infeasible[0]


def test_the_largest_lawful_hedge_never_exceeds_its_room() -> None:
    hedge, infeasible = hedge_of(inputs(1.2, daily_volume_usd=2.009e6), PARAMS)
    assert infeasible
    assert hedge["quantity_milli"] == -200  # of a room of 200.9
    tight = replace(PARAMS, put_cap=0.1237, put_steps=(1.0,))
    puts = hedges_of(inputs(1.2, 0.6, daily_volume_usd=0.0), tight)
    assert puts.quantity_milli.tolist() == [123]


@pytest.mark.parametrize("limit", [{"put_cap": 0.3}, {"gamma_max": 0.05}])
def test_an_infeasible_budget_is_missed_by_the_least(limit: dict[str, float]) -> None:
    """Puts that cannot meet the budget may still avoid more than the short that cannot either."""
    params = replace(PARAMS, put_steps=(1.0,), **limit)
    line = inputs(1.2, 0.6, daily_volume_usd=2e6)
    made = hedges_of(line, params)
    assert made.infeasible.tolist() == [True]
    draws, mass = scenario(line)
    deviation = 0.6 * math.sqrt(24 / YEAR_HOURS)
    menu = put_menu(
        1.0, np.exp([-deviation]), 24.0, 0.6 * 1.2, draws, fee=0.0003, fee_cap=0.125, gas=0.0, cap=params.put_cap
    )
    found = allocate(-np.expm1(draws), mass, menu, Limits(0.0, 0.99, 100 * params.gamma_max, -math.inf))
    short = 0.8 * found.shortfall_before
    assert found.least_budget < short
    assert made.least_budget[0] == pytest.approx(found.least_budget, abs=2e-4)
    assert made.least_budget[0] >= found.least_budget - 1e-9
    hedge = next(made.objects())
    assert hedge["instrument"] == f"put-24h-{round(1e6 * math.exp(-deviation))}ppm"
    assert str(hedge["reason"]).startswith(INFEASIBLE)
    again = hedges_of(line, replace(params, budget=float(made.least_budget[0]) + 1e-9))
    assert not again.infeasible[0]


def test_a_short_pays_the_expected_rise_that_a_put_does_not() -> None:
    """Under a law that rises by 2 % a day the short is the dearer hedge; under one that falls, the cheaper."""
    still = inputs([0.9, 0.9, 0.9], 0.62)
    still.returns[1] += 0.02
    still.returns[2] -= 0.02
    _, up, down = hedges_of(still, PARAMS).objects()
    assert str(up["instrument"]).startswith("put")
    assert down["instrument"] == "perpetual"


@pytest.mark.parametrize("fault", ["nan", "falling", "flagged"])
def test_an_unusable_line_has_no_hedge(fault: str) -> None:
    line = inputs([0.9, 0.9])
    if fault == "flagged":
        line.usable[0] = False
    else:
        line.returns[0] = np.nan if fault == "nan" else line.returns[0, ::-1]
    bad, good = hedges_of(line, PARAMS).objects()
    assert bad == {**NO_HEDGE, "reason": "no usable forecast"}
    assert good == hedge_of(inputs(0.9), PARAMS)[0]


def test_not_worth_its_cost() -> None:
    hedge, infeasible = hedge_of(inputs(0.9), replace(PARAMS, trade_cost=0.6))
    assert hedge["reason"] == "the hedge would cost more than the shortfall it avoids"
    assert hedge["instrument"] == "none"
    assert not infeasible


def test_lines_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(2)
    sigma, iv = rng.uniform(0.2, 2.0, 1100), np.where(rng.random(1100) < 0.5, np.nan, rng.uniform(0.2, 2.0, 1100))
    together = list(hedges_of(inputs(sigma, iv), PARAMS).objects())
    for i in (0, 511, 512, 1099):
        assert together[i] == hedge_of(inputs(sigma[i], iv[i]), PARAMS)[0]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-3, 8),
    st.floats(1e-3, 8) | st.just(math.nan),
    st.floats(-0.1, 0.1) | st.just(math.nan),
    st.floats(0, 1e10) | st.just(math.nan),
    st.floats(0, 3) | st.just(math.nan),
)
def test_every_hedge_is_lawful(sigma: float, iv: float, funding: float, volume: float, stress: float) -> None:
    line = inputs(sigma, iv, short_funding=funding, daily_volume_usd=volume, stress_move=stress)
    hedge, _ = hedge_of(line, PARAMS)
    assert set(hedge) == set(NO_HEDGE)
    assert all(type(value) is type(NO_HEDGE[name]) for name, value in hedge.items())
    assert hedge["reason"] in REASONS
    assert -1000 <= int(hedge["quantity_milli"]) <= 1000
    assert int(hedge["cost_usd"]) >= 0
    assert int(hedge["avoided_es_usd"]) >= 0
    assert int(hedge["band_ppm"]) >= 0
    assert (hedge["quantity_milli"] == 0) == (hedge["instrument"] == "none")
    assert json.loads(json.dumps(hedge, allow_nan=False)) == hedge
