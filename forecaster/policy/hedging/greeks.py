"""Option values and Greeks, and what a book of positions loses when the market moves.

Black–Scholes–Merton with cost of carry (Haug 2007, *The Complete Guide to Option Pricing Formulas*, ch. 1): ``b = r`` is
a stock, ``b = 0`` a future, ``b = r - q`` a stock with yield. Time is in hours, 8760 to the year; sigma, rate and carry
are annual and continuous; Greeks are per unit of the underlying, theta per year, vega and rho per unit (not per cent).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr

from features.errors import UsageError

__all__ = [
    "CALL",
    "LINEAR",
    "PUT",
    "YEAR_HOURS",
    "Attribution",
    "Book",
    "Greeks",
    "Insolvency",
    "attribute",
    "greeks",
    "insolvency",
    "ladder",
]

Floats = npt.NDArray[np.float64]

YEAR_HOURS: Final = 8760.0
CALL, PUT, LINEAR = 1, -1, 0
NAMES: Final = ("price", "delta", "gamma", "vega", "theta", "rho")


@dataclass(frozen=True)
class Greeks:
    """Arrays of one shape. ``rho`` moves r and b together (b = r - q, q fixed)."""

    price: Floats
    delta: Floats
    gamma: Floats
    vega: Floats
    theta: Floats
    rho: Floats


def greeks(
    kind: npt.ArrayLike,
    spot: npt.ArrayLike,
    strike: npt.ArrayLike,
    hours: npt.ArrayLike,
    sigma: npt.ArrayLike,
    rate: npt.ArrayLike = 0.0,
    carry: npt.ArrayLike = 0.0,
) -> Greeks:
    """Value and Greeks of calls (``kind`` 1), puts (-1) and the underlying itself (0); arguments broadcast.

    Put and call share d1 and d2, so parity holds to rounding. Where sigma * sqrt(T) is zero the values are the
    limits: the discounted pay-off of the forward and its slope; exactly at the strike delta is one half and
    gamma infinite.

    Raises UsageError where a kind is none of the three, a spot or strike is not positive, hours or sigma are negative,
    or anything is not a finite number.
    """
    sign, s, k, h, vol, r, b = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (kind, spot, strike, hours, sigma, rate, carry))
    )
    finite = np.all([np.isfinite(x) for x in (s, k, h, vol, r, b)], axis=0)
    if not (finite & (s > 0) & (k > 0) & (h >= 0) & (vol >= 0) & ((np.abs(sign) == 1) | (sign == LINEAR))).all():
        raise UsageError(
            "an option needs a kind of 1, -1 or 0, spot > 0, strike > 0, hours >= 0, sigma >= 0, a rate and a carry, all "
            "finite; drop the rows that have none"
        )
    years = h / YEAR_HOURS
    root = np.sqrt(years)
    total = vol * root
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        moneyness = np.log(s / k) + b * years
        d1 = np.where(total > 0, moneyness / total + total / 2, np.where(moneyness == 0, 0.0, np.inf * moneyness))
        d2 = np.where(np.isfinite(d1), d1 - total, d1)
        density = np.exp(-0.5 * d1 * d1) / np.sqrt(2 * np.pi)
        grown, discount = np.exp((b - r) * years), np.exp(-r * years)
        peak = np.where(density > 0, density / (s * total), 0.0)
        decay = np.where(density > 0, s * grown * density * vol / (2 * root), 0.0)
    linear = sign == LINEAR
    sign = np.where(linear, 1.0, sign)
    n1, n2 = ndtr(sign * d1), ndtr(sign * d2)
    held, owed = sign * grown * n1, sign * k * discount * n2
    return Greeks(
        price=np.where(linear, s, s * held - owed),
        delta=np.where(linear, 1.0, held),
        gamma=np.where(linear, 0.0, grown * peak),
        vega=np.where(linear, 0.0, s * grown * density * root),
        theta=np.where(linear, 0.0, -np.where(np.isnan(decay), 0.0, decay) - (b - r) * s * held - r * owed),
        rho=np.where(linear, 0.0, years * owed),
    )


@dataclass(frozen=True)
class Book:
    """Positions in one underlying, arrays (k,): kind, signed quantity, strike, hours to expiry, sigma.

    A perpetual is ``LINEAR``; its strike, hours and sigma are ignored but must be lawful (1, 0, 0).
    """

    kind: npt.NDArray[np.int64]
    quantity: Floats
    strike: Floats
    hours: Floats
    sigma: Floats
    rate: float = 0.0
    carry: float = 0.0

    def at(self, spot: npt.ArrayLike) -> Greeks:
        """The book's aggregate value and Greeks at each spot of (m,)."""
        s = np.asarray(spot, dtype=np.float64)
        each = greeks(self.kind, s[..., None], self.strike, self.hours, self.sigma, self.rate, self.carry)
        # A gamma that is infinite at the strike times a holding of zero is no exposure.
        held = self.quantity != 0
        sums = {name: (np.where(held, getattr(each, name), 0.0) * self.quantity).sum(axis=-1) for name in NAMES}
        return Greeks(**sums)

    def later(self, hours: float, sigma_change: npt.ArrayLike = 0.0) -> Book:
        """The same positions after ``hours`` and a shift of sigma; an expired option is worth its pay-off."""
        linear = self.kind == LINEAR
        sigma = np.where(linear, self.sigma, np.maximum(self.sigma + np.asarray(sigma_change), 0.0))
        return replace(self, hours=np.maximum(self.hours - hours, 0.0), sigma=sigma)


