"""What path, name and first trade say of a file of aggregate trades, before it is read."""

from __future__ import annotations

import os
import re
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.sources.reading import Skip
from features.sources.trade_files import batches, stamped
from features.trades.bars import NOTHING_AFTER

__all__ = ["EARLIEST", "LATEST", "NAME", "Tape", "place"]

NAME: Final = re.compile(r"(?P<symbol>[^\-]+)-aggTrades(-(?P<rest>.+))?")
PERIOD: Final = re.compile(r"\d{4}-\d{2}(-\d{2})?")
SPOT_MICROSECONDS: Final = pd.Timestamp("2025-01-01", tz="UTC").value // 1_000
# Where an instant is no instant of the years 1980 to 2200, its unit is another one.
EARLIEST: Final = 320_000_000_000_000
LATEST: Final = 7_300_000_000_000_000
# Bytes of text decoded for a look at the first trade.
GLANCE: Final = 2**20


@dataclass(frozen=True)
class Tape:
    """What is known of a file before it is read; instants are microseconds, ``scale`` those a unit of the file."""

    path: Path
    market: str
    symbol: str
    start: int
    end: int | None
    scale: int

    @property
    def identity(self) -> list[str | int | None]:
        """What path and name decide about the bars."""
        return [self.market, self.symbol, self.start, self.end, self.scale]

    @property
    def limits(self) -> tuple[int, int, int]:
        """First instant and end in the file's unit, and the unit."""
        end = pd.Timestamp.now("UTC").value // 1_000 if self.end is None else self.end
        return self.start // self.scale, end // self.scale, self.scale

    @cached_property
    def first(self) -> npt.NDArray[np.void]:
        """The first trade, with its instant in microseconds; none if the file has none or cannot be read."""
        try:
            found = _first(self.path)
        except DataInvalid:  # told when its turn comes
            return NOTHING_AFTER
        found["time"] *= self.scale
        return found


def place(file: Path) -> Tape | Skip:
    """What path, name and, without a period in the name, the first trade say about a file."""
    name = NAME.fullmatch(file.stem)
    if name is None or file.suffix not in {".zip", ".csv", ".parquet"}:
        return Skip("not named SYMBOL-aggTrades-PERIOD as .zip, .csv or .parquet")
    # The nearest folder speaks, of the whole path: the archive may lie below one that is named alike, or be the
    # working directory.
    folders = reversed(Path(os.path.abspath(file)).parts[:-1])
    market = next((folder for folder in folders if folder in ("um", "cm", "spot")), None)
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
    if end > pd.Timestamp.now("UTC"):
        raise DataInvalid(
            f"{tape.path}: its period is not over; download the file again after {end:%Y-%m-%d %H:%M} UTC"
        )
    begin = start.value // 1_000
    micro = tape.scale == 1 or (tape.market == "spot" and begin >= SPOT_MICROSECONDS)
    return replace(tape, start=begin, end=end.value // 1_000, scale=1 if micro else 1_000)


def _of_first_trade(tape: Tape) -> Tape | Skip:
    first = _first(tape.path)
    if not len(first):
        return Skip("it holds no rows")
    time = int(first["time"][0])
    scale = 1 if tape.scale == 1 or (tape.market == "spot" and time >= SPOT_MICROSECONDS) else 1_000
    if not EARLIEST < time * scale < LATEST:
        raise DataInvalid(f"{tape.path}, line 1, column transact_time: {time} is no instant in milliseconds")
    return replace(tape, start=time * scale, scale=scale)


def _first(file: Path) -> npt.NDArray[np.void]:
    with closing(batches(file, GLANCE)) as read:
        return next((batch.trades.first(1) for batch in read if len(batch.lines)), NOTHING_AFTER.copy())
