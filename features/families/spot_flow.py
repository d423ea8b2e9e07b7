"""Taker flow on the spot market of the same pair: who moves the price that the perpetual follows.

The perpetual and the spot market of a pair are one market with two books; informed orders choose the cheaper of them.
References: Easley, O'Hara and Srinivas (1998), J. Finance 53 (informed traders choose their market); Augustin, Rubtsov and
Shin (2023), Management Science 69 (derivatives and spot in price discovery of bitcoin).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np

from features.families import Column, Family, Group
from features.families.flow_kernels import same_hour_reach
from features.families.transforms import (
    MONTH,
    SURPRISE_DAYS,
    correlation,
    log_positive,
    log_ratio,
    ratio,
    score,
    surprise,
)
from features.panel import Panel

__all__ = ["SpotFlow"]

HOURS: Final = (1, 4, 24)
TAKER: Final = ("spot.taker_buy_volume",)
CHOICE: Final = "Easley, O'Hara and Srinivas (1998)"


class SpotFlow(Family):
    """Imbalance, toxicity and activity on the spot market, and how far they part from the perpetual's."""

    name: ClassVar[str] = "spot_flow"
    group: ClassVar[Group] = "flow"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Flow at three scales, its size and its surprise; the spot market's share; NaN without the feed, with its age."""
        volume, taker = panel.field("volume", "spot"), panel.field("taker_buy_volume", "spot")
        signed, traded = 2 * taker - volume, np.where(np.isnan(taker), np.nan, volume)
        net, gross, size = (panel.mean(x, HOURS) for x in (signed, traded, np.abs(signed)))
        for j, hours in enumerate(HOURS):
            imbalance = ratio(net[j], gross[j])
            formula = f"sum(2 taker_buy - volume) / sum volume over {hours}h, spot"
            yield Column(f"spot_flow_imbalance_{hours}h", imbalance, formula, "fraction", hours, TAKER, sign="-")
            name = f"abs_spot_flow_imbalance_{hours}h"
            yield Column(name, np.abs(imbalance), f"|{formula}|", "fraction", hours, TAKER, sign="+")
        toxicity = ratio(size[2], gross[2])
        formula = "sum |2 taker_buy - volume| / sum volume over 24h, spot"
        yield Column("spot_flow_toxicity_24h", toxicity, formula, "fraction", 24, TAKER, CHOICE, "+")
        formula = "(spot toxicity_24h - its mean_720h) / its sd_720h, within ±5"
        yield Column(
            "spot_flow_toxicity_z_24h", score(panel, toxicity, MONTH), formula, "sd", MONTH + 24, TAKER, CHOICE, "+"
        )
        moments = panel.pair(ratio(signed, traded), panel.log_return, 168)
        formula = "corr_168h(spot imbalance_1h, r of the perpetual)"
        yield Column("spot_flow_return_correlation_168h", correlation(moments), formula, "correlation", 169, TAKER)
        yield Column(
            "log_spot_volume_surprise_1h",
            surprise(panel, volume),
            f"ln spot volume - mean of ln spot volume at this hour of the {SURPRISE_DAYS} days before",
            "ln ratio",
            same_hour_reach(SURPRISE_DAYS),
            ("spot",),
            sign="+",
        )
        trades = panel.field("trades", "spot")
        excess = log_positive(panel.ewma(trades, 6)) - log_positive(panel.ewma(trades, 336))
        formula = "ln ew_6h(spot trades) - ln ew_336h(spot trades)"
        yield Column("log_spot_trades_excess_6h", excess, formula, "ln ratio", 1703, ("spot.trades",), sign="+")
        share, usual = panel.mean(volume, (24, MONTH)), panel.mean(panel.field("volume"), (24, MONTH))
        values = log_ratio(ratio(share[0], usual[0]), ratio(share[1], usual[1]))
        formula = "ln of spot volume / perpetual volume over 24h - the same over 720h"
        yield Column("log_spot_share_excess_24h", values, formula, "ln ratio", MONTH, ("spot",), CHOICE, "-")
        age = panel.age(taker)
        yield Column("age_spot_flow", age, "hours since the last spot taker volume", "h", MONTH, TAKER)
