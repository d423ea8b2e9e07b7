"""Regime probabilities: closed forms, planted miscalibration, and logistic regression against other solvers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import optimize, special, stats
from sklearn.linear_model import LogisticRegression

from models import regimes
from models.base import ENSEMBLE, PROBABILITIES
from models.base import THRESHOLDS as THRESHOLD_NAMES
from models.distribution import ABOVE, exceedances, probability_columns
from models.parts import Run
from models.past import Past
from models.regimes import Calibration, log_odds, recalibrated
from models.residuals import SHAPE_LEVELS, Residuals

Array = NDArray[np.float64]
SYMBOLS, HOURS = 3, 8000
TIMES = pd.date_range("2024-01-03 05:00", periods=HOURS, freq="h", tz="UTC").as_unit("us")
THRESHOLDS = np.array([1.0, 2.0, 3.0])[:, None, None] * np.ones((SYMBOLS, HOURS))


def calibrate(
    probability: Array, variance: Array, thresholds: Array, now: Array, times: pd.DatetimeIndex, horizon: int
) -> Array:
    """Exceedance probabilities as the part has calibrated them, block by block; its columns are made from them."""
    fields = {"variance": variance, "now": now, "learnt": np.ones_like(variance)}
    fields |= dict(zip(ABOVE, probability, strict=True)) | dict(zip(THRESHOLD_NAMES, thresholds, strict=True))
    past, part = Past.beginning(times, horizon, fields), Calibration()
    run = Run([part], past)
    given = run.advance(slice(0, len(times)))[ENSEMBLE]
    begins = [hour - past.first_hour for hour, _ in run.learnt(part)]
    out = np.full_like(probability, np.nan)
    for (_, learnt), block in zip(run.learnt(part), map(slice, begins, [*begins[1:], len(times)]), strict=True):
        above = probability[:, :, block]
        out[:, :, block] = recalibrated(above, log_odds(above), now[:, block], learnt)
    for name, values in probability_columns(out, now).items():
        np.testing.assert_array_equal(values, given[name])
    return out


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def test_exceedances_are_those_of_the_law() -> None:
    rng = np.random.default_rng(0)
    log_forecast, location = rng.normal(size=(2, 40)), rng.normal(scale=0.1, size=(2, 40))
    scale = rng.uniform(0.5, 1.5, size=(2, 40))
    law = Residuals(location, scale, stats.norm.ppf(SHAPE_LEVELS))
    thresholds = np.exp(np.stack([log_forecast - 1, log_forecast + 0.5, log_forecast + 1]))
    made = exceedances(log_forecast, law, thresholds)
    for k, distance in enumerate((-1.0, 0.5, 1.0)):
        np.testing.assert_allclose(made[k], stats.norm.sf((distance - location) / scale), atol=5e-4)
    assert (np.diff(made, axis=0) <= 0).all()


def test_probabilities_sum_to_one_and_onset_is_for_the_calm() -> None:
    rng = np.random.default_rng(0)
    above = np.sort(rng.random((3, SYMBOLS, 500)), axis=0)[::-1]
    now = rng.choice([0.0, 1.0, 2.0, 3.0, np.nan], size=(SYMBOLS, 500))
    made = probability_columns(above, now)
    four = np.stack([made[name] for name in PROBABILITIES])
    assert (four >= 0).all()
    np.testing.assert_allclose(four.sum(axis=0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(four[1:].sum(axis=0), above[0])
    np.testing.assert_allclose(four[3], above[2])
    calm = (now == 0) | (now == 1)
    np.testing.assert_array_equal(np.isfinite(made["p_onset"]), calm)
    np.testing.assert_allclose(made["p_onset"][calm], above[1][calm])


def test_unknown_thresholds_leave_all_probabilities_null() -> None:
    made = probability_columns(np.full((3, 1, 2), np.nan), np.array([[0.0, 3.0]]))
    assert all(np.isnan(values).all() for values in made.values())


def planted(slope: float, shift: float, horizon: int = 1) -> tuple[Array, Array, Array, Array]:
    """Stated and true exceedance probabilities, V drawn by the true ones, and the present class."""
    rng = np.random.default_rng(7)
    score = rng.normal(size=(1, SYMBOLS, HOURS)) + np.array([1.0, -1.5, -3.0])[:, None, None]
    true = sigmoid(score)
    stated = sigmoid(slope * score + shift)
    drawn = rng.random((SYMBOLS, HOURS))
    variance = 0.5 + (drawn < true).sum(axis=0)
    return stated, true, variance, rng.choice([0.0, 1.0, 2.0, np.nan], size=(SYMBOLS, HOURS))


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 1.0), (0.4, 0.0), (3.0, 0.0), (2.0, -1.0), (0.5, -1.0), (1.0, 0.0)])
def test_calibration_repairs_what_was_planted(slope: float, shift: float) -> None:
    """Too timid, too sure, shifted: after the first refreshes the probabilities are the true ones."""
    stated, true, variance, now = planted(slope, shift)
    made = calibrate(stated, variance, THRESHOLDS, now, TIMES, 1)
    late = slice(2000, None)
    wrong = np.abs(np.clip(stated, 1e-4, 1 - 1e-4) - true)[:, :, late].mean(axis=(1, 2))
    left = np.abs(made - true)[:, :, late].mean(axis=(1, 2))
    assert (left < 0.015).all()
    if (slope, shift) != (1.0, 0.0):
        assert (left < 0.3 * wrong).all()
    assert (np.diff(made, axis=0) <= 0).all()
    assert ((made > 0) & (made < 1)).all()


def test_calibrated_probabilities_are_put_back_in_order() -> None:
    """A flat and a steep curve cross far out, though the events are nested."""
    rng = np.random.default_rng(0)
    score, drawn = rng.normal(size=(SYMBOLS, HOURS)), rng.random((SYMBOLS, HOURS))
    true = np.minimum.accumulate([sigmoid(0.2 * score + 0.5), sigmoid(4 * score - 1), sigmoid(score - 3)], axis=0)
    variance = 0.5 + (drawn < true).sum(axis=0)
    stated = sigmoid(score) * np.ones((3, 1, 1))
    made = calibrate(stated, variance, THRESHOLDS, np.ones_like(score), TIMES, 1)[:, :, 2000:]
    assert (np.diff(made, axis=0) <= 0).all()
    far_out = score[:, 2000:] > 2
    np.testing.assert_array_equal(made[1][far_out], made[0][far_out])
    assert (made[1] < made[0])[score[:, 2000:] < 0].all()


def test_calibration_sees_the_present() -> None:
    """Where persistence was left out, the class of the trailing interval puts it in."""
    stated, true, variance, now = planted(1.0, 0.0)
    rng = np.random.default_rng(0)
    score = np.log(true / (1 - true)) + np.select([now == 0, now >= 2], [-1.0, 1.5], 0.0)
    variance = 0.5 + (rng.random((SYMBOLS, HOURS)) < sigmoid(score)).sum(axis=0)
    made = calibrate(stated, variance, THRESHOLDS, now, TIMES, 1)[:, :, 2000:]
    for mask in (now == 0, now == 1, now == 2, np.isnan(now)):
        part = mask[:, 2000:]
        np.testing.assert_allclose(
            made[:, part].mean(axis=1), sigmoid(score)[:, :, 2000:][:, part].mean(axis=1), atol=0.02
        )


def test_too_few_resolved_rows_leave_the_probabilities() -> None:
    stated, _, variance, now = planted(3.0, 0.0)
    variance[:, regimes.MINIMUM_ROWS // SYMBOLS :] = np.nan
    made = calibrate(stated, variance, THRESHOLDS, now, TIMES, 1)
    np.testing.assert_array_equal(made, stated)


def test_a_row_without_an_outcome_or_threshold_is_no_evidence() -> None:
    stated, _, variance, now = planted(1.0, 0.5)
    holes = np.random.default_rng(0).random((SYMBOLS, HOURS)) < 0.3
    lost = variance.copy()
    lost[holes] = np.nan
    silent = stated.copy()
    silent[:, holes] = np.nan  # as where thresholds are unknown
    from_lost = calibrate(stated, lost, THRESHOLDS, now, TIMES, 1)
    from_silent = calibrate(silent, variance, THRESHOLDS, now, TIMES, 1)
    np.testing.assert_array_equal(from_lost[:, ~holes], from_silent[:, ~holes])
    assert np.isnan(from_silent[:, holes]).all()
    assert np.isfinite(from_lost).all()


def design_and_hits(slope: float, shift: float, count: int = 20_000) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    logit = np.clip(2 * rng.normal(size=count) - 2, -9, 9)
    now = rng.choice(4, size=count)
    design = np.stack([np.ones(count), logit, 1.0 * (now == 0), 1.0 * (now >= 2)])
    score = shift + slope * logit - 0.5 * design[2] + 0.7 * design[3]
    return design, (rng.random(count) < sigmoid(score)).astype(float)


@pytest.mark.parametrize("horizon", [1, 24, 720])
@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (3.0, 0.0), (0.3, 2.0), (1.0, -3.0), (-1.0, 1.0)])
def test_logistic_is_the_penalised_optimum(slope: float, shift: float, horizon: int) -> None:
    """Also where the stated probabilities are so wrong that plain Newton steps diverge."""
    design, hit = design_and_hits(slope, shift)

    def loss(b: Array) -> float:
        score = b @ design
        distance = b - np.array([0.0, 1.0, 0.0, 0.0])
        fit = np.logaddexp(0, score) - hit * score
        return float(fit.sum() / horizon + 0.5 * regimes.RIDGE * (distance**2).sum())

    best = optimize.minimize(loss, [0.0, 1.0, 0.0, 0.0], method="BFGS", options={"gtol": 1e-5})
    np.testing.assert_allclose(regimes.logistic_fit(design, hit, horizon), best.x, atol=1e-4)


def test_logistic_is_sklearn_s_where_the_ridge_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """sklearn shrinks to zero, not to the identity: both with a ridge too small to matter, on every coefficient."""
    design, hit = design_and_hits(1.4, -0.5)
    monkeypatch.setattr(regimes, "RIDGE", 1e-6)
    oracle = LogisticRegression(C=1e6, fit_intercept=False, tol=1e-10, max_iter=1000).fit(design.T, hit)
    np.testing.assert_allclose(regimes.logistic_fit(design, hit, 1), oracle.coef_[0], atol=1e-4)


def test_few_rows_stay_near_the_identity() -> None:
    design, hit = design_and_hits(1.0, 1.0, count=200)
    made = regimes.logistic_fit(design, hit, 72)
    assert np.abs(made - [0, 1, 0, 0]).max() < 0.1


@pytest.mark.parametrize("count", [1, regimes.BLOCK - 1, regimes.BLOCK, 3 * regimes.BLOCK + 1])
@pytest.mark.parametrize("b", [(0.0, 1.0, 0.0, 0.0), (1.0, 80.0, -3.0, 2.0), (-30.0, -5.0, 1.0, 0.0)])
def test_likelihood_slope_and_curvature_by_their_formulas(count: int, b: tuple[float, ...]) -> None:
    """Also where the scores are in the hundreds, and on both sides of a block's end."""
    design, hit = design_and_hits(1.0, 0.0, count)
    fit, slope, curvature = regimes._likelihood(design, hit, np.array(b))
    score = np.array(b) @ design
    p = special.expit(score)
    assert fit == pytest.approx(float(np.sum(np.logaddexp(0, score) - hit * score)), rel=1e-12)
    np.testing.assert_allclose(slope, design @ (hit - p), rtol=1e-9, atol=1e-9 * count)
    np.testing.assert_allclose(curvature, (design * (p * (1 - p))) @ design.T, rtol=1e-9, atol=1e-12 * count)


@pytest.mark.parametrize("horizon", [1, 24, 72])
@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (3.0, 0.0), (0.3, 2.0), (-1.0, 1.0)])
def test_logistic_ends_where_the_slope_vanishes(slope: float, shift: float, horizon: int) -> None:
    """The step that Newton would still take is nothing but rounding."""
    design, hit = design_and_hits(slope, shift)
    made = regimes.logistic_fit(design, hit, horizon)
    p = special.expit(made @ design)
    left = design @ (hit - p) / horizon - regimes.RIDGE * (made - [0, 1, 0, 0])
    curvature = (design * (p * (1 - p))) @ design.T / horizon + regimes.RIDGE * np.eye(4)
    assert np.abs(np.linalg.solve(curvature, left)).max() < 1e-11
