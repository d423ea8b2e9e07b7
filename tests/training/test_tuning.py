"""The nested search: it reads nothing from after its instant, goes on where it was killed, and tells what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import optuna
import pandas as pd
import pytest

from features.errors import Interrupted, UsageError
from features.market import Market
from features.sources.simulated import simulate
from forecaster.commands.schemas import schema
from training.config import Component, Features, RunConfig, WalkForward
from training.engine import Engine
from training.inner import Inner
from training.losses import qlike
from training.space import Space
from training.tracking import Tracking
from training.trials import with_values
from training.tuning import CHOSEN, DOCUMENT, Tuned, tune

BEFORE = pd.Timestamp("2023-10-10", tz="UTC")
MONTHS, TRIALS = 3, 5
KINDS = ("ewma", "har_seasonal", "har_x")
CONFIG = RunConfig(
    horizons=(1, 24),
    members=tuple(Component(kind=kind) for kind in KINDS),
    walkforward=WalkForward(warmup_months=1),
    features=Features(families=("memory", "calendar", "path")),
)
SPACE = Space(
    members={"har_x": {"ridge": {"low": 0.001, "high": 5.0, "log": True}}}, ensemble={"shrinkage": (0.0, 0.5, 1.0)}
)  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return simulate(seed=11, days=300, symbols=2).tables


@pytest.fixture(scope="module")
def market(tables: dict[str, pd.DataFrame]) -> Market:
    return Market.from_tables(tables)


def search(market: Market, out: Path, **more: Any) -> Tuned:
    settings: dict[str, Any] = {"trials": TRIALS, "months": MONTHS, "engine": Engine(1)}
    return tune(market, CONFIG, SPACE, before=BEFORE, out=out, **(settings | more))


@pytest.fixture(scope="module")
def tuned(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return search(market, tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def inner(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Inner:
    return Inner.of(market, CONFIG, BEFORE, MONTHS, tmp_path_factory.mktemp("inner"), Engine(1))


# -- the inner folds


def test_inner_folds_end_at_the_instant_and_nothing_later_is_there(inner: Inner) -> None:
    assert inner.folds[-1].test_end == BEFORE
    assert inner.folds[1].test_start == BEFORE - pd.DateOffset(months=MONTHS)
    assert inner.material.times[-1] <= BEFORE
    for h in CONFIG.horizons:
        ends = inner.material.times + pd.Timedelta(hours=h)
        assert np.isnan(inner.material.targets[h]["variance"][:, ends > BEFORE]).all()


def test_the_reference_is_judged_after_the_warm_up_and_without_its_worst_day(inner: Inner) -> None:
    times = inner.material.times[inner.span]
    for h, loss in inner.reference.items():
        assert np.isnan(loss[:, times < inner.folds[1].test_start]).all()
        scored = np.isfinite(loss).any(axis=0)
        left_out = (times >= inner.folds[1].test_start) & (times < times[-1] - pd.Timedelta(hours=h)) & ~scored
        days = times[left_out].floor("D").unique()
        assert len(days) == 1 + 2 * (1 if h <= 24 else -(-h // 24))


def test_losses_are_qlike_of_the_levelled_forecast_over_the_reference(inner: Inner, tmp_path: Path) -> None:
    [member] = [m for m in CONFIG.members if m.kind == "har_x"]
    grids = inner.levelled(inner.forecasts([member], tmp_path), "har_x")
    losses = inner.losses(grids)
    for h in CONFIG.horizons:
        y = inner.material.targets[h]["variance"][:, inner.span]
        own, reference = [], []
        for s in range(len(inner.material.symbols)):
            known = np.isfinite(inner.reference[h][s]) & np.isfinite(grids[h][s])
            own.append(qlike(y[s, known], np.exp(grids[h][s, known])))
            reference.append(inner.reference[h][s, known].mean())
        assert losses.by_horizon[h] == pytest.approx(np.mean(own) / np.mean(reference), rel=1e-12)
    assert losses.mean == pytest.approx(np.mean(list(losses.by_horizon.values())))


def test_the_reference_loses_as_much_as_itself(inner: Inner, tmp_path: Path) -> None:
    [member] = [m for m in CONFIG.members if m.kind == "har_seasonal"]
    losses = inner.losses(inner.levelled(inner.forecasts([member], tmp_path), "har_seasonal"))
    assert losses.mean == pytest.approx(1.0, abs=1e-12)
    assert losses.gain_over(losses).value == 0.0


def test_too_short_a_history_is_refused(market: Market, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ask for fewer months"):
        Inner.of(market, CONFIG, BEFORE, 9, tmp_path, Engine(1))


# -- the search


def test_the_first_trial_has_the_configured_values(tuned: Tuned) -> None:
    har_x, ensemble = tuned.document["subjects"]
    assert har_x["trials"][0]["values"] == har_x["configured"] == {"ridge": 0.02}
    assert har_x["trials"][0]["loss"] == pytest.approx(har_x["loss_configured"])
    assert ensemble["trials"][0]["values"] == ensemble["configured"] == {"shrinkage": 0.5}


def test_the_best_is_the_trial_with_the_least_loss(tuned: Tuned) -> None:
    for subject in tuned.document["subjects"]:
        complete = [trial for trial in subject["trials"] if trial["state"] == "complete"]
        assert len(subject["trials"]) == subject["finished"] == TRIALS
        assert subject["best"] == min(complete, key=lambda trial: float(trial["loss"]))["values"]
        assert subject["loss_best"] <= subject["loss_configured"]
        assert subject["taken"] == (subject["gain"]["low"] > 0)


def test_the_chosen_file_is_the_chosen_configuration(tuned: Tuned) -> None:
    loaded = RunConfig.load(tuned.out / CHOSEN)
    assert loaded.sha256 == tuned.config.sha256 == tuned.document["chosen_sha256"]
    for subject in tuned.document["subjects"]:
        expected = subject["best"] if subject["taken"] else subject["configured"]
        if subject["subject"] == "har_x" and subject["taken"]:
            assert next(m.params for m in loaded.members if m.kind == "har_x") == expected
        if subject["subject"] == "ensemble" and subject["taken"]:
            assert loaded.ensemble.params == expected


def test_later_data_change_nothing(tuned: Tuned, tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """Bars after the instant are a hundred times wilder: no loss moves."""
    later = dict(tables)
    bars = later["bars"].copy()
    after = bars["close_time"] > BEFORE
    for name, factor in (("high", 1.5), ("low", 0.5)):
        bars.loc[after, name] *= factor
    later["bars"] = bars
    again = search(Market.from_tables(later, checked=False), tmp_path)
    for ours, theirs in zip(tuned.document["subjects"], again.document["subjects"], strict=True):
        assert ours == theirs


class Killed(KeyboardInterrupt):
    """The process is gone."""


@pytest.mark.parametrize("at", [3, 9])
def test_a_killed_search_goes_on_to_the_same_end(
    at: int, tuned: Tuned, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, forecasts = 0, Inner.forecasts

    def dying(self: Inner, *arguments: Any) -> pd.DataFrame:
        nonlocal made
        made += 1
        if made == at:
            raise Killed
        return forecasts(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Inner, "forecasts", dying)
        with pytest.raises(Interrupted):
            search(market, tmp_path)
    assert not (tmp_path / DOCUMENT).exists()
    search(market, tmp_path)
    for name in (DOCUMENT, CHOSEN):
        assert (tmp_path / name).read_bytes() == (tuned.out / name).read_bytes()


def test_a_search_killed_before_its_first_trial_began_goes_on(
    tuned: Tuned, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configured values wait in the queue, and are asked for once."""

    def dying(self: Any, *_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("optuna.study.Study.ask", dying)
        with pytest.raises(Interrupted):
            search(market, tmp_path)
    search(market, tmp_path)
    assert (tmp_path / DOCUMENT).read_bytes() == (tuned.out / DOCUMENT).read_bytes()


def test_trials_of_the_combination_are_of_its_members(tuned: Tuned, market: Market, tmp_path: Path) -> None:
    """With more trials of a member its values may change: losses made with the former ones are not read back."""
    storage = f"sqlite:///{tuned.out / 'trials.db'}"
    member = tuned.document["subjects"][0]
    combined = with_values(CONFIG, "har_x", member["best"]) if member["taken"] else CONFIG
    assert set(optuna.get_all_study_names(storage)) == {"har_x", f"ensemble-{combined.sha256[:16]}"}
    search(market, tmp_path, trials=1)
    search(market, tmp_path)
    assert (tmp_path / DOCUMENT).read_bytes() == (tuned.out / DOCUMENT).read_bytes()


def test_finished_trials_are_not_made_again(market: Market, tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("optuna.study.Study.ask", lambda self, *_: asked.append(self.study_name))
    before = (tuned.out / DOCUMENT).read_bytes()
    search(market, tuned.out)
    assert asked == []
    assert (tuned.out / DOCUMENT).read_bytes() == before


def test_another_search_in_the_same_folder_is_refused(market: Market, tuned: Tuned) -> None:
    with pytest.raises(UsageError, match="seed differs"):
        search(market, tuned.out, seed=2)


def test_another_seed_tries_other_values(tuned: Tuned, market: Market, tmp_path: Path) -> None:
    again = search(market, tmp_path, seed=2, trials=2)
    ours, theirs = (told.document["subjects"][0]["trials"] for told in (tuned, again))
    assert ours[0]["values"] == theirs[0]["values"]
    assert ours[1]["values"] != theirs[1]["values"]


def test_one_tracked_run_has_a_child_a_trial(market: Market, tmp_path: Path) -> None:
    tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db", "tuning")
    made = search(market, tmp_path / "out", trials=2, tracking=tracking)
    with tracking.calling() as client:
        runs = client.search_runs([tracking.experiment_id])
    parents = [run for run in runs if run.data.tags["kind"] == "tuning"]
    children = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert len(parents) == 1
    assert len(children) == sum(subject["finished"] for subject in made.document["subjects"]) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    # Both subjects begin with the configured values, which are one configuration.
    losses = {run.data.params["config_sha256"] for run in children}
    assert tracking.configurations() == len(losses) <= 3


def test_the_document_is_plain_json_and_what_is_shown_of_it_has_its_schema(tuned: Tuned) -> None:
    jsonschema.validate(json.loads(json.dumps(tuned.to_dict() | {"hours": 0.1})), schema("output.tune").to_dict())
    assert json.loads((tuned.out / DOCUMENT).read_text()) == json.loads(json.dumps(tuned.document))
    assert "har_x" in tuned.summary()
