"""The walk-forward as a whole: complete, causal, resumable, and the same to the byte however it was computed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from features import locking, targets
from features.errors import DataStale, Interrupted, Locked, UsageError
from features.market import Market
from models import table
from models.base import ENSEMBLE, FORECAST_SCHEMA, KEY
from training.config import RunConfig
from training.evaluation import Evaluation, evaluate
from training.scorecard import score, scores_schema, to_json_bytes

START, END = pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-07-01", tz="UTC")
FOLDS = ["20230401T0000", "20230501T0000", "20230601T0000"]
RESULTS = ("forecasts.parquet", "scores.json", "diagnostics.json")


@pytest.fixture(scope="module")
def forecasts(evaluation: Evaluation) -> pd.DataFrame:
    return table.read_parquet(evaluation.path)


@pytest.fixture(scope="module")
def quickly(market: Market, quick: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluate(market, quick, start=START, end=END, out=tmp_path_factory.mktemp("quick"), jobs=1)


def results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in RESULTS}


def assert_same_rows(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same rows in every column, floats to the bit."""
    found, expected = (frame.set_index(list(KEY)).sort_index() for frame in (found, expected))
    assert found.index.equals(expected.index)
    for name in expected.columns:
        a, b = found[name], expected[name]
        if a.dtype == np.float64:
            same = (a.to_numpy().view(np.int64) == b.to_numpy().view(np.int64)) | (a.isna() & b.isna()).to_numpy()
        else:
            same = (a == b).to_numpy()
        assert same.all(), f"{name} differs first at {a.index[int(np.argmin(same))]}"


# -- what is written -------------------------------------------------------------------------------------------------


def test_the_table_keeps_the_contract(forecasts: pd.DataFrame) -> None:
    table.validate(forecasts)
    assert not forecasts.duplicated(list(KEY)).any()
    assert list(forecasts.columns) == FORECAST_SCHEMA.names
    keys = pd.MultiIndex.from_frame(forecasts[list(KEY)])
    assert keys.is_monotonic_increasing


def test_every_bar_has_its_rows_and_a_gap_has_none(market: Market, config: RunConfig, forecasts: pd.DataFrame) -> None:
    bars = market.bars("1h").index
    origins = bars.get_level_values("close_time")
    inside = bars[(origins >= START) & (origins < END)]
    models = [*(m.kind for m in config.members), ENSEMBLE]
    expected = {(s, t, h, m) for s, t in inside for h in config.horizons for m in models}
    assert set(forecasts[list(KEY)].itertuples(index=False, name=None)) == expected


def test_the_last_origins_are_forecast_before_their_targets_are_complete(
    market: Market, evaluation: Evaluation, forecasts: pd.DataFrame
) -> None:
    last = market.bars("1h").index.get_level_values("close_time").max()
    newest = forecasts[forecasts["origin"] == last]
    assert len(newest) == 3 * 2 * 6
    assert newest["variance"].notna().all()
    assert evaluation.realised.xs(last, level="origin")["variance"].isna().all()


def test_the_ensemble_answers_wherever_thresholds_have_been_known_for_a_week(
    market: Market, config: RunConfig, forecasts: pd.DataFrame
) -> None:
    known = targets.realised(market, config.horizons)["threshold_normal"].dropna().reset_index()
    first = known.groupby(["symbol", "horizon_hours"])["origin"].min().rename("first").reset_index()
    own = forecasts[forecasts["model"] == ENSEMBLE].merge(first, on=["symbol", "horizon_hours"])
    settled = own["origin"] >= own["first"] + pd.Timedelta(days=7)
    assert settled.groupby(own["symbol"]).sum().min() > 200
    assert not (own["status"] == "blocked")[settled].any()


