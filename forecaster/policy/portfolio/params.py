"""Constants of cross-margin, option calls and the joint programme; the parameter pack states every one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PortfolioParams"]


@dataclass(frozen=True)
class PortfolioParams:
    """Fractions unless a name says otherwise; rates are annual."""

    price_range: float  # widest price move of the scan, either side; never below a symbol's own initial margin
    price_steps: int  # moves on either side of none, evenly spaced
    vol_up: float  # relative shift of a 30-day implied volatility upwards ...
    vol_down: float  # ... and downwards
    vol_floor: float  # least volatility after the shift upwards, annual
    vega_power_short: float  # the shift grows with (30 / days)^power; below 30 days ...
    vega_power_long: float  # ... and beyond
    shortfall_level: float  # of the expected shortfall of simulated losses
    least_history_hours: int  # fewer joint hours of standardised returns give no offset
    correlation_half_life_hours: float
    offset_cap: float  # most that offsets take off the sum of stand-alone margins
    short_option_charge: float  # of the underlying, for each option sold; nothing offsets it
    ladder_hours: tuple[float, ...]  # time rungs of the ladder of an option book
    stable_carry: float  # what stable collateral would have earned elsewhere
    volatile_carry: float  # likewise for volatile collateral
    borrow_rate: float  # of stable collateral
