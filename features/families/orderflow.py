"""Volume and taker flow.

Taker columns are NaN where the source has no taker side: an estimate never stands under the name of a measurement
(``flow_proxy`` has the estimate).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np

from features import kernels
from features.families import Column, Family
from features.families.flow_kernels import same_hour_reach, sign_run
from features.families.transforms import (
    MONTH,
    SCALE_REACH,
    SCORE_LIMIT,
    SURPRISE_DAYS,
    WEEK,
    correlation,
    log_positive,
    log_ratio,
    positive,
    quote_volume,
    ratio,
    scaled_return,
    score,
    surprise,
    trailing_sd,
)
from features.panel import Array, Panel

__all__ = ["Flow", "Volume"]

LEVEL_REACH: Final = kernels.ewma_reach(MONTH) + 23
IMBALANCE_HOURS: Final = (1, 4, 12, 24, 72)
TOXICITY_HOURS: Final = (24, 72, 168)
RUN_CAP: Final = 48
LARGEST_DISPERSION: Final = 15

EASLEY: Final = "Easley, Lopez de Prado and O'Hara (2012)"
AMIHUD: Final = "Amihud (2002)"


class Volume(Family):
    """Traded volume against its own past, against its hour of the day, and against volatility."""

    name: ClassVar[str] = "volume"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Log volume at three scales over its monthly level; its surprise; illiquidity; volume that moves no price."""
        volume = panel.field("volume")
        base = log_positive(panel.ewma(volume, MONTH))
        for half_life in (1, 6, 24):
            excess = log_positive(panel.ewma(volume, half_life)) - base
            formula = f"ln ew_{half_life}h(volume) - ln ew_720h(volume)"
            yield Column(f"log_volume_excess_{half_life}h", excess, formula, "ln ratio", LEVEL_REACH, sign="+")
        yield Column(
            "log_volume_surprise_1h",
            surprise(panel, volume),
            f"ln volume - mean of ln volume at this hour of the {SURPRISE_DAYS} days before",
            "ln ratio",
            same_hour_reach(SURPRISE_DAYS),
            sign="+",
        )
        per_quote = np.abs(panel.log_return) / positive(quote_volume(panel))
        day, week, month = panel.mean(per_quote, (24, WEEK, MONTH))
        for hours, mean in ((24, day), (WEEK, week)):
            formula = f"ln mean_{hours}h(|r| / quote volume) - ln mean_720h(|r| / quote volume)"
            name = f"log_amihud_excess_{hours}h"
            yield Column(name, log_ratio(mean, month), formula, "ln ratio", MONTH, reference=AMIHUD, sign="+")
        traded, moved = panel.mean(volume, (24, MONTH)), panel.mean(panel.capped_variance, (24, MONTH))
        yield Column(
            "volume_volatility_divergence_24h",
            log_ratio(traded[0], traded[1]) - 0.5 * log_ratio(moved[0], moved[1]),
            "ln(mean_24h(volume) / mean_720h(volume)) - ln(mean_24h(v) / mean_720h(v)) / 2",
            "ln ratio",
            MONTH,
            reference="Tauchen and Pitts (1983)",
            sign="+",
        )


