"""What only raw trades tell of an hour: its variance in five-minute steps, its volume clock, its large and hasty trades.

The measures are columns of bars that ``forecaster data import --from trades`` builds (``schemas.TRADE_MEASURES``). All
features are NaN where the bars come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np

from features.families import Column, Family
from features.families.transforms import MONTH, log_positive, log_ratio, ratio, score
from features.panel import Panel

__all__ = ["TradeFlow"]

DAY: Final = 24
# Buckets of today, whose size was fixed at midnight by the week before.
VPIN_HOURS: Final = 8 * DAY


class TradeFlow(Family):
    """Realised measures, toxicity on the volume clock, price impact and the rhythm of trades, from every single trade."""

    name: ClassVar[str] = "trades"
    group: ClassVar = "flow"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Measures of the last day by themselves or against the last month; NaN without the feed, with its age."""
        yield from _variance(panel)
        yield from _toxicity_and_impact(panel)
        yield from _rhythm(panel)
        age = panel.age(panel.field("realised_variance"))
        formula = "hours since the last bar that was built from trades"
        yield Column("age_trades", age, formula, "h", MONTH, ("bars.realised_variance",))


def _variance(panel: Panel) -> Iterator[Column]:
    """How the day's variance came about: against its range, by jumps, by falls."""
    names = ("realised_variance", "bipower_variation", "semivariance_down", "semivariance_up")
    measured = [panel.field(name) for name in names]
    same_hours = np.where(np.isnan(measured[0]), np.nan, panel.variance)
    realised, diffusive, down, up, whole = (panel.mean(x, (DAY,))[0] for x in (*measured, same_hours))
    yield Column(
        "log_trades_rv_share_24h",
        log_ratio(realised, whole),
        "ln(sum RV / sum v) over 24h, RV from trades; within ± ln 10",
        "ln ratio",
        DAY,
        ("bars.realised_variance",),
        "Andersen and Bollerslev (1998)",
    )
    yield Column(
        "trades_jump_share_24h",
        np.clip(1 - ratio(diffusive, realised), 0, 1),
        "1 - sum bipower variation / sum RV over 24h, within [0, 1]",
        "fraction",
        DAY,
        ("bars.realised_variance", "bars.bipower_variation"),
        "Barndorff-Nielsen and Shephard (2004)",
        "-",
    )
    yield Column(
        "trades_semivariance_share_24h",
        ratio(down, down + up),
        "sum RS- / (sum RS- + sum RS+) over 24h",
        "fraction",
        DAY,
        ("bars.semivariance_down", "bars.semivariance_up"),
        "Patton and Sheppard (2015)",
        "+",
    )


def _toxicity_and_impact(panel: Panel) -> Iterator[Column]:
    """One-sidedness on the volume clock; what trades move, against the last month."""
    vpin = panel.field("vpin")
    reference, feeds = "Easley, Lopez de Prado and O'Hara (2012)", ("bars.vpin",)
    formula = (
        "mean |bought - sold| / volume of the day's last 50 buckets of volume, each 1/50 of a day of the week before"
    )
    yield Column("vpin", vpin, formula, "fraction", VPIN_HOURS, feeds, reference, "+")
    formula = "(vpin - its mean_720h) / its sd_720h, within ±5"
    yield Column("vpin_z_720h", score(panel, vpin, MONTH), formula, "sd", MONTH + VPIN_HOURS, feeds, reference, "+")
    yield _excess(panel, "kyle_lambda", "Kyle (1985)", "")
    yield _excess(panel, "amihud", "Amihud (2002)", "trades_")


def _rhythm(panel: Panel) -> Iterator[Column]:
    """Large trades, the evenness of the waits between trades, and runs of one side."""
    large = panel.field("large_trades")
    hour, day, month = panel.mean(large, (1, DAY, MONTH))
    for hours, mean in ((1, hour), (DAY, day)):
        yield Column(
            f"log_large_trades_excess_{hours}h",
            np.log1p(mean) - np.log1p(month),
            f"ln(1 + mean_{hours}h(large trades)) - ln(1 + mean_720h(large trades))",
            "ln ratio",
            MONTH,
            ("bars.large_trades",),
            sign="+",
        )
    yield Column(
        "log_duration_cv_24h",
        log_positive(panel.mean(panel.field("duration_cv"), (DAY,))[0]),
        "ln mean_24h(sd / mean of the waits between trades); 0 where trades come at random",
        "ln ratio",
        DAY,
        ("bars.duration_cv",),
        "Engle and Russell (1998)",
        "+",
    )
    yield _excess(panel, "run_length_mean", "Lillo and Farmer (2004)", "")


def _excess(panel: Panel, measure: str, reference: str, prefix: str) -> Column:
    """Log of the day's mean of a measure over the month's."""
    day, month = panel.mean(panel.field(measure), (DAY, MONTH))
    return Column(
        f"log_{prefix}{measure}_excess_24h",
        log_ratio(day, month),
        f"ln(mean_24h({measure}) / mean_720h({measure})), {measure} from trades; within ± ln 10",
        "ln ratio",
        MONTH,
        (f"bars.{measure}",),
        reference,
        "+",
    )
