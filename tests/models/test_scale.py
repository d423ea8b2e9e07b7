"""The width of the law: the regression against scikit-learn and planted coefficients, and where nothing can be learnt."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import GammaRegressor

from models.scale import LARGEST_DISTANCE, Width, gamma_fit

Array = NDArray[np.float64]


def test_gamma_fit_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    y = np.exp(0.3 - 0.4 * x) * rng.gamma(0.5, 2.0, 4000)
    level, slope = gamma_fit(x, y)
    other = GammaRegressor(alpha=0, tol=1e-10, max_iter=1000).fit(x[:, None], y)
    assert level == pytest.approx(other.intercept_, abs=1e-5)
    assert slope == pytest.approx(other.coef_[0], abs=1e-5)


@pytest.mark.parametrize("slope", [-2.0, 0.8, 3.0])
def test_gamma_fit_takes_heavy_tails_and_zeros(slope: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_t(3, 3000).clip(-4, 4)
    y = np.minimum(np.exp(slope * x) * rng.standard_t(2.5, 3000) ** 2, 30.0)
    y[::7] = 0.0
    level, found = gamma_fit(x, y)
    ratio = y * np.exp(-(level + found * x))
    assert ratio.mean() == pytest.approx(1, abs=1e-6)
    assert ((ratio - 1) * x).mean() == pytest.approx(0, abs=1e-6)


def test_width_finds_the_power_of_the_forecast() -> None:
    rng = np.random.default_rng(2)
    forecast = rng.normal(-9, 0.7, (5, 40_000))
    truth = 1.1 * np.exp(-0.10 * (forecast + 9))
    squares = (truth * rng.normal(size=forecast.shape)) ** 2
    squares[2, :3000] = np.nan
    forecast[1, 100:200] = np.nan
    found = Width.learn(squares, forecast, 3)
    assert found.slope / found.unit == pytest.approx(-0.2, abs=0.05)
    near = np.abs(forecast + 9) < 2
    assert found.at(forecast)[near] == pytest.approx(truth[near], rel=0.06)
    far = found.centre + found.unit * np.array([LARGEST_DISTANCE, 9.0])
    assert found.at(far)[0] == found.at(far)[1]
    assert np.isnan(found.at(forecast)[1, 100:200]).all()


def test_width_does_not_depend_on_where_a_history_starts() -> None:
    rng = np.random.default_rng(3)
    squares, forecast = rng.chisquare(1, (2, 4000)), rng.normal(size=(2, 4000))
    whole = Width.learn(np.where(np.arange(4000) < 7, np.nan, squares), forecast, 100)
    assert whole == Width.learn(squares[:, 7:], forecast[:, 7:], 107)
    assert whole != Width.learn(squares[:, 7:], forecast[:, 7:], 108)


@pytest.mark.parametrize("squares", [np.full((2, 4000), np.nan), np.zeros((2, 4000)), np.ones((2, 90))])
def test_where_nothing_can_be_learnt_the_width_is_the_forecasts(squares: Array) -> None:
    forecast = np.random.default_rng(4).normal(size=squares.shape)
    assert (Width.learn(squares, forecast, 0).at(forecast) == 1).all()


def test_a_forecast_that_never_moves_has_no_slope() -> None:
    squares, forecast = np.random.default_rng(5).chisquare(1, (2, 4000)), np.full((2, 4000), -9.0)
    assert (Width.learn(squares, forecast, 0).at(forecast) == 1).all()
