"""Margins from the market alone, as arrays (n_symbols, n_hours); column ``t`` reads nothing later than ``t``.

``oracle`` alone looks ahead, at the variance of the interval it covers: a ceiling, never a rival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd

from features.panel import Array, shift
from forecaster.policy.observables import DAY, MarketHistory, expanding_quantile

from .ground import HOURS_A_YEAR, MISS, Ground, Margins, quarter_starts

__all__ = [
    "OPPONENTS",
    "Opponents",
    "anti_procyclical",
    "baselines",
    "exchange",
    "extended",
    "fhs",
    "pinball",
]

FOREVER_HOURS: Final = 10**9
UNDERLYINGS: Final = {"BTC": "BTCUSDT", "ETH": "ETHUSDT"}


@dataclass(frozen=True)
class Opponents:
    """Constants of the margins that the policy is compared with, fixed before any scoring."""

    half_lives: tuple[int, ...]  # hours; one is chosen on the past at every quarter
    windows: tuple[int, ...]  # days of a static quantile; likewise
    vote_days: int  # a vote proposes once in so many days and takes effect after as many
    ltv_quantile: float  # volatility above this quantile of its own past: the higher of two margins
    implied_life_hours: int  # a candle of implied volatility is believed so long
    million: float  # USD: position size at which the venue's tiers are also read


OPPONENTS: Final = Opponents(
    half_lives=(12, 24, 48, 72, 120, 240, 480),
    windows=(90, 180, 365, 730),
    vote_days=7,
    ltv_quantile=0.90,
    implied_life_hours=3,
    million=1e6,
)


def baselines(ground: Ground, stress_move: Array, opponents: Opponents = OPPONENTS) -> dict[str, Margins]:
    """The margins without a forecast, and ``oracle``; ``stress_move``: worst past 24 h move as the policy reads it."""
    history = ground.history
    tuned = fhs(ground, opponents)
    return {
        "static": Margins.of(history.static_im),
        "exchange": exchange(history, 0.0),
        "ewma": Margins.of(history.scaled_im(history.params.baselines.ewma_half_life_hours)),
        "fhs": Margins.of(tuned),
        "fhs_apc": Margins.of(anti_procyclical(tuned, stress_move, history)),
        "oracle": Margins.of(history.scaled(np.sqrt(ground.variance))),
    }


def extended(ground: Ground, tuned: Array, opponents: Opponents = OPPONENTS) -> dict[str, Margins]:
    """Further opponents, of the tuned ``fhs`` margin where they rest on one."""
    history = ground.history
    return {
        "static_tuned": Margins.of(_static_tuned(ground, opponents)),
        "governance_lag": Margins.of(_voted(tuned, opponents.vote_days)),
        "binary_ltv": Margins.of(_binary(history, opponents)),
        "implied_vol": Margins.of(history.scaled(_implied(history, opponents))),
        "exchange_1m": exchange(history, opponents.million),
    }


def fhs(ground: Ground, opponents: Opponents = OPPONENTS) -> Array:
    """Filtered historical simulation of the excursion (Barone-Adesi et al. 1999), half-life chosen on the past.

    At every quarter's start the half-life with the least ``pinball_995`` over all origins resolved by then.
    """
    return _tuned([ground.history.scaled_im(hours) for hours in opponents.half_lives], ground)


def anti_procyclical(core: Array, stress_move: Array, history: MarketHistory) -> Array:
    """``max((1 - w) R + w max(R, S), F)`` of a margin R: stress weight w, long-run floor F of its own past.

    The forms and constants are the policy's own (EMIR RTS 153/2013 Art. 28, adapted): F is the expanding quantile of R,
    once a year of it exists.
    """
    margin = history.params.margin
    worst = np.maximum(margin.gap, np.nan_to_num(stress_move))
    stressed = (1 - margin.stress_share) * core + margin.stress_share * np.maximum(core, worst)
    floor = expanding_quantile(core, margin.floor_quantile, 1)
    seen = np.cumsum(np.maximum.accumulate(~np.isnan(core), axis=1), axis=1)
    return np.fmax(stressed, np.where(seen > margin.floor_min_days * DAY, floor, np.nan))


def exchange(history: MarketHistory, notional: float) -> Margins:
    """The venue's own tiers as last observed, for a position of ``notional`` USD; NaN before the first observation."""
    tiers = history.market.margin_tiers()
    fits = (tiers["min_notional"] <= notional) & (notional < tiers["max_notional"])
    columns = {"leverage": "max_leverage", "rate": "maint_margin_rate"}
    seen = history.panel.as_of(tiers[fits], columns, FOREVER_HOURS)
    return Margins(1 / seen["leverage"], seen["rate"])