def test_provenance_of_every_row(market: Market, config: RunConfig, forecasts: pd.DataFrame) -> None:
    assert (forecasts["made_at"] == forecasts["origin"]).all()
    assert (forecasts["data_asof"] <= forecasts["origin"]).all()
    firsts = forecasts["origin"].dt.strftime("%Y-%m")
    uris = "fold:" + firsts + "-01T00:00:00+00:00/" + forecasts["model"]
    assert (forecasts["model_uri"] == uris).all()
    for name in ("model_sha256", "config_sha256", "data_sha256"):
        assert forecasts[name].str.fullmatch("[0-9a-f]{64}").all()
    assert forecasts["config_sha256"].unique().tolist() == [config.sha256]
    assert forecasts["data_sha256"].unique().tolist() == [market.data_sha256]
    # A fold's model has one hash, and no two models share one.
    assert (forecasts.groupby("model_uri")["model_sha256"].nunique() == 1).all()
    assert forecasts["model_sha256"].nunique() == forecasts["model_uri"].nunique() == 2 * 6


def test_the_hashes_of_rows_are_those_of_the_folds(evaluation: Evaluation, forecasts: pd.DataFrame) -> None:
    for name in FOLDS[1:]:
        facts = json.loads((evaluation.out / "folds" / name / "fold.json").read_text())
        uri = f"fold:{facts['first_origin']}/gjr"
        rows = forecasts[forecasts["model_uri"] == uri]
        assert rows["model_sha256"].unique().tolist() == [facts["params_sha256"]["gjr"]]


def test_scores_are_those_of_the_files(market: Market, config: RunConfig, evaluation: Evaluation) -> None:
    """Recomputed from the written forecasts, and from targets that took another way."""
    written = (evaluation.out / "scores.json").read_bytes()
    jsonschema.validate(json.loads(written), scores_schema())
    realised = targets.realised(market, config.horizons)
    again = score(table.read_parquet(evaluation.path), realised, start=START, end=END)
    assert written == to_json_bytes(again)
    assert json.loads(written) == evaluation.scores
    rows = {(r["model"], r["horizon_hours"], r["symbol"]): r for r in evaluation.scores["scores"]}
    assert len(rows) == 6 * 2 * 4
    assert all(r["qlike"] is not None for r in rows.values())


def test_weights_are_shares_and_importance_tells_how_far_features_move_a_forecast(
    config: RunConfig, evaluation: Evaluation
) -> None:
    np.testing.assert_allclose(evaluation.weights.sum(axis=1), 1.0, rtol=1e-12)
    assert set(evaluation.weights.index.get_level_values("horizon_hours")) == set(config.horizons)
    assert list(evaluation.importance.columns) == list(config.horizons)
    assert set(evaluation.importance.index.get_level_values("member")) == {"lightgbm"}
    assert (evaluation.importance >= 0).all(axis=None)
    assert evaluation.importance.max().between(0.01, 1.0).all()


def test_the_summary_names_every_horizon_and_model(config: RunConfig, evaluation: Evaluation) -> None:
    text = evaluation.summary()
    for h in config.horizons:
        assert f"{h:>3} h: " in text
    for model in (*(m.kind for m in config.members), ENSEMBLE):
        assert model in text


# -- chosen symbols, refusals ----------------------------------------------------------------------------------------


def resumed(evaluation: Evaluation, out: Path) -> Path:
    """A folder that holds the folds of a finished evaluation, and nothing else of it."""
    shutil.copytree(evaluation.out / "folds", out / "folds")
    return out


def test_symbols_limit_the_rows_and_nothing_else(
    market: Market, config: RunConfig, evaluation: Evaluation, forecasts: pd.DataFrame, tmp_path: Path
) -> None:
    symbols = ["SOLUSDT", "BTCUSDT", "SOLUSDT"]
    some = evaluate(market, config, start=START, end=END, out=tmp_path, symbols=symbols, jobs=1)
    found = table.read_parquet(some.path)
    assert_same_rows(found, forecasts[forecasts["symbol"] != "ETHUSDT"])
    assert sorted({r["symbol"] for r in some.scores["scores"]}) == ["*", "BTCUSDT", "SOLUSDT"]


