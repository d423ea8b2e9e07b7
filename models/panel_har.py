"""HAR-X: the seasonal HAR, corrected by a linear panel of all signals pooled over symbols.

The linear twin of the boosted member: the same information, no interactions, so that the report can tell what data add from
what machine learning adds. References: Bollerslev, Hood, Huss and Pedersen (2018), Rev. Financial Studies 31 (pooled risk
models); Hoerl and Kennard (1970), Technometrics 12 (ridge).
"""

from __future__ import annotations

from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.panel import MICROSECONDS_PER_HOUR
from models.baselines import HAR, newest_rows
from models.boosting import (
    UNUSED_PREFIXES,
    equal_by_symbol,
    relative_levels,
)
from models.members import Member, log_targets

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


class HARX(Member):
    """``ln F = ln F_har_seasonal + a + b'z`` per horizon, slopes pooled, fitted to QLIKE with a ridge.

    ``z``: the features, log variances as distances from the HAR's forecast, centred by the median and scaled by the spread
    of the training rows, bounded to four; a missing value counts as the median. ``ridge``: penalty per row on squared
    slopes. ``every_hours`` thins the training rows, ``window_days`` limits them.
    """

    def __init__(self, ridge: float = 0.02, every_hours: int = 3, window_days: int | None = 1095) -> None:
        self.ridge = ridge
        self.every_hours = every_hours
        self.window_days = window_days

    def _fit(self, X: pd.DataFrame, y: pd.DataFrame, weight: Array | None) -> None:
        self.base_ = HAR(seasonal=True).fit(X, y, sample_weight=weight)
        self.columns_ = tuple(
            c
            for c in map(str, X.columns)
            if not c.startswith(UNUSED_PREFIXES) and c not in NOT_LINEAR and not any(part in c for part in SPARSE)
        )
        origins = pd.DatetimeIndex(X.index.get_level_values("origin")).as_unit("us").asi8
        kept = newest_rows(X.index, self.window_days) & (origins // MICROSECONDS_PER_HOUR % self.every_hours == 0)
        X, y = X.loc[kept], y.loc[kept]
        base = self.base_._predict_log(X)
        residual = log_targets(y) - base
        weights = equal_by_symbol(X.index) * (1.0 if weight is None else weight[kept])
        size = len(self.columns_) + 1
        self.centre_, self.scale_ = np.zeros((len(self.horizons_), size)), np.ones((len(self.horizons_), size))
        self.coefficients_ = np.zeros((len(self.horizons_), size + 1))
        for j, h in enumerate(self.horizons_):
            known = np.isfinite(residual[:, j])
            if known.sum() < 10 * size:
                raise DataInvalid(
                    f"model 'har_x' has {int(known.sum())} training rows for horizon {h} h and needs {10 * size}; "
                    "start later or import more history"
                )
            signals = self._signals(X, base, j)[known]
            self.centre_[j], self.scale_[j] = _centre_and_spread(signals)
            self.coefficients_[j] = self._slopes(self._scores(signals, j), residual[known, j], weights[known])

    def _slopes(self, z: Array, residual: Array, weights: Array) -> Array:
        """Penalised Fisher scoring for QLIKE; the constant is free and sets the mean of ``V/F`` to one at the end."""
        full = np.column_stack([np.ones(len(z)), z])
        penalty = np.eye(full.shape[1]) * self.ridge * len(z)
        penalty[0, 0] = 0.0
        inverse = np.linalg.inv((full * weights[:, None]).T @ full + penalty)
        b = np.zeros(full.shape[1])
        for _ in range(SCORING_STEPS):
            surprise = np.minimum(np.expm1(residual - full @ b), LARGEST_RESIDUAL)
            b = b + inverse @ (full.T @ (weights * surprise) - penalty @ b)
        b[0] += np.log(np.average(np.exp(residual - full @ b), weights=weights))
        return np.asarray(b)

    def _signals(self, X: pd.DataFrame, base: Array, j: int) -> Array:
        """The features, and the HAR's own deseasonalised forecast per hour: (n_rows, n_columns + 1)."""
        season = X[f"log_season_ahead_{self.horizons_[j]}h"].to_numpy(np.float64)
        har = base[:, j] - season
        return np.column_stack([relative_levels(X, self.columns_, har), har])

    def _scores(self, signals: Array, j: int) -> Array:
        z = np.clip((signals - self.centre_[j]) / self.scale_[j], -LARGEST_SCORE, LARGEST_SCORE)
        return np.where(np.isfinite(z), z, 0.0)

    def _predict_log(self, X: pd.DataFrame) -> Array:
        base = self.base_._predict_log(X)
        out = base.copy()
        for j, coefficients in enumerate(self.coefficients_):
            z = self._scores(self._signals(X, base, j), j)
            out[:, j] += coefficients[0]
            # Column by column: a matrix product's bits depend on how many rows there are.
            for k in range(z.shape[1]):
                out[:, j] += coefficients[k + 1] * z[:, k]
        return out

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


def _centre_and_spread(signals: Array) -> tuple[Array, Array]:
    """Median and spread of each column's finite values; zero and one where a column has none."""
    centre, scale = np.zeros(signals.shape[1]), np.ones(signals.shape[1])
    for k in range(signals.shape[1]):
        finite = signals[np.isfinite(signals[:, k]), k]
        if len(finite):
            low, centre[k], high = np.quantile(finite, [0.1, 0.5, 0.9])
            scale[k] = (high - low) / NORMAL_SPREAD or 1.0
    return centre, scale
