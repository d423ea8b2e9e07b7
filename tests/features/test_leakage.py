from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features import leakage
from features.errors import LeakFound, UsageError
from features.leak_report import LeakReport, differences
from features.market import Market
from features.panel import Panel
from features.pipeline import FeaturePipeline

HOUR = pd.Timedelta(hours=1)
START = pd.Timestamp("2024-01-01", tz="UTC")


@pytest.fixture(scope="module")
def small(rough_market: Market) -> Market:
    """Three of the rough markets: gaps, a late listing, a feed that stops."""
    names = list(rough_market.symbols[:3])
    tables = {name: rough_market.table(name, symbols=names) for name in ("bars", "funding")}
    return Market.from_tables(tables)


def frame(values: list[float], symbol: str = "A", **columns: list[float]) -> pd.DataFrame:
    times = pd.date_range(START, periods=len(values), freq="h", unit="us")
    index = pd.MultiIndex.from_product([[symbol], times], names=["symbol", "origin"])
    return pd.DataFrame({"x": values, **columns}, index=index)


def test_differences_are_of_bits_and_name_the_first_cell_of_each_column() -> None:
    nan = float("nan")
    expected = frame([1.0, nan, 0.1 + 0.2, 4.0], y=[1.0, 2.0, 3.0, 4.0])
    same = frame([1.0, -nan, 0.30000000000000004, 4.0], y=[1.0, 2.0, 3.0, 4.0])
    assert not differences(expected, same, "prefix", "features", START).leaks
    other = frame([1.0, nan, 0.3, 5.0], y=[1.0, 2.0, 3.0, nan])
    found = differences(expected, other, "prefix", "features", START)
    assert found.cells == {"prefix features": 8}
    cells = [(leak.column, leak.symbol, leak.time) for leak in found.leaks]
    assert cells == [("x", "A", START + 2 * HOUR), ("y", "A", START + 3 * HOUR)]
    assert differences(frame([0.0]), frame([-0.0]), "prefix", "features", START).leaks


def test_rows_and_columns_that_only_one_side_has_differ() -> None:
    lost = differences(frame([1.0, 2.0, 3.0]), frame([1.0, 2.0]), "restart", "features", START).leaks
    assert [leak.time for leak in lost] == [START + 2 * HOUR]
    # Also where the row would be empty.
    assert differences(frame([1.0, np.nan]), frame([1.0]), "prefix", "features", START).leaks
    new = differences(frame([1.0]), frame([1.0], y=[1.0]), "prefix", "features", START).leaks
    assert [leak.column for leak in new] == ["y"]


def test_the_first_bad_cell_is_the_earliest_over_symbols() -> None:
    expected = pd.concat([frame([1.0, 2.0, 3.0]), frame([1.0, 2.0, 3.0], "B")])
    other = pd.concat([frame([1.0, 2.0, 0.0]), frame([1.0, 0.0, 0.0], "B")])
    (leak,) = differences(expected, other, "prefix", "features", START + 9 * HOUR).leaks
    assert (leak.symbol, leak.time) == ("B", START + HOUR)
    report = LeakReport.of([START], [differences(expected, other, "prefix", "features", START + 9 * HOUR)], "all")
    with pytest.raises(LeakFound, match=r"table 'features', column 'x', symbol B, time 2024-01-01T01:00:00\+00:00"):
        report.raise_if_found()
    assert report.to_dict()["leaks"][0]["time"] == "2024-01-01T01:00:00+00:00"
    assert "column 'x'" in report.summary()


def test_cuts_stand_at_borders_and_at_random_and_repeat_by_seed(small: Market) -> None:
    cuts = leakage.cut_times(small, 40, seed=1)
    assert cuts == leakage.cut_times(small, 40, seed=1)
    assert cuts != leakage.cut_times(small, 40, seed=2)
    assert list(cuts) == sorted(set(cuts))
    assert len(cuts) == 40
    closes = small.bars().index.get_level_values("close_time")
    assert min(cuts) > closes.min()
    assert max(cuts) < closes.max()
    assert any(t.minute for t in cuts)
    assert sum(t.hour == 0 and t.minute == 0 for t in cuts) >= 4
    gappy = small.bars(symbols=[small.symbols[0]]).index.get_level_values("close_time")
    inside = [t for t in cuts if (gappy[gappy < t].max() + HOUR < t) and (gappy[gappy > t].min() - HOUR > t - HOUR)]
    assert inside, "one cut falls into a gap"


