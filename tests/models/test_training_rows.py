"""Rows to be learnt from: what is taken of them, and that what is shared is what each would have made alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid
from models.catalogue import KINDS, make
from models.training_rows import TrainingRows, evenly, symbol_codes

SHARING = ("ewma", "har", "har_seasonal", "har_x", "lightgbm", "lightgbm_gamma")
QUICK = {"rounds": 20, "min_data_in_leaf": 40}


@pytest.fixture(scope="module")
def past(train: Any) -> TrainingRows:
    return TrainingRows.of(train.X, train.y)


def test_values_and_frames_are_those_of_the_table(past: TrainingRows, train: Any) -> None:
    at = np.sort(np.random.default_rng(0).choice(len(past), 2500, replace=False))
    names = ["hour", "log_rv_4h", "log_rv_1h"]
    np.testing.assert_array_equal(past.values(names, at, "any"), train.X[names].to_numpy()[at])
    pd.testing.assert_frame_equal(past.frame(at), train.X.iloc[at], check_exact=True)
    part = past.frame(at, ("log_rv_1", "hour"))
    pd.testing.assert_frame_equal(part, train.X.iloc[at][part.columns], check_exact=True)
    assert set(part.columns) == {"log_rv_1h", "log_rv_168h", "hour"}


def test_a_missing_column_is_refused_by_name(past: TrainingRows) -> None:
    with pytest.raises(DataInvalid, match=r"model 'any' needs feature columns \['c'\].*\[features\]"):
        past.values(["hour", "c"], np.arange(3), "any")


def test_rows_of_a_larger_table_are_learnt_from_as_if_they_were_all(past: TrainingRows, train: Any) -> None:
    """A fold's rows stand in the table of all rows: what lies between them is not seen."""
    rng = np.random.default_rng(1)
    row = np.sort(rng.choice(3 * len(past), len(past), replace=False))
    features = rng.normal(size=(3 * len(past), len(past.columns)))
    features[row] = past.features
    wide = TrainingRows(
        features, past.columns, row, past.symbol, past.symbols, past.origin, past.variance, past.horizons
    )
    made = make("har_x").learn(wide).predict_log(train.X)
    pd.testing.assert_frame_equal(made, make("har_x").learn(past).predict_log(train.X), check_exact=True)


def test_windows_and_steps_of_time() -> None:
    times = pd.date_range("2024-01-01", periods=72, freq="h", tz="UTC")
    index = pd.MultiIndex.from_product([["A", "B"], times], names=["symbol", "origin"]).delete(slice(140, 144))
    y = pd.DataFrame({1: 1.0}, index=index)
    past = TrainingRows.of(pd.DataFrame({"x": 0.0}, index=index), y)
    at = index[past.within(1)].get_level_values("origin")
    assert len(at) == 24 + 20  # counted from the newest of all symbols
    assert at.min() == times[48]
    assert len(past.within(None)) == len(index)
    hours = index.get_level_values("origin").as_unit("s").asi8 // 3600
    every_fifth = (hours > hours.max() - 48) & (hours % 5 == 0)
    np.testing.assert_array_equal(past.within(2, 5), np.flatnonzero(every_fifth))


def test_rows_are_told_apart_by_symbol_in_their_own_order(train: Any) -> None:
    shuffled = np.random.default_rng(2).permutation(len(train.X))
    past = TrainingRows.of(train.X.iloc[shuffled], train.y.iloc[shuffled])
    parts = past.by_symbol(np.arange(500))
    symbols = train.X.index.get_level_values("symbol")[shuffled[:500]]
    assert [name for name, _ in parts] == list(symbols.unique())
    for name, part in parts:
        np.testing.assert_array_equal(part, np.flatnonzero(symbols == name))


def test_evenly_spread_places() -> None:
    at = evenly(1001, 100)
    assert (at[0], at[-1], len(at)) == (0, 1000, 100)
    assert np.ptp(np.diff(at)) <= 1
    np.testing.assert_array_equal(evenly(7, 10), np.arange(7))


def test_symbol_codes_name_the_symbols(train: Any) -> None:
    codes, names = symbol_codes(train.X.index[1000:3000])
    assert list(np.array(names)[codes]) == list(train.X.index.get_level_values("symbol")[1000:3000])


def test_a_thing_is_made_once_for_each_key(past: TrainingRows) -> None:
    made: list[int] = []
    assert past.once("a", lambda: made.append(1) or len(made)) == 1
    assert past.once("a", lambda: made.append(1) or len(made)) == 1
    assert past.once("b", lambda: made.append(1) or len(made)) == 2


@pytest.mark.parametrize("turned", [False, True])
def test_members_on_shared_rows_are_those_of_each_alone(train: Any, later: Any, turned: bool) -> None:
    """In either order: nothing that one member leaves on the rows changes another."""
    shared = TrainingRows.of(train.X, train.y)
    for kind in SHARING[::-1] if turned else SHARING:
        params = QUICK if "lightgbm" in kind else None
        member = make(kind, params).learn(shared)
        alone = make(kind, params).fit(train.X, train.y)
        pd.testing.assert_frame_equal(member.predict_log(later.X), alone.predict_log(later.X), check_exact=True)
        np.testing.assert_array_equal(member.residuals_, alone.residuals_)


def test_members_of_other_settings_share_nothing(train: Any, later: Any) -> None:
    shared = TrainingRows.of(train.X, train.y)
    cls = KINDS["har_seasonal"][0]
    for settings in ({}, {"window_days": 20}, {"shrinkage": 1.0}, {"lags": (1, 24)}, {"seasonal": False}):
        made = cls(**settings).learn(shared).predict_log(later.X)
        pd.testing.assert_frame_equal(
            made, cls(**settings).fit(train.X, train.y).predict_log(later.X), check_exact=True
        )


def test_weights_belong_to_the_rows(train: Any, later: Any) -> None:
    weight = np.random.default_rng(3).uniform(0.1, 2.0, len(train.X))
    made = make("har_x").learn(TrainingRows.of(train.X, train.y, weight)).predict_log(later.X)
    assert not made.equals(make("har_x").fit(train.X, train.y).predict_log(later.X))
    same = make("har_x").fit(train.X, train.y, sample_weight=weight).predict_log(later.X)
    pd.testing.assert_frame_equal(made, same, check_exact=True)
