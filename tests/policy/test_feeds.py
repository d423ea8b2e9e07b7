"""What no observable can be counts as absent and makes its line doubtful; what may be absent does not."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.policy.feeds import OBSERVABLES, VENUE_OBSERVABLES, checked

GOOD = {
    "bar_age_hours": 0.0,
    "daily_volume_usd": 1e9,
    "hour_share": 1.2,
    "ladder_volume_usd": 1e9,
    "funding_q": 1e-3,
    "funding_last": 1e-4,
    "funding_interval_hours": 8.0,
    "short_funding": -3e-4,
    "open_interest_usd": 1e8,
    "mark_present": 1.0,
    "sentinel_variance": 1e-3,
    "stress_move": 0.4,
    "stress_fall": 0.3,
    "safe_im": 0.3,
    "history_days": 900.0,
    "hour_move": 0.01,
    "mark_gap": 0.001,
    "five_minute_move": 0.001,
    "implied_vol": 0.6,
    "drawdown": 0.2,
    "usual_vol": 0.7,
    "feed_lost": 0.0,
    "conformal_im": 1.1,
    "conformal_mm": 1.0,
    "floor_im": 0.1,
    "sigma_median": 0.03,
    "depth_median": 1e12,
    "insurance_fund_usd": 1e6,
    "oracle_gap": 0.001,
}
MUST = (
    "daily_volume_usd",
    "hour_share",
    "ladder_volume_usd",
    "sentinel_variance",
    "stress_move",
    "stress_fall",
    "safe_im",
    "history_days",
    "conformal_im",
    "conformal_mm",
    "floor_im",
    "drawdown",
)


def check(**values: float) -> tuple[dict[str, float], bool]:
    seen = {name: np.array([value]) for name, value in (GOOD | values).items()}
    clean, doubtful = checked(seen, 365)
    return {name: float(value[0]) for name, value in clean.items()}, bool(doubtful[0])


def test_the_example_names_every_observable_and_is_beyond_doubt() -> None:
    assert set(GOOD) == {*OBSERVABLES, *VENUE_OBSERVABLES}
    assert check() == (GOOD, False)


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.parametrize("value", [-np.inf, np.inf, -1e15, 1e300], ids=str)
def test_impossible_values_are_taken_out(name: str, value: float) -> None:
    clean, doubtful = check(**{name: value})
    old = name == "bar_age_hours" and value > 0
    if old or (name == "depth_median" and value == 1e300):
        assert (clean[name], doubtful) == (value, False)  # an old bar is the clock's fault, told elsewhere
    else:
        assert np.isnan(clean[name])
        assert doubtful
    assert {key: clean[key] for key in GOOD if key != name} == {key: GOOD[key] for key in GOOD if key != name}


def test_a_fund_may_owe() -> None:
    assert check(insurance_fund_usd=-1e6) == (GOOD | {"insurance_fund_usd": -1e6}, False)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_only_what_must_be_there_is_missed(name: str) -> None:
    assert check(**{name: np.nan})[1] == (name in MUST)
    # A young symbol, or one the market does not know, may lack anything.
    assert not check(**{name: np.nan, "history_days": 20.0})[1] or name == "history_days"
    assert not check(**{name: np.nan, "bar_age_hours": np.nan})[1]


def test_a_lost_feed_is_doubt() -> None:
    assert check(feed_lost=1.0)[1]


def test_an_interval_of_no_time_is_none() -> None:
    clean, doubtful = check(funding_interval_hours=0.0)
    assert np.isnan(clean["funding_interval_hours"])
    assert doubtful
