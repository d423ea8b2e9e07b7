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
from models.regimes import CLASSIFIED, PRIOR, Calibration, log_odds, recalibrated
from models.residuals import SHAPE_LEVELS, Residuals

Array = NDArray[np.float64]
SYMBOLS, HOURS = 3, 8000
TIMES = pd.date_range("2024-01-03 05:00", periods=HOURS, freq="h", tz="UTC").as_unit("us")
THRESHOLDS = np.array([1.0, 2.0, 3.0])[:, None, None] * np.ones((SYMBOLS, HOURS))


def calibrate(
    probability: Array,
    variance: Array,
    thresholds: Array,
    now: Array,
    times: pd.DatetimeIndex,
    horizon: int,
    classified: Array | None = None,
) -> Array:
    """Exceedance probabilities as the part has calibrated them, block by block; its columns are made from them."""
    fields = {"variance": variance, "now": now, "learnt": np.ones_like(variance)}
    fields |= dict(zip(ABOVE, probability, strict=True)) | dict(zip(THRESHOLD_NAMES, thresholds, strict=True))
    if classified is not None:
        fields |= dict(zip(CLASSIFIED, classified, strict=True))
    past, part = Past.beginning(times, horizon, fields), Calibration()
    run = Run([part], past)
    given = run.advance(slice(0, len(times)))[ENSEMBLE]
    begins = [hour - past.first_hour for hour, _ in run.learnt(part)]
    out = np.full_like(probability, np.nan)
    for (_, learnt), block in zip(run.learnt(part), map(slice, begins, [*begins[1:], len(times)]), strict=True):
        law = log_odds(probability[:, :, block])
        second = (
            law
            if classified is None
            else np.where(np.isnan(classified), log_odds(probability), classified)[:, :, block]
        )
        out[:, :, block] = recalibrated(law, second, now[:, block], learnt)
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
    """Too timid, too sure, shifted: with half a year of evidence the probabilities are close to the true ones."""
    stated, true, variance, now = planted(slope, shift)
    made = calibrate(stated, variance, THRESHOLDS, now, TIMES, 1)
    late = slice(4000, None)
    wrong = np.abs(np.clip(stated, 1e-4, 1 - 1e-4) - true)[:, :, late].mean(axis=(1, 2))
    left = np.abs(made - true)[:, :, late].mean(axis=(1, 2))
    assert (left < 0.05).all()
    if (slope, shift) != (1.0, 0.0):
        assert left.sum() < 0.3 * wrong.sum()
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
    score = np.log(true / (1 - true)) + np.select([now >= 2], [1.5], 0.0)
    variance = 0.5 + (rng.random((SYMBOLS, HOURS)) < sigmoid(score)).sum(axis=0)
    made = calibrate(stated, variance, THRESHOLDS, now, TIMES, 1)
    late = slice(4000, None)
    for mask in (now >= 2, ~(now >= 2)):
        part = mask[:, late]
        truth, unseen, seen = (x[:, :, late][:, part].mean(axis=1) for x in (sigmoid(score), stated, made))
        np.testing.assert_allclose(seen, truth, atol=0.08)
        if (now[mask] >= 2).all():
            assert (np.abs(seen - truth) < 0.5 * np.abs(unseen - truth)).all()


