"""Series of which the worst is known: never traded, with a gap, with a wick a thousand times a bar's variance, delisted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_markets import START, KnownMarket, Linear
from known_walk import configured

from features.market import Market
from features.schemas import OHLC
from training.evaluation import evaluate

DAYS = 240
FIRST = pd.Timestamp(START, tz="UTC")
GAP = (FIRST + pd.Timedelta(days=200), FIRST + pd.Timedelta(days=202))
WICK = FIRST + pd.Timedelta(days=205)
# A third of the price and back within the hour: a thousand times the variance of a usual bar.
WICK_SIZE = 1.33
LAST_BAR = FIRST + pd.Timedelta(days=220)
REGULAR, GAPPY, WICKED, GONE, DEAD = (f"S{i}USDT" for i in range(5))


def irregular(*, wick: bool, dead: bool) -> Market:
    """Five symbols: a gap, the wick, an early end; the last was never traded, or is as regular as the first."""
    bars = KnownMarket.draw(Linear(), seed=9, days=DAYS, symbols=5).market(book=False).table("bars")
    closes, symbol = bars["close_time"], bars["symbol"]
    if wick:
        bars.loc[(symbol == WICKED) & (closes == WICK), "high"] *= WICK_SIZE
    if dead:
        bars.loc[symbol == DEAD, list(OHLC)] = 100.0
        turnover = ["volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume"]
        bars.loc[symbol == DEAD, turnover] = 0.0
    missing = (symbol == GAPPY) & (closes > GAP[0]) & (closes <= GAP[1])
    return Market.from_tables({"bars": bars[~missing & ~((symbol == GONE) & (closes > LAST_BAR))]})


def forecasts(folder: Path, *, wick: bool = False, dead: bool = False) -> pd.DataFrame:
    """The ensemble's rows of the last six weeks."""
    config = configured(("ewma", "har_seasonal", "har_x"), horizons=(1, 4), refit_months=1)
    end = FIRST + pd.Timedelta(days=DAYS)
    market = irregular(wick=wick, dead=dead)
    result = evaluate(market, config, start=end - pd.Timedelta(days=45), end=end, out=folder, jobs=1)
    return result.ensemble.set_index(["symbol", "horizon_hours", "origin"]).sort_index()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return forecasts(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def wicked(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return forecasts(tmp_path_factory.mktemp("wicked"), wick=True)


def of(told: pd.DataFrame, symbol: str) -> pd.DataFrame:
    """A symbol's rows, by horizon and origin."""
    return told[told.index.get_level_values("symbol") == symbol].droplevel("symbol")


def ratio(told: pd.DataFrame, clean: pd.DataFrame, symbol: str, column: str) -> pd.Series:
    """What a fault changes of a symbol's column, by horizon and origin."""
    return of(told, symbol)[column] / of(clean, symbol)[column]


def test_gaps_and_ends_have_no_rows_and_the_rest_is_well(clean: pd.DataFrame) -> None:
    assert of(clean, GONE).index.get_level_values("origin").max() == LAST_BAR
    origins = of(clean, GAPPY).index.get_level_values("origin")
    assert not ((origins > GAP[0]) & (origins <= GAP[1])).any()
    assert (origins > GAP[1]).any()
    assert (of(clean, REGULAR)["status"] == "ok").all()
    assert np.isfinite(clean["variance"]).all()
    assert (clean["variance"] > 0).all()
    largest = clean[[c for c in map(str, clean.columns) if c.startswith("mae_")]].max().max()
    assert 0.01 < largest < 0.5


def test_a_market_that_never_traded_is_told_and_spoils_no_other(clean: pd.DataFrame, tmp_path: Path) -> None:
    """Its forecasts are degraded with the reason; the others' laws stand where they stood without it."""
    told = forecasts(tmp_path, dead=True)
    dead = of(told, DEAD)
    assert not (dead["status"] == "ok").any()
    assert dead["reason"].str.contains("prices were flat for 24 hours").all()
    assert (of(clean, DEAD)["status"] == "ok").all()
    for column in ("variance", "mae_long_q995", "mae_short_q995", "ret_q010"):
        assert ratio(told, clean, REGULAR, column).between(0.7, 1.4).all(), column


def test_a_wick_rules_no_forecast_for_long(clean: pd.DataFrame, wicked: pd.DataFrame) -> None:
    """It is seen, capped, and gone within a few days."""
    change = ratio(wicked, clean, WICKED, "variance")
    origin = change.index.get_level_values("origin")
    assert change[origin < WICK].between(0.999999, 1.000001).all()
    at_once = change[(origin >= WICK) & (origin < WICK + pd.Timedelta(hours=4))]
    assert 1.5 < at_once.max() < 30
    assert change[origin > WICK + pd.Timedelta(days=4)].between(0.5, 1.9).all()


def test_a_wick_in_one_market_is_none_in_another(clean: pd.DataFrame, wicked: pd.DataFrame) -> None:
    """But for what all markets share: a level, to which a short history is drawn, and the far tail."""
    for column, most in (("variance", 1.25), ("mae_short_q950", 1.25), ("mae_short_q999", 2.0)):
        assert ratio(wicked, clean, REGULAR, column).between(0.9, most).all(), column
