"""The oracle under a lying source, an outage and a flash print."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.policy import Params
from forecaster.policy.oracle import Quote, net_gap, persistent_gap, read_price

PARAMS = Params.default()
PRICE = st.floats(1e-6, 1e9)
LIE = st.one_of(PRICE, st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -5.0]))


def quotes(*prices: float, at: float = 100.0) -> list[Quote]:
    return [Quote(f"source{i}", price, at) for i, price in enumerate(prices)]


@given(honest=st.lists(PRICE, min_size=3, max_size=6), lie=LIE)
def test_one_lying_source_stays_within_the_honest_ones(honest: list[float], lie: float) -> None:
    reading = read_price([*quotes(*honest), Quote("liar", lie, 100.0)], 101.0, 1.0, PARAMS)
    assert not reading.reduce_only
    assert min(honest) <= reading.price <= max(honest)


@given(honest=st.lists(PRICE, min_size=3, max_size=7))
def test_the_price_is_the_median(honest: list[float]) -> None:
    reading = read_price(quotes(*honest), 100.0, 1.0, PARAMS)
    assert reading.price == pytest.approx(statistics.median(honest))
    assert reading.sources == len(honest)
    assert reading.confidence >= 0


def test_confidence_is_the_interquartile_range() -> None:
    assert read_price(quotes(10.0, 20.0, 30.0, 40.0, 50.0), 100.0, 1.0, PARAMS).confidence == pytest.approx(20.0)


@pytest.mark.parametrize(
    "heard",
    [
        [],
        quotes(10.0, 11.0),
        quotes(10.0, 11.0, math.nan),
        [*quotes(10.0, 11.0), Quote("old", 12.0, 100.0 - 61.0)],
        [*quotes(10.0, 11.0), Quote("future", 12.0, 100.1)],
        [*quotes(10.0, 11.0), Quote("source1", 99.0, 100.0), Quote("source1", 98.0, 99.0)],
    ],
    ids=["outage", "two", "nan", "stale", "future", "one source twice"],
)
def test_without_a_quorum_the_last_good_price_stands(heard: list[Quote]) -> None:
    reading = read_price(heard, 100.0, 42.0, PARAMS)
    assert (reading.price, reading.confidence, reading.reduce_only) == (42.0, 0.0, True)


def test_a_source_speaks_with_its_newest_quote() -> None:
    heard = [*quotes(10.0, 10.0), Quote("late", 99.0, 80.0), Quote("late", 12.0, 99.0), Quote("late", 98.0, 70.0)]
    assert read_price(heard, 100.0, 1.0, PARAMS).price == 10.0
    assert read_price([heard[0], *heard[2:], Quote("other", 13.0, 99.0)], 100.0, 1.0, PARAMS).price == 12.0


def test_a_flash_print_trips_no_breaker() -> None:
    prices = np.full(50, 100.0)
    prices[20] = 40.0
    gaps = net_gap(prices, np.full(50, 100.0), np.zeros(50))
    assert gaps[20] == pytest.approx(0.6)
    assert not (persistent_gap(gaps, PARAMS) > PARAMS.breakers.gap_limits[0]).any()


def test_three_breaches_on_end_count_net_of_confidence() -> None:
    limit = PARAMS.breakers.gap_limits[0]
    gaps = net_gap(np.array([100.0, 102.0, 102.0, 102.0, 100.0, 102.0]), np.full(6, 100.0), np.full(6, 0.5))
    assert gaps == pytest.approx([0.0, 0.015, 0.015, 0.015, 0.0, 0.015])
    assert (persistent_gap(gaps, PARAMS) > limit).tolist() == [False, False, False, True, False, False]
    assert not (persistent_gap(net_gap(np.full(5, 102.0), np.full(5, 100.0), np.full(5, 1.5)), PARAMS) > limit).any()
    assert np.isnan(persistent_gap(np.array([0.5, 0.5]), PARAMS)).all()
    assert np.isnan(persistent_gap(np.array([0.5, np.nan, 0.5, 0.5, 0.5]), PARAMS)).tolist() == [True] * 4 + [False]


def test_several_prices_keep_apart() -> None:
    gaps = np.random.default_rng(0).uniform(0, 1, (3, 20))
    gaps[1, 7] = np.nan
    np.testing.assert_array_equal(persistent_gap(gaps, PARAMS), [persistent_gap(row, PARAMS) for row in gaps])
