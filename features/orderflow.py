"""Volume and taker flow.

Taker columns are NaN where the source has no taker side: an estimate never stands under the name of a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from features import kernels
from features.family import Column, Family
from features.panel import Array, Panel

__all__ = ["Flow", "Volume"]


class Volume(Family):
    """Traded volume against its own past."""

    name: ClassVar[str] = "volume"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Log volume at three scales over its monthly level."""
        volume = panel.field("volume")
        base = _log(panel.ewma(volume, 720))
        for half_life in (1, 6, 24):
            yield Column(
                f"log_volume_excess_{half_life}h",
                _log(panel.ewma(volume, half_life)) - base,
                f"ln ew_{half_life}h(volume) - ln ew_720h(volume)",
                "ln ratio",
                kernels.ewma_reach(720) + 23,
            )


class Flow(Family):
    """Who pays the spread: taker imbalance, the number and the size of trades."""

    name: ClassVar[str] = "flow"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Imbalance at three scales, its size, and trades against their past; NaN without the feed, with its age."""
        volume, taker = panel.field("volume"), panel.field("taker_buy_volume")
        signed = 2 * taker - volume
        traded = np.where(np.isnan(taker), np.nan, volume)
        feeds = ("bars.taker_buy_volume",)
        hours = (1, 4, 24)
        net, gross = panel.mean(signed, hours), panel.mean(traded, hours)
        for j, length in enumerate(hours):
            imbalance = net[j] / np.where(gross[j] > 0, gross[j], np.nan)
            formula = f"sum(2 taker_buy - volume) / sum volume over {length}h"
            yield Column(f"flow_imbalance_{length}h", imbalance, formula, "fraction", length, feeds)
            yield Column(f"abs_flow_imbalance_{length}h", np.abs(imbalance), f"|{formula}|", "fraction", length, feeds)
        toxicity = panel.mean(np.abs(signed), (24,))[0] / np.where(gross[2] > 0, gross[2], np.nan)
        yield Column(
            "flow_toxicity_24h",
            toxicity,
            "sum |2 taker_buy - volume| / sum volume over 24h",
            "fraction",
            24,
            feeds,
            "Easley, Lopez de Prado and O'Hara (2012)",
        )
        trades = panel.field("trades")
        size = volume / np.where(trades > 0, trades, np.nan)
        reach = kernels.ewma_reach(720) + 23
        for name, series in (("trades", trades), ("trade_size", size)):
            excess = _log(panel.ewma(series, 6)) - _log(panel.ewma(series, 720))
            yield Column(
                f"log_{name}_excess_6h",
                excess,
                f"ln ew_6h({name}) - ln ew_720h({name})",
                "ln ratio",
                reach,
                ("bars.trades",),
            )
        yield Column("age_taker_flow", panel.age(taker), "hours since the last taker volume", "h", 720, feeds)


def _log(x: Array) -> Array:
    """Natural log; NaN where nothing was traded."""
    return np.log(np.where(x > 0, x, np.nan))
