"""What path, name and first trade say of a file of aggregate trades, before it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pandas as pd

from features.errors import DataInvalid
from features.sources.reading import Skip
from features.sources.trade_files import batches, stamped

__all__ = ["EARLIEST", "LATEST", "NAME", "Tape", "place"]

NAME: Final = re.compile(r"(?P<symbol>[^\-]+)-aggTrades(-(?P<rest>.+))?")
PERIOD: Final = re.compile(r"\d{4}-\d{2}(-\d{2})?")
SPOT_MICROSECONDS: Final = pd.Timestamp("2025-01-01", tz="UTC").value // 1_000
# Where an instant is no instant of the years 1980 to 2200, its unit is another one.
EARLIEST: Final = 320_000_000_000_000
LATEST: Final = 7_300_000_000_000_000


@dataclass(frozen=True)
class Tape:
    """What is known of a file before it is read; instants are microseconds, ``scale`` those a unit of the file."""

    path: Path
    market: str
    symbol: str
    start: int
    end: int | None
    scale: int
    first_id: int | None = None

    @property
    def identity(self) -> list[str | int | None]:
        """What path and name decide about the bars."""
        return [self.market, self.symbol, self.start, self.end, self.scale]

    @property
    def limits(self) -> tuple[int, int, int]:
        """First instant and end in the file's unit, and the unit."""
        end = pd.Timestamp.now("UTC").value // 1_000 if self.end is None else self.end
        return self.start // self.scale, end // self.scale, self.scale


def place(file: Path) -> Tape | Skip:
    """What path, name and, without a period in the name, the first trade say about a file."""
    name = NAME.fullmatch(file.stem)
    if name is None or file.suffix not in {".zip", ".csv", ".parquet"}:
        return Skip("not named SYMBOL-aggTrades-PERIOD as .zip, .csv or .parquet")
    folders = file.parts[:-1]
    market = next((market for market in ("um", "cm", "spot") if market in folders), None)
    if market == "cm":
        return Skip("coin-margined: its volumes are contracts")
    if "_" in name["symbol"]:
        return Skip("a dated future, not a perpetual")
    if market is None:
        raise DataInvalid(
            f"{file} does not say its market; keep the archive's folders, such as futures/um/daily/aggTrades"
        )
    tape = Tape(file, market, name["symbol"], 0, None, 1 if stamped(file) else 1_000)
    if name["rest"] is not None and PERIOD.fullmatch(name["rest"]):
        return _of_period(tape, name["rest"])
    if file.suffix != ".parquet":
        raise DataInvalid(f"{file} does not say its period; keep the archive's name, such as BTCUSDT-aggTrades-2024-01")
    return _of_first_trade(tape)


def _of_period(tape: Tape, period: str) -> Tape:
    try:
        start = pd.Timestamp(period, tz="UTC")
    except ValueError:
        raise DataInvalid(f"{tape.path}: {period} is no day or month; keep the archive's name") from None
    end = start + (pd.DateOffset(months=1) if len(period) == 7 else pd.DateOffset(days=1))
    begin = start.value // 1_000
    micro = tape.scale == 1 or (tape.market == "spot" and begin >= SPOT_MICROSECONDS)
    return replace(tape, start=begin, end=end.value // 1_000, scale=1 if micro else 1_000)


def _of_first_trade(tape: Tape) -> Tape:
    first = next((batch.trades for batch in batches(tape.path) if len(batch.lines)), None)
    if first is None:
        raise DataInvalid(f"{tape.path} holds no trades; mend or replace it")
    time = int(first.time[0])
    scale = 1 if tape.scale == 1 or (tape.market == "spot" and time >= SPOT_MICROSECONDS) else 1_000
    if not EARLIEST < time * scale < LATEST:
        raise DataInvalid(f"{tape.path}, line 1, column transact_time: {time} is no instant in milliseconds")
    return replace(tape, start=time * scale, scale=scale, first_id=int(first.agg_id[0]))
