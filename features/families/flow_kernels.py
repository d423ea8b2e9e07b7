"""Window kernels of the order-flow features: the hour of the day, and runs of one sign.

They follow the rules of ``kernels`` (causal, summed afresh in a fixed order, blind to where the history starts) in the
form that ``Panel.windowed`` calls: inputs of shape (n_symbols, n_hours), then parameters, then ``first``, the first
column that is asked for. Results hold the columns from ``first`` on.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["same_hour_mean", "same_hour_reach", "sign_run"]

Float64Array2D = npt.NDArray[np.float64]


def same_hour_reach(days: int) -> int:
    """Hours that ``same_hour_mean`` reads, the present one included."""
    return 24 * days + 1


@numba.njit(cache=True)
def same_hour_mean(x: Float64Array2D, days: int, coverage: float, first: int) -> Float64Array2D:
    """Mean of the finite values at this hour of the day on the ``days`` days before, without the present one.

    Shape (n_symbols, n_hours - first); NaN where fewer than ``coverage * days`` of them are finite.
    """
    n, hours = x.shape
    out = np.full((n, hours - first), np.nan)
    for i in range(n):
        for t in range(first, hours):
            total = 0.0
            count = 0
            for s in range(t - 24, max(t - 24 * days, 0) - 1, -24):
                if not math.isnan(x[i, s]):
                    total += x[i, s]
                    count += 1
            if count >= coverage * days and count > 0:
                out[i, t - first] = total / count
    return out


@numba.njit(cache=True)
def sign_run(x: Float64Array2D, cap: int, first: int) -> Float64Array2D:
    """Hours, at most ``cap``, for which x has kept its present sign, with that sign: 3 after three positive hours.

    Shape (n_symbols, n_hours - first). A zero is a run of its own, of length zero; a missing hour ends a run, and is NaN.
    """
    n, hours = x.shape
    out = np.full((n, hours - first), np.nan)
    for i in range(n):
        for t in range(first, hours):
            if math.isnan(x[i, t]):
                continue
            sign = np.sign(x[i, t])
            run = 0
            for s in range(t, max(t - cap, -1), -1):
                # A comparison with NaN is false, so a missing hour ends the run.
                if sign == 0.0 or not (x[i, s] * sign > 0.0):
                    break
                run += 1
            out[i, t - first] = sign * run
    return out
