"""The policies of a contest in the venue, symbol by symbol: what their margins did to accounts.

Every policy meets the same path and the same accounts (common random numbers), over the whole scored span and over each
named event. An event is run with two weeks before it, so that positions are older than it; what those two weeks gave is
not counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path as Folder
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from features.market import Market
from features.store import write_atomically
from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.ground import event_windows
from forecaster.policy.comparison.rows import ALL, VENUE_FIELDS, WHOLE
from forecaster.policy.observables import DAY
from training.engine import Engine, Progress, build

from .contestants import QUEUED, Contestants, Entry
from .engine import VenueResult, simulate
from .kernels import MICRO
from .metrics import YEAR_HOURS
from .params import VenueParams
from .path import HOUR, Path
from .population import Population

__all__ = ["Amounts", "Results", "Span", "Task", "backtest", "compete", "crowd", "fields_of"]

Key: TypeAlias = tuple[str, str, str, str]
Results: TypeAlias = dict[Key, dict[str, float]]
"""Account-level fields by (comparison, policy, symbol, window)."""

LEAD_BARS: Final = 14 * DAY
SUMS: Final = ("liquidated", "induced", "unnecessary", "drawn", "bad_debt", "haircut", "haircut_deficit")
JUDGED_BY_LATER: Final = "unnecessary_liquidation_rate"


class Amounts(NamedTuple):
    """What adds up over symbols: open interest times years, and sums of the run, USD."""

    interest: float
    liquidated: float
    induced: float
    unnecessary: float
    drawn: float
    bad_debt: float
    haircut: float
    haircut_deficit: float

    @classmethod
    def of(cls, result: VenueResult, first: int = 0) -> Amounts:
        """Of a run's bars from ``first`` on."""
        sums = [result.tallies[n][-1] - (result.tallies[n][first - 1] if first else 0.0) for n in SUMS]
        hours = float(result.hours[-1] + 1 - result.hours[first])
        return cls(float(result.open_interest[first:].mean()) * hours / YEAR_HOURS, *(float(x) / MICRO for x in sums))


class Span(NamedTuple):
    """A window of a symbol's path: bars ``first <= bar < stop``, run from ``lead`` on."""

    window: str
    lead: int
    first: int
    stop: int


@dataclass(frozen=True)
class Task:
    """One symbol with everything that is run on it: margins by (comparison, policy)."""

    path: Path
    spans: tuple[Span, ...]
    entries: Mapping[tuple[str, str], Entry]

    def key(self, params: VenueParams) -> str:
        """Hash of all that decides the result."""
        digest = hashlib.sha256(f"{_code()} {params.sha256} {self.path.symbol} {self.spans}".encode())
        for array in (getattr(self.path, f.name) for f in fields(self.path) if f.name != "symbol"):
            digest.update(np.ascontiguousarray(array).tobytes())
        for name, entry in self.entries.items():
            digest.update(f"{name} {entry.first}".encode())
            for part in fields(entry.margins):
                digest.update(getattr(entry.margins, part.name).tobytes())
        return digest.hexdigest()


def backtest(
    met: Contest,
    market: Market,
    params: VenueParams,
    out: Folder,
    engine: Engine,
    *,
    comparisons: Sequence[str] = ("equal_mean",),
    progress: Progress | None = None,
) -> Results:
    """Account-level fields of every policy, symbol (``*``: the sum over all) and window, as ``scoreboard`` takes them.

    A symbol's results are kept in ``out`` under the hash of all that decides them; a run that is stopped goes on with the
    symbols that are left. Raises Interrupted when stopped.
    """
    entrants = [Contestants.of(met, comparison, params) for comparison in comparisons]
    found: dict[str, list[Any]] = {}
    waiting: list[tuple[Task, str]] = []
    for task in _tasks(met, market, params, entrants):
        key = task.key(params)
        kept = _read(_file(out, task.path.symbol), key)
        if kept is None:
            waiting.append((task, key))
        else:
            found[task.path.symbol] = kept

    def keep(task: tuple[Task, str], result: list[Any]) -> None:
        symbol = task[0].path.symbol
        write_atomically(_file(out, symbol), json.dumps({"key": task[1], "rows": result}).encode())
        found[symbol] = result

    engine.perform(
        _perform, waiting, params, keep, stage="symbols", before=len(found), folder=out, progress=progress
    )  # fmt: skip
    return _pooled(
        ((comparison, policy, symbol, window), Amounts(*amounts))
        for symbol in sorted(found)
        for comparison, policy, window, *amounts in found[symbol]
    )


