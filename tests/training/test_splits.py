from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataInvalid, UsageError
from training.splits import Fold, PurgedWalkForward

START = pd.Timestamp("2024-01-01", tz="UTC")
HOUR = pd.Timedelta(hours=1)


def hours(values: list[int]) -> pd.DatetimeIndex:
    return START + pd.to_timedelta(np.asarray(values, dtype=np.int64), unit="h")


def brute_force(
    origin: list[int], label_end: list[int], start: int, end: int, step: int, embargo: int, window: int | None
) -> list[tuple[list[int], list[int]]]:
    """The definition in whole hours, row by row."""
    folds = []
    for border in range(start, end, step):
        test = [row for row, at in enumerate(origin) if border <= at < min(border + step, end)]
        train = []
        for row, at in enumerate(origin):
            in_window = window is None or at >= border - embargo - window
            if at < border and label_end[row] <= border - embargo and in_window:
                train.append(row)
        if test:
            folds.append((train, test))
    return folds


rows = st.lists(st.tuples(st.integers(-300, 500), st.integers(0, 96)), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(1, 200), st.integers(0, 48), st.one_of(st.none(), st.integers(1, 400)))
def test_equals_brute_force_and_obeys_law_p(
    table: list[tuple[int, int]], step: int, embargo: int, window: int | None
) -> None:
    origin = [at for at, _ in table]
    label_end = [at + horizon for at, horizon in table]
    splitter = PurgedWalkForward(
        START,
        START + 300 * HOUR,
        step * HOUR,
        embargo=embargo * HOUR,
        window=None if window is None else window * HOUR,
    )
    found = list(splitter.split(hours(origin), hours(label_end)))
    expected = brute_force(origin, label_end, 0, 300, step, embargo, window)
    assert [(train.tolist(), test.tolist()) for train, test in found] == expected
    for train, test in found:
        if train.size:
            last_label = max(label_end[row] for row in train)
            assert last_label <= min(origin[row] for row in test) - embargo
        assert not set(train) & set(test)
    tested = np.concatenate([test for _, test in found]) if found else np.array([])
    assert sorted(tested) == [row for row, at in enumerate(origin) if 0 <= at < 300]


def test_purges_by_label_end_where_a_count_of_rows_would_leak() -> None:
    # A gap of 30 hours before the border: the last row before it is old, its 48 h label is not yet known.
    origin = hours([-60, -40, -30, 0, 1])
    label_end = origin + pd.Timedelta(hours=48)
    ((train, test),) = PurgedWalkForward(START, START + 24 * HOUR, "24h").split(origin, label_end)
    assert train.tolist() == [0]
    assert test.tolist() == [3, 4]


def test_cuts_all_symbols_at_the_same_instant_in_any_row_order() -> None:
    origin = hours(list(range(-10, 10)) * 3)
    label_end = origin + HOUR
    order = np.random.default_rng(0).permutation(len(origin))
    splitter = PurgedWalkForward(START, START + 10 * HOUR, "5h")
    plain = list(splitter.split(origin, label_end))
    shuffled = list(splitter.split(origin[order], label_end[order]))
    assert len(plain) == 2
    for (train, test), (train_shuffled, test_shuffled) in zip(plain, shuffled, strict=True):
        assert sorted(order[train_shuffled]) == train.tolist()
        assert sorted(order[test_shuffled]) == test.tolist()


def test_month_borders_are_counted_from_the_anchor() -> None:
    folds = PurgedWalkForward("2024-01-31", "2024-05-15", "1MS").folds()
    assert [str(fold.test_start.date()) for fold in folds] == [
        "2024-01-31",
        "2024-02-29",
        "2024-03-31",
        "2024-04-30",
    ]
    assert folds[-1].test_end == pd.Timestamp("2024-05-15", tz="UTC")
    assert [fold.index for fold in folds] == [0, 1, 2, 3]
    quarters = PurgedWalkForward("2023-07-01", "2025-07-01", "3MS").folds()
    assert len(quarters) == 8
    assert quarters[1].test_start == pd.Timestamp("2023-10-01", tz="UTC")


@pytest.mark.parametrize("step", ["1MS", "30D"])
def test_warm_up_folds_precede_the_start_without_moving_its_borders(step: str) -> None:
    plain = PurgedWalkForward("2024-01-01", "2024-04-01", step).folds()
    warm = PurgedWalkForward("2024-01-01", "2024-04-01", step, warmup=3).folds()
    assert [fold.index for fold in warm[:4]] == [-3, -2, -1, 0]
    assert warm[3:] == plain
    assert all(a.test_end == b.test_start for a, b in pairwise(warm))


def test_borders_carry_embargo_and_window() -> None:
    (fold,) = PurgedWalkForward(START, START + 24 * HOUR, "1D", embargo="6h", window="10D").folds()
    assert fold == Fold(
        index=0,
        test_start=START,
        test_end=START + 24 * HOUR,
        train_start=START - pd.Timedelta(days=10, hours=6),
        train_end=START - pd.Timedelta(hours=6),
    )


def test_a_window_holds_its_first_instant_and_nothing_older() -> None:
    origin = hours([-11, -10, -9, 0])
    splitter = PurgedWalkForward(START, START + 24 * HOUR, "1D", embargo="3h", window="7h")
    ((train, _),) = splitter.split(origin, origin + HOUR)
    assert train.tolist() == [1, 2]


def test_rows_without_a_label_are_tested_but_never_train() -> None:
    origin = hours([-5, -4, 2])
    label_end = (origin + HOUR).where([True, False, False])
    ((train, test),) = PurgedWalkForward(START, START + 24 * HOUR, "1D").split(origin, label_end)
    assert train.tolist() == [0]
    assert test.tolist() == [2]


def test_naive_instants_are_utc() -> None:
    origin = hours(list(range(-5, 5)))
    aware = list(PurgedWalkForward(START, "2024-01-02", "1D").split(origin, origin + HOUR))
    naive = origin.tz_localize(None).to_numpy()
    plain = list(PurgedWalkForward("2024-01-01", "2024-01-02", "1D").split(naive, naive + np.timedelta64(1, "h")))
    assert [part.tolist() for part in aware[0]] == [part.tolist() for part in plain[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"end": "2023-12-31"}, "not before end"),
        ({"step": "0h"}, "step '0h' is not positive"),
        ({"step": "0MS"}, "step '0MS' is not positive"),
        ({"step": "monthly"}, "step 'monthly'"),
        ({"embargo": "-1h"}, "embargo '-1h'"),
        ({"window": "0h"}, "window '0h'"),
        ({"warmup": -1}, "warmup -1"),
    ],
)
def test_refuses_impossible_folds(arguments: dict[str, object], message: str) -> None:
    settings_: dict[str, object] = {"start": START, "end": "2024-06-01", "step": "1MS"} | arguments
    with pytest.raises(UsageError, match=message):
        PurgedWalkForward(**settings_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("origin", "label_end", "message"),
    [
        (hours([0, 1]), hours([1]), "origin has 2 rows, label_end 1"),
        (hours([5]), hours([4]), "before its origin"),
        (pd.DatetimeIndex([pd.NaT], tz="UTC"), hours([1]), "origin is null in row 0"),
        ([0, 1], [1, 2], "origin holds int64, not instants"),
    ],
)
def test_refuses_broken_rows(origin: object, label_end: object, message: str) -> None:
    with pytest.raises(DataInvalid, match=message):
        next(PurgedWalkForward(START, "2024-02-01", "1MS").split(origin, label_end))
