"""From forecast rows to one checked input per symbol and origin.

``prepare`` joins what the market showed at each origin to the forecast rows, as columns named ``obs_…``;
``read`` checks the rows and lays them out as arrays, one row per line of the schedule. A frame without
``obs_…`` columns is lawful: the observables are then absent, and the policy answers with its prudent
constants.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from features.errors import DataInvalid
from features.market import Market
from models.base import (
    EXCURSION_COLUMNS,
    FORECAST_SCHEMA,
    PROBABILITIES,
    RETURN_LEVELS,
    SHORTFALL_LEVELS,
    STATUSES,
    VARIANCE_LEVELS,
)

from .feeds import OBSERVABLES, VENUE_OBSERVABLES, checked
from .history import forecast_history
from .observables import MarketHistory
from .params import Params
from .types import HOUR

__all__ = ["Inputs", "prepare", "read", "read_with_market"]

Floats = npt.NDArray[np.float64]

MARGIN_HORIZON: Final = 24
USABLE, STALE, NAN = 0, 1, 2
SHORTFALLS: Final = tuple(SHORTFALL_LEVELS)
ALWAYS: Final = (
    "variance",
    "vol_annualised",
    *VARIANCE_LEVELS,
    *RETURN_LEVELS,
    *SHORTFALLS,
    *EXCURSION_COLUMNS["long"],
    *EXCURSION_COLUMNS["short"],
)
ORDERED: Final = (
    tuple(VARIANCE_LEVELS),
    tuple(RETURN_LEVELS),
    tuple(EXCURSION_COLUMNS["long"]),
    tuple(EXCURSION_COLUMNS["short"]),
)
# The hash of the whole store changes with every bar that follows; a line must not.
HASHED: Final = tuple(name for name in FORECAST_SCHEMA.names if name != "data_sha256")


@dataclass(frozen=True)
class Inputs:
    """One row per (origin, symbol), in that order; n lines, H horizons."""

    symbol: list[str]
    origin: npt.NDArray[np.int64]  # microseconds
    horizons: tuple[int, ...]
    q_mm: Floats  # (n, H): larger side's 99 % excursion quantile, NaN where the horizon is absent
    q_im: Floats  # larger side's 99.5 % quantile over 24 h
    q_far: Floats  # larger side's 99.9 % quantile over 24 h
    variance: Floats  # 24 h
    sigma_annual: Floats
    probabilities: Floats  # (n, 4)
    returns: Floats  # (n, 11) quantiles of the 24 h log return
    fault: npt.NDArray[np.int64]  # USABLE, STALE or NAN
    fallback: npt.NDArray[np.bool_]
    stale_feed: npt.NDArray[np.bool_]
    forecast_hash: list[str]
    model_sha256: list[str]
    observed: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.symbol)

    @cached_property
    def lines(self) -> pd.DataFrame:
        """Symbol, origin and the 24 h numbers of every line, for the series of past forecasts."""
        usable = self.fault == USABLE
        return pd.DataFrame(
            {
                "symbol": self.symbol,
                "origin": pd.to_datetime(self.origin, unit="us", utc=True).as_unit("us"),
                "q_im": np.where(usable, self.q_im, np.nan),
                "q_mm": np.where(usable, self.q_mm[:, self.horizons.index(MARGIN_HORIZON)], np.nan),
                "variance": np.where(usable, self.variance, np.nan),
            }
        )


def prepare(forecasts: pd.DataFrame, market: Market, params: Params) -> pd.DataFrame:
    """The forecast rows of ``params.model`` with the market's observables joined as columns ``obs_…``.

    Every observable of a row was known at the row's origin. Columns ``obs_…`` of ``VENUE_OBSERVABLES`` are kept.
    """
    rows = _select(forecasts, params)
    observed = _observe(read(rows, params), MarketHistory(market, params))
    joined = observed.add_prefix("obs_").iloc[_line_of_row(rows)].set_index(rows.index)
    return pd.concat([rows.loc[:, list(FORECAST_SCHEMA.names)], joined], axis=1)


def read_with_market(forecasts: pd.DataFrame, history: MarketHistory) -> Inputs:
    """``read(prepare(forecasts, market))`` without the wide frame between them."""
    inputs = read(forecasts, history.params)
    return _attach(inputs, _observe(inputs, history), history.params)


def _observe(inputs: Inputs, history: MarketHistory) -> pd.DataFrame:
    learnt = forecast_history(inputs.lines, history, history.params)
    told = pd.DataFrame({name: inputs.observed[name] for name in VENUE_OBSERVABLES})
    return pd.concat([history.gather(inputs.lines), learnt, told], axis=1)


def _attach(inputs: Inputs, observed: pd.DataFrame, params: Params) -> Inputs:
    """The inputs with the market's observables.

    A line whose bars are too old, or from the future, becomes stale; one with an impossible, missing or lost feed
    counts as degraded.
    """
    raw = {name: observed[name].to_numpy(np.float64) for name in (*OBSERVABLES, *VENUE_OBSERVABLES)}
    seen, doubtful = checked(raw, params.margin.floor_min_days)
    old = (raw["bar_age_hours"] > params.failsafe.stale_hours) | (raw["bar_age_hours"] < 0)
    fault = np.where(old, np.maximum(inputs.fault, STALE), inputs.fault)
    return replace(inputs, fault=fault, observed=seen, stale_feed=inputs.stale_feed | doubtful)


def read(forecasts: pd.DataFrame, params: Params) -> Inputs:
    """Check forecast rows and lay them out by line. Bad rows are marked, never dropped.

    Raises DataInvalid where columns are missing or a key stands twice: that is a broken file, not a bad
    forecast.
    """
    rows = _select(forecasts, params)
    line = _line_of_row(rows)
    first = np.flatnonzero(np.diff(line, prepend=-1))
    n = len(first)
    hours = rows["horizon_hours"].to_numpy(np.int64)
    horizons = tuple(sorted({*hours.tolist(), MARGIN_HORIZON}))
    column = np.searchsorted(horizons, hours)
    q99, q995, q999 = (_larger_side(rows, level) for level in ("q990", "q995", "q999"))
    fault = np.zeros(n, dtype=np.int64)
    np.maximum.at(fault, line, _row_faults(rows, params))
    day = _place(np.arange(len(rows), dtype=np.float64), line, hours == MARGIN_HORIZON, n)
    fault[np.isnan(day)] = np.maximum(fault[np.isnan(day)], STALE)
    at = np.where(np.isnan(day), first, day).astype(np.int64)
    q_mm = np.full((n, len(horizons)), np.nan)
    q_mm[line, column] = q99
    status = rows["status"].astype(str).to_numpy()
    null_regime = rows["p_calm"].isna().to_numpy()
    says_stale = rows["reason"].astype(str).str.contains("stale").to_numpy()
    inputs = Inputs(
        symbol=rows["symbol"].iloc[first].tolist(),
        origin=pd.DatetimeIndex(rows["origin"]).as_unit("us").asi8[first],
        horizons=horizons,
        q_mm=q_mm,
        q_im=q995[at],
        q_far=q999[at],
        variance=rows["variance"].to_numpy(np.float64)[at],
        sigma_annual=rows["vol_annualised"].to_numpy(np.float64)[at],
        probabilities=rows[list(PROBABILITIES)].to_numpy(np.float64)[at],
        returns=rows[list(RETURN_LEVELS)].to_numpy(np.float64)[at],
        fault=fault,
        fallback=_any(status == "fallback", line, n),
        stale_feed=_any((status == "degraded") & (says_stale | ~null_regime), line, n),
        forecast_hash=_hashes(rows, first),
        model_sha256=rows["model_sha256"].iloc[at].astype(str).tolist(),
        observed={},
    )
    names = [*OBSERVABLES, *VENUE_OBSERVABLES]
    return _attach(inputs, pd.DataFrame({name: _observed(rows, f"obs_{name}", first) for name in names}), params)


def _observed(rows: pd.DataFrame, column: str, first: npt.NDArray[np.int64]) -> Floats:
    """A line's one value of an observable, wherever among its rows it stands; infinite, hence broken, if they disagree."""
    if column not in rows:
        return np.full(len(first), np.nan)
    values = rows[column].to_numpy(np.float64)
    low, high = np.fmin.reduceat(values, first), np.fmax.reduceat(values, first)
    return np.where((low == high) | np.isnan(low), low, np.inf)


