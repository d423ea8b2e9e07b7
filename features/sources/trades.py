"""Aggregate trades of the public archive, in its own folders, into bars; every file is streamed once.

``…/futures/um/{daily,monthly}/aggTrades`` fills the table ``bars``, ``…/spot/…/aggTrades`` the table ``spot``. Files
are ``SYMBOL-aggTrades-PERIOD`` as ``.zip``, ``.csv`` or ``.parquet``; a Parquet file may have anything in the place of
the period, and then speaks from its first trade to its last. Spot instants are microseconds from 2025 on and
milliseconds before, futures always milliseconds, whether or not there is a header line.

The files of a symbol are read in order of time, and each hands over its state to the next where nothing is missing
between them: it follows without a gap in time, or in aggregate ids. An import's id covers the file's bytes and the
state at its start, which is all that decides its bars.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.schemas import INTERVALS
from features.sources.reading import BadRow, Reading, Skip
from features.sources.trade_files import MAX_BAD_ROWS, Batch, Torn, batches, has_side, sha256
from features.sources.trade_places import EARLIEST, LATEST, Tape, place
from features.trades.bars import SIDED, TradeBars, bulk_volume
from features.trades.kernels import DAY, FAULTS, OUTSIDE

__all__ = ["TradeReading", "read"]

TABLES: Final = {"um": "bars", "spot": "spot"}
MAX_BAD_SHARE: Final = 0.5
# Bars behind the scale of price changes in bulk-volume classification.
BULK_BARS: Final = 120
# Counts as decided by this recipe: part of every import's id, to be raised when a measure changes.
RECIPE: Final = 1


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
        symbol = _Symbol(intervals)
        # Of files that speak of the same day the longest comes first, and the others are left out.
        for tape in sorted(group, key=lambda t: (t.start, -(t.end or t.start), str(t.path))):
            for outcome in symbol.outcomes(tape):
                yield tape.path, outcome
        for remark in symbol.left_open():
            yield group[-1].path, remark


class _Symbol:
    """One symbol's trades, file after file."""

    def __init__(self, intervals: Sequence[str]) -> None:
        self.bars = TradeBars({name: int(INTERVALS[name].total_seconds()) * 1_000_000 for name in intervals})
        self.covered: int | None = None
        # The last closes of each interval, for the scale of price changes.
        self.closes = dict.fromkeys(intervals, np.empty(0))

    def outcomes(self, tape: Tape) -> Iterator[Outcome]:
        """One file's bars and remarks; a refused file leaves the state as it was before."""
        if self.covered is not None and tape.start < self.covered:
            yield Skip("its time is in an earlier file; of files that overlap the first and longest counts")
            return
        continues = self.covered == tape.start or tape.first_id == self.bars.last_agg_id + 1
        bars, closes = self.bars.copy(), self.closes
        remarks = [] if continues else [*self.left_open(), *self._missing(tape.start)]
        try:
            content, sided = sha256(tape.path), has_side(tape.path)
            bars.begin(tape.start, continues=continues)
            if not continues:
                closes = dict.fromkeys(closes, np.empty(0))
            known = {name: [RECIPE, bars.digest(name), *(() if sided else closes[name])] for name in closes}
            run = _Run(tape, bars)
            run.consume()
        except DataInvalid as refusal:
            yield refusal
            return
        yield from remarks
        readings = []
        for name, rows in bars.closed().items():
            run.remark_on(name, rows)
            frame = _frame(rows, name, tape.symbol, bars.lengths[name])
            if not sided:
                frame, closes = _bulk(frame, closes[name]), closes | {name: _tail(closes[name], rows["close"])}
            parameters = {"interval": name, "known": known[name], "tape": tape.identity}
            if len(frame):
                readings.append(Reading(TABLES[tape.market], frame, parameters))
        self.bars, self.closes, self.covered = bars, closes, run.end
        yield TradeReading(tuple(readings), TABLES[tape.market], content, tuple(run.bad))
        yield from run.remarks

    def left_open(self) -> list[str]:
        """A remark on the bars that the last trades left open."""
        count = self.bars.open_bars
        return [f"{count} bars that the trades left unfinished at their end are left out"] if count else []

    def _missing(self, start: int) -> list[str]:
        if self.covered is None:
            return []
        days = (start - self.covered) / DAY
        return [
            f"no trades from {_instant(self.covered)} on: {days:g} days are missing before this file, and have no bars"
        ]


