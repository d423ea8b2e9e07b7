"""The joint programme against brute force, its own limits, and the convexity of its frontier."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataInvalid, UsageError
from forecaster.policy.accounts import requirement
from forecaster.policy.hedging.protection import INFEASIBLE, Menu, put_menu
from forecaster.policy.portfolio import PortfolioParams
from forecaster.policy.portfolio.programme import Draws, Plan, Terms, carries, frontier, plan

LEVEL, RUIN = 0.9, 0.1


def terms_of(**changes: Any) -> Terms:
    values: dict[str, Any] = {
        "wanted": 100_000.0,
        "least": 0.0,
        "forgone": 0.004,
        "caps": np.array([40_000, 80_000, 1_000_000]),
        "rates": np.array([100_000, 150_000, 250_000]),
        "perp_margin": 0.1,
        "perp_cost": 0.0006,
        "perp_cap": 0.0,
        "stable": 8_000.0,
        "volatile": 20_000.0,
        "haircut": 0.3,
        "borrow_cap": 30_000.0,
        "stable_carry": 0.0002,
        "volatile_carry": 0.0001,
        "borrow_rate": 0.001,
    }
    return Terms(**(values | changes))


def world(seed: int, puts: int = 1, draws: int = 50) -> tuple[Draws, Menu]:
    rng = np.random.default_rng(seed)
    returns = 0.06 * rng.standard_t(3, size=draws)
    other = 0.8 * returns + 0.03 * rng.standard_normal(draws)
    weights = rng.uniform(0.5, 1.5, draws)
    strikes = np.array([1.0, 0.93, 0.86])[:puts]
    menu = put_menu(1.0, strikes, 24.0, 1.0, returns, fee=0.0003, fee_cap=0.125, gas=0.0, cap=100_000.0)
    return Draws(weights / weights.sum(), 1 - np.exp(returns), np.exp(other) - 1, 1 - np.exp(other)), menu


def cvar(losses: np.ndarray, weights: np.ndarray, level: float) -> float:
    excess = np.maximum(losses[None, :] - losses[:, None], 0.0)
    return float((losses + excess @ weights / (1 - level)).min())


def checked(found: Plan, draws: Draws, menu: Menu, terms: Terms, budget: float) -> None:
    """Every constraint of a plan, written apart from the programme."""
    loss = found.size * draws.position - menu.payoffs @ found.puts + found.perp * draws.perp
    loss = loss + found.volatile * draws.volatile
    posted, slack = found.stable + found.volatile, 0.02  # the solver's 1e-7 of the wanted size, twice
    assert cvar(loss, draws.weights, LEVEL) <= budget + slack
    assert cvar(loss - posted, draws.weights, 1 - RUIN / 2) <= slack
    assert draws.weights[loss > posted + slack].sum() <= RUIN / 2 + 1e-12
    im = int(requirement(np.array([math.floor(found.size)]), terms.caps, terms.rates)[0]) / 1e6
    assert found.stable + (1 - terms.haircut) * found.volatile >= im + terms.perp_margin * found.perp - 1
    paid = float(menu.price @ found.puts) + terms.perp_cost * found.perp
    assert found.stable + paid <= terms.stable + found.borrowed + slack
    assert terms.least - slack <= found.size <= terms.wanted + slack
    assert found.volatile <= terms.volatile + slack
    assert found.borrowed <= terms.borrow_cap + slack
    cost = terms.forgone * (terms.wanted - found.size) + paid + terms.stable_carry * found.stable
    cost += terms.volatile_carry * found.volatile + terms.borrow_rate * found.borrowed
    assert found.cost == pytest.approx(cost, abs=1e-3)


def brute(draws: Draws, menu: Menu, terms: Terms, budget: float, steps: int) -> float:
    """The least cost on a grid of size, puts and volatile collateral; stable and borrowing follow."""
    best = math.inf
    grids = (np.linspace(0, 1, steps) * top for top in (terms.wanted, terms.wanted, terms.volatile))
    for size, puts, volatile in itertools.product(*grids):
        loss = size * draws.position - menu.payoffs[:, 0] * puts + volatile * draws.volatile
        if cvar(loss, draws.weights, LEVEL) > budget:
            continue
        im = int(requirement(np.array([round(size)]), terms.caps, terms.rates)[0]) / 1e6
        ruin = cvar(loss, draws.weights, 1 - RUIN / 2) - volatile
        stable = max(0.0, im - (1 - terms.haircut) * volatile, ruin)
        borrowed = max(0.0, stable + menu.price[0] * puts - terms.stable)
        if borrowed > terms.borrow_cap:
            continue
        cost = terms.forgone * (terms.wanted - size) + menu.price[0] * puts + terms.stable_carry * stable
        best = min(best, cost + terms.volatile_carry * volatile + terms.borrow_rate * borrowed)
    return best


@pytest.mark.parametrize(("seed", "budget"), [(0, 8_000.0), (1, 5_000.0), (2, 15_000.0), (3, 2_000.0)])
def test_the_cheapest_plan_against_a_grid(seed: int, budget: float) -> None:
    draws, menu = world(seed)
    terms = terms_of()
    found = plan(draws, menu, terms, budget, LEVEL, RUIN)
    assert found.feasible
    assert found.reason == ""
    checked(found, draws, menu, terms, budget)
    grid = brute(draws, menu, terms, budget, 17)
    # The grid is feasible, so never cheaper; and a step of it costs no more than this.
    step = (terms.forgone + float(menu.price[0])) * terms.wanted / 16 + terms.volatile * terms.borrow_rate / 16
    assert found.cost <= grid + 1e-6
    assert found.cost >= grid - step


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 0.02), st.integers(1, 3))
def test_the_frontier_is_convex_and_falls(seed: int, forgone: float, puts: int) -> None:
    draws, menu = world(seed, puts)
    terms = terms_of(forgone=forgone, perp_cap=100_000.0)
    budgets = np.linspace(500.0, 20_000.0, 9)
    found = frontier(draws, menu, terms, budgets.tolist(), LEVEL, RUIN)
    for each, budget in zip(found, budgets.tolist(), strict=True):
        checked(each, draws, menu, terms, budget)
    costs = np.array([each.cost for each in found])
    assert (np.diff(costs) <= 1e-4).all()
    assert (np.diff(costs, n=2) >= -1e-3).all()


def test_each_of_the_three_is_used_where_it_is_the_cheapest() -> None:
    draws, menu = world(4)
    dear = replace(menu, price=menu.price * 100)
    rich = terms_of(stable=1e6)
    free = plan(draws, dear, rich, 1e6, LEVEL, RUIN)
    assert free.size == pytest.approx(rich.wanted)
    assert free.puts.sum() + free.perp == pytest.approx(0.0, abs=1e-6)
    tight = 0.5 * free.shortfall
    assert plan(draws, dear, rich, tight, LEVEL, RUIN).size < 0.9 * rich.wanted  # size is given up ...
    kept = replace(rich, forgone=1.0)
    assert plan(draws, menu, kept, tight, LEVEL, RUIN).puts.sum() > 0  # ... or puts are bought ...
    hedged = plan(draws, dear, replace(kept, perp_cap=1e5), tight, LEVEL, RUIN)
    assert hedged.perp > 0  # ... or a perpetual is sold
    assert hedged.size > 0.99 * rich.wanted
    poor = plan(draws, dear, replace(kept, stable=0.0, volatile_carry=0.01), 1e6, LEVEL, RUIN)
    assert poor.borrowed > 0  # what is not owned is borrowed, where volatile collateral costs more
    assert plan(draws, dear, replace(kept, stable=0.0, borrow_rate=0.5), 1e6, LEVEL, RUIN).volatile > 0


def test_the_margin_is_the_tiers_own() -> None:
    draws, menu = world(4)
    calm = replace(draws, position=draws.position / 10, volatile=draws.volatile / 10)
    found = plan(calm, menu, terms_of(forgone=1.0, stable=1e6, volatile=0.0), 1e9, LEVEL, RUIN)
    assert found.stable == pytest.approx(0.10 * 40_000 + 0.15 * 40_000 + 0.25 * 20_000)


def test_ruin_binds_without_a_budget() -> None:
    draws, menu = world(5)
    low = terms_of(rates=np.array([1_000, 1_000, 1_000]), stable=5_000.0, volatile=0.0, borrow_cap=0.0)
    found = plan(draws, menu, low, 1e9, LEVEL, RUIN)
    checked(found, draws, menu, low, 1e9)
    assert found.ruin_shortfall == pytest.approx(0.0, abs=0.02)
    assert found.size < low.wanted
    loose = plan(draws, menu, low, 1e9, LEVEL, 0.9)
    assert loose.cost < found.cost


def test_an_infeasible_budget_is_never_relaxed() -> None:
    draws, menu = world(6)
    bound = terms_of(least=60_000.0)
    few = replace(menu, cap=np.array([10_000.0]))
    found = plan(draws, few, bound, 100.0, LEVEL, RUIN)
    assert (found.feasible, found.reason) == (False, INFEASIBLE)
    assert np.isnan([found.cost, found.size, found.shortfall, *found.puts]).all()
    assert found.least_budget > 100.0
    again = plan(draws, few, bound, found.least_budget * (1 + 1e-6), LEVEL, RUIN)
    assert again.feasible
    checked(again, draws, few, bound, found.least_budget * (1 + 1e-6))
    assert not plan(draws, few, bound, found.least_budget * (1 - 1e-3), LEVEL, RUIN).feasible


def test_margin_that_cannot_be_met_has_no_budget() -> None:
    draws, menu = world(7)
    broke = terms_of(least=90_000.0, stable=0.0, volatile=0.0, borrow_cap=0.0)
    found = plan(draws, menu, broke, 1e9, LEVEL, RUIN)
    assert not found.feasible
    assert np.isnan(found.least_budget)


def test_terms_that_make_no_programme_are_refused() -> None:
    draws, menu = world(8)
    for bad in ({"wanted": 0.0}, {"rates": np.array([3, 2, 1])}):
        with pytest.raises(UsageError, match="wanted size above 0"):
            plan(draws, menu, terms_of(**bad), 1.0, LEVEL, RUIN)
    with pytest.raises(DataInvalid, match="volatile"):
        plan(replace(draws, volatile=np.full(50, np.nan)), menu, terms_of(), 1.0, LEVEL, RUIN)
    with pytest.raises(DataInvalid, match="price"):
        plan(draws, replace(menu, price=menu.price * np.nan), terms_of(), 1.0, LEVEL, RUIN)


def test_carries_of_a_day(terms: PortfolioParams) -> None:
    assert carries(terms, 24) == pytest.approx(
        {"stable_carry": 0.05 / 365, "volatile_carry": 0.02 / 365, "borrow_rate": 0.10 / 365}
    )
