"""Shapley values of trees: by their definition on a small tree, and LightGBM's own on large ones."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import lightgbm
import numpy as np
import pytest
from numpy.typing import NDArray

from models.shapley import Trees, grouped_shapley

Array = NDArray[np.float64]


def data(rows: int = 3000, columns: int = 8, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns))
    x[:, 1] = x[:, 0] + 0.3 * x[:, 1]
    y = np.sin(2 * x[:, 0]) + x[:, 2] * (x[:, 3] > 0) + 0.3 * x[:, 4] ** 2 + 0.1 * rng.normal(size=rows)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = 0.0
    return x, y


def booster(x: Array, y: Array, rounds: int = 40, **settings: Any) -> lightgbm.Booster:
    common = {"objective": "regression", "verbosity": -1, "seed": 3, "num_threads": 1, "min_data_in_leaf": 20}
    parameters = {**common, "bagging_fraction": 0.7, "bagging_freq": 1, **settings}
    return lightgbm.train(parameters, lightgbm.Dataset(x, y, params=parameters), num_boost_round=rounds)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_leaves": 64, "min_data_in_leaf": 5},
        {"num_leaves": 90, "min_data_in_leaf": 5},
        {"num_leaves": 2},
        {"zero_as_missing": True},
        {"use_missing": False},
        {"objective": "gamma"},
        {"min_data_in_leaf": 100_000},
    ],
)
def test_values_are_those_of_lightgbm(settings: dict[str, Any]) -> None:
    x, y = data()
    model = booster(x, np.exp(y) if settings.get("objective") == "gamma" else y, **settings)
    alone = np.arange(x.shape[1])
    ours = grouped_shapley(model.model_to_string(num_iteration=-1), x, alone, len(alone))
    np.testing.assert_allclose(ours, np.asarray(model.predict(x, pred_contrib=True)), rtol=0, atol=1e-12)


def test_groups_are_sums_and_rows_add_up_to_the_raw_score() -> None:
    x, y = data()
    model = booster(x, y)
    text, group = model.model_to_string(num_iteration=-1), np.array([0, 0, 1, 1, 1, 2, 2, 0])
    each, grouped = grouped_shapley(text, x, np.arange(8), 8), grouped_shapley(text, x, group, 3)
    for g in range(3):
        np.testing.assert_allclose(grouped[:, g], each[:, :-1][:, group == g].sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(grouped.sum(axis=1), np.asarray(model.predict(x, raw_score=True)), atol=1e-12)


def test_rows_do_not_depend_on_each_other() -> None:
    x, y = data()
    text = booster(x, y).model_to_string(num_iteration=-1)
    whole = grouped_shapley(text, x, np.arange(8), 8)
    for rows in (slice(0, 1), slice(700, 703), slice(None, None, -7)):
        assert np.array_equal(grouped_shapley(text, x[rows], np.arange(8), 8), whole[rows])
    assert grouped_shapley(text, x[:0], np.arange(8), 8).shape == (0, 9)


def test_one_small_tree_by_the_definition() -> None:
    """The game of path-dependent TreeSHAP: a split on an absent feature is averaged by the rows that took each side."""
    x, y = data(rows=400, columns=5)
    model = booster(x, y, rounds=1, num_leaves=6)
    tree = model.dump_model()["tree_info"][0]["tree_structure"]

    def rows_of(node: dict[str, Any]) -> int:
        return int(node.get("internal_count", node.get("leaf_count", 0)))

    def goes_left(node: dict[str, Any], value: float) -> bool:
        if np.isnan(value) and node["missing_type"] == "NaN":
            return bool(node["default_left"])
        return bool(np.nan_to_num(value) <= node["threshold"])

    def worth(node: dict[str, Any], row: Array, present: set[int]) -> float:
        if "leaf_value" in node:
            return float(node["leaf_value"])
        left, right = node["left_child"], node["right_child"]
        if node["split_feature"] in present:
            return worth(left if goes_left(node, row[node["split_feature"]]) else right, row, present)
        share = rows_of(left) / rows_of(node)
        return share * worth(left, row, present) + (1 - share) * worth(right, row, present)

    ours = grouped_shapley(model.model_to_string(num_iteration=-1), x[:20], np.arange(5), 5)
    for row, told in zip(x[:20], ours, strict=True):
        shapley = np.zeros(5)
        for order in permutations(range(5)):
            for place, k in enumerate(order):
                before = set(order[:place])
                shapley[k] += (worth(tree, row, {*before, k}) - worth(tree, row, before)) / 120
        np.testing.assert_allclose(told, [*shapley, worth(tree, row, set())], atol=1e-12)


def test_what_bits_cannot_hold_is_left_to_lightgbm() -> None:
    x, y = data()
    assert Trees.of(booster(x, y, num_leaves=90, min_data_in_leaf=5).model_to_string()) is None
    assert Trees.of(booster(x, y, num_leaves=64, min_data_in_leaf=5).model_to_string()) is not None
