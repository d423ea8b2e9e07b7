"""Moving together: betas, correlations, lead and lag, the spread of bursts, and one index of contagion.

Correlations read *bounded* returns ``b = r`` clipped at five of the symbol's own standard deviations as of the hour
before, ``sd = sqrt(mean_24h(v))``, and *scaled* ones ``z = b / sd``: one crash hour is then a large hour, not the whole
week. The mean correlation of all pairs needs no pair: with ``P`` the mean of ``z_i z_j`` over pairs of symbols at one
hour and ``Q`` that of ``z_i^2`` over symbols, ``mean_L(P) / mean_L(Q)`` is the variance of the equal-weight market over
the symbols' mean variance, solved for the correlation (Pollet and Wilson 2010, J. Financial Economics 96); it tells
what an absorption ratio tells (Kritzman, Li, Page and Rigobon 2011), at one pass over the symbols.

``contagion_index``: a burst matters to everyone once it is in many markets (``burst_share`` b) *and* they move as one,

    contagion_index = sqrt(b * (max(rho, 0) + clip(4 * jump, 0, 1) + a) / 3)

with ``rho`` = ``mean_correlation_24h``, ``jump`` = ``mean_correlation_jump``, ``a`` = ``market_alignment_24h``. It lies
in [0, 1], rises in each of the four, is the same for every symbol, and is zero while no market bursts. In the spirit of
Forbes and Rigobon (2002), J. Finance 57 (contagion is a *rise* of co-movement after a shock) and Diebold and Yilmaz
(2012), Int. J. Forecasting 28 (connectedness of volatilities); a formula by design, not an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np

from features import kernels
from features.families import Column, Family, Group
from features.families.cross import (
    BURST_REACH,
    LEADERS,
    LOG_DOUBLED,
    log_burst,
    market_alignment,
)
from features.families.cross_kernels import mean_pair_product
from features.families.transforms import correlation, for_every_symbol, ratio, row_of
from features.panel import Array, Panel

__all__ = ["Comovement", "contagion_index"]

LEADER: Final = LEADERS[0]
DAY, WEEK = 24, 168
BOUND: Final = 5.0
BETA_BOUND: Final = 5.0
SCALE_HOURS: Final = 25  # a day of variance, as of the hour before
WEEK_REACH: Final = 168 + SCALE_HOURS
JUMP_OF_ONE: Final = 0.25
HALF: Final = 0.5
# Hours after a rise or a fall only: about half of each window.
ONE_SIDED: Final = 0.25


class Comovement(Family):
    """Beta and correlation with the leader and the market, lead and lag, spillover of volatility, contagion."""

    name: ClassVar[str] = "comovement"
    group: ClassVar[Group] = "cross"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Pairwise windows against the leader and the others; market-wide correlation; the contagion index."""
        day = panel.mean(panel.capped_variance, (24,), coverage=HALF)[0]
        scale = np.sqrt(panel.shift(day, 1))
        scaled = np.clip(panel.log_return / scale, -BOUND, BOUND)
        bounded = scaled * scale
        yield from _leader(panel, bounded, scale)
        yield from _spillover(panel, kernels.cross_mean_of_others(scaled))
        yield from for_every_symbol(panel, _market(panel, scaled, bounded))


def contagion_index(burst_share: Array, correlation: Array, jump: Array, alignment: Array) -> Array:
    """The index of the module's formula, elementwise, in [0, 1]; NaN where a part is."""
    together = np.maximum(correlation, 0.0) + np.clip(jump / JUMP_OF_ONE, 0.0, 1.0) + alignment
    return np.sqrt(burst_share * together / 3.0)


def _regress(panel: Panel, y: Array, x: Array, hours: int, coverage: float = 0.8) -> tuple[Array, Array]:
    """Slope of ``y`` on ``x`` with an intercept, and their correlation; NaN where one stood still."""
    moments = panel.pair(x, y, hours, coverage)
    return ratio(moments[4], moments[2]), correlation(moments)


def _leader(panel: Panel, bounded: Array, scale: Array) -> Iterator[Column]:
    one = row_of(panel, LEADER, bounded)
    leader, leader_before = (np.broadcast_to(x, bounded.shape) for x in (one, panel.shift(one, 1)))
    week, correlation = _regress(panel, bounded, leader, WEEK)
    day, correlation_day = _regress(panel, bounded, leader, DAY)
    beta = np.clip(week, -BETA_BOUND, BETA_BOUND)
    for hours, slope, rho in ((168, week, correlation), (24, day, correlation_day)):
        reach = hours + SCALE_HOURS
        yield Column(
            f"beta_btc_{hours}h",
            np.clip(slope, -BETA_BOUND, BETA_BOUND),
            f"slope over {hours}h of own bounded return on {LEADER}'s, within ±{BETA_BOUND:g}",
            "ratio",
            reach,
        )
        yield Column(
            f"correlation_btc_{hours}h", rho, f"correlation over {hours}h of bounded returns with {LEADER}", "1", reach
        )
    yield Column(
        "correlation_btc_jump",
        correlation_day - correlation,
        "correlation_btc_24h - correlation_btc_168h",
        "1",
        WEEK_REACH,
        reference="Forbes and Rigobon (2002)",
        sign="+",
    )
    # In own standard deviations: the move that a lagging market still owes to the leader.
    owed = np.clip((beta * leader - bounded) / scale, -BOUND, BOUND)
    yield Column(
        "lead_lag_residual_1h",
        owed,
        f"(beta_btc_168h * r_btc - r) / sd in the last hour, within ±{BOUND:g}",
        "sd",
        WEEK_REACH,
        reference="Lo and MacKinlay (1990)",
    )
    yield Column("abs_lead_lag_residual_1h", np.abs(owed), "|lead_lag_residual_1h|", "sd", WEEK_REACH, sign="+")
    lagged, lagged_correlation = _regress(panel, bounded, leader_before, WEEK)
    yield Column(
        "lagged_beta_btc_168h",
        np.clip(lagged, -BETA_BOUND, BETA_BOUND),
        f"slope over 168h of own bounded return on {LEADER}'s of the hour before",
        "ratio",
        WEEK_REACH + 1,
        reference="Lo and MacKinlay (1990)",
    )
    yield Column(
        "lagged_r2_btc_168h",
        lagged_correlation**2,
        f"squared correlation over 168h of own bounded return with {LEADER}'s of the hour before",
        "fraction",
        WEEK_REACH + 1,
        reference="Hou and Moskowitz (2005)",
    )


