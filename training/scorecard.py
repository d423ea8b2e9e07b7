"""Out-of-sample forecasts against what came: ``scores.json``, and the comparisons that stand beside it.

Models are scored on their common sample (see ``training.sample``); nothing here fits anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.base import PROBABILITIES, RETURN_LEVELS, SCHEMA_VERSION, VARIANCE_LEVELS
from training import backtests, losses
from training.comparison import BLOCK_DAYS, model_confidence_set
from training.sample import Sample, samples, scored
from training.splits import utc

__all__ = [
    "SCORED_COLUMNS",
    "nullable",
    "score",
    "score_document",
    "score_rows",
    "scores_schema",
    "to_json_bytes",
]

FloatArray = npt.NDArray[np.float64]

SCORED_COLUMNS: Final = (
    "symbol",
    "origin",
    "horizon_hours",
    "model",
    "status",
    "variance",
    *VARIANCE_LEVELS,
    *RETURN_LEVELS,
    "ret_es010",
    "ret_es025",
    *PROBABILITIES,
    "p_onset",
)
"""What scoring reads of the forecast table; loading no more than these keeps large evaluations in memory."""

ALL_SYMBOLS: Final = "*"
FIELDS: Final = (
    "n",
    "qlike",
    "qlike_x",
    "mse_log",
    "crps_log",
    "coverage_var_90",
    "pinball_ret",
    "var_hit_010",
    "kupiec_p_010",
    "christoffersen_p_010",
    "es_z2_025",
    "brier_stress",
    "brier_skill_stress",
    "brier_skill_onset",
    "log_loss_regime",
    "ece_stress",
    "in_mcs90",
)
_SHARES: Final = frozenset(
    {"coverage_var_90", "var_hit_010", "kupiec_p_010", "christoffersen_p_010", "brier_stress", "ece_stress"}
)
_NAN: Final = float("nan")


def score(
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    *,
    start: pd.Timestamp | str,
    end: pd.Timestamp | str,
    proxy: str = "garman_klass",
) -> dict[str, Any]:
    """Every score of every model, horizon and symbol, and their equal-weighted means over symbols (``*``).

    Args:
        forecasts: the forecast table (at least SCORED_COLUMNS), any order of rows.
        realised: what came, indexed by (symbol, origin, horizon_hours), with columns variance, log_return,
            regime and onset. It reaches back two years before ``start`` where there is history: the
            climatology of regimes is a trailing count.
        start: first scored origin.
        end: exclusive end of the scored origins.
        proxy: name of the variance proxy that ``realised`` holds.

    Returns:
        The document that ``scores_schema`` describes; null where a model does not forecast
        what a field scores.

    Raises:
        UsageError: where the window is empty.
        DataInvalid: for duplicate keys, origins off the hour, variances that are not positive, or forecasts
            of a symbol or horizon that ``realised`` does not hold.
    """
    rows = [row for sample in samples(forecasts, realised, start, end) for row in score_rows(sample)]
    return score_document(rows, start=start, end=end, proxy=proxy)


def score_document(
    rows: Sequence[dict[str, Any]], *, start: pd.Timestamp | str, end: pd.Timestamp | str, proxy: str
) -> dict[str, Any]:
    """The document that ``scores_schema`` describes, of the ``score_rows`` of every sample."""
    return {
        "schema_version": SCHEMA_VERSION,
        "proxy": proxy,
        "start": _iso(utc(start)),
        "end": _iso(utc(end)),
        "scores": sorted(rows, key=lambda row: (row["model"], row["horizon_hours"], row["symbol"])),
    }


def score_rows(sample: Sample) -> Iterator[dict[str, Any]]:
    """Every score of every model and symbol of one horizon, and their means over symbols."""
    qlike_x = sample.qlike_x
    cells = [
        [_cell(sample, m, s, qlike_x[m, s]) for s in range(len(sample.symbols))] for m in range(len(sample.models))
    ]
    inside = {symbol: _confidence_set(sample, qlike_x[:, s]) for s, symbol in enumerate(sample.symbols)}
    inside[ALL_SYMBOLS] = _confidence_set(sample, _symbol_mean(qlike_x))
    for m, model in enumerate(sample.models):
        raw = dict(zip(sample.symbols, cells[m], strict=True))
        for symbol, values in {**raw, ALL_SYMBOLS: _over_symbols(cells[m])}.items():
            values |= {
                "brier_skill_stress": 1.0 - values["brier_stress"] / values["climatology_stress"],
                "brier_skill_onset": 1.0 - values["brier_onset"] / values["climatology_onset"],
            }
            row: dict[str, Any] = {"model": model, "horizon_hours": sample.horizon, "symbol": symbol}
            row |= {name: nullable(values[name]) for name in FIELDS if name in values}
            yield row | {"n": int(values["n"]), "in_mcs90": inside[symbol].get(model)}


def to_json_bytes(scores: dict[str, Any]) -> bytes:
    """The document as canonical JSON in UTF-8: the same scores give the same bytes."""
    return (json.dumps(scores, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def scores_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of ``scores.json``."""
    number = {"type": ["number", "null"]}
    share = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    fields: dict[str, Any] = {name: share if name in _SHARES else number for name in FIELDS}
    fields |= {"n": {"type": "integer", "minimum": 0}, "in_mcs90": {"type": ["boolean", "null"]}}
    row = {
        "model": {"type": "string"},
        "horizon_hours": {"type": "integer", "minimum": 1},
        "symbol": {"type": "string", "description": "* is the equal-weighted mean over symbols"},
        **fields,
    }
    instant = {"type": "string", "format": "date-time"}
    document = {
        "schema_version": {"const": SCHEMA_VERSION},
        "proxy": {"enum": ["garman_klass", "squared_returns"]},
        "start": instant,
        "end": instant,
        "scores": {"type": "array", "items": _object(row)},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "scores.json",
        **_object(document),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _over_symbols(cells: Sequence[dict[str, float]]) -> dict[str, float]:
    """Equal-weighted means of the symbols that have a value; ``n`` adds up."""
    return {
        name: sum(cell["n"] for cell in cells) if name == "n" else _mean([cell[name] for cell in cells])
        for name in cells[0]
    }


def _cell(sample: Sample, m: int, s: int, qlike_x: FloatArray) -> dict[str, float]:
    truth = {name: values[s] for name, values in sample.truth.items()}
    y, r, stress, onset = truth["variance"], truth["log_return"], truth["stress"], truth["onset"]
    variance = sample.column(m, s, "variance")
    var_010, var_025, es_025 = (sample.column(m, s, name) for name in ("ret_q010", "ret_q025", "ret_es025"))
    probabilities, p_onset = sample.table(m, s, PROBABILITIES), sample.column(m, s, "p_onset")
    p_stress = probabilities[:, 2] + probabilities[:, 3]
    hits = np.where(np.isnan(var_010 + r), np.nan, r < var_010)[sample.spaced]
    return {
        "n": float((sample.common[s] & (sample.rows[m, s] >= 0)).sum()),
        "qlike": _mean(sample.qlike[m, s]),
        "qlike_x": _mean(qlike_x),
        "mse_log": scored(losses.mse_log, y, variance),
        "crps_log": scored(losses.crps_log, y, sample.table(m, s, tuple(VARIANCE_LEVELS))),
        "coverage_var_90": scored(losses.coverage, y, sample.column(m, s, "var_q05"), sample.column(m, s, "var_q95")),
        "pinball_ret": scored(losses.pinball_ret, r, sample.table(m, s, tuple(RETURN_LEVELS)), variance),
        "var_hit_010": scored(losses.hit_rate, r, var_010),
        "kupiec_p_010": backtests.kupiec(hits, 0.01).p_value,
        "christoffersen_p_010": backtests.christoffersen(hits, 0.01).p_value,
        "es_z2_025": scored(_z2, r[sample.spaced], var_025[sample.spaced], es_025[sample.spaced]),
        "brier_stress": scored(losses.brier, stress, p_stress),
        "climatology_stress": scored(_brier_beside, stress, truth["stress_climatology"], p_stress),
        "brier_onset": scored(losses.brier, onset, p_onset),
        "climatology_onset": scored(_brier_beside, onset, truth["onset_climatology"], p_onset),
        "log_loss_regime": scored(losses.log_loss, truth["regime"], probabilities),
        "ece_stress": scored(losses.ece, stress, p_stress),
    }


def _z2(returns: FloatArray, var: FloatArray, es: FloatArray) -> float:
    return backtests.acerbi_szekely_z2(returns, var, es, 0.025)


def _brier_beside(outcome: FloatArray, climatology: FloatArray, probability: FloatArray) -> float:
    """The climatology's Brier score on the rows that have the model's probability."""
    return losses.brier(outcome, climatology)


def _confidence_set(sample: Sample, qlike: FloatArray) -> dict[str, bool]:
    """Membership by model, of models × hours of losses; empty where too few days were scored."""
    compared = np.flatnonzero(np.isfinite(qlike).any(axis=1))
    series = np.where(sample.spaced, qlike, np.nan)[compared]
    known = np.isfinite(series).all(axis=0)
    series, days = series[:, known], sample.days[known]
    _, starts, counts = np.unique(days, return_index=True, return_counts=True)
    if not starts.size:
        return {}
    # Where a day holds several origins they are averaged; from 24 h on each is alone.
    daily = np.add.reduceat(series, starts, axis=1) / counts
    block = math.ceil(BLOCK_DAYS / max(1, sample.horizon / 24))
    if daily.shape[1] < 2 * block:
        return {}
    inside = model_confidence_set(daily.T, block)
    return {sample.models[m]: bool(member) for m, member in zip(compared, inside, strict=True)}


def _symbol_mean(qlike: FloatArray) -> FloatArray:
    """Models × hours: mean over the symbols at which every compared model has a loss."""
    compared = np.isfinite(qlike).any(axis=(1, 2))
    known = np.isfinite(qlike[compared]).all(axis=0)
    total = np.where(known, qlike, 0.0).sum(axis=1)
    count = known.sum(axis=0)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    mean[~compared] = np.nan
    return np.asarray(mean)


def _iso(instant: pd.Timestamp) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def _mean(values: Any) -> float:
    array = np.asarray(values, dtype=np.float64)
    known = array[np.isfinite(array)]
    return float(known.mean()) if known.size else _NAN


def nullable(value: float) -> float | None:
    """The value, or null where it is not a finite number: JSON has no other word for it."""
    return float(value) if math.isfinite(value) else None