class _Run:
    """One file's way through the kernel."""

    def __init__(self, tape: Tape, bars: TradeBars) -> None:
        self.bad: list[Torn] = []
        self.remarks: list[str] = []
        self._tape = tape
        self._bars = bars
        self._rows = 0
        self._gaps = self._missing = 0
        self._first_gap = ""

    @property
    def end(self) -> int:
        """Up to where the trades are known."""
        return self._bars.last_time if self._tape.end is None else self._tape.end

    def consume(self) -> None:
        """All trades of the file; ``DataInvalid`` if too many are bad."""
        file = self._tape.path
        for batch in batches(file):
            self._take(batch)
            if len(self.bad) > MAX_BAD_ROWS:
                raise DataInvalid(f"{file} has more than {MAX_BAD_ROWS:,} bad rows; first: {self._first()}")
        if len(self.bad) > MAX_BAD_SHARE * self._rows:
            share = f"{len(self.bad):,} of {self._rows:,}"
            raise DataInvalid(f"{share} rows are bad, so the file is refused; first: {self._first()}")
        if not self._rows:
            raise DataInvalid(f"{file} holds no trades; download it again")
        if self._tape.end is not None:
            self._bars.finish(self._tape.end)
        self.bad.sort(key=lambda torn: torn.line)
        if self._gaps:
            ids = f"{self._gaps:,} jumps in the aggregate ids, {self._missing:,} ids are missing"
            self.remarks.append(f"{ids}, first {self._first_gap}")
        if self._bars.cut:
            self.remarks.append(f"{self._bars.cut} bars that begin before its first trade are left out")

    def _take(self, batch: Batch) -> None:
        self.bad += batch.torn
        self._rows += len(batch.lines) + len(batch.torn)
        refused = self._bars.feed(batch.trades, self._tape.limits)
        self.bad += [self._describe(batch, int(row), int(fault)) for row, fault in refused.faults]
        for row, ids, instant in refused.gaps[:1] if not self._gaps else ():
            self._first_gap = f"{int(ids):,} before line {batch.lines[row]} at {_instant(int(instant))}"
        self._gaps += len(refused.gaps)
        self._missing += int(refused.gaps[:, 1].sum())

    def _first(self) -> str:
        line, column, cause, _ = min(self.bad, key=lambda torn: torn.line)
        return str(BadRow(str(self._tape.path), line, column, cause))

    def _describe(self, batch: Batch, row: int, fault: int) -> Torn:
        values = {
            "transact_time": batch.trades.time[row],
            "price": batch.trades.price[row],
            "quantity": batch.trades.quantity[row],
            "agg_trade_id": batch.trades.agg_id[row],
            "first_trade_id": batch.trades.first_id[row],
            "last_trade_id": batch.trades.last_id[row],
        }
        column, cause = FAULTS[fault]
        if fault == OUTSIDE:
            # Of Python's integers, which do not overflow.
            within = EARLIEST < int(values[column]) * self._tape.scale < LATEST
            unit = "microseconds" if self._tape.scale == 1 else "milliseconds"
            wrong = f"is no instant in {unit}, the unit of this market and era"
            cause = f"lies outside {self._tape.path.stem}" if within else wrong
        text = ", ".join(f"{name}={value}" for name, value in values.items())
        return Torn(int(batch.lines[row]), column, cause, text)

    def remark_on(self, interval: str, rows: npt.NDArray[np.void]) -> None:
        """What is odd about the bars of one interval."""
        flat, touched = int((rows["trades"] == 0).sum()), int((rows["touched"] > 0).sum())
        if flat:
            held = (
                f"{flat:,} {interval} bars without trades are flat at the price before, as the exchange publishes them"
            )
            self.remarks.append(held)
        if touched:
            self.remarks.append(f"{touched:,} {interval} bars touch a jump in the aggregate ids: trades may be missing")


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


def _instant(micro: int) -> str:
    return str(np.datetime64(micro, "us")) + "Z"
