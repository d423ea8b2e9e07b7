"""Members whose filters run on from hour to hour, and the calibration they share.

A filter gives the variance of the next hour and, by its own persistence, of the hours after it, all free of the season.
Its forecast of an interval is calibrated on the past as a regression in logs that minimises QLIKE,

    ln F = a + b ln(mean of the filter's variance over the interval) + ln sum_j S(origin + j),

after Mincer and Zarnowitz (1969): squared returns and the bar variance that is forecast have different levels, and filters
whose persistence is fitted one hour ahead revert too slowly over a day (b < 1 there). The mean variance times the summed
season stands for the sum of their products hour by hour, which forecasts no better: the variance moves slowly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.panel import MICROSECONDS_PER_HOUR
from models.har import Part, qlike_fit, shrunken
from models.members import Member, require
from models.training_rows import TrainingRows, symbol_codes

__all__ = ["HourlyFilter", "Path", "mean_ahead"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

HOUR: Final = pd.Timedelta(hours=1)
# A market's first hours are often empty, and far below what follows: a filter's rows teach once it is a day old.
SETTLING_HOURS: Final = 24


@dataclass(frozen=True)
class Path:
    """One symbol's ``inputs`` (n_hours, k) on a complete hourly clock that begins at ``first``, NaN where there is no bar.

    ``rows`` (n,): the places of its rows in the table they came from; ``hours`` (n,): where those stand on the clock.
    """

    first: pd.Timestamp
    inputs: Array
    rows: Integers
    hours: Integers

    @property
    def last(self) -> pd.Timestamp:
        """The newest hour."""
        return self.first + (len(self.inputs) - 1) * HOUR

    @property
    def start(self) -> int:
        """The first hour at which the first input is known; the number of hours where it never is."""
        known = np.flatnonzero(np.isfinite(self.inputs[:, 0]))
        return int(known[0]) if len(known) else len(self.inputs)


class HourlyFilter(Member):
    """A member that keeps one filter a symbol. Subclasses fit it (``_fit``) and run it (``_run``) on their ``_inputs``.

    ``window_days``: rows to fit on. ``shrinkage``: hours of history at which a symbol's own parameters and calibration weigh
    as much as the pool's; a symbol never seen has the pool's.
    """

    independent_rows: ClassVar[bool] = False
    window_days: int
    shrinkage: float
    filters_: dict[str, Array]
    last_: dict[str, pd.Timestamp]
    calibration_: dict[str, Array]
    pooled_calibration_: Array

    @abstractmethod
    def _inputs(self, X: pd.DataFrame) -> Array:
        """What the filter reads of each row (n_rows, k). A filter begins where the first of them is first known."""

    @abstractmethod
    def _fit(self, past: TrainingRows, paths: Mapping[str, Path], target: Array) -> None:
        """Fit the parameters on the window's paths; ``target`` (n_rows, n_horizons): ``ln V`` less the season ahead.

        NaN where a row does not teach.
        """

    @abstractmethod
    def _run(self, symbol: str, inputs: Array, state: Array | None) -> tuple[Array, Array]:
        """After each hour the log of the mean variance ahead (n_hours, n_horizons); and the state after the last hour.

        ``state``: where the filter stands before the first hour; None where it begins there.
        """

    @abstractmethod
    def _parameters(self, symbols: Sequence[str]) -> dict[str, Any]:
        """What ``_fit`` has fitted, as ``Member.state`` gives it; ``symbols``: those that have a filter."""

    @abstractmethod
    def _adopt(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``_parameters``."""

    def _learn(self, past: TrainingRows) -> None:
        at = past.within(self.window_days)
        X = past.once(("rows", self.reads, self.window_days), lambda: past.frame(at, self.reads))
        target = past.log_variance(at) - self._season(X)
        target[past.weights(at) <= 0] = np.nan
        paths = self._paths(X)
        for path in paths.values():
            target[path.rows[path.hours < path.start + SETTLING_HOURS]] = np.nan
        self._fit(past, paths, target)
        self.filters_, self.last_ = {}, {}
        self._calibrate(past, at, self._log_means(X, remember=True), target)

    def _calibrate(self, past: TrainingRows, at: Integers, log_mean: Array, target: Array) -> None:
        usable = np.isfinite(log_mean) & np.isfinite(target)
        weights = past.weights(at)
        symbols = {name: np.searchsorted(at, places) for name, places in past.by_symbol(at)}
        own = np.empty((len(symbols), len(past.horizons), 2))
        self.pooled_calibration_ = np.empty((len(past.horizons), 2))
        for j, horizon in enumerate(past.horizons):
            parts = {}
            for name, rows in symbols.items():
                k = rows[usable[rows, j]]
                parts[name] = Part(np.vstack([np.ones(len(k)), log_mean[k, j]]), target[None, k, j], weights[None, k])
            of_symbols, pooled = shrunken(parts, qlike_fit, self.shrinkage, (horizon,), self.name)
            own[:, j], self.pooled_calibration_[j] = of_symbols[:, 0], pooled[0]
        self.calibration_ = dict(zip(symbols, own, strict=True))

    def _predict_log(self, X: pd.DataFrame) -> Array:
        codes, symbols = symbol_codes(X.index)
        each = np.stack([self.calibration_.get(name, self.pooled_calibration_) for name in symbols])[codes]
        return np.asarray(each[:, :, 0] + each[:, :, 1] * self._log_means(X) + self._season(X))

    def follow(self, X: pd.DataFrame) -> None:
        """Move every symbol's filter to the end of its rows, as ``Member.follow``."""
        self._log_means(X, remember=True)

    def _log_means(self, X: pd.DataFrame, remember: bool = False) -> Array:
        """Log of the filter's mean variance over each interval (n_rows, n_horizons); NaN before a symbol's filter begins."""
        out = np.full((len(X), len(self.horizons_)), np.nan)
        for symbol, path in self._paths(X).items():
            state, silent = None, 0
            inputs, begun = path.inputs, path.start
            if symbol in self.filters_ and path.first > self.last_[symbol]:
                state, begun = self.filters_[symbol], 0
                silent = round((path.first - self.last_[symbol]) / HOUR) - 1
                inputs = np.vstack([np.full((silent, inputs.shape[1]), np.nan), inputs])
            if begun == len(path.inputs):
                continue
            log_mean = np.full((len(path.inputs), len(self.horizons_)), np.nan)
            made, state = self._run(symbol, inputs[begun:], state)
            log_mean[begun:] = made[silent:]
            out[path.rows] = log_mean[path.hours]
            if remember:
                self.filters_[symbol], self.last_[symbol] = state, path.last
        return out

    def _paths(self, X: pd.DataFrame) -> dict[str, Path]:
        """Every symbol's inputs hour by hour, by name."""
        inputs, (codes, symbols) = self._inputs(X), symbol_codes(X.index)
        origins = pd.DatetimeIndex(X.index.get_level_values("origin"))
        hour = origins.as_unit("us").asi8 // MICROSECONDS_PER_HOUR
        out = {}
        for code in np.unique(codes):
            rows = np.flatnonzero(codes == code)
            hours = hour[rows] - hour[rows[0]]
            clocked = np.full((int(hours[-1]) + 1, inputs.shape[1]), np.nan)
            clocked[hours] = inputs[rows]
            out[symbols[code]] = Path(origins[rows[0]], clocked, rows, hours)
        return dict(sorted(out.items()))

    def _season(self, X: pd.DataFrame) -> Array:
        return require(X, [f"log_season_ahead_{h}h" for h in self.horizons_], self.name)

    def state(self) -> dict[str, Any]:
        """Parameters, each symbol's filter and the hour it stands at, and the calibrations."""
        names = sorted(self.filters_)
        return {
            "horizons": list(self.horizons_),
            "symbols": names,
            "filters": np.stack([self.filters_[s] for s in names]),
            "last": [self.last_[s].isoformat() for s in names],
            "calibration": np.stack([self.calibration_.get(s, self.pooled_calibration_) for s in names]),
            "pooled_calibration": self.pooled_calibration_,
            "residuals": self.residuals_,
            **self._parameters(names),
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.horizons_ = tuple(state["horizons"])
        names = list(state["symbols"])
        self.filters_ = dict(zip(names, np.asarray(state["filters"]), strict=True))
        self.last_ = {s: pd.Timestamp(t) for s, t in zip(names, state["last"], strict=True)}
        self.calibration_ = dict(zip(names, np.asarray(state["calibration"]), strict=True))
        self.pooled_calibration_ = np.asarray(state["pooled_calibration"])
        self.residuals_ = np.asarray(state["residuals"])
        self._adopt(state)
        return self


def mean_ahead(variance: Array, inflow: Array | float, persistence: float, horizons: Sequence[int]) -> Array:
    """The mean (n, n_horizons) of ``h_1 ... h_H``, from ``h_1 = variance`` (n,) by ``h_j+1 = inflow + persistence h_j``.

    Summed up and not taken from the closed form, in which ``1 - persistence`` may vanish.
    """
    powers, offsets = np.ones(max(horizons)), np.zeros(max(horizons))
    for j in range(1, max(horizons)):
        powers[j], offsets[j] = persistence * powers[j - 1], 1.0 + persistence * offsets[j - 1]
    at = np.asarray(horizons) - 1
    of_variance, of_inflow = np.cumsum(powers)[at], np.cumsum(offsets)[at]
    total = of_variance * variance[:, None] + of_inflow * np.reshape(inflow, (-1, 1))
    return np.asarray(total / np.asarray(horizons))
