"""Accounts: requirements worked by hand, probabilities against the reflection principle, liquidation that restores."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.policy import Params
from forecaster.policy.accounts import (
    EXCURSION_LEVELS,
    Excursions,
    Level,
    deductions,
    health,
    hours_to_margin,
    levels,
    liquidation_step,
    liquidator_profit,
    preemptive_reduction,
    requirement,
    restoring_size,
    ruin_probability,
)

PARAMS = Params.default()
CAPS = np.array([50_000, 100_000, 1_000_000])
RATES = np.array([10_000, 25_000, 100_000])
SIGMA_HOUR = 0.01
NORMAL = NormalDist()


def walk(horizons: tuple[int, ...] = (1, 4, 24)) -> Excursions:
    """Excursions of a driftless Brownian walk: P(mae > x) = 2 (1 - Phi(x / sigma sqrt(h)))."""
    scores = [NORMAL.inv_cdf(1 - (1 - level) / 2) for level in EXCURSION_LEVELS]
    return Excursions(horizons, np.array([[SIGMA_HOUR * math.sqrt(h) * z for z in scores] for h in horizons]))


# -- requirements: worked examples that docs may quote --------------------------------------------------


def test_worked_examples_of_the_tier_requirement() -> None:
    # Tier 1: 1 %, tier 2: 2.5 %, tier 3: 10 %; deductions 0, 50,000 * 1.5 % = 750, 750 + 100,000 * 7.5 % = 8,250 USD.
    assert deductions(CAPS, RATES).tolist() == [0, 750_000_000, 8_250_000_000]
    worked = {0: 0, 20_000: 200, 50_000: 500, 80_000: 1_250, 100_000: 1_750, 400_000: 31_750, 2_000_000: 191_750}
    found = requirement(np.array(list(worked)), CAPS, RATES)
    assert found.tolist() == [usd * 1_000_000 for usd in worked.values()]


@given(
    widths=st.lists(st.integers(1, 10**7), min_size=1, max_size=6),
    steps=st.lists(st.integers(0, 10**5), min_size=6, max_size=6),
    size=st.integers(0, 10**8),
)
def test_the_requirement_is_what_marginal_rates_add_up_to(widths: list[int], steps: list[int], size: int) -> None:
    caps, rates = np.cumsum(widths), np.cumsum([5_000, *steps])[: len(widths)]
    paid, lower = 0, 0
    for k, (cap, rate) in enumerate(zip(caps.tolist(), rates.tolist(), strict=True)):
        upper = size if k == len(widths) - 1 else min(size, cap)
        paid += max(0, upper - lower) * rate
        lower = cap
    assert int(requirement(np.array([size]), caps, rates)[0]) == paid
    # Continuous: a dollar more costs at most the last rate.
    more = int(requirement(np.array([size + 1]), caps, rates)[0])
    assert 0 < more - paid <= int(rates[-1])


# -- levels -------------------------------------------------------------------------------------------


def test_health_and_levels() -> None:
    equity = np.array([200.0, 149.0, 109.0, 99.0, 66.0, -5.0, np.nan, 10.0])
    factor = health(equity, np.array([1e4] * 7 + [0.0]), np.full(8, 0.01))
    assert factor[:6] == pytest.approx([2.0, 1.49, 1.09, 0.99, 0.66, -0.05])
    found = levels(factor, np.zeros(8, dtype=np.int64), PARAMS)
    assert found.tolist() == [0, 1, 2, 3, 4, 4, 4, 0]


def test_what_is_not_known_is_never_healthy() -> None:
    hole = np.array([np.nan, 1e4, 1e4])
    factor = health(np.roll(hole, 1) / 10, hole, np.roll(hole, 2) / 1e6)
    assert np.isnan(factor).all()
    assert levels(factor, np.zeros(3, dtype=np.int64), PARAMS).tolist() == [Level.BACKSTOP] * 3


def test_search_is_released_above_its_release_level_only() -> None:
    level, seen = np.array([0]), []
    for factor in (1.6, 1.09, 1.2, 1.29, 1.31, 1.2, 0.9, 1.05, 1.2, 1.6):
        level = levels(np.array([factor]), level, PARAMS)
        seen.append(Level(int(level[0])).name)
    assert seen == [
        "HEALTHY",
        "SEARCH",
        "SEARCH",
        "SEARCH",
        "WARNING",
        "WARNING",
        "LIQUIDATION",
        "SEARCH",
        "SEARCH",
        "HEALTHY",
    ]


# -- probabilities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1.0, 2.0, 10.0, 24.0, 100.0, 0.25])
def test_ruin_of_a_driftless_walk_is_the_reflection_principle(hours: float) -> None:
    x = np.array([1e-4, 0.01, 0.03, 0.1, 0.15])
    sigma = SIGMA_HOUR * math.sqrt(hours)
    wanted = [2 * (1 - NORMAL.cdf(value / sigma)) for value in x]
    assert ruin_probability(x, walk(), hours) == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_ruin_reads_the_published_quantiles() -> None:
    quantiles = np.array([[0.05, 0.12, 0.15, 0.30]])
    forecast = Excursions((24,), quantiles)
    assert ruin_probability(quantiles[0], forecast, 24.0) == pytest.approx([0.05, 0.01, 0.005, 0.001])
    far = ruin_probability(np.linspace(-0.1, 1.0, 200), forecast, 24.0)
    assert (np.diff(far) <= 0).all()
    assert far[0] == 1.0
    assert 0 < far[-1] < 0.001


def test_hours_to_margin_inverts_the_median_excursion() -> None:
    forecast = walk((1, 4, 24, 72))
    median = NORMAL.inv_cdf(0.75)
    hours = np.array([0.5, 1.0, 3.0, 24.0, 200.0])
    assert hours_to_margin(SIGMA_HOUR * np.sqrt(hours) * median, forecast) == pytest.approx(hours)
    assert hours_to_margin(np.array([0.0, -1.0]), forecast).tolist() == [0.0, 0.0]


def test_hours_to_margin_takes_the_earliest_where_horizons_stand_still() -> None:
    quantiles = walk((1, 4, 24)).quantiles
    quantiles[1] = quantiles[0]
    found = hours_to_margin(
        quantiles[0, :1] * NORMAL.inv_cdf(0.75) / NORMAL.inv_cdf(0.975), Excursions((1, 4, 24), quantiles)
    )
    assert found == pytest.approx([1.0])


def test_beyond_horizons_that_stand_still_time_goes_on_from_the_last() -> None:
    quantiles = walk((1, 4, 24)).quantiles
    quantiles[2] = quantiles[1]
    forecast = Excursions((1, 4, 24), quantiles)
    median = quantiles[2, 0] * NORMAL.inv_cdf(0.75) / NORMAL.inv_cdf(0.975)
    hours = hours_to_margin(np.array([1.1 * median]), forecast)
    assert hours == pytest.approx([24 * 1.1**2])
    assert ruin_probability(np.array([1.1 * median]), forecast, float(hours[0])) == pytest.approx([0.5])


@given(equity=st.floats(1.0, 5_000.0), notional=st.floats(1.0, 1e5))
def test_preemptive_reduction_brings_ruin_to_its_limit(equity: float, notional: float) -> None:
    forecast, limit = walk(), PARAMS.accounts.ruin_probability
    cut = float(preemptive_reduction(np.array([equity]), np.array([notional]), forecast, PARAMS)[0])
    before = float(ruin_probability(np.array([equity / notional]), forecast, 24.0)[0])
    if cut == 0:
        assert before <= limit + 1e-9
    else:
        after = float(ruin_probability(np.array([equity / (notional - cut)]), forecast, 24.0)[0])
        assert after == pytest.approx(limit, rel=1e-6)


def test_a_bankrupt_account_is_reduced_whole() -> None:
    assert preemptive_reduction(np.array([-1.0]), np.array([100.0]), walk(), PARAMS).tolist() == [100.0]


# -- liquidation --------------------------------------------------------------------------------------


@given(
    notional=st.floats(1e3, 1e6),
    mm=st.floats(0.01, 0.4),
    share=st.floats(0.0, 0.8),
    factor=st.floats(0.85, 1.5),
)
def test_closing_x_restores_the_search_level(notional: float, mm: float, share: float, factor: float) -> None:
    penalty, equity = share * mm, factor * mm * notional
    args = (np.array([value]) for value in (equity, notional, mm, penalty))
    size = float(restoring_size(*args, PARAMS)[0])
    level = PARAMS.accounts.search_level
    if factor >= level:
        assert size == 0
    elif size < notional:
        assert (equity - penalty * size) / (mm * (notional - size)) == pytest.approx(level, rel=1e-6)
    else:
        assert equity - penalty * notional <= 1e-6 * notional


def test_steps_keep_to_share_and_depth_and_hand_over_below_the_backstop() -> None:
    equity = np.array([110.0, 95.0, 95.0, 60.0, 99.99])
    n, mm, fee = np.full(5, 1e4), np.full(5, 0.01), np.full(5, 0.005)
    depth = np.array([1e9, 1e9, 5e3, 5e3, 1e9])
    found = liquidation_step(equity, n, mm, fee, depth, PARAMS)
    # x* = (1.1 * 100 - 95) / (0.011 - 0.005) = 2,500, above 20 % of the position.
    assert found == pytest.approx([0.0, 2_000.0, 500.0, 1e4, (110 - 99.99) / 0.006])


def test_a_penalty_beyond_what_closing_frees_closes_all() -> None:
    found = restoring_size(np.array([90.0]), np.array([1e4]), np.array([0.01]), np.array([0.02]), PARAMS)
    assert found.tolist() == [1e4]


@given(sigma=st.floats(0.005, 0.3), volume=st.floats(1e6, 1e11))
def test_the_penalty_meets_the_participation_constraint_at_the_median_size(sigma: float, volume: float) -> None:
    costs, liquidity = PARAMS.penalty, PARAMS.liquidity
    size = costs.liquidation_size_usd
    fee = max(
        costs.minimum,
        liquidity.spread / 2 + sigma * math.sqrt(size / volume) + costs.gas_usd / size + costs.capital_charge,
    )
    args = [np.array([value]) for value in (size, fee, sigma, volume)]
    assert liquidator_profit(*args, PARAMS)[0] >= -1e-9
    # One basis point less than the cost and nobody comes.
    short = np.array([fee - 1e-4]) if fee > costs.minimum else np.array([0.0])
    assert liquidator_profit(args[0], short, args[2], args[3], PARAMS)[0] < 0
