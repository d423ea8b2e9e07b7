from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from arch import arch_model
from arch.univariate import SkewStudent
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import clone
from threadpoolctl import threadpool_limits

from features.errors import DataInvalid, UsageError
from models.garch import GARCH, estimation, fit_many
from models.garch.likelihood import Likelihood

Array = NDArray[np.float64]

SPECS = [
    GARCH(),
    GARCH(dist="t", mean="constant"),
    GARCH(o=1, dist="t"),
    GARCH(o=1, dist="skewt", mean="constant"),
    GARCH(p=2, o=1, q=2),
    GARCH(q=0, dist="t"),
]
PARAMS: dict[str, float] = {
    "mu": 0.03,
    "omega": 0.05,
    "alpha[1]": 0.06,
    "alpha[2]": 0.02,
    "gamma[1]": 0.04,
    "beta[1]": 0.6,
    "beta[2]": 0.2,
    "nu": 5.0,
    "eta": 6.0,
    "lambda": -0.1,
}


def simulated(length: int, seed: int = 0, persistence: float = 0.97, scale: float = 0.01) -> Array:
    """GJR-t returns: alpha 0.06, gamma 0.06, beta the rest, five degrees of freedom."""
    rng = np.random.default_rng(seed)
    shocks = rng.standard_t(5, length + 500) * math.sqrt(3 / 5)
    variance, out = 1.0, []
    for z in shocks:
        r = z * math.sqrt(variance)
        out.append(r)
        variance = (1 - persistence) + (0.06 + 0.06 * (r < 0)) * r * r + (persistence - 0.09) * variance
    return scale * np.array(out[500:])


def with_gaps(returns: Array) -> Array:
    out = returns.copy()
    out[[7, 40, 41, 42]] = math.nan
    out[200:260] = math.nan
    return out


def params_of(spec: GARCH) -> Array:
    return np.array([PARAMS[name] for name in spec.parameter_names])


def arch_of(spec: GARCH, returns: Array) -> Any:
    mean: Any = {"zero": "Zero", "constant": "Constant"}[spec.mean]
    dist: Any = spec.dist
    return arch_model(returns, mean=mean, p=spec.p, o=spec.o, q=spec.q, dist=dist, rescale=False)


def oracle_variance(spec: GARCH, params: Array, returns: Array, backcast: float) -> Array:
    """The recursion as it stands in the papers, with expectations in place of what is missing."""
    named = dict(zip(spec.parameter_names, params, strict=True))
    residuals = returns - named.get("mu", 0.0)
    variance: list[float] = []

    def lagged(t: int, kind: str) -> float:
        if t < 0:
            return 0.5 * backcast if kind == "negative" else backcast
        if kind == "variance":
            return variance[t]
        if math.isnan(residuals[t]):
            return 0.5 * variance[t] if kind == "negative" else variance[t]
        return float(residuals[t] ** 2 * (kind == "square" or residuals[t] < 0))

    for t in range(len(returns)):
        v = named["omega"]
        v += sum(named[f"alpha[{i}]"] * lagged(t - i, "square") for i in range(1, spec.p + 1))
        v += sum(named[f"gamma[{i}]"] * lagged(t - i, "negative") for i in range(1, spec.o + 1))
        v += sum(named[f"beta[{i}]"] * lagged(t - i, "variance") for i in range(1, spec.q + 1))
        variance.append(v)
    return np.array(variance)


def oracle_loglikelihood(spec: GARCH, params: Array, returns: Array, backcast: float) -> float:
    variance = oracle_variance(spec, params, returns, backcast)
    named = dict(zip(spec.parameter_names, params, strict=True))
    present = np.isfinite(returns)
    residuals, variance = returns[present] - named.get("mu", 0.0), variance[present]
    if spec.dist == "normal":
        return float(stats.norm.logpdf(residuals, scale=np.sqrt(variance)).sum())
    if spec.dist == "t":
        spread = np.sqrt(variance * (named["nu"] - 2) / named["nu"])
        return float(stats.t.logpdf(residuals, named["nu"], scale=spread).sum())
    return float(SkewStudent().loglikelihood([named["eta"], named["lambda"]], residuals, variance))


