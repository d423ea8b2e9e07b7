"""Delta hedging: what to hold in perpetuals, when to trade, and what trading less often costs in error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from numba import njit

from features.errors import UsageError

from .greeks import YEAR_HOURS

__all__ = [
    "Followed",
    "ewma_beta",
    "flattening",
    "follow",
    "half_width",
    "interval_study",
    "inverse_delta",
    "inverse_payoff",
    "perp_quantity",
]

Floats = npt.NDArray[np.float64]

STUDY_COLUMNS: Final = ("rule", "parameter", "trades_per_day", "cost", "tracking_error", "mean_error")


def perp_quantity(delta: npt.ArrayLike, target: npt.ArrayLike) -> Floats:
    """Linear perpetuals to hold beside a book of ``delta`` so that the whole has delta ``target``; units of the asset."""
    return np.asarray(-(np.asarray(delta, dtype=np.float64) - np.asarray(target, dtype=np.float64)))


def inverse_payoff(face: npt.ArrayLike, entry: npt.ArrayLike, price: npt.ArrayLike) -> Floats:
    """Coins that a long inverse contract of ``face`` USD has earned from ``entry`` to ``price``: K (1/S0 - 1/S1)."""
    k, start, now = (np.asarray(x, dtype=np.float64) for x in (face, entry, price))
    return np.asarray(k * (1 / start - 1 / now))


def inverse_delta(face: npt.ArrayLike, price: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Delta of an inverse contract: USD of exposure, and coins per USD of price (K / S^2).

    The coin pay-off is concave in the price; its slope times S^2 is the face, whatever the price: a short of face
    c * S makes c coins worth a constant number of USD.
    """
    k, now = np.asarray(face, dtype=np.float64), np.asarray(price, dtype=np.float64)
    return np.broadcast_to(k, np.broadcast_shapes(k.shape, now.shape)).copy(), np.asarray(k / now**2)


def ewma_beta(returns: npt.ArrayLike, factor: npt.ArrayLike, half_life_hours: float) -> Floats:
    """Beta of returns (..., T) to a factor (T,): EWMA covariance over EWMA variance, known at each hour's close.

    An hour in which either return is NaN adds nothing; NaN before the first hour that both have.
    """
    y, x = np.broadcast_arrays(np.asarray(returns, dtype=np.float64), np.asarray(factor, dtype=np.float64))
    known = ~np.isnan(y) & ~np.isnan(x)
    keep = 0.5 ** (1 / half_life_hours)
    covariance, variance = np.zeros(y.shape[:-1]), np.zeros(y.shape[:-1])
    out = np.full(y.shape, np.nan)
    for t in range(y.shape[-1]):
        fresh = known[..., t]
        covariance = np.where(fresh, keep * covariance + y[..., t] * x[..., t], covariance)
        variance = np.where(fresh, keep * variance + x[..., t] ** 2, variance)
        np.divide(covariance, variance, out=out[..., t], where=variance > 0)
    return out


def flattening(notionals: npt.ArrayLike, betas: npt.ArrayLike) -> float:
    """USD of the factor's perpetual that brings the portfolio's beta to zero: -sum(n_i beta_i)."""
    return float(-(np.asarray(notionals, dtype=np.float64) * np.asarray(betas, dtype=np.float64)).sum())


def half_width(
    cost: npt.ArrayLike,
    price: npt.ArrayLike,
    sensitivity: npt.ArrayLike,
    risk_aversion: npt.ArrayLike,
    rate: npt.ArrayLike = 0.0,
    hours: npt.ArrayLike = 0.0,
) -> Floats:
    """Half-width of the no-trade band around a target holding, in units of the asset.

    (3/2 e^{-rT} lambda S Gamma^2 / gamma)^{1/3} with proportional cost lambda and absolute risk aversion gamma per
    USD: Whalley and Wilmott (1997), *Mathematical Finance* 7(3), 307–324. ``sensitivity`` is gamma for an option; in
    general sqrt(d<phi>/d<S>) of the frictionless holding phi (Kallsen and Muhle-Karbe 2015, *Mathematical Finance*
    25(4), 702–723). It minimises lambda S^3 sigma^2 Gamma^2 / (2 H) + gamma sigma^2 S^2 H^2 / 6, the rates of cost and
    of risk of a deviation that is reflected at +-H.
    """
    lam, s, slope, gamma, r, h = (
        np.asarray(x, dtype=np.float64) for x in (cost, price, sensitivity, risk_aversion, rate, hours)
    )
    return np.asarray(np.cbrt(1.5 * np.exp(-r * h / YEAR_HOURS) * lam * s * slope**2 / gamma))


