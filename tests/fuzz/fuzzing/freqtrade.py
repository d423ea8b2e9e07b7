"""freqtrade's files, and what the contract makes of them."""

from __future__ import annotations

import itertools
import random
from datetime import timedelta
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from fuzzing import cells, columnar
from fuzzing.contract import HOUR, MINUTES, Bad, Verdict, refuse
from fuzzing.harness import Sample
from fuzzing.mangling import BYTES, Change

NAMES = ["date", "open", "high", "low", "close", "volume"]
MARCH = 1_709_251_200_000
# table, name, interval
LAYOUTS = (
    ("bars", "BTC_USDT_USDT-1h-futures", "1h"),
    ("bars", "BTC_USDT_USDT-15m-futures", "15m"),
    ("mark", "BTC_USDT_USDT-1h-mark", "1h"),
    ("spot", "BTC_USDT-1h", "1h"),
    ("funding", "BTC_USDT_USDT-8h-funding_rate", "8h"),
    ("funding", "BTC_USDT_USDT-1h-funding_rate", "1h"),
)


def sound(table: str, interval: str, count: int, seed: int) -> columnar.Sheet:
    """A file as freqtrade writes it, with a hole now and then."""
    chance = random.Random(seed)
    dates, rows, moment = [], [], MARCH
    for _ in range(count):
        dates.append(moment)
        moment += MINUTES[interval] * 60_000 * chance.choice([1, 1, 1, 1, 2, 30])
        low, *inner, high = sorted(100 * (1 + chance.random()) for _ in range(4))
        chance.shuffle(inner)
        candle = [inner[0], high, low, inner[1], chance.choice([0.0, chance.random() * 1e6])]
        rows.append([chance.gauss(0, 3e-4), 0.0, 0.0, 0.0, 0.0] if table == "funding" else candle)
    columns = [pa.array([row[place] for row in rows], pa.float64()) for place in range(5)]
    return columnar.Sheet(list(NAMES), [pa.array(dates, pa.timestamp("ms", tz="UTC")), *columns])


def verdict(table: str, interval: str, suffix: str, content: bytes, now: int) -> Verdict:
    """What must become of the file, row by row."""
    loaded = cells.load(content, suffix)
    if isinstance(loaded, str):
        return refuse(table, loaded)
    names, columns, lines = loaded
    wanted = {"funding": ["date", "open"], "mark": NAMES[:5]}.get(table, NAMES)
    if any(names.count(name) != 1 for name in wanted):
        return refuse(table, "a column is missing or there twice")
    held = {name: columns[names.index(name)] for name in wanted}
    opened = cells.instants(held["date"])
    spacing = _spacing(opened)
    found = Verdict(table)
    for n, line in enumerate(lines):
        row: dict[str, Any] = {"symbol": "BTCUSDT"}
        if table == "funding":
            row |= {"exchange": "binance", "funding_rate": cells.numeric(held["open"][n])}
            row |= {"funding_time": opened[n], "available_at": opened[n], "interval_hours": spacing.get(opened[n])}
        else:
            closed = cells.later(opened[n], timedelta(minutes=MINUTES[interval]))
            row |= {name: cells.numeric(held[name][n]) for name in wanted[1:]}
            row |= {"interval": interval, "close_time": closed, "available_at": closed}
            row |= dict.fromkeys(("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume"))
        found.take(line, row, {"date"} if isinstance(opened[n], Bad) else set(), now)
    return found.close()


def _spacing(settled: list[Any]) -> dict[Any, float | None]:
    """Hours since the settlement before, if venues settle at that length."""
    known = sorted({moment for moment in settled if isinstance(moment, int)})
    hours = {later: (later - earlier) / HOUR for earlier, later in itertools.pairwise(known)}
    return {moment: length if length in {1.0, 2.0, 4.0, 8.0} else None for moment, length in hours.items()}


_numbers = st.integers(0, 999)
_changes = st.builds(
    Change, st.sampled_from([*columnar.FAULTS, *columnar.FAULTS, *BYTES, "other content"]), *[_numbers] * 3
)


@st.composite
def samples(draw: st.DrawFn, now: int) -> Sample:
    """A file of any kind with none to four faults."""
    table, name, interval = draw(st.sampled_from(LAYOUTS))
    suffix = draw(st.sampled_from([".feather", ".feather", ".parquet"]))
    sheet = sound(table, interval, draw(st.integers(1, 12)), draw(st.integers(0, 2**32)))
    changes: list[Change] = draw(st.lists(_changes, max_size=4))
    content = columnar.encode(sheet, suffix, changes)
    return Sample(f"{name}{suffix}", content, "freqtrade", verdict(table, interval, suffix, content, now))
