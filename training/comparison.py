"""Whether one model's loss is really lower than another's, under serial and cross dependence.

Hourly losses of overlapping horizons are serially dependent, and symbols crash together: standard errors
that take rows as independent are several times too small. Resampling therefore takes blocks of time, all
symbols together.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from features.errors import DataInvalid

__all__ = [
    "BLOCK_DAYS",
    "DieboldMariano",
    "Gain",
    "diebold_mariano",
    "gain",
    "model_confidence_set",
    "newey_west_lags",
]

FloatArray = npt.NDArray[np.float64]

BLOCK_DAYS: Final = 10
"""Mean length of the blocks of every stationary bootstrap, in days."""
_SEED: Final = 20230701
_MINIMUM_LAGS: Final = 48


class DieboldMariano(NamedTuple):
    """Statistic (negative: the first model's loss is lower), two-sided p-value, number of rows."""

    statistic: float
    p_value: float
    n: int


class Gain(NamedTuple):
    """Share of the opponent's loss that the model saves, its interval, and the symbols where it is better."""

    value: float
    low: float
    high: float
    better: int
    symbols: int


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
    variance_of_mean = _newey_west(difference, lags) / n
    small_sample = (n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n
    statistic = float(difference.mean() / np.sqrt(variance_of_mean) * np.sqrt(small_sample))
    return DieboldMariano(statistic, float(2.0 * stdtr(n - 1, -abs(statistic))), n)


def model_confidence_set(
    losses: Any, block: int, *, size: float = 0.10, reps: int = 500, seed: int = _SEED
) -> npt.NDArray[np.bool_]:
    """Which models (columns of rows × models, in order of time) the data cannot tell from the best one.

    Hansen, Lunde and Nason (2011), range statistic, stationary bootstrap with blocks of
    ``block`` rows on average.    Models with identical losses stand or fall together.

    Raises:
        DataInvalid: for nulls or fewer than two blocks of rows.
    """
    table = np.asarray(losses, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise DataInvalid("losses must be rows × models without nulls; keep the rows that every model forecast")
    if len(table) < 2 * block:
        raise DataInvalid(f"{len(table)} rows are too few for blocks of {block}; use a longer window")
    distinct, column = np.unique(table, axis=1, return_inverse=True)
    if distinct.shape[1] == 1:
        return np.ones(table.shape[1], dtype=np.bool_)
    from arch.bootstrap import MCS

    test = MCS(distinct, size=size, method="R", block_size=block, reps=reps, seed=seed)
    test.compute()
    inside = np.isin(np.arange(distinct.shape[1]), np.asarray(test.included))
    return np.asarray(inside[column.reshape(-1)])


def gain(
    loss_model: Any, loss_opponent: Any, day: Any, *, level: float = 0.90, reps: int = 1000, seed: int = _SEED
) -> Gain:
    """``1 - mean_i(loss of the model) / mean_i(loss of the opponent)``, symbols i with equal weight.

    The interval resamples whole days of all symbols together (stationary bootstrap, Politis and Romano 1994).

    Args:
        loss_model: symbols × rows in order of time; null where a row is not compared.
        loss_opponent: likewise. Rows count where both have a loss, symbols where any row counts.
        day: the rows' day numbers, ascending.
        level: coverage of the interval.
        reps: bootstrap draws.
        seed: of the bootstrap.

    Returns:
        The gain with its percentile interval; all nan where no row counts.
    """
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
    draws = _gains(sums, counts, _day_weights(counts.shape[1], reps, seed))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    value = float(1.0 - means[0].mean() / means[1].mean())
    return Gain(value, float(low), float(high), int((means[0] < means[1]).sum()), int(compared.sum()))


def _day_weights(days: int, reps: int, seed: int) -> FloatArray:
    """How often every day occurs in each bootstrap sample (reps × days)."""
    from arch.bootstrap import StationaryBootstrap

    resampled = StationaryBootstrap(min(BLOCK_DAYS, days), np.arange(days), seed=seed).bootstrap(reps)
    return np.stack([np.bincount(data[0][0], minlength=days) for data in resampled]).astype(np.float64)


def _gains(sums: FloatArray, counts: FloatArray, weights: FloatArray) -> FloatArray:
    # einsum, not a BLAS product: printed figures stay the same from machine to machine.
    totals = np.einsum("rd,msd->mrs", weights, sums)
    rows = np.einsum("rd,sd->rs", weights, counts)
    # A recently listed symbol may be absent from a draw; it then has no mean to weigh in.
    present = rows > 0
    means = np.divide(totals, rows, out=np.zeros_like(totals), where=present).sum(axis=2)
    return np.asarray(1.0 - means[0] / means[1])


def _newey_west(series: FloatArray, lags: int) -> float:
    centred = series - series.mean()
    n = len(series)
    total = float((centred * centred).sum())
    for lag in range(1, lags + 1):
        total += 2.0 * (1.0 - lag / (lags + 1)) * float((centred[lag:] * centred[:-lag]).sum())
    return total / n
