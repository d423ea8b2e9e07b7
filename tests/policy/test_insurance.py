"""The fund: targets by hand, layers that add up, prices that order themselves."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.policy import Params
from forecaster.policy.insurance import (
    expected_shortfall,
    fund_target,
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
