"""Constants of the hedging policy; the parameter pack states every one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HedgingParams"]


@dataclass(frozen=True)
class HedgingParams:
    """What the hedge of the reference portfolio rests on; fractions of its notional unless a name says otherwise."""

    notional_usd: float  # the reference long
    budget: float  # expected shortfall over the 24 h horizon that may stay unhedged
    level: float  # of the expected shortfall
    stress_weight: float  # probability of the stress library's move
    put_steps: tuple[float, ...]  # strikes, in standard deviations of implied volatility below spot
    put_cap: float  # most puts, per unit of the reference long
    iv_markup: float  # the ask above the volatility index at the money, relative
    iv_skew: float  # ... and more per standard deviation below it
    option_fee: float  # of the underlying
    option_fee_cap: float  # of the option's value
    gas_usd: float  # per order
    gamma_max: float  # change of delta for a move of 1 %
    vega_min: float  # value for one point of volatility
    trade_cost: float  # of perpetuals: taker fee and half the spread, one way
    participation: float  # share of the daily volume that the hedge may take
    risk_aversion: float  # relative, of the no-trade band
    vol_of_vol: float  # annual standard deviation of the log of forecast volatility
