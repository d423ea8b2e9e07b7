from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features import kernels
from features.errors import DataInvalid
from features.market import Market
from features.measures import garman_klass, parkinson, rogers_satchell, sum_inside_hours
from features.panel import Panel

START = pd.Timestamp("2024-03-01", tz="UTC")  # a Friday
HOUR = pd.Timedelta(hours=1)


def bars(symbol: str, hours: list[int], interval: str = "1h", **columns: Any) -> pd.DataFrame:
    step = HOUR if interval == "1h" else pd.Timedelta(minutes=15)
    frame = pd.DataFrame({"interval": interval, "symbol": symbol, "close_time": [START + step * h for h in hours]})
    flat = dict.fromkeys(("open", "high", "low", "close"), 100.0)
    return frame.assign(volume=1.0, **flat).assign(**columns)


def test_garman_klass_by_hand() -> None:
    values = garman_klass(*(np.array([x]) for x in (101.0, 103.0, 99.0, 102.0, 100.0)))
    by_hand = 0.5 * math.log(103 / 99) ** 2 - (2 * math.log(2) - 1) * math.log(102 / 101) ** 2
    assert values[0] == pytest.approx(by_hand + math.log(1.01) ** 2, rel=1e-14)
    assert by_hand == pytest.approx(0.000746945, abs=1e-9)


def test_range_estimators_by_hand() -> None:
    open_, high, low, close = (np.array([x]) for x in (101.0, 103.0, 99.0, 102.0))
    assert parkinson(high, low)[0] == pytest.approx(math.log(103 / 99) ** 2 / (4 * math.log(2)), rel=1e-14)
    drift_free = math.log(103 / 102) * math.log(103 / 101) + math.log(99 / 102) * math.log(99 / 101)
    assert rogers_satchell(open_, high, low, close)[0] == pytest.approx(drift_free, rel=1e-14)


def test_measures_inside_hours_need_every_bar_and_the_one_before() -> None:
    closes = [100.0, 101.0, 99.5, 102.0, 103.0, 101.0, 100.0, 104.0, 105.0, 104.5]
    quarters = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11]  # the third hour has a hole
    frame = bars("A", quarters, "15m", close=closes).set_index(["symbol", "close_time"])
    found = sum_inside_hours(frame, 4)
    r = np.diff(np.log(closes[:9]))
    assert list(found["squared_returns"].index) == [("A", START + HOUR), ("A", START + 2 * HOUR)]
    for k in range(2):
        hour = r[4 * k : 4 * k + 4]
        assert found["squared_returns"].iloc[k] == pytest.approx((hour**2).sum())
        assert found["semivariance_down"].iloc[k] == pytest.approx((hour[hour < 0] ** 2).sum())
        assert found["quarticity"].iloc[k] == pytest.approx(4 / 3 * (hour**4).sum())
        medians = [np.median(np.abs(hour[j : j + 3])) for j in range(2)]
        scale = math.pi / (6 - 4 * math.sqrt(3) + math.pi) * 4 / 2
        assert found["med_rv"].iloc[k] == pytest.approx(scale * sum(m**2 for m in medians))


def test_a_gap_stays_a_gap() -> None:
    panel = Panel(Market.from_tables({"bars": pd.concat([bars("A", [1, 2, 5, 6]), bars("B", [4])])}))
    assert panel.symbols == ("A", "B")
    assert len(panel) == 6
    np.testing.assert_array_equal(np.isnan(panel.close), [[0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 1, 1]])
    # A return and a variance need this bar and the one before.
    assert np.flatnonzero(np.isfinite(panel.log_return[0])).tolist() == [1, 5]
    assert np.flatnonzero(np.isfinite(panel.variance[0])).tolist() == [1, 5]


def test_slots_count_the_hour_that_a_bar_covers_from_monday() -> None:
    panel = Panel(Market.from_tables({"bars": bars("A", list(range(1, 75)))}))
    assert panel.slots[0] == 4 * 24  # Friday 00:00-01:00
    assert panel.slots[71] == 6 * 24 + 23
    assert panel.slots[72] == 0  # Monday


