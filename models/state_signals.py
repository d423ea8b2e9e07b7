"""Hidden states as inputs: each symbol's regime filters on its deseasonalised log variance, as known at each hour.

Three filters of ``log_rv_1h`` stand beside each other: a Gaussian hidden Markov model of a calm and a stressed state, the
online jump model of two states, and the law of the time since the last change point. Their parameters are fitted on a
symbol's newest two years up to the cut; a symbol with too few hours, or whose fit is not certified, takes those of the
symbol whose calm state is the median one. They are inputs of members and classifiers and never a label. References in
``models.states``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.panel import MICROSECONDS_PER_HOUR
from models.members import require
from models.states.changepoint import ChangePoint
from models.states.hmm import GaussianHMM
from models.states.jump import JumpModel
from models.training_rows import TrainingRows, symbol_codes

__all__ = ["INPUT", "STRESS", "StateSignals"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

INPUT: Final = "log_rv_1h"
STRESS: Final = "state_stress"
FIT_HOURS: Final = 730 * 24
MINIMUM_HOURS: Final = 60 * 24
# A market that stood still has a spread of nearly nothing.
SMALLEST_SPREAD: Final = 1e-3
# In units of half a squared standard deviation: states last for days, and not for hours.
JUMP_PENALTY: Final = 20.0
RUN_WINDOW: Final = 168
PARTS: Final = ("hmm", "jump", "change")


@dataclass
class _Filters:
    """One symbol's filters; ``centre`` and ``scale`` of its log variance, and the hour since the epoch they stand at."""

    hmm: GaussianHMM
    jump: JumpModel
    change: ChangePoint
    centre: float
    scale: float
    last: int = 0

    @classmethod
    def unfitted(cls) -> _Filters:
        return cls(GaussianHMM(2), JumpModel(2, jump_penalty=JUMP_PENALTY), ChangePoint(window=RUN_WINDOW), 0.0, 1.0)

    @classmethod
    def fit(cls, series: Array) -> _Filters | None:
        """On one symbol's hours; None where they are too few, or tell no two states apart."""
        recent = series[-FIT_HOURS:]
        known = recent[np.isfinite(recent)]
        if len(known) < MINIMUM_HOURS or known.std() < SMALLEST_SPREAD:
            return None
        filters = cls.unfitted()
        filters.centre, filters.scale = float(known.mean()), float(known.std())
        filters.hmm.fit(recent)
        filters.jump.fit((recent - filters.centre) / filters.scale)
        filters.change.fit(recent)
        return filters if filters.hmm.certificate_.certified and filters.jump.certificate_.certified else None

    def restarted(self) -> _Filters:
        """The same parameters, before the first hour."""
        begun = self.copied()
        for part in (begun.hmm, begun.jump, begun.change):
            part.restart()
        begun.last = 0
        return begun

    def copied(self) -> _Filters:
        """A twin that goes its own way."""
        twin = copy.copy(self)
        twin.hmm, twin.jump, twin.change = copy.copy(self.hmm), copy.copy(self.jump), copy.copy(self.change)
        return twin

    def advance(self, series: Array, first: int, horizons: Sequence[int]) -> Array:
        """The signals (n_hours, n_signals) of the hours from ``first`` on; the hours missing before them pass first."""
        gap = max(first - self.last - 1, 0) if self.last else 0
        x = np.concatenate([np.full(gap, np.nan), series])
        stress = self.hmm.advance(x)
        costs = self.jump.advance((x - self.centre) / self.scale)
        change = self.change.advance(x)
        self.last = first + len(series) - 1
        out = np.empty((len(x), len(horizons) + 4))
        out[:, 0] = stress[:, 1]
        for k, h in enumerate(horizons, start=1):
            ahead = np.linalg.matrix_power(self.hmm.transmat_, h)[:, 1]
            out[:, k] = stress[:, 0] * ahead[0] + stress[:, 1] * ahead[1]
        # Between -1, where only the calm state is plausible, and 1.
        out[:, -3] = np.clip((costs[:, 0] - costs[:, 1]) / JUMP_PENALTY, -1.0, 1.0)
        out[:, -2] = change[:, 0]
        out[:, -1] = np.log(np.maximum(change[:, 1], 1.0))  # before the first hour there is no run
        return out[gap:]