def ladder(book: Book, spot: float, shocks: npt.ArrayLike) -> pd.DataFrame:
    """Value, profit and Greeks of the book at spot * (1 + shock), one row a shock."""
    moved = np.asarray(shocks, dtype=np.float64)
    at = book.at(spot * (1 + moved))
    columns = {name: getattr(at, name) for name in NAMES}
    return pd.DataFrame({"shock": moved, "profit": at.price - book.at(spot).price, **columns})


@dataclass(frozen=True)
class Attribution:
    """A profit by source; the parts and the residual sum to ``total``, the full revaluation."""

    delta: float
    gamma: float
    theta: float
    vega: float
    residual: float
    total: float


def attribute(book: Book, spot: float, spot_after: float, hours: float, sigma_change: float) -> Attribution:
    """Second-order attribution of the profit of a move over ``hours``.

    delta dS + gamma dS^2 / 2 + theta dt + vega dsigma; the residual is what third-order and cross terms (and an
    expiry on the way) leave. UsageError where an option expires at its strike, now.
    """
    before, move = _expanded(book, spot), spot_after - spot
    parts = {
        "delta": float(before.delta * move),
        "gamma": float(before.gamma * move**2 / 2),
        "theta": float(before.theta * hours / YEAR_HOURS),
        "vega": float(before.vega * sigma_change),
    }
    total = float(book.later(hours, sigma_change).at(spot_after).price - before.price)
    return Attribution(**parts, residual=total - sum(parts.values()), total=total)


@dataclass(frozen=True)
class Insolvency:
    """Probability that the loss beyond the cost of closing exceeds equity, by both valuations."""

    delta_gamma: float
    revaluation: float


def insolvency(
    book: Book,
    spot: float,
    returns: npt.ArrayLike,
    weights: npt.ArrayLike,
    equity: float,
    *,
    hours: float,
    depth_usd: float,
    impact: float,
) -> Insolvency:
    """P(loss > equity) over log-return draws (m,) with weights that sum to 1, after ``hours``.

    The delta-gamma loss is -(delta dS + gamma dS^2 / 2 + theta dt). To both losses comes what closing the moved
    delta would cost against a depth of ``depth_usd`` by the square-root law, impact * |N| * sqrt(|N| / depth) of
    notional N; ``impact`` is the move that eats the whole depth. An infinite depth costs nothing.

    Raises UsageError where the depth is not positive or an option expires at its strike, now.
    """
    if not depth_usd > 0:
        raise UsageError(f"depth_usd must be positive, not {depth_usd}; give math.inf for a market without impact")
    draws, mass = np.asarray(returns, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    before, after_spot = _expanded(book, spot), spot * np.exp(draws)
    move = after_spot - spot
    after = book.later(hours).at(after_spot)
    quadratic = before.delta * move + before.gamma * move**2 / 2 + before.theta * hours / YEAR_HOURS
    losses = {
        "delta_gamma": _closing(before.delta + before.gamma * move, after_spot, depth_usd, impact) - quadratic,
        "revaluation": _closing(after.delta, after_spot, depth_usd, impact) - (after.price - before.price),
    }
    return Insolvency(**{name: float(mass[loss > equity].sum()) for name, loss in losses.items()})


def _expanded(book: Book, spot: float) -> Greeks:
    """The Greeks for an expansion about ``spot``; where gamma is infinite there is none."""
    found = book.at(spot)
    if not np.isfinite(found.gamma):
        raise UsageError(f"an option expires at its strike {spot:g} now and has no second order; settle it first")
    return found


def _closing(delta: Floats, spot: Floats, depth_usd: float, impact: float) -> Floats:
    notional = np.abs(delta) * spot
    return np.asarray(impact * notional * np.sqrt(notional / depth_usd))
