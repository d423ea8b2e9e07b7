"""One fold: which labels reach the fit, which rows are forecast, and what decides its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.catalogue import make
from training import folds
from training.config import Component, RunConfig
from training.folds import fold_key, forecast_fold, state_sha256
from training.material import Material
from training.rows import Rows, training_rows
from training.splits import Fold
from training.walkforward import plan

HOUR = pd.Timedelta(hours=1)
START, END = pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-06-30", tz="UTC")
MEMBERS = (
    Component(kind="ewma"),
    Component(kind="har_seasonal"),
    Component(kind="gjr"),
    Component(kind="lightgbm", params={"rounds": 10, "min_data_in_leaf": 50}),
)
QUICK = (Component(kind="ewma"), Component(kind="har_seasonal"))


@pytest.fixture(scope="module")
def fold(material: Material, config: RunConfig) -> Fold:
    return plan(material, config, START, END)[0]


def assert_same_bits(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert found.index.equals(expected.index)
    assert list(found.columns) == list(expected.columns)
    assert found.to_numpy(np.float64).tobytes() == expected.to_numpy(np.float64).tobytes()


def poisoned(rows: Rows, where: Callable[[pd.DatetimeIndex, int], Any]) -> Rows:
    variance = rows.variance.copy()
    origins = pd.DatetimeIndex(rows.origin.astype("datetime64[us]"), tz="UTC")
    for j, h in enumerate(rows.horizons):
        variance[np.asarray(where(origins, h)), j] = 1e3
    return replace(rows, variance=variance)


def test_labels_that_end_after_the_border_do_not_reach_the_fit(fold: Fold, material: Material) -> None:
    honest = forecast_fold(fold, material.rows, MEMBERS)
    late = poisoned(material.rows, lambda origin, h: origin + h * HOUR > fold.test_start)
    found = forecast_fold(fold, late, MEMBERS)
    assert_same_bits(found.forecasts, honest.forecasts)
    assert found.params_sha256 == honest.params_sha256


def test_a_label_that_ends_on_the_border_does_reach_the_fit(fold: Fold, material: Material) -> None:
    honest = forecast_fold(fold, material.rows, QUICK)
    known = poisoned(material.rows, lambda origin, h: origin + h * HOUR == fold.test_start)
    found = forecast_fold(fold, known, QUICK)
    assert found.params_sha256["har_seasonal"] != honest.params_sha256["har_seasonal"]


def test_test_rows_of_a_fold_are_its_block(fold: Fold, material: Material) -> None:
    forecasts = forecast_fold(fold, material.rows, QUICK).forecasts
    origins = pd.DatetimeIndex(forecasts.index.get_level_values("origin"))
    assert origins.min() == fold.test_start
    assert origins.max() == fold.test_end - HOUR
    assert set(forecasts.columns) == {(m, h) for m in ("ewma", "har_seasonal") for h in (1, 4)}


def test_the_key_follows_config_data_code_and_borders(
    fold: Fold, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = fold_key(fold, config, "a" * 64)
    others = [
        fold_key(fold, config.model_copy(update={"proxy": "squared_returns"}), "a" * 64),
        fold_key(fold, config, "b" * 64),
        *(
            fold_key(replace(fold, **{name: getattr(fold, name) + HOUR}), config, "a" * 64)
            for name in ("test_start", "test_end", "train_end")
        ),
        fold_key(replace(fold, train_start=fold.train_end), config, "a" * 64),
    ]
    assert fold_key(fold, config, "a" * 64) == key
    assert len({key, *others}) == 1 + len(others)
    monkeypatch.setattr(folds, "code_sha256", lambda: "c" * 64)
    assert fold_key(fold, config, "a" * 64) != key


def test_the_state_hash_sees_one_bit_and_survives_a_restore(fold: Fold, material: Material) -> None:
    past = training_rows(fold, material.rows)
    for component in MEMBERS:
        member = make(component.kind, component.params).learn(past)
        digest = state_sha256(member)
        again = make(component.kind, component.params).restore(member.state())
        assert state_sha256(again) == digest
        again.residuals_ = member.residuals_.copy()
        again.residuals_[7, 0] = np.nextafter(again.residuals_[7, 0], np.inf)
        assert state_sha256(again) != digest
