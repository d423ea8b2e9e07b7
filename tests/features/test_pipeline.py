from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid, UsageError
from features.families import Column
from features.leak_report import differences
from features.leakage import cut_times
from features.market import Market
from features.panel import SEASON_HOURS, Panel
from features.pipeline import DEFAULT_FAMILIES, FAMILIES, FeaturePipeline
from features.schemas import TABLES
from features.sources import import_data
from features.sources.simulated import simulate

HOUR = pd.Timedelta(hours=1)


@pytest.fixture(scope="module")
def pipeline() -> FeaturePipeline:
    """Every family there is, in the default or not."""
    return FeaturePipeline(tuple(FAMILIES))


@pytest.fixture(scope="module")
def long_market() -> Market:
    """Longer than the warm-up, so that a restart truly forgets."""
    return Market.from_tables(dict(simulate(seed=4, days=1000, symbols=2).tables))


@pytest.fixture(scope="session")
def real_market(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Market:
    """Three real markets, listed years apart, with quarters of an hour and funding where there are any."""
    folder = tmp_path_factory.mktemp("real")
    for file in (real_data / "freqtrade" / "futures").iterdir():
        if file.name.split("_")[0] in {"BTC", "XRP", "SOL"} and "mark" not in file.name:
            shutil.copy(file, folder)
    import_data("freqtrade", folder, folder / "store")
    return Market.open(folder / "store")


def assert_same(expected: pd.DataFrame, found: pd.DataFrame, cut: pd.Timestamp) -> None:
    """Same rows and same bits, any NaN being like any other."""
    assert expected.index.equals(found.index)
    leaks = differences(expected, found, "prefix", "features", cut).leaks
    assert not leaks, leaks[0]


def upto(frame: pd.DataFrame, t: pd.Timestamp, after: pd.Timestamp | None = None) -> pd.DataFrame:
    origin = frame.index.get_level_values("origin")
    return frame[(origin <= t) & (True if after is None else origin > after)]


def test_law_t_on_a_rough_simulated_market(rough_market: Market, pipeline: FeaturePipeline) -> None:
    whole = pipeline.transform(rough_market)
    for t in cut_times(rough_market, 20, seed=1):
        assert_same(upto(whole, t), pipeline.transform(rough_market.as_of(t)), t)


def test_a_restart_on_the_warm_up_alone_has_the_same_bits(long_market: Market, pipeline: FeaturePipeline) -> None:
    whole = pipeline.transform(long_market)
    last = long_market.bars().index.get_level_values("close_time").max()
    for back in (0, 1, 23, 24 * 7 + 5, 24 * 60):
        t = last - HOUR * back
        restarted = pipeline.transform(long_market.as_of(t).since(t - HOUR * pipeline.warmup))
        assert_same(upto(whole, t, t - HOUR), upto(restarted, t, t - HOUR), t)
    # It must be possible to fail: a year is not enough.
    short = pipeline.transform(long_market.since(last - HOUR * 8760))
    assert differences(upto(whole, last, last - HOUR), upto(short, last, last - HOUR), "restart", "", last).leaks


@pytest.mark.real
def test_law_t_and_restarts_on_real_markets(real_market: Market, pipeline: FeaturePipeline) -> None:
    whole = pipeline.transform(real_market)
    listing = real_market.first_bar["SOLUSDT"]
    for t in (listing, *cut_times(real_market, 3, seed=2)):
        assert_same(upto(whole, t), pipeline.transform(real_market.as_of(t)), t)
        restarted = pipeline.transform(real_market.as_of(t).since(t - HOUR * pipeline.warmup))
        assert_same(upto(whole, t, t - HOUR), upto(restarted, t, t - HOUR), t)


def arrivals(market: Market, after: pd.Timestamp | None, until: pd.Timestamp) -> dict[str, pd.DataFrame]:
    """All tables' rows that became known in ``(after, until]``."""
    tables = {name: market.as_of(until).table(name) for name in TABLES}
    if after is not None:
        tables = {name: rows[rows["available_at"] > after] for name, rows in tables.items()}
    return {name: rows for name, rows in tables.items() if len(rows)}


@pytest.mark.parametrize("day", [100.2, 110.4, 119.9])  # a listing, a gap, the end of a feed
def test_bar_by_bar_is_the_batch(rough_market: Market, pipeline: FeaturePipeline, day: float) -> None:
    whole = pipeline.transform(rough_market)
    begin = rough_market.bars().index.get_level_values("close_time").min()
    start = (begin + pd.Timedelta(days=day)).ceil("h")
    live = FeaturePipeline(tuple(FAMILIES))
    for step in range(7):
        t = start + HOUR * step
        row = live.update(arrivals(rough_market, None if step == 0 else t - HOUR, t))
        assert_same(upto(whole, t, t - HOUR), row, t)


def test_a_listing_that_no_table_announced_has_the_past_of_the_market(pipeline: FeaturePipeline) -> None:
    """Its own series begin with it; those of the whole market do not."""
    tables = dict(simulate(seed=9, days=60, symbols=4).tables)
    listing = tables["bars"]["close_time"].min().floor("D") + pd.Timedelta(days=50)
    late = sorted(tables["bars"]["symbol"].unique())[1]
    for name, rows in tables.items():
        if "symbol" in rows:
            tables[name] = rows[(rows["symbol"] != late) | (rows["available_at"] > listing)]
    market = Market.from_tables(tables)
    whole = pipeline.transform(market)
    live = FeaturePipeline(tuple(FAMILIES))
    live.update(arrivals(market, None, listing - 2 * HOUR))
    for step in range(-1, 30):
        t = listing + HOUR * step
        assert_same(upto(whole, t, t - HOUR), live.update(arrivals(market, t - HOUR, t)), t)
    assert late in market.as_of(t).symbols


def test_update_names_what_it_needs(pipeline: FeaturePipeline) -> None:
    with pytest.raises(DataInvalid, match="'bars'"):
        FeaturePipeline.default().update({})
    rows = simulate(seed=1, days=3, symbols=2).tables
    last = rows["bars"]["close_time"].max()
    market = Market.from_tables(dict(rows))
    live = FeaturePipeline(families=("calendar",))
    live.update(arrivals(market, None, last - HOUR))
    with pytest.raises(DataInvalid, match=r"'bars'.*before the last origin.*pass each row with the first origin"):
        live.update(arrivals(market, last - 2 * HOUR, last))
    funding = rows["funding"].iloc[[-1]].assign(funding_time=last + HOUR, available_at=last + HOUR)
    early = arrivals(market, last - HOUR, last) | {"funding": funding}
    with pytest.raises(DataInvalid, match=r"'funding'.*after this origin"):
        live.update(early)
    with pytest.raises(DataInvalid, match="closing after"):
        live.update({})
    with pytest.raises(UsageError, match="unknown feature families"):
        FeaturePipeline(families=("memory", "horoscope"))


def test_every_column_is_described_once(rough_market: Market, pipeline: FeaturePipeline) -> None:
    described = pipeline.describe()
    made = pipeline.transform(rough_market.as_of("2023-01-20"))
    assert list(described["name"]) == list(made.columns)
    assert described["name"].is_unique
    assert len(described) >= 260
    assert set(described["sign"]) == {"+", "-", "±"}
    assert set(described["group"]) == {"history", "scheduled", "cross", "funding", "flow", "implied"}
    assert set(FeaturePipeline.default().describe()["family"]) == set(DEFAULT_FAMILIES) <= set(FAMILIES)
    assert (made.dtypes == "float64").all()
    assert set(described["family"]) == set(FAMILIES)
    assert (described[["formula", "unit", "feeds"]] != "").all(axis=None)
    assert described["lookback"].between(0, pipeline.warmup).all()
    feeds = {feed.split(".")[0].split(" ")[0] for text in described["feeds"] for feed in text.split(", ")}
    assert feeds <= {*TABLES, "clock", "symbols"}


def test_a_chosen_family_gives_the_same_columns(rough_market: Market, pipeline: FeaturePipeline) -> None:
    view = rough_market.as_of("2023-02-20")
    few = FeaturePipeline(families=("funding", "cross")).transform(view)
    assert_same(pipeline.transform(view)[list(few.columns)], few, view.asof or pd.NaT)


def test_documented_look_backs_are_enough(long_market: Market, pipeline: FeaturePipeline) -> None:
    described = pipeline.describe().set_index("name")
    last = long_market.bars().index.get_level_values("close_time").max()
    newest = pipeline.transform(long_market).xs(last, level="origin")
    # The cap of a bar's variance reads a day and a bar more, a rate is carried for a day.
    margin, season = 26, SEASON_HOURS + 168
    seasonal: set[str] = set()
    groups = described.groupby("lookback").groups

    def wrong(reach: int, columns: list[str]) -> list[str]:
        again = pipeline.transform(long_market.since(last - HOUR * reach)).xs(last, level="origin")
        return [name for name in columns if not np.array_equal(again[name], newest[name], equal_nan=True)]

    for lookback, columns in groups.items():
        seasonal.update(wrong(lookback + margin, list(columns)))
    for lookback in (1, 24, 168, max(groups)):
        assert not wrong(lookback + margin + season, [n for k, names in groups.items() if k <= lookback for n in names])
    assert not wrong(pipeline.warmup, list(described.index))
    assert set(described.loc[sorted(seasonal), "family"]) <= {
        *("memory", "path", "calendar", "cross", "realised", "comovement", "volume", "open_interest")
    }
    assert {name for name in seasonal if described.loc[name, "family"] == "realised"} <= {
        "log_rv_15m_1h",
        "log_rv_15m_24h",
    }


def test_missing_feeds_are_nan_with_an_age(rough_market: Market, pipeline: FeaturePipeline) -> None:
    made = pipeline.transform(rough_market)
    mute = rough_market.symbols[2]
    last = made.loc[mute].iloc[-1]
    assert np.isnan(last["funding_rate_1h"])
    assert last["age_funding"] == 720
    bare = rough_market.table("bars", "1h")[
        ["interval", "symbol", "close_time", "open", "high", "low", "close", "volume"]
    ]
    plain = pipeline.transform(Market.from_tables({"bars": bare}))
    described = pipeline.describe().set_index("name")
    absent = described.index[~described["feeds"].isin(["bars", "clock", "symbols"])]
    clock = {"hours_to_funding"}  # eight hours is the convention until a settlement is seen
    for name in absent:
        if name.startswith("age_"):
            assert (plain[name] == 720).all(), name
        elif name not in clock:
            assert plain[name].isna().all(), name
    assert list(plain.columns) == list(made.columns)


def test_a_listing_years_ago_is_read_from_the_symbols_table(long_market: Market) -> None:
    last = long_market.bars().index.get_level_values("close_time").max()
    view = long_market.since(last - pd.Timedelta(days=3))
    columns: dict[str, Column] = {c.name: c for c in FAMILIES["calendar"]().columns(Panel(view))}
    assert columns["log_listing_age"].values[0, -1] == np.log1p(730)


def test_an_update_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    market = Market.from_tables(dict(simulate(seed=2, days=6, symbols=3).tables))
    last = market.table("bars", "1h")["close_time"].max()
    live, calm = FeaturePipeline(), FeaturePipeline()
    for pipeline in (live, calm):
        pipeline.update(arrivals(market, None, last - 2 * HOUR))
    shipped, calls = Panel.sd, 0

    def breaks(self: Panel, *given: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        return shipped(self, *given, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Panel, "sd", breaks)
        with pytest.raises(MemoryError):
            live.update(arrivals(market, last - 2 * HOUR, last - HOUR))
    for t in (last - HOUR, last):
        assert_same(calm.update(arrivals(market, t - HOUR, t)), live.update(arrivals(market, t - HOUR, t)), t)


def test_a_column_of_another_shape_is_refused(rough_market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = FAMILIES["calendar"].columns
    monkeypatch.setattr(
        FAMILIES["calendar"],
        "columns",
        lambda self, panel: (replace(c, values=c.values[:1]) for c in shipped(self, panel)),
    )
    with pytest.raises(AssertionError, match=r"log_season_ahead_1h has shape \(1, "):
        FeaturePipeline().transform(rough_market)
