"""The market on one hourly clock: wide arrays that every feature and target is computed from.

A ``Panel`` holds arrays of shape (n_symbols, n_hours) on a complete hourly grid; a missing bar is NaN. It is made from a
``Market`` (or from a point-in-time view of one) and computes what several features share exactly once. Nothing in it
depends on how far back the grid reaches beyond ``LOOKBACK_HOURS``.
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

__all__ = ["LOOKBACK_HOURS", "Array", "Panel", "Proxy"]

Array: TypeAlias = npt.NDArray[np.float64]
Proxy: TypeAlias = Literal["garman_klass", "squared_returns"]

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
FIRST_MONDAY_HOUR: Final = 4 * 24  # 1970-01-05, in hours since the epoch


class Panel:
    """Wide hourly arrays of one market; see the module.

    Attributes: ``times`` (DatetimeIndex, bar closes), ``symbols``, ``proxy``; arrays are (n_symbols, n_hours).
    Raises ``DataInvalid`` where the market has no hourly bar at all, or none fine enough for ``squared_returns``.
    """

    def __init__(self, market: Market, proxy: Proxy = "garman_klass") -> None:
        self.market = market
        self.proxy: Proxy = proxy
        bars = _in_time(market.bars("1h"))
        if bars.empty:
            raise DataInvalid(
                "the store holds no 1h bars that were known at their close; import some with `forecaster data import`"
            )
        self.symbols: tuple[str, ...] = tuple(market.symbols)
        closes = pd.DatetimeIndex(bars.index.get_level_values("close_time"))
        self.times = pd.date_range(closes.min(), closes.max(), freq="h", unit="us")
        self._tables: dict[str, dict[str, Array]] = {"bars": self._widen(bars)}

    def __len__(self) -> int:
        return len(self.times)

    @property
    def first_hour(self) -> int:
        """Hour of day (0-23) of the first column's close."""
        return int(self.times[0].hour)

    @cached_property
    def slots(self) -> npt.NDArray[np.int64]:
        """Hour of week (0 = Monday 00:00-01:00 UTC) that the bar of each column covers, shape (n_hours,)."""
        opens = self.times - pd.Timedelta(hours=1)
        return np.asarray(opens.day_of_week * 24 + opens.hour, dtype=np.int64)

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

        ``frame``: flat, with ``symbol`` and ``available_at``; ``values`` maps the name of an output to a column. A row
        older than ``life_hours`` is not carried: the outputs are NaN there. ``age`` (hours since that row became known)
        is added, capped at 720, and 720 where there is none.
        """
        out = {name: np.full((len(self.symbols), len(self)), np.nan) for name in values}
        out["age"] = np.full((len(self.symbols), len(self)), float(FEED_AGE_CAP_HOURS))
        clock = self.times.asi8
        for i, symbol in enumerate(self.symbols):
            rows = frame.loc[frame["symbol"] == symbol].sort_values("available_at", kind="stable")
            if rows.empty:
                continue
            known = pd.DatetimeIndex(rows["available_at"]).as_unit("us").asi8
            newest = np.searchsorted(known, clock, side="right") - 1
            seen = newest >= 0
            age = (clock[seen] - known[newest[seen]]) / MICROSECONDS_PER_HOUR
            fresh = np.flatnonzero(seen)[age <= life_hours]
            for name, column in values.items():
                out[name][i, fresh] = rows[column].to_numpy(np.float64)[newest[fresh]]
            out["age"][i, seen] = np.minimum(age, FEED_AGE_CAP_HOURS)
        return out

    # -- shared series -----------------------------------------------------------------------------------------------

    @property
    def close(self) -> Array:
        """Closing price of the hourly bar."""
        return self.field("close")

    @cached_property
    def log_return(self) -> Array:
        """Natural log return over the bar; NaN where this bar or the one before is missing."""
        return np.log(self.close / shift(self.close, 1))

    @cached_property
    def variance(self) -> Array:
        """Bar variance under the run's proxy, uncapped: what targets are made of."""
        if self.proxy == "squared_returns":
            return self.inside_hours("squared_returns")
        return garman_klass(self.field("open"), self.field("high"), self.field("low"), self.close, shift(self.close, 1))

    def inside_hours(self, measure: str) -> Array:
        """A measure summed over the bars of 15 minutes inside each hour; NaN unless all of them exist."""
        if "15m" not in self._tables:
            self._tables["15m"] = {
                name: self._place(series)
                for name, series in sum_inside_hours(_in_time(self.market.bars("15m")), bars_per_hour=4).items()
            }
        values = self._tables["15m"][measure]
        if self.proxy == "squared_returns" and np.isnan(values).all():
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
        before = shift(self.mean(self.variance, (CAP_HOURS,), coverage=0.5)[0], 1)
        return np.maximum(np.fmin(self.variance, CAP_MULTIPLE * before), bar_variance_floor(self.variance))

    @cached_property
    def _season(self) -> tuple[Array, npt.NDArray[np.int64]]:
        """Weekly season curves (n_weeks, n_symbols, 168), and for each column the curve known at its close."""
        hours = self.times.asi8 // MICROSECONDS_PER_HOUR - FIRST_MONDAY_HOUR
        weeks = hours // WEEK
        mondays = np.arange(weeks[0], weeks[-1] + 1) * WEEK
        # A bar that closes on Monday 00:00 is known then, so it is the last one the new curve reads.
        refresh = np.searchsorted(hours, mondays, side="right").astype(np.int64)
        curves = kernels.season_curves(
            np.log(self.capped_variance), refresh, int(self.slots[0]), SEASON_HOURS, SEASON_SHRINKAGE
        )
        return curves, weeks - weeks[0]

    @cached_property
    def log_season(self) -> Array:
        """Log seasonal factor of each hour's bar, by the curve known before that bar opened."""
        curves, week = self._season
        at_open = np.concatenate([week[:1], week[:-1]])
        return np.ascontiguousarray(curves[at_open, :, self.slots].T)

    def log_season_ahead(self, horizon: int) -> Array:
        """``ln sum_j S(origin + j)`` over the ``horizon`` hours after each origin, by the curve known at the origin."""
        curves, week = self._season
        levels = np.exp(curves)
        total = np.zeros((len(self.symbols), len(self)))
        for ahead in range(1, horizon + 1):
            total += levels[week, :, (self.slots + ahead) % WEEK].T
        return np.log(total)

    @cached_property
    def deseasonalised(self) -> Array:
        """Capped bar variance over its seasonal factor."""
        return self.capped_variance / np.exp(self.log_season)

    # -- kernels -----------------------------------------------------------------------------------------------------

    def mean(self, x: Array, lengths: tuple[int, ...], coverage: float = 0.8) -> Array:
        """Means over the last ``lengths`` hours, shape (n_lengths, n_symbols, n_hours)."""
        return kernels.window_mean(np.ascontiguousarray(x), np.array(lengths, dtype=np.int64), coverage)

    def sd(self, x: Array, length: int, coverage: float = 0.8) -> Array:
        """Standard deviation over the last ``length`` hours."""
        return kernels.window_sd(np.ascontiguousarray(x), length, coverage)

    def ewma(self, x: Array, half_life: float) -> Array:
        """Exponentially weighted mean with this half-life in hours."""
        reach = kernels.ewma_reach(half_life)
        return kernels.ewma(np.ascontiguousarray(x), half_life, reach, self.first_hour)

    def age(self, x: Array) -> Array:
        """Hours since ``x`` was last present, at most 720."""
        return kernels.hours_since_finite(np.ascontiguousarray(x), FEED_AGE_CAP_HOURS)

    def across(self, x: Array, statistic: Callable[[Array], Array]) -> Array:
        """A statistic over the symbols alive at each hour, given to every symbol; NaN where none is."""
        return np.repeat(statistic(np.ascontiguousarray(x))[None, :], len(self.symbols), axis=0)


def _in_time(bars: pd.DataFrame) -> pd.DataFrame:
    """The bars that were known by the end of their hour; to an origin, a later one stays missing for ever.

    Were it filled in once it is known, the rows of the hours between would be other ones in hindsight.
    """
    closes = pd.DatetimeIndex(bars.index.get_level_values("close_time"))
    in_time = np.asarray(pd.DatetimeIndex(bars["available_at"]) <= closes.ceil("h"))
    return bars if in_time.all() else bars[in_time]


def shift(x: Array, hours: int) -> Array:
    """``x`` as it stood ``hours`` earlier; NaN before the first column."""
    out = np.full_like(x, np.nan)
    if hours < x.shape[1]:
        out[:, hours:] = x[:, : x.shape[1] - hours]
    return out
