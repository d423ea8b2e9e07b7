"""Is the published law right, and is it right at all times? Statistics of quantile forecasts against what was realised.

Pure functions on arrays; hours run along the last axis, NaN where there is no forecast or nothing was realised. A
published law is a handful of quantiles: between two of them, and beyond the outermost, it is taken as a Student t or normal
law, stretched to pass through both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special, stats

from features.errors import DataInvalid

__all__ = ["PEAKED", "Berkowitz", "berkowitz", "coverage", "months", "normal_scores", "pit_histogram", "spaced"]

FloatArray = npt.NDArray[np.float64]

PARAMETERS: Final = 3
PEAKED: Final = 4.0
"""Degrees of freedom of returns over a forecast volatility, about: between levels a normal law would be too flat for them."""
# With fewer pairs the chi-square law of the statistic is far off.
MINIMUM_PAIRS: Final = 20


@dataclass(frozen=True)
class Berkowitz:
    """Likelihood ratio test of normal scores against independent standard normal ones, and what they are instead.

    ``statistic`` is chi-square with three degrees of freedom if the law is right; ``n`` counts pairs of neighbours. NaN
    throughout where there are too few.
    """

    statistic: float
    p_value: float
    mean: float
    sd: float
    autocorrelation: float
    n: int


def normal_scores(realised: Any, quantiles: Any, levels: Any, freedom: float = np.inf) -> FloatArray:
    """Normal scores ``ppf(PIT)`` of ``realised`` (...) under laws given by quantiles (n_levels, ...) at rising ``levels``.

    Standard normal, and over non-overlapping intervals independent, if the law is right; ``special.ndtr`` of them is the
    probability integral transform. Give variances and their quantiles as logs. ``freedom``: degrees of the Student t between
    the levels, normal if infinite; returns, whose levels leave a gap from 5 to 50 %, are better served by about ``PEAKED``.
    Raises DataInvalid for levels that do not rise within (0, 1), and for quantiles that cross.
    """
    y, q, p = (np.asarray(x, dtype=np.float64) for x in (realised, quantiles, levels))
    if p.ndim != 1 or len(p) < 2 or not ((p > 0) & (p < 1)).all() or not (np.diff(p) > 0).all():
        raise DataInvalid(f"levels {p.tolist()} do not rise within (0, 1); give at least two, the lowest first")
    if q.shape != (len(p), *y.shape):
        raise DataInvalid(f"quantiles have shape {q.shape}, not {(len(p), *y.shape)}: one array of them for each level")
    if (np.diff(q, axis=0) < 0).any():
        raise DataInvalid("quantiles cross; order them by level before they are judged")
    shape = stats.norm() if np.isinf(freedom) else stats.t(freedom)
    places = shape.ppf(p)
    above = np.clip((q <= y).sum(axis=0), 1, len(p) - 1)
    low, high = (np.take_along_axis(q, (above - k)[None], axis=0)[0] for k in (1, 0))
    width = high - low
    with np.errstate(invalid="ignore", divide="ignore"):
        # Two quantiles at one value: what lies between them is anybody's guess, the middle is as good as any.
        share = np.where(width > 0, (y - low) / width, 0.5)
    place = places[above - 1] + share * (places[above] - places[above - 1])
    # From the nearer tail, where probabilities keep their digits.
    scores = -np.sign(place) * special.ndtri(shape.cdf(-np.abs(place)))
    return np.where(np.isfinite(y) & np.isfinite(q).all(axis=0), scores, np.nan)


def pit_histogram(scores: Any, bins: int = 20) -> FloatArray:
    """Share of probability integral transforms in each of ``bins`` equal cells of (0, 1), all symbols and hours together.

    ``1 / bins`` each if the law is right; NaN where there are no scores.
    """
    z = np.asarray(scores, dtype=np.float64)
    counts, _ = np.histogram(special.ndtr(z[np.isfinite(z)]), bins=bins, range=(0.0, 1.0))
    return np.asarray(counts / counts.sum() if counts.any() else np.full(bins, np.nan))


def spaced(values: Any, hours: Any, horizon: int) -> FloatArray:
    """The columns of non-overlapping origins: hours since the epoch divisible by the horizon."""
    return np.asarray(np.asarray(values, dtype=np.float64)[..., np.asarray(hours) % horizon == 0])


def berkowitz(scores: Any) -> Berkowitz:
    """Test of one symbol's scores at non-overlapping origins (n,), by the likelihood of a first-order autoregression.

    The likelihood is conditional on the score before; pairs with a hole between them are left out. Reference: Berkowitz
    (2001), J. Business & Economic Statistics 19. Raises DataInvalid unless the scores are one row.
    """
    z = np.asarray(scores, dtype=np.float64)
    if z.ndim != 1:
        raise DataInvalid(f"scores have shape {z.shape}; the test is of one symbol's row, in order of time")
    known = np.isfinite(z[:-1]) & np.isfinite(z[1:])
    before, after = z[:-1][known], z[1:][known]
    if len(after) < MINIMUM_PAIRS or np.ptp(before) == 0 or np.ptp(after) == 0:
        return Berkowitz(*(float("nan"),) * 5, len(after))
    slope = float(np.mean((before - before.mean()) * (after - after.mean())) / before.var())
    error = after - after.mean() - slope * (before - before.mean())
    # Twice the difference of log-likelihoods per pair; the constants cancel.
    statistic = float(len(after) * (np.mean(after**2) - 1 - np.log(np.mean(error**2))))
    return Berkowitz(
        statistic,
        float(stats.chi2.sf(statistic, PARAMETERS)),
        float(after.mean()),
        float(after.std()),
        slope,
        len(after),
    )


def months(hours: Any) -> npt.NDArray[np.int64]:
    """Months since January 1970 of hours since the epoch."""
    at = np.asarray(hours, dtype=np.int64).astype("datetime64[h]")
    return np.asarray(at.astype("datetime64[M]").astype(np.int64))


def coverage(
    realised: Any, quantiles: Mapping[str, Any], levels: Mapping[str, float], groups: Any, horizon: int
) -> pd.DataFrame:
    """How often what came stayed below each quantile, in every group of rows.

    ``realised``, each of ``quantiles`` and ``groups`` (any integers: months, symbols, regimes): arrays of one shape.

    Returns:
        A row per group and column: group, column, level, n (rows), below (share with ``realised < quantile``), and z, by how
        many standard errors that is above the level, where a horizon's overlapping rows count as one. Groups without any row
        are left out.

    Raises:
        DataInvalid: naming the column whose shape differs, or whose level is missing.
    """
    y, group = np.asarray(realised, dtype=np.float64), np.asarray(groups)
    if group.shape != y.shape:
        raise DataInvalid(f"groups have shape {group.shape}, realised {y.shape}; name each row's group")
    names, code = np.unique(group, return_inverse=True)
    code = code.reshape(y.shape)
    rows = []
    for column, of_column in quantiles.items():
        q = np.asarray(of_column, dtype=np.float64)
        if q.shape != y.shape:
            raise DataInvalid(f"{column} has shape {q.shape}, realised {y.shape}; give one quantile a row")
        if column not in levels:
            raise DataInvalid(f"{column} has no level; add it to {sorted(levels)}")
        known = np.isfinite(y) & np.isfinite(q)
        count = np.bincount(code[known], minlength=len(names))
        below = np.bincount(code[known], weights=(y < q)[known], minlength=len(names))
        p = levels[column]
        for k in np.flatnonzero(count):
            share = below[k] / count[k]
            error = np.sqrt(p * (1 - p) * horizon / count[k])
            rows.append((names[k], column, p, int(count[k]), share, (share - p) / error))
    frame = pd.DataFrame(rows, columns=["group", "column", "level", "n", "below", "z"])
    return frame.sort_values(["group", "level", "column"], ignore_index=True)
