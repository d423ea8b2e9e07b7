"""Greeks against parity, finite differences, QuantLib and their limits; the book against full revaluation."""

from __future__ import annotations

import importlib
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import UsageError
from forecaster.policy.hedging.greeks import (
    CALL,
    LINEAR,
    PUT,
    YEAR_HOURS,
    Book,
    attribute,
    greeks,
    insolvency,
    ladder,
)

spots = st.floats(0.01, 1e5)
moneyness = st.floats(-0.7, 0.7)
hours = st.floats(1.0, 2 * YEAR_HOURS)
sigmas = st.floats(0.05, 2.5)
rates = st.floats(-0.1, 0.3)
kinds = st.sampled_from([CALL, PUT])


def price(kind: int, s: float, k: float, h: float, v: float, r: float, b: float) -> float:
    return float(greeks(kind, s, k, h, v, r, b).price)


@given(spots, moneyness, hours, sigmas, rates, rates)
def test_parity(s: float, m: float, h: float, v: float, r: float, b: float) -> None:
    k, t = s * math.exp(m), h / YEAR_HOURS
    call, put = greeks(CALL, s, k, h, v, r, b), greeks(PUT, s, k, h, v, r, b)
    forward = s * math.exp((b - r) * t)
    assert float(call.price - put.price) == pytest.approx(forward - k * math.exp(-r * t), abs=1e-11 * (s + k))
    assert float(call.delta - put.delta) == pytest.approx(math.exp((b - r) * t), abs=1e-12)
    assert float(call.gamma) == float(put.gamma)
    assert float(call.vega) == float(put.vega)


@settings(max_examples=300)
@given(kinds, spots, moneyness, hours, sigmas, rates, rates)
def test_greeks_are_the_slopes_of_the_price(
    kind: int, s: float, m: float, h: float, v: float, r: float, b: float
) -> None:
    k = s * math.exp(m)
    g, root = greeks(kind, s, k, h, v, r, b), v * math.sqrt(h / YEAR_HOURS)

    def slope(low: float, high: float, step: float) -> float:
        return (high - low) / step

    e = s * min(1e-3, 0.02 * root)
    up, mid, down = (price(kind, s + x, k, h, v, r, b) for x in (e, 0.0, -e))
    assert float(g.delta) == pytest.approx(slope(down, up, 2 * e), abs=2e-4)
    peak = 1 / (s * root)  # the scale of gamma
    assert float(g.gamma) == pytest.approx((up - 2 * mid + down) / e**2, abs=3e-3 * peak + 1e-11 * s / e**2)
    e = 1e-4 * v
    vega = slope(price(kind, s, k, h, v - e, r, b), price(kind, s, k, h, v + e, r, b), 2 * e)
    assert float(g.vega) == pytest.approx(vega, abs=1e-5 * s)
    e = 1e-4 * h
    decay = -slope(price(kind, s, k, h - e, v, r, b), price(kind, s, k, h + e, v, r, b), 2 * e) * YEAR_HOURS
    assert float(g.theta) == pytest.approx(decay, rel=1e-4, abs=1e-5 * s * max(1.0, v * v / root))
    e = 1e-5
    rho = slope(price(kind, s, k, h, v, r - e, b - e), price(kind, s, k, h, v, r + e, b + e), 2 * e)
    assert float(g.rho) == pytest.approx(rho, abs=1e-5 * (s + k))


@pytest.fixture(scope="module")
def quantlib() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its binding types name no module
        try:
            return importlib.import_module("QuantLib")
        except ImportError:
            pytest.skip("QuantLib is absent; it comes with the dev extra")


def test_quantlib_agrees(quantlib: Any) -> None:
    ql, rng = quantlib, np.random.default_rng(7)
    for _ in range(300):
        s, m, t, v = rng.uniform(1, 1e4), rng.uniform(-0.5, 0.5), rng.uniform(0.003, 2), rng.uniform(0.05, 2)
        r, b = rng.uniform(-0.05, 0.2), rng.uniform(-0.1, 0.2)
        k, kind = s * math.exp(m), int(rng.choice([CALL, PUT]))
        payoff = ql.PlainVanillaPayoff(ql.Option.Call if kind == CALL else ql.Option.Put, k)
        oracle = ql.BlackCalculator(payoff, s * math.exp(b * t), v * math.sqrt(t), math.exp(-r * t))
        g = greeks(kind, s, k, t * YEAR_HOURS, v, r, b)
        expected = {
            "price": oracle.value(),
            "delta": oracle.delta(s),
            "gamma": oracle.gamma(s),
            "vega": oracle.vega(t),
            "theta": oracle.theta(s, t),
            "rho": oracle.rho(t),
        }
        for name, value in expected.items():
            assert float(getattr(g, name)) == pytest.approx(value, rel=1e-8, abs=1e-9 * s), name


