"""Cross-margin: by hand, against a slow loop of its definition, its limits, its directions and its refusals to loosen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataInvalid
from forecaster.policy.hedging.greeks import CALL, PUT, greeks
from forecaster.policy.portfolio import PortfolioParams
from forecaster.policy.portfolio.cross_margin import CrossMargin, Fallback, cross_margin
from forecaster.policy.portfolio.scan import Options
from forecaster.policy.portfolio.state import RiskState

StateOf = Callable[..., RiskState]
NAMES = ("AUSDT", "BUSDT", "CUSDT", "DUSDT")


def rows(*positions: tuple[float, ...]) -> np.ndarray:
    return np.array(positions, dtype=np.float64)


def option(kind: int, quantity: float, strike: float, hours: float, sigma: float, symbol: int = 0, account: int = 0):
    whole = [np.array([x], dtype=np.int64) for x in (account, symbol, kind)]
    return Options(*whole, *(np.array([x], dtype=np.float64) for x in (quantity, strike, hours, sigma)))


def joined(*parts: Options) -> Options:
    return Options(*(np.concatenate([getattr(p, name) for p in parts]) for name in Options.__annotations__))


# -- perpetuals ---------------------------------------------------------------------------------------------


def slow(position: np.ndarray, state: RiskState, terms: PortfolioParams) -> float:
    """The definition, one account and one draw at a time, for perpetuals within the first tier."""
    margin = np.abs(position) * state.im[:, 0] / 1e6
    signed = np.sign(position) * margin
    found = []
    for matrix in (state.correlation, np.eye(4), np.ones((4, 4))):
        found.append(np.sqrt(max(0.0, signed @ matrix @ signed)))
        reach = position * np.maximum(terms.price_range, state.im[:, 0] / 1e6)
        found.append(np.sqrt(max(0.0, reach @ matrix @ reach)))
    draws = state.standardised * state.sigma

    def shortfall(gains: np.ndarray) -> float:
        worst = np.sort(-gains)[::-1][: round(0.01 * len(gains))]
        return float(worst.mean())

    found.append(shortfall(np.array([position @ np.expm1(draw) for draw in draws])))
    found.append(shortfall(np.array([position @ np.expm1(draw) for draw in np.sort(draws, axis=0)])))
    apart = [max(0.0, shortfall(n * np.expm1(draws[:, i]))) for i, n in enumerate(position)]
    found.append(float(np.sqrt(np.square(apart).sum())))
    return float(np.clip(max(found), 0.2 * margin.sum(), margin.sum()))


@pytest.mark.parametrize("seed", range(8))
def test_the_requirement_is_its_definition(seed: int, state_of: StateOf, terms: PortfolioParams) -> None:
    # A rate below every measure's, so that shortfall, scan and parametric part all rule for some seed.
    rates = np.full((4, 3), (170_000, 60_000, 100_000)[seed % 3])
    state = state_of(im=rates, mm=rates // 2)
    position = np.random.default_rng(seed).integers(-40_000, 40_000, 4).astype(float)
    found = cross_margin(position[None], NAMES, state, terms)
    assert found.requirement[0] == pytest.approx(slow(position, state, terms), rel=1e-9)


def test_shortfall_rules_where_rates_are_low(state_of: StateOf, terms: PortfolioParams) -> None:
    rates = np.full((4, 3), 90_000)
    narrow = replace(terms, price_range=0.05)
    state = state_of(im=rates, mm=rates // 2, sigma=np.array([0.03, 0.04, 0.05, 0.03]))
    position = np.array([20_000.0, 0.0, -15_000.0, 0.0])
    found = cross_margin(position[None], NAMES, state, narrow)
    assert found.shortfall[0] > max(found.scan[0], found.parametric[0])
    assert found.requirement[0] == pytest.approx(slow(position, state, narrow), rel=1e-9)


@pytest.mark.parametrize("size", [1.0, -1.0, 49_999.5, -75_000.0, 3e6])
@pytest.mark.parametrize("rate", [0.2, 1.0, 4.0])
def test_one_position_pays_exactly_its_own_margin(
    size: float, rate: float, state_of: StateOf, terms: PortfolioParams
) -> None:
    base = state_of()
    state = replace(base, im=np.rint(base.im * rate).astype(np.int64) // 2)
    for place in range(4):
        position = np.zeros((1, 4))
        position[0, place] = size
        found = cross_margin(position, NAMES, state, terms)
        caps, rates, left, paid, below = state.caps[place], state.im[place], np.ceil(abs(size)), 0.0, 0
        for k, cap in enumerate(caps):
            top = left if k == 2 else min(left, cap)
            paid += max(0.0, top - below) * rates[k] / 1e6
            below = cap
        assert found.requirement[0] == pytest.approx(paid)
        assert found.stand_alone[0] == pytest.approx(paid)


def test_direction_matters_and_none_of_the_correlations_forgives_a_hedge(
    state_of: StateOf, terms: PortfolioParams
) -> None:
    alike = state_of(rho=0.999, im=np.full((4, 3), 200_000), mm=np.full((4, 3), 100_000), sigma=np.full(4, 0.03))
    together, against = cross_margin(rows((1e4, 1e4, 0, 0), (1e4, -1e4, 0, 0)), NAMES, alike, terms).requirement
    assert together == pytest.approx(4_000)  # full correlation: the sum
    assert against == pytest.approx(2_000 * np.sqrt(2))  # a hedge that looks perfect pays as if it were none
    mixed = cross_margin(rows((1e4, 1e4, -1e4, 0)), NAMES, alike, terms)
    # Two that move as one against one: estimated sqrt(1) < independent sqrt(3), full 1.
    assert mixed.parametric[0] == pytest.approx(2_000 * np.sqrt(3), rel=1e-6)


def test_all_long_pays_the_sum_of_every_measure_whatever_is_estimated(
    state_of: StateOf, terms: PortfolioParams
) -> None:
    both, one, two = rows((3e4, 2e4, 0, 0), (3e4, 0, 0, 0), (0, 2e4, 0, 0))
    found = cross_margin(np.stack([both, one, two]), NAMES, state_of(rho=0.0), terms)
    for name in ("scan", "shortfall", "parametric", "requirement"):
        joint, first, second = getattr(found, name)
        assert joint == pytest.approx(first + second), name


def test_offsets_take_off_at_most_their_cap(state_of: StateOf, terms: PortfolioParams) -> None:
    bare = replace(state_of(), sigma=np.full(4, 1e-4))
    book = joined(option(CALL, 5.0, 95.0, 240, 0.5), option(PUT, -5.0, 95.0, 240, 0.5))
    # Long call, short put, short perpetual: riskless; the charge on the put is due beside.
    found = cross_margin(rows((-500.0, 0, 0, 0)), NAMES, bare, terms, book)
    charge = 0.01 * 500
    assert max(found.scan[0], found.shortfall[0]) < 1e-6 * found.stand_alone[0] + 1e-6
    assert found.requirement[0] - charge == pytest.approx(0.2 * (found.stand_alone[0] - charge))


positions = st.lists(st.integers(-200_000, 200_000), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(positions, positions, st.floats(0.0, 0.95))
def test_limits_and_sub_additivity(
    state_of: StateOf, terms: PortfolioParams, first: list[int], second: list[int], rho: float
) -> None:
    state = state_of(rho=rho)
    one, two = np.array(first, dtype=float), np.array(second, dtype=float)
    apart_one, apart_two = np.where([1, 1, 0, 0], one, 0.0), np.where([0, 0, 1, 1], two, 0.0)
    found = cross_margin(
        np.stack([one, two, one + two, apart_one, apart_two, apart_one + apart_two]), NAMES, state, terms
    )
    slack = 1 + 1e-9
    assert (found.requirement <= found.stand_alone * slack).all()
    assert (found.requirement * slack >= 0.2 * found.stand_alone).all()
    for name in ("scan", "shortfall"):  # measures of losses: over any two portfolios
        a, b, both = getattr(found, name)[:3]
        assert both <= (a + b) * slack + 1e-6
    for name in ("scan", "shortfall", "parametric"):
        a, b, both = getattr(found, name)[3:]
        assert both <= (a + b) * slack + 1e-6
    measures = np.maximum.reduce([found.scan, found.shortfall, found.parametric])
    if (measures[3:5] <= found.stand_alone[3:5] * slack).all():  # no cap binds
        assert found.requirement[5] <= (found.requirement[3] + found.requirement[4]) * slack + 1e-6


def test_where_a_cap_binds_sub_additivity_ends(state_of: StateOf, terms: PortfolioParams) -> None:
    """The known limit: a schedule margin below the scan's range caps the one, and joined no cap helps."""
    rates = state_of().im.copy()
    rates[0] = 50_000  # a third of the scan's range
    state = state_of(im=rates)
    one, two = (8e4, 0.0, 0.0, 0.0), (0.0, 4e4, -4e4, 0.0)
    found = cross_margin(rows(one, two, tuple(np.add(one, two))), NAMES, state, terms)
    assert found.scan[0] > found.stand_alone[0] == pytest.approx(4_000)
    assert found.requirement[2] > found.requirement[0] + found.requirement[1]
    assert found.requirement[2] <= found.stand_alone[2]


