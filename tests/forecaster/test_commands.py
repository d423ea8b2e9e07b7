"""The commands as functions: what they write, what they return, and that they agree with each other."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import forecaster as fc
from features.errors import DataInvalid, DataStale, UsageError
from features.leak_report import Leak, LeakReport
from features.market import Market
from features.quality import check
from features.schemas import TABLES
from forecaster.commands import inputs, schedules
from forecaster.commands.backtesting import Backtested
from forecaster.commands.demonstration import Demonstration
from forecaster.commands.evaluation import Evaluated, run
from forecaster.commands.schedules import Schedule, policy_explain, policy_replay
from forecaster.commands.schemas import Names, Schema, schema
from forecaster.commands.serving import Forecasted, forecast, promote, train
from forecaster.policy.comparison import Scoreboard
from forecaster.settings import Settings
from forecaster.sinks.parquet import Written
from models.table import read_parquet, validate
from training.config import RunConfig
from training.tracking import Tracking

pytestmark = pytest.mark.usefixtures("environment")

LAST = pd.Timestamp("2023-05-11", tz="UTC")


def test_importing_the_package_costs_nothing() -> None:
    program = "import sys; before = set(sys.modules); import forecaster; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} & {"numpy", "pandas", "typer", "pydantic"} == set()


def test_names_of_the_package() -> None:
    assert all(callable(getattr(fc, name)) for name in fc.__all__)
    assert fc.policy.decide  # type: ignore[attr-defined]  # the package of that name stays one
    assert inspect.signature(fc.policy) == inspect.signature(schedules.policy)
    with pytest.raises(AttributeError, match="monitor"):
        _ = fc.monitor


def test_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    market = fc.read(store)
    assert market.symbols == ("BTCUSDT", "ETHUSDT")
    assert fc.read(market) is market
    monkeypatch.setenv("FORECASTER_STORE", str(store))
    assert fc.read().data_sha256 == market.data_sha256


def test_evaluation_writes_what_its_schemas_promise(evaluated: Evaluated, store: Path) -> None:
    out = evaluated.out
    for name, file in (("forecasts", out / "forecasts.parquet"), ("symbols", store / "symbols.parquet")):
        written = [{"name": f.name, "type": str(f.type)} for f in pq.read_schema(file)]
        assert written == [{"name": f["name"], "type": f["type"]} for f in document(name)["fields"]]
    for name, folder in (("scores", out), ("diagnostics", out), ("manifest", store)):
        jsonschema.validate(json.loads((folder / f"{name}.json").read_bytes()), document(name))
    lines = (out / "schedule.jsonl").read_bytes().splitlines()
    for line in lines[:: len(lines) // 20]:
        jsonschema.validate(json.loads(line), document("schedule"))
    validate(read_parquet(out / "forecasts.parquet"))


def test_evaluation_forecasts_every_origin_asked_for(evaluated: Evaluated) -> None:
    table = read_parquet(evaluated.evaluation.path)
    hours = pd.date_range("2023-04-05", "2023-04-25", freq="h", tz="UTC", inclusive="left", unit="us")
    models = {"ewma", "har", "har_seasonal", "ensemble"}
    for (_, horizon, model), rows in table.groupby(["symbol", "horizon_hours", "model"]):
        assert rows["origin"].tolist() == hours.tolist()
        assert (horizon in {1, 24}, model in models) == (True, True)
    assert len(table) == 2 * 2 * len(models) * len(hours) == evaluated.to_dict()["rows"]


def test_evaluation_shows_itself(evaluated: Evaluated, store: Path) -> None:
    shown = json.loads(json.dumps(evaluated.to_dict(), allow_nan=False))
    stored = json.loads((evaluated.out / "scores.json").read_bytes())["scores"]
    assert shown["mean_scores"] == [row for row in stored if row["symbol"] == "*"]
    assert {row["policy"] for row in shown["margins"]} == {"static", "ewma", "ensemble"}
    report = (evaluated.out / "report.html").read_text()
    assert fc.read(store).data_sha256 in report
    assert str(evaluated.out / "report.html") in evaluated.summary()
    assert list(shown["costs"]["stages"]) == ["prepare", "folds", "assemble", "write", "score", "margins", "report"]
    assert f"peak memory {shown['costs']['peak_bytes'] / 2**20:,.0f} MiB" in evaluated.summary()


def test_evaluation_is_mirrored_to_the_tracking_store(evaluated: Evaluated, store: Path) -> None:
    tracking = Tracking(Settings.load().tracking_uri, "forecaster")
    with tracking.calling() as client:
        runs = client.search_runs(
            [tracking.experiment_id], "tags.kind = 'evaluation' and attributes.run_name = 'small'"
        )
        found = next(run for run in runs if run.data.params["start"].startswith("2023-04-05"))
        files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert found.info.status == "FINISHED"
    assert found.data.params["data_sha256"] == fc.read(store).data_sha256
    row = next(r for r in evaluated.to_dict()["mean_scores"] if (r["model"], r["horizon_hours"]) == ("ensemble", 24))
    assert found.data.metrics["ensemble/24h/qlike"] == row["qlike"]
    assert {"scores.json", "report.html"} <= files


def test_run_takes_all_from_the_configuration(evaluated: Evaluated, store: Path, config: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.toml"
    section = f'[data]\nstore = "{store}"\nstart = 2023-04-05\nend = "2023-04-25T00:00Z"\n'
    whole.write_text(config.read_text() + section)
    done = run(whole, out=tmp_path / "out")
    for name in ("forecasts.parquet", "scores.json", "schedule.jsonl"):
        assert (done.out / name).read_bytes() == (evaluated.out / name).read_bytes()


def test_schedule_is_derived_again(evaluated: Evaluated, store: Path, tmp_path: Path) -> None:
    made = fc.policy(evaluated.evaluation.path, store, out=tmp_path / "schedule.jsonl")
    assert isinstance(made, Schedule)
    assert made.path.read_bytes() == (evaluated.out / "schedule.jsonl").read_bytes()
    again = policy_replay(made.path, evaluated.evaluation.path, store)
    assert (made.derived, again.derived) == (False, True)
    assert again.to_dict() == {**made.to_dict(), "derived": True}
    assert again.lines == 2 * 20 * 24
    told = policy_explain(made.path, "ETHUSDT", "2023-04-10T12:30Z")
    assert "initial margin" in told.summary()
    with pytest.raises(UsageError, match="--forecasts"):
        policy_replay(made.path, store=store)
    with pytest.raises(DataInvalid, match="DOGEUSDT"):
        policy_explain(made.path, "DOGEUSDT", "2023-04-10")


def test_train_promote_forecast(store: Path, config: Path, tmp_path: Path) -> None:
    settings = Settings.load().model_copy(update={"model_name": "served"})
    trained = train(config, store, "2023-05-01", settings=settings)
    assert trained.uri == "models:/served/1"
    assert sorted(trained.losses) == ["qlike_1h", "qlike_24h"]
    assert all(0 < loss < 1 for loss in trained.losses.values())
    with pytest.raises(UsageError, match="forecaster promote"):
        forecast(store, settings=settings)
    assert promote(settings=settings).uri == trained.uri

    sink = f"parquet:{tmp_path / 'sink'}"
    first = forecast(store, sink=sink, settings=settings)
    assert first.written is not None
    assert first.written.inserted == len(first.forecasts) == 2 * 2 * 4
    assert set(first.forecasts["origin"]) == {LAST}
    assert set(first.forecasts["model_uri"]) == {trained.uri}
    assert set(first.forecasts["model_sha256"]) == {trained.sha256}
    again = forecast(store, sink=sink, settings=settings)
    assert again.to_dict()["written"] == {"inserted": 0, "replaced": 0, "unchanged": 16}
    stored = inputs.forecast_table(tmp_path / "sink", "ensemble")
    np.testing.assert_array_equal(stored["variance"], first.forecasts["variance"])
    assert json.loads(json.dumps(again.to_dict()))["rows"] == 16

    with pytest.raises(DataStale, match="2023-05-01"):
        forecast(store, "2023-04-20", settings=settings)


def test_forecast_takes_the_folder_of_a_sink_for_a_schedule(evaluated: Evaluated, store: Path, tmp_path: Path) -> None:
    from forecaster.sinks.parquet import write

    write(evaluated.evaluation.ensemble, tmp_path / "sink")
    made = fc.policy(tmp_path / "sink", store, out=tmp_path / "schedule.jsonl")
    assert made.path.read_bytes() == (evaluated.out / "schedule.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("2024-01-31", "2024-01-31 00:00"),
        ("2024-01-31T08:00", "2024-01-31 08:00"),
        ("2024-01-31T08:00Z", "2024-01-31 08:00"),
        ("2024-01-31T08:00+02:00", "2024-01-31 06:00"),
    ],
)
def test_instants_are_utc(told: str, meant: str) -> None:
    assert inputs.instant(told, "--start") == pd.Timestamp(meant, tz="UTC")


def test_command_line_comes_before_the_file(config: Path) -> None:
    chosen = inputs.configuration(config, "24,1,4", ["walkforward.warmup_months=3"])
    assert (chosen.horizons, chosen.walkforward.warmup_months, chosen.name) == ((1, 4, 24), 3, "small")
    assert inputs.configuration(config, [24, 4], []).horizons == (4, 24)
    with pytest.raises(UsageError, match="720"):
        inputs.configuration(None, None, ["horizons=[1000]"])


def test_workers_come_from_option_file_environment_machine() -> None:
    config, settings = RunConfig.recommended(), Settings.load()
    configured = RunConfig.load(None, ["execution.workers=3"])
    assert inputs.workers(5, configured, settings) == 5
    assert inputs.workers(None, configured, settings) == 3
    assert inputs.workers(None, config, settings.model_copy(update={"workers": 7})) == 7
    assert inputs.workers(None, config, settings) >= 1


def test_schemas(config: Path) -> None:
    names = schema()
    assert isinstance(names, Names)
    files = {"config", "scores", "diagnostics", "schedule", "manifest", "error", "forecasts", "symbols", *TABLES}
    files |= {"policy_scores", "policy_goals", "policy_experiments"}
    assert {name for name in names.names if not name.startswith("output.")} == files
    for name in names.names:
        assert json.loads(document_text(name)) == document(name)
        if "fields" not in document(name):
            jsonschema.Draft202012Validator.check_schema(document(name))
    jsonschema.validate(tomllib.loads(config.read_text()), document("config"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"horizon": [1]}, document("config"))
    funding = document("funding")
    assert (funding["key"], funding["clock"]) == (["exchange", "symbol", "funding_time"], "funding_time")
    assert {"name": "interval_hours", "type": "double", "nullable": True} in funding["fields"]


def test_demonstration_has_the_shape_promised(evaluated: Evaluated, tmp_path: Path) -> None:
    distance = replace(evaluated, facts={"oracle": {24: {"ensemble": 0.2, "oracle": 0.1}}})
    assert evaluated.schedule is not None
    forecasted = Forecasted(evaluated.evaluation.ensemble, "models:/m/1", f"parquet:{tmp_path}", Written(1, 0, 0))
    board = Scoreboard(
        {"equal_mean": []}, {}, {}, [], [], {"start": "2023-04-12T00:00:00Z", "end": "2023-04-24T23:00:00Z"}
    )
    tested = Backtested(tmp_path, board, evaluated.schedule)
    shown = Demonstration(distance, evaluated.schedule, tested, forecasted, 61.234).to_dict()
    jsonschema.validate(json.loads(json.dumps(shown)), document("output.demo"))
    jsonschema.validate(json.loads(json.dumps(evaluated.to_dict())), document("output.evaluate"))


def test_leaks_and_findings_have_the_shape_promised(store: Path) -> None:
    leak = Leak("prefix", "features", "har_d", "BTCUSDT", LAST, LAST, 24)
    report = LeakReport((LAST,), {"prefix features": 7}, (leak,), "a scope").to_dict()
    jsonschema.validate(json.loads(json.dumps(report)), document("output.leakcheck"))
    with pytest.raises(jsonschema.ValidationError, match="more"):
        jsonschema.validate({**report, "more": 1}, document("output.leakcheck"))
    market = fc.read(store)
    tables = {name: market.table(name) for name in ("bars", "funding")}
    gap = tables["bars"]["close_time"].between("2023-03-01", "2023-03-02")
    found = check(Market.from_tables({**tables, "bars": tables["bars"][~gap]})).to_dict()
    assert found["findings"]
    jsonschema.validate(json.loads(json.dumps(found)), document("output.data.check"))


def document(name: str) -> dict[str, Any]:
    found = schema(name)
    assert isinstance(found, Schema)
    return found.to_dict()


def document_text(name: str) -> str:
    return schema(name).summary()
