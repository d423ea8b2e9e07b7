"""The classical members: exponentially weighted variance, and the HAR family.

References: J.P. Morgan (1996) RiskMetrics; Corsi (2009), J. Financial Econometrics 7; Patton (2011), J. Econometrics 160
(QLIKE: the loss under which a noisy proxy still ranks forecasts rightly); McCullagh and Nelder (1989), ch. 8 (its
minimiser is the gamma quasi-likelihood fit, found by Fisher scoring).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.families.memory import RAW_HALF_LIVES
from models.members import Member, require
from models.training_rows import TrainingRows, symbol_codes

__all__ = ["EWMA", "HAR", "linear"]

Array = npt.NDArray[np.float64]

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

    def _learn(self, past: TrainingRows) -> None:
        at = past.within(self.window_days)
        # QLIKE at each symbol's best level, since every forecast is levelled afterwards.
        by_symbol = [self._losses(past, part) for _, part in past.by_symbol(at)]
        losses, known = np.stack(by_symbol), np.isfinite(by_symbol)
        mean = np.where(known, losses, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        best = np.where(known.any(axis=(0, 2)), mean.argmin(axis=1), len(self.half_lives) // 2)
        self.half_life_ = np.asarray(self.half_lives, dtype=np.int64)[best]

    def _losses(self, past: TrainingRows, at: npt.NDArray[np.int64]) -> Array:
        """``ln mean(V/F) - mean(ln(V/F))`` of one symbol, (n_horizons, n_half_lives); NaN where nothing is known."""
        log_level = past.values([f"log_ew_raw_{q}h" for q in self.half_lives], at, "ewma")
        sound = np.isfinite(log_level).all(axis=1) & np.isfinite(past.variance[at]).any(axis=1)
        log_level, variance = log_level[sound], past.variance[at[sound]].T
        known = np.isfinite(variance)
        count = known.sum(axis=1, dtype=np.float64)[:, None]
        count[count == 0] = np.nan
        ratio = np.where(known, variance, 0.0) @ np.exp(-log_level) / count
        log_ratio = np.log(variance, where=known, out=np.zeros_like(variance)).sum(axis=1)[:, None] - known @ log_level
        return np.asarray(np.log(ratio) - log_ratio / count)

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

    def _learn(self, past: TrainingRows) -> None:
        settings = ("har", self.seasonal, tuple(self.lags), self.window_days, self.shrinkage)
        # Several members stand on the seasonal HAR: of the same rows it is fitted once.
        self.symbols_, self.coefficients_, self.pooled_ = past.once(settings, lambda: self._coefficients(past))

    def _coefficients(self, past: TrainingRows) -> tuple[tuple[str, ...], Array, Array]:
        """The symbols, their coefficients (n_symbols, n_horizons, n_lags + 1), and the pool's (n_horizons, n_lags + 1)."""
        parts = {name: self._part(past, at) for name, at in past.by_symbol(past.within(self.window_days))}
        needed = 10 * (len(self.lags) + 1)
        counts = {name: np.count_nonzero(part.weights, axis=1) for name, part in parts.items()}
        for h, count in zip(past.horizons, sum(counts.values()), strict=True):
            if count < needed:
                raise DataInvalid(
                    f"model 'har' has {int(count)} complete rows for horizon {h} h and needs {needed}; "
                    "start later or import more history"
                )
        pooled = qlike_fit(list(parts.values()))
        shrunk = np.repeat(pooled[None], len(parts), axis=0)
        for i, (name, part) in enumerate(parts.items()):
            enough = counts[name] >= needed
            share = (counts[name] / (counts[name] + self.shrinkage))[enough, None]
            if enough.any():
                shrunk[i, enough] = share * qlike_fit([part.of(enough)]) + (1 - share) * pooled[enough]
        return tuple(parts), shrunk, pooled

    def _part(self, past: TrainingRows, at: npt.NDArray[np.int64]) -> Part:
        design = filled(past.values(self._ladder, at, "har"))
        target = past.log_variance(at) - self._offset(past.values(self.seasons, at, "har_seasonal"))
        weights = past.weights(at)
        usable = np.isfinite(target) & (np.isfinite(design).all(axis=1) & (weights > 0))[:, None]
        some = usable.any(axis=1)
        usable = usable[some].T
        return Part(
            np.vstack([np.ones(usable.shape[1]), design[some].T]),
            np.where(usable, target[some].T, 0.0),
            usable * weights[some],
        )

    def of(self, past: TrainingRows, at: npt.NDArray[np.int64]) -> Array:
        """``ln E[V]`` of rows that members are fitted on; (n_places, n_horizons)."""
        ladder, season = past.values(self._ladder, at, "har"), past.values(self.seasons, at, "har_seasonal")
        return self._log_mean(ladder, season, past.symbol[at], past.symbols)

    def _predict_log(self, X: pd.DataFrame) -> Array:
        ladder, season = require(X, self._ladder, "har"), require(X, self.seasons, "har_seasonal")
        return self._log_mean(ladder, season, *symbol_codes(X.index))

    def _log_mean(self, ladder: Array, season: Array, symbol: npt.NDArray[np.int64], symbols: Sequence[str]) -> Array:
        design = filled(ladder)
        # A symbol never seen has the last ones, the pool's.
        rows = pd.Index(self.symbols_).get_indexer(pd.Index(symbols))[symbol]
        out = np.empty((len(design), len(self.horizons_)))
        for j in range(len(self.horizons_)):
            out[:, j] = linear(design, np.vstack([self.coefficients_[:, j], self.pooled_[None, j]])[rows])
        return out + self._offset(season)

    @property
    def _ladder(self) -> list[str]:
        prefix = "log_rv_" if self.seasonal else "log_rv_raw_"
        return [f"{prefix}{lag}h" for lag in self.lags]

    @property
    def seasons(self) -> list[str]:
        """Columns of the season that lies ahead, by horizon; none where the season is left out."""
        return [f"log_season_ahead_{h}h" for h in self.horizons_] if self.seasonal else []

    def _offset(self, season: Array) -> Array:
        return season if self.seasonal else np.log(np.array(self.horizons_, dtype=np.float64))[None, :]

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


