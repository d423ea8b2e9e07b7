"""Scalars that make policies comparable, fitted at each fold's start on what was known by then.

One number a policy and fold, all symbols together. Equal mean margin asks what protection a given capital buys; equal
coverage asks what capital a given protection costs. Neither is exact out of sample: the realised mismatch is printed.
"""

from __future__ import annotations

import numpy as np

from features.panel import Array
from forecaster.policy.observables import DAY

from .ground import MISS, Floats, Ground, Mask

__all__ = ["equal_coverage", "equal_mean", "levelled", "matching_scale"]


def equal_mean(im: Array, reference: Array, ground: Ground) -> Floats:
    """Per hour ``mean of the reference / mean of the policy`` over the origins before the fold; NaN with no past."""
    both = ground.origins & ~np.isnan(im) & ~np.isnan(reference)
    own, other = (_running(np.where(both, margin, 0.0)) for margin in (im, reference))
    with np.errstate(invalid="ignore", divide="ignore"):
        return ground.by_fold(other[ground.folds] / own[ground.folds])


def equal_coverage(im: Array, ground: Ground) -> Floats:
    """Per hour the scale that would have covered 99.5 % of the origins resolved by the fold's start; NaN with no past."""
    ratio = ground.excursion / im
    known = ground.origins & ~np.isnan(ratio)
    return ground.by_fold(np.array([matching_scale(_before(ratio, known, fold - DAY + 1)) for fold in ground.folds]))


def levelled(im: Array, reference: Array, ground: Ground) -> Array:
    """The margin times the one number that gives it the mean of the reference over the scored origins: hindsight."""
    both = ground.scored & ~np.isnan(im) & ~np.isnan(reference)
    return im * (reference[both].mean() / im[both].mean()) if both.any() else np.full_like(im, np.nan)


def matching_scale(ratio: Floats) -> float:
    """Least scale at which at most 0.5 % of excursions (in units of the margin) lie beyond; NaN without any."""
    if not len(ratio):
        return float("nan")
    return float(np.partition(ratio, -int(MISS * len(ratio)) - 1)[-int(MISS * len(ratio)) - 1])


def _before(ratio: Array, known: Mask, stop: int) -> Floats:
    return ratio[:, :stop][known[:, :stop]]


def _running(x: Array) -> Floats:
    """Sum over all symbols and the hours strictly before each one."""
    return np.concatenate([[0.0], x.sum(axis=0).cumsum()[:-1]])
