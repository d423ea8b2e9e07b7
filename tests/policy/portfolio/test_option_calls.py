"""Calls of option books: books that only one Greek can hurt, a slow search of the ladder, the order of the levels."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import UsageError
from forecaster.policy import Params
from forecaster.policy.accounts import Level
from forecaster.policy.hedging.greeks import CALL, LINEAR, PUT, Book, attribute
from forecaster.policy.portfolio import PortfolioParams
from forecaster.policy.portfolio.option_calls import TRIGGERS, option_call

PARAMS = Params.default()
SPOT = 100.0


def book(*positions: tuple[int, float, float, float, float]) -> Book:
    columns = [np.array(column, dtype=np.float64) for column in zip(*positions, strict=True)]
    return Book(columns[0].astype(np.int64), *columns[1:])


def value(kind: int, strike: float, hours: float, sigma: float, spot: float) -> float:
    """Black and Scholes without rates, written apart."""
    if kind == LINEAR:
        return spot
    total = sigma * math.sqrt(hours / 8760)
    if total == 0:
        return max(kind * (spot - strike), 0.0)
    d1 = math.log(spot / strike) / total + total / 2
    cdf = NormalDist().cdf
    return kind * (spot * cdf(kind * d1) - strike * cdf(kind * (d1 - total)))


STRADDLE = book((CALL, -10.0, 100.0, 240.0, 0.6), (PUT, -10.0, 100.0, 240.0, 0.6))


def test_the_loss_is_the_worst_of_a_slow_search(terms: PortfolioParams) -> None:
    mixed = book((CALL, -10.0, 105.0, 100.0, 0.6), (PUT, 7.0, 90.0, 2000.0, 0.8), (LINEAR, 3.0, 1.0, 0.0, 0.0))
    worst = -math.inf
    for x, shift, t in product(np.linspace(-0.2, 0.2, 9), ("same", "up", "down"), (0.0, 8.0, 24.0)):
        loss = 0.0
        for kind, quantity, strike, hours, sigma in zip(
            mixed.kind, mixed.quantity, mixed.strike, mixed.hours, mixed.sigma, strict=True
        ):
            days = hours / 24
            growth = (30 / days) ** (0.3 if days < 30 else 0.13) if kind != LINEAR else 0.0
            then = {
                "same": sigma,
                "up": max(sigma, 0.5, sigma * (1 + 0.5 * growth)),
                "down": max(0.0, sigma * (1 - 0.25 * growth)),
            }[shift]
            now = value(kind, strike, hours, sigma, SPOT)
            loss += quantity * (now - value(kind, strike, max(hours - t, 0.0), then, SPOT * (1 + x)))
        worst = max(worst, loss)
    found = option_call(mixed, SPOT, 1e6, Level.HEALTHY, 0.2, PARAMS, terms)
    assert found.loss == pytest.approx(worst)
    assert sum(found.parts.values()) == pytest.approx(found.loss)


def test_each_greek_alone_calls_in_its_name(terms: PortfolioParams) -> None:
    calm = replace(terms, vol_up=0.0, vol_down=0.0, vol_floor=0.0)
    still = replace(calm, ladder_hours=(0.0,))
    long_straddle = book((CALL, 10.0, 100.0, 30.0, 0.6), (PUT, 10.0, 100.0, 30.0, 0.6))
    cases = {
        "delta": (book((LINEAR, 10.0, 1.0, 0.0, 0.0)), 0.16, terms),
        "gamma": (STRADDLE, 0.16, still),
        "vega": (STRADDLE, 1e-9, replace(terms, ladder_hours=(0.0,))),
        "theta": (long_straddle, 1e-9, calm),
    }
    for trigger, (positions, widest, grid) in cases.items():
        found = option_call(positions, SPOT, 1.0, Level.HEALTHY, widest, PARAMS, grid)
        assert found.trigger == trigger
        assert found.level == Level.BACKSTOP
        assert found.parts[trigger] == pytest.approx(found.loss, rel=0.25 if trigger == "gamma" else 1e-6)


def test_levels_come_in_their_order_as_equity_falls(terms: PortfolioParams) -> None:
    loss = option_call(STRADDLE, SPOT, 1e9, Level.HEALTHY, 0.16, PARAMS, terms).loss
    found = [
        option_call(STRADDLE, SPOT, share * loss, Level.HEALTHY, 0.16, PARAMS, terms)
        for share in (2.0, 1.4, 1.05, 0.9, 0.5)
    ]
    assert [call.level for call in found] == list(Level)
    assert [call.trigger == "" for call in found] == [True, False, False, False, False]
    # Once searched it is released at 1.3 only; an equity that is not known is lost.
    assert option_call(STRADDLE, SPOT, 1.2 * loss, Level.SEARCH, 0.16, PARAMS, terms).level == Level.SEARCH
    assert option_call(STRADDLE, SPOT, math.nan, Level.HEALTHY, 0.16, PARAMS, terms).level == Level.BACKSTOP


def test_a_call_comes_before_the_loss(terms: PortfolioParams) -> None:
    """A sold straddle that has lost nothing yet is called because it would in one lawful move."""
    found = option_call(STRADDLE, SPOT, 125.0, Level.HEALTHY, 0.16, PARAMS, terms)
    assert found.level == Level.SEARCH
    assert (found.sigma, abs(found.move), found.hours) == ("up", pytest.approx(0.16), 0.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([CALL, PUT]), st.floats(-5, 5), st.floats(80, 120)), min_size=1, max_size=4))
def test_parts_sum_and_agree_with_the_second_order(
    terms: PortfolioParams, held: list[tuple[int, float, float]]
) -> None:
    positions = book(*((kind, quantity, strike, 2000.0, 0.5) for kind, quantity, strike in held))
    small = replace(terms, vol_up=0.002, vol_down=0.002, vol_floor=0.0, ladder_hours=(0.0, 1.0))
    found = option_call(positions, SPOT, 1.0, Level.HEALTHY, 0.002, PARAMS, small)
    assert found.loss >= -1e-9
    assert sum(found.parts.values()) == pytest.approx(found.loss, abs=1e-9)
    growth = (30 / (2000 / 24)) ** 0.13
    change = {"same": 0.0, "up": 0.001 * growth, "down": -0.001 * growth}[found.sigma]
    second = attribute(positions, SPOT, SPOT * (1 + found.move), found.hours, change)
    scale = sum(abs(q) for _, q, _ in held) * SPOT
    for name in TRIGGERS:
        assert found.parts[name] == pytest.approx(-getattr(second, name), abs=2e-6 * scale)


def test_a_book_without_volatility_is_refused(terms: PortfolioParams) -> None:
    with pytest.raises(UsageError, match="sigma"):
        option_call(book((CALL, 1.0, 100.0, 24.0, math.nan)), SPOT, 1.0, Level.HEALTHY, 0.16, PARAMS, terms)
