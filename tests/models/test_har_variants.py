"""HARQ and the HAR in levels against statsmodels, a numerical minimiser, planted coefficients, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import optimize

from models.catalogue import make
from models.har import HAR, Part, least_squares, qlike_fit
from models.har_variants import HARQ, LevelHAR, LevelPart, level_fit
from models.members import Member

Array = NDArray[np.float64]
LADDER = [f"log_rv_{lag}h" for lag in (1, 4, 24, 168, 720)]
PLANTED = np.array([0.06, 0.35, 0.2, 0.2, 0.1, 0.1])


def levels(n: int, noise: float = 0.5, seed: int = 0) -> tuple[Array, Array]:
    """A constant and five correlated windows, (6, n), and V with mean one of ``V / linear``."""
    rng = np.random.default_rng(seed)
    windows = np.exp(-9 + 0.6 * np.cumsum(rng.normal(size=(5, n)), axis=0))
    design = np.vstack([np.full(n, np.exp(-9)), windows])
    return design, PLANTED @ design * np.exp(noise * rng.normal(size=n) - noise**2 / 2)


def part(design: Array, target: Array, forecast: Array | None = None) -> LevelPart:
    first = PLANTED @ design if forecast is None else forecast
    return LevelPart(design, target[None], np.ones((1, len(target))), first[None])


def test_level_fit_is_two_weighted_regressions() -> None:
    """Where no row is far out, statsmodels with weights of the first forecast, then of its own, has the same slopes."""
    design, target = levels(3000, noise=0.3)
    forecast = design[1:].mean(axis=0)
    for _ in range(2):
        fit = sm.WLS(target, design.T, weights=1 / forecast**2).fit()
        forecast = fit.fittedvalues
    made = level_fit([part(design, target, design[1:].mean(axis=0))])[0]
    np.testing.assert_allclose(made / made[3], fit.params / fit.params[3], rtol=1e-5)
    assert np.mean(target / (made @ design)) == pytest.approx(1, abs=1e-9)


def test_level_fit_is_close_to_the_minimum_of_qlike() -> None:
    design, target = levels(20_000)

    def qlike(b: Array) -> float:
        ratio = target / (b @ design)
        return float(np.mean(ratio - np.log(ratio) - 1)) if (ratio > 0).all() else np.inf

    made = level_fit([part(design, target, design[1:].mean(axis=0))])[0]
    best = optimize.minimize(qlike, PLANTED, method="Nelder-Mead", options={"xatol": 1e-6, "maxiter": 4000})
    assert qlike(made) < best.fun + 1e-4
    np.testing.assert_allclose(made, PLANTED, atol=0.03)


def test_unweighted_the_stormy_hours_rule() -> None:
    """What the weights are for: plain least squares in levels is several times as far from the truth."""
    design, target = levels(5000, noise=0.8, seed=3)
    plain = least_squares([Part(design, target[None], np.ones((1, 5000)))])[0]
    weighted = level_fit([part(design, target, design[1:].mean(axis=0))])[0]
    assert np.abs(plain - PLANTED).max() > 3 * np.abs(weighted - PLANTED).max()


def test_parts_of_a_level_fit_are_its_rows() -> None:
    design, target = levels(900)
    split = [part(design[:, at], target[at]) for at in (slice(300), slice(300, None))]
    np.testing.assert_allclose(level_fit(split), level_fit([part(design, target)]), rtol=1e-9)
    both = LevelPart(design, np.stack([target, 3 * target]), np.ones((2, 900)), np.ones((2, 1)) * (PLANTED @ design))
    np.testing.assert_allclose(level_fit([both.of(np.array([True, False]))]), level_fit([part(design, target)]))


def test_forecasts_of_the_level_stay_near_their_windows(fitted: Callable[[str], Member], later: Any) -> None:
    """A constant far above a market gone quiet, or slopes that say less than nothing, are held."""
    member = fitted("har_wls")
    assert isinstance(member, LevelHAR)
    X = later.X.copy()
    X[LADDER] -= 12.0
    windows = np.exp(X[LADDER].to_numpy())
    hourly = (member.predict(X)[1] / np.exp(X["log_season_ahead_1h"])).to_numpy()
    np.testing.assert_allclose(hourly, 4 * windows.max(axis=1), rtol=1e-12)
    negative = LevelHAR().restore(member.state())
    negative.coefficients_, negative.pooled_ = -member.coefficients_, -member.pooled_
    windows = np.exp(later.X[LADDER].to_numpy())
    hourly = (negative.predict(later.X)[1] / np.exp(later.X["log_season_ahead_1h"])).to_numpy()
    np.testing.assert_allclose(hourly, windows.min(axis=1) / 4, rtol=1e-12)


def settled(train: Any, h: int) -> tuple[pd.DataFrame, pd.Series]:
    known = train.y[h].notna() & train.X["log_rv_24h"].notna()
    return train.X[known], train.y[h][known]


def test_level_har_by_hand(fitted: Callable[[str], Member], train: Any, later: Any) -> None:
    """Own and pooled fits in units of each symbol's mean variance, mixed by rows."""
    logs, made = HAR().fit(train.X, train.y), fitted("har_wls").predict(later.X)
    for h in (1, 24):
        X, v = settled(train, h)
        parts = {}
        for name in ("AAAUSDT", "BBBUSDT", "CCCUSDT"):
            some = X.loc[[name]]
            windows = np.exp(some[LADDER].ffill(axis=1).to_numpy().T)
            season = np.exp(some[f"log_season_ahead_{h}h"].to_numpy())
            # The scale is of all rows that any horizon knows; those are the rows of the first one.
            rows = settled(train, 1)[0].loc[[name]]
            scale = np.exp(rows[LADDER].ffill(axis=1)["log_rv_720h"]).mean()
            first = logs.predict(some)[h].to_numpy() / season
            parts[name] = part(np.vstack([np.full(len(some), scale), windows]), v.loc[name].to_numpy() / season, first)
        share = len(X.loc["BBBUSDT"]) / (len(X.loc["BBBUSDT"]) + 20_000)
        mixed = (share * level_fit([parts["BBBUSDT"]]) + (1 - share) * level_fit(list(parts.values())))[0]
        new = later.X.loc[["BBBUSDT"]]
        windows = np.exp(new[LADDER].to_numpy())
        by_hand = (mixed[0] * parts["BBBUSDT"].design[0, 0] + windows @ mixed[1:]) * np.exp(
            new[f"log_season_ahead_{h}h"]
        )
        np.testing.assert_allclose(made.loc["BBBUSDT", h], by_hand, rtol=1e-7)