def test_an_unknown_symbol_is_refused_before_any_fold_is_made(market: Market, quick: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"XRPUSDT .* BTCUSDT, ETHUSDT, SOLUSDT"):
        evaluate(market, quick, start=START, end=END, out=tmp_path, symbols=["XRPUSDT"])
    assert not (tmp_path / "folds").exists()


@pytest.mark.parametrize(
    ("exclude", "told"),
    [
        (("XRPUSDT",), r"XRPUSDT .* BTCUSDT, ETHUSDT, SOLUSDT"),
        (("BTCUSDT", "ETHUSDT", "SOLUSDT"), r"leave at least one symbol"),
    ],
)
def test_excluding_an_unknown_symbol_or_all_of_them_is_refused(
    market: Market, quick: RunConfig, tmp_path: Path, exclude: tuple[str, ...], told: str
) -> None:
    config = quick.model_copy(update={"walkforward": quick.walkforward.model_copy(update={"exclude": exclude})})
    with pytest.raises(UsageError, match=told):
        evaluate(market, config, start=START, end=END, out=tmp_path)
    assert not (tmp_path / "folds").exists()


def test_too_early_a_start_is_refused_with_the_earliest_day(market: Market, quick: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"2023-02-01 .* start on 2023-03-03 or later"):
        evaluate(market, quick, start="2023-02-01", end=END, out=tmp_path)
    sooner = evaluate(market, quick, start="2023-03-03", end="2023-03-05", out=tmp_path, jobs=1)
    assert len(sooner.forecasts) == 48 * 2 * 3


def test_a_start_after_the_data_is_refused(market: Market, quick: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataStale, match=r"2023-06-30T01:00Z .* closed at 2023-06-30T00:00Z"):
        evaluate(market, quick, start="2023-06-30 01:00", end=END, out=tmp_path)


# -- causality -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cut",
    [
        "2023-05-16 13:00",  # in mid-fold
        "2023-05-28 01:00",  # the first bar after a gap
        "2023-06-01 00:00",  # the border of a fold
        "2023-05-08 00:00",  # a midnight on which statistics of the day refresh
        "2023-06-13 03:30",  # between two bars
    ],
)
def test_forecasts_of_what_was_known_are_those_of_the_whole(
    market: Market, config: RunConfig, forecasts: pd.DataFrame, tmp_path: Path, cut: str
) -> None:
    t = pd.Timestamp(cut, tz="UTC")
    early = evaluate(market.as_of(t), config, start=START, end=END, out=tmp_path, jobs=1)
    found = table.read_parquet(early.path)
    assert found["origin"].max() == t.floor("h")
    begun = [name for name in FOLDS if pd.Timestamp(name, tz="UTC") <= t]
    assert sorted(file.name for file in (tmp_path / "folds").iterdir()) == begun
    assert_same_rows(found, forecasts[forecasts["origin"] <= t])


def test_folds_of_a_view_are_not_taken_for_those_of_the_whole(
    market: Market, quick: RunConfig, quickly: Evaluation, tmp_path: Path
) -> None:
    t = pd.Timestamp("2023-06-10 05:00", tz="UTC")
    evaluate(market.as_of(t), quick, start=START, end=END, out=tmp_path, jobs=1)
    evaluate(market, quick, start=START, end=END, out=tmp_path, jobs=1)
    assert results(tmp_path) == results(quickly.out)


# -- the same to the byte --------------------------------------------------------------------------------------------


def test_two_processes_give_the_bytes_of_one(
    market: Market, config: RunConfig, evaluation: Evaluation, tmp_path: Path
) -> None:
    evaluate(market, config, start=START, end=END, out=tmp_path, jobs=2)
    assert results(tmp_path) == results(evaluation.out)
    for name in FOLDS:
        assert (tmp_path / "folds" / name / "fold.json").read_bytes() == (
            evaluation.out / "folds" / name / "fold.json"
        ).read_bytes()


