from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataInvalid, UsageError
from features.rules import inspect
from features.schemas import SOURCES, TABLES, empty, table, to_arrow, to_utc

NOW = pd.Timestamp("2025-01-01", tz="UTC")
FLOW = "quote_volume trades taker_buy_volume taker_buy_quote_volume"
PINNED = {
    "bars": f"interval symbol close_time open high low close volume {FLOW}",
    "mark": "interval symbol close_time open high low close",
    "spot": f"interval symbol close_time open high low close volume {FLOW}",
    "funding": "exchange symbol funding_time funding_rate interval_hours",
    "open_interest": "symbol event_time open_interest open_interest_value",
    "order_book": "symbol event_time bid ask bid_size ask_size bid_depth_1pct ask_depth_1pct",
    "implied_vol": "underlying close_time open high low close",
    "daily": "series date close",
    "margin_tiers": "symbol observed_at tier min_notional max_notional maint_margin_rate max_leverage cum_maint_amount",
}


def bars(count: int = 4) -> pd.DataFrame:
    close_time = pd.date_range("2024-03-01", periods=count, freq="h", tz="UTC")
    return pd.DataFrame(
        {
            "interval": "1h",
            "symbol": "BTCUSDT",
            "close_time": close_time,
            "open": 100.0,
            "high": 110.0,
            "low": 90.0,
            "close": 105.0,
            "volume": 7.0,
            "taker_buy_volume": 3.0,
            "available_at": close_time,
            "source": "parquet",
        },
        index=range(2, count + 2),
    )


def test_tables_have_the_pinned_columns_and_two_clocks() -> None:
    assert {name: " ".join(spec.columns) for name, spec in TABLES.items()} == {
        name: f"{columns} available_at source" for name, columns in PINNED.items()
    }
    for spec in TABLES.values():
        assert spec.schema.field(spec.clock).type == pa.timestamp("us", tz="UTC")
        assert spec.schema.field("available_at").type == pa.timestamp("us", tz="UTC")
        assert list(empty(spec).columns) == list(spec.columns)
    assert SOURCES == ("vision", "trades", "parquet", "freqtrade", "simulated")


def test_a_misspelt_table_names_its_neighbour() -> None:
    with pytest.raises(UsageError, match="did you mean 'funding'"):
        table("fundings")


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1709251200, 1709254800]),
        pd.Series([1709251200000, 1709254800000]),
        pd.Series([1709251200000000, 1709254800000000]),
        pd.Series([1709251200000000000, 1709254800000000000]),
        pd.Series(["2024-03-01", "2024-03-01T01:00:00Z"]),
        pd.Series(["2024-03-01 00:00:00+00:00", "2024-03-01 03:00:00+02:00"]),
        pd.Series(pd.to_datetime(["2024-03-01 00:00", "2024-03-01 01:00"])),
        pd.Series(pd.to_datetime(["2024-03-01 00:00", "2024-03-01 01:00"])).dt.tz_localize("UTC"),
        pd.Series(pd.to_datetime(["2024-02-29 19:00", "2024-02-29 20:00"])).dt.tz_localize("America/New_York"),
    ],
)
def test_every_spelling_of_an_instant_is_the_same_instant(values: pd.Series) -> None:
    expected = pd.Series(pd.to_datetime(["2024-03-01 00:00", "2024-03-01 01:00"], utc=True)).astype(
        "datetime64[us, UTC]"
    )
    pd.testing.assert_series_equal(to_utc(values), expected)


def test_an_epoch_in_another_unit_is_no_instant_rather_than_a_wrong_one() -> None:
    mixed = to_utc(pd.Series([1709251200000, 1709254800000, 1709258400000, 1709262000, 1709265600000000]))
    assert mixed.isna().tolist() == [False, False, False, True, True]


def test_arrow_keeps_instants_to_the_microsecond_and_nulls() -> None:
    frame = pd.DataFrame({"t": pd.to_datetime(["2024-01-01 00:00:00.000001", None], utc=True), "x": [1.5, np.nan]})
    schema = pa.schema([("x", pa.float64()), ("t", pa.timestamp("us", tz="UTC"))])
    written = to_arrow(frame, schema)
    assert written.schema == schema
    assert written["t"].cast(pa.int64()).to_pylist() == [1704067200000001, None]
    assert written["x"].to_pylist() == [1.5, None]


