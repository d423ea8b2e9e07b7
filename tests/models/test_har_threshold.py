"""The threshold HAR against planted coefficients of two regimes, and against the HAR where there is but one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from models.explanation import REVERSION
from models.har import HAR
from models.har_threshold import HARThreshold
from models.members import Member
from models.state_signals import STRESS

Array = NDArray[np.float64]
LAGS = (1, 24)
HOURS = 6000
CALM, STRESSED = np.array([-1.0, 0.2, 0.7]), np.array([-4.0, 0.6, 0.1])


def market(symbol: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A chain of two levels, and V log-linear in two windows with coefficients that depend on the level."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2023-01-01", periods=HOURS, freq="h", tz="UTC").as_unit("us")
    stressed = np.cumsum(rng.random(HOURS) < 1 / 60) % 2 == 1
    x = -10 + 4.0 * stressed + 0.7 * rng.normal(size=HOURS)
    day = np.log(pd.Series(np.exp(x)).rolling(24, min_periods=1).mean().to_numpy())
    design = np.column_stack([np.ones(HOURS), x, day])
    mean = np.where(stressed, design @ STRESSED, design @ CALM)
    index = pd.MultiIndex.from_product([[symbol], times], names=["symbol", "origin"])
    X = pd.DataFrame({"log_rv_1h": x, "log_rv_24h": day, "log_season_ahead_1h": 0.3}, index=index)
    X["log_rv_720h"] = -10.0
    noise = 0.5 * rng.normal(size=HOURS)
    return X, pd.DataFrame({1: np.exp(mean + 0.3 + noise - 0.125)}, index=index)


@pytest.fixture(scope="module")
def data() -> tuple[pd.DataFrame, pd.DataFrame]:
    parts = [market(symbol, k) for k, symbol in enumerate(("AAAUSDT", "BBBUSDT", "CCCUSDT"))]
    X, y = (pd.concat([part[k] for part in parts]) for k in (0, 1))
    return X, y


@pytest.fixture(scope="module")
def member(data: tuple[pd.DataFrame, pd.DataFrame]) -> HARThreshold:
    return HARThreshold(lags=LAGS, shrinkage=1e-6).fit(*data)


def test_coefficients_of_both_regimes_are_found(member: HARThreshold) -> None:
    """``a + p a' + (b_1 + p b'_1) x_1 + (b_24 + p b'_24) x_24``, in the order of the terms."""
    constant, first, second, shift, of_first, of_second = np.median(member.coefficients_[:, 0], axis=0)
    np.testing.assert_allclose([first, second], CALM[1:], atol=0.1)
    np.testing.assert_allclose([first + of_first, second + of_second], STRESSED[1:], atol=0.1)
    usual = -8.0
    for found, planted in (
        ((constant, first, second), CALM),
        ((constant + shift, first + of_first, second + of_second), STRESSED),
    ):
        assert np.dot(found, [1, usual, usual]) == pytest.approx(np.dot(planted, [1, usual, usual]), abs=0.25)


def test_it_forecasts_better_than_one_har_for_both(
    data: tuple[pd.DataFrame, pd.DataFrame], member: HARThreshold
) -> None:
    X, y = data
    plain = HAR(lags=LAGS, shrinkage=1e-6).fit(X, y)

    def qlike(forecast: pd.DataFrame) -> float:
        ratio = (y / forecast).to_numpy()[100:]
        return float(np.mean(ratio - np.log(ratio) - 1))

    assert qlike(member.predict(X)) < 0.9 * qlike(plain.predict(X))


def test_without_states_it_is_the_har(data: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Too short a history for a filter: every hour counts as calm."""
    X, y = (frame.groupby(level="symbol").head(1200) for frame in data)
    made = HARThreshold(lags=LAGS).fit(X, y).predict_log(X)
    np.testing.assert_allclose(made, HAR(lags=LAGS).fit(X, y).predict_log(X), atol=1e-8)


def test_hours_one_by_one_are_the_stretch(data: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    X, y = data
    origins = X.index.get_level_values("origin")
    border = origins.unique()[5000]
    part = origins < border
    fitted = HARThreshold(lags=LAGS).fit(X[part], y[part])
    rows = X[~part]
    whole = fitted.predict_log(rows)
    for t in origins.unique()[5000:5030]:
        hour = rows[rows.index.get_level_values("origin") == t]
        pd.testing.assert_frame_equal(fitted.predict_log(hour), whole.loc[hour.index], check_exact=True)
        fitted.follow(hour)


def test_the_regime_is_a_term_of_its_own(fitted: Callable[[str], Member], later: Any) -> None:
    member = fitted("har_threshold")
    terms = member.contributions(later.X, {})
    np.testing.assert_allclose(sum(terms.values()), member.predict_log(later.X), atol=1e-9)
    assert isinstance(member, HARThreshold)
    stress = member._with_stress(later.X)[STRESS].to_numpy()
    assert stress.std() > 0.05
    assert np.std(terms["regime"][:, 0]) > 0
    assert set(terms) >= {REVERSION, "regime"}
