"""Quantities, betas and bands against worked numbers and the optimisation behind the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from features.errors import UsageError
from forecaster.policy.hedging.delta import (
    ewma_beta,
    flattening,
    follow,
    half_width,
    interval_study,
    inverse_delta,
    inverse_payoff,
    perp_quantity,
)
from forecaster.policy.hedging.replication import put_path


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_hedged_book_has_the_target_delta(delta: float, target: float) -> None:
    assert delta + float(perp_quantity(delta, target)) == pytest.approx(target, abs=1e-9)


@given(st.floats(10, 1e5), st.floats(0.2, 5.0), st.floats(0.01, 1e3))
def test_a_short_inverse_contract_makes_coins_worth_constant_usd(entry: float, move: float, coins: float) -> None:
    now, face = entry * move, coins * entry
    worth = (coins - float(inverse_payoff(face, entry, now))) * now
    assert worth == pytest.approx(face, rel=1e-9)


def test_inverse_delta_is_the_slope_of_the_payoff() -> None:
    usd, coins = inverse_delta(1000.0, np.array([50.0, 100.0]))
    slope = (inverse_payoff(1000.0, 80.0, 100.001) - inverse_payoff(1000.0, 80.0, 99.999)) / 0.002
    assert usd.tolist() == [1000.0, 1000.0]
    assert coins[1] == pytest.approx(float(slope), rel=1e-6)
    # Concave in coins: a fall costs more than an equal rise earns.
    assert -inverse_payoff(1.0, 100.0, 90.0) > inverse_payoff(1.0, 100.0, 110.0)


def test_beta_finds_a_known_beta_and_the_perpetual_flattens_it() -> None:
    rng = np.random.default_rng(3)
    factor = rng.standard_normal(5000) * 0.01
    assets = np.stack([1.5 * factor, 0.6 * factor]) + 0.002 * rng.standard_normal((2, 5000))
    beta = ewma_beta(assets, factor, 240.0)
    assert beta[:, -1] == pytest.approx([1.5, 0.6], abs=0.05)
    notionals = np.array([1e6, -4e5])
    hedge = flattening(notionals, beta[:, -1])
    profit = notionals @ assets + hedge * factor
    assert abs(float(ewma_beta(profit, factor, 240.0)[-1])) < 0.05 * 1e6
    assert hedge == pytest.approx(-(1e6 * beta[0, -1] - 4e5 * beta[1, -1]))


def test_beta_by_hand_and_with_holes() -> None:
    y, x = np.array([np.nan, 0.02, np.nan, 0.01]), np.array([0.01, 0.01, 0.03, -0.02])
    beta = ewma_beta(y, x, 1.0)
    assert np.isnan(beta[0])
    assert beta[1] == beta[2] == pytest.approx(2.0)
    assert beta[3] == pytest.approx((0.5 * 0.0002 - 0.0002) / (0.5 * 0.0001 + 0.0004))


def test_beta_does_not_look_ahead() -> None:
    rng = np.random.default_rng(5)
    y, x = rng.standard_normal((2, 200))
    np.testing.assert_array_equal(ewma_beta(y[:120], x[:120], 24.0), ewma_beta(y, x, 24.0)[:120])


@given(st.floats(1e-5, 1e-2), st.floats(1, 1e4), st.floats(1e-4, 10), st.floats(1e-4, 10))
def test_the_band_minimises_the_rates_of_cost_and_risk(cost: float, s: float, gamma: float, aversion: float) -> None:
    """A deviation of volatility Gamma S sigma, reflected at +-H: cost by local time, risk by the uniform law."""

    def rate(log_h: float) -> float:
        h = math.exp(log_h)
        return cost * s * (gamma * s) ** 2 / (2 * h) + aversion * s**2 * h**2 / 6

    best = minimize_scalar(rate, bounds=(-25.0, 25.0), method="bounded", options={"xatol": 1e-9})
    assert float(half_width(cost, s, gamma, aversion)) == pytest.approx(math.exp(best.x), rel=1e-4)


def test_the_band_is_discounted_and_vanishes_without_cost() -> None:
    assert float(half_width(0.0, 100.0, 0.1, 1.0)) == 0.0
    near, far = half_width(0.001, 100.0, 0.1, 1.0, rate=0.1), half_width(0.001, 100.0, 0.1, 1.0, rate=0.1, hours=8760)
    assert float(far / near) == pytest.approx(math.exp(-0.1 / 3))


def test_following_by_hand() -> None:
    prices = np.array([[100.0, 110.0, 100.0, 120.0]])
    targets = np.array([[-0.5, -0.6, -0.9]])
    made = follow(targets, 0.2, prices, 0.001, 0.01)
    # To the nearer edge: -0.3; still inside -0.8..-0.4? -0.3 is outside, so -0.4; then to -0.7.
    np.testing.assert_allclose(made.holdings, [[-0.3, -0.4, -0.7]])
    assert made.gain[0] == pytest.approx(-0.3 * 10 + 0.4 * 10 - 0.7 * 20)
    assert made.cost[0] == pytest.approx(0.01 * (0.3 * 100 + 0.1 * 110 + 0.3 * 100 + 0.7 * 120))
    assert made.funding[0] == pytest.approx(0.001 * (-0.3 * 110 - 0.4 * 100 - 0.7 * 120))
    assert made.trades[0] == 3
    assert made.net[0] == pytest.approx(made.gain[0] - made.cost[0] - made.funding[0])
    every = follow(targets, 0.0, prices, 0.0, 0.0, every=2)
    np.testing.assert_allclose(every.holdings, [[-0.5, -0.5, -0.9]])


def test_a_hole_in_the_path_is_refused() -> None:
    prices = np.array([[1.0, 1.0, 1.0], [1.0, np.nan, 1.0]])
    with pytest.raises(UsageError, match="path 1 has a hole"):
        follow(np.zeros((2, 2)), 0.0, prices, 0.0, 0.0)
    whole, hole = np.ones((2, 3)), np.array([[0.0, 0.0], [0.0, np.nan]])
    for targets, widths, funding in ((hole, 0.0, 0.0), (np.zeros((2, 2)), hole, 0.0), (np.zeros((2, 2)), 0.0, hole)):
        with pytest.raises(UsageError, match="path 1 has a hole"):
            follow(targets, widths, whole, funding, 0.0)


def test_hedging_less_often_costs_less_and_errs_more() -> None:
    rng = np.random.default_rng(11)
    sigma, steps = 0.7, 240
    moves = rng.standard_normal((200, steps)) * sigma / math.sqrt(8760)
    prices = 100 * np.exp(np.cumsum(np.pad(moves, ((0, 0), (1, 0))), axis=1))
    put = put_path(prices, np.full(200, 95.0), np.full((200, steps), sigma))
    table = interval_study(put.delta, put.gamma, prices, 0.0, 5e-4, (1, 8, 48), (1e4, 10.0, 1.0))
    for _, rows in table.groupby("rule", sort=False):
        assert rows["cost"].is_monotonic_decreasing
        assert rows["tracking_error"].is_monotonic_increasing
    hourly = table.iloc[0]
    assert hourly["tracking_error"] == 0.0
    assert hourly["trades_per_day"] == pytest.approx(24, rel=0.01)
