"""A forecast as a sum: every member's, and the ensemble's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.base import ENSEMBLE
from models.catalogue import KINDS
from models.explanation import in_order, joint, shares, since_usual, stored, total
from models.members import Member

Made = Callable[[str], Member]

FAMILIES = {"flow_imbalance_4h": "flow", "hour": "calendar", "market_log_ew_24h": "cross", "log_ew_12h": "memory"}


def families(X: pd.DataFrame) -> dict[str, str]:
    return {
        name: FAMILIES.get(name, "memory" if name.startswith("log_rv_") else "path") for name in map(str, X.columns)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_terms_of_every_member_add_up_to_its_forecast(kind: str, fitted: Made, later: Any) -> None:
    terms = fitted(kind).contributions(later.X, families(later.X))
    made = fitted(kind).predict_log(later.X).to_numpy()
    assert next(iter(terms)) == "usual"
    assert all(values.shape == made.shape for values in terms.values())
    np.testing.assert_allclose(total(terms), made, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_long_windows_still_adds_up(kind: str, fitted: Made, later: Any) -> None:
    X = later.X.copy()
    X.loc[:, ["log_rv_720h", "log_rv_raw_720h"]] = np.nan
    terms = fitted(kind).contributions(X, families(X))
    np.testing.assert_allclose(total(terms), fitted(kind).predict_log(X).to_numpy(), rtol=1e-12)


def test_har_terms_are_what_each_window_moves(fitted: Made, later: Any) -> None:
    har = fitted("har_seasonal")
    before = har.contributions(later.X, {})
    X = later.X.copy()
    X["log_rv_4h"] += 1.0
    after, moved = har.contributions(X, {}), har.predict_log(X) - har.predict_log(later.X)
    np.testing.assert_allclose(after["lag_4h"] - before["lag_4h"], moved.to_numpy(), rtol=1e-9)
    for name in before.keys() - {"lag_4h"}:
        np.testing.assert_array_equal(after[name], before[name])


def test_a_typical_window_moves_nothing(fitted: Made, train: Any) -> None:
    terms = fitted("har_seasonal").contributions(train.X[train.y.notna().any(axis=1)], {})
    for lag in (1, 4, 24, 168):
        assert abs(terms[f"lag_{lag}h"].mean(axis=0)).max() < 0.02


def test_the_linear_panel_tells_slope_times_score(fitted: Made, later: Any) -> None:
    member: Any = fitted("har_x")
    terms = member.contributions(later.X, families(later.X))
    k = member.columns_.index("flow_imbalance_4h")
    score = (later.X["flow_imbalance_4h"].to_numpy() - member.centre_[0, k]) / member.scale_[0, k]
    score = np.nan_to_num(np.clip(score, -4, 4))
    np.testing.assert_allclose(terms["flow"], np.outer(score, member.coefficients_[:, k + 1]), rtol=1e-9, atol=1e-15)


def test_the_boosted_member_tells_shapley_values_by_family(fitted: Made, later: Any) -> None:
    member: Any = fitted("lightgbm")
    told = families(later.X)
    terms = member.contributions(later.X, told)
    own = [*(told[c] for c in member.columns_), "calendar", "memory"]
    for j in range(3):
        values = np.asarray(member._boosters()[j].predict(member.inputs(later.X, j), pred_contrib=True))
        for family in ("flow", "calendar", "cross", "memory"):
            summed = values[:, :-1][:, [name == family for name in own]].sum(axis=1)
            np.testing.assert_allclose(terms[family][:, j], summed, atol=1e-12)
        np.testing.assert_allclose(terms["level"][:, j], values[:, -1], atol=1e-12)


def test_a_filter_is_told_against_the_usual_variance() -> None:
    log_mean, season = np.array([[-8.0, -5.0], [-7.0, -4.0]]), np.array([[0.1, 3.3], [0.2, 3.4]])
    terms = since_usual(log_mean, np.array([-9.0, np.nan]), season, (1, 24))
    np.testing.assert_allclose(terms["usual"][0], [-9.0, -9.0 + np.log(24)])
    np.testing.assert_allclose(terms["season"], season - np.log([1, 24]))
    np.testing.assert_allclose(total(terms), log_mean)
    assert (terms["filter"][1] == 0).all()


def grid(hours: int = 60) -> tuple[pd.DatetimeIndex, dict[str, np.ndarray]]:
    rng = np.random.default_rng(4)
    times = pd.date_range("2024-01-01", periods=hours, freq="h", tz="UTC").as_unit("us")
    return times, {name: rng.normal(-9, 0.3, (2, hours)) for name in ("a", "b", "har_seasonal")}


def test_shares_follow_weights_gaps_and_fallbacks() -> None:
    times, levelled = grid()
    levelled["a"][0, 10] = np.nan
    for name in ("a", "b"):
        levelled[name][0, 20] = np.nan
        levelled[name][0, 30] = np.nan
    levelled["har_seasonal"][0, 30] = np.nan
    weights = pd.DataFrame({"a": [0.5, 0.2], "b": [0.5, 0.8]}, index=times[[0, 40]])
    answered = np.zeros((2, 60), dtype=np.int64)
    answered[0, 20], answered[0, 30] = 1, -1
    share = shares(weights, times, levelled, answered, (ENSEMBLE, "har_seasonal"))
    assert (share["a"][0, 9], share["b"][0, 9]) == (0.5, 0.5)
    assert (share["a"][1, 40], share["b"][1, 40]) == (0.2, 0.8)
    assert (share["a"][0, 10], share["b"][0, 10]) == (0.0, 1.0)
    assert [share[name][0, 20] for name in share] == [1.0 if name == "har_seasonal" else 0.0 for name in share]
    summed = total(share)
    assert summed[0, 30] == 0
    np.testing.assert_allclose(np.delete(summed, 30, axis=1), 1.0, rtol=1e-15)


def test_the_ensemble_is_its_members_weighted_then_its_own_doing() -> None:
    _, levelled = grid()
    raw = {name: values - 0.1 * (1 + k) for k, (name, values) in enumerate(levelled.items())}
    terms = {name: {"usual": raw[name] + 1.0, "season": np.full((2, 60), -1.0)} for name in ("a", "har_seasonal")}
    terms["b"] = {"usual": raw["b"], "level": np.full((2, 60), 0.5), "filter": np.full((2, 60), -0.5)}
    share = {"a": np.full((2, 60), 0.3), "b": np.full((2, 60), 0.7), "har_seasonal": np.zeros((2, 60))}
    terms["har_seasonal"]["usual"] = np.full((2, 60), np.nan)  # without weight it says nothing
    mean = 0.3 * levelled["a"] + 0.7 * levelled["b"]
    told = joint(terms, share, raw, levelled, mean + 0.05)
    assert list(told) == ["usual", "season", "filter", "level", "adjustment"]
    np.testing.assert_allclose(told["season"], -0.3)
    np.testing.assert_allclose(told["level"], 0.7 * 0.5 + 0.3 * 0.1 + 0.7 * 0.2)
    np.testing.assert_allclose(told["adjustment"], 0.05)
    np.testing.assert_allclose(total(told), mean + 0.05, rtol=1e-14)


def test_the_order_of_terms_ends_with_the_ensembles_own() -> None:
    assert in_order(["usual", "level", "lag_1h", "filter", "usual", "path"]) == [
        "usual",
        "lag_1h",
        "path",
        "filter",
        "level",
    ]


@given(
    hnp.arrays(np.float64, (6, 5), elements=st.floats(-3, 3)),
    hnp.arrays(np.float64, 5, elements=st.floats(-1e-13, 1e-13)),
)
def test_what_is_stored_adds_up_to_the_bit(values: np.ndarray, rounding: np.ndarray) -> None:
    terms = {"usual": values[0] - 12.0, **{f"t{k}": x for k, x in enumerate(values[1:])}}
    log_forecast = total(terms) + rounding
    kept = stored(terms, log_forecast)
    assert all(x.dtype == np.float32 for name, x in kept.items() if name != "remainder")
    if (np.abs(log_forecast) > 1e-3).all():
        assert np.array_equal(total(kept), log_forecast)
    assert np.abs(kept["remainder"]).max() < 1e-5
