from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn import metrics

from features.errors import DataInvalid
from models.base import RETURN_LEVELS, VARIANCE_LEVELS
from training import losses

rng = np.random.default_rng(7)
Y = rng.lognormal(-8, 1, 400)
F = rng.lognormal(-8, 1, 400)
LEVELS = list(VARIANCE_LEVELS.values())


def test_qlike_by_hand() -> None:
    assert losses.qlike([2.0, 1.0], [1.0, 1.0]) == pytest.approx((2 - math.log(2) - 1) / 2)
    assert losses.qlike(Y, Y) == 0.0
    expected = [y / f - math.log(y / f) - 1 for y, f in zip(Y, F, strict=True)]
    np.testing.assert_allclose(losses.qlike_terms(Y, F), expected, rtol=1e-12)
    assert losses.qlike(Y, F) == pytest.approx(np.mean(expected))


@given(st.floats(1e-8, 1e3), st.floats(1e-8, 1e3), st.floats(1e-3, 1e3))
def test_qlike_is_non_negative_and_free_of_units(y: float, f: float, scale: float) -> None:
    assert losses.qlike([y], [f]) >= -1e-12
    assert losses.qlike([y * scale], [f * scale]) == pytest.approx(losses.qlike([y], [f]), rel=1e-9, abs=1e-9)


def test_qlike_ranks_forecasts_by_their_mean_even_through_a_noisy_proxy() -> None:
    # An unbiased proxy (chi-squared noise) leaves the true variance the best constant forecast.
    proxy = 0.04 * np.random.default_rng(1).chisquare(3, 200_000) / 3
    at = {scale: losses.qlike(proxy, np.full_like(proxy, 0.04 * scale)) for scale in (0.9, 1.0, 1.1)}
    assert at[1.0] < at[0.9]
    assert at[1.0] < at[1.1]


def test_mse_log_equals_sklearn() -> None:
    assert losses.mse_log(Y, F) == pytest.approx(metrics.mean_squared_error(np.log(Y), np.log(F)))


@pytest.mark.parametrize("level", [0.01, 0.5, 0.975])
def test_pinball_equals_sklearn(level: float) -> None:
    assert losses.pinball(Y, F, level) == pytest.approx(metrics.mean_pinball_loss(Y, F, alpha=level))


def test_crps_log_is_the_weighted_pinball_and_near_the_closed_form() -> None:
    z = stats.norm.ppf(LEVELS)
    quantiles = np.exp(np.log(F)[:, None] + z)
    weights = (0.15, 0.225, 0.25, 0.225, 0.15)
    by_hand = sum(
        2 * w * metrics.mean_pinball_loss(np.log(Y), np.log(quantiles[:, k]), alpha=level)
        for k, (w, level) in enumerate(zip(weights, LEVELS, strict=True))
    )
    assert losses.crps_log(Y, quantiles) == pytest.approx(by_hand)
    error = np.log(Y) - np.log(F)
    exact = error * (2 * stats.norm.cdf(error) - 1) + 2 * stats.norm.pdf(error) - 1 / math.sqrt(math.pi)
    assert losses.crps_log(Y, quantiles) == pytest.approx(exact.mean(), rel=0.03)


def test_pinball_ret_averages_levels_and_scales_by_volatility() -> None:
    levels = list(RETURN_LEVELS.values())
    r = rng.normal(0, np.sqrt(F))
    quantiles = np.sqrt(F)[:, None] * stats.norm.ppf(levels)
    total = 0.0
    for i in range(len(r)):
        for k, level in enumerate(levels):
            miss = r[i] - quantiles[i, k]
            total += (level * miss if miss >= 0 else (level - 1) * miss) / math.sqrt(F[i])
    assert losses.pinball_ret(r, quantiles, F) == pytest.approx(total / (len(r) * 11))
    assert losses.pinball_ret(10 * r, 10 * quantiles, 100 * F) == pytest.approx(losses.pinball_ret(r, quantiles, F))


def test_coverage_and_hits_count_their_borders() -> None:
    assert losses.coverage([1.0, 2.0, 3.0, 4.0], [1.0] * 4, [3.0] * 4) == 0.75
    assert losses.hit_rate([-2.0, -1.0, 0.0, 1.0], [-1.0] * 4) == 0.25


def test_probability_scores_equal_sklearn() -> None:
    p = rng.dirichlet([2, 5, 2, 2], 500)
    regime = rng.integers(0, 4, 500)
    assert losses.log_loss(regime, p) == pytest.approx(metrics.log_loss(regime, p, labels=[0, 1, 2, 3]))
    stress = (regime >= 2).astype(float)
    assert losses.brier(stress, p[:, 2]) == pytest.approx(metrics.brier_score_loss(stress, p[:, 2]))
    assert losses.log_loss([0.0], [[0.0, 1.0]]) == pytest.approx(-math.log(1e-6))


