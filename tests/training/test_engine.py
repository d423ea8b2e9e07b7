"""Where tasks are made: the same bytes everywhere, on a real cluster of two workers too; and what a lost process costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import training
from features.errors import Interrupted, UsageError
from features.market import Market
from training import engine as module
from training.config import RunConfig
from training.costs import Meter
from training.engine import Engine, build
from training.evaluation import Evaluation, evaluate

SPAN = {"start": "2023-05-01", "end": "2023-07-01"}
REPOSITORY = Path(training.__file__).parents[1]

# Tasks that a worker can import; a module of tests it cannot.
TASKS = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Shared:
    folder: Path

    def __setstate__(self, state):
        self.__dict__.update(state)
        with (self.folder / f"received-{os.getpid()}").open("a") as file:
            file.write("once\\n")

def square(task, shared):
    return task * task

def lethal(task, shared):
    marker = shared.folder / f"died-{task}"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task

def always_lethal(task, shared):
    os.kill(os.getpid(), signal.SIGKILL)

def lethal_later(task, shared):
    time.sleep(1)  # results of earlier tasks are fetched before they are lost with the worker
    return lethal(task, shared)

def process(task, shared):
    return os.getpid()

def wrong(task, shared):
    raise ValueError(f"task {task}")
"""


@dataclass
class Cluster:
    """A scheduler with its workers, all of them processes of their own."""

    scheduler: subprocess.Popen[bytes]
    address: str

    @property
    def engine(self) -> Engine:
        return Engine.named(f"dask://{self.address}")


@contextmanager
def started(folder: Path, workers: int, path: Path | None = None) -> Iterator[Cluster]:
    """A cluster on loopback, on free ports; ``path``: where its processes look for modules first."""
    folder.mkdir(exist_ok=True)
    first = [str(path)] if path else []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*first, os.environ.get("PYTHONPATH", str(REPOSITORY))]),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    }
    file, processes = folder / "scheduler.json", []

    def start(*words: str) -> subprocess.Popen[bytes]:
        with (folder / f"{len(processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words, "--scheduler-file", str(file), "--no-dashboard"],
                cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        processes.append(process)
        return process

    try:
        scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0")
        while not file.exists():
            assert scheduler.poll() is None, (folder / "0.log").read_text()
            time.sleep(0.05)
        for k in range(workers):
            start("worker", "--nthreads", "1", "--memory-limit", "0", "--local-directory", str(folder / f"worker-{k}"))
        address = json.loads(file.read_text())["address"].removeprefix("tcp://")
        if workers:
            _wait_for(address, workers)
        yield Cluster(scheduler, address)
    finally:
        for process in reversed(processes):  # a scheduler that ends first leaves its workers waiting
            process.terminate()
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:  # it waits for a scheduler that is lost
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_for(address: str, workers: int) -> None:
    from distributed import Client

    with Client(f"tcp://{address}", set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)


@pytest.fixture(scope="module")
def helpers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("helpers")
    (folder / "cluster_tasks.py").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="module")
def cluster(helpers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("cluster"), 2, helpers) as running:
        yield running


def contents(out: Path) -> dict[str, bytes]:
    """Every file of an evaluation, by its place."""
    return {
        str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file() and f.name != ".lock"
    }


# -- the same to the byte --------------------------------------------------------------------------------------------


