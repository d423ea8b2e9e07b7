"""What every member of the ensemble promises.

A member is fitted on features ``X`` and targets ``y`` and forecasts ``E[V]`` for every horizon. ``X`` is indexed by
(symbol, origin); ``y`` has the same index and one column per horizon in hours, holding V, null where the interval was not
complete when the fit was made: purging is done by whoever cuts the fold, by nulling labels that end too late. Members of one
fold are fitted on the same ``TrainingRows`` by ``learn``, so that what they have in common is made once.

``fit`` always refits. Constructor arguments are stored verbatim, fitted state ends in an underscore, so that
``sklearn.base.clone`` works. A member never sees which symbol a row belongs to unless it fits each symbol apart.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator
from threadpoolctl import threadpool_limits

from features.errors import DataInvalid
from models.explanation import since_usual
from models.training_rows import TrainingRows, evenly, places

__all__ = ["Member", "require"]

QUANTILE_GRID = np.linspace(0.005, 0.995, 199)
# Ten rows to a quantile.
RESIDUAL_ROWS = 2_000
# A filter forecasts every hour of its stretch; the newest year of them is enough.
RESIDUAL_DAYS = 365


class Member(BaseEstimator):  # type: ignore[misc]
    """A volatility model: ``fit``, ``predict``, ``predict_quantiles``, and its fitted state as plain arrays.

    Attributes after ``fit``: ``horizons_`` (hours), ``residuals_`` (n_levels, n_horizons), quantiles of ``ln V - ln F``
    over the training rows (2,000 of them, evenly spread; those of the newest year where rows hang together).
    """

    # Whether a row's forecast depends on that row alone, and not on the rows before it.
    independent_rows: ClassVar[bool] = True

    # What the names of the features begin with that it takes as frames: all features of all rows would be large.
    reads: ClassVar[tuple[str, ...]] = ("",)

    horizons_: tuple[int, ...]
    residuals_: npt.NDArray[np.float64]

    @property
    @abstractmethod
    def name(self) -> str:
        """Its kind, by which refusals call it."""

    def fit(self, X: pd.DataFrame, y: pd.DataFrame, *, sample_weight: npt.NDArray[np.float64] | None = None) -> Self:
        """Fit on rows up to a cut; raises ``DataInvalid`` where a needed column or every label is missing."""
        return self.learn(TrainingRows.of(X, y, sample_weight))

    def learn(self, past: TrainingRows) -> Self:
        """``fit`` on rows that other members are fitted on, too."""
        if (why := self.shortage(past)) is not None:
            raise DataInvalid(why)
        self.horizons_ = past.horizons
        # One BLAS thread: the bits of a fit otherwise depend on how many there are.
        with threadpool_limits(limits=1):
            self._learn(past)
            self.residuals_ = self._training_residuals(past)
        return self

    def shortage(self, past: TrainingRows) -> str | None:
        """Why these rows are too few to learn from, and the way out; None where they are enough."""
        window, every, needed, remedy = self._needs(past)
        counts = np.isfinite(past.variance[past.within(window, every)]).sum(axis=0)
        for h, rows in zip(past.horizons, counts, strict=True):
            if rows < needed:
                return f"model '{self.name}' has {rows} training rows for horizon {h} h and needs {needed}; {remedy}"
        return None

    def _needs(self, past: TrainingRows) -> tuple[int | None, int, int, str]:
        """``window_days`` and ``every_hours`` of the rows that it takes, how many with a label it needs, and the way out."""
        return None, 1, 0, ""

    def predict(self, X: pd.DataFrame) -> pd.DataFrame:
        """``E[V]`` per row and horizon; NaN where the row lacks what the member cannot do without."""
        return pd.DataFrame(np.exp(self.predict_log(X)))

    def predict_log(self, X: pd.DataFrame) -> pd.DataFrame:
        """``ln E[V]`` per row and horizon, as ``predict``."""
        columns = pd.Index(self.horizons_, name="horizon_hours")
        return pd.DataFrame(self._predict_log(X), index=X.index, columns=columns)

    def predict_quantiles(self, X: pd.DataFrame, levels: Sequence[float]) -> dict[int, pd.DataFrame]:
        """Quantiles of V per horizon (columns: ``levels``), from the residuals of the training rows."""
        log_mean = self._predict_log(X)
        out = {}
        for j, h in enumerate(self.horizons_):
            shift = np.interp(levels, QUANTILE_GRID, self.residuals_[:, j])
            out[h] = pd.DataFrame(np.exp(log_mean[:, [j]] + shift), index=X.index, columns=list(levels))
        return out

    def contributions(self, X: pd.DataFrame, families: Mapping[str, str]) -> dict[str, npt.NDArray[np.float64]]:
        """``ln E[V]`` as a sum: term to its values (n_rows, n_horizons), which add up to ``predict_log`` to rounding.

        ``families``: the family of each feature, by which features are summed. The first term is the usual variance of the
        last month; a member without a finer split adds the season ahead and what it says beyond both.
        """
        season = require(X, [f"log_season_ahead_{h}h" for h in self.horizons_], self.name)
        return since_usual(self._predict_log(X), require(X, ["log_rv_720h"], self.name)[:, 0], season, self.horizons_)

    def follow(self, X: pd.DataFrame) -> None:
        """Take in rows that come after all rows seen so far, so that the next forecast goes on from there.

        For members that remember: forecasts of rows in one piece are, to the bit, those of the pieces with ``follow`` between
        them. A member whose rows are independent has nothing to do.
        """

    @abstractmethod
    def _learn(self, past: TrainingRows) -> None:
        """Fit everything but ``residuals_``."""

    @abstractmethod
    def _predict_log(self, X: pd.DataFrame) -> npt.NDArray[np.float64]:
        """``ln E[V]`` of shape (n_rows, n_horizons)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Fitted state: JSON values, arrays, and text of boosters; what an artifact stores."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> Self:
        """The inverse of ``state``, on an instance with the same constructor arguments."""

    def _training_residuals(self, past: TrainingRows) -> npt.NDArray[np.float64]:
        at = evenly(len(past), RESIDUAL_ROWS) if self.independent_rows else past.within(RESIDUAL_DAYS)
        error = past.log_variance(at) - self._predict_log(past.frame(at, self.reads))
        out = np.zeros((len(QUANTILE_GRID), error.shape[1]))
        for j in range(error.shape[1]):
            known = error[np.isfinite(error[:, j]), j]
            if len(known):
                out[:, j] = np.quantile(known, QUANTILE_GRID)
        return out


def require(X: pd.DataFrame, columns: Sequence[str], model: str) -> npt.NDArray[np.float64]:
    """The named columns as an array; raises ``DataInvalid`` naming those that are missing."""
    return np.take(X.to_numpy(np.float64), places(list(X.columns), columns, model), axis=1)
