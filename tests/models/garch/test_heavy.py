"""HEAVY: recovered parameters, the recursion by hand, forecasts against simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone

from features.errors import DataInvalid, UsageError
from models.garch import HEAVY

Array = NDArray[np.float64]

# omega, beta, weight of the measure; then of the measure's own equation omega, alpha, beta.
TRUTH = np.array([0.02, 0.62, 0.45, 0.03, 0.40, 0.57])
ORDER = ["omega", "beta[1]", "pi[1]", "omega'", "alpha[1]'", "beta[1]'"]


def paths(horizon: int, count: int, h: float, m: float, seed: int) -> tuple[Array, Array, Array]:
    """Returns, measures and variances (count, horizon) of the model from the first h and m on."""
    omega, beta, weight, omega_m, alpha_m, beta_m = TRUTH
    rng = np.random.default_rng(seed)
    now, expected = np.full(count, h), np.full(count, m)
    returns, measure, variance = (np.empty((count, horizon)) for _ in range(3))
    for t in range(horizon):
        variance[:, t] = now
        returns[:, t] = np.sqrt(now) * rng.standard_normal(count)
        measure[:, t] = expected * rng.chisquare(12, count) / 12
        now = omega + weight * measure[:, t] + beta * now
        expected = omega_m + alpha_m * measure[:, t] + beta_m * expected
    return returns, measure, variance


@pytest.fixture(scope="module")
def data() -> tuple[Array, Array]:
    returns, measure, _ = paths(6_000, 1, 1.0, 1.0, seed=4)
    return returns[0], measure[0]


@pytest.fixture(scope="module")
def fitted(data: tuple[Array, Array]) -> HEAVY:
    return HEAVY().fit(*data)


def test_simulated_parameters_are_recovered(fitted: HEAVY) -> None:
    assert list(fitted.params_.index) == ORDER
    np.testing.assert_allclose(fitted.params_.to_numpy()[[1, 2, 4, 5]], TRUTH[[1, 2, 4, 5]], rtol=0.15)
    for equation in (fitted.returns_, fitted.measure_):
        assert equation.certificate_.converged
        assert equation.certificate_.gradient_norm < 1e-4


def test_the_likelihood_of_each_equation_is_at_its_top(fitted: HEAVY, data: tuple[Array, Array]) -> None:
    best = fitted.returns_.loglikelihood_, fitted.measure_.loglikelihood_
    for i, size in ((1, 0.01), (2, 0.01), (4, 0.01), (5, 0.01)):
        for sign in (-1, 1):
            params = fitted.params_.to_numpy().copy()
            params[i] += sign * size
            moved = HEAVY().fix(params, *data)
            assert (moved.returns_ if i < 3 else moved.measure_).loglikelihood_ < best[i // 3]


def test_filter_is_the_recursion_and_update_has_its_bits(data: tuple[Array, Array]) -> None:
    returns, measure = data[0][:300], data[1][:300]
    model = HEAVY().fix(TRUTH, returns[:100], measure[:100])
    h = [TRUTH[0] + TRUTH[1] * model.returns_.backcast_]
    for r in measure[:-1]:
        h.append(TRUTH[0] + TRUTH[2] * r + TRUTH[1] * h[-1])
    variance = model.filter(returns, measure)
    np.testing.assert_allclose(variance, h, rtol=1e-12)
    updated = [model.update(r, x) for r, x in zip(returns[100:299], measure[100:299], strict=True)]
    np.testing.assert_array_equal(updated, variance[101:])


def test_forecast_is_the_mean_of_simulated_paths(data: tuple[Array, Array]) -> None:
    model = HEAVY().fix(TRUTH, *data)
    _, _, variance = paths(24, 40_000, model.returns_.variance_, model.measure_.variance_, seed=9)
    error = variance.std(axis=0) / math.sqrt(len(variance)) + 1e-12
    path = model.forecast(24)
    assert (np.abs(path - variance.mean(axis=0)) < 5 * error).all()
    np.testing.assert_array_equal(model.forecast(1), path[:1])


def test_refit_from_an_earlier_one_and_targeting(fitted: HEAVY, data: tuple[Array, Array]) -> None:
    again = HEAVY().fit(*data, start=fitted)
    np.testing.assert_allclose(again.params_, fitted.params_, rtol=1e-3)
    tied = HEAVY(targeting=True).fit(*data)
    p = tied.params_
    assert p["omega'"] / (1 - p["alpha[1]'"] - p["beta[1]'"]) == pytest.approx(data[1].mean(), rel=1e-9)
    assert tied.returns_.loglikelihood_ <= fitted.returns_.loglikelihood_ + 1e-6


def test_wrong_data_are_named_and_move_nothing(data: tuple[Array, Array]) -> None:
    returns, measure = data[0][:200], data[1][:200]
    model = HEAVY().fix(TRUTH, returns, measure)
    before = model.measure_.state_, model.returns_.state_
    with pytest.raises(DataInvalid, match=r"measure\[0\] is -1"):
        model.update(0.1, -1.0)
    with pytest.raises(DataInvalid, match="infinite"):
        model.update(math.inf, 1.0)
    np.testing.assert_array_equal(model.measure_.state_, before[0])
    np.testing.assert_array_equal(model.returns_.state_, before[1])
    with pytest.raises(DataInvalid, match=r"measure\[3\] is nan"):
        HEAVY().fit(returns, np.where(np.arange(200) == 3, math.nan, measure))
    with pytest.raises(UsageError, match=r"makes \(200,\)"):
        HEAVY().fit(returns, measure[:-1])


def test_estimator_follows_the_sklearn_protocol(fitted: HEAVY) -> None:
    copy: Any = clone(fitted)
    assert copy.get_params() == {"dist": "normal", "targeting": False}
    assert not hasattr(copy, "returns_")