def test_cuts_that_do_not_fit_are_refused(small: Market) -> None:
    for count in (0, -1, 10**6):
        with pytest.raises(UsageError, match="cuts do not fit"):
            leakage.cut_times(small, count, seed=0)


@pytest.mark.parametrize("kind", ["nan", "1e300", "permutation"])
def test_poison_changes_all_that_is_known_later_and_nothing_else(small: Market, kind: str) -> None:
    t = small.bars().index.get_level_values("close_time").min() + pd.Timedelta(days=130)
    spoilt = leakage.poisoned(small, t, kind, np.random.default_rng(0))
    for name, column in (("bars", "close"), ("funding", "funding_rate")):
        before, after = small.table(name), spoilt.table(name)
        late = before["available_at"] > t
        pd.testing.assert_frame_equal(after[~late], before[~late])
        keys = ["symbol", "available_at"]
        pd.testing.assert_frame_equal(after[keys], before[keys])
        changed = (after[column] != before[column]) | after[column].isna()
        assert changed[late].mean() > 0.7  # many settlements have the same rate
        if kind == "permutation":
            assert sorted(after.loc[late, column]) == sorted(before.loc[late, column])


def test_the_shipped_code_is_clean(small: Market) -> None:
    steps: list[tuple[str, int, int]] = []
    report = leakage.check(
        small, horizons=(1, 24), cuts=8, deep_cuts=2, live_bars=6, restarts=2, progress=lambda *step: steps.append(step)
    )
    report.raise_if_found()
    assert report.first is None
    assert "No leak found" in report.summary()
    checks = {"prefix", "poison", "arrival"}
    assert {f"{check} {table}" for check in checks for table in ("features", "targets")} <= set(report.cells)
    live = report.cells.pop("live features")
    assert live > 1000
    assert min(report.cells.values()) > 10_000
    labels = [("whole history", 2), ("cuts", 8), ("live replay", 2)]
    assert steps == [(label, k, n) for label, n in labels for k in range(1, n + 1)]


def test_processes_find_the_same(small: Market) -> None:
    alone = leakage.check(small, horizons=(1,), cuts=6, live_bars=0, deep_cuts=0)
    assert leakage.check(small, horizons=(1,), cuts=6, live_bars=0, deep_cuts=0, jobs=2) == alone


def test_a_join_on_another_clock_is_found_by_delaying_the_feed(small: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Panel.as_of

    def by_label(self: Panel, rows: pd.DataFrame, values: dict[str, str], life: int) -> dict[str, np.ndarray]:
        return shipped(self, rows.assign(available_at=rows["funding_time"]), values, life)

    monkeypatch.setattr(Panel, "as_of", by_label)
    report = leakage.check(small, horizons=(1,), cuts=4, live_bars=0, deep_cuts=2)
    # Funding of this market is known at its label: nothing but a delay can show the difference.
    assert {leak.check for leak in report.leaks} == {"arrival"}
    assert {"funding_rate_1h", "age_funding"} <= {leak.column for leak in report.leaks}


def test_a_feed_that_is_deaf_to_delay_is_found(small: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Market.funding

    def everything(self: Market, exchange: str = "binance") -> pd.DataFrame:
        return shipped(small, exchange)

    monkeypatch.setattr(Market, "funding", everything)
    report = leakage.check(small, horizons=(1,), cuts=4, live_bars=0, deep_cuts=2)
    assert {(leak.check, leak.column) for leak in report.leaks} >= {("arrival", "funding_rate_1h")}


def test_a_memory_longer_than_the_warm_up_is_a_restart_leak(small: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeaturePipeline, "warmup", 100)
    report = leakage.check(small, horizons=(1,), cuts=4, live_bars=0, deep_cuts=1, seed=3)
    found = {leak.check for leak in report.leaks if leak.table == "features"}
    assert "restart" in found
    assert "prefix" not in found
    assert "log_ew_raw_192h" in {leak.column for leak in report.leaks if leak.check == "restart"}
