"""Minutes into hours, against pandas' own resampling."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid
from features.market import Market
from features.minutes import MinuteBars
from features.pipeline import FeaturePipeline

BEGIN = pd.Timestamp("2024-03-04 06:00", tz="UTC")
MINUTE, HOUR = pd.Timedelta(minutes=1), pd.Timedelta(hours=1)
SUMS = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
SYMBOLS = ("AUSDT", "BUSDT", "CUSDT")


def minutes(hours: int, symbols: tuple[str, ...] = SYMBOLS, latency: str = "300ms") -> pd.DataFrame:
    """Bars of whole ticks, so that sums are exact in any order."""
    rng, frames = np.random.default_rng(4), []
    closes = pd.date_range(BEGIN, periods=60 * hours, freq="min", unit="us") + MINUTE
    for symbol in symbols:
        path = 1000 + rng.integers(-3, 4, (len(closes), 4)).cumsum(axis=1)
        prices = {"open": path[:, 0], "high": path.max(axis=1), "low": path.min(axis=1), "close": path[:, -1]}
        flow = {name: rng.integers(0, 50, len(closes)) * (1 if name.startswith("taker") else 60) for name in SUMS}
        keys = {
            "interval": "1m",
            "symbol": symbol,
            "close_time": closes,
            "available_at": closes + pd.Timedelta(latency),
        }
        frames.append(pd.DataFrame(keys | {k: v.astype(float) for k, v in (prices | flow).items()}))
    rows = pd.concat(frames).assign(source="vision").sort_values(["close_time", "symbol"], ignore_index=True)
    return rows.astype({"available_at": "datetime64[us, UTC]"})


def pushed(builder: MinuteBars, rows: pd.DataFrame, each: str = "min") -> list[dict[str, pd.DataFrame]]:
    groups = rows.groupby(rows["close_time"].dt.ceil(each), sort=True)
    return [hour for _, new in groups for hour in builder.push({"bars": new})]


def resampled(rows: pd.DataFrame, interval: str) -> pd.DataFrame:
    """The oracle: complete bars, by pandas."""
    length = pd.Timedelta(interval.replace("m", "min"))
    group = rows.groupby([rows["symbol"], rows["close_time"].dt.ceil(length)])
    how = {"open": "first", "high": "max", "low": "min", "close": "last"} | dict.fromkeys(SUMS, "sum")
    return group.agg(how)[group.size() == length / MINUTE]


def of(hours: list[dict[str, pd.DataFrame]], interval: str) -> pd.DataFrame:
    bars = pd.concat([hour["bars"] for hour in hours])
    assert (bars["available_at"] == bars["close_time"]).all()
    assert set(bars["source"]) == {"vision"}
    own = bars[bars["interval"] == interval]
    return own.set_index(["symbol", "close_time"]).sort_index()[["open", "high", "low", "close", *SUMS]]


@pytest.mark.parametrize("each", ["min", "7min", "3h"])
def test_hours_and_quarters_are_what_their_minutes_say(each: str) -> None:
    rows = minutes(6)
    hours = pushed(MinuteBars(), rows, each)
    assert len(hours) == 6
    for interval in ("15m", "1h"):
        pd.testing.assert_frame_equal(
            of(hours, interval), resampled(rows, interval), check_exact=True, check_freq=False
        )


def test_an_hour_without_one_of_its_minutes_is_no_bar() -> None:
    rows = minutes(4)
    lost = (rows["symbol"] == "BUSDT") & (rows["close_time"] == BEGIN + HOUR + 20 * MINUTE)
    silent = rows["close_time"].between(BEGIN + 2 * HOUR + 50 * MINUTE, BEGIN + 3 * HOUR)  # all of them, up to the end
    rows = rows[~lost & ~silent]
    builder = MinuteBars()
    hours, gaps = [], []
    for _, new in rows.groupby("close_time"):
        for hour in builder.push({"bars": new}):
            hours.append(hour)
            gaps.append(builder.gaps)
    assert gaps == [{}, {"BUSDT": 1}, {}]
    for interval in ("15m", "1h"):
        pd.testing.assert_frame_equal(
            of(hours, interval), resampled(rows, interval), check_exact=True, check_freq=False
        )
    # The quarters of the hour without a bar come with the next one.
    third = hours[2]["bars"]
    assert third.loc[third["interval"] == "15m", "close_time"].min() == BEGIN + 2 * HOUR + 15 * MINUTE


def test_a_minute_known_too_late_is_a_gap() -> None:
    rows = minutes(2)
    late = (rows["symbol"] == "CUSDT") & (rows["close_time"] == BEGIN + HOUR)
    for wait, there in ((pd.Timedelta("60s"), 3), (pd.Timedelta("60.1s"), 2)):
        rows.loc[late, "available_at"] = BEGIN + HOUR + wait
        first = pushed(MinuteBars(), rows)[0]["bars"]
        assert (first["interval"] == "1h").sum() == there


def hour_by_hour(builder: MinuteBars, rows: pd.DataFrame) -> list[dict[str, int]]:
    """What was missing after each hour's rows."""
    out = []
    for _, new in rows.groupby(rows["close_time"].dt.ceil("h")):
        builder.push({"bars": new})
        out.append(builder.gaps)
    return out