@pytest.mark.parametrize(
    ("column", "value", "cause"),
    [
        ("open", math.inf, "not finite"),
        ("open", "1e400", "not finite"),
        ("high", "abc", "'abc' is not a number"),
        ("low", 106.0, "above open or close"),
        ("high", 99.0, "below open or close"),
        ("high", 105_000.0, "more than 10 times open and close"),
        ("low", 0.1, "less than 1/10 of open and close"),
        ("close", None, "missing"),
        ("low", -1.0, "not positive"),
        ("volume", -1.0, "negative"),
        ("taker_buy_volume", 7.1, "more than volume"),
        ("taker_buy_volume", "x", "not a number"),
        ("symbol", "../../etc", "no name"),
        ("symbol", None, "missing"),
        ("interval", "7h", "none of"),
        ("close_time", pd.Timestamp("2024-03-01 01:30", tz="UTC"), "whole multiple"),
        ("close_time", pd.Timestamp("1970-01-20", tz="UTC"), "before 1980"),
        ("close_time", pd.Timestamp("2025-02-01", tz="UTC"), "future"),
        ("close_time", pd.Timestamp("2024-03-01 02:00", tz="UTC"), "repeats the key"),
        ("available_at", pd.Timestamp("2024-02-01", tz="UTC"), "before close_time"),
    ],
)
def test_a_bad_bar_is_named_by_line_column_and_cause(column: str, value: Any, cause: str) -> None:
    frame = bars()
    frame[column] = frame[column].astype(object)
    frame.loc[5, column] = value
    if column == "close_time":
        frame.loc[5, "available_at"] = value
    good, faults = inspect(frame, TABLES["bars"], NOW)
    [(line, named, why)] = faults.itertuples(index=False, name=None)
    # A shape rule blames the bound, whichever of the prices is wrong.
    assert (line, named) == (5, column)
    assert cause in why
    assert list(good.index) == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "prices", "column"),
    [
        ("bars", {"high": 1050.0, "low": 10.0}, None),
        ("bars", {"high": 1050.1}, "high"),
        ("bars", {"low": 9.99}, "low"),
        ("mark", {"high": 1050.0, "low": 10.0}, None),
        ("mark", {"high": 1050.1}, "high"),
        ("mark", {"low": 9.99}, "low"),
        ("spot", {"high": 1050.0, "low": 1e-4}, None),
        ("spot", {"high": 1050.1}, "high"),
    ],
)
def test_a_bar_may_reach_ten_times_its_price_and_spot_may_fall_to_a_tick(
    name: str, prices: dict[str, float], column: str | None
) -> None:
    """The bounds hold against the dearer of open and close (105) and the cheaper (100), and are still allowed."""
    frame = bars()
    frame.loc[3, list(prices)] = list(prices.values())
    frame = frame[[c for c in frame if c in TABLES[name].columns]]
    good, faults = inspect(frame, TABLES[name], NOW)
    assert faults["column"].tolist() == ([column] if column else [])
    assert good.index.tolist() == ([2, 4, 5] if column else [2, 3, 4, 5])


@pytest.mark.parametrize(
    ("name", "row", "cause"),
    [
        ("funding", {"funding_rate": 0.2}, "beyond"),
        ("funding", {"interval_hours": 0.0}, "within"),
        ("open_interest", {"open_interest": 0.0}, "not positive"),
        ("order_book", {"bid": 1.0}, "not below ask"),
        ("order_book", {"bid_size": 0.0}, "not positive"),
        ("order_book", {"ask_depth_1pct": -1.0}, "negative"),
        ("implied_vol", {"close": -3.0}, "not positive"),
        ("daily", {"close": math.nan}, "missing"),
        ("margin_tiers", {"maint_margin_rate": 2.5}, "not per cent"),
        ("margin_tiers", {"max_notional": 0.0}, "not above min_notional"),
        ("margin_tiers", {"tier": 1.5}, "1, 2, 3"),
    ],
)
def test_a_bad_row_of_every_other_table_is_found(name: str, row: dict[str, float], cause: str) -> None:
    spec = TABLES[name]
    sound = {
        **dict.fromkeys(spec.values, 1.0),
        **dict.fromkeys(spec.identity, "A"),
        "tier": 1,
        "funding_rate": 1e-4,
        "maint_margin_rate": 0.01,
        "min_notional": 0.0,
        "bid": 0.5,
        "available_at": NOW,
        "source": "parquet",
        spec.clock: NOW,
    }
    sound = {column: sound[column] for column in spec.columns}
    good, faults = inspect(pd.DataFrame([sound]), spec, NOW)
    assert len(good) == 1
    assert faults.empty
    good, faults = inspect(pd.DataFrame([{**sound, **row}]), spec, NOW)
    assert good.empty
    assert faults["column"].tolist() == list(row)
    assert cause in faults["cause"].item()


def test_unknown_and_missing_columns_are_refused_by_name() -> None:
    with pytest.raises(DataInvalid, match="'volum'; did you mean 'volume'"):
        inspect(bars().assign(volum=1.0), TABLES["bars"], NOW)
    with pytest.raises(DataInvalid, match="needs the column 'close'"):
        inspect(bars().drop(columns="close"), TABLES["bars"], NOW)


def sound(row: dict[str, Any], seen: set[int]) -> bool:
    """The rules for a bar once more, in plain Python, one row at a time."""
    prices = [row[name] for name in ("open", "high", "low", "close")]
    if not all(math.isfinite(price) and price > 0 for price in prices):
        return False
    if not row["low"] <= min(prices) or not row["high"] >= max(prices):
        return False
    ends = (row["open"], row["close"])
    if row["high"] > 10 * max(ends) or 10 * row["low"] < min(ends):
        return False
    if not (math.isfinite(row["volume"]) and row["volume"] >= 0):
        return False
    part = row["taker_buy_volume"]
    if not math.isnan(part) and not (math.isfinite(part) and 0 <= part <= row["volume"] * (1 + 1e-9)):
        return False
    minute = row["minute"]
    if minute % 60 or minute in seen:
        return False
    seen.add(minute)
    return True


number = st.one_of(st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.sampled_from([0.0, -1.0, math.inf, math.nan, 1e300]))
rows = st.lists(
    st.fixed_dictionaries(
        {
            **dict.fromkeys(("open", "high", "low", "close", "volume", "taker_buy_volume"), number),
            "minute": st.sampled_from([0, 60, 120, 180, 240, 250, 300]),
        }
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=50, deadline=None)
@given(rows)
def test_inspection_agrees_with_a_slow_validator(drawn: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(drawn)
    frame["close_time"] = pd.Timestamp("2024-03-01", tz="UTC") + pd.to_timedelta(frame.pop("minute"), unit="min")
    frame = frame.assign(interval="1h", symbol="BTCUSDT", available_at=frame["close_time"], source="parquet")
    seen: set[int] = set()
    expected = [position for position, row in enumerate(drawn) if sound(row, seen)]
    good, faults = inspect(frame, TABLES["bars"], NOW)
    assert list(good.index) == expected
    assert sorted([*good.index, *faults["line"]]) == list(range(len(drawn)))