@dataclass(frozen=True)
class Followed:
    """What following target holdings along W paths gave, arrays (W,) in USD; ``holdings`` (W, T)."""

    holdings: Floats
    gain: Floats  # of the holdings, before costs and funding
    cost: Floats  # of trading, the last position closed
    funding: Floats  # paid; negative is received
    trades: npt.NDArray[np.int64]

    @property
    def net(self) -> Floats:
        """Gain after costs and funding."""
        return self.gain - self.cost - self.funding


def follow(
    targets: Floats,
    widths: npt.ArrayLike,
    prices: Floats,
    funding: npt.ArrayLike,
    cost: float,
    every: int = 1,
) -> Followed:
    """Hold perpetuals near ``targets`` (W, T) along ``prices`` (W, T + 1).

    At each ``every``-th step a holding outside target +- width trades to the band's nearer edge; the holding of
    step t earns the move to t + 1 and pays ``funding`` (a fraction of notional, due at t + 1, broadcast to (W, T)).
    Prices, targets, widths and funding must be whole: UsageError names the path with a hole.
    """
    wide = np.ascontiguousarray(np.broadcast_to(np.asarray(widths, dtype=np.float64), targets.shape))
    due = np.ascontiguousarray(np.broadcast_to(np.asarray(funding, dtype=np.float64), targets.shape))
    holes = ~np.isfinite(prices).all(axis=1) | ~np.isfinite(targets + due).all(axis=1) | ~(wide >= 0).all(axis=1)
    if holes.any():
        raise UsageError(f"path {int(holes.argmax())} has a hole; leave out windows with missing hours")
    holdings, traded, trades = _follow(np.ascontiguousarray(targets), wide, np.ascontiguousarray(prices), every)
    return Followed(
        holdings=holdings,
        gain=(holdings * np.diff(prices, axis=1)).sum(axis=1),
        cost=cost * traded,
        funding=(holdings * due * prices[:, 1:]).sum(axis=1),
        trades=trades,
    )


@njit(cache=True)
def _follow(
    targets: Floats, widths: Floats, prices: Floats, every: int
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    paths, steps = targets.shape
    holdings = np.empty((paths, steps))
    traded, trades = np.zeros(paths), np.zeros(paths, dtype=np.int64)
    for w in range(paths):
        held = 0.0
        for t in range(steps):
            if t % every == 0:
                low, high = targets[w, t] - widths[w, t], targets[w, t] + widths[w, t]
                to = min(max(held, low), high)
                if to != held:
                    traded[w] += abs(to - held) * prices[w, t]
                    trades[w] += 1
                    held = to
            holdings[w, t] = held
        traded[w] += abs(held) * prices[w, steps]
    return holdings, traded, trades


def interval_study(
    targets: Floats,
    sensitivity: Floats,
    prices: Floats,
    funding: npt.ArrayLike,
    cost: float,
    intervals: Iterable[int],
    risk_aversions: Iterable[float],
) -> pd.DataFrame:
    """Cost against tracking error of hedging at fixed intervals (hours) and inside Whalley–Wilmott bands.

    Targets and sensitivities (W, T) in units of the asset, prices (W, T + 1); ``risk_aversions`` are relative (per
    first notional), so that paths of different price levels compare. Tracking error is the standard deviation over
    paths of the hedge's gain before costs against that of the hourly, cost-free hedge; cost and errors are fractions
    of the path's first price. Columns: rule, parameter, trades_per_day, cost, tracking_error, mean_error.
    """
    start = prices[:, 0]
    ideal = follow(targets, 0.0, prices, funding, 0.0).gain / start
    rows = [("interval_hours", float(every), follow(targets, 0.0, prices, funding, cost, every)) for every in intervals]
    for aversion in risk_aversions:
        width = half_width(cost, prices[:, :-1], sensitivity, aversion / start[:, None])
        rows.append(("band", float(aversion), follow(targets, width, prices, funding, cost)))
    days = targets.shape[1] / 24
    table = [
        (
            rule,
            parameter,
            float(path.trades.mean() / days),
            float((path.cost / start).mean()),
            float((path.gain / start - ideal).std()),
            float((path.gain / start - ideal).mean()),
        )
        for rule, parameter, path in rows
    ]
    return pd.DataFrame(table, columns=list(STUDY_COLUMNS))
