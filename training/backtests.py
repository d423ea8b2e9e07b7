"""Back-tests of value at risk and expected shortfall.

All of them presume that one row's target does not overlap the next one's: pass origins a whole horizon apart.
A level is that of a left tail: quantile q and expected shortfall e of the return are negative, ``e < q < 0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, ndtr, xlogy

from features.errors import DataInvalid

__all__ = [
    "Backtest",
    "acerbi_szekely_z2",
    "christoffersen",
    "dynamic_quantile",
    "filtered_simulation",
    "hit_band",
    "kupiec",
    "shortfall_intercept",
    "z2_p_value",
]

FloatArray = npt.NDArray[np.float64]

_SEED: Final = 20230701
_FEWEST_BEYOND: Final = 30.0
_WEEK: Final = 168
# Hours since the epoch, a Thursday, at which a week begins.
_MONDAY: Final = 96


class Backtest(NamedTuple):
    """A statistic and its asymptotic p-value; both nan where there was nothing to test."""

    statistic: float
    p_value: float


def kupiec(hits: Any, level: float) -> Backtest:
    """Unconditional coverage of hits (1 where the return fell below its quantile), χ²(1) (Kupiec 1995).

    Null hits are rows without a forecast or a complete target and do not count.

    Raises:
        DataInvalid: where a hit is neither 0, 1 nor null, or ``level`` is not between 0 and 1.
    """
    h = _hits(hits, level)
    known = h[~np.isnan(h)]
    if known.size == 0:
        return Backtest(float("nan"), float("nan"))
    statistic = _coverage_ratio(known, level)
    return Backtest(statistic, float(chdtrc(1, statistic)))


def christoffersen(hits: Any, level: float) -> Backtest:
    """Conditional coverage: coverage and first-order independence of hits in order of time, χ²(2).

    A null hit is a gap: the rows on its two sides are no transition (Christoffersen 1998).

    Raises:
        DataInvalid: as ``kupiec``.
    """
    h = _hits(hits, level)
    known = h[~np.isnan(h)]
    if known.size == 0:
        return Backtest(float("nan"), float("nan"))
    statistic = _coverage_ratio(known, level) + _independence_ratio(h)
    return Backtest(statistic, float(chdtrc(2, statistic)))


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


def dynamic_quantile(hits: Any, quantile: Any, level: float, lags: int = 4) -> Backtest:
    """Engle and Manganelli's (2004) out-of-sample DQ: hits less ``level`` are foreseen by nothing known before.

    Regressors are a constant, the last ``lags`` hits and the quantile; ``β'X'Xβ / (α(1 - α))`` is χ² with the rank of X.
    Rows whose predecessors are not all known do not count. The statistic is nan where no row does.

    Raises:
        DataInvalid: as ``kupiec``, or for another number of quantiles than hits.
    """
    h, q = _hits(hits, level), np.asarray(quantile, dtype=np.float64)
    if q.shape != h.shape:
        raise DataInvalid(f"{q.shape} quantiles for {h.shape} hits; pass the same rows")
    centred = h - level
    past = [np.roll(centred, lag) for lag in range(1, lags + 1)]
    # The quantile in units of its own size: a column a hundred times smaller would look like no column at all.
    size = np.nanmean(np.abs(q)) if np.isfinite(q).any() else np.nan
    design = np.column_stack([np.ones_like(h), *past, q / size])
    design[:lags] = np.nan
    known = np.isfinite(centred) & np.isfinite(design).all(axis=1)
    if not known.any():
        return Backtest(float("nan"), float("nan"))
    y, x = centred[known], design[known]
    beta, _, rank, _ = np.linalg.lstsq(x, y, rcond=1e-10)
    statistic = float(((x * beta).sum(axis=1) ** 2).sum() / (level * (1.0 - level)))
    return Backtest(statistic, float(chdtrc(int(rank), statistic)))


def hit_band(rows: int, level: float, coverage: float = 0.95) -> tuple[int, int]:
    """Fewest and most hits of ``rows`` independent ones that lie in the central band of a right model (binomial)."""
    from scipy.stats import binom

    outside = (1.0 - coverage) / 2.0
    return int(binom.ppf(outside, rows, level)), int(binom.ppf(1.0 - outside, rows, level))


def z2_p_value(
    z2: float, quantiles: Any, es: Any, levels: Sequence[float], *, reps: int = 1000, seed: int = _SEED
) -> float:
    """Two-sided p-value of Z2 by simulation of returns from the forecasts themselves.

    Each simulated tail is exponential between the forecast quantiles and beyond the deepest, there with the mean that
    gives the forecast shortfall; where the quantiles already use up more than that, it ends at the deepest.

    Args:
        z2: the realised statistic, at the first of ``levels``.
        quantiles: rows × levels.
        es: shortfall at the first level, one per row.
        levels: falling, the first that of ``z2``.
        reps: simulated samples.
        seed: of the simulation.

    Raises:
        DataInvalid: for shapes that do not match, or levels that do not fall.
    """
    q, e, alpha = np.asarray(quantiles, dtype=np.float64), np.asarray(es, dtype=np.float64), np.asarray(levels)
    if q.shape != (*e.shape, len(alpha)) or not (np.diff(alpha) < 0).all():
        raise DataInvalid(f"quantiles {q.shape}, es {e.shape}, levels {alpha}: pass rows × falling levels, and rows")
    rng, n = np.random.default_rng(seed), len(e)
    # Hits are rare: the gaps between them are geometric, and only they are drawn.
    expected = n * reps * alpha[0]
    gaps = rng.geometric(alpha[0], size=int(expected + 10.0 * np.sqrt(expected)) + 50)
    at = np.cumsum(gaps) - 1
    at = at[at < n * reps]
    row, sample = at % n, at // n
    depth = alpha[0] * (1.0 - rng.random(len(at)))
    ratio = _tail(q, e, alpha)(row, depth) / e[row]
    simulated = 1.0 - np.bincount(sample, ratio, reps) / (n * alpha[0])
    below = (1 + int((simulated <= z2).sum())) / (reps + 1)
    above = (1 + int((simulated >= z2).sum())) / (reps + 1)
    return min(1.0, 2.0 * min(below, above))


def shortfall_intercept(returns: Any, es: Any, level: float) -> Backtest:
    """Bayer and Dimitriadis' (2022) expected-shortfall regression, intercept version: t statistic, two-sided p-value.

    Regresses on a constant alone what is left of the return beside its forecast shortfall; under a right forecast the
    shortfall of that is 0. With a constant alone the joint quantile and shortfall regression has a closed form: the sample
    quantile and the sample mean below it. Returns are taken in units of the forecast shortfall, so that the quantile
    equation too holds where forecasts differ by a scale; as they are, a right forecast fails. Negative: risk understated. nan
    where fewer than 30 rows are expected below: with nine, a right model failed four times as often as it should.

    Raises:
        DataInvalid: for different lengths, nulls, or a shortfall that is not negative.
    """
    r, e = np.asarray(returns, dtype=np.float64), np.asarray(es, dtype=np.float64)
    if r.ndim != 1 or r.shape != e.shape or not (np.isfinite(r).all() and np.isfinite(e).all() and (e < 0).all()):
        raise DataInvalid(f"returns {r.shape}, es {e.shape}: pass the same rows, no nulls, and es < 0")
    left = r / -e + 1.0
    n = len(left)
    if n * level < _FEWEST_BEYOND:
        return Backtest(float("nan"), float("nan"))
    quantile = float(np.quantile(left, level))
    beyond = left[left <= quantile]
    shortfall = float(beyond.mean())
    variance = float(beyond.var()) / level + (1.0 - level) / level * (shortfall - quantile) ** 2
    if variance == 0.0:
        return Backtest(0.0, 1.0) if shortfall == 0.0 else Backtest(float("nan"), float("nan"))
    statistic = shortfall / np.sqrt(variance / n)
    return Backtest(float(statistic), float(2.0 * ndtr(-abs(statistic))))


def filtered_simulation(
    log_return: Any, variance: Any, hours: Any, horizon: int, level: float, *, days: int = 730, least: int = 90
) -> tuple[FloatArray, FloatArray]:
    """Value at risk and expected shortfall by filtered historical simulation (Barone-Adesi, Giannopoulos and Vosper 1999).

    ``sqrt(F)`` times the quantile, and the mean up to it, of ``z = r / sqrt(F)`` over the origins of the last ``days`` whose
    interval is over by the refresh, Monday 00:00 UTC: what any variance forecast gives without more. Residuals of all
    symbols are pooled, which made a stronger opponent than each symbol's own, above all at long horizons.

    Args:
        log_return: symbols × hours, over ``(origin, origin + horizon]``.
        variance: forecast F, likewise.
        hours: since the epoch, one per column, without gaps.
        horizon: hours.
        level: of the left tail.
        days: length of the window.
        least: days of resolved origins that a law needs; null before.

    Returns:
        Quantile and shortfall, symbols × hours.
    """
    r, f, at = (np.asarray(values) for values in (log_return, variance, hours))
    scale = np.sqrt(f)
    z = r / scale
    law = np.full((2, z.shape[1]), np.nan)
    for start in np.flatnonzero(at % _WEEK == _MONDAY).tolist():
        stop = max(0, start - horizon + 1)
        past = z[:, max(0, stop - days * 24) : stop]
        past = past[np.isfinite(past)]
        if stop >= least * 24 and past.size:
            quantile = float(np.quantile(past, level))
            law[:, start : start + _WEEK] = [[quantile], [float(past[past <= quantile].mean())]]
    return law[0] * scale, law[1] * scale


def _tail(q: FloatArray, e: FloatArray, levels: FloatArray) -> Any:
    """The tail's quantile function of (row, depth <= levels[0]), exponential between the quantiles."""
    a, b = levels[:-1], levels[1:]
    # The integral of the quantile over (b, a), where it is linear in the log of the depth.
    slope = np.diff(q, axis=1) / np.log(b / a)
    spent = (q[:, :-1] * (a - b) + slope * (b * np.log(a / b) - (a - b))).sum(axis=1)
    deepest = np.maximum(q[:, -1] - (levels[0] * e - spent) / levels[-1], 0.0)

    def at(row: npt.NDArray[np.int64], depth: FloatArray) -> FloatArray:
        segment = np.minimum(np.searchsorted(-b, -depth, side="left"), len(b))
        inner = np.minimum(segment, len(b) - 1)
        between = q[row, inner] + slope[row, inner] * np.log(depth / a[inner])
        beyond = q[row, -1] + deepest[row] * np.log(depth / levels[-1])
        return np.where(segment < len(b), between, beyond)

    return at


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
