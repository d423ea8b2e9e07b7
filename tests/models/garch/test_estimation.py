"""Fits against arch's, their certificates, what is refused, and data that nobody would want to fit."""

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
from arch.data import sp500
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from threadpoolctl import threadpool_limits

from features.errors import DataInvalid, UsageError
from models.garch import GARCH, Certificate, fit_many
from models.garch.estimation import Certificates
from models.garch.newton import Climbs

Array = NDArray[np.float64]

GJR = GARCH(o=1, dist="t")
MODELS = [
    GARCH(),
    GJR,
    GARCH(dist="t", mean="constant"),
    GARCH(o=1, dist="skewt", mean="constant"),
    GARCH(o=1, dist="t", vol="EGARCH"),
]
RELATIVE = 1e-6


def arch_of(model: GARCH, returns: Array) -> Any:
    given: Any = {name: getattr(model, name) for name in ("p", "o", "q", "vol", "dist", "mean")}
    given["vol"] = {"garch": "GARCH", "egarch": "EGARCH"}[str(given["vol"]).lower()]
    return arch_model(returns, rescale=False, **given)


def best_of_arch(model: GARCH, returns: Array, starts: tuple[Any, ...] = (None,)) -> float:
    """arch's likelihood from its own and other starts, where it ends inside its own constraints."""
    best = -math.inf
    oracle = arch_of(model, returns)
    weights = model.specification.persistence
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")
        for start in starts:
            fitted = oracle.fit(disp="off", show_warning=False, starting_values=start)
            if weights @ fitted.params.to_numpy() <= 1.0:
                best = max(best, fitted.loglikelihood)
    assert math.isfinite(best)
    return best


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_no_fit_lies_below_archs(model: GARCH, lab: Any) -> None:
    rows = np.stack([lab.simulated(1_000, seed=s, persistence=p, scale=1.0) for s, p in enumerate((0.97, 0.999, 0.9))])
    params, loglikelihood, certificates = fit_many(rows, model)
    for row, found, own, certificate in zip(rows, params, loglikelihood, certificates, strict=True):
        assert certificate.converged
        assert certificate.decrement < 1e-5
        assert certificate.gradient_norm < 1e-4
        assert own >= best_of_arch(model, row, (None, found)) * (1 + RELATIVE)
        assert own == pytest.approx(float(arch_of(model, row).fix(found).loglikelihood), rel=1e-9)


def test_s_and_p_500_is_fitted_as_by_arch() -> None:
    percent = 100 * sp500.load()["Adj Close"].pct_change().dropna().to_numpy()
    for model in MODELS:
        fitted = clone(model).fit(percent)
        assert fitted.certificate_.certified, fitted.certificate_.reason
        assert fitted.loglikelihood_ >= best_of_arch(model, percent) * (1 + RELATIVE)
        assert list(fitted.params_.index) == list(arch_of(model, percent).fix(fitted.params_).params.index)


def test_simulated_parameters_are_recovered(lab: Any) -> None:
    model = clone(GJR).fit(lab.simulated(20_000, seed=1))
    truth = pd.Series({"omega": 0.03e-4, "alpha[1]": 0.06, "gamma[1]": 0.06, "beta[1]": 0.88, "nu": 5.0})
    np.testing.assert_allclose(model.params_, truth, rtol=0.2)
    assert model.certificate_.certified
    assert not model.certificate_.at_bound
    assert model.certificate_.curvature > 0


def test_weight_of_a_regressor_is_recovered() -> None:
    rng = np.random.default_rng(4)
    known, z = rng.chisquare(3, 8_000), rng.standard_normal(8_000)
    returns, variance = np.empty(8_000), 1.0
    for t in range(8_000):
        returns[t] = math.sqrt(variance) * z[t]
        variance = 0.02 + 0.05 * returns[t] ** 2 + 0.85 * variance + 0.03 * known[t]
    model = GARCH(exogenous=1).fit(returns, exogenous=known)
    assert model.params_["pi[1]"] == pytest.approx(0.03, rel=0.25)
    assert model.certificate_.certified
    assert model.loglikelihood_ > GARCH().fit(returns).loglikelihood_ + 20


def test_targeting_ties_the_long_run_variance_to_the_samples(lab: Any) -> None:
    returns = lab.simulated(3_000, seed=8)
    free, tied = clone(GJR).fit(returns), GARCH(o=1, dist="t", targeting=True).fit(returns)
    long_run = tied.params_["omega"] / (1 - tied.certificate_.persistence)
    assert long_run == pytest.approx(np.mean(returns**2), rel=1e-9)
    assert tied.certificate_.certified
    assert free.loglikelihood_ - 5 < tied.loglikelihood_ <= free.loglikelihood_


