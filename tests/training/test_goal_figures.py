"""Figures of the goals from the small market's evaluation, against what pandas makes of the same rows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models import table
from models.base import ENSEMBLE
from training.evaluation import Evaluation
from training.fold_store import FORECASTS
from training.goal_figures import Measured, Window, measure
from training.goal_report import document, markdown
from training.goals import GOALS
from training.losses import crps_log, qlike_terms
from training.opponents import CLASSICAL, best_classical

START, END = pd.Timestamp("2023-05-15", tz="UTC"), pd.Timestamp("2023-06-20", tz="UTC")
SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture(scope="module")
def best(evaluation: Evaluation) -> dict[int, dict[str, float]]:
    return best_classical(evaluation, START)


@pytest.fixture(scope="module")
def measured(evaluation: Evaluation, best: dict[int, dict[str, float]]) -> Measured:
    window = Window("two", START, END, SYMBOLS, {h: next(iter(losses)) for h, losses in best.items()})
    [found] = measure(evaluation.path, evaluation.realised, [window], proxy="garman_klass")
    return found


@pytest.fixture(scope="module")
def rows(evaluation: Evaluation) -> pd.DataFrame:
    """The ensemble's rows of the window beside what came."""
    all_rows = table.read_parquet(evaluation.path, models=[ENSEMBLE])
    inside = all_rows["symbol"].isin(SYMBOLS) & (all_rows["origin"] >= START) & (all_rows["origin"] < END)
    keys = ["symbol", "origin", "horizon_hours"]
    came = evaluation.realised.reset_index()[[*keys, "variance", "mae_long", "regime_now"]]
    return all_rows[inside].merge(came.rename(columns={"variance": "v", "mae_long": "came"}), on=keys)


def value(measured: Measured, name: str) -> float:
    found = measured.figures[name].value
    assert found is not None
    return found


def test_gains_are_those_of_the_window_alone(measured: Measured) -> None:
    scores = {(row["model"], row["symbol"]): row for row in measured.scores["scores"] if row["horizon_hours"] == 4}
    losses = [np.mean([scores[model, symbol]["qlike_x"] for symbol in SYMBOLS]) for model in (ENSEMBLE, "har_seasonal")]
    assert value(measured, "vs har_seasonal, 4 h") == pytest.approx(1 - losses[0] / losses[1])
    assert {symbol for _, symbol in scores} == {"*", *SYMBOLS}


@pytest.mark.parametrize("horizon", [1, 4])
def test_excursions_beyond_their_quantile(horizon: int, measured: Measured, rows: pd.DataFrame) -> None:
    at = rows[(rows["horizon_hours"] == horizon) & rows["v"].notna() & (rows["status"] != "blocked")]
    known = at.dropna(subset=["mae_long_q995", "came"])
    share = (known["came"] > known["mae_long_q995"]).mean()
    assert value(measured, f"beyond mae_long_q995, {horizon} h") == pytest.approx(share, abs=2e-4)


def test_crps_is_that_of_the_quantiles(measured: Measured, evaluation: Evaluation) -> None:
    names = ["var_q05", "var_q25", "var_q50", "var_q75", "var_q95"]
    every = table.read_parquet(evaluation.path, models=[ENSEMBLE, "har_seasonal"])
    inside = every["symbol"].isin(SYMBOLS) & (every["origin"] >= START) & (every["origin"] < END)
    keys = ["symbol", "origin", "horizon_hours"]
    both = every[inside & (every["horizon_hours"] == 4)].merge(
        evaluation.realised.reset_index()[[*keys, "variance"]], on=keys
    )
    shocked = measured.diagnostics["shock_days"]["4"]
    both = both[~both["origin"].dt.strftime("%Y-%m-%d").isin(shocked)].dropna(subset=[*names, "variance_y"])
    means = both.groupby(["model", "symbol"], observed=True).apply(
        lambda part: crps_log(part["variance_y"], part[names]), include_groups=False
    )
    expected = 1 - means[ENSEMBLE].mean() / means["har_seasonal"].mean()
    assert value(measured, "crps_log vs har_seasonal, 4 h") == pytest.approx(expected, abs=2e-3)


def test_shares_of_symbols_and_of_the_set(measured: Measured) -> None:
    own = {
        (row["horizon_hours"], row["symbol"]): row["in_mcs90"]
        for row in measured.scores["scores"]
        if row["model"] == ENSEMBLE and row["symbol"] != "*" and row["in_mcs90"] is not None
    }
    assert value(measured, "in the set") == pytest.approx(np.mean(list(own.values())))
    assert 0.0 <= value(measured, "alone in the set") <= value(measured, "in the set")
    assert value(measured, "symbols better, 1 h") in (0.0, 0.5, 1.0)


