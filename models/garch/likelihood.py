"""The GARCH likelihood of one series as a function to maximise, with its admissible set.

The set is that of ``arch``: omega in [1e-8, 10] times the variance, alpha, beta >= 0, alpha + gamma >= 0 by
lag, persistence sum alpha + sum gamma / 2 + sum beta at most one. Bounds and starts expect unit variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from models.garch.kernel import score

__all__ = ["SHAPES", "Likelihood"]

Array = NDArray[np.float64]

SHAPES: Final[dict[str, tuple[str, ...]]] = {"normal": (), "t": ("nu",), "skewt": ("eta", "lambda")}
MAX_TAIL: Final = {"t": 500.0, "skewt": 300.0}
MIN_TAIL: Final = 2.05
MAX_SKEW: Final = 0.999
OMEGA_BOUNDS: Final = (1e-8, 10.0)
# The likelihood is defined at persistence one; staying this far inside keeps every start feasible.
MAX_PERSISTENCE: Final = 1.0 - 1e-10


@dataclass(frozen=True)
class Likelihood:
    """Likelihood of ``returns`` (T,), unit variance, NaN where missing, under one specification.

    ``theta`` is the parameter vector in arch's order with omega and the degrees of freedom as logs.
    """

    returns: Array
    p: int
    o: int
    q: int
    dist: str
    mean: str
    backcast: float

    @property
    def first(self) -> int:
        """Position of omega."""
        return int(self.mean == "constant")

    @property
    def logs(self) -> list[int]:
        """Positions of the parameters that enter as logs."""
        tail = [self.first + 1 + self.p + self.o + self.q] if self.dist != "normal" else []
        return [self.first, *tail]

    @cached_property
    def observations(self) -> int:
        """Number of returns present."""
        return int(np.isfinite(self.returns).sum())

    @cached_property
    def persistence_weights(self) -> Array:
        """Weights (k,) whose product with the parameters is the persistence."""
        weights = np.zeros(len(self.bounds))
        dynamics = [1.0] * self.p + [0.5] * self.o + [1.0] * self.q
        weights[self.first + 1 : self.first + 1 + len(dynamics)] = dynamics
        return weights

    @cached_property
    def bounds(self) -> list[tuple[float, float]]:
        """Bounds of theta."""
        asymmetric = [(-1.0 if j < self.p else 0.0, 2.0) for j in range(self.o)]
        tail = [(math.log(MIN_TAIL), math.log(MAX_TAIL[self.dist]))] if self.dist != "normal" else []
        return [
            *([(-math.inf, math.inf)] * self.first),
            (math.log(OMEGA_BOUNDS[0]), math.log(OMEGA_BOUNDS[1])),
            *([(0.0, 1.0)] * self.p),
            *asymmetric,
            *([(0.0, 1.0)] * self.q),
            *tail,
            *([(-MAX_SKEW, MAX_SKEW)] if self.dist == "skewt" else []),
        ]

    @cached_property
    def constraints(self) -> tuple[Array, Array]:
        """Rows A and limits b of A theta >= b: alpha + gamma >= 0 by lag, and the persistence."""
        rows = []
        for lag in range(min(self.p, self.o)):
            row = np.zeros(len(self.bounds))
            row[[self.first + 1 + lag, self.first + 1 + self.p + lag]] = 1.0
            rows.append(row)
        return np.array([*rows, -self.persistence_weights]), np.array([0.0] * len(rows) + [-MAX_PERSISTENCE])

    def natural(self, theta: Array) -> Array:
        """Return the parameters themselves."""
        out = theta.copy()
        out[self.logs] = np.exp(theta[self.logs])
        return out

    def theta(self, parameters: Array) -> Array:
        """Return theta of the parameters themselves; what must be positive and is not becomes tiny."""
        out = parameters.copy()
        out[self.logs] = np.log(np.maximum(parameters[self.logs], np.finfo(np.float64).tiny))
        return out

    def feasible(self, theta: Array) -> Array:
        """Return an admissible neighbour of ``theta``: clipped, then with its persistence shrunk."""
        theta = np.clip(theta, *np.array(self.bounds).T)
        shock, gap = self.first + 1, self.p
        for lag in range(min(self.p, self.o)):
            theta[shock + gap + lag] = max(theta[shock + gap + lag], -theta[shock + lag])
        dynamics = self.persistence_weights > 0
        persistence = float(self.persistence_weights @ theta)
        if persistence > MAX_PERSISTENCE:
            theta[dynamics] *= (MAX_PERSISTENCE - 1e-12) / persistence
        return theta

    def loss(self, theta: Array) -> tuple[float, Array]:
        """Return the negative mean log-likelihood and its gradient."""
        values = self.natural(theta)
        size = self.first + 1 + self.p + self.o + self.q
        dynamics = values[:size] if self.first else np.concatenate([[0.0], values[:size]])
        shape = values[size:]
        total, slope = score(self.returns, dynamics, self.p, self.o, self.q, self.backcast, _density(self.dist, shape))
        gradient = slope[1 - self.first : 1 - self.first + values.size]
        gradient[self.logs] *= values[self.logs]
        return -total / self.observations, -gradient / self.observations

    def total(self, theta: Array) -> float:
        """Return the log-likelihood of unit-variance returns, in nats."""
        return -self.loss(theta)[0] * self.observations

    def start(self, alpha: float, gamma: float, persistence: float, tail: float) -> Array:
        """Return theta of a starting point whose long-run variance is one."""
        feedback = persistence - alpha * bool(self.p) - 0.5 * gamma * bool(self.o)
        dynamics = [alpha / max(self.p, 1)] * self.p + [gamma / max(self.o, 1)] * self.o
        dynamics += [feedback / max(self.q, 1)] * self.q
        present = self.returns[np.isfinite(self.returns)]
        head = [float(present.mean())] if self.first else []
        shape = [tail, 0.0][: len(SHAPES[self.dist])]
        out = np.array([*head, 1.0, *dynamics, *shape])
        out[self.first] = 1.0 - float(self.persistence_weights @ out)
        return self.feasible(self.theta(out))


def _hansen(eta: float, skew: float) -> Array:
    """Constants a, b and log(b c) of Hansen (1994), eq. 10, so that mean is 0 and variance 1."""
    log_c = gammaln(0.5 * (eta + 1.0)) - gammaln(0.5 * eta) - 0.5 * math.log(math.pi * (eta - 2.0))
    a = 4.0 * skew * math.exp(log_c) * (eta - 2.0) / (eta - 1.0)
    b = math.sqrt(1.0 + 3.0 * skew**2 - a**2)
    return np.array([a, b, math.log(b) + log_c])


def _density(dist: str, shape: Array) -> Array:
    """Return the table that ``score`` expects, with derivatives of the constants by central differences."""
    if dist == "normal":
        return np.empty((0, 0))
    eta, skew = float(shape[0]), float(shape[1]) if dist == "skewt" else 0.0
    table = np.zeros((3, 5))
    table[0] = [eta, skew, *_hansen(eta, skew)]
    by_eta, by_skew = 1e-5 * (eta - 2.0), 1e-6
    table[1, 2:] = (_hansen(eta + by_eta, skew) - _hansen(eta - by_eta, skew)) / (2.0 * by_eta)
    table[2, 2:] = (_hansen(eta, skew + by_skew) - _hansen(eta, skew - by_skew)) / (2.0 * by_skew)
    return table
