"""The GARCH estimator: fit, filter, one-bar updates, forecasts, and fits of many series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.errors import DataInvalid, UsageError
from models.garch.densities import draws, log_density
from models.garch.estimation import Certificate, first_variance, fit_series
from models.garch.recursion import Weights, filter_variance, initial_state, next_variance, simulate_variance, step
from models.garch.specification import Specification

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GARCH", "fit_many"]

Array = NDArray[np.float64]

PARAMETERS: Final = ("p", "o", "q", "dist", "mean", "vol", "exogenous", "targeting")


class GARCH:
    """GJR-GARCH(p, o, q) of Glosten, Jagannathan and Runkle (1993); o = 0 is Bollerslev's GARCH(p, q).

    ``vol="egarch"`` is the EGARCH of Nelson (1991). Parameters and results are in the units of the returns; scaling to
    unit variance is internal. ``dist`` is the error density of the likelihood: ``normal``, ``t``, or Hansen's (1994)
    ``skewt``; ``mean`` is ``zero`` or ``constant``; arch's other names for these are understood. ``exogenous`` counts
    regressors of the variance (GARCH-X), whose weights pi are >= 0. ``targeting`` ties omega so that the long-run
    variance is the sample's (Engle and Mezrich 1996).

    A NaN return is a gap. The variance passes it by its expectation (e² replaced by its conditional variance), and the
    likelihood gains no term. Returns with a season enter divided by its square root, and forecasts are multiplied by it.

    Attributes after ``fit`` or ``fix``: ``params_`` (Series named as in arch: mu, omega, alpha[1], gamma[1], beta[1], nu,
    or eta and lambda; pi[1] for regressors), ``backcast_`` (variance before the first return), ``loglikelihood_`` (nats,
    arch's constants), ``variance_`` (of the return after the last one seen). ``certificate_`` after ``fit`` only.
    """

    backcast_: float
    variance_: float
    certificate_: Certificate
    _spec: Specification
    _parameters: Array
    _mu: float
    _weights: Weights
    _drive: Array
    _state: Array
    _sample: tuple[Array, Array]
    _likelihood: float | None

    def __init__(
        self,
        p: int = 1,
        o: int = 0,
        q: int = 1,
        dist: str = "normal",
        mean: str = "zero",
        vol: str = "garch",
        exogenous: int = 0,
        targeting: bool = False,
    ) -> None:
        self.p = p
        self.o = o
        self.q = q
        self.dist = dist
        self.mean = mean
        self.vol = vol
        self.exogenous = exogenous
        self.targeting = targeting

    def __repr__(self) -> str:
        told = ("p", "o", "q", "dist", "mean")
        defaults = {"vol": "garch", "exogenous": 0, "targeting": False}
        shown = [*told, *(name for name, value in defaults.items() if getattr(self, name) != value)]
        return f"GARCH({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor arguments."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def set_params(self, **params: Any) -> Self:
        """Set constructor arguments by name; ``UsageError`` for an unknown one."""
        for name, value in params.items():
            if name not in PARAMETERS:
                raise UsageError(f"GARCH has no parameter {name!r}: choose from {sorted(PARAMETERS)}")
            setattr(self, name, value)
        return self

    @property
    def specification(self) -> Specification:
        """The model these arguments describe; ``UsageError`` for an impossible one."""
        return Specification.named(
            self.p, self.o, self.q, self.dist, self.mean, self.vol, self.exogenous, self.targeting
        )

    @property
    def parameter_names(self) -> list[str]:
        """Names of ``params_`` in order."""
        return list(self.specification.names)

    @property
    def params_(self) -> pd.Series[float]:
        """The parameters by name."""
        import pandas as pd

        self._check_fitted()
        return pd.Series(self._parameters.copy(), index=self._spec.names, name="params")

    @property
    def loglikelihood_(self) -> float:
        """The log-likelihood in nats of the returns given to ``fit`` or ``fix``; ``UsageError`` after ``resume``."""
        self._check_start_known()
        if self._likelihood is None:
            residuals, variance = self._sample
            present, shape = np.isfinite(residuals), self._parameters[self._spec.dynamics :]
            self._likelihood = float(log_density(self._spec.dist, shape, residuals[present], variance[present]).sum())
        return self._likelihood

    def fit(self, returns: ArrayLike, start: ArrayLike | None = None, *, exogenous: ArrayLike | None = None) -> Self:
        """Estimate by maximum likelihood on ``returns`` (T,) and stand at their end.

        ``start`` is an earlier ``params_``, from which a refit climbs alone unless a term newly vanishes. A long chain of
        warm refits can stay in a local optimum that a cold fit would leave: refit cold at times. ``exogenous`` (T, k):
        regressors known together with each return; they enter the variance of the next one. Read
        ``certificate_.certified`` before using the result. Raises ``UsageError`` for an impossible specification or
        start, ``DataInvalid`` for returns that no variance model can be fitted to: infinite, flat, or fewer than 100.
        """
        spec = self.specification
        series = _series(returns)
        known = _regressors(exogenous, series.size, spec.exogenous)
        previous = None if start is None else self._vector(start)[None]
        fits = fit_series(spec, series[None], _lagged(known)[None], previous)
        certificate = fits.certificates[0]
        if not np.isfinite(fits.parameters).all():
            raise DataInvalid(certificate.reason)
        self._adopt(spec, fits.parameters[0])
        self._stand(series, known, float(fits.backcast[0]))
        self._likelihood, self.certificate_ = float(fits.value[0]), certificate
        return self

    def fix(
        self,
        params: ArrayLike,
        returns: ArrayLike,
        backcast: float | None = None,
        *,
        exogenous: ArrayLike | None = None,
    ) -> Self:
        """Adopt known ``params`` (order of ``parameter_names``) and stand at the end of ``returns`` (T,).

        ``backcast`` is the variance before the first return; without it, it comes from the first 75 of ``returns``.
        ``params_`` and ``backcast_`` of a saved model restore its filter exactly. ``DataInvalid`` where these parameters
        make the next variance of these returns zero, negative or infinite.
        """
        spec = self.specification
        series = _series(returns)
        known = _regressors(exogenous, series.size, spec.exogenous)
        before = first_variance(series, bool(spec.first)) if backcast is None else float(backcast)
        if not (before > 0.0 or (before == 0.0 and not spec.logarithmic)) or math.isinf(before):
            raise DataInvalid(f"the variance before the first return is {before}: pass one as backcast=...")
        self._adopt(spec, self._vector(params))
        self._stand(series, known, before)
        return self

    def resume(self, params: ArrayLike, state: ArrayLike) -> Self:
        """Adopt known ``params`` and stand where ``state_`` of an earlier model stood."""
        spec, lags = self.specification, np.array(state, dtype=np.float64)
        wanted = initial_state(1.0, max(spec.p, spec.o, spec.q)).shape
        if lags.shape != wanted:
            raise UsageError(f"{self!r} resumes from a state of shape {wanted}, as state_ gives it; got {lags.shape}")
        self._adopt(spec, self._vector(params))
        self._state = lags
        self.variance_ = next_variance(self._weights, self._state)
        return self

    @property
    def state_(self) -> Array:
        """The lags (4, max order) that the next variance is made of: what ``resume`` takes."""
        self._check_fitted()
        return self._state.copy()

    def advance(self, returns: ArrayLike, *, exogenous: ArrayLike | None = None) -> Array:
        """Absorb the next returns (T,) and return, after each of them, the variance of the one that follows.

        Bit for bit a loop of ``update``; the model then stands at their end.
        """
        self._check_fitted()
        series = _series(returns)
        drive = self._driven(_regressors(exogenous, series.size, self._spec.exogenous))
        variance: Array = np.empty(series.size)
        if series.size:
            variance[:-1] = filter_variance(series - self._mu, drive, self._weights, self._state)[1:]
            variance[-1] = self.variance_ = next_variance(self._weights, self._state)
        return variance

    def filter(self, returns: ArrayLike, *, exogenous: ArrayLike | None = None) -> Array:
        """The variance (T,) of each of ``returns`` given the earlier ones, from ``backcast_`` on.

        Row t does not depend on ``returns[t:]``; with a NaN appended, the last row is the forecast of the return after
        the sample. The state that ``update`` and ``forecast`` use is left alone.
        """
        self._check_start_known()
        series = _series(returns)
        drive = self._driven(_regressors(exogenous, series.size, self._spec.exogenous))
        variance: Array = filter_variance(series - self._mu, drive, self._weights, self._first_state())
        return variance

    def update(self, r: float, exogenous: Sequence[float] = ()) -> float:
        """Absorb the next return and return the variance of the one after it, in O(1).

        Bit for bit what ``filter`` gives on the whole series.
        """
        self._check_fitted()
        if math.isinf(r):
            raise DataInvalid("the return is infinite: pass NaN where the price is missing")
        drive = self._driven(_regressors(np.asarray(exogenous, dtype=np.float64)[None], 1, self._spec.exogenous))
        self.variance_ = step(float(r) - self._mu, float(drive[0]), self._weights, self._state)
        return self.variance_

    def forecast(self, horizon: int, *, exogenous: ArrayLike | None = None, paths: int = 4000, seed: int = 0) -> Array:
        """The expected variance (horizon,) of each of the next returns.

        Closed form (Engle and Bollerslev 1986) for GARCH, with a negative shock given probability one half, as in arch,
        also under ``skewt``. For EGARCH with normal errors, which has none beyond one step, the mean of ``paths`` simulated
        from ``seed``; with heavier tails that expectation is infinite (``UsageError``: see ``simulate``).
        ``exogenous`` (horizon - 1, k): the regressors to come, needed where the model has some and ``horizon`` > 1.
        """
        self._check_fitted()
        _check_horizon(horizon)
        spec = self._spec
        if spec.exogenous and exogenous is None and horizon > 1:
            raise UsageError(
                f"a forecast of {horizon} steps needs the {horizon - 1} regressors to come: pass exogenous=..."
            )
        drive = np.zeros(horizon)
        if exogenous is not None:
            drive[:-1] = self._driven(_regressors(exogenous, horizon - 1, spec.exogenous))
        if spec.logarithmic and spec.dist != "normal" and horizon > 1:
            raise UsageError(
                f"the expected variance of {self!r} is infinite beyond one step, since exp|z| has no mean under its tails: "
                "use quantiles of simulate(horizon, paths), or dist='normal'"
            )
        if spec.logarithmic:
            shocks = draws(spec.dist, self._parameters[spec.dynamics :], paths, horizon, seed)
            path = simulate_variance(shocks, drive, self._weights, self._state).mean(axis=0)
            path[0] = self.variance_  # the same on every path, but for the rounding of a mean
            return np.asarray(path)
        expected: Array = filter_variance(np.full(horizon, math.nan), drive, self._weights, self._state.copy())
        return expected

    def simulate(self, horizon: int, paths: int, seed: int = 0) -> tuple[Array, Array]:
        """Returns and their variances (paths, horizon) from here on, under the density of the likelihood."""
        self._check_fitted()
        _check_horizon(horizon)
        spec = self._spec
        if spec.exogenous:
            raise UsageError("a model with exogenous terms cannot be simulated alone: its regressors have no law")
        shocks = draws(spec.dist, self._parameters[spec.dynamics :], paths, horizon, seed)
        variance = simulate_variance(shocks, np.zeros(horizon), self._weights, self._state)
        return self._mu + np.sqrt(variance) * shocks, variance

    def cumulated(self, variance: ArrayLike, horizons: Sequence[int]) -> Array:
        """The forecast variance (n, n_horizons) of the sum of the next h returns, from each one-step ``variance`` (n,).

        Needs a GARCH of orders at most one without regressors, where the one-step variance is the whole state, and each
        step ahead is omega + phi times the step before, phi the persistence; ``UsageError`` otherwise. The sum is affine
        in ``variance``. Its two coefficients are summed up, not taken from the closed form, whose 1 - phi may vanish.
        """
        self._check_fitted()
        spec = self._spec
        if max(spec.p, spec.o, spec.q) > 1 or spec.exogenous or spec.logarithmic:
            raise UsageError(f"cumulated needs a GARCH of orders at most one, this is {self!r}: use forecast")
        _check_horizon(min(horizons))
        omega, alpha, gamma, beta, _ = self._weights
        phi = float(alpha.sum() + 0.5 * gamma.sum() + beta.sum())
        # Step j is power variance + offset.
        powers, offsets = np.ones(max(horizons)), np.zeros(max(horizons))
        for j in range(1, max(horizons)):
            powers[j], offsets[j] = phi * powers[j - 1], omega + phi * offsets[j - 1]
        at = np.asarray(horizons) - 1
        total: Array = np.cumsum(powers)[at] * np.reshape(variance, (-1, 1)) + np.cumsum(offsets)[at]
        return total

    def _adopt(self, spec: Specification, values: Array) -> None:
        for name in ("certificate_", "backcast_", "_sample", "_likelihood"):
            self.__dict__.pop(name, None)  # of earlier parameters
        self._spec, self._parameters = spec, values
        at = np.cumsum([spec.first + 1, spec.p, spec.o, spec.q, spec.exogenous])
        _, alpha, gamma, beta, self._drive, _ = np.split(values, at)
        self._mu = float(values[0]) if spec.first else 0.0
        self._weights = (float(values[spec.first]), alpha, gamma, beta, spec.logarithmic)

    def _stand(self, series: Array, known: Array, backcast: float) -> None:
        self.backcast_ = float(backcast)
        self._state = self._first_state()
        residuals = series - self._mu
        variance = filter_variance(residuals, self._driven(known), self._weights, self._state)
        self._sample, self._likelihood = (residuals, variance), None
        self.variance_ = next_variance(self._weights, self._state)
        if not 0.0 < self.variance_ < math.inf:
            del self._state  # a model that forecasts nothing must not look fitted
            raise DataInvalid(
                f"{self!r} with {self._parameters} makes the next variance {self.variance_}: check the parameters and the "
                "returns, whose scale they share; few distinct values, such as 0 and 1, drive it there too"
            )

    def _first_state(self) -> Array:
        spec = self._spec
        return initial_state(self.backcast_, max(spec.p, spec.o, spec.q), spec.logarithmic)

    def _driven(self, known: Array) -> Array:
        """What regressors (T, k) add to the next variance; term by term, so that one row has the bits of many."""
        total: Array = np.zeros(len(known))
        for weight, column in zip(self._drive, known.T, strict=True):
            total += weight * column
        return total

    def _vector(self, params: ArrayLike) -> Array:
        names = self.parameter_names
        by_name = hasattr(params, "keys") and set(params.keys()) == set(names)
        values = np.array([params[name] for name in names] if by_name else params, dtype=np.float64)  # type: ignore[index, call-overload]
        if values.shape != (len(names),) or not np.isfinite(values).all():
            raise UsageError(f"{self!r} takes {len(names)} finite parameters, {', '.join(names)}; got {params!r}")
        return values

    def _check_fitted(self) -> None:
        if not hasattr(self, "_state"):
            raise UsageError(f"{self!r} has no parameters yet: call fit(returns) or fix(params, returns) first")

    def _check_start_known(self) -> None:
        self._check_fitted()
        if not hasattr(self, "backcast_"):
            raise UsageError(f"{self!r} resumed from a state: what came before is known after fit or fix only")


def fit_many(
    returns: ArrayLike, spec: GARCH, start: ArrayLike | None = None, *, exogenous: ArrayLike | None = None
) -> tuple[Array, Array, Sequence[Certificate]]:
    """Fit ``spec`` to each row of ``returns`` (n_series, T), many at a time.

    Returns the parameters (n_series, k) in the order of ``params_``, the log-likelihoods (n_series,) and one certificate
    a series. ``start`` (n_series, k) takes earlier parameters; a row with NaN there starts cold. ``exogenous`` (n_series,
    T, k). A series that ``fit`` would refuse gets NaN and a certificate with the reason; the others go on. Row by row
    what ``fit`` gives.
    """
    own = spec.specification
    rows = np.ascontiguousarray(np.atleast_2d(np.asarray(returns, dtype=np.float64)))
    known = np.zeros((*rows.shape, 0)) if exogenous is None else np.asarray(exogenous, dtype=np.float64)
    if known.shape != (*rows.shape, own.exogenous):
        raise UsageError(f"exogenous has shape {known.shape}: {spec!r} needs {(*rows.shape, own.exogenous)}")
    previous = None if start is None else np.asarray(start, dtype=np.float64)
    if previous is not None and previous.shape != (len(rows), own.size):
        raise UsageError(
            f"start has shape {previous.shape}: {len(rows)} series of {spec!r} need {(len(rows), own.size)}"
        )
    fits = fit_series(own, rows, _lagged(known), previous)
    return fits.parameters, fits.value, fits.certificates


def _series(returns: ArrayLike) -> Array:
    series = np.ascontiguousarray(returns, dtype=np.float64)
    if series.ndim != 1:
        raise UsageError(f"returns have shape {series.shape}: pass one series (T,), or use fit_many for several")
    if np.isinf(series).any():
        row = int(np.flatnonzero(np.isinf(series))[0])
        raise DataInvalid(f"returns[{row}] is infinite: a price of zero? Pass NaN where the price is missing")
    return series


def _lagged(known: Array) -> Array:
    """Regressors (..., T, k) as the variance sees them: those of the bar before; nothing before the first."""
    if not known.shape[-1]:
        return known
    return np.concatenate([np.zeros_like(known[..., :1, :]), known[..., :-1, :]], axis=-2)


def _regressors(exogenous: ArrayLike | None, length: int, count: int) -> Array:
    """Checked regressors (length, count); one alone may come as (length,)."""
    known = np.zeros((length, 0)) if exogenous is None else np.asarray(exogenous, dtype=np.float64)
    if known.shape == (length,) and count == 1:
        known = known[:, None]
    if known.shape != (length, count):
        raise UsageError(f"exogenous has shape {known.shape}: this model takes {(length, count)}")
    wrong = np.argwhere(~(np.isfinite(known) & (known >= 0.0)))
    if wrong.size:
        row, column = map(int, wrong[0])
        raise DataInvalid(
            f"exogenous[{row}, {column}] is {known[row, column]:g}: a variance needs regressors that are known and not "
            "negative; transform the column, or fill what is missing"
        )
    return known


def _check_horizon(horizon: int) -> None:
    if horizon < 1:
        raise UsageError(f"horizon is {horizon}: it counts bars and starts at 1")
