"""Out-of-sample forecasts from parts of the features: the same folds, rows and members, other columns.

An arm is a set of families of features. Every arm is fitted on the same thinned rows before each fold's border, forecasts
the same origins, and is levelled the same way, so that two arms differ by nothing but their columns. The matrix of all
features lies in memory once: workers map it, and take the rows and columns of their own task.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from features.panel import MICROSECONDS_PER_HOUR
from models.base import ENSEMBLE, THRESHOLDS
from models.catalogue import make
from models.combination import VARIANCE_FLOOR, Clip, Combine, Ladder, Levels
from models.distribution import States, VarianceLaw
from models.parts import Run
from models.past import Past, levelled, raw
from models.regimes import Calibration
from training.config import Component, RunConfig
from training.engine import Engine, Progress
from training.fold_store import commit, committed, read_fold
from training.folds import FoldResult, fold_key, forecast_fold
from training.material import NEEDED, Material
from training.rows import Rows, micros
from training.splits import Fold

__all__ = ["CLASSICAL", "EVERY_HOURS", "LOG_MEAN", "REFERENCES", "RIDGE", "Arm", "Forecasts", "forecast", "trainable"]

Array = npt.NDArray[np.float64]

LOG_MEAN: Final = "log_mean"
"""The mean of the members' log forecasts: the model on which verdicts rest."""
CLASSICAL: Final = tuple(Component(kind=kind) for kind in ("ewma", "har", "har_seasonal"))
"""Members without any of the features in question: they name the shock day, and are the reference."""
EVERY_HOURS: Final = 5
"""Training rows lie on every fifth hour since the epoch: every hour of the day occurs, and fits take a fifth of the time."""
ROWS_PER_COLUMN: Final = 10
RIDGE: Final = "har_x"


