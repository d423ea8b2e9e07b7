"""From the members' out-of-sample forecasts to rows of the forecast table, with status, reasons and provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from features.freshness import FEED_LIVES
from features.panel import MICROSECONDS_PER_HOUR
from models.base import ENSEMBLE, FORECAST_SCHEMA, SCHEMA_VERSION, STATUSES, THRESHOLDS
from models.ensemble import Assembly, Ensemble
from models.past import Outcome, Record
from training.config import RunConfig
from training.material import Material

__all__ = ["Origin", "Provenance", "assemble", "ensemble", "records", "split_inputs", "symbol_rows", "table_rows"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

DAYS_OF_REGIMES: Final = 90
PRESENT_HOURS: Final = 90 * 24
DEGRADING: Final = (*(f"{feed} is stale" for feed in FEED_LIVES), f"under {DAYS_OF_REGIMES} days of bars")
OUTCOMES: Final = ("variance", "log_return", "mae_long", "mae_short")
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
    """What weakens or blocks the forecasts of every origin on the grid: arrays (n_symbols, n_hours).

    ``degraded`` has one bit for each cause of ``DEGRADING``.
    """

    absent: Mask
    flat: Mask
    degraded: npt.NDArray[np.int64]

    @classmethod
    def of(cls, material: Material, columns: slice) -> Origin:
        """Flat prices, stale feeds that the symbol had within 90 days (used or not), short histories."""
        day = material.feature("log_rv_raw_24h")[:, columns]
        flat = day <= np.log(1e-8) + 1e-6
        degraded = np.zeros(flat.shape, dtype=np.int64)
        # Read with the 90 days before the grid's part, so that a stale feed is known from the first row on.
        before = slice(max(columns.start - PRESENT_HOURS, 0), columns.stop)
        for bit, (feed, life) in enumerate(FEED_LIVES.items()):
            age = material.ages[feed][:, before]
            fresh = age <= life
            had = _any_within(fresh, PRESENT_HOURS)[:, columns.start - before.start :]
            stale = had & (age > life)[:, columns.start - before.start :]
            degraded[stale] |= 1 << bit
        young = np.expm1(material.feature("log_listing_age")[:, columns]) < DAYS_OF_REGIMES
        degraded[young] |= 1 << len(FEED_LIVES)
        return cls(~material.alive[:, columns], flat, degraded)


def assemble(material: Material, forecasts: pd.DataFrame, config: RunConfig) -> tuple[dict[int, Assembly], slice]:
    """Run the ensemble over the members' forecasts of consecutive folds; returns the part of the grid they span.

    ``forecasts``: as ``records`` takes them.
    """
    made, span = records(material, forecasts, config)
    return ensemble(config).assemble(made, material.times[span]), span


def ensemble(config: RunConfig) -> Ensemble:
    """The ensemble that a configuration names."""
    return Ensemble(config.ensemble.members, **config.ensemble.params)


def records(
    material: Material, forecasts: pd.DataFrame, config: RunConfig, *, newest: bool = False
) -> tuple[list[Record], slice]:
    """Forecasts and targets as the ensemble takes them, and the part of the grid they span (``newest``: to its end).

    ``forecasts``: indexed by (symbol, origin), columns (member, horizon), ``ln E[V]``; columns of other names are inputs
    beside them. Rows whose symbol or hour the material does not have are left out: nothing can be known of what came of
    them.
    """
    row = pd.Index(material.symbols).get_indexer(forecasts.index.get_level_values("symbol"))
    origins = pd.DatetimeIndex(forecasts.index.get_level_values("origin")).as_unit("us")
    column = material.times.get_indexer(origins)
    known = (row >= 0) & (column >= 0)
    row, column, forecasts = row[known], column[known], forecasts[known]
    span = slice(int(column.min()), len(material.times) if newest else int(column.max()) + 1)
    stranger = np.isin(material.symbols, config.walkforward.exclude)[:, None]
    made = []
    for h in config.horizons:
        grids = {}
        for name in forecasts.columns.get_level_values(0)[forecasts.columns.get_level_values(1) == h]:
            grids[str(name)] = np.full((len(material.symbols), span.stop - span.start), np.nan)
            grids[str(name)][row, column - span.start] = forecasts[name, h].to_numpy(np.float64)
        members, inputs = split_inputs(grids, config)
        targets = {name: x[:, span] for name, x in material.targets[h].items()}
        # What came of a symbol that nothing may be learnt from stays unresolved; its thresholds are its own past.
        targets |= {k: np.where(stranger, np.nan, targets[k]) for k in OUTCOMES if stranger.any()}
        outcome = Outcome(*(targets[name] for name in OUTCOMES))
        thresholds = np.stack([targets[f"threshold_{name}"] for name in ("normal", "stress", "crisis")])
        made.append(Record(h, members, outcome, thresholds, targets["regime_now"], inputs))
    return made, span


def split_inputs(grids: Mapping[str, Array], config: RunConfig) -> tuple[dict[str, Array], dict[str, Array]]:
    """What was predicted for one horizon, by name: the members' forecasts in their order, and the inputs beside them."""
    members = {m.kind: grids[m.kind] for m in config.members}
    return members, {name: x for name, x in grids.items() if name not in members}


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
    pairs = [(assemblies[h], model) for h in sorted(assemblies) for model in sorted(assemblies[h].columns)]
    for symbol in sorted(symbols):
        i = material.symbols.index(symbol)
        at = np.flatnonzero(inside if provenance.live else inside & ~origin.absent[i])
        yield symbol_rows(symbol, i, at, pairs, times[at], origin, provenance)


