"""The ensemble hour by hour: what it has learnt stands between refreshes, and each new hour is read off it.

``Ensemble.assemble`` passes over the whole history; this gives its newest column, to the bit, from a past of bounded length.
The columns of the past are kept as they were forecast, with the levels, laws and probabilities of their own time, since
that is what the next refresh learns from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features import kernels
from features.panel import FIRST_MONDAY_HOUR, MICROSECONDS_PER_HOUR
from models.base import ENSEMBLE, EXCURSION_COLUMNS, RETURN_LEVELS, SHORTFALL_LEVELS, THRESHOLDS
from models.combination import Combination, combine, level
from models.distribution import STATE_HALF_LIFE, TAIL_START, Residuals, Tail, residual_law, states, variance_columns
from models.ensemble import (
    REFERENCES,
    VARIANCE_FLOOR,
    Assembly,
    Ensemble,
    Record,
    excursions_cover_returns,
    mean_columns,
    widen_excursions,
    with_fallbacks,
)
from models.regimes import calibration_design, exceedances, probability_columns
from models.trailing import DAY, FOUR_WEEKS, refreshes
from training.live_learning import OUTCOMES, Past, learn, levels, moves
from training.live_targets import Resolved

__all__ = ["LiveEnsemble"]

Array = npt.NDArray[np.float64]

STATE_HOURS: Final = kernels.ewma_reach(STATE_HALF_LIFE) + DAY


class LiveEnsemble:
    """``Ensemble.assemble``, continued; ``records``: the past of every horizon on the grid of ``times``."""

    def __init__(self, ensemble: Ensemble, records: Sequence[Record], times: pd.DatetimeIndex) -> None:
        self._horizons = [_Horizon(ensemble, r, times) for r in sorted(records, key=lambda r: r.horizon)]

    def place(self, rows: npt.NDArray[np.intp]) -> None:
        """Take the symbols anew, as ``Ring.place``."""
        for horizon in self._horizons:
            horizon.place(rows)

    def step(self, members: Mapping[int, Mapping[str, Array]], resolved: Mapping[int, Resolved]) -> dict[int, Assembly]:
        """The next hour's columns, each (n_symbols, 1), from the members' ``ln E[V]`` (n_symbols,) by horizon."""
        out: dict[int, Assembly] = {}
        longer: dict[str, Array] = {}
        for horizon in self._horizons:
            assembly = horizon.step(members[horizon.hours], resolved[horizon.hours])
            widen_excursions(assembly.columns[ENSEMBLE], longer)
            out[horizon.hours] = assembly
        return out


class _Horizon:
    """One horizon's past, and what was learnt from it."""

    def __init__(self, ensemble: Ensemble, record: Record, times: pd.DatetimeIndex) -> None:
        self.hours = record.horizon
        self.chosen = ensemble.chosen(record.members)
        self._shrinkage = ensemble.shrinkage
        newest = int(times[-1].value // 1000 // MICROSECONDS_PER_HOUR)
        self._past = Past(self.hours, list(record.members), self._fields(record, times), newest)
        self._refreshed = {
            every: newest - (len(times) - 1 - int(refreshes(times, every)[-1])) for every in (DAY, FOUR_WEEKS)
        }
        self._learn()

    def place(self, rows: npt.NDArray[np.intp]) -> None:
        self._past.place(rows)
        self._learn()

    def _learn(self, every: tuple[int, ...] = (DAY, FOUR_WEEKS)) -> None:
        with np.errstate(invalid="ignore", divide="ignore"):
            if DAY in every:
                self._levels = levels(self._past, self._refreshed[DAY])
            if FOUR_WEEKS in every:
                self._learnt = learn(self._past, self._refreshed[FOUR_WEEKS], self.chosen, self._shrinkage)

    def _fields(self, record: Record, times: pd.DatetimeIndex) -> Array:
        """What ``Past`` holds of every hour, as the batch makes it."""
        h, outcome = self.hours, record.outcome
        with np.errstate(invalid="ignore", divide="ignore"):
            levelled = {name: level(f, outcome.variance, times, h) for name, f in record.members.items()}
            combined = combine(
                levelled, outcome.variance, times, h, members=self.chosen, shrinkage=self._shrinkage
            ).log_forecast
            forecast = np.maximum(with_fallbacks(combined, levelled)[0], np.log(VARIANCE_FLOOR))
            state = states(forecast, times)
            law = residual_law(np.log(outcome.variance) - forecast, state, times, h, centred=True)
            sigma = np.exp(0.5 * forecast)
            scales = [
                residual_law(x / sigma, state, times, h, centred=False).scale
                for x in moves(outcome.log_return, outcome.mae_long, outcome.mae_short)
            ]
            above = exceedances(forecast, law, record.thresholds)
        learnt = np.broadcast_to(law.learnt.astype(np.float64), forecast.shape)
        outcomes = (outcome.variance, outcome.log_return, outcome.mae_long, outcome.mae_short)
        fields = (forecast, state, learnt, record.now, *scales, *above, *record.thresholds, *outcomes)
        return np.stack([*record.members.values(), *levelled.values(), *fields])

    def step(self, members: Mapping[str, Array], resolved: Resolved) -> Assembly:
        """The next hour."""
        self._past.resolve(resolved.outcome)
        hour = self._past.newest + 1
        due = tuple(every for every in (DAY, FOUR_WEEKS) if (hour - FIRST_MONDAY_HOUR) % every == 0)
        self._refreshed |= dict.fromkeys(due, hour)
        self._learn(due)
        raw = np.stack([members[name] for name in self._past.members])
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._assemble(raw, resolved)

    def _assemble(self, raw: Array, resolved: Resolved) -> Assembly:
        learnt, now, thresholds = self._learnt, resolved.now[:, None], resolved.thresholds[:, :, None]
        levelled = dict(zip(self._past.members, (raw + self._levels)[:, :, None], strict=True))
        combined = self._combined(levelled)
        forecast, answered, ladder = with_fallbacks(combined, levelled)
        forecast = np.maximum(forecast, np.log(VARIANCE_FLOOR))
        columns: dict[str, dict[str, Array]] = {}
        for name, f in levelled.items():
            columns[name] = mean_columns(f, self.hours)
            if name in REFERENCES:
                law = learnt.references[name].at(np.ones_like(f))
                columns[name] |= variance_columns(f, law)
                columns[name] |= probability_columns(exceedances(f, law, thresholds), now)
        state = self._state(forecast)
        law = learnt.law.at(state)
        returned, *excursed = (one.at(state) for one in learnt.moves)
        above = exceedances(forecast, law, thresholds)
        sigma = np.exp(0.5 * forecast)
        returns = _return_columns(sigma, returned, learnt.tails[0], learnt.tails[1])
        excursions = _excursion_columns(sigma, excursed, learnt.tails[2:])
        excursions_cover_returns(excursions, returns)
        columns[ENSEMBLE] = mean_columns(forecast, self.hours) | variance_columns(forecast, law) | returns | excursions
        columns[ENSEMBLE] |= probability_columns(self._calibrated(above, now), now)
        for of_model in columns.values():
            of_model.update(zip(THRESHOLDS, thresholds, strict=True))
        known = (forecast, state, np.full_like(forecast, learnt.law.learnt), now)
        scales = (one.scale for one in (returned, *excursed))
        unknown = np.full((len(OUTCOMES), *now.shape), np.nan)
        fields = np.stack([*levelled.values(), *known, *scales, *above, *thresholds, *unknown])
        self._past.append(np.concatenate([raw, fields[:, :, 0]]))
        weights = pd.DataFrame(learnt.weights[None], columns=list(self.chosen))
        return Assembly(self.hours, columns, Combination(combined, weights), answered, ladder, levelled)

    def _combined(self, levelled: Mapping[str, Array]) -> Array:
        """``ln F`` of the chosen members, as ``models.combination.combine``."""
        stack = np.stack([levelled[name] for name in self.chosen])
        present = np.isfinite(stack)
        spread = self._learnt.weights[:, None, None] * present
        mean = np.zeros(stack.shape[1:])
        for share, one, there in zip(spread, stack, present, strict=True):
            mean += share * np.where(there, one, 0.0)
        total = spread.sum(axis=0)
        return np.where(total > 0, mean / total, np.nan)

    def _state(self, forecast: Array) -> Array:
        """The new hour's state, (n_symbols, 1)."""
        joined = np.concatenate([self._past.field("forecast")[:, -STATE_HOURS:], forecast], axis=1)
        newest = pd.Timestamp((self._past.newest + 1) * MICROSECONDS_PER_HOUR, unit="us", tz="UTC")
        return states(joined, pd.date_range(end=newest, periods=joined.shape[1], freq="h"))[:, -1:]

    def _calibrated(self, above: Array, now: Array) -> Array:
        """Exceedance probabilities (3, n_symbols, 1), as ``models.regimes.calibrate``."""
        out = above.copy()
        for k, coefficients in enumerate(self._learnt.calibration):
            if coefficients is not None:
                score = np.zeros(now.shape)
                for b, x in zip(coefficients, calibration_design(above[k], now), strict=True):
                    score = score + b * x
                out[k] = 1 / (1 + np.exp(-score))
        return np.asarray(np.minimum.accumulate(out, axis=0))


def _return_columns(sigma: Array, law: Residuals, lower: Tail, upper: Tail) -> dict[str, Array]:
    """Return quantiles and shortfalls, as ``models.distribution.return_columns``."""
    scale = sigma * law.scale
    out: dict[str, Array] = {}
    for name, p in RETURN_LEVELS.items():
        if p <= 1 - TAIL_START:
            out[name] = -scale * lower.quantile(1 - p)
        elif p >= TAIL_START:
            out[name] = scale * upper.quantile(p)
        else:
            out[name] = sigma * law.quantile(p)
    for narrow, wide in pairwise(RETURN_LEVELS):
        out[wide] = np.maximum(out[wide], out[narrow])
    for name, p in SHORTFALL_LEVELS.items():
        out[name] = -scale * lower.shortfall(1 - p) if p < 0.5 else scale * upper.shortfall(p)
    return out


def _excursion_columns(sigma: Array, laws: Sequence[Residuals], tails: Sequence[Tail]) -> dict[str, Array]:
    """Quantiles of adverse excursion, as ``models.distribution.excursion_columns``."""
    out: dict[str, Array] = {}
    for side, law, tail in zip(("long", "short"), laws, tails, strict=True):
        scale = sigma * law.scale
        for name, p in EXCURSION_COLUMNS[side].items():
            size = scale * tail.quantile(p)
            out[name] = -np.expm1(-size) if side == "long" else np.expm1(size)
    return out
