"""The goal table of a configuration, and the two studies beside it: symbols left out, and the ablation ladder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from features.errors import LeakFound, UsageError
from features.market import Market
from features.store import write_atomically
from forecaster.commands import inputs
from forecaster.commands.hours import Hours
from forecaster.commands.inputs import Configuration, Moment, StoreLike
from forecaster.settings import Settings
from forecaster.terminal import Progress

if TYPE_CHECKING:
    from training.config import RunConfig
    from training.evaluation import Evaluation
    from training.goal_figures import Window
    from training.goals import Figure

__all__ = ["END", "START", "Card", "Study", "ladder", "leave_out", "scorecard"]

START: Final = "2023-07-01"
END: Final = "2025-07-01"
# A symbol's thresholds rest on two years; one that has them from the first origin on is an old one.
LONG_HISTORY: Final = pd.Timedelta(days=730)
# Where a scorecard looks for what other commands measured, beside its own results.
SEARCH, LADDER, LEFT_OUT = "search", "ladder", "leave-out"


@dataclass(frozen=True)
class Card:
    """A goal table: its document and page, and the hours of all sessions."""

    out: Path
    document: Mapping[str, Any]
    page: str
    hours: Hours

    @property
    def exit_code(self) -> int:
        """That of a leak where the run is suspect."""
        return LeakFound.exit_code if self.document["suspect"] else 0

    def to_dict(self) -> dict[str, Any]:
        """The document, the hours, and where it lies."""
        lies = {"scorecard": str(self.out / "scorecard.json"), "page": str(self.out / "scorecard.md")}
        return lies | {"hours": self.hours.total} | dict(self.document)

    def summary(self) -> str:
        """The page, and the hours."""
        return f"{self.page}\n{self.hours.summary()}"


@dataclass(frozen=True)
class Study:
    """A study's document as lines of text, and the hours of all its sessions."""

    path: Path
    document: Mapping[str, Any]
    lines: tuple[str, ...]
    hours: Hours

    def to_dict(self) -> dict[str, Any]:
        """The document, and where it lies."""
        return {"document": str(self.path), "hours": self.hours.total} | dict(self.document)

    def summary(self) -> str:
        """One line a figure, and the hours."""
        return "\n".join([*self.lines, self.hours.summary(), f"document: {self.path}"])


