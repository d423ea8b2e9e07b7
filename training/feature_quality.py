"""What a feature matrix is like, before anything is forecast from it: coverage, drift and redundancy.

References: Siddiqi (2006), Credit Risk Scorecards, ch. 10 (population stability index); Spearman (1904), American J.
Psychology 15; Sokal and Michener (1958), Univ. Kansas Science Bulletin 38 (average linkage).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from features.panel import MICROSECONDS_PER_HOUR, WEEK
from training.rows import Rows

__all__ = ["LARGEST_DISTANCE", "clusters", "correlations", "coverage", "drift"]

Array = npt.NDArray[np.float64]

THINNING_HOURS: Final = 5
CELLS: Final = 10
LEAST_ROWS: Final = 100
"""Fewest rows of a month, or of a pair of features, on which a figure is given."""
MOST_ROWS: Final = 60_000
LARGEST_DISTANCE: Final = 0.1


def coverage(rows: Rows) -> list[dict[str, Any]]:
    """Where each feature exists: share of rows, overall, by year and by the year a symbol was listed in; ends; symbols.

    Shares are of the rows that have a bar. ``first`` and ``last``: instants, null where the feature never exists.
    """
    year = _years(rows.origin)
    first = np.array([year[rows.symbol == code].min(initial=9999) for code in range(len(rows.symbols))])
    listed = first[rows.symbol]
    told = []
    for k, name in enumerate(rows.columns):
        known = np.isfinite(rows.features[:, k])
        at = rows.origin[known]
        told.append(
            {
                "feature": name,
                "share": float(known.mean()),
                "by_year": {str(y): float(known[year == y].mean()) for y in np.unique(year).tolist()},
                "by_listing": {str(y): float(known[listed == y].mean()) for y in np.unique(listed).tolist()},
                "first": _instant(int(at.min())) if at.size else None,
                "last": _instant(int(at.max())) if at.size else None,
                "symbols": int(np.unique(rows.symbol[known]).size),
            }
        )
    return told


def drift(rows: Rows) -> list[dict[str, Any]]:
    """How far each feature's distribution has moved since the first half of the months that have it.

    Population stability index ``Σ (p - q) ln(p / q)`` over the deciles of that first half, per later quarter and month of
    at least 100 rows (one row in five hours; half a row is added to every cell). ``reference_until``: the first month after
    the reference. Quarters are null, and ``worst`` is, where a feature has too short a history.
    """
    thin = rows.origin // MICROSECONDS_PER_HOUR % THINNING_HOURS == 0
    months = rows.origin[thin].astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    return [{"feature": name} | _moved(rows.features[thin, k], months) for k, name in enumerate(rows.columns)]


def _moved(values: Array, months: npt.NDArray[np.int64]) -> dict[str, Any]:
    known = np.isfinite(values)
    x, month = values[known], months[known]
    nothing: dict[str, Any] = {"reference_until": None, "quarters": {}, "worst_month": None, "worst": None}
    if not x.size:
        return nothing
    first, last = int(month.min()), int(month.max())
    cut = first + (last - first + 1) // 2
    reference = x[month < cut]
    if len(reference) < LEAST_ROWS:
        return nothing
    edges = np.unique(np.quantile(reference, np.arange(1, CELLS) / CELLS))
    cell = np.searchsorted(edges, x, side="left")
    size = len(edges) + 1
    counts = np.bincount((month - first) * size + cell, minlength=(last - first + 1) * size).reshape(-1, size)
    expected = counts[: cut - first].sum(axis=0)
    by_month = {m: _index(counts[m - first], expected) for m in range(cut, last + 1)}
    by_quarter = {}
    for quarter in range(cut // 3, last // 3 + 1):
        inside = counts[max(3 * quarter, cut) - first : 3 * quarter + 3 - first].sum(axis=0)
        by_quarter[f"{1970 + quarter // 4}-Q{quarter % 4 + 1}"] = _index(inside, expected)
    scored = {m: value for m, value in by_month.items() if value is not None}
    worst = max(scored, key=lambda m: scored[m], default=None)
    return {
        "reference_until": str(np.datetime64(cut, "M")),
        "quarters": by_quarter,
        "worst_month": None if worst is None else str(np.datetime64(worst, "M")),
        "worst": None if worst is None else scored[worst],
    }


def _index(counts: npt.NDArray[np.int64], expected: npt.NDArray[np.int64]) -> float | None:
    if counts.sum() < LEAST_ROWS:
        return None
    p, q = ((n + 0.5) / (n.sum() + 0.5 * len(n)) for n in (counts, expected))
    return float(((p - q) * np.log(p / q)).sum())


def clusters(rows: Rows) -> list[dict[str, Any]]:
    """Groups of features that tell the same: average linkage at ``1 - |Spearman| <= 0.1``, the largest groups first.

    ``representative``: the member with the highest coverage, then the lowest mean ``|rho|`` to the other groups.
    ``rho``: mean ``|rho|`` within; null for a feature alone.
    """
    rho = np.abs(correlations(rows))
    share = np.isfinite(rows.features).mean(axis=0)
    label = np.ones(len(rho), dtype=np.int64)
    if len(rho) > 1:
        distance = np.clip(1.0 - rho, 0.0, None)
        np.fill_diagonal(distance, 0.0)
        tree = linkage(squareform(distance, checks=False), method="average")
        label = fcluster(tree, t=LARGEST_DISTANCE, criterion="distance").astype(np.int64)
    return sorted(_grouped(rows.columns, rho, share, label), key=lambda c: (-len(c["features"]), c["representative"]))


def _grouped(
    names: tuple[str, ...], rho: Array, share: Array, label: npt.NDArray[np.int64]
) -> Iterator[dict[str, Any]]:
    for which in np.unique(label):
        inside = np.flatnonzero(label == which)
        outside = np.flatnonzero(label != which)
        elsewhere = rho[np.ix_(inside, outside)].mean(axis=1) if outside.size else np.zeros(len(inside))
        best = min(range(len(inside)), key=lambda i: (-share[inside[i]], elsewhere[i], names[inside[i]]))
        pairs = rho[np.ix_(inside, inside)][np.triu_indices(len(inside), 1)]
        yield {
            "representative": names[inside[best]],
            "features": [names[i] for i in inside],
            "rho": float(pairs.mean()) if pairs.size else None,
        }


def correlations(rows: Rows) -> Array:
    """Spearman correlations (n_features, n_features) on at most 60,000 rows, each pair on the rows that have both.

    Ranks are taken over each feature's own rows. Zero where under 100 rows have both, or one of them does not vary.
    """
    part = rows.features[:: _step(len(rows.features))]
    known = np.isfinite(part)
    ranks = np.zeros(part.shape)
    for k in range(part.shape[1]):
        own = known[:, k]
        # Centred and of unit size, so that sums of squares keep their digits.
        ranks[own, k] = (rankdata(part[own, k]) - (own.sum() + 1) / 2) / max(int(own.sum()), 1)
    mask = known.astype(np.float64)
    n = mask.T @ mask
    total, square = ranks.T @ mask, (ranks**2).T @ mask
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = ranks.T @ ranks / n - total / n * (total / n).T
        variance = square / n - (total / n) ** 2
        rho = covariance / np.sqrt(variance * variance.T)
    told = (n >= LEAST_ROWS) & (variance > 1e-12) & (variance.T > 1e-12)
    rho = np.where(told, np.clip(rho, -1.0, 1.0), 0.0)
    np.fill_diagonal(rho, 1.0)
    return np.asarray(rho)


def _step(count: int) -> int:
    """Every how many rows one is read: no divisor of the week, or hours of the day would be left out."""
    step = max(1, math.ceil(count / MOST_ROWS))
    while math.gcd(step, WEEK) > 1:
        step += 1
    return step


def _years(origin: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.asarray(origin.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970)


def _instant(micros: int) -> str:
    return f"{pd.Timestamp(micros, unit='us'):%Y-%m-%dT%H:%MZ}"