def test_too_few_resolved_rows_leave_the_probabilities() -> None:
    stated, _, variance, now = planted(3.0, 0.0)
    variance[:, regimes.MINIMUM_ROWS // SYMBOLS :] = np.nan
    made = calibrate(stated, variance, THRESHOLDS, now, TIMES, 1)
    np.testing.assert_allclose(made, np.clip(stated, 1e-4, 1 - 1e-4), rtol=1e-12)


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


def test_two_sources_are_weighed_by_what_each_tells() -> None:
    """Each knows a half of the score: their sum is right, either alone is not, and the mean is too timid."""
    rng = np.random.default_rng(3)
    halves = rng.normal(size=(2, 1, SYMBOLS, HOURS)) * np.ones((2, 3, 1, 1))
    score = halves.sum(axis=0) + np.array([1.0, -1.0, -2.5])[:, None, None]
    true = sigmoid(score)
    variance = 0.5 + (rng.random((SYMBOLS, HOURS)) < true).sum(axis=0)
    level = np.array([1.0, -1.0, -2.5])[:, None, None] / 2
    stated, classified = sigmoid(halves[0] + level), halves[1] + level
    made = calibrate(stated, variance, THRESHOLDS, np.ones((SYMBOLS, HOURS)), TIMES, 1, classified)
    late = slice(4000, None)
    mean = sigmoid((halves[0] + halves[1]) / 2 + level)
    assert (np.abs(made - true)[:, :, late].mean(axis=(1, 2)) < 0.025).all()
    assert (np.abs(mean - true)[:, :, late].mean(axis=(1, 2)) > 0.05).all()


def test_before_any_evidence_both_count_the_same_and_a_silent_classifier_leaves_the_law() -> None:
    rng = np.random.default_rng(4)
    stated = np.sort(rng.uniform(0.01, 0.99, size=(3, SYMBOLS, 400)), axis=0)[::-1]
    classified = np.sort(rng.normal(size=(3, SYMBOLS, 400)), axis=0)[::-1].copy()
    classified[:, 0] = np.nan
    unknown = np.full((SYMBOLS, 400), np.nan)
    made = calibrate(stated, unknown, THRESHOLDS[:, :, :400], unknown, TIMES[:400], 1, classified)
    np.testing.assert_allclose(made[:, 0], stated[:, 0], rtol=1e-12)
    np.testing.assert_allclose(made[:, 1:], special.expit((special.logit(stated) + classified) / 2)[:, 1:], rtol=1e-12)


def test_symbols_that_move_together_are_one_witness() -> None:
    """A market copied five times moves the coefficients no further than once."""
    stated, _, variance, now = planted(3.0, 0.5)
    once = calibrate(stated[:, :1], variance[:1], THRESHOLDS[:, :1], now[:1], TIMES, 1)
    copies = (np.repeat(x, 5, axis=-2) for x in (stated[:, :1], variance[:1], THRESHOLDS[:, :1], now[:1]))
    # With rows enough for a fit at the same refresh.
    late = slice(regimes.MINIMUM_ROWS + 28 * 24, None)
    np.testing.assert_allclose(calibrate(*copies, TIMES, 1)[:, 0, late], once[:, 0, late], rtol=1e-6)


def design_and_hits(slope: float, shift: float, count: int = 20_000) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    logit = np.clip(2 * rng.normal(size=count) - 2, -9, 9)
    second = np.clip(logit + 0.7 * rng.normal(size=count), -9, 9)
    now = rng.choice(4, size=count)
    design = np.stack([np.ones(count), logit, second, 1.0 * (now >= 2)])
    score = shift + slope * logit - 0.5 * design[2] + 0.7 * design[3]
    return design, (rng.random(count) < sigmoid(score)).astype(float)


@pytest.mark.parametrize("weight", [1.0, 1 / 24, 1 / 720])
@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (3.0, 0.0), (0.3, 2.0), (1.0, -3.0), (-1.0, 1.0)])
def test_logistic_is_the_penalised_optimum(slope: float, shift: float, weight: float) -> None:
    """Also where the stated probabilities are so wrong that plain Newton steps diverge."""
    design, hit = design_and_hits(slope, shift)

    def loss(b: Array) -> float:
        score = b @ design
        fit = np.logaddexp(0, score) - hit * score
        return float(weight * fit.sum() + 0.5 * regimes.RIDGE * ((b - PRIOR) ** 2).sum())

    best = optimize.minimize(loss, PRIOR, method="BFGS", options={"gtol": 1e-5})
    np.testing.assert_allclose(regimes.logistic_fit(design, hit, weight), best.x, atol=1e-4)


def test_logistic_is_sklearn_s_where_the_ridge_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """sklearn shrinks to zero, not to the mean of both: both with a ridge too small to matter, on every coefficient."""
    design, hit = design_and_hits(1.4, -0.5)
    monkeypatch.setattr(regimes, "RIDGE", 1e-6)
    oracle = LogisticRegression(C=1e6, fit_intercept=False, tol=1e-10, max_iter=1000).fit(design.T, hit)
    np.testing.assert_allclose(regimes.logistic_fit(design, hit, 1.0), oracle.coef_[0], atol=1e-4)


def test_few_rows_stay_near_the_mean_of_both() -> None:
    design, hit = design_and_hits(1.0, 1.0, count=200)
    assert np.abs(regimes.logistic_fit(design, hit, 1 / 72) - PRIOR).max() < 0.05


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


@pytest.mark.parametrize("weight", [1.0, 1 / 24, 1 / 72])
@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (3.0, 0.0), (0.3, 2.0), (-1.0, 1.0)])
def test_logistic_ends_where_the_slope_vanishes(slope: float, shift: float, weight: float) -> None:
    """The step that Newton would still take is nothing but rounding."""
    design, hit = design_and_hits(slope, shift)
    made = regimes.logistic_fit(design, hit, weight)
    p = special.expit(made @ design)
    left = weight * design @ (hit - p) - regimes.RIDGE * (made - PRIOR)
    curvature = weight * (design * (p * (1 - p))) @ design.T + regimes.RIDGE * np.eye(4)
    assert np.abs(np.linalg.solve(curvature, left)).max() < 1e-11
