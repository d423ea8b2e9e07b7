"""Markets that the feature tests share."""

from __future__ import annotations

import pandas as pd
import pytest

from features.market import Market
from features.sources.simulated import simulate


@pytest.fixture(scope="session")
def rough_market() -> Market:
    """Nine simulated markets, 160 days: one listed late, one with gaps, one whose funding stops."""
    tables = dict(simulate(seed=11, days=160, symbols=9).tables)
    bars, funding = tables["bars"], tables["funding"]
    begin, (gappy, late, mute) = bars["close_time"].min(), sorted(bars["symbol"].unique())[:3]
    day = (bars["close_time"] - begin) / pd.Timedelta(days=1)
    holes = day.between(60, 60.2) | day.between(110.5, 112) | day.between(130, 130.05)
    unlisted = (bars["symbol"] == late) & (day < 100.3)
    tables["bars"] = bars[~unlisted & ~((bars["symbol"] == gappy) & holes)]
    silent = (funding["symbol"] == mute) & (funding["funding_time"] > begin + pd.Timedelta(days=120))
    tables["funding"] = funding[~silent]
    return Market.from_tables(tables)
