"""The fund: targets by hand, layers that add up, prices that order themselves."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import DataInvalid, UsageError
from forecaster.policy import Params
from forecaster.policy.insurance import (
    expected_shortfall,
    fund_target,
    joint_draws,
    pooling,
    premium,
    price_of_risk,
    tranche,
    tranche_prices,
)

PARAMS = Params.default()
LOSSES = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60).map(np.array)


def test_target_is_the_larger_of_cover_two_and_the_simulated_tail() -> None:
    accounts = np.array([10.0, 500.0, -40.0, 300.25, 200.0])
    assert fund_target(accounts, np.array([1.0, 2.0]), PARAMS) == 801
    draws = np.arange(2001.0)
    assert fund_target(accounts, draws, PARAMS) == 1998
    assert fund_target(np.array([-5.0]), np.empty(0), PARAMS) == 0
    assert fund_target(np.empty(0), np.empty(0), PARAMS) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_target_is_not_made_of_what_is_no_number(bad: float) -> None:
    with pytest.raises(DataInvalid, match="simulated shortfall 1"):
        fund_target(np.array([1.0, 2.0]), np.array([1e9, bad]), PARAMS)
    with pytest.raises(DataInvalid, match="loss beyond margin 0"):
        fund_target(np.array([bad, 2.0]), np.array([1e9]), PARAMS)


def test_expected_shortfall_is_the_mean_of_the_worst() -> None:
    losses = np.arange(1.0, 201.0)
    assert expected_shortfall(losses, 0.99) == pytest.approx(199.5)
    assert expected_shortfall(losses, 0.9975) == pytest.approx(200.0)
    # The worst 1.5 draws: all of the worst, half of the next.
    assert expected_shortfall(losses, 1 - 1.5 / 200) == pytest.approx((200 + 0.5 * 199) / 1.5)


@given(losses=LOSSES, level=st.floats(0.5, 0.999))
def test_expected_shortfall_by_its_variational_form(losses: np.ndarray, level: float) -> None:
    """Rockafellar and Uryasev: min over c of c + E[max(L - c, 0)] / (1 - level), attained at a draw."""
    best = min(c + np.maximum(losses - c, 0.0).mean() / (1 - level) for c in losses)
    assert expected_shortfall(losses, level) == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_premium_by_hand() -> None:
    losses = np.concatenate([np.zeros(99), [100.0]])
    assert premium(losses, PARAMS) == pytest.approx(1.2 * 1.0 + 0.1 * (100.0 - 1.0))


@given(losses=LOSSES, edges=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=5, unique=True).map(sorted))
def test_layers_add_to_the_total(losses: np.ndarray, edges: list[float]) -> None:
    bounds = [0.0, *edges, math.inf]
    layers = [tranche(losses, low, high) for low, high in pairwise(bounds)]
    assert np.sum(layers, axis=0) == pytest.approx(losses)
    for layer, low, high in zip(layers, bounds[:-1], bounds[1:], strict=True):
        assert (layer >= 0).all()
        assert (layer <= high - low).all()
        assert (layer[losses <= low] == 0).all()  # junior layers bear first


def test_a_layer_upside_down_is_refused() -> None:
    with pytest.raises(UsageError, match="from 5 to 3"):
        tranche(np.array([1.0, 10.0]), 5.0, 3.0)


@given(losses=LOSSES, target=st.floats(1.0, 1e6))
def test_prices_of_tranches_add_to_the_price_of_the_whole(losses: np.ndarray, target: float) -> None:
    """Layers of one loss are comonotone, and expected shortfall adds over comonotone losses."""
    priced = tranche_prices(losses, target, PARAMS)
    assert len(priced) == len(PARAMS.insurance.tranche_caps) + 1
    assert sum(mean for mean, _ in priced) == pytest.approx(losses.mean(), rel=1e-6, abs=1e-6)
    assert sum(price for _, price in priced) == pytest.approx(premium(losses, PARAMS), rel=1e-6, abs=1e-6)
    assert all(price >= mean - 1e-9 for mean, price in priced)


def test_price_of_risk_of_each_tier() -> None:
    rng = np.random.default_rng(3)
    losses = np.abs(rng.standard_t(3, 20_000)) * 0.05
    im = np.full(len(losses), 0.2)
    tiers = {name: PARAMS.protected(name).protection for name in ("basic", "hedged", "insured")}
    basic, hedged, insured = price_of_risk(losses, im, tiers, PARAMS)
    assert [row.tier for row in (basic, hedged, insured)] == list(tiers)
    for row in (basic, hedged, insured):
        assert row.retained + row.hedged + row.insured == pytest.approx(losses.mean())
        assert row.premium == pytest.approx(1.2 * row.insured + 0.1 * (row.tail - row.insured))
    assert basic.insured == pytest.approx(np.maximum(losses - 0.2, 0.0).mean())
    assert basic.hedged == insured.hedged == 0
    # The hedged tier moves the middle layer to the market and leaves the fund what basic leaves it.
    assert hedged.insured == pytest.approx(basic.insured)
    assert hedged.retained == pytest.approx(insured.retained) == pytest.approx(np.minimum(losses, 0.1).mean())
    assert insured.premium > hedged.premium
    assert insured.retained < basic.retained


def test_a_dearer_load_costs_more() -> None:
    losses = np.array([0.0, 1.0, 10.0])
    dear = dataclasses.replace(PARAMS, insurance=dataclasses.replace(PARAMS.insurance, load=0.5))
    assert premium(losses, dear) - premium(losses, PARAMS) == pytest.approx(0.3 * losses.mean())


def equal(rho: float, venues: int = 2) -> np.ndarray:
    return np.where(np.eye(venues, dtype=bool), 1.0, rho)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.7, 1.0])
def test_joint_draws_keep_each_venue_s_law_and_the_ranks_correlation(rho: float) -> None:
    rng = np.random.default_rng(1)
    own = [rng.exponential(1.0, 900), rng.pareto(2.0, 400)]
    drawn = joint_draws(own, equal(rho), 40_000, seed=5)
    for venue, column in zip(own, drawn.T, strict=True):
        assert set(column) <= set(venue)
        assert np.quantile(column, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(venue, [0.1, 0.5, 0.9]), rel=0.05)
    ranks = pd.DataFrame(drawn).rank().corr().iloc[0, 1]
    assert ranks == pytest.approx(6 / math.pi * math.asin(rho / 2), abs=0.02)
    np.testing.assert_array_equal(drawn, joint_draws(own, equal(rho), 40_000, seed=5))


@pytest.mark.parametrize("matrix", [equal(-0.9, 3), np.array([[1.0, 0.2], [0.3, 1.0]]), 2 * np.eye(2), np.eye(3)])
def test_what_is_no_correlation_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(UsageError, match="correlation must be symmetric"):
        joint_draws([np.ones(3)] * (3 if matrix[0, 1] < 0 else 2), matrix, 10, seed=0)


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_pooling_diversifies_as_the_normal_law_says(rho: float) -> None:
    """Of two equal normal losses the shortfall beyond the mean is that of one times sqrt(2 (1 + rho))."""
    own = 10 + np.random.default_rng(2).standard_normal(20_000)
    drawn = joint_draws([own, own], equal(rho), 200_000, seed=7)
    told = pooling(drawn, np.zeros(2), PARAMS)
    terms, mean = PARAMS.insurance, 2 * drawn.mean()
    apart, pooled = (price - (1 + terms.load) * mean for price in (told.premium_apart, told.premium_pooled))
    assert pooled / apart == pytest.approx(math.sqrt((1 + rho) / 2), rel=0.03)
    assert told.unpaid_apart == told.unpaid_pooled == pytest.approx(mean)


@given(
    losses=st.lists(st.tuples(*[st.floats(0.0, 1e6)] * 3), min_size=1, max_size=40).map(np.array),
    funds=st.tuples(*[st.floats(0.0, 1e6)] * 3).map(np.array),
)
def test_one_fund_never_leaves_more_unpaid_nor_costs_more(losses: np.ndarray, funds: np.ndarray) -> None:
    told = pooling(losses, funds, PARAMS)
    assert told.premium_pooled <= told.premium_apart * (1 + 1e-9)
    assert told.unpaid_pooled <= told.unpaid_apart + 1e-6
    by_hand = [sum(max(0.0, x - f) for x, f in zip(row, funds, strict=True)) for row in losses.tolist()]
    assert told.unpaid_apart == pytest.approx(float(np.mean(by_hand)), rel=1e-9, abs=1e-6)
    assert told.lent == pytest.approx(told.unpaid_apart - told.unpaid_pooled, abs=1e-6)


def test_one_venue_s_ruin_empties_the_common_fund() -> None:
    """Venue 0 loses 90 against a fund of 20: pooled, 70 comes from venue 1, whose own loss of 30 then goes unpaid."""
    told = pooling(np.array([[90.0, 30.0]]), np.array([20.0, 90.0]), PARAMS)
    assert (told.unpaid_apart, told.unpaid_pooled, told.lent) == (70.0, 10.0, 60.0)
