"""Maximum likelihood by Newton's method with exact curvature, inside bounds, for many series and starts at a time.

Each lane climbs on its own: evaluate, step, accept or shorten, until the likelihood that one more step could win is
negligible; then it takes the next task. Steps solve the quadratic model on the face of the active constraints (Nocedal
and Wright, Numerical Optimization, chapters 4 and 16), with Levenberg damping where the model is not convex or proves
too bold. Constraints are the rows A x >= b of the specification; with variance targeting, the first row holds as an
equation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.garch.climbing import FACTS, advance
from models.garch.lanes import LANES, Layout, likelihood
from models.garch.specification import Specification

__all__ = ["Climbs", "Series", "climb"]

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Series:
    """Returns (n, T) of unit variance, NaN where missing or past the end; regressors (n, T, exogenous) of unit mean.

    ``present`` (n,) counts the returns, ``backcast`` (n,) is the variance before the first, ``gaps`` whether some
    return before the last is missing.
    """

    returns: Array
    regressors: Array
    present: Integers
    backcast: Array
    gaps: bool


@dataclass(frozen=True)
class Climbs:
    """Where each task ended: working parameters (n, size), log-likelihood in nats, and what is known of the point.

    ``decrement``: nats that one more Newton step promises. ``gradient``: largest component of the mean log-likelihood's
    gradient that no active constraint holds, omega and tail by their logs. ``curvature``: smallest pivot of the Hessian
    on the free directions relative to its diagonal; one is best, zero or less is no maximum. ``face``: bits of the active
    constraints.
    """

    x: Array
    value: Array
    decrement: Array
    gradient: Array
    curvature: Array
    face: Integers

    @classmethod
    def nothing(cls, n: int, size: int) -> Climbs:
        """No climb yet for any of n series."""
        decrement, gradient, curvature = np.full((3, n), np.nan)
        worst, none = np.full(n, -np.inf), np.zeros(n, dtype=np.int64)
        return cls(np.full((n, size), np.nan), worst, decrement, gradient, curvature, none)

    def put(self, rows: Integers, other: Climbs) -> None:
        """Overwrite ``rows`` (k,) with the k climbs of ``other``."""
        for own, new in zip(self._fields(), other._fields(), strict=True):
            own[rows] = new

    def take(self, rows: Integers) -> Climbs:
        """The climbs of ``rows`` (k,)."""
        return Climbs(*(field[rows] for field in self._fields()))

    def _fields(self) -> tuple[Any, ...]:
        return self.x, self.value, self.decrement, self.gradient, self.curvature, self.face


def climb(spec: Specification, series: Series, starts: Array, task: Integers) -> Climbs:
    """Climb from each of the working parameters ``starts`` (n, size) on series number ``task`` (n,)."""
    kernel = likelihood(spec, series.gaps)
    bench = _Bench(spec, series)
    size, rows, limits = spec.size, *_constraints(spec)
    lane = np.zeros((LANES, 3 * size + size * size + 3))
    whole = np.full((LANES, 3), -1, dtype=np.int64)
    out = np.full((len(task), size + FACTS), np.nan)
    queue = np.zeros(1, dtype=np.int64)

    def move_on() -> int:
        running: int = advance(
            bench.work, bench.returns, bench.regressors, lane, whole, queue, starts, task, out, series.returns,
            series.regressors, series.present, series.backcast, rows, limits, *bench.shape, spec.targeting,
        )  # fmt: skip
        return running

    while move_on():
        kernel(bench.returns, bench.regressors, bench.work, bench.steps)
    value, decrement, gradient, curvature, face = out[:, size:].T
    return Climbs(out[:, :size], value, decrement, gradient, curvature, face.astype(np.int64))


class _Bench:
    """The lanes' memory for one specification and length."""

    def __init__(self, spec: Specification, series: Series) -> None:
        layout = _layout(spec, series.gaps)
        self.steps = series.returns.shape[1]
        self.returns = np.full(self.steps * LANES, np.nan)
        self.regressors = np.zeros(max(self.steps * spec.exogenous, 1) * LANES)
        work = np.zeros((layout.rows, LANES))
        # Lanes without a task run on a harmless model: constant variance, eight degrees of freedom.
        work[spec.dynamics : spec.size] = 8.0
        work[spec.first] = 0.0 if spec.logarithmic else 1.0
        work[layout.backcast] = 1.0
        self.work = work.ravel()
        density = ("normal", "t", "skewt").index(spec.dist)
        self.shape = (
            spec.dynamics,
            spec.first,
            density,
            spec.logarithmic,
            layout.constants,
            layout.backcast,
            layout.results,
        )


@cache
def _layout(spec: Specification, gaps: bool) -> Layout:
    return Layout(spec, gaps)


@cache
def _constraints(spec: Specification) -> tuple[Array, Array]:
    rows, limits = spec.inequalities
    if spec.targeting:
        rows, limits = np.vstack([spec.target, rows]), np.append(1.0, limits)
    return np.ascontiguousarray(rows), np.ascontiguousarray(limits)
