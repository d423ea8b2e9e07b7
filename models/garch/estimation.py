"""Fits of many series: refuse the hopeless, climb from the earlier optimum or from a grid, certify the result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.garch.newton import Climbs, Series, climb
from models.garch.specification import Specification, working

__all__ = ["Certificate", "Certificates", "Fits", "first_variance", "fit_series"]

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

MIN_OBSERVATIONS: Final = 100
# A spread below this share of the largest return is rounding, not variance.
FLAT: Final = 1e-10
# The variance before the sample, as in arch: exponentially weighted over the first returns.
BACKCAST_LENGTH: Final = 75
BACKCAST_DECAY: Final = 0.94
# Nats that one more Newton step promises, the gradient that such a step may leave, and the downward curvature that
# rounding leaves on a ridge; beyond them an optimum is not taken for one.
MAX_DECREMENT: Final = 1e-5
MAX_GRADIENT: Final = 0.05
MAX_DESCENT: Final = 1e-6
EDGE: Final = 1e-6
# An earlier optimum's zeros, after rounding by units.
NEXT_TO_ZERO: Final = 1e-7
# Up to so many returns all starts are climbed: short series have more local optima, and cost little.
SHORT: Final = 500
# Nats by which a fit must not lie below the constant-variance model within it.
NESTED_MARGIN: Final = 1.0


@dataclass(frozen=True)
class Certificate:
    """What is known of a fit.

    ``gradient_norm``: the largest component of the gradient of the mean log-likelihood (unit-variance returns; omega and
    degrees of freedom by their logs) that no active constraint holds, the residual of the Karush-Kuhn-Tucker conditions.
    ``decrement``: nats that one more Newton step promises. ``curvature``: the smallest pivot of the exact Hessian on the
    free directions relative to its diagonal: one for parameters that do not hang together, near zero on a ridge, not
    positive where the point is no maximum. ``at_bound``: some constraint is active; ``bounds`` names those. ``method``:
    ``warm`` (from the given start), ``multi-start``, or ``refused`` where no fit was tried. ``reason`` is empty, or says
    why the fit must not be used.
    """

    converged: bool
    gradient_norm: float
    decrement: float
    curvature: float
    at_bound: bool
    bounds: tuple[str, ...]
    method: str
    starts: int
    persistence: float
    reason: str = ""

    @classmethod
    def refused(cls, reason: str) -> Certificate:
        """The certificate of a series that no fit was tried on."""
        return cls(False, math.nan, math.nan, math.nan, False, (), "refused", 0, math.nan, reason)

    @property
    def certified(self) -> bool:
        """Whether the fit may be used: converged, stationary, and nothing speaks against it."""
        return self.converged and not self.reason


@dataclass(frozen=True)
class Fits:
    """Fits of n series in the units of their returns: ``parameters`` (n, size), NaN where refused; ``value`` (n,) nats;
    ``backcast`` (n,), the variance before the first return."""

    parameters: Array
    value: Array
    backcast: Array
    certificates: Certificates


class Certificates(Sequence[Certificate]):
    """One certificate a series, made when it is asked for."""

    def __init__(
        self, spec: Specification, climbs: Climbs, warm: NDArray[np.bool_], starts: Integers, present: Integers,
        refusals: dict[int, str],
    ) -> None:  # fmt: skip
        self._spec = spec
        self._climbs = climbs
        self._converged = _converged(climbs)
        self._warm = warm
        self._starts = starts
        self._present = present
        self._refusals = refusals

    def __len__(self) -> int:
        return len(self._climbs.value)

    @overload
    def __getitem__(self, i: int) -> Certificate: ...

    @overload
    def __getitem__(self, i: slice) -> list[Certificate]: ...

    def __getitem__(self, i: int | slice) -> Certificate | list[Certificate]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        if i in self._refusals:
            return Certificate.refused(self._refusals[i])
        spec, climbs = self._spec, self._climbs
        bounds = tuple(_active(spec, int(climbs.face[i])))
        converged = bool(self._converged[i])
        persistence = float(spec.persistence @ climbs.x[i])
        constant = -0.5 * self._present[i] * (math.log(2.0 * math.pi) + 1.0)
        # Regressors can carry the whole variance: then nothing is wrong with an omega of next to zero.
        least = {"lambda low", "mu low", *([] if spec.exogenous else ["omega low"])}
        edges = {name for name in bounds if name in least or (name.endswith(" high") and not name.startswith("beta"))}
        checks = [
            (not converged, f"the optimiser stopped off the optimum ({climbs.decrement[i]:.1e} nats below it, gradient "
             f"{climbs.gradient[i]:.1e})"),
            (persistence >= 1.0 - EDGE, f"not covariance stationary (persistence {persistence:.6f})"),
            (bool(edges), f"on the edge of the range: {', '.join(sorted(edges))}"),
            (climbs.value[i] < constant - NESTED_MARGIN, "the likelihood is below that of a constant variance"),
        ]  # fmt: skip
        return Certificate(
            converged, float(climbs.gradient[i]), float(climbs.decrement[i]), float(climbs.curvature[i]), bool(bounds), bounds,
            "warm" if self._warm[i] else "multi-start", int(self._starts[i]), persistence,
            "; ".join(message for failed, message in checks if failed),
        )  # fmt: skip


def fit_series(spec: Specification, returns: Array, regressors: Array, previous: Array | None) -> Fits:
    """Fit each row of ``returns`` (n, T), NaN where missing; ``regressors`` (n, T, exogenous) as the variance sees them.

    ``previous`` (n, size), in the units of the returns, takes earlier parameters; a row with NaN there starts cold. A
    climb from an earlier optimum is trusted where no shock or feedback term vanishes on the way; anything else goes
    through the grid as well, and the higher likelihood wins.
    """
    n = len(returns)
    scaled, centre, scale, present, backcast, gaps, verdict = _standardise(
        returns, bool(spec.first), MIN_OBSERVATIONS, FLAT, BACKCAST_LENGTH, BACKCAST_DECAY
    )
    refusals = _refusals(returns, present, verdict) | _bad_regressors(regressors)
    sound = np.ones(n, dtype=np.bool_)
    sound[list(refusals)] = False
    level = np.ones((n, spec.exogenous))
    if spec.exogenous:
        level[sound] = regressors[sound].mean(axis=1)
    best = Climbs.nothing(n, spec.size)
    warm, starts = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    for holes in (False, True):
        own = np.flatnonzero(sound & (gaps == holes))
        if own.size:
            series = Series(scaled[own], regressors[own] / level[own, None, :], present[own], backcast[own], holes)
            given = None if previous is None else _standard(spec, previous[own], centre[own], scale[own], level[own])
            found, warm[own], starts[own] = _search(spec, series, given)
            best.put(own, found)
    for i in map(int, np.flatnonzero(sound & ~np.isfinite(best.value))):
        refusals[i] = "no start has a finite likelihood: returns this far apart have no variance model; check the feed"
        sound[i] = False
    parameters = _natural(spec, best.x, centre, scale, level)
    parameters[~sound] = math.nan
    value = np.where(sound, best.value - present * np.log(scale), math.nan)
    certificates = Certificates(spec, best, warm, starts, present, refusals)
    return Fits(parameters, value, backcast * scale**2, certificates)


def first_variance(returns: Array, centred: bool) -> float:
    """The variance before the sample: exponentially weighted over the first returns (T,) present, as in arch."""
    present = returns[np.isfinite(returns)]
    deviations = present - present.mean() if centred else present
    residuals = deviations[:BACKCAST_LENGTH]
    weights = BACKCAST_DECAY ** np.arange(residuals.size)
    if not residuals.size:
        return math.nan
    # A market that stood still at first says nothing about the variance before.
    return float(np.sum(residuals**2 * (weights / weights.sum()))) or float(np.mean(deviations**2))


def _search(spec: Specification, series: Series, previous: Array | None) -> tuple[Climbs, NDArray[np.bool_], Integers]:
    """The best climbs of each series, whether they came from the earlier optimum, and how many starts were climbed."""
    n = len(series.present)
    best = Climbs.nothing(n, spec.size)
    warm, climbed = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    if previous is not None:
        known = np.flatnonzero(np.isfinite(previous).all(axis=1))
        given = spec.feasible(previous[known])
        best.put(known, climb(spec, series, given, known))
        seen = np.zeros(n, dtype=np.int64)
        seen[known] = _vanished(spec, given)
        warm, climbed[known] = _trusted(spec, best, seen), 1
    cold = np.flatnonzero(~warm)
    if not cold.size:
        return best, warm, climbed
    grid, leading = spec.feasible(spec.starts), spec.leading
    short = series.present[cold] <= SHORT
    _climb_all(spec, series, grid, cold[short], best, climbed)
    _climb_all(spec, series, grid[:leading], cold[~short], best, climbed)
    doubtful = cold[~short & ~_trusted(spec, best)[cold]]
    _climb_all(spec, series, grid[leading:], doubtful, best, climbed)
    return best, warm, climbed


def _climb_all(
    spec: Specification, series: Series, points: Array, rows: Integers, best: Climbs, climbed: Integers
) -> None:
    """Climb from each of the ``points`` (k, size) on each of the series ``rows``, and keep what is higher in ``best``."""
    if not rows.size or not len(points):
        return
    found = climb(spec, series, np.tile(points, (rows.size, 1)), np.repeat(rows, len(points)))
    winner = np.argmax(found.value.reshape(rows.size, len(points)), axis=1) + np.arange(rows.size) * len(points)
    better = found.value[winner] > best.value[rows]
    best.put(rows[better], found.take(winner[better]))
    climbed[rows] += len(points)


def _converged(climbs: Climbs) -> NDArray[np.bool_]:
    top = (climbs.decrement < MAX_DECREMENT) & (climbs.gradient < MAX_GRADIENT) & (climbs.curvature > -MAX_DESCENT)
    return np.asarray(top & np.isfinite(climbs.value))


def _trusted(spec: Specification, climbs: Climbs, seen: Integers | int = 0) -> NDArray[np.bool_]:
    """Whether an optimum needs no second look: where a shock or feedback term is zero, others are not determined, and
    there may be a better optimum far off. Terms in ``seen`` (n,) were zero before, when that look was taken."""
    vanished = (climbs.face >> int(spec.targeting)) & spec.vanishing
    return np.asarray(_converged(climbs) & (vanished & ~seen == 0))


def _vanished(spec: Specification, x: Array) -> Integers:
    """Which shock and feedback terms of the working parameters ``x`` (n, size) are zero, as bits (n,).

    None where no shock moves the variance at all: such a point, which leaves everything else open, is always looked at.
    """
    rows, limits = spec.inequalities
    bits = np.where(x @ rows.T - limits < NEXT_TO_ZERO, 1 << np.arange(len(limits)), 0)
    moved = np.abs(x[:, spec.first + 1 : spec.first + 1 + spec.p + spec.o]).max(axis=1, initial=0.0) > NEXT_TO_ZERO
    return np.asarray(np.where(moved, bits.sum(axis=1) & spec.vanishing, 0))


def _natural(spec: Specification, x: Array, centre: Array, scale: Array, level: Array) -> Array:
    """Parameters (n, size) in the units of the returns, of working ones of unit-variance returns."""
    out = working(spec, x)
    omega, weights = spec.first, slice(spec.dynamics - spec.exogenous, spec.dynamics)
    out[:, :omega] = centre[:, None] + scale[:, None] * out[:, :omega]
    if spec.logarithmic:
        out[:, omega] += 2.0 * np.log(scale) * (1.0 - out @ spec.persistence)
    else:
        out[:, omega] *= scale**2
        out[:, weights] *= (scale**2)[:, None] / level
    return out


def _standard(spec: Specification, parameters: Array, centre: Array, scale: Array, level: Array) -> Array:
    """The inverse of ``_natural``."""
    x = np.array(parameters, dtype=np.float64)
    omega, weights = spec.first, slice(spec.dynamics - spec.exogenous, spec.dynamics)
    x[:, :omega] = (x[:, :omega] - centre[:, None]) / scale[:, None]
    if spec.logarithmic:
        x[:, omega] -= 2.0 * np.log(scale) * (1.0 - x @ spec.persistence)
    else:
        x[:, omega] /= scale**2
        x[:, weights] *= level / (scale**2)[:, None]
    return working(spec, x)


@njit(cache=True)
def _standardise(
    returns: Any, centred: bool, least: int, flat: float, length: int, decay: float
) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    """Returns of unit variance (n, T), their centre (zero unless ``centred``), scale, number present, backcast, whether
    there are gaps, and a verdict: 0 sound, 1 infinite, 2 too few, 3 flat, 4 out of range."""
    n, steps = returns.shape
    out = np.empty((n, steps))
    centre, scale, backcast = np.zeros(n), np.ones(n), np.ones(n)
    present, verdict = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    gaps = np.zeros(n, dtype=np.bool_)
    for i in range(n):
        total, low, high, count, last = 0.0, np.inf, -np.inf, 0, -1
        for t in range(steps):
            r = returns[i, t]
            if not math.isnan(r):
                total += r
                low, high = min(low, r), max(high, r)
                count += 1
                last = t
        present[i] = count
        gaps[i] = count < last + 1
        if (math.isinf(low) and count) or (math.isinf(high) and count):
            verdict[i] = 1
        elif count < least:
            verdict[i] = 2
        elif high - low <= flat * max(abs(low), abs(high)):
            verdict[i] = 3
        elif not 1e-100 < high - low < 1e100:
            verdict[i] = 4
        if verdict[i]:
            out[i] = np.nan
            continue
        mean = total / count if centred else 0.0
        squares = 0.0
        for t in range(last + 1):
            r = returns[i, t]
            if not math.isnan(r):
                squares += (r - mean) * (r - mean)
        centre[i], scale[i] = mean, math.sqrt(squares / count)
        weight, weights, before, seen = 1.0, 0.0, 0.0, 0
        for t in range(steps):
            r = returns[i, t]
            out[i, t] = (r - mean) / scale[i]
            if seen < length and not math.isnan(r):
                before += weight * ((r - mean) / scale[i]) ** 2
                weights += weight
                weight *= decay
                seen += 1
        backcast[i] = before / weights
        if not backcast[i] > 0.0:
            backcast[i] = 1.0  # a market that stood still at first says nothing about the variance before
    return out, centre, scale, present, backcast, gaps, verdict


def _refusals(returns: Array, present: Integers, verdict: Integers) -> dict[int, str]:
    """Why a series cannot be fitted, by its row."""
    out = {}
    for i in map(int, np.flatnonzero(verdict)):
        row = returns[i]
        out[i] = {
            1: f"returns[{int(np.flatnonzero(np.isinf(row))[0]) if np.isinf(row).any() else 0}] is infinite: a price of "
            "zero? Pass NaN where the price is missing",
            2: f"{present[i]} returns of {row.size} are present: a fit needs at least {MIN_OBSERVATIONS}",
            3: f"all {present[i]} returns equal {row[np.isfinite(row)][0] if present[i] else 0:g}: a flat series has no "
            "variance to model; check the feed, or leave the symbol out",
            4: "the returns' spread is not between 1e-100 and 1e100, and their squares are no numbers: give them in other "
            "units",
        }[int(verdict[i])]
    return out


def _bad_regressors(regressors: Array) -> dict[int, str]:
    """Why the regressors of a series cannot drive a variance, by its row."""
    out = {}
    wrong = ~(np.isfinite(regressors) & (regressors >= 0.0)).all(axis=1) | ~(regressors.sum(axis=1) > 0.0)
    for i in map(int, np.flatnonzero(wrong.any(axis=1))):
        column = int(np.flatnonzero(wrong[i])[0])
        out[i] = (
            f"exogenous column {column} is missing, negative or infinite somewhere, or zero throughout: a variance needs "
            "regressors >= 0; transform the column, or fill what is missing"
        )
    return out


def _active(spec: Specification, face: int) -> Iterator[str]:
    """Names of the constraints whose bits are set."""
    face >>= int(spec.targeting)
    # The tail is held as 1 / degrees of freedom, so its lower bound is a normal tail and its upper one infinite variance.
    names = ["tail" if i == spec.dynamics else name for i, name in enumerate(spec.names)]
    labels = [f"{name} {end}" for end in ("low", "high") for name in names]
    labels += [f"alpha[{i + 1}] + gamma[{i + 1}] = 0" for i in range(min(spec.p, spec.o)) if not spec.logarithmic]
    labels += ["persistence"]
    for i, label in enumerate(labels):
        if face >> i & 1:
            yield label
