"""Accumulated local effects: known functions on dependent features, and what the trees do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from models.boosting import LightGBM
from training.effects import BINS, FEATURES, accumulated, effects, strength
from training.material import Material

Array = NDArray[np.float64]


def inputs(rows: int = 4000) -> Array:
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, size=(rows, 3))
    x[:, 1] = x[:, 0] + 0.05 * rng.normal(size=rows)
    return x


def test_the_effect_of_an_additive_part_is_that_part_however_the_others_move() -> None:
    x = inputs()
    edges, effect, rows = accumulated(lambda z: 3 * z[:, 0] + z[:, 1] ** 2 + z[:, 2], x, 0)
    assert len(edges) == BINS + 1
    assert rows.sum() == len(x)
    # Not 3 x + x^2, although the second feature follows the first.
    np.testing.assert_allclose(np.diff(effect), 3 * np.diff(edges), rtol=1e-9)
    assert np.average(effect, weights=rows) == pytest.approx(0, abs=1e-12)
    curved = accumulated(lambda z: 3 * z[:, 0] + z[:, 1] ** 2, x, 1)
    np.testing.assert_allclose(np.diff(curved[1]), np.diff(curved[0] ** 2), atol=1e-9)


def test_an_interaction_counts_where_the_rows_are() -> None:
    """Of x0 x1 with x1 near x0, the effect of x0 accumulates x1 dx0, half of what both together do."""
    x = inputs()
    edges, effect, _ = accumulated(lambda z: z[:, 0] * z[:, 1], x, 0)
    np.testing.assert_allclose(effect - effect[BINS // 2], (edges**2 - edges[BINS // 2] ** 2) / 2, atol=0.02)


def test_missing_values_are_left_out_and_what_does_not_vary_has_no_effect() -> None:
    x = inputs(300)
    x[:100, 2] = np.nan
    edges, effect, rows = accumulated(lambda z: np.nan_to_num(z[:, 2]), x, 2)
    assert rows.sum() == 200
    np.testing.assert_allclose(np.diff(effect), np.diff(edges), atol=1e-12)
    x[:, 2] = 7.0
    edges, effect, rows = accumulated(lambda z: z[:, 2], x, 2)
    assert (edges.tolist(), effect.tolist(), rows.tolist()) == ([7.0], [0.0], [300.0])
    assert len(accumulated(lambda z: z[:, 2], np.full((4, 3), np.nan), 2)[0]) == 1


def test_few_values_make_few_bins() -> None:
    x = inputs(300)
    x[:, 2] = np.arange(300) % 3
    edges, effect, _ = accumulated(lambda z: np.where(z[:, 2] > 1.5, 2.0, 0.0), x, 2)
    assert edges.tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_allclose(np.diff(effect), [0.0, 2.0])


def test_strength_is_the_spread_of_the_effect() -> None:
    table = pd.DataFrame(
        {
            "member": "m",
            "horizon_hours": [1, 1, 24],
            "feature": ["a", "a", "b"],
            "value": 0.0,
            "effect": [-1.0, 3.0, 2.0],
            "rows": [3, 1, 5],
        }
    )
    told = strength(table)
    assert told.loc[("m", "a"), 1] == pytest.approx(np.sqrt((3 + 9) / 4))
    assert told.loc[("m", "b"), 24] == pytest.approx(2)
    assert told[24].isna().loc[[("m", "a")]].all()


def test_the_strongest_features_of_a_member_are_told_on_rows_it_did_not_see(material: Material) -> None:
    newest = np.sort(material.rows.origin)[-1]
    past = material.rows.origin < newest - 40 * 24 * 3_600_000_000
    X, y = material.rows.frame(past)
    member = LightGBM(rounds=30, min_data_in_leaf=50).fit(X, y)
    test, _ = material.rows.frame(~past)
    told = effects(member, test)
    again = effects(member, test)
    pd.testing.assert_frame_equal(told, again)
    assert set(told["horizon_hours"]) == set(member.horizons_)
    assert (told.groupby("horizon_hours")["feature"].nunique() <= FEATURES).all()
    assert set(told["feature"]) <= set(member.feature_names_)
    for _, curve in told.groupby(["horizon_hours", "feature"]):
        assert np.average(curve["effect"], weights=curve["rows"]) == pytest.approx(0, abs=1e-9)
        assert curve["value"].is_monotonic_increasing
    assert strength(told.assign(member="m")).max().min() > 0
    assert strength(pd.DataFrame()).empty
