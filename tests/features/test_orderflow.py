from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from features.families import Family
from features.families.orderflow import Flow, Volume
from features.market import Market
from features.panel import Panel
from features.sources import import_data

Array = npt.NDArray[np.float64]
FIELDS = ("close", "volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
FAMILIES: tuple[type[Family], ...] = (Volume, Flow)


def computed(panel: Panel) -> dict[str, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return {c.name: c.values for family in FAMILIES for c in family().columns(panel)}


class Hours:
    """One symbol's hours in plain numpy: the formulas once more, one hour at a time."""

    def __init__(self, bars: pd.DataFrame, capped: Array, times: pd.DatetimeIndex) -> None:
        wide = bars.reindex(times)
        self.times = times
        self.close, self.volume, self.quote, self.trades, self.buy, self.buy_quote = (
            wide[name].to_numpy(np.float64) for name in FIELDS
        )
        self.capped = capped
        self.r = np.log(self.close / np.concatenate([[np.nan], self.close[:-1]]))
        self.imbalance = (2 * self.buy - self.volume) / self.volume
        self.sd = np.array([self.std(self.r, t - 1, 168) for t in range(len(times))])
        self.z = np.clip(self.r / self.sd, -4, 4)
        self.slopes = {length: np.array([self.slope(t, length) for t in range(len(times))]) for length in (24, 168)}

    def mean(self, x: Array, t: int, length: int) -> float:
        past = x[max(t - length + 1, 0) : t + 1]
        past = past[~np.isnan(past)]
        return float(past.mean()) if len(past) >= 0.8 * length else math.nan

    def std(self, x: Array, t: int, length: int) -> float:
        past = x[max(t - length + 1, 0) : max(t + 1, 0)]
        past = past[~np.isnan(past)]
        return float(past.std(ddof=1)) if len(past) >= 0.8 * length and len(past) > 1 else math.nan

    def ewma(self, x: Array, t: int, half_life: int) -> float:
        reach = max(math.ceil(5 * half_life / 24), 1) * 24  # and the hours of today
        past = x[max(t - self.times[t].hour - reach, 0) : t + 1][::-1]
        weights = 0.5 ** (np.arange(len(past)) / half_life)
        there = ~np.isnan(past)
        enough = weights[there].sum() >= 0.5 * (0.5 ** (np.arange(reach) / half_life)).sum()
        return float((weights[there] * past[there]).sum() / weights[there].sum()) if enough else math.nan

    def pairs(self, x: Array, y: Array, t: int, length: int) -> tuple[Array, Array]:
        window = slice(max(t - length + 1, 0), t + 1)
        there = ~np.isnan(x[window] * y[window])
        keep = there if there.sum() >= 0.8 * length else np.zeros(len(there), dtype=bool)
        return x[window][keep], y[window][keep]

    def corr(self, x: Array, y: Array, t: int, length: int) -> float:
        a, b = self.pairs(x, y, t, length)
        return float(np.corrcoef(a, b)[0, 1]) if len(a) else math.nan

    def before(self, x: Array) -> Array:
        return np.concatenate([[np.nan], x[:-1]])

    # -- the features ------------------------------------------------------------------------------------------------

    def volume_excess(self, t: int, half_life: int) -> float:
        return math.log(self.ewma(self.volume, t, half_life) / self.ewma(self.volume, t, 720))

    def surprise(self, x: Array, t: int) -> float:
        past = np.array([x[t - 24 * k] for k in range(1, 15) if t >= 24 * k])
        past = past[~np.isnan(past)]
        return float(math.log(x[t]) - np.log(past).mean()) if len(past) >= 7 else math.nan

    def amihud(self, t: int, length: int) -> float:
        x = np.abs(self.r) / self.quote
        return math.log(self.mean(x, t, length) / self.mean(x, t, 720))

    def divergence(self, t: int) -> float:
        volume = math.log(self.mean(self.volume, t, 24) / self.mean(self.volume, t, 720))
        return volume - math.log(math.sqrt(self.mean(self.capped, t, 24) / self.mean(self.capped, t, 720)))

    def flow_imbalance(self, t: int, length: int) -> float:
        return self.mean(2 * self.buy - self.volume, t, length) / self.mean(self.volume, t, length)

    def toxicity(self, t: int, length: int) -> float:
        return self.mean(np.abs(2 * self.buy - self.volume), t, length) / self.mean(self.volume, t, length)

    def toxicity_z(self, t: int) -> float:
        past = np.array([self.toxicity(s, 24) if s >= 0 else math.nan for s in range(t - 719, t + 1)])
        return (past[-1] - self.mean(past, 719, 720)) / self.std(past, 719, 720)

    def run(self, t: int) -> float:
        length = 1
        while length < 48 and self.imbalance[t - length] * self.imbalance[t] > 0:
            length += 1
        return math.copysign(math.log(1 + length), self.imbalance[t])

    def slope(self, t: int, length: int) -> float:
        signed = 2 * self.buy_quote - self.quote
        x, y = self.pairs(np.copysign(np.sqrt(np.abs(signed)), signed), self.z * self.sd, t, length)
        return float(np.cov(x, y)[0, 1] / np.var(x, ddof=1)) if len(x) else math.nan

    def impact(self, t: int, length: int) -> float:
        slope, level = self.slopes[length][t], self.mean(self.slopes[length], t, 720)
        return math.log(min(max(slope / level, 0.1), 10)) if level > 0 and not math.isnan(slope) else math.nan

    def price_gap(self, t: int) -> float:
        paid = self.buy_quote / self.buy
        got = (self.quote - self.buy_quote) / (self.volume - self.buy)
        return self.mean(np.clip(np.log(paid / got) / self.sd, -5, 5), t, 24)

    def disagreement(self, t: int) -> float:
        x = np.where(np.isnan(self.r * self.sd * self.imbalance), np.nan, np.sign(self.r) == -np.sign(self.imbalance))
        return self.mean(x, t, 24)

    def residual(self, t: int, of: str) -> float:
        q, z = self.pairs(self.imbalance, self.z, t, 168)
        x, y = (q, z) if of == "return" else (z, q)
        if not len(x) or np.isnan(self.imbalance[t] * self.z[t]):
            return math.nan
        rest = np.polyval(np.polyfit(x, y, 1), x) - y
        return float(-rest[-1] / rest.std())

    def excess(self, x: Array, t: int) -> float:
        return math.log(self.ewma(x, t, 6) / self.ewma(x, t, 720))

    def dispersion(self, t: int, length: int) -> float:
        ratio = self.std(self.trades, t, length) ** 2 / self.mean(self.trades, t, length)
        return min(max(math.log(ratio), 0.0), 15.0)


ORACLE: dict[str, Callable[[Hours, int], float]] = {
    **{f"log_volume_excess_{h}h": partial(Hours.volume_excess, half_life=h) for h in (1, 6, 24)},
    "log_volume_surprise_1h": lambda s, t: s.surprise(s.volume, t),
    **{f"log_amihud_excess_{h}h": partial(Hours.amihud, length=h) for h in (24, 168)},
    "volume_volatility_divergence_24h": Hours.divergence,
    **{f"flow_imbalance_{h}h": partial(Hours.flow_imbalance, length=h) for h in (1, 4, 12, 24, 72)},
    **{
        f"abs_flow_imbalance_{h}h": lambda s, t, h=h: abs(s.flow_imbalance(t, h))  # type: ignore[misc]
        for h in (1, 4, 12, 24, 72)
    },
    **{f"flow_toxicity_{h}h": partial(Hours.toxicity, length=h) for h in (24, 72, 168)},
    "flow_toxicity_z_24h": Hours.toxicity_z,
    **{
        f"flow_autocorrelation_{h}h": lambda s, t, h=h: s.corr(s.imbalance, s.before(s.imbalance), t, h)  # type: ignore[misc]
        for h in (72, 168)
    },
    "flow_run": Hours.run,
    **{f"log_flow_impact_{h}h": partial(Hours.impact, length=h) for h in (24, 168)},
    "taker_price_gap_24h": Hours.price_gap,
    "flow_disagreement_24h": Hours.disagreement,
    "flow_return_correlation_168h": lambda s, t: s.corr(s.imbalance, s.z, t, 168),
    "return_beyond_flow_1h": partial(Hours.residual, of="return"),
    "abs_return_beyond_flow_1h": lambda s, t: abs(s.residual(t, "return")),
    "flow_beyond_return_1h": partial(Hours.residual, of="flow"),
    "log_trades_excess_6h": lambda s, t: s.excess(s.trades, t),
    "log_trade_size_excess_6h": lambda s, t: s.excess(s.volume / s.trades, t),
    "log_trades_surprise_1h": lambda s, t: s.surprise(s.trades, t),
    **{f"log_trades_dispersion_{h}h": partial(Hours.dispersion, length=h) for h in (24, 168)},
}


def assert_oracle(market: Market, count: int) -> None:
    panel = Panel(market)
    found = computed(panel)
    assert set(found) == {*ORACLE, "age_taker_flow"}
    alive = np.argwhere(~np.isnan(panel.close))
    late = alive[alive[:, 1] > 800]
    rng = np.random.default_rng(3)
    places = np.concatenate([rng.permutation(alive)[: count // 4], rng.permutation(late)[:count]])
    bars = market.bars()
    for i in np.unique(places[:, 0]):
        hours = Hours(bars.loc[panel.symbols[i]], panel.capped_variance[i], panel.times)
        for t in places[places[:, 0] == i, 1]:
            for name, oracle in ORACLE.items():
                with np.errstate(divide="ignore", invalid="ignore"):
                    wanted = oracle(hours, int(t))
                where = f"{name} of {panel.symbols[i]} at {panel.times[t]}"
                np.testing.assert_allclose(found[name][i, t], wanted, rtol=1e-7, atol=1e-9, err_msg=where)
    shares = {name: np.isfinite(values[~np.isnan(panel.close)]).mean() for name, values in found.items()}
    assert min(shares.values()) > 0.5, min(shares, key=lambda name: shares[name])


def test_every_column_is_its_formula_on_a_rough_market(rough_market: Market) -> None:
    assert_oracle(rough_market, 60)


@pytest.fixture(scope="module")
def vision_market(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Market:
    """The perpetual with its real taker side."""
    store = tmp_path_factory.mktemp("vision") / "store"
    import_data("vision", real_data / "binance_vision" / "data" / "futures" / "um" / "monthly" / "klines", store)
    return Market.open(store)


@pytest.mark.real
def test_every_column_is_its_formula_on_the_real_taker_side(vision_market: Market) -> None:
    assert_oracle(vision_market, 40)


@pytest.mark.real
def test_real_taker_flow_moves_prices_its_own_way(vision_market: Market) -> None:
    found = computed(Panel(vision_market))
    together = found["flow_return_correlation_168h"]
    assert np.nanmin(together) > 0.3
    assert np.nanmedian(found["flow_disagreement_24h"]) < 0.4


def test_one_crash_hour_stays_within_bounds(rough_market: Market) -> None:
    bars = rough_market.table("bars", "1h")
    symbol = rough_market.symbols[4]
    hit = (bars["symbol"] == symbol) & (bars["close_time"] == bars["close_time"].min() + pd.Timedelta(days=140))
    for name, factor in (("low", 1e-3), ("close", 2e-3), ("volume", 1e5), ("quote_volume", 1e4), ("trades", 1e5)):
        bars.loc[hit, name] *= factor
    found = computed(Panel(Market.from_tables({"bars": bars})))
    for name, values in found.items():
        if name != "age_taker_flow":
            assert not np.isinf(values).any(), name
            assert np.nanmax(np.abs(values)) <= 15, name


def test_bars_without_trades_are_no_ratios(rough_market: Market) -> None:
    bars = rough_market.table("bars", "1h").query("symbol == 'BTCUSDT'").tail(1200).reset_index(drop=True)
    still = bars.index >= 1100
    flat = ["volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume"]
    bars.loc[still, flat] = 0.0
    bars.loc[still, ["open", "high", "low", "close"]] = bars["close"].iloc[1099]
    found = computed(Panel(Market.from_tables({"bars": bars})))
    for name, values in found.items():
        assert not np.isinf(values).any(), name
    for name in ("flow_imbalance_72h", "flow_run", "log_trades_surprise_1h", "log_volume_surprise_1h"):
        assert np.isnan(found[name][0, -1]), name
    assert found["age_taker_flow"][0, -1] == 0
