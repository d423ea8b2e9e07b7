"""The GARCH estimator: fit, filter, one-bar updates, forecasts, and fits of many series."""

from __future__ import annotations

import math
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from features.errors import DataInvalid, UsageError
from models.garch.estimation import Certificate, maximise
from models.garch.kernel import filter_variance, initial_state, next_variance, step
from models.garch.likelihood import SHAPES, Likelihood

__all__ = ["GARCH", "fit_many"]

Array = NDArray[np.float64]

MEANS: Final = ("zero", "constant")
MIN_OBSERVATIONS: Final = 100
# A spread below this share of the largest return is rounding, not variance.
FLAT: Final = 1e-10
# The variance before the sample, as in arch: exponentially weighted over the first returns.
BACKCAST_LENGTH: Final = 75
BACKCAST_DECAY: Final = 0.94


class GARCH:
    """GJR-GARCH(p, o, q) of Glosten, Jagannathan and Runkle (1993); o = 0 is Bollerslev's GARCH(p, q).

    Parameters and results are in the units of the returns; scaling to unit variance is internal. ``dist`` is
    the error density of the likelihood: ``normal``, ``t``, or Hansen's (1994) ``skewt``. ``mean`` is ``zero``
    or ``constant``.

    A NaN return is a gap. The variance passes it by its expectation (e² replaced by its conditional
    variance), and the likelihood gains no term.

    Attributes after ``fit`` or ``fix``: ``params_`` (Series named as in arch: mu, omega, alpha[1], gamma[1],
    beta[1], nu, or eta and lambda), ``backcast_`` (variance before the first return), ``loglikelihood_``
    (nats, arch's constants), ``variance_`` (of the return after the last one seen). ``certificate_`` after
    ``fit`` only.
    """

    params_: pd.Series[float]
    loglikelihood_: float
    certificate_: Certificate
    backcast_: float
    variance_: float
    _recursion: tuple[float, Array, Array, Array]
    _state: Array

    def __init__(self, p: int = 1, o: int = 0, q: int = 1, dist: str = "normal", mean: str = "zero") -> None:
        self.p = p
        self.o = o
        self.q = q
        self.dist = dist
        self.mean = mean

    def __repr__(self) -> str:
        return f"GARCH(p={self.p}, o={self.o}, q={self.q}, dist={self.dist!r}, mean={self.mean!r})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {name: getattr(self, name) for name in ("p", "o", "q", "dist", "mean")}

    def set_params(self, **params: Any) -> Self:
        """Set constructor arguments by name; ``UsageError`` for an unknown one."""
        for name, value in params.items():
            if name not in self.get_params():
                raise UsageError(f"GARCH has no parameter {name!r}: choose from {sorted(self.get_params())}")
            setattr(self, name, value)
        return self

    @property
    def parameter_names(self) -> list[str]:
        """Names of ``params_`` in order."""
        return [
            *(["mu"] if self.mean == "constant" else []),
            "omega",
            *(f"alpha[{i + 1}]" for i in range(self.p)),
            *(f"gamma[{i + 1}]" for i in range(self.o)),
            *(f"beta[{i + 1}]" for i in range(self.q)),
            *SHAPES[self.dist],
        ]

    def fit(self, returns: ArrayLike, start: ArrayLike | None = None) -> Self:
        """Estimate by maximum likelihood on ``returns`` (T,) and stand at their end.

        ``start`` is an earlier ``params_``: a refit from it costs two climbs instead of the whole multi-start
        with the second opinion of ``arch``. Read ``certificate_.certified`` before using the result.
        Raises ``UsageError`` for an impossible specification or start, ``DataInvalid`` for returns that no
        variance model can be fitted to: infinite, flat, or fewer than 100.
        """
        self._check()
        series = _series(returns)
        _refuse_hopeless(series)
        previous = None if start is None else self._vector(start)
        first = int(self.mean == "constant")
        scale = math.sqrt(float(np.nanmean((series - np.nanmean(series) * first) ** 2)))
        units = np.ones(len(self.parameter_names))
        units[:first] = scale
        units[first] = scale**2
        likelihood = self._likelihood(series / scale, _backcast(series / scale, self.mean))
        params, certificate = maximise(likelihood, None if previous is None else previous / units)
        self.certificate_ = certificate
        return self.fix(params * units, series)

    def fix(self, params: ArrayLike, returns: ArrayLike, backcast: float | None = None) -> Self:
        """Adopt known ``params`` (order of ``parameter_names``) and stand at the end of ``returns`` (T,).

        ``backcast`` is the variance before the first return; without it, it comes from the first 75 of
        ``returns``. ``params_`` and ``backcast_`` of a saved model restore its filter exactly.
        """
        series = _series(returns)
        values = self._adopt(params)
        self.backcast_ = _backcast(series, self.mean) if backcast is None else float(backcast)
        self._state = initial_state(self.backcast_, max(self.p, self.o, self.q))
        filter_variance(series - self._mu, *self._recursion, self._state)
        self.variance_ = next_variance(*self._recursion, self._state)
        likelihood = self._likelihood(series, self.backcast_)
        self.loglikelihood_ = likelihood.total(likelihood.theta(values))
        return self

    def resume(self, params: ArrayLike, state: ArrayLike) -> Self:
        """Adopt known ``params`` and stand where ``state_`` of an earlier model stood."""
        self._adopt(params)
        self._state = np.array(state, dtype=np.float64)
        self.variance_ = next_variance(*self._recursion, self._state)
        return self

    @property
    def state_(self) -> Array:
        """The lags (3, max order) that the next variance is made of: what ``resume`` takes."""
        self._check_fitted()
        return self._state.copy()

    def advance(self, returns: ArrayLike) -> Array:
        """Absorb the next returns (T,) and return, after each of them, the variance of the one that follows.

        Bit for bit a loop of ``update``; the model then stands at their end.
        """
        self._check_fitted()
        series = _series(returns) - self._mu
        variance: Array = np.empty(series.size)
        if series.size:
            variance[:-1] = filter_variance(series, *self._recursion, self._state)[1:]
            variance[-1] = self.variance_ = next_variance(*self._recursion, self._state)
        return variance

    def filter(self, returns: ArrayLike) -> Array:
        """Return the variance (T,) of each of ``returns`` given the earlier ones, from ``backcast_`` on.

        Row t does not depend on ``returns[t:]``; with a NaN appended, the last row is the forecast of the
        return after the sample. The state that ``update`` and ``forecast`` use is left alone.
        """
        self._check_fitted()
        state = initial_state(self.backcast_, max(self.p, self.o, self.q))
        variance: Array = filter_variance(_series(returns) - self._mu, *self._recursion, state)
        return variance

    def update(self, r: float) -> float:
        """Absorb the next return and return the variance of the one after it, in O(1).

        Bit for bit what ``filter`` gives on the whole series.
        """
        self._check_fitted()
        if math.isinf(r):
            raise DataInvalid("the return is infinite: pass NaN where the price is missing")
        self.variance_ = step(float(r) - self._mu, self.variance_, *self._recursion, self._state)
        return self.variance_

    def forecast(self, horizon: int) -> Array:
        """Return the expected variance (horizon,) of each of the next returns (Engle & Bollerslev 1986).

        A negative shock is given probability one half, as in arch, also under ``skewt``.
        """
        self._check_fitted()
        _check_horizon(horizon)
        path: Array = filter_variance(np.full(horizon, math.nan), *self._recursion, self._state.copy())
        return path

    def propagate(self, variance: ArrayLike, horizon: int) -> Array:
        """Return the forecasts (n, horizon) that start at each of the one-step ``variance`` (n,).

        The first column is ``variance``. Needs orders of at most one, where the one-step variance is the
        whole state; ``UsageError`` otherwise. Row by row bit-equal with ``forecast``.
        """
        self._check_fitted()
        _check_horizon(horizon)
        if max(self.p, self.o, self.q) > 1:
            raise UsageError(f"propagate needs orders of at most one, this is {self!r}: use forecast")
        omega, alpha, gamma, beta = self._recursion
        path = np.empty((np.size(variance), horizon))
        path[:, 0] = variance
        for j in range(1, horizon):
            path[:, j] = omega
            for weight, share in ((alpha, 1.0), (gamma, 0.5), (beta, 1.0)):
                for coefficient in weight:
                    path[:, j] += coefficient * (share * path[:, j - 1])
        return path

    def _adopt(self, params: ArrayLike) -> Array:
        self._check()
        values = self._vector(params)
        first = int(self.mean == "constant")
        self.params_ = pd.Series(values, index=self.parameter_names, name="params")
        self._mu = float(values[0]) if first else 0.0
        dynamics = values[first + 1 : first + 1 + self.p + self.o + self.q]
        alpha, gamma, beta = np.split(dynamics, [self.p, self.p + self.o])
        self._recursion = (float(values[first]), alpha, gamma, beta)
        return values

    def _likelihood(self, series: Array, backcast: float) -> Likelihood:
        return Likelihood(series, self.p, self.o, self.q, self.dist, self.mean, backcast)

    def _vector(self, params: ArrayLike) -> Array:
        names = self.parameter_names
        if isinstance(params, pd.Series) and set(params.index) == set(names):
            params = params[names]
        values = np.asarray(params, dtype=np.float64)
        if values.shape != (len(names),) or not np.isfinite(values).all():
            raise UsageError(f"{self!r} takes {len(names)} finite parameters, {', '.join(names)}; got {params!r}")
        return values

    def _check(self) -> None:
        orders = (self.p, self.o, self.q)
        if any(order != int(order) or order < 0 for order in orders) or self.p + self.o == 0:
            raise UsageError(f"{self!r}: p, o and q are whole numbers >= 0, with p or o at least 1")
        if self.dist not in SHAPES or self.mean not in MEANS:
            raise UsageError(f"{self!r}: dist is one of {', '.join(SHAPES)}, mean one of {', '.join(MEANS)}")

    def _check_fitted(self) -> None:
        if not hasattr(self, "_state"):
            raise UsageError(f"{self!r} has no parameters yet: call fit(returns) or fix(params, returns) first")