def test_a_cluster_gives_the_bytes_of_one_process_and_of_two(
    market: Market, config: RunConfig, evaluation: Evaluation, cluster: Cluster, tmp_path: Path
) -> None:
    """With GARCH and LightGBM among the members; the two workers share no disk with the client but the machine's."""
    told: list[tuple[str, int, int]] = []
    meters = {"cluster": Meter(), "two": Meter()}
    evaluate(
        market, config, **SPAN, out=tmp_path / "cluster", engine=cluster.engine, meter=meters["cluster"],
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    evaluate(market, config, **SPAN, out=tmp_path / "two", jobs=2, meter=meters["two"])
    found = contents(tmp_path / "cluster")
    # Two folds are scored and explained, the one before them warms up.
    assert len([name for name in found if name.startswith("folds/")]) == 3 * 2 + 2 * 2
    assert found == contents(evaluation.out)
    assert found == contents(tmp_path / "two")
    assert told == [("folds", done, 3) for done in range(4)]
    for meter in meters.values():
        costs = meter.costs()
        assert costs.workers == 2
        assert costs.worker_peak_bytes is not None
        assert costs.worker_peak_bytes > 100 * 2**20  # numpy, pandas and LightGBM alone take more
        assert 0 < costs.lightgbm_cpu_s < costs.cpu_s
        assert list(costs.stages) == ["prepare", "folds", "assemble", "write", "score"]
        assert sum(stage.cpu_s for stage in costs.stages.values()) <= costs.cpu_s


def test_what_all_tasks_read_is_not_sent_with_every_task(cluster: Cluster, helpers: Path, tmp_path: Path) -> None:
    from cluster_tasks import Shared, square

    made: dict[int, int] = {}
    cluster.engine.perform(
        square, list(range(20)), Shared(tmp_path), lambda task, result: made.update({task: result}), stage="squares"
    )
    assert made == {k: k * k for k in range(20)}
    received = [file.read_text().count("once") for file in tmp_path.glob("received-*")]
    # Once a worker, and again where the cluster had dropped the copy of an idle one.
    assert len(received) == 2
    assert sum(received) <= 4


# -- stopped, lost, resumed ------------------------------------------------------------------------------------------


def test_a_run_stopped_on_a_cluster_is_resumed_on_this_machine(
    market: Market, quick: RunConfig, cluster: Cluster, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    place = tmp_path / "stopped"
    with pytest.raises(Interrupted, match=f"stopped at 1 of 3 folds; finished folds are kept in {place}/folds; run"):
        evaluate(market, quick, **SPAN, out=place, engine=cluster.engine, progress=stop)
    assert len(list((place / "folds").glob("2*"))) == 1
    told: list[int] = []
    evaluate(market, quick, **SPAN, out=place, jobs=1, progress=lambda _, done, __: told.append(done))
    assert told == [1, 2, 3]
    evaluate(market, quick, **SPAN, out=tmp_path / "whole", jobs=1)
    assert contents(place) == contents(tmp_path / "whole")


def test_tasks_of_a_lost_worker_are_given_to_another(cluster: Cluster, helpers: Path, tmp_path: Path) -> None:
    from cluster_tasks import Shared, lethal

    made: list[int] = []
    cluster.engine.perform(lethal, [0], Shared(tmp_path), lambda task, result: made.append(result), stage="tasks")
    assert (tmp_path / "died-0").exists()
    assert made == [0]


def test_a_task_that_costs_worker_after_worker_ends_the_run(cluster: Cluster, helpers: Path, tmp_path: Path) -> None:
    from cluster_tasks import Shared, always_lethal

    with pytest.raises(Interrupted, match=r"workers were lost again and again.* more of it; stopped at 0 of 1 tasks"):
        cluster.engine.perform(always_lethal, [0], Shared(tmp_path), lambda *_: None, stage="tasks")


def test_losses_are_counted_from_the_last_result(
    helpers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only worker is lost more often than a run without results may lose one."""
    from cluster_tasks import Shared, lethal_later

    monkeypatch.setattr(module, "PATIENCE", 60)  # for the worker to be started again
    made: list[int] = []
    tasks = list(range(module.ATTEMPTS + 1))
    with started(tmp_path / "cluster", 1, helpers) as lone:
        lone.engine.perform(
            lethal_later, tasks, Shared(tmp_path), lambda task, result: made.append(result), stage="tasks"
        )
    assert sorted(made) == tasks
    assert len(list(tmp_path.glob("died-*"))) == len(tasks)


def test_a_killed_worker_of_this_machine_stops_the_run(helpers: Path, tmp_path: Path) -> None:
    from cluster_tasks import Shared, always_lethal, square

    with pytest.raises(
        Interrupted, match=r"^engine loky: a worker was killed, .* fewer --jobs; stopped at 0 of 2 tasks; .* to resume"
    ) as refusal:
        Engine(2).perform(always_lethal, [0, 1], Shared(tmp_path), lambda *_: None, stage="tasks")
    assert refusal.value.exit_code == 8
    made: list[int] = []
    Engine(2).perform(square, [2, 3], Shared(tmp_path), lambda task, result: made.append(result), stage="tasks")
    assert sorted(made) == [4, 9]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_a_run_stopped_while_it_keeps_its_last_result_leaves_no_worker(
    stop: type[BaseException], helpers: Path, tmp_path: Path
) -> None:
    """All tasks are done by then, so nothing else ends the idle processes."""
    from cluster_tasks import Shared, process

    workers: list[int] = []

    def keep(task: int, worker: int) -> None:
        workers.append(worker)
        if len(workers) == 4:
            raise stop

    with pytest.raises(Interrupted if stop is KeyboardInterrupt else stop):
        Engine(2).perform(process, list(range(4)), Shared(tmp_path), keep, stage="tasks")
    assert len(workers) == 4
    assert os.getpid() not in workers
    for worker in set(workers):
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_an_error_of_a_task_is_the_error_of_the_run(cluster: Cluster, helpers: Path, tmp_path: Path) -> None:
    from cluster_tasks import Shared, wrong

    for engine in (cluster.engine, Engine(1), Engine(2)):
        with pytest.raises(ValueError, match="task 7"):
            engine.perform(wrong, [7, 7], Shared(tmp_path), lambda *_: None, stage="tasks")


def test_a_lost_scheduler_stops_the_run_with_what_was_kept(helpers: Path, tmp_path: Path) -> None:
    from cluster_tasks import Shared, square

    kept = []
    with started(tmp_path / "cluster", 1, helpers) as doomed:

        def keep(task: int, result: int) -> None:
            kept.append(result)
            doomed.scheduler.kill()
            doomed.scheduler.wait()

        with pytest.raises(
            Interrupted, match=r"connection to the scheduler was lost; .* stopped at \d+ of 50 squares"
        ) as refusal:
            doomed.engine.perform(square, list(range(50)), Shared(tmp_path), keep, stage="squares")
        assert refusal.value.exit_code == 8
    assert 1 <= len(kept) < 50


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "ray", "dask", "dask://", "dask://host", "dask://:8786", "dask://host:port", "dask://host:0", "Loky",
     "dask://host:99999", "tcp://host:8786", "dask://host:8786/path", "dask://host:8786?x=1", "dask://a@b:1", "dask://:a@b:1", "dask://@b:1"],
)  # fmt: skip
def test_other_names_are_refused_with_the_forms(name: str) -> None:
    with pytest.raises(UsageError, match=r"write loky .* or dask://HOST:PORT"):
        Engine.named(name)


def test_names() -> None:
    assert Engine.named("loky", 3) == Engine(3)
    assert Engine.named("dask://node-1.lan:8786", 3) == Engine(3, "node-1.lan:8786")
    assert Engine.named("dask://[::1]:8786") == Engine(2, "[::1]:8786")
    Engine(1).check()


def test_a_place_where_nothing_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UsageError, match=f"dask://127.0.0.1:{port}: no Dask scheduler .* dask scheduler --port {port}"):
        Engine.named(f"dask://127.0.0.1:{port}").check()


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_a_listener_that_is_no_scheduler_is_refused(monkeypatch: pytest.MonkeyPatch, greeting: bytes) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1)

    def answer() -> None:
        link, _ = server.accept()
        with link, suppress(ConnectionError):
            link.sendall(greeting)
            link.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = threading.Thread(target=answer)
        listener.start()
        with pytest.raises(UsageError, match="no Dask scheduler answers there"):
            Engine.named(f"dask://127.0.0.1:{server.getsockname()[1]}").check()
        listener.join()


def test_a_cluster_without_workers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1)
    with started(tmp_path / "cluster", 0) as empty, pytest.raises(UsageError, match=r"no worker; .* --nthreads 1"):
        empty.engine.check()


def test_a_worker_with_other_code_is_refused(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for package in ("features", "models", "training"):
        shutil.copytree(REPOSITORY / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tree / "training" / "splits.py").open("a") as file:
        file.write("# changed\n")
    with (
        started(tmp_path / "cluster", 1, tree) as other,
        pytest.raises(
            UsageError, match=r"worker tcp://127\.0\.0\.1:\d+ has code [0-9a-f]{64}, and [0-9a-f]{64} is used"
        ),
    ):
        other.engine.check()


def test_a_worker_without_the_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree" / "training").mkdir(parents=True)
    (tmp_path / "tree" / "training" / "__init__.py").touch()
    with (
        started(tmp_path / "cluster", 1, tmp_path / "tree") as other,
        pytest.raises(UsageError, match=r"cannot run this package \(.*training\.engine.*\); install the same version"),
    ):
        other.engine.check()


@pytest.mark.parametrize("name", ["python", "numpy", "pandas", "lightgbm", "numba", "code", "machine"])
def test_a_worker_that_joined_later_is_compared_before_its_first_task(name: str) -> None:
    here = dict(build())
    with pytest.raises(UsageError, match=rf"has {name} .*, and 0\.0\.1 is used here; install the same version"):
        module._perform(lambda *_: None, 0, None, None, here | {name: "0.0.1"})
    assert module._perform(lambda task, shared: (task, shared), 4, "a", "b", here)[:2] == (4, ("a", "b"))


def test_a_missing_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'forecaster\[cluster\]'"):
        Engine.named("dask://127.0.0.1:8786").check()
