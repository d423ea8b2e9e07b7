"""A market in which all that happens to funding, prices and open interest happens within 75 days."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

# The oracle is no package of the project, so its folder is named here.
sys.path.insert(0, str(Path(__file__).parent))

from funding_oracle import HOUR, START, after, settlements

from features.families.venues import OTHER_VENUES
from features.market import Market
from features.panel import Panel
from features.sources.simulated import simulate


def all_settlements() -> pd.DataFrame:
    """BTC every 8 h, ETH 8, then 4, then 1 h, a third with a hole of three days; other venues for the first two."""
    third = pd.date_range(START, after(75), freq="8h", unit="us")
    third = third[(third < after(45)) | (third >= after(48))]
    spacing = pd.Series(third).diff() / HOUR
    eras = [(0, 50, "8h"), (50, 60, "4h"), (60, 75, "1h")]
    times = [pd.date_range(after(a), after(b), freq=f, inclusive="left", unit="us") for a, b, f in eras]
    eth = times[0].append(times[1:])
    interval = np.repeat([8.0, 4.0, 1.0], [len(t) for t in times])
    parts = [
        settlements("binance", "BTCUSDT", pd.date_range(START, after(75), freq="8h", unit="us"), 8, 1),
        settlements("binance", "ETHUSDT", eth, interval, 2),
        settlements("binance", "SOLUSDT", third, spacing.where(spacing <= 8), 3),
    ]
    parts[0]["available_at"] += pd.Timedelta(milliseconds=1)
    for k, (venue, every) in enumerate(OTHER_VENUES.items()):
        shift = pd.Timedelta(hours=4 if venue == "kucoin" else 0)
        last = 60 if k % 2 else 52
        raster = pd.date_range(START + shift, after(last), freq=f"{every:g}h", unit="us")
        stated = 8.0 if venue == "gate" else np.nan
        parts += [
            settlements(venue, s, raster, stated, 10 * k + len(s) + j) for j, s in enumerate(("BTCUSDT", "ETHUSDT"))
        ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="session")
def market() -> Market:
    """Four markets for 75 days: gaps, a hole and a change of interval in funding, late and zero open interest."""
    tables = dict(simulate(seed=3, days=75, symbols=4).tables)
    tables["funding"] = all_settlements()
    for name, symbol in (("mark", "SOLUSDT"), ("spot", "XRPUSDT")):
        frame = tables[name]
        tables[name] = frame[(frame["symbol"] != symbol) & ~frame["close_time"].between(after(40), after(40.4))]
    bars, oi = tables["bars"], tables["open_interest"]
    tables["bars"] = bars[~((bars["symbol"] == "ETHUSDT") & bars["close_time"].between(after(55), after(55.3)))]
    oi = oi[(oi["symbol"] != "XRPUSDT") & ~oi["event_time"].between(after(44), after(44.6))].copy()
    oi.loc[oi["symbol"] == "ETHUSDT", "available_at"] += pd.Timedelta(minutes=5)
    oi.loc[oi["event_time"].between(after(50), after(50.4)), ["open_interest", "open_interest_value"]] = 0.0
    return Market.from_tables({k: v for k, v in tables.items() if k != "open_interest"}).with_tables(open_interest=oi)


@pytest.fixture(scope="session")
def panel(market: Market) -> Panel:
    return Panel(market)
