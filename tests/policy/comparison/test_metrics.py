"""Metrics of margins against arithmetic on a few rows."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.policy.comparison.metrics import coverage_metrics, movement_metrics


def test_coverage_metrics_by_hand() -> None:
    margin, excursion = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.15, 0.1, 0.3, 0.1])
    found = coverage_metrics(margin, excursion)
    assert found["mean_im"] == pytest.approx(0.25)
    assert found["coverage_24h_995"] == 0.75
    assert found["es_beyond_margin"] == pytest.approx(0.05 / 4)
    tilted = np.where(excursion > margin, 0.995 * (excursion - margin), 0.005 * (margin - excursion))
    assert found["pinball_995"] == pytest.approx(tilted.mean())
    assert found["matched_mean_im"] == pytest.approx(1.5 * 0.25)
    assert coverage_metrics(margin, excursion, 2.0)["matched_mean_im"] == pytest.approx(0.5)


def test_no_rows_have_no_metrics() -> None:
    assert np.isnan(list(coverage_metrics(np.empty(0), np.empty(0)).values())).all()


def test_movement_inside_the_span_only() -> None:
    rng = np.random.default_rng(3)
    im = rng.lognormal(size=(3, 900))
    within = np.zeros(im.shape, dtype=bool)
    within[0, 100:800], within[1, :30] = True, True
    found = movement_metrics(im, within)
    span = im[0, 100:800]
    assert found["peak_to_trough"][0] == span.max() / span.min()
    for name, days in (("max_rise_1d", 1), ("max_rise_5d", 5)):
        worst = max(span[t + 24 * days] / span[t] - 1 for t in range(len(span) - 24 * days))
        assert found[name][0] == pytest.approx(worst)
    assert np.isnan(found["max_rise_30d"][0])
    assert np.isnan(found["max_rise_5d"][1])
    assert found["max_rise_1d"][1] == pytest.approx(max(im[1, t + 24] / im[1, t] - 1 for t in range(6)))
    assert all(np.isnan(values[2]) for values in found.values())


def test_a_rise_at_its_limit_is_not_beyond_it() -> None:
    margin = np.array([[50015] * 24 + [3 * 50015] * 24]) / 1e6
    assert (margin[0, 24] / margin[0, 0] - 1) > 2.0  # as fractions
    assert movement_metrics(margin, np.ones(margin.shape, dtype=bool))["max_rise_1d"].tolist() == [2.0]