def fit_many(returns: ArrayLike, spec: GARCH, start: ArrayLike | None = None) -> tuple[Array, Array, list[Certificate]]:
    """Fit ``spec`` to each row of ``returns`` (n_series, T).

    Returns the parameters (n_series, k) in the order of ``params_``, the log-likelihoods (n_series,) and one
    certificate a series. ``start`` (n_series, k) takes earlier parameters; a row with NaN there starts cold.
    A series that ``fit`` would refuse gets NaN and a certificate with the reason; the others go on.
    """
    rows = np.atleast_2d(np.asarray(returns, dtype=np.float64))
    width = len(spec.parameter_names)
    starts = np.full((len(rows), width), math.nan) if start is None else np.asarray(start, dtype=np.float64)
    if starts.shape != (len(rows), width):
        raise UsageError(f"start has shape {starts.shape}: {len(rows)} series of {spec!r} need {(len(rows), width)}")
    params = np.full((len(rows), width), math.nan)
    loglikelihood = np.full(len(rows), math.nan)
    certificates = []
    for i, row in enumerate(rows):
        model = GARCH(**spec.get_params())
        try:
            model.fit(row, start=starts[i] if np.isfinite(starts[i]).all() else None)
        except DataInvalid as refusal:
            certificates.append(Certificate.refused(str(refusal)))
            continue
        params[i] = model.params_
        loglikelihood[i] = model.loglikelihood_
        certificates.append(model.certificate_)
    return params, loglikelihood, certificates


