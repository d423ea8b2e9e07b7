"""HEAVY-X: the expected bar variance driven by realised measures at several scales, one set of weights for all symbols.

References: Shephard and Sheppard (2010), J. Applied Econometrics 25 (HEAVY); Engle and Gallo (2006), J. Econometrics 131
(multiplicative error models with returns and their signs); Corsi (2009), J. Financial Econometrics 7 (windows of a day, a
week, a month); Bollerslev, Hood, Huss and Pedersen (2018), Review of Financial Studies 31 (weights pooled over assets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from numba import njit

from features.errors import DataInvalid
from features.panel import MICROSECONDS_PER_HOUR
from models.filtering import HourlyFilter, Path, mean_ahead
from models.har import filled
from models.members import require
from models.training_rows import TrainingRows

__all__ = ["HeavyX"]

Array = npt.NDArray[np.float64]

LADDER: Final = tuple(f"log_rv_{hours}h" for hours in (1, 24, 168, 720))
MARKET: Final = ("market_log_ew_3h", "market_log_ew_168h")
# Inputs in the order of the filter: the slow ones, then the fast ones (v~, r~^2, r~^2 of falling hours).
SLOW: Final = ("month", "week", "day", "market")
MINIMUM_HOURS: Final = 24 * 30
FIT_EVERY_HOURS: Final = 3
# Where the search for the weights begins: those of the inputs, in order, and of the variance itself.
FIRST_WEIGHTS: Final = (0.05, 0.05, 0.05, 0.05, 0.1, 0.1, 0.1, 0.5)
LOG_WEIGHTS: Final = (-9.0, 3.0)
DIFFERENCE: Final = 1e-4


@dataclass(frozen=True)
class Sample:
    """One symbol's part in the fit: ``inputs`` (n_hours, k), and ``target`` (n, n_horizons) after the hours ``at`` (n,)."""

    inputs: Array
    at: npt.NDArray[np.int64]
    target: Array


