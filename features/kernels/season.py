"""Hour-of-week curves of log variance."""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["season_ahead", "season_curves"]

Float64Array2D = npt.NDArray[np.float64]
Float64Array3D = npt.NDArray[np.float64]

WEEK = 168


@numba.njit(cache=True)
def season_ahead(curves: Float64Array3D, horizon: int) -> Float64Array3D:
    """Sum of the seasonal factors ``exp(curve)`` over the ``horizon`` hours after each hour of week: like ``curves``."""
    weeks, n, _ = curves.shape
    out = np.empty((weeks, n, WEEK))
    levels = np.empty(WEEK)
    for w in range(weeks):
        for i in range(n):
            for k in range(WEEK):
                levels[k] = math.exp(curves[w, i, k])
            for k in range(WEEK):
                total = 0.0
                for ahead in range(1, horizon + 1):
                    total += levels[(k + ahead) % WEEK]
                out[w, i, k] = total
    return out


@numba.njit(cache=True)
def season_curves(
    log_v: Float64Array2D, refresh: npt.NDArray[np.int64], first_slot: int, length: int, shrinkage: float
) -> Float64Array3D:
    """Hour-of-week curves of log variance, one per refresh: shape (n_refresh, n_symbols, 168).

    ``refresh[w]``: the first column that is *not* yet known when curve ``w`` is made; the curve reads the ``length``
    columns before it. ``first_slot``: hour of week (0 = Monday 00:00-01:00) of column 0. Each symbol's deviations from
    its own mean are shrunk to the cross-symbol mean curve with weight ``n / (n + shrinkage)``, n the observations of that
    hour of week, and the cross-symbol curve likewise to a flat one; a symbol without history has the cross-symbol curve.
    Every curve has mean zero.
    """
    n, _ = log_v.shape
    out = np.zeros((len(refresh), n, 168))
    for w in range(len(refresh)):
        sums = np.zeros((n, 168))
        counts = np.zeros((n, 168))
        for i in range(n):
            begin = max(refresh[w] - length, 0)
            slot = (first_slot + begin) % WEEK
            for t in range(begin, refresh[w]):
                if not math.isnan(log_v[i, t]):
                    sums[i, slot] += log_v[i, t]
                    counts[i, slot] += 1.0
                slot = slot + 1 if slot < WEEK - 1 else 0
        pool_sum = np.zeros(168)
        pool_count = np.zeros(168)
        deviation = np.zeros((n, 168))
        for i in range(n):
            total = 0.0
            present = 0
            for k in range(168):
                if counts[i, k] > 0:
                    total += sums[i, k] / counts[i, k]
                    present += 1
            # Under a full week of slots the mean itself would be a seasonal artefact.
            if present < 168:
                continue
            for k in range(168):
                deviation[i, k] = sums[i, k] / counts[i, k] - total / present
                pool_sum[k] += counts[i, k] * deviation[i, k]
                pool_count[k] += counts[i, k]
        for i in range(n):
            mean = 0.0
            for k in range(168):
                pool = pool_sum[k] / (pool_count[k] + shrinkage)
                own = counts[i, k] / (counts[i, k] + shrinkage)
                # A symbol left out of the pool has no deviation of its own yet.
                out[w, i, k] = pool + own * (deviation[i, k] - pool) if deviation[i].any() else pool
                mean += out[w, i, k]
            for k in range(168):
                out[w, i, k] -= mean / 168
    return out
