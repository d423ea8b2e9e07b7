"""Files of the exchange's public archive: sound ones of every era, and a reader that is slow and sure."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from hypothesis import strategies as st

from fuzzing.contract import BAD, HOUR, MINUTES, Row, Verdict, micros, number, refuse
from fuzzing.harness import Sample
from fuzzing.mangling import Change
from fuzzing.sheets import FUNDING, KLINES, METRICS, SYMBOL, Era, Sheet, changes, unpack, written

METRICS_FROM_START: Final = datetime(2026, 6, 25, tzinfo=UTC)


def _bars(name: str, table: str, folder: str, period: str, what: str, header: bool, per_second: int = 1_000) -> Era:
    return Era(name, table, f"data/{folder}/{SYMBOL}/{what}", KLINES, period, what, header, per_second)


UM, DAILY = "futures/um/monthly", "futures/um/daily"
ERAS = (
    _bars("um klines with header", "bars", f"{UM}/klines", "2024-03", "1h", True),
    _bars("um klines without header", "bars", f"{DAILY}/klines", "2021-05-19", "15m", False),
    _bars("um daily bars", "bars", f"{UM}/klines", "2023-11", "1d", True),
    _bars("spot klines ms", "spot", "spot/monthly/klines", "2024-12", "1h", False),
    _bars("spot klines us", "spot", "spot/daily/klines", "2025-01-01", "1m", False, 1_000_000),
    _bars("mark", "mark", f"{UM}/markPriceKlines", "2024-03", "4h", True),
    Era("funding", "funding", f"data/{UM}/fundingRate/{SYMBOL}", FUNDING, "2024-03", "fundingRate", True),
    Era("metrics end", "open_interest", f"data/{DAILY}/metrics/{SYMBOL}", METRICS, "2024-03-01", "metrics", True),
    Era("metrics start", "open_interest", f"data/{DAILY}/metrics/{SYMBOL}", METRICS, "2026-06-25", "metrics", True),
)


def sound(era: Era, count: int, seed: int, header: bool) -> Sheet:
    """A file without fault."""
    chance = random.Random(seed)
    begin = micros(era.start)
    made = {KLINES: _kline, FUNDING: _settlement, METRICS: _metric}[era.layout]
    rows = [made(era, begin, i, chance) for i in range(count)]
    return Sheet(era, list(era.layout) if header else None, rows)


def _kline(era: Era, begin: int, i: int, chance: random.Random) -> list[str]:
    step = MINUTES[era.what] * 60 * era.per_second
    opened = begin * era.per_second // 1_000_000 + i * step
    low = chance.choice([0.00001234, 0.5, 97.25, 61234.5]) * (1 + chance.random())
    prices = sorted(low * (1 + chance.random() * 0.02) for _ in range(4))
    first, last = chance.sample(prices[1:3], 2)
    volume = chance.choice([0.0, chance.random() * 10 ** chance.randint(-3, 8)])
    quote, taken = volume * first, chance.random()
    digits = chance.choice([8, 12, 17])
    texts = [f"{x:.{digits}g}" for x in (first, prices[3], prices[0], last)]
    flow = [repr(x) for x in (volume, quote, volume * taken, quote * taken)]
    count = str(chance.randint(0, 10**6))
    return [str(opened), *texts, flow[0], str(opened + step - 1), flow[1], count, flow[2], flow[3], "0"]


def _settlement(era: Era, begin: int, i: int, chance: random.Random) -> list[str]:
    jitter = chance.choice([0, 0, 0, 1, 7, -3])
    hours = chance.choice(["8", "8", "4", "1"])
    return [str(begin // 1000 + i * 8 * 3_600_000 + jitter), hours, f"{chance.gauss(0, 2e-4):.8f}"]


def _metric(era: Era, begin: int, i: int, chance: random.Random) -> list[str]:
    label = datetime.fromtimestamp(begin / 1e6, UTC) + timedelta(minutes=5 * i)
    held = chance.random() * 10 ** chance.randint(1, 6)
    ratios = [chance.choice(["", f"{chance.random():.8f}"]) for _ in range(4)]
    value = chance.choice(["", repr(held * 43210.5), repr(held * 43210.5)])
    return [f"{label:%Y-%m-%d %H:%M:%S}", SYMBOL, repr(held), value, *ratios]


def verdict(era: Era, zipped: bool, content: bytes, now: int) -> Verdict:
    """What must become of the file, line by line."""
    unpacked = unpack(era.stem, content) if zipped else content
    if isinstance(unpacked, str):
        return refuse(era.table, unpacked)
    try:
        text = unpacked.decode("utf-8-sig")
    except UnicodeDecodeError:
        return refuse(era.table, "it is no UTF-8")
    lines = [(n, line.rstrip("\r")) for n, line in enumerate(text.split("\n"), 1)]
    lines = [(n, line) for n, line in lines if line]
    if not lines or any("\r" in line for _, line in lines):
        return refuse(era.table, "it is empty, or has lines within lines")
    first = lines[0][1].split(",")
    order, width = {name: i for i, name in enumerate(era.layout)}, len(era.layout)
    if not first[0][:1].isdigit():
        if any(first.count(name) != 1 for name in era.layout):
            return refuse(era.table, "its header is not the layout's")
        order, width = {name: first.index(name) for name in era.layout}, len(first)
        lines = lines[1:]
    found = Verdict(era.table)
    seen: set[tuple[str, ...]] = set()
    for n, line in lines:
        fields = line.split(",")
        if len(fields) != width:
            found.bad[n] = {None}
            continue
        cells = {name: fields[place] for name, place in order.items()}
        if era.layout is METRICS and tuple(cells.values()) in seen:
            found.left_out += 1
            continue
        seen.add(tuple(cells.values()))
        row, faults = {KLINES: _bar, FUNDING: _funding, METRICS: _open_interest}[era.layout](era, cells)
        found.take(n, row, faults, now)
    return found.close()


def _exact(text: str) -> Decimal | None:
    return Decimal(text) if re.fullmatch("[0-9]+", text) else None


def _bar(era: Era, cells: dict[str, str]) -> tuple[Row, set[str | None]]:
    opened, closed = _exact(cells["open_time"]), _exact(cells["close_time"])
    step = MINUTES[era.what] * 60 * era.per_second
    faults: set[str | None] = set()
    if opened is None or closed is None or closed != opened + step - 1:
        faults = {"open_time", "close_time"}
    unit = 1_000_000 // era.per_second
    if opened is None or not micros(era.start) <= opened * unit < micros(era.end):
        faults = {"open_time", "close_time"}
    close_time = int(opened * unit) + MINUTES[era.what] * 60_000_000 if opened is not None and not faults else None
    names = {name: name for name in ("open", "high", "low", "close")}
    if era.table != "mark":
        names |= {n: n for n in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")}
        names["trades"] = "count"
    row: Row = {name: number(cells[text]) for name, text in names.items()}
    row |= {"interval": era.what, "symbol": SYMBOL, "close_time": close_time, "available_at": close_time}
    return row, faults


def _funding(era: Era, cells: dict[str, str]) -> tuple[Row, set[str | None]]:
    stated = _exact(cells["calc_time"])
    row: Row = {
        "exchange": "binance",
        "symbol": SYMBOL,
        "funding_rate": number(cells["last_funding_rate"]),
        "interval_hours": number(cells["funding_interval_hours"]),
        "funding_time": None,
        "available_at": None,
    }
    if stated is None:
        return row, {"calc_time"}
    micro = int(stated * 1000)
    hour = (micro + HOUR // 2) // HOUR * HOUR
    if abs(micro - hour) > 60_000_000 or not micros(era.start) <= hour < micros(era.end):
        return row, {"calc_time"}
    return row | {"funding_time": hour, "available_at": max(hour, micro)}, set()


def _open_interest(era: Era, cells: dict[str, str]) -> tuple[Row, set[str | None]]:
    value = cells["sum_open_interest_value"]
    row: Row = {
        "symbol": SYMBOL,
        "open_interest": number(cells["sum_open_interest"]),
        "open_interest_value": number(value) if value else None,
        "event_time": BAD,
        "available_at": BAD,
    }
    faults: set[str | None] = set() if cells["symbol"] == SYMBOL else {"symbol"}
    try:
        label = datetime.strptime(cells["create_time"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return row, faults | {"create_time"}
    from_start = label >= METRICS_FROM_START
    if not (era.start <= label < era.end or (label == era.end and not from_start)):
        return row, faults | {"create_time"}
    known = micros(label) + (5 * 60_000_000 if from_start else 0)
    return row | {"event_time": known, "available_at": known}, faults


@st.composite
def samples(draw: st.DrawFn, now: int) -> Sample:
    """A file of any dataset and era with none to four faults."""
    era = draw(st.sampled_from(ERAS))
    zipped = draw(st.booleans())
    sheet = sound(era, draw(st.integers(1, 12)), draw(st.integers(0, 2**32)), era.header)
    made: list[Change] = draw(st.lists(changes, max_size=4))
    return damaged(sheet, zipped, made, now)


def damaged(sheet: Sheet, zipped: bool, made: list[Change], now: int) -> Sample:
    """The sheet with all changes made, as a file with its verdict."""
    era = sheet.era
    place, content = written(sheet, zipped, made)
    return Sample(place, content, "vision", verdict(era, zipped, content, now), {})