class Flow(Family):
    """Who pays the spread, how long they keep on, what their orders move, and how trades call for trades."""

    name: ClassVar[str] = "flow"
    group: ClassVar = "flow"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Imbalance, toxicity, persistence, price impact, divergence and arrival; NaN without the feed, with its age."""
        volume, taker = panel.field("volume"), panel.field("taker_buy_volume")
        hours = tuple(sorted({*IMBALANCE_HOURS, *TOXICITY_HOURS}))
        signed = 2 * taker - volume
        traded = np.where(np.isnan(taker), np.nan, volume)
        gross = dict(zip(hours, panel.mean(traded, hours), strict=True))
        net = dict(zip(hours, panel.mean(signed, hours), strict=True))
        onesided = dict(zip(hours, panel.mean(np.abs(signed), hours), strict=True))
        imbalance = {length: ratio(net[length], gross[length]) for length in IMBALANCE_HOURS}
        toxicity = {length: ratio(onesided[length], gross[length]) for length in TOXICITY_HOURS}
        yield from _imbalance(imbalance)
        yield from _toxicity(panel, toxicity)
        yield from _persistence(panel, imbalance[1])
        usual = trailing_sd(panel)
        scaled = scaled_return(panel, usual)
        yield from _impact(panel, scaled, usual)
        yield from _divergence(panel, imbalance[1], scaled)
        yield from _arrival(panel)
        age = panel.age(taker)
        yield Column("age_taker_flow", age, "hours since the last taker volume", "h", MONTH, ("bars.taker_buy_volume",))


TAKER: Final = ("bars.taker_buy_volume",)
TAKER_QUOTE: Final = ("bars.taker_buy_quote_volume",)
TRADES: Final = ("bars.trades",)


def _imbalance(imbalance: dict[int, Array]) -> Iterator[Column]:
    """Net over gross taker volume at five scales, and its size."""
    for length, values in imbalance.items():
        formula = f"sum(2 taker_buy - volume) / sum volume over {length}h"
        yield Column(f"flow_imbalance_{length}h", values, formula, "fraction", length, TAKER, sign="-")
        name, size = f"abs_flow_imbalance_{length}h", np.abs(values)
        yield Column(name, size, f"|{formula}|", "fraction", length, TAKER, sign="+")


def _toxicity(panel: Panel, toxicity: dict[int, Array]) -> Iterator[Column]:
    """How one-sided the hours are, whichever the side: the toxicity of flow, on the clock of hours instead of volume."""
    for length, values in toxicity.items():
        formula = f"sum |2 taker_buy - volume| / sum volume over {length}h"
        yield Column(f"flow_toxicity_{length}h", values, formula, "fraction", length, TAKER, EASLEY, "+")
    yield Column(
        "flow_toxicity_z_24h",
        score(panel, toxicity[24], MONTH),
        "(toxicity_24h - its mean_720h) / its sd_720h, within ±5",
        "sd",
        MONTH + 24,
        TAKER,
        EASLEY,
        "+",
    )


def _persistence(panel: Panel, imbalance: Array) -> Iterator[Column]:
    """Large orders are worked in pieces, so that flow of one sign calls for more of it."""
    reference = "Lillo and Farmer (2004)"
    before = panel.shift(imbalance, 1)
    for length in (72, WEEK):
        moments = panel.pair(imbalance, before, length)
        formula = f"corr_{length}h(imbalance_1h, imbalance_1h an hour before)"
        name = f"flow_autocorrelation_{length}h"
        yield Column(name, correlation(moments), formula, "correlation", length + 1, TAKER, reference)
    run = panel.windowed(sign_run, RUN_CAP, (imbalance,), (RUN_CAP,))
    formula = f"sign x ln(1 + hours that the sign of imbalance_1h has lasted, at most {RUN_CAP})"
    values = np.sign(run) * np.log1p(np.abs(run))
    yield Column("flow_run", values, formula, "ln h", RUN_CAP, TAKER, reference, "-")


def _impact(panel: Panel, scaled: Array, usual: Array) -> Iterator[Column]:
    """Kyle's lambda under the square-root law, against its own level of a month; what takers paid beyond what they got."""
    taker, quote = panel.field("taker_buy_quote_volume"), panel.field("quote_volume")
    signed = 2 * taker - quote
    root = np.sign(signed) * np.sqrt(np.abs(signed))
    bounded = scaled * usual
    for length in (24, WEEK):
        moments = panel.pair(root, bounded, length)
        slope = ratio(moments[4], moments[2])
        yield Column(
            f"log_flow_impact_{length}h",
            log_ratio(slope, panel.mean(slope, (MONTH,))[0]),
            f"ln(b / mean_720h(b)), b = slope of r (within 4 sd) on sign(f) sqrt|f| over {length}h; within ± ln 10",
            "ln ratio",
            MONTH + length + SCALE_REACH,
            TAKER_QUOTE,
            "Kyle (1985); Bouchaud, Farmer and Lillo (2009)",
            "+",
        )
    sold, base = quote - taker, panel.field("volume") - panel.field("taker_buy_volume")
    paid, got = ratio(taker, panel.field("taker_buy_volume")), ratio(sold, base)
    gap = np.clip(log_ratio(paid, got) / usual, -SCORE_LIMIT, SCORE_LIMIT)
    yield Column(
        "taker_price_gap_24h",
        panel.mean(gap, (24,))[0],
        "mean_24h of ln(mean price that takers paid / mean price that takers got) / sd_168h(r)",
        "sd",
        24 + SCALE_REACH,
        TAKER_QUOTE,
    )


