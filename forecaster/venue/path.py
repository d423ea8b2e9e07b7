"""One symbol's market as the venue replays it: hourly mark and last prices, funding, volatility, depth.

``sigma``, ``sigma_usual`` and ``volume`` of a bar come from earlier bars only. A gap in the bars stays a gap.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid, UsageError
from features.market import Market

from .params import VenueParams

__all__ = ["Path"]

OHLC: Final = ["open", "high", "low", "close"]
HOUR: Final = pd.Timedelta(hours=1)
JITTER: Final = pd.Timedelta(minutes=1)
DAY: Final = 24
MICROSECONDS_AN_HOUR: Final = 3_600_000_000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """Arrays over bars, T long; prices USD, volumes USD, sigma the standard deviation of a day's log return.

    Attributes
    ----------
    close_time
        (T,) microseconds since 1970 UTC; the bar covers the hour before it.
    last, mark
        (T, 4) open, high, low, close; fills are made at last, triggers and values read mark.
    mark_modelled
        (T,) where mark is absent and stands for last.
    funding
        (T,) fraction of notional that longs pay at the bar's open.
    depth_scale, liquidators
        (T,) multiplier of the depth; share of the liquidators' capital that is at work.
    quorum
        (T,) whether the mark at the bar's close is a good price; without one nothing is opened, and owners' orders to
        close wait for the first good one.
    """

    symbol: str
    close_time: npt.NDArray[np.int64]
    last: Floats
    mark: Floats
    mark_modelled: npt.NDArray[np.bool_]
    funding: Floats
    sigma: Floats
    sigma_usual: Floats
    volume: Floats
    depth_scale: Floats
    liquidators: Floats
    quorum: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        market: Market,
        symbol: str,
        start: str | pd.Timestamp,
        end: str | pd.Timestamp,
        params: VenueParams | None = None,
    ) -> Path:
        """Bars with ``start < close_time <= end``. Raises DataInvalid if the store holds none of them."""
        constants = (params or VenueParams.default()).path
        first, final = (pd.Timestamp(t).tz_localize("UTC") if pd.Timestamp(t).tz is None else t for t in (start, end))
        bars = market.bars("1h", [symbol]).droplevel("symbol").loc[: pd.Timestamp(final)]
        bars = bars[~bars[OHLC].isna().any(axis=1)]
        kept = bars.index > pd.Timestamp(first)
        if not kept.any():
            raise DataInvalid(f"{symbol} has no hourly bar in ({first}, {final}]; import some or choose other dates")
        mark = market.mark("1h", [symbol]).droplevel("symbol").reindex(bars.index)[OHLC]
        modelled = mark.isna().any(axis=1)
        mark = mark.where(~modelled, bars[OHLC])
        past = _from_past(bars, constants.sigma_half_life_hours, constants.sigma_median_hours)
        volume = _daily_volume(bars, constants.volume_median_hours).fillna(constants.unknown_daily_volume_usd)
        count = int(kept.sum())
        return cls(
            symbol=symbol,
            close_time=pd.DatetimeIndex(bars.index[kept]).as_unit("us").asi8,
            last=bars.loc[kept, OHLC].to_numpy(np.float64),
            mark=mark.loc[kept].to_numpy(np.float64),
            mark_modelled=modelled[kept].to_numpy(),
            funding=_funding(market, symbol, pd.DatetimeIndex(bars.index[kept])),
            sigma=past["sigma"].to_numpy()[kept],
            sigma_usual=past["usual"].to_numpy()[kept],
            volume=volume.to_numpy()[kept],
            depth_scale=np.ones(count),
            liquidators=np.ones(count),
            quorum=np.ones(count, np.bool_),
        )

    def __len__(self) -> int:
        return len(self.close_time)

    def __getitem__(self, part: slice) -> Path:
        """Some bars of the path."""
        arrays = {f.name: getattr(self, f.name)[part] for f in fields(self) if f.name != "symbol"}
        return replace(self, **arrays)

    @property
    def hours(self) -> npt.NDArray[np.int64]:
        """(T,) hours from the first bar's open to each bar's open."""
        hours: npt.NDArray[np.int64] = (self.close_time - self.close_time[0]) // MICROSECONDS_AN_HOUR
        return hours

    @property
    def open_time(self) -> npt.NDArray[np.int64]:
        """(T,) microseconds since 1970 UTC."""
        return self.close_time - MICROSECONDS_AN_HOUR

    def with_gap(self, bar: int, size: float) -> Path:
        """The path with all prices from ``bar`` on multiplied by ``1 + size``: a jump over the bar's open."""
        if not 0 < bar < len(self) or size <= -1:
            raise UsageError(f"gap of {size} at bar {bar}: needs 0 < bar < {len(self)} and a size above -1")
        factor = np.where(np.arange(len(self)) >= bar, 1 + size, 1.0)[:, None]
        return replace(self, last=self.last * factor, mark=self.mark * factor)

    def with_late_mark(self, bars: int) -> Path:
        """The path whose mark repeats what it was ``bars`` bars ago (a late oracle); the first bars are unchanged."""
        if not 0 < bars < len(self):
            raise UsageError(f"a delay of {bars} bars needs 0 < bars < {len(self)}")
        return replace(self, mark=np.concatenate([self.mark[:bars], self.mark[:-bars]]))

    def with_market(
        self,
        depth_scale: npt.ArrayLike | None = None,
        liquidators: npt.ArrayLike | None = None,
        quorum: npt.ArrayLike | None = None,
    ) -> Path:
        """The path with another depth multiplier, share of liquidators at work or quorum, each one value or (T,)."""
        return replace(
            self,
            depth_scale=self.depth_scale if depth_scale is None else np.full(len(self), depth_scale, np.float64),
            liquidators=self.liquidators if liquidators is None else np.full(len(self), liquidators, np.float64),
            quorum=self.quorum if quorum is None else np.full(len(self), quorum, np.bool_),
        )


def _from_past(bars: pd.DataFrame, half_life: int, median: int) -> pd.DataFrame:
    """Daily sigma by EWMA of squared close-to-close returns, and its usual level, both as known at the bar's open."""
    squared = np.log(bars["close"]).diff() ** 2
    first = np.log(bars["high"] / bars["low"]) ** 2 / (4 * np.log(2))  # Parkinson (1980), where no return exists yet
    variance = squared.fillna(first).ewm(halflife=half_life).mean().shift(1)
    sigma = np.sqrt(DAY * variance.fillna(first.iloc[0])).clip(lower=1e-4)
    return pd.DataFrame({"sigma": sigma, "usual": sigma.rolling(median, min_periods=1).median()})


def _daily_volume(bars: pd.DataFrame, median: int) -> pd.Series:
    base = bars["volume"] * bars["close"]
    quote = bars["quote_volume"].fillna(base) if "quote_volume" in bars else base
    day = quote.rolling(DAY, min_periods=1).mean() * DAY
    return day.rolling(median, min_periods=1).median().shift(1).where(lambda volume: volume > 0)


def _funding(market: Market, symbol: str, closes: pd.DatetimeIndex) -> Floats:
    """Settlements fall in the bar whose hour holds them, sources' jitter aside."""
    rows = market.funding()
    rows = rows[(rows["symbol"] == symbol) & rows["funding_rate"].notna()]
    hour = (pd.DatetimeIndex(rows["funding_time"]) + JITTER).floor("h") + HOUR
    rates = pd.Series(rows["funding_rate"].to_numpy(np.float64), index=hour).groupby(level=0).sum()
    return rates.reindex(closes).fillna(0.0).to_numpy(np.float64)
