"""The trials of a search: proposed one after the other, judged on inner folds, kept so that a killed search goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from training.config import Component, RunConfig
from training.engine import Progress
from training.inner import Inner, Losses
from training.space import Space, arguments, configured, suggest
from training.splits import Fold
from training.tracking import Run, Tracking

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial, TrialState

__all__ = ["COMBINATION", "Search", "Searcher", "with_values"]

DATABASE: Final = "trials.db"
COMBINATION: Final = "ensemble"
"""The subject that is no member."""
# Trials at random before the estimator proposes any, and before any is cut short.
STARTUP: Final = 8


class Search(NamedTuple):
    """One subject's search: its trials by place, and the losses of the configured and the best values."""

    trials: list[FrozenTrial]
    configured: Losses
    best: Losses
    values: dict[str, Any]


@dataclass(frozen=True)
class Searcher:
    """The trials of one subject, one after the other; the folds of a trial are made side by side."""

    inner: Inner
    config: RunConfig
    space: Space
    subject: str
    folder: Path
    trials: int
    seed: int
    tracking: Tracking | None
    parent: Run | None
    key: str
    progress: Progress | None

    @property
    def study_name(self) -> str:
        """Losses of the combination are of these members with these values, and of no others."""
        return f"{self.subject}-{self.config.sha256[:16]}" if self.subject == COMBINATION else self.subject

    def search(self) -> Search:
        """Perform the trials that are missing, and judge the best one."""
        start = configured(self.space.of(self.subject), self.subject, self.config)
        kept = {self._name(start)}
        for study, place in self._open():
            self._trial(study, place, start)
            # Folds of all trials would fill the disk; those of the best are read once more.
            self._forget(kept | {self._name(study.best_params)})
        trials = _finished(self._study())
        best = min((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: (t.value, t.number))
        return Search(trials, self._losses(start), self._losses(best.params), dict(best.params))

    def _open(self) -> Iterator[tuple[Study, int]]:
        """The study before each trial that is missing, with the trial's place."""
        from optuna.trial import TrialState

        study = self._study()
        # A trial that was running belongs to a process that is gone.
        for dead in study.get_trials(states=[TrialState.RUNNING]):
            study.tell(dead.number, state=TrialState.FAIL)
        while (place := len(_finished(study))) < self.trials:
            self._tell(place)
            study.sampler = self._sampler(place)
            yield study, place
        self._tell(self.trials)

    def _trial(self, study: Study, place: int, start: Mapping[str, Any]) -> None:
        from optuna.trial import TrialState

        # A search that was killed before it began its first trial still has it in the queue.
        if place == 0 and not study.get_trials(states=[TrialState.WAITING]):
            study.enqueue_trial(dict(start))
        trial = study.ask()
        values = suggest(trial, self.space.of(self.subject))
        changed = with_values(self.config, self.subject, values)
        with _child(self, place) as run:
            if run is not None:
                run.params({"subject": self.subject, "values": values, "config_sha256": changed.sha256})
            state, loss, rungs = self._judge(trial, values)
            if run is not None:
                run.metrics([("loss", value, step) for step, value in enumerate(rungs)])
            study.tell(trial, loss if state is TrialState.COMPLETE else None, state)

    def _judge(self, trial: Trial, values: Mapping[str, Any]) -> tuple[TrialState, float, list[float]]:
        """The trial's state, its loss, and the loss after each rung of folds."""
        from optuna.trial import TrialState

        if self.subject == COMBINATION:
            loss = self._losses(values).mean
            return TrialState.COMPLETE, loss, [loss]
        rungs: list[float] = []
        for step, folds in enumerate(self.inner.rungs):
            rungs.append(self._member(values, folds).mean)
            trial.report(rungs[-1], step)
            if step + 1 < len(self.inner.rungs) and trial.should_prune():
                return TrialState.PRUNED, rungs[-1], rungs
        return TrialState.COMPLETE, rungs[-1], rungs

    def _losses(self, values: Mapping[str, Any]) -> Losses:
        if self.subject != COMBINATION:
            return self._member(values, self.inner.folds)
        forecasts = self.inner.forecasts(self.config.members, self.folder / "folds" / COMBINATION)
        return self.inner.ensemble(forecasts, arguments(values, self.subject, self.config))

    def _member(self, values: Mapping[str, Any], folds: Sequence[Fold]) -> Losses:
        member = Component(kind=self.subject, params=arguments(values, self.subject, self.config))
        forecasts = self.inner.forecasts([member], self._place / self._name(values), folds)
        return self.inner.losses(self.inner.levelled(forecasts, self.subject))

    @property
    def _place(self) -> Path:
        return self.folder / "folds" / self.subject

    def _name(self, values: Mapping[str, Any]) -> str:
        return hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()[:16]

    def _forget(self, kept: set[str]) -> None:
        if self.subject == COMBINATION or not self._place.is_dir():
            return
        for place in self._place.iterdir():
            if place.name not in kept:
                shutil.rmtree(place, ignore_errors=True)

    def _study(self) -> Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(
            study_name=self.study_name,
            storage=f"sqlite:///{(self.folder / DATABASE).resolve()}",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
            sampler=self._sampler(0),
            load_if_exists=True,
        )

    def _sampler(self, place: int) -> Any:
        """The proposals of the trial at this place depend on the finished trials and on this seed alone."""
        from optuna.samplers import TPESampler

        digest = hashlib.sha256(f"{self.seed} {self.subject} {place}".encode()).digest()
        return TPESampler(seed=int.from_bytes(digest[:4]), n_startup_trials=STARTUP)

    def _tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(self.subject, done, self.trials)


def _finished(study: Study) -> list[FrozenTrial]:
    """The trials that came to an end, cut short or not, in their order."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])


def with_values(config: RunConfig, subject: str, values: Mapping[str, Any]) -> RunConfig:
    """The configuration with these values of a member or of the combination; itself where they are the configured ones."""
    if {name: configured(dict.fromkeys(values, ()), subject, config)[name] for name in values} == dict(values):
        return config
    params = arguments(values, subject, config)
    if subject == COMBINATION:
        return config.model_copy(update={"ensemble": config.ensemble.model_copy(update={"params": params})})
    members = tuple(Component(kind=m.kind, params=params) if m.kind == subject else m for m in config.members)
    return config.model_copy(update={"members": members})


@contextmanager
def _child(searcher: Searcher, place: int) -> Iterator[Run | None]:
    if searcher.tracking is None:
        yield None
        return
    name = f"{searcher.subject} {place}"
    key = f"tune-{searcher.key}/{searcher.study_name}/{place}"
    with searcher.tracking.run(name, run_key=key, tags={"kind": "trial"}, parent=searcher.parent) as run:
        yield run