def _select(forecasts: pd.DataFrame, params: Params) -> pd.DataFrame:
    missing = [name for name in FORECAST_SCHEMA.names if name not in forecasts]
    if missing:
        raise DataInvalid(f"forecasts lack the columns {', '.join(missing)}; make them with `forecaster evaluate`")
    rows = forecasts.loc[forecasts["model"] == params.model]
    if rows.empty:
        raise DataInvalid(f"forecasts hold no row of model {params.model!r}; set `model` in the parameter pack")
    rows = rows.sort_values(["origin", "symbol", "horizon_hours"], kind="stable", ignore_index=True)
    twice = rows.duplicated(["origin", "symbol", "horizon_hours"])
    if twice.any():
        row = rows.iloc[int(twice.to_numpy().argmax())]
        key = f"{row['symbol']} {row['origin']} {row['horizon_hours']} h"
        raise DataInvalid(f"the forecast row {key} stands twice; keep one row per symbol, origin and horizon")
    return rows


def _line_of_row(rows: pd.DataFrame) -> npt.NDArray[np.int64]:
    symbol, origin = rows["symbol"].astype(str).to_numpy(), pd.DatetimeIndex(rows["origin"]).asi8
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (symbol[1:] != symbol[:-1]) | (origin[1:] != origin[:-1])
    return np.cumsum(new) - 1


