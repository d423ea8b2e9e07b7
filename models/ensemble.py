"""The product's own forecast: members levelled, combined, given a predictive law, and calibrated, all on resolved rows.

``assemble`` is one pass over the out-of-sample forecasts of the members on a complete hourly grid. The walk-forward runs it
over its folds, and serving runs the same code over stored history and the newest forecasts, so there is one path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from models.base import ENSEMBLE, EXCURSION_COLUMNS, RETURN_LEVELS, THRESHOLDS
from models.combination import Combination, combine, level
from models.distribution import (
    Outcome,
    excursion_columns,
    lognormal_residuals,
    residual_law,
    return_columns,
    states,
    variance_columns,
)
from models.regimes import calibrate, exceedances, probability_columns

__all__ = [
    "Assembly",
    "Ensemble",
    "Record",
    "excursions_cover_returns",
    "mean_columns",
    "widen_excursions",
    "with_fallbacks",
]

Array = npt.NDArray[np.float64]

STRONG: Final = ("har_x", "lightgbm")
PLAIN: Final = ("har_seasonal", "gjr", "garch", "har", "ewma")
# The textbook references that also carry lognormal probabilities.
REFERENCES: Final = ("har", "har_seasonal")
FALLBACKS: Final = ("gjr", "garch", "har_seasonal", "har", "ewma")
VARIANCE_FLOOR: Final = 1e-8
HOURS_PER_YEAR: Final = 8760.0


@dataclass(frozen=True)
class Record:
    """One horizon's past on the hourly grid: arrays (n_symbols, n_hours), NaN where there is nothing.

    ``members``: ``ln E[V]`` of each member as fitted. ``thresholds`` (3, n_symbols, n_hours). ``now``: class 0-3 of the
    trailing interval.
    """

    horizon: int
    members: Mapping[str, Array]
    outcome: Outcome
    thresholds: Array
    now: Array


@dataclass(frozen=True)
class Assembly:
    """The forecast columns of every model for one horizon, and how the ensemble came about.

    ``columns``: model to column to array (n_symbols, n_hours). ``answered``: for the ensemble, the index into ``ladder``
    of what answered (0: itself), -1 where nothing could.
    """

    horizon: int
    columns: Mapping[str, Mapping[str, Array]]
    combination: Combination
    answered: npt.NDArray[np.int64]
    ladder: tuple[str, ...]
    levelled: Mapping[str, Array] = field(repr=False)


class Ensemble:
    """Combination, predictive law and regime probabilities.

    ``members``: which are combined (others are forecast and scored beside it). ``shrinkage``: how far the weights move
    from the best on resolved rows towards equal ones.
    """

    def __init__(self, members: Sequence[str] | None = None, shrinkage: float = 0.5) -> None:
        self.members = members
        self.shrinkage = shrinkage

    def assemble(self, records: Sequence[Record], times: pd.DatetimeIndex) -> dict[int, Assembly]:
        """Forecast columns for every horizon, the shortest first; ``times`` are the grid's hours.

        Row ``[:, t]`` reads members' forecasts up to ``t`` and outcomes resolved by ``t`` only.
        """
        out: dict[int, Assembly] = {}
        longer: dict[str, Array] = {}
        for record in sorted(records, key=lambda r: r.horizon):
            assembly = self._horizon(record, times)
            widen_excursions(assembly.columns[ENSEMBLE], longer)
            out[record.horizon] = assembly
        return out

    def _horizon(self, record: Record, times: pd.DatetimeIndex) -> Assembly:
        h, outcome = record.horizon, record.outcome
        with np.errstate(invalid="ignore", divide="ignore"):
            levelled = {name: level(f, outcome.variance, times, h) for name, f in record.members.items()}
            chosen = self.chosen(record.members)
            combination = combine(levelled, outcome.variance, times, h, members=chosen, shrinkage=self.shrinkage)
            log_forecast, answered, ladder = with_fallbacks(combination.log_forecast, levelled)
            log_forecast = np.maximum(log_forecast, np.log(VARIANCE_FLOOR))
            columns: dict[str, dict[str, Array]] = {}
            for name, forecast in levelled.items():
                columns[name] = mean_columns(forecast, h)
                if name in REFERENCES:
                    law = lognormal_residuals(np.log(outcome.variance) - forecast, times, h)
                    columns[name] |= variance_columns(forecast, law)
                    columns[name] |= probability_columns(exceedances(forecast, law, record.thresholds), record.now)
            columns[ENSEMBLE] = mean_columns(log_forecast, h) | self._law(log_forecast, record, times)
        for of_model in columns.values():
            of_model.update(zip(THRESHOLDS, record.thresholds, strict=True))
        return Assembly(h, columns, combination, answered, ladder, levelled)

    def chosen(self, members: Mapping[str, Array]) -> list[str]:
        """Which of the ``members`` are combined; raises ``UsageError`` for one that is not there."""
        wanted = self.members
        if wanted is None:
            # Averaging in a weaker member costs more than it brings: without the strong ones, the best of the plain ones.
            wanted = [m for m in STRONG if m in members] or [m for m in PLAIN if m in members][:1]
        if missing := sorted(set(wanted) - set(members)):
            raise UsageError(f"ensemble.members names {missing[0]}, which is not among the members {sorted(members)}")
        return list(wanted) or list(members)

    def _law(self, log_forecast: Array, record: Record, times: pd.DatetimeIndex) -> dict[str, Array]:
        h, outcome = record.horizon, record.outcome
        state = states(log_forecast, times)
        law = residual_law(np.log(outcome.variance) - log_forecast, state, times, h, centred=True)
        returns = return_columns(log_forecast, outcome, state, times, h)
        excursions = excursion_columns(log_forecast, outcome, state, times, h)
        excursions_cover_returns(excursions, returns)
        above = exceedances(log_forecast, law, record.thresholds)
        # How far the stand-in was off, before there was a law, says nothing about the law.
        evidence = np.where(law.learnt, outcome.variance, np.nan)
        calibrated = calibrate(above, evidence, record.thresholds, record.now, times, h)
        return variance_columns(log_forecast, law) | returns | excursions | probability_columns(calibrated, record.now)


def mean_columns(log_forecast: Array, horizon: int) -> dict[str, Array]:
    """The columns of a mean forecast ``ln F`` over ``horizon`` hours: ``variance``, and its annualised volatility."""
    variance = np.maximum(np.exp(log_forecast), VARIANCE_FLOOR)
    return {"variance": variance, "vol_annualised": np.sqrt(variance * HOURS_PER_YEAR / horizon)}


def with_fallbacks(
    log_forecast: Array, levelled: Mapping[str, Array]
) -> tuple[Array, npt.NDArray[np.int64], tuple[str, ...]]:
    """The combination, or down the ladder the first member that has an answer."""
    ladder = (ENSEMBLE, *(name for name in FALLBACKS if name in levelled))
    answered = np.where(np.isfinite(log_forecast), 0, -1)
    out = log_forecast.copy()
    for step, name in enumerate(ladder[1:], start=1):
        missing = (answered < 0) & np.isfinite(levelled[name])
        out[missing] = levelled[name][missing]
        answered[missing] = step
    return out, answered, ladder


def excursions_cover_returns(excursions: dict[str, Array], returns: Mapping[str, Array]) -> None:
    """The low is never above the close, so an excursion's quantile is at least the return's at the same level."""
    for name, p in EXCURSION_COLUMNS["long"].items():
        lower = next(column for column, level_ in RETURN_LEVELS.items() if abs(level_ - (1 - p)) < 1e-9)
        excursions[name] = np.maximum(excursions[name], -np.expm1(returns[lower]))
    for name, p in EXCURSION_COLUMNS["short"].items():
        upper = next(column for column, level_ in RETURN_LEVELS.items() if abs(level_ - p) < 1e-9)
        excursions[name] = np.maximum(excursions[name], np.expm1(returns[upper]))


def widen_excursions(columns: Mapping[str, Array], shorter: dict[str, Array]) -> None:
    """A longer interval contains the shorter one: its excursion quantiles are at least as large."""
    for side in EXCURSION_COLUMNS.values():
        for name in side:
            if name in shorter:
                np.fmax(columns[name], shorter[name], out=columns[name])
            shorter[name] = columns[name]
