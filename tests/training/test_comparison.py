from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
import statsmodels.stats.sandwich_covariance as sandwich
from arch.bootstrap import StationaryBootstrap
from scipy import stats

from features.errors import DataInvalid
from training.comparison import (
    diebold_mariano,
    difference,
    gain,
    giacomini_white,
    model_confidence_set,
    newey_west_lags,
)

rng = np.random.default_rng(5)


def autocorrelated(rows: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=rows + 5)
    return np.convolve(noise, np.ones(6) / 6, mode="valid")


@pytest.mark.parametrize("horizon", [1, 4, 24])
def test_diebold_mariano_equals_hac_regression_with_the_hln_factor(horizon: int) -> None:
    n = 900
    a, b = autocorrelated(n, 1) ** 2, autocorrelated(n, 2) ** 2 + 0.05
    lags = max(3 * horizon, 48)
    fit = sm.OLS(a - b, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    factor = np.sqrt((n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n)
    expected = float(fit.tvalues[0]) * factor
    found = diebold_mariano(a, b, horizon)
    assert found.statistic == pytest.approx(expected, rel=1e-9)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(expected), n - 1), rel=1e-9)
    assert found.n == n


def test_diebold_mariano_changes_sign_with_the_order_of_models() -> None:
    a, b = autocorrelated(400, 1), autocorrelated(400, 2)
    forth, back = diebold_mariano(a, b, 1), diebold_mariano(b, a, 1)
    assert forth.statistic == pytest.approx(-back.statistic)
    assert forth.p_value == pytest.approx(back.p_value)
    assert diebold_mariano(a, a, 1) == (0.0, 1.0, 400)


def test_confidence_set_drops_the_worse_and_keeps_what_cannot_be_told_apart() -> None:
    common = rng.gamma(2.0, 1.0, 700)
    good = common + rng.normal(0, 0.1, 700)
    twin = common + rng.normal(0, 0.1, 700)
    bad = common + 0.3 + rng.normal(0, 0.1, 700)
    assert model_confidence_set(np.column_stack([good, bad, twin]), 10).tolist() == [True, False, True]


def test_identical_models_stand_or_fall_together() -> None:
    good = rng.gamma(2.0, 1.0, 300)
    bad = good + 0.5 + rng.normal(0, 0.1, 300)
    found = model_confidence_set(np.column_stack([bad, good, bad, good]), 10)
    assert found.tolist() == [False, True, False, True]
    assert model_confidence_set(np.column_stack([good, good]), 10).tolist() == [True, True]
    assert model_confidence_set(good[:, None], 10).tolist() == [True]


def brute_force_gain(a: np.ndarray, b: np.ndarray, day: np.ndarray, reps: int, seed: int) -> tuple[float, float, float]:
    """The bootstrap spelled out: rows of the drawn days are laid end to end and averaged anew."""

    def value(columns: np.ndarray) -> float:
        means = [
            [np.nanmean(loss[s, columns]) for s in range(len(loss)) if np.isfinite(loss[s, columns]).any()]
            for loss in (a, b)
        ]
        return float(1 - np.mean(means[0]) / np.mean(means[1]))

    days = [d for d in np.unique(day) if np.isfinite(a[:, day == d]).any()]
    draws = []
    for data in StationaryBootstrap(10, np.arange(len(days)), seed=seed).bootstrap(reps):
        columns = np.concatenate([np.flatnonzero(day == days[k]) for k in data[0][0]])
        draws.append(value(columns))
    low, high = np.quantile(draws, [0.05, 0.95])
    return value(np.arange(len(day))), float(low), float(high)


def test_gain_and_interval_equal_a_spelled_out_bootstrap() -> None:
    day = np.repeat(np.arange(100, 160), 6)
    a, b = rng.gamma(2, 1.0, (3, 360)), rng.gamma(2, 1.1, (3, 360))
    a[2, :250] = b[2, :250] = np.nan
    a[:, 60:78] = b[:, 60:78] = np.nan
    a[0, 5] = b[0, 5] = np.nan
    found = gain(a, b, day, reps=40, seed=3)
    assert found[:3] == pytest.approx(brute_force_gain(a, b, day, 40, 3))
    assert found.symbols == 3
    assert found.better == sum(np.nanmean(a[s]) < np.nanmean(b[s]) for s in range(3))


def test_gain_counts_only_rows_that_both_have() -> None:
    a = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    b = np.array([[2.0, 50.0, np.nan], [1.0, 1.0, 1.0]])
    found = gain(a, b, np.array([0, 1, 2]), reps=10)
    assert found.value == pytest.approx(0.5)
    assert (found.better, found.symbols) == (1, 1)
    assert np.isnan(gain(a[1:], b[1:], np.array([0, 1, 2])).value)


def test_copies_of_a_symbol_do_not_narrow_the_interval() -> None:
    day = np.repeat(np.arange(80), 4)
    a, b = rng.gamma(2, 1.0, (1, 320)), rng.gamma(2, 1.1, (1, 320))
    one = gain(a, b, day, reps=200)
    many = gain(np.repeat(a, 10, axis=0), np.repeat(b, 10, axis=0), day, reps=200)
    assert many[:3] == pytest.approx(one[:3])
    assert one.low < one.value < one.high


