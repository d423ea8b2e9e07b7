"""The estimator's verbs: filter, update, resume, forecast, simulate; names, guards and imports."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from arch import arch_model
from arch.univariate import SkewStudent
from numpy.typing import NDArray
from sklearn.base import clone

from features.errors import DataInvalid, UsageError
from models.garch import GARCH

Array = NDArray[np.float64]

MODELS = [
    GARCH(),
    GARCH(dist="t", mean="constant"),
    GARCH(o=1, dist="t"),
    GARCH(p=2, o=1, q=2, dist="skewt", mean="constant"),
    GARCH(p=2, q=0, dist="t"),
    GARCH(o=1, dist="t", vol="egarch"),
    GARCH(p=2, o=1, q=2, dist="skewt", mean="constant", vol="egarch"),
]
DRIVEN = [GARCH(p=0, q=1, exogenous=1), GARCH(o=1, dist="t", mean="constant", exogenous=2)]
every_model = pytest.mark.parametrize("model", MODELS + DRIVEN, ids=repr)
every_model_of_arch = pytest.mark.parametrize("model", MODELS, ids=repr)
GJR = GARCH(o=1, dist="t")


def arch_fixed(model: GARCH, params: Array, returns: Array) -> Any:
    given: Any = {name: getattr(model, name) for name in ("p", "o", "q", "dist", "mean")}
    return arch_model(returns, rescale=False, vol={"egarch": "EGARCH"}.get(model.vol, "GARCH"), **given).fix(params)  # type: ignore[arg-type]


@every_model
def test_filter_and_likelihood_are_the_textbooks(model: GARCH, lab: Any) -> None:
    returns, known, params = (
        lab.with_gaps(lab.simulated(400, scale=1.0)),
        lab.regressors_of(model, 400),
        lab.params_of(model),
    )
    fixed = clone(model).fix(params, returns, backcast=1.2, exogenous=known)
    expected = lab.variance(model, params, returns, 1.2, known)
    np.testing.assert_allclose(fixed.filter(returns, exogenous=known), expected, rtol=1e-12)
    assert fixed.loglikelihood_ == pytest.approx(lab.loglikelihood(model, params, returns, 1.2, known), rel=1e-12)


@every_model_of_arch
def test_known_parameters_give_what_arch_gives(model: GARCH, lab: Any) -> None:
    returns, params = lab.simulated(1_500, scale=1.0), lab.params_of(model)
    fixed, oracle = clone(model).fix(params, returns), arch_fixed(model, params, returns)
    assert fixed.parameter_names == list(oracle.params.index)
    np.testing.assert_allclose(fixed.filter(returns), oracle.conditional_volatility**2, rtol=1e-10)
    assert fixed.loglikelihood_ == pytest.approx(oracle.loglikelihood, rel=1e-11)
    if model.vol == "garch":
        path = oracle.forecast(horizon=72, reindex=False).variance.to_numpy()[0]
        np.testing.assert_allclose(fixed.forecast(72), path, rtol=1e-10)


def test_likelihood_survives_extreme_returns(lab: Any) -> None:
    returns = lab.simulated(2_000, scale=1e-12)
    returns[500] = 1e6
    params = np.array([1e-26, 0.05, 0.9, 4.0])
    fixed = GARCH(dist="t").fix(params, returns, backcast=1e-24)
    expected = lab.loglikelihood(fixed, params, returns, 1e-24, np.zeros((2_000, 0)))
    assert fixed.loglikelihood_ == pytest.approx(expected, rel=1e-11)


@every_model
def test_update_advance_and_resume_have_the_bits_of_filter(model: GARCH, lab: Any) -> None:
    returns, known = lab.with_gaps(lab.simulated(500, scale=1.0)), lab.regressors_of(model, 501)
    stepped = clone(model).fix(lab.params_of(model), returns[:50], backcast=1.1, exogenous=known[:50])
    expected = stepped.filter(np.append(returns, math.nan), exogenous=known)
    resumed = clone(model).resume(stepped.params_, stepped.state_)
    assert resumed.variance_ == stepped.variance_ == expected[50]
    np.testing.assert_array_equal(
        [stepped.update(r, x) for r, x in zip(returns[50:], known[50:500], strict=True)], expected[51:]
    )
    for piece in np.array_split(np.arange(50, 500), 7):
        after = resumed.advance(returns[piece], exogenous=known[piece])
        np.testing.assert_array_equal(after, expected[piece + 1])
    np.testing.assert_array_equal(resumed.state_, stepped.state_)
    assert resumed.advance([], exogenous=known[:0]).shape == (0,)
    assert resumed.variance_ == expected[500] == stepped.forecast(1)[0]


@every_model
def test_filter_of_a_prefix_is_bit_equal_and_blind_to_the_future(model: GARCH, lab: Any) -> None:
    returns, known = lab.with_gaps(lab.simulated(600, scale=1.0)), lab.regressors_of(model, 600)
    fixed = clone(model).fix(lab.params_of(model), returns[:100], backcast=0.9, exogenous=known[:100])
    whole = fixed.filter(returns, exogenous=known)
    for cut in (1, 2, 30, 75, 230, 599):
        np.testing.assert_array_equal(fixed.filter(returns[:cut], exogenous=known[:cut]), whole[:cut])
        other, moved = returns.copy(), known.copy()
        other[cut:], moved[cut:] = 5.0, 7.0
        np.testing.assert_array_equal(fixed.filter(other, exogenous=moved)[: cut + 1], whole[: cut + 1])
        shocked = fixed.filter(np.where(np.arange(600) == cut - 1, 9.0, returns), exogenous=known)
        assert (shocked[cut] != whole[cut]) == (model.p + model.o > 0)


def test_saved_parameters_and_backcast_restore_the_model(lab: Any) -> None:
    returns = lab.simulated(800)
    model = clone(GJR).fit(returns[:700])
    short = clone(model).fix(model.params_, returns[:5], backcast=model.backcast_)
    assert short.variance_ == model.filter(returns[:6])[5]
    other = clone(model).fix(dict(model.params_), returns[:760], backcast=model.backcast_)
    model.advance(returns[700:760])
    np.testing.assert_array_equal(model.forecast(24), other.forecast(24))
    reversed_ = clone(model).fix(model.params_.iloc[::-1], returns)
    np.testing.assert_array_equal(reversed_.params_, model.params_)


def test_a_gap_passes_at_its_expectation_and_adds_no_likelihood(lab: Any) -> None:
    returns = lab.simulated(300, scale=1.0)
    longer = np.concatenate([returns, np.full(24, math.nan)])
    model = GARCH().fix([0.05, 0.1, 0.8], returns)
    np.testing.assert_array_equal(model.filter(longer)[300:], model.forecast(24))
    assert GARCH().fix([0.05, 0.1, 0.8], longer).loglikelihood_ == model.loglikelihood_


# -- forecasts -------------------------------------------------------------------------------------------------------


def test_forecast_reverts_geometrically(lab: Any) -> None:
    model = clone(GJR).fit(lab.simulated(3_000))
    p = model.params_
    persistence = p["alpha[1]"] + 0.5 * p["gamma[1]"] + p["beta[1]"]
    level = p["omega"] / (1 - persistence)
    expected = level + persistence ** np.arange(72) * (model.variance_ - level)
    np.testing.assert_allclose(model.forecast(72), expected, rtol=1e-10)


@pytest.mark.parametrize("persistence", [0.0, 0.4, 0.97, 1 - 1e-10, 1.0, 1 + 1e-9])
def test_cumulated_forecast_is_the_sum_of_the_steps(persistence: float, lab: Any) -> None:
    horizons = (1, 4, 24, 72)
    beta = max(persistence - 0.08, 0.0)
    alpha, gamma = (0.05, 0.06) if persistence else (0.0, 0.0)
    model = clone(GJR).fix([0.03, alpha, gamma, beta, 5.0], lab.simulated(300, scale=1.0))
    expected = np.cumsum(model.forecast(72))[np.array(horizons) - 1]
    sums = model.cumulated([model.variance_, 3.0, math.nan], horizons)
    np.testing.assert_allclose(sums[0], expected, rtol=1e-13)
    np.testing.assert_array_equal(sums[1], model.cumulated([3.0], horizons)[0])  # whatever the other rows
    assert sums[1, 0] == 3.0
    assert np.isnan(sums[2]).all()


@pytest.mark.parametrize("model", [GARCH(p=2, o=1, q=2, dist="t"), GARCH(vol="egarch", o=1)], ids=repr)
def test_forecast_is_the_mean_of_simulated_paths(model: GARCH, lab: Any) -> None:
    """For GARCH the closed form against simulation, for EGARCH one simulation against another, shocks drawn here."""
    fixed = clone(model).fix(lab.params_of(model), lab.simulated(500, scale=1.0))
    returns, variance = fixed.simulate(12, 40_000, seed=3)
    assert returns.shape == variance.shape == (40_000, 12)
    error = variance.std(axis=0) / math.sqrt(20_000)
    assert (np.abs(variance.mean(axis=0) - fixed.forecast(12, paths=200_000)) <= 5 * error + 1e-9).all()
    # What is simulated are the model's own paths: a path's returns, filtered, give its variances back.
    follow = clone(model).resume(fixed.params_, fixed.state_)
    np.testing.assert_allclose(follow.advance(returns[7])[:-1], variance[7, 1:], rtol=1e-9)
    assert fixed.forecast(12)[0] == fixed.forecast(1)[0] == fixed.variance_


def test_egarch_forecast_agrees_with_archs_simulation(lab: Any) -> None:
    model, returns = GARCH(o=1, vol="EGARCH"), lab.simulated(800, scale=1.0)
    params = np.array([0.0, 0.15, -0.1, 0.95])
    oracle = arch_model(returns, mean="Zero", vol="EGARCH", p=1, o=1, q=1, rescale=False).fix(params)
    rng = np.random.default_rng(5)
    options: Any = {"method": "simulation", "simulations": 20_000, "reindex": False, "rng": rng.standard_normal}
    simulated = oracle.forecast(horizon=20, **options).simulations.variances[0]
    error = simulated.std(axis=0) / math.sqrt(10_000)
    path = model.fix(params, returns).forecast(20, paths=100_000)
    assert (np.abs(path - simulated.mean(axis=0)) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("dist", ["normal", "t", "skewt"])
def test_simulated_errors_follow_their_density(dist: str, lab: Any) -> None:
    model = GARCH(q=0, dist=dist)
    shape = {"normal": [], "t": [6.0], "skewt": [6.0, -0.3]}[dist]
    model.fix([1.0, 0.0, *shape], lab.simulated(300, scale=1.0))
    z = model.simulate(4, 100_000, seed=2)[0].ravel()
    assert np.mean(z) == pytest.approx(0.0, abs=0.01)
    assert np.var(z) == pytest.approx(1.0, abs=0.02)
    levels = np.array([0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995])
    oracle: Any = model_distribution(dist)
    quantiles = oracle.ppf(levels, shape)
    np.testing.assert_allclose(np.mean(z[:, None] <= quantiles, axis=0), levels, atol=0.004)


def model_distribution(dist: str) -> Any:
    from arch.univariate import Normal, StudentsT

    return {"normal": Normal, "t": StudentsT, "skewt": SkewStudent}[dist]()


def test_simulation_repeats_by_its_seed(lab: Any) -> None:
    model = GARCH(o=1, dist="skewt").fix([0.05, 0.06, 0.04, 0.8, 6.0, 0.2], lab.simulated(300, scale=1.0))
    for first, second in zip(model.simulate(5, 7, seed=1), model.simulate(5, 7, seed=1), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (model.simulate(5, 7, seed=1)[0] != model.simulate(5, 7, seed=2)[0]).all()


# -- names, guards, imports ------------------------------------------------------------------------------------------


def test_names_of_arch_are_understood_in_any_case(lab: Any) -> None:
    returns = lab.simulated(300)
    same = [
        (GARCH(o=1, dist="t"), GARCH(o=1, dist="StudentsT", mean="Zero", vol="GARCH")),
        (GARCH(dist="skewt", mean="constant"), GARCH(dist="SkewStudent", mean="Constant")),
        (GARCH(o=1, vol="egarch"), GARCH(o=1, dist="Gaussian", vol="EGARCH")),
    ]
    for own, archs in same:
        assert own.specification == archs.specification
        params = lab.params_of(own)
        assert own.fix(params, returns).variance_ == archs.fix(params, returns).variance_


def test_wrong_usage_is_named(lab: Any) -> None:
    returns = lab.simulated(300)
    for spec, message in (
        (GARCH(p=0), "p, o or exogenous at least 1"), (GARCH(q=-1), "whole numbers"), (GARCH(p=1.5), "whole numbers"),  # type: ignore[arg-type]
        (GARCH(dist="cauchy"), "'cauchy': choose from .*skewt"), (GARCH(mean="ar"), "'ar': choose from zero, constant"),
        (GARCH(vol="figarch"), "'figarch': choose from .*egarch"), (GARCH(vol="egarch", exogenous=1), "need vol='garch'"),
        (GARCH(vol="egarch", targeting=True), "need vol='garch'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            spec.fit(returns)
    model = GARCH().fix([1e-5, 0.1, 0.8], returns)
    for raised, message, call in (
        (UsageError, "finite parameters", lambda: GARCH().fit(returns, start=[0.1, 0.2])),
        (UsageError, "finite parameters", lambda: GARCH().fit(returns, start=[0.1, math.nan, 0.2])),
        (UsageError, "fit_many", lambda: GARCH().fit(np.ones((2, 300)))),
        (UsageError, "call fit", lambda: GARCH().forecast(3)),
        (UsageError, "starts at 1", lambda: model.forecast(0)),
        (UsageError, "starts at 1", lambda: model.cumulated([1.0], (0, 2))),
        (UsageError, "orders at most one", lambda: GARCH(q=2).fix([0.1, 0.1, 0.4, 0.4], returns).cumulated([1.0], [2])),
        (DataInvalid, "infinite", lambda: model.update(-math.inf)),
        (UsageError, "no parameter 'r'", lambda: GARCH().set_params(r=2)),
        (UsageError, r"shape \(4, 1\)", lambda: GARCH().resume([0.1, 0.1, 0.8], np.zeros((3, 1)))),
        (UsageError, "after fit or fix", lambda: GARCH().resume(model.params_, model.state_).filter(returns)),
        (UsageError, "after fit or fix", lambda: GARCH().resume(model.params_, model.state_).loglikelihood_),
        (DataInvalid, "backcast", lambda: GARCH().fix([0.1, 0.1, 0.8], np.full(9, math.nan))),
        (DataInvalid, "backcast", lambda: GARCH(vol="egarch").fix([0.0, 0.1, 0.9], returns, backcast=0.0)),
        (DataInvalid, "the next variance", lambda: GARCH().fix([-1.0, 0.1, 0.8], returns)),
    ):  # fmt: skip
        with pytest.raises(raised, match=message):
            call()


def test_wrong_regressors_are_named(lab: Any) -> None:
    model, returns = GARCH(exogenous=2), lab.simulated(300, scale=1.0)
    known = lab.regressors_of(model, 300)
    model.fix([0.05, 0.1, 0.7, 0.02, 0.03], returns, exogenous=known)
    for raised, message, call in (
        (UsageError, r"\(300, 2\)", lambda: model.filter(returns)),
        (UsageError, r"\(300, 2\)", lambda: model.filter(returns, exogenous=known.T)),
        (DataInvalid, r"exogenous\[7, 1\]", lambda: model.filter(returns, exogenous=spoilt(known))),
        (UsageError, r"\(1, 2\)", lambda: model.update(0.1, [1.0])),
        (DataInvalid, r"exogenous\[0, 1\]", lambda: model.update(0.1, [1.0, -1.0])),
        (UsageError, "4 regressors to come", lambda: model.forecast(5)),
        (UsageError, "no law", lambda: model.simulate(5, 10)),
    ):
        before = model.state_
        with pytest.raises(raised, match=message):
            call()
        np.testing.assert_array_equal(model.state_, before)
    assert model.forecast(1).shape == (1,)


def spoilt(known: Array) -> Array:
    out = known.copy()
    out[7, 1] = math.nan
    return out


def test_a_new_fit_leaves_nothing_of_the_old(lab: Any) -> None:
    returns = lab.simulated(300)
    model = clone(GJR).fit(returns)
    assert model.certificate_.converged
    params, state, likelihood = model.params_, model.state_, model.loglikelihood_
    model.fix(params, 2 * returns)
    assert not hasattr(model, "certificate_")
    assert model.loglikelihood_ != likelihood
    model.resume(params, state)
    assert not hasattr(model, "backcast_")


def test_estimator_follows_the_sklearn_protocol(lab: Any) -> None:
    model = GARCH(o=1, dist="t", vol="EGARCH")
    copy = clone(model.fit(lab.simulated(300)))
    assert copy.get_params() == model.get_params()
    with pytest.raises(UsageError, match="call fit"):
        copy.params_  # noqa: B018
    assert copy.set_params(dist="normal").dist == "normal"
    assert repr(copy) == "GARCH(p=1, o=1, q=1, dist='normal', mean='zero', vol='EGARCH')"


def test_import_is_light() -> None:
    """Numba is all the package needs, with what it brings; whatever else came along, every command would pay for."""
    loaded = "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    numba, garch = (
        set(subprocess.run([sys.executable, "-c", f"import {name}, sys; {loaded}"], check=True, capture_output=True,
                           text=True).stdout.split())
        for name in ("numba", "models.garch")
    )  # fmt: skip
    assert not {"pandas", "arch", "sklearn", "statsmodels", "pyarrow", "matplotlib"} & garch
    assert "scipy" not in garch - numba
