"""The market on one hourly clock: wide arrays that every feature and target is computed from.

A ``Panel`` holds arrays of shape (n_symbols, n_hours) on a complete hourly grid; a missing bar is NaN. It is made from a
``Market`` (or from a point-in-time view of one) and computes what several features share exactly once. Nothing in it
depends on how far back the grid reaches beyond ``LOOKBACK_HOURS``.

With a ``Tape`` a panel continues the one before it: its arrays hold only the new hours, and whatever looks back (``shift``,
``mean``, ``sd``, ``pair``, ``ewma``, ``age``, ``windowed``, ``as_of``, ``common``, the season) finds its past on the tape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from features import kernels
from features.errors import DataInvalid
from features.market import Market
from features.measures import bar_variance_floor, garman_klass, sum_inside_hours
from features.schemas import TABLES
from features.tape import Known, Tape

__all__ = ["LOOKBACK_HOURS", "Array", "Panel", "Proxy", "shift"]

Array: TypeAlias = npt.NDArray[np.float64]
Proxy: TypeAlias = Literal["garman_klass", "squared_returns"]

DAY: Final = 24
WEEK: Final = 168
SEASON_WEEKS: Final = 104
SEASON_HOURS: Final = SEASON_WEEKS * WEEK
SEASON_SHRINKAGE: Final = 26.0
CAP_MULTIPLE: Final = 30.0
CAP_HOURS: Final = 24
LONGEST_KERNEL_HOURS: Final = kernels.ewma_reach(720) + 24
# A feature reads the longest kernel of deseasonalised variance; each of those hours reads a season curve refreshed at the
# start of its week from two years of capped variance; capping reads one more day, a return one more bar.
LOOKBACK_HOURS: Final = LONGEST_KERNEL_HOURS + WEEK + SEASON_HOURS + CAP_HOURS + 1
FEED_AGE_CAP_HOURS: Final = 720
MICROSECONDS_PER_HOUR: Final = 3_600_000_000
SMOOTHED: Final = ("deseasonalised", "capped_variance", "variance", "log_return")
CLOCKS: Final = tuple(dict.fromkeys(spec.clock for spec in TABLES.values()))
FIRST_MONDAY_HOUR: Final = 4 * 24  # 1970-01-05, in hours since the epoch


class Panel:
    """Wide hourly arrays of one market; see the module.

    Attributes: ``times`` (DatetimeIndex, bar closes), ``symbols``, ``proxy``; arrays are (n_symbols, n_hours). With a
    ``tape`` that holds a past, the hours are those after it, up to ``market``'s newest hourly bar.
    Raises ``DataInvalid`` where the market has no hourly bar at all, or none fine enough for ``squared_returns``.
    """

    def __init__(self, market: Market, proxy: Proxy = "garman_klass", tape: Tape | None = None) -> None:
        self.market = market
        self.proxy: Proxy = proxy
        self._tape = tape if tape is not None else Tape()
        bars = _in_time(market.bars("1h"))
        if bars.empty:
            raise DataInvalid(
                "the store holds no 1h bars that were known at their close; import some with `forecaster data import`"
            )
        closes = pd.DatetimeIndex(bars.index.get_level_values("close_time"))
        begin = closes.min() if self._tape.end is None else self._tape.end + pd.Timedelta(hours=1)
        # A symbol's other feeds may begin before its first bar, and its first row reads them.
        mentioned = () if tape is None else market.mentioned
        self.symbols: tuple[str, ...] = tuple(sorted({*self._tape.symbols, *market.symbols, *mentioned}))
        self.times = pd.date_range(begin, closes.max(), freq="h", unit="us")
        self._tape.step(self.symbols, self.times[-1])
        self._clock = self.times.as_unit("us").asi8
        self._tables: dict[str, dict[str, Array]] = {"bars": self._widen(bars)}
        self._made: dict[tuple[str, str], Array] = {}

    def __len__(self) -> int:
        return len(self.times)

    @property
    def hours(self) -> npt.NDArray[np.int64]:
        """Hours since the epoch, shape (n_hours,)."""
        return self._clock // MICROSECONDS_PER_HOUR

    @cached_property
    def slots(self) -> npt.NDArray[np.int64]:
        """Hour of week (0 = Monday 00:00-01:00 UTC) that the bar of each column covers, shape (n_hours,)."""
        return np.asarray((self._clock // MICROSECONDS_PER_HOUR - FIRST_MONDAY_HOUR - 1) % WEEK, dtype=np.int64)

    # -- tables on the grid ------------------------------------------------------------------------------------------

    def field(self, name: str, table: Literal["bars", "mark", "spot"] = "bars") -> Array:
        """One column of an hourly table; all NaN where the source does not carry it."""
        if table not in self._tables:
            frame = self.market.mark("1h") if table == "mark" else self.market.spot("1h")
            self._tables[table] = self._widen(_in_time(frame))
        empty = np.full((len(self.symbols), len(self)), np.nan)
        return self._tables[table].get(name, empty)

    def _widen(self, frame: pd.DataFrame) -> dict[str, Array]:
        wide: dict[str, Array] = {}
        rows, columns = self._positions(
            frame.index.get_level_values("symbol"),
            pd.DatetimeIndex(frame.index.get_level_values("close_time")),
        )
        inside = rows >= 0
        for name in frame.columns.difference(["available_at", "source"]):
            values = np.full((len(self.symbols), len(self)), np.nan)
            values[rows[inside], columns[inside]] = frame[name].to_numpy(np.float64)[inside]
            wide[str(name)] = values
        return wide

    def _positions(
        self, symbols: pd.Index, times: pd.DatetimeIndex
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Row and column of each (symbol, time); the row is -1 outside the grid."""
        rows = pd.Index(self.symbols).get_indexer(symbols).astype(np.int64)
        columns = self.times.get_indexer(times.as_unit("us")).astype(np.int64)
        rows[columns < 0] = -1
        return rows, columns

    def as_of(self, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> dict[str, Array]:
        """The newest row known at each hour, per symbol, joined backward on ``available_at``.

        ``frame``: flat, with ``symbol``, ``available_at`` and its table's clock; ``values`` maps the name of an output to a
        column. Newest is by the clock: an old row that arrives late does not replace a newer one. A row that became known
        more than ``life_hours`` ago is not carried: the outputs are NaN there. ``age`` (hours since the row became known)
        is added, capped at 720, and 720 where there is none.
        """
        rows = pd.Index(self.symbols).get_indexer(pd.Index(frame["symbol"]))
        return self._newest(frame, rows, self.symbols, values, life_hours)

    def common(self, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> dict[str, Array]:
        """``as_of`` of rows that speak of every symbol alike, such as those of one index: arrays of shape (1, n_hours)."""
        return self._newest(frame, np.zeros(len(frame), dtype=np.int64), ("",), values, life_hours)

    def _newest(
        self,
        frame: pd.DataFrame,
        rows: npt.NDArray[np.int64],
        entities: tuple[str, ...],
        values: dict[str, str],
        life_hours: int,
    ) -> dict[str, Array]:
        past = self._tape.known("as_of " + " ".join(values))
        out = {name: np.full((len(entities), len(self)), np.nan) for name in values}
        out["age"] = np.full((len(entities), len(self)), float(FEED_AGE_CAP_HOURS))
        arrived = _arrivals(frame, list(values.values()))
        for i, entity in enumerate(entities):
            known = _in_order(past.get(entity), arrived, np.flatnonzero(rows == i))
            if not len(known.available):
                continue
            newest = np.searchsorted(known.available, self._clock, side="right") - 1
            seen = newest >= 0
            age = (self._clock[seen] - known.available[newest[seen]]) / MICROSECONDS_PER_HOUR
            fresh = np.flatnonzero(seen)[age <= life_hours]
            for j, name in enumerate(values):
                out[name][i, fresh] = known.values[newest[fresh], j]
            out["age"][i, seen] = np.minimum(age, FEED_AGE_CAP_HOURS)
            if seen[-1]:
                last = slice(newest[-1], newest[-1] + 1)
                past[entity] = Known(known.available[last], known.clock[last], known.values[last])
        return out

    # -- shared series -----------------------------------------------------------------------------------------------

    @property
    def close(self) -> Array:
        """Closing price of the hourly bar."""
        return self.field("close")

    @cached_property
    def log_return(self) -> Array:
        """Natural log return over the bar; NaN where this bar or the one before is missing."""
        return np.log(self.close / self._close_before)

    @cached_property
    def _close_before(self) -> Array:
        return self.shift(self.close, 1)

    @cached_property
    def variance(self) -> Array:
        """Bar variance under the run's proxy, uncapped: what targets are made of."""
        if self.proxy == "squared_returns":
            return self.inside_hours("squared_returns")
        return garman_klass(self.field("open"), self.field("high"), self.field("low"), self.close, self._close_before)

    def inside_hours(self, measure: str) -> Array:
        """A measure summed over the bars of 15 minutes inside each hour; NaN unless all of them exist."""
        if "15m" not in self._tables:
            self._tables["15m"] = {
                name: self._place(series)
                for name, series in sum_inside_hours(_in_time(self.market.bars("15m")), bars_per_hour=4).items()
            }
        values = self._tables["15m"][measure]
        if self.proxy == "squared_returns" and np.isnan(values).all() and self._tape.is_new:
            raise DataInvalid(
                "proxy 'squared_returns' needs bars of 15 minutes, and the store holds none; import them or set "
                'proxy = "garman_klass"'
            )
        return values

    def _place(self, series: pd.Series) -> Array:
        values = np.full((len(self.symbols), len(self)), np.nan)
        rows, columns = self._positions(
            series.index.get_level_values(0), pd.DatetimeIndex(series.index.get_level_values(1))
        )
        inside = rows >= 0
        values[rows[inside], columns[inside]] = series.to_numpy(np.float64)[inside]
        return values

    @cached_property
    def capped_variance(self) -> Array:
        """Bar variance for features: at most 30 times the mean of the 24 hours before it, and at least the floor.

        A crash bar otherwise rules every window that contains it for weeks. Targets are never capped.
        """
        before = self.shift(self.mean(self.variance, (CAP_HOURS,), coverage=0.5)[0], 1)
        return np.maximum(np.fmin(self.variance, CAP_MULTIPLE * before), bar_variance_floor(self.variance))

    @cached_property
    def _season(self) -> tuple[Array, npt.NDArray[np.int64]]:
        """Weekly season curves (n_weeks, n_symbols, 168), and for each column, and the one before, the curve at its close.

        A curve is refreshed on Monday 00:00 UTC from the two years before; the bar that closes then is the last it reads.
        """
        log_variance = np.log(self.capped_variance)
        joined, first = self._tape.extend("season", log_variance, SEASON_HOURS + WEEK + 1)
        newest = self._clock[0] // MICROSECONDS_PER_HOUR - FIRST_MONDAY_HOUR
        hours = np.arange(newest - 1, newest + len(self))
        weeks = hours // WEEK
        mondays = np.arange(weeks[0], weeks[-1] + 1) * WEEK
        oldest = newest - first  # hour of the first joined column
        refresh = np.clip(mondays - oldest + 1, 0, joined.shape[1])
        curves = kernels.season_curves(joined, refresh, int((oldest - 1) % WEEK), SEASON_HOURS, SEASON_SHRINKAGE)
        return curves, weeks - weeks[0]

    @property
    def season_curves(self) -> tuple[Array, npt.NDArray[np.int64]]:
        """Log season curves (n_weeks, n_symbols, 168), and for each column the one that was known at its close."""
        curves, week = self._season
        return curves, week[1:]

    @cached_property
    def log_season(self) -> Array:
        """Log seasonal factor of each hour's bar, by the curve known before that bar opened."""
        curves, week = self._season
        return np.ascontiguousarray(curves[week[:-1], :, self.slots].T)

    def log_season_ahead(self, horizon: int) -> Array:
        """``ln sum_j S(origin + j)`` over the ``horizon`` hours after each origin, by the curve known at the origin."""
        curves, week = self._season
        ahead = np.log(kernels.season_ahead(curves, horizon))
        return np.ascontiguousarray(ahead[week[1:], :, self.slots].T)

    @cached_property
    def deseasonalised(self) -> Array:
        """Capped bar variance over its seasonal factor."""
        return self.capped_variance / np.exp(self.log_season)

    # -- what looks back ---------------------------------------------------------------------------------------------

    def shift(self, x: Array, hours: int) -> Array:
        """``x`` as it stood ``hours`` earlier; NaN before the first column."""
        joined, first = self._tape.extend(f"shift {hours}", x, hours + 1)
        return np.ascontiguousarray(shift(joined, hours)[:, first:])

    def mean(self, x: Array, lengths: tuple[int, ...], coverage: float = 0.8) -> Array:
        """Means over the last ``lengths`` hours, shape (n_lengths, n_symbols, n_hours)."""

        def make() -> Array:
            joined, first = self._tape.extend(f"mean {lengths}", x, max(lengths))
            return kernels.window_mean(joined, np.array(lengths, dtype=np.int64), coverage, self._hour(first), first)

        return self._once(f"mean {lengths} {coverage}", x, make)

    def sd(self, x: Array, length: int, coverage: float = 0.8) -> Array:
        """Standard deviation over the last ``length`` hours."""

        def make() -> Array:
            joined, first = self._tape.extend(f"sd {length}", x, length)
            return kernels.window_sd(joined, length, coverage, self._hour(first), first)

        return self._once(f"sd {length} {coverage}", x, make)

    def pair(self, x: Array, y: Array, length: int, coverage: float = 0.8) -> Array:
        """Means of x and y, their variances and covariance over the last ``length`` hours: (5, n_symbols, n_hours)."""
        a, first = self._tape.extend(f"pair {length}", x, length)
        b, _ = self._tape.extend(f"pair {length}", y, length)
        return kernels.window_pair(a, b, length, coverage, self._hour(first), first)

    def ewma(self, x: Array, half_life: float) -> Array:
        """Exponentially weighted mean with this half-life in hours."""

        def make() -> Array:
            joined, first = self._tape.extend(f"ewma {half_life}", x, kernels.ewma_reach(half_life) + DAY)
            return kernels.ewma(joined, half_life, self._hour(first), first)

        return self._once(f"ewma {half_life}", x, make)

    def age(self, x: Array) -> Array:
        """Hours since ``x`` was last present, at most 720."""
        joined, first = self._tape.extend("age", x, FEED_AGE_CAP_HOURS + 1)
        return kernels.hours_since_finite(joined, FEED_AGE_CAP_HOURS, first)

    def windowed(
        self,
        kernel: Callable[..., Array],
        reach: int,
        inputs: tuple[Array, ...],
        parameters: tuple[float | int, ...] = (),
    ) -> Array:
        """A compiled window kernel ``kernel(*inputs, *parameters, first)`` that reads at most ``reach`` columns a value."""
        joined, first = [], 0
        for x in inputs:
            longer, first = self._tape.extend(f"{kernel.__name__} {reach}", x, reach)
            joined.append(longer)
        return kernel(*joined, *parameters, first)

    def history(self, label: str, x: Array, reach: int) -> tuple[Array, int]:
        """``x`` joined to its own past, of which the ``reach`` columns up to the newest are kept, and that past's length."""
        return self._tape.extend(label, x, reach)

    def across(self, x: Array, statistic: Callable[[Array], Array]) -> Array:
        """A statistic over the symbols alive at each hour, given to every symbol; NaN where none is."""
        return np.repeat(statistic(np.ascontiguousarray(x))[None, :], len(self.symbols), axis=0)

    def _once(self, label: str, x: Array, make: Callable[[], Array]) -> Array:
        """``make()``, computed once where ``x`` is one of the panel's own series, which many families smooth alike."""
        name = next((name for name in SMOOTHED if self.__dict__.get(name) is x), None)
        if name is None:
            return make()
        if (label, name) not in self._made:
            self._made[label, name] = make()
        return self._made[label, name]

    def _hour(self, first: int) -> int:
        """Hour of day of the first joined column, ``first`` hours before the panel's own."""
        return int((self._clock[0] // MICROSECONDS_PER_HOUR - first) % DAY)


def _in_time(bars: pd.DataFrame) -> pd.DataFrame:
    """The bars that were known by the end of their hour; to an origin, a later one stays missing for ever.

    Were it filled in once it is known, the rows of the hours between would be other ones in hindsight.
    """
    closes = pd.DatetimeIndex(bars.index.get_level_values("close_time"))
    in_time = np.asarray(pd.DatetimeIndex(bars["available_at"]) <= closes.ceil("h"))
    return bars if in_time.all() else bars[in_time]


def shift(x: Array, hours: int) -> Array:
    """``x`` as it stood ``hours`` columns earlier; NaN before the first."""
    out = np.full_like(x, np.nan)
    if hours < x.shape[1]:
        out[:, hours:] = x[:, : x.shape[1] - hours]
    return out


def _arrivals(frame: pd.DataFrame, columns: list[str]) -> Known:
    """Rows of a flat table as arrays."""
    clock = next((name for name in CLOCKS if name in frame), "available_at")
    available, happened = (pd.DatetimeIndex(frame[name]).as_unit("us").asi8 for name in ("available_at", clock))
    return Known(available, happened, frame[columns].to_numpy(np.float64))


def _in_order(before: Known | None, arrived: Known, rows: npt.NDArray[np.int64]) -> Known:
    """The row known before and these, as they became known, without those that were overtaken by a newer one."""
    rows = rows[np.argsort(arrived.available[rows], kind="stable")]
    available, clock, values = arrived.available[rows], arrived.clock[rows], arrived.values[rows]
    if before is not None:
        available = np.concatenate([before.available, available])
        clock = np.concatenate([before.clock, clock])
        values = np.concatenate([before.values, values])
    current = clock >= np.maximum.accumulate(clock) if len(clock) else np.empty(0, dtype=np.bool_)
    return Known(available[current], clock[current], values[current])
