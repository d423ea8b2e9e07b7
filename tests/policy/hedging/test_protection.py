"""The put programme against brute force, closed forms and its own limits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from features.errors import DataInvalid
from forecaster.policy.hedging.greeks import PUT, greeks
from forecaster.policy.hedging.protection import INFEASIBLE, Limits, Menu, allocate, floor_probabilities, put_menu
from forecaster.policy.hedging.scenarios import (
    LEVELS,
    expected_shortfall,
    predictive_draws,
    tail_weights,
    with_stress,
)
from forecaster.policy.insurance import tranche

FREE = Limits(budget=10.0, level=0.9, gamma_max=math.inf, vega_min=-math.inf)


def shortfall_by_search(losses: np.ndarray, weights: np.ndarray, level: float) -> float:
    """CVaR as the least of eta + E[(L - eta)+] / (1 - level), attained at one of the losses."""
    return min(float(eta + weights @ np.maximum(losses - eta, 0.0) / (1 - level)) for eta in losses)


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(0.01, 1)), min_size=1, max_size=30), st.floats(0.5, 0.99))
def test_shortfall_is_the_least_of_its_variational_form(pairs: list[tuple[float, float]], level: float) -> None:
    losses, mass = (np.array(x) for x in zip(*pairs, strict=True))
    weights = mass / mass.sum()
    found = float(expected_shortfall(losses[None], weights[None], level)[0])
    assert found == pytest.approx(shortfall_by_search(losses, weights, level), abs=1e-9)
    assert tail_weights(losses[None], weights[None], level).sum() == pytest.approx(1.0)


def test_draws_of_a_normal_law_are_normal() -> None:
    draws, weights = predictive_draws(0.03 * ndtri(LEVELS)[None, :])
    assert weights.sum() == pytest.approx(1.0)
    assert float((draws * weights).sum()) == pytest.approx(0.0, abs=1e-12)
    assert float(np.sqrt((draws**2 * weights).sum())) == pytest.approx(0.03, rel=2e-3)
    z = ndtri(0.01)
    exact = 0.03 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / 0.01
    assert float(expected_shortfall(-draws, weights[None], 0.99)[0]) == pytest.approx(exact, rel=5e-3)


def test_falling_quantiles_are_refused() -> None:
    good = ndtri(LEVELS)
    with pytest.raises(DataInvalid, match="law 1"):
        predictive_draws(np.stack([good, good[::-1]]))


def test_stress_takes_its_mass_from_the_others() -> None:
    draws, weights = np.array([[0.0, 0.1], [0.0, 0.1]]), np.array([0.5, 0.5])
    mixed, mass = with_stress(draws, weights, np.array([[-0.5, np.nan], [np.nan, np.nan]]), 0.1)
    np.testing.assert_allclose(mass, [[0.45, 0.45, 0.1, 0.0], [0.5, 0.5, 0.0, 0.0]])
    assert mixed[0, 2] == -0.5


def world(seed: int, instruments: int) -> tuple[np.ndarray, np.ndarray, Menu]:
    rng = np.random.default_rng(seed)
    returns = 0.06 * rng.standard_t(3, size=60)
    weights = rng.uniform(0.5, 1.5, size=60)
    strikes = np.array([100.0, 92.0, 85.0])[:instruments]
    menu = put_menu(100.0, strikes, 24.0, 1.1, returns, fee=0.0003, fee_cap=0.125, gas=0.01, cap=1.0)
    return 100 * (1 - np.exp(returns)), weights / weights.sum(), menu


@pytest.mark.parametrize("seed", range(6))
def test_two_puts_against_a_grid(seed: int) -> None:
    losses, weights, menu = world(seed, 2)
    unhedged = shortfall_by_search(losses, weights, 0.9)
    limits = replace(FREE, budget=0.7 * unhedged, gamma_max=0.09)
    found = allocate(losses, weights, menu, limits)
    step, best = 0.02, math.inf
    for x in itertools.product(np.arange(0, 1 + step / 2, step), repeat=2):
        held = np.array(x)
        lawful = held @ menu.gamma <= limits.gamma_max
        if lawful and shortfall_by_search(losses - menu.payoffs @ held, weights, 0.9) <= limits.budget:
            best = min(best, float(menu.price @ held))
    assert found.feasible
    assert best - step * menu.price.sum() <= float(menu.price @ found.quantity) <= best + 1e-9
    after = shortfall_by_search(losses - menu.payoffs @ found.quantity, weights, 0.9)
    assert after <= limits.budget + 1e-6
    assert after == pytest.approx(found.shortfall_after)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 0.99))
def test_one_put_has_the_closed_form(seed: int, share: float) -> None:
    """With at most one put a long's worst draws stay the worst, so x = (ES - budget) / E[payoff in the tail]."""
    losses, weights, menu = world(seed, 1)
    tail = tail_weights(losses[None], weights[None], 0.9)[0]
    budget = share * float(tail @ losses)
    units = (float(tail @ losses) - budget) / float(tail @ menu.payoffs[:, 0])
    found = allocate(losses, weights, menu, replace(FREE, budget=budget))
    if units > 1 + 1e-6:
        assert found.reason == INFEASIBLE
        assert found.least_budget == pytest.approx(float(tail @ (losses - menu.payoffs[:, 0])), rel=1e-6)
    elif units < 1 - 1e-6 and found.bought:
        assert found.quantity[0] == pytest.approx(units, rel=1e-6, abs=1e-8)
        assert found.break_even == pytest.approx(found.cost / found.avoided)


