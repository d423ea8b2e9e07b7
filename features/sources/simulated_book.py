"""The simulated order book: what stands around the price when an hour ends.

Activity a = ln ν + ½ ln g over its level, imbalance m and leverage o are those of ``simulated_paths``, z are noises:

    ln spread = ln 2e-5 + 0.35 a + 0.15 z,  ln depth = ln(5 % of the hourly turnover at rest) - 0.3 a + 0.4 o + 0.2 z'
    bid share = ½ (1 + tanh(m / 2 + z / 2))   the book leans the way takers push

The spread widens and the depth thins when variance is expected, so that the book leads it by what the state knows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from features.sources.simulated_dynamics import STEPS_PER_HOUR
from features.sources.simulated_paths import Path

__all__ = ["order_book"]

TIGHT: Final = 2e-5
DEPTH_SHARE: Final = 0.05  # of the hourly turnover at rest, within one per cent of the mid
TOUCH_SHARE: Final = 0.01  # of that depth


def order_book(path: Path, hours: pd.DatetimeIndex) -> pd.DataFrame:
    """One snapshot an hour, known at once: rows of the table ``order_book`` without their source."""
    last = slice(STEPS_PER_HOUR - 1, None, STEPS_PER_HOUR)
    activity, z = path.activity[last], path.normal[last]
    leverage = path.state[STEPS_PER_HOUR::STEPS_PER_HOUR, 4]
    mid = np.exp(path.log_price[STEPS_PER_HOUR::STEPS_PER_HOUR])
    half = 0.5 * TIGHT * np.exp(0.35 * activity + 0.15 * z[:, 14])
    at_rest = DEPTH_SHARE * path.profile.daily_quote_volume / 24
    depth = at_rest * np.exp(-0.3 * activity + 0.4 * leverage + 0.2 * z[:, 15])
    bids = 0.5 * (1.0 + np.tanh(0.5 * path.imbalance[last] + 0.5 * z[:, 11]))
    return pd.DataFrame(
        {
            "symbol": path.profile.symbol,
            "event_time": hours,
            "bid": mid * (1.0 - half),
            "ask": mid * (1.0 + half),
            "bid_size": TOUCH_SHARE * bids * depth / mid,
            "ask_size": TOUCH_SHARE * (1.0 - bids) * depth / mid,
            "bid_depth_1pct": bids * depth,
            "ask_depth_1pct": (1.0 - bids) * depth,
            "available_at": hours,
        }
    )
