"""Margins without a forecast, recomputed slowly, and shown to read nothing that came later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from forecaster.policy import Params
from forecaster.policy.comparison.baselines import (
    OPPONENTS,
    anti_procyclical,
    exchange,
    extended,
    fhs,
    pinball,
)
from forecaster.policy.comparison.contest import Contest, contest
from forecaster.policy.comparison.ground import quarter_starts
from forecaster.policy.observables import MarketHistory

CAUSAL = ("static", "ewma", "fhs", "fhs_apc", "ensemble")


def test_pinball_is_the_tilted_loss() -> None:
    im, excursion = np.array([0.2, 0.2]), np.array([0.3, 0.1])
    assert pinball(im, excursion) == pytest.approx([0.995 * 0.1, 0.005 * 0.1])


def test_fhs_takes_the_half_life_that_was_best_so_far(met: Contest) -> None:
    ground = met.ground
    start = quarter_starts(ground.times)[-1]
    candidates = [ground.history.scaled_im(hours) for hours in OPPONENTS.half_lives]
    past = slice(0, start - 23)
    losses = np.array([pinball(im, ground.excursion)[:, past] for im in candidates])
    losses = losses[:, ~np.isnan(losses).any(axis=0)].sum(axis=1)
    best = candidates[int(losses.argmin())]
    found = fhs(ground)
    np.testing.assert_array_equal(found[:, start:], best[:, start:])
    assert len(np.unique(losses)) == len(losses)


def test_anti_procyclical_by_hand(met: Contest, params: Params) -> None:
    ground, margin = met.ground, params.margin
    core = ground.history.scaled_im(48)
    found = anti_procyclical(core, met.stress_move, ground.history)
    short = replace(ground.history, params=replace(params, margin=replace(margin, floor_min_days=300)))
    floored = anti_procyclical(core, met.stress_move, short)
    t = core.shape[1] - 30
    for s in range(len(core)):
        worst = max(margin.gap, met.stress_move[s, t])
        stressed = 0.75 * core[s, t] + 0.25 * max(core[s, t], worst)
        assert found[s, t] >= stressed
        own = core[s, : t + 1]
        floor = np.quantile(own[~np.isnan(own)], margin.floor_quantile)
        assert floored[s, t] == pytest.approx(max(stressed, floor))


def test_exchange_reads_the_tier_of_the_size_as_last_observed(tables: dict[str, pd.DataFrame], params: Params) -> None:
    seen = pd.to_datetime(["2023-03-01 00:30", "2023-03-01 00:30", "2023-06-01 00:00"], utc=True).as_unit("us")
    tiers = pd.DataFrame(
        {
            "symbol": "BTCUSDT",
            "observed_at": seen,
            "tier": [1, 2, 1],
            "min_notional": [0.0, 5e4, 0.0],
            "max_notional": [5e4, 1e7, 5e4],
            "maint_margin_rate": [0.004, 0.01, 0.008],
            "max_leverage": [100.0, 40.0, 50.0],
            "cum_maint_amount": [0.0, 300.0, 0.0],
            "available_at": seen,
            "source": "tables",
        }
    )
    history = MarketHistory(Market.from_tables({**tables, "margin_tiers": tiers}), params)
    times, row = history.panel.times, history.panel.symbols.index("BTCUSDT")
    small, large = exchange(history, 0.0), exchange(history, 1e6)
    at = {
        t: int(np.flatnonzero(times == pd.Timestamp(t, tz="UTC"))[0])
        for t in ("2023-03-01", "2023-03-02", "2023-07-01")
    }
    assert np.isnan(small.im[row, at["2023-03-01"]])
    assert (small.im[row, at["2023-03-02"]], small.mm[row, at["2023-03-02"]]) == (0.01, 0.004)
    assert (small.im[row, at["2023-07-01"]], small.mm[row, at["2023-07-01"]]) == (0.02, 0.008)
    assert (large.im[row, at["2023-07-01"]], large.mm[row, at["2023-07-01"]]) == (0.025, 0.01)
    assert np.isnan(np.delete(small.im, row, axis=0)).all()


def test_a_vote_takes_a_week_and_its_margin_is_a_week_old(met: Contest) -> None:
    tuned = met.runs["raw"]["fhs"].im
    voted = extended(met.ground, tuned)["governance_lag"].im
    week = 24 * 7
    proposed = 40 * week
    np.testing.assert_array_equal(
        voted[:, proposed + week : proposed + 2 * week], np.repeat(tuned[:, [proposed]], week, axis=1)
    )


def test_two_margins_a_quiet_one_and_a_loud_one(met: Contest) -> None:
    binary = extended(met.ground, met.runs["raw"]["fhs"].im)["binary_ltv"].im
    for row in binary:
        changes = np.abs(np.diff(row[~np.isnan(row)])) > 1e-4
        assert 0 < changes.mean() < 0.05


def test_nothing_but_the_oracle_looks_ahead(
    met: Contest, forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    instant = pd.Timestamp("2024-02-15", tz="UTC")
    early = contest(
        forecasts[forecasts["origin"] <= instant],
        market.as_of(instant),
        params,
        start=pd.Timestamp("2024-02-10", tz="UTC"),
    )
    width = early.ground.excursion.shape[1]
    for run in ("raw", "equal_mean", "equal_coverage"):
        for name in CAUSAL:
            np.testing.assert_array_equal(met.runs[run][name].im[:, :width], early.runs[run][name].im, err_msg=name)
    oracle = met.runs["raw"]["oracle"].im[:, :width], early.runs["raw"]["oracle"].im
    assert np.isnan(oracle[1][:, -1]).all()
    assert not np.isnan(oracle[0][:, -1]).any()


def test_no_move_is_in_the_stress_library_before_a_day_has_passed(
    tables: dict[str, pd.DataFrame], params: Params
) -> None:
    vintage = pd.Timedelta(hours=params.margin.stress_vintage_hours)
    assert vintage >= pd.Timedelta(days=1)
    shaken = dict(tables)
    begin = tables["bars"]["close_time"].max() - 2 * vintage
    for name in {"bars", "mark"} & tables.keys():
        later = tables[name]["close_time"] > begin
        shaken[name] = tables[name].assign(high=tables[name]["high"].where(~later, 3 * tables[name]["high"]))
    ends = [
        begin,
        begin + vintage,
        begin + vintage + pd.Timedelta(hours=1),
    ]  # the first such window ends after ``begin``
    lines = pd.DataFrame(
        [(s, t) for s in tables["bars"]["symbol"].unique() for t in ends], columns=["symbol", "origin"]
    )
    before, after = (
        MarketHistory(Market.from_tables(t), params).gather(lines)["stress_move"].to_numpy().reshape(-1, len(ends))
        for t in (tables, shaken)
    )
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert (after[:, 2] > before[:, 2] + 1).all()
