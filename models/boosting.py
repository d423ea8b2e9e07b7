"""Gradient boosting on what the seasonal HAR leaves unexplained, pooled over all symbols.

Trees see no symbol identifier, so what they learn transfers to symbols they never saw. Reference for pooling: Zhang,
Zhang, Cucuringu and Qian (2024), J. Financial Econometrics 22.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.explanation import LEVEL
from models.har import HAR
from models.members import Member, require
from models.shapley import grouped_shapley
from models.training_rows import TrainingRows

__all__ = ["LightGBM", "clocked", "equal_by_symbol", "is_level", "train_time"]

Array = npt.NDArray[np.float64]

# Raw ladders repeat the deseasonalised ones; ages of feeds tell symbols apart and little else; some columns are other
# members' own.
UNUSED_PREFIXES = (
    *("log_rv_raw_", "log_ew_raw_", "log_ew_24h", "log_ew_down_", "log_hourly_quarticity"),
    *("log_season_ahead_", "log_scheduled_ahead_", "age_", "log_listing_age"),
)
# Log variances enter as distances from the HAR's own forecast, so that a split means the same at every level.
LEVEL_PREFIXES = ("log_rv_", "log_ew_", "market_log_ew_", "spillover_")
NOT_LEVELS = ("log_rv_sd_", "log_rv_15m_")
# To which families the inputs count that are no features: the season ahead, and the HAR's own forecast.
SEASON_FAMILY: Final = "calendar"
HAR_FAMILY: Final = "memory"


class _Clock:
    """CPU time of the process while it runs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        begin = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - begin


_CLOCK: Final = _Clock()


def train_time() -> float:
    """CPU seconds that this process has spent inside LightGBM: in ``train`` and in the making of ``Dataset``, its bins.

    As in ``time.process_time``, differences count.
    """
    return _CLOCK.seconds


def clocked() -> AbstractContextManager[None]:
    """What runs within counts as ``train_time``."""
    return _CLOCK.running()


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

    @property
    def name(self) -> str:
        """Its kind."""
        return "lightgbm" if self.objective == "l2" else "lightgbm_gamma"

    def _needs(self, past: TrainingRows) -> tuple[int | None, int, int, str]:
        remedy = "lower every_hours or min_data_in_leaf, or import more history"
        return self.window_days, self.every_hours, 2 * self.min_data_in_leaf, remedy

    def _learn(self, past: TrainingRows) -> None:
        import lightgbm

        self.base_ = HAR.base(past)
        self.columns_ = tuple(c for c in past.columns if not c.startswith(UNUSED_PREFIXES))
        # Boosters of another objective learn from the same inputs in the same bins.
        parameters = self._parameters()
        settings = {**parameters, "objective": None, "every_hours": self.every_hours, "window_days": self.window_days}
        inputs = past.once(("boosting", *settings.items()), lambda: self._binned(past, parameters))
        self.boosters_: list[str] = []
        for data, residual in inputs:
            bounded = np.clip(residual, -self.largest_residual, self.largest_residual)
            data.set_label(bounded if self.objective == "l2" else np.exp(bounded))
            with _CLOCK.running():
                booster = lightgbm.train(parameters, data, num_boost_round=self.rounds)
            self.boosters_.append(booster.model_to_string(num_iteration=-1))
        self._loaded: list[Any] | None = None

    def _binned(self, past: TrainingRows, parameters: dict[str, Any]) -> list[tuple[Any, Array]]:
        """Per horizon the inputs in bins, whose edges are of these rows alone, and what the HAR leaves of ``ln V``."""
        import lightgbm

        at = past.within(self.window_days, self.every_hours)
        base = self.base_.of(past, at)
        residual = past.log_variance(at) - base
        out = []
        for j, h in enumerate(self.horizons_):
            known = np.isfinite(residual[:, j])
            rows = at[known]
            inputs = self._inputs(past.values(self._taken(h), rows, self.name), base[known, j], h)
            weight = equal_by_symbol(past.symbol[rows]) * past.weights(rows)
            with _CLOCK.running():
                data = lightgbm.Dataset(inputs, weight=weight, params=parameters).construct()
            out.append((data, residual[known, j]))
        return out

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

    @property
    def feature_names_(self) -> list[str]:
        """Names of the boosters' inputs, in order."""
        return [*self.columns_, "season_ahead_per_hour", "log_har_deseasonalised"]

    def _taken(self, horizon: int) -> list[str]:
        """The columns that ``_inputs`` turns into the boosters' inputs."""
        return [*self.columns_, *[self.base_.seasons[self.horizons_.index(horizon)]] * 2]

    def _inputs(self, values: Array, base: Array, horizon: int) -> Array:
        """The features, the season ahead per hour, and the HAR's own deseasonalised forecast per hour; in place."""
        har = base - values[:, -1]
        values[:, [k for k, c in enumerate(self.columns_) if is_level(c)]] -= har[:, None]
        values[:, -2] -= np.log(horizon)
        values[:, -1] = har
        return values

    def inputs(self, X: pd.DataFrame, j: int) -> Array:
        """What the booster of horizon number ``j`` is given for ``X``: (n_rows, n_inputs)."""
        return self._inputs_of(X, self.base_._predict_log(X), j)

    def _inputs_of(self, X: pd.DataFrame, base: Array, j: int) -> Array:
        h = self.horizons_[j]
        return self._inputs(require(X, self._taken(h), self.name), base[:, j], h)

    def _predict_log(self, X: pd.DataFrame) -> Array:
        base = self.base_._predict_log(X)
        out = np.empty_like(base)
        for j in range(len(self.horizons_)):
            out[:, j] = base[:, j] + self.raw(j, self._inputs_of(X, base, j))
        return out

    def raw(self, j: int, inputs: Array) -> Array:
        """What the booster of horizon number ``j`` adds to the HAR's ``ln E[V]``; (n_rows,). ``inputs`` as from ``inputs``."""
        booster = self._boosters()[j]
        return np.asarray(booster.predict(inputs, raw_score=True, num_threads=self.num_threads), dtype=np.float64)

    def contributions(self, X: pd.DataFrame, families: Mapping[str, str]) -> dict[str, Array]:
        """The seasonal HAR's terms, each family's Shapley value, and the mean raw score; see ``Member.contributions``."""
        of = [*(families[column] for column in self.columns_), SEASON_FAMILY, HAR_FAMILY]
        distinct = list(dict.fromkeys(of))
        group, base = np.array([distinct.index(family) for family in of]), self.base_._predict_log(X)
        values = [
            grouped_shapley(text, self._inputs_of(X, base, j), group, len(distinct), self.num_threads)
            for j, text in enumerate(self.boosters_)
        ]
        told = np.stack(values, axis=2)
        return self.base_.contributions(X, families) | {name: told[:, g] for g, name in enumerate([*distinct, LEVEL])}

    def _boosters(self) -> list[Any]:
        import lightgbm

        if getattr(self, "_loaded", None) is None:
            self._loaded = [lightgbm.Booster(model_str=text) for text in self.boosters_]
        return self._loaded or []

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


def is_level(column: str) -> bool:
    """Whether a feature is a log variance."""
    return column.startswith(LEVEL_PREFIXES) and not column.startswith(NOT_LEVELS)


def equal_by_symbol(symbol: npt.NDArray[np.int64]) -> Array:
    """Weights of rows with these symbol codes that give each symbol the same total, with mean one."""
    count = np.bincount(symbol)
    return np.asarray(len(symbol) / (np.count_nonzero(count) * count[symbol]))
