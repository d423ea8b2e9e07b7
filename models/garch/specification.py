"""What a model of the GARCH family is made of: orders, terms, error density, names, and the set it is sought in.

The admissible set is that of ``arch``, so that likelihoods compare: omega in [1e-8, 10] times the variance, alpha, beta
>= 0, alpha + gamma >= 0 by lag, persistence sum alpha + sum gamma / 2 + sum beta at most one; for EGARCH omega within
ln 10,000 of zero, beta >= 0 and sum beta at most one, and what arch leaves open, alpha and gamma, within ten. Exogenous
terms have weights >= 0. Everything here expects returns of unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.errors import UsageError

__all__ = ["Specification", "working"]

Array = NDArray[np.float64]

# The names that arch gives to densities, means and processes, in any case, and ours.
DENSITIES: Final = {
    "normal": "normal", "gaussian": "normal", "t": "t", "studentst": "t", "skewt": "skewt", "skewstudent": "skewt",
}  # fmt: skip
MEANS: Final = {"zero": "zero", "constant": "constant"}
PROCESSES: Final = {"garch": "garch", "arch": "garch", "egarch": "egarch"}
SHAPES: Final[dict[str, tuple[str, ...]]] = {"normal": (), "t": ("nu",), "skewt": ("eta", "lambda")}
TAILS: Final = {"t": (2.05, 500.0), "skewt": (2.05, 300.0)}
MAX_SKEW: Final = 0.999
OMEGA: Final = (1e-8, 10.0)
LOG_OMEGA: Final = math.log(1e4)
MAX_SHOCK: Final = 10.0  # of EGARCH, whose alpha and gamma arch leaves unbounded
MAX_EXOGENOUS: Final = 1e3
# The likelihood is defined at persistence one; staying this far inside keeps every start feasible.
MAX_PERSISTENCE: Final = 1.0 - 1e-10

# The active ones are kept as bits, which pass through a double; one is left for variance targeting.
MAX_CONSTRAINTS: Final = 52

# Starts: (alpha, gamma, persistence, degrees of freedom), long-run variance one. Likelihoods of the family have ridges
# and poor local optima, on which a single start reports success. The first four reached what 22 starts reached together in
# 3,774 of 3,776 fits (944 simulated and real series, four specifications); they differ in persistence, since that is where
# optima lie apart.
GRID: Final = (
    (0.05, 0.00, 0.980, 8.0), (0.02, 0.00, 0.999, 6.0), (0.03, 0.03, 0.050, 8.0), (0.02, 0.00, 0.600, 6.0),
    (0.10, 0.00, 0.980, 4.0), (0.02, 0.04, 0.995, 6.0), (0.05, 0.10, 0.950, 5.0), (0.20, 0.00, 0.900, 4.0),
    (0.10, 0.10, 0.700, 8.0), (0.30, 0.00, 0.990, 3.0), (0.10, 0.00, 0.300, 6.0), (0.05, 0.00, 0.800, 20.0),
    (0.15, 0.10, 0.990, 4.0), (0.01, 0.00, 0.900, 5.0), (0.10, -0.08, 0.970, 6.0), (0.30, 0.20, 0.600, 4.0),
    (0.20, -0.19, 0.120, 4.0), (0.015, 0.00, 0.020, 99.0), (0.005, 0.03, 0.850, 5.0), (0.20, 0.00, 0.210, 4.0),
)  # fmt: skip
# The same for EGARCH: (alpha, gamma, sum of beta, degrees of freedom).
LOG_GRID: Final = (
    (0.05, -0.05, 0.995, 6.0), (0.30, 0.00, 0.990, 3.5), (0.05, 0.00, 0.990, 20.0), (0.10, 0.10, 0.980, 6.0),
    (0.03, 0.03, 0.050, 8.0), (0.10, 0.00, 0.980, 8.0), (0.10, -0.05, 0.950, 8.0), (0.01, -0.10, 0.980, 8.0),
    (0.20, 0.00, 0.980, 4.0), (0.20, 0.05, 0.900, 6.0), (0.10, -0.10, 0.900, 6.0), (0.20, -0.10, 0.700, 8.0),
    (0.40, 0.00, 0.900, 4.0), (0.20, 0.00, 0.500, 8.0), (0.30, -0.10, 0.950, 4.0), (0.02, 0.00, 0.999, 6.0),
    (-0.05, 0.02, 0.990, 6.0), (-0.20, -0.10, 0.970, 6.0), (-0.30, 0.02, 0.930, 6.0), (-0.07, -0.10, 0.990, 6.0),
    (0.01, 0.00, 0.9999, 8.0),
)  # fmt: skip
# How many of them are climbed first; the others where these leave doubt. EGARCH needs all.
LEADING: Final = {"garch": 4, "egarch": len(LOG_GRID)}


@dataclass(frozen=True)
class Specification:
    """Orders and terms of one model; ``exogenous`` counts the variance's own regressors.

    Parameters stand in arch's order, the exogenous weights after beta: mu, omega, alpha, gamma, beta, pi, shape.
    """

    p: int
    o: int
    q: int
    dist: str
    mean: str
    process: str
    exogenous: int = 0
    targeting: bool = False

    @classmethod
    @cache
    def named(
        cls, p: int, o: int, q: int, dist: str, mean: str, process: str, exogenous: int, targeting: bool
    ) -> Specification:
        """Under any of arch's names; ``UsageError`` for an impossible or unknown one."""
        if str(process).lower() == "arch":
            o, q = 0, 0
        orders = (p, o, q, exogenous)
        if any(order != int(order) or order < 0 for order in orders) or p + o + exogenous == 0:
            raise UsageError(
                f"orders p={p}, o={o}, q={q} and {exogenous} exogenous terms: whole numbers >= 0, and p, o or exogenous at "
                "least 1"
            )
        density, centre = _known("dist", dist, DENSITIES), _known("mean", mean, MEANS)
        family = _known("vol", process, PROCESSES)
        if family == "egarch" and (exogenous or targeting):
            raise UsageError("vol is 'egarch': exogenous terms and variance targeting need vol='garch'")
        spec = cls(int(p), int(o), int(q), density, centre, family, exogenous, targeting)
        if len(spec.inequalities[1]) > MAX_CONSTRAINTS:
            raise UsageError(f"orders p={p}, o={o}, q={q} with {exogenous} exogenous terms are too many: lower them")
        return spec

    @property
    def logarithmic(self) -> bool:
        """Whether the recursion runs on the log of the variance."""
        return self.process == "egarch"

    @property
    def first(self) -> int:
        """Position of omega."""
        return int(self.mean == "constant")

    @property
    def dynamics(self) -> int:
        """Number of parameters before the shape of the density."""
        return self.first + 1 + self.p + self.o + self.q + self.exogenous

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.dynamics + len(SHAPES[self.dist])

    @cached_property
    def names(self) -> list[str]:
        """Names of the parameters, as arch names them."""
        return [
            *(["mu"] if self.first else []),
            "omega",
            *(f"alpha[{i + 1}]" for i in range(self.p)),
            *(f"gamma[{i + 1}]" for i in range(self.o)),
            *(f"beta[{i + 1}]" for i in range(self.q)),
            *(f"pi[{i + 1}]" for i in range(self.exogenous)),
            *SHAPES[self.dist],
        ]

    @cached_property
    def persistence(self) -> Array:
        """Weights (size,) whose product with the parameters is the persistence."""
        weights = np.zeros(self.size)
        shocks = [0.0, 0.0] if self.logarithmic else [1.0, 0.5]
        values = [shocks[0]] * self.p + [shocks[1]] * self.o + [1.0] * self.q
        weights[self.first + 1 : self.first + 1 + len(values)] = values
        return weights

    @cached_property
    def bounds(self) -> Array:
        """Lower and upper bounds (size, 2) of the working parameters, whose tail is 1 / degrees of freedom."""
        if self.logarithmic:
            omega, shock, leverage = (
                (-LOG_OMEGA, LOG_OMEGA),
                (-MAX_SHOCK, MAX_SHOCK),
                [(-MAX_SHOCK, MAX_SHOCK)] * self.o,
            )
        else:
            omega, shock = OMEGA, (0.0, 1.0)
            leverage = [(-1.0 if j < self.p else 0.0, 2.0) for j in range(self.o)]
        shape = []
        if self.dist != "normal":
            low, high = TAILS[self.dist]
            shape = [(1.0 / high, 1.0 / low), (-MAX_SKEW, MAX_SKEW)][: len(SHAPES[self.dist])]
        return np.array(
            [
                *([(-10.0, 10.0)] * self.first),
                omega,
                *([shock] * self.p),
                *leverage,
                *([(0.0, 1.0)] * self.q),
                *([(0.0, MAX_EXOGENOUS)] * self.exogenous),
                *shape,
            ]
        )

    @cached_property
    def inequalities(self) -> tuple[Array, Array]:
        """Rows A (m, size) and limits b (m,) of A x >= b: the bounds, alpha + gamma >= 0 by lag, the persistence."""
        rows = [*np.eye(self.size), *-np.eye(self.size)]
        limits = [*self.bounds[:, 0], *-self.bounds[:, 1]]
        if not self.logarithmic:
            for lag in range(min(self.p, self.o)):
                row = np.zeros(self.size)
                row[[self.first + 1 + lag, self.first + 1 + self.p + lag]] = 1.0
                rows.append(row)
                limits.append(0.0)
        if self.persistence.any():
            rows.append(-self.persistence)
            limits.append(-MAX_PERSISTENCE)
        return np.array(rows), np.array(limits)

    @cached_property
    def target(self) -> Array:
        """The row (size,) of the equation that variance targeting adds: row x = 1, the sample variance."""
        row = self.persistence.copy()
        row[self.first] = 1.0
        row[self.dynamics - self.exogenous : self.dynamics] = 1.0
        return row

    @cached_property
    def vanishing(self) -> int:
        """Bits of the inequalities that hold where a shock or feedback term is zero, alpha + gamma of a lag included."""
        terms = range(self.first + 1, self.dynamics)
        joint = range(2 * self.size, 2 * self.size + min(self.p, self.o) * (not self.logarithmic))
        return sum(1 << i for i in (*terms, *joint))

    @property
    def leading(self) -> int:
        """How many of the starts are climbed before doubt calls for the others."""
        return LEADING[self.process]

    @cached_property
    def starts(self) -> Array:
        """Working parameters (n_starts, size) of the grid; the long-run variance is one, the mean zero."""
        rows = []
        for alpha, gamma, persistence, tail in LOG_GRID if self.logarithmic else GRID:
            x = np.zeros(self.size)
            at = self.first + 1
            x[at : at + self.p] = alpha / max(self.p, 1)
            x[at + self.p : at + self.p + self.o] = gamma / max(self.o, 1)
            # Without shocks of its own, the variance is driven by the regressors, whose mean is one.
            weight = (0.05 if self.p + self.o else alpha) * bool(self.exogenous)
            x[at + self.p + self.o + self.q : self.dynamics] = weight / max(self.exogenous, 1)
            left = max(persistence - weight - float(self.persistence @ x), 0.0)
            x[at + self.p + self.o : at + self.p + self.o + self.q] = left / max(self.q, 1)
            x[self.first] = 0.0 if self.logarithmic else max(1.0 - weight - float(self.persistence @ x), 1e-4)
            x[self.dynamics :] = [1.0 / tail, 0.0][: self.size - self.dynamics]
            rows.append(x)
        return np.array(rows)

    def feasible(self, x: Array) -> Array:
        """Admissible neighbours of the working parameters ``x`` (n, size): clipped, their persistence shrunk."""
        x = np.clip(x, self.bounds[:, 0], self.bounds[:, 1])
        if not self.logarithmic:
            for lag in range(min(self.p, self.o)):
                shock, leverage = self.first + 1 + lag, self.first + 1 + self.p + lag
                x[:, leverage] = np.maximum(x[:, leverage], -x[:, shock])
        shrink = np.minimum(1.0, (MAX_PERSISTENCE - 1e-12) / np.maximum(x @ self.persistence, 1e-12))
        x[:, self.persistence > 0] *= shrink[:, None]
        if self.targeting:
            x[:, self.first] = 0.0
            x[:, self.first] = 1.0 - x @ self.target
        return x


def working(spec: Specification, parameters: Array) -> Array:
    """The tail as 1 / degrees of freedom, in which the likelihood is smooth at the normal; its own inverse."""
    out = np.array(parameters, dtype=np.float64)
    if spec.dist != "normal":
        out[..., spec.dynamics] = 1.0 / out[..., spec.dynamics]
    return out


def _known(name: str, value: str, names: Mapping[str, str]) -> str:
    if str(value).lower() not in names:
        raise UsageError(f"{name} is {value!r}: choose from {', '.join(names)}")
    return names[str(value).lower()]
