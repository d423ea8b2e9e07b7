"""Exponentially weighted means of past variance: the forecast that answers whenever anything does, and its seasonal twin.

References: J.P. Morgan (1996) RiskMetrics; Alexander and Dakos (2023), Quantitative Finance 23 (of crypto assets, an EWMA
with an asymmetric response is as good as a GARCH); Patton (2011), J. Econometrics 160 (QLIKE).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.families.memory import DOWN_HALF_LIVES, RAW_HALF_LIVES
from models.explanation import since_usual
from models.members import Member, require
from models.training_rows import TrainingRows

__all__ = ["EWMA", "SeasonalEWMA"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class _Chosen(Member):
    """One of a few candidates per horizon: the one with the lowest QLIKE over the newest training rows."""

    window_days: int

    def _learn(self, past: TrainingRows) -> None:
        at = past.within(self.window_days)
        # At each symbol's best level, since every forecast is levelled afterwards.
        by_symbol = [
            _losses_at_best_level(self._candidates(past, part), self._target(past, part))
            for _, part in past.by_symbol(at)
        ]
        losses, known = np.stack(by_symbol), np.isfinite(by_symbol)
        mean = np.where(known, losses, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        self._choose(np.where(known.any(axis=(0, 2)), mean.argmin(axis=1), self._without_labels()))

    @abstractmethod
    def _candidates(self, past: TrainingRows, at: Integers) -> Array:
        """Log hourly variance as each candidate has it, (n_places, n_candidates)."""

    @abstractmethod
    def _target(self, past: TrainingRows, at: Integers) -> Array:
        """What the candidates stand for, up to a constant per horizon: (n_places, n_horizons)."""

    @abstractmethod
    def _without_labels(self) -> int:
        """The candidate taken where no label is known."""

    @abstractmethod
    def _choose(self, best: Integers) -> None:
        """Keep the candidate ``best`` of each horizon."""


class EWMA(_Chosen):
    """Exponentially weighted mean of raw bar variance times the horizon; the half-life with the lowest QLIKE.

    ``window_days``: how much of the training rows decides on the half-life. Needs the column ``log_ew_raw_{hl}h`` of each
    candidate and nothing else, so it answers whenever anything does.
    """

    name = "ewma"

    def __init__(self, half_lives: Sequence[int] = RAW_HALF_LIVES, window_days: int = 365) -> None:
        self.half_lives = half_lives
        self.window_days = window_days

    def _candidates(self, past: TrainingRows, at: Integers) -> Array:
        return past.values([f"log_ew_raw_{q}h" for q in self.half_lives], at, self.name)

    def _target(self, past: TrainingRows, at: Integers) -> Array:
        return past.log_variance(at)

    def _without_labels(self) -> int:
        return len(self.half_lives) // 2

    def _choose(self, best: Integers) -> None:
        self.half_life_ = np.asarray(self.half_lives, dtype=np.int64)[best]

    def _predict_log(self, X: pd.DataFrame) -> Array:
        columns = [f"log_ew_raw_{q}h" for q in self.half_life_]
        return require(X, columns, self.name) + np.log(np.array(self.horizons_, dtype=np.float64))

    def contributions(self, X: pd.DataFrame, families: Mapping[str, str]) -> dict[str, Array]:
        """The usual variance of the last month, and what the newer hours add to it; see ``Member.contributions``."""
        return since_usual(self._predict_log(X), require(X, ["log_rv_raw_720h"], self.name)[:, 0], None, self.horizons_)

    def state(self) -> dict[str, Any]:
        """Half-life per horizon and the residual quantiles."""
        return {"horizons": list(self.horizons_), "half_life": self.half_life_, "residuals": self.residuals_}

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.horizons_ = tuple(state["horizons"])
        self.half_life_, self.residuals_ = np.asarray(state["half_life"]), np.asarray(state["residuals"])
        return self


class SeasonalEWMA(_Chosen):
    """Exponentially weighted mean of deseasonalised variance, hours of falling prices weighing more; the season put back.

    ``ln F = ln ew((1 + g 1(r < 0)) v/S) - ln(1 + g/2) + season ahead``. Half-life and ``g`` (one of ``asymmetries``) are
    those with the lowest QLIKE over the newest ``window_days`` of the training rows, the same for all symbols. Needs the
    columns ``log_ew_{hl}h`` and ``log_ew_down_{hl}h`` of each half-life, and the season ahead.
    """

    name = "ewma_seasonal"

    def __init__(
        self,
        half_lives: Sequence[int] = DOWN_HALF_LIVES,
        asymmetries: Sequence[float] = (0.0, 0.25, 0.5, 1.0, 2.0),
        window_days: int = 365,
    ) -> None:
        self.half_lives = half_lives
        self.asymmetries = asymmetries
        self.window_days = window_days

    def _candidates(self, past: TrainingRows, at: Integers) -> Array:
        values = past.values([name for q in self.half_lives for name in _pair(q)], at, self.name)
        whole, down = values[:, 0::2], values[:, 1::2]
        levels = [
            _asymmetric(whole[:, k], down[:, k], g) for k, g in product(range(len(self.half_lives)), self.asymmetries)
        ]
        return np.column_stack(levels)

    def _target(self, past: TrainingRows, at: Integers) -> Array:
        return past.log_variance(at) - past.values(self._seasons, at, self.name)

    def _without_labels(self) -> int:
        return len(self.half_lives) // 2 * len(self.asymmetries)

    def _choose(self, best: Integers) -> None:
        pairs = np.array(list(product(self.half_lives, self.asymmetries)), dtype=np.float64)[best]
        self.half_life_, self.asymmetry_ = pairs[:, 0].astype(np.int64), pairs[:, 1]

    def _predict_log(self, X: pd.DataFrame) -> Array:
        season = require(X, self._seasons, self.name)
        values = require(X, [name for q in self.half_life_ for name in _pair(q)], self.name)
        levels = [_asymmetric(values[:, 2 * j], values[:, 2 * j + 1], g) for j, g in enumerate(self.asymmetry_)]
        return np.column_stack(levels) + season

    @property
    def _seasons(self) -> list[str]:
        return [f"log_season_ahead_{h}h" for h in self.horizons_]

    def state(self) -> dict[str, Any]:
        """Half-life and asymmetry per horizon, and the residual quantiles."""
        return {
            "horizons": list(self.horizons_),
            "half_life": self.half_life_,
            "asymmetry": self.asymmetry_,
            "residuals": self.residuals_,
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.horizons_ = tuple(state["horizons"])
        for name in ("half_life", "asymmetry", "residuals"):
            setattr(self, f"{name}_", np.asarray(state[name]))
        return self


def _pair(half_life: int) -> list[str]:
    return [f"log_ew_{half_life}h", f"log_ew_down_{half_life}h"]


def _asymmetric(log_whole: Array, log_down: Array, g: float) -> Array:
    """``ln(ew(x) + g ew(x 1(r<0)))``, level where half of the variance comes with falling prices; each (n_rows,)."""
    return np.asarray(np.log(np.exp(log_whole) + g * np.exp(log_down)) - np.log1p(g / 2))


def _losses_at_best_level(log_level: Array, log_variance: Array) -> Array:
    """``ln mean(V/F) - mean(ln(V/F))``, (n_horizons, n_candidates); NaN where nothing is known.

    ``log_level`` (n_rows, n_candidates), ``log_variance`` (n_rows, n_horizons), NaN where unknown.
    """
    sound = np.isfinite(log_level).all(axis=1) & np.isfinite(log_variance).any(axis=1)
    level, target = log_level[sound], log_variance[sound].T
    known = np.isfinite(target)
    count = known.sum(axis=1, dtype=np.float64)[:, None]
    count[count == 0] = np.nan
    target = np.where(known, target, 0.0)
    ratio = (known * np.exp(target)) @ np.exp(-level) / count
    log_ratio = (target.sum(axis=1)[:, None] - known @ level) / count
    return np.asarray(np.log(ratio) - log_ratio)
