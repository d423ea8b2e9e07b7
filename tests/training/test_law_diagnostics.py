"""Diagnostics of the published law: exact on normal laws, right in size under the truth, and able to reject."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from features.errors import DataInvalid
from models.base import RETURN_LEVELS, VARIANCE_LEVELS
from training.law_diagnostics import PEAKED, berkowitz, coverage, months, normal_scores, pit_histogram, spaced

RETURNS = list(RETURN_LEVELS.values())
VARIANCES = list(VARIANCE_LEVELS.values())


@given(
    y=st.floats(-30, 30),
    mean=st.floats(-5, 5),
    sd=st.floats(0.01, 10),
    levels=st.sampled_from([RETURNS, VARIANCES, [0.4, 0.6]]),
    freedom=st.sampled_from([3.0, PEAKED, np.inf]),
)
@settings(max_examples=200, deadline=None)
def test_scores_of_a_student_or_normal_law_are_exact_even_beyond_its_outermost_quantiles(
    y: float, mean: float, sd: float, levels: list[float], freedom: float
) -> None:
    law = stats.norm(mean, sd) if np.isinf(freedom) else stats.t(freedom, mean, sd)
    z = (y - mean) / sd
    if abs(z) > 30:
        return  # a normal probability that is zero in floating point
    exact = stats.norm.isf(law.sf(y)) if z > 0 else stats.norm.ppf(law.cdf(y))
    assert normal_scores(y, law.ppf(levels), levels, freedom) == pytest.approx(exact, rel=1e-6, abs=1e-6 / sd)


def test_scores_at_the_quantiles_are_those_of_the_levels() -> None:
    quantiles = np.sort(np.random.default_rng(0).normal(size=(len(RETURNS), 7)), axis=0)
    for k, p in enumerate(RETURNS):
        scores = normal_scores(quantiles[k], quantiles, RETURNS)
        assert special.ndtr(scores) == pytest.approx(np.full(7, p))


def test_scores_rise_with_what_came_and_stand_between_two_quantiles_that_are_one() -> None:
    quantiles = np.array([-1.0, 0.0, 0.0, 2.0])
    y = np.linspace(-4, 4, 401)
    scores = normal_scores(y, np.repeat(quantiles[:, None], 401, axis=1), [0.1, 0.4, 0.6, 0.9])
    assert (np.diff(scores) >= 0).all()
    assert normal_scores(0.0, np.array([0.0, 0.0]), [0.4, 0.6]) == pytest.approx(0.0)


def test_a_hole_in_either_is_a_hole_in_the_scores() -> None:
    quantiles = np.array([[-1.0, -1.0, np.nan], [1.0, 1.0, 1.0]])
    assert np.isnan(normal_scores(np.array([0.0, np.nan, 0.0]), quantiles, [0.1, 0.9])).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("y", "quantiles", "levels", "names"),
    [
        (np.zeros(2), np.zeros((2, 2)), [0.9, 0.1], "rise"),
        (np.zeros(2), np.zeros((2, 2)), [0.1, 1.0], "rise"),
        (np.zeros(2), np.zeros((2, 3)), [0.1, 0.9], "shape"),
        (np.zeros(2), np.array([[1.0, 1.0], [0.0, 2.0]]), [0.1, 0.9], "cross"),
    ],
)
def test_laws_that_are_none_are_refused(y: np.ndarray, quantiles: np.ndarray, levels: list[float], names: str) -> None:
    with pytest.raises(DataInvalid, match=names):
        normal_scores(y, quantiles, levels)


def test_histogram_is_flat_under_the_law_and_bulges_where_the_law_is_too_wide() -> None:
    z = np.random.default_rng(1).normal(size=(4, 50_000))
    right = pit_histogram(z)
    assert right.sum() == pytest.approx(1)
    # 1e-5 of binomial bands, over twenty cells.
    low, high = stats.binom.interval(1 - 1e-5, z.size, 0.05)
    assert ((right * z.size >= low) & (right * z.size <= high)).all()
    wide = pit_histogram(0.8 * z)
    assert wide[[0, -1]].max() < 0.03 < 0.055 < wide[[9, 10]].min()
    assert np.isnan(pit_histogram([np.nan])).all()


def test_spaced_origins_lie_on_the_clock_of_the_horizon() -> None:
    hours = np.arange(7, 60)
    values = np.stack([hours, 2 * hours])
    assert spaced(values, hours, 24).tolist() == [[24, 48], [48, 96]]


def likelihood_ratio(z: np.ndarray) -> float:
    """By numerical maximisation of the autoregression's conditional likelihood."""

    def minus(b: np.ndarray) -> float:
        return -float(stats.norm.logpdf(z[1:], b[0] + b[1] * z[:-1], np.exp(b[2])).sum())

    best = optimize.minimize(minus, np.zeros(3), method="BFGS", options={"gtol": 1e-8})
    return 2 * (minus(np.zeros(3)) - float(best.fun))