def test_figures_have_the_names_that_the_goals_ask_for(measured: Measured) -> None:
    """At 4 h, but for what other commands measure, an absent opponent, and what a month is too short for."""
    asked = {demand.figure for goal in GOALS for demand in goal.demands if ", 4 h" in demand.figure}
    late = {name for name in asked if name.startswith(("pass ", "FZ0", "stranger", "vs garch"))}
    assert asked - late <= set(measured.figures)


# -- B*


def test_the_classical_opponent_is_chosen_before_the_window(
    evaluation: Evaluation, best: dict[int, dict[str, float]]
) -> None:
    assert set(best) == set(evaluation.config.horizons)
    for losses in best.values():
        assert set(losses) == {m.kind for m in evaluation.config.members} & set(CLASSICAL)
        assert list(losses.values()) == sorted(losses.values())


def test_nothing_from_the_window_on_decides_on_it(evaluation: Evaluation, best: dict[int, dict[str, float]]) -> None:
    realised = evaluation.realised.copy()
    hours = pd.to_timedelta(realised.index.get_level_values("horizon_hours"), unit="h")
    later = realised.index.get_level_values("origin") + hours > START
    realised.loc[later, "variance"] *= 50.0
    changed = Evaluation(
        evaluation.out, evaluation.config, evaluation.start, evaluation.end, evaluation.scores, evaluation.diagnostics,
        realised, evaluation.weights, evaluation.importance,
    )  # fmt: skip
    assert best_classical(changed, START) == best


def test_folds_of_another_calendar_do_not_count(
    evaluation: Evaluation, best: dict[int, dict[str, float]], tmp_path: Path
) -> None:
    """The folder still holds a fold of an evaluation that was refitted in the middle of the month."""
    shutil.copytree(evaluation.out / "folds", tmp_path / "folds")
    place = min(place for place in (tmp_path / "folds").iterdir() if place.name[0] != ".")
    facts = json.loads((place / "fold.json").read_text())
    at = pd.Timestamp(facts["first_origin"]) + pd.Timedelta(days=10)
    stray = shutil.copytree(place, tmp_path / "folds" / f"{at:%Y%m%dT%H%M}")
    (stray / "fold.json").write_text(json.dumps(facts | {"first_origin": at.isoformat()}))
    forecasts = pd.read_parquet(stray / FORECASTS)
    numbers = forecasts.select_dtypes("float").columns
    forecasts.assign(**{name: 2.0 * forecasts[name] for name in numbers}).to_parquet(stray / FORECASTS)
    assert best_classical(replace(evaluation, out=tmp_path), START) == best


def test_without_folds_before_the_window_there_is_none(evaluation: Evaluation) -> None:
    first = min(place.name for place in (evaluation.out / "folds").iterdir() if place.name[0] != ".")
    assert best_classical(evaluation, pd.Timestamp(first[:8], tz="UTC")) == {}


# -- the page


def test_the_page_tells_every_goal_and_every_model(measured: Measured, best: dict[int, dict[str, float]]) -> None:
    facts = {
        "proxy": "garman_klass",
        "refit_months": 1,
        "config_sha256": "c" * 64,
        "data_sha256": "d" * 64,
        "configurations": 7,
    }
    told = document([measured], {}, {"two": best}, facts)
    page = markdown(told)
    assert all(f"| {goal.name} | {goal.metric} |" in page for goal in GOALS)
    assert all(f"| {model}" in page for model in ("ensemble", "ewma", "har", "har_seasonal", "gjr", "lightgbm"))
    assert "7 configurations were tried" in page
    assert not told["suspect"]
    assert "leakcheck, on the same" not in page


def test_a_suspect_run_names_the_first_step_of_its_investigation(
    measured: Measured, best: dict[int, dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("training.goals", fromlist=["TRIPWIRES"]).TRIPWIRES, "vs har_seasonal, 4 h", -1.0)
    facts = {
        "proxy": "garman_klass",
        "refit_months": 1,
        "config_sha256": "c" * 64,
        "data_sha256": "d" * 64,
        "configurations": 7,
    }
    told = document([measured], {}, {"two": best}, facts)
    assert told["suspect"]
    assert "Begin with: forecaster leakcheck" in markdown(told)


def test_qlike_terms_of_the_ensemble_agree_with_its_score(measured: Measured, rows: pd.DataFrame) -> None:
    at = rows[(rows["horizon_hours"] == 1) & (rows["symbol"] == "BTCUSDT")].dropna(subset=["v", "variance"])
    [score] = [
        row
        for row in measured.scores["scores"]
        if (row["model"], row["symbol"], row["horizon_hours"]) == (ENSEMBLE, "BTCUSDT", 1)
    ]
    assert score["qlike"] == pytest.approx(qlike_terms(at["v"], at["variance"]).mean(), rel=2e-2)
