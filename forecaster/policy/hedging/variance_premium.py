"""The variance risk premium: what sellers of volatility are paid over what happens, and whether it funds protection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.market import Market
from features.panel import Panel

from .greeks import CALL, PUT, YEAR_HOURS, greeks

__all__ = ["funded_protection", "premium_ledger", "stale_quotes"]

Floats = npt.NDArray[np.float64]

DAY: Final = 24


def premium_ledger(
    market: Market,
    forecasts: pd.DataFrame,
    *,
    symbol: str,
    underlying: str,
    notional: float,
    panel: Panel | None = None,
) -> pd.DataFrame:
    """One row an hour: what a seller of variance accrues, beside the premium that the forecast sees.

    Columns ``iv`` (annual, as known at the hour's start), ``realised`` (the bar's variance), ``premium``
    (iv^2 - sigma_hat^2, sigma_hat from the 24 h forecast made at the hour's start) and ``accrual``
    (notional * (iv^2 / 8760 - realised)), indexed by the hour's close. An hour without its own index value is null,
    never filled: neither are its premium and accrual. ``forecasts`` holds ``symbol, origin, horizon_hours,
    vol_annualised`` of one model.
    """
    panel = panel or Panel(market)
    realised = pd.Series(panel.variance[panel.symbols.index(symbol)], index=panel.times)
    rows = market.implied_vol()
    rows = rows[rows["underlying"] == underlying]
    known = rows["available_at"] <= rows["close_time"]
    iv = pd.Series(np.where(known, rows["close"], np.nan) / 100, index=pd.DatetimeIndex(rows["close_time"]))
    picked = forecasts[(forecasts["symbol"] == symbol) & (forecasts["horizon_hours"] == DAY)]
    sigma = pd.Series(picked["vol_annualised"].to_numpy(), index=pd.DatetimeIndex(picked["origin"]))
    hour = pd.Timedelta(hours=1)
    start = panel.times - hour
    out = pd.DataFrame({"iv": iv.reindex(start).to_numpy(), "realised": realised.to_numpy()}, index=panel.times)
    out["premium"] = out["iv"] ** 2 - sigma.reindex(start).to_numpy() ** 2
    out["accrual"] = notional * (out["iv"] ** 2 / YEAR_HOURS - out["realised"])
    return out


def funded_protection(ledger: pd.DataFrame, purchases: pd.DataFrame, every: str) -> pd.DataFrame:
    """The accrual beside the protection bought, by period (``every`` is a pandas offset): does one fund the other?

    An hour belongs to the period in which it begins. A period of purchases that the ledger does not cover is a row
    whose accrual and balance are null.
    ``purchases``: columns ``cost, payoff, avoided`` (one notional), indexed by the instant of purchase. Columns:
    ``hours`` and ``null_hours`` of the ledger, ``accrual``, ``cost``, ``payoff``, ``avoided`` (mean expected
    shortfall avoided a purchase), ``purchases``, ``balance`` = accrual - cost + payoff.
    """
    accrual = ledger["accrual"].set_axis(pd.DatetimeIndex(ledger.index) - pd.Timedelta(hours=1))
    known = accrual.notna().astype(float)
    hours = pd.DataFrame({"hours": known, "null_hours": 1 - known, "accrual": accrual})
    # Grouped as one, for periods such as 7D begin at the first row.
    rows = pd.concat([hours, purchases[["cost", "payoff", "avoided"]].assign(purchases=1)]).sort_index()
    by = rows.groupby(pd.Grouper(freq=every))
    table = by[["hours", "null_hours", "purchases"]].sum().astype(int)
    table["accrual"] = by["accrual"].sum(min_count=1)
    table[["cost", "payoff"]] = by[["cost", "payoff"]].sum()
    table["avoided"] = by["avoided"].mean()
    table["balance"] = table["accrual"] - table["cost"] + table["payoff"]
    return table


def stale_quotes(iv: Floats, tenor_hours: float, lags: Iterable[int], spread: float) -> pd.DataFrame:
    """What an arbitrageur takes from straddles quoted at the volatility of ``lag`` hours ago, one row a lag.

    ``iv`` (T,) hourly, annual, NaN where unknown. Quotes are BSM at the money +- ``spread`` (a fraction of spot,
    one way); the arbitrageur sees the present volatility, trades where the mispricing exceeds the spread and gains
    the excess. Columns: lag_hours, hours (with both values), traded_share, gain_per_hour and worst (fractions of
    spot), and safe_spread, the half-spread at which 99 % of the hours leave nothing to take.
    """
    rows = []
    for lag in lags:
        now, then = iv[lag:], iv[: max(len(iv) - lag, 0)]
        both = ~np.isnan(now) & ~np.isnan(then)
        gap = np.abs(_straddle(now[both], tenor_hours) - _straddle(then[both], tenor_hours))
        taken = np.maximum(gap - spread, 0.0)
        empty = not both.any()
        rows.append(
            {
                "lag_hours": lag,
                "hours": int(both.sum()),
                "traded_share": float("nan") if empty else float((taken > 0).mean()),
                "gain_per_hour": float("nan") if empty else float(taken.mean()),
                "worst": float("nan") if empty else float(taken.max()),
                "safe_spread": float("nan") if empty else float(np.quantile(gap, 0.99)),
            }
        )
    return pd.DataFrame(rows)


def _straddle(sigma: Floats, hours: float) -> Floats:
    return np.asarray(sum(greeks(kind, 1.0, 1.0, hours, sigma).price for kind in (CALL, PUT)))
