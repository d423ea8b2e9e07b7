"""Where a gain lives: the headline comparison by symbol, time, hour of day, regime, onset, feed and age of the listing.

A gain that one symbol, one year or one kind of hour carries alone is no property of the model. Strata of an outcome (the
symbols with the smallest gains, the origins before an onset) are marked as chosen after the fact: they bound or describe,
and no claim rests on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.base import REGIMES
from training.comparison import Gain, gain
from training.risk import stack
from training.sample import Sample

__all__ = ["KINDS", "Stratum", "gains_by_stratum", "strata"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

KINDS: Final = (
    "all",
    "without_best",
    "worst_quartile",
    "volatility",
    "symbol",
    "year",
    "quarter",
    "month",
    "hour",
    "regime",
    "onset",
    "feed",
    "listing",
    "grid",
    "shock",
)
"""What divides the rows, in the order of ``strata``."""
_FIRST_STRESS_CLASS: Final = 2
_DRAWS: Final = 500
_DAYS_FOR_AN_INTERVAL: Final = 60
"""Six blocks; fewer say little about how a block varies."""


class Stratum(NamedTuple):
    """Rows (symbols × hours) of one kind: ``value`` names which."""

    kind: str
    value: str
    rows: BoolArray


def strata(sample: Sample, own: FloatArray, other: FloatArray, now: FloatArray | None = None) -> Iterator[Stratum]:
    """Every stratum of a horizon, rows of the shock days among them.

    Args:
        sample: the common sample.
        own: QLIKE of the model, symbols × hours.
        other: of the opponent; both rank the symbols.
        now: class of the trailing interval at each origin, 0 calm to 3 crisis, null where unknown; without it there are no
            strata by regime, nor of origins whose stress has ``just begun`` (not yet so one horizon before).
    """
    every = np.ones(own.shape, dtype=np.bool_)
    yield Stratum("all", "all", every)
    yield from _by_symbol(sample, own, other, every)
    yield from _by_time(sample, every)
    if now is not None:
        for k, regime in enumerate(REGIMES):
            yield Stratum("regime", regime, now == k)
        before = np.full_like(now, np.nan)
        before[:, sample.horizon :] = now[:, : -sample.horizon]
        yield Stratum("onset", "just begun", (now >= _FIRST_STRESS_CLASS) & (before < _FIRST_STRESS_CLASS))
    onset = sample.truth["onset"]
    yield Stratum("onset", "ahead", onset == 1)
    yield Stratum("onset", "not ahead", onset == 0)
    # Thresholds need 90 days of intervals: where V is known and its regime is not, the listing is newer.
    new = np.isfinite(sample.truth["variance"]) & np.isnan(sample.truth["regime"])
    degraded = _degraded(sample)
    yield Stratum("feed", "stale", degraded & ~new)
    yield Stratum("feed", "whole", ~degraded & ~new)
    yield Stratum("listing", "under 90 days", new)
    yield Stratum("listing", "older", ~new)
    yield Stratum("grid", "non-overlapping", every & sample.spaced)
    yield Stratum("shock", "shock days", every & sample.shocked)


def gains_by_stratum(
    sample: Sample, model: str, opponent: str, now: FloatArray | None = None
) -> Iterator[dict[str, Any]]:
    """The model's gain over the opponent on QLIKE in every stratum with rows; without the shock day but in ``shock``.

    Yields:
        ``kind``, ``value``, ``rows``, ``gain`` with its 90 % interval by date (``low``, ``high``; null for strata of fewer
        than 60 days), ``symbols_better`` of ``symbols``, and ``var_hit_010``, the share of returns below the model's 1 %
        quantile, shock days included.
    """
    m, o = sample.models.index(model), sample.models.index(opponent)
    own, other = (np.where(sample.shocked, np.nan, sample.qlike[at]) for at in (m, o))
    beyond = _beyond(sample, m)
    for kind, value, rows in strata(sample, own, other, now):
        whole = kind == "shock"
        first, second = (sample.qlike[m], sample.qlike[o]) if whole else (own, other)
        compared = rows & np.isfinite(first) & np.isfinite(second)
        if not compared.any():
            continue
        hits = beyond[rows & np.isfinite(beyond)]
        yield {
            "kind": kind,
            "value": value,
            "rows": int(compared.sum()),
            **_told(_gain(first, second, compared, sample)),
            "var_hit_010": float(hits.mean()) if hits.size else None,
        }


def _gain(own: FloatArray, other: FloatArray, rows: BoolArray, sample: Sample) -> Gain:
    hours = rows.any(axis=0)
    days = sample.days[hours]
    reps = _DRAWS if len(np.unique(days)) >= _DAYS_FOR_AN_INTERVAL else 0
    first, second = (np.where(rows, loss, np.nan)[:, hours] for loss in (own, other))
    return gain(first, second, days, reps=reps)


def _told(found: Gain) -> dict[str, Any]:
    value, low, high = (float(x) if np.isfinite(x) else None for x in found[:3])
    return {"gain": value, "low": low, "high": high, "symbols_better": found.better, "symbols": found.symbols}


def _by_symbol(sample: Sample, own: FloatArray, other: FloatArray, every: BoolArray) -> Iterator[Stratum]:
    def rows_of(chosen: npt.NDArray[np.intp]) -> BoolArray:
        out = np.zeros_like(every)
        out[chosen] = True
        return out

    both = np.isfinite(own) & np.isfinite(other)
    known = np.flatnonzero(both.any(axis=1))
    if not known.size:
        return
    means = [np.where(both, loss, 0.0).sum(axis=1)[known] / both.sum(axis=1)[known] for loss in (own, other)]
    ranked = known[np.argsort(1.0 - means[0] / means[1], kind="stable")]
    if len(ranked) > 1:
        yield Stratum("without_best", f"without {sample.symbols[ranked[-1]]}", rows_of(ranked[:-1]))
    worst = ranked[: -(-len(ranked) // 4)]
    yield Stratum("worst_quartile", ", ".join(sample.symbols[s] for s in worst), rows_of(worst))
    if len(known) >= 4:
        level = np.array([np.mean(sample.truth["variance"][s][both[s]]) for s in known])
        for k, part in enumerate(np.array_split(known[np.argsort(level, kind="stable")], 4)):
            word = ("calmest", "calmer", "wilder", "wildest")[k]
            yield Stratum("volatility", f"{word}: " + ", ".join(sample.symbols[s] for s in part), rows_of(part))
    for s in known:
        yield Stratum("symbol", sample.symbols[s], rows_of(np.array([s])))


def _by_time(sample: Sample, every: BoolArray) -> Iterator[Stratum]:
    month = sample.hours.astype("datetime64[h]").astype("datetime64[M]").astype(np.int64)
    for kind, code in (("year", month // 12), ("quarter", month // 3), ("month", month)):
        for value in np.unique(code):
            year = 1970 + int(value) // {"year": 1, "quarter": 4, "month": 12}[kind]
            part = {"year": "", "quarter": f" Q{value % 4 + 1}", "month": f"-{value % 12 + 1:02d}"}[kind]
            yield Stratum(kind, f"{year}{part}", every & (code == value))
    for hour in range(24):
        yield Stratum("hour", f"{hour:02d}:00", every & (sample.hours % 24 == hour))


def _degraded(sample: Sample) -> BoolArray:
    """Rows that any model calls degraded: a feed that the symbol had is stale, or the listing is new."""
    flag = (sample.forecasts["status"] == "degraded").to_numpy(dtype=bool)
    return np.asarray((flag[sample.rows] & (sample.rows >= 0)).any(axis=0))


def _beyond(sample: Sample, m: int) -> FloatArray:
    """1 where the return fell below the model's 1 % quantile, null where either is unknown."""
    quantile = stack(sample, m, "ret_q010")
    r = sample.truth["log_return"]
    return np.where(np.isfinite(quantile + r), r < quantile, np.nan)
