"""One fold: what it learns from, what decides its content, and that its folder is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.catalogue import make
from models.training_rows import TrainingRows
from training import folds
from training.config import Component, RunConfig, WalkForward
from training.evaluation import plan
from training.folds import (
    FoldResult,
    Rows,
    commit,
    committed,
    flat,
    fold_key,
    forecast_fold,
    purged_labels,
    read_fold,
    state_sha256,
    training_rows,
    wide,
)
from training.material import Material
from training.splits import Fold

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


@pytest.mark.parametrize(("embargo", "window"), [(0, None), (36, None), (5, 1)])
def test_law_p_holds_on_the_folds_in_use(
    material: Material, config: RunConfig, embargo: int, window: int | None
) -> None:
    walk = WalkForward(warmup_months=1, embargo_hours=embargo, window_months=window)
    used = plan(material, config.model_copy(update={"walkforward": walk}), START, END)
    assert len(used) == 3
    rows = material.rows
    for fold in used:
        past = training_rows(fold, rows)
        origins = pd.DatetimeIndex(past.origin.astype("datetime64[us]"), tz="UTC")
        np.testing.assert_array_equal(past.features[past.row], rows.features[np.isin(rows.origin, past.origin)])
        assert origins.max() == fold.test_start - HOUR
        oldest = material.times[0] if window is None else fold.test_start - embargo * HOUR - pd.Timedelta(days=30)
        assert origins.min() == oldest
        for j, h in enumerate(rows.horizons):
            ends = origins + h * HOUR
            last = fold.test_start - embargo * HOUR
            known = ~np.isnan(past.variance[:, j])
            assert ends[known].max() == last  # nothing later, and the newest admissible label is there
            at = pd.DatetimeIndex(rows.origin.astype("datetime64[us]"), tz="UTC")
            trains = (at >= oldest) & (at < fold.test_start)
            had = ~np.isnan(rows.variance[trains, j])
            np.testing.assert_array_equal(known, had & np.asarray(ends <= last))


def test_purged_labels_against_a_loop() -> None:
    rng = np.random.default_rng(3)
    origins = pd.date_range("2023-01-01", periods=40, freq="h", tz="UTC")
    index = pd.MultiIndex.from_product([["A", "B"], origins], names=["symbol", "origin"])
    y = pd.DataFrame(rng.random((80, 3)), index=index, columns=[1, 4, 24])
    y.iloc[5, 1] = np.nan
    known_by = origins[30]
    past = TrainingRows.of(pd.DataFrame({"x": 0.0}, index=index), y)
    found = pd.DataFrame(purged_labels(past, known_by).variance, index=index, columns=y.columns)
    for (symbol, origin), row in y.iterrows():
        for h in y.columns:
            ends_later = origin + pd.Timedelta(hours=h) > known_by
            expected = np.nan if ends_later else row[h]
            np.testing.assert_equal(found.loc[(symbol, origin), h], expected)


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


def test_flat_and_wide_are_inverse() -> None:
    index = pd.MultiIndex.from_product(
        [["A", "B"], pd.date_range("2023-01-01", periods=3, freq="h", tz="UTC", unit="us")],
        names=["symbol", "origin"],
    )
    columns = pd.MultiIndex.from_tuples([("a:b", 1), ("a:b", 24), ("c", 1)], names=["member", "horizon_hours"])
    forecasts = pd.DataFrame(np.arange(18.0).reshape(6, 3), index=index, columns=columns)
    pd.testing.assert_frame_equal(wide(flat(forecasts)), forecasts)


def test_a_fold_is_read_as_it_was_made(fold: Fold, material: Material, tmp_path: Path) -> None:
    made = forecast_fold(fold, material.rows, MEMBERS)
    commit(made, tmp_path / "fold", "key")
    read = read_fold(tmp_path / "fold")
    assert read.first_origin == fold.test_start
    assert read.params_sha256 == made.params_sha256
    assert_same_bits(read.forecasts, made.forecasts)
    assert_same_bits(read.importance, made.importance)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def quick(fold: Fold, material: Material) -> FoldResult:
    return forecast_fold(fold, material.rows, QUICK)


def test_a_fold_made_under_another_key_takes_the_place_of_the_first(quick: FoldResult, tmp_path: Path) -> None:
    place = tmp_path / "fold"
    commit(quick, place, "key")
    assert committed(place, "key")
    before = place.stat().st_ino
    commit(quick, place, "other key")
    assert place.stat().st_ino != before
    assert committed(place, "other key")
    assert not committed(place, "key")
    assert [file.name for file in tmp_path.iterdir()] == ["fold"]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: _cut(place / "forecasts.parquet"),
        lambda place: _flip(place / "forecasts.parquet"),
        lambda place: (place / "forecasts.parquet").unlink(),
        lambda place: _cut(place / "fold.json"),
        lambda place: (place / "fold.json").write_text("[]"),
        lambda place: (place / "fold.json").write_text(json.dumps({"key": "key"})),
        lambda place: (place / "fold.json").unlink(),
        shutil.rmtree,
    ],
)
def test_a_damaged_fold_is_not_taken_for_a_finished_one(
    quick: FoldResult, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    place = tmp_path / "fold"
    commit(quick, place, "key")
    whole = contents(place)
    damage(place)
    assert not committed(place, "key")
    commit(quick, place, "key")
    assert contents(place) == whole


@pytest.mark.parametrize("target", ["fsync", "rename"])
def test_a_commit_that_fails_leaves_nothing(
    quick: FoldResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if target == "fsync" else (Path, "rename")), fail)
        with pytest.raises(OSError, match="No space left"):
            commit(quick, tmp_path / "folds" / "fold", "key")
    assert list((tmp_path / "folds").iterdir()) == []
    commit(quick, tmp_path / "folds" / "fold", "key")
    assert committed(tmp_path / "folds" / "fold", "key")
