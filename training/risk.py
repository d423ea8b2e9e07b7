"""Value at risk and expected shortfall of one horizon, symbol-year by symbol-year, and against filtered simulation.

A right model passes a 5 % test in about 95 % of symbol-years: fewer tell of a fault, and so does every one. Where intervals
overlap, each of the h ways of taking them a whole horizon apart is a test of its own; how their p-values are spread says
more than any one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training import backtests, losses
from training.comparison import difference
from training.sample import Sample

__all__ = ["TESTS", "back_tests", "filtered_comparison", "stack", "symbol_years"]

FloatArray = npt.NDArray[np.float64]

TESTS: Final = ("kupiec", "christoffersen", "dynamic_quantile", "band", "z2", "esr")
_YEAR: Final = 365 * 24
_PASS: Final = 0.05
_HIT_LEVEL: Final = 0.01
_TAIL: Final = {0.025: "ret_q025", 0.010: "ret_q010", 0.005: "ret_q005", 0.001: "ret_q001"}
_SHORTFALLS: Final = {0.010: ("ret_q010", "ret_es010"), 0.025: ("ret_q025", "ret_es025")}


def symbol_years(known: npt.NDArray[np.bool_]) -> list[slice]:
    """Consecutive years of 365 days from a symbol's first known hour; what is left over counts from half a year on."""
    at = np.flatnonzero(known)
    if not at.size:
        return []
    borders = list(range(int(at[0]), int(at[-1]) + 2, _YEAR))
    if at[-1] + 1 - borders[-1] >= _YEAR // 2:
        borders.append(int(at[-1]) + 1)
    return [slice(start, stop) for start, stop in pairwise(borders)]


def back_tests(sample: Sample, m: int) -> Iterator[dict[str, Any]]:
    """How many symbol-years of model ``m`` pass each back-test at 5 %; nothing where it has no quantiles.

    Hits are those of the 1 % quantile, shortfall that beyond the 2.5 % one. ``band``: hits inside the 95 % band of a right
    model.

    Yields:
        ``test``, ``symbol_years`` tested, ``passed`` of them on origins divisible by the horizon, ``share`` passed over all
        phase offsets together (``z2`` and ``esr``: the one offset), and ``p_values``, their number in ten bins of equal
        width (null for ``band``).
    """
    found: dict[str, list[tuple[int, float]]] = {test: [] for test in TESTS}
    for s in range(len(sample.symbols)):
        quantile, r = sample.column(m, s, "ret_q010"), sample.truth["log_return"][s]
        hits = np.where(np.isfinite(quantile + r), r < quantile, np.nan)
        for year in symbol_years(np.isfinite(hits)):
            for phase in range(sample.horizon):
                rows = np.flatnonzero(sample.hours[year] % sample.horizon == phase) + year.start
                for test, told in _hit_tests(hits[rows], quantile[rows]):
                    found[test].append((phase, told))
            for test, told in _shortfall_tests(sample, m, s, year):
                found[test].append((0, told))
    for test, values in found.items():
        phases = np.array([phase for phase, _ in values])
        p = np.array([value for _, value in values])
        known = np.isfinite(p)
        if known.any():
            spaced = known & (phases == 0)
            counts = np.histogram(p[known], bins=10, range=(0.0, 1.0))[0].tolist()
            yield {
                "test": test,
                "symbol_years": int(spaced.sum()),
                "passed": int((p[spaced] >= _PASS).sum()),
                "share": float((p[known] >= _PASS).mean()),
                "p_values": None if test == "band" else counts,
            }


def filtered_comparison(sample: Sample, model: str, base: str = "gjr") -> Iterator[dict[str, Any]]:
    """FZ0 of the model's quantile and shortfall beside filtered simulation around ``base``, on the rows both have.

    The simulation knows what the sample holds: its first 90 days have no law yet and are not compared.

    Yields:
        ``level``, ``base``, ``rows``, ``fz0`` of the model and ``fz0_filtered`` (nats, symbols with equal weight),
        ``difference`` by which the model's is lower, with its 90 % interval by date (``low``, ``high``), ``saved``, and
        ``symbols_better`` of ``symbols``. FZ0 is a logarithm, its zero a matter of the unit of the return: what is saved
        is taken of ``exp(FZ0)``, ``1 - exp(-difference)``, which is not.
    """
    m, b = sample.models.index(model), sample.models.index(base)
    r, present = sample.truth["log_return"], set(sample.forecasts.columns)
    for level, columns in _SHORTFALLS.items():
        if not present.issuperset(columns):
            continue
        q, e = (stack(sample, m, name) for name in columns)
        base_q, base_e = backtests.filtered_simulation(
            r, stack(sample, b, "variance"), sample.hours, sample.horizon, level
        )
        known = np.isfinite(r) & (e < q) & (q < 0) & (base_e < base_q) & (base_q < 0)
        if not known.any():
            continue
        own, other = np.full(r.shape, np.nan), np.full(r.shape, np.nan)
        own[known] = losses.fz0_terms(r[known], q[known], e[known], level)
        other[known] = losses.fz0_terms(r[known], base_q[known], base_e[known], level)
        found = difference(own, other, sample.days)
        yield {
            "level": level,
            "base": base,
            "rows": int(known.sum()),
            **dict(zip(("fz0", "fz0_filtered"), _means(own, other), strict=True)),
            "difference": found.value,
            "low": found.low,
            "high": found.high,
            "saved": -math.expm1(-found.value),
            "symbols_better": found.better,
            "symbols": found.symbols,
        }


def _means(*losses: FloatArray) -> Iterator[float]:
    """Symbols with equal weight, those without rows left out."""
    yield from (float(np.nanmean(loss[np.isfinite(loss).any(axis=1)], axis=1).mean()) for loss in losses)


def stack(sample: Sample, m: int, name: str) -> FloatArray:
    """A forecast column of model ``m``, symbols × hours; null where the row is missing or not common."""
    return np.stack([sample.column(m, s, name) for s in range(len(sample.symbols))])


def _hit_tests(hits: FloatArray, quantile: FloatArray) -> Iterator[tuple[str, float]]:
    """Nothing where a right model would not expect a single hit."""
    n = int(np.isfinite(hits).sum())
    if n * _HIT_LEVEL < 1.0:
        return
    yield "kupiec", backtests.kupiec(hits, _HIT_LEVEL).p_value
    yield "christoffersen", backtests.christoffersen(hits, _HIT_LEVEL).p_value
    yield "dynamic_quantile", backtests.dynamic_quantile(hits, quantile, _HIT_LEVEL).p_value
    low, high = backtests.hit_band(n, _HIT_LEVEL)
    yield "band", float(low <= np.nansum(hits) <= high)


def _shortfall_tests(sample: Sample, m: int, s: int, year: slice) -> Iterator[tuple[str, float]]:
    rows = np.flatnonzero(sample.spaced[year]) + year.start
    r = sample.truth["log_return"][s][rows]
    quantiles, es = sample.table(m, s, tuple(_TAIL.values()))[rows], sample.column(m, s, "ret_es025")[rows]
    level = next(iter(_TAIL))
    known = np.isfinite(quantiles).all(axis=1) & np.isfinite(r) & (es < 0)
    if known.sum() * level < 1.0:
        return
    r, quantiles, es = r[known], quantiles[known], es[known]
    z2 = backtests.acerbi_szekely_z2(r, quantiles[:, 0], es, level)
    yield "z2", backtests.z2_p_value(z2, quantiles, es, tuple(_TAIL))
    yield "esr", backtests.shortfall_intercept(r, es, level).p_value
