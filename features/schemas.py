"""The market tables: their columns, keys, clocks, and what a row must satisfy to enter a store.

Two clocks stand on every row: when it happened (a table's ``clock``) and ``available_at``, the first instant
at which it could have been known. All instants are UTC at microsecond resolution; prices are in quote
currency, fractions are plain (0.01 = 1 %), missing values are null and never filled.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from features.errors import UsageError

__all__ = [
    "INTERVALS",
    "OHLC",
    "SOURCES",
    "TABLES",
    "TIMESTAMP",
    "Table",
    "dtype",
    "empty",
    "in_time",
    "nearest",
    "table",
    "to_arrow",
    "to_utc",
]

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
TIME_DTYPE: Final = "datetime64[us, UTC]"
OHLC: Final = ("open", "high", "low", "close")

# Where two sources offer the same key, the earlier named one speaks.
SOURCES: Final = ("vision", "trades", "parquet", "freqtrade", "simulated")

# Bars whose boundaries are whole multiples of their length since 1970, as the exchange cuts them.
INTERVALS: Final = {
    **{f"{m}m": pd.Timedelta(minutes=m) for m in (1, 3, 5, 15, 30)},
    **{f"{h}h": pd.Timedelta(hours=h) for h in (1, 2, 4, 6, 8, 12)},
    "1d": pd.Timedelta(days=1),
}

# Measures that only raw trades can give a bar; their formulas and units are those of features.trades.bars. What begins
# with bvc_ is the guess of bulk-volume classification where no trade says its side.
TRADE_MEASURES: Final = (
    *("realised_variance", "realised_quarticity", "bipower_variation", "med_rv"),
    *("semivariance_up", "semivariance_down", "signed_volume", "large_trades"),
    *("kyle_lambda", "amihud", "vpin"),
    *("duration_mean", "duration_cv", "run_length_mean", "run_length_max"),
    *("bvc_taker_buy_volume", "bvc_signed_volume"),
)


PROMPT: Final = pd.Timedelta(0)


@dataclass(frozen=True)
class Table:
    """One market table.

    ``key`` identifies a row (within its ``partitions``, the Hive folders that hold it); ``clock`` says when
    the row happened; ``further`` are float columns that only some sources have and that appear only then;
    ``latency`` is how long after its clock a row usually becomes known, by which a leak check delays the feed.
    """

    name: str
    key: tuple[str, ...]
    clock: str
    schema: pa.Schema
    partitions: tuple[str, ...] = ()
    further: tuple[str, ...] = field(default=(), repr=False)
    latency: pd.Timedelta = PROMPT

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are always present, in order."""
        return tuple(self.schema.names)

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """The columns that tell any two rows of the whole table apart, in sort order."""
        return tuple(dict.fromkeys((*self.partitions, *self.key)))

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that may not be null."""
        return tuple(f.name for f in self.schema if not f.nullable)

    @property
    def values(self) -> tuple[str, ...]:
        """The columns that measure something: neither key, clock nor provenance."""
        known = {*self.identity, "available_at", "source"}
        return tuple(name for name in (*self.columns, *self.further) if name not in known)

    @property
    def entity(self) -> str:
        """The column that names what a row speaks of: symbol, underlying or series."""
        return next(name for name in ("symbol", "underlying", "series") if name in self.columns)


def _table(
    name: str, key: tuple[str, ...], values: tuple[str, ...], optional: tuple[str, ...] = (), **more: Any
) -> Table:
    """A table whose keys and provenance are typed by their names and whose values are float64."""
    times = {"close_time", "funding_time", "event_time", "date", "observed_at", "available_at"}
    words = {"interval", "symbol", "exchange", "underlying", "series", "source"}
    head = dict.fromkeys((*more.get("partitions", ()), *key))
    fields = []
    for column in (*head, *values, "available_at", "source"):
        kind = TIMESTAMP if column in times else pa.string() if column in words else pa.float64()
        fields.append(pa.field(column, pa.int64() if column == "tier" else kind, nullable=column in optional))
    clock = next(column for column in key if column in times)
    return Table(name, key, clock, pa.schema(fields), **more)


_FLOW = ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
_TRADED: dict[str, Any] = {
    "key": ("symbol", "close_time"),
    "values": (*OHLC, "volume", *_FLOW),
    "optional": _FLOW,
    "partitions": ("interval", "symbol"),
    "further": TRADE_MEASURES,
}

TABLES: Final[dict[str, Table]] = {
    t.name: t
    for t in (
        _table("bars", **_TRADED),
        _table("mark", ("symbol", "close_time"), OHLC, partitions=("interval", "symbol")),
        _table("spot", **_TRADED),
        _table(
            "funding",
            ("exchange", "symbol", "funding_time"),
            ("funding_rate", "interval_hours"),
            ("interval_hours",),
        ),
        _table(
            "open_interest",
            ("symbol", "event_time"),
            ("open_interest", "open_interest_value"),
            ("open_interest_value",),
            latency=pd.Timedelta(minutes=5),
        ),
        _table(
            "order_book",
            ("symbol", "event_time"),
            ("bid", "ask", "bid_size", "ask_size", "bid_depth_1pct", "ask_depth_1pct"),
            ("bid_depth_1pct", "ask_depth_1pct"),
        ),
        _table("implied_vol", ("underlying", "close_time"), OHLC, ("open", "high", "low")),
        _table("daily", ("series", "date"), ("close",), latency=pd.Timedelta(days=1)),
        _table(
            "margin_tiers",
            ("symbol", "observed_at", "tier"),
            ("min_notional", "max_notional", "maint_margin_rate", "max_leverage", "cum_maint_amount"),
            ("cum_maint_amount",),
        ),
    )
}


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` for a misspelt word, or the list of what there is."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(options)}"


def table(name: str) -> Table:
    """The table of this name; ``UsageError`` names the nearest one otherwise."""
    if name not in TABLES:
        raise UsageError(f"there is no table {name!r}{nearest(name, TABLES)}")
    return TABLES[name]


def in_time(bars: pd.DataFrame) -> pd.DataFrame:
    """The bars that were known at their close; hourly features never read a later one, so it lists no symbol either."""
    known = bars["available_at"] <= bars["close_time"]
    return bars if known.all() else bars[known]


def empty(spec: Table) -> pd.DataFrame:
    """A frame without rows that has the table's columns and types."""
    return pd.DataFrame({f.name: pd.Series(dtype=dtype(f.type)) for f in spec.schema})