def test_no_draws_give_no_interval() -> None:
    day = np.repeat(np.arange(40), 4)
    a, b = rng.gamma(2, 1.0, (2, 160)), rng.gamma(2, 1.1, (2, 160))
    found = gain(a, b, day, reps=0)
    assert found.value == gain(a, b, day).value
    assert np.isnan([found.low, found.high]).all()


def test_difference_equals_a_spelled_out_bootstrap() -> None:
    day = np.repeat(np.arange(50), 4)
    a, b = rng.normal(-3, 1.0, (2, 200)), rng.normal(-2.8, 1.0, (2, 200))
    a[1, :60] = np.nan
    known = ~np.isnan(a)

    def value(columns: np.ndarray) -> float:
        means = [
            [loss[s, columns][known[s, columns]].mean() for s in range(2) if known[s, columns].any()] for loss in (a, b)
        ]
        return float(np.mean(means[1]) - np.mean(means[0]))

    draws = [
        value(np.concatenate([np.flatnonzero(day == k) for k in data[0][0]]))
        for data in StationaryBootstrap(10, np.arange(50), seed=4).bootstrap(60)
    ]
    found = difference(a, b, day, reps=60, seed=4)
    assert found[:3] == pytest.approx((value(np.arange(200)), *np.quantile(draws, [0.05, 0.95])))


def test_conditional_ability_given_a_constant_is_diebold_mariano_squared() -> None:
    n, horizon = 900, 4
    a, b = autocorrelated(n, 1) ** 2, autocorrelated(n, 2) ** 2 + 0.05
    small_sample = (n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n
    found = giacomini_white(a[None], b[None], np.ones((1, 1, n)), horizon)
    assert found.statistic == pytest.approx(diebold_mariano(a, b, horizon).statistic ** 2 / small_sample)
    assert found.n == n


def test_conditional_ability_is_the_wald_test_on_means_over_symbols() -> None:
    n, horizon = 700, 4
    a, b = (np.stack([autocorrelated(n, seed + k) ** 2 for k in range(3)]) for seed in (1, 11))
    instruments = np.stack([np.ones((3, n)), rng.normal(size=(3, n))])
    a[1, :200] = np.nan
    instruments[1, 2, 300:350] = np.nan
    a[:, 400:405] = np.nan
    rows = []
    for t in range(n):
        known = [s for s in range(3) if np.isfinite(a[s, t]) and np.isfinite(instruments[:, s, t]).all()]
        if known:
            rows.append(np.mean([instruments[:, s, t] * (a[s, t] - b[s, t]) for s in known], axis=0))
    z = np.array(rows)
    covariance = sandwich.S_hac_simple(z - z.mean(axis=0), nlags=newey_west_lags(horizon)) / len(z) ** 2
    expected = z.mean(axis=0) @ np.linalg.inv(covariance) @ z.mean(axis=0)
    found = giacomini_white(a, b, instruments, horizon)
    assert found.n == len(z) == n - 5
    assert found.statistic == pytest.approx(expected)
    assert found.p_value == pytest.approx(stats.chi2.sf(expected, 2))
    assert found.t == pytest.approx(z.mean(axis=0) / np.sqrt(np.diag(covariance)))


def test_an_edge_in_one_regime_alone_is_found_there_and_an_empty_regime_says_nothing() -> None:
    n = 4000
    calm = np.arange(n) % 2 == 0
    # Better when calm, as much worse otherwise: no difference on average.
    a = np.where(calm, -0.09, 0.09) + np.random.default_rng(0).normal(size=n)
    regimes = np.stack([calm, ~calm, np.zeros(n)]).astype(float)[:, None]
    found = giacomini_white(a[None], np.zeros((1, n)), regimes, 1)
    assert diebold_mariano(a, np.zeros(n), 1).p_value > 0.05
    assert 1e-11 < found.p_value < 0.001
    assert found.t[0] < -2 < 2 < found.t[1]
    assert np.isnan(found.t[2])
    assert found.p_value == pytest.approx(stats.chi2.sf(found.statistic, 2))
    same = giacomini_white(a[None], a[None], regimes, 1)
    assert (same.statistic, same.p_value) == (0.0, 1.0)


def test_conditional_ability_has_about_its_size_under_overlap() -> None:
    rejected = []
    for seed in range(150):
        d = autocorrelated(2500, seed)
        lagged = np.concatenate([np.full(6, np.nan), d[:-6]])
        found = giacomini_white(d[None], np.zeros((1, 2500)), np.stack([np.ones(2500), lagged])[:, None], 6)
        rejected.append(found.p_value < 0.05)
    assert 0.01 < np.mean(rejected) < 0.12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: giacomini_white(np.ones((1, 40)), np.ones((1, 40)), np.ones((1, 1, 40)), 1), "40 hours are too few"),
        (lambda: giacomini_white(np.ones((1, 99)), np.ones((1, 99)), np.ones((1, 99)), 1), "q × symbols × hours"),
        (lambda: diebold_mariano(np.ones(10), np.ones(10), 1), "10 losses are too few for 48 lags"),
        (lambda: diebold_mariano(np.ones(100), np.ones(99), 1), "equally long"),
        (lambda: diebold_mariano(np.full(100, np.nan), np.ones(100), 1), "without nulls"),
        (lambda: model_confidence_set(np.full((50, 2), np.nan), 10), "without nulls"),
        (lambda: model_confidence_set(np.ones((19, 2)), 10), "too few for blocks of 10"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(DataInvalid, match=message):
        call()  # type: ignore[operator]