@pytest.mark.parametrize("seed", range(4))
def test_berkowitz_is_the_likelihood_ratio(seed: int) -> None:
    z = 0.2 + 1.1 * np.random.default_rng(seed).normal(size=300)
    z[1:] += 0.2 * z[:-1]
    found = berkowitz(z)
    assert found.statistic == pytest.approx(likelihood_ratio(z), rel=1e-5)
    assert found.p_value == pytest.approx(stats.chi2(3).sf(found.statistic))
    assert found.n == 299


def test_berkowitz_rejects_as_often_as_it_should() -> None:
    rng = np.random.default_rng(2)
    p = np.array([berkowitz(rng.normal(size=365)).p_value for _ in range(2000)])
    low, high = stats.binom.interval(1 - 1e-4, 2000, 0.05)
    assert low <= (p < 0.05).sum() <= high
    assert stats.kstest(p, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("wrong", ["mean", "sd", "autocorrelation"])
def test_berkowitz_finds_what_is_wrong(wrong: str) -> None:
    z = np.random.default_rng(3).normal(size=2000)
    if wrong == "mean":
        z = z + 0.3
    elif wrong == "sd":
        z = 1.3 * z
    else:
        for t in range(1, len(z)):
            z[t] = 0.3 * z[t - 1] + np.sqrt(1 - 0.09) * z[t]
    found = berkowitz(z)
    assert found.p_value < 1e-6
    told = {"mean": found.mean, "sd": found.sd - 1, "autocorrelation": found.autocorrelation}
    assert told[wrong] == pytest.approx(0.3, abs=0.06)
    assert all(abs(x) < 0.06 for name, x in told.items() if name != wrong)


def test_berkowitz_leaves_out_pairs_with_a_hole_and_says_nothing_of_few() -> None:
    z = np.random.default_rng(4).normal(size=400)
    z[200] = np.nan
    assert berkowitz(z).n == 397
    assert np.isnan(berkowitz(z[:15]).p_value)
    assert np.isnan(berkowitz(np.zeros(100)).statistic)
    with pytest.raises(DataInvalid, match="one symbol"):
        berkowitz(z.reshape(2, 200))


def test_months_are_those_of_the_calendar() -> None:
    times = pd.date_range("2023-11-29", "2024-03-02", freq="7h", tz="UTC")
    hours = (times - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(hours=1)
    assert (months(hours) == (times.year - 1970) * 12 + times.month - 1).all()


def test_coverage_is_counted_by_group() -> None:
    rng = np.random.default_rng(5)
    y = rng.normal(size=(3, 1000))
    y[0, 5] = np.nan
    quantiles = {"ret_q010": np.full(y.shape, -2.0), "ret_q950": rng.normal(1.6, 0.1, y.shape)}
    quantiles["ret_q950"][1, 7:30] = np.nan
    groups = np.repeat([[4], [9], [4]], 1000, axis=1)
    found = coverage(y, quantiles, RETURN_LEVELS, groups, 24)
    assert len(found) == 4
    for g in (4, 9):
        for column, p in (("ret_q010", 0.01), ("ret_q950", 0.95)):
            known = (groups == g) & np.isfinite(y) & np.isfinite(quantiles[column])
            share = (y[known] < quantiles[column][known]).mean()
            row = found[(found["group"] == g) & (found["column"] == column)].iloc[0]
            assert (row["n"], row["level"]) == (known.sum(), p)
            assert row["below"] == pytest.approx(share)
            assert row["z"] == pytest.approx((share - p) / np.sqrt(p * (1 - p) / (known.sum() / 24)))


def test_coverage_of_the_true_law_is_within_its_errors_and_of_a_thin_one_is_not() -> None:
    rng = np.random.default_rng(6)
    y, hours = rng.standard_t(4, (8, 20_000)), np.arange(20_000)
    groups = np.broadcast_to(months(hours), y.shape)
    true = {name: np.full(y.shape, stats.t(4).ppf(p)) for name, p in RETURN_LEVELS.items()}
    assert coverage(y, true, RETURN_LEVELS, groups, 1)["z"].abs().max() < 5
    thin = {name: np.full(y.shape, stats.norm.ppf(p) * np.sqrt(2)) for name, p in RETURN_LEVELS.items()}
    told = coverage(y, thin, RETURN_LEVELS, np.zeros(y.shape, dtype=int), 1).set_index("column")["z"]
    assert told["ret_q001"] > 10
    assert told["ret_q999"] < -10


def test_coverage_refuses_what_does_not_fit() -> None:
    y = np.zeros((2, 3))
    with pytest.raises(DataInvalid, match="ret_q010 has shape"):
        coverage(y, {"ret_q010": np.zeros(3)}, RETURN_LEVELS, y.astype(int), 1)
    with pytest.raises(DataInvalid, match="ret_q011 has no level"):
        coverage(y, {"ret_q011": y}, RETURN_LEVELS, y.astype(int), 1)
    with pytest.raises(DataInvalid, match="groups"):
        coverage(y, {"ret_q010": y}, RETURN_LEVELS, np.zeros(2, dtype=int), 1)
