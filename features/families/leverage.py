"""Open interest: how much leverage stands, how fast it was built, and when it was thrown out.

No free history of recorded liquidations exists. What forced closing leaves behind does: open interest falls in an hour
in which the price runs against one side. References: Bessembinder and Seguin (1993), J. Financial and Quantitative
Analysis 28 (open interest as depth); Brunnermeier and Pedersen (2009), Review of Financial Studies 22 (margin spirals).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Final

import numpy as np

from features import kernels
from features.families import Column, Family, Group
from features.families.carry import RATE_UNIT, Z_CAP, settled
from features.families.transforms import signed_log
from features.panel import Array, Panel

__all__ = ["OpenInterest"]

LIFE_HOURS: Final = 4
CHANGE_CAP: Final = 2.0
DROP_CAP: Final = 0.5  # a fall of the logarithm beyond this within an hour is more likely a misprint
MOVE_CAP: Final = 10.0
SPREAD_FLOOR: Final = 1e-4
DEPTH: Final = "Bessembinder and Seguin (1993)"
SPIRAL: Final = "Brunnermeier and Pedersen (2009)"

_column = partial(Column, feeds=("open_interest",))
_with_bars = partial(Column, feeds=("open_interest", "bars"))


class OpenInterest(Family):
    """Open interest as of each hour in units of the coin; rows of zero (stretches of the archive) count as missing."""

    name: ClassVar[str] = "open_interest"
    group: ClassVar[Group] = "funding"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Change, size against turnover, liquidation proxies, build-up; NaN without the feed, with its age."""
        rows = panel.market.open_interest()
        known = panel.as_of(rows[rows["open_interest"] > 0], {"coins": "open_interest"}, LIFE_HOURS)
        level = np.log(known["coins"])
        # A snapshot carried into a second hour would show no change there and two hours' change in the next.
        fresh = np.where(known["age"] < 1, level, np.nan)
        hourly = fresh - panel.shift(fresh, 1)
        changes = {hours: level - panel.shift(level, hours) for hours in (4, 24, 168)}
        for hours, change in {1: hourly, **changes}.items():
            capped = np.clip(change, -CHANGE_CAP, CHANGE_CAP)
            formula = f"ln OI - ln OI {hours}h ago, within ±{CHANGE_CAP:g}"
            yield _column(f"oi_change_{hours}h", capped, formula, "ln ratio", hours + LIFE_HOURS)
        variance = panel.ewma(panel.capped_variance, 24)
        yield from _size(panel, level)
        yield from _liquidations(panel, hourly, variance)
        yield from _build_up(panel, changes, variance)
        yield _column("age_open_interest", known["age"], "hours since the last open interest known", "h", 720)


def _size(panel: Panel, level: Array) -> Iterator[Column]:
    """Open interest against a day's turnover (both in coins) and against its own month."""
    turnover = panel.ewma(panel.field("volume"), 24)
    reach = kernels.ewma_reach(24) + 23
    ratio = level - np.log(np.where(turnover > 0, turnover, np.nan))
    yield _with_bars("log_oi_turnover_24h", ratio, "ln(OI / ew_24h(volume))", "ln h", reach, reference=DEPTH)
    score = (level - panel.mean(level, (720,))[0]) / np.maximum(panel.sd(level, 720), SPREAD_FLOOR)
    formula = f"(ln OI - mean_720h) / sd_720h, within ±{Z_CAP:g}"
    yield _column("oi_z_720h", np.clip(score, -Z_CAP, Z_CAP), formula, "sd", 720, reference=DEPTH)


def _liquidations(panel: Panel, change: Array, variance: Array) -> Iterator[Column]:
    """Hours in which positions vanish while the price runs: longs where it falls, shorts where it rises."""
    move = np.minimum(np.abs(panel.log_return) / np.sqrt(variance), MOVE_CAP)
    forced = np.clip(-change, 0.0, DROP_CAP) * move
    reach = kernels.ewma_reach(24) + 23
    column = partial(_with_bars, reference=SPIRAL, sign="+")
    product = f"q = min(max(0, -d ln OI), {DROP_CAP:g}) min(|r| / sqrt(ew_24h(v)), {MOVE_CAP:g})"
    days = []
    for side, against, sense in (("long", panel.log_return < 0, "r < 0"), ("short", panel.log_return > 0, "r > 0")):
        hit = forced * against
        day, slow = 24 * panel.mean(hit, (24,))[0], 24 * panel.ewma(hit, 48)
        days.append(day)
        for label, values, formula, lookback in (
            ("1h", hit, "q", reach),
            ("24h", day, "sum_24h(q)", 24 + reach),
            ("ew_48h", slow, "24 ew_48h(q)", kernels.ewma_reach(48) + 23 + reach),
        ):
            formula = f"ln(1 + 100 {formula}), {product} where {sense}"
            yield column(f"log_{side}_liquidations_{label}", np.log1p(100 * values), formula, "ln % sd", lookback)
    total = days[0] + days[1]
    tilt = (days[0] - days[1]) / np.where(total > 0, total, np.nan)
    formula = "(long - short) / (long + short), sums of the liquidation proxy over 24h"
    yield _with_bars("liquidation_tilt_24h", tilt, formula, "fraction", 24 + reach, reference=SPIRAL)


def _build_up(panel: Panel, changes: dict[int, Array], variance: Array) -> Iterator[Column]:
    """Leverage that grows while funding moves away from zero, while the market is calm, or along with the trend."""
    week = np.clip(changes[168], 0.0, CHANGE_CAP)
    size = np.abs(signed_log(settled(panel).rate, RATE_UNIT))
    dearer = np.maximum(size - panel.shift(size, 168), 0.0)
    yield Column(
        "build_up_funding_168h",
        week * dearer,
        "max(0, d_168h ln OI) max(0, d_168h ln(1 + |f| / f0)), f0 = 0.01% per 8h",
        "ln ratio squared",
        168 + 24,
        ("open_interest", "funding"),
        SPIRAL,
        sign="+",
    )
    calm = np.maximum(np.log(panel.ewma(panel.capped_variance, 720)) - np.log(variance), 0.0)
    formula = "max(0, d_168h ln OI) max(0, ln ew_720h(v) - ln ew_24h(v))"
    reach = kernels.ewma_reach(720) + 23
    yield _with_bars("build_up_calm_168h", week * calm, formula, "ln ratio squared", reach, reference=SPIRAL, sign="+")
    trend = (np.log(panel.close) - np.log(panel.shift(panel.close, 24))) / np.sqrt(24 * variance)
    along = np.clip(changes[24], -CHANGE_CAP, CHANGE_CAP) * np.clip(trend, -MOVE_CAP, MOVE_CAP)
    formula = f"d_24h ln OI times ln(close / close 24h ago) / sqrt(24 ew_24h(v)) within ±{MOVE_CAP:g}"
    yield _with_bars("build_up_trend_24h", along, formula, "ln ratio x sd", kernels.ewma_reach(24) + 23)
