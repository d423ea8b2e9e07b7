"""How sure a difference between two policies is: whole days of all symbols together are drawn again.

Hourly origins overlap and symbols crash together, so that rows count for much less than their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from features.panel import Array
from forecaster.policy.observables import DAY
from training.backtests import christoffersen, kupiec
from training.comparison import SEED, day_weights, diebold_mariano, newey_west_lags

from .baselines import pinball
from .ground import MISS, Floats, Ground, Mask
from .scaling import matching_scale

__all__ = ["LOSSES", "METRICS", "BacktestShare", "Difference", "backtests", "differences"]

METRICS: Final = ("matched_mean_im", "pinball_995", "es_beyond_margin", "mean_im")
LOSSES: Final = ("pinball_995", "es_beyond_margin")
LEVEL: Final = 0.90
TAIL: Final = 0.05
"""Share of rows, those with the largest excursion in units of the margin, among which the 99.5 % quantile of a draw lies."""
CHUNK: Final = 50
SIGNIFICANCE: Final = 0.05
FEWEST_DAYS: Final = 90


class Difference(NamedTuple):
    """``policy / opponent - 1`` of a metric, its 90 % interval, by year, and the share of symbols where it is below 0.

    ``dm_p``: of Diebold and Mariano's test on the hourly means over symbols; nan for what is no mean of losses, and where
    there are too few hours. ``mean_im`` tells by how much a comparison at equal mean missed it.
    """

    policy: str
    opponent: str
    metric: str
    value: float
    low: float
    high: float
    sd: float
    by_year: dict[int, float]
    symbols_better: float
    dm_p: float
    n: int


class BacktestShare(NamedTuple):
    """Share of symbol-years whose exceedances of the margin at non-overlapping origins pass a test at 5 %."""

    test: str
    share: float
    symbol_years: int


def differences(
    margins: dict[str, Array], policy: str, opponent: str, ground: Ground, reps: int = 500
) -> list[Difference]:
    """Relative differences of ``METRICS`` on the scored origins that both policies and the excursion share.

    Stationary bootstrap of whole days (Politis and Romano 1994), all symbols together; the scale that
    ``matched_mean_im`` rests on is fitted anew in every draw. No interval (nan) where the opponent loses nothing in a draw.
    """
    both = ground.scored & ~np.isnan(ground.excursion + margins[policy] + margins[opponent])
    pools = [_Pool(margins[name], ground, both) for name in (policy, opponent)]
    weights = day_weights(int(pools[0].day.max(initial=-1)) + 1, reps, SEED) if both.any() else np.empty((0, 0))
    out = []
    for metric in METRICS:
        own, other = (pool.value(metric) for pool in pools)
        drawn = [pool.drawn(metric, weights) for pool in pools] if both.any() else [np.full(1, np.nan)] * 2
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = drawn[0] / drawn[1] - 1
            relative[~np.isfinite(relative)] = np.nan
            low, high = np.quantile(relative, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        out.append(
            Difference(
                policy,
                opponent,
                metric,
                _ratio(own, other),
                float(low),
                float(high),
                float(relative.std()),
                {year: _ratio(*(pool.value(metric, pool.year == year) for pool in pools)) for year in pools[0].years},
                _share_below([pool.by_symbol(metric) for pool in pools]),
                _diebold_mariano(pools, metric),
                int(both.sum()),
            )
        )
    return out


def backtests(im: Array, ground: Ground) -> list[BacktestShare]:
    """Kupiec and Christoffersen on the midnight origins of each symbol and year, which do not overlap."""
    beyond = np.where(ground.scored & ~np.isnan(im + ground.excursion), ground.excursion > im, np.nan)
    midnight = np.asarray(ground.times.hour == 0)
    year = np.asarray(ground.times.year)
    out = []
    for name, test in (("kupiec", kupiec), ("christoffersen", christoffersen)):
        p = [
            test(hits[first : last + 1], MISS).p_value
            for y in np.unique(year[ground.scored.any(axis=0)])
            for hits in beyond[:, midnight & (year == y)]
            if (known := np.flatnonzero(~np.isnan(hits))).size >= FEWEST_DAYS
            for first, last in [(known[0], known[-1])]
        ]
        out.append(BacktestShare(name, float(np.mean(np.array(p) >= SIGNIFICANCE)) if p else float("nan"), len(p)))
    return out


class _Pool:
    """The compared rows of one policy, flat."""

    def __init__(self, im: Array, ground: Ground, rows: Mask) -> None:
        self.symbol, column = np.nonzero(rows)
        self.im, self.excursion = im[rows], ground.excursion[rows]
        self.loss = {
            "pinball_995": pinball(self.im, self.excursion),
            "es_beyond_margin": np.maximum(0.0, self.excursion - self.im),
            "mean_im": self.im,
        }
        self.year = np.asarray(ground.times.year)[column]
        self.years = [int(y) for y in np.unique(self.year)]
        days = ground.days[column]
        self.day = np.unique(days, return_inverse=True)[1]
        self.hour = np.unique(column, return_inverse=True)[1]

    def value(self, metric: str, rows: Mask | None = None) -> float:
        """The metric over some rows."""
        at = slice(None) if rows is None else rows
        if not len(self.im[at]):
            return float("nan")
        if metric == "matched_mean_im":
            return matching_scale(self.excursion[at] / self.im[at]) * float(self.im[at].mean())
        return float(self.loss[metric][at].mean())

    def by_symbol(self, metric: str) -> Floats:
        """The metric of every symbol by itself, matched with the pool's scale."""
        values = self.im if metric == "matched_mean_im" else self.loss[metric]
        with np.errstate(invalid="ignore"):
            means = np.bincount(self.symbol, values) / np.bincount(self.symbol)
        return means * matching_scale(self.excursion / self.im) if metric == "matched_mean_im" else means

    def drawn(self, metric: str, weights: Floats) -> Floats:
        """The metric of every bootstrap draw; ``weights`` (reps, days)."""
        rows = weights @ np.bincount(self.day).astype(np.float64)
        if metric != "matched_mean_im":
            return np.asarray(weights @ np.bincount(self.day, self.loss[metric]) / rows)
        return self._drawn_scale(weights, rows) * (weights @ np.bincount(self.day, self.im)) / rows

    def _drawn_scale(self, weights: Floats, rows: Floats) -> Floats:
        """``matching_scale`` of every draw: the largest ratio above which no more than 0.5 % of its rows lie."""
        ratio = self.excursion / self.im
        order = np.argsort(-ratio, kind="stable")
        out = np.full(len(weights), np.nan)
        for tail in (order[: int(TAIL * len(ratio)) + 1], order):  # the whole where a draw has too little of the tail
            waiting = np.flatnonzero(np.isnan(out))
            for part in np.split(waiting, range(CHUNK, len(waiting), CHUNK)):
                beyond = np.cumsum(weights[part][:, self.day[tail]], axis=1) > MISS * rows[part, None]
                out[part] = np.where(beyond.any(axis=1), ratio[tail][beyond.argmax(axis=1)], np.nan)
        return out


def _diebold_mariano(pools: Sequence[_Pool], metric: str) -> float:
    """The p-value of equal mean losses, hour by hour; rows of one hour are one observation."""
    if metric not in LOSSES:
        return float("nan")
    count = np.bincount(pools[0].hour)
    if len(count) <= newey_west_lags(DAY):
        return float("nan")
    own, other = (np.bincount(pool.hour, pool.loss[metric]) / count for pool in pools)
    return diebold_mariano(own, other, DAY).p_value


def _ratio(own: float, other: float) -> float:
    return own / other - 1 if other else float("nan")


def _share_below(values: list[Floats]) -> float:
    known = ~np.isnan(values[0] + values[1])
    return float((values[0] < values[1])[known].mean()) if known.any() else float("nan")