@pytest.mark.parametrize(("h", "v"), [(0.0, 0.6), (24.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("kind", [CALL, PUT])
def test_without_time_or_volatility_an_option_is_its_payoff(kind: int, h: float, v: float) -> None:
    for s in (80.0, 120.0):
        g = greeks(kind, s, 100.0, h, v)
        inside = kind * (s - 100.0) > 0
        assert float(g.price) == max(kind * (s - 100.0), 0.0)
        assert float(g.delta) == (kind if inside else 0)
        assert float(g.gamma) == float(g.vega) == float(g.theta) == 0.0
    at = greeks(kind, 100.0, 100.0, h, v)
    assert float(at.delta) == kind / 2
    assert math.isinf(float(at.gamma))


@given(kinds, moneyness.filter(lambda m: abs(m) > 1e-3), rates, rates)
def test_limits_are_approached(kind: int, m: float, r: float, b: float) -> None:
    k = 100 * math.exp(m)
    for h, v in ((1e-9, 0.6), (1e-9, 1e-9)):
        assert price(kind, 100.0, k, h, v, r, b) == pytest.approx(price(kind, 100.0, k, 0.0, v, r, b), abs=1e-6)
    t = 24 / YEAR_HOURS
    forward = 100 * math.exp((b - r) * t) - k * math.exp(-r * t)
    assert price(kind, 100.0, k, 24.0, 1e-9, r, b) == pytest.approx(max(kind * forward, 0.0), abs=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        *({"spot": 0.0}, {"strike": -1.0}, {"hours": math.nan}, {"sigma": -0.1}, {"kind": 2}, {"kind": math.nan}),
        *({"sigma": math.inf}, {"hours": math.inf}, {"spot": math.inf}, {"rate": math.nan}, {"carry": -math.inf}),
    ],
)
def test_absurd_options_are_refused(bad: dict[str, float]) -> None:
    lawful = {"kind": PUT, "spot": 100.0, "strike": 100.0, "hours": 24.0, "sigma": 0.5}
    with pytest.raises(UsageError, match="spot > 0"):
        greeks(**{**lawful, **bad})


def book() -> Book:
    return Book(
        kind=np.array([LINEAR, PUT, CALL]),
        quantity=np.array([1.0, 2.0, -1.5]),
        strike=np.array([1.0, 95.0, 110.0]),
        hours=np.array([0.0, 240.0, 720.0]),
        sigma=np.array([0.0, 0.7, 0.6]),
    )


def test_the_ladder_adds_the_positions_up() -> None:
    table = ladder(book(), 100.0, [-0.2, 0.0, 0.1])
    for row in table.itertuples():
        s = 100 * (1 + row.shock)
        put, call = greeks(PUT, s, 95.0, 240.0, 0.7), greeks(CALL, s, 110.0, 720.0, 0.6)
        assert row.delta == pytest.approx(1 + 2 * float(put.delta) - 1.5 * float(call.delta))
        assert row.vega == pytest.approx(2 * float(put.vega) - 1.5 * float(call.vega))
        assert row.price == pytest.approx(s + 2 * float(put.price) - 1.5 * float(call.price))
    assert table["profit"].iloc[1] == 0.0


def test_attribution_sums_to_revaluation_and_its_residual_is_third_order() -> None:
    residuals = []
    for step in (1.0, 0.5):
        a = attribute(book(), 100.0, 100 + 2 * step, hours=2 * step**2, sigma_change=0.01 * step)
        after = book().later(2 * step**2, 0.01 * step).at(100 + 2 * step).price
        assert a.total == pytest.approx(float(after - book().at(100.0).price), rel=1e-12)
        assert a.delta + a.gamma + a.theta + a.vega + a.residual == pytest.approx(a.total, rel=1e-12)
        residuals.append(abs(a.residual))
    assert residuals[1] < residuals[0] / 3


def test_insolvency_of_a_linear_book_is_the_law_s_own_tail() -> None:
    long = Book(np.array([LINEAR]), np.array([1.0]), np.array([1.0]), np.array([0.0]), np.array([0.0]))
    returns, weights = np.log(np.array([0.7, 0.85, 0.95, 1.0, 1.1])), np.array([0.05, 0.1, 0.25, 0.4, 0.2])
    p = insolvency(long, 100.0, returns, weights, 10.0, hours=24, depth_usd=math.inf, impact=1.0)
    assert p.delta_gamma == p.revaluation == pytest.approx(0.15)
    # 85 USD at 70 % of the depth eaten: 0.1 * 95 * sqrt(95 / 95) = 9.5 lifts the 5 USD loss beyond 10.
    p = insolvency(long, 100.0, returns, weights, 10.0, hours=24, depth_usd=95.0, impact=0.1)
    assert p.revaluation == pytest.approx(0.40 + 0.4 * (0.1 * 100 * math.sqrt(100 / 95) > 10))
    with pytest.raises(UsageError, match="depth_usd"):
        insolvency(long, 100.0, returns, weights, 10.0, hours=24, depth_usd=0.0, impact=1.0)


def test_an_option_at_its_strike_at_expiry_has_no_second_order() -> None:
    pinned = Book(np.array([PUT]), np.array([-1.0]), np.array([100.0]), np.array([0.0]), np.array([0.6]))
    with pytest.raises(UsageError, match="settle it first"):
        insolvency(pinned, 100.0, [-0.5, 0.0], [0.5, 0.5], 1.0, hours=24, depth_usd=math.inf, impact=0.0)
    with pytest.raises(UsageError, match="settle it first"):
        attribute(pinned, 100.0, 100.0, 24.0, 0.0)
    beside = insolvency(pinned, 90.0, [-0.5, 0.0], [0.5, 0.5], 1.0, hours=24, depth_usd=math.inf, impact=0.0)
    assert beside.delta_gamma == beside.revaluation == 0.5


def test_delta_gamma_misjudges_a_book_of_short_far_puts() -> None:
    """Far from the strike the quadratic does not see the convexity that a crash brings; revaluation does."""
    short = Book(np.array([PUT]), np.array([-1.0]), np.array([70.0]), np.array([168.0]), np.array([0.6]))
    returns, weights = np.log(np.array([0.5, 1.0])), np.array([0.01, 0.99])
    p = insolvency(short, 100.0, returns, weights, 15.0, hours=24, depth_usd=math.inf, impact=0.0)
    assert p.revaluation == pytest.approx(0.01)
    assert p.delta_gamma == 0.0
