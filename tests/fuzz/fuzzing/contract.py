"""The contract of the tables in plain Python, one row at a time: the oracle that the readers are held to.

Written from the description of the tables and formats. It shares no code with the product.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Row = dict[str, Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_1980 = 315_532_800_000_000
MINUTES = {
    "1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "6h": 360, "8h": 480,
    "12h": 720, "1d": 1440,
}  # fmt: skip
HOUR = 3_600_000_000
NUMBER = re.compile(r"[ \t\n\r\f\v]*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?[ \t\n\r\f\v]*", re.ASCII)
NAME = re.compile(r"\w[\w.\-]{0,63}")  # of any script: there are such coins

CLOCK = {
    "bars": "close_time", "mark": "close_time", "spot": "close_time", "implied_vol": "close_time",
    "funding": "funding_time", "open_interest": "event_time", "daily": "date", "margin_tiers": "observed_at",
}  # fmt: skip
KEYS = {
    "bars": ("interval", "symbol"),
    "mark": ("interval", "symbol"),
    "spot": ("interval", "symbol"),
    "implied_vol": ("underlying",),
    "funding": ("exchange", "symbol"),
    "open_interest": ("symbol",),
    "daily": ("series",),
    "margin_tiers": ("symbol", "tier"),
}
PRICES = ("open", "high", "low", "close")
FLOW = ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
VALUES = {
    "bars": (*PRICES, "volume", *FLOW),
    "mark": PRICES,
    "spot": (*PRICES, "volume", *FLOW),
    "implied_vol": PRICES,
    "funding": ("funding_rate", "interval_hours"),
    "open_interest": ("open_interest", "open_interest_value"),
    "daily": ("close",),
    "margin_tiers": ("min_notional", "max_notional", "maint_margin_rate", "max_leverage", "cum_maint_amount"),
}
NULLABLE = {
    "bars": set(FLOW),
    "mark": set(),
    "spot": set(FLOW),
    "implied_vol": {"open", "high", "low"},
    "funding": {"interval_hours"},
    "open_interest": {"open_interest_value"},
    "daily": set(),
    "margin_tiers": {"cum_maint_amount"},
}


class Bad:
    """A cell that is there and cannot be read."""


BAD = Bad()


def number(text: str) -> float | Bad:
    """A decimal number in ASCII digits, exactly; nothing else."""
    return float(text) if NUMBER.fullmatch(text) else BAD


def micros(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


@dataclass
class Verdict:
    """What must become of one file.

    ``refused``: why all of it is kept out. Otherwise ``rows`` must be in the store, the lines of ``bad`` are
    quarantined for one of the columns named (``None``: the line as such), and ``left_out`` rows are counted
    in a note. Values are equal, or, where they are sums of rounded ones, within ``tolerance`` of themselves.
    """

    table: str
    refused: str | None = None
    rows: dict[tuple[Any, ...], Row] = field(default_factory=dict)
    bad: dict[int, set[str | None]] = field(default_factory=dict)
    left_out: int = 0
    usage: bool = False
    tolerance: float = 0.0

    def take(self, line: int, row: Row, faults: set[str | None], now: int) -> None:
        """Judge one row; the first sound one of a key stands."""
        found = faults | judge(self.table, row, now)
        key = tuple(row[name] if not isinstance(row[name], Bad) else None for name in KEYS[self.table])
        key = (*key, row[CLOCK[self.table]])
        if not found and key in self.rows:
            found = {CLOCK[self.table]}
        if found:
            self.bad[line] = found
        else:
            self.rows[key] = row

    def close(self) -> Verdict:
        """A file that is mostly bad, or holds no sound row, is refused whole."""
        total = len(self.rows) + len(self.bad)
        if self.refused is None and 2 * len(self.bad) > total:
            self.refused = "more than half of its rows are bad"
        if self.refused is None and not self.rows:
            self.refused = "it holds no rows"
        return self


def refuse(table: str, why: str, usage: bool = False) -> Verdict:
    """The verdict on a file that is kept out whole."""
    return Verdict(table, refused=why, usage=usage)


def judge(table: str, row: Row, now: int) -> set[str | None]:
    """The columns of one row that break the contract; cells are floats, None or BAD, instants are µs."""
    faults: set[str | None] = set()
    for name in ("interval", "symbol", "exchange", "underlying"):
        if name in KEYS[table] and not (isinstance(row[name], str) and NAME.fullmatch(row[name])):
            faults.add(name)
    if table == "daily" and not (isinstance(row["series"], str) and row["series"].strip()):
        faults.add("series")
    if "interval" in KEYS[table] and row["interval"] not in MINUTES:
        faults.add("interval")
    clock, available = row[CLOCK[table]], row["available_at"]
    for name in (CLOCK[table], "available_at"):
        if not isinstance(row[name], int) or row[name] < YEAR_1980:
            faults.add(name)
    if isinstance(clock, int) and clock > now:
        faults.add(CLOCK[table])
    if isinstance(clock, int) and isinstance(available, int) and available < clock:
        faults.add("available_at")
    for name in (*VALUES[table], *(("tier",) if table == "margin_tiers" else ())):
        value = row[name]
        if value is None:
            faults |= set() if name in NULLABLE[table] else {name}
        elif isinstance(value, Bad) or not math.isfinite(value) or _beyond(table, name, value):
            faults.add(name)
    return faults | _across(table, row, clock)


def _beyond(table: str, name: str, value: float) -> bool:
    if table == "daily":
        return False
    if name in {*PRICES, "open_interest", "open_interest_value"}:
        return value <= 0
    if name == "trades":
        return value < 0 or value != int(value)
    if name in {"volume", *FLOW, "min_notional"}:
        return value < 0
    if name == "funding_rate":
        return abs(value) > 0.1
    if name == "interval_hours":
        return not 0 < value <= 24
    if name == "tier":
        return value < 1 or value != int(value)
    if name == "maint_margin_rate":
        return not 0 < value <= 1
    return name == "max_leverage" and value < 1


def _across(table: str, row: Row, clock: Any) -> set[str | None]:
    """Faults of values against one another; missing ones are compared with nothing."""
    faults: set[str | None] = set()

    def known(*names: str) -> bool:
        return all(isinstance(row[n], float) and not math.isnan(row[n]) for n in names)

    if "high" in VALUES[table]:
        for other in ("open", "close"):
            if known("low", other) and row["low"] > row[other]:
                faults.add("low")
            if known("high", other) and row["high"] < row[other]:
                faults.add("high")
    if table in {"bars", "mark", "spot"} and known(*PRICES):
        if row["high"] > 10 * max(row["open"], row["close"]):
            faults.add("high")
        if table != "spot" and 10 * row["low"] < min(row["open"], row["close"]):
            faults.add("low")
    if "taker_buy_volume" in VALUES[table]:
        for part, whole in (("taker_buy_volume", "volume"), ("taker_buy_quote_volume", "quote_volume")):
            if known(part, whole) and row[part] > row[whole] * (1 + 1e-9):
                faults.add(part)
    if "interval" in KEYS[table] and row["interval"] in MINUTES and isinstance(clock, int):
        faults |= {"close_time"} if clock % (MINUTES[row["interval"]] * 60_000_000) else set()
    if table == "margin_tiers" and known("min_notional", "max_notional") and row["max_notional"] <= row["min_notional"]:
        faults.add("max_notional")
    return faults
