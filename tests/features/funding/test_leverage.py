from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
from funding_oracle import F0, HOUR, Oracle, check, columns

from features.families.leverage import OpenInterest
from features.market import Market
from features.panel import Panel


class OpenInterestOracle(Oracle):
    @cached_property
    def interest(self) -> pd.DataFrame:
        oi = self.market.table("open_interest")
        oi = oi[(oi["symbol"] == self.symbol) & (oi["open_interest"] != 0)]
        level = np.log(self.known(oi, oi["open_interest"], 4))
        age = pd.Series([self.age(oi, t) for t in self.times], self.times)
        hourly = level.diff().where((age < 1) & (age.shift(1) < 1))
        v = pd.Series([self.ewma(self.variance, t, 24) for t in self.times], self.times)
        forced = (-hourly).clip(0, 0.5) * (self.log_return.abs() / np.sqrt(v)).clip(upper=10)
        longs, shorts = (self.log_return < 0).astype(float), (self.log_return > 0).astype(float)
        sides = {"long": forced * longs, "short": forced * shorts}
        return pd.DataFrame({"level": level, "hourly": hourly, "v": v, "age": age, **sides})

    def formulas(self, t: pd.Timestamp) -> dict[str, float]:
        x = self.interest
        now, v = x["level"][t], x["v"][t]
        change = {h: np.clip(now - x["level"].get(t - h * HOUR, np.nan), -2, 2) for h in (4, 24, 168)}
        made = {"oi_change_1h": x["hourly"][t], **{f"oi_change_{h}h": c for h, c in change.items()}}
        made["log_oi_turnover_24h"] = now - np.log(self.ewma(self.volume, t, 24))
        made["oi_z_720h"] = (now - self.mean(x["level"], t, 720)) / self.sd(x["level"], t, 720)
        day = {side: 24 * self.mean(x[side], t, 24) for side in ("long", "short")}
        for side, total in day.items():
            made[f"log_{side}_liquidations_1h"] = np.log1p(100 * x[side][t])
            made[f"log_{side}_liquidations_24h"] = np.log1p(100 * total)
            made[f"log_{side}_liquidations_ew_48h"] = np.log1p(2400 * self.ewma(x[side], t, 48))
        made["liquidation_tilt_24h"] = (day["long"] - day["short"]) / (day["long"] + day["short"])
        size = np.log1p(self.rate.abs() / F0)
        dearer = size[t] - size.get(t - 168 * HOUR, np.nan)
        grown = change[168] * (change[168] > 0)
        made["build_up_funding_168h"] = grown * dearer * (dearer > 0)
        calm = np.log(self.ewma(self.variance, t, 720) / v)
        made["build_up_calm_168h"] = grown * calm * (calm > 0)
        trend = np.log(self.close[t] / self.close.get(t - 24 * HOUR, np.nan)) / np.sqrt(24 * v)
        made["build_up_trend_24h"] = change[24] * np.clip(trend, -10, 10)
        return {**made, "age_open_interest": x["age"][t]}


def test_every_column_is_its_formula(panel: Panel) -> None:
    check(OpenInterest, panel, OpenInterestOracle)


def test_forced_closing_is_told_by_the_side_it_hits(market: Market) -> None:
    """Open interest falls by a fifth in two hours: one in which the price falls, one in which it rises."""
    oi = market.table("open_interest")
    panel = Panel(market)
    btc = panel.symbols.index("BTCUSDT")
    week = slice(30 * 24, 37 * 24)
    falls, rises = (week.start + int(pick(panel.log_return[btc, week])) for pick in (np.argmin, np.argmax))
    level = np.full(len(panel), 1e5)
    for hour in (falls, rises):
        level[hour:] *= 0.8
    forced = oi[oi["symbol"] == "BTCUSDT"].iloc[:1].drop(columns=["event_time", "available_at", "open_interest"])
    rows = pd.DataFrame({"event_time": panel.times, "available_at": panel.times, "open_interest": level})
    made = columns(OpenInterest, Panel(market.with_tables(open_interest=rows.merge(forced, how="cross"))))
    long, short = (made[f"log_{side}_liquidations_1h"].values[btc] for side in ("long", "short"))
    assert np.flatnonzero(long > 0).tolist() == [falls]
    assert np.flatnonzero(short > 0).tolist() == [rises]
    assert np.nanmin(made["liquidation_tilt_24h"].values[btc]) < 0 < np.nanmax(made["liquidation_tilt_24h"].values[btc])
