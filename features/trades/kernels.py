"""The compiled pass over trades: checks, five-second cells, bars of any interval, the volume clock.

Every trade is touched once. It goes into a cell of five seconds; when the cell is over it is merged into the open bar
of every interval, for a twelfth of every bar is a whole number of such cells. What is carried lives in four arrays:
``tape`` (one record: the last trade, the volume clock, the trailing days), ``cell`` (one record), ``bars`` (one record
an interval) and ``histograms`` of trade sizes (one row a trailing day, the last one today's). The order of every sum is
given by the trades alone, so that neither the batches nor the other intervals change a bit of a bar.

No kernel calls one of another module: numba's cache would not see that one change.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numba

from features.trades.state import BUCKETS, LOST, NONE, PARTS, TRAILING_DAYS

__all__ = ["AHEAD", "BINS", "DAY", "FAULTS", "OUTSIDE", "consume", "end_day", "finish", "start_day"]

DAY: Final = 86_400_000_000
CELL_LENGTH: Final = 5_000_000
LARGE: Final = 0.99
MAX_PRICE: Final = 1e9
MAX_QUANTITY: Final = 1e15
MAX_JUMP: Final = 1_000.0
# Single trades in one aggregate trade.
MAX_SPAN: Final = 1_000_000
# Trades after a trade that judge it, where it is at odds with one of them.
AHEAD: Final = 5
# A trade this long after the one before, in microseconds, is judged in any case.
LEAP: Final = 60_000_000
MAX_TIME: Final = 2**62
# A bin is a float's exponent and the first five bits of its mantissa: 32 bins an octave, from 2^-30 to 2^50.
BIN_SHIFT: Final = 47
BIN_OFFSET: Final = (1023 - 30) << 5
BINS: Final = 80 << 5

# Why a trade is not taken: the column at fault, and what is wrong with it.
FAULTS: Final = (
    ("transact_time", ""),
    ("price", f"is not within (0, {MAX_PRICE:,.0f}]"),
    ("quantity", f"is not within (0, {MAX_QUANTITY:,.0f}]"),
    ("last_trade_id", f"is before first_trade_id or more than {MAX_SPAN:,} after it, or one of them is negative"),
    ("agg_trade_id", "is not above that of the trade before: repeated, or out of order"),
    ("first_trade_id", "is not above last_trade_id of the trade before: repeated, or out of order"),
    ("transact_time", "is before that of the trade before: out of order"),
    ("price", f"is more than {MAX_JUMP:,.0f} times away from the trade before"),
    # The same four at the other end: most of the trades that follow are at odds with this one alone.
    ("agg_trade_id", "is not below those of the trades that follow"),
    ("last_trade_id", "is not below first_trade_id of the trades that follow"),
    ("transact_time", "is after those of the trades that follow"),
    ("price", f"is more than {MAX_JUMP:,.0f} times away from the trades that follow"),
)
OUTSIDE, PRICE, QUANTITY, IDS, REPEATED, OVERLAP, ORDER, JUMP, *_ = range(len(FAULTS))
LATER: Final = len(FAULTS) - 1 - JUMP
SOUND: Final = -1


@numba.njit(cache=True)
def _odds(
    time: int,
    agg_id: int,
    trade_id: int,
    price: float,
    next_time: int,
    next_agg: int,
    next_first: int,
    next_price: float,
) -> int:
    """What is wrong with a trade after another one, of which ids and instant may be ``NONE`` and the price 0."""
    if next_agg <= agg_id or next_agg < 0:
        return REPEATED
    if next_first <= trade_id:
        return OVERLAP
    if next_time < time:
        return ORDER
    if price > 0.0 and not (price <= MAX_JUMP * next_price and next_price <= MAX_JUMP * price):
        return JUMP
    return SOUND


@numba.njit(cache=True)
def _outlier(columns: Any, row: int, limits: Any, before: Any, leaps: bool) -> int:
    """What is wrong with a trade in the eyes of most of the ``AHEAD`` trades that follow, ``SOUND`` if nothing.

    Only those judge that could follow the trade ``before`` it: of two that are at odds the one that fits in neither
    place is the wrong one. A trade that does not leap in time or ids is judged only if the very next one is at odds
    with it.
    """
    time, price, _, _, agg_id, first_id, last_id, _, _, after = columns
    begin, end, scale = limits
    last, last_agg, last_trade, last_price = before
    rows, found, balance = len(time), SOUND, 0
    for i in range(row + 1, min(row + 1 + AHEAD, rows + len(after))):
        if i < rows:
            t, p, a, first = time[i], price[i], agg_id[i], first_id[i]
        else:
            t, p, a, first = (
                after[i - rows].time,
                after[i - rows].price,
                after[i - rows].agg_id,
                after[i - rows].first_id,
            )
        fault = _odds(time[row], agg_id[row], last_id[row], price[row], t, a, first, p)
        if i == row + 1 and fault == SOUND and not leaps:
            return SOUND
        if not (begin <= t < (end if i < rows else MAX_TIME // scale) and 0.0 < p <= MAX_PRICE):
            continue
        if _odds(last, last_agg, last_trade, last_price, t * scale, a, first, p) != SOUND:
            continue
        balance += 1 if fault == SOUND else -1
        if found == SOUND:
            found = fault
    return found + LATER if balance < 0 else SOUND


@numba.njit(cache=True)
def consume(
    columns: Any, row: int, limits: Any, tape: Any, cell: Any, bars: Any, histograms: Any, out: Any, bad: Any, gaps: Any
) -> Any:
    """Take the trades of one batch from ``row`` on, until its end or until a buffer is full.

    Parameters
    ----------
    columns
        ``time`` in the file's unit, ``price``, ``quantity``, the bits of ``quantity`` as integers, ``agg_id``,
        ``first_id``, ``last_id``, the packed bits of ``is_buyer_maker`` and the position of the first of them;
        records of the trades that follow the batch, as many as there are up to ``AHEAD``.
    limits
        First instant of the file, its end (exclusive), both in its unit, and microseconds a unit.
    out, bad, gaps
        Buffers: closed bars; ``(row, fault)``; ``(row, ids missing before it, instant)``.

    Returns
    -------
    tuple
        The next row, and how many entries of each buffer are filled.
    """
    time, price, quantity, bits, agg_id, first_id, last_id, packed, offset, _ = columns
    begin, end, scale = limits
    tape, cell, today = tape[0], cell[0], histograms[TRAILING_DAYS]
    n_out = n_bad = n_gaps = 0
    # What every trade touches is held in locals, for the compiler to keep in registers.
    count, trades, large = cell.count, cell.trades, cell.large
    runs, run_total, longest = cell.runs, cell.run_total, cell.run_longest
    high, low, close, volume, quote = cell.high, cell.low, cell.close, cell.volume, cell.quote
    buy, buy_quote, squares = cell.buy, cell.buy_quote, cell.wait_squares
    last, last_agg, last_trade, last_price = tape.time, tape.agg_id, tape.trade_id, tape.price
    run, side = tape.run, tape.side
    bucket, fill, fill_buy, large_bin = tape.bucket, tape.fill, tape.fill_buy, tape.large_bin
    if count:
        last_price = close
    cell_end = cell.start + CELL_LENGTH if count else -1
    rows = len(time)
    while row < rows and n_bad < len(bad) and n_gaps < len(gaps):
        t, p, q, a = time[row], price[row], quantity[row], agg_id[row]
        fault = SOUND
        if not (begin <= t < end):
            fault = OUTSIDE
        elif not (0.0 < p <= MAX_PRICE):
            fault = PRICE
        elif not (0.0 < q <= MAX_QUANTITY):
            fault = QUANTITY
        elif not (0 <= first_id[row] <= last_id[row] and last_id[row] - first_id[row] <= MAX_SPAN):
            fault = IDS
        else:
            fault = _odds(last, last_agg, last_trade, last_price, t * scale, a, first_id[row], p)
        gap = last_agg != NONE and a != last_agg + 1
        if fault == SOUND:
            leaps = gap or t * scale - last > LEAP
            if leaps or row + 1 >= rows or time[row + 1] < t or first_id[row + 1] <= last_id[row]:
                fault = _outlier(columns, row, limits, (last, last_agg, last_trade, last_price), leaps)
        if fault != SOUND:
            bad[n_bad, 0], bad[n_bad, 1] = row, fault
            n_bad += 1
            row += 1
            if last_agg == NONE:
                last_agg = LOST
            continue
        t *= scale
        if gap:
            # Neither a run of one side nor a bucket of the volume clock reaches over missing trades.
            cell.touched = tape.gappy = 1
            run, side, fill, fill_buy = 0, NONE, 0.0, 0.0
        if t >= cell_end:
            _keep_counts(cell, count, trades, large, runs, run_total, longest)
            _keep_sums(cell, high, low, close, volume, quote, buy, buy_quote, squares)
            _keep_last(tape, last, last_agg, last_trade, run, side, fill, fill_buy)
            count = trades = large = runs = run_total = longest = 0
            volume = quote = buy = buy_quote = squares = 0.0
            n_out, done = _advance(tape, cell, bars, histograms, t, gap, out, n_out)
            bucket, fill, fill_buy, large_bin = tape.bucket, tape.fill, tape.fill_buy, tape.large_bin
            if not done:
                return row, n_out, n_bad, n_gaps
            cell.start = t - t % CELL_LENGTH
            cell_end = cell.start + CELL_LENGTH
            cell.open = high = low = p
            cell.touched = 1 if gap else 0
            # The waits of a cell add up to its last instant less the one before its first trade.
            cell.waits = 0 if last < 0 else 1
            cell.wait = -t if last < 0 else -last
        if gap and last_agg != LOST:
            gaps[n_gaps, 0], gaps[n_gaps, 1], gaps[n_gaps, 2] = row, a - last_agg - 1, t
            n_gaps += 1
        high, low, close = max(high, p), min(low, p), p
        at = offset + row
        bought = 1 - ((packed[at >> 3] >> (at & 7)) & 1)
        value, taken = p * q, q * bought
        volume += q
        quote += value
        buy += taken
        buy_quote += value * bought
        trades += last_id[row] - first_id[row] + 1
        count += 1
        wait = float(t - last) if last >= 0 else 0.0
        squares += wait * wait
        turned = 1 if bought != side else 0
        runs += turned if side >= 0 else 0
        run_total += run * turned
        run = run * (1 - turned) + 1
        side = bought
        longest = max(longest, run)
        size = max((bits[row] >> BIN_SHIFT) - BIN_OFFSET, 0)
        today[size] += 1
        large += 1 if size > large_bin else 0
        if fill + q >= bucket:
            fill, fill_buy = _fill_buckets(tape, q, bought, fill, fill_buy)
        else:
            fill += q
            fill_buy += taken
        last, last_agg, last_trade, last_price = t, a, last_id[row], p
        row += 1
    _keep_counts(cell, count, trades, large, runs, run_total, longest)
    _keep_sums(cell, high, low, close, volume, quote, buy, buy_quote, squares)
    _keep_last(tape, last, last_agg, last_trade, run, side, fill, fill_buy)
    return row, n_out, n_bad, n_gaps


@numba.njit(cache=True)
def _keep_counts(cell: Any, count: int, trades: int, large: int, runs: int, run_total: int, longest: int) -> None:
    cell.count, cell.trades, cell.large = count, trades, large
    cell.runs, cell.run_total, cell.run_longest = runs, run_total, longest


@numba.njit(cache=True)
def _keep_sums(
    cell: Any,
    high: float,
    low: float,
    close: float,
    volume: float,
    quote: float,
    buy: float,
    buy_quote: float,
    squares: float,
) -> None:
    cell.high, cell.low, cell.close, cell.volume, cell.quote = high, low, close, volume, quote
    cell.buy, cell.buy_quote, cell.wait_squares = buy, buy_quote, squares


@numba.njit(cache=True)
def _keep_last(
    tape: Any, time: int, agg_id: int, trade_id: int, run: int, side: int, fill: float, fill_buy: float
) -> None:
    tape.time, tape.agg_id, tape.trade_id, tape.run, tape.side = time, agg_id, trade_id, run, side
    tape.fill, tape.fill_buy = fill, fill_buy


@numba.njit(cache=True)
def _fill_buckets(tape: Any, quantity: float, bought: int, fill: float, fill_buy: float) -> Any:
    """Split a trade over the buckets that it fills; what is begun of the next one is returned."""
    bucket = tape.bucket
    rest = quantity
    if rest > 2 * BUCKETS * bucket:
        # One trade that fills more buckets than count: the last ones are all alike.
        rest = 2 * BUCKETS * bucket + rest % bucket
    while fill + rest >= bucket:
        part = bucket - fill
        bought_part = fill_buy + part * bought
        tape.imbalance[tape.filled % BUCKETS] = min(abs(2.0 * bought_part - bucket) / bucket, 1.0)
        tape.filled += 1
        rest -= part
        fill = fill_buy = 0.0
    return fill + rest, fill_buy + rest * bought


@numba.njit(cache=True)
def _advance(tape: Any, cell: Any, bars: Any, histograms: Any, to: int, gap: bool, out: Any, n_out: int) -> Any:
    """Merge the cell that is over, close every bar that ends by ``to``, and begin the days that begin by then.

    Returns the number of entries of ``out`` filled, and False if it was too short; called again with room, it goes
    on where it stopped. ``gap``: trades are missing before ``to``, which every bar closed now touches.
    """
    _merge(tape, cell, bars)
    while True:
        midnight = (tape.day + 1) * DAY
        stop = min(to, midnight)
        for i in range(len(bars)):
            while bars[i].start + bars[i].length <= stop:
                if n_out == len(out):
                    return n_out, False
                bar = bars[i]
                n_out = _close(bar, tape, gap, out, n_out)
        if stop < midnight:
            return n_out, True
        end_day(tape, histograms)
        start_day(tape, histograms, tape.day + 1)
        tape.gappy = 1 if gap else 0


@numba.njit(cache=True)
def finish(tape: Any, cell: Any, bars: Any, end: int, gap: bool, out: Any) -> Any:
    """Close every bar that holds trades and ends by ``end``, up to where all trades were taken.

    Whether time after them passed without a trade, the next trade tells. ``gap``: trades are missing before ``end``.
    Returns the number of entries of ``out`` filled, and False if it was too short, as ``_advance``.
    """
    _merge(tape, cell, bars)
    tape.covered_until = end
    if gap:
        tape.gappy = 1
    n_out = 0
    for i in range(len(bars)):
        bar = bars[i]
        if bar.count > 0 and bar.start + bar.length <= end:
            if n_out == len(out):
                return n_out, False
            n_out = _close(bar, tape, gap, out, n_out)
    return n_out, True


@numba.njit(cache=True)
def _merge(tape: Any, cell: Any, bars: Any) -> None:
    """Add the cell to the open bar of every interval, and empty it."""
    if cell.count == 0:
        return
    for i in range(len(bars)):
        bar = bars[i]
        if bar.count == 0:
            bar.open, bar.high, bar.low = cell.open, cell.high, cell.low
        bar.high, bar.low, bar.close = max(bar.high, cell.high), min(bar.low, cell.low), cell.close
        bar.volume += cell.volume
        bar.quote += cell.quote
        bar.buy += cell.buy
        bar.buy_quote += cell.buy_quote
        bar.wait_squares += cell.wait_squares
        bar.count += cell.count
        bar.trades += cell.trades
        bar.large += cell.large
        bar.waits += cell.count - 1 + cell.waits
        bar.wait += cell.wait + tape.time
        bar.runs += cell.runs
        bar.run_total += cell.run_total
        bar.run_longest = max(bar.run_longest, cell.run_longest)
        bar.touched |= cell.touched
        part = (cell.start - bar.start) // (bar.length // PARTS)
        bar.part_close[part] = cell.close
        bar.part_quote[part] += cell.quote
        bar.part_flow[part] += 2.0 * cell.buy_quote - cell.quote
    tape.price = cell.close
    tape.day_volume += cell.volume
    cell.count = cell.trades = cell.large = cell.runs = cell.run_total = cell.run_longest = cell.touched = 0
    cell.volume = cell.quote = cell.buy = cell.buy_quote = cell.wait_squares = 0.0


@numba.njit(cache=True)
def _reopen(bar: Any, start: int, before: float) -> None:
    """Begin the next bar of an interval."""
    bar.start, bar.before = start, before
    bar.count = bar.trades = bar.large = bar.waits = bar.wait = bar.touched = 0
    bar.runs = bar.run_total = bar.run_longest = 0
    bar.open = bar.high = bar.low = bar.close = 0.0
    bar.volume = bar.quote = bar.buy = bar.buy_quote = bar.wait_squares = 0.0
    for j in range(PARTS):
        bar.part_close[j] = bar.part_quote[j] = bar.part_flow[j] = 0.0


@numba.njit(cache=True)
def start_day(tape: Any, histograms: Any, day: int) -> None:
    """Fix bucket and threshold of a day from the whole days among the seven before it."""
    whole, volume, trades = 0, 0.0, 0
    for back in range(1, TRAILING_DAYS + 1):
        slot = (day - back) % TRAILING_DAYS
        if tape.days[slot] == day - back:
            whole += 1
            volume += tape.volumes[slot]
            trades += histograms[slot].sum()
    tape.day, tape.day_volume, tape.fill, tape.fill_buy, tape.gappy = day, 0.0, 0.0, 0.0, 0
    histograms[TRAILING_DAYS] = 0
    tape.bucket = volume / whole / BUCKETS if volume > 0.0 else math.inf
    tape.large_bin = BINS
    if trades > 0:
        below, size = 0, -1
        while below < LARGE * trades:
            size += 1
            for back in range(1, TRAILING_DAYS + 1):
                slot = (day - back) % TRAILING_DAYS
                if tape.days[slot] == day - back:
                    below += histograms[slot, size]
        tape.large_bin = size


@numba.njit(cache=True)
def end_day(tape: Any, histograms: Any) -> None:
    """Keep the volume and the trade sizes of the day that ends, if all of it was seen."""
    if tape.covered_since <= tape.day * DAY and not tape.gappy:
        slot = tape.day % TRAILING_DAYS
        tape.days[slot], tape.volumes[slot] = tape.day, tape.day_volume
        histograms[slot] = histograms[TRAILING_DAYS]


@numba.njit(cache=True)
def _close(bar: Any, tape: Any, gap: bool, out: Any, n_out: int) -> int:
    """Hand a bar over, if there is one, and begin the next: how many there are now.

    There is none where its time is covered in part, before any trade, and where trades are missing and none is known.
    """
    if gap:
        bar.touched = 1
    if bar.start < tape.covered_since:
        tape.cut += 1
    elif bar.count > 0 or (bar.before > 0.0 and not gap):
        if bar.count == 0:
            bar.open = bar.high = bar.low = bar.close = bar.before
        if tape.large_bin == BINS:
            bar.large = -1
        bar.vpin = _vpin(tape)
        out[n_out] = bar
        n_out += 1
    _reopen(bar, bar.start + bar.length, tape.price)
    return n_out


@numba.njit(cache=True)
def _vpin(tape: Any) -> float:
    """Mean imbalance of the last buckets, the oldest first: the sum must not depend on how many came before them."""
    if tape.filled < BUCKETS:
        return math.nan
    total = 0.0
    for back in range(BUCKETS, 0, -1):
        total += tape.imbalance[(tape.filled - back) % BUCKETS]
    return total / BUCKETS
