"""The two EWMAs against a search by hand, planted truths, and the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import optimize

from features.families.memory import DOWN_HALF_LIVES, RAW_HALF_LIVES
from models.ewma import EWMA, SeasonalEWMA

Array = NDArray[np.float64]


def test_ewma_picks_the_half_life_with_the_least_qlike(train: Any) -> None:
    member = EWMA().fit(train.X, train.y)
    for j, h in enumerate(train.y):
        losses = {}
        for half_life in (6, 12, 24, 48, 96, 192):
            forecast = h * np.exp(train.X[f"log_ew_raw_{half_life}h"])
            by_symbol = []
            for symbol in ("AAAUSDT", "BBBUSDT", "CCCUSDT"):
                v, f = train.y[h].loc[symbol].dropna(), forecast.loc[symbol]
                f = f.reindex(v.index)

                def at_level(k: float, v: pd.Series = v, f: pd.Series = f) -> float:
                    ratio = v / f / np.exp(k)
                    return float((ratio - np.log(ratio) - 1).mean())

                by_symbol.append(optimize.minimize_scalar(at_level).fun)
            losses[half_life] = np.mean(by_symbol)
        assert member.half_life_[j] == min(losses, key=losses.__getitem__)
        made = member.predict(train.X)[h]
        np.testing.assert_allclose(made, h * np.exp(train.X[f"log_ew_raw_{member.half_life_[j]}h"]), rtol=1e-12)


def test_ewma_follows_the_market_it_is_given(train: Any) -> None:
    """Where one candidate is the truth, it is the one that is picked."""
    for half_life in RAW_HALF_LIVES:
        y = pd.DataFrame({h: h * np.exp(train.X[f"log_ew_raw_{half_life}h"]) for h in (1, 4)})
        assert EWMA().fit(train.X, y).half_life_.tolist() == [half_life] * 2


def test_ewma_answers_without_a_single_label(train: Any) -> None:
    member = EWMA().fit(train.X, train.y * np.nan)
    assert np.isfinite(member.predict(train.X).to_numpy()).all()
    assert (member.residuals_ == 0).all()


def asymmetric(X: pd.DataFrame, half_life: int, g: float, h: int) -> pd.Series:
    """The definition: falling hours weigh ``1 + g``, and the season of the horizon is put back."""
    whole, down = np.exp(X[f"log_ew_{half_life}h"]), np.exp(X[f"log_ew_down_{half_life}h"])
    return (whole + g * down) / (1 + g / 2) * np.exp(X[f"log_season_ahead_{h}h"])


@pytest.mark.parametrize("half_life", DOWN_HALF_LIVES)
@pytest.mark.parametrize("g", [0.0, 0.5, 2.0])
def test_seasonal_ewma_finds_half_life_and_asymmetry(train: Any, half_life: int, g: float) -> None:
    """Whatever level the truth has; the forecast keeps its own."""
    truth = pd.DataFrame({h: asymmetric(train.X, half_life, g, h) for h in (1, 24)})
    member = SeasonalEWMA().fit(train.X, 1.7 * truth)
    assert member.half_life_.tolist() == [half_life] * 2
    assert member.asymmetry_.tolist() == [g] * 2
    np.testing.assert_allclose(member.predict(train.X), truth, rtol=1e-12)


def test_seasonal_ewma_has_the_least_qlike_of_its_candidates(train: Any) -> None:
    member = SeasonalEWMA().fit(train.X, train.y)
    for j, h in enumerate(train.y):
        losses = {}
        for half_life in DOWN_HALF_LIVES:
            for g in member.asymmetries:
                ratio = (train.y[h] / asymmetric(train.X, half_life, g, h)).dropna()
                by_symbol = ratio.groupby(level="symbol")
                losses[half_life, g] = float(
                    (np.log(by_symbol.mean()) - np.log(ratio).groupby(level="symbol").mean()).mean()
                )
        assert (member.half_life_[j], member.asymmetry_[j]) == min(losses, key=losses.__getitem__)


def test_seasonal_ewma_without_labels_is_symmetric(train: Any) -> None:
    member = SeasonalEWMA().fit(train.X, train.y * np.nan)
    assert member.half_life_.tolist() == [12] * 3
    assert member.asymmetry_.tolist() == [0.0] * 3


def test_only_the_newest_rows_decide(train: Any) -> None:
    """Two halves with different truths: the window sees the second one."""
    origins = train.X.index.get_level_values("origin")
    new = np.asarray(origins > origins.max() - pd.Timedelta(days=30))
    old, now = asymmetric(train.X, 48, 2.0, 1), asymmetric(train.X, 6, 0.5, 1)
    member = SeasonalEWMA(window_days=30).fit(train.X, pd.DataFrame({1: old.where(~new, now)}))
    assert (member.half_life_[0], member.asymmetry_[0]) == (6, 0.5)
