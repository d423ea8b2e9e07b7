"""Does anything look ahead? Law T, checked bit for bit on the tables that the models are given.

At a cut ``t`` a lawful column is the same whether computed from the whole market or from what was known at ``t``:

- **prefix**: ``transform(market.as_of(t))`` equals ``transform(market)`` on every origin up to ``t``; a target that
  looks ahead is null until its interval has ended, and equal from then on. What a view of the store shows equals what
  the imports known by then say (``leak_revisions``).
- **poison**: nothing up to ``t`` moves when all that became known later is replaced by NaN, by 1e300 or by a permutation
  of itself, and a symbol nobody had heard of is listed.
- **restart**: the newest origins have the same bits when computed from the pipeline's warm-up alone.
- **arrival**: when feeds are late, by their latency or by long, earlier rows stay, rows that used them change, and the
  prefix law holds on the delayed market too, which finds joins on another clock than ``available_at``.
- **live**: bars fed one at a time to ``update``, with restarts, give the rows of the batch.

Cuts stand where leaks show (``leak_cuts``), and each poison comes to every kind of border.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from features import replay
from features.leak_checks import POISONS, ROWS_BACK, Subject, Tables, poisoned
from features.leak_cuts import Cut, cut_times, placed
from features.leak_report import Finding, Leak, LeakReport
from features.leak_revisions import revisions
from features.market import Market
from features.panel import Proxy
from features.pipeline import FeaturePipeline

__all__ = ["Leak", "LeakReport", "check", "cut_times", "poisoned"]

TASKS_AT_ONCE: Final = 5


class _Task(NamedTuple):
    """A cut to be checked: over the whole history, or its newest rows under a poison."""

    at: pd.Timestamp
    poison: str | None


def check(
    market: Market,
    pipeline: FeaturePipeline | None = None,
    horizons: Sequence[int] = (1, 4, 24, 72),
    proxy: Proxy = "garman_klass",
    cuts: int = 50,
    seed: int = 0,
    *,
    deep_cuts: int = 5,
    live_bars: int = 48,
    restarts: int = 4,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> LeakReport:
    """Check Law T of all features and targets at ``cuts`` instants; the module says what is checked.

    At every cut the last seven days of rows are computed again from the warm-up before them (prefix and restart at
    once), and again after poisoning the ten days that follow. At ``deep_cuts`` of the cuts, evenly spread, every row of
    the history is, and feeds are delayed. ``live_bars`` hours are played again in ``restarts`` stretches. ``jobs``
    processes share the work and the tables of the whole market; ``progress`` is called with a label, the number of
    finished steps, and their total. Raises ``UsageError`` where the cuts cannot be placed.
    """
    subject = Subject(pipeline or FeaturePipeline(horizons=horizons, proxy=proxy), tuple(horizons), proxy, seed)
    instants = placed(market, cuts, seed)
    whole = subject.tables(market)
    deep = [_Task(instants[i].at, None) for i in np.linspace(0, cuts - 1, min(deep_cuts, cuts)).astype(int)]
    findings = [revisions(market)]
    for label, tasks in (("whole history", deep), ("cuts", _poisons(instants))):
        for done, finding in enumerate(_run(subject, market, whole, tasks, jobs), start=1):
            findings.append(finding)
            if progress is not None:
                progress(label, done, len(tasks))
    if live_bars:
        played = replay.check(
            market, subject.pipeline, whole["features"], live_bars, restarts, seed, jobs=jobs, progress=progress
        )
        findings += [finding for _, finding in played]
    scope = (
        f"Features and targets: at every cut the rows of the {ROWS_BACK.days} days before it, from the warm-up alone and "
        f"with a poisoned future; at {len(deep)} of the cuts every row of the history, and late feeds; "
        f"{live_bars} bars live, begun {restarts if live_bars else 0} times."
    )
    return LeakReport.of([cut.at for cut in instants], findings, scope)


def _poisons(cuts: Sequence[Cut]) -> list[_Task]:
    """Each cut with a poison: over the run, every one of them at every kind of border."""
    kinds = sorted({cut.kind for cut in cuts})
    used = Counter({kind: place for place, kind in enumerate(kinds)})
    tasks = []
    for cut in cuts:
        tasks.append(_Task(cut.at, POISONS[used[cut.kind] % len(POISONS)]))
        used[cut.kind] += 1
    return tasks


def _run(subject: Subject, market: Market, whole: Tables, tasks: Sequence[_Task], jobs: int) -> Iterator[Finding]:
    """The findings of all tasks, in order; processes take several tasks at once, as each reads the store.

    ``whole`` goes to the processes as a memory map, one for all of them.
    """
    if jobs == 1:
        yield from (_perform(subject, market, whole, task) for task in tasks)
        return
    from joblib import Parallel, delayed

    size = min(TASKS_AT_ONCE, -(-len(tasks) // jobs)) or 1
    groups = [tasks[i : i + size] for i in range(0, len(tasks), size)]
    made = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_group)(subject, market, whole, group) for group in groups
    )
    with warnings.catch_warnings():
        # A process that has grown by 300 MB is replaced between its tasks, with this warning.
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        for findings in made:
            yield from findings


def _group(subject: Subject, market: Market, whole: Tables, tasks: Sequence[_Task]) -> list[Finding]:
    return [_perform(subject, market, whole, task) for task in tasks]


def _perform(subject: Subject, market: Market, whole: Tables, task: _Task) -> Finding:
    if task.poison is None:
        return subject.history(market, whole, task.at) + subject.arrival(market, task.at)
    return subject.recent(market, whole, task.at, task.poison)
