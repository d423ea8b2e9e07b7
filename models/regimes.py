"""Probabilities of the observable regimes: from the predictive law of V and a classifier, on resolved rows.

The regime of an interval is where V falls among three published thresholds, so its probabilities are exceedances. The law
of V gives them, and a classifier (``models.regime_classifier``) does so of its own; a logistic regression on resolved
out-of-sample rows, refreshed every four weeks, says how the two logits count. It begins at the mean of both and moves away
only on evidence: rows overlap, and symbols move together. References: Platt (1999); Ranjan and Gneiting (2010), J. Royal
Statistical Society B 72 (a pool of probabilities has to be recalibrated).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from models.base import ENSEMBLE, THRESHOLDS
from models.distribution import ABOVE, probability_columns
from models.parts import Hours, Made, Part
from models.past import Past
from models.trailing import DAY, window

__all__ = ["CLASSIFIED", "Calibration", "calibration_design", "log_odds", "logistic_fit", "recalibrated"]

Array = npt.NDArray[np.float64]

CLASSIFIED: Final = ("classified_normal", "classified_stress", "classified_crisis")
"""Inputs beside the members: a classifier's logits of ``P(V > threshold)``."""
LOGITS: Final = ("logit_normal", "logit_stress", "logit_crisis")
"""Fields of the logits of ``models.distribution.ABOVE``, kept off the edges."""
SECOND: Final = ("second_normal", "second_stress", "second_crisis")
"""Fields of the classifier's logits, and of the law's again where there are none."""
CALIBRATION_HOURS: Final = 365 * DAY
MINIMUM_ROWS: Final = 2000
PRIOR: Final = np.array([0.0, 0.5, 0.5, 0.0])
RIDGE: Final = 100.0
NEWTON_STEPS: Final = 12
# Newton's error after a step is of the order of the step's square.
CONVERGED: Final = 1e-6
BLOCK: Final = 512
STEP_SIZES: Final = tuple(0.5**k for k in range(10))
EDGE: Final = 1e-4


class Calibration(Part[tuple[Array, ...]]):
    """The regimes' probabilities: the law's and the classifier's logits, weighed on what was resolved by each refresh.

    Logistic regression of the exceedance on both logits and on whether the trailing interval is stress or crisis already.
    With too few resolved rows both count the same. The three exceedances are made monotone.
    """

    reach = CALIBRATION_HOURS
    makes = (*LOGITS, *SECOND)

    def learn(self, past: Past, at: int) -> tuple[Array, ...]:
        """Coefficients (4,) of each threshold."""
        span = window(at, past.horizon, CALIBRATION_HOURS)
        # How far the stand-in was off, before there was a law, says nothing about the law.
        evidence = np.isfinite(past["variance"][:, span]) & (past["learnt"][:, span] == 1)
        now, coefficients = past["now"][:, span], []
        for logit, second, threshold in zip(LOGITS, SECOND, THRESHOLDS, strict=True):
            rows = evidence & np.isfinite(past[logit][:, span])
            if rows.sum() < MINIMUM_ROWS:
                coefficients.append(PRIOR)
                continue
            hit = (past["variance"][:, span][rows] > past[threshold][:, span][rows]).astype(np.float64)
            design = calibration_design(past[logit][:, span][rows], past[second][:, span][rows], now[rows])
            # Rows that overlap tell one thing about h times, and symbols tell of one market.
            coefficients.append(logistic_fit(design, hit, 1.0 / (past.horizon * rows.any(axis=1).sum())))
        return tuple(coefficients)

    def apply(self, state: tuple[Array, ...], hours: Hours) -> Made:
        """The regimes' probabilities, and the fields ``LOGITS`` and ``SECOND``."""
        logits, now = log_odds(hours.stack(ABOVE)), hours["now"]
        second = logits.copy()
        for k, name in enumerate(CLASSIFIED):
            if name in hours.past.names:
                np.copyto(second[k], hours[name], where=np.isfinite(hours[name]))
        columns = probability_columns(recalibrated(logits, second, now, state), now)
        return Made(dict(zip(self.makes, [*logits, *second], strict=True)), {ENSEMBLE: columns})


def log_odds(probability: Array) -> Array:
    """Logit of a probability, which is kept off the edges."""
    p = np.clip(probability, EDGE, 1 - EDGE)
    return np.asarray(np.log(p / (1 - p)))


def recalibrated(logits: Array, second: Array, now: Array, coefficients: Sequence[Array]) -> Array:
    """Exceedance probabilities (3, n_symbols, n_hours) from two logits of each, by its coefficients, made monotone."""
    out = np.empty_like(logits)
    for k, of_threshold in enumerate(coefficients):
        score = np.zeros(now.shape)
        for b, x in zip(of_threshold, calibration_design(logits[k], second[k], now), strict=True):
            score = score + b * x
        out[k] = 1 / (1 + np.exp(-score))
    return np.asarray(np.minimum.accumulate(out, axis=0))


def calibration_design(logit: Array, second: Array, now: Array) -> Array:
    """Regressors (4, ...) of the calibration: constant, both logits, stress or crisis now."""
    # An unknown present is taken as none: a gap in the bars must not silence the probabilities.
    return np.stack([np.ones_like(logit), logit, second, 1.0 * (now >= 2)])


def logistic_fit(design: Array, hit: Array, weight: float) -> Array:
    """Coefficients by Newton's method, each row with this ``weight``, with a ridge towards ``PRIOR``: the mean of both."""

    def terms(b: Array) -> tuple[float, Array, Array]:
        fit, slope, curvature = _likelihood(design, hit, b)
        away = b - PRIOR
        loss = weight * fit + 0.5 * RIDGE * float(np.sum(away**2))
        return loss, weight * slope - RIDGE * away, weight * curvature + RIDGE * np.eye(len(b))

    b = PRIOR
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