def _larger_side(rows: pd.DataFrame, level: str) -> Floats:
    long, short = rows[f"mae_long_{level}"], rows[f"mae_short_{level}"]
    return np.asarray(np.maximum(long.to_numpy(np.float64), short.to_numpy(np.float64)))


def _place(values: Floats, line: npt.NDArray[np.int64], where: npt.NDArray[np.bool_], n: int) -> Floats:
    out = np.full(n, np.nan)
    out[line[where]] = values[where]
    return out


def _any(flags: npt.NDArray[np.bool_], line: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.bool_]:
    return np.asarray(np.bincount(line, weights=flags, minlength=n) > 0)


def _row_faults(rows: pd.DataFrame, params: Params) -> npt.NDArray[np.int64]:
    """Per row: USABLE, STALE (blocked, old, clock skew) or NAN (numbers that cannot be forecasts)."""
    numbers = rows[list(ALWAYS)].to_numpy(np.float64)
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(numbers).all(axis=1)
        for names in ORDERED:
            bad |= (np.diff(rows[list(names)].to_numpy(np.float64), axis=1) < -1e-12).any(axis=1)
        variance = rows["variance"].to_numpy(np.float64)
        day_sigma = np.sqrt(variance * MARGIN_HORIZON / rows["horizon_hours"].to_numpy(np.float64))
        bad |= (variance <= 0) | (rows["vol_annualised"].to_numpy() <= 0) | (day_sigma > params.failsafe.sigma_max)
        longs = rows[list(EXCURSION_COLUMNS["long"])].to_numpy(np.float64)
        shorts = rows[list(EXCURSION_COLUMNS["short"])].to_numpy(np.float64)
        bad |= (longs < 0).any(axis=1) | (longs > 1).any(axis=1) | (shorts < 0).any(axis=1)
        p = rows[list(PROBABILITIES)].to_numpy(np.float64)
        lawful = (np.abs(p.sum(axis=1) - 1) <= 1e-6) & (p >= 0).all(axis=1)
        bad |= ~(lawful | np.isnan(p).all(axis=1)) | ~rows["status"].isin(STATUSES).to_numpy()
    origin = pd.DatetimeIndex(rows["origin"]).as_unit("us").asi8
    age = origin - pd.DatetimeIndex(rows["data_asof"]).as_unit("us").asi8
    stale = (age < 0) | (age > params.failsafe.stale_hours * HOUR) | (rows["status"] == "blocked").to_numpy()
    return np.where(stale, STALE, np.where(bad, NAN, USABLE))


def _hashes(rows: pd.DataFrame, first: npt.NDArray[np.int64]) -> list[str]:
    """sha256 per line: its rows' numbers as little-endian doubles in schema order, then its strings."""
    numeric, text = [], []
    for name in HASHED:
        column, kind = rows[name], FORECAST_SCHEMA.field(name).type
        if pa.types.is_string(kind):
            text.append(column.astype(str).tolist())
        elif pa.types.is_timestamp(kind):
            numeric.append(pd.DatetimeIndex(column).as_unit("us").asi8.astype("<f8"))
        else:
            numeric.append(column.to_numpy("<f8", na_value=np.nan))
    numbers = np.ascontiguousarray(np.column_stack(numeric))
    numbers[np.isnan(numbers)] = np.nan
    strings = ["\n".join(values).encode() for values in zip(*text, strict=True)]
    ends = [*first[1:].tolist(), len(rows)]
    out = []
    for start, end in zip(first.tolist(), ends, strict=True):
        digest = hashlib.sha256(numbers[start:end].tobytes())
        digest.update(b"\n".join(strings[start:end]))
        out.append(digest.hexdigest())
    return out
