"""The simulated market: lawful tables, mechanisms found again from the data, and an oracle that is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from features.errors import UsageError
from features.rules import inspect
from features.schemas import TABLES, dtype
from features.sources.simulated import DEMO, Dynamics, Simulation, best_forecast, simulate
from features.sources.simulated_dynamics import PROFILES, STATES
from features.sources.simulated_oracle import level, step_variance
from features.sources.simulated_paths import hawkes

Array = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def market() -> Simulation:
    return simulate(**DEMO)


def hourly(simulation: Simulation, column: str, table: str = "bars") -> pd.DataFrame:
    bars = simulation.tables[table]
    return bars[bars["interval"] == "1h"].pivot(index="close_time", columns="symbol", values=column)


def garman_klass(simulation: Simulation) -> pd.DataFrame:
    """The pinned bar variance, from the first bar that has one before it."""
    o, h, lo, c = (hourly(simulation, name) for name in ("open", "high", "low", "close"))
    inside = 0.5 * np.log(h / lo) ** 2 - (2 * math.log(2) - 1) * np.log(c / o) ** 2
    return (inside + np.log(o / c.shift()) ** 2).iloc[1:]


def forward_sum(variance: pd.DataFrame, h: int) -> pd.DataFrame:
    return variance[::-1].rolling(h).sum()[::-1].shift(-1)


def qlike(ratio: Array) -> float:
    return float(np.mean(ratio - np.log(ratio) - 1.0))


def har_regressors(variance: pd.Series) -> Array:
    lags = [np.log(variance.rolling(n).mean().to_numpy()) for n in (1, 4, 24, 168, 720)]
    return np.column_stack([np.ones(len(variance)), *lags])


def test_same_seed_same_market_other_seed_other_market() -> None:
    one, two, other = (simulate(seed, days=12, symbols=2) for seed in (3, 3, 4))
    for name, table in one.tables.items():
        pd.testing.assert_frame_equal(table, two.tables[name], check_exact=True)
    pd.testing.assert_frame_equal(one.truth, two.truth, check_exact=True)
    assert not np.allclose(one.tables["bars"]["close"], other.tables["bars"]["close"])


def test_more_days_extend_and_more_symbols_join_without_changing_the_rest() -> None:
    short, long = simulate(5, days=20, symbols=2), simulate(5, days=31, symbols=4)
    end = short.truth["close_time"].max()
    for name, table in short.tables.items():
        whole, clock = long.tables[name], TABLES[name].clock
        kept = whole[whole["symbol"].isin(set(table["symbol"]))] if "symbol" in table else whole
        horizon = end if name != "daily" else table[clock].max()
        kept = kept[kept[clock] <= horizon].reset_index(drop=True)
        pd.testing.assert_frame_equal(table.reset_index(drop=True), kept, check_exact=True)


def test_tables_have_the_columns_types_and_keys_of_the_store(market: Simulation) -> None:
    assert set(market.tables) == set(TABLES)
    for name, table in market.tables.items():
        schema = TABLES[name].schema
        assert {column: str(kind) for column, kind in table.dtypes.items()} == {
            column.name: str(dtype(column.type)) for column in schema
        }
        good, faults = inspect(table, TABLES[name])
        assert faults.empty, faults.head()
        assert len(good) == len(table)
        assert not table.isna().any(axis=None)
        assert not table.duplicated(list(TABLES[name].identity)).any()
        assert (table["available_at"] >= table[TABLES[name].clock]).all()
        assert (table["source"] == "simulated").all()
        assert table[TABLES[name].clock].dtype == table["available_at"].dtype == "datetime64[us, UTC]"


@pytest.mark.parametrize("name", ["bars", "spot", "mark"])
def test_bars_are_lawful(market: Simulation, name: str) -> None:
    table = market.tables[name]
    assert (table["low"] > 0).all()
    assert (table["low"] <= table[["open", "close"]].min(axis=1)).all()
    assert (table["high"] >= table[["open", "close"]].max(axis=1)).all()
    for _, bars in table.groupby(["interval", "symbol"]):
        assert bars["close_time"].diff().dropna().nunique() == 1
        np.testing.assert_allclose(bars["open"].to_numpy()[1:], bars["close"].to_numpy()[:-1], rtol=1e-12)
    if name == "mark":
        return
    assert (table["taker_buy_volume"] <= table["volume"]).all()
    assert (table["taker_buy_quote_volume"] <= table["quote_volume"]).all()
    assert (table["taker_buy_volume"] > 0).all()
    assert (table["trades"] == table["trades"].round()).all()
    vwap = table["quote_volume"] / table["volume"]
    assert ((vwap <= table["high"] * (1 + 1e-12)) & (vwap >= table["low"] * (1 - 1e-12))).all()


def test_quarters_add_up_to_hours(market: Simulation) -> None:
    bars = market.tables["bars"]
    parts = bars[bars["interval"] == "15m"]
    hour = parts["close_time"].dt.ceil("h").rename("hour")
    grouped = parts.groupby(["symbol", hour], observed=True)
    hours = bars[bars["interval"] == "1h"].set_index(["symbol", "close_time"])
    for column, how in {"open": "first", "high": "max", "low": "min", "close": "last"}.items():
        np.testing.assert_array_equal(grouped[column].agg(how).to_numpy(), hours[column].to_numpy())
    for column in ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume"):
        np.testing.assert_allclose(grouped[column].sum().to_numpy(), hours[column].to_numpy(), rtol=1e-12)


def test_scales_are_those_of_crypto(market: Simulation) -> None:
    returns = np.log(hourly(market, "close")).diff().dropna()
    volatility = returns.std() * math.sqrt(8760)
    target = pd.Series({p.symbol: p.volatility for p in PROFILES})[volatility.index]
    assert (volatility / target).between(0.75, 1.4).all()
    kurtosis = returns.kurt()
    assert 8 < kurtosis.mean() < 40
    correlation = returns.corr().to_numpy()[np.triu_indices(returns.shape[1], 1)]
    assert ((correlation > 0.4) & (correlation < 0.9)).all()


def test_log_variance_has_long_memory(market: Simulation) -> None:
    logs = np.log(garman_klass(market))
    acf = {lag: float(np.mean([logs[s].autocorr(lag) for s in logs])) for lag in (1, 24, 168, 336)}
    assert acf[1] > 0.55
    assert acf[24] > 0.25
    assert acf[168] > 0.12
    assert acf[336] > 0.05
    # A single exponential through lags 1 and 24 would be all but dead after two weeks.
    assert acf[336] > acf[1] * (acf[24] / acf[1]) ** (335 / 23)


def test_season_is_recovered_and_vanishes_with_its_amplitude(market: Simulation) -> None:
    def recovered(simulation: Simulation) -> pd.Series:
        logs = np.log(garman_klass(simulation)).mean(axis=1)
        starts = logs.index - pd.Timedelta(hours=1)
        return logs.groupby(starts.day_of_week * 24 + starts.hour).mean()

    truth = np.log(Dynamics().season.reshape(168, 12).mean(axis=1))
    assert np.corrcoef(recovered(market), truth)[0, 1] > 0.85
    flat = simulate(days=300, symbols=2, dynamics=Dynamics(season_amplitude=0.0))
    assert abs(np.corrcoef(recovered(flat), truth)[0, 1]) < 0.35


def stress_recovered(simulation: Simulation) -> float:
    """Area under the curve of half a day's market log variance against its fortnight, for the true chain."""
    logs = np.log(garman_klass(simulation)).mean(axis=1)
    starts = logs.index - pd.Timedelta(hours=1)
    season = np.log(Dynamics().season.reshape(168, 12).mean(axis=1))
    deseasoned = logs - season[starts.day_of_week * 24 + starts.hour]
    signal = (deseasoned.rolling(12).mean() - deseasoned.rolling(24 * 14).median()).dropna()
    stress = simulation.truth.groupby("close_time")["stress"].first().reindex(signal.index)
    inside = signal.rank()[stress == 1]
    return (inside.sum() / len(inside) - (len(inside) + 1) / 2) / (len(signal) - len(inside))


