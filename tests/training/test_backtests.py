from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from features.errors import DataInvalid
from training.backtests import (
    acerbi_szekely_z2,
    christoffersen,
    dynamic_quantile,
    filtered_simulation,
    hit_band,
    kupiec,
    shortfall_intercept,
    z2_p_value,
)

rng = np.random.default_rng(11)


def series(hits: int, rows: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [hits, rows - hits])


@pytest.mark.parametrize(("hits", "rows"), [(0, 250), (1, 250), (10, 1000), (25, 1000), (250, 250)])
def test_kupiec_is_the_binomial_likelihood_ratio(hits: int, rows: int) -> None:
    ratio = 2 * (stats.binom.logpmf(hits, rows, hits / rows) - stats.binom.logpmf(hits, rows, 0.01))
    found = kupiec(series(hits, rows), 0.01)
    assert found.statistic == pytest.approx(ratio, abs=1e-9)
    assert found.p_value == pytest.approx(stats.chi2.sf(ratio, 1), abs=1e-9)


def test_kupiec_has_its_size() -> None:
    # The exact size by enumeration of every possible count of hits under the null.
    rows = 2000
    counts = np.arange(120)
    rejects = np.array([kupiec(series(int(x), rows), 0.01).p_value < 0.05 for x in counts])
    assert stats.binom.pmf(counts, rows, 0.01)[rejects].sum() == pytest.approx(0.05, abs=0.015)