def symbol_rows(
    symbol: str,
    i: int,
    at: npt.NDArray[np.int64],
    pairs: Sequence[tuple[Assembly, str]],
    times: pd.DatetimeIndex,
    origin: Origin,
    provenance: Provenance,
) -> pd.DataFrame:
    """A symbol's rows, in order as they are made: each column is an array (n_origins, n_pairs of horizon and model)."""
    told = [_status(assembly, model, i, at, origin, live=provenance.live) for assembly, model in pairs]
    models, of_model = np.unique([model for _, model in pairs], return_inverse=True)
    hours = np.array([assembly.horizon for assembly, _ in pairs])
    origins = times.as_unit("us").asi8[:, None]
    firsts = sorted(provenance.models)
    fold = np.searchsorted(pd.DatetimeIndex(firsts).as_unit("us").asi8, origins, side="right") - 1
    uris = [provenance.model_uri or f"fold:{t.isoformat()}/{model}" for t in firsts for model in models]
    hashes = [provenance.models[t] for t in firsts]
    digests = [of_fold.get(model, _joint(of_fold)) for of_fold in hashes for model in models]
    forecaster = fold * len(models) + of_model
    made_at = origins if provenance.made_at is None else provenance.made_at.value // 1000
    columns: dict[str, npt.NDArray[Any] | pa.Array] = {
        "schema_version": np.array(SCHEMA_VERSION),
        "symbol": _words([symbol], np.zeros_like(forecaster)),
        "origin": origins,
        "horizon_hours": hours,
        "target_end": origins + hours * MICROSECONDS_PER_HOUR,
        "model": _words(models.tolist(), np.broadcast_to(of_model, forecaster.shape)),
        **_numbers(pairs, i, at, [status for status, _ in told]),
        "status": _merged([status for status, _ in told]),
        "reason": _merged([reason for _, reason in told]),
        "made_at": np.asarray(made_at),
        "data_asof": origins,
        "model_uri": _words(uris, forecaster),
        "model_sha256": _words(digests, forecaster),
        "config_sha256": _words([provenance.config_sha256], np.zeros_like(forecaster)),
        "data_sha256": _words([provenance.data_sha256], np.zeros_like(forecaster)),
    }
    arrays = [_column(columns[field.name], field.type, forecaster.shape) for field in FORECAST_SCHEMA]
    frame: pd.DataFrame = pa.table(arrays, names=FORECAST_SCHEMA.names).to_pandas(split_blocks=True)
    return frame


