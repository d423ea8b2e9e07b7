"""Haircuts rise with every risk, weights fall with size, and one price serves valuation and liquidation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import DataInvalid
from forecaster.policy import Params
from forecaster.policy.collateral import (
    Prices,
    collateral_value,
    haircut,
    haircut_ppm,
    impermanent_loss,
    risk_weight,
)
from forecaster.policy.inputs import read
from forecaster.policy.margin import targets

PARAMS = Params.default()
SHARE = st.floats(0.0, 1.0)


def one(*values: float) -> list[np.ndarray]:
    return [np.array([value]) for value in values]


@given(parts=st.tuples(SHARE, SHARE, SHARE, st.floats(-1.0, 1.0)), more=SHARE, which=st.integers(0, 3))
def test_more_of_any_risk_never_lowers_a_haircut(parts: tuple[float, ...], more: float, which: int) -> None:
    worse = [value + more * (k == which) for k, value in enumerate(parts)]
    low, high = (float(haircut(*one(*values))[0]) for values in (parts, worse))
    assert 0 <= low <= high <= 1


def test_haircut_by_hand() -> None:
    assert haircut(*one(0.2, 0.01, 0.005, 0.5))[0] == pytest.approx(0.2 + 0.01 + 0.005 + 0.1)
    assert haircut(*one(0.2, 0.01, 0.005, -0.9))[0] == pytest.approx(0.215)
    assert haircut(*one(np.nan, 0.01, 0.0, 0.0))[0] == 1.0
    assert [haircut_ppm(x) for x in (0.005, 0.0050000011, 2.0, -1.0)] == [5_000, 5_001, 1_000_000, 0]


def test_the_schedule_publishes_the_haircut_of_the_quote_asset(
    rows_of: Callable[..., pd.DataFrame], params: Params
) -> None:
    """The quote asset neither moves against itself nor needs selling: its peg is what remains."""
    origin = pd.DatetimeIndex(["2024-03-01T00:00Z"]).as_unit("us")
    row = rows_of("BTCUSDT", origin, np.array([0.01]))
    published = targets(read(row, params), params).vector[0, -1]
    assert published == haircut_ppm(float(haircut(*one(0.0, 0.0, params.collateral.haircut, 0.0))[0]))


@given(cut=SHARE, small=st.floats(1.0, 1e9), more=st.floats(0.0, 1e9))
def test_more_collateral_counts_for_more_in_total_and_less_each(cut: float, small: float, more: float) -> None:
    sizes = np.array([small, small + more])
    weight = risk_weight(np.full(2, cut), sizes, PARAMS)
    assert weight[1] <= weight[0] <= 1 - cut
    assert weight[1] * sizes[1] >= weight[0] * sizes[0] * (1 - 1e-12)


def test_small_holdings_count_without_a_discount() -> None:
    assert risk_weight(*one(0.1), *one(0.0), PARAMS)[0] == pytest.approx(0.9)
    four = 4 * PARAMS.collateral.concentration_usd
    assert risk_weight(*one(0.1), *one(four), PARAMS)[0] == pytest.approx(0.45)


@given(ratio=st.floats(1e-3, 1e3))
def test_impermanent_loss_against_a_simulated_pool(ratio: float) -> None:
    """A constant-product pool of 1 coin and 1 USD, traded until its price is ``ratio``."""
    coins, usd = 1 / np.sqrt(ratio), np.sqrt(ratio)
    assert coins * usd == pytest.approx(1.0)
    assert usd / coins == pytest.approx(ratio)
    held, pooled = ratio + 1, coins * ratio + usd
    assert impermanent_loss(np.array([ratio]))[0] == pytest.approx(1 - pooled / held, abs=1e-9)


AMOUNTS = {"BTC": 2.0, "USDT": 1_000.0}
WEIGHTS = {"BTC": 0.8, "USDT": 0.995}
NOW = Prices(3_600.0, {"BTC": 50_000.0, "USDT": 1.0})


def test_collateral_is_valued_at_the_price_it_would_be_sold_at() -> None:
    assert collateral_value(AMOUNTS, NOW, NOW, WEIGHTS, PARAMS) == pytest.approx(0.8 * 100_000 + 995)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Prices(7_200.0, NOW.usd), "3600 s apart"),
        (Prices(0.0, {"BTC": 51_000.0, "USDT": 1.0}), "3600 s apart"),
        (Prices(float("nan"), NOW.usd), "nan s apart"),
        (Prices(3_600.0, {"BTC": 50_000.5, "USDT": 1.0}), "BTC: valuation and liquidation do not share"),
        (Prices(3_600.0, {"USDT": 1.0}), "BTC: valuation and liquidation do not share"),
    ],
    ids=["a bar later", "a bar earlier", "no clock", "another price", "no price"],
)
def test_a_shift_by_one_bar_is_refused(other: Prices, message: str) -> None:
    for pair in ((NOW, other), (other, NOW)):
        with pytest.raises(DataInvalid, match=message):
            collateral_value(AMOUNTS, *pair, WEIGHTS, PARAMS)


@pytest.mark.parametrize(
    ("amounts", "weights"),
    [({"BTC": -1.0}, WEIGHTS), ({"BTC": np.nan}, WEIGHTS), ({"BTC": 1.0}, {"USDT": 1.0})],
    ids=["a debt", "no number", "no weight"],
)
def test_what_cannot_be_collateral_is_refused(amounts: dict[str, float], weights: dict[str, float]) -> None:
    with pytest.raises(DataInvalid, match="BTC: collateral needs an amount of at least 0 and a weight"):
        collateral_value(amounts, NOW, NOW, weights, PARAMS)
