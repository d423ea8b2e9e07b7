"""Reader of freqtrade's data folders.

A file name carries pair, timeframe and kind: ``BTC_USDT_USDT-1h-futures.feather`` (perpetual),
``…-1h-mark.feather``, ``…-8h-funding_rate.feather``, ``BTC_USDT-1h.feather`` (spot). ``date`` is a bar's
**open**, so that the bar is known one interval later. The files know no trades and no taker volume: those
stay null. A funding file holds the settled rate in ``open`` and knows no interval: it follows from the
spacing of settlements and is null across a hole.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow.feather
import pyarrow.parquet

from features.errors import DataInvalid
from features.schemas import INTERVALS, OHLC
from features.sources.reading import Reading, Skip, columnar, timed

__all__ = ["read"]

NAME: Final = re.compile(
    r"(?P<base>[^_\-]+)_(?P<quote>[^_\-]+)(_(?P<settle>[^_\-]+))?-(?P<interval>\d+[a-zA-Z]+)(-(?P<kind>\w+))?"
)
VENUE: Final = "binance"
# Lengths that venues settle at; any other spacing is a hole.
SETTLEMENT_HOURS: Final = (1.0, 2.0, 4.0, 8.0)


def read(file: Path, content: bytes) -> Reading | Skip:
    """One file's rows; ``Skip`` if its name says that it is something else.

    Raises
    ------
    DataInvalid
        The file is no Feather or Parquet file, or lacks a column.
    """
    name = NAME.fullmatch(file.stem)
    if name is None or file.suffix not in {".feather", ".parquet"}:
        return Skip("its name is not PAIR-TIMEFRAME[-KIND].feather")
    if name["settle"] not in (None, name["quote"]):
        return Skip(f"it settles in {name['settle']}, not in its quote currency")
    symbol = name["base"] + name["quote"]
    kind = name["kind"] or ("futures" if name["settle"] else "spot")
    if kind == "funding_rate":
        frame, torn = timed(file, _columns(file, content, ("date", "open")), ["date"])
        return Reading("funding", _funding(frame, symbol), {"symbol": symbol}, torn)
    table = {"futures": "bars", "mark": "mark", "spot": "spot"}.get(kind)
    if table is None or name["interval"] not in INTERVALS:
        return Skip(f"no table holds {kind} bars of {name['interval']}")
    wanted = ("date", *OHLC, *(() if table == "mark" else ("volume",)))
    frame, torn = timed(file, _columns(file, content, wanted), ["date"])
    parameters = {"table": table, "symbol": symbol, "interval": name["interval"]}
    return Reading(table, _bars(frame, symbol, name["interval"]), parameters, torn)


def _columns(file: Path, content: bytes, wanted: tuple[str, ...]) -> pd.DataFrame:
    reader = pyarrow.feather.read_table if file.suffix == ".feather" else pyarrow.parquet.read_table
    frame = columnar(file, content, reader)
    held = [str(column) for column in frame]
    for column in wanted:
        if held.count(column) != 1:
            fault = "has twice" if column in held else "lacks"
            raise DataInvalid(f"{file} {fault} freqtrade's column {column!r}; it has {', '.join(held)}")
    return frame[list(wanted)]


def _bars(frame: pd.DataFrame, symbol: str, interval: str) -> pd.DataFrame:
    close_time = frame["date"] + INTERVALS[interval]
    return frame.drop(columns="date").assign(
        interval=interval, symbol=symbol, close_time=close_time, available_at=close_time
    )


def _funding(frame: pd.DataFrame, symbol: str) -> pd.DataFrame:
    time = frame["date"]
    # In order of time, whatever the order of rows; a repeated row is no settlement of its own.
    settled = time.dropna().drop_duplicates().sort_values()
    hours = settled.diff().dt.total_seconds() / 3600
    spacing = time.map(pd.Series(hours.to_numpy(), index=pd.DatetimeIndex(settled)))
    return pd.DataFrame(
        {
            "exchange": VENUE,
            "symbol": symbol,
            "funding_time": time,
            "funding_rate": frame["open"],
            "interval_hours": spacing.where(spacing.isin(SETTLEMENT_HOURS)),
            "available_at": time,
        }
    )
