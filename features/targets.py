"""What is forecast: variance, return, adverse excursion and regime of the interval ``(origin, origin + h]``.

Every definition is pinned, so that anyone can recompute a score from bars alone. A target is null unless every bar of its
interval exists; nothing is filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from features import kernels
from features.market import Market
from features.panel import Array, Panel, Proxy

__all__ = ["MINIMUM_INTERVALS", "THRESHOLD_LEVELS", "VARIANCE_FLOOR", "realised"]

THRESHOLD_LEVELS: Final = (0.30, 0.90, 0.975)
THRESHOLD_HOURS: Final = 730 * 24
MINIMUM_INTERVALS: Final = 2160
VARIANCE_FLOOR: Final = 1e-8


def realised(market: Market, horizons: Sequence[int], proxy: Proxy = "garman_klass") -> pd.DataFrame:
    """Targets and thresholds of every origin and horizon, indexed by (symbol, origin, horizon_hours).

    Columns: ``target_end``; ``variance`` (V, the sum of bar variances, at least 1e-8), ``log_return``, ``mae_long`` and
    ``mae_short`` (fractions of the price at the origin) of the interval, null until it is complete;
    ``trailing_variance`` (V of the interval that ends at the origin); ``threshold_normal``, ``threshold_stress``,
    ``threshold_crisis`` (30 %, 90 % and 97.5 % quantiles of V over hourly origins ``s`` with ``s + h <= origin`` and
    ``s > origin - 730 d``, null with under 2,160 values); ``regime`` and ``regime_now`` (0 calm, 1 normal, 2 stress, 3
    crisis; null where unknown) of the coming and of the trailing interval; ``onset`` (1 where the regime is stress or
    crisis, on rows that are calm or normal now, null elsewhere).
    """
    panel = Panel(market, proxy)
    alive = ~np.isnan(panel.close)
    rows, columns = np.nonzero(alive)
    symbols = pd.Index(panel.symbols)[rows]
    origins = panel.times[columns]
    frames = []
    for h in horizons:
        values = {name: x[alive] for name, x in interval_arrays(panel, h).items()}
        index = pd.MultiIndex.from_arrays(
            [symbols, origins, np.full(len(rows), h, dtype=np.int16)],
            names=["symbol", "origin", "horizon_hours"],
        )
        frame = pd.DataFrame(values, index=index)
        frame.insert(0, "target_end", origins + pd.Timedelta(hours=h))
        frames.append(frame)
    return pd.concat(frames).sort_index(kind="stable") if len(frames) > 1 else frames[0]


def interval_arrays(panel: Panel, h: int) -> dict[str, Array]:
    """The columns of ``realised`` but ``target_end`` for one horizon, as arrays (n_symbols, n_hours)."""
    trailing = np.maximum(_sum_last(panel.variance, h), VARIANCE_FLOOR)
    ahead = _ahead(trailing, h)
    low, high = _extremes_ahead(panel.field("low"), panel.field("high"), h)
    # The newest admissible interval started h hours ago: its V is the trailing one.
    thresholds = kernels.trailing_quantiles(
        trailing, THRESHOLD_HOURS - h, MINIMUM_INTERVALS, np.array(THRESHOLD_LEVELS)
    )
    regime, now = _regime(ahead, thresholds), _regime(trailing, thresholds)
    onset = np.where((now <= 1) & ~np.isnan(regime), (regime >= 2).astype(np.float64), np.nan)
    complete = ~np.isnan(ahead)
    return {
        "variance": ahead,
        "log_return": np.where(complete, np.log(_ahead(panel.close, h) / panel.close), np.nan),
        "mae_long": np.where(complete, np.maximum(0.0, 1 - low / panel.close), np.nan),
        "mae_short": np.where(complete, np.maximum(0.0, high / panel.close - 1), np.nan),
        "trailing_variance": trailing,
        "threshold_normal": thresholds[0],
        "threshold_stress": thresholds[1],
        "threshold_crisis": thresholds[2],
        "regime": regime,
        "regime_now": now,
        "onset": onset,
    }


def _ahead(x: Array, h: int) -> Array:
    out = np.full_like(x, np.nan)
    if h < x.shape[1]:
        out[:, : x.shape[1] - h] = x[:, h:]
    return out


def _regime(variance: Array, thresholds: Array) -> Array:
    """Class of a variance; a class includes its upper threshold. NaN where either is unknown."""
    above = (variance[None] > thresholds).sum(axis=0).astype(np.float64)
    return np.where(np.isnan(variance) | np.isnan(thresholds[0]), np.nan, above)


@numba.njit(cache=True)
def _sum_last(x: npt.NDArray[np.float64], h: int) -> npt.NDArray[np.float64]:
    """Sum over the last ``h`` columns, in time order; NaN unless all exist."""
    n, hours = x.shape
    out = np.full((n, hours), np.nan)
    for i in range(n):
        for t in range(h - 1, hours):
            total = 0.0
            for s in range(t - h + 1, t + 1):
                total += x[i, s]
            out[i, t] = total
    return out


@numba.njit(cache=True)
def _extremes_ahead(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], h: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest low and highest high over the ``h`` columns after each one; NaN unless all exist."""
    n, hours = low.shape
    lowest = np.full((n, hours), np.nan)
    highest = np.full((n, hours), np.nan)
    for i in range(n):
        for t in range(hours - h):
            a, b = np.inf, -np.inf
            for s in range(t + 1, t + h + 1):
                if np.isnan(low[i, s]):
                    a, b = np.nan, np.nan
                    break
                a = min(a, low[i, s])
                b = max(b, high[i, s])
            lowest[i, t] = a
            highest[i, t] = b
    return lowest, highest
