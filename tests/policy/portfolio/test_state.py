"""The state: correlation against a slow sum and its causality, schedule lines with their clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid
from forecaster.policy.portfolio.state import RiskState, ewma_correlation, tiers_of

HOUR = 3_600_000_000


def test_correlation_is_the_weighted_sum_of_its_definition() -> None:
    rng = np.random.default_rng(1)
    z = rng.standard_normal((60, 3))
    z[:20, 1] = np.nan
    found = ewma_correlation(z, 15.0)
    for i in range(3):
        for j in range(3):
            top = left = right = 0.0
            for t in range(60):
                weight = 0.5 ** ((59 - t) / 15)
                if not (np.isnan(z[t, i]) or np.isnan(z[t, j])):
                    top += weight * z[t, i] * z[t, j]
                    left += weight * z[t, i] ** 2
                    right += weight * z[t, j] ** 2
            assert found[i, j] == pytest.approx(top / np.sqrt(left * right))
    np.testing.assert_allclose(found, found.T)


def test_correlation_finds_a_known_one_and_follows_a_change() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 20_000))
    before, after = np.stack([x, 0.6 * x + 0.8 * y], axis=1), np.stack([x, -0.6 * x + 0.8 * y], axis=1)
    assert ewma_correlation(before, 5000.0)[0, 1] == pytest.approx(0.6, abs=0.03)
    assert ewma_correlation(np.concatenate([before, after]), 1000.0)[0, 1] == pytest.approx(-0.6, abs=0.05)


def test_correlation_of_an_unknown_symbol_is_unknown() -> None:
    z = np.random.default_rng(3).standard_normal((50, 2))
    z[:, 1] = np.nan
    found = ewma_correlation(z, 10.0)
    assert found[0, 0] == pytest.approx(1.0)
    assert np.isnan(found[[0, 1, 1], [1, 0, 1]]).all()


def line(symbol: str, tiers: int = 2, **changes: Any) -> dict[str, Any]:
    made = [{"cap_usd": 1000 * (k + 1), "im_ppm": 100_000 + k, "mm_ppm": 50_000 + k} for k in range(tiers)]
    base = {"symbol": symbol, "as_of": "2023-01-01T00:00:00Z", "expires_at": "2023-01-03T00:00:00Z", "tiers": made}
    return base | changes


def test_lines_are_in_force_from_their_instant_until_they_expire() -> None:
    start = int(pd.Timestamp("2023-01-01", tz="UTC").value // 1000)
    lines = [line("A"), line("B", as_of="2023-01-02T00:00:00Z"), line("C", expires_at="2023-01-01T12:00:00Z")]
    expected = {-1: "", 0: "AC", 11: "AC", 12: "A", 24: "AB", 47: "AB", 48: ""}
    for hour, names in expected.items():
        found = tiers_of(lines, start + hour * HOUR)
        assert "".join(s for s, good in zip(found["symbols"], found["usable"], strict=True) if good) == names
    assert found["caps"].tolist() == [[1000, 2000]] * 3
    assert found["im"][0].tolist() == [100_000, 100_001]
    assert found["mm"][0].tolist() == [50_000, 50_001]


@pytest.mark.parametrize("second", [line("A"), line("B", tiers=3)])
def test_lines_that_do_not_fit_are_refused(second: dict[str, Any]) -> None:
    with pytest.raises(DataInvalid, match=second["symbol"]):
        tiers_of([line("A"), second], 0)


def test_columns_follow_the_asked_order(state_of: Callable[..., RiskState]) -> None:
    state = state_of()
    turned = state.aligned(("CUSDT", "XUSDT", "AUSDT"))
    assert turned.sigma[[0, 2]].tolist() == state.sigma[[2, 0]].tolist()
    assert turned.correlation[0, 2] == state.correlation[2, 0]
    np.testing.assert_array_equal(turned.standardised[:, 2], state.standardised[:, 0])
    assert not turned.usable[1]
    assert turned.required(np.array([[0.0, 2_500_000.0, 0.0]]), turned.im).tolist() == [[0.0, 2_500_000.0, 0.0]]
