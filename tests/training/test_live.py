"""The live forecaster against ``serving.forecast`` of the whole market at the same origin, to the bit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from features.errors import DataInvalid, DataStale, UsageError
from features.market import Market
from features.replay import arrivals
from models import table
from training import live
from training.config import Component, RunConfig
from training.live import LiveForecaster
from training.serving import fit, forecast

BORDER = pd.Timestamp("2023-06-01", tz="UTC")
NOW = pd.Timestamp("2024-02-03 04:05:06", tz="UTC")
URI = "models:/forecaster@champion"
HOUR = pd.Timedelta(hours=1)


@pytest.fixture(scope="module")
def folder(market: Market, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of member."""
    more = tuple(Component(kind=kind) for kind in ("har_x", "garch"))
    full = config.model_copy(update={"members": (*config.members, *more)})
    return fit(market, full, as_of=BORDER, out=tmp_path_factory.mktemp("models") / "full", jobs=1)


@pytest.fixture(scope="module")
def small(market: Market, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without boosters, which are tried in a child process whenever they are read."""
    plain = config.model_copy(update={"members": config.members[:-1]})
    return fit(market, plain, as_of=BORDER, out=tmp_path_factory.mktemp("models") / "small", jobs=1)


def begun(market: Market, folder: Path, at: pd.Timestamp) -> LiveForecaster:
    return LiveForecaster(folder, market.as_of(at), model_uri=URI)


def pushed(forecaster: LiveForecaster, rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return forecaster.push(rows, made_at=NOW, checked=False)


def assert_served(found: pd.DataFrame, market: Market, folder: Path, at: pd.Timestamp) -> None:
    """``data_sha256`` speaks of the market that was handed over, and the live one was handed over in parts."""
    expected = forecast(market, folder, as_of=at, model_uri=URI, made_at=NOW)
    assert set(found["origin"]) == {at}
    table.validate(found)
    pd.testing.assert_frame_equal(
        found.drop(columns="data_sha256"), expected.drop(columns="data_sha256"), check_exact=True
    )


def test_all_members_are_served_hour_by_hour_as_at_once(market: Market, folder: Path) -> None:
    """From some hours after the fit over the first refresh of the day."""
    start = BORDER + 20 * HOUR
    forecaster = begun(market, folder, start)
    for step, rows in enumerate(arrivals(market, start, start + 6 * HOUR)):
        found = pushed(forecaster, rows)
        if step in (0, 4, 5):
            assert_served(found, market, folder, forecaster.origin)
    assert len(found) == 3 * 2 * 8


def test_a_week_of_hours_is_served_as_at_once(market: Market, small: Path) -> None:
    """Over stale funding, the refresh of 12 June and flat prices."""
    start = pd.Timestamp("2023-06-09 12:00", tz="UTC")
    looked_at = [
        pd.Timestamp(t, tz="UTC") for t in ("2023-06-09 20:00", "2023-06-12 00:00", "2023-06-14", "2023-06-16 12:00")
    ]
    forecaster = begun(market, small, start)
    seen = []
    for rows in arrivals(market, start, looked_at[-1]):
        found = pushed(forecaster, rows)
        if forecaster.origin in looked_at:
            seen.append(forecaster.origin)
            assert_served(found, market, small, forecaster.origin)
    assert seen == looked_at


def test_an_outage_is_caught_up_with_in_one_push(market: Market, small: Path) -> None:
    start = BORDER + 30 * HOUR
    hours = list(arrivals(market, start, start + 40 * HOUR))
    names = {name for rows in hours for name in rows}
    missed = {name: pd.concat([rows[name] for rows in hours if name in rows]) for name in names}
    forecaster = begun(market, small, start)
    assert_served(pushed(forecaster, missed), market, small, start + 40 * HOUR)
    for rows in arrivals(market, start + 40 * HOUR, start + 42 * HOUR):
        found = pushed(forecaster, rows)
    assert_served(found, market, small, start + 42 * HOUR)


def test_an_hour_without_any_bar_is_an_hour_without_forecasts(market: Market, small: Path) -> None:
    start = BORDER + 50 * HOUR
    bars = market.table("bars")
    dark = (bars["close_time"] > start + 3 * HOUR) & (bars["close_time"] <= start + 8 * HOUR)
    holed = market.with_tables(bars=bars[~dark])
    forecaster = begun(holed, small, start)
    for rows in arrivals(holed, start, start + 14 * HOUR):
        found = pushed(forecaster, rows)
        if forecaster.origin in (start + 9 * HOUR, start + 14 * HOUR):
            assert_served(found, holed, small, forecaster.origin)


@pytest.mark.parametrize("mentioned", [-20, 2, 4], ids=["before the start", "while it runs", "with its first bar"])
def test_a_symbol_may_be_listed_while_it_runs(market: Market, small: Path, mentioned: int) -> None:
    """One that the model never saw; its funding may be there before its first bar."""
    start, listed = BORDER + 20 * HOUR, BORDER + 24 * HOUR
    tables = {}
    for name in ("bars", "mark", "spot", "funding", "open_interest"):
        rows = market.table(name)
        other = rows[(rows["symbol"] == "BTCUSDT") & (rows["available_at"] > start + mentioned * HOUR)]
        if name in ("bars", "mark", "spot"):
            other = other[other["close_time"] > listed]
        tables[name] = pd.concat([rows, other.assign(symbol="ADAUSDT")])
    first = pd.concat(
        [market.first_bar.reset_index(), pd.DataFrame({"symbol": ["ADAUSDT"], "first_bar": [listed + HOUR]})]
    )
    wider = market.with_tables(**tables).with_symbols(first)
    forecaster = begun(wider, small, start)
    for rows in arrivals(wider, start, listed + 30 * HOUR):
        found = pushed(forecaster, rows)
        if forecaster.origin in (listed, listed + HOUR, listed + 2 * HOUR, listed + 30 * HOUR):
            assert_served(found, wider, small, forecaster.origin)
    assert set(found["symbol"]) == {"ADAUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT"}


def test_what_it_remembers_does_not_grow(market: Market, small: Path) -> None:
    """Its whole state, packed: once every memory has its width, each hour leaves as much as the one before."""
    forecaster = begun(market, small, BORDER)
    sizes = []
    for rows in arrivals(market, BORDER, BORDER + 24 * HOUR):
        pushed(forecaster, rows)
        sizes.append(len(pickle.dumps(forecaster)))
    # The tape's own look-back is longer than this market: its newest columns are still being added to.
    tape = [len(pickle.dumps(forecaster._market))]
    for rows in arrivals(market, BORDER + 24 * HOUR, BORDER + 25 * HOUR):
        pushed(forecaster, rows)
        tape.append(len(pickle.dumps(forecaster._market)))
    grown = tape[1] - tape[0]
    assert abs(sizes[-1] - sizes[-2] - grown) < 200
    assert abs(sizes[-1] - sizes[0] - 23 * grown) < 2000


def test_refused_rows_leave_everything_as_it_was(market: Market, small: Path) -> None:
    start = BORDER + 5 * HOUR
    forecaster = begun(market, small, start)
    first, second = arrivals(market, start, start + 2 * HOUR)
    pushed(forecaster, first)
    with pytest.raises(DataInvalid, match="closing after"):
        pushed(forecaster, first)
    broken = second["bars"].assign(close=-1.0)
    with pytest.raises(DataInvalid, match="close"):
        forecaster.push(second | {"bars": broken}, made_at=NOW)
    assert_served(pushed(forecaster, second), market, small, start + 2 * HOUR)


def test_a_push_interrupted_midway_is_not_gone_on_from(
    market: Market, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = BORDER + 5 * HOUR
    forecaster = begun(market, small, start)
    first, second = arrivals(market, start, start + 2 * HOUR)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(live, "_table", stopped)
        with pytest.raises(KeyboardInterrupt):
            pushed(forecaster, first)
    with pytest.raises(UsageError, match="begin again"):
        pushed(forecaster, second)


def test_every_push_moves_the_hash_of_the_data(market: Market, small: Path) -> None:
    start = BORDER + 5 * HOUR
    hashes = []
    for _ in range(2):
        forecaster = begun(market, small, start)
        hashes.append(
            [set(pushed(forecaster, rows)["data_sha256"]) for rows in arrivals(market, start, start + 2 * HOUR)]
        )
    assert hashes[0] == hashes[1]
    assert all(len(of_push) == 1 for of_push in hashes[0])
    assert hashes[0][0] != hashes[0][1]


def test_data_older_than_the_fit_are_refused(market: Market, small: Path) -> None:
    with pytest.raises(DataStale, match="fitted as of 2023-06-01"):
        begun(market, small, BORDER - HOUR)


def test_the_new_hour_may_not_be_known_too_early(market: Market, small: Path) -> None:
    """A row of the hour after moves nothing, since it is refused."""
    start = BORDER + 5 * HOUR
    first, second = arrivals(market, start, start + 2 * HOUR)
    early = {"bars": pd.concat([first["bars"], second["bars"].assign(close_time=start + HOUR, symbol="XUSDT")])}
    with pytest.raises(DataInvalid, match="after this origin"):
        pushed(begun(market, small, start), first | early)