def _spillover(panel: Panel, market: Array) -> Iterator[Column]:
    """From the others' volatility to one's own; ``market``: the others' mean scaled return."""
    own = np.log(panel.deseasonalised)
    own_before = panel.shift(own, 1)
    others_before = panel.shift(kernels.cross_mean_of_others(own), 1)
    _, with_others = _regress(panel, own, others_before, WEEK)
    _, with_own = _regress(panel, own, own_before, WEEK)
    _, between = _regress(panel, own_before, others_before, WEEK)
    room = np.sqrt((1.0 - with_own**2) * (1.0 - between**2))
    partial = ratio(with_others - with_own * between, room)
    yield Column(
        "vol_spillover_168h",
        np.clip(partial, -1.0, 1.0),
        "partial correlation over 168h of ln(v/S) with the others' mean ln(v/S) an hour before, given its own then",
        "1",
        169,
        reference="Diebold and Yilmaz (2012)",
        sign="+",
    )
    market_before = panel.shift(market, 1)
    down, _ = _regress(panel, own, np.where(market_before < 0, others_before, np.nan), WEEK, ONE_SIDED)
    up, _ = _regress(panel, own, np.where(market_before > 0, others_before, np.nan), WEEK, ONE_SIDED)
    yield Column(
        "vol_spillover_asymmetry_168h",
        np.clip(down - up, -BETA_BOUND, BETA_BOUND),
        "slope over 168h of ln(v/S) on the others' mean ln(v/S) an hour before, after falls of the others less after rises",
        "ratio",
        WEEK_REACH + 1,
        reference="Barunik, Kocenda and Vacha (2016)",
    )


def _market(panel: Panel, scaled: Array, bounded: Array) -> Iterator[Column]:
    pairs = panel.mean(mean_pair_product(scaled)[None, :], (24, 168))
    power = panel.mean(kernels.cross_mean(scaled**2)[None, :], (24, 168))
    day, week = ratio(pairs[0], power[0]), ratio(pairs[1], power[1])
    for hours, rho in ((24, day), (168, week)):
        yield Column(
            f"mean_correlation_{hours}h",
            rho,
            f"mean_{hours}h(mean of z_i z_j over pairs) / mean_{hours}h(mean of z_i^2), z = bounded r / sd",
            "1",
            hours + SCALE_HOURS,
            reference="Pollet and Wilson (2010)",
            sign="+",
        )
    yield Column(
        "mean_correlation_jump",
        day - week,
        "mean_correlation_24h - mean_correlation_168h",
        "1",
        WEEK_REACH,
        reference="Kritzman, Li, Page and Rigobon (2011)",
        sign="+",
    )
    others = kernels.cross_mean_of_others(bounded)
    _, with_week = _regress(panel, bounded, others, WEEK)
    _, with_day = _regress(panel, bounded, others, DAY)
    yield Column(
        "idiosyncratic_share_168h",
        1.0 - with_week**2,
        "1 - squared correlation over 168h of bounded returns with the mean of the others'",
        "fraction",
        WEEK_REACH,
    )
    level = np.log(panel.deseasonalised)
    surprise = np.clip(level - panel.mean(level, (168,))[0], -BOUND, BOUND)
    joint = panel.mean(mean_pair_product(surprise)[None, :], (24,))[0]
    total = panel.mean(kernels.cross_mean(surprise**2)[None, :], (24,))[0]
    yield Column(
        "vol_connectedness_24h",
        ratio(joint, total),
        "mean_24h(mean of u_i u_j over pairs) / mean_24h(mean of u_i^2), u = ln(v/S) - mean_168h(ln(v/S)), within ±5",
        "1",
        192,
        reference="Diebold and Yilmaz (2012)",
        sign="+",
    )
    spread = kernels.cross_mean(np.clip(log_burst(panel) / LOG_DOUBLED, 0.0, 1.0))[None, :]
    index = contagion_index(spread, day, day - week, market_alignment(panel))
    yield Column(
        "burst_share",
        spread,
        "mean over symbols of (ln ew_3h(v/S) - ln ew_96h(v/S)) / ln 4, each within [0, 1]",
        "fraction",
        BURST_REACH,
        sign="+",
    )
    yield Column(
        "contagion_index",
        index,
        "sqrt(burst_share * (max(mean_correlation_24h, 0) + clip(4 mean_correlation_jump, 0, 1)"
        " + market_alignment_24h) / 3)",
        "fraction",
        BURST_REACH,
        reference="Forbes and Rigobon (2002); Diebold and Yilmaz (2012)",
        sign="+",
    )
    yield Column(
        "contagion_exposure",
        index * np.maximum(with_day, 0.0),
        "contagion_index * max(correlation over 24h of bounded returns with the mean of the others', 0)",
        "fraction",
        BURST_REACH,
        reference="Forbes and Rigobon (2002)",
        sign="+",
    )