def test_stress_chain_is_recovered_from_prices(market: Simulation) -> None:
    assert stress_recovered(market) > 0.72
    assert stress_recovered(simulate(days=200, symbols=3, dynamics=Dynamics(stress_shift=2.5))) > 0.9
    assert stress_recovered(simulate(days=200, symbols=3, dynamics=Dynamics(stress_shift=0.0))) < 0.6
    stress = market.truth[market.truth["symbol"] == "BTCUSDT"]["stress"]
    episodes = (stress.diff() == 1).sum()
    assert stress.sum() / episodes == pytest.approx(Dynamics().stress_hours, rel=0.5)


def partial_correlation_of_flow(simulation: Simulation) -> float:
    """Of trade size and one-sidedness with the next four hours' log variance, given the HAR lags; mean."""
    variance, future = garman_klass(simulation), np.log(forward_sum(garman_klass(simulation), 4))
    size = np.log(hourly(simulation, "quote_volume") / hourly(simulation, "trades")).reindex(variance.index)
    found = []
    for symbol in variance:
        x = har_regressors(variance[symbol])
        clock = pd.get_dummies(variance.index.hour, dtype=float).to_numpy()[:, 1:]
        x = np.column_stack([x, clock])
        pair = np.column_stack([-size[symbol], future[symbol]])
        rows = np.isfinite(x).all(axis=1) & np.isfinite(pair).all(axis=1)
        residual = pair[rows] - x[rows] @ np.linalg.lstsq(x[rows], pair[rows], rcond=None)[0]
        found.append(np.corrcoef(residual.T)[0, 1])
    return float(np.mean(found))


