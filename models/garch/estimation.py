"""Maximum likelihood for the GARCH family: several starts, exact gradients, a certificate of the result.

Likelihoods of the family have ridges and poor local optima, on which a single start reports success. So the
optimum is sought from several starting points by sequential quadratic programming (SLSQP) under the linear
constraints of the model, with the exact gradient of ``models.garch.kernel.score``. A fit without an earlier
optimum to start from asks ``arch`` for a second opinion, by its own likelihood and optimiser; the higher
likelihood wins. Returns are expected at unit variance: all tolerances here are relative to that scale.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from models.garch.likelihood import Likelihood

__all__ = ["Certificate", "maximise"]

Array = NDArray[np.float64]

# (sum of alpha, sum of gamma, persistence, degrees of freedom)
GRID: Final = (
    (0.05, 0.00, 0.980, 8.0),
    (0.10, 0.00, 0.980, 4.0),
    (0.02, 0.04, 0.995, 6.0),
    (0.05, 0.10, 0.950, 5.0),
    (0.20, 0.00, 0.900, 4.0),
)
# Relative to the mean log-likelihood; the rough one is enough to tell optima and models apart.
TOLERANCE: Final = 1e-11
ROUGH: Final = 1e-8
MAX_ITERATIONS: Final = 300
# Per observation and unit-variance return; beyond it an optimum is not taken for one.
MAX_GRADIENT: Final = 1e-4
ACTIVE: Final = 1e-6
# A tail cap of 500 instead of infinity costs a fraction of a nat on Gaussian returns.
NESTED_MARGIN: Final = 1.0
# Two likelihoods nearer than this many nats are the same optimum.
SAME_OPTIMUM: Final = 1e-3


@dataclass(frozen=True)
class Certificate:
    """What is known of a fit.

    ``gradient_norm`` is the largest component of the gradient of the mean log-likelihood (unit-variance
    returns; omega and degrees of freedom by their logs) that no active constraint holds: the residual of the
    Karush-Kuhn-Tucker conditions. ``at_bound``: some bound or constraint is active. ``method`` is ``warm``
    (from the given start), ``multi-start``, or ``arch`` where its optimum was the better one; ``refused``
    where no fit was tried. ``reason`` is empty, or says why the fit must not be used.
    """

    converged: bool
    gradient_norm: float
    at_bound: bool
    method: str
    starts: int
    persistence: float
    reason: str = ""

    @classmethod
    def refused(cls, reason: str) -> Certificate:
        """Return the certificate of a series that no fit was tried on."""
        return cls(False, math.nan, False, "refused", 0, math.nan, reason)

    @property
    def certified(self) -> bool:
        """Whether the fit may be used: converged, stationary, and nothing speaks against it."""
        return self.converged and not self.reason


def _climb(likelihood: Likelihood, theta: Array, tolerance: float = TOLERANCE) -> Array:
    """Return the local optimum that SLSQP reaches from ``theta``."""
    rows, limits = likelihood.constraints
    settings: dict[str, Any] = {
        "method": "SLSQP",
        "bounds": likelihood.bounds,
        "constraints": {"type": "ineq", "fun": lambda x: rows @ x - limits, "jac": lambda _: rows},
        "options": {"ftol": tolerance, "maxiter": MAX_ITERATIONS},
    }
    result = minimize(likelihood.loss, theta, jac=True, **settings)
    return likelihood.feasible(np.asarray(result.x))


def _stationarity(likelihood: Likelihood, theta: Array) -> tuple[float, bool]:
    """Return the residual of the Karush-Kuhn-Tucker conditions, and whether any constraint is active."""
    rows, limits = likelihood.constraints
    unit = np.eye(theta.size)
    low, high = np.array(likelihood.bounds).T
    normals = np.vstack(
        [unit[theta - low < ACTIVE], -unit[high - theta < ACTIVE], rows[rows @ theta - limits < ACTIVE]]
    )
    gradient = likelihood.loss(theta)[1]
    if not normals.size:
        return float(np.abs(gradient).max()), False
    multipliers, _ = nnls(normals.T, gradient)
    return float(np.abs(gradient - normals.T @ multipliers).max()), True


def _best(likelihood: Likelihood, candidates: Iterable[Array]) -> Array:
    return min(candidates, key=lambda theta: likelihood.loss(theta)[0])


def _ask_arch(likelihood: Likelihood, starts: Sequence[Array | None]) -> list[Array]:
    """Return the optima that ``arch`` reaches from ``starts``; None stands for its own starting values.

    ``arch`` knows no missing returns, so it is shown the series without them.
    """
    from arch import arch_model
    from threadpoolctl import threadpool_limits

    density: Any = likelihood.dist
    model = arch_model(
        likelihood.returns[np.isfinite(likelihood.returns)],
        mean="Constant" if likelihood.first else "Zero",
        p=likelihood.p,
        o=likelihood.o,
        q=likelihood.q,
        dist=density,
        rescale=False,
    )
    optima = []
    for theta in starts:
        values = None if theta is None else likelihood.natural(theta)
        # One BLAS thread, because arch's bytes depend on their number.
        with threadpool_limits(limits=1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what arch warns of is judged by our own certificate
            result = model.fit(disp="off", show_warning=False, starting_values=values)
        parameters = np.asarray(result.params, dtype=np.float64)
        if np.isfinite(parameters).all():
            optima.append(likelihood.feasible(likelihood.theta(parameters)))
    return optima


def maximise(likelihood: Likelihood, previous: Array | None) -> tuple[Array, Certificate]:
    """Return the best parameters found, unit-variance returns, and their certificate.

    With ``previous`` (an earlier optimum) two climbs are made, from there and from the best point of the
    grid. Where they disagree, or the result is no optimum, or without ``previous``, the whole grid is climbed
    and ``arch`` is asked, from its own start and from the best point so far; from every start if still in
    doubt.
    """
    grid = [likelihood.start(*point) for point in GRID]
    if previous is not None:
        given = likelihood.feasible(likelihood.theta(previous))
        warm = _climb(likelihood, given)
        probe = _climb(likelihood, _best(likelihood, grid), ROUGH)
        same = likelihood.total(probe) <= likelihood.total(warm) + SAME_OPTIMUM
        if same and _stationarity(likelihood, warm)[0] <= MAX_GRADIENT:
            return likelihood.natural(warm), _certify(likelihood, warm, "warm", 2)
        grid.append(given)
    own = _best(likelihood, [_climb(likelihood, theta) for theta in grid])
    doubtful = _stationarity(likelihood, own)[0] > MAX_GRADIENT
    asked: list[Array | None] = [None, own, *(grid if doubtful else [])]
    theirs = _ask_arch(likelihood, asked)
    best = _best(likelihood, [own, *theirs])
    method = "multi-start"
    if likelihood.total(best) > likelihood.total(own) + SAME_OPTIMUM:
        own, method = _best(likelihood, [best, _climb(likelihood, best)]), "arch"
    return likelihood.natural(own), _certify(likelihood, own, method, len(grid) + len(asked))


def _certify(likelihood: Likelihood, theta: Array, method: str, starts: int) -> Certificate:
    norm, at_bound = _stationarity(likelihood, theta)
    converged = bool(norm <= MAX_GRADIENT)
    persistence = float(likelihood.persistence_weights @ theta)
    checks: list[tuple[bool, str]] = [
        (not converged, f"the optimiser stopped off the optimum (gradient {norm:.1e})"),
        (persistence >= 1.0 - ACTIVE, f"not covariance stationary (persistence {persistence:.6f})"),
        (_on_edge(likelihood, theta), "omega or the degrees of freedom lie on the edge of their range"),
        (_below_nested(likelihood, theta), "the likelihood is below that of a simpler nested model"),
    ]
    reason = "; ".join(message for failed, message in checks if failed)
    return Certificate(converged, norm, at_bound, method, starts, persistence, reason)


def _on_edge(likelihood: Likelihood, theta: Array) -> bool:
    """Whether omega has run to either bound, or the tail to infinite variance; a normal tail is no fault."""
    low, high = np.array(likelihood.bounds).T
    omega = likelihood.first
    edges = [theta[k] - low[k] < ACTIVE for k in likelihood.logs]
    return any(edges) or bool(high[omega] - theta[omega] < ACTIVE)


def _nested(likelihood: Likelihood, theta: Array) -> Iterator[tuple[Likelihood, Array]]:
    """Yield the simpler models within this one, each with a starting point from ``theta``."""
    gamma = likelihood.first + 1 + likelihood.p
    if likelihood.o and likelihood.p:
        symmetric = replace(likelihood, o=0)
        yield symmetric, symmetric.feasible(np.delete(theta, slice(gamma, gamma + likelihood.o)))
    if likelihood.dist != "normal":
        gaussian = replace(likelihood, dist="normal")
        yield gaussian, gaussian.feasible(theta[: len(gaussian.bounds)])


def _below_nested(likelihood: Likelihood, theta: Array) -> bool:
    present = likelihood.returns[np.isfinite(likelihood.returns)]
    variance = float(np.mean((present - present.mean() * likelihood.first) ** 2))
    constant = -0.5 * present.size * (math.log(2.0 * math.pi * variance) + 1.0)
    simpler = [inner.total(_climb(inner, start, ROUGH)) for inner, start in _nested(likelihood, theta)]
    return likelihood.total(theta) < max(constant, *simpler, -math.inf) - NESTED_MARGIN
