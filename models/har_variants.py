"""Variants of the seasonal HAR: how far its newest windows are to be trusted, and the same windows in levels.

References: Bollerslev, Patton and Quaedvlieg (2016), J. Econometrics 192 (HARQ); Clements and Preve (2021), J. Banking and
Finance 133 (weighted least squares as a simple remedy). ``least_squares`` and ``level_fit`` are checked on published figures
for the S&P 500.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.explanation import REVERSION
from models.har import HAR, LARGEST_RESIDUAL, Part, filled, least_squares, linear, shrunken
from models.members import Member, require
from models.trailing import DAY
from models.training_rows import TrainingRows

__all__ = ["HARQ", "LevelHAR", "LevelPart", "level_fit"]

Array = npt.NDArray[np.float64]

QUARTICITY: Final = "log_hourly_quarticity_24h"
REWEIGHTINGS: Final = 1
# A forecast further than this factor from all of its own windows is none.
LARGEST_FACTOR: Final = 4.0


class HARQ(HAR):
    """The seasonal HAR whose weight on the newest hour and day varies with how exactly the day's variance is measured.

    With ``q = ln(sqrt(RQ)/RV)`` of the last day's hourly variances, and ``x_L`` the log mean over L hours, the HAR gets the
    terms ``q``, ``q (x_1 - x_n)`` and ``q (x_24 - x_n)``: what the newest windows lose, the longest one, n hours, gains.
    In distances, so that units do not matter; bars of an hour do not tell how exact one hour is, so that the day speaks for
    it. A day of which ``q`` is not known counts as measured exactly.
    """

    name = "harq"

    def __init__(
        self,
        lags: Sequence[int] = (1, 4, 24, 168, 720),
        window_days: int | None = 730,
        shrinkage: float = 20_000.0,
    ) -> None:
        super().__init__(True, lags, window_days, shrinkage)

    @property
    def _inputs(self) -> list[str]:
        return [*self._ladder, QUARTICITY]

    def _terms(self, values: Array) -> Array:
        ladder, q = filled(values[:, :-1]), np.nan_to_num(values[:, -1:], nan=0.0)
        noisy = [k for k, lag in enumerate(self.lags) if lag in (1, DAY)]
        return np.hstack([ladder, q, q * (ladder[:, noisy] - ladder[:, -1:])])

    def contributions(self, X: pd.DataFrame, families: Mapping[str, str]) -> dict[str, Array]:
        """Those of the HAR, and what its three further terms move; see ``Member.contributions``."""
        terms, n = super().contributions(X, families), len(self.lags)
        slopes, further = self._each(X)[:, :, n + 1 :], self._terms(require(X, self._inputs, self.name))[:, None, n:]
        typical = (slopes * self.typical_[n:]).sum(axis=2)
        terms[REVERSION] += typical
        terms["quarticity"] = (slopes * further).sum(axis=2) - typical
        return terms


class LevelHAR(HAR):
    """The seasonal HAR in levels: ``F = b_0 c_i + sum_L b_L mean_L(v/S)`` times the season ahead.

    Fitted by least squares with weights ``1/F^2``, first of the log-linear fit, then once more of its own, which is a step
    of Fisher scoring for QLIKE. ``c_i`` is the symbol's own mean variance, so that the constant can be pooled; a symbol
    never seen has the mean of theirs. Forecasts are held within a factor of four of the row's own windows.
    """

    name = "har_wls"

    def __init__(
        self,
        lags: Sequence[int] = (1, 4, 24, 168, 720),
        window_days: int | None = 730,
        shrinkage: float = 20_000.0,
    ) -> None:
        super().__init__(True, lags, window_days, shrinkage)

    def _coefficients(self, past: TrainingRows) -> tuple[tuple[str, ...], Array, Array, Array]:
        logs = HAR(True, self.lags, self.window_days, self.shrinkage).learn(past)
        parts = {}
        # A market listed within the day has no rows yet, and the pool's forecast.
        for name, part in ((name, part) for name, part in self._parts(past).items() if part.design.size):
            windows = np.exp(part.design[1:])
            scale = np.full((1, windows.shape[1]), windows[-1].mean())
            forecast = np.exp(logs.coefficients_[logs.symbols_.index(name)] @ part.design)
            parts[name] = LevelPart(np.vstack([scale, windows]), np.exp(part.target), part.weights, forecast)
        own, pooled = shrunken(parts, level_fit, self.shrinkage, past.horizons, self.name)
        scales = np.array([part.design[0, 0] for part in parts.values()])
        own[:, :, 0] *= scales[:, None]
        pooled[:, 0] *= scales.mean()
        return tuple(parts), own, pooled, logs.typical_

    def _log_mean(self, values: Array, season: Array, symbol: npt.NDArray[np.int64], symbols: Sequence[str]) -> Array:
        windows = np.exp(filled(values))
        out = np.empty((len(windows), len(self.horizons_)))
        for j in range(len(self.horizons_)):
            out[:, j] = _held(linear(windows, self._of_symbols(j, symbol, symbols)), windows.T)
        return np.log(out) + season

    def contributions(self, X: pd.DataFrame, families: Mapping[str, str]) -> dict[str, Array]:
        """Usual variance, season ahead, and what the windows say beyond both; see ``Member.contributions``."""
        return Member.contributions(self, X, families)


@dataclass(frozen=True)
class LevelPart(Part):
    """Rows of a fit in levels: further ``forecast`` (n_horizons, n), a first one, whose square the weights are made of."""

    forecast: Array

    def of(self, horizons: npt.NDArray[np.bool_]) -> Self:
        """The same rows, some horizons."""
        return replace(super().of(horizons), forecast=self.forecast[horizons])


def level_fit(parts: Sequence[LevelPart]) -> Array:
    """Coefficients (n_horizons, k) of linear models of the level, weights ``1/F^2``, one reweighting.

    The first row of a design is the constant, the others are means of past variance. A row's ``V/F - 1`` is bounded while
    the slopes are sought, as in ``qlike_fit``; all of them are then set to the level at which the mean of ``V/F`` is one.
    """
    forecasts = [p.forecast for p in parts]
    for _ in range(1 + REWEIGHTINGS):
        coefficients = least_squares([_weighted(p, f) for p, f in zip(parts, forecasts, strict=True)])
        forecasts = [_held(coefficients @ p.design, p.design[1:]) for p in parts]
    total = sum(p.weights.sum(axis=1) for p in parts)
    ratio = sum((p.weights * p.target / f).sum(axis=1) for p, f in zip(parts, forecasts, strict=True))
    return np.asarray(coefficients * (ratio / total)[:, None])


def _weighted(part: LevelPart, forecast: Array) -> Part:
    return Part(part.design, np.minimum(part.target, (1 + LARGEST_RESIDUAL) * forecast), part.weights / forecast**2)


def _held(forecast: Array, windows: Array) -> Array:
    """``forecast`` (..., n) within a factor of its windows (n_windows, n): an ex-ante clip, which keeps it positive."""
    return np.clip(forecast, windows.min(axis=0) / LARGEST_FACTOR, windows.max(axis=0) * LARGEST_FACTOR)
