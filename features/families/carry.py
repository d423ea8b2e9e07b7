"""Funding: what holding a perpetual costs, per hour whatever the settlement interval.

Venues quote a rate per settlement and change the interval (8, 4 or 1 hours), so every feature reads the rate per hour.
Across a hole the interval is unknown, and so is the rate per hour: it stays missing until the next settlement.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Final, NamedTuple

import numpy as np

from features import kernels
from features.families import Column, Family, Group
from features.families.carry_kernels import ar_surprise, window_place
from features.families.transforms import signed_log
from features.panel import Array, Panel

__all__ = ["FUNDING_LIFE_HOURS", "RATE_TICK", "RATE_UNIT", "Z_CAP", "Funding", "Settled", "settled"]

FUNDING_LIFE_HOURS: Final = 24
DEFAULT_INTERVAL_HOURS: Final = 8.0
RATE_UNIT: Final = 1e-4 / 8  # the interest part of the usual funding formula, 0.01 % per eight hours
RATE_TICK: Final = 1e-8 / 8  # rates are published in steps of 1e-8 a settlement
Z_CAP: Final = 8.0
AR_HOURS: Final = 720
AR_PAIRS: Final = 30
CARRY: Final = "Schmeling, Schrimpf and Todorov (2023)"

_column = partial(Column, feeds=("funding",))


class Settled(NamedTuple):
    """The newest settlement known at each hour: rate (fraction/h), interval and age (h), each (n_symbols, n_hours)."""

    rate: Array
    interval: Array
    age: Array


def settled(panel: Panel) -> Settled:
    """The main venue's newest settlement; rate and interval are NaN once it is a day old."""
    known = panel.as_of(
        panel.market.funding(), {"rate": "funding_rate", "interval": "interval_hours"}, FUNDING_LIFE_HOURS
    )
    return Settled(known["rate"] / known["interval"], known["interval"], known["age"])


class Funding(Family):
    """Settled funding as of each hour against its own past, and the clock of the next settlement."""

    name: ClassVar[str] = "funding"
    group: ClassVar[Group] = "funding"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Level, extremes, cost of carry, surprise, persistence, change, clock; NaN without the feed, with its age."""
        known = settled(panel)
        yield from _level(panel, known.rate)
        yield from _surprise(panel, known)
        yield from _change(panel, known.rate)
        yield from _clock(panel, known)


def _level(panel: Panel, rate: Array) -> Iterator[Column]:
    """The rate, its place in the past month, and what holding the position has cost."""
    life = FUNDING_LIFE_HOURS
    yield _column("funding_rate_1h", rate, "f = rate / interval_hours", "fraction/h", life, reference=CARRY, sign="+")
    yield _column("abs_funding_rate_1h", np.abs(rate), "|f|", "fraction/h", life, sign="+")
    yield _column(
        "log_funding_rate",
        signed_log(rate, RATE_UNIT),
        "sign(f) ln(1 + |f| / f0), f0 = 0.01% per 8h",
        "ln ratio",
        life,
        reference=CARRY,
        sign="+",
    )
    place = panel.windowed(window_place, 720, (rate,), (720, 0.8))
    yield _column("funding_rank_720h", place[0], "share of f of 720h below f, equal ones half", "fraction", 720)
    formula = "(f - min_720h(f)) / (max_720h(f) - min_720h(f))"
    yield _column("funding_range_place_720h", place[1], formula, "fraction", 720)
    hours = (72, 168, 720)
    for length, mean in zip(hours, panel.mean(rate, hours), strict=True):
        formula = f"sum of f over {length}h"
        yield _column(f"funding_sum_{length}h", length * mean, formula, "fraction", length, reference=CARRY, sign="+")


def _surprise(panel: Panel, known: Settled) -> Iterator[Column]:
    """The newest rate against an average, a distribution and a forecast made of the rates before it."""
    rate = known.rate
    excess = rate - panel.ewma(rate, 168)
    reach = kernels.ewma_reach(168) + 23
    yield _column("funding_surprise_168h", excess, "f - ew_168h(f)", "fraction/h", reach)
    # Rates that stand still for a week spread by rounding alone, hence at least one step of the rate.
    spread = np.maximum(panel.sd(rate, 168), RATE_TICK)
    score = (rate - panel.mean(rate, (168,))[0]) / spread
    yield _column("funding_rate_z_168h", score, "(f - mean_168h(f)) / sd_168h(f)", "sd", 168)
    formula = "ln(1 + sd_168h(f) / f0)"
    yield _column("log_funding_sd_168h", np.log1p(spread / RATE_UNIT), formula, "ln ratio", 168, sign="+")
    settlements = np.where(known.age < 1, rate, np.nan)
    parameters = (AR_HOURS, FUNDING_LIFE_HOURS, AR_PAIRS, RATE_TICK)
    error, slope = panel.windowed(ar_surprise, AR_HOURS, (settlements,), parameters)
    formula = f"(f - its AR(1) forecast from the settlements of {AR_HOURS}h) / residual sd, within ±{Z_CAP:g}"
    yield _column("funding_ar_surprise_720h", np.clip(error, -Z_CAP, Z_CAP), formula, "sd", AR_HOURS)
    slope = np.clip(slope, -1.0, 1.0)
    formula = f"AR(1) coefficient of the settlements of {AR_HOURS}h, within ±1"
    yield _column("funding_ar_coefficient_720h", slope, formula, "ratio", AR_HOURS)


def _change(panel: Panel, rate: Array) -> Iterator[Column]:
    """How the rate has moved, and how long the same side has paid."""
    for hours in (24, 168):
        change = signed_log(rate - panel.shift(rate, hours), RATE_UNIT)
        formula = f"signed ln(1 + |d| / f0) of d = f - f {hours}h ago"
        yield _column(f"funding_change_{hours}h", change, formula, "ln ratio", hours)
    side = np.sign(rate)
    balance = panel.mean(side, (168,))[0]
    yield _column("funding_sign_mean_168h", balance, "mean_168h(sign f)", "fraction", 168)
    before = panel.shift(side, 1)
    turned = np.where((side != before) & ~np.isnan(side) & ~np.isnan(before), 1.0, np.nan)
    run = np.where(np.isnan(side), np.nan, np.log1p(panel.age(turned)))
    yield _column("log_funding_sign_age", run, "ln(1 + hours since f changed sign, at most 720)", "ln h", 720)


def _clock(panel: Panel, known: Settled) -> Iterator[Column]:
    """When the next settlement falls, and how often the venue settles: it hastens when the premium is extreme."""
    # Settlements fall on multiples of the interval since midnight UTC; eight hours is the convention before one is seen.
    interval = np.where(np.isnan(known.interval), DEFAULT_INTERVAL_HOURS, known.interval)
    hour = panel.times.hour.to_numpy(np.float64)[None, :]
    to_next = interval - np.mod(hour, interval)
    life = FUNDING_LIFE_HOURS
    yield _column("funding_interval", known.interval, "interval_hours", "h", life, sign="-")
    yield _column("hours_to_funding", to_next, "interval - hour mod interval", "h", life)
    elapsed = known.age / known.interval
    yield _column("funding_cycle", elapsed, "hours since the settlement / interval", "fraction", life)
    yield _column("age_funding", known.age, "hours since the last settlement known", "h", 720)
