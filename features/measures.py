"""Measures of the variance of a bar, from its range and from the bars inside it.

References: Garman and Klass (1980), J. Business 53; Parkinson (1980), J. Business 53; Rogers and Satchell (1991), Ann.
Appl. Probab. 1; Barndorff-Nielsen, Kinnebrock and Shephard (2010) for semivariances; Andersen, Dobrev and Schaumburg
(2012), J. Econometrics 169, for MedRV.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["bar_variance_floor", "garman_klass", "parkinson", "rogers_satchell", "sum_inside_hours"]

Array = npt.NDArray[np.float64]

VARIANCE_FLOOR = 1e-8


def garman_klass(open_: Array, high: Array, low: Array, close: Array, close_before: Array) -> Array:
    """Garman-Klass variance of a bar with the opening gap; squared log return, not annualised.

    ``0.5 ln(H/L)^2 - (2 ln 2 - 1) ln(C/O)^2 + ln(O/C_before)^2``; never negative for a bar whose high and low contain
    its open and close. NaN where the bar before is missing.
    """
    inside = 0.5 * np.log(high / low) ** 2 - (2 * math.log(2) - 1) * np.log(close / open_) ** 2
    return np.asarray(inside + np.log(open_ / close_before) ** 2)


def parkinson(high: Array, low: Array) -> Array:
    """Parkinson (1980) range variance, ``ln(H/L)^2 / (4 ln 2)``."""
    return np.asarray(np.log(high / low) ** 2 / (4 * math.log(2)))


def rogers_satchell(open_: Array, high: Array, low: Array, close: Array) -> Array:
    """Rogers-Satchell (1991) variance, free of drift: ``ln(H/C) ln(H/O) + ln(L/C) ln(L/O)``."""
    return np.asarray(np.log(high / close) * np.log(high / open_) + np.log(low / close) * np.log(low / open_))


def bar_variance_floor(variance: Array) -> Array:
    """The floor 1e-8 where a variance exists, NaN where it does not."""
    return np.where(np.isnan(variance), np.nan, VARIANCE_FLOOR)


def sum_inside_hours(bars: pd.DataFrame, bars_per_hour: int) -> dict[str, pd.Series]:
    """Measures of the variance inside each hour, from bars of equal length indexed by (symbol, close_time).

    Series indexed by (symbol, close of the hour): ``squared_returns``, ``semivariance_down``, ``quarticity`` (``M/3 sum
    r^4``) and ``med_rv``. NaN unless every bar of the hour and the one before it exists.
    """
    symbols = bars.index.get_level_values("symbol")
    closes = pd.DatetimeIndex(bars.index.get_level_values("close_time"))
    step = pd.Timedelta(hours=1) / bars_per_hour
    log_price = np.log(bars["close"].to_numpy(np.float64))
    r = np.full(len(bars), np.nan)
    adjacent = (symbols[1:] == symbols[:-1]) & (closes[1:] - closes[:-1] == step)
    r[1:][adjacent] = (log_price[1:] - log_price[:-1])[adjacent]
    hours = closes.ceil("h")
    index = pd.MultiIndex.from_arrays([symbols, hours], names=["symbol", "close_time"])
    # Bars of one hour stand next to each other, so an hour is a row of a matrix once incomplete hours are gone.
    returns = pd.Series(r, index=index)
    complete = returns.groupby(level=[0, 1]).transform("count").to_numpy() == bars_per_hour
    matrix = r[complete].reshape(-1, bars_per_hour)
    where = index[complete][::bars_per_hour]
    size = np.abs(matrix)
    middle = np.sort(np.stack([size[:, :-2], size[:, 1:-1], size[:, 2:]]), axis=0)[1] if len(matrix) else size[:, 2:]
    med_scale = math.pi / (6 - 4 * math.sqrt(3) + math.pi) * bars_per_hour / (bars_per_hour - 2)
    measures = {
        "squared_returns": (matrix**2).sum(axis=1),
        "semivariance_down": (np.where(matrix < 0, matrix, 0.0) ** 2).sum(axis=1),
        "quarticity": bars_per_hour / 3 * (matrix**4).sum(axis=1),
        "med_rv": med_scale * (middle**2).sum(axis=1),
    }
    return {name: pd.Series(values, index=where) for name, values in measures.items()}