def test_finished_folds_are_kept_and_foreign_or_damaged_ones_made_again(
    market: Market, quick: RunConfig, quickly: Evaluation, tmp_path: Path
) -> None:
    out = resumed(quickly, tmp_path)
    kept, foreign, damaged = (out / "folds" / name for name in FOLDS)
    facts = json.loads((foreign / "fold.json").read_text())
    (foreign / "fold.json").write_text(json.dumps(facts | {"key": "0" * 64}))
    (damaged / "forecasts.parquet").write_bytes(b"PAR1")
    (out / "folds" / ".20230601T0000.1-ab.tmp").mkdir()
    (out / ".forecasts.parquet.1.tmp").touch()
    before = kept.stat().st_ino
    told: list[tuple[str, int, int]] = []
    evaluate(market, quick, start=START, end=END, out=out, jobs=1, progress=lambda *step: told.append(step))
    assert told == [("folds", 1, 3), ("folds", 2, 3), ("folds", 3, 3)]
    assert kept.stat().st_ino == before
    assert results(out) == results(quickly.out)
    assert sorted(file.name for file in (out / "folds").iterdir()) == FOLDS
    assert sorted(file.name for file in out.iterdir()) == [
        ".lock",
        "contributions.parquet",
        "diagnostics.json",
        "folds",
        "forecasts.parquet",
        "scores.json",
    ]


def stopping_after(count: int) -> Callable[[str, int, int], None]:
    def progress(label: str, done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_run_says_what_it_kept_and_resumes(
    market: Market, quick: RunConfig, quickly: Evaluation, tmp_path: Path, jobs: int
) -> None:
    with pytest.raises(Interrupted, match=r"1 of 3 folds; finished folds .* run the same command again"):
        evaluate(market, quick, start=START, end=END, out=tmp_path, jobs=jobs, progress=stopping_after(1))
    assert not (tmp_path / "forecasts.parquet").exists()
    evaluate(market, quick, start=START, end=END, out=tmp_path, jobs=jobs)
    assert results(tmp_path) == results(quickly.out)


KILLED = """
import os, signal, sys
from features.market import Market
from features.sources.simulated import simulate
from training.config import RunConfig
from training.evaluation import evaluate

flushed, fsync = 0, os.fsync
def fsync_or_die(descriptor):
    global flushed
    flushed += 1
    if flushed == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)
os.fsync = fsync_or_die
config = RunConfig.model_validate_json(sys.argv[1])
market = Market.from_tables(simulate(seed=3, days=150, symbols=2).tables)
evaluate(market, config, start="2023-05-01", end="2023-05-31", out=sys.argv[2], jobs=1)
"""


def test_a_killed_run_resumes_to_the_same_bytes(quick: RunConfig, tmp_path: Path) -> None:
    """Killed while the second fold is being flushed to disk: four flushes make a fold."""
    from features.sources.simulated import simulate

    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, quick.model_dump_json(), str(out)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert child.returncode == -signal.SIGKILL, child.stderr
    names = sorted(file.name for file in (out / "folds").iterdir())
    assert names[1:] == ["20230401T0000"]
    assert names[0].startswith(".20230501T0000.")
    first = (out / "folds" / "20230401T0000").stat().st_ino

    market = Market.from_tables(simulate(seed=3, days=150, symbols=2).tables)
    for place in (out, tmp_path / "whole"):
        evaluate(market, quick, start="2023-05-01", end="2023-05-31", out=place, jobs=1)
    assert results(out) == results(tmp_path / "whole")
    assert (out / "folds" / "20230401T0000").stat().st_ino == first
    assert sorted(file.name for file in (out / "folds").iterdir()) == ["20230401T0000", "20230501T0000"]


def test_two_evaluations_into_one_folder_do_not_meet(market: Market, quick: RunConfig, tmp_path: Path) -> None:
    with locking.writing(tmp_path), pytest.raises(Locked, match=r"process \d+.* is writing .*; wait for it to end"):
        evaluate(market, quick, start=START, end=END, out=tmp_path, jobs=1)
    assert not (tmp_path / "folds").exists()