def filled(ladder: Array) -> Array:
    """A missing window takes the value of the next shorter one, the shortest missing ones that of the shortest known."""
    out = ladder.copy()
    steps = range(1, out.shape[1])
    for k, neighbour in [(k, k - 1) for k in steps] + [(k - 1, k) for k in reversed(steps)]:
        missing = np.isnan(out[:, k])
        out[missing, k] = out[missing, neighbour]
    return out


def linear(design: Array, coefficients: Array) -> Array:
    """``b_0 + sum_j b_j x_j`` per row, added column by column so that a row's bits do not depend on the others.

    ``design`` (n_rows, k), ``coefficients`` (n_rows, k + 1), the constant first.
    """
    total = coefficients[:, 0].copy()
    for j in range(design.shape[1]):
        total += coefficients[:, j + 1] * design[:, j]
    return total


@dataclass(frozen=True)
class Part:
    """Some rows of a fit: ``design`` (k, n), the constant first; ``target`` and ``weights`` (n_horizons, n).

    Where a row is not known, its weight is zero and its target any finite number.
    """

    design: Array
    target: Array
    weights: Array

    def of(self, horizons: npt.NDArray[np.bool_]) -> Part:
        """The same rows, some horizons."""
        return Part(self.design, self.target[horizons], self.weights[horizons])


def qlike_fit(parts: Sequence[Part]) -> Array:
    """Coefficients (n_horizons, k) of the log-linear models that minimise QLIKE against ``exp(target)`` on all the parts.

    Fisher scoring from the least-squares fit of the log. A row's working residual ``V/F - 1`` is bounded while the slopes
    are sought, so that one crash does not turn them; the constant then sets the level at which the mean of ``V/F`` is one.
    """
    normal = sum(np.stack([(p.design * w) @ p.design.T for w in p.weights]) for p in parts)
    # A short history has equal windows; the shortest solution shares their weight.
    inverse = np.linalg.pinv(normal, hermitian=True)
    total = sum(p.weights.sum(axis=1) for p in parts)

    def step(working: Iterable[Array]) -> Array:
        moment = sum((p.weights * x) @ p.design.T for p, x in zip(parts, working, strict=True))
        return np.asarray(np.einsum("jkl,jl->jk", inverse, moment))

    def ratios() -> list[Array]:
        """``V/F``, the constants set so that their mean is one."""
        raw = [np.exp(p.target - coefficients @ p.design) for p in parts]
        level = sum(np.einsum("jn,jn->j", p.weights, x) for p, x in zip(parts, raw, strict=True)) / total
        coefficients[:, 0] += np.log(level)
        return [x / level[:, None] for x in raw]

    coefficients = step(p.target for p in parts)
    for _ in range(SCORING_STEPS):
        coefficients += step(np.minimum(x - 1.0, LARGEST_RESIDUAL) for x in ratios())
    ratios()
    return coefficients