def _divergence(panel: Panel, imbalance: Array, scaled: Array) -> Iterator[Column]:
    """Price without flow, and flow without price."""
    against = imbalance * scaled
    share = panel.mean(np.where(np.isnan(against), np.nan, (against < 0).astype(np.float64)), (24,))[0]
    formula = "share of 24h in which r and imbalance_1h have opposite signs"
    yield Column("flow_disagreement_24h", share, formula, "fraction", 24 + SCALE_REACH, TAKER)
    moments = panel.pair(imbalance, scaled, WEEK)
    together = correlation(moments)
    formula = "corr_168h(imbalance_1h, r / sd_168h(r))"
    reach = WEEK + SCALE_REACH
    yield Column("flow_return_correlation_168h", together, formula, "correlation", reach, TAKER)
    flow = ratio(imbalance - moments[0], np.sqrt(moments[2]))
    price = ratio(scaled - moments[1], np.sqrt(moments[3]))
    apart = np.sqrt(1 - together**2)
    unexplained = np.clip(ratio(price - together * flow, apart), -SCORE_LIMIT, SCORE_LIMIT)
    formula = "(z(r) - corr z(imbalance_1h)) / sqrt(1 - corr^2), moments over 168h, within ±5"
    yield Column("return_beyond_flow_1h", unexplained, formula, "sd", reach, TAKER, sign="-")
    yield Column("abs_return_beyond_flow_1h", np.abs(unexplained), f"|{formula}|", "sd", reach, TAKER, sign="+")
    absorbed = np.clip(ratio(flow - together * price, apart), -SCORE_LIMIT, SCORE_LIMIT)
    formula = "(z(imbalance_1h) - corr z(r)) / sqrt(1 - corr^2), moments over 168h, within ±5"
    yield Column("flow_beyond_return_1h", absorbed, formula, "sd", reach, TAKER)


def _arrival(panel: Panel) -> Iterator[Column]:
    """How many trades come, how large they are, and how much of their number they excite themselves."""
    trades = panel.field("trades")
    size = panel.field("volume") / positive(trades)
    for name, series in (("trades", trades), ("trade_size", size)):
        excess = log_positive(panel.ewma(series, 6)) - log_positive(panel.ewma(series, MONTH))
        formula = f"ln ew_6h({name}) - ln ew_720h({name})"
        yield Column(f"log_{name}_excess_6h", excess, formula, "ln ratio", LEVEL_REACH, TRADES, sign="+")
    yield Column(
        "log_trades_surprise_1h",
        surprise(panel, trades),
        f"ln trades - mean of ln trades at this hour of the {SURPRISE_DAYS} days before",
        "ln ratio",
        same_hour_reach(SURPRISE_DAYS),
        TRADES,
        sign="+",
    )
    for length in (24, WEEK):
        mean, sd = panel.mean(trades, (length,))[0], panel.sd(trades, length)
        yield Column(
            f"log_trades_dispersion_{length}h",
            np.clip(log_positive(ratio(sd**2, mean)), 0, LARGEST_DISPERSION),
            f"ln(variance / mean) of the hourly number of trades over {length}h, within [0, {LARGEST_DISPERSION}]",
            "ln ratio",
            length,
            TRADES,
            "Hawkes (1971)",
            "+",
        )
