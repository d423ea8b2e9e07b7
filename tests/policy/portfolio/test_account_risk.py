"""Account and system risk: one position against ``accounts``, portfolios against simulation and by hand, one clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forecaster.policy import Params
from forecaster.policy.accounts import Excursions, Level, hours_to_margin, ruin_probability
from forecaster.policy.portfolio import PortfolioParams
from forecaster.policy.portfolio.account_risk import AccountRisk, SystemRisk, assess
from forecaster.policy.portfolio.cross_margin import cross_margin
from forecaster.policy.portfolio.state import RiskState

StateOf = Callable[..., RiskState]
PARAMS = Params.default()
NAMES = ("AUSDT", "BUSDT", "CUSDT", "DUSDT")
NONE = np.empty(0)


def assessed(
    equity: Any,
    notional: Any,
    state: RiskState,
    terms: PortfolioParams,
    before: Any = None,
    fund: float = 0.0,
    shortfalls: np.ndarray = NONE,
) -> tuple[AccountRisk, SystemRisk]:
    held, worth = np.asarray(notional, dtype=np.float64), np.asarray(equity, dtype=np.float64)
    levels = np.zeros(len(worth), dtype=np.int64) if before is None else np.asarray(before, dtype=np.int64)
    return assess(worth, held, levels, NAMES, state, fund, shortfalls, PARAMS, terms)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_position_is_that_of_accounts(place: int, sign: float, state_of: StateOf, terms: PortfolioParams) -> None:
    state, size = state_of(), 30_000.0
    equity = np.linspace(-1000, 12_000, 40)
    held = np.zeros((40, 4))
    held[:, place] = sign * size
    found, _ = assessed(equity, held, state, terms)
    law = Excursions(state.horizons, (state.long if sign > 0 else state.short)[place])
    np.testing.assert_allclose(found.ruin, ruin_probability(equity / size, law, PARAMS.accounts.ruin_hours), rtol=1e-9)
    rate = state.mm[place, 0] / 1e6
    np.testing.assert_allclose(found.hours_to_mm, hours_to_margin(equity / size - rate, law), rtol=1e-9)
    np.testing.assert_allclose(found.health, equity / (rate * size), rtol=1e-12)


@pytest.mark.parametrize("still", [1, 2])
def test_medians_that_stand_still_are_those_of_accounts(still: int, state_of: StateOf, terms: PortfolioParams) -> None:
    flat = state_of().long.copy()
    flat[:, still] = flat[:, still - 1]
    state = state_of(long=flat)
    equity = 30_000 * (0.08 + np.linspace(1e-4, 0.06, 60))
    found, _ = assessed(equity, np.tile([30_000.0, 0, 0, 0], (60, 1)), state, terms)
    law = Excursions(state.horizons, flat[0])
    np.testing.assert_allclose(found.hours_to_mm, hours_to_margin(equity / 30_000 - 0.08, law), rtol=1e-9)


def test_levels_follow_health_and_the_level_before(state_of: StateOf, terms: PortfolioParams) -> None:
    held = np.tile([10_000.0, 0, 0, 0], (8, 1))  # maintenance margin 800
    held[7] = 0.0
    equity, before = np.array([1250, 1150, 1000, 850, 750, 500, np.nan, 0]), [0, 0, Level.SEARCH, 0, 0, 0, 0, 0]
    found, _ = assessed(equity, held, state_of(), terms, before)
    assert found.level.tolist() == [
        Level.HEALTHY,
        Level.WARNING,
        Level.SEARCH,  # 1.25: released at 1.3 only
        Level.SEARCH,
        Level.LIQUIDATION,
        Level.BACKSTOP,
        Level.BACKSTOP,
        Level.HEALTHY,
    ]


def test_ruin_of_a_portfolio_against_simulated_walks(state_of: StateOf, terms: PortfolioParams) -> None:
    """Independent symbols, all long: the bound by full correlation holds, and is not far above what walks do."""
    rng = np.random.default_rng(5)
    state = state_of(rho=0.6)
    state = replace(state, short=state.long)
    position = np.array([20_000.0, 10_000.0, -5_000.0, 0.0])
    factor, own = rng.standard_normal((4000, 288, 1)), rng.standard_normal((4000, 288, 4))
    steps = (np.sqrt(0.6) * factor + np.sqrt(0.4) * own) * state.sigma / np.sqrt(288)
    worst = -(np.cumsum(steps, axis=1) @ position).min(axis=1)
    equity = np.quantile(worst, [0.9, 0.97, 0.99])
    found, _ = assessed(equity, np.tile(position, (3, 1)), state, terms)
    for told, true in zip(found.ruin.tolist(), [0.10, 0.03, 0.01], strict=True):
        assert true * 0.9 < told < 3 * true + 0.02


def test_the_maintenance_margin_keeps_the_offset_of_the_initial_one(state_of: StateOf, terms: PortfolioParams) -> None:
    held = np.array([[30_000.0, -20_000.0, 0, 0], [30_000.0, 0, 0, 0]])
    found, _ = assessed([9e3, 9e3], held, state_of(), terms)
    cross = cross_margin(held, NAMES, state_of(), terms)
    alone = 0.08 * 30_000 + 0.09 * 20_000
    assert found.mm[0] == pytest.approx(alone * cross.requirement[0] / (0.16 * 30_000 + 0.18 * 20_000))
    assert found.mm[1] == pytest.approx(2_400)
    assert (found.mm < found.im).all()


@pytest.mark.parametrize("position", [(30_000.0, 0, 0, 0), (-30_000.0, 0, 0, 0), (40_000.0, -12_000.0, 0, 0)])
def test_at_the_liquidation_price_equity_meets_the_margin(
    position: tuple[float, ...], state_of: StateOf, terms: PortfolioParams
) -> None:
    state, equity = state_of(), 8_000.0
    held = np.array([position])
    found, _ = assessed([equity], held, state, terms)
    share = cross_margin(held, NAMES, state, terms).share[0]
    for place in np.flatnonzero(held[0]):
        at = found.liquidation_price[0, place]
        assert (at < state.price[place]) == (held[0, place] > 0)
        moved = held.copy()
        moved[0, place] *= at / state.price[place]
        gained = float(moved[0, place] - held[0, place])
        rates = state.mm[:, 0] / 1e6
        assert equity + gained == pytest.approx(share * float(np.abs(moved[0]) @ rates), rel=1e-9)
    assert np.isnan(found.liquidation_price[0, held[0] == 0]).all()


def test_no_price_liquidates_a_long_without_leverage(state_of: StateOf, terms: PortfolioParams) -> None:
    found, _ = assessed([31_000.0, 100.0], [[30_000.0, 0, 0, 0], [30_000.0, 0, 0, 0]], state_of(), terms)
    assert np.isnan(found.liquidation_price[0, 0])
    assert found.liquidation_price[1, 0] == pytest.approx(100.0)  # its room is gone: at once


def test_the_system_by_hand(state_of: StateOf, terms: PortfolioParams) -> None:
    state = state_of()
    held = [[10_000.0, 0, 0, 0], [0, -20_000.0, 0, 0], [0, 0, 40_000.0, 0], [0, 0, 0, 0]]
    equity = [900.0, 9_000.0, -100.0, 50.0]
    accounts, system = assessed(equity, held, state, terms, fund=4_000.0)
    assert accounts.level.tolist() == [Level.WARNING + (900 / 800 < 1.1), 0, Level.BACKSTOP, 0]
    assert system.gross_notional == 70_000
    assert system.gross_leverage == pytest.approx(70_000 / 9_950)
    assert system.beyond_warning == pytest.approx(50_000 / 70_000)
    assert system.beyond_search == pytest.approx(40_000 / 70_000)
    # All fall: A by 40 %, B by the least stress of 30 %, C by 30 %: losses 4000 - 900, 12000 + 100; the short gains.
    assert system.cover == 3_100 + 12_100
    # All rise, the short loses 6000 of 20000 and has 3600 of margin that it cannot withdraw: 2400 and C's debt are less.
    assert system.fund_target == system.cover
    assert system.fund_ratio == pytest.approx(4_000 / 15_200)
    _, larger = assessed(equity, held, state, terms, fund=4_000.0, shortfalls=np.full(10, 20_000.0))
    assert (larger.cover, larger.fund_target) == (15_200, 20_000)


def test_a_rise_hurts_too_and_what_can_be_withdrawn_does_not_cover(state_of: StateOf, terms: PortfolioParams) -> None:
    _, system = assessed([50_000.0], [[0, -20_000.0, 0, 0]], state_of(), terms)
    assert system.cover == 6_000 - 3_600


def test_account_and_system_share_inputs_and_clock(state_of: StateOf, terms: PortfolioParams) -> None:
    rng = np.random.default_rng(1)
    held = rng.normal(0, 2e4, (200, 4)) * (rng.random((200, 4)) < 0.6)
    equity = np.abs(held).sum(axis=1) * rng.uniform(0.02, 0.4, 200)
    accounts, system = assessed(equity, held, state_of(), terms)
    assert accounts.as_of == system.as_of == state_of().as_of
    for level, told in ((Level.WARNING, system.beyond_warning), (Level.SEARCH, system.beyond_search)):
        assert told == pytest.approx(accounts.notional[accounts.level >= level].sum() / accounts.notional.sum())
    # Each account is the same alone as among all.
    for place in (0, 57, 199):
        alone, _ = assessed(equity[place : place + 1], held[place : place + 1], state_of(), terms)
        for name in ("im", "mm", "health", "ruin", "hours_to_mm"):
            assert getattr(alone, name)[0] == pytest.approx(getattr(accounts, name)[place], rel=1e-9), name


def test_what_is_unknown_is_never_safe(state_of: StateOf, terms: PortfolioParams) -> None:
    unknown = state_of().long.copy()
    unknown[0] = np.nan
    base, blind = state_of(), state_of(long=unknown, sigma=np.array([np.nan, 0.04, 0.05, 0.06]))
    held = [[10_000.0, -10_000.0, 0, 0], [0, 10_000.0, -9_000.0, 0]]
    good, _ = assessed([3e3, 3e3], held, base, terms)
    bad, system = assessed([3e3, 3e3], held, blind, terms)
    assert bad.ruin[0] == 1.0
    assert bad.hours_to_mm[0] == 0.0
    assert bad.mm[0] > good.mm[0]
    assert bad.ruin[1] == good.ruin[1]
    assert np.isfinite([system.gross_leverage, system.cover]).all()


def test_without_an_offset_excursions_add_up(state_of: StateOf, terms: PortfolioParams) -> None:
    state = replace(state_of(), sigma=np.full(4, np.nan))
    held = [[10_000.0, -10_000.0, 0, 0]]
    reach = 10_000 * (state.long[0, 2] + state.short[1, 2])  # over 24 h
    found, _ = assessed([reach[1]], held, state, terms)
    assert found.ruin[0] == pytest.approx(0.01)
    good, _ = assessed([reach[1]], held, state_of(), terms)
    assert good.ruin[0] < 0.01


def test_an_empty_venue(state_of: StateOf, terms: PortfolioParams) -> None:
    accounts, system = assessed(np.empty(0), np.empty((0, 4)), state_of(), terms)
    assert len(accounts.level) == 0
    assert (system.gross_leverage, system.beyond_warning, system.cover, system.fund_ratio) == (0.0, 0.0, 0, np.inf)
