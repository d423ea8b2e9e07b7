from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from features.families.trade_flow import TradeFlow
from features.market import Market
from features.panel import Panel
from features.schemas import TRADE_MEASURES

HOURS = 900


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    """Hourly bars of one market with all measures of trades, a twentieth of the hours without."""
    rng = np.random.default_rng(4)
    close = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(HOURS)))
    times = pd.date_range("2024-01-01 01:00", periods=HOURS, freq="h", tz="UTC")
    frame = pd.DataFrame({"interval": "1h", "symbol": "BTCUSDT", "close_time": times, "open": close, "close": close})
    frame = frame.assign(high=close * 1.01, low=close * 0.98, volume=5.0)
    for name in TRADE_MEASURES:
        frame[name] = rng.gamma(1.5, 1e-3, HOURS)
    frame["bipower_variation"] = frame["realised_variance"] * rng.uniform(0.5, 1.2, HOURS)
    frame["kyle_lambda"] -= 1e-3
    frame["large_trades"] = rng.poisson(10.0, HOURS).astype(float)
    frame["vpin"] = rng.uniform(0.1, 0.5, HOURS)
    frame.loc[rng.random(HOURS) < 0.05, list(TRADE_MEASURES)] = np.nan
    return frame


def test_every_column_is_its_formula(measured: pd.DataFrame) -> None:
    panel = Panel(Market.from_tables({"bars": measured}))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {column.name: column.values[0] for column in TradeFlow().columns(panel)}
    checked = set()

    def compare(name: str, wanted: float) -> None:
        np.testing.assert_allclose(found[name][t], wanted, rtol=1e-9, atol=1e-12, err_msg=f"{name} at {t}")
        checked.add(name)

    def mean(name: str, hours: int) -> float:
        window = measured[name].iloc[t - hours + 1 : t + 1].dropna()
        return float(window.mean()) if len(window) >= 0.8 * hours else math.nan

    def log_ratio(part: float, whole: float) -> float:
        return float(np.clip(np.log(max(part / whole, 1e-9)), -math.log(10), math.log(10)))

    for t in (730, 801, 802, HOURS - 1):
        known = measured["realised_variance"].iloc[t - 23 : t + 1].notna().to_numpy()
        variance = float(np.mean(panel.variance[0, t - 23 : t + 1][known]))
        compare("log_trades_rv_share_24h", log_ratio(mean("realised_variance", 24), variance))
        share = 1 - mean("bipower_variation", 24) / mean("realised_variance", 24)
        compare("trades_jump_share_24h", max(share, 0.0))
        down, up = mean("semivariance_down", 24), mean("semivariance_up", 24)
        compare("trades_semivariance_share_24h", down / (down + up))
        compare("vpin", measured["vpin"].iloc[t])
        month = measured["vpin"].iloc[t - 719 : t + 1]
        compare("vpin_z_720h", (measured["vpin"].iloc[t] - month.mean()) / month.std())
        compare("log_kyle_lambda_excess_24h", log_ratio(mean("kyle_lambda", 24), mean("kyle_lambda", 720)))
        compare("log_trades_amihud_excess_24h", log_ratio(mean("amihud", 24), mean("amihud", 720)))
        for hours in (1, 24):
            wanted = math.log(1 + mean("large_trades", hours)) - math.log(1 + mean("large_trades", 720))
            compare(f"log_large_trades_excess_{hours}h", wanted)
        compare("log_duration_cv_24h", math.log(mean("duration_cv", 24)))
        compare("log_run_length_mean_excess_24h", log_ratio(mean("run_length_mean", 24), mean("run_length_mean", 720)))
        last = measured["realised_variance"].iloc[: t + 1].last_valid_index()
        compare("age_trades", t - int(str(last)))
    assert checked == set(found)


def test_a_price_impact_below_zero_is_the_lower_bound(measured: pd.DataFrame) -> None:
    bars = measured.copy()
    bars.loc[HOURS - 24 :, "kyle_lambda"] = -1.0
    bars.loc[: HOURS - 25, "kyle_lambda"] = 1.0
    panel = Panel(Market.from_tables({"bars": bars}))
    [excess] = [c.values for c in TradeFlow().columns(panel) if c.name == "log_kyle_lambda_excess_24h"]
    assert excess[0, -1] == -math.log(10)
    bars["kyle_lambda"] = -1.0
    panel = Panel(Market.from_tables({"bars": bars}))
    [excess] = [c.values for c in TradeFlow().columns(panel) if c.name == "log_kyle_lambda_excess_24h"]
    assert np.isnan(excess).all()
