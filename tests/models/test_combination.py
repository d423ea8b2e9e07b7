"""Levels and weights against a constrained optimiser, by hand, and on planted biases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import optimize

from models import combination
from models.combination import combine, level
from models.trailing import FOUR_WEEKS, refreshes

Array = NDArray[np.float64]
SYMBOLS, HOURS = 6, 3000
TIMES = pd.date_range("2024-01-03 05:00", periods=HOURS, freq="h", tz="UTC").as_unit("us")


def forecasts(noise: Mapping[str, float], seed: int = 0, count: int = HOURS) -> tuple[dict[str, Array], Array]:
    """Log forecasts that see the same truth through independent noise, and V with mean one about the truth."""
    rng = np.random.default_rng(seed)
    truth = -9 + rng.normal(size=(SYMBOLS, count))
    seen = {name: truth + s * rng.normal(size=truth.shape) - s**2 / 2 for name, s in noise.items()}
    return seen, np.exp(truth + 0.6 * rng.normal(size=truth.shape) - 0.18)


def simplex_optimum(logs: Array, variance: Array) -> Array:
    def loss(w: Array) -> float:
        combined = w @ logs
        return float(np.mean(variance * np.exp(-combined) + combined))

    count = len(logs)
    total = {"type": "eq", "fun": lambda w: w.sum() - 1}
    found = optimize.minimize(
        loss, np.full(count, 1 / count), method="SLSQP", bounds=[(0, 1)] * count, constraints=total,
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    return np.asarray(found.x)


@pytest.mark.parametrize(
    "noise",
    [
        {"a": 0.2, "b": 0.4},
        {"a": 0.3, "b": 0.35, "c": 0.6},
        {"a": 0.05, "b": 0.1, "c": 0.3, "d": 0.9},
        {"a": 0.0, "b": 0.6},
    ],
)
@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_weights_are_the_optimum_on_the_simplex(noise: dict[str, float], bias: float) -> None:
    logs, variance = forecasts(noise)
    stack = np.stack(list(logs.values()))
    stack[0] += bias
    made = combination.simplex_weights(stack, variance)
    best = simplex_optimum(stack.reshape(len(stack), -1), variance.ravel())
    np.testing.assert_allclose(made, best, atol=0.005)
    assert (made >= 0).all()
    assert made.sum() == pytest.approx(1)


def test_weights_are_equal_until_there_are_rows() -> None:
    logs, variance = forecasts({"a": 0.1, "b": 0.8, "c": 0.8})
    stack = np.stack(list(logs.values()))
    variance[:, combination.MINIMUM_WEIGHT_ROWS // SYMBOLS :] = np.nan
    assert combination.simplex_weights(stack, variance).tolist() == [1 / 3] * 3


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 1.0])
def test_weights_in_force_are_those_of_the_resolved_window(shrinkage: float) -> None:
    logs, variance = forecasts({"a": 0.2, "b": 0.5}, count=HOURS)
    horizon = 24
    made = combine(logs, variance, TIMES, horizon, members=["a", "b"], shrinkage=shrinkage)
    np.testing.assert_allclose(made.weights.sum(axis=1), 1.0, rtol=1e-12)
    at = refreshes(TIMES, FOUR_WEEKS)
    assert made.weights.index.equals(TIMES[at])
    assert made.weights.columns.tolist() == ["a", "b"]
    stack = np.stack([logs["a"], logs["b"]])
    column = int(at[-1])
    hour = TIMES.asi8 // 3_600_000_000
    rows = np.flatnonzero((np.arange(HOURS) + horizon <= column) & (hour % 5 == 0))
    best = simplex_optimum(stack[:, :, rows].reshape(2, -1), variance[:, rows].ravel())
    expected = (1 - shrinkage) * best + shrinkage / 2
    np.testing.assert_allclose(made.weights.iloc[-1], expected, atol=0.005)
    assert made.weights.iloc[0].tolist() == [0.5, 0.5]


def test_a_missing_member_leaves_its_weight_to_the_others() -> None:
    logs, variance = forecasts({"a": 0.2, "b": 0.3, "c": 0.5})
    logs["a"][0, 100:200] = np.nan
    logs["b"][0, 150:200] = np.nan
    logs["c"][0, 190:200] = np.nan
    # Without outcomes weights stay equal.
    made = combine(logs, variance * np.nan, TIMES, 1, members=["a", "b", "c"], shrinkage=0.5)
    a, b, c = (logs[name][0] for name in "abc")
    np.testing.assert_allclose(made.log_forecast[0, :100], (a + b + c)[:100] / 3)
    np.testing.assert_allclose(made.log_forecast[0, 100:150], (b + c)[100:150] / 2)
    np.testing.assert_allclose(made.log_forecast[0, 150:190], c[150:190])
    assert np.isnan(made.log_forecast[0, 190:200]).all()
    assert np.isfinite(made.log_forecast[1:]).all()


def test_unequal_weights_are_renormalised() -> None:
    logs, variance = forecasts({"a": 0.1, "b": 0.5, "c": 0.7})
    whole = combine(logs, variance, TIMES, 1, members=["a", "b", "c"], shrinkage=0.5)
    missing = {name: x.copy() for name, x in logs.items()}
    missing["a"][:, -1] = np.nan
    made = combine(missing, variance, TIMES, 1, members=["a", "b", "c"], shrinkage=0.5)
    w = whole.weights.iloc[-1]
    expected = (w["b"] * logs["b"][:, -1] + w["c"] * logs["c"][:, -1]) / (w["b"] + w["c"])
    np.testing.assert_allclose(made.log_forecast[:, -1], expected, atol=1e-10)
    np.testing.assert_array_equal(made.log_forecast[:, :-1], whole.log_forecast[:, :-1])


def test_members_are_those_named_in_their_order() -> None:
    logs, variance = forecasts({"a": 0.2, "b": 0.3, "c": 0.5})
    made = combine(logs, variance, TIMES, 1, members=["c", "a"], shrinkage=0.5)
    assert made.weights.columns.tolist() == ["c", "a"]
    alone = combine(logs, variance * np.nan, TIMES, 1, members=["b"], shrinkage=0.5)
    np.testing.assert_array_equal(alone.log_forecast, logs["b"])


def test_level_takes_out_a_bias_daily_and_within_bounds() -> None:
    logs, variance = forecasts({"a": 0.2})
    for bias, expected in ((1.3, 1.3), (0.6, 0.6), (5.0, 2.0), (0.1, 0.5)):
        made = level(logs["a"] - np.log(bias), variance, TIMES, 1)
        shift = np.exp(made - logs["a"] + np.log(bias))
        np.testing.assert_allclose(shift[:, -1], expected, rtol=0.1)
        moves = np.abs(np.diff(shift, axis=1, prepend=1.0)) > 1e-12
        assert set(TIMES[moves.any(axis=0)].hour) == {0}


def test_level_moves_from_the_pool_to_the_symbol_s_own() -> None:
    logs, variance = forecasts({"a": 0.2})
    own = np.linspace(0.7, 1.4, SYMBOLS)[:, None]
    forecast = logs["a"] - np.log(own)
    made = level(forecast, variance, TIMES, 1)
    ratio = (variance / np.exp(forecast))[:, : HOURS - 24]
    n = ratio.shape[1]
    expected = np.log((n * ratio.mean(axis=1) + 8000 * ratio.mean()) / (n + 8000))
    np.testing.assert_allclose((made - forecast)[:, -1], expected, atol=0.02)
    assert np.ptp(expected) > 0.05
