"""Bootstrap of differences, against policies whose difference is known and rows that are really repeated."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.inference import _Pool, backtests, differences
from forecaster.policy.comparison.scaling import matching_scale


def test_a_policy_against_itself_and_against_a_multiple(met: Contest) -> None:
    im = met.runs["raw"]["fhs"].im
    margins = {"a": im, "b": im.copy(), "wider": 1.25 * im}
    for found in differences(margins, "a", "b", met.ground, reps=40):
        assert (found.value, found.low, found.high) == pytest.approx((0.0, 0.0, 0.0)) or np.isnan(found.low)
    matched = differences(margins, "wider", "a", met.ground, reps=40)[0]
    assert (matched.value, matched.low, matched.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_drawn_values_are_those_of_rows_really_repeated(met: Contest) -> None:
    ground = met.ground
    im = met.runs["raw"]["ewma"].im
    pool = _Pool(im, ground, ground.scored)
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 4, (6, pool.day.max() + 1)).astype(float)
    for metric in ("matched_mean_im", "pinball_995", "es_beyond_margin"):
        drawn = pool.drawn(metric, weights)
        for draw, weight in zip(drawn, weights, strict=True):
            times = weight[pool.day].astype(int)
            margin, excursion = np.repeat(pool.im, times), np.repeat(pool.excursion, times)
            over = excursion - margin
            by_hand = {
                "matched_mean_im": matching_scale(excursion / margin) * margin.mean(),
                "pinball_995": np.maximum(0.995 * over, -0.005 * over).mean(),
                "es_beyond_margin": np.maximum(over, 0).mean(),
            }[metric]
            assert draw == pytest.approx(by_hand)


def test_interval_holds_the_value_and_years_are_told(met: Contest) -> None:
    raw = {name: margins.im for name, margins in met.runs["raw"].items()}
    for found in differences(raw, "ensemble", "static", met.ground, reps=200):
        if found.metric == "es_beyond_margin":  # some draws hold no day on which the opponent falls short
            assert np.isnan([found.low, found.high]).all()
        else:
            assert found.low <= found.value <= found.high
        assert list(found.by_year) == [2024]
        assert found.n == met.ground.scored.sum()
        assert 0 <= found.symbols_better <= 1


def test_backtests_need_ninety_midnights(met: Contest) -> None:
    rows = backtests(met.runs["raw"]["fhs"].im, met.ground)
    assert [(row.test, row.symbol_years) for row in rows] == [("kupiec", 0), ("christoffersen", 0)]
