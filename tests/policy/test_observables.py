"""Market series of the policy against brute force, and their blindness to the future."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from features.targets import realised
from forecaster.policy import Params
from forecaster.policy.history import conformal_factors
from forecaster.policy.observables import MarketHistory


@pytest.fixture(scope="module")
def history(market: Market, params: Params) -> MarketHistory:
    return MarketHistory(market, params)


@pytest.fixture(scope="module")
def lines(forecasts: pd.DataFrame) -> pd.DataFrame:
    return forecasts.loc[forecasts["horizon_hours"] == 24, ["symbol", "origin"]].reset_index(drop=True)


def test_the_resolved_excursion_is_the_target_a_day_later(history: MarketHistory, market: Market) -> None:
    truth = realised(market, [24]).xs(24, level="horizon_hours")
    larger = truth[["mae_long", "mae_short"]].max(axis=1, skipna=False)
    times = history.panel.times
    for row, symbol in enumerate(history.panel.symbols):
        wanted = larger[symbol].reindex(times).to_numpy()[:-24]
        np.testing.assert_allclose(history.excursion[row, 24:], wanted, rtol=1e-12)


def test_static_margin_is_the_expanding_quantile(history: MarketHistory) -> None:
    past = history.excursion[1]
    for column in (24, 100, 5000):
        seen = past[: column + 1]
        assert history.static_im[1, column] == pytest.approx(np.quantile(seen[~np.isnan(seen)], 0.995))


def test_volume_is_the_median_day(history: MarketHistory, tables: dict[str, pd.DataFrame]) -> None:
    bars = tables["bars"][tables["bars"]["symbol"] == "BTCUSDT"]
    hourly = (bars["volume"] * bars["close"]).to_numpy()
    t = 3000
    days = [hourly[s - 23 : s + 1].sum() for s in range(t - 719, t + 1)]
    assert history.daily_volume[1, t] == pytest.approx(np.median(days), rel=1e-9)


def test_hour_share_speaks_of_the_coming_hour(history: MarketHistory, lines: pd.DataFrame) -> None:
    seen = history.gather(lines).assign(hour=pd.DatetimeIndex(lines["origin"]).hour)
    by_hour = seen.groupby("hour")["hour_share"].mean()
    # Bars closing at 15:00 carry double volume, so the origin before them, 14:00, is the liquid one.
    assert by_hour.idxmax() == 14
    assert by_hour[14] == pytest.approx(2 * 24 / 25, rel=0.2)


def test_ladder_volume_is_frozen_within_the_month(history: MarketHistory, lines: pd.DataFrame) -> None:
    ladder = history.gather(lines)["ladder_volume_usd"]
    months = pd.DatetimeIndex(lines["origin"]).strftime("%Y-%m")
    assert (ladder.groupby([lines["symbol"], months]).nunique() == 1).all()
    assert ladder.nunique() == 6


def test_stress_waits_for_its_vintage(history: MarketHistory, lines: pd.DataFrame) -> None:
    at = lines.index[lines["origin"] == lines["origin"].min() + pd.Timedelta(hours=300)]
    seen, (row, column) = history.gather(lines).loc[at], history.positions(lines.loc[at])
    low, start = history.panel.field("low"), history.panel.close
    falls = np.full_like(start, np.nan)
    for t in range(24, start.shape[1]):
        falls[:, t] = np.maximum(0.0, 1 - low[:, t - 23 : t + 1].min(axis=1) / start[:, t - 24])
    for name, moves in (("stress_move", history.excursion), ("stress_fall", falls)):
        for symbol, value, t in zip(row, seen[name], column, strict=True):
            # Mark prices are those of the bars, and only one symbol has them: the others take the median symbol's.
            own = history.panel.symbols[symbol] == "BTCUSDT"
            past = moves[:, 24 : t - 24 + 1]
            assert value == pytest.approx((past[symbol] if own else np.median(past, axis=0)).max())


def test_a_short_pays_a_day_of_what_a_long_was_paid(tables: dict[str, pd.DataFrame], params: Params) -> None:
    funding = tables["funding"].head(3).assign(funding_rate=[1e-4, -3e-4, 2e-4], interval_hours=[8.0, 8.0, 4.0])
    history = MarketHistory(Market.from_tables({**tables, "funding": funding}), params)
    hours = funding["funding_time"] + pd.Timedelta(hours=1)
    lines = pd.DataFrame({"symbol": "BTCUSDT", "origin": hours})
    assert history.gather(lines)["short_funding"].tolist() == pytest.approx([-3e-4, 9e-4, -1.2e-3])


def test_absent_feeds_are_absent(history: MarketHistory, lines: pd.DataFrame) -> None:
    seen = history.gather(lines)
    btc = (lines["symbol"] == "BTCUSDT").to_numpy()
    for name in ("funding_q", "open_interest_usd"):
        assert seen.loc[btc, name].notna().all()
        assert seen.loc[~btc, name].isna().all()
    assert (seen["mark_present"] == btc).all()
    assert (seen["bar_age_hours"] == 0).all()


def test_observables_are_blind_to_the_future(
    history: MarketHistory, market: Market, lines: pd.DataFrame, params: Params
) -> None:
    cut = lines["origin"].min() + pd.Timedelta(hours=333)
    past = lines[lines["origin"] <= cut]
    then = MarketHistory(market.as_of(cut), params).gather(past)
    pd.testing.assert_frame_equal(then, history.gather(lines).loc[past.index], check_exact=True)


def test_young_symbols_use_all_symbols_pooled(market: Market, params: Params) -> None:
    start = market.bars("1h").index.get_level_values("close_time").min()
    young = MarketHistory(market.as_of(start + pd.Timedelta(days=60)), params)
    safe = young._safe_im()
    seen = young.excursion[:, :1001]
    assert safe[0, 1000] == pytest.approx(np.quantile(seen[~np.isnan(seen)], 0.995))
    assert (safe[0, 30:] == safe[2, 30:]).all()


def test_stale_bars_show_their_age(market: Market, params: Params, forecasts: pd.DataFrame) -> None:
    end = forecasts["origin"].max()
    old = MarketHistory(market.as_of(end - pd.Timedelta(hours=5)), params)
    line = pd.DataFrame({"symbol": ["BTCUSDT"], "origin": [end]})
    assert old.gather(line)["bar_age_hours"].tolist() == [5.0]


def test_conformal_factor_follows_its_recursion(params: Params) -> None:
    settings = params.conformal
    columns = np.arange(0, 60)
    quantile = np.full(60, 0.05)
    came = np.full(60, 0.01)
    came[30] = 0.10  # the 24 hours after origin 6
    found = conformal_factors(quantile, columns, came, settings, 0.005)
    assert (found[:24] == 1.0).all()
    eta = 0.0
    for t in range(24, 60):
        eta += settings.gain * ((came[t] > 0.05) - 0.005)
        assert found[t] == pytest.approx(np.exp(eta), rel=1e-12)


def test_conformal_factor_skips_what_never_resolved_and_stays_clipped(params: Params) -> None:
    hole = conformal_factors(np.full(60, 0.05), np.arange(60), np.full(60, np.nan), params.conformal, 0.005)
    assert (hole == 1.0).all()
    hit = conformal_factors(np.full(9000, 0.01), np.arange(9000), np.full(9000, 0.9), params.conformal, 0.005)
    assert hit[-1] == pytest.approx(params.conformal.factor_max)


def test_five_minute_moves_are_those_of_the_hour(tables: dict[str, pd.DataFrame], params: Params) -> None:
    hourly = tables["bars"].loc[lambda x: x["symbol"] == "BTCUSDT"].head(48)
    rng = np.random.default_rng(8)
    clock = pd.date_range(hourly["close_time"].iloc[0] - pd.Timedelta(minutes=55), periods=48 * 12, freq="5min")
    close = 100 * np.exp(np.cumsum(0.002 * rng.standard_normal(len(clock))))
    fine = pd.DataFrame({"interval": "5m", "symbol": "BTCUSDT", "close_time": clock.as_unit("us"), "close": close})
    for name in ("open", "high", "low"):
        fine[name] = close
    fine = fine.assign(volume=1.0, available_at=fine["close_time"], source="simulated").drop(index=[100])
    late = fine.index[200]
    fine.loc[late, "available_at"] += pd.Timedelta(hours=2)
    bars = pd.concat([hourly, fine], ignore_index=True)
    history = MarketHistory(Market.from_tables({"bars": bars}), params)
    found = history._five_minute_move()[0]
    for hour, time in enumerate(history.panel.times):
        returns = []
        for k in range(12):
            now, then = time - pd.Timedelta(minutes=5 * k), time - pd.Timedelta(minutes=5 * (k + 1))
            pair = fine[fine["close_time"].isin([now, then])].sort_values("close_time")
            if len(pair) == 2 and pair["available_at"].iloc[1] <= time:
                returns.append(abs(np.log(pair["close"].iloc[1] / pair["close"].iloc[0])))
        assert found[hour] == pytest.approx(max(returns)), time


def test_drawdown_of_one_unit_long_by_hand(history: MarketHistory, market: Market, params: Params) -> None:
    row = history.panel.symbols.index("BTCUSDT")
    funding = market.funding().set_index("available_at")["funding_rate"]
    prices = history.panel.field("close", "mark")[row]
    end = 5000
    wealth = [1.0]
    for t in range(1, end):
        paid = funding.get(history.panel.times[t], 0.0)
        wealth.append(wealth[-1] * (prices[t] / prices[t - 1] - paid))
    peak = max(wealth[-24 * params.exposure.peak_days :])
    assert history._drawdown()[row, end - 1] == pytest.approx(1 - wealth[-1] / peak, rel=1e-9)


def test_usual_volatility_is_the_median_of_what_was_shown(history: MarketHistory, params: Params) -> None:
    found, end = history._usual_volatility()[0], 24 * 80
    squared = history.panel.ewma(history.panel.log_return**2, params.exposure.usual_half_life_hours)[0]
    shown = np.sqrt(8760 * squared)
    assert found[end] == pytest.approx(np.nanmedian(shown[max(0, end + 1 - 24 * 365) : end + 1]), rel=1e-9)
    assert np.isnan(found[: 60 * 24 - 2]).all()


def test_a_settlement_is_paid_when_it_is_known(tables: dict[str, pd.DataFrame], params: Params) -> None:
    funding = tables["funding"].head(3).copy()
    funding.loc[1, "available_at"] += pd.Timedelta(milliseconds=20)
    paid = MarketHistory(Market.from_tables({**tables, "funding": funding}), params)._settled()[1]
    # The grid begins at 01:00 on the first day: the settlement of midnight was before it.
    assert np.flatnonzero(paid).tolist() == [8, 15]
    assert paid[[8, 15]] == pytest.approx(funding["funding_rate"].to_numpy()[1:])


def test_implied_volatility_is_that_of_the_own_underlying(tables: dict[str, pd.DataFrame], params: Params) -> None:
    clock = pd.date_range("2023-06-01", periods=24, freq="h", tz="UTC").as_unit("us")
    index = pd.DataFrame({"underlying": "BTC", "close_time": clock, "close": 50.0 + np.arange(24)})
    for name in ("open", "high", "low"):
        index[name] = index["close"]
    index = index.assign(available_at=clock, source="simulated")
    history = MarketHistory(Market.from_tables({**tables, "implied_vol": index}), params)
    found = history._implied_vol()
    at = history.panel.times.get_indexer(clock)
    assert found[1, at] == pytest.approx(0.5 + 0.01 * np.arange(24))
    assert found[1, at[-1] + 3] == pytest.approx(0.73)
    assert np.isnan(found[1, at[-1] + 4])
    assert np.isnan(found[[0, 2]]).all()


def test_a_feed_that_falls_silent_is_lost_for_ninety_days(tables: dict[str, pd.DataFrame], params: Params) -> None:
    end = pd.Timestamp("2023-06-01", tz="UTC")
    silent = {**tables, "open_interest": tables["open_interest"][tables["open_interest"]["available_at"] <= end]}
    history = MarketHistory(Market.from_tables(silent), params)
    seen = history._series()["feed_lost"]
    row = history.panel.symbols.index("BTCUSDT")
    lost = history.panel.times[np.flatnonzero(seen[row])]
    assert lost[0] == end + pd.Timedelta(hours=25)
    assert pd.Timedelta(days=89) < lost[-1] - end <= pd.Timedelta(days=92)
    assert not seen[[0, 2]].any()  # never had: absent, not lost
    quiet = {**tables, "funding": tables["funding"][tables["funding"]["available_at"] <= end]}
    unsettled = MarketHistory(Market.from_tables(quiet), params)._series()["feed_lost"][row]
    assert history.panel.times[np.flatnonzero(unsettled)[0]] == end + pd.Timedelta(hours=25)


def gathered(tables: dict[str, pd.DataFrame], params: Params, hours: pd.DatetimeIndex) -> pd.DataFrame:
    lines = pd.DataFrame({"symbol": "BTCUSDT", "origin": hours})
    return MarketHistory(Market.from_tables(tables), params).gather(lines)


def test_funding_is_read_by_the_hour_across_a_change_of_its_interval(
    tables: dict[str, pd.DataFrame], params: Params
) -> None:
    """One cost of holding, settled every 8, 1 and again 8 hours: what falls due in a day is the same throughout."""
    first = tables["funding"]["funding_time"].iloc[0]
    spacing = np.repeat([8.0, 1.0, 8.0], [60, 480, 10])
    clock = (first + pd.to_timedelta(np.cumsum(spacing), unit="h")).astype(tables["funding"]["funding_time"].dtype)
    funding = pd.DataFrame(
        {
            "exchange": "binance",
            "symbol": "BTCUSDT",
            "funding_time": clock,
            "funding_rate": 1e-5 * spacing,
            "interval_hours": spacing,
            "available_at": clock,
            "source": "simulated",
        }
    )
    seen = gathered({**tables, "funding": funding}, params, pd.DatetimeIndex(clock))
    np.testing.assert_allclose(24 / seen["funding_interval_hours"] * seen["funding_q"], 24e-5, rtol=1e-12)
    unsaid = funding.assign(interval_hours=np.where(np.arange(550) % 7 == 3, np.nan, spacing))
    known = gathered({**tables, "funding": unsaid}, params, pd.DatetimeIndex(clock))
    assert known[["funding_q", "funding_interval_hours", "short_funding"]].notna().all().all()


def test_the_hour_after_a_hole_still_shows_its_move(tables: dict[str, pd.DataFrame], params: Params) -> None:
    bars = tables["bars"].reset_index(drop=True)
    at = bars.index[bars["symbol"] == "BTCUSDT"][5000]
    bars.loc[at, "low"] = 0.7 * bars.loc[at, "open"]
    hours = pd.DatetimeIndex([bars.loc[at, "close_time"]])
    whole = gathered({**tables, "bars": bars}, params, hours)["hour_move"]
    holed = gathered({**tables, "bars": bars.drop(index=[at - 2, at - 1])}, params, hours)["hour_move"]
    assert whole.tolist() == pytest.approx([0.3])
    assert holed.tolist() == pytest.approx([0.3])


def test_a_price_off_its_mark_shows_after_three_hours(tables: dict[str, pd.DataFrame], params: Params) -> None:
    mark = tables["mark"].copy()
    away = slice(5000, 5006)
    prices = ["open", "high", "low", "close"]
    mark.iloc[away, mark.columns.get_indexer(prices)] *= 1.1
    hours = pd.DatetimeIndex(mark["close_time"].iloc[4998:5008])
    gap = gathered({**tables, "mark": mark}, params, hours)["mark_gap"]
    off = 1 - 1 / 1.1
    assert gap.tolist() == pytest.approx([0, 0, 0, 0, off, off, off, off, 0, 0])
    # Spot speaks: where it stands with the last price, the mark itself is in doubt.
    spot = tables["bars"][tables["bars"]["symbol"] == "BTCUSDT"].drop(columns="quote_volume", errors="ignore")
    doubted = gathered({**tables, "mark": mark, "spot": spot}, params, hours)["mark_gap"]
    assert doubted.tolist() == pytest.approx([0.0] * 10)
    silent = gathered({**tables, "mark": mark.drop(index=mark.index[5003])}, params, hours)["mark_gap"]
    assert silent.isna().tolist() == [False] * 5 + [True] * 3 + [False] * 2
