from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from features.errors import UsageError
from features.market import Market
from training.config import RunConfig
from training.engine import Engine
from training.feature_study import SETTINGS
from training.folds import code_sha256
from training.ladder import ALL_FEEDS, DOCUMENT, figures, ladder

START, END = pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-06-28", tz="UTC")
CONFIG = RunConfig.load(
    None,
    [
        *SETTINGS,
        "horizons=[1, 24]",
        'features.families=["memory", "calendar", "cross", "funding"]',
        "walkforward.refit=1",
        "walkforward.warmup_months=1",
        "members.lightgbm.params.min_data_in_leaf=50",
        "members.lightgbm.params.rounds=30",
    ],
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ladder")


@pytest.fixture(scope="module")
def told(market: Market, out: Path) -> dict[str, Any]:
    return ladder(market, CONFIG, start=START, end=END, out=out, engine=Engine(1))


def test_rungs_take_on_one_group_after_the_other(told: dict[str, Any]) -> None:
    assert [rung["groups"] for rung in told["rungs"]] == [
        ["history"], ["history", "cross"], ["history", "cross", "funding"],
    ]  # fmt: skip
    assert {row["subject"] for row in told["data"]} == {"cross", "funding", ALL_FEEDS}
    assert {row["model"] for row in told["data"]} == {"har_x", "lightgbm", "log_mean"}
    assert told["code_sha256"] == code_sha256()


def test_what_data_add_is_told_by_the_levels_of_two_rungs(told: dict[str, Any]) -> None:
    base, *_, full = (rung["families"] for rung in told["rungs"])
    for row in told["data"]:
        if row["subject"] == ALL_FEEDS:
            losses = {
                tuple(level["families"]): level["qlike_x"]
                for level in told["levels"]
                if (level["model"], level["horizon_hours"]) == (row["model"], row["horizon_hours"])
            }
            assert row["gain"] == pytest.approx(1 - losses[tuple(full)] / losses[tuple(base)], abs=1e-9)
            assert row["gain_low"] <= row["gain"] <= row["gain_high"]


def test_what_learning_adds_is_told_by_two_members_on_one_rung(told: dict[str, Any]) -> None:
    assert len(told["learning"]) == 3 * 2
    for row in told["learning"]:
        losses = {
            level["model"]: level["qlike_x"]
            for level in told["levels"]
            if level["families"] == row["families"] and level["horizon_hours"] == row["horizon_hours"]
        }
        assert row["gain"] == pytest.approx(1 - losses["lightgbm"] / losses["har_x"], abs=2e-3)


def test_a_goal_takes_the_log_mean_of_all_feeds(told: dict[str, Any]) -> None:
    [row] = [r for r in told["data"] if (r["subject"], r["model"], r["horizon_hours"]) == (ALL_FEEDS, "log_mean", 24)]
    assert figures(told)["all feeds over history alone, 24 h"].value == row["gain"]


def test_finished_fits_give_the_same_document(
    told: dict[str, Any], market: Market, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (out / DOCUMENT).read_bytes()
    monkeypatch.setattr("training.feature_arms.forecast_fold", None)
    assert ladder(market, CONFIG, start=START, end=END, out=out, engine=Engine(1)) == json.loads(before) == told
    assert (out / DOCUMENT).read_bytes() == before


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ('members=[{kind="har_x"}]', "no lightgbm"),
        ('features.families=["memory", "calendar"]', "all of one group"),
        ('walkforward.exclude=["BTCUSDT"]', "learns from every symbol"),
    ],
)
def test_what_is_no_ladder(override: str, what: str, market: Market, tmp_path: Path) -> None:
    config = RunConfig.load(None, [*SETTINGS, "horizons=[1]", "walkforward.warmup_months=1", override])
    with pytest.raises(UsageError, match=what):
        ladder(market, config, start=START, end=END, out=tmp_path)
