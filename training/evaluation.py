"""The walk-forward: every forecast made as it could have been made, scored on what came.

Folds are cut on time across all symbols at once and refitted at their border; folds before ``start`` warm up what learns
from resolved forecasts (levels, weights, the predictive law, calibration). Folds run in any order and resume after a kill;
the pass that assembles them is causal and cheap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features import locking
from features.errors import UsageError
from features.market import Market
from features.store import write_atomically
from models import table
from models.base import ENSEMBLE
from models.ensemble import Assembly
from training.assembly import Origin, Provenance, assemble, table_rows
from training.config import RunConfig
from training.contributions import CONTRIBUTIONS, explained, feature_families, write
from training.costs import Meter
from training.diagnostics import OPPONENTS, diagnose, joined
from training.engine import Engine, Progress
from training.fold_store import read_fold, read_terms
from training.folds import FoldResult
from training.material import give_back, prepare
from training.sample import samples
from training.scorecard import SCORED_COLUMNS, score_document, score_rows, to_json_bytes
from training.splits import utc
from training.walkforward import FOLDS, clear, place_of, plan, run_folds

__all__ = ["CLIMATOLOGY", "Evaluation", "evaluate"]

CLIMATOLOGY: Final = pd.Timedelta(days=731)


@dataclass(frozen=True)
class Evaluation:
    """A finished walk-forward. The forecast table stays on disk until it is read.

    ``weights``: one row per refresh and horizon, one column per combined member. ``importance``: how much each feature of the
    boosted members moves ``ln F``, as the standard deviation of its accumulated local effect on test rows, averaged over the
    scored folds, one column per horizon.
    """

    out: Path
    config: RunConfig
    start: pd.Timestamp
    end: pd.Timestamp
    scores: Mapping[str, Any] = field(repr=False)
    diagnostics: Mapping[str, Any] = field(repr=False)
    realised: pd.DataFrame = field(repr=False)
    weights: pd.DataFrame = field(repr=False)
    importance: pd.DataFrame = field(repr=False)

    @property
    def path(self) -> Path:
        """Where the forecast table lies."""
        return self.out / "forecasts.parquet"

    @property
    def forecasts(self) -> pd.DataFrame:
        """What scoring reads of the forecast table, all models; read anew each time, since it is large."""
        return table.read_parquet(self.path, columns=SCORED_COLUMNS)

    @cached_property
    def ensemble(self) -> pd.DataFrame:
        """The product's own rows, all columns."""
        return table.read_parquet(self.path, models=[ENSEMBLE])

    def summary(self) -> str:
        """Gains over the seasonal HAR, and where everything lies."""
        lines = [
            f"{self.start:%Y-%m-%d} to {self.end:%Y-%m-%d}, proxy {self.config.proxy}: QLIKE without the shock day"
        ]
        means = {(r["model"], r["horizon_hours"]): r for r in self.scores["scores"] if r["symbol"] == "*"}
        for h in self.config.horizons:
            losses = {model: row["qlike_x"] for (model, at), row in means.items() if at == h and row["qlike_x"]}
            told = ", ".join(f"{model} {loss:.4f}" for model, loss in sorted(losses.items(), key=lambda item: item[1]))
            lines.append(f"{h:>3} h: {told}")
        lines += [
            f"{gain['horizon_hours']:>3} h: {gain['loss']} of ensemble {gain['gain']:+.1%} against har_seasonal "
            f"[{gain['low']:+.1%}, {gain['high']:+.1%}], better on {gain['symbols_better']} of {gain['symbols']}"
            for gain in self.diagnostics["gains"]
            if gain["opponent"] == "har_seasonal"
        ]
        return "\n".join(lines)


