from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid, UsageError
from features.market import Market
from forecaster.venue import Path, VenueParams

FIRST = pd.Timestamp("2023-01-01 01:00", tz="UTC")
HOURS = 1000


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(2)
    close = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(HOURS)))
    opened = np.concatenate([[100.0], close[:-1]])
    times = pd.date_range(FIRST, periods=HOURS, freq="h").as_unit("us")
    bars = pd.DataFrame(
        {
            "interval": "1h",
            "symbol": "AUSDT",
            "close_time": times,
            "open": opened,
            "high": np.maximum(opened, close) * 1.01,
            "low": np.minimum(opened, close) * 0.99,
            "close": close,
            "volume": 1e4 * np.exp(rng.standard_normal(HOURS)),
        }
    ).drop(index=[700])
    mark = bars.drop(columns="volume").assign(close=bars["close"] * 0.9999)
    settled = pd.date_range("2023-01-01", periods=125, freq="8h", tz="UTC").as_unit("us")
    funding = pd.DataFrame(
        {
            "exchange": "binance",
            "symbol": "AUSDT",
            "funding_time": settled + pd.Timedelta(milliseconds=7),
            "funding_rate": np.arange(125) * 1e-5,
            "interval_hours": 8.0,
            "available_at": settled + pd.Timedelta(seconds=1),
        }
    )
    mark = mark.assign(available_at=mark["close_time"]).iloc[:900]
    return {"bars": bars, "mark": mark, "funding": funding}


def _path(tables: dict[str, pd.DataFrame], start: str = "2023-01-11", end: str = "2023-02-11") -> Path:
    return Path.of(Market.from_tables(tables), "AUSDT", start, end)


def test_bars_mark_and_funding_stand_where_they_belong(tables: dict[str, pd.DataFrame]) -> None:
    path = _path(tables)
    bars = tables["bars"].set_index("close_time")
    times = pd.to_datetime(path.close_time, unit="us", utc=True)
    assert times[0] == pd.Timestamp("2023-01-11 01:00", tz="UTC")
    assert times[-1] == pd.Timestamp("2023-02-11 00:00", tz="UTC")
    assert len(path) == 31 * 24 - 1  # the missing bar stays missing
    assert path.hours[-1] == 31 * 24 - 1
    np.testing.assert_array_equal(path.last[:, 2], bars.loc[times, "low"])
    assert path.mark_modelled.sum() == (times > tables["mark"]["close_time"].max()).sum() > 0
    np.testing.assert_array_equal(path.mark[path.mark_modelled], path.last[path.mark_modelled])
    np.testing.assert_allclose(path.mark[0, 3], path.last[0, 3] * 0.9999)
    paid = np.flatnonzero(path.funding)
    # A rate settled at 08:00 falls in the bar that opens then.
    assert {time.hour for time in times[paid]} == {1, 9, 17}
    assert path.funding[7 + 1] == pytest.approx(31e-5)


def test_volatility_and_volume_come_from_the_past(tables: dict[str, pd.DataFrame]) -> None:
    path, constants = _path(tables), VenueParams.default().path
    bars = tables["bars"].set_index("close_time")
    at = pd.Timestamp("2023-01-20 05:00", tz="UTC")
    row = (
        int(np.flatnonzero(path.close_time == at.value // 1000)[0])
        if at.unit == "ns"
        else int(np.flatnonzero(pd.to_datetime(path.close_time, unit="us", utc=True) == at)[0])
    )
    past = np.log(bars["close"]).diff()[:at].iloc[:-1]
    first = np.log(bars["high"].iloc[0] / bars["low"].iloc[0]) ** 2 / (4 * np.log(2))
    squared = np.concatenate([[first], past.to_numpy()[1:] ** 2])
    weights = 0.5 ** (np.arange(len(squared))[::-1] / constants.sigma_half_life_hours)
    assert path.sigma[row] == pytest.approx(np.sqrt(24 * (weights @ squared) / weights.sum()), rel=1e-9)
    quote = (bars["volume"] * bars["close"])[:at].iloc[:-1].to_numpy()
    days = [quote[max(0, i - 23) : i + 1].mean() * 24 for i in range(len(quote))]
    assert path.volume[row] == pytest.approx(np.median(days[-constants.volume_median_hours :]))
    cut = {
        name: frame[frame["available_at" if "available_at" in frame else "close_time"] <= at]
        for name, frame in tables.items()
    }
    short = Path.of(Market.from_tables(cut), "AUSDT", "2023-01-11", at)
    for name in ("last", "mark", "funding", "sigma", "sigma_usual", "volume"):
        np.testing.assert_array_equal(getattr(short, name), getattr(path, name)[: len(short)])


def test_what_the_store_does_not_hold_is_refused(tables: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(DataInvalid, match="AUSDT has no hourly bar"):
        _path(tables, "2024-01-01", "2024-02-01")


def test_injections_change_what_they_say_and_nothing_else(tables: dict[str, pd.DataFrame]) -> None:
    path = _path(tables)
    jump = path.with_gap(100, -0.3)
    np.testing.assert_array_equal(jump.last[:100], path.last[:100])
    np.testing.assert_allclose(jump.mark[100:], path.mark[100:] * 0.7)
    late = path.with_late_mark(2)
    np.testing.assert_array_equal(late.mark[2:], path.mark[:-2])
    np.testing.assert_array_equal(late.last, path.last)
    thin = path.with_market(depth_scale=0.2)
    assert (thin.depth_scale == 0.2).all()
    assert (thin.liquidators == 1).all()
    for wrong in (lambda: path.with_gap(0, 0.1), lambda: path.with_gap(5, -1.0), lambda: path.with_late_mark(0)):
        with pytest.raises(UsageError):
            wrong()