def test_a_late_minute_counts_up_to_the_same_instant_in_whichever_push_it_comes() -> None:
    """One that the builder never saw in time is a gap like any other."""
    rows = minutes(1)
    rows.loc[rows["symbol"] == "CUSDT", "available_at"] = BEGIN + HOUR + pd.Timedelta("61s")
    for each in ("min", "h"):
        builder = MinuteBars()
        [hour] = pushed(builder, rows, each)
        assert "CUSDT" not in set(hour["bars"]["symbol"])
        assert builder.gaps == {"CUSDT": 60}


def test_the_last_minute_of_any_symbol_ends_the_hour_for_all() -> None:
    rows, builder = minutes(1), MinuteBars()
    last = rows["close_time"] == BEGIN + HOUR
    pushed(builder, rows[~last])
    [hour] = builder.push({"bars": rows[last & (rows["symbol"] == "BUSDT")]})
    assert set(hour["bars"].loc[hour["bars"]["interval"] == "1h", "symbol"]) == {"BUSDT"}
    assert builder.gaps == {"AUSDT": 1, "CUSDT": 1}
    with pytest.raises(DataInvalid, match=r"AUSDT.*all symbols of a minute in one push"):
        builder.push({"bars": rows[last & (rows["symbol"] == "AUSDT")]})


@pytest.mark.parametrize("price", ["open", "high", "low", "close"])
def test_a_minute_without_one_of_its_prices_is_missing(price: str) -> None:
    rows, builder = minutes(2), MinuteBars()
    holed = (rows["symbol"] == "BUSDT") & (rows["close_time"] == BEGIN + 20 * MINUTE)
    rows.loc[holed, price] = np.nan
    [hour] = pushed(builder, rows[rows["close_time"] <= BEGIN + HOUR])
    assert builder.gaps == {"BUSDT": 1}
    assert len(hour["bars"]) == 3 * 5 - 2
    assert hour["bars"][["open", "high", "low", "close"]].notna().all(axis=None)


def test_a_minute_without_a_price_may_be_passed_again() -> None:
    rows, builder = minutes(1), MinuteBars()
    first = rows["close_time"] == BEGIN + MINUTE
    builder.push({"bars": rows[first].assign(close=np.nan)})
    hours = pushed(builder, rows)
    assert builder.gaps == {}
    pd.testing.assert_frame_equal(of(hours, "1h"), resampled(rows, "1h"), check_exact=True)


def test_a_symbol_that_fell_silent_is_a_gap_of_all_minutes() -> None:
    rows = minutes(4)
    second = rows["close_time"].between(BEGIN + HOUR + MINUTE, BEGIN + 2 * HOUR)
    silent = (rows["symbol"] == "AUSDT") & second
    assert hour_by_hour(MinuteBars(), rows[~silent]) == [{}, {"AUSDT": 60}, {}, {}]
    assert hour_by_hour(MinuteBars(), rows[~second]) == [
        {},
        {},
        {},
    ]  # an hour that nobody pushed is told by its absence


