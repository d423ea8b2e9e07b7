"""Statistical jump model: states that differ in their means and are paid for at every change.

A sequence of states s_t and means theta_s are fitted to bars x_t by minimising

    sum over t of  1/2 |x_t - theta_{s_t}|²  +  penalty * (number of t with s_t != s_{t-1})

(Bemporad, Breschi, Piga & Boyd 2018; Nystrup, Lindström & Madsen 2020). Known means leave a shortest-path problem, which a
dynamic programme solves; a known sequence leaves means. The two take turns until nothing changes, from several starts.

Online, the state at t is the end of the cheapest path through the bars up to t. The loss has no scale of its own: bring
the columns of X to comparable units first. A missing value (NaN) costs nothing in any state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.errors import UsageError
from models.states.base import Certificate, StateModel, stored
from models.states.jump_kernel import alternate, runs_of, walk

__all__ = ["JumpModel"]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

SAME_OPTIMUM: Final = 1e-9  # relative
SHAKES: Final = (0.7, 1.4)


@dataclass(frozen=True)
class _Descent:
    """Where ``alternate`` has come to from one start."""

    objective: float
    gain: float
    turns: int
    runs: Labels
    means: Array

    @classmethod
    def run(cls, data: tuple[Array, Array, Array], rules: tuple[float, int, Any], penalty: float, start: Array) -> Self:
        """Descend from ``start``, which stays as it is."""
        means = start.copy()
        return cls(*alternate(*data, means, penalty, *rules), means)


_objective = attrgetter("objective")


class JumpModel(StateModel):
    """Statistical jump model with ``n_states`` states and a ``jump_penalty`` for every change of state.

    The penalty is in units of the loss: a change must save that much over the bars that follow. Starts: groups of equal
    size by the first column, and ``random_starts`` by k-means++ (Arthur & Vassilvitskii 2007) drawn with ``seed``; the best
    end is then left and descended to again by way of smaller and larger penalties. A descent stops at a gain of
    ``tolerance``, or after ``max_iterations`` turns.

    After ``fit``: ``means_`` (K, d), sorted by the first column so that state 0 is the calm one, ``objective_``,
    ``certificate_``, and ``state_``, the state of the newest bar as known then.
    """

    def __init__(
        self,
        n_states: int = 2,
        jump_penalty: float = 50.0,
        random_starts: int = 9,
        seed: int = 0,
        tolerance: float = 1e-8,
        max_iterations: int = 1000,
    ) -> None:
        self.n_states = n_states
        self.jump_penalty = jump_penalty
        self.random_starts = random_starts
        self.seed = seed
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def fit(self, X: ArrayLike, start: dict[str, Any] | None = None) -> Self:
        """Minimise the objective on bars ``X`` (T, d), missing values NaN; then stand at their end.

        ``start`` is the ``state()`` of an earlier fit: the descent begins there alone. Raises ``DataInvalid`` for data
        that are infinite, flat or too short, ``UsageError`` for an impossible specification or start.
        """
        self._check_penalty()
        x = self._training_bars(X, self.n_states)
        starts = [self._given(start, x.shape[1])] if start is not None else self._starts(x)
        data = (np.ascontiguousarray(x.T), _running(np.nan_to_num(x)), _running(np.isfinite(x).astype(np.float64)))
        descend = partial(_Descent.run, data, (self.tolerance, self.max_iterations, ((0.0, 0),) * self.n_states))
        ends = [descend(self.jump_penalty, means) for means in starts]
        best = self._shaken(descend, min(ends, key=_objective))
        agreeing = sum(end.objective <= best.objective * (1.0 + SAME_OPTIMUM) for end in ends)
        order = np.argsort(best.means[:, 0], kind="stable")
        self._adopt(best.means[order])
        self.objective_ = float(best.objective)
        empty = [k for k, s in enumerate(order) if s not in best.runs[:, 0]]
        self.certificate_ = Certificate.of(best.gain, best.turns, self.tolerance, len(ends), agreeing, empty)
        self._cost = np.zeros(self.n_states)
        self.state_ = int(self._follow(x, self._cost)[1][-1])
        return self

    def filter(self, X: ArrayLike) -> Labels:
        """The state (T,) of each bar of ``X`` (T, d) as known at that bar; ``update`` is left where it stands."""
        return self._follow(self._known_bars(X), np.zeros(self.n_states))[1]

    def costs(self, X: ArrayLike) -> Array:
        """What each state costs (T, K) more than the one that ``filter`` gives, as known at that bar."""
        return self._follow(self._known_bars(X), np.zeros(self.n_states))[0]

    def restart(self) -> Self:
        """Stand before any bar."""
        self._check_fitted()
        self._cost = np.zeros(self.n_states)
        return self

    def advance(self, X: ArrayLike) -> Array:
        """``update`` by each bar of ``X`` (T, d), one or more; what each state costs (T, K), as ``costs``."""
        x = self._known_bars(X)
        self._cost = self._cost.copy()
        costs, best, _ = self._follow(x, self._cost)
        self.state_ = int(best[-1])
        return costs

    def update(self, x: ArrayLike) -> int:
        """Absorb the next bar (d,) in O(1) and return its state, that of ``filter``."""
        self.advance(self._known_bar(x)[None])
        return self.state_

    def smooth(self, X: ArrayLike) -> Labels:
        """The cheapest sequence of states (T,) for all of ``X``, which **looks ahead**: for notebooks only."""
        _, best, since = self._follow(self._known_bars(X), np.zeros(self.n_states))
        runs = np.empty((len(best), 3), dtype=np.int64)
        runs = runs[: runs_of(best, since, runs)][::-1]
        return np.repeat(runs[:, 0], runs[:, 2] - runs[:, 1] + 1)

    def state(self) -> dict[str, Any]:
        """Parameters, certificate and where ``update`` stands."""
        self._check_fitted()
        return {
            "means": self.means_.copy(),
            "cost": self._cost.copy(),
            "state": self.state_,
            "objective": self.objective_,
            "certificate": self.certificate_.plain(),
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """The inverse of ``state``, on an instance with the same constructor arguments."""
        self._check_penalty()
        self._adopt(self._given(state, np.asarray(state["means"]).shape[-1]))
        self._cost = stored(state, "cost", (self.n_states,))
        self.state_ = int(state["state"])
        self.objective_ = float(state["objective"])
        self.certificate_ = Certificate.read(state["certificate"])
        return self

    def _shaken(self, descend: Callable[[float, Array], _Descent], best: _Descent) -> _Descent:
        """The best descent that begins where one with a smaller or larger penalty ends, as long as that helps."""
        while True:
            found = min(
                (descend(self.jump_penalty, descend(share * self.jump_penalty, best.means).means) for share in SHAKES),
                key=_objective,
            )
            if not found.objective < best.objective * (1.0 - SAME_OPTIMUM):
                return best
            best = found

    def _adopt(self, means: Array) -> None:
        self.means_ = means
        self._columns = means.shape[1]

    def _follow(self, x: Array, cost: Array) -> tuple[Array, Labels, Labels]:
        """Costs (T, K), state (T,) and the bar at which its path came there (T,); ``cost`` (K,) moves on to the end."""
        costs = np.empty((len(x), self.n_states))
        best, since = np.empty(len(x), dtype=np.int64), np.empty(len(x), dtype=np.int64)
        columns = np.ascontiguousarray(x.T)
        walk(columns, self.means_, self.jump_penalty, cost, costs, best, since, ((0.0, 0),) * self.n_states)
        return costs, best, since

    def _check_penalty(self) -> None:
        if not 0.0 <= self.jump_penalty < math.inf:
            raise UsageError(f"{self!r}: jump_penalty is a finite number >= 0, in units of the loss")

    def _given(self, state: dict[str, Any], columns: int) -> Array:
        means = np.array(state["means"], dtype=np.float64)
        if means.shape != (self.n_states, columns) or not np.isfinite(means).all():
            raise UsageError(
                f"'means' of the given state has shape {means.shape}, or is not finite: {self!r} on {columns} columns "
                f"needs {(self.n_states, columns)}; pass the state of a model of the same kind, or fit without start"
            )
        return means

    def _starts(self, x: Array) -> list[Array]:
        """Means of groups of equal size by the first column, then centres drawn by k-means++."""
        filled = np.where(np.isnan(x), np.nanmean(x, axis=0), x)
        order = np.argsort(filled[:, 0], kind="stable")
        groups = [filled[part].mean(axis=0) for part in np.array_split(order, self.n_states)]
        rng, columns = np.random.default_rng(self.seed), np.ascontiguousarray(filled.T)
        return [np.stack(groups), *(_plus_plus(columns, self.n_states, rng) for _ in range(self.random_starts))]


def _running(values: Array) -> Array:
    """Sums (T + 1, d) of the first 0 … T rows of ``values`` (T, d)."""
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])


def _plus_plus(columns: Array, states: int, rng: np.random.Generator) -> Array:
    """``states`` bars of ``columns`` (d, T), each drawn in proportion to its squared distance from those before."""
    bars = columns.shape[1]
    chosen = [columns[:, rng.integers(bars)]]
    distance = np.full(bars, math.inf)
    while len(chosen) < states:
        distance = np.minimum(distance, ((columns - chosen[-1][:, None]) ** 2).sum(axis=0))
        reached = np.cumsum(distance)
        draw = np.searchsorted(reached, rng.random() * reached[-1], side="right")
        chosen.append(columns[:, min(int(draw), bars - 1)])
    return np.stack(chosen)