def test_an_infeasible_budget_is_never_relaxed() -> None:
    losses, weights, menu = world(1, 2)
    found = allocate(losses, weights, menu, replace(FREE, budget=-50.0))
    assert not found.feasible
    assert found.reason == INFEASIBLE
    assert found.quantity.tolist() == [0.0, 0.0]
    assert found.shortfall_after == found.shortfall_before
    again = allocate(losses, weights, menu, replace(FREE, budget=found.least_budget + 1e-6))
    assert again.feasible
    assert not allocate(losses, weights, menu, replace(FREE, budget=found.least_budget - 1e-3)).feasible


def test_gamma_and_vega_bind() -> None:
    losses, weights, menu = world(2, 3)
    free = allocate(losses, weights, menu, replace(FREE, budget=6.0))
    at = float(menu.gamma @ free.quantity)
    tight = allocate(losses, weights, menu, replace(FREE, budget=6.0, gamma_max=0.9 * at))
    assert free.feasible
    assert tight.feasible
    assert float(menu.gamma @ tight.quantity) == pytest.approx(0.9 * at)
    assert tight.cost > free.cost
    vega = float(menu.vega @ free.quantity)
    more = allocate(losses, weights, menu, replace(FREE, budget=6.0, vega_min=1.5 * vega))
    assert float(menu.vega @ more.quantity) >= 1.5 * vega - 1e-9
    none = allocate(losses, weights, menu, replace(FREE, vega_min=1e9))
    assert not none.feasible
    assert math.isnan(none.least_budget)


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e3])
def test_the_unit_of_the_price_does_not_matter(scale: float) -> None:
    """A coin of a millionth of a dollar has the hedge of one of a hundred, its budget and limits kept as well."""
    losses, weights, menu = world(1, 3)
    limits = replace(FREE, budget=6.0, gamma_max=0.05)
    small = Menu(menu.payoffs * scale, menu.price * scale, menu.gamma / scale, menu.vega * scale, menu.cap)
    rescaled = replace(limits, budget=limits.budget * scale, gamma_max=limits.gamma_max / scale)
    whole, part = allocate(losses, weights, menu, limits), allocate(losses * scale, weights, small, rescaled)
    assert part.quantity == pytest.approx(whole.quantity, abs=1e-6)
    assert part.shortfall_after / scale <= limits.budget * (1 + 1e-7)
    assert float(small.gamma @ part.quantity) <= rescaled.gamma_max * (1 + 1e-7)
    never = allocate(losses * scale, weights, small, replace(rescaled, budget=-50.0 * scale))
    assert not never.feasible
    assert never.least_budget / scale == pytest.approx(
        allocate(losses, weights, menu, replace(limits, budget=-50.0)).least_budget, abs=1e-6
    )


