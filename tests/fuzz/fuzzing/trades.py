"""Aggregate trades of the public archive, and the hourly bars that come of the sound ones."""

from __future__ import annotations

import math
import random
import re
from typing import Any

from hypothesis import strategies as st

from fuzzing.contract import HOUR, Verdict, micros, refuse
from fuzzing.harness import Sample
from fuzzing.mangling import Change
from fuzzing.sheets import Era, Sheet, changes, unpack, written

LAYOUT = (
    *("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker"),
    "is_best_match",
)
NEEDED = LAYOUT[:7]
UM, SPOT = "data/futures/um/daily/aggTrades/BTCUSDT", "data/spot/daily/aggTrades/BTCUSDT"
ERAS = (
    Era("um with header", "bars", UM, NEEDED, "2024-03-01", "aggTrades", True, clock=5),
    Era("um without header", "bars", UM, NEEDED, "2021-05-19", "aggTrades", False, clock=5),
    Era("spot ms", "spot", SPOT, LAYOUT, "2024-12-31", "aggTrades", False, clock=5),
    Era("spot us", "spot", SPOT, LAYOUT, "2025-01-01", "aggTrades", False, 1_000_000, clock=5),
)
# Trades are read by the million, and spelt in one way: nothing is trimmed.
WHOLE = re.compile("-?[0-9]{1,18}")
DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{0,30})?([eE][-+]?[0-9]{1,2})?")
DAY = 24 * HOUR
# Trades after one that judge it.
JUDGES = 5


def sound(era: Era, count: int, seed: int, header: bool) -> Sheet:
    """A day of few trades."""
    chance = random.Random(seed)
    moments = sorted(chance.randrange(DAY) for _ in range(count))
    start, price, ids = micros(era.start), 100.0, chance.randrange(10**9)
    rows = []
    for n, moment in enumerate(moments):
        price *= 1 + chance.gauss(0, 0.01)
        held = chance.choice([1, 1, 1, 5])
        stamp = (start + moment) * era.per_second // 1_000_000
        row = [str(7_000 + n + (n > 5) * chance.choice([0, 3])), f"{price:.6f}", f"{chance.random() * 10:.4f}1"]
        row += [str(ids), str(ids + held - 1), str(stamp), chance.choice(["true", "false"]), "true"]
        if n and int(row[0]) <= int(rows[-1][0]):
            row[0] = str(int(rows[-1][0]) + 1)
        rows.append(row[: len(era.layout)])
        ids += held
    return Sheet(era, list(era.layout) if header else None, rows)


def verdict(era: Era, zipped: bool, content: bytes, now: int) -> Verdict:
    """Which trades are sound, one after the other, and the bars they make."""
    unpacked = unpack(era.stem, content, declared=False) if zipped else content
    if isinstance(unpacked, str):
        return refuse(era.table, unpacked)
    try:
        text = unpacked.decode("utf-8-sig")
    except UnicodeDecodeError:
        return refuse(era.table, "it is no UTF-8")
    first = text.split("\n")[0].strip()
    if not first:
        return refuse(era.table, "it begins with an empty line")
    headed = not first[0].isdigit()
    names = first.split(",") if headed else list(LAYOUT[: max(len(first.split(",")), 7)])
    if any(names.count(name) != 1 for name in NEEDED):
        return refuse(era.table, "its header is not the layout's")
    lines = re.split("\r\n|\n|\r", text)
    lines = lines if lines[-1] else lines[:-1]
    found = Verdict(era.table, tolerance=1e-12)
    spelt: list[tuple[int, dict[str, Any]]] = []
    for n, line in list(enumerate(lines, 1))[int(headed) :]:
        fields = line.split(",")
        if len(fields) != len(names):
            # A blank line is one without fields, or one of which the first is missing.
            found.bad[n] = {None} if line else {None, "transact_time"}
            continue
        trade = _trade(dict(zip(names, fields, strict=True)))
        if isinstance(trade, set):
            found.bad[n] = trade
        else:
            spelt.append((n, trade))
    taken: list[dict[str, Any]] = []
    for i, (n, trade) in enumerate(spelt):
        before = taken[-1] if taken else None
        lost = before is None and any(line < n for line in found.bad)
        after = [later for _, later in spelt[i + 1 : i + 1 + JUDGES]]
        faults = _faults(era, trade) | _odds(before, trade) or _contradicted(era, before, trade, after, lost)
        if faults:
            found.bad[n] = faults
        else:
            taken.append(trade)
    if not taken or len(found.bad) > max(10, (len(found.bad) + len(taken)) / 1_000):
        return refuse(era.table, "too many of its rows are bad")
    found.rows = _bars(era, taken)
    return found


