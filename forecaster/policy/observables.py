"""What the market shows at each hour: volume, depth, funding, past excursions, and margins without a
forecast.

Everything is an array (n_symbols, n_hours) on the hourly panel, and column ``t`` depends on columns up to
``t`` only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.market import Market
from features.panel import Array, Panel, shift

from .oracle import net_gap, persistent_gap
from .params import Params

__all__ = ["DAY", "MarketHistory", "expanding_quantile"]

DAY: Final = 24
MONTH_HOURS: Final = 30 * DAY
YEAR_HOURS: Final = 365 * DAY
USUAL_LEAST_HOURS: Final = 60 * DAY
USUAL_SETTLEMENT_HOURS: Final = 8.0  # where a source does not say how long a funding rate covers
LOST_DAYS: Final = 90  # a feed silent for longer counts as one the symbol does not have
IMPLIED_LIFE_HOURS: Final = 3
RUINED: Final = 1e-9  # least factor of wealth in an hour: a position cannot owe more than it is


@dataclass
class MarketHistory:
    """Causal series of one market, computed once and shared by the policy and by its baselines."""

    market: Market
    params: Params

    @cached_property
    def panel(self) -> Panel:
        """The market on one hourly clock."""
        return Panel(self.market)

    def positions(self, lines: pd.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Row and column (the last hour at or before it) of each (symbol, origin); -1 for none."""
        rows = pd.Index(self.panel.symbols).get_indexer(pd.Index(lines["symbol"]))
        times = self.panel.times.asi8
        origins = pd.DatetimeIndex(lines["origin"]).as_unit("us").asi8
        columns = np.searchsorted(times, origins, side="right") - 1
        return rows.astype(np.int64), columns.astype(np.int64)

    def gather(self, lines: pd.DataFrame) -> pd.DataFrame:
        """The observables of each line (columns ``symbol``, ``origin``), NaN where the market is silent."""
        rows, columns = self.positions(lines)
        known = (rows >= 0) & (columns >= 0)
        out = {}
        for name, series in self._series().items():
            values = np.full(len(lines), np.nan)
            values[known] = series[rows[known], columns[known]]
            out[name] = values
        times = self.panel.times.asi8
        origins = pd.DatetimeIndex(lines["origin"]).as_unit("us").asi8
        out["bar_age_hours"] = out["bar_age_hours"] + (origins - times[np.maximum(columns, 0)]) / 3.6e9
        return pd.DataFrame(out, index=lines.index)

    def _series(self) -> dict[str, Array]:
        panel, funding, oi = self.panel, self._funding(), self._open_interest()
        mark = self._fall_and_rise("mark")
        before = shift(panel.close, 1)
        previous = np.where(np.isnan(before), panel.field("open"), before)  # after a hole the bar speaks for itself
        move = np.maximum(panel.field("high") / previous - 1, 1 - panel.field("low") / previous)
        return {
            "bar_age_hours": panel.age(panel.close),
            "daily_volume_usd": self.daily_volume,
            "hour_share": self._hour_share(),
            "ladder_volume_usd": self._ladder_volume(),
            "funding_q": funding["quantile"],
            "funding_last": funding["size"],
            "funding_interval_hours": funding["interval"],
            "short_funding": funding["short"],
            "open_interest_usd": oi,
            "mark_present": (~np.isnan(panel.field("close", "mark"))).astype(np.float64),
            "sentinel_variance": DAY * panel.ewma(panel.log_return**2, self.params.failsafe.sentinel_half_life_hours),
            "stress_move": self._worst(self.excursion, np.maximum(*mark)),
            "stress_fall": self._worst(self._sides[0], mark[0]),
            "safe_im": self._safe_im(),
            "history_days": self._history_days(),
            "hour_move": move,
            "mark_gap": self._mark_gap(),
            "five_minute_move": self._five_minute_move(),
            "implied_vol": self._implied_vol(),
            "drawdown": self._drawdown(),
            "usual_vol": self._usual_volatility(),
            "feed_lost": self._feed_lost(oi, funding),
        }

    # -- volume -----------------------------------------------------------------------------------

    @cached_property
    def _volume(self) -> Array:
        own = self.panel.field("quote_volume")
        return np.where(np.isnan(own), self.panel.field("volume") * self.panel.close, own)

    @cached_property
    def daily_volume(self) -> Array:
        """Median over 30 days of the volume of 24 hours, USD."""
        days = pd.DataFrame(self._volume.T).rolling(DAY).sum()
        return _wide(days.rolling(MONTH_HOURS, min_periods=1).median())

    def _hour_share(self) -> Array:
        """Volume of the coming hour of day against the mean hour, both over the past 30 days."""
        volume = pd.DataFrame(self._volume.T)
        by_hour = np.full(volume.shape, np.nan)
        for hour in range(min(DAY, len(volume))):
            by_hour[hour::DAY] = volume.iloc[hour::DAY].rolling(30, min_periods=1).mean()
        mean = volume.rolling(MONTH_HOURS, min_periods=DAY).mean().to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(shift(by_hour.T, DAY - 1) / mean.T)

    def _ladder_volume(self) -> Array:
        """The daily volume as first known in the calendar month: the tiers' caps are frozen with it."""
        volume = pd.DataFrame(self.daily_volume.T)
        times = self.panel.times
        first = volume.groupby(np.asarray(times.year * 12 + times.month)).transform("first")
        return _wide(first.where(volume.notna()))

    # -- feeds ------------------------------------------------------------------------------------

    def _funding(self) -> dict[str, Array]:
        margin = self.params.margin
        frame = self.market.funding().sort_values(["symbol", "funding_time"])
        interval = frame.groupby("symbol")["interval_hours"].ffill().fillna(USUAL_SETTLEMENT_HOURS)
        size = frame["funding_rate"].abs()
        # By the hour, or rates settled under another interval would be read as if they fell due as often as now.
        hourly = size / interval
        window = f"{margin.funding_days}D"
        quantiles = [
            pd.Series(hourly[rows.index].to_numpy(), index=pd.DatetimeIndex(rows["funding_time"]))
            .rolling(window)
            .quantile(margin.funding_quantile)
            .to_numpy()
            for _, rows in frame.groupby("symbol", sort=True)
        ]
        quantile = np.concatenate([*quantiles, np.empty(0)]) * interval
        # What a short pays over a day if the last rate stays: it receives a positive one.
        short = -frame["funding_rate"] * DAY / interval
        frame = frame.assign(size=size, quantile=quantile, short=short, interval=interval)
        columns = {name: name for name in ("quantile", "size", "interval", "short")}
        return self.panel.as_of(frame, columns, life_hours=DAY * margin.funding_days)

    def _feed_lost(self, oi: Array, funding: dict[str, Array]) -> Array:
        """1 where open interest or funding, known within the past 90 days, is silent for a day."""
        had = pd.DataFrame(~np.isnan(oi.T)).rolling(LOST_DAYS * DAY, min_periods=1).max()
        silent = (_wide(had) > 0) & np.isnan(oi)
        unsettled = ~np.isnan(funding["size"]) & (funding["age"] > DAY)
        return (silent | unsettled).astype(np.float64)

    def _implied_vol(self) -> Array:
        """The index of each symbol's own underlying, annualised fraction; NaN where there is none."""
        bases = [re.sub(r"(USDT|USDC|USD)$", "", symbol) for symbol in self.panel.symbols]
        own = pd.DataFrame({"symbol": self.panel.symbols, "underlying": bases})
        rows = self.market.implied_vol().merge(own, on="underlying")
        return self.panel.as_of(rows, {"index": "close"}, life_hours=IMPLIED_LIFE_HOURS)["index"] / 100

    def _open_interest(self) -> Array:
        columns = {"value": "open_interest_value", "base": "open_interest"}
        feed = self.panel.as_of(self.market.open_interest(), columns, life_hours=DAY)
        return np.where(np.isnan(feed["value"]), feed["base"] * self.panel.close, feed["value"])

    def _history_days(self) -> Array:
        first = self.market.first_bar.reindex(list(self.panel.symbols))
        start = pd.DatetimeIndex(first).as_unit("us").asi8
        return np.asarray((self.panel.times.asi8[None, :] - start[:, None]) / (DAY * 3.6e9))

    # -- prices -----------------------------------------------------------------------------------

    def _five_minute_move(self) -> Array:
        """Largest absolute log return of the hour's 5-minute bars; NaN where the store holds none."""
        bars = self.market.bars("5m").reset_index()
        before = bars.groupby("symbol")[["close", "close_time"]].shift(1)
        adjoining = bars["close_time"] - before["close_time"] == pd.Timedelta(minutes=5)
        moves = bars.assign(move=np.abs(np.log(bars["close"] / before["close"])), hour=bars["close_time"].dt.ceil("h"))
        moves = moves[adjoining & (moves["available_at"] <= moves["hour"])]
        largest = moves.groupby(["symbol", "hour"])["move"].max().unstack("hour")
        grid = largest.reindex(index=list(self.panel.symbols), columns=self.panel.times)
        return np.ascontiguousarray(grid.to_numpy(np.float64))

    def _mark_gap(self) -> Array:
        """Gap that the last price kept from the mark, a median over outside venues, beyond that of mark to spot."""
        mark, spot = self.panel.field("close", "mark"), self.panel.field("close", "spot")
        doubt = np.nan_to_num(np.abs(mark - spot))
        return persistent_gap(net_gap(self.panel.close, mark, doubt), self.params)

    def _drawdown(self) -> Array:
        """Fall from its peak of one unit held long, by price (mark where known) and funding; a fraction."""
        mark = self.panel.field("close", "mark")
        price = _wide(pd.DataFrame(np.where(np.isnan(mark), self.panel.close, mark).T).ffill())
        earned = price / shift(price, 1) - 1 - self._settled()
        wealth = np.cumprod(np.maximum(1 + np.nan_to_num(earned), RUINED), axis=1)
        window = DAY * self.params.exposure.peak_days or len(self.panel)
        peak = _wide(pd.DataFrame(wealth.T).rolling(window, min_periods=1).max())
        return np.where(np.isnan(price), np.nan, 1 - wealth / peak)

    def _usual_volatility(self) -> Array:
        """Median of the annual volatility that the symbol showed over the past year; NaN in its first two months."""
        limits = self.params.exposure
        shown = np.sqrt(YEAR_HOURS * self.panel.ewma(self.panel.log_return**2, limits.usual_half_life_hours))
        window = pd.DataFrame(shown.T).rolling(DAY * limits.usual_days, min_periods=USUAL_LEAST_HOURS)
        return _wide(window.median())

    def _settled(self) -> Array:
        """Funding that a long position paid, a fraction, at the first hour by which it was known; else 0."""
        rows, out = self.market.funding(), np.zeros((len(self.panel.symbols), len(self.panel)))
        symbol = pd.Index(self.panel.symbols).get_indexer(pd.Index(rows["symbol"]))
        known = pd.DatetimeIndex(rows["available_at"]).as_unit("us").asi8
        hour = np.searchsorted(self.panel.times.asi8, known, side="left")
        inside = (symbol >= 0) & (hour < len(self.panel)) & (known > self.panel.times.asi8[0])
        np.add.at(out, (symbol[inside], hour[inside]), rows["funding_rate"].to_numpy(np.float64)[inside])
        return np.nan_to_num(out)

    # -- excursions -------------------------------------------------------------------------------

    @cached_property
    def excursion(self) -> Array:
        """max(mae_long, mae_short) of the 24 hours that end here; NaN unless all their bars exist."""
        return np.maximum(*self._sides)

    @cached_property
    def _sides(self) -> tuple[Array, Array]:
        return self._fall_and_rise("bars")

    def _fall_and_rise(self, table: Literal["bars", "mark"]) -> tuple[Array, Array]:
        """mae_long and mae_short of the 24 hours that end here."""
        low, high, close = (self.panel.field(name, table) for name in ("low", "high", "close"))
        start = shift(close, DAY)
        lowest = _wide(pd.DataFrame(low.T).rolling(DAY).min())
        highest = _wide(pd.DataFrame(high.T).rolling(DAY).max())
        return np.maximum(0.0, 1 - lowest / start), np.maximum(0.0, highest / start - 1)

    def _worst(self, last: Array, mark: Array) -> Array:
        """Worst 24 hours so far on mark, else of the median symbol on last prices; known after their vintage.

        One bad last price would otherwise rule the stress leg for good.
        """
        median = self.panel.across(last, lambda x: pd.DataFrame(x).median().to_numpy())
        worst = np.fmax.accumulate(np.where(np.isnan(mark), median, mark), axis=1)
        return shift(worst, self.params.margin.stress_vintage_hours)

    # -- margins without a forecast ---------------------------------------------------------------

    @cached_property
    def static_im(self) -> Array:
        """Expanding 99.5 % quantile of the symbol's resolved excursions; NaN before it has any."""
        return expanding_quantile(self.excursion, self.params.baselines.quantile, 1)

    def scaled_im(self, half_life_hours: int) -> Array:
        """EWMA volatility times the expanding 99.5 % quantile of past excursions in units of it.

        With a half-life of 48 h this is the filtered historical simulation (Barone-Adesi et al. 1999) of the
        excursion.
        """
        return self.scaled(np.sqrt(self.panel.ewma(self.panel.log_return**2, half_life_hours)))

    def scaled(self, sigma: Array) -> Array:
        """Any volatility times the expanding 99.5 % quantile of past excursions in units of it."""
        constants = self.params.baselines
        with np.errstate(divide="ignore", invalid="ignore"):
            standardised = self.excursion / shift(sigma, DAY)
        standardised[~np.isfinite(standardised)] = np.nan
        return sigma * expanding_quantile(standardised, constants.quantile, constants.min_observations)

    def _safe_im(self) -> Array:
        """The static safe margin: the symbol's own, or that of all symbols pooled while it is young."""
        own = self.static_im
        young = (self._history_days() < self.params.failsafe.own_history_days) | np.isnan(own)
        stacked = pd.Series(self.excursion.T.ravel()).dropna()
        pooled = stacked.expanding().quantile(self.params.baselines.quantile)
        hours = pooled.groupby(pooled.index.to_numpy() // len(self.panel.symbols)).last()
        everyone = hours.reindex(range(len(self.panel))).ffill().to_numpy()
        return np.where(young, everyone[None, :], own)


def expanding_quantile(x: Array, level: float, minimum: int) -> Array:
    """Quantile of each row's values up to every column, NaN before ``minimum`` of them are known."""
    return _wide(pd.DataFrame(x.T).expanding(min_periods=minimum).quantile(level))


def _wide(frame: pd.DataFrame) -> Array:
    return np.ascontiguousarray(frame.to_numpy(np.float64).T)
