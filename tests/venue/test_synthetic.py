from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import erfc

from forecaster.policy import Params
from forecaster.policy.inputs import USABLE, read
from forecaster.venue.synthetic import bars, forecast_rows, gaussian_walk, path_of, people_of, sign_walk
from models.base import EXCURSION_COLUMNS, RETURN_LEVELS, SHORTFALL_LEVELS

TIMES = pd.date_range("2024-01-01T01:00:00Z", periods=48, freq="h").as_unit("us")


def test_forecasts_are_usable_and_state_the_laws_of_the_walk() -> None:
    sigma = np.linspace(0.004, 0.01, 48)
    rows = forecast_rows("A", TIMES, sigma)
    inputs = read(rows, Params.default())
    assert len(inputs) == 48
    assert (inputs.fault == USABLE).all()
    assert not inputs.stale_feed.any()
    for row in rows.iloc[::37].to_dict("records"):
        root = sigma[TIMES.get_loc(row["origin"])] * np.sqrt(row["horizon_hours"])
        for name, p in EXCURSION_COLUMNS["long"].items():
            depth = -np.log(1 - row[name])  # P(min < -depth) = erfc(depth / (sigma sqrt 2))
            assert np.isclose(erfc(depth / root / np.sqrt(2)), 1 - p)
        for name, p in RETURN_LEVELS.items():
            assert np.isclose(0.5 * erfc(-row[name] / root / np.sqrt(2)), p)
        draws = root * np.random.default_rng(0).standard_normal(400_000)
        for name, p in SHORTFALL_LEVELS.items():
            cut = np.quantile(draws, p)
            tail = draws[draws <= cut] if p < 0.5 else draws[draws >= cut]
            assert np.isclose(row[name], tail.mean(), rtol=0.01)


def test_walks_have_the_volatility_they_are_given() -> None:
    sigma = np.full(20_000, 0.01)
    steps = np.diff(np.log(sign_walk(sigma, 1)))
    np.testing.assert_allclose(np.abs(steps), 0.01)
    assert abs(np.sign(steps).mean()) < 0.03
    assert abs(np.diff(np.log(gaussian_walk(sigma, 1))).std() / 0.01 - 1) < 0.02
    np.testing.assert_array_equal(sign_walk(sigma, 1), sign_walk(sigma, 1))


def test_bars_and_path_are_the_same_straight_lines() -> None:
    closes = gaussian_walk(np.full(48, 0.01), 2)
    frame, path = bars("A", closes, TIMES, 1e8), path_of(closes, 0.04, 1e8)
    np.testing.assert_array_equal(frame[["open", "high", "low", "close"]].to_numpy(), path.mark)
    assert np.allclose(frame["volume"] * frame["close"] * 24, 1e8)
    assert (path.hours == np.arange(48)).all()


def test_people_enter_in_order_and_stay_to_the_end() -> None:
    people = people_of([1.0, -2.0, 3.0], [2.0, 3.0, 4.0], 10, [5, 0, 2], [6, 11, 4])
    assert people.enter.tolist() == [0, 2, 5]
    assert people.slot.tolist() == [1, 2, 0]
    assert people.weight.tolist() == [-2.0, 3.0, 1.0]
    assert people.leave.tolist() == [11, 4, 6]
    assert people_of([1.0], 2.0, 10).leave.tolist() == [11]