def _trade(cells: dict[str, str]) -> Any:
    """One trade's values, or the columns that have none."""
    whole = ("agg_trade_id", "first_trade_id", "last_trade_id", "transact_time")
    bad: set[str | None] = {name for name in whole if not WHOLE.fullmatch(cells[name])}
    bad |= {name for name in ("price", "quantity") if not DECIMAL.fullmatch(cells[name])}
    bad |= {"is_buyer_maker"} if cells["is_buyer_maker"].lower() not in {"true", "false"} else set()
    if bad:
        return bad
    trade: dict[str, Any] = {name: int(cells[name]) for name in whole}
    trade |= {name: float(cells[name]) for name in ("price", "quantity")}
    return trade | {"bought": cells["is_buyer_maker"].lower() == "false"}


def _faults(era: Era, trade: dict[str, Any]) -> set[str | None]:
    """What is wrong with a trade by itself."""
    faults: set[str | None] = set()
    unit = 1_000_000 // era.per_second
    if not micros(era.start) <= trade["transact_time"] * unit < micros(era.end):
        faults.add("transact_time")
    if not 0 < trade["price"] <= 1e9:
        faults.add("price")
    if not 0 < trade["quantity"] <= 1e15:
        faults.add("quantity")
    if not 0 <= trade["first_trade_id"] <= trade["last_trade_id"] <= trade["first_trade_id"] + 1_000_000:
        faults.add("last_trade_id")
    if trade["agg_trade_id"] < 0:
        faults.add("agg_trade_id")
    return faults


def _odds(before: dict[str, Any] | None, trade: dict[str, Any]) -> set[str | None]:
    """What is wrong with a trade after another one."""
    faults: set[str | None] = set()
    if before and trade["agg_trade_id"] <= before["agg_trade_id"]:
        faults.add("agg_trade_id")
    if before and trade["first_trade_id"] <= before["last_trade_id"]:
        faults.add("first_trade_id")
    if before and trade["transact_time"] < before["transact_time"]:
        faults.add("transact_time")
    if before and not before["price"] / 1000 <= trade["price"] <= before["price"] * 1000:
        faults.add("price")
    return faults


def _contradicted(
    era: Era, before: dict[str, Any] | None, trade: dict[str, Any], after: list[dict[str, Any]], lost: bool
) -> set[str | None]:
    """What is wrong with a trade in the eyes of those after it that could take its place, if most are at odds with it.

    Asked only where it leaps, in ids or by more than a minute, or is at odds with the very next one.
    """
    minute = 60 * era.per_second
    leaps = lost or before is None or trade["agg_trade_id"] != before["agg_trade_id"] + 1
    if not leaps and before and trade["transact_time"] - before["transact_time"] > minute:
        leaps = True
    if not leaps and not (after and _odds(trade, after[0])):
        return set()
    judges = [j for j in after if not _faults(era, j) & {"transact_time", "price"} and not _odds(before, j)]
    verdicts = [_odds(trade, judge) for judge in judges if judge["agg_trade_id"] >= 0]
    if 2 * sum(map(bool, verdicts)) <= len(verdicts):
        return set()
    named = set().union(*verdicts)
    return named | ({"last_trade_id"} if "first_trade_id" in named else set())


def _bars(era: Era, taken: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Every hour with trades; one without is flat where the trades before and after it follow each other."""
    unit, start = 1_000_000 // era.per_second, micros(era.start)
    hours = [(t["transact_time"] * unit - start) // HOUR for t in taken]
    bars = {}
    for hour in range(24):
        within = [t for t, at in zip(taken, hours, strict=True) if at == hour]
        before = [t for t, at in zip(taken, hours, strict=True) if at < hour]
        later = [t for t, at in zip(taken, hours, strict=True) if at > hour]
        witnessed = before and later and later[0]["agg_trade_id"] == before[-1]["agg_trade_id"] + 1
        if within or witnessed:
            prices = [t["price"] for t in within] or [before[-1]["price"]]
            bought = [t for t in within if t["bought"]]
            close = start + (hour + 1) * HOUR
            bars["1h", "BTCUSDT", close] = {
                "open": prices[0],
                "high": max(prices),
                "low": min(prices),
                "close": prices[-1],
                "volume": math.fsum(t["quantity"] for t in within),
                "quote_volume": math.fsum(t["price"] * t["quantity"] for t in within),
                "trades": sum(t["last_trade_id"] - t["first_trade_id"] + 1 for t in within),
                "taker_buy_volume": math.fsum(t["quantity"] for t in bought),
                "taker_buy_quote_volume": math.fsum(t["price"] * t["quantity"] for t in bought),
                "available_at": close,
            }
    return bars


@st.composite
def samples(draw: st.DrawFn, now: int) -> Sample:
    """A day of any market and era with none to four faults."""
    era = draw(st.sampled_from(ERAS))
    zipped = draw(st.booleans())
    sheet = sound(era, draw(st.integers(1, 30)), draw(st.integers(0, 2**32)), era.header)
    made: list[Change] = draw(st.lists(changes, max_size=4))
    place, content = written(sheet, zipped, made)
    return Sample(place, content, "trades", verdict(era, zipped, content, now), {"intervals": ("1h",)})