@pytest.mark.parametrize(
    ("name", "named"), [("bars", "1m, BUSDT, 2024-03-04 06:02:00"), ("funding", "binance, BUSDT, 2024-03-04 06:00:00")]
)
def test_a_row_that_was_never_known_is_refused_and_nothing_is_taken_in(name: str, named: str) -> None:
    rows, builder = minutes(1), MinuteBars()
    begun = rows["close_time"] <= BEGIN + MINUTE
    pushed(builder, rows[begun])
    settled = pd.DataFrame(
        {"exchange": "binance", "symbol": list(SYMBOLS), "funding_time": BEGIN, "available_at": BEGIN}
    )
    new = {"bars": rows[rows["close_time"] == BEGIN + 2 * MINUTE], "funding": settled}
    bad = new[name].copy()
    bad.loc[bad["symbol"] == "BUSDT", "available_at"] = pd.NaT
    with pytest.raises(DataInvalid, match=rf"table '{name}', row {named}.*no available_at"):
        builder.push(new | {name: bad})
    [hour] = pushed(builder, rows[~begun])
    assert set(hour) == {"bars"}
    assert builder.gaps == {}


def test_other_tables_wait_for_the_hour_in_which_they_were_known() -> None:
    rows, builder = minutes(3), MinuteBars()
    settled = pd.DataFrame({"symbol": ["AUSDT"], "available_at": [BEGIN + HOUR + pd.Timedelta("200ms")]})
    known = pd.DataFrame({"symbol": ["BUSDT"], "available_at": [BEGIN + HOUR]})
    out = []
    for close, new in rows.groupby("close_time"):
        extra = {"funding": settled, "open_interest": known} if close == BEGIN + HOUR else {}
        out += builder.push({"bars": new} | extra)
    assert [set(hour) for hour in out] == [{"bars", "open_interest"}, {"bars", "funding"}, {"bars"}]
    pd.testing.assert_frame_equal(out[1]["funding"], settled)


def test_features_of_hours_made_of_minutes_are_those_of_the_stored_hours() -> None:
    rows = minutes(90)
    hours = pushed(MinuteBars(), rows)
    pipeline = FeaturePipeline.default()
    for hour in hours:
        live = pipeline.update(hour)
    market = Market.from_tables({"bars": pd.concat([hour["bars"] for hour in hours])})
    batch = pipeline.transform(market).loc[live.index]
    assert np.array_equal(live.to_numpy(), batch.to_numpy(), equal_nan=True)
    assert np.isfinite(live["log_rv_15m_24h"]).all()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"interval": "5m"}, "no bar of one minute"),
        ({"close_time": BEGIN + HOUR + MINUTE + pd.Timedelta(seconds=5)}, "no bar of one minute"),
        ({"close_time": BEGIN + HOUR}, "came after its hour had ended"),
        ({"close_time": BEGIN + HOUR + MINUTE}, "is there already"),
    ],
)
def test_what_cannot_be_placed_is_refused_and_nothing_is_taken_in(change: dict[str, object], cause: str) -> None:
    rows, builder = minutes(2), MinuteBars()
    begun = rows["close_time"] <= BEGIN + HOUR + MINUTE
    pushed(builder, rows[begun])
    bad = rows[rows["close_time"] == BEGIN + HOUR + 2 * MINUTE].copy()
    for column, value in change.items():
        bad.loc[bad.index[1], column] = value
    other = pd.DataFrame({"symbol": ["AUSDT"], "available_at": [BEGIN]})
    with pytest.raises(DataInvalid, match=f"BUSDT.*{cause}"):
        builder.push({"bars": bad, "funding": other})
    [hour] = pushed(builder, rows[~begun])
    assert set(hour) == {"bars"}
    expected = resampled(rows, "1h").loc[(slice(None), BEGIN + 2 * HOUR), :]
    pd.testing.assert_frame_equal(of([hour], "1h"), expected, check_exact=True)


def test_it_forgets_what_it_has_given() -> None:
    rows, builder = minutes(30), MinuteBars()
    sizes = []
    for _, new in rows.groupby(rows["close_time"].dt.ceil("h")):
        builder.push({"bars": new})
        sizes.append(len(pickle.dumps(builder)))
    assert len(set(sizes)) == 1