def test_flow_leads_volatility_and_only_because_the_model_says_so(market: Simulation) -> None:
    assert partial_correlation_of_flow(market) > 0.1
    without = simulate(days=300, symbols=3, dynamics=Dynamics(flow_effect=0.0))
    assert abs(partial_correlation_of_flow(without)) < 0.04


def test_funding_follows_the_premium_inside_its_cap_and_settles_on_schedule(market: Simulation) -> None:
    funding = market.tables["funding"]
    pd.testing.assert_series_equal(funding["available_at"], funding["funding_time"], check_names=False)
    assert (funding["funding_rate"].abs() <= 0.003 * funding["interval_hours"] / 8).all()
    premium = np.log(hourly(market, "close") / hourly(market, "close", "spot"))
    for symbol, own in funding.groupby("symbol"):
        gaps = own["funding_time"].diff().dt.total_seconds().div(3600).iloc[1:]
        np.testing.assert_array_equal(gaps, own["interval_hours"].iloc[1:])
        assert set(own["interval_hours"]) == ({8.0, 4.0} if symbol == "DOGEUSDT" else {8.0})
        eight = own[own["interval_hours"] == 8]
        mean = premium[symbol].rolling(8).mean().reindex(eight["funding_time"]).to_numpy()
        expected = mean + np.clip(1e-4 - mean, -5e-4, 5e-4)
        moving = np.abs(1e-4 - mean) > 6e-4
        assert moving.sum() > 30
        assert np.corrcoef(expected[moving], eight["funding_rate"].to_numpy()[moving])[0, 1] > 0.95


def test_open_interest_is_liquidated_in_crashes_and_built_in_rallies(market: Simulation) -> None:
    returns = np.log(hourly(market, "close")).diff()
    usual = returns.rolling(168).std().shift()
    interest = market.tables["open_interest"]
    change = np.log(interest.pivot(index="event_time", columns="symbol", values="open_interest")).diff()
    z = (returns / usual).stack()
    moves = change.stack().reindex(z.index)
    assert moves[z < -5].mean() < -0.03
    assert abs(moves[z.abs() < 1].mean()) < 0.003
    assert moves[z.between(1, 2)].mean() > moves[z.between(-2, -1)].mean()
    value = interest["open_interest_value"] / interest["open_interest"]
    marks = market.tables["mark"].set_index(["symbol", "close_time"])["close"]
    np.testing.assert_allclose(
        value, marks.loc[pd.MultiIndex.from_frame(interest[["symbol", "event_time"]])], rtol=1e-9
    )