def test_series_without_a_variance_to_model_are_refused(lab: Any) -> None:
    hopeless = {
        "flat": [np.zeros(500), np.full(500, 1e-3), np.full(500, 0.1) + 1e-15 * np.arange(500)],
        "infinite": [np.append(lab.simulated(500), math.inf)],
        "at least 100": [lab.simulated(99), np.full(500, math.nan), np.array([])],
        "1e100": [1e-200 * lab.simulated(500), 1e200 * lab.simulated(500)],
    }
    for message, cases in hopeless.items():
        for returns in cases:
            with pytest.raises(DataInvalid, match=message):
                clone(GJR).fit(returns)
            _, loglikelihood, (certificate,) = fit_many(returns, GJR)
            assert np.isnan(loglikelihood).all()
            assert certificate.method == "refused"
            assert message in certificate.reason


def test_regressors_that_cannot_drive_a_variance_are_refused(lab: Any) -> None:
    returns, known = lab.simulated(500), np.ones(500)
    for place, value in ((100, math.nan), (100, math.inf), (100, -1.0), (499, math.nan), (slice(None), 0.0)):
        bad = known.copy()
        bad[place] = value
        with pytest.raises(DataInvalid, match="exogenous"):
            GARCH(exogenous=1).fit(returns, exogenous=bad)
    rows = np.stack([returns, returns])
    params, _, certificates = fit_many(rows, GARCH(exogenous=1), exogenous=np.stack([0 * known, known])[..., None])
    assert "exogenous column 0" in certificates[0].reason
    np.testing.assert_array_equal(params[1], GARCH(exogenous=1).fit(returns, exogenous=known).params_)


def test_huge_regressors_are_a_matter_of_units(lab: Any) -> None:
    returns, known = lab.simulated(800), np.random.default_rng(1).chisquare(2, 800)
    small, huge = (GARCH(exogenous=1).fit(returns, exogenous=c * known) for c in (1.0, 2.0**900))
    assert huge.loglikelihood_ == small.loglikelihood_
    assert huge.params_["pi[1]"] == small.params_["pi[1]"] / 2.0**900


def test_certificate_tells_bad_fits_from_good_ones(lab: Any) -> None:
    good = clone(GJR).fit(lab.simulated(4_000, seed=5)).certificate_
    assert good.certified
    assert good.bounds == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        good.converged = False  # type: ignore[misc]
    walk = np.exp(np.linspace(0, 4, 3_000)) * np.random.default_rng(0).standard_normal(3_000)
    integrated = GARCH().fit(walk).certificate_
    assert integrated.converged
    assert "persistence" in integrated.bounds
    assert not integrated.certified
    assert "not covariance stationary" in integrated.reason
    noise = GARCH(dist="t").fit(np.random.default_rng(1).standard_normal(1_000)).certificate_
    assert noise.at_bound
    assert {"alpha[1] low", "tail low"} & set(noise.bounds)
    assert Certificate.refused("so").certified is False


def test_a_point_off_the_optimum_is_not_certified() -> None:
    spec = GJR.specification
    told = {"value": -900.0, "decrement": 0.5, "gradient": 0.1, "curvature": 0.2}
    facts = [np.array([value, -708.0, -708.0, -708.0]) for value in told.values()]
    facts[1][1:], facts[2][1:], facts[3][1:] = 0.0, 0.0, [0.2, -0.3, np.nan]
    face = np.array([1 << spec.names.index("omega"), 0, 0, 0])
    climbs = Climbs(np.tile([0.1, 0.05, 0.0, 0.8, 0.2], (4, 1)), *facts, face)
    many = np.full(4, 500)
    off, top, saddle, unknown = Certificates(spec, climbs, many > 0, many, many, {})
    for words in ("off the optimum", "edge of the range", "below that of a constant variance"):
        assert words in off.reason
    assert top.certified
    assert not saddle.converged
    assert not unknown.converged
    assert off.bounds == ("omega low",)


def test_gaps_hardly_move_a_fit(lab: Any) -> None:
    clean = lab.simulated(5_000, seed=2)
    whole, holed = clone(GJR).fit(clean), clone(GJR).fit(lab.with_gaps(clean))
    assert holed.certificate_.certified
    np.testing.assert_allclose(holed.params_.iloc[3:], whole.params_.iloc[3:], rtol=0.05)


def test_a_far_mean_is_found(lab: Any) -> None:
    """A mean of fifty standard deviations is no reason to fail: prices, or returns in a wrong unit."""
    returns = lab.simulated(1_000, seed=2, scale=1.0)
    near, far = (GARCH(dist="t", mean="constant").fit(returns + c) for c in (0.0, 50.0))
    assert far.certificate_.certified
    assert far.params_["mu"] == pytest.approx(near.params_["mu"] + 50, abs=1e-6)
    assert far.loglikelihood_ == pytest.approx(near.loglikelihood_, abs=1e-6)


