"""Online conformal correction of the published quantiles: each symbol's quantile at each level follows what was realised.

A quantile ``q`` at level ``p``, in units ``u`` of the law's own width, is moved to ``q + theta u``. Whenever an interval ends,
``theta`` makes a step of gradient descent on the pinball loss of the law's quantile at its origin, as it is corrected by now,

    ``theta <- (1 - leak) theta + step (p - 1{y < q + theta u})``,

so that a level which is crossed too often moves out until it is not. Because it is measured in the law's width it needs no
scale of its own, and because it forgets, it is a correction of the law and never takes its place; it is also bounded. Nothing
is assumed of the errors (Gibbs and Candès 2021, NeurIPS 34; the quantile tracking of Angelopoulos, Candès and Tibshirani 2023,
NeurIPS 36). Levels that then cross are put in order (Chernozhukov, Fernández-Val and Galichon 2010, Econometrica 78).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numba
import numpy as np
import numpy.typing as npt
from scipy import stats

from models.base import ENSEMBLE, EXCURSION_COLUMNS, RETURN_LEVELS, SHORTFALL_LEVELS, VARIANCE_LEVELS
from models.distribution import LOG_FLOOR
from models.parts import Hours, Made, Sequential
from models.past import Past
from models.trailing import DAY

__all__ = ["Conformal", "track"]

Array = npt.NDArray[np.float64]

# About the time in which a correction is learnt, and that in which it is forgotten. Overlapping intervals of h hours
# repeat one another: the step is smaller by sqrt(h).
STEP_HOURS: Final = 45 * DAY
FORGETTING_HOURS: Final = 90 * DAY
# In units of the law's standard deviation.
LARGEST: Final = 0.5

FALL, RISE = EXCURSION_COLUMNS["long"], EXCURSION_COLUMNS["short"]
FAMILIES: Final[Mapping[str, Mapping[str, float]]] = {
    "log_variance": VARIANCE_LEVELS,
    "log_return": RETURN_LEVELS,
    "fall": FALL,
    "rise": RISE,
}
"""What came of an origin, by the field of the past that holds it, and the columns that are its quantiles."""
COLUMNS: Final = tuple(name for columns in FAMILIES.values() for name in columns)
LEVELS: Final = np.array([p for columns in FAMILIES.values() for p in columns.values()])
OF_FAMILY: Final = np.repeat(np.arange(len(FAMILIES)), [len(columns) for columns in FAMILIES.values()])
# Where a normal density is thin, so is what one outcome tells, and a step must be larger to get as far in the same time.
STEPS: Final = 1 / (STEP_HOURS * np.asarray(stats.norm.pdf(stats.norm.ppf(LEVELS))))


class Conformal(Sequential[None]):
    """The correction of every quantile of the ensemble at one horizon; expected shortfalls move with their quantiles.

    What is carried, (n_symbols, n_levels, 1 + 2 horizon): ``theta``, NaN until a symbol's first forecast, when it starts from
    the mean of the others; and the quantiles and units that are still to be resolved, each at its hour modulo the horizon.
    """

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.reach = horizon

    def begin(self, n_symbols: int) -> Array:
        """Nothing known and nothing issued."""
        return np.full((n_symbols, len(LEVELS), 1 + 2 * self.horizon), np.nan)

    def learn(self, past: Past, at: int) -> None:
        """Nothing: all that is learnt is carried. The clock keeps the hours that are corrected at once few."""

    def follow(self, state: None, carried: Array, hours: Hours) -> tuple[Made, Array]:
        """All quantiles and shortfalls, corrected by what was resolved at each hour."""
        base = _inward({name: hours.column(ENSEMBLE, name) for name in COLUMNS})
        unit = _units(base)
        # The stand-in that comes before a law has been learnt has errors of its own.
        issued = np.where(hours["learnt"] == 1, base, np.nan)
        carried = carried.copy()
        theta = track(
            carried, issued, unit, _resolved(hours), hours.past.first_hour + hours.span.start, LEVELS, STEPS, OF_FAMILY
        )
        moved = base + np.where(np.isnan(theta), 0.0, theta) * unit[OF_FAMILY]
        for family in range(len(FAMILIES)):
            own = family == OF_FAMILY
            moved[own] = np.sort(moved[own], axis=0)
        columns = _outward(moved)
        return Made(columns={ENSEMBLE: columns | _shortfalls(columns, hours)}), carried


def _inward(columns: Mapping[str, Array]) -> Array:
    """The quantiles (n_levels, n_symbols, n_hours) of what the fields of the past hold."""
    logs = {name: np.log(columns[name]) for name in VARIANCE_LEVELS}
    falls = {name: -np.log1p(-columns[name]) for name in FALL}
    rises = {name: np.log1p(columns[name]) for name in RISE}
    return np.stack(list((dict(columns) | logs | falls | rises).values()))


def _outward(quantiles: Array) -> dict[str, Array]:
    """Columns of the forecast table."""
    out = dict(zip(COLUMNS, quantiles, strict=True))
    variances = {name: np.exp(out[name]) for name in VARIANCE_LEVELS}
    falls = {name: -np.expm1(-np.maximum(out[name], 0.0)) for name in FALL}
    rises = {name: np.expm1(np.maximum(out[name], 0.0)) for name in RISE}
    return out | variances | falls | rises


def _units(base: Array) -> Array:
    """The law's width of each family (n_families, n_symbols, n_hours): its standard deviation if it were normal."""
    of = {name: base[k] for k, name in enumerate(COLUMNS)}
    normal = stats.norm.ppf
    return np.stack(
        [
            (of["var_q75"] - of["var_q25"]) / (normal(0.75) - normal(0.25)),
            (of["ret_q950"] - of["ret_q050"]) / (normal(0.95) - normal(0.05)),
            # An excursion is about as large as the absolute value of a normal return.
            of["mae_long_q950"] / normal(0.975),
            of["mae_short_q950"] / normal(0.975),
        ]
    )