def test_a_larger_position_of_one_symbol_pays_more_than_its_halves(state_of: StateOf, terms: PortfolioParams) -> None:
    half, whole = cross_margin(rows((6e4, 0, 0, 0), (12e4, 0, 0, 0)), NAMES, state_of(), terms).requirement
    assert whole > 2 * half


def test_accounts_do_not_mix_whatever_the_chunk(
    state_of: StateOf, terms: PortfolioParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    many = rng.normal(0, 3e4, (9, 4)) * (rng.random((9, 4)) < 0.7)
    book = joined(
        option(CALL, -20.0, 110.0, 48, 0.9, account=7), option(PUT, 30.0, 18.0, 300, 0.7, symbol=1, account=2)
    )
    whole = cross_margin(many, NAMES, state_of(), terms, book)
    monkeypatch.setattr(sys.modules[CrossMargin.__module__], "CHUNK", 4)
    chunked = cross_margin(many, NAMES, state_of(), terms, book)
    np.testing.assert_allclose(chunked.requirement, whole.requirement, rtol=1e-12)
    alone = cross_margin(many[7:8], NAMES, state_of(), terms, option(CALL, -20.0, 110.0, 48, 0.9))
    assert alone.requirement[0] == pytest.approx(whole.requirement[7])


# -- options ------------------------------------------------------------------------------------------------


def test_options_alone_by_hand(state_of: StateOf, terms: PortfolioParams) -> None:
    """A bought option can lose its premium and no more; a deep call sold pays the underlying's own margin."""
    state = state_of()
    bought = cross_margin(np.zeros((1, 4)), NAMES, state, terms, option(CALL, 10.0, 100.0, 24.0, 0.8))
    premium = 10 * 100 * 2 * 0.5 * (0.8 * np.sqrt(1 / 365)) / np.sqrt(2 * np.pi)  # at the money: 0.4 S sigma sqrt(T)
    assert bought.requirement[0] == pytest.approx(premium, rel=0.01)
    deep = cross_margin(np.zeros((1, 4)), NAMES, state, terms, option(CALL, -10.0, 1.0, 24.0, 0.8))
    assert deep.stand_alone[0] == pytest.approx(0.16 * 1000 + 0.01 * 1000, rel=1e-6)
    large = cross_margin(np.zeros((1, 4)), NAMES, state, terms, option(CALL, -5000.0, 1.0, 24.0, 0.8))
    tiers = 0.16 * 50_000 + 0.20 * 50_000 + 0.30 * 400_000  # of 500,000 USD
    assert large.stand_alone[0] == pytest.approx(tiers + 5_000, rel=1e-6)
    covered = cross_margin(rows((1000.0, 0, 0, 0)), NAMES, state, terms, option(CALL, -10.0, 1.0, 24.0, 0.8))
    assert covered.requirement[0] == pytest.approx(0.2 * 320 + 10, rel=1e-6)


def test_a_short_straddle_pays_more_with_a_higher_volatility_shift(state_of: StateOf, terms: PortfolioParams) -> None:
    book = joined(option(CALL, -10.0, 100.0, 720, 0.6), option(PUT, -10.0, 100.0, 720, 0.6))
    low, high = (
        cross_margin(np.zeros((1, 4)), NAMES, state_of(), replace(terms, vol_up=up), book).scan[0] for up in (0.2, 0.5)
    )
    assert high > low > 0
    # At 30 days the shift is exactly vol_up: 0.6 to 0.9, and the worse side is a rise of 16 %.
    cdf = NormalDist().cdf

    def straddle(spot: float, sigma: float) -> float:
        total = sigma * np.sqrt(720 / 8760)
        d1 = np.log(spot / 100) / total + total / 2
        return float(spot * (2 * cdf(d1) - 1) - 100 * (2 * cdf(d1 - total) - 1))

    assert high == pytest.approx(10 * (straddle(116, 0.9) - straddle(100, 0.6)))


def test_the_shortfall_revalues_options_draw_by_draw(state_of: StateOf, terms: PortfolioParams) -> None:
    """Puts that expire with the day: the loss over the draws is known in closed form."""
    state = state_of()
    book = option(PUT, 100.0, 95.0, 24.0, 0.7)
    found = cross_margin(rows((10_000.0, 0, 0, 0)), NAMES, state, terms, book).shortfall[0]
    after = 100 * np.exp(state.standardised[:, 0] * state.sigma[0])
    value = float(greeks(PUT, 100.0, 95.0, 24.0, 0.7).price)
    losses = 100 * (100 - after) - 100 * (np.maximum(95 - after, 0) - value)
    assert found == pytest.approx(np.sort(losses)[::-1][:20].mean())


# -- what is doubtful never loosens -------------------------------------------------------------------------


def test_bad_input_falls_back_to_the_sum_with_its_reason(state_of: StateOf, terms: PortfolioParams) -> None:
    base = state_of()
    book = rows((3e4, -3e4, 0, 0), (0, 0, 1e4, -1e4))
    full = base.required(np.abs(book), base.im).sum(axis=1)
    good = cross_margin(book, NAMES, base, terms)
    assert (good.requirement < full).all()

    def spoilt(values: np.ndarray, by: float) -> np.ndarray:
        out = values.copy()
        out[..., 0] = by
        return out

    young = base.standardised.copy()
    young[:-300, 0] = np.nan
    cases = {
        Fallback.SIGMA_UNKNOWN: [replace(base, sigma=spoilt(base.sigma, bad)) for bad in (np.nan, np.inf, 0.0, -1.0)],
        Fallback.LINE_STALE: [replace(base, usable=np.array([False, True, True, True]))],
        Fallback.HISTORY_SHORT: [
            replace(base, standardised=young),
            replace(base, standardised=spoilt(base.standardised, np.inf)),
            replace(base, correlation=spoilt(base.correlation, np.nan)),
        ],
    }
    for reason, states in cases.items():
        for state in states:
            found = cross_margin(book, NAMES, state, terms)
            assert found.reason.tolist() == [reason, Fallback.NONE]
            assert found.requirement[0] == pytest.approx(full[0])
            assert found.requirement[1] == pytest.approx(good.requirement[1])


def test_an_unknown_symbol_is_margined_in_full(state_of: StateOf, terms: PortfolioParams) -> None:
    found = cross_margin(rows((3e4, -2e4)), ("AUSDT", "NEWUSDT"), state_of(), terms)
    assert found.reason[0] == Fallback.LINE_STALE
    assert found.requirement[0] == pytest.approx(0.16 * 3e4 + 2e4)


def test_an_option_without_volatility_pays_its_underlying(state_of: StateOf, terms: PortfolioParams) -> None:
    blind = option(PUT, 10.0, 100.0, 48.0, np.nan)
    found = cross_margin(rows((3e4, -3e4, 0, 0)), NAMES, state_of(), terms, blind)
    assert found.reason[0] == Fallback.IMPLIED_VOL_UNKNOWN
    assert found.requirement[0] == pytest.approx(0.16 * 3e4 + 0.18 * 3e4 + 1000)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_position_that_is_no_number_is_refused_by_name(bad: float, state_of: StateOf, terms: PortfolioParams) -> None:
    with pytest.raises(DataInvalid, match=r"account 1: its position in CUSDT"):
        cross_margin(rows((1, 1, 1, 1), (1, 1, bad, 1)), NAMES, state_of(), terms)
    with pytest.raises(DataInvalid, match="option 0"):
        cross_margin(rows((1, 1, 1, 1)), NAMES, state_of(), terms, option(CALL, bad, 1.0, 1.0, 1.0))
    with pytest.raises(DataInvalid, match="option 0"):
        cross_margin(rows((1, 1, 1, 1)), NAMES, state_of(), terms, option(CALL, 1.0, 1.0, 1.0, 1.0, account=5))


def test_no_account_gives_no_row(state_of: StateOf, terms: PortfolioParams) -> None:
    assert len(cross_margin(np.zeros((0, 4)), NAMES, state_of(), terms).requirement) == 0
    idle = cross_margin(np.zeros((1, 4)), NAMES, state_of(), terms)
    assert idle.requirement.tolist() == [0.0]
    assert idle.share.tolist() == [1.0]
