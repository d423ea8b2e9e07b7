"""Reverse stress: not what a given shock costs, but the smallest shock that leaves bad debt.

A shock is a gap of the price, a share of the depth that is left, and the share of open interest that the largest
account on the losing side holds at the highest leverage. Bad debt is what remains after account and fund.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Final

import numpy as np
import pandas as pd

from features.errors import UsageError

from .engine import simulate
from .kernels import MICRO
from .margins import Margins
from .population import Population
from .scenarios.outcome import DAILY_VOLUME, SIGMA, WITHOUT_LIMIT, Setting, crowd
from .synthetic import path_of

__all__ = ["LIMIT", "Shock", "bad_debt_usd", "breaking_gap", "reverse_stress", "smallest_shock", "violations"]

TOLERANCE: Final = 0.001  # of the gap, or of the severity
COLUMNS: Final = ("policy", "side", "depth", "concentration", "gap")


@dataclass(frozen=True)
class Shock:
    """A gap of the price (signed, a fraction), the share of depth left, the largest account's share of open interest."""

    gap: float
    depth: float
    concentration: float

    def __post_init__(self) -> None:
        if not (self.gap > -1 and 0 < self.depth <= 1 and 0 <= self.concentration < 1):
            raise UsageError(f"{self}: needs gap > -1, depth in (0, 1] and concentration in [0, 1)")


LIMIT: Final = Shock(0.6, 0.1, 0.5)  # the worst that is tried


def bad_debt_usd(margins: Margins, shock: Shock, setting: Setting) -> float:
    """What account and fund could not pay, USD, when the shock hits in the middle of the bars of ``margins``."""
    bars = len(margins)
    if bars < 4:
        raise UsageError(f"margins of {bars} bars; a shock needs at least 4")
    middle = bars // 2
    path = path_of(np.full(bars, 100.0), SIGMA, DAILY_VOLUME).with_market(
        depth_scale=np.where(np.arange(bars) < middle, 1.0, shock.depth)
    )
    people = _with_giant(crowd(setting, bars), shock)
    path = path.with_gap(middle, shock.gap) if shock.gap else path
    return simulate(path, margins, people, setting.venue).tally["bad_debt"] / MICRO


def breaking_gap(margins: Margins, side: int, depth: float, concentration: float, setting: Setting) -> float:
    """The smallest gap (above 0; ``side`` -1 down, 1 up) that leaves bad debt, to a thousandth; NaN if none up to LIMIT."""
    return _bisect(lambda gap: bad_debt_usd(margins, Shock(side * gap, depth, concentration), setting) > 0, LIMIT.gap)


def smallest_shock(margins: Margins, side: int, setting: Setting) -> Shock | None:
    """The first shock with bad debt on the way from none to ``side`` times LIMIT, all three growing together.

    Gap and concentration grow linearly, depth shrinks geometrically. None where even LIMIT leaves no bad debt.
    """

    def at(severity: float) -> Shock:
        return Shock(side * severity * LIMIT.gap, LIMIT.depth**severity, severity * LIMIT.concentration)

    severity = _bisect(lambda x: bad_debt_usd(margins, at(x), setting) > 0, 1.0)
    return None if math.isnan(severity) else at(severity)


def reverse_stress(
    policies: Mapping[str, Margins],
    setting: Setting,
    depths: Sequence[float] = (1.0, 0.5, 0.2),
    concentrations: Sequence[float] = (0.0, 0.1, 0.3),
) -> pd.DataFrame:
    """The breaking gap of every policy, side, depth and concentration: columns policy, side, depth, concentration, gap."""
    rows = [
        (name, side, depth, share, breaking_gap(margins, side, depth, share, setting))
        for (name, margins), side, depth, share in product(policies.items(), (-1, 1), depths, concentrations)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def violations(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``reverse_stress`` that break a law: less depth or more concentration must not need a larger gap."""
    broken: list[int] = []
    gaps = table["gap"].fillna(math.inf)
    for column, ascending in (("depth", False), ("concentration", True)):
        others = [name for name in COLUMNS if name not in (column, "gap")]
        for _, group in table.sort_values(column, ascending=ascending).groupby(others, sort=True):
            broken += [late for early, late in pairwise(group.index) if gaps[late] > gaps[early] + 2 * TOLERANCE]
    return table.loc[sorted(set(broken))]


def _with_giant(people: Population, shock: Shock) -> Population:
    """The crowd with one account on the side that loses, of the wanted share of the gross open interest."""
    if shock.concentration == 0:
        return people
    losing = int(np.argmax(people.weight * (-1 if shock.gap > 0 else 1)))
    gross = np.abs(people.weight).sum()
    weight = people.weight * (1 - shock.concentration)
    weight[losing] = np.sign(people.weight[losing]) * shock.concentration * gross
    leverage = people.leverage.copy()
    leverage[losing] = WITHOUT_LIMIT
    return replace(people, weight=weight, leverage=leverage)


def _bisect(breaks: Callable[[float], bool], limit: float) -> float:
    """The least argument in (0, limit] that breaks, given that all beyond it do; NaN where ``limit`` does not."""
    if not breaks(limit):
        return math.nan
    low, high = 0.0, limit
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if breaks(middle) else (middle, high)
    return high
