"""A forecast as a sum: ``ln F`` split into terms that anyone can add up again.

Every member splits its own ``ln E[V]`` (``Member.contributions``) against one anchor, the usual variance of the last month,
so that each further term is a factor: the season ahead, the pull to the long run, each shorter window of variance, each
family of features. The ensemble is linear in its members' logs, so a term of the ensemble is the members' weighted terms;
what the ensemble does itself (levels, re-levelling, clips) are terms of their own. What is stored is rounded to single
precision, and the last term takes what rounding left: the stated sum is ``ln F`` to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.base import ENSEMBLE

__all__ = [
    "ADJUSTMENT",
    "LEVEL",
    "REMAINDER",
    "by_family",
    "in_order",
    "joint",
    "shares",
    "since_usual",
    "stored",
    "total",
]

Array = npt.NDArray[np.float64]
Terms = dict[str, Array]

USUAL: Final = "usual"
SEASON: Final = "season"
REVERSION: Final = "reversion"
FILTER: Final = "filter"
LEVEL: Final = "level"
ADJUSTMENT: Final = "adjustment"
REMAINDER: Final = "remainder"
LAST: Final = (FILTER, LEVEL, ADJUSTMENT)


def since_usual(log_mean: Array, usual: Array, season: Array | None, horizons: Sequence[int]) -> Terms:
    """The terms of a member that has no finer split: usual variance, season ahead, and what it says beyond them.

    ``log_mean`` (n_rows, n_horizons): ``ln E[V]``. ``usual`` (n_rows,): log mean of the last month's hourly variance, NaN
    where there is none. ``season`` (n_rows, n_horizons): log of the summed season ahead; None for a member without one.
    """
    hours = np.log(np.array(horizons, dtype=np.float64))
    terms = {} if season is None else {SEASON: season - hours}
    beyond = log_mean - terms.get(SEASON, 0.0)
    anchor = np.where(np.isnan(usual)[:, None], beyond, usual[:, None] + hours)
    return {USUAL: anchor, **terms, FILTER: beyond - anchor}


def by_family(families: Sequence[str], parts: Iterable[Array]) -> Terms:
    """Sum the parts, one a feature, by the family of each."""
    out: Terms = {}
    for family, part in zip(families, parts, strict=True):
        out[family] = out[family] + part if family in out else part
    return out


def in_order(names: Iterable[str]) -> list[str]:
    """Term names in the order in which they are added: the anchor first, the ensemble's own last."""
    distinct = list(dict.fromkeys(names))
    return [*(name for name in distinct if name not in LAST), *(name for name in LAST if name in distinct)]


def total(terms: Mapping[str, npt.NDArray[np.floating]]) -> Array:
    """The terms added one after the other, in their order, in double precision."""
    values = iter(terms.values())
    out = next(values).astype(np.float64)
    for value in values:
        out += value
    return out


def shares(
    weights: pd.DataFrame,
    times: pd.DatetimeIndex,
    levelled: Mapping[str, Array],
    answered: npt.NDArray[np.int64],
    ladder: Sequence[str],
) -> dict[str, Array]:
    """The weight of each member in each forecast, (n_symbols, n_hours), summing to one where there is a forecast.

    ``weights``: (n_refreshes, n_members), in force from the times of its index. ``levelled``: members' ``ln F``; one that is
    missing leaves its weight to the others. ``answered`` and ``ladder`` as in ``Assembly``: a fallback has all the weight.
    """
    since = pd.DatetimeIndex(weights.index).searchsorted(times, side="right") - 1
    spread = weights.to_numpy(np.float64)[since].T
    out = {name: np.where(answered == ladder.index(name), 1.0, 0.0) for name in ladder if name != ENSEMBLE}
    combined = answered == ladder.index(ENSEMBLE)
    present = {name: np.isfinite(levelled[name]) & combined for name in map(str, weights.columns)}
    sum_of_present = total({name: spread[m] * present[name] for m, name in enumerate(present)})
    for m, (name, known) in enumerate(present.items()):
        share = np.divide(spread[m] * known, sum_of_present, out=np.zeros(known.shape), where=known)
        out[name] = out.get(name, 0.0) + share
    return out


def joint(
    terms: Mapping[str, Mapping[str, npt.NDArray[np.floating]]],
    share: Mapping[str, Array],
    raw: Mapping[str, Array],
    levelled: Mapping[str, Array],
    log_forecast: Array,
) -> dict[str, Array]:
    """The ensemble's terms: each member's, weighted, then its level, then what the ensemble did to their mean.

    By member: ``terms`` of its ``ln E[V]`` as fitted, the ``share`` it has, and ``ln F`` as fitted (``raw``) and
    ``levelled``. ``log_forecast``: ``ln F`` as published. All arrays have one shape.
    """
    out: dict[str, Array] = {}
    level, mean = np.zeros_like(log_forecast), np.zeros_like(log_forecast)
    for member, weight in share.items():
        used = weight > 0
        for name, values in terms[member].items():
            part = np.where(used, weight * values, 0.0)
            out[name] = out[name] + part if name in out else part
        level += np.where(used, weight * (levelled[member] - raw[member]), 0.0)
        mean += np.where(used, weight * levelled[member], 0.0)
    out |= {LEVEL: out.get(LEVEL, 0.0) + level, ADJUSTMENT: log_forecast - mean}
    return {name: out[name] for name in in_order(out)}


def stored(terms: Mapping[str, Array], log_forecast: Array) -> dict[str, npt.NDArray[np.floating]]:
    """The terms in single precision, and the remainder in double, with which ``total`` is ``log_forecast`` to the bit."""
    rounded: dict[str, npt.NDArray[np.floating]] = {name: values.astype(np.float32) for name, values in terms.items()}
    # Both lie within a factor of two of each other, so that their difference is exact (Sterbenz, 1974).
    return {**rounded, REMAINDER: log_forecast - total(rounded)}
