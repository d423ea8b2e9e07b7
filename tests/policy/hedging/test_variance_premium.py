"""The premium ledger by hand, its holes, and what stale quotes give away."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from features.measures import garman_klass
from forecaster.policy.hedging.greeks import CALL, PUT, greeks
from forecaster.policy.hedging.variance_premium import funded_protection, premium_ledger, stale_quotes

TIMES = pd.date_range("2024-01-01 01:00", periods=6, freq="h", tz="UTC", unit="us")


def market(hole: int | None = None) -> Market:
    close = np.array([100.0, 101.0, 99.0, 99.5, 103.0, 102.0])
    open_ = np.concatenate([[100.0], close[:-1]])
    bars = pd.DataFrame(
        {
            "symbol": "BTCUSDT",
            "interval": "1h",
            "close_time": TIMES,
            "open": open_,
            "high": np.maximum(open_, close) + 0.5,
            "low": np.minimum(open_, close) - 0.5,
            "close": close,
            "volume": 10.0,
        }
    )
    iv = pd.DataFrame({"underlying": "BTC", "close_time": TIMES, "close": [60.0, 62.0, 61.0, 70.0, 80.0, 75.0]})
    for name in ("open", "high", "low"):
        iv[name] = iv["close"]
    iv["available_at"] = iv["close_time"]
    if hole is not None:
        iv = iv.drop(index=hole)
    return Market.from_tables({"bars": bars, "implied_vol": iv})


def forecasts() -> pd.DataFrame:
    return pd.DataFrame({"symbol": "BTCUSDT", "origin": TIMES, "horizon_hours": 24, "vol_annualised": 0.5})


def test_the_ledger_by_hand() -> None:
    ledger = premium_ledger(market(), forecasts(), symbol="BTCUSDT", underlying="BTC", notional=1e6)
    row = ledger.iloc[3]
    realised = garman_klass(*(np.array([x]) for x in (99.0, 100.0, 98.5, 99.5, 99.0)))[0]
    assert row["iv"] == pytest.approx(0.61)
    assert row["realised"] == pytest.approx(float(realised))
    assert row["premium"] == pytest.approx(0.61**2 - 0.25)
    assert row["accrual"] == pytest.approx(1e6 * (0.61**2 / 8760 - float(realised)))


def test_a_hole_is_null_and_never_filled() -> None:
    whole = premium_ledger(market(), forecasts(), symbol="BTCUSDT", underlying="BTC", notional=1.0)
    holed = premium_ledger(market(hole=2), forecasts(), symbol="BTCUSDT", underlying="BTC", notional=1.0)
    assert holed.iloc[3][["iv", "premium", "accrual"]].isna().all()
    assert not np.isnan(holed["realised"].iloc[3])
    pd.testing.assert_frame_equal(holed.drop(index=holed.index[3]), whole.drop(index=whole.index[3]))


def test_the_premium_uses_only_what_the_hour_s_start_knew() -> None:
    ledger = premium_ledger(market(), forecasts(), symbol="BTCUSDT", underlying="BTC", notional=1.0)
    changed = market()
    iv = changed.implied_vol()
    iv.loc[4, ["open", "high", "low", "close"]] = 500.0
    later = premium_ledger(
        changed.with_tables(implied_vol=iv), forecasts(), symbol="BTCUSDT", underlying="BTC", notional=1.0
    )
    pd.testing.assert_frame_equal(ledger.iloc[:5], later.iloc[:5])
    assert later["iv"].iloc[5] == pytest.approx(5.0)


def test_accrual_beside_protection() -> None:
    ledger = premium_ledger(market(hole=2), forecasts(), symbol="BTCUSDT", underlying="BTC", notional=1e6)
    bought = pd.DataFrame(
        {"cost": [30.0, 50.0], "payoff": [0.0, 400.0], "avoided": [100.0, 300.0]}, index=TIMES[[1, 4]]
    )
    row = funded_protection(ledger, bought, "D").iloc[0]
    assert row["null_hours"] == 2  # the hole and the first hour, whose start lies before the index
    assert row["accrual"] == pytest.approx(float(ledger["accrual"].sum()))
    assert row["balance"] == pytest.approx(float(ledger["accrual"].sum()) - 80 + 400)
    assert row["avoided"] == 200.0
    assert row["purchases"] == 2


@pytest.mark.parametrize("every", ["7D", "10h", "D", "W", "MS"])
def test_no_purchase_falls_between_the_periods(every: str) -> None:
    hours = pd.date_range("2024-01-03 01:00", periods=24 * 40, freq="h", tz="UTC")
    ledger = pd.DataFrame({"accrual": np.arange(len(hours), dtype=float)}, index=hours)
    when = pd.DatetimeIndex(["2023-12-20", "2024-01-10", "2024-01-31", "2024-03-20"], tz="UTC")
    bought = pd.DataFrame({"cost": [1.0, 2.0, 4.0, 8.0], "payoff": 0.5, "avoided": 3.0}, index=when)
    table = funded_protection(ledger, bought, every)
    assert table["cost"].sum() == 15.0
    assert table["payoff"].sum() == 2.0
    assert table["purchases"].sum() == 4
    assert table["accrual"].sum() == ledger["accrual"].sum()
    assert table["hours"].sum() == len(hours)
    outside = table[table["hours"] == 0].query("purchases > 0")
    assert len(outside) == 2
    assert outside["balance"].isna().all()  # what was accrued then is not known


def test_an_hour_counts_in_the_period_in_which_it_begins() -> None:
    hours = pd.date_range("2024-01-01 01:00", periods=48, freq="h", tz="UTC")
    ledger = pd.DataFrame({"accrual": np.repeat([1.0, 10.0], 24)}, index=hours)
    none = pd.DataFrame({"cost": [], "payoff": [], "avoided": []}, index=pd.DatetimeIndex([], tz="UTC"), dtype=float)
    table = funded_protection(ledger, none, "D")
    assert table["accrual"].tolist() == [24.0, 240.0]
    assert table["balance"].tolist() == [24.0, 240.0]


def test_stale_quotes_give_away_the_excess_over_the_spread() -> None:
    iv = np.array([0.5, 0.5, 0.8, np.nan, 0.8])

    def straddle(v: float) -> float:
        return sum(float(greeks(kind, 1.0, 1.0, 720.0, v).price) for kind in (CALL, PUT))

    table = stale_quotes(iv, 720.0, [1, 2], spread=0.01)
    one = table.iloc[0]
    assert one["hours"] == 2
    assert one["traded_share"] == 0.5
    assert one["gain_per_hour"] == pytest.approx((straddle(0.8) - straddle(0.5) - 0.01) / 2)
    assert one["worst"] == pytest.approx(straddle(0.8) - straddle(0.5) - 0.01)
    none = stale_quotes(iv, 720.0, [1], spread=1.0).iloc[0]
    assert none["traded_share"] == none["gain_per_hour"] == 0.0
    for lag in (1, 7):
        assert math.isnan(stale_quotes(iv[:1], 720.0, [lag], 0.0)["worst"].iloc[0])
    assert stale_quotes(iv, 720.0, [7], 0.0)["hours"].tolist() == [0]
