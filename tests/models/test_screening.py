"""The screen's losses against pandas, and its set on members of known rank."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid
from models.screening import daily_losses, model_confidence_set


def test_daily_losses_are_qlike_by_day_of_the_rows_that_every_member_has() -> None:
    rng = np.random.default_rng(1)
    first = 437_003  # not the start of a day
    logs, variance = rng.normal(size=(2, 3, 200)), np.exp(rng.normal(size=(3, 200)))
    logs[0, 1, 20:90] = np.nan
    variance[:, 100:130] = np.nan
    made = daily_losses(logs, variance, first)
    ratio = variance / np.exp(logs)
    qlike = ratio - np.log(ratio) - 1
    qlike[:, ~np.isfinite(qlike).all(axis=0)] = np.nan
    day = pd.Series((first + np.arange(200)) // 24)
    complete = day.map(day.value_counts()) == 24
    expected = []
    for of_member in qlike:
        hourly = pd.Series([np.nanmean(c) if np.isfinite(c).any() else np.nan for c in of_member.T])
        expected.append(hourly[complete].groupby(day[complete]).mean())
    np.testing.assert_allclose(made, pd.concat(expected, axis=1).dropna().to_numpy(), rtol=1e-12)


def test_a_clearly_worse_model_is_outside_and_a_twin_of_the_best_inside() -> None:
    rng = np.random.default_rng(2)
    best = rng.normal(1, 0.2, size=300)
    losses = np.column_stack(
        [best, best, best + 0.3 + rng.normal(0, 0.1, size=300), best + rng.normal(0, 0.2, size=300)]
    )
    assert model_confidence_set(losses, 10).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("losses", "told"), [(np.full((30, 2), np.nan), "without nulls"), (np.ones((15, 2)), "too few")]
)
def test_losses_that_cannot_be_compared_are_refused(losses: np.ndarray, told: str) -> None:
    with pytest.raises(DataInvalid, match=told):
        model_confidence_set(losses, 10)