@pytest.mark.parametrize("kind", ["har_seasonal", "harq", "har_wls"])
def test_a_market_listed_within_the_day_has_the_forecast_of_the_pool(kind: str, train: Any, later: Any) -> None:
    origins = train.X.index.get_level_values("origin")
    young = (train.X.index.get_level_values("symbol") == "CCCUSDT") & (origins > origins.max() - pd.Timedelta(hours=9))
    X = train.X.copy()
    X.loc[young, [name for name in X if name.endswith(("_24h", "168h", "720h")) and "ahead" not in name]] = np.nan
    kept = young | (train.X.index.get_level_values("symbol") != "CCCUSDT")
    member = make(kind).fit(X[kept], train.y[kept])
    new = later.X.loc[["CCCUSDT"]]
    unseen = member.predict(new.rename(index={"CCCUSDT": "NEWUSDT"}, level="symbol"))
    assert np.isfinite(unseen.to_numpy()).all()
    np.testing.assert_array_equal(member.predict(new), unseen)


def terms(X: pd.DataFrame) -> Array:
    """HARQ's: the windows, the accuracy of the day, and what it changes in the weights of hour and day."""
    ladder = X[LADDER].ffill(axis=1).to_numpy()
    q = X["log_hourly_quarticity_24h"].to_numpy()[:, None]
    return np.hstack([ladder, q, q * (ladder[:, [0, 2]] - ladder[:, [4]])])


def test_harq_by_hand(fitted: Callable[[str], Member], train: Any, later: Any) -> None:
    made = fitted("harq").predict_log(later.X)
    for h in (1, 24):
        X, v = settled(train, h)
        design = np.column_stack([np.ones(len(X)), terms(X)]).T
        target = np.log(v.to_numpy()) - X[f"log_season_ahead_{h}h"].to_numpy()
        own = np.asarray(X.index.get_level_values("symbol") == "BBBUSDT")
        fits = [
            qlike_fit([Part(design[:, at], target[None, at], np.ones((1, at.sum())))])[0]
            for at in (own, np.ones(len(X), dtype=bool))
        ]
        share = own.sum() / (own.sum() + 20_000)
        new = later.X.loc[["BBBUSDT"]]
        mixed = share * fits[0] + (1 - share) * fits[1]
        by_hand = mixed[0] + terms(new) @ mixed[1:] + new[f"log_season_ahead_{h}h"].to_numpy()
        np.testing.assert_allclose(made.loc["BBBUSDT", h], by_hand, atol=1e-7)


def test_harq_finds_a_weight_that_falls_with_the_error(train: Any) -> None:
    """A world in which the newest hour counts the less the noisier the day: found, and worth its terms."""
    ladder, q = train.X[LADDER].ffill(axis=1), train.X["log_hourly_quarticity_24h"].fillna(0.0)
    weight = 0.6 - 0.8 * q
    level = weight * ladder["log_rv_1h"] + (1 - weight) * ladder["log_rv_720h"] + train.X["log_season_ahead_1h"]
    noise = 0.3 * np.random.default_rng(0).normal(size=len(level)) - 0.045
    y = pd.DataFrame({1: np.exp(level + noise)})
    plain, varying = HAR(window_days=None).fit(train.X, y), HARQ(window_days=None).fit(train.X, y)
    assert varying.pooled_[0, 7] == pytest.approx(-0.8, abs=0.1)
    errors = [float((np.log(y[1]) - member.predict_log(train.X)[1]).std()) for member in (plain, varying)]
    assert errors[1] == pytest.approx(0.3, abs=0.01)
    assert errors[0] > 1.02 * errors[1]


def test_a_day_of_unknown_accuracy_counts_as_exact(fitted: Callable[[str], Member], later: Any) -> None:
    X, exact = later.X.copy(), later.X.copy()
    X["log_hourly_quarticity_24h"], exact["log_hourly_quarticity_24h"] = np.nan, 0.0
    member = fitted("harq")
    pd.testing.assert_frame_equal(member.predict(X), member.predict(exact), check_exact=True)
    assert not member.predict(later.X).equals(member.predict(exact))


@pytest.mark.parametrize("kind", ["har_seasonal", "harq", "har_wls", "ewma_seasonal"])
def test_terms_add_up_to_the_forecast(kind: str, fitted: Callable[[str], Member], later: Any) -> None:
    member = fitted(kind)
    told = member.contributions(later.X, {})
    np.testing.assert_allclose(sum(told.values()), member.predict_log(later.X), atol=1e-10)
    assert ("quarticity" in told) == (kind == "harq")
