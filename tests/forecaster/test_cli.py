"""The command line: exit codes, what goes where, and what a user's mistake is answered with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import typer
from filelock import FileLock

from features import errors
from features.market import Market
from features.store import Store
from forecaster.cli import app, main
from forecaster.commands.evaluation import Evaluated
from forecaster.commands.schedules import policy
from forecaster.commands.schemas import Names, schema
from forecaster.terminal import Terminal

COMMAND = Path(sys.executable).parent / "forecaster"
COMMANDS = [
    "demo", "run", "evaluate", "tune", "scorecard", "leave-out", "ladder", "train", "promote", "forecast", "explain",
    "backtest", "leakcheck", "schema", "data", "features", "policy",
]  # fmt: skip
POLICY = ["replay", "explain", "keys", "sign", "verify", "override", "bounds", "rollout", "commit", "prove", "included"]
SPAN = ["--start", "2023-04-05", "--end", "2023-04-25", "--out", "out"]

pytestmark = pytest.mark.usefixtures("environment")

Shown = tuple[int, str, str]
Invoke = Callable[..., Shown]


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Run one command line; exit code, and all that any library, in any language, wrote to stdout and stderr."""

    def run(*words: str | Path) -> Shown:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return run


def refused(shown: Shown, code: int, *told: str) -> None:
    """The command ended with this code and one error on stderr that says all this, without a traceback."""
    assert shown[0] == code, shown[2]
    assert shown[1] == ""
    assert shown[2].startswith("error: ")
    assert "Traceback" not in shown[2]
    assert [words for words in told if words not in shown[2]] == []


def test_help_names_the_commands_and_imports_nothing_heavy() -> None:
    heavy = {"numpy", "pandas", "pyarrow", "pydantic", "mlflow", "lightgbm", "sklearn", "arch", "numba", "rich"}
    program = "import sys; from forecaster.cli import main; main(['--help']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *text, modules = done.stdout.splitlines()
    assert heavy.isdisjoint(modules.split())
    listed = text[text.index("Commands:") + 1 :]
    assert [line.split()[0] for line in listed[: listed.index("")]] == COMMANDS


@pytest.mark.parametrize(
    "words",
    [
        *([name] for name in COMMANDS),
        ["data", "import"],
        ["data", "check"],
        ["features", "report"],
        *(["policy", name] for name in POLICY),
    ],
)
def test_every_command_has_help(words: list[str], invoke: Invoke) -> None:
    code, out, err = invoke(*words, "--help")
    assert (code, err) == (0, "")
    assert "--json" in out
    assert invoke(*words, "--help", "--json") == (0, out, "")


@pytest.mark.parametrize("group", ["forecaster", "forecaster data", "forecaster features"])
def test_no_command_is_answered_in_one_line(group: str, invoke: Invoke) -> None:
    told = f"name a command; see {group} --help"
    words = group.split()[1:]
    assert invoke(*words) == (2, "", f"error: {told}\n")
    code, out, err = invoke(*words, "--json")
    assert (code, err) == (2, f"error: {told}\n")
    assert json.loads(out)["error"]["message"] == told


def test_every_command_has_a_schema_of_its_output() -> None:
    def leaves(group: Any, *names: str) -> set[str]:
        own = {".".join(names)} if group.name == "policy" else set()
        return own.union(*(
            leaves(command, *names, name) if hasattr(command, "commands") else {".".join([*names, name])}
            for name, command in group.commands.items()
        ))  # fmt: skip

    assert leaves(typer.main.get_command(app), "output") == outputs()


def outputs() -> set[str]:
    names = schema()
    assert isinstance(names, Names)
    return {name for name in names.names if name.startswith("output.")}