def _numbers(
    pairs: Sequence[tuple[Assembly, str]], i: int, at: npt.NDArray[np.int64], statuses: Sequence[pd.Categorical[str]]
) -> dict[str, Array]:
    blocked = [np.asarray(status == "blocked") for status in statuses]
    numbers = {}
    for name in NUMBERS:
        out = np.full((len(at), len(pairs)), np.nan)
        for j, (assembly, model) in enumerate(pairs):
            if name in assembly.columns[model]:
                out[:, j] = assembly.columns[model][name][i, at]
                if name not in THRESHOLDS:
                    out[blocked[j], j] = np.nan
        numbers[name] = out
    return numbers


def _words(words: Sequence[str], codes: npt.NDArray[np.integer[Any]]) -> pa.Array:
    """The word of each code, row by row: few words on many rows, which are never made into Python strings."""
    distinct = pa.array(words, pa.large_string())
    return pa.DictionaryArray.from_arrays(codes.ravel().astype(np.int32), distinct).dictionary_decode()


def _merged(parts: Sequence[pd.Categorical[str]]) -> pa.Array:
    """Words of several columns of the same length, interleaved."""
    words = sorted({word for part in parts for word in part.categories})
    return _words(words, np.column_stack([part.set_categories(words).codes for part in parts]))


def _column(values: npt.NDArray[Any] | pa.Array, kind: pa.DataType, shape: tuple[int, ...]) -> pa.Array:
    """A column's values, broadcast to ``shape`` and read row by row, as the schema's type."""
    if isinstance(values, pa.Array):
        return values
    flat = np.broadcast_to(values, shape).ravel()
    return pa.array(flat.view("datetime64[us]") if pa.types.is_timestamp(kind) else flat, kind)


def _status(
    assembly: Assembly, model: str, i: int, at: npt.NDArray[np.int64], origin: Origin, *, live: bool
) -> tuple[pd.Categorical[str], pd.Categorical[str]]:
    """Status of a symbol's rows, and the reasons for it."""
    flat, absent = origin.flat[i, at], origin.absent[i, at]
    undefined = np.isnan(assembly.columns[model]["threshold_normal"][i, at])
    nothing = ~np.isfinite(assembly.columns[model]["variance"][i, at])
    step = assembly.answered[i, at] if model == ENSEMBLE else np.zeros(len(at), dtype=np.int64)
    causes = {
        **{cause: origin.degraded[i, at] >> bit & 1 for bit, cause in enumerate(DEGRADING)},
        "prices were flat for 24 hours, the feed may be stale": flat,
        "regimes are not defined yet": undefined,
        **{
            f"{name} answered, the ensemble's members could not": step == number
            for number, name in enumerate(assembly.ladder[1:], start=1)
        },
        "not enough history for any forecast": nothing & ~absent,
        "no bar closed at this origin": absent,
    }
    degraded = (origin.degraded[i, at] > 0) | flat | undefined
    # A young symbol stays degraded: its regime columns are null, and the reason says who answered.
    fallback = (step > 0) & ~undefined
    blocked = nothing | absent | (flat & live)
    code = np.select([blocked, fallback, degraded], [STATUSES.index(s) for s in ("blocked", "fallback", "degraded")])
    return pd.Categorical.from_codes(code, pd.Index(STATUSES)), _reasons(causes)


def _reasons(causes: Mapping[str, npt.NDArray[Any]]) -> pd.Categorical[str]:
    """All causes that hold, row by row, as one text."""
    flags = sum(holds.astype(np.int64) << bit for bit, holds in enumerate(causes.values()))
    distinct, code = np.unique(flags, return_inverse=True)
    texts = ["; ".join(cause for bit, cause in enumerate(causes) if flag >> bit & 1) for flag in distinct.tolist()]
    return pd.Categorical.from_codes(code, pd.Index(texts))


def _joint(hashes: Mapping[str, str]) -> str:
    """The ensemble has no file of its own: it is its members' parameters."""
    return hashlib.sha256(json.dumps(dict(hashes), sort_keys=True).encode()).hexdigest()


def _any_within(x: Mask, hours: int) -> Mask:
    """Whether any of the last ``hours`` columns is true."""
    since = np.where(x, np.arange(x.shape[1]), -hours - 1)
    return np.asarray(np.arange(x.shape[1]) - np.maximum.accumulate(since, axis=1) < hours)
