"""The cross-section: what the other markets are doing now.

Every statistic is over the symbols alive at the origin. References: Bollerslev, Hood, Huss and Pedersen (2018), Rev.
Financial Studies 31 (pooled risk models and a global factor).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from features import kernels
from features.family import Column, Family
from features.panel import Array, Panel

__all__ = ["Cross"]

LEADERS = ("BTCUSDT", "ETHUSDT")


class Cross(Family):
    """Market volatility factor, dispersion, spillover, and the burst of the two leading markets."""

    name: ClassVar[str] = "cross"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Means and spreads over symbols; a symbol's own distance from them."""
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
            )
            yield Column(
                f"own_less_market_{half_life}h",
                level - mean,
                f"ln ew_{half_life}h(v/S) - its mean over symbols",
                "ln variance",
                reach,
            )
        burst = np.log(panel.ewma(panel.deseasonalised, 3)) - np.log(panel.ewma(panel.deseasonalised, 96))
        reach = kernels.ewma_reach(96) + 23
        yield Column(
            "market_burst_dispersion",
            panel.across(burst, kernels.cross_sd),
            "sd over symbols of ln ew_3h - ln ew_96h",
            "ln variance",
            reach,
        )
        for leader in LEADERS:
            values = np.full_like(burst, np.nan)
            if leader in panel.symbols:
                values[:] = burst[panel.symbols.index(leader)]
            yield Column(
                f"burst_{leader.removesuffix('USDT').lower()}",
                values,
                f"ln ew_3h - ln ew_96h of {leader}",
                "ln variance",
                reach,
            )
        for hours in (1, 4):
            level = np.log(panel.mean(panel.deseasonalised, (hours,))[0])
            yield Column(
                f"spillover_{hours}h",
                _mean_of_others(level),
                f"mean over the other symbols of ln mean_{hours}h(v/S)",
                "ln variance/h",
                hours,
            )
        size = np.abs(panel.across(panel.log_return, kernels.cross_mean))
        own = panel.across(np.abs(panel.log_return), kernels.cross_mean)
        alignment = panel.mean(size, (24,))[0] / panel.mean(own, (24,))[0]
        yield Column(
            "market_alignment_24h",
            alignment,
            "mean_24h|mean r| / mean_24h(mean |r|) over symbols",
            "fraction",
            24,
        )


def _mean_of_others(x: Array) -> Array:
    """Mean over the other rows' finite values; NaN where there is none."""
    present = ~np.isnan(x)
    values = np.where(present, x, 0.0)
    # Each row's own sum over the others, not total minus own: a difference has other bits when a symbol is added.
    others = np.full_like(x, np.nan)
    for i in range(len(x)):
        rest = [j for j in range(len(x)) if j != i]
        count = present[rest].sum(axis=0)
        others[i] = np.where(count > 0, values[rest].sum(axis=0) / np.maximum(count, 1), np.nan)
    return others
