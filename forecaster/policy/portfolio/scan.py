"""The scan: European options and perpetuals fully revalued on a grid of price and volatility moves.

Its shape is that of Deribit's portfolio margin: nine evenly spaced price moves to +-16 %, each with volatility as it is,
up by half and down by a quarter, a shift that grows with (30 / days)^0.3 below 30 days to expiry and falls with the power
0.13 beyond (its support page "Portfolio Margin", and its published parameters for BTC).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from forecaster.policy.hedging.greeks import greeks
from forecaster.policy.types import PPM

from .params import PortfolioParams
from .state import RiskState

__all__ = ["Options", "option_scan", "price_moves", "scan_range", "shifted_sigma"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DAY_HOURS: Final = 24.0
LEAST_DAYS: Final = 1 / 24  # the shift of volatility stays finite at expiry, where it no longer moves a price


@dataclass(frozen=True)
class Options:
    """European options held by many accounts, arrays (o,): account and symbol as row and column of the positions."""

    account: Integers
    symbol: Integers
    kind: Integers  # CALL or PUT
    quantity: Floats  # units of the underlying, signed
    strike: Floats
    hours: Floats  # to expiry
    sigma: Floats  # implied volatility, annual; NaN where none is known

    @classmethod
    def none(cls) -> Options:
        """No options."""
        whole, real = np.empty(0, dtype=np.int64), np.empty(0)
        return cls(whole, whole, whole, real, real, real, real)

    def __len__(self) -> int:
        return len(self.account)

    def take(self, chosen: npt.NDArray[np.bool_]) -> Options:
        """Those of a mask."""
        return Options(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def of(self, accounts: Integers) -> Options:
        """Those of some accounts, ascending, which become rows 0, 1, ..."""
        mine = self.take(np.isin(self.account, accounts))
        return replace(mine, account=np.searchsorted(accounts, mine.account))

    def gain(self, price: Floats, after: Floats, hours: float = 0.0, sigma: Floats | None = None) -> Floats:
        """Gain (o, ...) in USD from ``price`` (o,) to ``after`` (o, ...) in ``hours``, at ``sigma`` if it changes."""
        wide = (slice(None), *([None] * (after.ndim - 1)))
        kind, strike, left = self.kind[wide], self.strike[wide], np.maximum(self.hours - hours, 0.0)[wide]
        now = greeks(self.kind, price, self.strike, self.hours, self.sigma).price
        then = greeks(kind, after, strike, left, self.sigma[wide] if sigma is None else sigma).price
        return np.asarray(self.quantity[wide] * (then - now[wide]))


def price_moves(params: PortfolioParams) -> Floats:
    """The grid (2 k + 1,) in units of the scan range, ascending from -1 to 1 through 0."""
    return np.arange(-params.price_steps, params.price_steps + 1) / params.price_steps


def scan_range(state: RiskState, params: PortfolioParams) -> Floats:
    """Widest move (s,) of each symbol: never less than the one that its own schedule margins."""
    return np.maximum(params.price_range, state.im[:, 0] / PPM)


def shifted_sigma(sigma: Floats, hours: Floats, params: PortfolioParams) -> Floats:
    """Volatility as it is, up and down, (o, 3)."""
    ratio = 30 / np.maximum(hours / DAY_HOURS, LEAST_DAYS)
    growth = ratio ** np.where(ratio > 1, params.vega_power_short, params.vega_power_long)
    up = np.maximum(sigma * (1 + params.vol_up * growth), params.vol_floor)
    down = np.maximum(sigma * (1 - params.vol_down * growth), 0.0)
    return np.stack([sigma, up, down], axis=-1)


def option_scan(options: Options, price: Floats, widest: Floats, params: PortfolioParams) -> Floats:
    """Losses (o, 2 k + 1, 3) in USD of each option over the grid; ``price`` and ``widest`` (o,) of its underlying."""
    moved = price[:, None] * (1 + widest[:, None] * price_moves(params))
    # A fall of all there is leaves a put its strike and a call nothing; a lawful price is above zero.
    after = np.broadcast_to(np.maximum(moved, 1e-9 * price[:, None])[:, :, None], (*moved.shape, 3))
    return -options.gain(price, after, sigma=shifted_sigma(options.sigma, options.hours, params)[:, None, :])
