from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
from funding_oracle import F0, HOUR, TICK, Oracle, after, check, columns, signed

from features.families.venues import OTHER_VENUES, Venues
from features.market import Market
from features.panel import Panel


class VenuesOracle(Oracle):
    @cached_property
    def venue_rates(self) -> pd.DataFrame:
        rates = {"binance": self.rate}
        for venue, every in OTHER_VENUES.items():
            rows = self.rows(venue)
            stated = rows["interval_hours"].where(rows["interval_hours"].notna(), every)
            rates[venue] = self.known(rows, rows["funding_rate"] / stated, 24)
        return pd.DataFrame(rates)

    @cached_property
    def disagreement(self) -> pd.Series:
        spread = np.maximum(self.venue_rates.std(axis=1, ddof=0), TICK)
        return np.log1p(spread / F0).where(self.venue_rates.notna().sum(axis=1) >= 2)

    @cached_property
    def leader(self) -> VenuesOracle:
        return VenuesOracle(self.panel, "BTCUSDT")

    def formulas(self, t: pd.Timestamp) -> dict[str, float]:
        made, leader = self.venue_row(t), self.leader.venue_row(t)
        shared = {
            f"{name}_btc": leader[name] for name in ("venue_funding_mean", "venue_funding_sd", "venue_funding_lead")
        }
        alive = self.venue_rates.loc[:t].notna().sum(axis=1) >= 2
        age = (t - alive.index[alive][-1]) / HOUR if alive.any() else 720.0
        return {**made, **shared, "age_venues": min(age, 720.0)}

    def venue_row(self, t: pd.Timestamp) -> dict[str, float]:
        rates = self.venue_rates.loc[t]
        alive = rates.dropna()
        there = len(alive) >= 2
        lead = rates["binance"] - alive.drop("binance", errors="ignore").median()
        return {
            "venue_funding_mean": signed(alive.mean(), F0) if there else np.nan,
            "venue_funding_sd": self.disagreement[t],
            "venue_funding_range": np.log1p(np.ptp(alive) / F0) if there else np.nan,
            "venue_funding_lead": signed(lead, F0) if there else np.nan,
            "venue_funding_sd_excess_168h": self.disagreement[t] - self.mean(self.disagreement, t, 168),
            "venue_count": len(alive) if there else np.nan,
        }


def test_every_column_is_its_formula(panel: Panel) -> None:
    check(Venues, panel, VenuesOracle)


def test_only_the_named_venues_are_read(market: Market, panel: Panel) -> None:
    rows = market.table("funding")
    stranger = rows[rows["exchange"] == "bybit"].assign(exchange="okx", funding_rate=0.05)
    widened = Panel(market.with_tables(funding=pd.concat([rows, stranger], ignore_index=True)))
    mine, theirs = columns(Venues, panel), columns(Venues, widened)
    assert all(np.array_equal(mine[n].values, theirs[n].values, equal_nan=True) for n in mine)
    assert set(rows["exchange"]) == {"binance", *OTHER_VENUES}
    count = mine["venue_count"].values[panel.symbols.index("BTCUSDT")]
    assert set(count[np.isfinite(count)]) == {4.0, 7.0} | set(count[:8])
    assert np.isnan(count[panel.times > after(61) + 4 * HOUR]).all()