def dtype(kind: pa.DataType) -> Any:
    """The pandas dtype that holds an Arrow type of the tables."""
    if pa.types.is_timestamp(kind):
        return TIME_DTYPE
    return "str" if pa.types.is_string(kind) else "int64" if pa.types.is_integer(kind) else "float64"


def to_arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """The frame's columns named by ``schema``, in its order and types; NaN and NaT become null."""
    columns = []
    for column in schema:
        values = frame[column.name]
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            naive = values.dt.tz_convert(None).to_numpy()
            instants = pa.array(naive, type=pa.timestamp(values.dt.unit), from_pandas=True)
            columns.append(instants.cast(column.type))
        else:
            columns.append(pa.array(values, type=column.type, from_pandas=True))
    return pa.Table.from_arrays(columns, schema=schema)


def to_utc(values: pd.Series) -> pd.Series:
    """Instants of any spelling as ``datetime64[us, UTC]``; what cannot be read becomes NaT.

    Time zones are converted, naive instants and ISO 8601 text are taken as UTC. Integers are epochs: their
    unit is that of the column's median, and a number of another magnitude becomes NaT, not a wrong date.
    """
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        times = values.dt.tz_convert("UTC")
    elif pd.api.types.is_datetime64_dtype(values.dtype):
        times = values.dt.tz_localize("UTC")
    elif pd.api.types.is_numeric_dtype(values.dtype):
        times = _from_epoch(values)
    else:
        times = pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601")
    exact: pd.Series = times.astype(TIME_DTYPE)
    return exact


def _from_epoch(values: pd.Series) -> pd.Series:
    numbers = values.to_numpy("float64", na_value=np.nan)
    finite = np.isfinite(numbers)
    middle = float(np.median(numbers[finite])) if finite.any() else 0.0
    # An instant of this century has at most 10 digits in seconds, 13 in milliseconds, and so on.
    per_second = next((unit for unit in (1, 10**3, 10**6) if middle < 1e10 * unit), 10**9)
    plausible = finite & (numbers > 3e8 * per_second) & (numbers < 1e10 * per_second)
    exact = values.where(plausible, 0).to_numpy().astype("int64")
    micro = exact * (10**6 // per_second) if per_second <= 10**6 else exact // 1000
    times = pd.Series(micro.astype("datetime64[us]"), index=values.index).dt.tz_localize("UTC")
    return times.where(plausible)
