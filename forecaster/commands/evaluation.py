"""Walk-forward evaluation, the margins that its forecasts give, and the report on both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import pandas as pd
import pyarrow.parquet as pq

from features.errors import DataStale, UsageError
from features.market import Market
from features.store import write_atomically
from forecaster.commands import inputs
from forecaster.commands.inputs import Configuration, Moment, StoreLike
from forecaster.commands.schedules import Schedule, policy
from forecaster.policy import Params, compare
from forecaster.policy.comparison import margins_in_force
from forecaster.settings import Settings
from forecaster.terminal import Progress
from models.table import read_parquet
from training.config import UNHASHED, RunConfig
from training.costs import Costs, Meter
from training.engine import Engine
from training.evaluation import Evaluation
from training.evaluation import evaluate as walk_forward
from training.scorecard import SCORED_COLUMNS
from training.tracking import Metric
from training.walkforward import HISTORY_BEFORE_FIRST_FOLD

__all__ = ["Evaluated", "Job", "evaluate", "run"]

Facts: TypeAlias = Callable[[Evaluation], Mapping[str, Any]]

# The margin policy decides on the forecasts of this horizon.
MARGIN_HORIZON: Final = 24
# What the tracking store gets a copy of: tables and the report, not the forecasts of millions of hours.
MIRRORED: Final = ("scores.json", "diagnostics.json", "policy_comparison.csv", "report.html")
HASHES: Final = ["model_sha256", "config_sha256", "data_sha256"]


@dataclass(frozen=True)
class Evaluated:
    """Out-of-sample forecasts, their scores, the margins they give, and the report on all of it.

    ``facts``: what the report says beside the numbers. ``schedule`` and ``margins`` (policies compared, as
    ``forecaster.policy.compare`` gives them) are None without forecasts of 24 h. ``costs``: of all of it.
    """

    evaluation: Evaluation
    facts: Mapping[str, Any]
    costs: Costs
    schedule: Schedule | None = None
    margins: pd.DataFrame | None = None

    @property
    def out(self) -> Path:
        """The folder that holds ``forecasts.parquet``, ``scores.json`` and ``report.html``."""
        return self.evaluation.out

    def to_dict(self) -> dict[str, Any]:
        """Where everything lies, the mean scores over symbols, and the margins, as one JSON object."""
        margins = "[]" if self.margins is None else self.margins.to_json(orient="records")
        return {
            "forecasts": str(self.evaluation.path),
            "scores": str(self.out / "scores.json"),
            "report": str(self.out / "report.html"),
            "schedule": None if self.schedule is None else self.schedule.to_dict(),
            "rows": pq.read_metadata(self.evaluation.path).num_rows,
            "mean_scores": [row for row in self.evaluation.scores["scores"] if row["symbol"] == "*"],
            "margins": json.loads(margins),
            "costs": asdict(self.costs),
        }

    def summary(self) -> str:
        """The evaluation's summary, margins over all symbols, and where the report lies."""
        parts = [self.evaluation.summary()]
        if self.margins is not None:
            overall = self.margins[self.margins["symbol"] == "*"]
            parts += [
                f"margin {row.policy}: mean {row.mean_im:.2%} of notional, {row.coverage_24h_995:.2%} of days covered"
                for row in overall.itertuples()
            ]
        if self.schedule is not None:
            parts.append(self.schedule.summary())
        return "\n".join([*parts, self.costs.summary(), f"report: {self.out / 'report.html'}"])


@dataclass(frozen=True)
class Job:
    """One evaluation, resolved and checked; ``perform`` does it."""

    market: Market
    config: RunConfig
    start: pd.Timestamp
    end: pd.Timestamp
    symbols: tuple[str, ...] | None
    out: Path
    environment: Settings
    engine: Engine

    def perform(self, progress: Progress | None = None, more: Facts | None = None) -> Evaluated:
        """Evaluate, set margins, write the report, and mirror all of it to the tracking store.

        ``more`` gives further facts of the finished evaluation for the report.
        """
        meter, runs = Meter(), inputs.tracking(self.config, self.environment)
        with runs.run(self.config.name, run_key=self._key(), tags={"kind": "evaluation"}) as tracked:
            tracked.params(self._params())
            evaluation = walk_forward(
                self.market, self.config, start=self.start, end=self.end, out=self.out,
                symbols=self.symbols, engine=self.engine, progress=progress, meter=meter,
            )  # fmt: skip
            with meter.stage("margins"):
                schedule, margins = self._margins(evaluation)
            with meter.stage("report"):
                facts = {} if more is None else more(evaluation)
                _report(evaluation, schedule, margins, facts)
            tracked.metrics(_metrics(evaluation.scores))
            for name in MIRRORED:
                if (self.out / name).exists():
                    tracked.artifacts(self.out / name)
        return Evaluated(evaluation, facts, meter.costs(), schedule, margins)

    def _margins(self, evaluation: Evaluation) -> tuple[Schedule | None, pd.DataFrame | None]:
        """The margins that the forecasts give, and what they are worth."""
        if MARGIN_HORIZON not in self.config.horizons:
            return None, None
        rows = evaluation.ensemble
        schedule = policy(rows, self.market, out=self.out / "schedule.jsonl")
        margins = compare(rows, evaluation.realised, self.market, Params.default(), schedule.read_lines())
        write_atomically(self.out / "policy_comparison.csv", margins.to_csv(index=False).encode())
        return schedule, margins

    def _params(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json", exclude=UNHASHED),
            "config_sha256": self.config.sha256,
            "data_sha256": self.market.data_sha256,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
        }

    def _key(self) -> str:
        """The same evaluation, run again after a kill, is the same tracked run."""
        span = f"{self.start:%Y%m%dT%H%M}-{self.end:%Y%m%dT%H%M}"
        return f"{self.config.sha256[:16]}-{self.market.data_sha256[:16]}-{span}"


