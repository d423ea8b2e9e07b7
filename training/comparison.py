"""Whether one model's loss is really lower than another's, under serial and cross dependence.

Hourly losses of overlapping horizons are serially dependent, and symbols crash together: standard errors
that take rows as independent are several times too small. Resampling therefore takes blocks of time, all
symbols together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, stdtr

from features.errors import DataInvalid
from models.screening import BLOCK_DAYS, SEED, model_confidence_set

__all__ = [
    "BLOCK_DAYS",
    "SEED",
    "DieboldMariano",
    "Gain",
    "GiacominiWhite",
    "day_weights",
    "diebold_mariano",
    "difference",
    "gain",
    "giacomini_white",
    "model_confidence_set",
    "newey_west_lags",
]

FloatArray = npt.NDArray[np.float64]

_MINIMUM_LAGS: Final = 48


class DieboldMariano(NamedTuple):
    """Statistic (negative: the first model's loss is lower), two-sided p-value, number of rows."""

    statistic: float
    p_value: float
    n: int


class Gain(NamedTuple):
    """What the model saves of the opponent's loss, its interval, and the symbols where it is better."""

    value: float
    low: float
    high: float
    better: int
    symbols: int


class GiacominiWhite(NamedTuple):
    """Wald statistic, its p-value, the number of hours, and the t statistic of every instrument (nan: never active)."""

    statistic: float
    p_value: float
    n: int
    t: tuple[float, ...]


def newey_west_lags(horizon: int) -> int:
    """Lags for hourly losses of ``horizon`` hours: three horizons, at least two days."""
    return max(3 * horizon, _MINIMUM_LAGS)


def diebold_mariano(loss_a: Any, loss_b: Any, horizon: int, lags: int | None = None) -> DieboldMariano:
    """Equal predictive ability of two loss series in order of time (Diebold and Mariano 1995).

    Newey-West variance with ``lags`` (default: three horizons, at least 48), the small-sample factor of
    Harvey, Leybourne and Newbold (1997) and t with n - 1 degrees. Identical series: statistic 0, p-value 1.

    Raises:
        DataInvalid: for series of different length, nulls, or no more rows than lags.
    """
    a, b = np.asarray(loss_a, dtype=np.float64), np.asarray(loss_b, dtype=np.float64)
    lags = newey_west_lags(horizon) if lags is None else lags
    if a.ndim != 1 or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataInvalid(f"losses of shapes {a.shape}, {b.shape}: pass two equally long series without nulls")
    n = len(a)
    if n <= max(lags, 2 * horizon):
        raise DataInvalid(f"{n} losses are too few for {lags} lags at horizon {horizon}; use a longer window")
    difference = a - b
    if not difference.any():
        return DieboldMariano(0.0, 1.0, n)
    variance_of_mean = float(_long_run_covariance(difference[:, None], lags)[0, 0]) / n
    small_sample = (n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n
    statistic = float(difference.mean() / np.sqrt(variance_of_mean) * np.sqrt(small_sample))
    return DieboldMariano(statistic, float(2.0 * stdtr(n - 1, -abs(statistic))), n)


def giacomini_white(
    loss_a: Any, loss_b: Any, instruments: Any, horizon: int, lags: int | None = None
) -> GiacominiWhite:
    """Equal conditional predictive ability given what was known at the origin (Giacomini and White 2006).

    The mean of ``instrument x (loss_a - loss_b)`` is zero for every instrument; χ² with as many degrees. Products are
    averaged over the symbols of each hour before their Newey-West covariance is taken, so that symbols that move together
    count once (Driscoll and Kraay 1998). With a constant alone the statistic is the square of Diebold and Mariano's.

    Args:
        loss_a: symbols × hours, in order of time; null where a row is not compared.
        loss_b: likewise.
        instruments: instruments × symbols × hours, known at the origin; rows with a null do not count.
        horizon: hours; overlapping rows are dependent over it.
        lags: of the covariance (default: three horizons, at least 48).

    Raises:
        DataInvalid: for shapes that do not match, or no more hours than lags.
    """
    difference = np.asarray(loss_a, dtype=np.float64) - np.asarray(loss_b, dtype=np.float64)
    given = np.asarray(instruments, dtype=np.float64)
    if difference.ndim != 2 or given.ndim != 3 or given.shape[1:] != difference.shape:
        raise DataInvalid(f"instruments {given.shape} for losses {difference.shape}: pass q × symbols × hours")
    lags = newey_west_lags(horizon) if lags is None else lags
    known = np.isfinite(difference) & np.isfinite(given).all(axis=0)
    count = known.sum(axis=0)
    n = int((count > 0).sum())
    if n <= max(lags, 2 * horizon):
        raise DataInvalid(f"{n} hours are too few for {lags} lags at horizon {horizon}; use a longer window")
    product = np.where(known, given * difference, 0.0).sum(axis=1)[:, count > 0] / count[count > 0]
    active = product.any(axis=1)
    t = np.full(len(given), np.nan)
    if not active.any():
        return GiacominiWhite(0.0, 1.0, n, tuple(t.tolist()))
    mean = product[active].mean(axis=1)
    covariance = _long_run_covariance(product[active].T, lags) / n
    t[active] = mean / np.sqrt(np.diag(covariance))
    statistic = float(mean @ np.linalg.solve(covariance, mean))
    return GiacominiWhite(statistic, float(chdtrc(int(active.sum()), statistic)), n, tuple(t.tolist()))


def gain(
    loss_model: Any, loss_opponent: Any, day: Any, *, level: float = 0.90, reps: int = 1000, seed: int = SEED
) -> Gain:
    """``1 - mean_i(loss of the model) / mean_i(loss of the opponent)``, symbols i with equal weight.

    The interval resamples whole days of all symbols together (stationary bootstrap, Politis and Romano 1994).

    Args:
        loss_model: symbols × rows in order of time; null where a row is not compared.
        loss_opponent: likewise. Rows count where both have a loss, symbols where any row counts.
        day: the rows' day numbers, ascending.
        level: coverage of the interval.
        reps: bootstrap draws; with none there is no interval, low and high are nan.
        seed: of the bootstrap.

    Returns:
        The gain with its percentile interval; all nan where no row counts.
    """
    return _compared(loss_model, loss_opponent, day, lambda own, other: 1.0 - own / other, level, reps, seed)


def difference(
    loss_model: Any, loss_opponent: Any, day: Any, *, level: float = 0.90, reps: int = 1000, seed: int = SEED
) -> Gain:
    """``mean_i(loss of the opponent) - mean_i(loss of the model)``, for losses whose zero means nothing; see ``gain``."""
    return _compared(loss_model, loss_opponent, day, lambda own, other: other - own, level, reps, seed)


def _compared(
    loss_model: Any,
    loss_opponent: Any,
    day: Any,
    told: Callable[[FloatArray, FloatArray], FloatArray],
    level: float,
    reps: int,
    seed: int,
) -> Gain:
    first, second = np.asarray(loss_model, dtype=np.float64), np.asarray(loss_opponent, dtype=np.float64)
    both = np.isfinite(first) & np.isfinite(second)
    compared = both.any(axis=1)
    if not compared.any():
        return Gain(float("nan"), float("nan"), float("nan"), 0, 0)
    both = both[compared]
    _, starts = np.unique(np.asarray(day), return_index=True)
    sums = np.stack([np.add.reduceat(np.where(both, loss[compared], 0.0), starts, axis=1) for loss in (first, second)])
    counts = np.add.reduceat(both.astype(np.float64), starts, axis=1)
    observed = counts.any(axis=0)
    sums, counts = sums[:, :, observed], counts[:, observed]
    means = sums.sum(axis=2) / counts.sum(axis=1)
    low = high = float("nan")
    if reps:
        draws = told(*_drawn_means(sums, counts, day_weights(counts.shape[1], reps, seed)))
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    value = float(told(*means.mean(axis=1)))
    return Gain(value, float(low), float(high), int((means[0] < means[1]).sum()), int(compared.sum()))


@lru_cache(maxsize=4)
def day_weights(days: int, reps: int, seed: int, block: int = BLOCK_DAYS) -> FloatArray:
    """How often every day occurs in each bootstrap sample (reps × days)."""
    from arch.bootstrap import StationaryBootstrap

    resampled = StationaryBootstrap(min(block, days), np.arange(days), seed=seed).bootstrap(reps)
    weights = np.stack([np.bincount(data[0][0], minlength=days) for data in resampled]).astype(np.float64)
    weights.flags.writeable = False  # the next caller gets the same array
    return weights


def _drawn_means(sums: FloatArray, counts: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean losses of both models in every draw, 2 × reps."""
    # einsum, not a BLAS product: printed figures stay the same from machine to machine.
    totals = np.einsum("rd,msd->mrs", weights, sums)
    rows = np.einsum("rd,sd->rs", weights, counts)
    # A recently listed symbol may be absent from a draw; it then has no mean to weigh in.
    present = rows > 0
    means = np.divide(totals, rows, out=np.zeros_like(totals), where=present).sum(axis=2)
    return np.asarray(means / present.sum(axis=1))


def _long_run_covariance(series: FloatArray, lags: int) -> FloatArray:
    """Newey and West's (1987) long-run covariance of rows × variables, with Bartlett weights."""
    centred = series - series.mean(axis=0)
    n = len(series)
    total = np.einsum("ti,tj->ij", centred, centred)
    for lag in range(1, lags + 1):
        cross = np.einsum("ti,tj->ij", centred[lag:], centred[:-lag])
        total += (1.0 - lag / (lags + 1)) * (cross + cross.T)
    return np.asarray(total / n)
