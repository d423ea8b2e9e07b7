"""Implied volatility against a loop over hours that shares no code with it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from features.families.implied import Implied
from features.leakage import cut_times
from features.market import Market
from features.panel import Panel
from features.sources import import_data

Array = npt.NDArray[np.float64]
HOUR = pd.Timedelta(hours=1)
LIFE = 3 * HOUR


def features_of(panel: Panel) -> dict[str, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return {c.name: c.values for c in Implied().columns(panel)}


@pytest.fixture(scope="module")
def candles(rough_market: Market) -> pd.DataFrame:
    """The simulated index with a hole of a day a month, a late candle, ether's beside it, and two maturities."""
    rows = rough_market.implied_vol()
    begin = rows["close_time"].min()
    day = (rows["close_time"] - begin) / pd.Timedelta(days=1)
    rows = rows[~(day % 31).between(30, 31)].reset_index(drop=True)
    rows.loc[1000, "available_at"] += pd.Timedelta(minutes=90)
    others = [
        rows.assign(
            underlying=name, **{k: rows[k] * (scale + 0.05 * np.sin(np.arange(len(rows)) / 50)) for k in prices}
        )
        for prices in [("open", "high", "low", "close")]
        for name, scale in (("ETH", 1.3), ("BTC-7D", 1.05), ("BTC-30D", 0.98))
    ]
    return pd.concat([rows, *others], ignore_index=True)


@pytest.fixture(scope="module")
def panel(rough_market: Market, candles: pd.DataFrame) -> Panel:
    return Panel(rough_market.with_tables(implied_vol=candles))


@pytest.fixture(scope="module")
def made(panel: Panel) -> dict[str, Array]:
    return features_of(panel)


class Desk:
    """What was known at an hour, found row by row."""

    def __init__(self, candles: pd.DataFrame, underlying: str) -> None:
        self.rows = candles[candles["underlying"] == underlying].sort_values("close_time")

    def newest(self, t: pd.Timestamp, column: str = "close") -> float:
        known = self.rows[self.rows["available_at"] <= t]
        if known.empty or t - known["available_at"].iloc[-1] > LIFE:
            return math.nan
        return float(known[column].iloc[-1])

    def path(self, t: pd.Timestamp, hours: int) -> Array:
        return np.array([self.newest(t - HOUR * k) for k in range(hours - 1, -1, -1)])


def hours_to_check(panel: Panel) -> list[int]:
    """Hours around the holes and the late candle, and some at random."""
    holes = [30 * 24 + k for k in (0, 1, 3, 4, 5, 20, 24, 25, 26, 50)]
    rng = np.random.default_rng(2)
    return [*holes, 999, 1000, 1001, 1002, 1003, *rng.integers(800, len(panel), 8).tolist()]