def _series(returns: ArrayLike) -> Array:
    series = np.ascontiguousarray(returns, dtype=np.float64)
    if series.ndim != 1:
        raise UsageError(f"returns have shape {series.shape}: pass one series (T,), or use fit_many for several")
    if np.isinf(series).any():
        row = int(np.flatnonzero(np.isinf(series))[0])
        raise DataInvalid(f"returns[{row}] is infinite: a price of zero? Pass NaN where the price is missing")
    return series


def _refuse_hopeless(series: Array) -> None:
    present = series[np.isfinite(series)]
    if present.size < MIN_OBSERVATIONS:
        raise DataInvalid(
            f"{present.size} returns of {series.size} are present: a fit needs at least {MIN_OBSERVATIONS}"
        )
    if np.ptp(present) <= FLAT * float(np.abs(present).max()):
        raise DataInvalid(
            f"all {present.size} returns equal {present[0]:g}: a flat series has no variance to model; "
            "check the feed, or leave the symbol out"
        )


def _check_horizon(horizon: int) -> None:
    if horizon < 1:
        raise UsageError(f"horizon is {horizon}: it counts bars and starts at 1")


def _backcast(series: Array, mean: str) -> float:
    present = series[np.isfinite(series)]
    residuals = (present - present.mean() if mean == "constant" else present)[:BACKCAST_LENGTH]
    weights = BACKCAST_DECAY ** np.arange(residuals.size)
    return float(np.sum(residuals**2 * (weights / weights.sum())))