def test_high_open_interest_makes_jumps_larger() -> None:
    truth = simulate(days=1, symbols=1).truth.tail(1).assign(jump_intensity=0.05)
    low, high = (best_forecast(truth.assign(leverage=value), [1])["variance"].iloc[0] for value in (-0.2, 0.2))
    assert high > 1.2 * low
    indifferent = Dynamics(fragility=0.0)
    flat = [best_forecast(truth.assign(leverage=v), [1], indifferent)["variance"].iloc[0] for v in (-0.2, 0.2)]
    assert flat[0] == pytest.approx(flat[1], rel=1e-12)


def test_implied_volatility_expects_the_month_ahead_at_a_premium(market: Simulation) -> None:
    implied = market.tables["implied_vol"].set_index("close_time")
    assert set(implied["underlying"]) == {"BTC"}
    assert (implied["low"] <= implied[["open", "close"]].min(axis=1)).all()
    assert (implied["high"] >= implied[["open", "close"]].max(axis=1)).all()
    past = garman_klass(market)["BTCUSDT"].rolling(168).sum()
    assert np.log(implied["close"]).corr(np.log(past)) > 0.5
    at = implied.index[24 * 30]
    state = market.truth[(market.truth["symbol"] == "BTCUSDT") & (market.truth["close_time"] == at)]
    month = best_forecast(state, [720])["variance"].iloc[0]
    fair = 100 * math.sqrt(month * 365 / 30)
    assert implied["close"].loc[at] / fair == pytest.approx(math.exp(0.06), rel=0.1)


def test_the_book_widens_and_thins_before_variance(market: Simulation) -> None:
    book = market.tables["order_book"].set_index(["symbol", "event_time"])
    truth = market.truth.set_index(["symbol", "close_time"]).rename_axis(["symbol", "event_time"])
    close = market.tables["bars"].query("interval == '1h'").set_index(["symbol", "close_time"])["close"]
    middle = 0.5 * (book["bid"] + book["ask"])
    assert np.allclose(np.log(middle), np.log(close.rename_axis(middle.index.names).reindex(middle.index)), atol=1e-12)
    spread = np.log((book["ask"] - book["bid"]) / middle)
    depth = np.log(book["bid_depth_1pct"] + book["ask_depth_1pct"])
    ahead = np.log(truth["integrated_variance"]).groupby("symbol").shift(-1)
    for symbol in book.index.unique("symbol"):
        coming = ahead.loc[symbol]
        assert spread.loc[symbol].corr(coming) > 0.2
        assert depth.loc[symbol].corr(coming) < -0.1
    assert ((book["bid_size"] + book["ask_size"]) * middle < book["bid_depth_1pct"] + book["ask_depth_1pct"]).all()


def test_margin_tiers_charge_continuously(market: Simulation) -> None:
    for _, tiers in market.tables["margin_tiers"].groupby("symbol"):
        np.testing.assert_array_equal(tiers["max_notional"].to_numpy()[:-1], tiers["min_notional"].to_numpy()[1:])
        at = tiers["max_notional"].to_numpy()[:-1]
        rate, deduction = tiers["maint_margin_rate"].to_numpy(), tiers["cum_maint_amount"].to_numpy()
        np.testing.assert_allclose(at * rate[:-1] - deduction[:-1], at * rate[1:] - deduction[1:])
        assert (np.diff(rate) > 0).all()
        assert (rate < 1 / tiers["max_leverage"].to_numpy()).all()


def test_daily_series_are_known_a_day_later_on_business_days(market: Simulation) -> None:
    daily = market.tables["daily"]
    assert set(daily["series"]) == {"VIX", "DXY"}
    assert (daily["date"].dt.day_of_week < 5).all()
    assert (daily["available_at"] - daily["date"] == pd.Timedelta(days=1)).all()


def test_jumps_excite_jumps_at_the_stated_rate() -> None:
    dynamics = Dynamics()
    steps = 288 * 6000
    intensity, counts = hawkes(np.random.default_rng(1).random((steps, 2)), 1.0, dynamics)
    assert intensity.shape == (steps + 1,)
    total = counts.sum(axis=1)
    assert total.mean() * 288 == pytest.approx(dynamics.jump_rate, rel=0.1)
    assert counts[:, 0].sum() / total.sum() == pytest.approx(dynamics.jump_down_share, abs=0.03)
    # Hawkes (1971): the dispersion of counts over long windows tends to 1 / (1 − branching)².
    windows = total.reshape(-1, 288 * 4).sum(axis=1)
    assert windows.var() / windows.mean() == pytest.approx(1 / (1 - dynamics.jump_branching) ** 2, rel=0.25)
    assert total.sum() == pytest.approx(intensity[:-1].sum(), rel=0.06)


