"""Tidy files of any owner, mapped into several tables, and what the contract makes of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st

from fuzzing import cells, columnar
from fuzzing.contract import BAD, CLOCK, KEYS, MINUTES, VALUES, Bad, Verdict, refuse
from fuzzing.harness import Sample
from fuzzing.mangling import BYTES, Change

MARCH = datetime(2024, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT")


@dataclass(frozen=True)
class Mapping:
    """One way to fill a table: the file's own columns, target names, constants and delay."""

    table: str
    make: Callable[[random.Random, int], dict[str, pa.Array]]
    columns: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    delay: timedelta | None = None

    def targets(self, names: list[str]) -> dict[str, str]:
        """``target -> source``; without a mapping, the names that the table knows."""
        if self.columns:
            return self.columns
        known = {*KEYS[self.table], CLOCK[self.table], *VALUES[self.table], "available_at"}
        known |= {"open_time", "interval"} if CLOCK[self.table] == "close_time" else set()
        return {name: name for name in names if name in known and name not in self.constants}


def _prices(chance: random.Random, count: int) -> dict[str, pa.Array]:
    candles = []
    for _ in range(count):
        low, *inner, high = sorted(100 * (1 + chance.random()) for _ in range(4))
        chance.shuffle(inner)
        candles.append((inner[0], high, low, inner[1]))
    return {name: pa.array([c[n] for c in candles]) for n, name in enumerate(("open", "high", "low", "close"))}


def _times(count: int, step: timedelta, kind: pa.DataType) -> pa.Array:
    return pa.array([MARCH + n * step for n in range(count)], pa.timestamp("us", tz="UTC")).cast(kind)


def _daily(chance: random.Random, count: int) -> dict[str, pa.Array]:
    days = [MARCH + timedelta(days=n) for n in range(count)]
    texts = pa.array([f"{day:%Y-%m-%d}" for day in days])
    dates = chance.choice([texts, pa.array([day.date() for day in days], pa.date32())])
    close = [None if chance.random() < 0.1 else chance.gauss(20, 40) for _ in days]
    return {"day": dates, "vix": pa.array(close, pa.float64()), "remark": pa.array(["a"] * count)}


def _bars(chance: random.Random, count: int) -> dict[str, pa.Array]:
    volume = [chance.random() * 1e4 for _ in range(count)]
    epochs = [int((MARCH + n * HOUR).timestamp() * 1000) for n in range(count)]
    taker = [None if chance.random() < 0.2 else v * chance.random() for v in volume]
    flow = {
        "volume": pa.array(volume),
        "taker_buy_volume": pa.array(taker, pa.float64()),
        "trades": pa.array([chance.randint(0, 999) for _ in volume], pa.int64()),
    }
    names = pa.array([chance.choice(SYMBOLS) for _ in volume], pa.string())
    return {"symbol": names, "close_time": pa.array(epochs, pa.int64()), **_prices(chance, count), **flow}


def _spot(chance: random.Random, count: int) -> dict[str, pa.Array]:
    lengths = pa.array([chance.choice(["1h", "30m", "1m"]) for _ in range(count)], pa.string())
    times = _times(count, HOUR, pa.timestamp("ms", tz="UTC"))
    volume = pa.array([chance.random() for _ in range(count)], pa.float64())
    return {"open_time": times, "interval": lengths, **_prices(chance, count), "volume": volume}


def _funding(chance: random.Random, count: int) -> dict[str, pa.Array]:
    times = _times(count, 8 * HOUR, pa.timestamp("us", tz="UTC"))
    known = pa.array([MARCH + n * 8 * HOUR + timedelta(seconds=chance.choice([0, 5])) for n in range(count)])
    return {
        "funding_time": times,
        "exchange": pa.array([chance.choice(["okx", "bybit"]) for _ in range(count)], pa.string()).dictionary_encode(),
        "symbol": pa.array([chance.choice(SYMBOLS) for _ in range(count)], pa.string()),
        "funding_rate": pa.array([chance.gauss(0, 1e-3) for _ in range(count)], pa.float64()),
        "interval_hours": pa.array([chance.choice([8.0, 4.0, None]) for _ in range(count)], pa.float64()),
        "available_at": known.cast(pa.timestamp("us", tz="UTC")),
    }


def _open_interest(chance: random.Random, count: int) -> dict[str, pa.Array]:
    held = [chance.random() * 1e5 for _ in range(count)]
    times = _times(count, timedelta(minutes=5), pa.timestamp("ns", tz="Europe/Berlin"))
    value = pa.array([chance.choice([None, v * 5e4]) for v in held], pa.float64())
    return {"t": times, "coin": pa.array([chance.choice(SYMBOLS) for _ in held]), "oi": pa.array(held), "usd": value}


def _implied(chance: random.Random, count: int) -> dict[str, pa.Array]:
    return {"time": _times(count, HOUR, pa.timestamp("ms", tz="UTC")), **_prices(chance, count)}


def _tiers(chance: random.Random, count: int) -> dict[str, pa.Array]:
    bounds = [10_000.0 * (n + 1) for n in range(count + 1)]
    return {
        "symbol": pa.array(["BTCUSDT"] * count),
        "observed_at": pa.array([MARCH] * count, pa.timestamp("us", tz="UTC")),
        "tier": pa.array(list(range(1, count + 1)), pa.int64()),
        "min_notional": pa.array(bounds[:-1]),
        "max_notional": pa.array(bounds[1:]),
        "maint_margin_rate": pa.array([chance.random() for _ in range(count)], pa.float64()),
        "max_leverage": pa.array([float(chance.randint(1, 125)) for _ in range(count)], pa.float64()),
        "cum_maint_amount": pa.array([chance.choice([None, 5.0]) for _ in range(count)], pa.float64()),
    }