class HeavyX(HourlyFilter):
    """``h_t+1 = sum_k w_k x_kt + w_h h_t``, weights on the simplex, the inputs all scaled to the mean of ``v~``.

    ``h`` is the expectation of the deseasonalised bar variance ``v~``. Fast inputs: ``v~``, the squared deseasonalised
    return, and its part in falling hours. Slow ones: mean ``v~`` of a day, a week and a month, and the week's times
    the market's burst (its EWMA of three hours over that of a week; one where the features have none). Beyond one hour fast
    inputs are expected in proportion to h, each being scaled to it, and slow ones stay: ``E h_j+1 = s + p E h_j`` with s
    what the slow ones give and p the weight of h and of the fast ones, so that h reverts to ``s / (1 - p)``, a mean that
    moves. What misses passes at that expectation. Free of scale, one set of weights serves all symbols, new ones as well.

    The weights minimise QLIKE over all horizons together, each symbol's level left free.
    """

    name = "heavy_x"
    reads: ClassVar[tuple[str, ...]] = (*LADDER, *MARKET, "log_return_1h", "log_season_")

    def __init__(self, window_days: int = 1095, shrinkage: float = 8_000.0) -> None:
        self.window_days = window_days
        self.shrinkage = shrinkage

    def _inputs(self, X: pd.DataFrame) -> Array:
        hour, day, week, month = np.exp(filled(require(X, LADDER, self.name))).T
        burst = np.ones(len(X))
        if set(MARKET) <= set(X.columns):
            newest, usual = require(X, MARKET, self.name).T
            burst = np.exp(np.nan_to_num(newest - usual, nan=0.0))
        returns, season = require(X, ["log_return_1h", "log_season_1h"], self.name).T
        square = returns**2 / np.exp(season)
        measured = np.where(np.isnan(require(X, LADDER[:1], self.name)[:, 0]), np.nan, hour)
        return np.column_stack([month, week, day, week * burst, measured, square, square * (returns < 0)])

    def _fit(self, past: TrainingRows, paths: Mapping[str, Path], target: Array) -> None:
        from scipy.optimize import minimize

        old = {name: path for name, path in paths.items() if len(path.inputs) - path.start >= MINIMUM_HOURS}
        samples = [_sample(path, target) for path in old.values()]
        if not sum(np.isfinite(sample.target).sum() for sample in samples):
            raise DataInvalid(f"model '{self.name}': no symbol has 30 days of hours with labels; import more history")
        inputs = np.concatenate([sample.inputs for sample in samples])
        complete = inputs[np.isfinite(inputs).all(axis=1)]
        if not len(complete) or not (complete.mean(axis=0) > 0).all():
            raise DataInvalid(
                f"model '{self.name}': no hours have all its inputs, or prices stood still in them; import more history"
            )
        mean = complete.mean(axis=0)
        self.scale_ = mean / mean[len(SLOW)]

        def loss(logs: Array) -> float:
            return self._loss(samples, _on_simplex(logs))

        first = np.log(FIRST_WEIGHTS)
        bounds = [LOG_WEIGHTS] * len(first)
        best = minimize(loss, first - first[-1], bounds=bounds, method="L-BFGS-B", options={"eps": DIFFERENCE})
        self.weights_ = _on_simplex(best.x)

    def _loss(self, samples: Sequence[Sample], weights: Array) -> float:
        """QLIKE over all rows and horizons, each symbol's level at its best."""
        total, count = 0.0, 0
        for sample in samples:
            log_mean = self._ahead(*self._filtered(sample.inputs, weights, None), weights)[sample.at]
            for error in (sample.target - log_mean).T:
                known = error[np.isfinite(error)]
                if len(known):
                    total += len(known) * (np.log(np.mean(np.exp(known))) - known.mean())
                    count += len(known)
        return total / count

    def _filtered(self, inputs: Array, weights: Array, state: Array | None) -> tuple[Array, Array]:
        """After each hour the variance of the next one, and what the slow inputs give; both (n_hours,)."""
        begun = inputs[0, :1].repeat(2) * np.array([1.0, 0.0]) if state is None else state
        shares = weights[:-1]
        return filtered(inputs, shares / self.scale_, shares, float(weights[-1]), begun[0], begun[1])

    def _ahead(self, variance: Array, inflow: Array, weights: Array) -> Array:
        return np.asarray(np.log(mean_ahead(variance, inflow, float(weights[len(SLOW) :].sum()), self.horizons_)))

    def _run(self, symbol: str, inputs: Array, state: Array | None) -> tuple[Array, Array]:
        variance, inflow = self._filtered(inputs, self.weights_, state)
        return self._ahead(variance, inflow, self.weights_), np.array([variance[-1], inflow[-1]])

    def _parameters(self, symbols: Sequence[str]) -> dict[str, Any]:
        return {"weights": self.weights_, "scale": self.scale_}

    def _adopt(self, state: Mapping[str, Any]) -> None:
        self.weights_, self.scale_ = np.asarray(state["weights"]), np.asarray(state["scale"])


def _sample(path: Path, target: Array) -> Sample:
    # On the clock, so that the rows do not depend on where the history starts.
    hour = path.first.as_unit("us").value // MICROSECONDS_PER_HOUR + path.hours
    kept = (hour % FIT_EVERY_HOURS == 0) & np.isfinite(target[path.rows]).any(axis=1)
    return Sample(path.inputs[path.start :], path.hours[kept] - path.start, target[path.rows[kept]])


def _on_simplex(logs: Array) -> Array:
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


@njit(cache=True)
def filtered(inputs: Any, rates: Any, shares: Any, own: float, variance: float, inflow: float) -> tuple[Any, Any]:
    """The recursion of ``HeavyX`` from ``variance`` and ``inflow`` on: (n_hours,) variances and slow parts.

    ``rates`` (k,) multiply known inputs, ``shares`` (k,) the variance where a fast one is missing; slow inputs that are
    missing leave their part as it was.
    """
    hours = inputs.shape[0]
    variances, inflows = np.empty(hours), np.empty(hours)
    for t in range(hours):
        slow = 0.0
        for k in range(4):
            slow += rates[k] * inputs[t, k]
        if not np.isnan(slow):
            inflow = slow
        level = inflow + own * variance
        for k in range(4, inputs.shape[1]):
            x = inputs[t, k]
            level += shares[k] * variance if np.isnan(x) else rates[k] * x
        variance = level
        variances[t], inflows[t] = variance, inflow
    return variances, inflows
