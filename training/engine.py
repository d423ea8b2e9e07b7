"""Where the tasks of a run are made: by processes of this machine (loky), or by the workers of a Dask cluster.

A task is coarse (a fold with all its members), goes out as ``function(task, shared)`` and comes back as a result, which the
caller keeps: workers need no disk in common. What all tasks read, ``shared``, is mapped into the processes of this machine
and is sent to each worker of a cluster once; with the task it would travel every time. Workers must be installed as this
process is, to the version and the line of code, since a forecast's bits depend on both.
"""

from __future__ import annotations

import logging
import platform
import socket
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from features.errors import Interrupted, UsageError
from training.costs import Meter, Usage
from training.folds import LIBRARIES, code_sha256

__all__ = ["Engine", "Progress", "build"]

Task = TypeVar("Task")
Shared = TypeVar("Shared")
Result = TypeVar("Result")
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a stage, what is done of it, and the total."""

# A scheduler or a worker that does not answer in so many seconds is not there.
PATIENCE: Final = 10
# How often the rest of a run is sent out without a result before the cluster is taken for lost.
ATTEMPTS: Final = 3
# A worker with several threads would mix their costs, and their settings of BLAS threads, on which bits depend.
ALONE: Final = threading.Lock()


@dataclass(frozen=True)
class Engine:
    """``jobs`` processes of this machine or, where a ``scheduler`` (HOST:PORT) is named, all workers of its cluster."""

    jobs: int = 2
    scheduler: str | None = None

    @classmethod
    def named(cls, name: str, jobs: int = 2) -> Self:
        """From ``loky`` or ``dask://HOST:PORT``; raises ``UsageError`` for any other name."""
        parts = urlsplit(name)
        try:
            placed = parts.hostname and parts.port and parts.username is None and name == f"dask://{parts.netloc}"
        except ValueError:  # no number, or none of a port
            placed = False
        if not placed and name != "loky":
            raise UsageError(
                f"engine {name!r}: write loky (processes of this machine) or dask://HOST:PORT (a running Dask scheduler, "
                "such as dask://10.0.0.5:8786)"
            )
        return cls(jobs, parts.netloc if placed else None)

    def check(self) -> None:
        """Refuse a cluster that cannot be used.

        Raises ``UsageError`` where Dask is not installed, no scheduler answers, it has no worker, or a worker is not
        installed as this process is.
        """
        if self.scheduler is not None:
            with _cluster(self.scheduler):
                pass

    def perform(
        self,
        function: Callable[[Task, Shared], Result],
        tasks: Sequence[Task],
        shared: Shared,
        keep: Callable[[Task, Result], None],
        *,
        stage: str,
        before: int = 0,
        folder: Path | None = None,
        progress: Progress | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Call ``function(task, shared)`` for every task, in any order, and ``keep(task, result)`` here as each arrives.

        ``before`` tasks of the ``stage`` were done by an earlier run; results are kept in ``folder``, for the message of a
        run that is stopped. Tasks of a cluster's worker that is lost are given to another one. Raises ``Interrupted`` when
        stopped, when a process of this machine or the cluster is lost, or where a task costs worker after worker, and
        ``UsageError`` as ``check`` does.
        """
        told, meter = progress or (lambda *_: None), meter or Meter()
        done, total = before, before + len(tasks)
        told(stage, done, total)
        if not tasks:
            return
        try:
            with closing(self._results(function, tasks, shared)) as results:
                for number, result, usage in results:
                    keep(tasks[number], result)
                    meter.add(usage)
                    done += 1
                    told(stage, done, total)
        except KeyboardInterrupt:
            raise Interrupted(_stopped("", done, total, stage, folder)) from None
        except _Lost as loss:
            where = "engine loky" if self.scheduler is None else f"engine dask://{self.scheduler}"
            raise Interrupted(_stopped(f"{where}: {loss}; ", done, total, stage, folder)) from None

    def _results(
        self, function: Callable[[Task, Shared], Result], tasks: Sequence[Task], shared: Shared
    ) -> Generator[tuple[int, Result, Usage]]:
        """Each result with its task's number, as they come."""
        if self.scheduler is None:
            yield from _local(function, tasks, shared, min(self.jobs, len(tasks)))
        else:
            yield from _distributed(function, tasks, shared, self.scheduler)


def _perform(
    function: Callable[[Task, Shared], Result],
    number: int,
    task: Task,
    shared: Shared,
    expected: Mapping[str, str] | None = None,
) -> tuple[int, Result, Usage]:
    """In the worker: one task, and what it cost. ``expected``: the build that the caller has."""
    if expected is not None:  # a worker may have joined after the cluster was checked
        _compare(expected, build(), platform.node())
    with ALONE:
        begin = Usage.now()
        result = function(task, shared)
        return number, result, Usage.now().since(begin)


@cache
def build() -> Mapping[str, str]:
    """What a forecast's bits depend on beside its inputs: processor family, versions, this package's code."""
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "code": code_sha256(),
    }


