"""Gradient boosting on what the seasonal HAR leaves unexplained, pooled over all symbols.

Trees see no symbol identifier, so what they learn transfers to symbols they never saw. Reference for pooling: Zhang,
Zhang, Cucuringu and Qian (2024), J. Financial Econometrics 22.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.panel import MICROSECONDS_PER_HOUR
from models.baselines import HAR, newest_rows
from models.members import Member, log_targets

__all__ = ["LightGBM", "equal_by_symbol", "relative_levels"]

Array = npt.NDArray[np.float64]

# Raw ladders repeat the deseasonalised ones; ages of feeds tell symbols apart and little else.
UNUSED_PREFIXES = ("log_rv_raw_", "log_ew_raw_", "log_season_ahead_", "age_", "log_listing_age")
# Log variances enter as distances from the HAR's own forecast, so that a split means the same at every level.
LEVEL_PREFIXES = ("log_rv_", "log_ew_", "market_log_ew_", "spillover_")
NOT_LEVELS = ("log_rv_sd_", "log_rv_15m_")


class LightGBM(Member):
    """``ln F = ln F_har_seasonal + g(x)``, one booster per horizon.

    ``objective``: ``l2`` fits ``ln V - ln F_har``; ``gamma`` fits ``V / F_har`` with a log link, whose deviance is QLIKE.
    ``largest_residual`` bounds the log residual that is learnt from, so that empty hours and crashes weigh like other
    surprises. ``every_hours`` thins the training rows (5: every hour of day still occurs); ``window_days``: history to
    train on.
    The rest is LightGBM's own, fixed for bit-reproducible training.
    """

    def __init__(
        self,
        objective: Literal["l2", "gamma"] = "l2",
        rounds: int = 220,
        learning_rate: float = 0.04,
        num_leaves: int = 15,
        min_data_in_leaf: int = 1000,
        feature_fraction: float = 0.6,
        bagging_fraction: float = 0.7,
        lambda_l2: float = 10.0,
        max_bin: int = 127,
        largest_residual: float = 2.5,
        every_hours: int = 5,
        window_days: int | None = None,
        seed: int = 1,
        num_threads: int = 1,
    ) -> None:
        self.objective = objective
        self.rounds = rounds
        self.learning_rate = learning_rate
        self.num_leaves = num_leaves
        self.min_data_in_leaf = min_data_in_leaf
        self.feature_fraction = feature_fraction
        self.bagging_fraction = bagging_fraction
        self.lambda_l2 = lambda_l2
        self.max_bin = max_bin
        self.largest_residual = largest_residual
        self.every_hours = every_hours
        self.window_days = window_days
        self.seed = seed
        self.num_threads = num_threads

    def _fit(self, X: pd.DataFrame, y: pd.DataFrame, weight: Array | None) -> None:
        import lightgbm

        self.base_ = HAR(seasonal=True).fit(X, y, sample_weight=weight)
        self.columns_ = tuple(c for c in map(str, X.columns) if not c.startswith(UNUSED_PREFIXES))
        origins = pd.DatetimeIndex(X.index.get_level_values("origin")).as_unit("us").asi8
        kept = newest_rows(X.index, self.window_days) & (origins // MICROSECONDS_PER_HOUR % self.every_hours == 0)
        X, y = X.loc[kept], y.loc[kept]
        base = self.base_._predict_log(X)
        residual = np.clip(log_targets(y) - base, -self.largest_residual, self.largest_residual)
        rows = np.ones(len(X)) if weight is None else weight[kept]
        self.boosters_: list[str] = []
        for j, h in enumerate(self.horizons_):
            known = np.isfinite(residual[:, j])
            if known.sum() < 2 * self.min_data_in_leaf:
                raise DataInvalid(
                    f"model 'lightgbm' has {int(known.sum())} training rows for horizon {h} h and needs "
                    f"{2 * self.min_data_in_leaf}; lower every_hours or min_data_in_leaf, or import more history"
                )
            target = residual[known, j] if self.objective == "l2" else np.exp(residual[known, j])
            data = lightgbm.Dataset(
                self._design(X, base, j)[known],
                target,
                weight=equal_by_symbol(X.index[known]) * rows[known],
                params={"max_bin": self.max_bin, "verbosity": -1},
            )
            booster = lightgbm.train(self._parameters(), data, num_boost_round=self.rounds)
            self.boosters_.append(booster.model_to_string(num_iteration=-1))
        self._loaded: list[Any] | None = None

    def _parameters(self) -> dict[str, Any]:
        return {
            "objective": "regression" if self.objective == "l2" else "gamma",
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_data_in_leaf,
            "feature_fraction": self.feature_fraction,
            "bagging_fraction": self.bagging_fraction,
            "bagging_freq": 1,
            "lambda_l2": self.lambda_l2,
            "max_bin": self.max_bin,
            "seed": self.seed,
            "num_threads": self.num_threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }

    def _design(self, X: pd.DataFrame, base: Array, j: int) -> Array:
        """The features, the season ahead per hour, and the HAR's own deseasonalised forecast per hour."""
        h = self.horizons_[j]
        season = X[f"log_season_ahead_{h}h"].to_numpy(np.float64)
        har = base[:, j] - season
        return np.column_stack([relative_levels(X, self.columns_, har), season - np.log(h), har])

    @property
    def feature_names_(self) -> list[str]:
        """Names of the boosters' inputs, in order."""
        return [*self.columns_, "season_ahead_per_hour", "log_har_deseasonalised"]

    def inputs(self, X: pd.DataFrame, j: int) -> Array:
        """What the booster of horizon number ``j`` is given for ``X``: (n_rows, n_inputs)."""
        return self._design(X, self.base_._predict_log(X), j)

    def _predict_log(self, X: pd.DataFrame) -> Array:
        base = self.base_._predict_log(X)
        out = np.empty_like(base)
        for j, booster in enumerate(self._boosters()):
            raw = booster.predict(self._design(X, base, j), raw_score=True, num_threads=self.num_threads)
            out[:, j] = base[:, j] + raw
        return out

    def _boosters(self) -> list[Any]:
        import lightgbm

        if getattr(self, "_loaded", None) is None:
            self._loaded = [lightgbm.Booster(model_str=text) for text in self.boosters_]
        return self._loaded or []

    def importance(self) -> pd.DataFrame:
        """Total gain per feature and horizon, each horizon's share summing to one; shape (n_features, n_horizons)."""
        gains = {
            h: booster.feature_importance("gain") for h, booster in zip(self.horizons_, self._boosters(), strict=True)
        }
        table = pd.DataFrame(gains, index=self.feature_names_)
        return table / table.sum()

    def state(self) -> dict[str, Any]:
        """Text of the boosters, their inputs, and the base's state."""
        return {
            "horizons": list(self.horizons_),
            "columns": list(self.columns_),
            "boosters": self.boosters_,
            "base": self.base_.state(),
            "residuals": self.residuals_,
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.horizons_, self.columns_ = tuple(state["horizons"]), tuple(state["columns"])
        self.boosters_, self.residuals_ = list(state["boosters"]), np.asarray(state["residuals"])
        self.base_ = HAR(seasonal=True).restore(state["base"])
        self._loaded = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}


def relative_levels(X: pd.DataFrame, columns: Sequence[str], har: Array) -> Array:
    """The columns of ``X`` as an array, log variances less ``har`` (n_rows,), the HAR's deseasonalised forecast."""
    values = X[list(columns)].to_numpy(np.float64, copy=True)
    levels = [k for k, c in enumerate(columns) if c.startswith(LEVEL_PREFIXES) and not c.startswith(NOT_LEVELS)]
    values[:, levels] -= har[:, None]
    return np.asarray(values)


def equal_by_symbol(index: pd.Index) -> Array:
    """Weights that give each symbol the same total, with mean one."""
    symbols = pd.Series(index.get_level_values("symbol"))
    count = symbols.map(symbols.value_counts()).to_numpy(np.float64)
    return len(symbols) / (symbols.nunique() * count)