def evaluate(
    market: Market,
    config: RunConfig,
    *,
    start: pd.Timestamp | str,
    end: pd.Timestamp | str,
    out: str | Path,
    symbols: Sequence[str] | None = None,
    jobs: int = 2,
    engine: Engine | None = None,
    progress: Progress | None = None,
    meter: Meter | None = None,
) -> Evaluation:
    """Forecast every hour of ``start <= origin < end`` out of sample and score it.

    Writes ``forecasts.parquet``, ``contributions.parquet`` (what each forecast is the sum of), ``scores.json`` and
    ``diagnostics.json`` to ``out``, and a folder a fold beside them; finished folds are not made again, and the result is the
    same to the byte. ``symbols`` limits the rows written; members learn from all. ``engine``: where folds are made (None: by
    ``jobs`` processes of this machine); no result depends on it. ``meter`` counts what each stage costs.

    Raises ``UsageError`` where ``start`` leaves too little history or a symbol is unknown or none is left to learn
    from, ``DataStale`` where the data end
    before ``start``, ``Locked`` where another process writes to ``out``, ``Interrupted`` when stopped.
    """
    first, last, folder = utc(start), utc(end), Path(out)
    engine, meter = engine or Engine(jobs), meter or Meter()
    with meter.stage("prepare"):
        material = prepare(market, config)
    chosen = _chosen(symbols, material.symbols)
    _leave_some(config.walkforward.exclude, material.symbols)
    with locking.writing(folder):
        clear(folder)
        folds = plan(material, config, first, last)
        with meter.stage("folds"):
            results = run_folds(
                folds, material, config, market.data_sha256, folder / FOLDS, engine, progress, meter,
                families=feature_families(config),
            )  # fmt: skip
        models = {result.first_origin: result.params_sha256 for result in results}
        provenance, importance = Provenance(config.sha256, market.data_sha256, models), _importance(results, first)
        # Features are most of the memory, and are not read again; nor is each fold once they are one.
        material = material.settled()
        forecasts = pd.concat([result.forecasts for result in results])
        del results
        give_back()
        forecasts = forecasts.sort_index(kind="stable")
        with meter.stage("assemble"):
            assemblies, span = assemble(material, forecasts, config)
        del forecasts
        with meter.stage("write"):
            rows = table_rows(assemblies, material, span, Origin.of(material, span), provenance, first, last, chosen)
            table.write_parts(rows, folder / "forecasts.parquet")
            del rows
            scored = [place_of(folder / FOLDS, fold) for fold in folds if fold.index >= 0]
            terms = ((read_terms(place), read_fold(place).forecasts) for place in scored)
            write(explained(terms, assemblies, material.symbols, material.times[span], chosen), folder / CONTRIBUTIONS)
        weights, clips = _weights(assemblies), _clips(assemblies, (first, last), material.times[span])
        del assemblies
        realised = material.realised(first - CLIMATOLOGY, last)
        del material
        with meter.stage("score"):
            return _scored(folder, config, first, last, realised, weights, importance, clips)


def _scored(
    folder: Path,
    config: RunConfig,
    start: pd.Timestamp,
    end: pd.Timestamp,
    realised: pd.DataFrame,
    weights: pd.DataFrame,
    importance: pd.DataFrame,
    clips: list[dict[str, int]],
) -> Evaluation:
    give_back()
    opponents = [m.kind for m in config.members if m.kind in OPPONENTS]

    def judged(forecasts: pd.DataFrame) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        found = list(samples(forecasts, realised, start, end))
        return [row for s in found for row in score_rows(s)], [
            diagnose(s, ENSEMBLE, opponents, realised) for s in found
        ]

    # No name is given to a horizon's rows: they are gone before the next ones are read.
    horizons = list(map(judged, table.read_horizons(folder / "forecasts.parquet", SCORED_COLUMNS)))
    scores = score_document([row for rows, _ in horizons for row in rows], start=start, end=end, proxy=config.proxy)
    told = joined(part for _, parts in horizons for part in parts)
    told["weights"] = json.loads(weights.reset_index().to_json(orient="records", date_format="iso"))
    told["clips"] = clips
    write_atomically(folder / "scores.json", to_json_bytes(scores))
    write_atomically(folder / "diagnostics.json", to_json_bytes(told))
    return Evaluation(folder, config, start, end, scores, told, realised, weights, importance)


def _weights(assemblies: Mapping[int, Assembly]) -> pd.DataFrame:
    tables = {h: assembly.combination.weights.rename_axis("origin") for h, assembly in assemblies.items()}
    return pd.concat(tables, names=["horizon_hours"])


def _clips(
    assemblies: Mapping[int, Assembly], span: tuple[pd.Timestamp, pd.Timestamp], times: pd.DatetimeIndex
) -> list[dict[str, int]]:
    """How many forecasts of the combination were held to their bounds, by horizon."""
    inside = np.asarray((times >= span[0]) & (times < span[1]))
    return [
        {
            "horizon_hours": h,
            "forecasts": int(np.isfinite(assembly.combination.log_forecast[:, inside]).sum()),
            "held_up": int((assembly.clipped[:, inside] < 0).sum()),
            "held_down": int((assembly.clipped[:, inside] > 0).sum()),
        }
        for h, assembly in assemblies.items()
    ]


def _importance(results: Sequence[FoldResult], start: pd.Timestamp) -> pd.DataFrame:
    tables = [r.importance for r in results if r.first_origin >= start and not r.importance.empty]
    if not tables:
        return pd.DataFrame()
    # A feature that a fold does not tell is weaker there than those that it tells.
    return pd.concat(tables).fillna(0.0).groupby(level=["member", "feature"]).sum() / len(tables)


def _chosen(symbols: Sequence[str] | None, known: Sequence[str]) -> Sequence[str]:
    if unknown := sorted(set(symbols or ()) - set(known)):
        raise UsageError(f"symbol {unknown[0]} has no bars in this market; it has {', '.join(known)}")
    return sorted(set(symbols)) if symbols else known


def _leave_some(exclude: Sequence[str], known: Sequence[str]) -> None:
    """Refuse to exclude symbols that are not there, or all of them."""
    there = ", ".join(known)
    if unknown := sorted(set(exclude) - set(known)):
        raise UsageError(f"walkforward.exclude: symbol {unknown[0]} has no bars in this market; it has {there}")
    if set(exclude) == set(known):
        raise UsageError(f"walkforward.exclude names all of {there}; leave at least one symbol to learn from")