def test_probabilities_may_miss_one_by_rounding_only() -> None:
    assert losses.brier([1.0], [1.0 + 1e-15]) == pytest.approx(0.0)
    with pytest.raises(DataInvalid, match="probability in row 0 is outside"):
        losses.brier([1.0], [1.001])


def test_ece_of_distinct_probabilities_equals_a_loop_over_bins() -> None:
    p = rng.uniform(size=1013)
    outcome = (rng.uniform(size=1013) < p**2).astype(float)
    order = np.argsort(p)
    by_hand = 0.0
    for rows in np.array_split(order, 20):
        by_hand += len(rows) / 1013 * abs(p[rows].mean() - outcome[rows].mean())
    assert losses.ece(outcome, p) == pytest.approx(by_hand)


def test_ece_does_not_depend_on_the_order_of_tied_rows() -> None:
    p = rng.choice([0.1, 0.4, 0.8], 997)
    outcome = (rng.uniform(size=997) < 0.5).astype(float)
    order = rng.permutation(997)
    assert losses.ece(outcome, p) == pytest.approx(losses.ece(outcome[order], p[order]), abs=1e-15)
    # A constant forecast at the base rate is calibrated, however the outcomes cluster in time.
    clustered = np.repeat([0.0, 1.0], 500)
    assert losses.ece(clustered, np.full(1000, 0.5)) == pytest.approx(0.0, abs=1e-15)
    assert losses.ece(np.zeros(100), np.full(100, 0.3)) == pytest.approx(0.3)
    # Two levels of 300 and 100 rows that fill whole bins.
    uneven = np.repeat([0.1, 0.8], [300, 100])
    came = np.concatenate([np.ones(60), np.zeros(240), np.ones(50), np.zeros(50)])
    assert losses.ece(came, uneven) == pytest.approx(0.75 * abs(0.1 - 0.2) + 0.25 * abs(0.8 - 0.5))


@pytest.mark.parametrize("level", [0.01, 0.025])
def test_fz0_is_least_at_the_true_quantile_and_shortfall(level: float) -> None:
    q = float(stats.norm.ppf(level))
    e = -float(stats.norm.pdf(q)) / level

    def expected(var: float, es: float) -> float:
        def integrand(r: float) -> float:
            return float(losses.fz0_terms([r], [var], [es], level)[0] * stats.norm.pdf(r))

        left, right = integrate.quad(integrand, -12, var)[0], integrate.quad(integrand, var, 12)[0]
        return float(left + right)

    best = expected(q, e)
    assert best == pytest.approx(math.log(-e), abs=1e-6)
    for var, es in [(q * 1.05, e), (q * 0.95, e), (q, e * 1.05), (q, e * 0.95)]:
        assert expected(var, es) > best
    assert losses.fz0([0.0], [q], [e], level) == pytest.approx(q / e + math.log(-e) - 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.qlike([1.0, 2.0], [1.0]), r"realised \(2,\), forecast \(1,\)"),
        (lambda: losses.qlike([1.0], 1.0), "shapes do not match"),
        (lambda: losses.qlike([], []), "nothing to score"),
        (lambda: losses.qlike([1.0, np.nan], [1.0, 1.0]), "realised in row 1 is null"),
        (lambda: losses.qlike([1.0], [np.inf]), "forecast in row 0 is null or infinite"),
        (lambda: losses.qlike([1.0, 1.0, 1.0], [1.0, 1.0, 0.0]), "forecast in row 2 is not positive"),
        (lambda: losses.qlike([-1.0], [1.0]), "realised in row 0 is not positive"),
        (lambda: losses.mse_log([1.0], [-1.0]), "forecast in row 0 is not positive"),
        (lambda: losses.crps_log([1.0], [[1.0, 2.0]]), "quantiles has shape"),
        (lambda: losses.pinball_ret([1.0], [1.0], [1.0]), "quantiles has shape"),
        (lambda: losses.log_loss([4.0], [[0.1, 0.2, 0.3, 0.4]]), "regime in row 0 is not a class 0..3"),
        (lambda: losses.fz0([0.0], [0.1], [-1.0], 0.01), "var in row 0 is not negative"),
        (lambda: losses.fz0([0.0], [-1.0], [-0.5], 0.01), "es in row 0 is not below var"),
    ],
)
def test_refusals_name_argument_and_row(call: object, message: str) -> None:
    with pytest.raises(DataInvalid, match=message):
        call()  # type: ignore[operator]
