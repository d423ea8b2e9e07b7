from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from arch.bootstrap import StationaryBootstrap
from scipy import stats

from features.errors import DataInvalid
from training.comparison import diebold_mariano, gain, model_confidence_set

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


@pytest.mark.parametrize(
    ("call", "message"),
    [
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