def simulate_the_equations(
    start: dict[str, float], stress: int, hours: int, dynamics: Dynamics, season: Array, scale: float
) -> Array:
    """Integrated variance by path, written from the equations alone: an oracle for the oracle."""
    rng, paths = np.random.default_rng(11), 15_000
    rho = [2.0 ** (-1 / (12 * h)) for h in (dynamics.flow_half_life, *dynamics.factor_half_lives)]
    rho_o, rho_l = (2.0 ** (-1 / (12 * h)) for h in (dynamics.leverage_half_life, dynamics.jump_half_life))
    sigma = [sd * math.sqrt(1 - r * r) for sd, r in zip((1.0, *dynamics.factor_sds), rho, strict=True)]
    sigma_o = dynamics.leverage_sd * math.sqrt(1 - rho_o**2)
    gain = (1 + rho[0] * rho[1]) / ((1 - rho[1] ** 2) * (1 - rho[0] * rho[1]))
    phi = dynamics.flow_effect / math.sqrt(gain)
    base = dynamics.jump_rate / 288 * (1 - dynamics.jump_branching)
    tilt, tight = dynamics.volatility_leverage, math.sqrt(1 - dynamics.volatility_leverage**2)
    q, x1, x2, x3, o = (np.full(paths, start[name]) for name in STATES)
    intensity = np.full(paths, start["jump_intensity"])
    s = np.full(paths, stress)
    total = np.zeros(paths)
    leave = np.array([1 / (12 * dynamics.calm_hours), 1 / (12 * dynamics.stress_hours)])
    for step in range(12 * hours):
        z = rng.standard_normal((6, paths))
        down = rng.poisson(dynamics.jump_down_share * intensity)
        up = rng.poisson((1 - dynamics.jump_down_share) * intensity)
        n = down + up
        rate = scale * season[step] * np.exp(dynamics.stress_shift * s + x1 + x2 + x3)
        total += rate * (1 + dynamics.jump_variance * n * np.exp(2 * dynamics.fragility * o))
        o = rho_o * o + dynamics.leverage_trend * z[0] - dynamics.leverage_calm * x2 + sigma_o * z[5]
        o = o - dynamics.liquidation[0] * down - dynamics.liquidation[1] * up
        x1 = rho[1] * x1 + phi * q + sigma[1] * (tight * z[2] - tilt * z[0]) + dynamics.jump_kick * n
        x2 = rho[2] * x2 + sigma[2] * (tight * z[3] - tilt * z[0])
        x3 = rho[3] * x3 + sigma[3] * z[4]
        q = rho[0] * q + sigma[0] * z[1]
        intensity = base * (1 - rho_l) + rho_l * intensity + dynamics.jump_branching * (1 - rho_l) * n
        s = np.where(rng.random(paths) < leave[s], 1 - s, s)
    return total


@pytest.mark.parametrize(("stress", "signed"), [(0, 1.0), (1, -1.0)])
def test_best_forecast_is_the_mean_of_the_model_from_any_state(stress: int, signed: float) -> None:
    dynamics = replace(Dynamics(), leverage_calm=0.002, volatility_leverage=0.5)
    state = dict(zip((*STATES, "jump_intensity"), (1.5, 0.4, 0.3, -0.5, 0.2 * signed, 0.03), strict=True))
    at = pd.Timestamp("2024-03-06 21:00", tz="UTC")
    truth = pd.DataFrame([{"symbol": "ETHUSDT", "close_time": at, "stress": stress} | state])
    closed = best_forecast(truth, [6, 24], dynamics).set_index("horizon_hours")["variance"]
    first = (2 * 24 + 21) * 12  # a Wednesday
    for hours in (6, 24):
        scale = level(PROFILES[1], dynamics)
        draws = simulate_the_equations(state, stress, hours, dynamics, dynamics.season[first:], scale)
        error = draws.std() / math.sqrt(len(draws))
        assert abs(draws.mean() - closed[hours]) < 3.5 * error
        assert error < 0.02 * closed[hours]


