from __future__ import annotations

import numpy as np
import pandas as pd
from funding_oracle import BP, HOUR, Oracle, check, signed

from features.families.basis import Basis
from features.panel import Panel


class BasisOracle(Oracle):
    def formulas(self, t: pd.Timestamp) -> dict[str, float]:
        price = {"close": self.close}
        for table, frame in (("mark", self.market.mark()), ("spot", self.market.spot())):
            there = self.symbol in frame.index.get_level_values("symbol")
            price[table] = (frame.loc[self.symbol, "close"] if there else pd.Series(dtype=float)).reindex(self.times)
        b, s = np.log(price["close"] / price["mark"]), np.log(price["close"] / price["spot"])
        p = np.log(price["mark"] / price["spot"])
        rank, place = self.place(s, t)
        ages = {}
        for table in ("mark", "spot"):
            seen = price[table].loc[:t].dropna().index
            ages[f"age_{table}"] = min((t - seen[-1]) / HOUR, 720.0) if len(seen) else 720.0
        return {
            "basis_mark": signed(b[t], BP),
            "basis_mark_mean_24h": signed(self.mean(b, t, 24), BP),
            "log_basis_mark_sd_24h": np.log1p(self.sd(b, t, 24) / BP),
            "basis_spot": signed(s[t], BP),
            "basis_spot_mean_24h": signed(self.mean(s, t, 24), BP),
            "basis_spot_slope_24h": signed(24 * self.slope(s, t), BP),
            "log_basis_spot_sd_24h": np.log1p(self.sd(s, t, 24) / BP),
            "basis_spot_z_168h": np.clip((s[t] - self.mean(s, t, 168)) / self.sd(s, t, 168), -8, 8),
            "basis_spot_rank_720h": rank,
            "basis_spot_range_place_720h": place,
            "premium": signed(p[t], BP),
            "premium_mean_24h": signed(self.mean(p, t, 24), BP),
            "premium_slope_24h": signed(24 * self.slope(p, t), BP),
            "premium_less_funding_8h": signed(self.mean(s, t, 8) - 8 * self.rate[t], BP),
            **ages,
        }


def test_every_column_is_its_formula(panel: Panel) -> None:
    check(Basis, panel, BasisOracle)
