"""Scalars from the past alone, against sorting and sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.ground import Margins
from forecaster.policy.comparison.scaling import equal_coverage, equal_mean, levelled, matching_scale


@pytest.mark.parametrize("n", [1, 3, 199, 200, 201, 5000])
def test_matching_scale_leaves_at_most_half_a_per_cent_beyond(n: int) -> None:
    ratio = np.random.default_rng(n).lognormal(size=n)
    scale = matching_scale(ratio)
    assert (ratio > scale).sum() <= 0.005 * n
    lower = ratio[ratio < scale]
    assert not len(lower) or (ratio > lower.max()).sum() > 0.005 * n


def test_no_rows_have_no_scale() -> None:
    assert np.isnan(matching_scale(np.empty(0)))


def test_equal_mean_is_the_ratio_of_past_means(met: Contest) -> None:
    raw, ground = met.runs["raw"], met.ground
    k = equal_mean(raw["ewma"].im, raw["fhs"].im, ground)
    fold = ground.folds[0]
    past = ground.origins[:, :fold]
    assert past.any()
    assert ground.warm_up
    means = [raw[name].im[:, :fold][past].mean() for name in ("fhs", "ewma")]
    assert k[fold] == pytest.approx(means[0] / means[1])
    assert np.isnan(k[:fold]).all()


def test_levelled_margins_have_one_realised_mean(met: Contest) -> None:
    own, other, ground = met.runs["raw"]["ensemble"].im, met.runs["raw"]["fhs_apc"].im, met.ground
    found = levelled(own, other, ground)
    both = ground.scored & ~np.isnan(own + other)
    assert found[both].mean() == pytest.approx(other[both].mean())
    assert np.ptp((found / own)[both]) < 1e-12  # one number for all


def test_equal_coverage_covers_the_resolved_past(met: Contest) -> None:
    im, ground = met.runs["raw"]["ewma"].im, met.ground
    fold = ground.folds[0]
    known = ground.origins[:, : fold - 23]
    ratio = (ground.excursion[:, : fold - 23] / im[:, : fold - 23])[known]
    assert equal_coverage(im, ground)[fold] == np.sort(ratio)[::-1][int(0.005 * len(ratio))]


def test_no_scalar_reads_the_future(met: Contest) -> None:
    im, ground = met.runs["raw"]["ewma"].im, met.ground
    fold = ground.folds[0]
    other, future = im.copy(), ground.excursion.copy()
    other[:, fold:] *= 7
    future[:, fold - 23 :] *= 7  # the first origin whose 24 h end after the fold's start
    changed = replace(ground, excursion=future)
    reference = met.runs["raw"]["fhs"].im
    assert equal_mean(other, reference, changed)[fold] == equal_mean(im, reference, ground)[fold]
    assert equal_coverage(other, changed)[fold] == equal_coverage(im, ground)[fold]
    future[:, fold - 24] *= 7
    assert equal_coverage(other, changed)[fold] > equal_coverage(im, ground)[fold]


def test_equal_mean_run_differs_from_raw_by_the_scalar(met: Contest) -> None:
    raw, run, scored = met.runs["raw"]["static"], met.runs["equal_mean"]["static"], met.ground.scored
    k = run.im[scored] / raw.im[scored]
    assert np.ptp(k) < 1e-9
    assert (run.mm[scored] / raw.mm[scored]) == pytest.approx(k)


def test_no_margin_is_more_than_the_whole_notional() -> None:
    found = Margins.of(np.array([[0.4, 1.3, np.nan]]))
    np.testing.assert_array_equal(found.im, [[0.4, 1.0, np.nan]])
    np.testing.assert_array_equal(found.mm, [[0.2, 0.5, np.nan]])
    wide = found.times(np.array([2.0, 3.0, 2.0]))
    np.testing.assert_array_equal(wide.im, [[0.8, 1.0, np.nan]])
    np.testing.assert_array_equal(wide.mm, [[0.4, 1.0, np.nan]])
