from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features import leakage, schemas
from features.errors import LeakFound, UsageError
from features.leak_checks import POISONS, STRANGER, Feed, delayed, joined_by_stranger
from features.leak_cuts import placed
from features.leak_report import LeakReport, Part, differences
from features.leak_revisions import revisions
from features.market import Market
from features.panel import Panel
from features.pipeline import FeaturePipeline
from features.store import Store

HOUR = pd.Timedelta(hours=1)
START = pd.Timestamp("2024-01-01", tz="UTC")

FUNDED = FeaturePipeline(("memory", "calendar", "funding"), (1,))


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


def test_a_part_of_a_frame_is_compared_without_its_other_rows() -> None:
    whole = pd.concat([frame([1.0, 2.0, 3.0]), frame([4.0, 5.0, 6.0], "B")])
    upto = START + HOUR
    other = whole[whole.index.get_level_values("origin") <= upto]
    part = Part.of(whole, None, upto)
    assert part.index.equals(other.index)
    found = differences(part, other, "prefix", "features", upto)
    assert not found.leaks
    assert found.cells == {"prefix features": 4}
    (leak,) = differences(part, other.assign(x=[1.0, 2.0, 4.0, 9.0]), "prefix", "features", upto).leaks
    assert (leak.symbol, leak.time) == ("B", upto)
    (alone,) = differences(Part.of(whole, START, upto), other, "prefix", "features", upto).leaks
    assert alone.time == START
    (none,) = differences(Part.of(whole, upto + 9 * HOUR), other, "prefix", "features", upto).leaks
    assert none.time == START


def test_a_part_hides_what_speaks_of_intervals_that_end_later() -> None:
    values = frame([1.0, 2.0, 3.0]).rename(columns={"x": "variance"})
    values.insert(0, "target_end", values.index.get_level_values("origin") + HOUR)
    values["trailing_variance"] = values["variance"]
    known = START + 2 * HOUR
    shown = values.assign(variance=[1.0, 2.0, np.nan])
    assert not differences(Part.of(values, known=known), shown, "prefix", "targets", known).leaks
    assert differences(Part.of(values), shown, "prefix", "targets", known).leaks
    (leak,) = differences(Part.of(values, known=known), values, "prefix", "targets", known).leaks
    assert (leak.column, leak.time) == ("variance", known)


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


def test_every_kind_of_border_gets_every_poison(small: Market) -> None:
    cuts = placed(small, 60, seed=0)
    borders = {"gap", "edge", "arrival", "day", "week", "anywhere"}
    assert {cut.kind for cut in cuts} == borders, "no row of this market is known late"
    tasks = leakage._poisons(cuts)
    assert [task.at for task in tasks] == [cut.at for cut in cuts]
    assert {(cut.kind, task.poison) for cut, task in zip(cuts, tasks, strict=True)} == {
        (kind, poison) for kind in borders for poison in POISONS
    }


def test_a_cut_stands_where_a_row_had_happened_and_was_not_known(small: Market) -> None:
    funding = small.table("funding")
    late = small.with_tables(funding=funding.assign(available_at=funding["available_at"] + pd.Timedelta(minutes=5)))
    settled = set(funding["funding_time"])
    found = [cut.at for cut in placed(late, 40, seed=0) if cut.kind == "late"]
    assert len(found) >= 2
    assert settled.issuperset(found)


def test_feeds_are_delayed_from_the_cut_on_each_by_its_own(small: Market) -> None:
    t = small.bars().index.get_level_values("close_time").min() + pd.Timedelta(days=100)
    symbol = small.symbols[0]
    delays = {Feed("funding"): 5 * HOUR, Feed("bars", "1h", symbol): 30 * HOUR}
    late = delayed(small, delays, t)
    for name, delay, hit in (("funding", 5 * HOUR, slice(None)), ("bars", 30 * HOUR, symbol)):
        key = list(schemas.TABLES[name].identity)
        before, after = (market.table(name).set_index(key)["available_at"] for market in (small, late))
        moved = before > t
        if hit == symbol:
            moved &= (before.index.get_level_values("symbol") == symbol) & (before.index.get_level_values(0) == "1h")
        pd.testing.assert_series_equal(after, before.mask(moved, before + delay))
        assert 0 < moved.sum() < len(moved)


def test_latencies_are_declared() -> None:
    told = {name: table.latency for name, table in schemas.TABLES.items() if table.latency}
    assert told == {"open_interest": pd.Timedelta(minutes=5), "daily": pd.Timedelta(days=1)}


def test_a_stranger_joins_just_after_the_cut(small: Market) -> None:
    t = small.bars().index.get_level_values("close_time").min() + pd.Timedelta(days=90)
    joined = joined_by_stranger(small, t)
    assert joined.symbols == (STRANGER, *small.symbols)
    assert joined.table("bars", symbols=[STRANGER])["available_at"].min() > t
    pd.testing.assert_frame_equal(joined.table("bars", symbols=small.symbols), small.table("bars"))
    assert list(joined.first_bar[joined.first_bar > t].unique()) == [t + HOUR]
    assert joined.first_bar[small.symbols[0]] == small.first_bar[small.symbols[0]]


def test_imports_of_the_same_key_are_merged_as_they_became_known(small: Market, tmp_path: Path) -> None:
    assert revisions(small).cells == {}
    bars = small.table("bars", "1h", symbols=[small.symbols[0]]).iloc[:100]
    again = bars.iloc[40:60].assign(close=bars["close"] * 1.1, available_at=bars["available_at"] + 50 * HOUR)
    store = Store(tmp_path)
    with store.writing() as writer:
        writer.add(bars, schemas.TABLES["bars"], "simulated", "first")
        writer.add(again, schemas.TABLES["bars"], "parquet", "second")
    # Another, preferred source: its rows hide the first ones until they are known, and change none.
    found = revisions(Market.open(tmp_path))
    assert not found.leaks
    assert found.cells["prefix bars"] > 0


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
    report = leakage.check(small, FUNDED, horizons=(1,), cuts=4, live_bars=0, deep_cuts=2)
    # Funding of this market is known at its label: nothing but a delay can show the difference.
    assert {leak.check for leak in report.leaks} == {"arrival"}
    assert {"funding_rate_1h", "age_funding"} <= {leak.column for leak in report.leaks}


def test_a_feed_that_is_deaf_to_delay_is_found(small: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Market.funding

    def everything(self: Market, exchange: str = "binance") -> pd.DataFrame:
        return shipped(small, exchange)

    monkeypatch.setattr(Market, "funding", everything)
    report = leakage.check(small, FUNDED, horizons=(1,), cuts=4, live_bars=0, deep_cuts=2)
    assert {(leak.check, leak.column) for leak in report.leaks} >= {("arrival", "funding_rate_1h")}


def test_a_memory_longer_than_the_warm_up_is_a_restart_leak(small: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeaturePipeline, "warmup", 100)
    report = leakage.check(small, horizons=(1,), cuts=4, live_bars=0, deep_cuts=1, seed=3)
    found = {leak.check for leak in report.leaks if leak.table == "features"}
    assert "restart" in found
    assert "prefix" not in found
    assert "log_ew_raw_192h" in {leak.column for leak in report.leaks if leak.check == "restart"}
