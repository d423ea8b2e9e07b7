"""Synthetic puts: the delta of a put, held in perpetuals inside a no-trade band along a real price path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from .delta import follow, half_width
from .greeks import PUT, Greeks, greeks

__all__ = ["Replication", "put_path", "replicate", "replication_study"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Replication:
    """Synthetic puts over W paths, arrays (W,) as fractions of the first price.

    ``price_paid`` is what the put came to: pay-off - gain + cost + funding. ``error`` is the pay-off missed against
    a put bought at ``premium`` (BSM at the path's first sigma): premium + gain - payoff; negative falls short.
    """

    payoff: Floats
    premium: Floats
    gain: Floats
    cost: Floats
    funding: Floats
    trades: npt.NDArray[np.int64]

    @property
    def price_paid(self) -> Floats:
        """What the pay-off cost to make."""
        return self.payoff - self.gain + self.cost + self.funding

    @property
    def error(self) -> Floats:
        """Replicated less real pay-off, before costs and funding."""
        return self.premium + self.gain - self.payoff


def put_path(prices: Floats, strikes: npt.ArrayLike, sigma: Floats) -> Greeks:
    """Greeks (W, T) of puts that expire at the last price of ``prices`` (W, T + 1).

    Strikes (W,), annual sigma (W, T) as known at each hour. Rate and carry are zero: the perpetual's carry is its
    funding, which is paid as it falls due.
    """
    steps = prices.shape[1] - 1
    left = np.arange(steps, 0, -1, dtype=np.float64)
    return greeks(PUT, prices[:, :-1], np.asarray(strikes, dtype=np.float64)[:, None], left, sigma)


def replicate(
    prices: Floats,
    strikes: npt.ArrayLike,
    sigma: Floats,
    funding: npt.ArrayLike,
    *,
    cost: float,
    risk_aversion: float,
) -> Replication:
    """Hold Delta_put(sigma, T - t) in perpetuals inside Whalley–Wilmott bands.

    ``risk_aversion`` is relative to the path's first price; infinity hedges every hour. Funding is a fraction of
    notional due at each hour's end, (W, T). UsageError where a path has a hole.
    """
    start = prices[:, 0]
    put = put_path(prices, strikes, sigma)
    width = half_width(cost, prices[:, :-1], put.gamma, risk_aversion / start[:, None])
    path = follow(put.delta, width, prices, funding, cost)
    payoff = np.maximum(np.asarray(strikes, dtype=np.float64) - prices[:, -1], 0.0)
    return Replication(
        payoff=payoff / start,
        premium=put.price[:, 0] / start,
        gain=path.gain / start,
        cost=path.cost / start,
        funding=path.funding / start,
        trades=path.trades,
    )


def replication_study(
    prices: Floats,
    strikes: npt.ArrayLike,
    sigma: Floats,
    funding: npt.ArrayLike,
    *,
    cost: float,
    risk_aversions: npt.ArrayLike,
) -> pd.DataFrame:
    """Replication error and price against the BSM premium, one row a risk aversion; fractions of the first price."""
    rows = []
    for aversion in np.atleast_1d(np.asarray(risk_aversions, dtype=np.float64)).tolist():
        made = replicate(prices, strikes, sigma, funding, cost=cost, risk_aversion=aversion)
        rows.append(
            {
                "risk_aversion": aversion,
                "trades": float(made.trades.mean()),
                "premium": float(made.premium.mean()),
                "price_paid": float(made.price_paid.mean()),
                "cost": float(made.cost.mean()),
                "funding": float(made.funding.mean()),
                "error_mean": float(made.error.mean()),
                "error_sd": float(made.error.std()),
                "error_worst": float(made.error.min()),
            }
        )
    return pd.DataFrame(rows)
