"""Other markets' daily closes: fear in shares, the dollar, and what the last session did.

A close enters at the row's ``available_at`` and never before: the close of New York is not known at 00:00 UTC of its
date, and ``forecaster data import --delay`` says by how much. It is believed for five days, which spans a weekend and a
holiday. Sentiment indices are left out: they help a forecast of volatility in about half of all cases (Brauneis and
Sahiner 2024).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Final

import numba
import numpy as np
import pandas as pd

from features.families import Column, Family, Group
from features.families.transforms import for_every_symbol
from features.panel import Array, Panel

__all__ = ["Macro", "session_change"]

LIFE_HOURS: Final = 120
WEEK: Final = 168
MONTH: Final = 720
Z_BOUND: Final = 5.0
# A sd of logs below this is rounding: the index stood still.
STANDSTILL: Final = 1e-9
DAY_MICROSECONDS: Final = 86_400_000_000
FEEDS: Final = ("daily",)
SHARES, GOLD, CREDIT, TREASURIES = "SPY", "GLD", "HYG", "IEF"


class Macro(Family):
    """VIX, the dollar index and four exchange-traded funds, as of when they were known."""

    name: ClassVar[str] = "macro"
    group: ClassVar[Group] = "implied"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Level, change over a week and score over a month of the indices; returns of the funds' last session."""
        for part in (_index(panel, "VIX", "Bekaert and Hoerova (2014)"), _index(panel, "DXY", ""), _funds(panel)):
            yield from for_every_symbol(panel, part)


@numba.njit(cache=True)
def session_change(level: Array, session: Array, length: int, first: int) -> Array:
    """Change of ``level`` since the session before the current one, columns ``first`` and later.

    ``session``: a number that grows from session to session and stays within one. The session before is looked for in the
    last ``length`` hours; NaN where it is not found there, or now is unknown. Unlike a shift by a day it knows a weekend.
    """
    n, hours = level.shape
    out = np.full((n, hours - first), np.nan)
    for i in range(n):
        for t in range(first, hours):
            if math.isnan(session[i, t]):
                continue
            for s in range(t - 1, max(t - length, -1), -1):
                if session[i, s] < session[i, t]:
                    out[i, t - first] = level[i, t] - level[i, s]
                    break
    return out


def _closes(panel: Panel, series: str) -> tuple[Array, Array, Array]:
    """Log close, session (days since 1970) and age of one series, each of shape (1, n_hours)."""
    rows = panel.market.daily()
    rows = rows[rows["series"] == series]
    days = pd.DatetimeIndex(rows["date"]).as_unit("us").asi8 / DAY_MICROSECONDS
    known = panel.common(rows.assign(session=days), {"close": "close", "session": "session"}, LIFE_HOURS)
    return np.log(known["close"]), known["session"], known["age"]


def _index(panel: Panel, series: str, reference: str) -> Iterator[Column]:
    name = series.lower()
    level, _, age = _closes(panel, series)
    spread = panel.sd(level, MONTH)
    score = (level - panel.mean(level, (MONTH,))[0]) / np.where(spread > STANDSTILL, spread, np.nan)
    yield Column(f"log_{name}", level, f"ln {series}", "ln index", LIFE_HOURS, FEEDS, reference, "+")
    yield Column(
        f"{name}_change_168h",
        level - panel.shift(level, WEEK),
        f"ln {series} - ln {series} as known 168h before",
        "ln index",
        LIFE_HOURS + WEEK,
        FEEDS,
        reference,
        "+",
    )
    yield Column(
        f"{name}_z_720h",
        np.clip(score, -Z_BOUND, Z_BOUND),
        f"(ln {series} - mean_720h) / sd_720h, within ±{Z_BOUND:g}",
        "sd",
        LIFE_HOURS + MONTH,
        FEEDS,
        reference,
        "+",
    )
    yield Column(f"age_{name}", age, f"hours since the last close of {series} known", "h", 720, FEEDS)


def _session(panel: Panel, level: Array, session: Array) -> Array:
    return panel.windowed(session_change, WEEK, (level, session), (WEEK,))


def _funds(panel: Panel) -> Iterator[Column]:
    shares, session, age = _closes(panel, SHARES)
    moved = _session(panel, shares, session)
    reach = LIFE_HOURS + WEEK
    yield Column("spy_return_session", moved, "ln return of SPY over its last session known", "ln", reach, FEEDS)
    yield Column("abs_spy_return_session", np.abs(moved), "|spy_return_session|", "ln", reach, FEEDS, sign="+")
    yield Column(
        "spy_change_168h",
        shares - panel.shift(shares, WEEK),
        "ln SPY - ln SPY as known 168h before",
        "ln",
        reach,
        FEEDS,
        sign="-",
    )
    gold, session, _ = _closes(panel, GOLD)
    moved = _session(panel, gold, session)
    yield Column("gld_return_session", moved, "ln return of GLD over its last session known", "ln", reach, FEEDS)
    credit, session, _ = _closes(panel, CREDIT)
    treasuries, other, _ = _closes(panel, TREASURIES)
    # One of the two may be known before the other: a difference of two sessions would be no return.
    moved = _session(panel, np.where(session == other, credit - treasuries, np.nan), session)
    yield Column(
        "credit_return_session",
        moved,
        "ln return of HYG less that of IEF over the last session known",
        "ln",
        reach,
        FEEDS,
        "Gilchrist and Zakrajsek (2012)",
        "-",
    )
    yield Column("age_etf", age, "hours since the last close of SPY known", "h", 720, FEEDS)