def _local(
    function: Callable[[Task, Shared], Result], tasks: Sequence[Task], shared: Shared, jobs: int
) -> Generator[tuple[int, Result, Usage]]:
    """On processes of this machine, which map the arrays of ``shared``; one job is this process itself."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    calls = [delayed(_perform)(function, number, task, shared) for number, task in enumerate(tasks)]
    try:
        with warnings.catch_warnings():
            # A worker that has grown by 300 MB is replaced between two tasks, with this warning.
            warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
            warnings.filterwarnings("ignore", ".* tasks which were still being processed", UserWarning)
            with closing(Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)) as made:
                yield from made
    except TerminatedWorkerError:
        raise _Lost("a worker was killed, most likely for want of memory; use fewer --jobs") from None
    finally:
        if jobs > 1:
            # Idle workers would keep their memory through everything that follows.
            get_reusable_executor(reuse=True).shutdown(wait=True)


def _distributed(
    function: Callable[[Task, Shared], Result], tasks: Sequence[Task], shared: Shared, scheduler: str
) -> Generator[tuple[int, Result, Usage]]:
    """On the workers of a cluster, those that join later, too."""
    from distributed.client import FutureCancelledError

    left, attempts = dict(enumerate(tasks)), 0
    with _cluster(scheduler) as client, _losses(client):
        while left:
            attempts += 1
            try:
                for number, result, usage in _submitted(client, function, dict(left), shared):
                    del left[number]
                    attempts = 0
                    yield number, result, usage
            except FutureCancelledError:  # what all tasks read was lost with the last worker that held it
                if attempts >= ATTEMPTS or client.status != "running":
                    raise
                client.wait_for_workers(1, timeout=PATIENCE)


def _submitted(
    client: Any, function: Callable[[Task, Shared], Result], tasks: Mapping[int, Task], shared: Shared
) -> Iterator[tuple[int, Result, Usage]]:
    """The results of one submission; what is given up, or arrived, is forgotten by the cluster."""
    from distributed import as_completed

    [held] = client.scatter([shared], broadcast=True, hash=False)
    futures = [client.submit(_perform, function, k, task, held, build(), pure=False) for k, task in tasks.items()]
    waiting = as_completed(futures, loop=client.loop)  # type: ignore[no-untyped-call]
    del futures
    for future in waiting:
        yield future.result()


class _Lost(Exception):
    """The processes that made the tasks went away."""


@contextmanager
def _losses(client: Any) -> Iterator[None]:
    """Turn what Dask raises when processes of a cluster are gone into one error with the way out."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (KilledWorker, FutureCancelledError, CommClosedError, TimeoutError) as error:
        if isinstance(error, KilledWorker) or client.status == "running":
            raise _Lost(
                "workers were lost again and again, most likely for want of memory; start some with more of it"
            ) from None
        raise _Lost("the connection to the scheduler was lost; start the cluster again") from None


@contextmanager
def _cluster(scheduler: str) -> Iterator[Any]:
    """A client of a cluster whose workers are installed as this process is."""
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            f"engine dask://{scheduler}: Dask is not installed; install it with: pip install 'forecaster[cluster]'"
        ) from None
    # A lost connection is told by the error that it ends in, without Dask's traceback beside it.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    place = urlsplit(f"tcp://{scheduler}")
    try:
        _greeted(str(place.hostname), place.port or 0)
        client = Client(place.geturl(), timeout=PATIENCE, set_as_default=False)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise UsageError(
            f"engine dask://{scheduler}: no Dask scheduler answers there ({error}); start one with: dask scheduler "
            f"--port {place.port}"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise UsageError(
                f"engine dask://{scheduler}: the scheduler has no worker; start some with: dask worker {scheduler} "
                "--nthreads 1"
            ) from None
        found: Mapping[str, Any] = client.run(build, on_error="return")
        for worker, there in found.items():
            _compare(build(), there, worker)
        yield client


def _greeted(host: str, port: int) -> None:
    """Raise ``OSError`` where no Dask process listens: the client would wait for one without end.

    Dask greets who connects, with the length of its first message (eight bytes, lowest first).
    """
    with socket.create_connection((host, port), PATIENCE) as link:
        length = int.from_bytes(link.recv(8, socket.MSG_WAITALL), "little")
    if not 0 < length < 2**32:
        raise ConnectionError("something else listens")


def _compare(here: Mapping[str, str], there: Mapping[str, str] | Exception, worker: str) -> None:
    """Refuse a worker that would not make the same bits, or cannot run the package at all."""
    cure = "install the same version and the same libraries (requirements.lock) there, and restart it"
    if isinstance(there, Exception):
        raise UsageError(f"worker {worker} cannot run this package ({there}); {cure}")
    for name, value in here.items():
        if (other := there.get(name)) != value:
            raise UsageError(f"worker {worker} has {name} {other}, and {value} is used here; {cure}")


def _stopped(cause: str, done: int, total: int, stage: str, folder: Path | None) -> str:
    kept = "" if folder is None else f"; finished {stage} are kept in {folder}"
    return f"{cause}stopped at {done} of {total} {stage}{kept}; run the same command again to resume"