def test_result_is_text_json_or_nothing(store: Path, invoke: Invoke) -> None:
    assert invoke("data", "check", "--store", store) == (0, "60,258 rows in 9 tables; 0 findings\n", "")
    code, out, err = invoke("data", "check", "--store", store, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["rows"]["mark"] == 2 * 130 * 24
    assert invoke("data", "check", "--store", store, "--quiet") == (0, "", "")


def test_error_is_one_json_object_too(invoke: Invoke) -> None:
    code, out, err = invoke("data", "check", "--store", "nowhere", "--json")
    assert code == 2
    assert json.loads(out)["error"] == {"type": "UsageError", "exit_code": 2, "message": err[7:-1]}
    jsonschema.validate(json.loads(out), schema("error").to_dict())
    code, out, _ = invoke("evaluate", "--strat", "2023", "--json")
    assert code == 2
    assert "--start" in json.loads(out)["error"]["message"]


@pytest.mark.parametrize("name", sorted(set(errors.__all__)))
def test_refusal_ends_with_its_exit_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    refusal: type[errors.ForecasterError] = getattr(errors, name)

    def command() -> None:
        raise refusal("row 7 is wrong; mend it")

    assert Terminal().run(command) == refusal.exit_code
    assert capsys.readouterr().err == "error: row 7 is wrong; mend it\n"


def test_unexpected_failure_is_one_line_without_debug(capsys: pytest.CaptureFixture[str]) -> None:
    assert Terminal().run(lambda: 1 // 0) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--debug" in told
    assert Terminal(debug=True).run(lambda: 1 // 0) == 1
    assert "Traceback" in capsys.readouterr().err


def test_prints_of_libraries_stay_off_stdout_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        sys.stdout.write("noise\n")

    assert Terminal(json=True).run(command) == 0
    assert capsys.readouterr() == ("", "noise\n")


def test_every_result_is_one_json_object(
    evaluated: Evaluated, simulation: Path, store: Path, config: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*words: str | Path) -> dict[str, Any]:
        code, out, err = invoke(*words, "--json")
        assert (code, err) == (0, ""), words
        found = json.loads(out)
        assert isinstance(found, dict)
        name = ".".join(["output", *map(str, words[:2])])
        jsonschema.validate(found, schema(name if name in outputs() else f"output.{words[0]}").to_dict())
        return found

    monkeypatch.setenv("FORECASTER_MODEL_NAME", "shown")
    monkeypatch.setenv("FORECASTER_STORE", str(store))
    imported = shown("data", "import", "--from", "simulated", simulation, "--store", "another")
    assert imported["rows"] == shown("data", "check", "--store", "another")["rows"]
    made = shown("evaluate", config, *SPAN[:4], "--out", evaluated.out)
    assert made["forecasts"] == str(evaluated.evaluation.path)
    span = ["--set", "data.start=2023-04-05", "--set", "data.end=2023-04-25"]
    assert shown("run", config, *span, "--out", evaluated.out)["mean_scores"] == made["mean_scores"]
    trained = shown("train", config, "--as-of", "2023-05-10")
    assert shown("promote") == {"uri": trained["uri"]}
    assert shown("forecast", "--sink", "parquet:sink")["written"] == {"inserted": 16, "replaced": 0, "unchanged": 0}
    schedule = shown("policy", "--forecasts", made["forecasts"], "--out", "schedule.jsonl")
    replayed = shown("policy", "replay", "schedule.jsonl", "--forecasts", made["forecasts"])
    assert replayed == {**schedule, "derived": True}
    assert "initial margin" in shown("policy", "explain", "schedule.jsonl", "BTCUSDT", "2023-04-10")["text"]
    why = shown("explain", "--forecasts", made["forecasts"], "BTCUSDT", "2023-04-10", "--horizon", "24")
    assert [one["horizon_hours"] for one in why["horizons"]] == [24]
    assert "config" in shown("schema")["names"]
    assert shown("leakcheck", config, "--cuts", "3")["leaks"] == []


# What users get wrong, and the cure that the answer names.


def test_store_that_does_not_exist(invoke: Invoke) -> None:
    refused(invoke("data", "check", "--store", "nowhere"), 2, "nowhere", "data import")


def test_no_store_named(invoke: Invoke) -> None:
    refused(invoke("data", "check"), 2, "--store DIR", "FORECASTER_STORE")


def test_empty_store(tmp_path: Path, invoke: Invoke) -> None:
    refused(invoke("data", "check", "--store", tmp_path), 3, str(tmp_path), "forecaster data import")


def test_end_before_start(store: Path, invoke: Invoke) -> None:
    shown = invoke("evaluate", "--store", store, "--start", "2023-04-25", "--end", "2023-04-05", "--out", "out")
    refused(shown, 2, "--start 2023-04-25", "--end 2023-04-05", "swap")


def test_start_before_there_is_anything_to_learn_from(store: Path, invoke: Invoke) -> None:
    shown = invoke("evaluate", "--store", store, "--start", "2023-01-10", "--end", "2023-04-05", "--out", "out")
    refused(shown, 2, "data begin on 2023-01-01", "start on 2023-03-03 or later")


def test_start_after_the_data(store: Path, invoke: Invoke) -> None:
    shown = invoke("evaluate", "--store", store, "--start", "2024-01-10", "--end", "2024-04-05", "--out", "out")
    refused(shown, 4, "data end at 2023-05-11", "import newer data")


def test_start_that_is_no_date(store: Path, invoke: Invoke) -> None:
    shown = invoke("evaluate", "--store", store, "--start", "yesterday", "--end", "2023-04-05", "--out", "out")
    refused(shown, 2, "--start yesterday", "2024-01-31T08:00Z")


def test_no_place_for_the_results(store: Path, invoke: Invoke) -> None:
    refused(invoke("evaluate", "--store", store, *SPAN[:4]), 2, "--out DIR", "data.out")


def test_unknown_symbol(store: Path, invoke: Invoke) -> None:
    shown = invoke("evaluate", "--store", store, *SPAN, "--symbols", "BTCUSTD")
    refused(shown, 2, "'BTCUSTD'", "did you mean 'BTCUSDT'")


@pytest.mark.parametrize("hours", ["0", "5000", "day", "1,,4", "-1", "1.5"])
def test_unknown_horizon(hours: str, store: Path, invoke: Invoke) -> None:
    shown = invoke("evaluate", "--store", store, *SPAN, "--horizons", hours)
    refused(shown, 2, "between 1 and 720", "--horizons 1,4,24")


def test_unknown_key_in_the_configuration(store: Path, tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[walkforward]\nwarmup_month = 3\n")
    shown = invoke("run", file, "--store", store, "--out", "out")
    refused(shown, 2, "mine.toml", "`walkforward.warmup_month`", "did you mean `walkforward.warmup_months`")


def test_configuration_that_is_not_toml(store: Path, tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("horizons = [1, 24]\nname = small\n")
    refused(invoke("run", file, "--store", store, "--out", "out"), 2, "mine.toml", "line 2")


def test_run_without_a_span(config: Path, store: Path, invoke: Invoke) -> None:
    refused(invoke("run", config, "--store", store, "--out", "out"), 2, "data.start")


def test_folder_without_any_market_data(tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "notes.txt").write_text("buy low")
    shown = invoke("data", "import", "--from", "freqtrade", tmp_path, "--store", "store")
    refused(shown, 3, "notes.txt", "PAIR-TIMEFRAME", "the sources are freqtrade, vision, parquet, trades, simulated")


def test_folder_of_another_source(tmp_path: Path, invoke: Invoke) -> None:
    month = tmp_path / "data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-01.zip"
    month.parent.mkdir(parents=True)
    with zipfile.ZipFile(month, "w") as archive:
        archive.writestr("BTCUSDT-1h-2023-01.csv", "")
    shown = invoke("data", "import", "--from", "freqtrade", tmp_path, "--store", "store")
    refused(shown, 3, "the files look like --from vision")


def test_unknown_source(tmp_path: Path, invoke: Invoke) -> None:
    shown = invoke("data", "import", "--from", "freqtrad", tmp_path, "--store", "store")
    refused(shown, 2, "did you mean 'freqtrade'")


def test_column_pair_without_equals(tmp_path: Path, invoke: Invoke) -> None:
    shown = invoke(
        "data", "import", "--from", "parquet", tmp_path, "--store", "store", "--table", "daily", "--columns", "date"
    )
    refused(shown, 2, "--columns date", "name=value")


@pytest.mark.parametrize("option", ["--columns", "--set"])
def test_column_named_twice(tmp_path: Path, invoke: Invoke, option: str) -> None:
    pairs = [option, "close=a,close=b"] if option == "--columns" else [option, "close=a", option, "close=b"]
    shown = invoke("data", "import", "--from", "parquet", tmp_path, "--store", "store", "--table", "daily", *pairs)
    refused(shown, 2, f"{option} close=b: close is 'a' already")


@pytest.mark.parametrize("delay", ["24", "nan", "NaT", "-24h", "24hours", "1h30", "24H", "1e3h", "٢h", "999999D", ""])
def test_delay_without_a_number_and_a_unit(tmp_path: Path, invoke: Invoke, delay: str) -> None:
    words = ("data", "import", "--from", "parquet", tmp_path, "--store", "store", "--table", "daily")
    refused(invoke(*words, f"--delay={delay}"), 2, f"--delay {delay}: write a number and its unit", "24h")


@pytest.mark.parametrize(
    ("delay", "hours"), [("24h", 24.0), ("1D", 24.0), ("90min", 1.5), ("1.5 h", 1.5), ("5400s", 1.5)]
)
def test_delay_is_what_it_says(tmp_path: Path, invoke: Invoke, delay: str, hours: float) -> None:
    file = tmp_path / "vix.csv"
    file.write_text("series,date,close\nVIX,2024-01-02,14\n")
    words = ("data", "import", "--from", "parquet", file, "--store", "store", "--table", "daily", "--delay", delay)
    assert invoke(*words)[0] == 0
    [row] = Market.open("store").daily().to_dict("records")
    assert row["available_at"] - row["date"] == pd.Timedelta(hours=hours)


def test_hints_at_other_sources_only_where_the_format_was_not_recognised(tmp_path: Path, invoke: Invoke) -> None:
    month = tmp_path / "in/data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-01.zip"
    month.parent.mkdir(parents=True)
    month.write_bytes(b"no zip")
    shown = invoke("data", "import", "--from", "vision", tmp_path / "in", "--store", "store")
    refused(shown, 3, "no sound zip file")
    assert "--from" not in shown[2]
    assert "the sources are" not in shown[2]
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/manifest.json").write_text("{")
    shown = invoke("data", "import", "--from", "freqtrade", tmp_path / "in", "--store", tmp_path / "damaged")
    refused(shown, 3, "is no manifest of a store")
    assert "--from" not in shown[2]


def test_bad_rows_are_reported_with_exit_3(tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "vix.csv"
    file.write_text(
        "series,date,close\n" + "".join(f"VIX,2024-01-0{day},{14 + day}\n" for day in range(1, 6)) + "VIX,x,3\n"
    )
    code, out, err = invoke(
        "data", "import", "--from", "parquet", file, "--store", "store", "--table", "daily", "--delay", "24h"
    )
    assert (code, err) == (3, "")
    assert f"quarantined: {file}, line 7, column date" in out
    code, out, err = invoke(
        "data", "import", "--from", "parquet", file, "--store", "again", "--table", "daily", "--delay", "24h", "--json"
    )
    assert (code, err) == (3, "")
    jsonschema.validate(json.loads(out), schema("output.data.import").to_dict())
    assert [row["line"] for row in json.loads(out)["quarantined"]] == [7]


def test_sink_of_an_unknown_kind(store: Path, invoke: Invoke) -> None:
    refused(invoke("forecast", "--store", store, "--sink", "csv:out"), 2, "no sink 'csv'", "parquet:DIR")
    refused(invoke("forecast", "--store", store, "--sink", "parquet"), 2, "no folder", "parquet:DIR")


def test_data_that_do_not_reach_the_instant(store: Path, invoke: Invoke) -> None:
    shown = invoke("forecast", "--store", store, "--sink", "parquet:out", "--as-of", "2023-06-01T12:00Z")
    refused(shown, 4, "the newest bar closed at 2023-05-11", "--as-of 2023-05-11T00:00Z")


@pytest.mark.parametrize(
    ("model", "code", "cure"),
    [
        ("models:/forecaster/7", 2, "forecaster train"),
        ("models:/forecaster@champoin", 2, "forecaster train"),
        ("no-such-folder", 6, "not a model artifact"),
    ],
)
def test_model_that_does_not_exist(model: str, code: int, cure: str, store: Path, invoke: Invoke) -> None:
    shown = invoke("forecast", "--store", store, "--sink", "parquet:out", "--model", model)
    refused(shown, code, model, cure)


def test_promotion_without_a_challenger(tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECASTER_MODEL_NAME", "nobody")
    refused(invoke("promote"), 2, "nobody has no challenger", "forecaster train")


def test_policy_without_forecasts(store: Path, invoke: Invoke) -> None:
    refused(invoke("policy", "--store", store), 2, "--forecasts FILE", "--out")
    shown = invoke("policy", "--store", store, "--forecasts", "none.parquet", "--out", "schedule.jsonl")
    refused(shown, 2, "none.parquet", "forecaster evaluate")


def test_options_of_policy_before_its_command_are_not_dropped(invoke: Invoke) -> None:
    shown = invoke("policy", "--forecasts", "f.parquet", "replay", "schedule.jsonl")
    refused(shown, 2, "options before replay", "policy replay")


def test_replay_of_an_edited_schedule(evaluated: Evaluated, store: Path, tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "schedule.jsonl"
    policy(evaluated.evaluation.path, store, out=file)
    assert invoke("policy", "replay", file)[0] == 0
    lines = file.read_bytes().splitlines(keepends=True)
    lines[9] = lines[9].replace(b'"haircut_ppm":', b'"haircut_ppm":1')
    file.write_bytes(b"".join(lines))
    refused(invoke("policy", "replay", file), 3, "line 10", "hash", "make the schedule again")


def test_lock_held_by_another_process(simulation: Path, tmp_path: Path, invoke: Invoke) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        shown = invoke("data", "import", "--from", "simulated", simulation, "--store", folder)
    refused(shown, 7, "is writing", "wait")
    assert Store(folder).files == ()


def test_misspelt_command_and_option(invoke: Invoke) -> None:
    refused(invoke("evalaute"), 2, "Did you mean 'evaluate'", "forecaster --help")
    refused(invoke("schema", "bras"), 2, "did you mean 'bars'")
    refused(invoke("leakcheck", "--cuts", "0"), 2, "--cuts", "forecaster leakcheck --help")


@pytest.mark.parametrize(
    ("engine", "told"),
    [("ray://head:10001", "dask://HOST:PORT"), ("dask://127.0.0.1:1", "no Dask scheduler answers there")],
)
def test_engine_that_cannot_be_used(
    store: Path, config: Path, tmp_path: Path, invoke: Invoke, engine: str, told: str
) -> None:
    words = ["--store", store, *SPAN[:4], "--out", tmp_path / "out", "--engine", engine]
    refused(invoke("evaluate", config, *words), 2, engine, told)
    refused(invoke("features", "report", *words), 2, engine, told)
    data = f"data={{start=2023-04-05, end=2023-04-25, store='{store}', out='{tmp_path}/out'}}"
    refused(invoke("run", config, "--set", data, "--set", f'execution.engine="{engine}"'), 2, told)
    assert not (tmp_path / "out").exists()


def test_stopped_evaluation_resumes_to_the_same_bytes(store: Path, tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "slow.toml"
    file.write_text("""
        name = "slow"
        horizons = [1]
        members = [{kind = "har_seasonal"}, {kind = "lightgbm", params = {every_hours = 1, rounds = 80}}]
    """)
    words = ["evaluate", str(file), "--store", str(store), "--start", "2023-03-05", "--end", "2023-05-10"]
    stopped = subprocess.Popen(
        [COMMAND, *words, "--out", "stopped", "--jobs", "2"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not list((tmp_path / "stopped/folds").glob("2*")) and stopped.poll() is None:
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    _, told = stopped.communicate()
    assert stopped.returncode == 8, told
    assert "run the same command again to resume" in told
    assert not _alive(stopped.pid)
    for out in ("stopped", "whole"):
        code, _, told = invoke(*words, "--out", out, "--jobs", "1")
        assert code == 0, told
    for name in ("forecasts.parquet", "scores.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _alive(session: int) -> list[int]:
    """Processes of a session that are still running a few seconds after its leader ended."""
    for _ in range(100):
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, owner = stat.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(owner) == session and state != "Z":
                found.append(int(stat.parent.name))
        if not found:
            break
        time.sleep(0.1)
    return found
