"""Back-tests of value at risk and expected shortfall.

All of them presume that one row's target does not overlap the next one's: pass origins a whole horizon apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, xlogy

from features.errors import DataInvalid

__all__ = ["LikelihoodRatio", "acerbi_szekely_z2", "christoffersen", "kupiec"]

FloatArray = npt.NDArray[np.float64]


class LikelihoodRatio(NamedTuple):
    """A likelihood-ratio statistic and its asymptotic p-value; both nan where there was nothing to test."""

    statistic: float
    p_value: float


def kupiec(hits: Any, level: float) -> LikelihoodRatio:
    """Unconditional coverage of hits (1 where the return fell below its quantile), χ²(1) (Kupiec 1995).

    Null hits are rows without a forecast or a complete target and do not count.

    Raises:
        DataInvalid: where a hit is neither 0, 1 nor null, or ``level`` is not between 0 and 1.
    """
    h = _hits(hits, level)
    known = h[~np.isnan(h)]
    if known.size == 0:
        return LikelihoodRatio(float("nan"), float("nan"))
    statistic = _coverage_ratio(known, level)
    return LikelihoodRatio(statistic, float(chdtrc(1, statistic)))


def christoffersen(hits: Any, level: float) -> LikelihoodRatio:
    """Conditional coverage: coverage and first-order independence of hits in order of time, χ²(2).

    A null hit is a gap: the rows on its two sides are no transition (Christoffersen 1998).

    Raises:
        DataInvalid: as ``kupiec``.
    """
    h = _hits(hits, level)
    known = h[~np.isnan(h)]
    if known.size == 0:
        return LikelihoodRatio(float("nan"), float("nan"))
    statistic = _coverage_ratio(known, level) + _independence_ratio(h)
    return LikelihoodRatio(statistic, float(chdtrc(2, statistic)))


def acerbi_szekely_z2(returns: Any, var: Any, es: Any, level: float) -> float:
    """Z2 of expected shortfall, ``1 - Σ 1(r < q) r/e / (n α)`` (Acerbi and Szekely 2014).

    Quantile q and shortfall e of the left tail are both negative. Expectation 0 under a right model, negative
    where risk is understated.

    Raises:
        DataInvalid: for different lengths, nulls, no rows, or a shortfall that is not negative.
    """
    r, q, e = (np.asarray(values, dtype=np.float64) for values in (returns, var, es))
    if not (r.ndim == 1 and r.shape == q.shape == e.shape and r.size):
        raise DataInvalid(f"returns, var, es have shapes {r.shape}, {q.shape}, {e.shape}; pass the same rows")
    bad = ~(np.isfinite(r) & np.isfinite(q) & np.isfinite(e) & (e < 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataInvalid(f"row {row}: return {r[row]}, var {q[row]}, es {e[row]}; no nulls, and es < 0")
    return float(1.0 - ((r < q) * r / e).sum() / (r.size * level))


def _hits(hits: Any, level: float) -> FloatArray:
    h = np.asarray(hits, dtype=np.float64)
    if h.ndim != 1 or not np.isin(h[~np.isnan(h)], (0.0, 1.0)).all():
        raise DataInvalid("hits must be one row of 0, 1 or null; pass `returns < quantile`")
    if not 0.0 < level < 1.0:
        raise DataInvalid(f"level {level} is not between 0 and 1; a 1 % quantile has level 0.01")
    return h


def _log_likelihood(misses: int, hits: int, probability: float) -> float:
    return float(xlogy(misses, 1.0 - probability) + xlogy(hits, probability))


def _share(hits: int, misses: int) -> float:
    return hits / (hits + misses) if hits + misses else 0.0


def _coverage_ratio(known: FloatArray, level: float) -> float:
    hits = int(known.sum())
    misses = known.size - hits
    gain = _log_likelihood(misses, hits, _share(hits, misses)) - _log_likelihood(misses, hits, level)
    # Rounding can leave a ratio of exactly equal likelihoods a hair below zero.
    return max(2.0 * gain, 0.0)


def _independence_ratio(h: FloatArray) -> float:
    before, after = h[:-1], h[1:]
    (n00, n01), (n10, n11) = (
        (int(((before == state) & (after == 0)).sum()), int(((before == state) & (after == 1)).sum()))
        for state in (0, 1)
    )
    free = _log_likelihood(n00, n01, _share(n01, n00)) + _log_likelihood(n10, n11, _share(n11, n10))
    bound = _log_likelihood(n00 + n10, n01 + n11, _share(n01 + n11, n00 + n10))
    return max(2.0 * (free - bound), 0.0)
