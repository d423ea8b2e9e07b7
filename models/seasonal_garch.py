"""GARCH members: a filter on deseasonalised returns per symbol, calibrated to the variance of the interval.

``r~ = r / sqrt(S)`` follows a GARCH or GJR with Student t errors. Without the season the recursion spends itself on the time
of day. References: Bollerslev (1986), J. Econometrics 31; Glosten, Jagannathan and Runkle (1993), J. Finance 48; Andersen
and Bollerslev (1997), J. Empirical Finance 4 (intraday season); Hansen, Huang and Shek (2012), J. Applied Econometrics 27
(a realised measure beside the squared return).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from models.filtering import HourlyFilter, Path, mean_ahead
from models.garch import GARCH, Certificate, fit_many
from models.garch.recursion import initial_state
from models.members import require
from models.training_rows import TrainingRows

__all__ = ["SeasonalGARCH", "SeasonalGARCHX"]

Array = npt.NDArray[np.float64]
Fits: TypeAlias = tuple[Array, Array, Sequence[Certificate]]

DAY: Final = 24
MINIMUM_RETURNS: Final = 24 * 30
# Nats by which a fit may lie below a model within it.
NESTED_MARGIN: Final = 1.0
# How far the variance a filter ends at may lie outside the daily variances it was fitted on.
VARIANCE_BOUNDS: Final = (0.5, 2.0)


class SeasonalGARCH(HourlyFilter):
    """GARCH(1, o, 1) on each symbol's deseasonalised returns of the last ``window_days``; ``o = 1`` is the GJR.

    A symbol's parameters are shrunk to the mean of all symbols' (omega in units of the symbol's own variance), since a few
    months of returns do not determine them. A symbol has none of its own where it has under 30 days, where the fit is no
    optimum, lies on the edge of the admissible range, below the GARCH within a GJR, or ends at a variance far outside those
    it was fitted on. Persistence of one is borne: hourly returns of years are integrated to a GARCH, and the calibration
    reverts. Every fit is cold, which keeps folds apart.

    Between fits the parameters are frozen and the variance is filtered forward bar by bar; a missing bar passes at its
    expectation, and a new filter begins at the symbols' usual variance. ``certified_`` tells, after ``fit``, which symbols
    have parameters of their own.
    """

    reads: ClassVar[tuple[str, ...]] = ("log_return_1h", "log_season_")
    exogenous: ClassVar[int] = 0

    def __init__(
        self,
        o: int = 0,
        dist: Literal["normal", "t", "skewt"] = "t",
        window_days: int = 1095,
        shrinkage: float = 8_000.0,
    ) -> None:
        self.o = o
        self.dist = dist
        self.window_days = window_days
        self.shrinkage = shrinkage

    @property
    def name(self) -> str:
        """Its kind."""
        return "gjr" if self.o else "garch"

    def _spec(self, o: int) -> GARCH:
        return GARCH(p=1, o=o, q=1, dist=self.dist, exogenous=self.exogenous)

    def _inputs(self, X: pd.DataFrame) -> Array:
        values = require(X, ["log_return_1h", "log_season_1h"], self.name)
        return np.asarray(values[:, :1] / np.exp(0.5 * values[:, 1:]))

    def _fit(self, past: TrainingRows, paths: Mapping[str, Path], target: Array) -> None:
        known = {name: path.inputs[path.start :] for name, path in paths.items()}
        old = {name: x for name, x in known.items() if np.isfinite(x[:, 0]).sum() >= MINIMUM_RETURNS}
        own = {name: params for name, params in self._own(past, old).items() if self._sound(params, old[name])}
        if not own:
            raise DataInvalid(
                f"model '{self.name}': no symbol has 30 days of returns that a variance can be fitted to; import more history"
            )
        scale = {name: _units(len(own[name]), old[name]) for name in own}
        hours = np.array([np.isfinite(old[name][:, 0]).sum() for name in own])
        free = np.stack([own[name] / scale[name] for name in own])
        pool = (hours @ free) / hours.sum()
        share = hours / (hours + self.shrinkage)
        shrunk = share[:, None] * free + (1.0 - share[:, None]) * pool
        self.params_ = {name: x * scale[name] for name, x in zip(own, shrunk, strict=True)}
        usual = np.median(np.stack(list(scale.values())), axis=0)
        self.pooled_, self.usual_ = pool * usual, float(usual[0])
        self.certified_ = {name: name in own for name in paths}

    def _own(self, past: TrainingRows, old: Mapping[str, Array]) -> dict[str, Array]:
        """Maximum-likelihood parameters of the symbols whose fit may be used."""
        params, value, certificates = self._fits(past, old, self.o)
        nested = self._fits(past, old, 0)[1] if self.o else value
        usable = [
            _usable(certificate) and value[i] >= nested[i] - NESTED_MARGIN for i, certificate in enumerate(certificates)
        ]
        return {name: params[i] for i, name in enumerate(old) if usable[i]}

    def _fits(self, past: TrainingRows, old: Mapping[str, Array], o: int) -> Fits:
        """All symbols fitted in one batch; what several members fit is fitted once."""
        if not old:
            return np.empty((0, 0)), np.empty(0), []

        def fit() -> Fits:
            inputs = np.full((len(old), max(map(len, old.values())), 1 + self.exogenous), np.nan)
            for row, x in zip(inputs, old.values(), strict=True):
                row[: len(x)] = x
                # Regressors of a fit must be known; at their mean they say nothing.
                row[:, 1:] = np.where(np.isnan(row[:, 1:]), np.nanmean(x[:, 1:], axis=0), row[:, 1:])
            return fit_many(inputs[:, :, 0], self._spec(o), exogenous=inputs[:, :, 1:])

        return past.once(("garch fits", o, self.dist, self.exogenous, self.window_days), fit)

    def _sound(self, params: Array, inputs: Array) -> bool:
        """Whether the filter of these parameters ends at a variance such as the symbol has had."""
        squares = inputs[: len(inputs) // DAY * DAY, 0].reshape(-1, DAY) ** 2
        days = np.nanmean(squares[np.isfinite(squares).any(axis=1)], axis=1)
        last = self._advanced(params, inputs, initial_state(float(days.mean()), 1))[0][-1]
        return bool(VARIANCE_BOUNDS[0] * days.min() <= last <= VARIANCE_BOUNDS[1] * days.max())

    def _advanced(self, params: Array, inputs: Array, state: Array) -> tuple[Array, GARCH]:
        """The variance of the hour after each of the ``inputs``, and the model where it then stands."""
        model = self._spec(self.o).resume(params, state)
        return model.advance(inputs[:, 0]), model

    def _run(self, symbol: str, inputs: Array, state: Array | None) -> tuple[Array, Array]:
        params = self.params_.get(symbol, self.pooled_)
        after, model = self._advanced(params, inputs, initial_state(self.usual_, 1) if state is None else state)
        return np.log(mean_ahead(after, params[0], self._persistence(params), self.horizons_)), model.state_

    def _persistence(self, params: Array) -> float:
        """Of the expected variance from one hour to the next, a negative return having a chance of one half."""
        return float(self._spec(self.o).specification.persistence @ params)

    def _parameters(self, symbols: Sequence[str]) -> dict[str, Any]:
        return {
            "params": np.stack([self.params_.get(s, self.pooled_) for s in symbols]),
            "pooled": self.pooled_,
            "usual": self.usual_,
        }

    def _adopt(self, state: Mapping[str, Any]) -> None:
        self.params_ = dict(zip(state["symbols"], np.asarray(state["params"]), strict=True))
        self.pooled_, self.usual_ = np.asarray(state["pooled"]), float(state["usual"])


class SeasonalGARCHX(SeasonalGARCH):
    """GARCH-X: the deseasonalised bar variance ``v~`` of the last hour drives the variance beside its squared return.

    ``h_t+1 = omega + alpha r~_t^2 + gamma r~_t^2 1(r~_t < 0) + beta h_t + pi v~_t``. Beyond one hour ``v~`` is expected in
    proportion to the variance, ``E v~ = c h`` with c the ratio of their means on the training rows, so that
    ``E h_j+1 = omega + (alpha + gamma / 2 + beta + pi c) E h_j``, a persistence above one being taken as one. A missing
    ``v~`` passes at that expectation, too. ``params_`` end with c.
    """

    name = "garch_x"
    reads: ClassVar[tuple[str, ...]] = ("log_return_1h", "log_season_", "log_rv_1h")
    exogenous: ClassVar[int] = 1

    def _inputs(self, X: pd.DataFrame) -> Array:
        return np.column_stack([super()._inputs(X), np.exp(require(X, ["log_rv_1h"], self.name))])

    def _own(self, past: TrainingRows, old: Mapping[str, Array]) -> dict[str, Array]:
        ratio = {name: np.nanmean(x[:, 1]) / np.nanmean(x[:, 0] ** 2) for name, x in old.items()}
        return {name: np.append(params, ratio[name]) for name, params in super()._own(past, old).items()}

    def _advanced(self, params: Array, inputs: Array, state: Array) -> tuple[Array, GARCH]:
        model = self._spec(self.o).resume(params[:-1], state)
        out = np.empty(len(inputs))
        silent = np.isnan(inputs[:, 1])
        # From one missing measure to the next the filter runs on by itself.
        for start, stop in _runs(silent):
            if silent[start]:
                out[start:stop] = [
                    model.update(float(r), [params[-1] * model.variance_]) for r in inputs[start:stop, 0]
                ]
            else:
                out[start:stop] = model.advance(inputs[start:stop, 0], exogenous=inputs[start:stop, 1:])
        return out, model

    def _persistence(self, params: Array) -> float:
        own = self._spec(self.o).specification
        weight = params[own.dynamics - 1]
        return min(float(own.persistence @ params[:-1]) + float(weight * params[-1]), 1.0)


def _usable(certificate: Certificate) -> bool:
    """Converged, and nothing speaks against it but a persistence of one."""
    integrated = certificate.persistence >= 1.0 - 1e-6
    return certificate.certified or (certificate.converged and integrated)


def _units(size: int, inputs: Array) -> Array:
    """What parameters are measured in: omega in the symbol's mean squared return, the others in nothing."""
    units = np.ones(size)
    units[0] = np.nanmean(inputs[:, 0] ** 2)
    return units


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where stretches of equal flags begin and end."""
    borders = np.flatnonzero(np.diff(flags)) + 1
    edges = [0, *map(int, borders), len(flags)]
    return [(a, b) for a, b in pairwise(edges) if b > a]
