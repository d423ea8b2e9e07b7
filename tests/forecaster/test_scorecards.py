"""The goal table by command, with the search, the studies and the model card beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

from features.errors import UsageError
from forecaster.cli import main
from forecaster.commands.schemas import schema
from forecaster.commands.scorecards import Card, _elsewhere, ladder, leave_out, scorecard
from forecaster.commands.tuning import tune
from training.config import RunConfig
from training.goals import GOALS

SPAN = {"start": "2023-04-05", "end": "2023-05-10"}
CONFIG = """
name = "small"
horizons = [1, 24]
members = [{kind = "ewma"}, {kind = "har"}, {kind = "har_seasonal"}, {kind = "har_x"}]
walkforward = {warmup_months = 1}
features = {families = ["memory", "calendar", "path", "cross"]}
"""

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture(scope="module")
def here(home: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECASTER_HOME", str(home))
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scorecard")


@pytest.fixture(scope="module")
def small(out: Path) -> Path:
    (out / "small.toml").write_text(CONFIG)
    return out / "small.toml"


@pytest.fixture(scope="module")
def left_out(here: None, store: Path, small: Path, out: Path) -> Any:
    return leave_out(small, store, symbols=["ETHUSDT"], out=out / "leave-out", jobs=1, **SPAN)


@pytest.fixture(scope="module")
def card(here: None, left_out: Any, store: Path, small: Path, out: Path) -> Card:
    return scorecard(small, store, out=out, card=out / "card.md", jobs=1, long_start="2023-03-05", **SPAN)


def valid(document: dict[str, Any], name: str) -> None:
    jsonschema.validate(json.loads(json.dumps(document)), schema(f"output.{name}").to_dict())


def test_the_table_is_written_and_shown(card: Card, out: Path) -> None:
    told = json.loads((out / "scorecard.json").read_text())
    assert told == json.loads(json.dumps(card.document))
    assert (out / "scorecard.md").read_text() == card.page
    assert card.summary().startswith(card.page)
    assert "hours in one session" in card.summary()
    [window] = told["windows"]  # no symbol has two years of history
    assert [row["goal"] for row in window["goals"]] == [goal.name for goal in GOALS]
    assert {row["model"] for row in window["opponents"]} == {"ensemble", "ewma", "har", "har_seasonal", "har_x"}
    valid(card.to_dict(), "scorecard")


def test_what_the_other_commands_measured_is_part_of_it(card: Card, left_out: Any) -> None:
    goals = {row["goal"]: row for row in card.document["windows"][0]["goals"]}
    one_hour = next(f for f in goals["A6"]["figures"] if f["figure"].endswith(", 1 h"))
    assert one_hour["value"] == next(r for r in left_out.document["listed"] if r["horizon_hours"] == 1)["excess"]
    assert "leave-out" not in one_hour["why"]
    assert all(figure["value"] is None for figure in goals["A8"]["figures"])
    valid(left_out.to_dict(), "leave-out")


def test_of_another_configuration_it_is_not(card: Card, store: Path, out: Path, small: Path, home: Path) -> None:
    other = scorecard(small, store, out=out, jobs=1, overrides=["ensemble.params.shrinkage=1.0"], **SPAN)
    goals = {row["goal"]: row for row in other.document["windows"][0]["goals"]}
    assert all(figure["value"] is None for figure in goals["A6"]["figures"])
    assert other.document["configurations"] > card.document["configurations"]


@pytest.mark.parametrize("name", ["start", "end", "data_sha256", "code_sha256", "config_sha256"])
def test_figures_of_another_window_data_or_code_are_not_taken_in(
    name: str, card: Card, left_out: Any, small: Path, tmp_path: Path
) -> None:
    told, config = left_out.document, RunConfig.load(small)
    first, last = (pd.Timestamp(SPAN[end], tz="UTC") for end in ("start", "end"))
    (tmp_path / "leave-out").mkdir()
    for changed, taken in (({}, True), ({name: "another"}, False)):
        (tmp_path / "leave-out" / "leave_out.json").write_text(json.dumps(told | changed))
        assert bool(_elsewhere(tmp_path, config, first, last, told["data_sha256"])) == taken


def test_the_model_card_keeps_the_misses(card: Card, out: Path) -> None:
    text = (out / "card.md").read_text()
    for heading in ("What it is", "Data", "Members and weights", "Chosen values", "Scores", "Misses", "Limits"):
        assert f"## {heading}" in text
    missed = text.split("## Misses")[1].split("\n## ")[0]
    for row in card.document["windows"][0]["goals"]:
        asked = row["goal"] != "72 h" or row["reached"] != "floor"
        assert (f"- {row['goal']} (" in missed) == (asked and row["reached"] not in ("target", "moonshot"))
    assert "BTCUSDT, ETHUSDT" in text
    assert "No search was run" in text
    assert "Where the gain lives" in text


def test_a_suspect_run_ends_with_the_code_of_a_leak(
    card: Card, store: Path, small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import training.goals

    monkeypatch.setitem(training.goals.TRIPWIRES, "vs har_seasonal, 1 h", -1.0)
    words = ["scorecard", str(small), "--store", str(store), "--out", str(out), "--jobs", "1"]
    words += ["--start", SPAN["start"], "--end", SPAN["end"]]
    assert main(words) == 5
    assert "Begin with: forecaster leakcheck" in capfd.readouterr().out


def test_a_search_needs_history(store: Path, small: Path, out: Path) -> None:
    with pytest.raises(UsageError, match="ask for fewer months"):
        tune(small, store, before="2023-05-10", out=out / "early", trials=3, months=3, jobs=1)


def test_spans_and_symbols_are_checked(store: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--start must be before --end"):
        scorecard(small, store, out=tmp_path, start="2023-05-10", end="2023-04-10")
    with pytest.raises(UsageError, match="--long-start 2023-04-10 is not before --start 2023-04-10"):
        scorecard(small, store, out=tmp_path, start="2023-04-10", end="2023-05-10", long_start="2023-04-10")
    with pytest.raises(UsageError, match="--start must be before --end"):
        ladder(store, out=tmp_path, start="2023-05-10", end="2023-04-10")
    with pytest.raises(UsageError, match="BTCUSTD"):
        leave_out(small, store, symbols=["BTCUSTD"], out=tmp_path)


def test_the_configuration_that_a_search_writes_is_one(small: Path) -> None:
    config = RunConfig.load(small)
    file = small.with_name("again.toml")
    file.write_text(config.to_toml())
    assert RunConfig.load(file).sha256 == config.sha256
