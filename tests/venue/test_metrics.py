from __future__ import annotations

import numpy as np
import pytest

from forecaster.venue import METRICS, VenueResult, metrics
from forecaster.venue.kernels import TALLIED


def _result(**tally: float) -> VenueResult:
    n = 8766 // 2
    interest = np.full(n, 2e6)
    interest[0] = 0.0
    sums = {"liquidated": 5e5} | tally  # all of it in one bar
    return VenueResult(
        symbol="A",
        hours=np.arange(n),
        balances={"liquidators": 3_000_000},
        net_deposits=0,
        open_interest=interest,
        tallies={name: np.where(np.arange(n) < 5, 0.0, 1e6 * sums.get(name, 0.0)) for name in TALLIED},
        fund=np.zeros(n),
        offset=np.full(n, -0.01),
    )


def test_the_formulas() -> None:
    figures = metrics(
        _result(
            drawn=300,
            bad_debt=700,
            induced=1e5,
            unnecessary=2e5,
            discount=500,
            haircut=900,
            haircut_deficit=600,
        )
    )
    scale = 2e6 * (1 - 1 / 4383) / 2  # mean open interest times half a year
    assert set(figures) == set(METRICS)
    assert figures["shortfall_bps_oi_year"] == pytest.approx(1e4 * 1000 / scale)
    assert figures["liquidations_per_oi_year"] == pytest.approx(5e5 / scale)
    assert figures["policy_induced_liquidations_per_oi_year"] == pytest.approx(1e5 / scale)
    assert figures["unnecessary_liquidation_rate"] == pytest.approx(0.4)
    assert figures["adl_haircut_ratio"] == pytest.approx(1.5)
    assert figures["fill_discount"] == pytest.approx(0.001)
    assert figures["largest_hour_liquidations_oi"] == pytest.approx(0.25)
    assert figures["liquidator_profit_usd"] == 3.0


def test_no_liquidation_leaves_ratios_unknown() -> None:
    figures = metrics(_result(liquidated=0.0))
    for name in ("unnecessary_liquidation_rate", "adl_haircut_ratio", "fill_discount"):
        assert np.isnan(figures[name])
    assert figures["shortfall_bps_oi_year"] == 0.0
