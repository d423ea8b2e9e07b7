"""Probabilities of the observable regimes: from the predictive law of V, calibrated on resolved rows.

The regime of an interval is where V falls among three published thresholds, so its probabilities are exceedances of the
law of V. They are then recalibrated by a logistic regression on resolved out-of-sample rows, refreshed every four weeks.
Reference: Platt (1999); Kull, Silva Filho and Flach (2017), Electronic J. Statistics 11.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.base import PROBABILITIES
from models.distribution import Residuals
from models.trailing import DAY, FOUR_WEEKS, refreshes, window

__all__ = ["calibrate", "exceedances", "probability_columns"]

Array = npt.NDArray[np.float64]

CALIBRATION_HOURS: Final = 365 * DAY
MINIMUM_ROWS: Final = 2000
RIDGE: Final = 10.0
NEWTON_STEPS: Final = 12
CONVERGED: Final = 1e-9
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
        design = _design(probability[k], now)
        hit = np.where(np.isfinite(variance), (variance > thresholds[k]).astype(np.float64), np.nan)
        for column, stop in zip(at, stops, strict=True):
            past = window(int(column), horizon, CALIBRATION_HOURS)
            rows = np.isfinite(design[:, :, past]).all(axis=0) & np.isfinite(hit[:, past])
            if rows.sum() < MINIMUM_ROWS:
                continue
            coefficients = _logistic(design[:, :, past][:, rows], hit[:, past][rows], horizon)
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


def _design(probability: Array, now: Array) -> Array:
    p = np.clip(probability, EDGE, 1 - EDGE)
    # An unknown present is taken as normal: a gap in the bars must not silence the probabilities.
    return np.stack([np.ones_like(p), np.log(p / (1 - p)), 1.0 * (now == 0), 1.0 * (now >= 2)])


def _logistic(design: Array, hit: Array, horizon: int) -> Array:
    """Coefficients by Newton's method, with a ridge towards the identity (probability left as it is)."""
    prior = np.array([0.0, 1.0, 0.0, 0.0])
    weight = 1.0 / horizon  # overlapping rows tell one thing about h times

    def loss(b: Array) -> float:
        score = np.einsum("jn,j->n", design, b)
        fit = float(np.sum(np.logaddexp(0, score) - hit * score))
        return weight * fit + 0.5 * RIDGE * float(np.sum((b - prior) ** 2))

    b = prior
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.einsum("jn,j->n", design, b)))
        slope = weight * np.einsum("jn,n->j", design, hit - p) - RIDGE * (b - prior)
        curvature = weight * np.einsum("in,n,jn->ij", design, p * (1 - p), design) + RIDGE * np.eye(4)
        step = np.linalg.solve(curvature, slope)
        if float(np.abs(step).max()) < CONVERGED:
            break
        # Where the probabilities were far too sure, a full step overshoots and the next one diverges.
        size = next((s for s in STEP_SIZES if loss(b + s * step) <= loss(b)), 0.0)
        b = b + size * step
    return np.asarray(b)
