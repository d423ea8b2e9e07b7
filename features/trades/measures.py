"""A bar's measures at its close; see ``features.trades.bars`` for what they are."""

from __future__ import annotations

import math
from typing import Any, Final

import numba
import numpy as np

from features.trades.state import PARTS

__all__ = ["measure"]

MED_RV_SCALE: Final = math.pi / (6 - 4 * math.sqrt(3) + math.pi) * PARTS / (PARTS - 2)
ROUNDING: Final = 1e-12
BIPOWER_SCALE: Final = math.pi / 2 * PARTS / (PARTS - 1)


@numba.njit(cache=True)
def measure(bars: Any, measured: Any) -> None:
    """Write the measures of every closed bar; records of ``BAR`` and ``MEASURED``, both of shape (n,)."""
    for i in range(len(bars)):
        bar, out = bars[i], measured[i]
        out.interval, out.start, out.touched = bar.interval, bar.start, bar.touched
        out.open, out.high, out.low, out.close = bar.open, bar.high, bar.low, bar.close
        out.volume, out.quote_volume, out.trades = bar.volume, bar.quote, bar.trades
        out.taker_buy_volume, out.taker_buy_quote_volume = bar.buy, bar.buy_quote
        out.signed_volume = 2.0 * bar.buy - bar.volume
        out.large_trades = bar.large if bar.large >= 0 else math.nan
        out.vpin = bar.vpin
        mean = bar.wait / bar.waits if bar.waits else math.nan
        out.duration_mean = mean * 1e-6
        variance = bar.wait_squares / bar.waits - mean * mean if bar.waits else math.nan
        out.duration_cv = math.sqrt(max(variance, 0.0)) / mean if mean > 0.0 else math.nan
        out.run_length_mean = bar.run_total / bar.runs if bar.runs else math.nan
        out.run_length_max = bar.run_longest if bar.count else math.nan
        _measure_returns(bar, out)
        if bar.touched:
            _void(out)


@numba.njit(cache=True)
def _void(out: Any) -> None:
    """No measures: of a bar whose trades are not all known."""
    out.realised_variance = out.realised_quarticity = out.bipower_variation = out.med_rv = math.nan
    out.semivariance_up = out.semivariance_down = out.kyle_lambda = out.amihud = out.vpin = math.nan
    out.signed_volume = out.large_trades = out.duration_mean = out.duration_cv = math.nan
    out.run_length_mean = out.run_length_max = math.nan


@numba.njit(cache=True)
def _measure_returns(bar: Any, out: Any) -> None:
    """Measures of the returns over the twelve parts of a bar; NaN where the price before the bar is not known."""
    known = bar.before > 0.0
    returns = np.zeros(PARTS)
    price = bar.before
    for j in range(PARTS):
        now = bar.part_close[j]
        if now > 0.0:
            returns[j] = math.log(now / price) if known else math.nan
            price = now
    square = fourth = product = median = up = down = illiquid = 0.0
    x_mean = r_mean = 0.0
    active = 0
    for j in range(PARTS):
        r = returns[j]
        square += r * r
        fourth += r * r * r * r
        up += r * r if r > 0.0 else 0.0
        down += r * r if r < 0.0 else 0.0
        if j > 0:
            product += abs(r) * abs(returns[j - 1])
        if j > 1:
            a, b, c = abs(returns[j - 2]), abs(returns[j - 1]), abs(r)
            middle = max(min(a, b), min(max(a, b), c))
            median += middle * middle
        if bar.part_quote[j] > 0.0:
            illiquid += abs(r) / bar.part_quote[j]
            active += 1
        r_mean += r / PARTS
        x_mean += _root(bar.part_flow[j]) / PARTS
    above = below = 0.0
    for j in range(PARTS):
        x = _root(bar.part_flow[j]) - x_mean
        above += x * (returns[j] - r_mean)
        below += x * x
    # Flows that are all alike differ by no more than their mean was rounded.
    varied = below > PARTS * (ROUNDING * x_mean) ** 2
    missing = 0.0 if known else math.nan
    out.realised_variance, out.realised_quarticity = square + missing, PARTS / 3 * fourth + missing
    out.bipower_variation, out.med_rv = BIPOWER_SCALE * product + missing, MED_RV_SCALE * median + missing
    out.semivariance_up, out.semivariance_down = up + missing, down + missing
    out.amihud = illiquid / active + missing if active else math.nan
    out.kyle_lambda = above / below + missing if varied else math.nan


@numba.njit(cache=True)
def _root(flow: float) -> float:
    """Signed square root."""
    return math.copysign(math.sqrt(abs(flow)), flow)
