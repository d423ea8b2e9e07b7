"""One file of trades on its way through the kernel: what is taken, what is not, and what is odd."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from features.errors import DataInvalid
from features.sources.reading import BadRow
from features.sources.trade_files import MAX_BAD_ROWS, Batch, Torn, batches
from features.sources.trade_places import EARLIEST, LATEST, Tape
from features.trades.bars import NOTHING_AFTER, TradeBars
from features.trades.kernels import AHEAD, FAULTS, OUTSIDE

__all__ = ["Run", "instant"]

# Above this share of bad rows, and above a few, a file is not damaged but misread.
MAX_BAD_SHARE: Final = 1e-3
FEW: Final = 10


class Run:
    """One file's way through the kernel; ``following``: the next file that has trades."""

    def __init__(self, tape: Tape, bars: TradeBars, following: Tape | None) -> None:
        self.bad: list[Torn] = []
        self.remarks: list[str] = []
        self.rows = 0
        # Whether trades are missing at the end: there is a next file, and it does not follow.
        self.gap = False
        self._tape = tape
        self._bars = bars
        self._following = following
        self._gaps = self._missing = 0
        self._first_gap = ""

    @property
    def end(self) -> int:
        """Up to where the trades are known."""
        return self._bars.last_time if self._tape.end is None else self._tape.end

    @property
    def ending(self) -> list[int]:
        """What the next file's first trade decided about the end of this one."""
        return [int(self.gap), len(self.bad), self._bars.last_agg_id]

    def consume(self) -> None:
        """All trades of the file; ``DataInvalid`` if too many are bad."""
        file = self._tape.path
        for batch, after in self._judged():
            self._take(batch, after)
            if len(self.bad) > MAX_BAD_ROWS:
                raise DataInvalid(f"{file} has more than {MAX_BAD_ROWS:,} bad rows; first: {self._first()}")
        if len(self.bad) > max(FEW, MAX_BAD_SHARE * self.rows) or 0 < self.rows == len(self.bad):
            share = f"{len(self.bad):,} of {self.rows:,}"
            raise DataInvalid(
                f"{share} rows are bad, so the file is refused; download it again; first: {self._first()}"
            )
        if not self.rows:
            return
        if self._tape.end is not None:
            self.gap = self._is_cut_short()
            self._bars.finish(self._tape.end, gap=self.gap)
        self.bad.sort(key=lambda torn: torn.line)
        if self.gap:
            self.remarks.append(
                f"{self._following.path.name if self._following else ''} does not follow it: trades are missing after"
                f" {instant(self._bars.last_time)}, and bars without trades are left out"
            )
        if self._gaps:
            ids = f"{self._gaps:,} jumps in the aggregate ids, {self._missing:,} ids are missing"
            self.remarks.append(f"{ids}, first {self._first_gap}")
        if self._bars.cut:
            self.remarks.append(f"{self._bars.cut} bars that begin before its first trade are left out")

    def _judged(self) -> Iterator[tuple[Batch, npt.NDArray[np.void]]]:
        """Every batch with the trades after it: those of the next ones, and then the next file's first."""
        waiting: deque[Batch] = deque()
        final = NOTHING_AFTER if self._following is None else self._following.first.copy()
        final["time"] //= self._tape.scale
        for batch in chain(batches(self._tape.path), [None]):
            if batch is not None:
                waiting.append(batch)
            while waiting and (batch is None or sum(len(later.lines) for later in list(waiting)[1:]) >= AHEAD):
                first = waiting.popleft()
                ahead = [later.trades.first(AHEAD) for later in waiting]
                yield first, np.concatenate([*ahead, final] if batch is None else ahead)[:AHEAD]

    def _is_cut_short(self) -> bool:
        following = self._following
        if following is None or following.start != self._tape.end:
            return False
        return int(following.first["agg_id"][0]) > self._bars.last_agg_id + 1

    def _take(self, batch: Batch, after: npt.NDArray[np.void]) -> None:
        self.bad += batch.torn
        self.rows += len(batch.lines) + len(batch.torn)
        if batch.torn and not (len(batch.lines) and batch.lines[0] < min(torn.line for torn in batch.torn)):
            self._bars.lose()
        refused = self._bars.feed(batch.trades, self._tape.limits, after)
        self.bad += [self._describe(batch, int(row), int(fault)) for row, fault in refused.faults]
        for row, ids, moment in refused.gaps[:1] if not self._gaps else ():
            self._first_gap = f"{int(ids):,} before line {batch.lines[row]} at {instant(int(moment))}"
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
            self.remarks.append(f"{touched:,} {interval} bars touch a jump in the aggregate ids: they have no measures")


def instant(micro: int) -> str:
    """Microseconds since 1970, spelt out."""
    return str(np.datetime64(micro, "us")) + "Z"
