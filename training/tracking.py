"""Runs, and the storage of registered models, on MLflow: the one module that imports it.

MLflow is a mirror: what it is told stands in our own files before, and only registered models are read back.
The store is one SQLite file, or a tracking server named by its URI. Loading pickles, telemetry and prints are
switched off in the environment before MLflow is imported.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from features.errors import DataInvalid, ForecasterError, Interrupted, UsageError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["Metric", "Run", "Tracking", "Version"]

Metric: TypeAlias = tuple[str, float, int]  # name, value, step

ENVIRONMENT: Final = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# An unreachable server is reported after some ten seconds, not after MLflow's four minutes.
PATIENCE: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
MIGRATION_SECONDS: Final = 300
METRICS_A_BATCH: Final = 1000
PARAMS_A_BATCH: Final = 100
RUNS_A_PAGE: Final = 1000
MAX_KEY: Final = 250
MAX_VALUE: Final = 6000
KEY: Final = re.compile(r"[\w.\- :]+(/[\w.\- :]+)*")
RUN_KEY: Final = "run_key"
# Under this tag MLflow looks for the run that a run is a part of.
PARENT: Final = "mlflow.parentRunId"
CONFIGURATION: Final = "config_sha256"
FULL_PARAMS: Final = "params.json"


@dataclass(frozen=True)
class Version:
    """One version of a registered model, as the registry stores it."""

    name: str
    version: int
    run_id: str
    tags: Mapping[str, str]


class Run:
    """One open run; made by ``Tracking.run``."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self._tracking = tracking
        self.run_id = run_id
        self.finished = False

    def params(self, params: Mapping[str, Any]) -> None:
        """Log settings; nested ones get dotted names. Repeating a value is fine, changing one is refused.

        A name or value longer than MLflow takes is cut and ends in its sha256; ``params.json`` then holds all
        of them in full. Raises ``UsageError`` naming a parameter that the reopened run has with another
        value.
        """
        full = dict(_flat(params))
        short = {_shortened(_plain(key), MAX_KEY): _shortened(value, MAX_VALUE) for key, value in full.items()}
        with self._tracking.calling() as client:
            known = client.get_run(self.run_id).data.params
            for key in short.keys() & known.keys():
                if short[key] != known[key]:
                    raise UsageError(
                        f"run {self.run_id}: parameter {key} is {known[key]}, not {short[key]};"
                        " another setting is another run: give it a run_key of its own"
                    )
            from mlflow.entities import Param

            fresh = [Param(key, value) for key, value in short.items() if key not in known]
            for batch in _batches(fresh, PARAMS_A_BATCH):
                client.log_batch(self.run_id, params=batch)
            if short != full:
                client.log_dict(self.run_id, full, FULL_PARAMS)

    def metrics(self, metrics: Mapping[str, float] | Iterable[Metric]) -> None:
        """Log numbers in batches of 1000, each with its step (0 in a mapping).

        Raises ``DataInvalid`` naming a metric that is not finite, ``UsageError`` naming one whose name MLflow
        refuses; nothing is logged then.
        """
        listed = [(k, v, 0) for k, v in metrics.items()] if isinstance(metrics, Mapping) else list(metrics)
        for key, value, _ in listed:
            if not KEY.fullmatch(key) or len(key) > MAX_KEY:
                raise UsageError(f"metric {key!r}: use up to {MAX_KEY} letters, digits, spaces and _ - . : /")
            if not math.isfinite(value):
                raise DataInvalid(f"metric {key} is {value}; leave it out, only finite numbers are logged")
        from mlflow.entities import Metric as Entity

        now = time.time_ns() // 1_000_000
        entities = [Entity(key, float(value), now, step) for key, value, step in listed]
        with self._tracking.calling() as client:
            for batch in _batches(entities, METRICS_A_BATCH):
                client.log_batch(self.run_id, metrics=batch)

    def artifacts(self, path: str | Path, under: str | None = None) -> None:
        """Log a file, or a folder's content, in the run's folder ``under`` (its top when None)."""
        source = Path(path)
        if not source.exists():
            raise UsageError(f"{source}: no such file or folder to log")
        with self._tracking.calling() as client:
            log = client.log_artifacts if source.is_dir() else client.log_artifact
            log(self.run_id, str(source), under)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run; the end of its ``with`` block does so too."""
        if not self.finished:
            with self._tracking.calling() as client:
                client.set_terminated(self.run_id, status)
            self.finished = True


class Tracking:
    """One experiment in one MLflow store.

    ``uri``: ``sqlite:///file.db`` (``sqlite:////absolute/file.db``; artifacts are kept in ``artifacts``
    beside it), or ``http(s)://`` of a tracking server. Raises ``UsageError`` for anything else,
    ``ForecasterError`` where the store cannot be opened.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, database = _resolved(uri)
        self.experiment = experiment
        os.environ.update(ENVIRONMENT)
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        location = None
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
            location = (database.parent / "artifacts").as_uri()
        with _one_migration(database), _calls(self.uri):
            from mlflow.tracking import MlflowClient

            for noisy in ("mlflow", "alembic"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            self.experiment_id = self._open_experiment(location)

    def _open_experiment(self, location: str | None) -> str:
        if found := self._client.get_experiment_by_name(self.experiment):
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(self.experiment, artifact_location=location))
        except Exception:
            # Two first users of one server: the other was faster.
            if found := self._client.get_experiment_by_name(self.experiment):
                return str(found.experiment_id)
            raise

    @contextmanager
    def calling(self) -> Iterator[MlflowClient]:
        """MLflow's client; its failures become a ``ForecasterError`` that names the store."""
        with _calls(self.uri):
            yield self._client

    @contextmanager
    def run(
        self,
        name: str,
        run_key: str | None = None,
        tags: Mapping[str, str] | None = None,
        parent: Run | None = None,
    ) -> Iterator[Run]:
        """Open a run for the length of a ``with`` block, under its ``parent`` if it has one.

        A run with the same ``run_key`` that did not finish (killed, failed, stopped) is opened again. The run
        ends FINISHED, KILLED where the block was interrupted, FAILED where it raised anything else.
        """
        told = dict(tags or {}) | ({} if parent is None else {PARENT: parent.run_id})
        run = Run(self, self._reopened(run_key) or self._created(name, run_key, told))
        try:
            yield run
        except BaseException as error:
            stopped = isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit))
            with suppress(ForecasterError):  # the block's own error is the one to tell
                run.finish("KILLED" if stopped else "FAILED")
            raise
        run.finish()

    def _reopened(self, run_key: str | None) -> str | None:
        if run_key is None:
            return None
        if not re.fullmatch(r"[\w.:/-]+", run_key):
            raise UsageError(f"run_key {run_key!r}: use letters, digits and _ . : / -")
        unfinished = f"tags.{RUN_KEY} = '{run_key}' and attributes.status != 'FINISHED'"
        with self.calling() as client:
            runs = client.search_runs([self.experiment_id], unfinished, max_results=1)
            for run in runs:
                client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
        return None

    def _created(self, name: str, run_key: str | None, tags: Mapping[str, str]) -> str:
        keyed = dict(tags) | ({} if run_key is None else {RUN_KEY: run_key})
        with self.calling() as client:
            return str(client.create_run(self.experiment_id, run_name=name, tags=keyed).info.run_id)

    def configurations(self) -> int:
        """How many configurations were ever tried here: distinct ``config_sha256`` of runs, however these ended."""
        seen: set[str] = set()
        page: str | None = ""
        with self.calling() as client:
            while page is not None:
                runs = client.search_runs([self.experiment_id], max_results=RUNS_A_PAGE, page_token=page or None)
                seen |= {run.data.params[CONFIGURATION] for run in runs if CONFIGURATION in run.data.params}
                page = runs.token or None
        return len(seen)

    def create_version(self, name: str, run_id: str, folder: str, tags: Mapping[str, str]) -> Version:
        """Register what the run holds under ``folder`` as the next version of the model ``name``."""
        with self.calling() as client:
            if not client.search_registered_models(f"name = '{name}'"):
                with suppress(Exception):  # created by another process meanwhile: the next line tells
                    client.create_registered_model(name)
            source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
            made = client.create_model_version(name, source, run_id, dict(tags), await_creation_for=0)
            return _version(made)

    def version(self, name: str, version: int) -> Version | None:
        """One version of a model, None where there is no such version."""
        with self.calling() as client:
            found = client.search_model_versions(f"name = '{name}' and version_number = {version}")
            return _version(found[0]) if found else None

    def aliases(self, name: str) -> dict[str, int]:
        """Which version each alias of a model names; empty where the model is not registered."""
        with self.calling() as client:
            found = client.search_registered_models(f"name = '{name}'")
            return {alias: int(version) for alias, version in found[0].aliases.items()} if found else {}

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Let ``alias`` name this version of the model, and no other."""
        with self.calling() as client:
            client.set_registered_model_alias(name, alias, str(version))

    def download(self, run_id: str, folder: str, into: Path) -> Path:
        """Fetch a folder of a run's artifacts into ``into``; returns where it lies."""
        with self.calling() as client:
            return Path(client.download_artifacts(run_id, folder, str(into)))


