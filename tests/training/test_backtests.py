from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from features.errors import DataInvalid
from training.backtests import acerbi_szekely_z2, christoffersen, kupiec

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


@pytest.mark.parametrize(
    ("call", "message"),
    [
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
