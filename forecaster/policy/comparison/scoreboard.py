"""The scoreboard: every policy raw, at equal mean margin and at equal coverage, with inference and goals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features.market import Market
from features.panel import Array
from features.store import write_atomically
from forecaster.policy.observables import DAY
from forecaster.policy.params import Params
from training.scorecard import nullable, to_json_bytes

from .ablations import core_margin, ungoverned
from .contest import Contest, contest, further
from .figures import figures_of
from .goals import goals_table, judge
from .ground import Ground
from .inference import LOSSES, BacktestShare, Difference, backtests, differences
from .leads import leads, onsets
from .rows import Exposures, Table, Venue, policy_rows
from .scaling import levelled
from .tables import differences_table, rows_table

__all__ = ["FILES", "Scoreboard", "scoreboard", "scoreboard_of"]

OPPONENTS: Final = ("fhs_apc", "fhs", "static")
FILES: Final = {
    "equal_mean": "policy_scores.json",
    "equal_coverage": "policy_scores_equal_coverage.json",
    "raw": "policy_scores_raw.json",
    "extended": "policy_scores_extended.json",
}
TARGET: Final = "ensemble_no_governor"


@dataclass(frozen=True)
class Scoreboard:
    """Rows by comparison, what the differences are worth, and the goals."""

    rows: dict[str, list[dict[str, Any]]]
    differences: dict[str, list[Difference]]
    backtests: dict[str, list[BacktestShare]]
    overlays: list[dict[str, Any]]
    goals: list[dict[str, Any]]
    span: dict[str, str]
    notes: list[str] = field(default_factory=list)

    def write(self, out: str | Path) -> list[Path]:
        """Write ``FILES`` and ``policy_goals.json`` into ``out``; returns the paths."""
        written = []
        for comparison, name in FILES.items():
            document = {"schema_version": 1, **self.span, "comparison": comparison, "rows": self.rows[comparison]}
            written.append(Path(out) / name)
            write_atomically(written[-1], to_json_bytes(document))
        told = {
            "schema_version": 1,
            **self.span,
            "goals": self.goals,
            "differences": {k: [_finite(d._asdict()) for d in v] for k, v in self.differences.items()},
            "backtests": {k: [_finite(b._asdict()) for b in v] for k, v in self.backtests.items()},
            "overlays": self.overlays,
            "notes": self.notes,
        }
        written.append(Path(out) / "policy_goals.json")
        write_atomically(written[-1], to_json_bytes(told))
        return written

    def markdown(self) -> str:
        """Headline rows, differences and goals as tables."""
        parts = [f"## {name}\n\n{rows_table(rows)}" for name, rows in self.rows.items()]
        parts += [f"## Differences, {name}\n\n{differences_table(found)}" for name, found in self.differences.items()]
        parts += [f"## Goals\n\n{goals_table(self.goals)}", *self.notes]
        return "\n".join(parts) + "\n"


def scoreboard(
    forecasts: str | Path | pd.DataFrame,
    market: Market,
    params: Params,
    *,
    start: pd.Timestamp | str | None = None,
    end: pd.Timestamp | str | None = None,
    venue: Venue | None = None,
    reps: int = 500,
) -> Scoreboard:
    """Score every policy on the forecasts' origins with ``start <= origin < end``.

    ``forecasts``: a forecast table or its Parquet file; origins before ``start`` are the past that the first scalars are
    fitted on, without any the first month is (``Scoreboard.notes`` says so). ``venue``: account-level fields, null where
    absent. ``reps``: bootstrap draws.

    Raises UsageError where no origin is left, DataInvalid for a table without the model's rows.
    """
    return scoreboard_of(contest(forecasts, market, params, start=start, end=end), forecasts, venue=venue, reps=reps)


def scoreboard_of(
    met: Contest, forecasts: str | Path | pd.DataFrame, *, venue: Venue | None = None, reps: int = 500
) -> Scoreboard:
    """The scoreboard of a contest that was made of the same ``forecasts``; arguments of ``scoreboard``."""
    ground = met.ground
    runs = {name: {policy: m.im for policy, m in run.items()} for name, run in met.runs.items()}
    exposures = Exposures.of(ground, met.exposure, ground.scored)
    found = {
        name: [d for opponent in OPPONENTS for d in differences(run, "ensemble", opponent, ground, reps)]
        for name, run in runs.items()
    }
    target = {"ensemble": runs["raw"]["ensemble"], TARGET: ungoverned(met.variant, ground).im}
    found["governor"] = differences(target, "ensemble", TARGET, ground, reps)
    found["levelled"] = _at_one_mean(runs["raw"], ground, reps)
    standing, runs["extended"] = further(met, forecasts)
    standing |= runs["raw"]
    events = onsets(ground)
    warned = {policy: leads(im, events) for policy, im in standing.items()}
    rows = {
        name: policy_rows(Table(name, run, ground.scored, ground, exposures, venue or {}, warned))
        for name, run in runs.items()
    }
    core = core_margin(met.variant.inputs, ground)
    return Scoreboard(
        rows=rows,
        differences=found,
        backtests={name: backtests(im, ground) for name, im in runs["raw"].items()},
        overlays=exposures.table(),
        goals=judge(figures_of(rows, found, runs["raw"], warned["ensemble"][0], core, ground, exposures)),
        span=_span(ground),
        notes=[*_notes(ground), *_absent(standing, ground)],
    )


def _at_one_mean(margins: Mapping[str, Array], ground: Ground, reps: int) -> list[Difference]:
    """The losses against each opponent at its own realised mean: how scalars of the past miss it left out."""
    out: list[Difference] = []
    for opponent in OPPONENTS:
        other = margins[opponent]
        pair = {"ensemble": levelled(margins["ensemble"], other, ground), opponent: other}
        out += [d for d in differences(pair, "ensemble", opponent, ground, reps) if d.metric in LOSSES]
    return out


def _span(ground: Ground) -> dict[str, str]:
    at = np.flatnonzero(ground.scored.any(axis=0))
    return {"start": iso(ground.times[at[0]]), "end": iso(ground.times[at[-1]])}


def _notes(ground: Ground) -> list[str]:
    days = int(ground.origins[:, : ground.folds[0]].any(axis=0).sum()) // DAY
    past = f"{days} days of forecasts before the span" if ground.warm_up else "the first month, which is not scored"
    return [
        f"The first scalars are fitted on {past}.",
        "Leads and false alarms are those of each margin as it stands, in every comparison.",
        f"{int(ground.scored.sum()):,} origins of {int(ground.scored.any(axis=1).sum())} symbols are compared.",
        "exchange is scored from its first observed tiers on, at the smallest size; exchange_1m at a million USD.",
        "Depth is modelled from volume; open interest counts only where the store has it.",
        "oracle knows the variance of the interval it covers; it is a ceiling, never a rival.",
    ]


def _absent(standing: Mapping[str, Array], ground: Ground) -> list[str]:
    """Policies that have no margin at some of the compared origins: their rows rest on the others alone."""
    shares = {name: float((~np.isnan(im))[ground.scored].mean()) for name, im in standing.items()}
    return [
        f"{name} has a margin at {100 * share:.1f} % of the compared origins; its rows rest on those alone."
        for name, share in shares.items()
        if share < 1
    ]


def iso(instant: pd.Timestamp) -> str:
    """ISO 8601, UTC, whole seconds."""
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def _finite(told: dict[str, Any]) -> dict[str, Any]:
    return {
        k: {str(y): nullable(x) for y, x in v.items()}
        if isinstance(v, dict)
        else nullable(v)
        if isinstance(v, float)
        else v
        for k, v in told.items()
    }
