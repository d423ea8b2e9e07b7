"""Gaussian hidden Markov model: states that last, each with its own level and spread.

A bar x_t (d,) is drawn from N(mean_s, diag(variance_s)) of the hidden state s_t, a Markov chain (Hamilton 1989). What a
forecaster may use is the filter, P(s_t | data <= t), and its forecasts ``xi_t P^h``. State 0 is the calm one after every
fit: states are sorted by the mean, or the variance, of the first column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.errors import UsageError
from models.states.base import Certificate, StateModel, stored
from models.states.hmm_kernel import LANES, LOG_TWO_PI, absorb, fit_em, forward

__all__ = ["GaussianHMM"]

Array = NDArray[np.float64]
# startprob (K,), transmat (K, K), means (K, d), variances (K, d)
Parameters = tuple[Array, Array, Array, Array]

ORDERS: Final = ("mean", "variance")
STICKY: Final = 0.95
# Short climbs from every start pick those that are climbed to the end (Biernacki, Celeux & Govaert 2003).
SHORT_CLIMB: Final = 20
FINALISTS: Final = 2
SAME_OPTIMUM: Final = 1e-2  # nats
# Of a column's variance over all bars; a state that shrinks to a point has infinite likelihood.
VARIANCE_FLOOR: Final = 1e-6
MIN_STATE_BARS: Final = 5.0


class GaussianHMM(StateModel):
    """Hidden Markov model with ``n_states`` diagonal Gaussians, fitted by EM from several starts.

    ``order_by``: ``mean`` of the first column where that is a level such as log variance, ``variance`` where it is a
    return. Starts: groups of equal size by each column's value and by its distance from the median, and
    ``random_starts`` drawn with ``seed``. EM stops at a gain of ``tolerance`` nats, or at ``max_iterations``.

    After ``fit``: ``startprob_`` (K,), ``transmat_`` (K, K), ``means_`` and ``variances_`` (K, d), ``loglikelihood_``,
    ``certificate_`` (to be read before use), and ``filtered_`` (K,), P(s_t | data <= t) at the newest bar.
    """

    def __init__(
        self,
        n_states: int = 2,
        order_by: str = "mean",
        random_starts: int = 4,
        seed: int = 0,
        tolerance: float = 1e-4,
        max_iterations: int = 500,
    ) -> None:
        self.n_states = n_states
        self.order_by = order_by
        self.random_starts = random_starts
        self.seed = seed
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def fit(self, X: ArrayLike, start: dict[str, Any] | None = None) -> Self:
        """Maximum likelihood on bars ``X`` (T, d), missing values NaN; then stand at their end.

        ``start`` is the ``state()`` of an earlier fit: EM climbs from there alone. Raises ``DataInvalid`` for data that
        are infinite, flat or too short, ``UsageError`` for an impossible specification or start.
        """
        if self.order_by not in ORDERS:
            raise UsageError(f"{self!r}: order_by is one of {', '.join(ORDERS)}")
        x = self._training_bars(X, self.n_states)
        floors = VARIANCE_FLOOR * np.nanvar(x, axis=0)
        climb = partial(_climb, _blocks(x), len(x), floors, self.tolerance)
        if start is not None:
            tried = [self._given(start, x.shape[1])]
        else:
            short = sorted((climb(p, SHORT_CLIMB) for p in self._starts(x)), key=lambda end: -end.loglikelihood)
            tried = [end.parameters for end in short[:FINALISTS]]
        ends = [climb(parameters, self.max_iterations) for parameters in tried]
        best = max(ends, key=lambda end: end.loglikelihood)
        agreeing = sum(end.loglikelihood > best.loglikelihood - SAME_OPTIMUM for end in ends)
        spread = best.parameters[2 if self.order_by == "mean" else 3][:, 0]
        order = np.argsort(spread, kind="stable")
        self._adopt(_permuted(best.parameters, order))
        empty = (best.occupancy[order] < MIN_STATE_BARS) | (self.variances_ <= floors).any(axis=1)
        found = [int(k) for k in np.flatnonzero(empty)]
        self.certificate_ = Certificate.of(best.gain, best.iterations, self.tolerance, len(ends), agreeing, found)
        self._predicted = self.startprob_.copy()
        filtered = np.empty((len(x), self.n_states))
        self.loglikelihood_ = float(forward(x, self._predicted, *self._density, filtered))
        self.filtered_ = filtered[-1].copy()
        return self

    def filter(self, X: ArrayLike) -> Array:
        """P(s_t | data <= t) (T, K) along bars ``X`` (T, d) from ``startprob_`` on; ``update`` is left where it stands."""
        x = self._known_bars(X)
        filtered: Array = np.empty((len(x), self.n_states))
        forward(x, self.startprob_.copy(), *self._density, filtered)
        return filtered

    def restart(self) -> Self:
        """Stand before any bar, at ``startprob_``."""
        self._check_fitted()
        self._predicted, self.filtered_ = self.startprob_.copy(), self.startprob_.copy()
        return self

    def advance(self, X: ArrayLike) -> Array:
        """``update`` by each bar of ``X`` (T, d), one or more; P(s_t | data <= t) (T, K)."""
        x = self._known_bars(X)
        filtered: Array = np.empty((len(x), self.n_states))
        self._predicted = self._predicted.copy()
        forward(x, self._predicted, *self._density, filtered)
        self.filtered_ = filtered[-1].copy()
        return filtered

    def update(self, x: ArrayLike) -> Array:
        """Absorb the next bar (d,) in O(1) and return P(s_t | data <= t) (K,), bit for bit that of ``filter``."""
        bar = self._known_bar(x)
        filtered: Array = np.empty(self.n_states)
        self._predicted = self._predicted.copy()
        absorb(bar, self._predicted, *self._density, filtered)
        self.filtered_ = filtered
        return filtered.copy()

    def forecast(self, horizon: int) -> Array:
        """P(s_{t+h} | data <= t) (horizon, K) of each of the next bars: ``filtered_`` times powers of ``transmat_``."""
        self._check_fitted()
        if horizon < 1:
            raise UsageError(f"horizon is {horizon}: it counts bars and starts at 1")
        path = np.empty((horizon, self.n_states))
        path[0] = self._predicted
        for h in range(1, horizon):
            path[h] = (path[h - 1][:, None] * self.transmat_).sum(axis=0)
        return path

    def score(self, X: ArrayLike) -> float:
        """Log-likelihood of bars ``X`` (T, d) under the fitted parameters."""
        x = self._known_bars(X)
        return float(forward(x, self.startprob_.copy(), *self._density, np.empty((len(x), self.n_states))))

    def smooth(self, X: ArrayLike) -> Array:
        """P(s_t | all of X) (T, K), which **looks ahead**: for notebooks only (Kim 1994)."""
        smoothed: Array = self.filter(X)
        for t in range(len(smoothed) - 2, -1, -1):
            smoothed[t] *= self.transmat_ @ (smoothed[t + 1] / (smoothed[t] @ self.transmat_))
        return smoothed

    def state(self) -> dict[str, Any]:
        """Parameters, certificate and where ``update`` stands."""
        self._check_fitted()
        return {
            "startprob": self.startprob_.copy(),
            "transmat": self.transmat_.copy(),
            "means": self.means_.copy(),
            "variances": self.variances_.copy(),
            "predicted": self._predicted.copy(),
            "filtered": self.filtered_.copy(),
            "loglikelihood": self.loglikelihood_,
            "certificate": self.certificate_.plain(),
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """The inverse of ``state``, on an instance with the same constructor arguments."""
        means = np.asarray(state["means"])
        self._adopt(self._given(state, means.shape[-1]))
        self._predicted, self.filtered_ = (stored(state, name, (self.n_states,)) for name in ("predicted", "filtered"))
        self.loglikelihood_ = float(state["loglikelihood"])
        self.certificate_ = Certificate.read(state["certificate"])
        return self

    def _adopt(self, parameters: Parameters) -> None:
        self.startprob_, self.transmat_, self.means_, self.variances_ = parameters
        constant = -0.5 * (LOG_TWO_PI + np.log(self.variances_))
        self._density = (self.transmat_, self.means_, constant, 0.5 / self.variances_)
        self._columns = self.means_.shape[1]

    def _given(self, state: dict[str, Any], columns: int) -> Parameters:
        k = self.n_states
        shapes = {"startprob": (k,), "transmat": (k, k), "means": (k, columns), "variances": (k, columns)}
        arrays = {name: np.array(state[name], dtype=np.float64) for name in shapes}
        for name, shape in shapes.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise UsageError(
                    f"'{name}' of the given state has shape {arrays[name].shape}, or is not finite: {self!r} on "
                    f"{columns} columns needs {shape}; pass the state of a model of the same kind, or fit without start"
                )
        chances = np.vstack([arrays["startprob"], arrays["transmat"]])
        if (chances < 0.0).any() or not np.allclose(chances.sum(axis=1), 1.0) or (arrays["variances"] <= 0.0).any():
            raise UsageError(
                "the given state has probabilities that do not sum to one, or variances that are not positive"
            )
        return arrays["startprob"], arrays["transmat"], arrays["means"], arrays["variances"]

    def _starts(self, x: Array) -> list[Parameters]:
        """Groups of equal size by each column's value and by its distance from the median, then random centres."""
        k = self.n_states
        rng = np.random.default_rng(self.seed)
        middle, scale = np.nanmean(x, axis=0), np.nanvar(x, axis=0)
        starts = []
        for column in x.T:
            for key in (column, np.abs(column - np.nanmedian(column))):
                group = np.searchsorted(np.nanquantile(key, np.arange(1, k) / k), np.nan_to_num(key))
                means, variances = np.tile(middle, (k, 1)), np.tile(scale, (k, 1))
                for s in range(k):
                    _moments_of(x[(group == s) & np.isfinite(key)], means[s], variances[s])
                starts.append(self._sticky(means, variances))
        for _ in range(self.random_starts):
            centres = x[rng.choice(len(x), k, replace=False)]
            starts.append(self._sticky(np.where(np.isnan(centres), middle, centres), np.tile(scale, (k, 1))))
        return starts

    def _sticky(self, means: Array, variances: Array) -> Parameters:
        k = self.n_states
        stay = STICKY * np.eye(k) + (1.0 - STICKY) / k
        return np.full(k, 1.0 / k), stay / stay.sum(axis=1, keepdims=True), means, variances