def pinball(im: Array, excursion: Array) -> Array:
    """Pinball loss of the margin as the 99.5 % quantile of the excursion (Koenker & Bassett 1978)."""
    over = excursion - im
    return np.maximum((1 - MISS) * over, -MISS * over)


def _tuned(candidates: Sequence[Array], ground: Ground) -> Array:
    """At every quarter's start the candidate with the least pinball loss over the origins resolved by then."""
    losses = np.stack([pinball(im, ground.excursion) for im in candidates])
    losses[:, np.isnan(losses).any(axis=0)] = 0.0  # only hours at which all have a margin tell them apart
    running = losses.sum(axis=1).cumsum(axis=1)
    out = candidates[0].copy()
    starts = [0, *quarter_starts(ground.times), out.shape[1]]
    for start, stop in pairwise(starts):
        best = int(running[:, start - DAY].argmin()) if start >= DAY else 0
        out[:, start:stop] = candidates[best][:, start:stop]
    return out


def _static_tuned(ground: Ground, opponents: Opponents) -> Array:
    """A rolling quantile of past excursions, its window chosen on the past; the expanding one is a candidate."""
    history, constants = ground.history, ground.history.params.baselines
    frame = pd.DataFrame(history.excursion.T)
    rolling = [
        frame.rolling(days * DAY, min_periods=constants.min_observations).quantile(constants.quantile).to_numpy().T
        for days in opponents.windows
    ]
    return _tuned(
        [expanding_quantile(history.excursion, constants.quantile, constants.min_observations), *rolling], ground
    )


def _voted(margin: Array, days: int) -> Array:
    """A margin that is proposed once in ``days`` days and takes effect after a vote of as many."""
    hours = days * DAY
    proposed = (np.arange(margin.shape[1]) // hours - 1) * hours
    return np.where(proposed >= 0, margin[:, np.maximum(proposed, 0)], np.nan)


def _binary(history: MarketHistory, opponents: Opponents) -> Array:
    """Two margins: quantiles of the excursions that began in quiet and in loud hours, whichever it is now."""
    constants = history.params.baselines
    sigma = np.sqrt(history.panel.ewma(history.panel.log_return**2, constants.ewma_half_life_hours))
    loud = sigma > expanding_quantile(sigma, opponents.ltv_quantile, constants.min_observations)
    began_loud = shift(loud.astype(np.float64), DAY)
    low, high = (
        pd.DataFrame(
            expanding_quantile(np.where(began_loud == kind, history.excursion, np.nan), constants.quantile, DAY).T
        )
        .ffill()
        .to_numpy()
        .T
        for kind in (0.0, 1.0)
    )
    return np.where(loud, high, low)


def _implied(history: MarketHistory, opponents: Opponents) -> Array:
    """Volatility over 24 h that options imply for the symbol's own underlying; NaN where no index exists."""
    panel, rows = history.panel, history.market.implied_vol()
    sigma = np.full((len(panel.symbols), len(panel)), np.nan)
    for underlying, symbol in UNDERLYINGS.items():
        if symbol in panel.symbols:
            own = rows[rows["underlying"] == underlying]
            level = panel.common(own, {"close": "close"}, opponents.implied_life_hours)["close"][0]
            sigma[panel.symbols.index(symbol)] = level / 100 * np.sqrt(DAY / HOURS_A_YEAR)
    return sigma
