"""What a planted leak is tried on: small markets with every irregularity, and the check that must name the leak.

A test plants one leak by patching the shipped code path, and declares which check must find it, which columns must be
named, and which must not be accused. ``pytest tests/leakage --catalogue`` prints all of them with the first named cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features import leakage
from features.errors import LeakFound
from features.leak_report import LeakReport
from features.market import Market
from features.pipeline import FeaturePipeline
from features.schemas import OHLC, TABLES
from features.sources.simulated import simulate
from features.store import Store
from training.config import RunConfig
from training.leakcheck import check_forecasts

HOUR = pd.Timedelta(hours=1)
DAY = pd.Timedelta(days=1)
PROPERTY = "planted leak"
# What no price decides: the clock of the origin, of a listing and of a feed.
VALUES = r"^(?!hour$|weekday$|log_listing_age$|age_|target_end$)"

USUAL: dict[str, Any] = {
    "of": "market",
    "tables": ("bars",),
    "intervals": ("1h",),
    "horizons": (1,),
    "deep_cuts": 0,
    "live_bars": 0,
    "restarts": 2,
    "seed": 1,
}
# Leaks that need the same families and feeds share a sample: the shipped code is checked once for all of them.
SAMPLES: dict[str, dict[str, Any]] = {
    "history": {"families": ("memory", "path", "calendar"), "cuts": 12, "seed": 2},
    "cross": {"families": ("cross", "comovement"), "cuts": 8},
    "funded": {"families": ("funding", "venues", "volume"), "tables": ("bars", "funding"), "cuts": 14},
    "daily": {"families": ("macro",), "tables": ("bars", "daily"), "cuts": 8},
    "implied": {"families": ("implied",), "tables": ("bars", "implied_vol"), "cuts": 14},
    "interest": {"families": ("open_interest",), "tables": ("bars", "open_interest"), "cuts": 8},
    "flow": {"families": ("flow",), "cuts": 8},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--catalogue", action="store_true", help="list the planted leaks and the first cell named of each")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    passed = terminalreporter.stats.get("passed", [])
    found = [value for report in passed for name, value in report.user_properties if name == PROPERTY]
    if found and config.getoption("--catalogue", default=False):
        terminalreporter.section(f"{len(found)} planted leaks found and named")
        for number, (leak, check, cell) in enumerate(found, start=1):
            terminalreporter.write_line(f"{number:3} {leak:48} {check:9} {cell}")


def days_since(times: pd.Series, begin: pd.Timestamp) -> pd.Series:
    return (times - begin) / DAY


@pytest.fixture(scope="session")
def market() -> Market:
    """Three markets, 45 days, all feeds.

    ETHUSDT has gaps in bars and funding, some late bars, and is delisted on day 42; the third is listed on day 15. Funding
    settles milliseconds after the hour, on two venues, and one becomes known late; open interest is known five minutes
    late, a few rows by hours; DVOL has a hole.
    """
    tables = dict(simulate(seed=3, days=45, symbols=3).tables)
    begin = tables["bars"]["close_time"].min()
    third = tables["bars"]["symbol"].unique()[2]
    for name in ("bars", "mark", "spot", "open_interest", "funding", "order_book"):
        rows = tables[name]
        clock = next(c for c in ("close_time", "event_time", "funding_time") if c in rows)
        day = days_since(rows[clock], begin)
        unlisted = (rows["symbol"] == third) & (day < 15)
        delisted = (rows["symbol"] == "ETHUSDT") & (day > 42)
        tables[name] = rows[~unlisted & ~delisted].reset_index(drop=True)
    bars = tables["bars"]
    day, hourly = days_since(bars["close_time"], begin), bars["interval"] == "1h"
    ether = bars["symbol"] == "ETHUSDT"
    bars = bars.assign(
        available_at=bars["close_time"].mask(ether & hourly & day.between(30, 30.15), bars["close_time"] + 2.2 * HOUR)
    )
    tables["bars"] = bars[~(ether & day.between(20, 20.3))]
    tables["funding"] = _venues(tables["funding"], begin)
    interest = tables["open_interest"]
    known = interest["event_time"] + pd.Timedelta(minutes=5)
    slow = (interest["symbol"] == "BTCUSDT") & (interest["event_time"].dt.hour % 6 == 3)
    tables["open_interest"] = interest.assign(available_at=known.mask(slow, known + 2.5 * HOUR))
    implied = tables["implied_vol"]
    tables["implied_vol"] = implied[~days_since(implied["close_time"], begin).between(22, 23.2)]
    return Market.from_tables(tables)


def _venues(funding: pd.DataFrame, begin: pd.Timestamp) -> pd.DataFrame:
    at = funding["funding_time"] + pd.Timedelta(milliseconds=7)
    silent = (funding["symbol"] == "ETHUSDT") & days_since(at, begin).between(25, 28)
    main = funding.assign(funding_time=at, available_at=at)[~silent]
    wobble = np.random.default_rng(0).normal(1.3, 0.2, len(main))
    other = main.assign(exchange="bybit", funding_rate=main["funding_rate"] * wobble, interval_hours=np.nan)
    return pd.concat([main, other], ignore_index=True)


@pytest.fixture(scope="session")
def listed_market() -> Market:
    """Three markets, 20 days of hourly bars, all of them listed from first to last."""
    bars = simulate(seed=4, days=20, symbols=3).tables["bars"]
    return Market.from_tables({"bars": bars[bars["interval"] == "1h"]})


@pytest.fixture(scope="session")
def long_market() -> Market:
    """Three markets, 130 days of hourly bars and funding, with a gap, a late listing and funding known late."""
    tables = simulate(seed=3, days=130, symbols=3).tables
    bars, funding = tables["bars"], tables["funding"]
    bars = bars[bars["interval"] == "1h"]
    begin, (gappy, late, _) = bars["close_time"].min(), sorted(bars["symbol"].unique())
    day = days_since(bars["close_time"], begin)
    kept = bars[~((bars["symbol"] == late) & (day < 70)) & ~((bars["symbol"] == gappy) & day.between(100, 100.3))]
    late_funding = funding.assign(available_at=funding["funding_time"] + pd.Timedelta(minutes=20))
    return Market.from_tables({"bars": kept, "funding": late_funding})


def revised(tables: dict[str, pd.DataFrame], folder: Path) -> Market:
    """A market read from a store, which got the bars of BTCUSDT of one day once more, a day later and dearer."""
    store = Store(folder)
    bars = tables["bars"]
    day = bars[(bars["symbol"] == "BTCUSDT") & (bars["close_time"].dt.day_of_year == 10)]
    prices = {name: 1.01 * day[name] for name in OHLC}
    with store.writing() as writer:
        for name, rows in tables.items():
            writer.add(rows, TABLES[name], "simulated", "first")
        writer.add(day.assign(available_at=day["available_at"] + DAY, **prices), TABLES["bars"], "simulated", "second")
    return Market.open(folder)


class Trial:
    """One planted leak: the same check is clean without it, and names it with it."""

    def __init__(self, request: pytest.FixtureRequest, clean: set[str]) -> None:
        self._request = request
        self._clean = clean
        self._constants: list[tuple[Any, str, Any]] = []
        self._leaks: list[tuple[Any, str, Any]] = []

    def constant(self, owner: Any, name: str, value: Any) -> None:
        """A constant that fits a small market, for the shipped code and for the leaky one."""
        self._constants.append((owner, name, value))

    def plant(self, owner: Any, name: str, leaky: Any) -> None:
        """Replace a part of the shipped code by one that leaks."""
        self._leaks.append((owner, name, leaky))

    def is_found_by(
        self,
        check: str,
        named: set[str],
        *,
        sample: str | None = None,
        only: str = VALUES,
        table: str = "features",
        misses: tuple[str, ...] = (),
        stored_in: Path | None = None,
        **settings: Any,
    ) -> None:
        """Check features and targets of a sample, with these settings in place of its own.

        ``named``: columns of ``table`` that ``check`` must name. ``only``: a pattern of all that may be accused; unless it
        is said, nothing that a clock decides. ``misses``: checks that cannot see this leak. ``stored_in``: a folder for a
        store of the tables, in which the bars of one day come again.
        """
        chosen = USUAL | (SAMPLES[sample] if sample else {}) | settings
        sizes = {name: value for name, value in chosen.items() if isinstance(value, int)}
        whole: Market = self._request.getfixturevalue(chosen["of"])
        bars = whole.table("bars")
        held = {name: whole.table(name) for name in chosen["tables"]}
        held["bars"] = bars[bars["interval"].isin(chosen["intervals"])]
        market = Market(None, held, whole.first_bar.reset_index())

        def run() -> LeakReport:
            read = market if stored_in is None else revised(held, stored_in)
            horizons = chosen["horizons"]
            return leakage.check(read, FeaturePipeline(chosen["families"], horizons), horizons, **sizes)

        report = self._compared(run, repr(sorted(chosen.items())))
        self._judge(report, check, table, named, only)
        assert not {leak.check for leak in report.leaks}.intersection(misses)

    def is_found_in_forecasts(
        self, named: set[str], config: RunConfig, cuts: int = 2, only: str = "", seed: int = 1
    ) -> None:
        """Check forecasts of the long market; ``named`` and ``only`` as above."""
        market: Market = self._request.getfixturevalue("long_market")
        report = self._compared(lambda: check_forecasts(market, config, cuts, seed), repr((config, cuts, seed)))
        self._judge(report, "prefix", "forecasts", named, only)

    def _compared(self, run: Callable[[], LeakReport], settings: str) -> LeakReport:
        with pytest.MonkeyPatch.context() as patch:
            for constant in self._constants:
                patch.setattr(*constant)
            key = settings + repr(self._constants)
            if key not in self._clean:
                run().raise_if_found()
                self._clean.add(key)
            for leak in self._leaks:
                patch.setattr(*leak)
            return run()

    def _judge(self, report: LeakReport, check: str, table: str, named: set[str], only: str) -> None:
        found = [leak for leak in report.leaks if (leak.check, leak.table) == (check, table)]
        assert named <= {leak.column for leak in found}, report.summary()
        accused = {leak.column for leak in report.leaks}
        assert not {column for column in accused if not re.search(only, column)}, "what is not planted is not accused"
        first = next(leak for leak in found if leak.column in named)
        assert first.time <= first.cut or check in {"arrival", "live"}
        with pytest.raises(LeakFound, match=r"table '\w+', column '\w+', symbol \w+, time 20") as error:
            report.raise_if_found()
        assert error.value.exit_code == 5
        cell = f"{first.table}.{first.column} {first.symbol} {first.time:%Y-%m-%dT%H:%MZ}"
        name = self._request.node.name.removeprefix("test_")
        self._request.node.user_properties.append(
            (PROPERTY, (name, "forecasts" if table == "forecasts" else check, cell))
        )


@pytest.fixture(scope="session")
def shipped_is_clean() -> set[str]:
    """Settings under which the shipped code has been checked, and found clean."""
    return set()


@pytest.fixture
def trial(request: pytest.FixtureRequest, shipped_is_clean: set[str]) -> Trial:
    """See ``Trial``."""
    return Trial(request, shipped_is_clean)
