"""Where a leak check cuts the market.

A leak shows only where the future touches the past: a backward fill at a gap, a forward join at an arrival, a closed
week at a Monday. Few cuts at random miss much, so half of them stand at borders of every kind, in turn.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from features.market import Market
from features.schemas import TABLES

__all__ = ["Cut", "cut_times", "placed"]

Instants: TypeAlias = npt.NDArray[np.int64]  # microseconds since the epoch
Kind: TypeAlias = Literal["gap", "late", "edge", "arrival", "day", "week", "anywhere"]

MINUTE: Final = 60_000_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY
FIRST_MONDAY: Final = 4 * DAY
# Another feed than bars without a row for so long has a gap.
SILENCE: Final = DAY


class Cut(NamedTuple):
    """An instant, and the border that it stands at."""

    at: pd.Timestamp
    kind: Kind


def cut_times(market: Market, count: int, seed: int) -> tuple[pd.Timestamp, ...]:
    """The instants of ``placed``."""
    return tuple(cut.at for cut in placed(market, count, seed))


def placed(market: Market, count: int, seed: int) -> tuple[Cut, ...]:
    """``count`` cuts with bars on either side, ascending: half at borders, half at random quarters of an hour.

    Borders, each kind in turn: middles of gaps; instants at which a row had happened and was not known yet; beginnings and
    ends of a symbol's rows; arrivals of other tables' rows; midnights; Mondays. Raises ``UsageError`` where ``count`` is not
    positive or there are too few bars for so many cuts.
    """
    bars = market.table("bars", "1h")
    closes = _micros(bars["close_time"])
    if count < 1 or len(closes) == 0 or count > np.ptp(closes) // HOUR:
        raise UsageError(
            f"{count} cuts do not fit into {len(closes)} hourly bars; ask for at least one, at most one an hour"
        )
    first, last = closes.min() + HOUR, closes.max() - HOUR
    rng = np.random.default_rng(seed)

    def shuffled(*pools: Instants) -> Instants:
        """Those within the bars, in random order, the pools in turn."""
        within = [rng.permutation(pool[(pool >= first) & (pool <= last)])[:count] for pool in pools]
        return np.array([at for turn in zip_longest(*within) for at in turn if at is not None], dtype=np.int64)

    others = {name: market.table(name) for name in TABLES if name != "bars"}
    edges = [_edges(bars, HOUR), *(_edges(rows, SILENCE) for rows in others.values() if "symbol" in rows)]
    borders: dict[Kind, Instants] = {
        "gap": shuffled(*(middles for _, middles in edges)),
        "late": shuffled(_unknown(bars, "bars"), *(_unknown(rows, name) for name, rows in others.items())),
        "edge": shuffled(np.concatenate([ends for ends, _ in edges])),
        "arrival": shuffled(np.unique(np.concatenate([_micros(rows["available_at"]) for rows in others.values()]))),
        "day": shuffled(np.arange(first + -first % DAY, last, DAY)),
        "week": shuffled(np.arange(first + (FIRST_MONDAY - first) % WEEK, last, WEEK)),
    }
    in_turn = ((at, kind) for turn in zip_longest(*borders.values()) for at, kind in zip(turn, borders, strict=True))
    chosen: dict[int, Kind] = {}
    for at, kind in in_turn:
        if at is not None and len(chosen) < count // 2:
            chosen.setdefault(int(at), kind)
    for at in rng.permutation(np.arange(first, last, HOUR // 4)):
        if len(chosen) < count:
            chosen.setdefault(int(at), "anywhere")
    instants = pd.DatetimeIndex(np.sort([*chosen]).astype("datetime64[us]"), tz="UTC")
    return tuple(Cut(at, chosen[micro]) for at, micro in zip(instants, sorted(chosen), strict=True))


def _edges(rows: pd.DataFrame, step: int) -> tuple[Instants, Instants]:
    """Where a symbol's rows stop, and begin or resume after more than ``step``; and the middles of the gaps."""
    at = _micros(rows["available_at"])
    same = np.asarray(rows["symbol"] == rows["symbol"].shift())
    before = np.concatenate([at[:1], at[:-1]])
    gap = same & (at - before > step)
    return np.concatenate([at[~same | gap], before[~same | gap]]), (at[gap] + before[gap]) // 2


def _unknown(rows: pd.DataFrame, table: str) -> Instants:
    """Full hours, or else instants, at which a row had happened and was not known."""
    happened, known = _micros(rows[TABLES[table].clock]), _micros(rows["available_at"])
    happened, known = happened[known > happened], known[known > happened]
    hour = happened + -happened % HOUR
    return np.unique(np.where(hour < known, hour, (happened + known) // 2))


def _micros(times: pd.Series) -> Instants:
    return pd.DatetimeIndex(times).as_unit("us").asi8