def likelihood_of(spec: GARCH, returns: Array, backcast: float = 1.2) -> Likelihood:
    return Likelihood(returns, spec.p, spec.o, spec.q, spec.dist, spec.mean, backcast)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_variance_is_the_textbook_recursion(spec: GARCH) -> None:
    returns = with_gaps(simulated(400, scale=1.0))
    model = GARCH(**spec.get_params()).fix(params_of(spec), returns, backcast=1.2)
    np.testing.assert_allclose(model.filter(returns), oracle_variance(spec, params_of(spec), returns, 1.2), rtol=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_likelihood_and_gradient_match_the_oracle(spec: GARCH) -> None:
    returns, params = with_gaps(simulated(400, scale=1.0)), params_of(spec)
    likelihood = likelihood_of(spec, returns)
    theta = likelihood.theta(params)
    assert likelihood.total(theta) == pytest.approx(oracle_loglikelihood(spec, params, returns, 1.2), rel=1e-11)

    def oracle_loss(x: Array) -> float:
        return -oracle_loglikelihood(spec, likelihood.natural(x), returns, 1.2) / likelihood.observations

    steps = 1e-5 * np.eye(theta.size)
    slopes = [(oracle_loss(theta + h) - oracle_loss(theta - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(likelihood.loss(theta)[1], slopes, atol=2e-9)


def test_running_products_survive_extreme_returns() -> None:
    spec = GARCH(dist="t")
    returns = simulated(2_000, scale=1e-12)
    returns[500] = 1e6
    params = np.array([1e-26, 0.05, 0.9, 4.0])
    model = GARCH(dist="t").fix(params, returns, backcast=1e-24)
    assert model.loglikelihood_ == pytest.approx(oracle_loglikelihood(spec, params, returns, 1e-24), rel=1e-11)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_fixed_model_equals_arch(spec: GARCH) -> None:
    returns = simulated(1_500, scale=1.0)
    model = GARCH(**spec.get_params()).fix(params_of(spec), returns)
    oracle = arch_of(spec, returns).fix(params_of(spec))
    np.testing.assert_allclose(model.filter(returns), oracle.conditional_volatility**2, rtol=1e-10)
    assert model.loglikelihood_ == pytest.approx(oracle.loglikelihood, rel=1e-11)
    path = oracle.forecast(horizon=72, reindex=False).variance.to_numpy()[0]
    np.testing.assert_allclose(model.forecast(72), path, rtol=1e-10)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_fit_is_not_below_the_best_of_archs_starts(spec: GARCH) -> None:
    returns = simulated(1_500, seed=3, scale=1.0)
    model = clone(spec).fit(returns)
    assert list(model.params_.index) == list(arch_of(spec, returns).fix(params_of(spec)).params.index)
    best = -math.inf
    for persistence in (None, 0.99, 0.9, 0.8):
        start = None
        if persistence is not None:
            likelihood = likelihood_of(spec, returns)
            start = likelihood.natural(likelihood.start(0.05, 0.02, persistence, 6.0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            best = max(best, arch_of(spec, returns).fit(disp="off", starting_values=start).loglikelihood)
    assert model.loglikelihood_ > best - 1e-4
    assert model.certificate_.converged
    assert model.certificate_.starts >= 5


def test_simulated_parameters_are_recovered() -> None:
    model = GARCH(o=1, dist="t").fit(simulated(20_000, seed=1))
    truth = pd.Series({"omega": 0.03e-4, "alpha[1]": 0.06, "gamma[1]": 0.06, "beta[1]": 0.88, "nu": 5.0})
    np.testing.assert_allclose(model.params_, truth, rtol=0.2)
    assert model.certificate_.certified
    assert not model.certificate_.at_bound


def test_filter_of_a_prefix_is_bit_equal_and_blind_to_the_future() -> None:
    returns = with_gaps(simulated(2_000))
    model = GARCH(o=1, dist="t").fit(returns[:1_000])
    whole = model.filter(returns)
    for cut in (1, 2, 30, 74, 75, 76, 230, 1_000, 1_999):
        np.testing.assert_array_equal(model.filter(returns[:cut]), whole[:cut])
        other = returns.copy()
        other[cut:] = 5.0
        np.testing.assert_array_equal(model.filter(other)[: cut + 1], whole[: cut + 1])


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_update_equals_filter_bit_for_bit(spec: GARCH) -> None:
    returns = with_gaps(simulated(500, scale=1.0))
    model = clone(spec).fix(params_of(spec), returns[:50])
    expected = model.filter(np.append(returns, math.nan))
    assert model.variance_ == expected[50]
    for t in range(50, 500):
        assert model.update(returns[t]) == expected[t + 1]
    assert model.forecast(3)[0] == expected[500]


def test_saved_parameters_and_backcast_restore_the_model() -> None:
    returns = simulated(800)
    model = GARCH(o=1, dist="t", mean="constant").fit(returns[:700])
    short = clone(model).fix(model.params_, returns[:5], backcast=model.backcast_)
    assert short.variance_ == model.filter(returns[:6])[5]
    other = clone(model).fix(model.params_.to_numpy(), returns[:760], backcast=model.backcast_)
    for r in returns[700:760]:
        model.update(float(r))
    np.testing.assert_array_equal(model.forecast(24), other.forecast(24))


def test_scale_of_returns_squares_into_variance() -> None:
    returns = simulated(1_500)
    model, scaled = (GARCH(o=1, dist="t", mean="constant").fit(c * returns) for c in (1.0, 1_000.0))
    np.testing.assert_allclose(scaled.filter(1_000 * returns), 1e6 * model.filter(returns), rtol=1e-6)
    np.testing.assert_allclose(scaled.forecast(24), 1e6 * model.forecast(24), rtol=1e-6)
    assert scaled.loglikelihood_ == pytest.approx(model.loglikelihood_ - 1_500 * math.log(1_000), abs=1e-6)


def test_a_shock_enters_the_variance_of_the_next_row_only() -> None:
    returns = simulated(1_000)
    model = GARCH().fit(returns)
    shocked = returns.copy()
    shocked[520] += 0.2
    ratio = model.filter(shocked) / model.filter(returns)
    assert (ratio[:521] == 1.0).all()
    assert ratio[521] > 2.0


def test_forecast_reverts_geometrically_and_agrees_with_propagate() -> None:
    model = GARCH(o=1, dist="t").fit(simulated(3_000))
    p = model.params_
    persistence = p["alpha[1]"] + 0.5 * p["gamma[1]"] + p["beta[1]"]
    level = p["omega"] / (1 - persistence)
    expected = level + persistence ** np.arange(72) * (model.variance_ - level)
    np.testing.assert_allclose(model.forecast(72), expected, rtol=1e-10)
    np.testing.assert_array_equal(model.propagate([1e-5, model.variance_], 72)[1], model.forecast(72))


def test_a_gap_passes_at_its_expectation_and_adds_no_likelihood() -> None:
    returns = simulated(300, scale=1.0)
    params = np.array([0.05, 0.1, 0.8])
    model = GARCH().fix(params, returns)
    gap = model.filter(np.concatenate([returns, np.full(24, math.nan)]))[300:]
    np.testing.assert_array_equal(gap, model.forecast(24))
    longer = np.concatenate([returns, np.full(24, math.nan)])
    assert GARCH().fix(params, longer).loglikelihood_ == model.loglikelihood_
    gapped = with_gaps(simulated(5_000, seed=2))
    clean, holed = GARCH(dist="t").fit(simulated(5_000, seed=2)), GARCH(dist="t").fit(gapped)
    assert holed.certificate_.certified
    np.testing.assert_allclose(holed.params_.iloc[1:], clean.params_.iloc[1:], rtol=0.05)


def test_hopeless_series_are_refused_before_any_fit() -> None:
    hopeless = {
        "flat": [np.zeros(500), np.full(500, 1e-3), np.full(500, 0.1) + 1e-15 * np.arange(500)],
        "infinite": [np.append(simulated(500), math.inf)],
        "at least 100": [simulated(99), np.full(500, math.nan), np.array([])],
    }
    for message, cases in hopeless.items():
        for returns in cases:
            with pytest.raises(DataInvalid, match=message):
                GARCH(dist="t").fit(returns)


def test_wrong_usage_is_named() -> None:
    returns = simulated(300)
    for spec in (GARCH(p=0), GARCH(q=-1), GARCH(dist="cauchy"), GARCH(mean="ar")):
        with pytest.raises(UsageError, match=r"GARCH\("):
            spec.fit(returns)
    with pytest.raises(UsageError, match="finite parameters"):
        GARCH().fit(returns, start=[0.1, 0.2])
    with pytest.raises(UsageError, match="fit_many"):
        GARCH().fit(np.ones((2, 300)))
    with pytest.raises(UsageError, match="call fit"):
        GARCH().forecast(3)
    with pytest.raises(UsageError, match="starts at 1"):
        GARCH().fit(returns).forecast(0)
    with pytest.raises(UsageError, match="orders of at most one"):
        GARCH(q=2).fix([0.1, 0.1, 0.4, 0.4], returns).propagate([1.0], 2)
    with pytest.raises(DataInvalid, match="infinite"):
        GARCH().fit(returns).update(-math.inf)
    with pytest.raises(UsageError, match="no parameter 'r'"):
        GARCH().set_params(r=2)


def test_certificate_tells_bad_fits_from_good_ones() -> None:
    good = GARCH(o=1, dist="t").fit(simulated(4_000, seed=5)).certificate_
    assert good.certified
    assert not good.at_bound
    assert good.gradient_norm < estimation.MAX_GRADIENT
    with pytest.raises(dataclasses.FrozenInstanceError):
        good.converged = False  # type: ignore[misc]
    walk = np.exp(np.linspace(0, 4, 3_000)) * np.random.default_rng(0).standard_normal(3_000)
    integrated = GARCH().fit(walk).certificate_
    assert integrated.converged
    assert integrated.at_bound
    assert not integrated.certified
    assert "not covariance stationary" in integrated.reason


def test_a_point_off_the_optimum_is_not_certified() -> None:
    returns = simulated(2_000, scale=1.0)
    likelihood = likelihood_of(GARCH(o=1, dist="t"), returns / returns.std())
    theta = likelihood.feasible(likelihood.theta(np.array([1e-8, 0.3, 0.1, 0.2, 3.0])))
    certificate = estimation._certify(likelihood, theta, "multi-start", 1)
    assert not certificate.converged
    for words in ("off the optimum", "edge of their range", "simpler nested model"):
        assert words in certificate.reason


def test_arch_rescues_a_failing_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    returns = simulated(1_500, seed=4)
    expected = GARCH(o=1, dist="t").fit(returns)
    monkeypatch.setattr(estimation, "MAX_ITERATIONS", 1)
    rescued = GARCH(o=1, dist="t").fit(returns)
    assert expected.certificate_.method == "multi-start"
    assert rescued.certificate_.method == "arch"
    assert rescued.loglikelihood_ == pytest.approx(expected.loglikelihood_, abs=1e-2)


def test_arch_admits_our_optimum_as_its_start() -> None:
    walk = np.exp(np.linspace(0, 4, 3_000)) * np.random.default_rng(0).standard_normal(3_000)
    unit = walk / np.sqrt(np.mean(walk**2))
    for spec in (GARCH(), GARCH(o=1, dist="t")):
        model = clone(spec).fit(unit)
        assert model.certificate_.at_bound
        fitted = arch_of(spec, unit).fit(disp="off", starting_values=model.params_.to_numpy())  # warns if refused
        assert model.loglikelihood_ > fitted.loglikelihood - 0.05


def test_warm_refit_reaches_the_cold_optimum_and_ignores_a_bad_start() -> None:
    returns = simulated(3_000)
    cold = GARCH(o=1, dist="t").fit(returns[:-100])
    target = GARCH(o=1, dist="t").fit(returns)
    warm = GARCH(o=1, dist="t").fit(returns, start=cold.params_)
    assert warm.certificate_.method == "warm"
    lost = GARCH(o=1, dist="t").fit(returns, start=[1e-3, 0.99, 0.0, 0.0, 2.06])
    for model in (warm, lost):
        assert model.loglikelihood_ == pytest.approx(target.loglikelihood_, abs=1e-3)


def test_warm_refit_leaves_a_local_optimum() -> None:
    noise = np.random.default_rng(44).standard_normal(300)
    best = GARCH().fit(noise)
    local = np.array([np.mean(noise**2), 0.0, 0.0])
    assert GARCH().fix(local, noise).loglikelihood_ < best.loglikelihood_ - 2.0
    refit = GARCH().fit(noise, start=local)
    assert refit.certificate_.method == "multi-start"
    assert refit.loglikelihood_ == pytest.approx(best.loglikelihood_, abs=1e-3)


def test_fits_repeat_bit_for_bit() -> None:
    returns = simulated(1_000)
    first, second = (GARCH(o=1, dist="t").fit(returns) for _ in range(2))
    np.testing.assert_array_equal(first.params_, second.params_)
    assert first.certificate_ == second.certificate_


def test_fit_many_is_fit_row_by_row() -> None:
    rows = np.stack([simulated(600, seed=1), np.zeros(600), with_gaps(simulated(600, seed=2))])
    spec = GARCH(o=1, dist="t")
    params, loglikelihood, certificates = fit_many(rows, spec)
    for i in (0, 2):
        single = clone(spec).fit(rows[i])
        np.testing.assert_array_equal(params[i], single.params_)
        assert loglikelihood[i] == single.loglikelihood_
        assert certificates[i] == single.certificate_
    assert np.isnan(params[1]).all()
    assert math.isnan(loglikelihood[1])
    assert "flat" in certificates[1].reason
    assert not certificates[1].certified
    again = fit_many(rows, spec, start=params)
    assert [c.method for c in again[2]] == ["warm", "refused", "warm"]
    np.testing.assert_allclose(again[1], loglikelihood, atol=1e-3)
    with pytest.raises(UsageError, match="start has shape"):
        fit_many(rows, spec, start=params[:2])


def test_estimator_follows_the_sklearn_protocol() -> None:
    spec = GARCH(p=1, o=1, q=1, dist="skewt", mean="constant")
    copy = clone(spec.fit(simulated(300)))
    assert copy.get_params() == spec.get_params()
    assert not hasattr(copy, "params_")
    assert copy.set_params(dist="t").dist == "t"


def test_named_start_may_come_in_any_order() -> None:
    returns = simulated(600)
    model = GARCH(dist="t").fit(returns)
    restored = GARCH(dist="t").fix(model.params_.iloc[::-1], returns)
    np.testing.assert_array_equal(restored.params_, model.params_)


@pytest.mark.real
def test_real_hourly_returns_reach_the_best_of_archs_starts(real_data: Path) -> None:
    bars = pd.read_feather(real_data / "freqtrade" / "futures" / "BTC_USDT_USDT-1h-futures.feather")
    percent = 100 * np.diff(np.log(bars["close"].to_numpy()))
    model = GARCH(o=1, dist="t").fit(percent)
    oracle = arch_of(model, percent)
    starts = [None, [0.02, 0.05, 0.0, 0.93, 4.0], [0.01, 0.1, 0.02, 0.88, 3.5], [0.05, 0.2, 0.0, 0.7, 5.0]]
    # One thread: where arch's optimiser ends, and how far beyond its own constraint, depends on how many there are.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")
        fits = [oracle.fit(disp="off", starting_values=s) for s in starts]
    beyond = [f.params["alpha[1]"] + f.params["gamma[1]"] / 2 + f.params["beta[1]"] - 1 for f in fits]
    inside = [f for f, excess in zip(fits, beyond, strict=True) if excess <= 1e-12]
    near = [f.loglikelihood for f, excess in zip(fits, beyond, strict=True) if excess <= 1e-6]
    assert model.loglikelihood_ > max(near) - 0.05
    assert all(model.loglikelihood_ > f.loglikelihood - 1e-4 for f in inside)
    restored = clone(model).fix(fits[0].params.to_numpy(), percent)
    assert restored.loglikelihood_ == pytest.approx(fits[0].loglikelihood, rel=1e-10)
    np.testing.assert_allclose(restored.filter(percent), fits[0].conditional_volatility ** 2, rtol=1e-8)
