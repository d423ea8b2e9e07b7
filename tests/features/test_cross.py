"""The cross-section and the comovement of markets, against loops that share no code with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from features.families import Family, cross_kernels
from features.families.comovement import Comovement, contagion_index
from features.families.cross import Cross
from features.leakage import cut_times
from features.market import Market
from features.panel import Panel
from features.sources import import_data

Array = npt.NDArray[np.float64]
HOUR = pd.Timedelta(hours=1)


def features_of(family: Family, panel: Panel) -> dict[str, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = list(family.columns(panel))
    assert len({c.name for c in columns}) == len(columns)
    return {c.name: c.values for c in columns}


@pytest.fixture(scope="module")
def panel(rough_market: Market) -> Panel:
    return Panel(rough_market)


@pytest.fixture(scope="module")
def cross(panel: Panel) -> dict[str, Array]:
    return features_of(Cross(), panel)


@pytest.fixture(scope="module")
def comovement(panel: Panel) -> dict[str, Array]:
    return features_of(Comovement(), panel)


@pytest.fixture
def holey() -> Array:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, 400))
    x[rng.random(x.shape) < 0.15] = np.nan
    x[4, :200] = np.nan
    x[:, 300] = np.nan
    x[1:, 310] = np.nan
    return x


def hours_to_check(panel: Panel) -> list[int]:
    """A few hours of every kind: after a listing, in and behind gaps, at random."""
    rng = np.random.default_rng(5)
    special = [int((day * 24) + 3) for day in (60.1, 62, 100.4, 103, 111, 118, 159)]
    return [*special, *rng.integers(600, len(panel), 12).tolist()]


# -- kernels ------------------------------------------------------------------------------------------------------------


def per_column(x: Array, statistic: Callable[[Array], float]) -> Array:
    return np.array([statistic(x[:, t][~np.isnan(x[:, t])]) for t in range(x.shape[1])])


def herfindahl(v: Array) -> float:
    if len(v) < 2:
        return math.nan
    h, n = float(((v / v.sum()) ** 2).sum()), len(v)
    return (h - 1 / n) / (1 - 1 / n)


def pair_mean(v: Array) -> float:
    products = [v[i] * v[j] for i in range(len(v)) for j in range(len(v)) if i != j]
    return float(np.mean(products)) if products else math.nan


def test_statistics_over_symbols(holey: Array) -> None:
    size = np.abs(holey)
    np.testing.assert_allclose(cross_kernels.concentration(size), per_column(size, herfindahl), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(cross_kernels.mean_pair_product(holey), per_column(holey, pair_mean), rtol=1e-9)
    one = np.zeros((3, 1))
    one[1] = 7.0
    assert cross_kernels.concentration(one)[0] == 1.0
    assert cross_kernels.concentration(np.full((3, 1), 2.0))[0] == pytest.approx(0.0, abs=1e-15)
    assert np.isnan(cross_kernels.concentration(np.zeros((3, 1)))[0])


def test_rank(holey: Array) -> None:
    tied = np.round(holey)  # many ties
    ranks = cross_kernels.rank(tied)
    for i in range(len(holey)):
        rest = np.delete(np.arange(len(holey)), i)
        for t in range(holey.shape[1]):
            ladder = tied[rest, t][~np.isnan(tied[rest, t])]
            known = len(ladder) and not np.isnan(tied[i, t])
            expected = ((ladder < tied[i, t]).mean() + 0.5 * (ladder == tied[i, t]).mean()) if known else np.nan
            np.testing.assert_allclose(ranks[i, t], expected, rtol=1e-12)


def test_a_later_listing_leaves_the_bits(holey: Array) -> None:
    early = holey[:, :200]
    for kernel in (cross_kernels.concentration, cross_kernels.mean_pair_product):
        assert np.array_equal(kernel(np.abs(early)), kernel(np.abs(early[:4])), equal_nan=True)
    assert np.array_equal(cross_kernels.rank(early)[:4], cross_kernels.rank(early[:4]), equal_nan=True)


def test_window_max_is_the_rolling_one(holey: Array) -> None:
    for days, share in ((1, 0.5), (7, 0.5)):
        expected = pd.DataFrame(holey.T).rolling(24 * days, min_periods=math.ceil(share * 24 * days)).max().T
        found = cross_kernels.window_max(holey, days, share, 0)
        np.testing.assert_array_equal(found, expected.to_numpy())


@pytest.mark.parametrize("days", [1, 7])
def test_a_window_forgets_what_it_does_not_read(holey: Array, days: int) -> None:
    reach = 24 * days
    whole = cross_kernels.window_max(holey, days, 0.2, 0)
    for t in (reach - 1, 250, 399):
        window = np.ascontiguousarray(holey[:, t - reach + 1 : t + 1])
        newest = cross_kernels.window_max(window, days, 0.2, reach - 1)
        assert newest.shape == (5, 1)
        assert np.array_equal(newest[:, 0], whole[:, t], equal_nan=True)
    assert np.array_equal(cross_kernels.window_max(holey, days, 0.2, 250), whole[:, 250:], equal_nan=True)


# -- the cross-section --------------------------------------------------------------------------------------------------


def test_shares_and_concentration_by_hand(panel: Panel, cross: dict[str, Array]) -> None:
    v, close = panel.capped_variance, panel.close
    ew = {h: panel.ewma(panel.deseasonalised, h) for h in (3, 24, 96)}
    turnover = close * panel.field("volume")
    for t in hours_to_check(panel):
        ratio = np.sqrt(ew[3][:, t] / ew[96][:, t])
        ratio = ratio[~np.isnan(ratio)]
        assert cross["burst_breadth"][0, t] == pytest.approx(np.mean(ratio > 2.0))
        deep = []
        for row in close:
            week = row[t - 167 : t + 1]
            if not np.isnan(row[t]) and np.isfinite(week).sum() >= 84:
                deep.append(row[t] < 0.9 * np.nanmax(week))
        assert cross["drawdown_breadth_168h"][0, t] == pytest.approx(np.mean(deep))
        for name, x in (("variance_concentration_24h", v), ("turnover_concentration_24h", turnover)):
            day = [np.nanmean(row[t - 23 : t + 1]) for row in x if np.isfinite(row[t - 23 : t + 1]).sum() >= 0.8 * 24]
            assert cross[name][0, t] == pytest.approx(herfindahl(np.array(day)))
        np.testing.assert_allclose(
            cross["market_log_ew_3h"][:, t] + cross["own_less_market_3h"][:, t], np.log(ew[3][:, t]), rtol=1e-12
        )
        assert cross["market_log_ew_3h"][0, t] == pytest.approx(np.nanmean(np.log(ew[3][:, t])))
        r = panel.log_return[:, t - 23 : t + 1]
        aligned = np.mean(np.abs(np.nanmean(r, axis=0))) / np.mean(np.nanmean(np.abs(r), axis=0))
        assert cross["market_alignment_24h"][0, t] == pytest.approx(aligned)
        change = np.log(ew[24][:, t] / ew[24][:, t - 24])
        assert cross["market_change_24h"][0, t] == pytest.approx(np.nanmean(change))
        assert cross["market_dispersion_24h"][0, t] == pytest.approx(np.nanstd(np.log(ew[24][:, t])))


def test_spillover_reads_the_others_alone(panel: Panel, cross: dict[str, Array]) -> None:
    level = np.log(panel.deseasonalised)
    for t in hours_to_check(panel):
        for i in range(len(level)):
            rest = np.delete(level[:, t], i)
            np.testing.assert_allclose(cross["spillover_1h"][i, t], np.nanmean(rest), rtol=1e-12)


def test_a_listing_does_not_look_like_a_change(panel: Panel, cross: dict[str, Array]) -> None:
    level = np.log(panel.ewma(panel.deseasonalised, 24))
    newcomer = int(np.argmax(np.isnan(level).sum(axis=1)))
    entry = int(np.flatnonzero(~np.isnan(level[newcomer]))[0])
    assert entry > 2400
    old = np.delete(level, newcomer, axis=0)
    for t in range(entry, entry + 24):
        expected = np.nanmean(old[:, t] - old[:, t - 24])
        assert cross["market_change_24h"][0, t] == pytest.approx(expected), t
        naive = np.nanmean(level[:, t]) - np.nanmean(level[:, t - 24])
        assert naive != pytest.approx(expected, abs=1e-3)


# -- comovement ---------------------------------------------------------------------------------------------------------


def bounded_returns(panel: Panel) -> tuple[Array, Array]:
    """Bounded returns and their scale, hour by hour."""
    r, v = panel.log_return, panel.capped_variance
    bounded, scale = np.full_like(r, np.nan), np.full_like(r, np.nan)
    for i in range(len(r)):
        for t in range(1, r.shape[1]):
            past = v[i, max(t - 24, 0) : t]
            past = past[~np.isnan(past)]
            if len(past) >= 12:
                scale[i, t] = math.sqrt(past.mean())
                bounded[i, t] = max(min(r[i, t], 5 * scale[i, t]), -5 * scale[i, t])
    bounded[np.isnan(r)] = np.nan
    return bounded, scale


def fit(x: Array, y: Array, least: float) -> tuple[float, float]:
    """Slope of y on x and their correlation, by the textbook."""
    both = ~np.isnan(x) & ~np.isnan(y)
    if both.sum() < least:
        return math.nan, math.nan
    return float(np.polyfit(x[both], y[both], 1)[0]), float(np.corrcoef(x[both], y[both])[0, 1])


def test_betas_and_lags_by_hand(panel: Panel, comovement: dict[str, Array]) -> None:
    b, scale = bounded_returns(panel)
    btc = b[panel.symbols.index("BTCUSDT")]
    checked = 0
    for t in hours_to_check(panel):
        for i in range(len(b)):
            week, day = slice(t - 167, t + 1), slice(t - 23, t + 1)
            beta, rho = fit(btc[week], b[i, week], 0.8 * 168)
            near, rho_day = fit(btc[day], b[i, day], 0.8 * 24)
            lagged, lagged_rho = fit(btc[t - 168 : t], b[i, week], 0.8 * 168)
            expected = {
                "beta_btc_168h": beta,
                "correlation_btc_168h": rho,
                "beta_btc_24h": np.clip(near, -5, 5),
                "correlation_btc_jump": rho_day - rho,
                "lagged_beta_btc_168h": lagged,
                "lagged_r2_btc_168h": lagged_rho**2,
                "lead_lag_residual_1h": np.clip((beta * btc[t] - b[i, t]) / scale[i, t], -5, 5),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(comovement[name][i, t], value, rtol=1e-6, atol=1e-8, err_msg=name)
            checked += not math.isnan(beta)
    assert checked > 50


def test_mean_correlation_is_that_of_all_pairs(panel: Panel, comovement: dict[str, Array]) -> None:
    b, scale = bounded_returns(panel)
    z = b / scale
    for t in hours_to_check(panel):
        for hours in (24, 168):
            window = z[:, t - hours + 1 : t + 1]
            pairs = per_column(window, pair_mean)
            squares = per_column(window, lambda v: float(np.mean(v**2)) if len(v) else math.nan)
            expected = np.nanmean(pairs) / np.nanmean(squares)
            np.testing.assert_allclose(comovement[f"mean_correlation_{hours}h"][0, t], expected, rtol=1e-9)
        # Where nothing is missing it stays close to the plain mean of the pairwise correlations.
        whole = z[~np.isnan(z[:, t - 167 : t + 1]).any(axis=1), t - 167 : t + 1]
        plain = np.corrcoef(whole)[np.triu_indices(len(whole), 1)].mean()
        assert comovement["mean_correlation_168h"][0, t] == pytest.approx(plain, abs=0.1)


def test_spillover_of_volatility_by_hand(panel: Panel, comovement: dict[str, Array]) -> None:
    level = np.log(panel.deseasonalised)
    b, scale = bounded_returns(panel)
    z, checked = b / scale, 0
    for t in hours_to_check(panel):
        for i in range(len(level)):
            rest = np.delete(np.arange(len(level)), i)
            with np.errstate(invalid="ignore"):
                others = np.array([np.nanmean(level[rest, s]) for s in range(t - 168, t)])
                moved = np.array([np.nanmean(z[rest, s]) for s in range(t - 168, t)])
            now, before = level[i, t - 167 : t + 1], level[i, t - 168 : t]
            if np.isnan(now).any() or np.isnan(before).any():
                continue
            # Partial correlation: what is left of both once the own past is taken out by regression.
            design = np.column_stack([np.ones(168), before])
            left = [y - design @ np.linalg.lstsq(design, y, rcond=None)[0] for y in (now, others)]
            partial = np.corrcoef(*left)[0, 1]
            np.testing.assert_allclose(comovement["vol_spillover_168h"][i, t], partial, rtol=1e-5, atol=1e-8)
            down, up = moved < 0, moved > 0
            gap = np.polyfit(others[down], now[down], 1)[0] - np.polyfit(others[up], now[up], 1)[0]
            np.testing.assert_allclose(comovement["vol_spillover_asymmetry_168h"][i, t], gap, rtol=1e-5, atol=1e-8)
            checked += 1
    assert checked > 50


def test_own_share_and_exposure_by_hand(panel: Panel, comovement: dict[str, Array]) -> None:
    b, _ = bounded_returns(panel)
    for t in hours_to_check(panel):
        for i in range(len(b)):
            others = np.nanmean(np.delete(b, i, axis=0)[:, t - 167 : t + 1], axis=0)
            _, week = fit(others, b[i, t - 167 : t + 1], 0.8 * 168)
            _, day = fit(others[-24:], b[i, t - 23 : t + 1], 0.8 * 24)
            share, exposure = comovement["idiosyncratic_share_168h"], comovement["contagion_exposure"]
            np.testing.assert_allclose(share[i, t], 1 - week**2, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(
                exposure[i, t], comovement["contagion_index"][i, t] * np.maximum(day, 0), rtol=1e-6, atol=1e-8
            )


def test_connectedness_by_hand(panel: Panel, comovement: dict[str, Array]) -> None:
    level = np.log(panel.deseasonalised)
    for t in hours_to_check(panel):
        joint, own = [], []
        for s in range(t - 23, t + 1):
            weeks = [row[s - 167 : s + 1] for row in level]
            known = [w for w in weeks if np.isfinite(w).sum() >= 0.8 * 168 and np.isfinite(w[-1])]
            u = np.array([np.clip(w[-1] - np.nanmean(w), -5, 5) for w in known])
            joint.append(pair_mean(u))
            own.append(np.mean(u**2))
        expected = np.mean(joint) / np.mean(own)
        np.testing.assert_allclose(comovement["vol_connectedness_24h"][:, t], expected, rtol=1e-9)


def test_contagion_index_is_recomputed_from_its_columns(
    panel: Panel, cross: dict[str, Array], comovement: dict[str, Array]
) -> None:
    index, exposure = comovement["contagion_index"], comovement["contagion_exposure"]
    known = ~np.isnan(index)
    assert known.mean() > 0.8
    assert ((index[known] >= 0) & (index[known] <= 1)).all()
    assert (exposure[~np.isnan(exposure)] <= index[~np.isnan(exposure)]).all()
    burst = np.log(panel.ewma(panel.deseasonalised, 3) / panel.ewma(panel.deseasonalised, 96))
    names = ("mean_correlation_24h", "mean_correlation_jump")
    for t in range(700, index.shape[1], 97):
        rho, jump = (float(comovement[name][0, t]) for name in names)
        share = float(np.nanmean(np.clip(burst[:, t] / math.log(4), 0, 1)))
        assert comovement["burst_share"][0, t] == pytest.approx(share)
        together = max(rho, 0) + min(max(4 * jump, 0), 1) + cross["market_alignment_24h"][0, t]
        assert index[0, t] == pytest.approx(math.sqrt(share * together / 3))
        assert (index[:, t] == index[0, t]).all()


def test_contagion_index_rises_in_each_part() -> None:
    grid = np.linspace(0, 1, 11)
    base = [np.full(11, 0.4), np.full(11, 0.5), np.full(11, 0.1), np.full(11, 0.6)]
    for k, part in enumerate((grid, grid, grid / 4, grid)):
        varied = [part if j == k else x for j, x in enumerate(base)]
        assert (np.diff(contagion_index(*varied)) > 0).all()
    zero, one = np.zeros(1), np.ones(1)
    assert contagion_index(zero, one, one, one) == 0
    assert contagion_index(one, one, one, one) == 1
    assert contagion_index(one, -one, -one, zero) == 0
    assert contagion_index(np.array([0.5]), np.array([0.8]), np.array([0.1]), np.array([0.9]))[0] == pytest.approx(
        math.sqrt(0.5 * (0.8 + 0.4 + 0.9) / 3)
    )


def test_a_market_of_one_has_no_neighbours(rough_market: Market) -> None:
    bars = rough_market.table("bars")
    alone = Market.from_tables({"bars": bars[bars["symbol"] == "BTCUSDT"]})
    made = features_of(Cross(), Panel(alone)) | features_of(Comovement(), Panel(alone))
    for name in ("spillover_1h", "vol_rank_24h", "mean_correlation_24h", "contagion_index", "idiosyncratic_share_168h"):
        assert np.isnan(made[name]).all(), name
    assert np.nanmax(made["beta_btc_168h"]) == 1.0


# -- laws ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [Cross(), Comovement()], ids=lambda f: f.name)
def test_prefix_law(rough_market: Market, panel: Panel, family: Family) -> None:
    whole = features_of(family, panel)
    for t in (*cut_times(rough_market, 6, seed=3), panel.times[0], panel.times[2412]):
        view = Panel(rough_market.as_of(t))
        rows = [panel.symbols.index(symbol) for symbol in view.symbols]
        upto = int(np.searchsorted(panel.times.asi8, view.times.asi8[-1], side="right"))
        for name, values in features_of(family, view).items():
            alive = ~np.isnan(view.close)
            assert np.array_equal(values[alive], whole[name][rows, :upto][alive], equal_nan=True), (name, t)


def test_no_column_is_dead(panel: Panel, cross: dict[str, Array], comovement: dict[str, Array]) -> None:
    for name, values in (cross | comovement).items():
        assert not np.isinf(values).any(), name
        assert np.nanstd(values[:, 1000:]) > 0, name
        assert (~np.isnan(values[~np.isnan(panel.close)])).mean() > 0.6, name


@pytest.mark.real
def test_crashes_are_contagion(real_data: Path, tmp_path: Path) -> None:
    for file in (real_data / "freqtrade" / "futures").iterdir():
        if file.name.endswith("-1h-futures.feather"):
            (tmp_path / file.name).symlink_to(file)
    import_data("freqtrade", tmp_path, tmp_path / "store")
    market = Market.open(tmp_path / "store")
    panel = Panel(market)
    made = features_of(Comovement(), panel)
    index = pd.Series(made["contagion_index"][0], panel.times)
    assert index.median() < 0.2
    for crash in ("2020-03-12", "2021-05-19", "2022-11-09", "2024-08-05"):
        assert index[crash].max() > 0.8, crash
        assert index[crash].max() > index.quantile(0.99), crash
    calm = index["2023-09-01":"2023-09-10"]
    assert calm.median() < 0.2
    ether = pd.Series(made["beta_btc_168h"][panel.symbols.index("ETHUSDT")], panel.times)
    assert ether["2020":"2024"].median() == pytest.approx(1.1, abs=0.2)
    for name, values in made.items():
        assert not np.isinf(values).any(), name
