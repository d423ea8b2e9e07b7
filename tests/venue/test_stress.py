from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from features.errors import UsageError
from forecaster.policy import Params
from forecaster.venue import Margins, VenueParams
from forecaster.venue.scenarios import SEED, Setting
from forecaster.venue.scenarios.outcome import policy_margins
from forecaster.venue.stress import LIMIT, Shock, bad_debt_usd, breaking_gap, reverse_stress, smallest_shock, violations

BARS = 12
STEP = 0.001


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(VenueParams.default(), Params.default(), SEED)


@pytest.fixture(scope="module")
def policies(setting: Setting) -> dict[str, Margins]:
    return {
        "flat": Margins.constant(0.04, BARS),
        "wide": Margins.constant(0.1, BARS),
        "ours": policy_margins(setting, BARS),
    }


def test_the_gap_found_breaks_and_a_smaller_one_does_not(policies: dict[str, Margins], setting: Setting) -> None:
    for side in (-1, 1):
        gap = breaking_gap(policies["wide"], side, 0.5, 0.1, setting)
        assert bad_debt_usd(policies["wide"], Shock(side * gap, 0.5, 0.1), setting) > 0
        assert bad_debt_usd(policies["wide"], Shock(side * (gap - STEP), 0.5, 0.1), setting) == 0


def test_debt_grows_with_the_gap_and_is_no_less_than_what_accounts_lack(setting: Setting) -> None:
    margins = Margins.constant(0.1, BARS)
    debts = [bad_debt_usd(margins, Shock(-gap, 1.0, 0.3), setting) for gap in np.linspace(0.02, 0.5, 9)]
    assert all(after >= before for before, after in pairwise(debts))
    # The giant alone: 30 % of the open interest with 10 % of equity under a gap of half, beyond the whole fund.
    interest = 1e9 * setting.venue.population.open_interest_days
    assert debts[-1] >= interest * (0.3 * (0.5 - 0.1) - setting.venue.fund.size_share)


def test_less_depth_more_concentration_and_less_margin_break_earlier(
    policies: dict[str, Margins], setting: Setting
) -> None:
    table = reverse_stress(policies, setting)
    assert len(table) == 3 * 2 * 3 * 3
    assert violations(table).empty
    gaps = table.pivot(index=["side", "depth", "concentration"], columns="policy", values="gap")
    assert (gaps["flat"] < gaps["wide"]).all()
    assert (gaps["wide"] < gaps["ours"]).all()  # 4 %, 10 % and about 16 % of initial margin


def test_violations_are_seen() -> None:
    table = pd.DataFrame(
        {"policy": "a", "side": 1, "depth": [1.0, 0.5, 0.2], "concentration": 0.1, "gap": [0.2, math.nan, 0.1]}
    )
    assert violations(table).index.tolist() == [1]
    assert violations(table.assign(gap=[math.nan, 0.2, 0.2])).empty
    by_share = table.assign(depth=0.5, concentration=[0.0, 0.1, 0.3], gap=[0.1, 0.1, 0.2])
    assert violations(by_share).index.tolist() == [2]


def test_the_smallest_shock_lies_on_the_ray(policies: dict[str, Margins], setting: Setting) -> None:
    shock = smallest_shock(policies["wide"], -1, setting)
    assert shock is not None
    severity = -shock.gap / LIMIT.gap
    assert shock.depth == pytest.approx(LIMIT.depth**severity)
    assert shock.concentration == pytest.approx(severity * LIMIT.concentration)
    assert bad_debt_usd(policies["wide"], shock, setting) > 0


def test_no_shock_breaks_what_is_paid_in_full(setting: Setting) -> None:
    whole = Margins.constant(1.0, BARS, mm_share=0.9)
    assert math.isnan(breaking_gap(whole, -1, 1.0, 0.1, setting))
    assert smallest_shock(whole, -1, setting) is None


def test_absurd_shocks_are_refused(setting: Setting) -> None:
    for bad in ((-1.0, 1.0, 0.0), (0.1, 0.0, 0.0), (0.1, 1.0, 1.0)):
        with pytest.raises(UsageError, match="needs gap"):
            Shock(*bad)
    with pytest.raises(UsageError, match="at least 4"):
        bad_debt_usd(Margins.constant(0.1, 3), Shock(0.1, 1.0, 0.0), setting)