HARD = {
    "one outlier of fifty sigma": lambda r: np.where(np.arange(len(r)) == 500, 50 * r.std(), r),
    "zeros but a few": lambda r: np.where(np.arange(len(r)) % 97 == 0, r, 0.0),
    "two values": lambda r: np.where(r > 0, 1e-3, -1e-3),
    "a tick grid": lambda r: np.round(r, 2),
    "decay": lambda r: 0.99 ** np.arange(len(r)),
    "as short as allowed": lambda r: r[:100],
    "calm, then storm": lambda r: np.where(np.arange(len(r)) < 900, 1e-4, 1.0) * r,
    "still at first": lambda r: np.where(np.arange(len(r)) < 200, 0.0, r),
}


@pytest.mark.parametrize("model", [GARCH(), GJR, MODELS[-1]], ids=repr)
def test_hard_data_end_in_an_optimum_or_a_reason(model: GARCH, lab: Any) -> None:
    returns = lab.simulated(1_000, seed=12)
    for name, made in HARD.items():
        hard = made(returns)
        fitted = clone(model).fit(hard)
        certificate = fitted.certificate_
        assert certificate.converged or "stopped off the optimum" in certificate.reason, name
        assert certificate.certified == (certificate.reason == ""), name
        constant = -0.5 * hard.size * (math.log(2 * math.pi * np.mean(hard**2)) + 1)
        assert fitted.loglikelihood_ > constant - 1 or "constant variance" in certificate.reason, name
        assert (fitted.filter(hard) > 0).all(), name
        if certificate.converged:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                oracle = arch_of(model, hard / hard.std()).fit(disp="off", show_warning=False)
            shift = hard.size * math.log(hard.std())
            inside = model.specification.persistence @ oracle.params.to_numpy() <= 1.0
            assert not inside or fitted.loglikelihood_ > oracle.loglikelihood - shift - 0.05, name


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_a_power_of_two_scales_exactly(model: GARCH, lab: Any) -> None:
    """Rounding is the same at every power of two, so the scale of the returns cannot matter at all."""
    returns = lab.simulated(600, seed=3)
    plain = clone(model).fit(returns)
    for power in (-40, 20):
        scaled = clone(model).fit(2.0**power * returns)
        np.testing.assert_allclose(scaled.filter(2.0**power * returns), 4.0**power * plain.filter(returns), rtol=1e-12)
        assert scaled.certificate_ == plain.certificate_
        shift = returns.size * power * math.log(2.0)
        assert scaled.loglikelihood_ == pytest.approx(plain.loglikelihood_ - shift, rel=1e-12)
    for factor in (1e-12, 1e6):
        scaled = clone(model).fit(factor * returns)
        np.testing.assert_allclose(scaled.filter(factor * returns), factor**2 * plain.filter(returns), rtol=1e-6)


def test_fit_many_is_fit_row_by_row_whatever_the_neighbours(lab: Any) -> None:
    rows = np.full((20, 700), np.nan)
    for i, row in enumerate(rows):
        length = 700 - 13 * i
        row[:length] = lab.simulated(length, seed=i, persistence=0.9 + 0.005 * i)
    rows[3] = 0.0
    rows[4] = lab.with_gaps(rows[4])
    params, loglikelihood, certificates = fit_many(rows, GJR)
    for i, row in enumerate(rows):
        if i == 3:
            assert np.isnan(params[i]).all()
            assert np.isnan(loglikelihood[i])
            assert "flat" in certificates[i].reason
            continue
        single = clone(GJR).fit(row[: 700 - 13 * i])
        np.testing.assert_array_equal(params[i], single.params_)
        assert loglikelihood[i] == single.loglikelihood_
        assert certificates[i] == single.certificate_
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(fit_many(rows[order], GJR)[0], params[order])


def test_warm_refits_reach_the_cold_optimum(lab: Any) -> None:
    rows = np.stack([lab.simulated(1_500, seed=s) for s in range(6)])
    before, _, _ = fit_many(rows[:, :-50], GJR)
    _, target, _ = fit_many(rows, GJR)
    before[5] = np.nan
    _, warm, certificates = fit_many(rows, GJR, start=before)
    assert [c.method for c in certificates] == ["warm"] * 5 + ["multi-start"]
    np.testing.assert_allclose(warm, target, atol=1e-5)
    lost = clone(GJR).fit(rows[0], start=[1e-3, 0.99, 0.0, 0.0, 2.06])
    assert lost.loglikelihood_ == pytest.approx(target[0], abs=1e-5)
    with pytest.raises(UsageError, match="start has shape"):
        fit_many(rows, GJR, start=before[:2])


