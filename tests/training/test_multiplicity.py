from __future__ import annotations

import numpy as np
import pytest
from arch.bootstrap import SPA, RealityCheck
from scipy import stats
from statsmodels.stats.multitest import multipletests

from features.errors import DataInvalid
from training.comparison import day_weights
from training.multiplicity import deflated, holm, sign_test, superior_ability

rng = np.random.default_rng(8)


def losses(days: int, better: float, seed: int = 0, models: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Daily losses of a benchmark and of models as good as it, the first by so much better."""
    made = np.random.default_rng(seed)
    common = made.gamma(2.0, 1.0, days)
    other = common[:, None] + 0.3 * made.normal(size=(days, models))
    other[:, 0] -= better
    return common + 0.3 * made.normal(size=days), other


def test_superior_ability_equals_arch_on_studentised_differences() -> None:
    own, other = losses(300, 0.03, seed=4)
    other[:, 5] += 1.0  # far worse
    other[:, 4] += 0.05
    found = superior_ability(own, other, reps=400, seed=7)
    gains = own[:, None] - other
    drawn = day_weights(300, 400, 7) @ gains / 300
    scale = drawn.std(axis=0)
    spa = SPA(np.zeros(300), -gains / scale, block_size=10, reps=400, studentize=True, seed=7)
    spa.compute()
    # arch measures "far worse" by the kernel variance of the differences; these are far from that border.
    expected = (1 + 400 * spa.pvalues) / 401
    assert [found.lower, found.p_value, found.upper] == pytest.approx(expected[["lower", "consistent", "upper"]])
    plain = RealityCheck(np.zeros(300), -gains, block_size=10, reps=400, seed=7)
    plain.compute()
    assert found.reality_check == pytest.approx((1 + 400 * plain.pvalues["upper"]) / 401)
    assert found.lower <= found.p_value <= found.upper
    assert found.best == int((gains.mean(axis=0) / scale).argmax())


def test_the_search_among_equals_is_counted_and_a_better_model_found() -> None:
    size = np.mean([superior_ability(*losses(200, 0.0, seed), reps=200).p_value < 0.10 for seed in range(80)])
    power = np.mean([superior_ability(*losses(200, 0.15, seed), reps=200).p_value < 0.10 for seed in range(20)])
    assert size < 0.22
    assert power > 0.9


def test_a_benchmark_without_a_better_rival_is_not_rejected() -> None:
    own, other = losses(100, -0.5)
    assert superior_ability(own, other[:, :1], reps=100)[:4] == (1.0, 1.0, 1.0, 1.0)
    assert superior_ability(own, np.column_stack([own, own]), reps=100)[:4] == (1.0, 1.0, 1.0, 1.0)
    # A copy of the benchmark neither helps nor hinders the others.
    better = losses(100, 0.5)
    with_copy = superior_ability(better[0], np.column_stack([better[0], better[1]]), reps=100)
    assert with_copy[:4] == superior_ability(*better, reps=100)[:4]
    assert with_copy.best == 1


def test_holm_equals_statsmodels_and_leaves_unknown_claims_out() -> None:
    p = rng.uniform(size=12) ** 3
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])
    with_gap = holm([*p[:5], float("nan"), *p[5:]])
    assert np.isnan(with_gap[5])
    assert [*with_gap[:5], *with_gap[6:]] == pytest.approx(holm(p.tolist()))
    assert holm([]) == []


def test_signs_are_the_exact_binomial_test() -> None:
    for better in range(19):
        assert sign_test(better, 18) == pytest.approx(stats.binomtest(better, 18).pvalue)
    assert np.isnan(sign_test(0, 0))


def test_deflation_is_the_chance_that_the_best_of_many_does_as_well() -> None:
    assert deflated(0.01, 1) == pytest.approx(0.01)
    best = rng.uniform(size=(200_000, 12)).min(axis=1)
    assert deflated(0.01, 12) == pytest.approx(np.mean(best <= 0.01), abs=0.002)
    assert deflated(1.0, 5) == 1.0


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        (np.ones(30), np.ones(30), "days × alternatives"),
        (np.ones(30), np.full((30, 2), np.nan), "without nulls"),
        (np.ones(19), np.ones((19, 2)), "19 days are too few for blocks of 10"),
    ],
)
def test_refusals(own: np.ndarray, other: np.ndarray, message: str) -> None:
    with pytest.raises(DataInvalid, match=message):
        superior_ability(own, other)