@dataclass(frozen=True)
class Arm:
    """Families whose columns are used, and which members are trained on what.

    ``signals``: the configuration's members, pooled over symbols, with every hour of the ``focus`` symbol among the thinned
    rows; ``classical``: the reference, pooled; ``own``: the ridge, on the rows of the ``focus`` symbol alone.
    """

    families: tuple[str, ...]
    training: Literal["signals", "classical", "own"] = "signals"
    focus: str | None = None

    def members(self, config: RunConfig) -> tuple[Component, ...]:
        """The members that are fitted."""
        if self.training == "classical":
            return CLASSICAL
        return tuple(m for m in config.members if self.training == "signals" or m.kind == RIDGE)

    def trains_on(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Rows that may train at all."""
        own = rows.symbol == (-1 if self.focus is None else rows.symbols.index(self.focus))
        if self.training == "own":
            return np.asarray(own)
        return np.asarray((rows.origin // MICROSECONDS_PER_HOUR % EVERY_HOURS == 0) | own)

    @property
    def judged(self) -> str:
        """The model whose onset is judged."""
        return "har_seasonal" if self.training == "classical" else LOG_MEAN

    @property
    def name(self) -> str:
        """A short name for a folder."""
        return hashlib.sha256(json.dumps([self.families, self.training, self.focus]).encode()).hexdigest()[:16]


REFERENCES: Final = Arm(NEEDED, "classical")
"""The classical members' own arm."""


@dataclass(frozen=True)
class Forecasts:
    """One arm's levelled forecasts on the part ``span`` of the grid: arrays (n_symbols, n_hours of the span).

    ``log_variance``: (model, horizon) to ``ln F``; ``p_onset``: likewise, for the models whose onset is judged.
    """

    span: slice
    log_variance: Mapping[tuple[str, int], Array]
    p_onset: Mapping[tuple[str, int], Array]


@dataclass(frozen=True)
class _Task:
    fold: Fold
    arm: Arm
    members: tuple[Component, ...]
    columns: npt.NDArray[np.intp]
    folder: Path
    key: str


def trainable(folds: Sequence[Fold], rows: Rows, config: RunConfig, arm: Arm | None = None) -> list[Fold]:
    """The folds that hold enough training rows for every member on all columns; only warm-up folds may lack them.

    ``arm``: whose training rows are counted (None: the thinned rows of all symbols). Raises ``UsageError`` where a scored
    fold has too few.
    """
    arm = arm or REFERENCES
    leaves = [2 * make(m.kind, m.params).get_params().get("min_data_in_leaf", 0) for m in config.members]
    needed = max(ROWS_PER_COLUMN * (len(rows.columns) + 2), *leaves)
    origins = np.sort(rows.origin[arm.trains_on(rows) & np.isfinite(rows.variance[:, -1])])
    resolved = origins + rows.horizons[-1] * MICROSECONDS_PER_HOUR
    kept = []
    for fold in folds:
        count = int(np.searchsorted(resolved, micros(fold.train_end), side="right"))
        if fold.train_start is not None:
            count -= int(np.searchsorted(origins, micros(fold.train_start)))
        if count >= needed:
            kept.append(fold)
        elif fold.index >= 0:
            whose = f"of {arm.focus}" if arm.training == "own" else f"every {EVERY_HOURS} hours"
            raise UsageError(
                f"the fold of {fold.test_start:%Y-%m-%d} has {count} training rows ({whose}) and {len(rows.columns)} "
                f"features need {needed}; start later, import more history, or lower members.lightgbm.params.min_data_in_leaf"
            )
    return kept


def forecast(
    arms: Sequence[Arm],
    columns: Mapping[str, Sequence[str]],
    material: Material,
    folds: Sequence[Fold],
    config: RunConfig,
    data_sha256: str,
    folder: Path,
    engine: Engine,
    progress: Progress | None = None,
) -> dict[Arm, Forecasts]:
    """Every arm's forecasts over the folds; finished (arm, fold) pairs are kept in ``folder`` and not made again.

    ``columns``: family to its columns. Raises ``Interrupted`` when stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for orphan in folder.glob(".*.tmp"):  # of a process that was killed
        shutil.rmtree(orphan, ignore_errors=True)
    tasks = []
    for arm in dict.fromkeys(arms):
        names = [name for family in arm.families for name in columns[family]]
        chosen = np.array([material.rows.columns.index(name) for name in names], dtype=np.intp)
        # Two stores, two parts of one store or two sets of columns must not share a fold.
        data = json.dumps(
            [data_sha256, str(material.times[0]), str(material.times[-1]), names, arm.training, arm.focus, EVERY_HOURS]
        )
        settings = config.model_copy(update={"members": arm.members(config)})
        # A symbol's own history may be too short for the first folds to warm up.
        own = trainable(folds, material.rows, config, arm) if arm.training == "own" else folds
        for fold in own:
            place = folder / f"{fold.test_start:%Y%m%dT%H%M}-{arm.name}"
            tasks.append(_Task(fold, arm, settings.members, chosen, place, fold_key(fold, settings, data)))
    missing = [task for task in tasks if not committed(task.folder, task.key)]
    engine.perform(
        _fit, missing, material.rows, lambda task, made: commit(made, task.folder, task.key),
        stage="fits", before=len(tasks) - len(missing), folder=folder, progress=progress,
    )  # fmt: skip
    places = {arm: [task.folder for task in tasks if task.arm == arm] for arm in dict.fromkeys(arms)}
    targets = {h: {field: material.targets[h][name] for name, field in _TARGETS.items()} for h in config.horizons}
    made: dict[Arm, Forecasts] = {}
    # What was kept lies on this machine, and so does this short work on it.
    Engine(engine.jobs).perform(
        _levelled, list(places.items()), (material.symbols, material.times, targets),
        lambda task, levelled: made.update({task[0]: levelled}), stage="levels and onset", progress=progress,
    )  # fmt: skip
    return {arm: made[arm] for arm in places}


_TARGETS: Final = {name: name for name in ("variance", *THRESHOLDS)} | {"regime_now": "now"}
"""What the levels and the onset are learnt from, and the fields of the past that it becomes."""


def _fit(task: _Task, rows: Rows) -> FoldResult:
    """Fit and forecast one fold of one arm from the rows and columns that it needs."""
    fold = task.fold
    tested = (rows.origin >= micros(fold.test_start)) & (rows.origin < micros(fold.test_end))
    trained = task.arm.trains_on(rows) & (rows.origin < micros(fold.test_start))
    if task.arm.training == "own":
        tested &= task.arm.trains_on(rows)
    at = np.flatnonzero(tested | trained)
    part = replace(
        rows,
        features=rows.features[np.ix_(at, task.columns)],
        columns=tuple(rows.columns[k] for k in task.columns),
        variance=rows.variance[at],
        symbol=rows.symbol[at],
        origin=rows.origin[at],
        thresholds=None,
        now=None,
    )
    return forecast_fold(fold, part, task.members)


def _levelled(
    task: tuple[Arm, Sequence[Path]],
    shared: tuple[Sequence[str], pd.DatetimeIndex, Mapping[int, Mapping[str, Array]]],
) -> Forecasts:
    """One arm's forecasts and their mean, each on the level of its own resolved forecasts, and the onset they imply."""
    (arm, places), (symbols, times, targets) = task, shared
    table = pd.concat([read_fold(place).forecasts for place in places])
    row = pd.Index(symbols).get_indexer(table.index.get_level_values("symbol"))
    column = times.get_indexer(pd.DatetimeIndex(table.index.get_level_values("origin")).as_unit("us"))
    span = slice(int(column.min()), int(column.max()) + 1)
    members = list(dict.fromkeys(table.columns.get_level_values(0)))
    log_variance, p_onset = {}, {}
    for h, arrays in targets.items():
        came = {name: x[:, span] for name, x in arrays.items()}
        grids = {}
        for member in members:
            grids[member] = np.full(came["variance"].shape, np.nan)
            grids[member][row, column - span.start] = table[member, h].to_numpy(np.float64)
        if arm.judged == LOG_MEAN:
            grids[LOG_MEAN] = np.mean(list(grids.values()), axis=0)
        brought = {raw(name): x for name, x in grids.items()} | {"log_variance": np.log(came["variance"])}
        past = Past.beginning(times[span], h, came | brought)
        # The product's own way: the level and the law of past errors, then a calibration on resolved rows.
        parts = (
            Levels(tuple(grids)),
            Combine([arm.judged], 0.0),
            Clip(),
            Ladder(()),
            States(),
            VarianceLaw(),
            Calibration(),
        )
        p_onset[arm.judged, h] = Run(parts, past).advance(slice(0, len(past)))[ENSEMBLE]["p_onset"]
        for model in grids:
            log_variance[model, h] = np.maximum(past[levelled(model)], np.log(VARIANCE_FLOOR))
    return Forecasts(span, log_variance, p_onset)
