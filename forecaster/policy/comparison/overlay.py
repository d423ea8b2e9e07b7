"""What an exposure scale does to one unit held long: drawdown, return, turnover, net of costs and funding."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from features.panel import Array
from forecaster.policy.observables import MarketHistory
from forecaster.policy.types import HOUR

from .ground import HOURS_A_YEAR, Floats, Mask

__all__ = ["COSTS_BPS", "Overlay", "overlay", "settled_funding", "volatility_target"]

COSTS_BPS: Final = (2.0, 5.0, 10.0)


class Overlay(NamedTuple):
    """By symbol, nan where it has no span: largest fall from a peak, annual return over it, sum of |change| a year.

    ``constant_…``: the same for a constant exposure of equal average over the same hours.
    """

    max_drawdown: Floats
    calmar: Floats
    turnover: Floats
    constant_drawdown: Floats
    constant_calmar: Floats


def overlay(exposure: Array, within: Mask, history: MarketHistory, funding: Array, cost_bps: float) -> Overlay:
    """Hold ``exposure`` (n_symbols, n_hours, in force from each hour's close) times one unit long, rebalanced hourly.

    ``funding``: the rate settled at each hour, a fraction, 0 where unknown; a long position pays it. Trading costs
    ``cost_bps`` of what is traded, the first purchase and the last sale included.
    """
    returns = np.zeros_like(exposure)
    close = pd.DataFrame(history.panel.close.T).ffill().to_numpy().T  # a move over missing bars is not lost
    returns[:, :-1] = np.nan_to_num(close[:, 1:] / close[:, :-1] - 1 - funding[:, 1:])
    held = np.where(within & ~np.isnan(exposure), exposure, np.nan)
    known = ~np.isnan(held)
    years = known.sum(axis=1) / HOURS_A_YEAR
    steady = np.where(known, np.nansum(held, axis=1, keepdims=True) / np.maximum(known.sum(axis=1), 1)[:, None], np.nan)
    (fall, ratio, traded), (constant_fall, constant_ratio, _) = (
        _held(np.nan_to_num(e), returns, years, cost_bps / 1e4) for e in (held, steady)
    )
    return Overlay(fall, ratio, traded, constant_fall, constant_ratio)


def _held(exposure: Array, returns: Array, years: Floats, cost: float) -> tuple[Floats, Floats, Floats]:
    traded = np.abs(np.diff(exposure, axis=1, prepend=0.0))
    growth = np.maximum(1 + exposure * returns - cost * traded, 1e-9)
    wealth = np.cumprod(growth, axis=1)
    peak = np.maximum.accumulate(np.maximum(wealth, 1.0), axis=1)
    fall = (1 - wealth / peak).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        annual = wealth[:, -1] ** (1 / years) - 1
        return np.where(years > 0, fall, np.nan), annual / fall, traded.sum(axis=1) / years


def volatility_target(sigma_annual: Array, history: MarketHistory) -> Array:
    """Plain volatility targeting (Moreira and Muir 2017): a target over a volatility, clipped; without bands or modes."""
    limits = history.params.baselines
    return np.clip(limits.target_vol / sigma_annual, limits.target_scale_min, limits.target_scale_max)


def settled_funding(history: MarketHistory) -> Array:
    """Funding rate settled in the hour that ends at each column, 0 where none is known."""
    rows = history.market.funding()
    panel = history.panel
    out = np.zeros((len(panel.symbols), len(panel)))
    symbol, _ = history.positions(rows.assign(origin=rows["funding_time"]))
    # A settlement a few milliseconds after the hour belongs to the hour.
    settled = pd.DatetimeIndex(rows["funding_time"]).as_unit("us").asi8
    hour = np.rint((settled - panel.times.asi8[0]) / HOUR).astype(np.int64)
    inside = (symbol >= 0) & (hour >= 0) & (hour < len(panel))
    np.add.at(out, (symbol[inside], hour[inside]), rows["funding_rate"].to_numpy(np.float64)[inside])
    return np.nan_to_num(out)
