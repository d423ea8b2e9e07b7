"""What the benchmarks of hidden states measure on: hourly volatility and returns of one symbol, real or simulated."""

from __future__ import annotations

import argparse
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.market import Market

__all__ = ["Array", "observations", "options"]

Array = NDArray[np.float64]

SYMBOL: Final = "BTCUSDT"
DAY: Final = 24
WEEK: Final = 168
LEAST_VARIANCE: Final = 1e-9


def options(text: str | None) -> argparse.Namespace:
    """``--store``, ``--bars``, ``--rounds`` and ``--quick``, which is small and simulated."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="a store with hourly bars; without it, simulated bars")
    parser.add_argument("--bars", type=int, default=26_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="3,000 simulated bars, one round")
    given = parser.parse_args()
    if given.quick:
        given.store, given.bars, given.rounds = None, 3_000, 1
    return given


def observations(given: argparse.Namespace) -> tuple[str, dict[str, Array]]:
    """Where the newest ``bars`` bars come from, and their columns, each at mean zero and variance one.

    ``hour`` and ``day``: log of the variance over one and 24 hours (Garman & Klass 1980); ``return``: the hour's log
    return over the standard deviation of the week before.
    """
    bars, source = _simulated(given.bars + WEEK + 2), "simulated"
    if given.store:
        real = Market.open(given.store).bars("1h")
        known = real.index.get_level_values("symbol").value_counts()
        symbol = SYMBOL if known.get(SYMBOL, 0) >= given.bars + WEEK else str(known.index[0])
        bars, source = real.loc[symbol], symbol
    change = np.log(bars["close"]).diff()
    variance = 0.5 * np.log(bars["high"] / bars["low"]) ** 2
    variance -= (2 * np.log(2) - 1) * np.log(bars["close"] / bars["open"]) ** 2
    columns = pd.DataFrame(
        {
            "hour": np.log(variance.clip(lower=LEAST_VARIANCE)),
            "day": np.log(variance.rolling(DAY).mean().clip(lower=LEAST_VARIANCE)),
            "return": change / change.rolling(WEEK).std().shift(),
        }
    )
    rows = columns.dropna().tail(given.bars)
    scaled = (rows - rows.mean()) / rows.std()
    return f"{source}, {len(rows):,} bars", {str(name): scaled[name].to_numpy(np.float64) for name in scaled}


def _simulated(hours: int) -> pd.DataFrame:
    """Bars of twelve steps an hour, whose volatility follows three regimes and a slow wave of its own."""
    rng = np.random.default_rng(20)
    stays = rng.random(hours) < 0.99
    regime = np.zeros(hours, dtype=np.int64)
    wave = np.zeros(hours)
    for t in range(1, hours):
        regime[t] = regime[t - 1] if stays[t] else rng.integers(3)
        wave[t] = 0.95 * wave[t - 1] + 0.1 * rng.standard_normal()
    spread = 0.001 * np.exp(0.7 * regime + wave)
    path = np.cumsum(spread[:, None] * rng.standard_normal((hours, 12)), axis=1)
    start = np.concatenate([[0.0], np.cumsum(path[:, -1])[:-1]])[:, None]
    steps = np.exp(start + np.column_stack([np.zeros(hours), path]))
    return pd.DataFrame(
        {"open": steps[:, 0], "high": steps.max(axis=1), "low": steps.min(axis=1), "close": steps[:, -1]}
    )
