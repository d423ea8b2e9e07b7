"""The published law of one horizon against what came: is it right on the whole, and in every month?

Of returns and of realised variances; excursions are not judged here, since the scored columns do not hold their quantiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.base import RETURN_LEVELS, VARIANCE_LEVELS
from training.law_diagnostics import PEAKED, berkowitz, coverage, months, normal_scores, pit_histogram, spaced
from training.risk import stack
from training.sample import Sample
from training.scorecard import nullable

__all__ = ["coverage_by_month", "pit"]

FloatArray = npt.NDArray[np.float64]

_LEVELS: Final[dict[str, Mapping[str, float]]] = {"variance": VARIANCE_LEVELS, "log_return": RETURN_LEVELS}
# January and February: the shortest two months.
_TWO_MONTHS: Final = 59 * 24


def pit(sample: Sample, m: int) -> Iterator[dict[str, Any]]:
    """Probability integral transforms of ``ln V`` and of the return under the law of model ``m``.

    Yields:
        For each target with a law: ``target``, ``rows``, ``histogram`` (shares in 20 equal cells, all symbols together) and
        ``berkowitz``, the test of each symbol on non-overlapping origins: ``symbol``, ``n`` pairs, ``p``, and ``mean``,
        ``sd`` and ``autocorrelation`` of its normal scores (null where there are too few).
    """
    for target, realised, quantiles, levels in _laws(sample, m):
        freedom = PEAKED if target == "log_return" else np.inf
        if target == "variance":
            realised, quantiles = _log(realised), _log(quantiles)
        scores = normal_scores(realised, quantiles, list(levels.values()), freedom)
        if not np.isfinite(scores).any():
            continue
        apart = spaced(scores, sample.hours, sample.horizon)
        yield {
            "target": target,
            "rows": int(np.isfinite(scores).sum()),
            "histogram": pit_histogram(scores).tolist(),
            "berkowitz": [
                {"symbol": symbol, **_tested(row)} for symbol, row in zip(sample.symbols, apart, strict=True)
            ],
        }


def coverage_by_month(sample: Sample, m: int) -> Iterator[dict[str, Any]]:
    """How often what came stayed below each quantile of model ``m``, month by month, all symbols together.

    Yields:
        ``target``, ``month``, ``column``, ``level``, ``rows``, ``below`` and ``z`` (see ``law_diagnostics.coverage``); nothing
        in a window of less than two months.
    """
    if len(sample.hours) < _TWO_MONTHS:
        return
    month = np.broadcast_to(months(sample.hours), sample.common.shape)
    for target, realised, quantiles, levels in _laws(sample, m):
        by_column = dict(zip(levels, quantiles, strict=True))
        for row in coverage(realised, by_column, levels, month, sample.horizon).to_dict("records"):
            yield {
                "target": target,
                "month": str(np.datetime64(int(row["group"]), "M")),
                "column": row["column"],
                "level": row["level"],
                "rows": int(row["n"]),
                "below": float(row["below"]),
                "z": float(row["z"]),
            }


def _laws(sample: Sample, m: int) -> Iterator[tuple[str, FloatArray, FloatArray, Mapping[str, float]]]:
    """Target, what came (symbols × hours), its quantiles (levels first), and their levels, of every law that is there."""
    for target, levels in _LEVELS.items():
        if set(sample.forecasts.columns).issuperset(levels):
            yield target, sample.truth[target], np.stack([stack(sample, m, name) for name in levels]), levels


def _log(variance: FloatArray) -> FloatArray:
    """Null where an hour stood still: its logarithm has no place among the others."""
    return np.asarray(np.log(np.where(variance > 0, variance, np.nan)))


def _tested(scores: FloatArray) -> dict[str, Any]:
    found = berkowitz(scores)
    told = {"p": found.p_value, "mean": found.mean, "sd": found.sd, "autocorrelation": found.autocorrelation}
    return {"n": found.n, **{name: nullable(value) for name, value in told.items()}}