def test_a_hedge_that_costs_more_than_it_avoids_is_not_bought() -> None:
    losses, weights, menu = world(3, 2)
    budget = 0.9 * shortfall_by_search(losses, weights, 0.9)
    fair = allocate(losses, weights, menu, replace(FREE, budget=budget))
    dear = allocate(losses, weights, replace(menu, price=menu.price * 1000), replace(FREE, budget=budget))
    assert fair.bought
    assert fair.cost < fair.avoided
    assert dear.feasible
    assert not dear.bought
    assert dear.cost == 0.0
    assert dear.avoided == 0.0
    assert dear.break_even > 1


def test_a_put_for_every_unit_makes_its_floor_certain() -> None:
    draws, weights = predictive_draws(0.05 * ndtri(LEVELS)[None, :])
    losses = 100 * -np.expm1(draws[0])
    menu = put_menu(100.0, np.array([94.0]), 24.0, 1.0, draws[0], fee=0.0003, fee_cap=0.125, gas=0.01, cap=1.0)
    price = float(menu.price[0])
    table = floor_probabilities(losses, weights, menu, np.ones(1), [0.0, 6.0, 6.0 + price + 1e-9])
    assert table["protected"].iloc[2] == pytest.approx(1.0)
    # The law's own: a loss of 6 % is a log return of ln 0.94; the premium is what a rise must first earn back.
    assert table["bare"].iloc[2] == pytest.approx(1 - float(ndtr(math.log(0.94 - price / 100) / 0.05)), abs=0.01)
    assert table["protected"].iloc[0] == pytest.approx(1 - float(ndtr(math.log(1 + price / 100) / 0.05)), abs=0.02)
    assert table["protected"].iloc[0] < table["bare"].iloc[0]
    idle = floor_probabilities(losses, weights, menu, np.zeros(1), [0.0, 6.0])
    assert idle["bare"].tolist() == idle["protected"].tolist()


def test_a_treasury_bounds_its_own_draws_with_puts() -> None:
    """A fund pays what a fall takes beyond the margin: puts at that strike are the same claim, so that the units are
    the share of open interest that the budget does not bear."""
    margin, interest, budget = 0.1, 5e6, 1e5
    draws, weights = predictive_draws(0.05 * np.sinh(ndtri(LEVELS))[None, :])
    falls = -np.expm1(draws[0])
    drawn = interest * tranche(falls, margin, math.inf)
    menu = put_menu(1.0, np.array([1 - margin]), 24.0, 0.9, draws[0], fee=0.0003, fee_cap=0.125, gas=0.0, cap=interest)
    found = allocate(drawn, weights, menu, Limits(budget, 0.99, math.inf, -math.inf))
    assert found.bought
    assert found.shortfall_before > 2 * budget
    assert found.shortfall_after == pytest.approx(budget, rel=1e-6)
    assert found.quantity[0] == pytest.approx(interest * (1 - budget / found.shortfall_before), rel=1e-6)
    assert found.cost == pytest.approx(float(menu.price @ found.quantity))
    small = replace(menu, cap=menu.cap / 100)
    never = allocate(drawn, weights, small, Limits(budget, 0.99, math.inf, -math.inf))
    assert never.reason == INFEASIBLE
    assert never.least_budget == pytest.approx(0.99 * found.shortfall_before, rel=1e-6)


def test_nothing_is_bought_within_the_budget() -> None:
    losses, weights, menu = world(4, 2)
    idle = allocate(losses, weights, menu, replace(FREE, budget=1e3))
    assert idle.feasible
    assert idle.quantity.sum() == pytest.approx(0.0, abs=1e-12)


def test_the_menu_prices_at_the_ask_with_fee_and_gas() -> None:
    strikes = np.array([100.0, 60.0])
    menu = put_menu(100.0, strikes, 24.0, 0.8, np.array([-0.5, 0.0]), fee=0.0003, fee_cap=0.125, gas=0.5, cap=2.0)
    value = greeks(PUT, 100.0, strikes, 24.0, 0.8).price
    assert menu.price[0] == pytest.approx(float(value[0]) + 0.03 + 0.5)
    assert menu.price[1] == pytest.approx(float(value[1]) * 1.125 + 0.5)
    np.testing.assert_allclose(menu.payoffs, [[100 - 100 * math.exp(-0.5), 0.0], [0.0, 0.0]], atol=1e-12)
    at_the_money = 100 * (2 * float(ndtr(0.8 * math.sqrt(24 / 8760) / 2)) - 1)
    assert float(value[0]) == pytest.approx(at_the_money)
