"""Probabilities of the observable regimes: from the predictive law of V, calibrated on resolved rows.

The regime of an interval is where V falls among three published thresholds, so its probabilities are exceedances of the
law of V. They are then recalibrated by a logistic regression on resolved out-of-sample rows, refreshed every four weeks.
Reference: Platt (1999); Kull, Silva Filho and Flach (2017), Electronic J. Statistics 11.
"""

from __future__ import annotations

import math
from typing import Final

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from models.base import PROBABILITIES
from models.distribution import Residuals
from models.trailing import DAY, FOUR_WEEKS, refreshes, window

__all__ = ["calibrate", "calibration_design", "exceedances", "logistic_fit", "probability_columns"]

Array = npt.NDArray[np.float64]

CALIBRATION_HOURS: Final = 365 * DAY
MINIMUM_ROWS: Final = 2000
RIDGE: Final = 10.0
NEWTON_STEPS: Final = 12
# Newton's error after a step is of the order of the step's square.
CONVERGED: Final = 1e-6
BLOCK: Final = 512
STEP_SIZES: Final = tuple(0.5**k for k in range(10))
EDGE: Final = 1e-4


def exceedances(log_forecast: Array, law: Residuals, thresholds: Array) -> Array:
    """``P(V > threshold_k)`` for the three thresholds (3, n_symbols, n_hours)."""
    return np.stack([law.exceedance(np.log(threshold) - log_forecast) for threshold in thresholds])


def calibrate(
    probability: Array, variance: Array, thresholds: Array, now: Array, times: pd.DatetimeIndex, horizon: int
) -> Array:
    """Exceedance probabilities (3, n_symbols, n_hours) recalibrated on what was resolved by each refresh.

    Logistic regression of the exceedance on the logit of its probability, and on whether the trailing interval is calm,
    or is stress or crisis already. With too few resolved rows the probability stays as it is. The three are made
    monotone again.
    """
    at = refreshes(times, FOUR_WEEKS)
    stops = np.append(at[1:], probability.shape[2])
    out = probability.copy()
    for k in range(3):
        design = calibration_design(probability[k], now)
        hit = np.where(np.isfinite(variance), (variance > thresholds[k]).astype(np.float64), np.nan)
        for column, stop in zip(at, stops, strict=True):
            past = window(int(column), horizon, CALIBRATION_HOURS)
            rows = np.isfinite(design[:, :, past]).all(axis=0) & np.isfinite(hit[:, past])
            if rows.sum() < MINIMUM_ROWS:
                continue
            coefficients = logistic_fit(design[:, :, past][:, rows], hit[:, past][rows], horizon)
            score = np.zeros(design.shape[1:])[:, column:stop]
            for j, b in enumerate(coefficients):
                score = score + b * design[j, :, column:stop]
            out[k, :, column:stop] = 1 / (1 + np.exp(-score))
    return np.minimum.accumulate(out, axis=0)


def probability_columns(exceedance: Array, now: Array) -> dict[str, Array]:
    """``p_calm … p_crisis``, which sum to one, and ``p_onset`` on rows that are calm or normal now."""
    above, stress, crisis = exceedance
    parts = (1 - above, above - stress, stress - crisis, crisis)
    out = dict(zip(PROBABILITIES, parts, strict=True))
    out["p_onset"] = np.where(now <= 1, out["p_stress"] + out["p_crisis"], np.nan)
    return out


def calibration_design(probability: Array, now: Array) -> Array:
    """Regressors (4, ...) of the calibration: constant, logit of the probability, calm now, stress or crisis now."""
    p = np.clip(probability, EDGE, 1 - EDGE)
    # An unknown present is taken as normal: a gap in the bars must not silence the probabilities.
    return np.stack([np.ones_like(p), np.log(p / (1 - p)), 1.0 * (now == 0), 1.0 * (now >= 2)])


def logistic_fit(design: Array, hit: Array, horizon: int) -> Array:
    """Coefficients by Newton's method, with a ridge towards the identity (probability left as it is)."""
    prior = np.array([0.0, 1.0, 0.0, 0.0])
    weight = 1.0 / horizon  # overlapping rows tell one thing about h times

    def terms(b: Array) -> tuple[float, Array, Array]:
        fit, slope, curvature = _likelihood(design, hit, b)
        away = b - prior
        loss = weight * fit + 0.5 * RIDGE * float(np.sum(away**2))
        return loss, weight * slope - RIDGE * away, weight * curvature + RIDGE * np.eye(len(b))

    b = prior
    loss, slope, curvature = terms(b)
    for _ in range(NEWTON_STEPS):
        step = np.linalg.solve(curvature, slope)
        if float(np.abs(step).max()) < CONVERGED:
            return np.asarray(b + step)
        # Where the probabilities were far too sure, a full step overshoots and the next one diverges.
        for size in STEP_SIZES:
            ahead = terms(b + size * step)
            if ahead[0] <= loss:
                b, (loss, slope, curvature) = b + size * step, ahead
                break
        else:
            break  # at the optimum, to rounding
    return b


@numba.njit(cache=True, error_model="numpy")
def _likelihood(design: Array, hit: Array, b: Array) -> tuple[float, Array, Array]:
    """Logistic regression at ``b``: minus the log-likelihood, its downhill slope (4,) and its curvature (4, 4).

    ``ln(1 + exp(s)) = max(s, 0) + ln(1 + exp(-|s|))``, and of the latter, at most 2 each, ``BLOCK`` are multiplied before
    one logarithm is taken.
    """
    fit, product = 0.0, 1.0
    g0 = g1 = g2 = g3 = 0.0
    h00 = h01 = h02 = h03 = h11 = h12 = h13 = h22 = h23 = h33 = 0.0
    for r in range(len(hit)):
        x0, x1, x2, x3 = design[0, r], design[1, r], design[2, r], design[3, r]
        score = b[0] * x0 + b[1] * x1 + b[2] * x2 + b[3] * x3
        small = math.exp(-abs(score))
        large = 1 / (1 + small)
        product *= 1 + small
        if r % BLOCK == BLOCK - 1:
            fit += math.log(product)
            product = 1.0
        fit += max(score, 0.0) - hit[r] * score
        miss = hit[r] - (large if score >= 0 else small * large)
        spread = small * large * large
        g0 += miss * x0
        g1 += miss * x1
        g2 += miss * x2
        g3 += miss * x3
        h00 += spread * x0 * x0
        h01 += spread * x0 * x1
        h02 += spread * x0 * x2
        h03 += spread * x0 * x3
        h11 += spread * x1 * x1
        h12 += spread * x1 * x2
        h13 += spread * x1 * x3
        h22 += spread * x2 * x2
        h23 += spread * x2 * x3
        h33 += spread * x3 * x3
    curvature = np.array([[h00, h01, h02, h03], [h01, h11, h12, h13], [h02, h12, h22, h23], [h03, h13, h23, h33]])
    return fit + math.log(product), np.array([g0, g1, g2, g3]), curvature
