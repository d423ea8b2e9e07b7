"""Every scenario holds with its defence and fails without it; some figures against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from features.errors import UsageError
from forecaster.policy import Params
from forecaster.venue import VenueParams
from forecaster.venue.scenarios import SCENARIOS, SEED, Outcome, Setting, attackers, markets, run
from forecaster.venue.scenarios.outcome import holds_up_to


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(VenueParams.default(), Params.default(), SEED)


@pytest.mark.parametrize("seed", [SEED, 7])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_holds_with_its_defence_and_not_without(name: str, seed: int) -> None:
    (with_it,) = run(seed=seed, names=[name])
    (without,) = run(seed=seed, names=[name], defended=False)
    assert with_it.holds, dict(with_it.measured)
    assert not without.holds, dict(without.measured)


def test_all_are_run_in_order_and_say_what_they_are() -> None:
    outcomes = run()
    assert [outcome.name for outcome in outcomes] == list(SCENARIOS)
    for outcome in outcomes:
        assert all((outcome.done, outcome.defence, outcome.expectation))
        assert outcome.measured
        assert all(math.isfinite(value) for value in outcome.measured.values())
    assert run() == outcomes
    with pytest.raises(UsageError, match="no scenario is called theft"):
        run(names=["theft"])


def one(name: str, defended: bool = True) -> Outcome:
    return run(names=[name], defended=defended)[0]


def test_the_best_sandwich_is_that_of_the_square_root_law(setting: Setting) -> None:
    # Sold at 1 - c sqrt(A); bought back where the step's flow Q is left, below what A + Q moved for good: paid once.
    venue, volume = setting.venue, 1e9
    impact, c = venue.impact, venue.impact.coefficient * 0.04 / volume**0.5
    for defended in (True, False):
        measured = one("liquidation_sandwich", defended).measured
        step = measured["step_usd"]
        size = np.linspace(1, step, 100_000)
        sold = 1 - c * size**0.5 - impact.spread / 2
        lasting = impact.permanent_share * c * (size + step) ** 0.5
        bought = (1 - lasting) * (1 - c * step**0.5 + lasting + impact.spread / 2)
        best = (size * (sold - bought - 2 * venue.fees.taker)).max()
        assert measured["gain_bps_of_liquidated"] * step / 1e4 == pytest.approx(best, rel=0.005)


def test_a_broken_peg_costs_what_the_haircut_did_not_cover() -> None:
    safe, bare = one("broken_peg"), one("broken_peg", defended=False)
    cut = safe.measured["haircut"]
    im = bare.measured["debt_bps_at_5_percent"] / 0.05
    assert cut == pytest.approx(0.002 + 0.0005 + 0.05 + 0.3 * 0.002)
    assert bare.measured["debt_bps_at_12_percent"] == pytest.approx(0.12 * im)
    assert safe.measured["debt_bps_at_12_percent"] == pytest.approx(im * (1 - 0.88 / (1 - cut)))


def test_the_median_errs_as_its_neighbours_do() -> None:
    # Honest errors -2/3 and 2/3 of the outermost lie beside the median of five with one liar far below.
    assert one("lying_source").measured["largest_error"] == pytest.approx(0.0002 * 2 / 3)


def test_a_fall_within_the_notice_costs_as_if_there_were_no_rise() -> None:
    measured = one("notice_run_down").measured
    assert measured["within_the_notice_bps"] == pytest.approx(measured["grandfathered_bps"], rel=0.01)
    assert measured["at_once_bps"] <= measured["shortfall_bps_of_oi"] <= measured["grandfathered_bps"]
    # Equity of 8 % meets a gap of 12 %: at least the difference is lost, and what selling costs comes on top.
    assert measured["grandfathered_bps"] > 1e4 * (0.12 - 0.08) * 0.88


def test_late_quotes_give_away_the_mean_of_an_hour_s_move() -> None:
    gain = one("late_sources", defended=False).measured["gain_bps_of_notional"]
    move = 1e4 * 0.04 / 24**0.5 * (2 / np.pi) ** 0.5
    # The price is late where three or more of five are: half of the hours (3, 4, 5 of 0 to 5), less two fees. What
    # was late at the entry catches up with the true move to the exit, which is as often late itself.
    assert 0.25 * move - 10 < gain < 0.6 * move


def test_an_exit_at_the_last_good_price_is_worth_half_the_move_of_an_outage_and_one_that_waits_two_fees() -> None:
    gain = one("outage_exits", defended=False).measured["gain_bps_of_notional"]
    move = 1e4 * 0.04 / 24**0.5 * (2 / np.pi) ** 0.5
    # An outage lasts two hours on average (half of all hours are without a quorum); each side pays two fees of 5 bps.
    assert 0.5 * move - 10 < gain < 0.5 * move * 3**0.5 - 10 + 0.1 * move
    assert one("outage_exits").measured["gain_bps_of_notional"] == pytest.approx(-10, abs=0.1)


def test_an_agreement_earns_its_price_in_an_auction_and_nothing_from_steps() -> None:
    auction, steps = one("liquidator_collusion", defended=False).measured, one("liquidator_collusion").measured
    # All agree on 5 %; an offer that falls by half a percent a step overshoots by less than one, a chip comes on top.
    assert 500 < auction["gain_bps_of_liquidated_5_agree"] < 500 + 50 + 10
    assert auction["gain_bps_of_liquidated_0_agree"] < auction["gain_bps_of_liquidated_4_agree"]
    assert steps["gain_bps_of_liquidated_5_agree"] == 0


def test_ranges_end_where_the_defence_gives_way() -> None:
    strike, whale = one("liquidator_strike"), one("withdrawing_whale")
    assert 0.03 <= strike.measured["all_absent_holds_up_to_hourly_fall"] < max(markets.HOURLY_FALLS)
    assert 1 <= whale.measured["holds_up_to_daily_volumes"] < max(attackers.WHALES)
    assert one("withdrawing_whale", defended=False).measured["holds_up_to_daily_volumes"] < 1
    assert holds_up_to((1, 2, 3), lambda x: x != 2) == 1
    assert holds_up_to((1, 2), lambda x: x > 1) == 0
