"""Change points: a plain recursion in logarithms over every run length since the beginning is the oracle."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import t as student
from sklearn.base import clone

from features.errors import DataInvalid, UsageError
from models.states.changepoint import ChangePoint

Array = NDArray[np.float64]


def plain(model: ChangePoint, x: Array) -> list[Array]:
    """The law of the run length (1, 2, …) at each bar, from scratch, with no window: moments straight from the bars."""
    log_mass, laws = np.zeros(0), []
    for t, value in enumerate(x):
        predictive = []
        for r in range(t + 1):
            run = x[t - r : t]
            mean = run.mean() if r else 0.0
            kappa, alpha = model.kappa + r, model.alpha + r / 2
            centre = (model.kappa * model.mean_ + r * mean) / kappa
            rate = model.rate_ + 0.5 * ((run - mean) ** 2).sum()
            rate += model.kappa * r * (mean - model.mean_) ** 2 / (2 * kappa)
            scale = math.sqrt(rate * (kappa + 1) / (alpha * kappa))
            predictive.append(student.logpdf(value, 2 * alpha, centre, scale))
        fresh = math.log(model.hazard) if t else 0.0
        grown = np.array(predictive[1:]) + log_mass + math.log1p(-model.hazard)
        log_mass = np.r_[predictive[0] + fresh, grown]
        log_mass -= logsumexp(log_mass)
        laws.append(np.exp(log_mass))
    return laws


def figures(laws: list[Array], recent: int) -> Array:
    return np.array([[law[: recent - 1].sum(), (np.arange(1, law.size + 1) * law).sum()] for law in laws])


def simulate(bars: int = 500, seed: int = 0) -> Array:
    """Runs of 100 bars on average with their own mean and spread."""
    rng = np.random.default_rng(seed)
    run = np.cumsum(rng.random(bars) < 0.01)
    return rng.normal(rng.normal(0, 2, bars)[run], rng.lognormal(0, 0.7, bars)[run])


@pytest.fixture(scope="module")
def series() -> Array:
    return simulate()


@pytest.fixture(scope="module")
def oracle(series: Array) -> list[Array]:
    return plain(ChangePoint().fit(series), series)


@pytest.mark.parametrize("recent", [2, 4, 24])
def test_filter_is_the_plain_recursion(series: Array, oracle: list[Array], recent: int) -> None:
    """The window is longer than the series: nothing is cut off."""
    model = ChangePoint(window=600, recent=recent).fit(series)
    np.testing.assert_allclose(model.filter(series), figures(oracle, recent), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(model.run_length_[:500], oracle[-1], rtol=1e-7, atol=1e-14)


def test_prior_of_other_strength(series: Array) -> None:
    model = ChangePoint(hazard=0.05, window=200, kappa=0.3, alpha=2.5).fit(series)
    x = series[:120]
    np.testing.assert_allclose(model.filter(x), figures(plain(model, x), 4), rtol=1e-8, atol=1e-12)


def test_what_the_window_cuts_off() -> None:
    """The error of P(run < 4) falls with the window; next to none is left at three times the mean run of 100 bars."""
    x = simulate(seed=2)
    exact = figures(plain(ChangePoint().fit(x), x), 4)[:, 0]
    error = {w: np.abs(ChangePoint(window=w).fit(x).filter(x)[:, 0] - exact) for w in (25, 100, 200, 336)}
    assert [error[w].max() < most for w, most in ((25, 0.2), (100, 0.1), (200, 0.02), (336, 1e-3))] == [True] * 4
    assert error[336].max() < error[200].max() < error[100].max() < error[25].max()
    assert error[200].mean() < 2e-4


def test_longer_runs_are_gathered_at_the_window(series: Array, oracle: list[Array]) -> None:
    model = ChangePoint(window=200).fit(series)
    law = model.run_length_
    assert law.shape == (200,)
    assert law.sum() == pytest.approx(1.0, abs=1e-12)
    assert law[-1] == pytest.approx(oracle[-1][199:].sum(), abs=1e-2)


def test_filter_knows_no_future(series: Array) -> None:
    model = ChangePoint(window=60).fit(series)
    x = series.copy()
    x[200:210] = np.nan
    whole = model.filter(x)
    for cut in np.unique(np.r_[1:30, 55:70, 198:212, np.random.default_rng(0).integers(1, 500, 180)]):
        np.testing.assert_array_equal(model.filter(x[:cut]), whole[:cut])


def test_update_is_the_filter_bit_for_bit_and_survives_a_restart(series: Array) -> None:
    x = series.copy()
    x[320:324] = np.nan
    model = ChangePoint(window=80).fit(x[:300])
    whole = model.filter(x)
    for t in range(300, 400):
        np.testing.assert_array_equal(model.update(x[t]), whole[t])
    text = json.loads(json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in model.state().items()}))
    again = clone(model).restore(text)
    for t in range(400, 500):
        np.testing.assert_array_equal(model.update(x[t]), whole[t])
        np.testing.assert_array_equal(again.update(x[t]), whole[t])


def test_missing_bars_neither_age_nor_tell(series: Array) -> None:
    model = ChangePoint(window=50).fit(series)
    joined = np.r_[series[:100], np.full(9, np.nan), series[100:]]
    filtered, expected = model.filter(joined), model.filter(series)
    np.testing.assert_array_equal(np.delete(filtered, range(100, 109), axis=0), expected)
    np.testing.assert_array_equal(filtered[100:109], np.tile(expected[99], (9, 1)))
    np.testing.assert_array_equal(model.filter(np.r_[np.nan, 1.0])[0], [0.0, 0.0])


def test_a_change_is_noticed() -> None:
    rng = np.random.default_rng(1)
    for later in (rng.normal(4, 1, 100), rng.normal(0, 6, 100)):
        x = np.r_[rng.normal(0, 1, 300), later]
        recent = ChangePoint(recent=10).fit(x).filter(x)
        assert recent[200:300, 0].max() < 0.5
        assert recent[300:309, 0].max() > 0.9
        assert recent[299, 1] > 150
        assert recent[320, 1] < 40


def test_far_values_stay_finite(series: Array) -> None:
    x = series.copy()
    x[50], x[100] = 1e90, -1e6
    filtered = ChangePoint(window=100).fit(series).filter(x)
    assert np.isfinite(filtered).all()
    assert (filtered[:, 0] <= 1.0 + 1e-12).all()


def test_wrong_use_and_hopeless_data_are_refused(series: Array) -> None:
    for wrong in ({"hazard": 0.0}, {"hazard": 1.0}, {"kappa": 0.0}, {"alpha": -1.0}, {"window": 3}, {"recent": 1}):
        with pytest.raises(UsageError, match="ChangePoint"):
            ChangePoint(**wrong).fit(series)
    with pytest.raises(UsageError, match="one series"):
        ChangePoint().fit(np.column_stack([series, series]))
    with pytest.raises(UsageError, match="call fit"):
        ChangePoint().filter(series)
    with pytest.raises(UsageError, match="'runs' of the given state"):
        ChangePoint(window=20).restore(ChangePoint(window=30).fit(series).state())
    with pytest.raises(DataInvalid, match="flat"):
        ChangePoint().fit(np.full(100, 3.0))
    with pytest.raises(DataInvalid, match="infinite"):
        ChangePoint().fit(series).update(np.inf)


def test_advance_is_the_filter_from_where_it_stands_and_a_copy_goes_its_own_way(series: Array) -> None:
    model = ChangePoint(window=40).fit(series)
    whole = model.filter(series)
    model.restart()
    np.testing.assert_array_equal(model.advance(series[:50]), whole[:50])
    twin = copy.copy(model)
    np.testing.assert_array_equal(twin.advance(series[50:]), whole[50:])
    np.testing.assert_array_equal(model.update(series[50]), whole[50])