def test_levels_changes_and_ranges_by_hand(panel: Panel, candles: pd.DataFrame, made: dict[str, Array]) -> None:
    btc, eth, near, far = (Desk(candles, name) for name in ("BTC", "ETH", "BTC-7D", "BTC-30D"))
    for t in hours_to_check(panel):
        now = panel.times[t]
        path = np.log(btc.path(now, 169))
        changes = np.diff(path)
        widths = np.log([btc.newest(now - HOUR * k, "high") / btc.newest(now - HOUR * k, "low") for k in range(24)])
        enough = np.isfinite(changes).sum() >= 0.8 * 168
        expected = {
            "log_dvol_btc": path[-1],
            "dvol_change_1h": path[-1] - path[-2],
            "dvol_change_24h": path[-1] - path[-25],
            "dvol_change_168h": path[-1] - path[0],
            "dvol_vol_168h": math.log1p(100 * np.nanstd(changes, ddof=1)) if enough else math.nan,
            "dvol_range_1h": widths[0],
            "dvol_range_24h": np.nanmean(widths) if np.isfinite(widths).sum() >= 0.8 * 24 else math.nan,
            "log_dvol_eth": math.log(eth.newest(now)),
            "dvol_eth_change_24h": math.log(eth.newest(now)) - math.log(eth.newest(now - HOUR * 24)),
            "implied_term_slope": math.log(far.newest(now)) - math.log(near.newest(now)),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(made[name][:, t], value, rtol=1e-8, atol=1e-10, err_msg=f"{name} {now}")


def test_deviation_is_from_a_week_of_half_life(panel: Panel, candles: pd.DataFrame, made: dict[str, Array]) -> None:
    btc = Desk(candles, "BTC")
    for t in (1500, 2600):
        # Today, and five half-lives before it.
        reach = 5 * 168 + panel.times[t].hour + 1
        path = np.log(btc.path(panel.times[t], reach))
        weights = 0.5 ** (np.arange(reach)[::-1] / 168)
        present = np.isfinite(path)
        smooth = np.average(path[present], weights=weights[present])
        np.testing.assert_allclose(made["dvol_deviation_168h"][:, t], path[-1] - smooth, rtol=1e-7, atol=1e-10)


def test_premia_by_hand(panel: Panel, candles: pd.DataFrame, made: dict[str, Array]) -> None:
    leaders = {name: panel.symbols.index(f"{name}USDT") for name in ("BTC", "ETH")}
    v = panel.capped_variance
    btc, eth = Desk(candles, "BTC"), Desk(candles, "ETH")

    def spent(i: int, t: int, hours: int) -> float:
        """Log of the variance spent over the window, the missing hours at the mean of those present."""
        window = v[i, t - hours + 1 : t + 1]
        present = window[~np.isnan(window)]
        return math.log(hours * present.mean()) if len(present) >= 0.8 * hours else math.nan

    def priced(desk: Desk, now: pd.Timestamp, hours: int) -> float:
        return math.log((desk.newest(now) / 100) ** 2 * hours / 8760)

    for t in hours_to_check(panel):
        now = panel.times[t]
        for hours in (24, 168):
            premium = priced(btc, now, hours) - spent(leaders["BTC"], t, hours)
            np.testing.assert_allclose(made[f"variance_premium_{hours}h"][:, t], premium, rtol=1e-8)
            own = [priced(btc, now, hours) - spent(i, t, hours) for i in range(len(v))]
            np.testing.assert_allclose(made[f"dvol_to_own_{hours}h"][:, t], own, rtol=1e-8)
        before = priced(btc, now - HOUR * 24, 24) - spent(leaders["BTC"], t - 24, 24)
        after = priced(btc, now, 24) - spent(leaders["BTC"], t, 24)
        np.testing.assert_allclose(made["variance_premium_change_24h"][:, t], after - before, rtol=1e-7, atol=1e-10)
        ether = priced(eth, now, 24) - spent(leaders["ETH"], t, 24)
        np.testing.assert_allclose(made["variance_premium_eth_24h"][:, t], ether, rtol=1e-8)


def test_a_hole_is_nan_and_ages(made: dict[str, Array]) -> None:
    age, level = made["age_implied_vol"][0], made["log_dvol_btc"][0]
    holes = np.flatnonzero(age > 3)
    assert len(holes) > 50
    assert np.isnan(level[holes]).all()
    assert np.isfinite(level[np.flatnonzero(age <= 3)]).all()
    assert age.max() <= 26


def test_prefix_law(panel: Panel, made: dict[str, Array]) -> None:
    for t in cut_times(panel.market, 6, seed=4):
        view = Panel(panel.market.as_of(t))
        rows = [panel.symbols.index(symbol) for symbol in view.symbols]
        for name, values in features_of(view).items():
            assert np.array_equal(values, made[name][rows, : len(view)], equal_nan=True), (name, t)


def test_without_the_feed_all_is_nan_but_the_age(rough_market: Market) -> None:
    bars = rough_market.table("bars")
    made = features_of(Panel(Market.from_tables({"bars": bars})))
    for name, values in made.items():
        if name.startswith("age_"):
            assert (values == 720).all(), name
        else:
            assert np.isnan(values).all(), name


def test_no_column_is_dead(made: dict[str, Array]) -> None:
    assert len(made) >= 15
    for name, values in made.items():
        assert not np.isinf(values).any(), name
        assert np.nanstd(values) > 0, name
        assert (~np.isnan(values[:, 1000:])).mean() > 0.7, name


@pytest.mark.real
def test_the_real_index_in_the_crash_of_2024(real_data: Path, tmp_path: Path) -> None:
    for file in (real_data / "freqtrade" / "futures").glob("[BE]T[CH]_*-1h-futures.feather"):
        (tmp_path / file.name).symlink_to(file)
    import_data("freqtrade", tmp_path, tmp_path / "store")
    columns = {"open_time": "time", **{name: f"dvol_{name}" for name in ("open", "high", "low", "close")}}
    import_data(
        "parquet",
        real_data / "implied_vol" / "BTC-DVOL-1h.parquet",
        tmp_path / "store",
        table="implied_vol",
        columns=columns,
        set_={"underlying": "BTC", "interval": "1h"},
    )
    panel = Panel(Market.open(tmp_path / "store"))
    made = {name: pd.Series(values[0], panel.times) for name, values in features_of(panel).items()}
    assert made["log_dvol_btc"].first_valid_index() == pd.Timestamp("2021-03-24 01:00", tz="UTC")
    # The opening hour of the candle is not the hour at which its close was known.
    assert made["log_dvol_btc"]["2024-08-05 06:00":"2024-08-05 07:00"].max() > math.log(60)
    assert made["dvol_change_24h"]["2024-08-05"].max() > 0.15
    # Implied is dearer than what came of it in most hours, and cheaper in the crash that nobody had priced.
    assert made["variance_premium_24h"].median() > 0.2
    assert made["variance_premium_24h"]["2024-08-05"].min() < -1
    hole = made["age_implied_vol"][made["age_implied_vol"].between(4, 24)]
    assert hole.size > 900
    assert made["log_dvol_btc"][hole.index].isna().all()
    for name, values in made.items():
        assert not np.isinf(values).any(), name
