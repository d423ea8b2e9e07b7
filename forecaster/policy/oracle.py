"""The oracle: one price from several sources, none of which is believed alone.

The median of at least ``quorum`` fresh sources, their interquartile range as its confidence; without a quorum
the last good price stands and positions may only be reduced. How long a price keeps its distance from the oracle,
net of that confidence, is what breaker CB2 watches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .params import Params

__all__ = ["Quote", "Reading", "net_gap", "persistent_gap", "read_price"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quote:
    """What one source said. ``at`` in seconds, on the clock of the reader."""

    source: str
    price: float
    at: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The oracle's price, the interquartile range of its sources (in the price's unit), and their number."""

    price: float
    confidence: float
    sources: int
    reduce_only: bool


def read_price(quotes: Iterable[Quote], now: float, last_good: float, params: Params) -> Reading:
    """The median of fresh quotes, one vote a source (its newest); ``last_good`` without a quorum.

    Quotes from the future, too old, or without a positive finite price do not count. With a quorum of 3, one
    lying source moves the price no further than to another source's.
    """
    votes: dict[str, Quote] = {}
    for quote in quotes:
        fresh = 0 <= now - quote.at <= params.oracle.max_age_seconds
        newer = quote.source not in votes or quote.at > votes[quote.source].at
        if fresh and newer and 0 < quote.price < float("inf"):
            votes[quote.source] = quote
    if len(votes) < params.oracle.quorum:
        return Reading(last_good, 0.0, len(votes), reduce_only=True)
    low, median, high = np.quantile([quote.price for quote in votes.values()], [0.25, 0.5, 0.75])
    return Reading(float(median), float(high - low), len(votes), reduce_only=False)


def net_gap(price: Floats, anchor: Floats, confidence: Floats) -> Floats:
    """Relative distance of a price from an anchor beyond the anchor's confidence, at least 0."""
    return np.asarray(np.maximum(0.0, np.abs(price - anchor) - confidence) / anchor)


def persistent_gap(gaps: Floats, params: Params) -> Floats:
    """The least of the last ``gap_observations`` gaps (..., n), observation by observation along the last axis: it
    exceeds a limit where all of them do.

    NaN before there are as many, and while one of them is unknown. The column ``obs_oracle_gap`` of a venue with an
    oracle of its own is made by this function.
    """
    n = params.breakers.gap_observations
    out = np.full(gaps.shape, np.nan)
    if gaps.shape[-1] >= n:
        out[..., n - 1 :] = np.lib.stride_tricks.sliding_window_view(gaps, n, axis=-1).min(axis=-1)
    return out
