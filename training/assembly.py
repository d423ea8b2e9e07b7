"""From the members' out-of-sample forecasts to rows of the forecast table, with status, reasons and provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.freshness import FEED_LIVES
from models.base import ENSEMBLE, FORECAST_SCHEMA, SCHEMA_VERSION
from models.distribution import Outcome
from models.ensemble import Assembly, Ensemble, Record
from training.config import RunConfig
from training.material import Material

__all__ = ["Origin", "Provenance", "assemble", "table_rows"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

DAYS_OF_REGIMES: Final = 90
PRESENT_HOURS: Final = 90 * 24
NUMBERS: Final = tuple(f.name for f in FORECAST_SCHEMA if str(f.type) == "double")


@dataclass(frozen=True)
class Provenance:
    """Where rows come from. ``models``: for each fold's first origin, the hash of each model's parameters.

    ``made_at`` and ``model_uri`` are None in an evaluation: there ``made_at`` is the origin, and the address names the
    fold.
    """

    config_sha256: str
    data_sha256: str
    models: Mapping[pd.Timestamp, Mapping[str, str]]
    made_at: pd.Timestamp | None = None
    model_uri: str | None = None

    @property
    def live(self) -> bool:
        """Whether the rows are served, and not evaluated."""
        return self.made_at is not None


@dataclass(frozen=True)
class Origin:
    """Status and reason of every origin on the grid: arrays (n_symbols, n_hours)."""

    absent: Mask
    flat: Mask
    degraded: npt.NDArray[np.object_]

    @classmethod
    def of(cls, material: Material, columns: slice) -> Origin:
        """Flat prices, stale feeds that the symbol had within 90 days (used or not), short histories."""
        day = material.feature("log_rv_raw_24h")[:, columns]
        flat = day <= np.log(1e-8) + 1e-6
        reason = np.full(flat.shape, "", dtype=object)
        # Read with the 90 days before the grid's part, so that a stale feed is known from the first row on.
        before = slice(max(columns.start - PRESENT_HOURS, 0), columns.stop)
        for feed, life in FEED_LIVES.items():
            age = material.ages[feed][:, before]
            fresh = age <= life
            had = _any_within(fresh, PRESENT_HOURS)[:, columns.start - before.start :]
            stale = had & (age > life)[:, columns.start - before.start :]
            reason[stale] += f"{feed} is stale; "
        young = np.expm1(material.feature("log_listing_age")[:, columns]) < DAYS_OF_REGIMES
        reason[young] += f"under {DAYS_OF_REGIMES} days of bars; "
        return cls(~material.alive[:, columns], flat, reason)


def assemble(material: Material, forecasts: pd.DataFrame, config: RunConfig) -> tuple[dict[int, Assembly], slice]:
    """Run the ensemble over the members' forecasts of consecutive folds; returns the part of the grid they span.

    ``forecasts``: indexed by (symbol, origin), columns (member, horizon), ``ln E[V]``. Rows whose symbol or hour the
    material does not have are left out: nothing can be known of what came of them.
    """
    row = pd.Index(material.symbols).get_indexer(forecasts.index.get_level_values("symbol"))
    origins = pd.DatetimeIndex(forecasts.index.get_level_values("origin")).as_unit("us")
    column = material.times.get_indexer(origins)
    known = (row >= 0) & (column >= 0)
    row, column, forecasts = row[known], column[known], forecasts[known]
    span = slice(int(column.min()), int(column.max()) + 1)
    shape = (len(material.symbols), span.stop - span.start)
    records = []
    for h in config.horizons:
        members = {}
        for name in (m.kind for m in config.members):
            grid = np.full(shape, np.nan)
            grid[row, column - span.start] = forecasts[name, h].to_numpy(np.float64)
            members[name] = grid
        records.append(_record(h, members, {k: x[:, span] for k, x in material.targets[h].items()}))
    ensemble = Ensemble(config.ensemble.members, **config.ensemble.params)
    return ensemble.assemble(records, material.times[span]), span


def _record(h: int, members: Mapping[str, Array], targets: Mapping[str, Array]) -> Record:
    outcome = Outcome(*(targets[name] for name in ("variance", "log_return", "mae_long", "mae_short")))
    thresholds = np.stack([targets[f"threshold_{name}"] for name in ("normal", "stress", "crisis")])
    return Record(h, members, outcome, thresholds, targets["regime_now"])


def table_rows(
    assemblies: Mapping[int, Assembly],
    material: Material,
    span: slice,
    origin: Origin,
    provenance: Provenance,
    start: pd.Timestamp,
    end: pd.Timestamp,
    symbols: Sequence[str],
) -> Iterator[pd.DataFrame]:
    """Rows of ``start <= origin < end`` whose bar exists, one sorted frame a symbol, in order of symbols.

    Rows that are served also stand for origins without a bar, and are blocked there and where prices were flat for a day:
    a forecast of nothing would lever up without bound. An evaluation forecasts every bar.
    """
    times = material.times[span]
    inside = np.asarray((times >= start) & (times < end))
    firsts = sorted(provenance.models)
    fold = np.searchsorted(pd.DatetimeIndex(firsts).as_unit("us").asi8, times.asi8, side="right") - 1
    for symbol in sorted(symbols):
        i = material.symbols.index(symbol)
        at = np.flatnonzero(inside if provenance.live else inside & ~origin.absent[i])
        parts = [
            _model_rows(assembly, model, i, at, times, origin, provenance, [firsts[k] for k in fold[at]])
            for assembly in assemblies.values()
            for model in assembly.columns
        ]
        frame = pd.concat(parts, ignore_index=True)
        frame.insert(1, "symbol", symbol)
        yield frame.sort_values(["origin", "horizon_hours", "model"], kind="stable", ignore_index=True)


def _model_rows(
    assembly: Assembly,
    model: str,
    i: int,
    at: npt.NDArray[np.int64],
    times: pd.DatetimeIndex,
    origin: Origin,
    provenance: Provenance,
    firsts: Sequence[pd.Timestamp],
) -> pd.DataFrame:
    columns = assembly.columns[model]
    data = {name: columns[name][i, at] if name in columns else np.full(len(at), np.nan) for name in NUMBERS}
    status, reason = _status(assembly, model, i, at, origin, live=provenance.live)
    blocked = status == "blocked"
    for name in NUMBERS:
        if not name.startswith("threshold_"):
            values = np.array(data[name])
            values[blocked] = np.nan
            data[name] = values
    origins = times[at]
    frame = pd.DataFrame({"schema_version": np.full(len(at), SCHEMA_VERSION, dtype=np.int16), "origin": origins})
    frame["horizon_hours"] = np.int16(assembly.horizon)
    frame["target_end"] = origins + pd.Timedelta(hours=assembly.horizon)
    frame["model"] = model
    frame = frame.assign(**data, status=status, reason=reason)
    frame["made_at"] = origins if provenance.made_at is None else provenance.made_at
    frame["data_asof"] = origins
    uris = {t: f"fold:{t.isoformat()}/{model}" for t in provenance.models}
    frame["model_uri"] = [uris[t] for t in firsts] if provenance.model_uri is None else provenance.model_uri
    digests = {t: hashes.get(model, _joint(hashes)) for t, hashes in provenance.models.items()}
    frame["model_sha256"] = [digests[t] for t in firsts]
    frame["config_sha256"], frame["data_sha256"] = provenance.config_sha256, provenance.data_sha256
    return frame


def _status(
    assembly: Assembly, model: str, i: int, at: npt.NDArray[np.int64], origin: Origin, *, live: bool
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    status = np.full(len(at), "ok", dtype=object)
    reason = origin.degraded[i, at].copy()
    flat = origin.flat[i, at]
    reason[flat] += "prices were flat for 24 hours, the feed may be stale; "
    undefined = np.isnan(assembly.columns[model]["threshold_normal"][i, at])
    reason[undefined] += "regimes are not defined yet; "
    status[reason != ""] = "degraded"
    if model == ENSEMBLE:
        answered = assembly.answered[i, at]
        for step, name in enumerate(assembly.ladder[1:], start=1):
            # A young symbol stays degraded: its regime columns are null, and the reason says who answered.
            status[(answered == step) & ~undefined] = "fallback"
            reason[answered == step] += f"{name} answered, the ensemble's members could not; "
    nothing = ~np.isfinite(assembly.columns[model]["variance"][i, at])
    status[nothing] = "blocked"
    absent = origin.absent[i, at]
    reason[nothing & ~absent] += "not enough history for any forecast; "
    status[absent] = "blocked"
    reason[absent] += "no bar closed at this origin; "
    if live:
        status[flat] = "blocked"
    stripped = np.array([text.removesuffix("; ") for text in reason], dtype=object)
    return status, stripped


def _joint(hashes: Mapping[str, str]) -> str:
    """The ensemble has no file of its own: it is its members' parameters."""
    return hashlib.sha256(json.dumps(dict(hashes), sort_keys=True).encode()).hexdigest()


def _any_within(x: Mask, hours: int) -> Mask:
    """Whether any of the last ``hours`` columns is true."""
    since = np.where(x, np.arange(x.shape[1]), -hours - 1)
    return np.asarray(np.arange(x.shape[1]) - np.maximum.accumulate(since, axis=1) < hours)
