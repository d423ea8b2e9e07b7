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


def test_stress_waits_for_its_vintage(history: MarketHistory, market: Market) -> None:
    gathered = history._stress_move()
    row = history.panel.symbols.index("BTCUSDT")
    t = 9000
    assert gathered[row, t] == pytest.approx(np.nanmax(history.excursion[row, : t - 24 + 1]))
    other = history.panel.symbols.index("ADAUSDT")
    median = np.nanmedian(history.excursion[:, 24 : t - 24 + 1], axis=0)
    assert gathered[other, t] == pytest.approx(median.max())


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
