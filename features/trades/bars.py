"""Bars of any interval from a stream of trades, with the measures that only trades can give.

All measures of a bar are known at its close. Returns are logs; "quote" is the quote currency.

===================== =================== ==============================================================================
column                unit                what it is
===================== =================== ==============================================================================
realised_variance     1                   sum of r² over the bar's twelve parts
realised_quarticity   1                   M/3 sum r⁴, M = 12 (Barndorff-Nielsen and Shephard 2002)
bipower_variation     1                   pi/2 M/(M-1) sum |r_j||r_j-1| (Barndorff-Nielsen and Shephard 2004)
med_rv                1                   pi/(6-4√3+pi) M/(M-2) sum med(|r_j-2|, |r_j-1|, |r_j|)² (Andersen et al. 2012)
semivariance_up       1                   sum of r² where r > 0 (Barndorff-Nielsen, Kinnebrock and Shephard 2010)
semivariance_down     1                   sum of r² where r < 0
signed_volume         base                taker buys less taker sells
large_trades          aggregate trades    those above the 99 % quantile of size of the trailing days
kyle_lambda           1/√quote            slope of r on sign(f)√|f|, f = signed quote flow of the part (Hasbrouck 2009)
amihud                1/quote             mean of |r|/quote volume over the parts with trades (Amihud 2002)
vpin                  1                   mean of |buys - sells|/bucket over the last 50 buckets of the volume clock
                                          (Easley, Lopez de Prado and O'Hara 2012), with the true side of each trade
duration_mean         seconds             mean wait between aggregate trades, over the waits that end in the bar
duration_cv           1                   their standard deviation over their mean; 1 if Poisson (Engle and Russell 1998)
run_length_mean       aggregate trades    mean length of the runs of trades on one side that end in the bar
run_length_max        aggregate trades    longest run reached in the bar, its trades before the bar counted
===================== =================== ==============================================================================

**Parts.** A bar is cut into twelve equal parts and each part's return is that of the last price by its end: five minutes
for a bar of one hour, which is hard to beat (Liu, Patton and Sheppard 2015, J. Econometrics 187), the same number of
returns for every other interval. Short parts see the bounce between bid and ask: the measures of one-minute bars, from
five-second parts, are biased upwards for markets that trade seldom. The first return starts at the price before the bar;
where that is not known, everything made of returns is null.

**Trailing days.** Bucket (mean daily volume / 50) and the threshold of large trades (to 1/32 of an octave) are fixed at
00:00 UTC from the days among the seven before that were wholly seen; without any they are null. Buckets begin anew at
00:00, so that no bit depends on more than the days of the last 50 buckets and the seven days before these. Missing time
empties the volume clock.

**Missing trades.** Where the aggregate ids jump, trades are missing: in the feed, or because they could not be taken.
A bar that such a jump touches keeps its prices and flows and has no measures (null); the bucket and the run of one side
that it falls into are begun anew, and its days do not count as wholly seen.

**Flat bars.** A bar without trades is flat at the price before it, with no volume, as the exchange publishes it, where
the trades before and after it follow each other: so it is closed only when the next trade comes. Time in which trades
are missing, or that is not covered, has no bar, and a bar only partly covered is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from features.trades import kernels
from features.trades import state as layout
from features.trades.measures import measure

__all__ = ["NOTHING_AFTER", "SIDED", "TradeBars", "Trades", "bulk_volume"]

# Columns that need the side of each trade.
SIDED: Final = (
    *("taker_buy_volume", "taker_buy_quote_volume", "signed_volume", "kyle_lambda", "vpin"),
    *("run_length_mean", "run_length_max"),
)
BUFFER: Final = 4_096
NOTHING_AFTER: Final = np.zeros(0, layout.AFTER)


class Trades(NamedTuple):
    """Aggregate trades, in order; all arrays of shape (n,), contiguous.

    ``time`` in any unit since 1970; ``price`` in quote and ``quantity`` in base currency; ``maker``: bit
    ``offset + i``, from the lowest of each byte on, says that the buyer of trade ``i`` was the maker.
    """

    time: npt.NDArray[np.int64]
    price: npt.NDArray[np.float64]
    quantity: npt.NDArray[np.float64]
    agg_id: npt.NDArray[np.int64]
    first_id: npt.NDArray[np.int64]
    last_id: npt.NDArray[np.int64]
    maker: npt.NDArray[np.uint8]
    offset: int = 0

    def first(self, count: int) -> npt.NDArray[np.void]:
        """The first trades, as those that follow a batch."""
        after = np.zeros(min(count, len(self.time)), layout.AFTER)
        for name in layout.AFTER.names or ():
            after[name] = getattr(self, name)[: len(after)]
        return after


class Refused(NamedTuple):
    """What one batch held besides sound trades: ``faults`` (row, index into ``FAULTS``), ``gaps`` (row, ids, µs)."""

    faults: npt.NDArray[np.int64]
    gaps: npt.NDArray[np.int64]


@dataclass
class _State:
    """Everything that earlier trades leave behind."""

    tape: npt.NDArray[np.void]
    cell: npt.NDArray[np.void]
    bars: npt.NDArray[np.void]
    histograms: npt.NDArray[np.int64]

    def copy(self) -> _State:
        return _State(self.tape.copy(), self.cell.copy(), self.bars.copy(), self.histograms.copy())


class TradeBars:
    """One symbol's bars, from its trades in order of time.

    ``lengths`` maps names of intervals to microseconds: whole multiples of a minute that divide a day.
    For each stretch of trades call ``begin``, ``feed`` as often as there are batches, and ``finish`` where its
    end is known; ``closed`` hands over the bars so far. ``copy`` keeps a state to return to.
    """

    def __init__(self, lengths: Mapping[str, int]) -> None:
        self.lengths = dict(lengths)
        tape, cell = np.zeros(1, layout.TAPE), np.zeros(1, layout.CELL)
        bars = np.zeros(len(self.lengths), layout.BAR)
        bars["length"], bars["interval"] = list(self.lengths.values()), np.arange(len(bars))
        for name in ("covered_until", "time", "agg_id", "trade_id", "side", "days"):
            tape[name] = layout.NONE
        self._state = _State(tape, cell, bars, np.zeros((layout.TRAILING_DAYS + 1, kernels.BINS), np.int64))
        self._closed: list[npt.NDArray[np.void]] = []
        self._out = np.zeros(BUFFER, layout.BAR)

    def copy(self) -> TradeBars:
        """The same state, which goes its own way; without the bars closed so far."""
        twin = TradeBars(self.lengths)
        twin._state = self._state.copy()
        return twin

    @property
    def last_agg_id(self) -> int:
        """The last aggregate id seen, negative if there is none."""
        return int(self._state.tape["agg_id"][0])

    @property
    def last_time(self) -> int:
        """The instant of the last trade in microseconds, negative if there is none."""
        return int(self._state.tape["time"][0])

    @property
    def cut(self) -> int:
        """Bars left out since ``begin`` because their time was covered only in part."""
        return int(self._state.tape["cut"][0])

    @property
    def open_bars(self) -> int:
        """Bars that hold trades and are not closed."""
        pending = int(self._state.cell["count"][0]) > 0
        return int(np.sum((self._state.bars["count"] > 0) | pending))

    @property
    def silent_bars(self) -> int:
        """Bars without trades that end where the trades are known to, and that the next trade will close."""
        bars, until = self._state.bars, int(self._state.tape["covered_until"][0])
        waiting = (bars["count"] == 0) & (bars["before"] > 0.0) & (bars["start"] < until)
        return int(np.sum((until - bars["start"]) // bars["length"], where=waiting))

    def digest(self, interval: str) -> str:
        """A hash of all that decides the coming bars of one interval, besides the coming trades."""
        state = self._state
        row = list(self.lengths).index(interval)
        bar = state.bars[row : row + 1].copy()
        # Its place among the intervals decides nothing.
        bar["interval"] = 0
        parts = (state.tape.tobytes(), state.cell.tobytes(), bar.tobytes(), state.histograms.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def begin(self, start: int, *, continues: bool) -> None:
        """Trades from ``start`` (microseconds) on follow, after what was fed before or after missing time.

        After missing time the last price, the volume clock and all that is open are void; the trailing days stay.
        """
        tape = self._state.tape[0]
        tape["cut"] = 0
        if continues:
            return
        if tape["covered_until"] >= (tape["day"] + 1) * kernels.DAY:
            kernels.end_day(tape, self._state.histograms)
        for name in ("covered_until", "time", "agg_id", "trade_id", "side"):
            tape[name] = layout.NONE
        for name in ("run", "filled"):
            tape[name] = 0
        tape["price"], tape["imbalance"], tape["covered_since"] = 0.0, 0.0, start
        self._state.cell[:] = np.zeros(1, layout.CELL)
        bars = np.zeros_like(self._state.bars)
        bars["length"], bars["interval"] = self._state.bars["length"], self._state.bars["interval"]
        bars["start"] = start - start % bars["length"]
        self._state.bars[:] = bars
        kernels.start_day(tape, self._state.histograms, start // kernels.DAY)

    def lose(self) -> None:
        """Tell that trades before the next one could not be taken; where a trade is known its id tells as much."""
        tape = self._state.tape[0]
        if tape["agg_id"] == layout.NONE:
            tape["agg_id"] = layout.LOST

    def feed(
        self, trades: Trades, limits: tuple[int, int, int], after: npt.NDArray[np.void] = NOTHING_AFTER
    ) -> Refused:
        """Take one batch.

        ``limits``: first instant and end (exclusive) of its period, microseconds a unit of time. ``after``: the
        ``AHEAD`` trades after it, by which its last ones are judged (``Trades.first``).
        """
        state = self._state
        # One type for all, or the kernel would be compiled again for arrays that can be written to.
        time, price, quantity, *others = (_frozen(array) for array in trades[:-1])
        columns = (time, price, quantity, quantity.view(np.int64), *others, trades.offset, _frozen(after))
        bad, gaps = np.empty((BUFFER, 2), np.int64), np.empty((BUFFER, 3), np.int64)
        faults: list[npt.NDArray[np.int64]] = []
        jumps: list[npt.NDArray[np.int64]] = []
        row = 0
        while row < len(trades.time):
            row, n_out, n_bad, n_gaps = kernels.consume(
                columns, row, limits, state.tape, state.cell, state.bars, state.histograms, self._out, bad, gaps
            )
            self._keep(n_out)
            faults.append(bad[:n_bad].copy())
            jumps.append(gaps[:n_gaps].copy())
        return Refused(np.concatenate([bad[:0], *faults]), np.concatenate([gaps[:0], *jumps]))

    def finish(self, end: int, *, gap: bool = False) -> None:
        """Close every bar that holds trades and ends by ``end`` (microseconds), up to which all have been fed.

        Those after the last trade wait for the next one. ``gap``: trades are missing before ``end``.
        """
        state, done = self._state, False
        while not done:
            n_out, done = kernels.finish(state.tape[0], state.cell[0], state.bars, end, gap, self._out)
            self._keep(n_out)

    def _keep(self, rows: int) -> None:
        if rows:
            measured = np.zeros(rows, layout.MEASURED)
            measure(self._out[:rows], measured)
            self._closed.append(measured)

    def closed(self) -> dict[str, npt.NDArray[np.void]]:
        """The bars closed since the last call, by interval: ``start`` in microseconds, ``touched`` (trades are
        missing in or beside the bar), prices, flows and measures as named above."""
        rows = np.concatenate([np.zeros(0, layout.MEASURED), *self._closed])
        self._closed.clear()
        return {name: rows[rows["interval"] == i] for i, name in enumerate(self.lengths)}


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def bulk_volume(
    log_price_change: npt.NDArray[np.float64], volume: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Volume bought by takers as bulk classification guesses it, where no trade says its side: ``V Phi(dp/scale)``.

    A proxy (Easley, Lopez de Prado and O'Hara 2012, Rev. Financial Studies 25): what comes of it bears ``bvc`` in its
    name and never stands in a column of true taker volume. All arrays of shape (n,); ``scale`` is the trailing standard
    deviation of the changes; NaN where one of the inputs is, or the scale is 0.
    """
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        share = ndtr(np.where(scale > 0.0, log_price_change / scale, np.nan))
    return np.asarray(volume * share)