@dataclass(frozen=True)
class _Climb:
    """Where EM has come to from one start."""

    parameters: Parameters
    loglikelihood: float
    gain: float
    iterations: int
    occupancy: Array


def _climb(blocks: Array, bars: int, floors: Array, tolerance: float, start: Parameters, limit: int) -> _Climb:
    startprob, transmat, means, variances = (part.copy() for part in start)
    parameters = (startprob, transmat, means, np.maximum(variances, floors))
    states = len(startprob)
    blank = ((0.0,) * states,) * states
    return _Climb(parameters, *fit_em(blocks, bars, *parameters, floors, tolerance, limit, blank))


def _blocks(x: Array) -> Array:
    """Bars (T, d) as blocks (n_blocks, d, LANES), NaN behind the last bar."""
    bars, columns = x.shape
    padded = np.full((-(-bars // LANES) * LANES, columns), np.nan)
    padded[:bars] = x
    return np.ascontiguousarray(padded.reshape(-1, LANES, columns).transpose(0, 2, 1))


def _permuted(parameters: Parameters, order: NDArray[np.intp]) -> Parameters:
    startprob, transmat, means, variances = parameters
    return startprob[order], np.ascontiguousarray(transmat[order][:, order]), means[order], variances[order]


def _moments_of(x: Array, mean: Array, variance: Array) -> None:
    """Put mean and variance of each column of ``x`` in place, where it has values that differ."""
    for i, column in enumerate(x.T):
        present = column[np.isfinite(column)]
        if present.size > 1 and np.ptp(present) > 0.0:
            mean[i], variance[i] = present.mean(), present.var()