def _resolved(uri: str) -> tuple[str, Path | None]:
    """The URI with an absolute path, and the SQLite file it names (None for a server)."""
    if re.match(r"https?://[^/]", uri):
        return uri, None
    file = uri.removeprefix("sqlite:///")
    if file == uri or not file or file == ":memory:":
        raise UsageError(
            f"tracking URI {uri!r}: name a SQLite file as sqlite:///path/to/mlflow.db, or a server as http://host:port"
        )
    path = Path(file).expanduser().resolve()
    return f"sqlite:///{path}", path


@contextmanager
def _one_migration(database: Path | None) -> Iterator[None]:
    """MLflow's schema migration breaks when two processes start it on one file: one after the other."""
    from filelock import FileLock

    beside = None if database is None else FileLock(f"{database}.lock", timeout=MIGRATION_SECONDS)
    with beside or nullcontext():
        yield


@contextmanager
def _calls(uri: str) -> Iterator[None]:
    """MLflow's and its libraries' deprecation notices are not our users'; its errors become one of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise ForecasterError(f"tracking store {uri}: {error}; see that it is up and its URI right") from error


def _version(found: Any) -> Version:
    return Version(found.name, int(found.version), str(found.run_id), dict(found.tags))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Leaves by dotted path. A list of plain values is one leaf, a list of tables one path an item."""
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{index}")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _plain(key: str) -> str:
    return re.sub(r"[^\w.\- ]", "_", key)


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    digest = sha256(text.encode()).hexdigest()
    return f"{text[: limit - len(digest) - 1]}-{digest}"


def _batches(entities: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(entities), size):
        yield entities[start : start + size]
