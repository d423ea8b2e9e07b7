"""Basis: the perpetual against its mark and against the spot market, the premium that funding will charge.

Reference: Schmeling, Schrimpf and Todorov (2023), BIS Working Papers 1087 (a high carry goes before liquidations).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Final, Literal

import numpy as np

from features.families import Column, Family, Group
from features.families.carry import Z_CAP, settled
from features.families.carry_kernels import window_place, window_slope
from features.families.transforms import signed_log
from features.panel import Array, Panel

__all__ = ["Basis"]

BASIS_POINT: Final = 1e-4
FLOOR: Final = 1e-6  # a spread below a hundredth of a basis point is rounding of prices
CARRY: Final = "Schmeling, Schrimpf and Todorov (2023)"


class Basis(Family):
    """``ln(close/mark)``, ``ln(close/spot)`` and ``ln(mark/spot)``: level, mean, slope, spread and extremes.

    The hours' closes are compared; an hour without one of the two prices is missing, never carried.
    """

    name: ClassVar[str] = "basis"
    group: ClassVar[Group] = "funding"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """The three distances, what the premium adds to the settled funding, and the feeds' ages; NaN without a feed."""
        mark, spot = _log_close(panel, "mark"), _log_close(panel, "spot")
        perpetual = np.log(panel.close)
        yield from _to_mark(panel, perpetual - mark)
        yield from _to_spot(panel, perpetual - spot)
        yield from _premium(panel, mark - spot)
        ahead = 8 * settled(panel).rate
        excess = panel.mean(perpetual - spot, (8,))[0] - ahead
        yield Column(
            "premium_less_funding_8h",
            signed_log(excess, BASIS_POINT),
            "signed ln(1 + |d| / 1bp), d = mean_8h ln(close/spot) - 8 f",
            "ln ratio",
            24,
            ("spot", "funding"),
        )
        yield Column("age_mark", panel.age(mark), "hours since the last mark close", "h", 720, ("mark",))
        yield Column("age_spot", panel.age(spot), "hours since the last spot close", "h", 720, ("spot",))


def _log_close(panel: Panel, table: Literal["mark", "spot"]) -> Array:
    return np.log(panel.field("close", table))


def _to_mark(panel: Panel, basis: Array) -> Iterator[Column]:
    """Last price against mark: wide when the book is being run over faster than the mark's average follows."""
    column = partial(Column, unit="ln ratio", feeds=("mark",))
    level = signed_log(basis, BASIS_POINT)
    yield column("basis_mark", level, "signed ln(1 + |b| / 1bp), b = ln(close/mark)", lookback=1)
    mean = signed_log(panel.mean(basis, (24,))[0], BASIS_POINT)
    yield column("basis_mark_mean_24h", mean, "signed ln(1 + |mean_24h(b)| / 1bp)", lookback=24)
    spread = np.log1p(panel.sd(basis, 24) / BASIS_POINT)
    yield column("log_basis_mark_sd_24h", spread, "ln(1 + sd_24h(b) / 1bp)", lookback=24, sign="+")


def _to_spot(panel: Panel, basis: Array) -> Iterator[Column]:
    """Last price against spot: what leverage pays for being long."""
    column = partial(Column, feeds=("spot",), reference=CARRY)
    level = signed_log(basis, BASIS_POINT)
    yield column("basis_spot", level, "signed ln(1 + |b| / 1bp), b = ln(close/spot)", "ln ratio", 1, sign="+")
    day, week = panel.mean(basis, (24, 168))
    mean = signed_log(day, BASIS_POINT)
    yield column("basis_spot_mean_24h", mean, "signed ln(1 + |mean_24h(b)| / 1bp)", "ln ratio", 24, sign="+")
    slope = signed_log(24 * panel.windowed(window_slope, 24, (basis,), (24, 0.8)), BASIS_POINT)
    formula = "signed ln(1 + 24 |slope_24h(b)| / 1bp), least squares"
    yield column("basis_spot_slope_24h", slope, formula, "ln ratio", 24)
    spread = np.log1p(panel.sd(basis, 24) / BASIS_POINT)
    yield column("log_basis_spot_sd_24h", spread, "ln(1 + sd_24h(b) / 1bp)", "ln ratio", 24, sign="+")
    score = np.clip((basis - week) / np.maximum(panel.sd(basis, 168), FLOOR), -Z_CAP, Z_CAP)
    formula = f"(b - mean_168h(b)) / sd_168h(b), within ±{Z_CAP:g}"
    yield column("basis_spot_z_168h", score, formula, "sd", 168)
    rank, place = panel.windowed(window_place, 720, (basis,), (720, 0.8))
    yield column("basis_spot_rank_720h", rank, "share of b of 720h below b, equal ones half", "fraction", 720)
    formula = "(b - min_720h(b)) / (max_720h(b) - min_720h(b))"
    yield column("basis_spot_range_place_720h", place, formula, "fraction", 720)


def _premium(panel: Panel, premium: Array) -> Iterator[Column]:
    """Mark against spot: the venue's own smoothed premium, free of the noise of the last trade."""
    column = partial(Column, unit="ln ratio", feeds=("mark", "spot"), reference=CARRY)
    level = signed_log(premium, BASIS_POINT)
    yield column("premium", level, "signed ln(1 + |p| / 1bp), p = ln(mark/spot)", lookback=1, sign="+")
    mean = signed_log(panel.mean(premium, (24,))[0], BASIS_POINT)
    yield column("premium_mean_24h", mean, "signed ln(1 + |mean_24h(p)| / 1bp)", lookback=24, sign="+")
    slope = signed_log(24 * panel.windowed(window_slope, 24, (premium,), (24, 0.8)), BASIS_POINT)
    yield column("premium_slope_24h", slope, "signed ln(1 + 24 |slope_24h(p)| / 1bp), least squares", lookback=24)
