"""The published law by its diagnostics: even and on its levels where it is right, and not where it is too narrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from models.base import RETURN_LEVELS, VARIANCE_LEVELS
from training.diagnostics import diagnostics

HOURS = 100 * 24
ORIGINS = pd.date_range("2024-01-01", periods=HOURS, freq="h", tz="UTC", unit="us")


def told(width: float, days: int = 100) -> dict[str, Any]:
    """Diagnostics of a law whose spread is ``width`` times the true one: ln V normal, r Student t."""
    rng = np.random.default_rng(1)
    made, came = [], []
    for symbol in ("A", "B"):
        keys = {"symbol": symbol, "origin": ORIGINS, "horizon_hours": np.int16(1)}
        log_v, r = rng.normal(-8, 0.5, HOURS), 0.02 * rng.standard_t(4, HOURS)
        came.append(
            pd.DataFrame(
                {**keys, "variance": np.exp(log_v), "log_return": r, "regime": 1.0, "regime_now": 1.0, "onset": 0.0}
            )
        )
        laws = {name: np.exp(-8 + 0.5 * width * stats.norm.ppf(p)) for name, p in VARIANCE_LEVELS.items()}
        laws |= {name: 0.02 * width * stats.t(4).ppf(p) for name, p in RETURN_LEVELS.items()}
        blank = {f"p_{name}": np.nan for name in ("calm", "normal", "stress", "crisis", "onset")}
        blank |= {"ret_es010": np.nan, "ret_es025": np.nan}
        made.append(
            pd.DataFrame({**keys, "model": "ensemble", "status": "ok", "variance": np.exp(-8), **laws, **blank})
        )
    realised = pd.concat(came).set_index(["symbol", "origin", "horizon_hours"])
    return diagnostics(pd.concat(made), realised, start=ORIGINS[0], end=ORIGINS[0] + pd.Timedelta(days=days))


def test_a_right_law_is_even_and_on_its_levels_in_every_month() -> None:
    found = told(1.0)
    assert [row["target"] for row in found["pit"]] == ["variance", "log_return"]
    for row in found["pit"]:
        assert row["rows"] == 2 * HOURS
        np.testing.assert_allclose(row["histogram"], 0.05, atol=0.015)
        assert [test["symbol"] for test in row["berkowitz"]] == ["A", "B"]
        assert min(test["p"] for test in row["berkowitz"]) > 0.001
    rows = found["coverage_by_month"]
    assert {row["month"] for row in rows} == {"2024-01", "2024-02", "2024-03", "2024-04"}
    assert len(rows) == 4 * (len(VARIANCE_LEVELS) + len(RETURN_LEVELS))
    assert max(abs(row["z"]) for row in rows) < 4.5


def test_a_law_too_narrow_is_told() -> None:
    found = told(0.6)
    for row in found["pit"]:
        assert row["histogram"][0] > 0.08
        assert max(test["p"] for test in row["berkowitz"]) < 1e-6
        assert min(test["sd"] for test in row["berkowitz"]) > 1.2
    january = next(r for r in found["coverage_by_month"] if (r["month"], r["column"]) == ("2024-01", "ret_q050"))
    assert january["below"] == pytest.approx(stats.t(4).cdf(0.6 * stats.t(4).ppf(0.05)), abs=0.03)
    assert january["rows"] == 2 * 31 * 24


def test_a_window_under_two_months_has_no_months() -> None:
    found = told(1.0, days=58)
    assert found["coverage_by_month"] == []
    assert len(found["pit"]) == 2