MAPPINGS = (
    Mapping("daily", _daily, {"date": "day", "close": "vix"}, {"series": "VIX"}, timedelta(hours=24)),
    Mapping("daily", _daily, {"date": "day", "close": "vix", "series": "remark"}, {}, timedelta(hours=30)),
    Mapping("bars", _bars, {}, {"interval": "1h"}),
    Mapping("spot", _spot, {}, {"symbol": "ETHUSDT"}),
    Mapping("funding", _funding),
    Mapping(
        "open_interest",
        _open_interest,
        {"event_time": "t", "symbol": "coin", "open_interest": "oi", "open_interest_value": "usd"},
        {},
        timedelta(minutes=5),
    ),
    Mapping(
        "implied_vol",
        _implied,
        {"open_time": "time", "open": "open", "high": "high", "low": "low", "close": "close"},
        {"underlying": "BTC", "interval": "1h"},
    ),
    Mapping("margin_tiers", _tiers),
)


def verdict(how: Mapping, suffix: str, content: bytes, now: int) -> Verdict:
    """What must become of the file, row by row."""
    loaded = cells.load(content, suffix)
    if isinstance(loaded, str):
        return refuse(how.table, loaded)
    names, columns, lines = loaded
    targets = how.targets(names)
    if any(source not in names for source in targets.values()):
        return refuse(how.table, "a column of the mapping is missing", usage=True)
    if any(names.count(source) > 1 for source in targets.values()):
        return refuse(how.table, "a column is there twice")
    held = {target: columns[names.index(source)] for target, source in targets.items()}
    held |= {name: [text] * len(lines) for name, text in how.constants.items()}
    if lacking := _lacking(how, held):
        return refuse(how.table, f"{lacking} is missing", usage=lacking == "usage")
    clock = CLOCK[how.table]
    stamps = cells.instants(held["open_time" if "open_time" in held else clock])
    known = cells.instants(held["available_at"]) if "available_at" in held else None
    found = Verdict(how.table)
    for n, line in enumerate(lines):
        raw = {name: column[n] for name, column in held.items()}
        if all(raw.get(name) is None for name in VALUES[how.table]):
            found.left_out += 1
            continue
        row: dict[str, Any] = {name: _text(raw.get(name)) for name in KEYS[how.table]}
        row |= {name: cells.numeric(raw.get(name)) for name in VALUES[how.table]}
        if how.table == "margin_tiers":
            row["tier"] = cells.numeric(raw["tier"])
        row[clock] = _closed(stamps[n], raw) if "open_time" in raw else stamps[n]
        row["available_at"] = known[n] if known else cells.later(row[clock], how.delay or timedelta(0))
        found.take(line, row, {"open_time"} if "open_time" in raw and isinstance(stamps[n], Bad) else set(), now)
    return found.close()


def _lacking(how: Mapping, held: dict[str, list[Any]]) -> str | None:
    """The first column that the table cannot do without and the file does not have."""
    if "open_time" in held and "interval" not in held:
        return "usage"
    clock = CLOCK[how.table]
    if clock not in held and "open_time" not in held:
        return "usage"
    optional = {"bars": ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")}
    optional |= {"spot": optional["bars"], "implied_vol": ("open", "high", "low"), "funding": ("interval_hours",)}
    optional |= {"open_interest": ("open_interest_value",), "margin_tiers": ("cum_maint_amount",)}
    for name in (*KEYS[how.table], *VALUES[how.table]):
        if name not in held and name not in optional.get(how.table, ()):
            return name
    return None


def _text(cell: Any) -> Any:
    return cell if isinstance(cell, str) else None if cell is None else BAD


def _closed(opened: Any, raw: dict[str, Any]) -> Any:
    length = MINUTES.get(raw["interval"]) if isinstance(raw["interval"], str) else None
    return cells.later(opened, timedelta(minutes=length)) if length else BAD


_numbers = st.integers(0, 999)
_changes = st.builds(
    Change, st.sampled_from([*columnar.FAULTS, *columnar.FAULTS, *BYTES, "other content"]), *[_numbers] * 3
)


@st.composite
def samples(draw: st.DrawFn, now: int) -> Sample:
    """A file for any table with none to four faults."""
    how = draw(st.sampled_from(MAPPINGS))
    suffix = draw(st.sampled_from([".parquet", ".feather", ".csv"]))
    columns = how.make(random.Random(draw(st.integers(0, 2**32))), draw(st.integers(1, 12)))
    sheet = columnar.Sheet(list(columns), list(columns.values()))
    changes: list[Change] = draw(st.lists(_changes, max_size=4))
    content = columnar.encode(sheet, suffix, changes)
    arguments: dict[str, Any] = {"table": how.table, "columns": how.columns or None, "set_": how.constants or None}
    arguments["delay"] = None if how.delay is None else pd.Timedelta(how.delay)
    return Sample(f"file{suffix}", content, "parquet", verdict(how, suffix, content, now), arguments)
