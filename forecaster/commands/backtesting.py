"""Policies against each other: in margins over real prices, and account by account in the simulated venue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features import locking
from features.errors import UsageError
from features.market import Market
from features.store import write_atomically
from forecaster.commands import inputs
from forecaster.commands.inputs import Configuration, Moment, StoreLike
from forecaster.commands.schedules import Schedule, policy, policy_replay
from forecaster.policy.comparison.contest import RAW_HAR, Contest, contest
from forecaster.policy.comparison.rows import ALL, VENUE_FIELDS, WHOLE
from forecaster.policy.comparison.scoreboard import FILES, Scoreboard, scoreboard_of
from forecaster.policy.params import Params
from forecaster.settings import Settings
from forecaster.terminal import Progress
from forecaster.venue import VenueParams
from forecaster.venue.backtest import Results
from forecaster.venue.backtest import backtest as simulate
from forecaster.venue.contestants import OURS, QUEUED, VARIANTS
from forecaster.venue.goals import judge
from training.engine import Engine
from training.scorecard import nullable, to_json_bytes

__all__ = ["Backtested", "Job", "backtest"]

HEADLINE: Final = "equal_mean"
GOALS_FILE: Final = "policy_goals.json"


@dataclass(frozen=True)
class Backtested:
    """What the policies were worth: rows by comparison, goals, the schedule in force, and the report."""

    out: Path
    board: Scoreboard
    schedule: Schedule

    def to_dict(self) -> dict[str, Any]:
        """Where everything lies, the rows over all symbols and the whole span, and the goals, as one JSON object."""
        return {
            "scores": {name: str(self.out / file) for name, file in FILES.items()},
            "goals_file": str(self.out / GOALS_FILE),
            "report": str(self.out / "report.html"),
            "schedule": self.schedule.to_dict(),
            **self.board.span,
            "policies": _whole(self.board),
            "goals": self.board.goals,
        }

    def summary(self) -> str:
        """One line a policy, the goals with the level that each reached, and where the report lies."""
        lines = [
            f"{row['policy']:<9} mean margin {_told(row['mean_im'])}, at 99.5 % coverage {_told(row['matched_mean_im'])}, "
            f"shortfall {_told(row['shortfall_bps_oi_year'], 1, '')} bp of open interest a year"
            for row in _whole(self.board)
        ]
        goals = ", ".join(f"{goal['goal']} {goal['reached']}" for goal in self.board.goals)
        return "\n".join([*lines, f"goals: {goals}", self.schedule.summary(), f"report: {self.out / 'report.html'}"])


@dataclass(frozen=True)
class Job:
    """One back-test, resolved and checked; ``perform`` does it. ``venue`` None: margins and prices alone."""

    market: Market
    forecasts: pd.DataFrame | Path
    params: Params
    venue: VenueParams | None
    start: pd.Timestamp | None
    end: pd.Timestamp | None
    out: Path
    engine: Engine
    events: Path | None = None
    registry: Path | None = None

    def perform(self, progress: Progress | None = None) -> Backtested:
        """Write the schedule and replay it, compare, simulate, judge, and report."""
        with locking.writing(self.out):
            schedule, derived = self._schedule()  # first, since it refuses a broken table of forecasts
            met = contest(self.forecasts, self.market, self.params, start=self.start, end=self.end)
            results = self._simulated(met, progress)
            board = self._board(met, results, derived)
            board.write(self.out)
            self._report(met, schedule)
        return Backtested(self.out, board, schedule)

    def _simulated(self, met: Contest, progress: Progress | None) -> Results:
        """What the margins did to accounts; nothing without a venue."""
        if self.venue is None:
            return {}
        return simulate(met, self.market, self.venue, self.out / "venue", self.engine, progress=progress)

    def _schedule(self) -> tuple[Schedule, float]:
        """The governed margins in force, and the share of their lines that a replay derives byte for byte."""
        signed = (self.events, self.registry)
        written = policy(self.forecasts, self.market, self.params, self.out / "schedule.jsonl", *signed)
        replayed = policy_replay(written.path, self.forecasts, self.market, self.params, *signed)
        return replayed, replayed.lines / written.lines

    def _board(self, met: Contest, results: Results, derived: float) -> Scoreboard:
        board = scoreboard_of(met, self.forecasts, venue=results)
        rows = board.rows
        if results:
            rows = rows | {"extended": [*rows["extended"], *_variants(rows[HEADLINE], results)]}
        queue = results.get((HEADLINE, QUEUED, ALL, WHOLE), {})
        goals = [*board.goals, *judge(rows[HEADLINE], queue, derived)]
        return replace(board, rows=rows, goals=sorted(goals, key=lambda goal: _place(goal["goal"])))

    def _report(self, met: Contest, schedule: Schedule) -> None:
        from forecaster.report import experiments
        from forecaster.report.backtest_page import write_backtest
        from forecaster.report.episodes import episodes

        tried = experiments.experiments(met, self.venue)
        write_atomically(self.out / experiments.FILE, to_json_bytes(tried))
        write_backtest(
            self.out / "report.html",
            scores={name: json.loads((self.out / file).read_bytes()) for name, file in FILES.items()},
            goals=json.loads((self.out / GOALS_FILE).read_bytes()),
            experiments=tried,
            episodes=episodes(met, schedule.path),
            facts=self._facts(schedule),
        )

    def _facts(self, schedule: Schedule) -> dict[str, str]:
        facts = {
            "data": self.market.data_sha256,
            "policy's parameters": f"{self.params.name}, {self.params.sha256}",
            "venue's parameters": "not run" if self.venue is None else f"{self.venue.name}, {self.venue.sha256}",
            "accounts a symbol": "none" if self.venue is None else f"{self.venue.population.slots:,}",
            "schedule": f"{schedule.lines:,} lines, head {schedule.head}",
        }
        if self.events is not None:
            facts["signed overrides"] = f"{schedule.overrides:,}; they act on the schedule, the scores are without them"
        return facts


def backtest(
    config: Configuration = None,
    store: StoreLike = None,
    *,
    forecasts: pd.DataFrame | str | Path,
    out: str | Path | None = None,
    params: Params | str | Path | None = None,
    venue: VenueParams | str | Path | None = None,
    start: Moment = None,
    end: Moment = None,
    jobs: int | None = None,
    engine: str | None = None,
    simulated: bool = True,
    overrides: Sequence[str] = (),
    events: str | Path | None = None,
    registry: str | Path | None = None,
    progress: Progress | None = None,
) -> Backtested:
    """Score the policy of the forecasts beside static, exchange, EWMA, FHS and anti-procyclical margins, and an oracle.

    On the forecasts' origins with ``start <= origin < end``; origins before ``start`` are the past that the first scalars
    are fitted on (without any, the first month is). Writes ``policy_scores.json`` (equal mean margin) and its siblings,
    ``policy_goals.json``, ``policy_experiments.json``, ``schedule.jsonl`` and ``report.html`` to ``out``; the venue's results
    are kept symbol by symbol, so that a run which is stopped goes on where it was. ``params``, ``venue``: packs, by default
    those shipped; ``simulated``: whether the venue is run at all. ``events``, ``registry``: a log whose signed overrides
    act on ``schedule.jsonl``, as in ``policy``; the scores are of the policy without them. The configuration gives store,
    place, dates and processes where they are not named. Raises ``UsageError`` for what cannot be asked, ``Interrupted``
    when stopped.
    """
    settings, environment = inputs.configuration(config, None, overrides), Settings.load()
    data = settings.data
    place = out or data.out
    if place is None:
        raise UsageError("no place for the results is named: give --out DIR, or set data.out in the configuration")
    pack = params if isinstance(params, Params) else Params.default() if params is None else Params.load(params)
    crowd = (
        venue if isinstance(venue, VenueParams) else VenueParams.default() if venue is None else VenueParams.load(venue)
    )
    return Job(
        market=inputs.read(store or data.store, environment),
        forecasts=_table(forecasts, pack),
        params=pack,
        venue=crowd if simulated else None,
        start=inputs.instant(start or data.start, "--start"),
        end=inputs.instant(end or data.end, "--end"),
        out=Path(place),
        engine=inputs.engine(engine, jobs, settings, environment),
        events=None if events is None else Path(events),
        registry=None if registry is None else Path(registry),
    ).perform(progress)


def _table(forecasts: pd.DataFrame | str | Path, params: Params) -> pd.DataFrame | Path:
    """A file stays one, so that of a large one only what is needed is read, unless a venue joined its columns to it: then
    all read one frame, as they do of a sink's folder, which holds one model.
    """
    if isinstance(forecasts, pd.DataFrame) or Path(forecasts).is_dir() or inputs.told_by_venue(Path(forecasts)):
        return inputs.forecast_table(forecasts, params.model, RAW_HAR)
    if not Path(forecasts).exists():
        raise UsageError(f"forecasts {forecasts}: no such file; make it with forecaster evaluate or forecast")
    return Path(forecasts)


def _variants(rows: Sequence[Mapping[str, Any]], results: Results) -> list[dict[str, Any]]:
    """Rows of the same margins under another rule for open positions or for what the fund does not bear."""
    own = [row for row in rows if row["policy"] == OURS]
    return [
        {**row, "policy": name}
        | {
            field: nullable(results.get((HEADLINE, name, row["symbol"], row["window"]), {}).get(field, float("nan")))
            for field in VENUE_FIELDS
        }
        for name in VARIANTS
        if name != OURS
        for row in own
    ]


def _place(goal: str) -> tuple[int, str]:
    digits = goal.rstrip("abcdefgh")
    return int(digits), goal


def _whole(board: Scoreboard) -> list[dict[str, Any]]:
    return [row for row in board.rows[HEADLINE] if row["symbol"] == ALL and row["window"] == WHOLE]


def _told(value: float | None, digits: int = 2, unit: str = " %") -> str:
    if value is None:
        return "unknown"
    return f"{value * 100:.{digits}f}{unit}" if unit else f"{value:.{digits}f}"