def g_test(hits: np.ndarray) -> float:
    """Log-likelihood test of independence in the table of neighbours, those beside a gap left out."""
    table = np.zeros((2, 2))
    for before, after in pairwise(hits):
        if not np.isnan(before + after):
            table[int(before), int(after)] += 1
    return float(stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")[0])


@pytest.mark.parametrize("gaps", [0, 200])
def test_christoffersen_adds_the_g_test_of_the_transition_table(gaps: int) -> None:
    hits = (rng.uniform(size=3000) < 0.03).astype(float)
    hits[1:][hits[:-1] == 1] = rng.uniform(size=int(hits[:-1].sum())) < 0.3
    hits[rng.choice(3000, gaps, replace=False)] = np.nan
    expected = kupiec(hits, 0.03).statistic + g_test(hits)
    found = christoffersen(hits, 0.03)
    assert found.statistic == pytest.approx(expected)
    assert found.p_value == pytest.approx(stats.chi2.sf(expected, 2))
    assert found.p_value < 0.01


def test_christoffersen_has_about_its_size() -> None:
    rejected = [christoffersen(rng.uniform(size=1500) < 0.05, 0.05).p_value < 0.05 for _ in range(600)]
    assert 0.02 < np.mean(rejected) < 0.09


def test_without_rows_there_is_no_result() -> None:
    for test in (kupiec, christoffersen):
        assert np.isnan(test(np.full(3, np.nan), 0.01)).all()


def test_no_hits_and_all_hits_are_finite() -> None:
    for hits in (np.zeros(500), np.ones(5)):
        assert 0 <= christoffersen(hits, 0.01).p_value <= 1


def test_z2_is_centred_under_the_right_model_and_negative_when_risk_is_understated() -> None:
    level, rows = 0.025, 400_000
    q = float(stats.norm.ppf(level))
    e = -float(stats.norm.pdf(q)) / level
    r = rng.normal(size=rows)
    right = acerbi_szekely_z2(r, np.full(rows, q), np.full(rows, e), level)
    assert right == pytest.approx(0.0, abs=0.05)
    assert acerbi_szekely_z2(1.2 * r, np.full(rows, q), np.full(rows, e), level) < -0.4
    assert acerbi_szekely_z2(r / 1.2, np.full(rows, q), np.full(rows, e), level) > 0.3


def test_z2_by_hand() -> None:
    # One hit of three: return -3 against a shortfall of -2.
    assert acerbi_szekely_z2([-3.0, 0.0, 1.0], [-1.0] * 3, [-2.0] * 3, 0.5) == pytest.approx(1 - 1.5 / 1.5)
    assert acerbi_szekely_z2([0.0, 1.0], [-1.0] * 2, [-2.0] * 2, 0.025) == 1.0


NU = 5
LEVELS = (0.025, 0.010, 0.005, 0.001)


def student(level: float) -> tuple[float, float]:
    """Quantile and shortfall of Student's t."""
    q = float(stats.t.ppf(level, NU))
    return q, -float(stats.t.pdf(q, NU)) * (NU + q * q) / (NU - 1) / level


def heteroskedastic(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Returns with a slowly changing scale, the scale, and the generator that made them."""
    made = np.random.default_rng(seed)
    scale = np.exp(0.05 * np.cumsum(made.normal(size=rows)))
    return scale * made.standard_t(NU, rows), scale, made


def test_dynamic_quantile_is_the_share_of_variance_that_a_regression_explains() -> None:
    r, scale, _ = heteroskedastic(1500, 1)
    q = scale * student(0.05)[0] * 0.9
    hits = (r < q).astype(float)
    hits[[200, 700]] = np.nan
    centred = hits - 0.05
    rows = [t for t in range(4, 1500) if not np.isnan(hits[t - 4 : t + 1]).any()]
    x = np.array([[1.0, *centred[t - 4 : t][::-1], q[t]] for t in rows])
    fit = sm.OLS(centred[rows], x).fit()
    expected = float((fit.fittedvalues**2).sum()) / (0.05 * 0.95)
    found = dynamic_quantile(hits, q, 0.05)
    assert found.statistic == pytest.approx(expected)
    assert found.p_value == pytest.approx(stats.chi2.sf(expected, 6))
    assert found.statistic == pytest.approx(dynamic_quantile(hits, 1e-4 * q, 0.05).statistic)


def test_dynamic_quantile_counts_the_rank_where_the_quantile_is_constant() -> None:
    hits = (rng.uniform(size=800) < 0.05).astype(float)
    found = dynamic_quantile(hits, np.full(800, -0.02), 0.05)
    assert found.p_value == pytest.approx(stats.chi2.sf(found.statistic, 5))


def test_dynamic_quantile_sees_clusters_that_coverage_does_not() -> None:
    rejected, clustered, covered = [], [], []
    for seed in range(150):
        r, scale, _ = heteroskedastic(2000, seed)
        q = scale * student(0.05)[0]
        rejected.append(dynamic_quantile(r < q, q, 0.05).p_value < 0.05)
        # The unconditional quantile: right on average, blind to the scale.
        flat = np.full(2000, np.quantile(r, 0.05))
        clustered.append(dynamic_quantile(r < flat, flat, 0.05).p_value < 0.05)
        covered.append(kupiec(r < flat, 0.05).p_value < 0.05)
    assert 0.01 < np.mean(rejected) < 0.12
    assert np.mean(clustered) > 0.9
    assert np.mean(covered) == 0


def test_band_holds_as_many_hits_as_it_says() -> None:
    for rows in (100, 365, 8760):
        low, high = hit_band(rows, 0.01)
        mass = stats.binom.pmf(np.arange(rows + 1), rows, 0.01)
        assert mass[low : high + 1].sum() >= 0.95
        assert mass[:low].sum() <= 0.025
        assert mass[high + 1 :].sum() <= 0.025
        assert mass[: low + 1].sum() >= 0.025
        assert mass[high:].sum() >= 0.025


def test_z2_p_value_is_that_of_returns_drawn_from_the_forecast_law() -> None:
    # An exponential tail: what the simulation draws is then the law itself, and an ordinary simulation its oracle.
    rows, level, scale = 400, 0.025, np.linspace(0.5, 2.0, 400)
    q = np.stack([scale * np.log(a) for a in LEVELS], axis=1)
    e = scale * (np.log(level) - 1)
    draws = np.log(rng.uniform(size=(4000, rows))) * scale
    realised = [acerbi_szekely_z2(r, q[:, 0], e, level) for r in draws]
    for z2 in (-0.8, -0.3, 0.1, 0.6):
        below = np.mean(np.array(realised) <= z2)
        found = z2_p_value(z2, q, e, LEVELS, reps=4000)
        assert found == pytest.approx(2 * min(below, 1 - below), abs=0.035)


def test_z2_p_value_has_about_its_size_and_finds_understated_risk() -> None:
    right, low = [], []
    for seed in range(120):
        r, scale, _ = heteroskedastic(2000, seed)
        q, e = np.outer(scale, [student(a)[0] for a in LEVELS]), scale * student(0.025)[1]
        right.append(z2_p_value(acerbi_szekely_z2(r, q[:, 0], e, 0.025), q, e, LEVELS, reps=300) < 0.05)
        small = 0.8 * q, 0.8 * e
        low.append(z2_p_value(acerbi_szekely_z2(r, small[0][:, 0], small[1], 0.025), *small, LEVELS, reps=300) < 0.05)
    assert np.mean(right) < 0.13
    assert np.mean(low) > 0.95


def test_shortfall_regression_has_about_its_size_and_finds_understated_risk() -> None:
    def rejects(factor: float) -> tuple[float, float]:
        found = []
        for seed in range(150):
            r, scale, _ = heteroskedastic(2500, seed)
            found.append(shortfall_intercept(r, factor * scale * student(0.025)[1], 0.025))
        return float(np.mean([t.p_value < 0.05 for t in found])), float(np.mean([t.statistic for t in found]))

    assert 0.01 < rejects(1.0)[0] < 0.13
    share, statistic = rejects(0.8)
    assert share > 0.9
    assert statistic < -2


def test_shortfall_regression_by_its_first_order_conditions() -> None:
    # The joint loss of quantile and shortfall (Fissler and Ziegel 2016), minimised without its closed form.
    from scipy.optimize import minimize

    r, scale, _ = heteroskedastic(2000, 3)
    e = scale * student(0.025)[1]
    left = r / -e

    def loss(b: np.ndarray) -> float:
        q, s = b
        hit = (left <= q).astype(float)
        return float(np.mean(-hit * (q - left) / (0.025 * s) + q / s + np.log(-s) - 1)) if s < q < 0 else np.inf

    best = minimize(loss, [-0.8, -1.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).x
    found = shortfall_intercept(r, e, 0.025)
    beyond = left[left <= np.quantile(left, 0.025)]
    assert beyond.mean() == pytest.approx(best[1], rel=2e-3)
    # The sample mean of an influence function; its spread is the standard error.
    influence = np.where(left <= best[0], (left - best[0]) / 0.025, 0.0) + best[0] - best[1]
    error = np.sqrt(np.mean(influence**2) / len(left))
    assert found.statistic == pytest.approx((best[1] + 1) / error, abs=0.03 + 0.03 * abs(found.statistic))


def test_shortfall_regression_is_silent_on_few_rows() -> None:
    assert np.isnan(shortfall_intercept(-np.ones(365), -np.ones(365), 0.025)).all()


def test_filtered_simulation_by_hand_and_without_looking_ahead() -> None:
    horizon, hours = 24, np.arange(96, 96 + 24 * 200)
    z = rng.standard_t(NU, (2, len(hours)))
    f = np.exp(rng.normal(size=z.shape))
    z[0, 100:160] = np.nan
    r = z * np.sqrt(f)
    q, e = filtered_simulation(r, f, hours, horizon, 0.025, days=100)
    at = 168 * 20 + 50
    start = 168 * 20
    past = z[:, start - horizon + 1 - 2400 : start - horizon + 1]
    past = past[~np.isnan(past)]
    quantile = np.quantile(past, 0.025)
    np.testing.assert_allclose(q[:, at], quantile * np.sqrt(f[:, at]))
    np.testing.assert_allclose(e[:, at], past[past <= quantile].mean() * np.sqrt(f[:, at]))
    assert np.isnan(q[:, : 24 * 90]).all()
    later = r.copy()
    later[:, start - horizon + 1 :] = 99.0
    again = filtered_simulation(later, f, hours, horizon, 0.025, days=100)
    np.testing.assert_array_equal(again[0][:, : start + 168], q[:, : start + 168])
    assert (again[0][:, start + 168 :] != q[:, start + 168 :]).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynamic_quantile([0.0, 1.0], [-1.0], 0.01), "pass the same rows"),
        (lambda: z2_p_value(0.0, np.ones((3, 2)), -np.ones(3), (0.01, 0.025)), "falling levels"),
        (lambda: shortfall_intercept([0.0], [0.5], 0.025), "es < 0"),
        (lambda: kupiec([0.0, 0.5], 0.01), "hits must be"),
        (lambda: kupiec([[0.0]], 0.01), "hits must be"),
        (lambda: christoffersen([0.0], 1.0), "level 1.0"),
        (lambda: acerbi_szekely_z2([0.0], [-1.0], [-1.0, -2.0], 0.025), "pass the same rows"),
        (lambda: acerbi_szekely_z2([0.0, 0.0], [-1.0, np.nan], [-1.0, -1.0], 0.025), "row 1"),
        (lambda: acerbi_szekely_z2([0.0], [-1.0], [0.5], 0.025), "es < 0"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(DataInvalid, match=message):
        call()  # type: ignore[operator]
