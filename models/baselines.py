"""The classical members: exponentially weighted variance, and the HAR family.

References: J.P. Morgan (1996) RiskMetrics; Corsi (2009), J. Financial Econometrics 7; Patton (2011), J. Econometrics 160
(QLIKE: the loss under which a noisy proxy still ranks forecasts rightly); McCullagh and Nelder (1989), ch. 8 (its
minimiser is the gamma quasi-likelihood fit, found by Fisher scoring).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.families.memory import RAW_HALF_LIVES
from models.members import Member, log_targets, require

__all__ = ["EWMA", "HAR", "linear"]

Array = npt.NDArray[np.float64]

MICROSECONDS_PER_DAY = 86_400_000_000
SCORING_STEPS = 6
LARGEST_RESIDUAL = 20.0


class EWMA(Member):
    """Exponentially weighted mean of raw bar variance times the horizon; the half-life with the lowest QLIKE.

    ``window_days``: how much of the training rows decides on the half-life. Needs the column ``log_ew_raw_{hl}h`` of each
    candidate and nothing else, so it answers whenever anything does.
    """

    def __init__(self, half_lives: Sequence[int] = RAW_HALF_LIVES, window_days: int = 365) -> None:
        self.half_lives = half_lives
        self.window_days = window_days

    def _fit(self, X: pd.DataFrame, y: pd.DataFrame, weight: Array | None) -> None:
        levels = require(X, [f"log_ew_raw_{q}h" for q in self.half_lives], "ewma")
        recent = newest_rows(X.index, self.window_days)
        targets = y.to_numpy(np.float64)
        symbols = X.index.get_level_values("symbol")[recent]
        self.half_life_ = np.zeros(len(self.horizons_), dtype=np.int64)
        for j, h in enumerate(self.horizons_):
            ratio = targets[recent, j, None] / (h * np.exp(levels[recent]))
            known = np.isfinite(ratio).all(axis=1)
            by_symbol = pd.DataFrame(ratio[known]).groupby(np.asarray(symbols[known]))
            # QLIKE at each symbol's best level, since every forecast is levelled afterwards.
            loss = (
                np.log(by_symbol.mean()) - pd.DataFrame(np.log(ratio[known])).groupby(np.asarray(symbols[known])).mean()
            )
            best = int(np.argmin(loss.mean())) if known.any() else len(self.half_lives) // 2
            self.half_life_[j] = self.half_lives[best]

    def _predict_log(self, X: pd.DataFrame) -> Array:
        columns = [f"log_ew_raw_{q}h" for q in self.half_life_]
        return require(X, columns, "ewma") + np.log(np.array(self.horizons_, dtype=np.float64))

    def state(self) -> dict[str, Any]:
        """Half-life per horizon and the residual quantiles."""
        return {"horizons": list(self.horizons_), "half_life": self.half_life_, "residuals": self.residuals_}

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.horizons_ = tuple(state["horizons"])
        self.half_life_, self.residuals_ = np.asarray(state["half_life"]), np.asarray(state["residuals"])
        return self


class HAR(Member):
    """Log-linear HAR per symbol and horizon, fitted to QLIKE, each symbol's coefficients shrunk to the pooled ones.

    ``ln F = a_i + sum_L b_iL ln mean_L(v)``; ``seasonal`` works on deseasonalised variance and adds the known season of
    the horizon back. ``window_days``: rows to fit on (None: all). ``shrinkage``: rows at which a symbol's own
    coefficients weigh as much as the pool's; a symbol never seen has the pool's. Fitting QLIKE and not the log needs no
    bias correction, and near-empty hours, far out in the log, cannot rule the fit.
    """

    def __init__(
        self,
        seasonal: bool = True,
        lags: Sequence[int] = (1, 4, 24, 168, 720),
        window_days: int | None = 730,
        shrinkage: float = 20_000.0,
    ) -> None:
        self.seasonal = seasonal
        self.lags = lags
        self.window_days = window_days
        self.shrinkage = shrinkage

    def _fit(self, X: pd.DataFrame, y: pd.DataFrame, weight: Array | None) -> None:
        recent = newest_rows(X.index, self.window_days)
        X = X.loc[recent]
        design, target = self._design(X), log_targets(y.loc[recent]) - self._offset(X)
        weights = np.ones(len(X)) if weight is None else weight[recent]
        symbols = X.index.get_level_values("symbol")
        self.symbols_ = tuple(sorted(set(map(str, symbols))))
        k = design.shape[1] + 1
        self.coefficients_ = np.zeros((len(self.symbols_), len(self.horizons_), k))
        self.pooled_ = np.zeros((len(self.horizons_), k))
        sound = np.isfinite(design).all(axis=1)
        for j, h in enumerate(self.horizons_):
            usable = sound & np.isfinite(target[:, j])
            if usable.sum() < 10 * k:
                raise DataInvalid(
                    f"model 'har' has {int(usable.sum())} complete rows for horizon {h} h and needs {10 * k}; "
                    "start later or import more history"
                )
            pooled = qlike_fit(design[usable], target[usable, j], weights[usable])
            self.pooled_[j] = pooled
            for i, symbol in enumerate(self.symbols_):
                rows = np.flatnonzero(usable & (symbols == symbol))
                own = pooled
                if len(rows) >= 10 * k:
                    own = qlike_fit(design[rows], target[rows, j], weights[rows])
                share = len(rows) / (len(rows) + self.shrinkage)
                self.coefficients_[i, j] = share * own + (1 - share) * pooled

    def _predict_log(self, X: pd.DataFrame) -> Array:
        design, offset = self._design(X), self._offset(X)
        known = pd.Index(self.symbols_).get_indexer(X.index.get_level_values("symbol"))
        out = np.empty((len(X), len(self.horizons_)))
        for j in range(len(self.horizons_)):
            table = np.vstack([self.coefficients_[:, j], self.pooled_[None, j]])
            out[:, j] = linear(design, table[known]) + offset[:, j]
        return out

    def _design(self, X: pd.DataFrame) -> Array:
        prefix = "log_rv_" if self.seasonal else "log_rv_raw_"
        ladder = require(X, [f"{prefix}{lag}h" for lag in self.lags], "har")
        # A short history falls back to its longest complete window; a gap, to the shortest complete one.
        return pd.DataFrame(ladder).ffill(axis=1).bfill(axis=1).to_numpy()

    def _offset(self, X: pd.DataFrame) -> Array:
        if self.seasonal:
            return require(X, [f"log_season_ahead_{h}h" for h in self.horizons_], "har_seasonal")
        return np.zeros((len(X), len(self.horizons_))) + np.log(np.array(self.horizons_, dtype=np.float64))

    def state(self) -> dict[str, Any]:
        """Coefficients per symbol and of the pool, residual quantiles."""
        return {
            "horizons": list(self.horizons_),
            "symbols": list(self.symbols_),
            "coefficients": self.coefficients_,
            "pooled": self.pooled_,
            "residuals": self.residuals_,
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.horizons_, self.symbols_ = tuple(state["horizons"]), tuple(state["symbols"])
        for name in ("coefficients", "pooled", "residuals"):
            setattr(self, f"{name}_", np.asarray(state[name]))
        return self


def newest_rows(index: pd.Index, window_days: int | None) -> npt.NDArray[np.bool_]:
    """Rows whose origin lies within ``window_days`` of the newest one; all of them for None."""
    if window_days is None:
        return np.ones(len(index), dtype=np.bool_)
    origins = pd.DatetimeIndex(index.get_level_values("origin")).as_unit("us").asi8
    return np.asarray(origins > origins.max() - window_days * MICROSECONDS_PER_DAY)


def linear(design: Array, coefficients: Array) -> Array:
    """``b_0 + sum_j b_j x_j`` per row, added column by column so that a row's bits do not depend on the others.

    ``design`` (n_rows, k), ``coefficients`` (n_rows, k + 1), the constant first.
    """
    total = coefficients[:, 0].copy()
    for j in range(design.shape[1]):
        total += coefficients[:, j + 1] * design[:, j]
    return total


def qlike_fit(design: Array, target: Array, weights: Array) -> Array:
    """Coefficients (constant first) of the log-linear model that minimises QLIKE against ``exp(target)``.

    Fisher scoring from the least-squares fit of the log. A row's working residual ``V/F - 1`` is bounded while the slopes
    are sought, so that one crash does not turn them; the constant then sets the level at which the mean of ``V/F`` is one.
    """
    full = np.column_stack([np.ones(len(design)), design])
    normal = np.einsum("ni,n,nj->ij", full, weights, full, optimize=["einsum_path", (0, 1), (0, 1)])
    # A short history has equal windows; the shortest solution shares their weight.
    inverse = np.linalg.pinv(normal, hermitian=True)
    coefficients = inverse @ np.einsum("ni,n->i", full, weights * target)
    for _ in range(SCORING_STEPS):
        coefficients[0] += _log_level(target - full @ coefficients, weights)
        residual = np.minimum(np.expm1(target - full @ coefficients), LARGEST_RESIDUAL)
        coefficients = coefficients + inverse @ np.einsum("ni,n->i", full, weights * residual)
    coefficients[0] += _log_level(target - full @ coefficients, weights)
    return np.asarray(coefficients)


def _log_level(log_ratio: Array, weights: Array) -> float:
    return float(np.log(np.average(np.exp(log_ratio), weights=weights)))
