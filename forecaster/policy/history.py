"""What the forecasts' own past teaches: conformal factors, the long-run floor, and trailing medians.

Each value at origin ``t`` uses forecasts made up to ``t`` and excursions that had ended by ``t``.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from .constants import Conformal
from .observables import DAY, MarketHistory
from .params import Params

__all__ = ["conformal_factors", "forecast_history"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def forecast_history(lines: pd.DataFrame, market: MarketHistory, params: Params) -> pd.DataFrame:
    """Conformal factors, long-run floor and 30-day medians of each line.

    ``lines``: sorted by (origin, symbol), with ``symbol``, ``origin``, ``q_im`` and ``q_mm`` (larger side's
    99.5 % and 99 % excursion quantile over 24 h, NaN where there is no usable forecast) and ``variance`` (24
    h).
    """
    rows, columns = market.positions(lines)
    fhs = market.scaled_im(params.baselines.fhs_half_life_hours)
    volume = market.daily_volume
    names = ("conformal_im", "conformal_mm", "floor_im", "sigma_median", "depth_median")
    out = {name: np.full(len(lines), np.nan) for name in names}
    q_im, q_mm = lines["q_im"].to_numpy(np.float64), lines["q_mm"].to_numpy(np.float64)
    variance = lines["variance"].to_numpy(np.float64)
    days = f"{params.modes.median_days}D"
    for symbol, positions in lines.groupby("symbol", sort=True).indices.items():
        row = rows[positions[0]]
        if row < 0:
            continue
        at, cols = np.asarray(positions), columns[positions]
        resolved = market.excursion[row]
        out["conformal_im"][at] = conformal_factors(
            q_im[at], cols, resolved, params.conformal, params.conformal.im_miss
        )
        out["conformal_mm"][at] = conformal_factors(
            q_mm[at], cols, resolved, params.conformal, params.conformal.mm_miss
        )
        core = out["conformal_im"][at] * q_im[at]
        out["floor_im"][at] = _long_run_floor(core, cols, fhs[row], params)
        clock = pd.DatetimeIndex(lines["origin"].iloc[at], name=symbol)
        depth = np.where(cols >= 0, volume[row, cols], np.nan) / variance[at]
        out["sigma_median"][at] = _trailing_median(np.sqrt(variance[at]), clock, days)
        out["depth_median"][at] = _trailing_median(depth, clock, days)
    return pd.DataFrame(out, index=lines.index)


def conformal_factors(quantile: Floats, columns: Integers, excursion: Floats, params: Conformal, miss: float) -> Floats:
    """Adaptive conformal factor of each origin (Gibbs & Candès 2021, on the log scale).

    ``eta <- eta + gain * (err - miss)``, where ``err`` says whether the excursion over the 24 hours after an
    earlier origin exceeded that origin's factor times its quantile; applied once those hours are over.
    ``excursion[c]`` is that of the 24 hours ending at hour ``c``; ``columns`` are the origins' hours,
    ascending.
    """
    low, high = math.log(params.factor_min), math.log(params.factor_max)
    came = excursion.tolist()
    margins: list[float] = []
    factors = []
    eta, head = 0.0, 0
    hours = columns.tolist()
    for hour, value in zip(hours, quantile.tolist(), strict=True):
        while head < len(margins) and hours[head] + DAY <= hour:
            outcome, margin = came[hours[head] + DAY], margins[head]
            if outcome == outcome and margin == margin and hours[head] >= 0:
                eta = min(high, max(low, eta + params.gain * ((outcome > margin) - miss)))
            head += 1
        factor = math.exp(eta)
        factors.append(factor)
        margins.append(factor * value)
    return np.array(factors, dtype=np.float64)


def _long_run_floor(core: Floats, columns: Integers, fhs: Floats, params: Params) -> Floats:
    """Expanding quantile of the margin's own history, joined backwards with the FHS margin of the bars.

    NaN until the joint history is a year long. An adapted form of EMIR RTS 153/2013 Art. 28(1)(c).
    """
    before = fhs[: max(int(columns[0]), 0)]
    joint = pd.Series(np.concatenate([before, core]))
    known = np.flatnonzero(~np.isnan(before))
    start = int(known[0]) if len(known) else int(columns[0])
    floor = joint.expanding().quantile(params.margin.floor_quantile).to_numpy()[len(before) :]
    return np.where(columns - start >= params.margin.floor_min_days * DAY, floor, np.nan)


def _trailing_median(values: Floats, clock: pd.DatetimeIndex, window: str) -> Floats:
    """Median over the window's hours, NaN before a quarter of the usual 30 days' hourly values exist."""
    series = pd.Series(values, index=clock)
    return series.rolling(window, min_periods=7 * DAY).median().to_numpy()