def _resolved(hours: Hours) -> Array:
    """What came of the origins a horizon before these hours, (n_families, n_symbols, n_hours)."""
    first, stop = hours.span.start - hours.horizon, max(hours.span.stop - hours.horizon, 0)
    known = hours.past.stack(list(FAMILIES), slice(max(first, 0), stop))
    # A price that stood still says nothing of how far it moves.
    known[1:, known[0] <= LOG_FLOOR] = np.nan
    missing = hours.span.stop - hours.span.start - known.shape[2]
    return np.concatenate([np.full((*known.shape[:2], missing), np.nan), known], axis=2)


def _shortfalls(columns: Mapping[str, Array], hours: Hours) -> dict[str, Array]:
    """Expected shortfalls, as far beyond their quantiles as before."""
    out = {}
    for name in SHORTFALL_LEVELS:
        quantile = name.replace("es", "q")
        moved = columns[quantile] - hours.column(ENSEMBLE, quantile)
        out[name] = hours.column(ENSEMBLE, name) + moved
    # As of levels, the outer one is at least as far out.
    out["ret_es010"] = np.minimum(out["ret_es010"], out["ret_es025"])
    out["ret_es990"] = np.maximum(out["ret_es990"], out["ret_es975"])
    return out


@numba.njit(cache=True)
def track(
    carried: Array,
    base: Array,
    unit: Array,
    outcome: Array,
    first_hour: int,
    levels: Array,
    steps: Array,
    family: npt.NDArray[np.int64],
) -> Array:
    """The corrections of hours that follow one another, (n_levels, n_symbols, n_hours); ``carried`` is moved on in place.

    ``base`` (n_levels, n_symbols, n_hours): quantiles as issued, NaN where there is none; ``unit`` and ``outcome``
    (n_families, n_symbols, n_hours): the law's width, and what came of the origins a horizon before; ``family`` (n_levels,):
    to which of them each level belongs; ``steps`` (n_levels,): as for a horizon of one hour; ``first_hour``: since the epoch.
    """
    n, count, width = carried.shape
    horizon = (width - 1) // 2
    keep = 1 - 1 / FORGETTING_HOURS
    out = np.full((count, n, base.shape[2]), np.nan)
    for t in range(base.shape[2]):
        slot = 1 + 2 * ((first_hour + t) % horizon)
        for k in range(count):
            step = steps[k] / math.sqrt(horizon)
            total, known = 0.0, 0
            for i in range(n):
                theta, issued = carried[i, k, 0], carried[i, k, slot]
                y = outcome[family[k], i, t]
                if not (math.isnan(theta) or math.isnan(issued) or math.isnan(y)):
                    hit = 1.0 if y < issued + theta * carried[i, k, slot + 1] else 0.0
                    theta = keep * theta + step * (levels[k] - hit)
                    theta = min(max(theta, -LARGEST), LARGEST)
                    carried[i, k, 0] = theta
                if not math.isnan(theta):
                    total += theta
                    known += 1
            start = total / known if known > 0 else 0.0
            for i in range(n):
                issued = base[k, i, t]
                if math.isnan(carried[i, k, 0]) and not math.isnan(issued):
                    carried[i, k, 0] = start
                carried[i, k, slot] = issued
                carried[i, k, slot + 1] = unit[family[k], i, t]
                out[k, i, t] = carried[i, k, 0]
    return out
