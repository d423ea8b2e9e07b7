"""The cross-section: what the other markets are doing now.

Every statistic is over the symbols alive at the origin. What speaks of the market as a whole is carried through windows as
one row, shape (1, n_hours), and given to every symbol at the end: a symbol listed this hour has the market's past too.
References: Bollerslev, Hood, Huss and Pedersen (2018), Rev.
Financial Studies 31 (pooled risk models and a global factor).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np

from features import kernels
from features.families import Column, Family, Group
from features.families.cross_kernels import concentration, rank, window_max
from features.families.transforms import for_every_symbol, row_of
from features.panel import Array, Panel

__all__ = [
    "BURST_REACH",
    "LEADERS",
    "LOG_DOUBLED",
    "Cross",
    "log_burst",
    "market_alignment",
]

LEADERS: Final = ("BTCUSDT", "ETHUSDT")
WEEK_DAYS: Final = 7
BURST_REACH: Final = kernels.ewma_reach(96) + 23
# Twice the volatility is four times the variance.
LOG_DOUBLED: Final = float(np.log(4.0))
DRAWDOWN: Final = 0.10


class Cross(Family):
    """Market volatility factor, dispersion, concentration, breadth, spillover, and the burst of the two leaders."""

    name: ClassVar[str] = "cross"
    group: ClassVar[Group] = "cross"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Means, spreads and shares over symbols; a symbol's own place among them."""
        yield from _factor(panel)
        yield from for_every_symbol(panel, _bursts(panel))
        yield from for_every_symbol(panel, _spillover(panel))
        yield from _spread(panel)
        yield from _drawdown(panel)


def log_burst(panel: Panel) -> Array:
    """How far the variance of the last hours stands above that of the last days: ``ln ew_3h(v/S) - ln ew_96h(v/S)``."""
    burst: Array = np.log(panel.ewma(panel.deseasonalised, 3)) - np.log(panel.ewma(panel.deseasonalised, 96))
    return burst


def market_alignment(panel: Panel) -> Array:
    """How far the symbols moved as one over 24 hours, shape (1, n_hours): 1 in step, near 0 each its own way."""
    size = np.abs(kernels.cross_mean(panel.log_return)[None, :])
    own = kernels.cross_mean(np.abs(panel.log_return))[None, :]
    moved = panel.mean(own, (24,))[0]
    aligned: Array = panel.mean(size, (24,))[0] / np.where(moved > 0, moved, np.nan)
    return aligned


def _factor(panel: Panel) -> Iterator[Column]:
    for half_life in (3, 24, 168):
        level = np.log(panel.ewma(panel.deseasonalised, half_life))
        mean = panel.across(level, kernels.cross_mean)
        reach = kernels.ewma_reach(half_life) + 23
        yield Column(
            f"market_log_ew_{half_life}h",
            mean,
            f"mean over symbols of ln ew_{half_life}h(v/S)",
            "ln variance/h",
            reach,
            reference="Bollerslev, Hood, Huss and Pedersen (2018)",
            sign="+",
        )
        yield Column(
            f"own_less_market_{half_life}h",
            level - mean,
            f"ln ew_{half_life}h(v/S) - its mean over symbols",
            "ln variance",
            reach,
            sign="-",
        )
    # The mean of each symbol's own change: a change of the mean would jump whenever a market is listed.
    for hours, half_life in ((1, 3), (24, 24)):
        level = np.log(panel.ewma(panel.deseasonalised, half_life))
        yield Column(
            f"market_change_{hours}h",
            panel.across(level - panel.shift(level, hours), kernels.cross_mean),
            f"mean over symbols of the change of ln ew_{half_life}h(v/S) over {hours}h",
            "ln variance",
            kernels.ewma_reach(half_life) + 23 + hours,
            sign="+",
        )


def _bursts(panel: Panel) -> Iterator[Column]:
    burst = log_burst(panel)
    yield Column(
        "market_burst_dispersion",
        panel.across(burst, kernels.cross_sd),
        "sd over symbols of ln ew_3h - ln ew_96h",
        "ln variance",
        BURST_REACH,
    )
    for leader in LEADERS:
        yield Column(
            f"burst_{leader.removesuffix('USDT').lower()}",
            row_of(panel, leader, burst),
            f"ln ew_3h - ln ew_96h of {leader}",
            "ln variance",
            BURST_REACH,
            sign="+",
        )
    doubled = np.where(np.isnan(burst), np.nan, (burst > LOG_DOUBLED).astype(np.float64))
    yield Column(
        "burst_breadth",
        panel.across(doubled, kernels.cross_mean),
        "share of symbols with sqrt ew_3h(v/S) > 2 sqrt ew_96h(v/S)",
        "fraction",
        BURST_REACH,
        sign="+",
    )


def _spillover(panel: Panel) -> Iterator[Column]:
    for hours in (1, 4):
        level = np.log(panel.mean(panel.deseasonalised, (hours,))[0])
        yield Column(
            f"spillover_{hours}h",
            kernels.cross_mean_of_others(level),
            f"mean over the other symbols of ln mean_{hours}h(v/S)",
            "ln variance/h",
            hours,
            sign="+",
        )
    yield Column(
        "market_alignment_24h",
        market_alignment(panel),
        "mean_24h|mean r| / mean_24h(mean |r|) over symbols",
        "fraction",
        24,
        sign="+",
    )


def _spread(panel: Panel) -> Iterator[Column]:
    level = np.log(panel.ewma(panel.deseasonalised, 24))
    reach = kernels.ewma_reach(24) + 23
    yield Column(
        "market_dispersion_24h",
        panel.across(level, kernels.cross_sd),
        "sd over symbols of ln ew_24h(v/S)",
        "ln variance",
        reach,
    )
    yield Column(
        "vol_rank_24h", rank(level), "share of the other symbols with a lower ew_24h(v/S)", "fraction", reach, sign="-"
    )
    yield Column(
        "variance_concentration_24h",
        panel.across(panel.mean(panel.capped_variance, (24,))[0], concentration),
        "(H - 1/n) / (1 - 1/n), H = sum of squared shares in the symbols' sum of mean_24h(v)",
        "fraction",
        24,
        reference="Herfindahl (1950)",
    )
    # Price times volume, not quote_volume: only some sources have that, and a share must not mix two measures.
    turnover = panel.mean(panel.close * panel.field("volume"), (24,))[0]
    yield Column(
        "turnover_concentration_24h",
        panel.across(turnover, concentration),
        "(H - 1/n) / (1 - 1/n), H = sum of squared shares in the symbols' sum of mean_24h(close * volume)",
        "fraction",
        24,
        reference="Herfindahl (1950)",
    )


def _drawdown(panel: Panel) -> Iterator[Column]:
    peak = panel.windowed(window_max, WEEK_DAYS * 24, (panel.close,), (WEEK_DAYS, 0.5))
    fall = 1.0 - panel.close / peak
    deep = np.where(np.isnan(fall), np.nan, (fall > DRAWDOWN).astype(np.float64))
    yield Column(
        "drawdown_breadth_168h",
        panel.across(deep, kernels.cross_mean),
        f"share of symbols that close more than {DRAWDOWN:.0%} under their highest close of 168h",
        "fraction",
        WEEK_DAYS * 24,
        sign="+",
    )
