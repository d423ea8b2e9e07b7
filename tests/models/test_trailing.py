"""Windows of resolved rows: brute force, the clock, and nothing from the future."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import trailing
from models.trailing import DAY, FOUR_WEEKS, WEEK, refreshes, strikes, trailing_level, window


def hours(count: int, start: str = "2024-01-03 05:00") -> pd.DatetimeIndex:
    return pd.date_range(start, periods=count, freq="h", tz="UTC").as_unit("us")


@settings(deadline=None)
@given(at=st.integers(0, 500), horizon=st.integers(1, 72), length=st.integers(1, 400))
def test_window_holds_the_resolved_rows_and_no_other(at: int, horizon: int, length: int) -> None:
    resolved = [s for s in range(501) if s + horizon <= at]
    assert list(range(501))[window(at, horizon, length)] == resolved[-length:]


@pytest.mark.parametrize(("every", "name"), [(DAY, None), (WEEK, "Monday"), (FOUR_WEEKS, "Monday")])
def test_refreshes_fall_on_the_clock(every: int, name: str | None) -> None:
    times = hours(9000)
    at = refreshes(times, every)
    assert at[0] == 0
    assert (times[at[1:]].hour == 0).all()
    assert (np.diff(at[1:]) == every).all()
    if name:
        assert set(times[at[1:]].day_name()) == {name}
    # 1970-01-05 is a Monday and a refresh of every clock.
    assert refreshes(hours(3, "1970-01-04 23:00"), every).tolist() == [0, 1]


@settings(deadline=None)
@given(start=st.integers(1, 3000), every=st.sampled_from([DAY, WEEK, FOUR_WEEKS]))
def test_refreshes_do_not_depend_on_where_a_history_starts(start: int, every: int) -> None:
    times = hours(4000)
    whole, later = refreshes(times, every), refreshes(times[start:], every) + start
    assert set(later[1:]) == set(whole[whole > start])


def test_refreshes_in_any_unit_of_time() -> None:
    times = hours(2000)
    assert refreshes(times.as_unit("ns"), WEEK).tolist() == refreshes(times, WEEK).tolist()


@settings(deadline=None)
@given(start=st.integers(0, 900), length=st.integers(1, 900), every=st.sampled_from([DAY, WEEK, FOUR_WEEKS]))
def test_the_clock_strikes_at_the_same_hours_in_any_part_of_a_grid(start: int, length: int, every: int) -> None:
    times = hours(1800, "2024-01-01 00:00")
    first_hour = int(times.asi8[0]) // 3_600_000_000
    made = strikes(first_hour, slice(start, start + length), every)
    on_the_clock = (
        refreshes(hours(1801, "2023-12-31 23:00"), every)[1:] - 1
    )  # without the first column, which always is
    assert made.tolist() == [t for t in on_the_clock if start <= t < start + length]


def ratios(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.exp(rng.normal(size=(3, count)))
    out[rng.random(out.shape) < 0.2] = np.nan
    out[2, : count // 2] = np.nan  # listed late
    return out


@pytest.mark.parametrize("horizon", [1, 24])
def test_level_by_brute_force(horizon: int) -> None:
    ratio, times, length, shrinkage = ratios(400), hours(400), 200, 50.0
    at = refreshes(times, DAY)
    made = trailing_level(ratio, at, horizon, length, shrinkage)
    for w, column in enumerate(at):
        known = [[ratio[i, s] for s in range(400) if s + horizon <= column] for i in range(3)]
        known = [[x for x in row[-length:] if not np.isnan(x)] for row in known]
        pool = np.mean([x for row in known for x in row]) if any(known) else 1.0
        for i, row in enumerate(known):
            expected = np.log((np.sum(row) + shrinkage * pool) / (len(row) + shrinkage))
            assert made[i, w] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("at", [[0, 3, 27, 51, 75, 399], [30, 30], [399], [0]])
@pytest.mark.parametrize(("lag", "length"), [(1, 24), (24, 200), (72, 10_000)])
def test_sums_are_added_in_time_order_to_the_bit(at: list[int], lag: int, length: int) -> None:
    """A window's sum is that of its own values one after another, whatever other windows there are."""
    x = ratios(400)
    total, count = trailing._sums(x, np.array(at), lag, length)
    for w, column in enumerate(at):
        for i, row in enumerate(x):
            known = [value for value in row[window(column, lag, length)].tolist() if not np.isnan(value)]
            assert total[i, w] == reduce(add, known, 0.0)
            assert count[i, w] == len(known)


def test_one_refresh_has_the_bits_that_it_has_among_many() -> None:
    ratio = np.exp(np.random.default_rng(0).normal(size=(40, 400)))
    at = refreshes(hours(400), DAY)
    together = trailing_level(ratio, at, 1, 200, 50.0)
    for w in range(len(at)):
        np.testing.assert_array_equal(trailing_level(ratio, at[w : w + 1], 1, 200, 50.0)[:, 0], together[:, w])


def test_level_is_zero_before_anything_is_resolved() -> None:
    made = trailing_level(ratios(100), np.array([0, 10]), 48, 200, 50.0)
    assert (made == 0).all()


@settings(deadline=None)
@given(cut=st.integers(0, 399), horizon=st.sampled_from([1, 4, 24]), seed=st.integers(0, 5))
def test_level_knows_nothing_unresolved(cut: int, horizon: int, seed: int) -> None:
    """Whatever is not resolved at column ``cut`` may be anything: no level in force up to there moves by a bit."""
    ratio, at = ratios(400), refreshes(hours(400), DAY)
    other = ratio.copy()
    unresolved = slice(max(cut - horizon + 1, 0), None)
    other[:, unresolved] = np.random.default_rng(seed).choice([np.nan, 0.0, 1e300], size=other[:, unresolved].shape)
    first, second = (trailing_level(x, at, horizon, 200, 50.0) for x in (ratio, other))
    np.testing.assert_array_equal(first[:, at <= cut], second[:, at <= cut])


def test_level_does_use_what_is_resolved() -> None:
    ratio = ratios(400)
    at = refreshes(hours(400), DAY)
    column = int(at[10])
    ratio[0, column - 24] = 50.0
    base = trailing_level(ratio, at, 24, 200, 50.0)
    ratio[0, column - 24] = 60.0
    moved = trailing_level(ratio, at, 24, 200, 50.0) - base
    assert (moved[:, :10] == 0).all()
    assert (moved[:, 10] > 0).all()  # every symbol through the pool
    assert moved[0, 10] == moved[:, 10].max()
