"""Levels and weights against a constrained optimiser, by hand, and on planted biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import optimize

from models import combination
from models.combination import Clip, Combine, level
from models.parts import Run
from models.past import Past, levelled
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


@dataclass(frozen=True)
class Combined:
    log_forecast: Array
    weights: pd.DataFrame


def combine(
    logs: Mapping[str, Array], variance: Array, times: pd.DatetimeIndex, horizon: int, *, members: list[str],
    shrinkage: float,
) -> Combined:  # fmt: skip
    """Members whose level is right already, through the part alone."""
    fields = {levelled(name): x for name, x in logs.items()} | {"variance": variance}
    past = Past.beginning(times, horizon, fields)
    part = Combine(members, shrinkage)
    run = Run([part], past)
    run.advance(slice(0, len(times)))
    since = times[[hour - past.first_hour for hour, _ in run.learnt(part)]]
    return Combined(past["combined"], pd.DataFrame([w for _, w in run.learnt(part)], index=since, columns=members))


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


def screened(noise: Mapping[str, float], screen: float | None, count: int = 5000) -> pd.DataFrame:
    seen, variance = forecasts(noise, seed=4, count=count)
    times = pd.date_range("2024-01-03 05:00", periods=count, freq="h", tz="UTC").as_unit("us")
    past = Past.beginning(times, 1, {levelled(name): x for name, x in seen.items()} | {"variance": variance})
    part = Combine(list(seen), 0.5, screen)
    run = Run([part], past)
    run.advance(slice(0, count))
    return pd.DataFrame([w for _, w in run.learnt(part)], columns=list(seen))


def test_a_member_that_the_past_rejects_has_no_weight_once_it_can_be_told() -> None:
    noise = {"good": 0.2, "twin": 0.2, "poor": 0.9}
    weights = screened(noise, 0.05)
    early = refreshes(pd.date_range("2024-01-03 05:00", periods=5000, freq="h", tz="UTC"), FOUR_WEEKS) < 60 * 24
    assert (weights["poor"][early] > 0.1).all()
    assert (weights["poor"].iloc[-2:] == 0).all()
    assert (weights[["good", "twin"]].iloc[-2:] >= 0.25).all(axis=None)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    assert (screened(noise, None)["poor"] > 0.1).all()


def clipped(forecast: Array, variance: Array, horizon: int) -> Past:
    times = pd.date_range("2024-01-03 05:00", periods=forecast.shape[1], freq="h", tz="UTC").as_unit("us")
    fields = {"combined": forecast, "variance": variance, "log_variance": np.log(variance)}
    past = Past.beginning(times, horizon, fields)
    Run([Clip()], past).advance(slice(0, forecast.shape[1]))
    return past


@pytest.mark.parametrize("horizon", [1, 24])
def test_the_combination_stays_within_what_the_symbol_has_had(horizon: int) -> None:
    rng = np.random.default_rng(8)
    log_v = rng.normal(-9, 1, size=(3, 3200))
    log_v[1] += 4
    log_v[2, :2800] = np.nan  # listed late
    forecast = log_v + rng.normal(0, 3, size=log_v.shape)
    past = clipped(forecast, np.exp(log_v), horizon)
    expected, side = forecast.copy(), np.zeros(forecast.shape)
    for t in range(forecast.shape[1]):
        known = log_v[:, : max(t - horizon + 1, 0)]
        for i in range(3):
            own = known[i][np.isfinite(known[i])]
            every = known[np.isfinite(known)]
            seen = own if len(own) >= 2160 else every
            if len(seen) >= 2160:
                low, high = seen.min() - np.log(2), seen.max() + np.log(2)
                side[i, t] = (
                    np.sign(forecast[i, t] - np.clip(forecast[i, t], low, high)) if np.isfinite(forecast[i, t]) else 0
                )
                expected[i, t] = np.clip(forecast[i, t], low, high)
    np.testing.assert_array_equal(past["clipped"], side)
    np.testing.assert_allclose(past["bounded"], expected, rtol=1e-12)
    assert (side[0] != 0).any()
    assert (side[2] != 0).any()
    assert np.isnan(past["bounded"][2, 0])