def scorecard(
    config: Configuration = None,
    store: StoreLike = None,
    *,
    out: str | Path,
    start: Moment = START,
    end: Moment = END,
    long_start: Moment = None,
    card: str | Path | None = None,
    jobs: int | None = None,
    engine: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Card:
    """Evaluate a configuration and judge it by the goals; resumes what was stopped.

    One walk-forward from ``long_start`` (None: a year before ``start``) serves both windows: all symbols from ``start``, and
    from ``long_start`` those that had two years of history by then, in a table of their own. Writes ``scorecard.json`` and
    ``scorecard.md`` to ``out``, and the model card to ``card``. What ``tune``, ``ladder`` and ``leave_out`` wrote to
    ``search``, ``ladder`` and ``leave-out`` of ``out`` is part of it: a search counts if its chosen configuration is this
    one, the others if they are of the same window, data and code (and of this configuration, for symbols left out).

    Raises ``UsageError`` where ``start`` is not before ``end``, or a ``long_start`` is given that is not before ``start``.
    """
    from forecaster.commands.evaluation import evaluate
    from training.goal_figures import measure
    from training.goal_report import document, markdown
    from training.model_card import data_facts, model_card
    from training.opponents import best_classical
    from training.scorecard import to_json_bytes

    environment, folder = Settings.load(), Path(out)
    chosen = inputs.configuration(config, None, overrides)
    market = inputs.read(store or chosen.data.store, environment)
    first, last, long = (
        inputs.instant(t, option) for t, option in ((start, "--start"), (end, "--end"), (long_start, "--long-start"))
    )
    if first is None or last is None or not first < last:
        raise UsageError("--start must be before --end; name both")
    if long is None:
        long = first - pd.DateOffset(years=1)
    elif long >= first:
        raise UsageError(
            f"--long-start {long:%Y-%m-%d} is not before --start {first:%Y-%m-%d}; give an earlier one, or none"
        )
    old = _old(market, long)
    with Hours(folder) as hours:
        evaluation = evaluate(
            chosen, market, start=long if old else first, end=last, out=folder / "evaluation", jobs=jobs, engine=engine,
            progress=hours.counting(progress),
        ).evaluation  # fmt: skip
        losses = {name: best_classical(evaluation, at) for name, at in _starts(first, long if old else None).items()}
        windows = _windows(market.symbols, old, first, last, long, losses)
        tried = inputs.tracking(chosen, environment).configurations()
        measured = measure(evaluation.path, evaluation.realised, windows, proxy=chosen.proxy, tried=tried)
        tuning = _tuning(folder, evaluation)
        more = _elsewhere(folder, evaluation.config, first, last, market.data_sha256)
        facts = _facts(evaluation, market, tried, tuning)
        told = document(measured, more, losses, facts)
        page = markdown(told)
        write_atomically(folder / "scorecard.json", to_json_bytes(told))
        write_atomically(folder / "scorecard.md", page.encode())
        if card is not None:
            text = model_card(evaluation, told, measured, data_facts(market), tuning)
            write_atomically(Path(card), text.encode())
    return Card(folder, told, page, hours)


def leave_out(
    config: Configuration = None,
    store: StoreLike = None,
    *,
    symbols: Sequence[str],
    out: str | Path,
    start: Moment = START,
    end: Moment = END,
    jobs: int | None = None,
    engine: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Study:
    """Forecast symbols from which nothing was learnt, with all of their past and newly listed; resumes what was stopped."""
    import training.leave_out as study

    environment = Settings.load()
    chosen = inputs.configuration(config, None, overrides)
    market = inputs.read(store or chosen.data.store, environment)
    inputs.check_symbols(market, symbols)
    first, last = _span(start, end)
    with Hours(out) as hours:
        told = study.leave_out(
            market, chosen, symbols, start=first, end=last, out=out,
            engine=inputs.engine(engine, jobs, chosen, environment), progress=hours.counting(progress),
        )  # fmt: skip
    lines = tuple(
        f"{name} {row['horizon_hours']:>3} h: loss {row['excess']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}] against the "
        f"symbol's own fully trained har_seasonal, better on {row['symbols_better']} of {row['symbols']}"
        for name, key in (("all of its past,   ", study.STRANGER), ("up to 30 days of it,", "listed"))
        for row in told[key]
        if row["excess"] is not None
    )
    return Study(Path(out) / study.DOCUMENT, told, lines, hours)


def ladder(
    store: StoreLike = None,
    *,
    out: str | Path,
    start: Moment = START,
    end: Moment = END,
    jobs: int | None = None,
    engine: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Study:
    """What each group of data adds, and what machine learning adds to it; resumes what was stopped."""
    import training.ladder as study
    from training.feature_study import SETTINGS

    environment = Settings.load()
    chosen = inputs.configuration(None, None, [*SETTINGS, *overrides])
    market = inputs.read(store, environment)
    first, last = _span(start, end)
    with Hours(out) as hours:
        told = study.ladder(
            market, chosen, start=first, end=last, out=out, engine=inputs.engine(engine, jobs, chosen, environment),
            progress=hours.counting(progress),
        )  # fmt: skip
    lines = [
        f"{row['subject']:>10} adds to {row['model']:<8} {row['horizon_hours']:>3} h: {row['gain']:+.2%} "
        f"[{row['gain_low']:+.2%}, {row['gain_high']:+.2%}]"
        for row in told["data"]
        if row["gain"] is not None
    ]
    lines += [
        f"lightgbm over har_x on {len(row['families'])} families {row['horizon_hours']:>3} h: {row['gain']:+.2%} "
        f"[{row['low']:+.2%}, {row['high']:+.2%}]"
        for row in told["learning"]
        if row["gain"] is not None
    ]
    return Study(Path(out) / study.DOCUMENT, told, tuple(lines), hours)


def _span(start: Moment, end: Moment) -> tuple[pd.Timestamp, pd.Timestamp]:
    first, last = inputs.instant(start, "--start"), inputs.instant(end, "--end")
    if first is None or last is None or not first < last:
        raise UsageError("--start must be before --end; name both")
    return first, last


def _old(market: Market, long: pd.Timestamp) -> tuple[str, ...]:
    """Symbols with two years of history by then."""
    first = market.first_bar
    return tuple(first[first <= long - LONG_HISTORY].index)


def _starts(first: pd.Timestamp, long: pd.Timestamp | None) -> dict[str, pd.Timestamp]:
    return {"All symbols": first} | ({} if long is None else {"Symbols with a long history": long})


def _windows(
    symbols: Sequence[str],
    old: Sequence[str],
    first: pd.Timestamp,
    last: pd.Timestamp,
    long: pd.Timestamp | None,
    losses: Mapping[str, Mapping[int, Mapping[str, float]]],
) -> list[Window]:
    from training.goal_figures import Window

    return [
        Window(
            name, at, last, tuple(symbols if at == first else old), {h: next(iter(x)) for h, x in losses[name].items()}
        )
        for name, at in _starts(first, long if old else None).items()
    ]


def _tuning(folder: Path, evaluation: Evaluation) -> Mapping[str, Any] | None:
    """The search whose values this evaluation has; that of another configuration is not this one's."""
    from training.tuning import DOCUMENT

    told = _document(folder / SEARCH / DOCUMENT)
    return told if told is not None and told["chosen_sha256"] == evaluation.config.sha256 else None


def _elsewhere(
    folder: Path, config: RunConfig, first: pd.Timestamp, last: pd.Timestamp, data_sha256: str
) -> dict[str, Figure]:
    """Figures that the other commands measured on the same window and data, with the same code."""
    import training.ladder
    import training.leave_out
    from training.folds import code_sha256

    same = {
        "start": f"{first:%Y-%m-%dT%H:%M:%SZ}",
        "end": f"{last:%Y-%m-%dT%H:%M:%SZ}",
        "data_sha256": data_sha256,
        "code_sha256": code_sha256(),
    }
    figures: dict[str, Figure] = {}
    left = _document(folder / LEFT_OUT / training.leave_out.DOCUMENT)
    if left is not None and _agrees(left, same | {"config_sha256": config.sha256}):
        figures |= training.leave_out.figures(left)
    climbed = _document(folder / LADDER / training.ladder.DOCUMENT)
    if climbed is not None and _agrees(climbed, same):
        figures |= training.ladder.figures(climbed)
    return figures


def _agrees(document: Mapping[str, Any], facts: Mapping[str, str]) -> bool:
    # A document of an earlier version has no code_sha256, and is of other code.
    return all(document.get(name) == value for name, value in facts.items())


def _document(path: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(path.read_bytes()) if path.is_file() else None
    return found


def _facts(evaluation: Evaluation, market: Market, tried: int, tuning: Mapping[str, Any] | None) -> dict[str, Any]:
    from training.folds import code_sha256

    return {
        "proxy": evaluation.config.proxy,
        "refit_months": evaluation.config.walkforward.refit_months,
        "config_sha256": evaluation.config.sha256,
        "data_sha256": market.data_sha256,
        "code_sha256": code_sha256(),
        "configurations": tried,
        "chosen_before": None if tuning is None else tuning["before"],
    }
