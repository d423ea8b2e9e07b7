"""Bootstrap of differences, against policies whose difference is known and rows that are really repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.inference import METRICS, _Pool, backtests, differences
from forecaster.policy.comparison.scaling import matching_scale
from training.comparison import diebold_mariano


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
    loud = pool.day[np.argsort(-pool.excursion / pool.im)[: len(pool.im) // 15]]
    weights[0, loud] = 0  # a draw without the days of the largest moves
    for metric in METRICS:
        drawn = pool.drawn(metric, weights)
        for draw, weight in zip(drawn, weights, strict=True):
            times = weight[pool.day].astype(int)
            margin, excursion = np.repeat(pool.im, times), np.repeat(pool.excursion, times)
            over = excursion - margin
            by_hand = {
                "matched_mean_im": matching_scale(excursion / margin) * margin.mean(),
                "pinball_995": np.maximum(0.995 * over, -0.005 * over).mean(),
                "es_beyond_margin": np.maximum(over, 0).mean(),
                "mean_im": margin.mean(),
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


def test_diebold_mariano_sees_one_observation_an_hour(met: Contest) -> None:
    ground, raw = met.ground, {name: margins.im for name, margins in met.runs["raw"].items()}
    found = {d.metric: d.dm_p for d in differences(raw, "ensemble", "ewma", ground, reps=20)}
    _, column = np.nonzero(ground.scored)
    losses = []
    for name in ("ensemble", "ewma"):
        over = (ground.excursion - raw[name])[ground.scored]
        losses.append(pd.Series(np.where(over > 0, 0.995, -0.005) * over).groupby(column).mean().to_numpy())
    own, other = losses
    assert found["pinball_995"] == pytest.approx(diebold_mariano(own, other, 24).p_value)
    assert 0 < found["pinball_995"] < 1
    assert np.isnan([found["matched_mean_im"], found["mean_im"]]).all()
    first = np.flatnonzero(ground.scored.any(axis=0))[:60]
    short = replace(ground, scored=ground.scored & np.isin(np.arange(ground.scored.shape[1]), first))
    assert np.isnan([d.dm_p for d in differences(raw, "ensemble", "ewma", short, reps=20)]).all()


def test_mean_margins_say_by_how_much_a_comparison_missed_them(met: Contest) -> None:
    run = {name: margins.im for name, margins in met.runs["equal_mean"].items()}
    found = next(d for d in differences(run, "ensemble", "fhs", met.ground, reps=20) if d.metric == "mean_im")
    means = [run[name][met.ground.scored].mean() for name in ("ensemble", "fhs")]
    assert found.value == pytest.approx(means[0] / means[1] - 1)
    assert found.low <= found.value <= found.high