def test_a_bar_known_after_its_hour_counts_as_missing() -> None:
    late = bars("A", [1, 2, 3, 4]).assign(available_at=[START + HOUR * h for h in (1, 2, 3.5, 4)])
    quarters = bars("A", list(range(1, 17)), "15m")
    quarters["available_at"] = quarters["close_time"].mask(quarters.index == 5, START + 3 * HOUR)
    panel = Panel(Market.from_tables({"bars": pd.concat([late, quarters])}))
    assert np.isnan(panel.close[0]).tolist() == [False, False, True, False]
    assert np.isfinite(panel.inside_hours("squared_returns")[0]).tolist() == [False, False, True, True]
    with pytest.raises(DataInvalid, match="known at their close"):
        Panel(Market.from_tables({"bars": late.iloc[2:3]}))


def test_feeds_are_joined_backward_on_availability_and_expire() -> None:
    times = [START + HOUR * h for h in (2.5, 5, 8)]
    funding = pd.DataFrame(
        {
            "exchange": "binance",
            "symbol": "A",
            "funding_time": times,
            "funding_rate": [0.01, 0.02, 0.03],
            "interval_hours": 8.0,
            "available_at": [times[0], times[1], START + HOUR * 9.25],
        }
    )
    market = Market.from_tables({"bars": bars("A", list(range(1, 13))), "funding": funding})
    known = Panel(market).as_of(market.funding(), {"rate": "funding_rate"}, life_hours=3)
    nan = math.nan
    expected = [nan, nan, 0.01, 0.01, 0.02, 0.02, 0.02, 0.02, nan, 0.03, 0.03, 0.03]
    np.testing.assert_array_equal(known["rate"][0], expected)
    np.testing.assert_allclose(known["age"][0], [720, 720, 0.5, 1.5, 0, 1, 2, 3, 4, 0.75, 1.75, 2.75])


def test_capped_variance_is_at_most_thirty_times_the_day_before() -> None:
    rng = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(0.01 * rng.normal(size=100)))
    close[60:] *= 0.5
    frame = bars("A", list(range(1, 101)), close=close)
    frame["open"] = np.r_[100.0, close[:-1]]
    frame["high"], frame["low"] = frame[["open", "close"]].max(axis=1), frame[["open", "close"]].min(axis=1)
    panel = Panel(Market.from_tables({"bars": frame}))
    v, capped = panel.variance[0], panel.capped_variance[0]
    assert v[60] > 0.05
    assert capped[60] == pytest.approx(30 * v[36:60].mean(), rel=1e-12)
    rest = np.delete(np.arange(1, 100), 59)
    np.testing.assert_array_equal(capped[rest], np.maximum(v[rest], 1e-8))


def test_the_season_known_at_an_hour_is_made_from_the_weeks_before_it(rough_market: Market) -> None:
    panel = Panel(rough_market)
    hours = panel.times.day_of_week * 24 + panel.times.hour
    mondays = np.flatnonzero(hours == 0)
    monday = mondays[-3]
    log_v = np.log(panel.capped_variance)
    curve = kernels.season_curves(log_v, np.array([monday + 1], dtype=np.int64), int(panel.slots[0]), 104 * 168, 26.0)[
        0
    ]
    # The bar that opens on Monday 00:00 is the first to use the new curve.
    for ahead in (1, 2, 100, 168):
        slot = (panel.slots[monday] + ahead) % 168
        np.testing.assert_array_equal(panel.log_season[:, monday + ahead], curve[:, slot])
    assert (panel.log_season[:, monday] != curve[:, panel.slots[monday]]).any()
    slots = (panel.slots[monday + 30] + np.arange(1, 25)) % 168
    expected = np.log(np.exp(curve[:, slots]).sum(axis=1))
    np.testing.assert_allclose(panel.log_season_ahead(24)[:, monday + 30], expected, rtol=1e-12)


def test_squared_returns_need_quarters_and_say_so() -> None:
    with pytest.raises(DataInvalid, match="squared_returns"):
        _ = Panel(Market.from_tables({"bars": bars("A", [1, 2, 3])}), "squared_returns").variance
    with pytest.raises(DataInvalid, match="1h bars"):
        Panel(Market.from_tables({"bars": bars("A", [1, 2], "15m")}))
