"""Policies against each other: in margins over real prices, and account by account in the simulated venue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from features import locking
from features.errors import UsageError
from features.market import Market
from forecaster.commands import inputs
from forecaster.commands.inputs import Configuration, Moment, StoreLike
from forecaster.commands.schedules import Schedule, policy, policy_replay
from forecaster.policy.comparison.contest import contest
from forecaster.policy.comparison.rows import ALL, VENUE_FIELDS, WHOLE
from forecaster.policy.comparison.scoreboard import FILES, Scoreboard, scoreboard
from forecaster.policy.params import Params
from forecaster.settings import Settings
from forecaster.terminal import Progress
from forecaster.venue import VenueParams
from forecaster.venue.backtest import Results
from forecaster.venue.backtest import backtest as simulate
from forecaster.venue.contestants import OURS, QUEUED, VARIANTS
from forecaster.venue.goals import judge
from training.engine import Engine
from training.scorecard import nullable

if TYPE_CHECKING:
    from forecaster.report.episodes import Episode

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

    def perform(self, progress: Progress | None = None) -> Backtested:
        """Write the schedule and replay it, compare, simulate, judge, and report."""
        with locking.writing(self.out):
            schedule, derived = self._schedule()  # first, since it refuses a broken table of forecasts
            results, shown = self._contested(schedule, progress)
            board = self._board(results, derived)
            board.write(self.out)
            self._report(shown, schedule)
        return Backtested(self.out, board, schedule)

    def _contested(self, schedule: Schedule, progress: Progress | None) -> tuple[Results, list[Episode]]:
        """The venue's results, and the events as the page shows them; the contest itself, which is large, ends here."""
        from forecaster.report.episodes import episodes

        met = contest(self.forecasts, self.market, self.params, start=self.start, end=self.end)
        results: Results = {}
        if self.venue is not None:
            results = simulate(met, self.market, self.venue, self.out / "venue", self.engine, progress=progress)
        return results, episodes(met, schedule.path)

    def _schedule(self) -> tuple[Schedule, float]:
        """The governed margins in force, and the share of their lines that a replay derives byte for byte."""
        written = policy(self.forecasts, self.market, self.params, self.out / "schedule.jsonl")
        replayed = policy_replay(written.path, self.forecasts, self.market, self.params)
        return replayed, replayed.lines / written.lines

    def _board(self, results: Results, derived: float) -> Scoreboard:
        board = scoreboard(self.forecasts, self.market, self.params, start=self.start, end=self.end, venue=results)
        if not results:
            return board
        rows = board.rows | {"extended": [*board.rows["extended"], *_variants(board.rows[HEADLINE], results)]}
        queue = results.get((HEADLINE, QUEUED, ALL, WHOLE), {})
        goals = [*board.goals, *judge(rows[HEADLINE], queue, derived)]
        return replace(board, rows=rows, goals=sorted(goals, key=lambda goal: _place(goal["goal"])))

    def _report(self, shown: Sequence[Episode], schedule: Schedule) -> None:
        from forecaster.report.backtest_page import write_backtest

        write_backtest(
            self.out / "report.html",
            scores={name: json.loads((self.out / file).read_bytes()) for name, file in FILES.items()},
            goals=json.loads((self.out / GOALS_FILE).read_bytes()),
            episodes=shown,
            facts=self._facts(schedule),
        )

    def _facts(self, schedule: Schedule) -> dict[str, str]:
        return {
            "data": self.market.data_sha256,
            "policy's parameters": f"{self.params.name}, {self.params.sha256}",
            "venue's parameters": "not run" if self.venue is None else f"{self.venue.name}, {self.venue.sha256}",
            "accounts a symbol": "none" if self.venue is None else f"{self.venue.population.slots:,}",
            "schedule": f"{schedule.lines:,} lines, head {schedule.head}",
        }


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
    progress: Progress | None = None,
) -> Backtested:
    """Score the policy of the forecasts beside static, exchange, EWMA, FHS and anti-procyclical margins, and an oracle.

    On the forecasts' origins with ``start <= origin < end``; origins before ``start`` are the past that the first scalars
    are fitted on (without any, the first month is). Writes ``policy_scores.json`` (equal mean margin) and its siblings,
    ``policy_goals.json``, ``schedule.jsonl`` and ``report.html`` to ``out``; the venue's results are kept symbol by symbol,
    so that a run which is stopped goes on where it was. ``params``, ``venue``: packs, by default those shipped;
    ``simulated``: whether the venue is run at all. The configuration gives store, place, dates and processes where they
    are not named. Raises ``UsageError`` for what cannot be asked, ``Interrupted`` when stopped.
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
    ).perform(progress)


def _table(forecasts: pd.DataFrame | str | Path, params: Params) -> pd.DataFrame | Path:
    """A file stays one, so that of a large one only what is needed is read; a sink's folder holds one model."""
    if isinstance(forecasts, pd.DataFrame) or Path(forecasts).is_dir():
        return inputs.forecast_table(forecasts, params.model)
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
