"""HAR-X: the seasonal HAR, corrected by a linear panel of all signals pooled over symbols.

The linear twin of the boosted member: the same information, no interactions, so that the report can tell what data add from
what machine learning adds. References: Bollerslev, Hood, Huss and Pedersen (2018), Rev. Financial Studies 31 (pooled risk
models); Hoerl and Kennard (1970), Technometrics 12 (ridge).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.boosting import HAR_FAMILY, UNUSED_PREFIXES, equal_by_symbol, is_level
from models.explanation import LEVEL, by_family
from models.har import HAR
from models.members import Member, require
from models.training_rows import TrainingRows, evenly

__all__ = ["HARX"]

Array = npt.NDArray[np.float64]

# The clock is not linear, the last return has no sign, and bars of 15 minutes exist for few symbols.
NOT_LINEAR: Final = ("hour", "weekday", "log_return_1h")
SPARSE: Final = ("15m", "med_rv", "root_quarticity")
LARGEST_SCORE: Final = 4.0
LARGEST_RESIDUAL: Final = 10.0
SCORING_STEPS: Final = 8
# The spread between the 10 % and 90 % quantiles of a normal, in standard deviations.
NORMAL_SPREAD: Final = 2.563
SPREAD_ROWS: Final = 10_000
NORMAL_ROWS: Final = 20_000
BLOCK: Final = 2048


class HARX(Member):
    """``ln F = ln F_har_seasonal + a + b'z`` per horizon, slopes pooled, fitted to QLIKE with a ridge.

    ``z``: the features, log variances as distances from the HAR's forecast, centred by the median and scaled by the spread
    of the training rows, bounded to four; a missing value counts as the median. ``ridge``: penalty per row on squared
    slopes. ``every_hours`` thins the training rows, ``window_days`` limits them.
    """

    name = "har_x"

    def __init__(self, ridge: float = 0.02, every_hours: int = 3, window_days: int | None = 1095) -> None:
        self.ridge = ridge
        self.every_hours = every_hours
        self.window_days = window_days

    def _needs(self, past: TrainingRows) -> tuple[int | None, int, int, str]:
        ten_to_a_slope = 10 * (len(_entering(past.columns)) + 1)
        return self.window_days, self.every_hours, ten_to_a_slope, "start later or import more history"

    def _learn(self, past: TrainingRows) -> None:
        self.base_ = HAR.base(past)
        self.columns_ = _entering(past.columns)
        at = past.within(self.window_days, self.every_hours)
        at = at[np.isfinite(past.variance[at]).any(axis=1)]
        base = self.base_.of(past, at)
        residual = past.log_variance(at) - base
        known = np.isfinite(residual)
        season = past.values(self.base_.seasons, at, self.name)
        shared, own = self._signals(past.values(self.columns_, at, self.name), base - season)
        thinned = evenly(len(at), SPREAD_ROWS)
        spreads = [_centre_and_spread(values[thinned]) for values in (shared, *own)]
        self.centre_, self.scale_ = (np.stack([np.r_[spreads[0][k], of[k]] for of in spreads[1:]]) for k in (0, 1))
        self._score(shared, own)
        weights = known * (equal_by_symbol(past.symbol[at]) * past.weights(at))[:, None]
        self.coefficients_ = self._slopes(shared, own, np.where(known, residual, 0.0), weights)

    def _slopes(self, shared: Array, own: Array, residual: Array, weights: Array) -> Array:
        """Penalised Fisher scoring for QLIKE; the constant is free and sets the mean of ``V/F`` to one at the end.

        ``shared`` (n, k), ``own`` (n_horizons, n, m), ``residual`` and ``weights`` (n, n_horizons), a weight zero where a
        residual is not known; gives (n_horizons, 1 + k + m), the constant first.
        """
        first = np.column_stack([np.ones(len(shared)), shared])
        k = first.shape[1]
        penalty = self.ridge * np.count_nonzero(weights, axis=0)[:, None] * (np.arange(k + own.shape[2]) > 0)
        inverse = np.linalg.inv(_normal(first, own, weights.max(axis=1)) + penalty[:, None] * np.eye(penalty.shape[1]))
        b = np.zeros(penalty.shape)
        blocks = [slice(start, start + BLOCK) for start in range(0, len(first), BLOCK)]
        for _ in range(SCORING_STEPS):
            moment = -penalty * b
            for rows in blocks:
                log_ratio = residual[rows] - _linear(first[rows], own[:, rows], b)
                surprise = (weights[rows] * np.minimum(np.expm1(log_ratio), LARGEST_RESIDUAL)).T
                moment[:, :k] += surprise @ first[rows]
                moment[:, k:] += (surprise[:, None] @ own[:, rows])[:, 0]
            b += np.einsum("jkl,jl->jk", inverse, moment)
        ratio = np.exp(residual - _linear(first, own, b))
        b[:, 0] += np.log(np.average(ratio, axis=0, weights=weights))
        return b

    def _signals(self, values: Array, har: Array) -> tuple[Array, Array]:
        """Of the features, those that serve every horizon (n, k); and each horizon's own (n_horizons, n, m).

        Its own are the log variances as distances from ``har`` (n, n_horizons), the HAR's deseasonalised forecast per
        hour, and that forecast.
        """
        k = len(self.columns_) - sum(map(is_level, self.columns_))
        own = np.empty((len(self.horizons_), len(values), values.shape[1] - k + 1))
        np.subtract(values[None, :, k:], har.T[:, :, None], out=own[:, :, :-1])
        own[:, :, -1] = har.T
        return values[:, :k], own

    def _score(self, shared: Array, own: Array) -> None:
        """Centre, scale and bound the signals in place; a missing one becomes zero."""
        k = shared.shape[1]
        for j, values in enumerate(own):
            _standardise(values, self.centre_[j, k:], self.scale_[j, k:])
        _standardise(shared, self.centre_[0, :k], self.scale_[0, :k])

    def _predict_log(self, X: pd.DataFrame) -> Array:
        base = self.base_._predict_log(X)
        har = base - require(X, self.base_.seasons, self.name)
        shared, own = self._signals(require(X, self.columns_, self.name), har)
        self._score(shared, own)
        out = base + self.coefficients_[:, 0]
        slopes = self.coefficients_[:, 1:]
        # Column by column: a matrix product's bits depend on how many rows there are.
        for i in range(shared.shape[1]):
            out += shared[:, i, None] * slopes[:, i]
        for i in range(own.shape[2]):
            out += own[:, :, i].T * slopes[:, shared.shape[1] + i]
        return np.asarray(out)

    def contributions(self, X: pd.DataFrame, families: Mapping[str, str]) -> dict[str, Array]:
        """The seasonal HAR's terms, each family's signals, and the constant; see ``Member.contributions``."""
        har = self.base_._predict_log(X) - require(X, self.base_.seasons, self.name)
        shared, own = self._signals(require(X, self.columns_, self.name), har)
        self._score(shared, own)
        slopes = self.coefficients_[:, 1:].T
        signals = [*shared.T[:, :, None], *own.transpose(2, 1, 0)]
        of = [*(families[column] for column in self.columns_), HAR_FAMILY]
        told = by_family(of, (signal * slope for signal, slope in zip(signals, slopes, strict=True)))
        return (
            self.base_.contributions(X, families)
            | told
            | {LEVEL: np.repeat(self.coefficients_[None, :, 0], len(X), axis=0)}
        )

    def state(self) -> dict[str, Any]:
        """Standardisation, slopes, their columns, and the base's state."""
        return {
            "horizons": list(self.horizons_),
            "columns": list(self.columns_),
            "centre": self.centre_,
            "scale": self.scale_,
            "coefficients": self.coefficients_,
            "base": self.base_.state(),
            "residuals": self.residuals_,
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.horizons_, self.columns_ = tuple(state["horizons"]), tuple(state["columns"])
        for name in ("centre", "scale", "coefficients", "residuals"):
            setattr(self, f"{name}_", np.asarray(state[name]))
        self.base_ = HAR(seasonal=True).restore(state["base"])
        return self


def _entering(columns: tuple[str, ...]) -> tuple[str, ...]:
    """The features that enter linearly: levels last."""
    linear = [
        c
        for c in columns
        if not c.startswith(UNUSED_PREFIXES) and c not in NOT_LINEAR and not any(part in c for part in SPARSE)
    ]
    return tuple(sorted(linear, key=is_level))


def _normal(shared: Array, own: Array, weight: Array) -> Array:
    """``sum_t w_t x_t x_t'`` per horizon, of the rows ``x = (shared, own)``, from evenly spread ones.

    It decides on the size of a scoring step and not on where the steps end, so that a part of the rows is enough.
    """
    thinned = slice(None, None, max(1, len(shared) // NORMAL_ROWS))
    k, m = shared.shape[1], own.shape[2]
    x, w = shared[thinned], weight[thinned] * (weight.sum() / weight[thinned].sum())
    weighted = (x * w[:, None]).T
    out = np.empty((len(own), k + m, k + m))
    out[:, :k, :k] = weighted @ x
    for normal, values in zip(out, own[:, thinned], strict=True):
        normal[:k, k:] = weighted @ values
        normal[k:, :k] = normal[:k, k:].T
        normal[k:, k:] = (values * w[:, None]).T @ values
    return out


def _linear(shared: Array, own: Array, b: Array) -> Array:
    """``b'x`` per row and horizon."""
    k = shared.shape[1]
    return np.asarray(shared @ b[:, :k].T + (own @ b[:, k:, None])[:, :, 0].T)


def _standardise(values: Array, centre: Array, scale: Array) -> None:
    """In place, a block of rows at a time so that it stays in the cache."""
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        block -= centre
        block /= scale
        np.clip(block, -LARGEST_SCORE, LARGEST_SCORE, out=block)
        block[np.isnan(block)] = 0.0


def _centre_and_spread(signals: Array) -> tuple[Array, Array]:
    """Median and spread of each column's finite values; zero and one where a column has none."""
    centre, scale = np.zeros(signals.shape[1]), np.ones(signals.shape[1])
    for k in range(signals.shape[1]):
        finite = signals[np.isfinite(signals[:, k]), k]
        if len(finite):
            low, centre[k], high = np.quantile(finite, [0.1, 0.5, 0.9])
            scale[k] = (high - low) / NORMAL_SPREAD or 1.0
    return centre, scale
