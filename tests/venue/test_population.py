from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.venue import Population, VenueParams


@pytest.fixture(scope="module")
def drawn(params: VenueParams) -> Population:
    return Population.draw(replace(params.population, slots=3000), 2000)


def test_the_laws_of_the_positions(drawn: Population, params: VenueParams) -> None:
    constants = params.population
    size = np.abs(drawn.weight)
    assert (drawn.weight > 0).mean() == pytest.approx(constants.long_share, abs=0.01)
    assert size.mean() == pytest.approx(1.0, abs=0.05)
    assert np.log(size).std() == pytest.approx(constants.size_log_sd, abs=0.02)
    assert np.median(drawn.leverage) == pytest.approx(constants.leverage_median, rel=0.02)
    assert np.log(drawn.leverage).std() == pytest.approx(constants.leverage_log_sd, abs=0.01)
    assert drawn.tops_up.mean() == pytest.approx(constants.topup_propensity, abs=0.01)
    assert (drawn.leave - drawn.enter).mean() == pytest.approx(constants.hold_hours, rel=0.02)
    assert np.corrcoef(drawn.weight, drawn.leverage)[0, 1] == pytest.approx(0.0, abs=0.02)


def test_slots_are_stationary_and_hold_one_position_at_a_time(drawn: Population, params: VenueParams) -> None:
    constants = params.population
    share = constants.hold_hours / (constants.hold_hours + constants.idle_hours)
    for hour in (0, 500, 1900):
        assert ((drawn.enter <= hour) & (drawn.leave > hour)).sum() / drawn.slots == pytest.approx(share, abs=0.03)
    order = np.lexsort((drawn.enter, drawn.slot))
    slot, enter, leave = drawn.slot[order], drawn.enter[order], drawn.leave[order]
    same = slot[1:] == slot[:-1]
    assert (enter[1:] >= leave[:-1])[same].all()
    assert (leave > enter).all()
    assert (np.diff(drawn.enter) >= 0).all()


def test_the_same_people_whatever_the_length_and_the_number_of_slots(params: VenueParams) -> None:
    constants = replace(params.population, slots=40)
    long, short = Population.draw(constants, 1500), Population.draw(replace(constants, slots=15), 700)
    kept = (long.slot < 15) & (long.enter < 700)
    for name in ("enter", "leave", "slot", "weight", "leverage", "tops_up"):
        np.testing.assert_array_equal(getattr(long, name)[kept], getattr(short, name))
    other = Population.draw(replace(constants, seed=1), 1500)
    assert len(other.enter) != len(long.enter) or (other.weight != long.weight).any()


def test_who_comes_later_meets_the_same_people(drawn: Population) -> None:
    late = drawn.since(700)
    assert late.hours == drawn.hours - 700
    assert (np.diff(late.enter) >= 0).all()
    for hour in (0, 1, 500):
        here, there = (
            (late.enter <= hour) & (late.leave > hour),
            (drawn.enter <= hour + 700) & (drawn.leave > hour + 700),
        )
        assert late.slot[here].tolist() == drawn.slot[there].tolist()
        np.testing.assert_array_equal(late.leverage[here], drawn.leverage[there])
