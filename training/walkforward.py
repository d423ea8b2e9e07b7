"""The folds of a walk-forward: which there are, and how those that are not there yet are made and kept.

Folds run in any order and resume after a kill; what is made of them never depends on how many processes made them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from features.errors import DataStale, UsageError
from models.catalogue import make
from models.regime_classifier import RegimeClassifier
from training.config import Component, RunConfig
from training.costs import Meter
from training.engine import Engine, Progress
from training.fold_store import commit, committed, read_fold, tells_terms
from training.folds import FoldResult, classifier_of, fold_key, forecast_fold
from training.material import Material
from training.rows import Rows, training_rows
from training.splits import Fold, PurgedWalkForward

__all__ = ["FOLDS", "HISTORY_BEFORE_FIRST_FOLD", "clear", "place_of", "plan", "run_folds"]

# Bars that a first fit needs: two months hold every hour of the week eight times, and a few thousand labels.
HISTORY_BEFORE_FIRST_FOLD: Final = pd.Timedelta(days=60)
FOLDS: Final = "folds"
"""The folder of an evaluation's folds."""


def plan(material: Material, config: RunConfig, start: pd.Timestamp, end: pd.Timestamp) -> list[Fold]:
    """The folds of an evaluation: those of ``[start, end)``, after as many warm-up folds as history allows.

    Folds that begin after the data end have nothing to forecast and are left out.
    """
    newest = material.times[-1]
    if start > newest:
        raise DataStale(
            f"start {start:%Y-%m-%dT%H:%MZ} lies after the last bar, which closed at {newest:%Y-%m-%dT%H:%MZ}; "
            "start earlier, or import newer data"
        )
    settings = config.walkforward
    window = settings.window_months
    folds = PurgedWalkForward(
        start,
        end,
        step=f"{settings.refit_months}MS",
        embargo=pd.Timedelta(hours=settings.embargo_hours),
        window=None if window is None else pd.Timedelta(days=round(window * 365.25 / 12)),
        warmup=-(-settings.warmup_months // settings.refit_months),
    ).folds()
    earliest = material.times[0] + HISTORY_BEFORE_FIRST_FOLD
    kept = [fold for fold in folds if earliest <= fold.test_start <= newest]
    if not kept or kept[0].index > 0:
        raise UsageError(
            f"start {start:%Y-%m-%d} leaves under {HISTORY_BEFORE_FIRST_FOLD.days} days of bars to learn from: the store "
            f"begins on {material.times[0]:%Y-%m-%d}; start on {earliest.ceil('D'):%Y-%m-%d} or later, or import older data"
        )
    return [fold for fold in kept if fold.index >= 0 or _learnable(fold, material.rows, config)]


def _learnable(fold: Fold, rows: Rows, config: RunConfig) -> bool:
    """Whether every member has rows enough; a warm-up fold without them is left out, a scored one is refused."""
    past = training_rows(fold, rows, config.walkforward.exclude)
    return all(make(m.kind, m.params).shortage(past) is None for m in config.members)


@dataclass(frozen=True)
class _Task:
    """A fold to make, where it is kept and under which key, and the families by which it is explained, if it is."""

    fold: Fold
    place: Path
    key: str
    families: Mapping[str, str] | None

    @property
    def finished(self) -> bool:
        """Whether it is there; one that was explained also serves where nobody asks."""
        return committed(self.place, self.key) and (self.families is None or tells_terms(self.place))


def run_folds(
    folds: Sequence[Fold],
    material: Material,
    config: RunConfig,
    data_sha256: str,
    folder: Path,
    engine: Engine,
    progress: Progress | None = None,
    meter: Meter | None = None,
    families: Mapping[str, str] | None = None,
) -> list[FoldResult]:
    """Make the folds that are not there yet, in parallel, keep each as it comes, and read them all in order of time.

    ``families``: the family of each feature, by which the forecasts of scored folds are explained (None: they are not).
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    # A view of the market holds less than what its hash stands for.
    data = f"{data_sha256} from {material.times[0].isoformat()} to {material.times[-1].isoformat()}"
    tasks = [
        _Task(fold, place_of(folder, fold), fold_key(fold, config, data), families if fold.index >= 0 else None)
        for fold in folds
    ]
    missing = [task for task in tasks if not task.finished]
    engine.perform(
        _forecast,
        missing,
        (material.rows, config.members, config.walkforward.exclude, classifier_of(config)),
        lambda task, made: commit(made, task.place, task.key),
        stage="folds",
        before=len(tasks) - len(missing),
        folder=folder,
        progress=progress,
        meter=meter,
    )
    return [read_fold(task.place) for task in tasks]


def place_of(folder: Path, fold: Fold) -> Path:
    """Where among the others a fold is kept."""
    return folder / f"{fold.test_start:%Y%m%dT%H%M}"


def _forecast(
    task: _Task, shared: tuple[Rows, Sequence[Component], Sequence[str], RegimeClassifier | None]
) -> FoldResult:
    return forecast_fold(task.fold, *shared, families=task.families)


def clear(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for orphan in folder.glob(".*.tmp"):
        if orphan.is_dir():
            shutil.rmtree(orphan, ignore_errors=True)
        else:
            orphan.unlink(missing_ok=True)