def evaluate(
    config: Configuration = None,
    store: StoreLike = None,
    *,
    start: Moment = None,
    end: Moment = None,
    symbols: Sequence[str] | None = None,
    horizons: str | Sequence[int] | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    engine: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Evaluated:
    """Forecast every hour of ``start <= origin < end`` out of sample, and score it; resumes what was stopped.

    Writes ``forecasts.parquet``, ``scores.json``, ``schedule.jsonl`` (where 24 h are forecast) and ``report.html`` to
    ``out``. What is None is taken from the configuration. ``engine``: where folds are made, ``loky`` (``jobs`` processes of
    this machine) or ``dask://HOST:PORT``; no result depends on it. Raises ``UsageError`` for what cannot be asked,
    ``Interrupted`` when stopped.
    """
    settings = inputs.configuration(config, horizons, overrides)
    return _job(settings, store, start, end, symbols, out, jobs, engine).perform(progress)


def run(
    config: Configuration,
    store: StoreLike = None,
    out: str | Path | None = None,
    *,
    jobs: int | None = None,
    engine: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Evaluated:
    """The same with everything from a configuration: the user's own data, settings, dates and places."""
    settings = inputs.configuration(config, None, overrides)
    return _job(settings, store, None, None, None, out, jobs, engine).perform(progress)


def _job(
    config: RunConfig,
    store: StoreLike,
    start: Moment,
    end: Moment,
    symbols: Sequence[str] | None,
    out: str | Path | None,
    jobs: int | None,
    engine: str | None,
) -> Job:
    """The evaluation asked for: options first, then the configuration's ``[data]``, then the environment."""
    environment, data = Settings.load(), config.data
    market = inputs.read(store or data.store, environment)
    first, last = inputs.instant(start or data.start, "--start"), inputs.instant(end or data.end, "--end")
    if first is None or last is None:
        missing = "start" if first is None else "end"
        raise UsageError(f"no {missing} is named: give --{missing} T, or set data.{missing} in the configuration")
    _check_span(market, first, last)
    chosen = tuple(symbols) if symbols else data.symbols
    inputs.check_symbols(market, chosen)
    place = out or data.out
    if place is None:
        raise UsageError("no place for the results is named: give --out DIR, or set data.out in the configuration")
    where = inputs.engine(engine, jobs, config, environment)
    return Job(market, config, first, last, chosen, Path(place), environment, where)


def _report(
    evaluation: Evaluation, schedule: Schedule | None, margins: pd.DataFrame | None, facts: Mapping[str, Any]
) -> None:
    from forecaster.report import write

    in_force = None
    if schedule is not None:
        in_force = margins_in_force(schedule.read_lines())
        in_force = in_force.rename(columns={"origin": "as_of", "ensemble": "im"})
    write(
        evaluation.out / "report.html",
        title=f"Volatility forecasts: {evaluation.config.name}",
        forecasts=_reported(evaluation.path),
        realised=evaluation.realised,
        scores=evaluation.scores,
        diagnostics=evaluation.diagnostics,
        importance=evaluation.importance,
        margins=margins,
        schedule=in_force,
        facts=facts,
    )


def _reported(path: Path) -> pd.DataFrame:
    """What the report reads of the forecast table; hashes, 64 letters on millions of rows, as categories."""
    numbers = read_parquet(path, columns=[*SCORED_COLUMNS, "mae_long_q995", "mae_short_q995"])
    hashes: pd.DataFrame = pq.read_table(path, columns=HASHES, read_dictionary=HASHES, partitioning=None).to_pandas()
    return pd.concat([numbers, hashes], axis=1)


def _check_span(market: Market, start: pd.Timestamp, end: pd.Timestamp) -> None:
    """Refuse origins that too few data precede, or that lie after all of them."""
    bars = market.table("bars", "1h")["close_time"]
    first, last = bars.min(), bars.max()
    if start >= end:
        raise UsageError(f"--start {start:%Y-%m-%dT%H:%MZ} is not before --end {end:%Y-%m-%dT%H:%MZ}; swap them?")
    if start < (earliest := first + HISTORY_BEFORE_FIRST_FOLD):
        raise UsageError(
            f"--start {start:%Y-%m-%d}: data begin on {first:%Y-%m-%d}, and a first fit takes "
            f"{HISTORY_BEFORE_FIRST_FOLD.days} days of them; start on {earliest.ceil('D'):%Y-%m-%d} or later, "
            "or import older data"
        )
    if start > last:
        raise DataStale(
            f"--start {start:%Y-%m-%d}: data end at {last:%Y-%m-%dT%H:%MZ}; start earlier, or import newer data"
        )


def _metrics(scores: Mapping[str, Any]) -> list[Metric]:
    """Means over symbols, one metric a model, horizon and score."""
    keys = {"model", "horizon_hours", "symbol"}
    return [
        (f"{row['model']}/{row['horizon_hours']}h/{name}", float(value), 0)
        for row in scores["scores"]
        if row["symbol"] == "*"
        for name, value in row.items()
        if name not in keys and value is not None
    ]
