from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.families.spot_flow import SpotFlow
from features.market import Market
from features.panel import Panel


def oracle(spot: pd.DataFrame, bars: pd.DataFrame, i: int) -> dict[str, float]:
    """Hour ``i`` of one symbol, from frames on a complete hourly clock, by the definitions alone."""
    out = {}
    for hours in (1, 4, 24):
        window = spot.iloc[max(i - hours + 1, 0) : i + 1]
        known = window.dropna(subset=["taker_buy_volume"])
        enough = len(known) >= 0.8 * hours
        net, gross = (2 * known["taker_buy_volume"] - known["volume"]), known["volume"]
        value = net.sum() / gross.sum() if enough and gross.sum() > 0 else np.nan
        out[f"spot_flow_imbalance_{hours}h"] = value
        out[f"abs_spot_flow_imbalance_{hours}h"] = abs(value)
        if hours == 24:
            out["spot_flow_toxicity_24h"] = net.abs().sum() / gross.sum() if enough and gross.sum() > 0 else np.nan
    window = spot["volume"].iloc[[i - 24 * k for k in range(1, 15) if i >= 24 * k]].dropna()
    now = spot["volume"].iloc[i]
    out["log_spot_volume_surprise_1h"] = np.log(now) - np.log(window).mean() if len(window) >= 7 and now > 0 else np.nan
    day, month = slice(i - 23, i + 1), slice(i - 719, i + 1)
    if i >= 719 and spot["volume"].iloc[day].count() >= 0.8 * 24:
        parts = [spot["volume"].iloc[s].mean() / bars["volume"].iloc[s].mean() for s in (day, month)]
        out["log_spot_share_excess_24h"] = np.log(parts[0] / parts[1])
    past = spot["taker_buy_volume"].iloc[: i + 1].to_numpy()
    seen = np.flatnonzero(~np.isnan(past))
    out["age_spot_flow"] = min(i - seen[-1], 720) if len(seen) else 720
    return out


def compare(market: Market, symbol: str, hours: list[int]) -> None:
    panel = Panel(market)
    made = {c.name: c.values[panel.symbols.index(symbol)] for c in SpotFlow().columns(panel)}
    frames = [f.xs(symbol, level="symbol").reindex(panel.times) for f in (market.spot(), market.bars())]
    for i in hours:
        for name, expected in oracle(*frames, i).items():
            np.testing.assert_allclose(made[name][i], expected, rtol=1e-9, atol=1e-12, err_msg=f"{name} at hour {i}")


def test_spot_flow_is_what_it_says(rough_market: Market) -> None:
    spot = rough_market.table("spot")
    begin = spot["close_time"].min()
    hole = (spot["close_time"] > begin + pd.Timedelta(days=70)) & (spot["close_time"] < begin + pd.Timedelta(days=72))
    market = rough_market.with_tables(spot=spot[~hole])
    hours = [0, 3, 30, 200, 24 * 71, 24 * 72 + 1, 24 * 73, 24 * 75, 24 * 120 + 5, 24 * 150 + 23]
    compare(market, rough_market.symbols[3], hours)


@pytest.mark.real
def test_spot_flow_of_bitcoin(real_data: Path, tmp_path: Path) -> None:
    from features.sources import import_data

    folder = real_data / "binance_vision"
    import_data("vision", folder, tmp_path / "store")
    market = Market.open(tmp_path / "store")
    compare(market, "BTCUSDT", [10, 800, 1500, 2222])
    made = {c.name: c.values[0] for c in SpotFlow().columns(Panel(market))}
    assert 0.1 < np.nanmedian(made["spot_flow_toxicity_24h"]) < 0.5
    assert np.nanmedian(made["spot_flow_return_correlation_168h"]) > 0.3