def compete(task: Task, params: VenueParams) -> list[tuple[tuple[str, str, str], Amounts]]:
    """Run every policy of one symbol; amounts by (comparison, policy, window)."""
    people = crowd(params, task.path.symbol, int(task.path.hours[-1]) + 1)
    out = []
    for (comparison, policy), entry in task.entries.items():
        rules = params.replace(fund={"adl": "queue"}) if policy == QUEUED else params
        for span in task.spans:
            lead, first = max(span.lead, entry.first), max(span.first, entry.first)
            if first < span.stop:
                run = _run(task.path, entry, people, rules, lead, span.stop)
                out.append(((comparison, policy, span.window), Amounts.of(run, first - lead)))
    return out


def crowd(params: VenueParams, symbol: str, hours: int) -> Population:
    """The accounts of a symbol: its own, and the same for all of its policies and windows."""
    seed = hashlib.sha256(f"{params.population.seed} {symbol}".encode()).digest()
    return Population.draw(replace(params.population, seed=int.from_bytes(seed[:6], "big")), hours)


def fields_of(amounts: Amounts, window: str) -> dict[str, float]:
    """``VENUE_FIELDS`` as ``venue.metrics`` defines them; NaN where there is nothing to rest a ratio on.

    What is unnecessary is judged by the day that follows a liquidation, which an event's run does not hold: NaN there.
    """
    interest = amounts.interest
    values = (
        1e4 * _ratio(amounts.drawn + amounts.bad_debt, interest),
        amounts.bad_debt,
        amounts.drawn,
        _ratio(amounts.liquidated, interest),
        _ratio(amounts.induced, interest),
        _ratio(amounts.unnecessary, amounts.liquidated) if window == WHOLE else float("nan"),
        _ratio(amounts.haircut, amounts.haircut_deficit),
    )
    return dict(zip(VENUE_FIELDS, values, strict=True))


def _tasks(met: Contest, market: Market, params: VenueParams, entrants: Sequence[Contestants]) -> Iterable[Task]:
    ground = met.ground
    for row, symbol in enumerate(ground.symbols):
        at = np.flatnonzero(ground.scored[row])
        if not len(at):
            continue
        # A margin that stands at an origin binds the bar that opens there and closes an hour later.
        path = Path.of(market, symbol, ground.times[at[0]], ground.times[at[-1]] + HOUR, params)
        spans = [Span(WHOLE, 0, 0, len(path))]
        for window, inside in event_windows(ground.times).items():
            bars = np.flatnonzero(inside[np.searchsorted(ground.times.asi8, path.close_time) - 1])  # at their opens
            if len(bars):
                first = int(bars[0])
                spans.append(Span(window, max(0, first - LEAD_BARS), first, int(bars[-1]) + 1))
        entries = {(c.comparison, name): entry for c in entrants for name, entry in c.on(path).items()}
        yield Task(path, tuple(spans), entries)


def _perform(task: tuple[Task, str], params: VenueParams) -> list[Any]:
    return [[*key, *amounts] for key, amounts in compete(task[0], params)]


def _pooled(rows: Iterable[tuple[Key, Amounts]]) -> Results:
    """Fields of every symbol, and of all symbols' amounts together."""
    out: Results = {}
    sums: dict[Key, Amounts] = {}
    for key, amounts in rows:
        comparison, policy, _, window = key
        out[key] = fields_of(amounts, window)
        pool = (comparison, policy, ALL, window)
        sums[pool] = Amounts(*(a + b for a, b in zip(sums[pool], amounts, strict=True))) if pool in sums else amounts
    return {key: fields_of(amounts, key[3]) for key, amounts in sums.items()} | out


def _run(path: Path, entry: Entry, people: Population, params: VenueParams, first: int, stop: int) -> VenueResult:
    """The venue over bars ``first <= bar < stop`` of a path."""
    margins = entry.margins[first - entry.first : stop - entry.first]
    return simulate(path[first:stop], margins, people.since(int(path.hours[first])), params)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _file(out: Folder, symbol: str) -> Folder:
    return out / f"{symbol}.json"


def _read(file: Folder, key: str) -> list[Any] | None:
    """A symbol's rows, if they were made under this key."""
    try:
        kept = json.loads(file.read_bytes())
        rows: list[Any] = kept["rows"]
        return rows if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@cache
def _code() -> str:
    """What a result depends on beside its inputs: the libraries, and the source of the venue."""
    digest = hashlib.sha256(repr(build()).encode())
    for file in sorted(files(__package__).iterdir(), key=lambda f: f.name):
        if file.name.endswith(".py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()
