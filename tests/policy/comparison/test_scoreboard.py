"""The whole scoreboard on the small market: shape of the files, nulls, the venue's fields, goals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.errors import UsageError
from features.market import Market
from forecaster.policy import Params
from forecaster.policy.comparison import Scoreboard, scoreboard
from forecaster.policy.comparison.contest import POLICIES, Contest
from forecaster.policy.comparison.goals import GOALS, judge
from forecaster.policy.comparison.ground import EVENTS
from forecaster.policy.comparison.leads import leads, onsets
from forecaster.policy.comparison.rows import FIELDS, VENUE_FIELDS
from forecaster.policy.comparison.scoreboard import FILES
from training.goals import BELOW, LEVELS, MEASURED, Figure, Goal
from training.scorecard import nullable

START = "2024-02-10"


@pytest.fixture(scope="module")
def board(forecasts: pd.DataFrame, market: Market, params: Params) -> Scoreboard:
    venue = {("equal_mean", "ensemble", "*", "all"): {"shortfall_bps_oi_year": 12.5}}
    return scoreboard(forecasts, market, params, start=START, venue=venue, reps=30)


def test_one_row_per_policy_symbol_and_window(board: Scoreboard, tmp_path: Path) -> None:
    board.write(tmp_path)
    for name in (FILES["raw"], FILES["equal_mean"], FILES["equal_coverage"]):
        rows = json.loads((tmp_path / name).read_text())["rows"]
        keys = [(row["policy"], row["symbol"], row["window"]) for row in rows]
        symbols, windows = ("*", "ADAUSDT", "BTCUSDT", "ETHUSDT"), ("all", *EVENTS)
        assert set(keys) == {(p, s, w) for p in POLICIES for s in symbols for w in windows}
        assert len(keys) == len(set(keys))
        assert all(set(row) == {"policy", "symbol", "window", *FIELDS} for row in rows)
        outside = [row for row in rows if row["window"] != "all"]
        assert all(row[name] is None for row in outside for name in FIELDS)


def test_no_tiers_are_nulls_and_the_rest_are_numbers(board: Scoreboard) -> None:
    pooled = {row["policy"]: row for row in board.rows["raw"] if (row["symbol"], row["window"]) == ("*", "all")}
    assert pooled["exchange"]["mean_im"] is None
    measured = [name for name in FIELDS if name not in (*VENUE_FIELDS, "max_rise_30d")]
    overlay = ("max_drawdown", "calmar", "turnover")
    for policy in POLICIES:
        if policy != "exchange":
            known = [name for name in measured if policy != "fhs_apc" or name not in overlay]
            assert all(pooled[policy][name] is not None for name in known if not name.startswith("lead")), policy


def test_venue_fields_stand_where_they_belong(board: Scoreboard) -> None:
    told = [
        (name, row["policy"], row["symbol"], row["window"])
        for name, rows in board.rows.items()
        for row in rows
        if row["shortfall_bps_oi_year"] is not None
    ]
    assert told == [("equal_mean", "ensemble", "*", "all")]


def test_leads_are_those_of_the_margin_as_it_stands(board: Scoreboard, met: Contest) -> None:
    fields = ("lead_hours", "false_alarms_per_symbol_year", "lead_skill")
    told = {
        name: {(r["policy"], r["symbol"]): [r[field] for field in fields] for r in rows if r["window"] == "all"}
        for name, rows in board.rows.items()
    }
    assert told["equal_mean"] == told["raw"] == told["equal_coverage"]
    for policy, margins in met.runs["raw"].items():
        pooled, _ = leads(margins.im, onsets(met.ground))
        assert (told["raw"][policy, "*"][2] is not None) == pooled.comparable
        assert told["raw"][policy, "*"][1] == nullable(pooled.false_alarms_per_symbol_year)


def test_a_policy_without_a_margin_at_some_origins_is_named(board: Scoreboard, met: Contest) -> None:
    missing = {note.split(" ", 1)[0]: note for note in board.notes if "compared origins;" in note}
    assert "exchange has a margin at 0.0 %" in missing["exchange"]
    assert "implied_vol" in missing
    assert not missing.keys() & {*POLICIES} - {"exchange"}


def test_rows_are_arithmetic_on_the_margins(board: Scoreboard, met: Contest) -> None:
    row = next(r for r in board.rows["raw"] if (r["policy"], r["symbol"], r["window"]) == ("fhs", "BTCUSDT", "all"))
    s = met.ground.symbols.index("BTCUSDT")
    at = met.ground.scored[s]
    im, excursion = met.runs["raw"]["fhs"].im[s, at], met.ground.excursion[s, at]
    assert row["mean_im"] == pytest.approx(im.mean())
    assert row["coverage_24h_995"] == pytest.approx((excursion <= im).mean())
    assert row["peak_to_trough"] == pytest.approx(im.max() / im.min())


def test_repeated_it_is_the_same_bytes(
    board: Scoreboard, forecasts: pd.DataFrame, market: Market, params: Params, tmp_path: Path
) -> None:
    venue = {("equal_mean", "ensemble", "*", "all"): {"shortfall_bps_oi_year": 12.5}}
    again = scoreboard(forecasts, market, params, start=START, venue=venue, reps=30)
    for first, second in zip(board.write(tmp_path / "a"), again.write(tmp_path / "b"), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_goals_are_told_with_their_figures(board: Scoreboard) -> None:
    assert [goal["goal"] for goal in board.goals] == [goal.name for goal in GOALS]
    table = board.markdown()
    assert "matched_mean_im vs fhs_apc" in table
    assert "ensemble_no_floor" in table


def _at(goal: Goal, level: int) -> dict[str, Figure]:
    """Figures of a goal that just meet every demand up to a level, and none of the next."""
    out = {}
    for demand in goal.demands:
        bound = next((b for b in demand.bounds[level::-1] if b is not None), None)
        if bound is not None:
            value = float(np.mean(bound)) if isinstance(bound, tuple) else 0.0 if bound == MEASURED else bound
            out[demand.figure] = Figure.of(value)
    return out


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_levels_are_reached_at_their_bounds(goal: Goal) -> None:
    for level, name in enumerate(LEVELS):
        asked = [any(d.bounds[k] is not None for d in goal.demands) for k in range(level + 1)]
        reached = {row["goal"]: row["reached"] for row in judge(_at(goal, level))}
        if all(asked):
            assert LEVELS.index(reached[goal.name]) >= level, name
    worse = {d.figure: Figure.of(-1e9 if not d.most else 1e9) for d in goal.demands}
    if goal.name != "6":  # its floor asks for a measurement alone
        assert {row["goal"]: row["reached"] for row in judge(worse)}[goal.name] == BELOW
    assert {row["goal"]: row["reached"] for row in judge({})}[goal.name] == "not measured"


def test_a_span_without_forecasts_is_refused(forecasts: pd.DataFrame, market: Market, params: Params) -> None:
    with pytest.raises(UsageError, match="no forecast between"):
        scoreboard(forecasts, market, params, start="2025-01-01")
    with pytest.raises(UsageError, match="no forecast between"):
        scoreboard(forecasts, market, params)  # a month of forecasts is all burn-in
