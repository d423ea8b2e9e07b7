"""Aggregate trades of the public archive, in its own folders, into bars; every file is streamed once.

``…/futures/um/{daily,monthly}/aggTrades`` fills the table ``bars``, ``…/spot/…/aggTrades`` the table ``spot``. Files
are ``SYMBOL-aggTrades-PERIOD`` as ``.zip``, ``.csv`` or ``.parquet``; a Parquet file may have anything in the place of
the period, and then speaks from its first trade to its last. Spot instants are microseconds from 2025 on and
milliseconds before, futures always milliseconds, whether or not there is a header line.

The files of a symbol are read in order of time, and each hands over its state to the next where it follows without a
gap in time, or in aggregate ids. An import's id covers the file's bytes, the state at its start, and what the first
trade of the next file says of its end, which is all that decides its bars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.schemas import INTERVALS
from features.sources.reading import Reading, Skip
from features.sources.trade_files import Torn, has_side, sha256
from features.sources.trade_places import Tape, place
from features.sources.trade_run import Run, instant
from features.trades.bars import SIDED, TradeBars, bulk_volume
from features.trades.kernels import DAY
from features.trades.state import TRAILING_DAYS

__all__ = ["TradeReading", "read"]

TABLES: Final = {"um": "bars", "spot": "spot"}
# Bars behind the scale of price changes in bulk-volume classification.
BULK_BARS: Final = 120
# Counts as decided by this recipe: part of every import's id, to be raised when a measure changes.
RECIPE: Final = 2


@dataclass(frozen=True)
class TradeReading:
    """What one file gave: bars of each interval, and the trades that were not taken, with their text."""

    bars: tuple[Reading, ...]
    table: str
    sha256: str
    bad: tuple[Torn, ...]


# A file's bars; why it has none; or a remark on what was read.
Outcome: TypeAlias = TradeReading | Skip | DataInvalid | str


def read(files: Iterable[Path], intervals: Sequence[str]) -> Iterator[tuple[Path, Outcome]]:
    """The bars of every file, of each of the ``INTERVALS`` named, symbol by symbol in order of time, and remarks."""
    tapes: dict[tuple[str, str], list[Tape]] = {}
    for file in files:
        try:
            tape = place(file)
        except DataInvalid as refusal:
            yield file, refusal
            continue
        if isinstance(tape, Skip):
            yield file, tape
        else:
            tapes.setdefault((tape.market, tape.symbol), []).append(tape)
    for _, group in sorted(tapes.items()):
        yield from _Symbol(intervals).outcomes(group)


class _Symbol:
    """One symbol's trades, file after file."""

    def __init__(self, intervals: Sequence[str]) -> None:
        self.bars = TradeBars({name: int(INTERVALS[name].total_seconds()) * 1_000_000 for name in intervals})
        # Up to where the trades are known, and the file that told the last of them.
        self.covered: int | None = None
        self.last: Path | None = None
        # The last closes of each interval, for the scale of price changes.
        self.closes = dict.fromkeys(intervals, np.empty(0))

    def outcomes(self, tapes: Iterable[Tape]) -> Iterator[tuple[Path, Outcome]]:
        """All files in order of time."""
        # Of files that speak of the same day the longest comes first, and the others are left out.
        ordered = sorted(tapes, key=lambda t: (t.start, -(t.end or t.start), str(t.path)))
        for number, tape in enumerate(ordered, 1):
            if self.covered is not None and tape.start < self.covered:
                yield (
                    tape.path,
                    Skip("its time is in an earlier file; of files that overlap the first and longest counts"),
                )
            else:
                end = tape.start if tape.end is None else tape.end
                yield from self._read(
                    tape, next((t for t in ordered[number:] if t.start >= end and len(t.first)), None)
                )
        yield from self._left_open()

    def _read(self, tape: Tape, following: Tape | None) -> Iterator[tuple[Path, Outcome]]:
        """One file's bars and remarks; one that is refused or without rows leaves the state as it was before."""
        continues = self.covered is not None and (self.covered == tape.start or self._followed_by(tape))
        bars, closes = self.bars.copy(), self.closes
        remarks = [] if continues else [*self._left_open(), *((tape.path, told) for told in self._missing(tape.start))]
        try:
            content, sided = sha256(tape.path), has_side(tape.path)
            bars.begin(tape.start, continues=continues)
            if not continues:
                closes = dict.fromkeys(closes, np.empty(0))
            known = {name: [RECIPE, bars.digest(name), None if sided else _digest(closes[name])] for name in closes}
            run = Run(tape, bars, following)
            run.consume()
        except DataInvalid as refusal:
            yield tape.path, refusal
            return
        if not run.rows:
            yield tape.path, Skip("it holds no rows")
            return
        yield from remarks
        readings = []
        for name, rows in bars.closed().items():
            run.remark_on(name, rows)
            frame = _frame(rows, name, tape.symbol, bars.lengths[name])
            if not sided:
                frame, closes = _bulk(frame, closes[name]), closes | {name: _tail(closes[name], rows["close"])}
            parameters = {"interval": name, "known": known[name], "tape": tape.identity, "end": run.ending}
            if len(frame):
                readings.append(Reading(TABLES[tape.market], frame, parameters))
        self.bars, self.closes, self.covered, self.last = bars, closes, run.end, tape.path
        yield tape.path, TradeReading(tuple(readings), TABLES[tape.market], content, tuple(run.bad))
        for remark in run.remarks:
            yield tape.path, remark

    def _followed_by(self, tape: Tape) -> bool:
        return len(tape.first) > 0 and int(tape.first["agg_id"][0]) == self.bars.last_agg_id + 1

    def _left_open(self) -> Iterator[tuple[Path, str]]:
        """Remarks on the bars that the last trades left open."""
        if self.last is None:
            return
        if count := self.bars.open_bars:
            yield self.last, f"{count} bars that the trades left unfinished at their end are left out"
        if count := self.bars.silent_bars:
            yield (
                self.last,
                f"{count:,} bars after its last trade are left out until the file that follows tells whether trades"
                " are missing there; import both together",
            )

    def _missing(self, start: int) -> list[str]:
        """What is not known at the start of a file that does not continue another."""
        if self.covered is None:
            # The first midnight before which a whole day was seen, and that with all trailing days.
            first = -(-start // DAY) * DAY
            some, all_ = instant(first + DAY), instant(first + TRAILING_DAYS * DAY)
            return [
                f"it starts without known state: large_trades and vpin are null until {some} at least, and rest on fewer"
                f" than {TRAILING_DAYS} days until {all_}; import it together with the {TRAILING_DAYS} days before"
            ]
        days = (start - self.covered) / DAY
        return [
            f"no trades from {instant(self.covered)} on: {days:g} days are missing before this file, and have no bars"
        ]


def _frame(rows: npt.NDArray[np.void], interval: str, symbol: str, length: int) -> pd.DataFrame:
    """Closed bars as rows of a table."""
    measured = {name: rows[name] for name in rows.dtype.names or () if name not in {"interval", "start", "touched"}}
    closes = pd.DatetimeIndex((rows["start"] + length).astype("datetime64[us]"), tz="UTC")
    known = {"interval": interval, "symbol": symbol, "close_time": closes, "available_at": closes}
    return pd.DataFrame(known | measured, index=pd.RangeIndex(1, len(rows) + 1))


def _tail(before: npt.NDArray[np.float64], closes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([before, closes])[-BULK_BARS - 1 :]


def _bulk(frame: pd.DataFrame, before: npt.NDArray[np.float64]) -> pd.DataFrame:
    """The same bars with what needs a trade's side null, and the proxy of bulk-volume classification beside.

    The scale is the standard deviation of the 120 log price changes before the bar's own; null until there are so many.
    """
    closes = np.concatenate([before, frame["close"].to_numpy()])
    changes = np.full(len(closes), np.nan)
    changes[1:] = np.diff(np.log(closes))
    scale = np.full(len(closes), np.nan)
    if len(closes) > BULK_BARS + 1:
        windows = np.lib.stride_tricks.sliding_window_view(changes[1:-1], BULK_BARS)
        scale[BULK_BARS + 1 :] = windows.std(axis=1, ddof=1)
    own = slice(len(before), None)
    volume = frame["volume"].to_numpy()
    bought = bulk_volume(changes[own], volume, scale[own])
    return frame.assign(
        **dict.fromkeys(SIDED, np.nan), bvc_taker_buy_volume=bought, bvc_signed_volume=2.0 * bought - volume
    )


def _digest(closes: npt.NDArray[np.float64]) -> str:
    return hashlib.sha256(closes.tobytes()).hexdigest()
