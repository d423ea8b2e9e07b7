"""Scores of forecasts, as free functions over rows: ``loss(realised, forecast, ...) -> mean``.

Every loss is negatively oriented (smaller is better) and a plain mean over rows; ``*_terms`` give the rows.
V is the variance summed over the horizon, r the return over it, both unannualised.

All functions raise DataInvalid, naming argument and row, for arguments of different length, for no rows at
all, for nulls, and for values outside their range.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.errors import DataInvalid
from models.base import RETURN_LEVELS, VARIANCE_LEVELS

__all__ = [
    "brier",
    "coverage",
    "crps_log",
    "crps_log_terms",
    "ece",
    "fz0",
    "fz0_terms",
    "hit_rate",
    "log_loss",
    "mse_log",
    "pinball",
    "pinball_ret",
    "qlike",
    "qlike_terms",
]

FloatArray = npt.NDArray[np.float64]

# CRPS = 2 ∫ pinball dτ; the integral's cells are cut halfway between the five levels.
CRPS_WEIGHTS: Final = np.array([0.15, 0.225, 0.25, 0.225, 0.15])
_VARIANCE_LEVELS: Final = np.array(list(VARIANCE_LEVELS.values()))
_RETURN_LEVELS: Final = np.array(list(RETURN_LEVELS.values()))
_PROBABILITY_FLOOR: Final = 1e-6
# A sum of probabilities may miss one by its rounding.
_ROUNDING: Final = 1e-9


def qlike_terms(realised: Any, forecast: Any) -> FloatArray:
    """QLIKE of every row, ``y/F - ln(y/F) - 1`` (Patton 2011): robust to an unbiased noisy proxy."""
    y, f = _rows(realised=realised, forecast=forecast)
    ratio = _positive("realised", y) / _positive("forecast", f)
    return np.asarray(ratio - np.log(ratio) - 1.0)


def qlike(realised: Any, forecast: Any) -> float:
    """Mean QLIKE of variance forecasts, in nats; zero only where every forecast is exact."""
    return float(qlike_terms(realised, forecast).mean())


def mse_log(realised: Any, forecast: Any) -> float:
    """Mean squared error of the log variance."""
    y, f = _rows(realised=realised, forecast=forecast)
    return float(((np.log(_positive("realised", y)) - np.log(_positive("forecast", f))) ** 2).mean())


def pinball(realised: Any, quantile: Any, level: float) -> float:
    """Mean pinball loss of forecasts of the quantile at ``level`` (Koenker and Bassett 1978)."""
    y, q = _rows(realised=realised, quantile=quantile)
    return float(_tilted(y - q, level).mean())


def crps_log(realised: Any, quantiles: Any) -> float:
    """CRPS of ln V from its five quantiles (rows × the columns of VARIANCE_LEVELS), in nats."""
    return float(crps_log_terms(realised, quantiles).mean())


def crps_log_terms(realised: Any, quantiles: Any) -> FloatArray:
    """CRPS of ln V of every row; see ``crps_log``."""
    y, q = _rows(realised=realised, quantiles=quantiles)
    q = _table("quantiles", q, len(_VARIANCE_LEVELS))
    error = np.log(_positive("realised", y))[:, None] - np.log(_positive("quantiles", q))
    return np.asarray(2.0 * (_tilted(error, _VARIANCE_LEVELS) * CRPS_WEIGHTS).sum(axis=1))


def pinball_ret(returns: Any, quantiles: Any, variance: Any) -> float:
    """Pinball loss over the return levels (rows × the columns of RETURN_LEVELS), per forecast volatility."""
    r, q, f = _rows(returns=returns, quantiles=quantiles, variance=variance)
    q = _table("quantiles", q, len(_RETURN_LEVELS))
    return float((_tilted(r[:, None] - q, _RETURN_LEVELS).mean(axis=1) / np.sqrt(_positive("variance", f))).mean())


def coverage(realised: Any, lower: Any, upper: Any) -> float:
    """Share of rows within ``[lower, upper]``."""
    y, low, high = _rows(realised=realised, lower=lower, upper=upper)
    return float(((low <= y) & (y <= high)).mean())


def hit_rate(returns: Any, quantile: Any) -> float:
    """Share of rows with the return below its quantile."""
    r, q = _rows(returns=returns, quantile=quantile)
    return float((r < q).mean())


def brier(outcome: Any, probability: Any) -> float:
    """Mean squared error of probabilities of outcomes 0 or 1 (Brier 1950)."""
    o, p = _rows(outcome=outcome, probability=probability)
    return float(((_probability("probability", p) - _probability("outcome", o)) ** 2).mean())


def log_loss(regime: Any, probabilities: Any) -> float:
    """Mean ``-ln p`` of the class that came, p floored at 1e-6: ``regime`` 0..k-1, probabilities rows × k."""
    c, p = _rows(regime=regime, probabilities=probabilities)
    p = _table("probabilities", _probability("probabilities", p), None)
    _refuse("regime", (c < 0) | (c >= p.shape[1]) | (c != np.floor(c)), f"is not a class 0..{p.shape[1] - 1}")
    chosen = p[np.arange(len(c)), c.astype(np.intp)]
    return float(-np.log(np.maximum(chosen, _PROBABILITY_FLOOR)).mean())


def ece(outcome: Any, probability: Any, bins: int = 20) -> float:
    """Expected calibration error over bins of equal mass: ``Σ (n_b/n) |mean p - mean outcome|``.

    Rows of equal probability share their mean outcome before they are cut into bins: no forecast tells them
    apart, and the score would otherwise depend on the order of the rows.
    """
    o, p = _rows(outcome=outcome, probability=probability)
    _probability("outcome", o)
    levels, level = np.unique(_probability("probability", p), return_inverse=True)
    size = np.bincount(level, minlength=len(levels))
    shared = np.bincount(level, weights=o, minlength=len(levels)) / size
    gap = np.repeat(levels - shared, size)
    return float(sum(abs(float(part.sum())) for part in np.array_split(gap, bins)) / len(gap))


def fz0_terms(returns: Any, var: Any, es: Any, level: float) -> FloatArray:
    """FZ0 of every row, the joint loss of value at risk and expected shortfall (Patton, Ziegel, Chen 2019).

    ``-1(r <= q)(q - r)/(αe) + q/e + ln(-e) - 1``, quantile q and shortfall e of the left tail, ``e < q < 0``.
    """
    r, q, e = _rows(returns=returns, var=var, es=es)
    _refuse("var", q >= 0, "is not negative; FZ0 is a loss of the left tail")
    _refuse("es", e >= q, "is not below var; expected shortfall lies beyond the quantile")
    return np.asarray(-1.0 * (r <= q) * (q - r) / (level * e) + q / e + np.log(-e) - 1.0)


def fz0(returns: Any, var: Any, es: Any, level: float) -> float:
    """Mean FZ0 loss; see ``fz0_terms``."""
    return float(fz0_terms(returns, var, es, level).mean())


def _tilted(error: FloatArray, level: float | FloatArray) -> FloatArray:
    return np.asarray(error * (level - (error < 0)))


def _rows(**arguments: Any) -> tuple[FloatArray, ...]:
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in arguments.items()}
    shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    first, *_ = arrays.values()
    if first.ndim != 1 or any(array.ndim == 0 or len(array) != len(first) for array in arrays.values()):
        raise DataInvalid(f"shapes do not match: {shapes}; pass arrays with one row per forecast")
    if first.size == 0:
        raise DataInvalid(f"nothing to score: {shapes}; pass at least one row")
    for name, array in arrays.items():
        _refuse(
            name,
            ~np.isfinite(array),
            "is null or infinite; drop rows without forecast or target",
        )
    return tuple(arrays.values())


def _positive(name: str, array: FloatArray) -> FloatArray:
    _refuse(name, array <= 0, "is not positive; variances are floored above zero")
    return array


def _probability(name: str, array: FloatArray) -> FloatArray:
    _refuse(name, (array < -_ROUNDING) | (array > 1 + _ROUNDING), "is outside [0, 1]")
    return array


def _table(name: str, array: FloatArray, columns: int | None) -> FloatArray:
    if array.ndim != 2 or (columns is not None and array.shape[1] != columns):
        raise DataInvalid(f"{name} has shape {array.shape}; it needs rows × {columns or 'classes'}")
    return array


def _refuse(name: str, bad: npt.NDArray[np.bool_], why: str) -> None:
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise DataInvalid(f"{name} in row {row} {why}")
