"""The common sample on which models are compared, one horizon at a time, on a grid of symbols and hours.

Missing rows are missing for all: on each symbol, only origins count whose target is complete and at which
every model that forecasts this symbol has a variance and is not blocked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid, UsageError
from training.losses import qlike_terms
from training.splits import utc

__all__ = ["SHOCK_MODELS", "Sample", "samples", "scored"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.int32]
HourArray = npt.NDArray[np.int64]

SHOCK_MODELS: Final = ("ewma", "har", "har_seasonal", "garch")
"""The classical models whose summed loss names the shock day."""
_CLIMATOLOGY_HOURS: Final = 730 * 24
_CLIMATOLOGY_PRIOR_HOURS: Final = 2160
_STRESS_PRIOR: Final = 0.10
_ONSET_PRIOR: Final = 0.05
_FIRST_STRESS_CLASS: Final = 2


@dataclass(frozen=True)
class Sample:
    """One horizon on the hourly grid of the scored window: models × symbols × hours."""

    horizon: int
    symbols: tuple[str, ...]
    models: tuple[str, ...]
    hours: HourArray
    """Hours since the epoch, one per column, without gaps."""
    forecasts: pd.DataFrame
    rows: IndexArray
    """Positions in ``forecasts`` of rows that are not blocked; -1 where there is none."""
    truth: dict[str, FloatArray]
    common: BoolArray
    """Symbols × hours at which every compared model can be scored."""
    qlike: FloatArray
    """Null outside ``common``."""
    shocked: BoolArray
    """Hours on the shock day or too near it."""

    @property
    def days(self) -> HourArray:
        """UTC days since the epoch, one per hour."""
        return np.asarray(self.hours // 24)

    @property
    def spaced(self) -> BoolArray:
        """Non-overlapping origins: hours since the epoch divisible by the horizon."""
        return np.asarray(self.hours % self.horizon == 0)

    @property
    def qlike_x(self) -> FloatArray:
        """QLIKE without the shock day."""
        return np.where(self.shocked, np.nan, self.qlike)

    def column(self, model: int, symbol: int, name: str) -> FloatArray:
        """A forecast column over the grid; null where the row is missing or not common."""
        rows = self.rows[model, symbol]
        known = self.common[symbol] & (rows >= 0)
        values = np.full(len(rows), np.nan)
        values[known] = self.forecasts[name].to_numpy()[rows[known]]
        return values

    def table(self, model: int, symbol: int, names: Sequence[str]) -> FloatArray:
        """Forecast columns side by side: hours × names."""
        return np.column_stack([self.column(model, symbol, name) for name in names])


def samples(
    forecasts: pd.DataFrame, realised: pd.DataFrame, start: pd.Timestamp | str, end: pd.Timestamp | str
) -> Iterator[Sample]:
    """The sample of every horizon that has forecasts at ``start <= origin < end``, in order of horizons.

    Raises:
        UsageError: where the window is empty.
        DataInvalid: for duplicate keys, origins off the hour, variances that are not positive, or forecasts
            of a symbol or horizon that ``realised`` does not hold.
    """
    hours = np.arange(_hour(utc(start)), _hour(utc(end)), dtype=np.int64)
    if not hours.size:
        raise UsageError(f"no origin to score from {start} to {end}; end must be later than start")
    symbol_codes, symbols = pd.factorize(forecasts["symbol"], sort=True)
    model_codes, every_model = pd.factorize(forecasts["model"], sort=True)
    at = _whole_hours(forecasts["origin"])
    horizon_of = forecasts["horizon_hours"].to_numpy()
    inside = (at >= hours[0]) & (at <= hours[-1])
    blocked = (forecasts["status"] == "blocked").to_numpy(dtype=bool)
    for horizon in np.unique(horizon_of[inside]).tolist():
        chosen = np.flatnonzero(inside & (horizon_of == horizon))
        models, model_of = np.unique(model_codes[chosen], return_inverse=True)
        cell = (model_of, symbol_codes[chosen], at[chosen] - hours[0])
        rows = np.full((len(models), len(symbols), len(hours)), -1, dtype=np.int32)
        rows[cell] = chosen
        repeated = chosen[rows[cell] != chosen]
        if repeated.size:
            key = _key(forecasts, int(repeated[0]))
            raise DataInvalid(f"forecasts: two rows for {key}; the key must be unique, drop one")
        rows[(rows >= 0) & blocked[rows]] = -1
        yield _sample(horizon, tuple(symbols), tuple(every_model[models]), hours, forecasts, rows, realised)


def scored(loss: Callable[..., float], *columns: FloatArray) -> float:
    """The loss over the rows without a null in any column; null where there is none."""
    known = np.ones(len(columns[0]), dtype=np.bool_)
    for column in columns:
        known &= np.isfinite(column.reshape(len(column), -1)).all(axis=1)
    return loss(*(column[known] for column in columns)) if known.any() else float("nan")


def _sample(
    horizon: int,
    symbols: tuple[str, ...],
    models: tuple[str, ...],
    hours: HourArray,
    forecasts: pd.DataFrame,
    rows: IndexArray,
    realised: pd.DataFrame,
) -> Sample:
    truth = _truth(realised, horizon, symbols, hours)
    variance = np.where(rows >= 0, forecasts["variance"].to_numpy()[rows], np.nan)
    usable = ~np.isnan(variance)
    if (bad := rows[usable & ~((variance > 0) & np.isfinite(variance))]).size:
        value = forecasts["variance"].iloc[int(bad[0])]
        key = _key(forecasts, int(bad[0]))
        raise DataInvalid(f"forecasts: variance {value} of {key} is not positive and finite; block such rows")
    complete = ~np.isnan(truth["variance"])
    # A model that never forecasts a symbol is not compared on it; it does not silence the others there.
    compared = (usable & complete).any(axis=2, keepdims=True)
    common = complete & (usable | ~compared).all(axis=0)
    qlike = np.full(rows.shape, np.nan)
    if (known := common & usable).any():
        came = np.broadcast_to(truth["variance"], rows.shape)
        qlike[known] = qlike_terms(came[known], variance[known])
    shocked = _shocked(qlike, models, hours // 24, horizon)
    return Sample(horizon, symbols, models, hours, forecasts, rows, truth, common, qlike, shocked)


def _shocked(qlike: FloatArray, models: Sequence[str], days: HourArray, horizon: int) -> BoolArray:
    """Hours of the day with the largest loss of the classical models, and of the days around it.

    Where there is no classical model, all models name the day.
    """
    classical = [index for index, model in enumerate(models) if model in SHOCK_MODELS]
    by_hour = np.nansum(qlike[classical or slice(None)], axis=(0, 1))
    by_day = np.bincount(days - days[0], weights=by_hour)
    if not by_day.any():
        return np.zeros(len(days), dtype=np.bool_)
    return np.asarray(np.abs(days - days[0] - int(by_day.argmax())) <= math.ceil(horizon / 24))


def _truth(realised: pd.DataFrame, horizon: int, symbols: Sequence[str], hours: HourArray) -> dict[str, FloatArray]:
    chosen = realised[realised.index.get_level_values("horizon_hours") == horizon]
    symbol = pd.Index(symbols).get_indexer(chosen.index.get_level_values("symbol"))
    if missing := sorted(set(range(len(symbols))) - set(symbol.tolist())):
        name = symbols[missing[0]]
        raise DataInvalid(f"realised holds no {horizon} h targets of {name}, which has forecasts; add them")
    at = _whole_hours(chosen.index.get_level_values("origin"))
    # Two years before the window, so that the trailing climatology is right from the first scored origin.
    first = hours[0] - _CLIMATOLOGY_HOURS
    keep = (symbol >= 0) & (at >= first) & (at <= hours[-1])
    shape = (len(symbols), int(hours[-1] - first) + 1)

    def grid(name: str) -> FloatArray:
        values = np.full(shape, np.nan)
        values[symbol[keep], at[keep] - first] = chosen[name].to_numpy(dtype=np.float64)[keep]
        return values

    regime, onset = grid("regime"), grid("onset")
    stress = np.where(np.isnan(regime), np.nan, regime >= _FIRST_STRESS_CLASS)
    window = slice(_CLIMATOLOGY_HOURS, None)
    return {
        "variance": grid("variance")[:, window],
        "log_return": grid("log_return")[:, window],
        "regime": regime[:, window],
        "stress": stress[:, window],
        "onset": onset[:, window],
        "stress_climatology": _trailing_rate(stress, horizon, _STRESS_PRIOR)[:, window],
        "onset_climatology": _trailing_rate(onset, horizon, _ONSET_PRIOR)[:, window],
    }


def _trailing_rate(outcome: FloatArray, horizon: int, prior: float) -> FloatArray:
    """Rate over the intervals from s, ``s + h <= origin``, ``s > origin - 730 days``, shrunk to the prior."""

    def counted(events: FloatArray) -> FloatArray:
        total = np.pad(np.cumsum(events, axis=1), ((0, 0), (_CLIMATOLOGY_HOURS + 1, 0)))
        hours = np.arange(outcome.shape[1]) + _CLIMATOLOGY_HOURS + 1
        return np.asarray(total[:, hours - horizon] - total[:, hours - _CLIMATOLOGY_HOURS])

    known = counted((~np.isnan(outcome)).astype(np.float64))
    events = counted(np.nan_to_num(outcome))
    return (_CLIMATOLOGY_PRIOR_HOURS * prior + events) / (_CLIMATOLOGY_PRIOR_HOURS + known)


def _key(forecasts: pd.DataFrame, position: int) -> str:
    row = forecasts.iloc[position]
    return f"{row['model']}, {row['symbol']}, origin {row['origin']}, horizon {row['horizon_hours']} h"


def _hour(instant: pd.Timestamp) -> int:
    return math.ceil(instant.timestamp() / 3600)


def _whole_hours(origin: Any) -> HourArray:
    at = pd.DatetimeIndex(origin).as_unit("us")
    hours, rest = np.divmod(at.asi8, 3_600_000_000)
    if rest.any():
        row = int(rest.nonzero()[0][0])
        raise DataInvalid(f"origin {at[row]} in row {row} is not on the hour; score hourly origins")
    return np.asarray(hours)
