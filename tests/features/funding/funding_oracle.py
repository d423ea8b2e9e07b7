"""The funding group's features worked out from the rows, one symbol and one hour at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
import pandas as pd
import pytest
from scipy.stats import percentileofscore

from features.families import Column, Family
from features.panel import Panel

HOUR = pd.Timedelta(hours=1)
START = pd.Timestamp("2023-01-01", tz="UTC")
F0, BP, TICK = 1.25e-5, 1e-4, 1.25e-9


def after(days: float) -> pd.Timestamp:
    return START + pd.Timedelta(days=days)


def settlements(
    exchange: str, symbol: str, times: pd.DatetimeIndex, interval: float | pd.Series, seed: int
) -> pd.DataFrame:
    """Autocorrelated rates on the exchange's raster; twelve days of the default rate in their midst."""
    noise = np.random.default_rng(seed).normal(size=len(times))
    rate = pd.Series(noise).ewm(alpha=0.3).mean().mul(4e-4).add(1e-4)
    rate[(times >= after(20)) & (times < after(32))] = 1e-4
    return pd.DataFrame(
        {
            "exchange": exchange,
            "symbol": symbol,
            "funding_time": times,
            "funding_rate": rate.round(8).to_numpy(),
            "interval_hours": np.asarray(interval, dtype=np.float64),
            "available_at": times,
        }
    )


def columns(family: type[Family], panel: Panel) -> dict[str, Column]:
    found = list(family().columns(panel))
    named = {column.name: column for column in found}
    assert len(named) == len(found)
    return named


def signed(x: float, unit: float) -> float:
    return float(np.sign(x) * np.log1p(abs(x) / unit))


class Oracle(ABC):
    """One symbol's features at one hour at a time, from the rows of the tables."""

    def __init__(self, panel: Panel, symbol: str) -> None:
        self.panel, self.symbol, self.market = panel, symbol, panel.market
        self.times = panel.times
        row = panel.symbols.index(symbol)
        self.variance = pd.Series(panel.capped_variance[row], self.times)
        bars = self.market.bars().loc[symbol]
        self.close, self.volume = bars["close"].reindex(self.times), bars["volume"].reindex(self.times)
        self.log_return = np.log(self.close / self.close.shift(1))

    @abstractmethod
    def formulas(self, t: pd.Timestamp) -> dict[str, float]:
        """Every column of the family at one hour."""

    def known(self, rows: pd.DataFrame, values: pd.Series, life: int) -> pd.Series:
        """Each row's value at the hours from its arrival to the end of its life, newer rows over older ones."""
        out = pd.Series(np.nan, self.times)
        for available, value in zip(rows["available_at"], values, strict=True):
            out.loc[available : available + life * HOUR] = value
        return out

    def age(self, rows: pd.DataFrame, t: pd.Timestamp) -> float:
        seen = rows.loc[rows["available_at"] <= t, "available_at"]
        return min((t - seen.max()) / HOUR, 720.0) if len(seen) else 720.0

    @staticmethod
    def mean(x: pd.Series, t: pd.Timestamp, length: int) -> float:
        window = x.loc[t - (length - 1) * HOUR : t].dropna()
        return float(window.mean()) if len(window) >= 0.8 * length else np.nan

    @staticmethod
    def sd(x: pd.Series, t: pd.Timestamp, length: int) -> float:
        window = x.loc[t - (length - 1) * HOUR : t].dropna()
        return float(window.std()) if len(window) >= 0.8 * length else np.nan

    @staticmethod
    def ewma(x: pd.Series, t: pd.Timestamp, half_life: float) -> float:
        """Today, and before it the whole days that hold five half-lives."""
        days = int(np.ceil(5 * half_life / 24))
        window = x.loc[t - (24 * days + t.hour) * HOUR : t].dropna()
        weight = 0.5 ** (np.asarray((t - window.index) / HOUR) / half_life)
        full = (1 - 0.5 ** (24 * days / half_life)) / (1 - 0.5 ** (1 / half_life))
        return float((weight * window).sum() / weight.sum()) if weight.sum() >= 0.5 * full else np.nan

    @staticmethod
    def slope(x: pd.Series, t: pd.Timestamp) -> float:
        window = x.loc[t - 23 * HOUR : t].dropna()
        return float(np.polyfit((window.index - t) / HOUR, window, 1)[0]) if len(window) >= 0.8 * 24 else np.nan

    @staticmethod
    def place(x: pd.Series, t: pd.Timestamp) -> tuple[float, float]:
        window = x.loc[t - 719 * HOUR : t].dropna()
        if np.isnan(x[t]) or len(window) < 0.8 * 720:
            return np.nan, np.nan
        rank = percentileofscore(window, x[t], kind="mean") / 100
        return rank, (x[t] - window.min()) / np.ptp(window) if np.ptp(window) else np.nan

    def rows(self, exchange: str = "binance") -> pd.DataFrame:
        funding = self.market.table("funding")
        return funding[(funding["exchange"] == exchange) & (funding["symbol"] == self.symbol)]

    @cached_property
    def interval(self) -> pd.Series:
        return self.known(self.rows(), self.rows()["interval_hours"], 24)

    @cached_property
    def rate(self) -> pd.Series:
        return self.known(self.rows(), self.rows()["funding_rate"] / self.rows()["interval_hours"], 24)


def check(family: type[Family], panel: Panel, worked_out: type[Oracle]) -> None:
    """Compare every column with its formula at the edges of holes, eras and stretches, and at hours drawn at random."""
    made = columns(family, panel)
    edges = [
        after(day).ceil("h")
        for day in (9.8, 10.1, 10.5, 32.2, 40.2, 40.5, 44.3, 44.7, 45.2, 46.5, 48.1, 50.2, 50.5, 52.9, 55.2, 61.3, 74.9)
    ]
    drawn = np.random.default_rng(8).choice(panel.times, 16, replace=False)
    hours = sorted({*edges, *pd.DatetimeIndex(drawn)})
    for i, symbol in enumerate(panel.symbols):
        oracle = worked_out(panel, symbol)
        for t in hours:
            expected = oracle.formulas(t)
            assert set(expected) == set(made)
            for name, value in expected.items():
                found = made[name].values[i, panel.times.get_loc(t)]
                assert found == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True), (name, symbol, t)
