"""A finished fold on disk: it is read as it was made, and its folder is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.config import Component, RunConfig
from training.contributions import feature_families
from training.fold_store import commit, committed, flat, read_fold, wide
from training.folds import FoldResult, forecast_fold
from training.material import Material
from training.splits import Fold
from training.walkforward import plan

START, END = pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-06-30", tz="UTC")
LINEAR = (Component(kind="ewma"), Component(kind="har_seasonal"))
BOOSTED = (*LINEAR, Component(kind="lightgbm", params={"rounds": 10, "min_data_in_leaf": 50}))


@pytest.fixture(scope="module")
def fold(material: Material, config: RunConfig) -> Fold:
    return plan(material, config, START, END)[0]


@pytest.fixture(scope="module")
def quick(fold: Fold, material: Material) -> FoldResult:
    return forecast_fold(fold, material.rows, LINEAR)


def test_flat_and_wide_are_inverse() -> None:
    index = pd.MultiIndex.from_product(
        [["A", "B"], pd.date_range("2023-01-01", periods=3, freq="h", tz="UTC", unit="us")],
        names=["symbol", "origin"],
    )
    columns = pd.MultiIndex.from_tuples([("a:b", 1), ("a:b", 24), ("c", 1)], names=["member", "horizon_hours"])
    forecasts = pd.DataFrame(np.arange(18.0).reshape(6, 3), index=index, columns=columns)
    pd.testing.assert_frame_equal(wide(flat(forecasts)), forecasts)


def test_a_fold_is_read_as_it_was_made(fold: Fold, material: Material, config: RunConfig, tmp_path: Path) -> None:
    made = forecast_fold(fold, material.rows, BOOSTED, families=feature_families(config))
    commit(made, tmp_path / "fold", "key")
    read = read_fold(tmp_path / "fold")
    assert read.first_origin == fold.test_start
    assert read.params_sha256 == made.params_sha256
    assert not made.importance.empty
    for ours, theirs in ((read.forecasts, made.forecasts), (read.importance, made.importance)):
        assert ours.index.equals(theirs.index)
        assert list(ours.columns) == list(theirs.columns)
        assert ours.to_numpy(np.float64).tobytes() == theirs.to_numpy(np.float64).tobytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


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
