from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.errors import DataInvalid, ForecasterError, Interrupted, UsageError
from training.tracking import Run, Tracking


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/deep/mlflow.db"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
        "--backend-store-uri": f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination": str(folder / "artifacts"),
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *(part for option in options.items() for part in option),
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | quiet, cwd=folder, start_new_session=True
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def wait_until_healthy(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(params=["sqlite", "server"])
def tracking(request: pytest.FixtureRequest) -> Tracking:
    return Tracking(request.getfixturevalue(request.param), "walk-forward")


def stored(tracking: Tracking, run_id: str) -> object:
    """What a reader with MLflow's own client finds."""
    with tracking.calling() as client:
        return client.get_run(run_id)


def test_a_run_holds_what_it_was_told(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "scores.json").write_text("{}")
    (tmp_path / "report.html").write_text("<p>")
    with tracking.run("evaluate", tags={"data_sha256": "ab"}) as run:
        run.params(
            {
                "horizons": [1, 24],
                "members": [{"kind": "har", "params": {"x": 1.5}}],
                "proxy": "gk",
                "none": None,
            }
        )
        run.metrics({"qlike_24h": 0.31})
        run.metrics([("fold_loss", step / 7, step) for step in range(1500)])
        run.artifacts(tmp_path / "tables", "tables")
        run.artifacts(tmp_path / "report.html")
    found = stored(tracking, run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "evaluate"
    assert found.data.tags["data_sha256"] == "ab"
    assert found.data.params == {
        "horizons": "[1, 24]",
        "members.0.kind": "har",
        "members.0.params.x": "1.5",
        "proxy": "gk",
        "none": "null",
    }
    assert found.data.metrics["qlike_24h"] == 0.31
    with tracking.calling() as client:
        history = client.get_metric_history(run.run_id, "fold_loss")
    assert sorted((point.step, point.value) for point in history) == [(step, step / 7) for step in range(1500)]
    assert (tracking.download(run.run_id, "tables", tmp_path) / "scores.json").read_text() == "{}"
    assert tracking.download(run.run_id, "report.html", tmp_path).read_text() == "<p>"


def test_versions_and_aliases_are_kept(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "meta.json").write_text('{"a": 1}')
    assert tracking.aliases("forecaster") == {}
    with tracking.run("train") as run:
        run.artifacts(tmp_path / "m", "model/abc")
        made = tracking.create_version("forecaster", run.run_id, "model/abc", {"artifact_sha256": "abc"})
        again = tracking.create_version("forecaster", run.run_id, "model/abc", {})
    assert (made.version, again.version) == (1, 2)
    tracking.set_alias("forecaster", "champion", 1)
    tracking.set_alias("forecaster", "champion", 2)
    tracking.set_alias("forecaster", "previous", 1)
    assert tracking.aliases("forecaster") == {"champion": 2, "previous": 1}
    assert tracking.version("forecaster", 1) == made
    assert made.tags == {"artifact_sha256": "abc"}
    assert tracking.version("forecaster", 3) is None
    fetched = tracking.download(made.run_id, "model/abc", tmp_path / "m")
    assert (fetched / "meta.json").read_text() == '{"a": 1}'


def test_the_same_key_opens_an_unfinished_run_again(tracking: Tracking) -> None:
    assert open_and_raise(tracking, Interrupted("stopped")) == "KILLED"
    assert open_and_raise(tracking, ValueError("broken")) == "FAILED"
    with tracking.run("evaluate", run_key="fold:2024/a") as again:
        again.params({"a": 1, "b": 2})
        assert stored(tracking, again.run_id).info.status == "RUNNING"
    found = stored(tracking, again.run_id)
    assert found.data.params == {"a": "1", "b": "2"}
    assert found.info.status == "FINISHED"
    with tracking.calling() as client:
        assert len(client.search_runs([tracking.experiment_id], "tags.run_key = 'fold:2024/a'")) == 1
    with tracking.run("evaluate", run_key="fold:2024/a") as other:
        assert other.run_id != again.run_id


def open_and_raise(tracking: Tracking, error: Exception) -> str:
    runs: list[Run] = []

    def work() -> None:
        with tracking.run("evaluate", run_key="fold:2024/a") as run:
            runs.append(run)
            run.params({"a": 1})
            raise error

    with pytest.raises(type(error)):
        work()
    return str(stored(tracking, runs[0].run_id).info.status)


def test_a_killed_process_leaves_a_run_that_is_opened_again(sqlite: str) -> None:
    program = (
        "import os, sys\n"
        "from training.tracking import Tracking\n"
        "with Tracking(sys.argv[1], 'killed').run('r', run_key='k') as run:\n"
        "    run.metrics([('m', 1.0, 0)])\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, sqlite], check=False).returncode == 9
    tracking = Tracking(sqlite, "killed")
    with tracking.run("r", run_key="k") as run:
        run.metrics([("m", 2.0, 1)])
    with tracking.calling() as client:
        assert [point.value for point in client.get_metric_history(run.run_id, "m")] == [1.0, 2.0]


def test_a_changed_parameter_is_refused(sqlite: str) -> None:
    with Tracking(sqlite, "changed").run("r") as run:
        run.params({"horizon": 1})
        run.params({"horizon": 1})
        with pytest.raises(UsageError, match="parameter horizon is 1, not 2"):
            run.params({"horizon": 2})


def test_long_parameters_are_cut_and_kept_in_full(tracking: Tracking, tmp_path: Path) -> None:
    long_value, long_key = "v" * 9000, "k" * 300
    with tracking.run("long") as run:
        run.params({"symbols": long_value, long_key: 1} | {f"p{i}": i for i in range(250)})
    params = stored(tracking, run.run_id).data.params
    assert len(params) == 252
    assert len(params["symbols"]) == 6000
    assert params["symbols"].startswith("vvv")
    assert max(map(len, params)) == 250
    full = json.loads(tracking.download(run.run_id, "params.json", tmp_path).read_text())
    assert full["symbols"] == long_value
    assert full[long_key] == "1"


def test_numbers_that_are_not_finite_are_refused_before_anything_is_logged(sqlite: str) -> None:
    tracking = Tracking(sqlite, "finite")
    with tracking.run("r") as run:
        for bad in (float("nan"), float("inf")):
            with pytest.raises(DataInvalid, match="metric loss is"):
                run.metrics([("fine", 1.0, 0), ("loss", bad, 1)])
        with pytest.raises(UsageError, match="metric 'qlike"):
            run.metrics({"qlike*": 1.0})
        with pytest.raises(UsageError, match=r"gone\.html"):
            run.artifacts("gone.html")
    assert stored(tracking, run.run_id).data.metrics == {}


@pytest.mark.parametrize(
    "uri", ["", "mlruns", "file:///x", "sqlite://", "sqlite:///", "sqlite:///:memory:", "databricks"]
)
def test_other_stores_are_refused_by_name(uri: str) -> None:
    with pytest.raises(UsageError, match="sqlite:///path"):
        Tracking(uri, "x")


def test_an_unreachable_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ForecasterError, match=r"http://127\.0\.0\.1:9") as refusal:
        Tracking("http://127.0.0.1:9", "x")
    assert refusal.value.exit_code == 1


def test_four_first_starters_on_one_file_all_succeed_and_say_nothing(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from training.tracking import Tracking\n"
        "with Tracking(sys.argv[1], 'first').run(sys.argv[2]) as run:\n"
        "    run.metrics({'m': 1.0})\n"
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error::DeprecationWarning", "-c", program, uri, f"r{number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
        assert out == b""
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select count(*) from runs where status = 'FINISHED'").fetchone() == (4,)
        assert database.execute("select count(*) from experiments where name = 'first'").fetchone() == (1,)
    database.close()


def test_pickle_loading_and_telemetry_are_off(sqlite: str) -> None:
    Tracking(sqlite, "walk-forward")
    from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION, MLFLOW_DISABLE_TELEMETRY

    assert MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False
    assert MLFLOW_DISABLE_TELEMETRY.get() is True
