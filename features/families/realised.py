"""Range and high-frequency realised measures as features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from features.families import Column, Family
from features.families.transforms import ratio
from features.measures import VARIANCE_FLOOR, parkinson, rogers_satchell
from features.panel import Array, Panel

__all__ = ["Realised"]


class Realised(Family):
    """How the variance came about: by range or by gap, down or up, by jumps or by diffusion."""

    name: ClassVar[str] = "realised"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Ratios of estimators; the measures inside the hour where bars of 15 minutes exist."""
        high, low = panel.field("high"), panel.field("low")
        range_variance = parkinson(high, low)
        drift_free = rogers_satchell(panel.field("open"), high, low, panel.close)
        down = np.where(panel.log_return < 0, panel.log_return, 0.0) ** 2 + 0.0 * panel.log_return
        squared = panel.log_return**2
        for hours in (24, 168):
            v, squares, falls, ranges, trendless = (
                panel.mean(x, (hours,))[0] for x in (panel.variance, squared, down, range_variance, drift_free)
            )
            yield Column(
                f"semivariance_share_{hours}h",
                ratio(falls, squares),
                f"sum r^2 1(r<0) / sum r^2 over {hours}h",
                "fraction",
                hours,
                reference="Barndorff-Nielsen, Kinnebrock and Shephard (2010)",
                sign="+",
            )
            yield Column(
                f"log_return_share_{hours}h",
                _log_ratio(squares, v),
                f"ln(sum r^2 / sum v) over {hours}h",
                "ln ratio",
                hours,
            )
            yield Column(
                f"log_range_share_{hours}h",
                _log_ratio(ranges, v),
                f"ln(sum Parkinson / sum v) over {hours}h",
                "ln ratio",
                hours,
                reference="Parkinson (1980)",
            )
            yield Column(
                f"log_driftless_share_{hours}h",
                _log_ratio(trendless, v),
                f"ln(sum Rogers-Satchell / sum v) over {hours}h",
                "ln ratio",
                hours,
                reference="Rogers and Satchell (1991)",
            )
        inside, med_rv, quarticity, falls_inside = (
            panel.inside_hours(name) for name in ("squared_returns", "med_rv", "quarticity", "semivariance_down")
        )
        feeds = ("bars 15m",)
        # The season of the same hours: none for those without the measure.
        seasonal = np.where(np.isnan(inside), np.nan, np.exp(panel.log_season))
        for hours in (1, 24):
            rv, med, quartic, falls = (panel.mean(x, (hours,))[0] for x in (inside, med_rv, quarticity, falls_inside))
            season = panel.mean(seasonal, (hours,))[0]
            yield Column(
                f"log_rv_15m_{hours}h",
                _log_ratio(rv, season),
                f"ln(mean_{hours}h(RV_15m) / mean_{hours}h(S))",
                "ln variance/h",
                hours,
                feeds,
                "Andersen and Bollerslev (1998)",
                sign="+",
            )
            yield Column(
                f"med_rv_share_{hours}h",
                ratio(med, rv),
                f"MedRV / RV over {hours}h",
                "ratio",
                hours,
                feeds,
                "Andersen, Dobrev and Schaumburg (2012)",
                sign="+",
            )
            yield Column(
                f"root_quarticity_{hours}h",
                ratio(np.sqrt(quartic), rv),
                f"sqrt(RQ) / RV over {hours}h",
                "ratio",
                hours,
                feeds,
                "Bollerslev, Patton and Quaedvlieg (2016)",
                sign="-",
            )
            yield Column(
                f"semivariance_15m_{hours}h",
                ratio(falls, rv),
                f"RS-/RV over {hours}h",
                "fraction",
                hours,
                feeds,
                "Barndorff-Nielsen, Kinnebrock and Shephard (2010)",
                sign="+",
            )
        yield Column(
            "age_bars_15m",
            panel.age(inside),
            "hours since the last complete hour of 15m bars",
            "h",
            720,
            feeds,
        )


def _log_ratio(part: Array, whole: Array) -> Array:
    return np.asarray(np.log(np.maximum(part, VARIANCE_FLOOR)) - np.log(np.maximum(whole, VARIANCE_FLOOR)))