def test_warm_refit_leaves_a_local_optimum() -> None:
    noise = np.random.default_rng(44).standard_normal(300)
    best = GARCH().fit(noise)
    local = np.array([np.mean(noise**2), 0.0, 0.0])
    assert GARCH().fix(local, noise).loglikelihood_ < best.loglikelihood_ - 2.0
    refit = GARCH().fit(noise, start=local)
    assert refit.certificate_.method == "multi-start"
    assert refit.loglikelihood_ == pytest.approx(best.loglikelihood_, abs=1e-3)


def test_nothing_to_fit_is_no_error() -> None:
    params, loglikelihood, certificates = fit_many(np.empty((0, 500)), GJR)
    assert params.shape == (0, 5)
    assert len(loglikelihood) == len(certificates) == 0
    params, loglikelihood, certificates = fit_many(np.zeros((3, 500)), GJR)
    assert np.isnan(params).all()
    assert np.isnan(loglikelihood).all()
    assert [c.method for c in certificates] == ["refused"] * 3


PIECE = st.one_of(
    st.floats(-5, 5),
    st.floats(-1e-3, 1e-3),
    st.just(0.0),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just(math.nan),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    pieces=st.lists(PIECE, min_size=1, max_size=12),
    seed=st.integers(0, 2**31),
    noise=st.sampled_from([0.0, 1e-8, 0.01, 1.0]),
    model=st.sampled_from([GARCH(), GJR, MODELS[-1]]),
)
def test_any_data_give_a_refusal_or_a_certificate(pieces: list[float], seed: int, noise: float, model: GARCH) -> None:
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        returns = rng.choice(pieces, 130) * rng.choice([1.0, -1.0], 130) + noise * rng.standard_normal(130)
    returns[np.isinf(returns)] = 0.0
    try:
        fitted = clone(model).fit(returns)
    except DataInvalid:
        return
    assert np.isfinite(fitted.params_).all()
    assert math.isfinite(fitted.loglikelihood_)
    certificate = fitted.certificate_
    assert certificate.certified == (certificate.reason == "")
    if certificate.certified:
        variance = fitted.filter(returns)
        assert np.isfinite(variance).all()
        assert (variance > 0).all()
        assert np.isfinite(fitted.forecast(1 if model.vol.lower() == "egarch" else 5)).all()


@pytest.mark.real
def test_real_hourly_returns_reach_the_best_of_archs_starts(real_data: Path) -> None:
    bars = pd.read_feather(real_data / "freqtrade" / "futures" / "BTC_USDT_USDT-1h-futures.feather")
    percent = 100 * np.diff(np.log(bars["close"].to_numpy()))
    model = clone(GJR).fit(percent)
    starts = (None, [0.02, 0.05, 0.0, 0.93, 4.0], [0.01, 0.1, 0.02, 0.88, 3.5], model.params_.to_numpy())
    assert model.loglikelihood_ >= best_of_arch(model, percent, starts) * (1 + RELATIVE)
    oracle = arch_of(model, percent).fix(model.params_)
    np.testing.assert_allclose(model.filter(percent), oracle.conditional_volatility**2, rtol=1e-8)


def test_a_point_without_any_convex_model_is_not_certified() -> None:
    returns = np.append(1e-40 * np.random.default_rng(0).standard_normal(149), 1e40)
    try:
        certificate = GARCH(o=1, vol="egarch").fit(returns).certificate_
    except DataInvalid:
        return
    assert not certificate.certified


def test_egarch_likelihood_bears_a_calm_before_a_storm() -> None:
    returns = np.random.default_rng(2).standard_normal(1_000)
    returns[:700] *= 1e-6
    model = GARCH(o=1, vol="egarch").fit(returns)
    fixed = GARCH(o=1, vol="egarch").fix(model.params_, returns, model.backcast_)
    assert model.loglikelihood_ == pytest.approx(fixed.loglikelihood_, abs=1e-6)


def test_specifications_that_make_no_model_are_refused() -> None:
    for spec in (GARCH(p=0, o=1, vol="ARCH"), GARCH(exogenous=-1), GARCH(vol="gjr-garch"), GARCH(p=20, q=20)):
        with pytest.raises(UsageError):
            _ = spec.specification


def test_a_term_that_was_zero_already_is_not_searched_again() -> None:
    rng, variance = np.random.default_rng(0), 1.0
    returns = np.zeros(1_001)
    for t in range(1, len(returns)):  # rises leave the variance alone
        variance = 0.05 + 0.25 * min(returns[t - 1], 0.0) ** 2 + 0.82 * variance
        returns[t] = math.sqrt(variance) * rng.standard_normal()
    cold = GARCH(o=1, dist="t").fit(returns[:-1])
    assert "alpha[1] low" in cold.certificate_.bounds
    assert GARCH(o=1, dist="t").fit(returns[1:], start=cold.params_).certificate_.method == "warm"
