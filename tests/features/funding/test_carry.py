from __future__ import annotations

import numpy as np
import pandas as pd
from funding_oracle import F0, HOUR, TICK, Oracle, after, check, columns, settlements, signed

from features.families.carry import Funding
from features.market import Market
from features.panel import Panel
from features.sources.simulated import simulate


class FundingOracle(Oracle):
    def surprise(self, t: pd.Timestamp) -> tuple[float, float]:
        """AR(1) by a library's least squares on the settlements themselves."""
        rows = self.rows()
        seen = rows["available_at"].dt.ceil("h")
        rows = rows[(seen <= t) & (seen > t - 720 * HOUR) & (seen >= self.times[0])]
        rates = (rows["funding_rate"] / rows["interval_hours"]).to_numpy()
        rates, times = rates[np.isfinite(rates)], rows["available_at"].dt.ceil("h")[np.isfinite(rates)]
        near = (times.diff() <= 24 * HOUR).to_numpy()[1:]
        if len(rates) < 3 or t - times.iloc[-1] > 24 * HOUR or not near[-1] or near[:-1].sum() < 30:
            return np.nan, np.nan
        lag, lead = rates[:-2][near[:-1]], rates[1:-1][near[:-1]]
        design = np.column_stack([np.ones_like(lag), lag])
        fit, *_ = np.linalg.lstsq(design, lead, rcond=None)
        if np.ptp(lag) < TICK:
            fit = np.array([lead.mean(), 0.0])
        sd = np.sqrt(((lead - design @ fit) ** 2).sum() / (len(lag) - 2))
        error = (rates[-1] - fit[0] - fit[1] * rates[-2]) / max(sd, TICK)
        return float(np.clip(error, -8, 8)), float(np.clip(fit[1], -1, 1)) if np.ptp(lag) >= TICK else np.nan

    def formulas(self, t: pd.Timestamp) -> dict[str, float]:
        f, now = self.rate, self.rate[t]
        sd = np.maximum(self.sd(f, t, 168), TICK)
        rank, place = self.place(f, t)
        error, slope = self.surprise(t)
        sides = np.sign(f.loc[t - 1000 * HOUR : t])
        turns = [s for s in sides.index[1:] if sides[s] * sides[s - HOUR] == -1]
        run = min((t - turns[-1]) / HOUR, 720.0) if turns else 720.0
        interval = self.interval[t] if np.isfinite(self.interval[t]) else 8.0
        return {
            "funding_rate_1h": now,
            "abs_funding_rate_1h": abs(now),
            "log_funding_rate": signed(now, F0),
            "funding_rank_720h": rank,
            "funding_range_place_720h": place,
            **{f"funding_sum_{h}h": h * self.mean(f, t, h) for h in (72, 168, 720)},
            "funding_surprise_168h": now - self.ewma(f, t, 168),
            "funding_rate_z_168h": (now - self.mean(f, t, 168)) / sd,
            "log_funding_sd_168h": np.log1p(sd / F0),
            "funding_ar_surprise_720h": error,
            "funding_ar_coefficient_720h": slope,
            **{f"funding_change_{h}h": signed(now - f.get(t - h * HOUR, np.nan), F0) for h in (24, 168)},
            "funding_sign_mean_168h": self.mean(np.sign(f), t, 168),
            "log_funding_sign_age": np.log1p(run) if np.isfinite(now) else np.nan,
            "funding_interval": self.interval[t],
            "hours_to_funding": interval - t.hour % interval,
            "funding_cycle": self.age(self.rows(), t) / self.interval[t],
            "age_funding": self.age(self.rows(), t),
        }


def test_every_column_is_its_formula(panel: Panel) -> None:
    check(Funding, panel, FundingOracle)


def test_the_interval_does_not_change_the_cost_of_an_hour() -> None:
    """The same carry settled every 8, 4 and 1 hours; a hole has no interval, hence no rate."""
    eras = [(0, 10, 8.0), (10, 20, 4.0), (23, 30, 1.0)]
    rows = []
    for first, last, hours in eras:
        times = pd.date_range(after(first), after(last), freq=f"{hours:g}h", inclusive="left", unit="us")
        rows.append(settlements("binance", "BTCUSDT", times, hours, 0).assign(funding_rate=hours * 2e-5))
    rows[2].loc[0, "interval_hours"] = np.nan
    bars = simulate(seed=1, days=30, symbols=1).tables["bars"]
    panel = Panel(Market.from_tables({"bars": bars, "funding": pd.concat(rows)}))
    made = columns(Funding, panel)
    rate = pd.Series(made["funding_rate_1h"].values[0], panel.times)
    hole = (panel.times > after(20) + 20 * HOUR) & (panel.times < after(23) + HOUR)
    assert rate[hole].isna().all()
    np.testing.assert_allclose(rate[~hole], 2e-5, rtol=1e-12)
    assert set(np.unique(made["funding_interval"].values[0, ~hole])) == {8.0, 4.0, 1.0}
    assert np.nanmax(np.abs(made["funding_rate_z_168h"].values)) < 1e-6