def test_far_ahead_the_best_forecast_is_the_stated_volatility() -> None:
    dynamics, profile = Dynamics(), PROFILES[2]
    stressed = np.array([[2.0, 1.0, 1.0, 0.5, 0.3, 0.05]])
    assert dynamics.season.mean() == pytest.approx(1.0)
    a_year = 24 * 365 * 12
    rate = level(profile, dynamics) * step_variance(stressed, np.ones(1), a_year, dynamics)[0]
    assert rate * a_year == pytest.approx(profile.volatility**2, rel=1e-3)


def test_with_every_mechanism_off_volatility_is_constant_and_known() -> None:
    still = Dynamics(
        flow_effect=0.0,
        factor_sds=(0.0, 0.0, 0.0),
        jump_rate=0.0,
        clock_noise=0.0,
        stress_shift=0.0,
        season_amplitude=0.0,
    )
    simulation = simulate(seed=2, days=120, symbols=1, dynamics=still)
    hour = PROFILES[0].volatility ** 2 / 8760
    np.testing.assert_allclose(simulation.truth["integrated_variance"], hour, rtol=1e-9)
    np.testing.assert_allclose(best_forecast(simulation.truth, [24], still)["variance"], 24 * hour, rtol=1e-9)
    bars = garman_klass(simulation)["BTCUSDT"] / hour
    # Garman and Klass (1980): unbiased, with variance 2 / 7.4 of a squared return's unit.
    assert bars.mean() == pytest.approx(1.0, abs=4 * math.sqrt(0.27 / len(bars)))
    assert bars.var() == pytest.approx(2 / 7.4, rel=0.12)
    assert abs(np.log(hourly(simulation, "close")["BTCUSDT"]).diff().kurt()) < 0.3


def test_best_forecast_is_unbiased_and_beats_har(
    market: Simulation, record_property: Callable[[str, Any], None]
) -> None:
    variance = garman_klass(market)
    forecasts = best_forecast(market.truth, [1, 4, 24])
    half = len(variance) // 2
    truth = market.truth.pivot(index="close_time", columns="symbol", values="integrated_variance")
    noise = (variance / truth.reindex(variance.index)).to_numpy()
    assert noise.mean() == pytest.approx(1.0, abs=0.01)
    for h, slack in ((1, 0.03), (4, 0.03), (24, 0.06)):
        future = forward_sum(variance, h)
        best = forecasts[forecasts["horizon_hours"] == h]
        best = best.pivot(index="origin", columns="symbol", values="variance").reindex(variance.index)
        assert np.nanmean((future / best).to_numpy()) == pytest.approx(1.0, abs=slack)
        losses: list[tuple[float, float]] = []
        for symbol in variance:
            x, y = har_regressors(variance[symbol]), np.log(future[symbol].to_numpy())
            known = np.isfinite(x).all(axis=1) & np.isfinite(y)
            clock = np.arange(len(y))
            train, test = known & (clock < half - h), known & (clock >= half)
            beta = np.linalg.lstsq(x[train], y[train], rcond=None)[0]
            smear = np.exp(y[train] - x[train] @ beta).mean()
            har = np.exp(x @ beta) * smear
            v = future[symbol].to_numpy()
            losses.append((qlike(v[test] / best[symbol].to_numpy()[test]), qlike(v[test] / har[test])))
        oracle, har_loss = np.mean(losses, axis=0)
        record_property(f"qlike_{h}h", {"best": float(oracle), "har": float(har_loss)})
        print(f"{h:>2} h  QLIKE best {oracle:.4f}  HAR {har_loss:.4f}  gain {1 - oracle / har_loss:.1%}")  # noqa: T201
        assert all(ours < theirs for ours, theirs in losses)
        assert 0.1 < 1 - oracle / har_loss < 0.6


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"days": 0}, "days"), ({"symbols": 99}, "symbols"), ({"start": "2023-01-01 05:30"}, "start")],
)
def test_bad_requests_are_refused_with_the_way_out(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        simulate(**arguments)


def test_best_forecast_refuses_horizons_that_are_none(market: Simulation) -> None:
    with pytest.raises(UsageError, match="horizons"):
        best_forecast(market.truth, [0])