class StateSignals:
    """The filters of every symbol, fitted on rows up to a cut and filtered forward from there.

    ``names`` of the signals: ``state_stress``, P(stress | data <= t); ``state_stress_ahead_{h}h``, P(stress in h hours |
    data <= t); ``state_jump``, how much dearer the calm path is than the stressed one, from -1 to 1; ``state_recent_change``,
    P(a change within three hours), and ``state_log_run``, ln of the expected hours since the last one. ``training`` (n_rows,
    n_signals): those of the rows learnt from. Where no symbol has enough hours, signals are NaN.
    """

    horizons_: tuple[int, ...]
    training: Array

    @classmethod
    def of(cls, past: TrainingRows) -> Self:
        """Fitted on these rows, once for all who ask; ``copied`` before it is moved on."""
        return past.once("state signals", lambda: cls().learn(past))

    def learn(self, past: TrainingRows) -> Self:
        """Fit on the rows' ``log_rv_1h``; raises ``DataInvalid`` where they lack it."""
        self.horizons_ = past.horizons
        values = past.values([INPUT], np.arange(len(past)), "state signals")[:, 0]
        series = list(_series(past.symbol, past.symbols, past.origin // MICROSECONDS_PER_HOUR, values))
        fitted = {name: _Filters.fit(hours) for name, _, _, hours in series}
        own = {name: filters for name, filters in fitted.items() if filters is not None}
        self.training = np.full((len(past), len(self.names)), np.nan)
        self.filters_: dict[str, _Filters] = {}
        self.donor_: _Filters | None = None
        if not own:
            return self
        by_calm = sorted(own, key=lambda name: (float(own[name].hmm.means_[0, 0]), name))
        self.donor_ = own[by_calm[(len(by_calm) - 1) // 2]].restarted()
        for name, places, first, hours in series:
            filters = own.get(name, self.donor_).restarted()
            signals = filters.advance(hours, first, self.horizons_)
            at = past.origin[places] // MICROSECONDS_PER_HOUR - first
            self.training[places] = signals[at]
            self.filters_[name] = filters
        return self

    @property
    def names(self) -> list[str]:
        """Of the signals, in order."""
        ahead = [f"state_stress_ahead_{h}h" for h in self.horizons_]
        return [STRESS, *ahead, "state_jump", "state_recent_change", "state_log_run"]

    def filter(self, X: pd.DataFrame) -> Array:
        """The signals of rows (n_rows, n_signals), from where the filters stand; a symbol not known, or whose rows are older,
        begins at its first row."""
        out = np.full((len(X), len(self.names)), np.nan)
        for _, places, hour, first, hours, filters in self._standing(X):
            out[places] = filters.advance(hours, first, self.horizons_)[hour - first]
        return out

    def follow(self, X: pd.DataFrame) -> None:
        """Move the filters to the end of the rows, so that ``filter`` goes on from there."""
        for name, _, _, first, hours, filters in self._standing(X):
            filters.advance(hours, first, self.horizons_)
            self.filters_[name] = filters

    def _standing(self, X: pd.DataFrame) -> Iterator[tuple[str, Integers, Integers, int, Array, _Filters]]:
        """Each symbol's rows: their places and hours, the first hour, the series, and a copy of the filters."""
        if self.donor_ is None:
            return
        code, symbols = symbol_codes(X.index)
        hour = _hours(X.index)
        for name, places, first, hours in _series(code, symbols, hour, require(X, [INPUT], "state signals")[:, 0]):
            filters = self.filters_.get(name, self.donor_)
            filters = filters.copied() if first > filters.last else filters.restarted()
            yield name, places, hour[places], first, hours, filters

    def copied(self) -> StateSignals:
        """A twin without the training rows' signals, that follows on its own."""
        twin = StateSignals()
        twin.horizons_, twin.donor_, twin.filters_ = self.horizons_, self.donor_, dict(self.filters_)
        return twin

    def state(self) -> dict[str, Any]:
        """Every symbol's filters, stacked, and last those that a new symbol begins with."""
        names = sorted(self.filters_)
        plain = {"horizons": list(self.horizons_), "symbols": names}
        if self.donor_ is None:
            return plain
        filters = [*(self.filters_[name] for name in names), self.donor_]
        parts = {part: _stacked([getattr(one, part).state() for one in filters]) for part in PARTS}
        numbers = {name: np.array([getattr(one, name) for one in filters]) for name in ("centre", "scale", "last")}
        return plain | parts | numbers

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> StateSignals:
        """The inverse of ``state``."""
        signals, names = cls(), list(state["symbols"])
        signals.horizons_, signals.filters_, signals.donor_ = tuple(state["horizons"]), {}, None
        if "last" in state:
            filters = [_Filters.unfitted() for _ in (*names, "donor")]
            for k, one in enumerate(filters):
                for part in PARTS:
                    getattr(one, part).restore({key: values[k] for key, values in state[part].items()})
                one.centre, one.scale = float(state["centre"][k]), float(state["scale"][k])
                one.last = int(state["last"][k])
            signals.filters_, signals.donor_ = dict(zip(names, filters, strict=False)), filters[-1]
        return signals


def _stacked(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Arrays and numbers of several states as one array each, the rest as lists."""
    columns = {key: [state[key] for state in states] for key in states[0]}
    return {key: values if isinstance(values[0], dict) else np.stack(values) for key, values in columns.items()}


def _hours(index: pd.Index) -> Integers:
    """Hours since the epoch of a (symbol, origin) index."""
    origins = pd.DatetimeIndex(index.get_level_values("origin")).as_unit("us")
    return np.asarray(origins.asi8 // MICROSECONDS_PER_HOUR)


def _series(
    code: Integers, symbols: Sequence[str], hour: Integers, values: Array
) -> Iterator[tuple[str, Integers, int, Array]]:
    """Of each symbol its rows' places, its first hour, and its values on a complete hourly clock, NaN where there are none."""
    for k, name in enumerate(symbols):
        places = np.flatnonzero(code == k)
        if len(places):
            first = int(hour[places].min())
            series = np.full(int(hour[places].max()) - first + 1, np.nan)
            series[hour[places] - first] = values[places]
            yield name, places, first, series
