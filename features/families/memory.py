"""The memory of volatility: ladders of past variance, and the path that led here.

References: Corsi (2009), J. Financial Econometrics 7 (HAR); Guyon and Lekeufack (2023), Quantitative Finance 23
(volatility is mostly path-dependent); Alexander and Dakos (2023), Quantitative Finance 23 (a larger weight after falls);
Bollerslev, Patton and Quaedvlieg (2016), J. Econometrics 192 (how far a day's realised variance is to be trusted).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np

from features import kernels
from features.families import Column, Family
from features.measures import VARIANCE_FLOOR
from features.panel import Array, Panel

__all__ = ["DOWN_HALF_LIVES", "EWMA_HALF_LIVES", "HAR_HOURS", "RAW_HALF_LIVES", "Ladder", "Path"]

HAR_HOURS: Final = (1, 4, 12, 24, 72, 168, 720)
EWMA_HALF_LIVES: Final = (2, 6, 12, 24, 48, 96, 336)
DOWN_HALF_LIVES: Final = (2, 6, 12, 24, 48)
RAW_HALF_LIVES: Final = (6, 12, 24, 48, 96, 192)
PATH_HALF_LIVES: Final = (2, 6, 24, 120, 480)


class Ladder(Family):
    """Log means of past bar variance at many scales: deseasonalised for the models, raw for the plain references."""

    name: ClassVar[str] = "memory"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """HAR means, EWMAs and raw references."""
        smooth = panel.mean(panel.deseasonalised, HAR_HOURS)
        raw = panel.mean(panel.capped_variance, HAR_HOURS)
        for j, hours in enumerate(HAR_HOURS):
            yield Column(
                f"log_rv_{hours}h",
                _log(smooth[j]),
                f"ln mean_{hours}h(v/S)",
                "ln variance/h",
                hours,
                reference="Corsi (2009)",
                sign="+",
            )
            yield Column(
                f"log_rv_raw_{hours}h",
                _log(raw[j]),
                f"ln mean_{hours}h(v)",
                "ln variance/h",
                hours,
                reference="Corsi (2009)",
                sign="+",
            )
        for half_life in EWMA_HALF_LIVES:
            yield Column(
                f"log_ew_{half_life}h",
                _log(panel.ewma(panel.deseasonalised, half_life)),
                f"ln ew_{half_life}h(v/S)",
                "ln variance/h",
                kernels.ewma_reach(half_life) + 23,
                sign="+",
            )
        for half_life in RAW_HALF_LIVES:
            yield Column(
                f"log_ew_raw_{half_life}h",
                _log(panel.ewma(panel.capped_variance, half_life)),
                f"ln ew_{half_life}h(v)",
                "ln variance/h",
                kernels.ewma_reach(half_life) + 23,
                reference="J.P. Morgan RiskMetrics (1996)",
                sign="+",
            )
        falling = panel.deseasonalised * (panel.log_return < 0) + 0.0 * panel.log_return
        for half_life in DOWN_HALF_LIVES:
            yield Column(
                f"log_ew_down_{half_life}h",
                _log(panel.ewma(falling, half_life)),
                f"ln ew_{half_life}h(v/S 1(r<0))",
                "ln variance/h",
                kernels.ewma_reach(half_life) + 23,
                reference="Alexander and Dakos (2023)",
                sign="+",
            )
        day = np.maximum(smooth[HAR_HOURS.index(24)], VARIANCE_FLOOR)
        # No less than the squared mean (Cauchy and Schwarz), whatever rounding makes of an even day.
        quarticity = np.maximum(panel.mean(panel.deseasonalised**2, (24,))[0], day**2)
        yield Column(
            "log_hourly_quarticity_24h",
            0.5 * np.log(quarticity) - np.log(day),
            "ln(sqrt(24 sum_24h((v/S)^2)) / sum_24h(v/S))",
            "ln ratio",
            24,
            reference="Bollerslev, Patton and Quaedvlieg (2016)",
            sign="-",
        )
        log_v = np.log(panel.deseasonalised)
        yield Column("log_rv_sd_24h", panel.sd(log_v, 24), "sd_24h(ln(v/S))", "ln variance", 24, sign="±")
        yield Column("log_rv_sd_168h", panel.sd(log_v, 168), "sd_168h(ln(v/S))", "ln variance", 168, sign="±")


class Path(Family):
    """Where the price came from, in units of its own volatility."""

    name: ClassVar[str] = "path"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """The last return, deseasonalised; trends in units of their volatility; the recent low and high."""
        r = panel.log_return / np.exp(0.5 * panel.log_season)
        yield Column("log_return_1h", panel.log_return, "ln(close/close_1h)", "ln price", 1, sign="-")
        yield Column("log_season_1h", panel.log_season, "ln S of the bar just ended", "ln variance", 1)
        # The floor moves with the market's own variance: scaled returns must not change the feature.
        size = np.log(r**2 / np.exp(_log(panel.ewma(panel.deseasonalised, 24))) + 1e-4)
        yield Column("log_rsq_excess_1h", size, "ln(r^2/(S ew_24h(v/S)) + 1e-4)", "ln variance", 143, sign="+")
        # Clipped like the variance: one crash hour must not rule a trend for weeks.
        bound = 3.0 * np.sqrt(panel.shift(panel.ewma(panel.deseasonalised, 24), 1))
        clipped = np.clip(r, -bound, bound)
        for half_life in PATH_HALF_LIVES:
            scale = np.sqrt(panel.ewma(clipped**2, half_life))
            trend = panel.ewma(clipped, half_life) / np.where(scale > 0, scale, np.nan)
            # The bound reads the day's EWMA of the hour before.
            reach = max(kernels.ewma_reach(half_life), kernels.ewma_reach(24) + 1) + 23
            for name, values in ((f"trend_{half_life}h", trend), (f"abs_trend_{half_life}h", np.abs(trend))):
                yield Column(
                    name,
                    values,
                    f"{'size of ' if name[0] == 'a' else ''}ew_{half_life}h(b) / sqrt(ew_{half_life}h(b^2)), "
                    "b = r/sqrt(S) within 3 sd",
                    "sd",
                    reach,
                    reference="Guyon and Lekeufack (2023)",
                    sign="+" if name[0] == "a" else "-",
                )


def _log(x: Array) -> Array:
    return np.asarray(np.log(np.maximum(x, VARIANCE_FLOOR)))
