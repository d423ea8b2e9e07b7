"""The linear panel on the residual of the seasonal HAR: its optimum, its inputs, what it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import optimize

from features.errors import DataInvalid
from models.members import Member
from models.panel_har import HARX

Array = NDArray[np.float64]
Made = Callable[[str], Member]


@pytest.fixture(scope="module")
def flow_market(train: Any, later: Any) -> tuple[Any, Any]:
    """The sample with a flow that multiplies the next V by up to 2, which no HAR can know."""
    out = []
    for part in (train, later):
        X = part.X.assign(flow_imbalance_4h=np.random.default_rng(len(part.X)).uniform(-1, 1, len(part.X)))
        out.append(type(part)(X, part.y.mul(2 ** X["flow_imbalance_4h"], axis=0)))
    return out[0], out[1]


@pytest.mark.parametrize("ridge", [0.0, 0.02, 1.0])
def test_slopes_are_the_penalised_optimum(ridge: float) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 3))
    weights = rng.uniform(0.5, 1.5, 4000)
    residual = 0.2 + z @ [0.3, -0.1, 0.0] + 0.4 * rng.normal(size=4000)

    def loss(b: Array, residual: Array, weights: Array) -> float:
        log_ratio = residual - b[0] - z @ b[1:]
        losses = np.sum(weights * (np.exp(log_ratio) - log_ratio)) / np.count_nonzero(weights)
        return float(losses + 0.5 * ridge * np.sum(b[1:] ** 2))

    residuals = np.stack([residual, np.where(np.arange(4000) < 3900, -residual, 0.0)], axis=1)
    both = np.stack([weights, weights * (np.arange(4000) < 3900)], axis=1)
    own = np.stack([z[:, 2:], z[:, 2:]])
    made = HARX(ridge=ridge)._slopes(z[:, :2], own, residuals, both)
    for j in range(2):
        best = optimize.minimize(
            loss, np.zeros(4), (residuals[:, j], both[:, j]), method="BFGS", options={"gtol": 1e-9}
        )
        np.testing.assert_allclose(made[j], best.x, atol=1e-5)


def test_a_linear_signal_is_found(flow_market: tuple[Any, Any]) -> None:
    train, later = flow_market
    member = HARX().fit(train.X, train.y)
    gain = member.predict_log(later.X) - member.base_.predict_log(later.X)
    for h in later.y:
        # A little less than ln 2, for the ridge.
        assert 0.6 < np.polyfit(later.X["flow_imbalance_4h"], gain[h], 1)[0] < 0.72
    losses = []
    for log_forecast in (member.predict_log(later.X), member.base_.predict_log(later.X)):
        ratio = later.y / np.exp(log_forecast)
        losses.append((ratio - np.log(ratio) - 1).mean())
    assert (losses[0] < losses[1]).all()


def test_levels_are_right_where_it_was_fitted(train: Any) -> None:
    member = HARX(every_hours=1).fit(train.X, train.y)
    np.testing.assert_allclose((train.y / member.predict(train.X)).mean(), 1.0, atol=0.01)


def test_a_missing_value_counts_as_the_median_and_a_wild_one_as_four(flow_market: tuple[Any, Any]) -> None:
    train, later = flow_market
    member = HARX(every_hours=1).fit(train.X, train.y)
    middle = train.X["flow_imbalance_4h"][train.y[1].notna()].median()
    silent, median = (member.predict(later.X.assign(flow_imbalance_4h=x)) for x in (np.nan, middle))
    np.testing.assert_allclose(silent[1], median[1], rtol=1e-9)
    wild, wilder = (member.predict(later.X.assign(flow_imbalance_4h=x)) for x in (1e3, 1e9))
    np.testing.assert_array_equal(wild, wilder)


def test_what_is_not_linear_or_sparse_is_left_out(train: Any) -> None:
    X = train.X.assign(log_rv_15m_1h=-9.0, med_rv_share_1h=0.5, weekday=1.0)
    member = HARX().fit(X, train.y)
    assert {"flow_imbalance_4h", "log_rv_1h", "market_log_ew_24h"} <= set(member.columns_)
    left_out = {"hour", "weekday", "log_return_1h", "log_rv_15m_1h", "med_rv_share_1h", "log_rv_raw_1h", "age_funding"}
    assert not left_out & set(member.columns_)


def test_a_column_that_is_constant_or_empty_adds_nothing(fitted: Made, train: Any, later: Any) -> None:
    more = [part.X.assign(burst_btc=0.25, burst_eth=np.nan) for part in (train, later)]
    made = HARX().fit(more[0], train.y).predict(more[1])
    np.testing.assert_allclose(made, fitted("har_x").predict(later.X), rtol=1e-9)


def test_columns_go_by_name_not_by_place(fitted: Made, later: Any) -> None:
    turned = later.X[later.X.columns[::-1]].assign(unknown=1.0)
    pd.testing.assert_frame_equal(fitted("har_x").predict(turned), fitted("har_x").predict(later.X), check_exact=True)


def test_too_few_rows_are_refused(train: Any) -> None:
    few = train.rows(0, 60)
    with pytest.raises(DataInvalid, match=r"model 'har_x' has \d+ training rows for horizon 1 h and needs \d+"):
        HARX().fit(few.X, few.y)
