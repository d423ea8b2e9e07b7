"""The HAR against a numerical minimiser, a GLM, planted coefficients, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import optimize

from features.errors import DataInvalid
from models.har import HAR, Part, filled, least_squares, linear
from models.har import qlike_fit as fit_parts
from models.members import Member

Array = NDArray[np.float64]
PLANTED = np.array([-0.4, 0.35, 0.25, 0.2, 0.1, 0.05])


def planted(n: int, noise: float = 0.6, seed: int = 0) -> tuple[Array, Array]:
    """A ladder of five correlated log variances, and log V with mean one of ``V / exp(linear)``."""
    rng = np.random.default_rng(seed)
    ladder = -9 + 0.7 * np.cumsum(rng.normal(size=(n, 5)), axis=1)
    surprise = noise * rng.normal(size=n) - noise**2 / 2
    return ladder, PLANTED[0] + ladder @ PLANTED[1:] + surprise


def qlike_fit(design: Array, target: Array, weights: Array) -> Array:
    """One horizon, all rows in one part."""
    return fit_parts([Part(np.vstack([np.ones(len(design)), design.T]), target[None], weights[None])])[0]


def qlike(coefficients: Array, design: Array, target: Array, weights: Array) -> float:
    log_ratio = target - coefficients[0] - design @ coefficients[1:]
    return float(np.average(np.exp(log_ratio) - log_ratio - 1, weights=weights))


@pytest.mark.parametrize("weighted", [False, True])
def test_qlike_fit_is_the_minimum_of_qlike(weighted: bool) -> None:
    design, target = planted(3000)
    weights = np.random.default_rng(1).uniform(0.2, 3.0, 3000) if weighted else np.ones(3000)
    made = qlike_fit(design, target, weights)
    best = optimize.minimize(
        qlike, np.r_[target.mean(), np.zeros(5)], (design, target, weights), method="BFGS", options={"gtol": 1e-9}
    )
    assert qlike(made, design, target, weights) <= best.fun + 1e-10
    np.testing.assert_allclose(made, best.x, atol=1e-4)


def test_qlike_fit_is_the_gamma_glm() -> None:
    design, target = planted(3000)
    full = sm.add_constant(design)
    glm = sm.GLM(np.exp(target), full, family=sm.families.Gamma(sm.families.links.Log())).fit(tol=1e-12)
    np.testing.assert_allclose(qlike_fit(design, target, np.ones(3000)), glm.params, rtol=1e-6)


def test_planted_coefficients_are_found_without_bias() -> None:
    design, target = planted(60_000)
    made = qlike_fit(design, target, np.ones(len(target)))
    np.testing.assert_allclose(made, PLANTED, atol=0.05)
    np.testing.assert_allclose(made[1:], PLANTED[1:], atol=0.02)
    # The fit of the log alone would lie noise²/2 too low.
    ratio = np.exp(target - made[0] - design @ made[1:])
    assert ratio.mean() == pytest.approx(1, abs=1e-12)


def test_one_crash_does_not_turn_the_slopes() -> None:
    """A single row ten thousand times its forecast moves the level, and the slopes little."""
    design, target = planted(5000)
    calm = qlike_fit(design, target, np.ones(5000))
    row = int(np.argmax(design[:, 4]))
    target[row] += np.log(1e4)
    hit = qlike_fit(design, target, np.ones(5000))
    assert np.abs(hit[1:] - calm[1:]).max() < 0.1
    unbounded = optimize.minimize(qlike, calm, (design, target, np.ones(5000)), method="BFGS").x
    assert np.abs(unbounded[1:] - calm[1:]).max() > 0.25
    assert np.mean(np.exp(target - hit[0] - design @ hit[1:])) == pytest.approx(1)


@pytest.mark.parametrize("n", [70, 900, 20_000])
def test_equal_windows_share_their_weight(n: int) -> None:
    """A young history has the same value in its longer windows: the forecast is that of one of them."""
    design, target = planted(n)
    doubled = np.column_stack([design[:, 0], design[:, 1], design[:, 1], design[:, 1]])
    two = qlike_fit(design[:, :2], target, np.ones(n))
    four = qlike_fit(doubled, target, np.ones(n))
    np.testing.assert_allclose(four[2:], two[2] / 3, atol=1e-9)
    np.testing.assert_allclose(four[0] + doubled @ four[1:], two[0] + design[:, :2] @ two[1:], atol=1e-9)


def test_a_flat_history_gives_its_level() -> None:
    made = qlike_fit(np.full((200, 5), -9.0), np.log(np.linspace(1, 3, 200)), np.ones(200))
    assert made[0] - 9.0 * made[1:].sum() == pytest.approx(np.log(2.0))


def test_linear_is_the_product_row_by_row() -> None:
    rng = np.random.default_rng(0)
    design, coefficients = rng.normal(size=(50, 4)), rng.normal(size=(50, 5))
    by_row = [c[0] + d @ c[1:] for d, c in zip(design, coefficients, strict=True)]
    np.testing.assert_allclose(linear(design, coefficients), by_row, rtol=1e-12)


def test_parts_and_horizons_are_fitted_as_if_each_stood_alone() -> None:
    """Sums over parts are sums over rows, and a row that one horizon does not know does not enter it."""
    design, target = planted(3000)
    weights = np.random.default_rng(1).uniform(0.2, 3.0, 3000)
    known = np.arange(3000) < 2900
    full = np.vstack([np.ones(3000), design.T])
    targets = np.stack([target, np.where(known, 2 * target, 0.0)])
    parts = [
        Part(full[:, at], targets[:, at], np.stack([weights, weights * known])[:, at])
        for at in (slice(1100), slice(1100, None))
    ]
    made = fit_parts(parts)
    np.testing.assert_allclose(made[0], qlike_fit(design, target, weights), rtol=1e-9)
    np.testing.assert_allclose(made[1], qlike_fit(design[known], 2 * target[known], weights[known]), rtol=1e-9)


def test_missing_windows_are_filled_from_the_next_shorter_one() -> None:
    ladder = np.array(
        [[1.0, 2.0, np.nan, np.nan], [np.nan, np.nan, 3.0, 4.0], [np.nan, 1.0, np.nan, 2.0], [np.nan] * 4]
    )
    by_pandas = pd.DataFrame(ladder).ffill(axis=1).bfill(axis=1)
    np.testing.assert_array_equal(filled(ladder), by_pandas)


@pytest.mark.parametrize("kind", ["har", "har_seasonal"])
def test_har_by_hand(kind: str, fitted: Callable[[str], Member], train: Any, later: Any) -> None:
    """Own and pooled QLIKE fits, mixed by rows, on the ladder filled from its longest complete window."""
    seasonal = kind == "har_seasonal"
    names = [f"log_rv_{lag}h" if seasonal else f"log_rv_raw_{lag}h" for lag in (1, 4, 24, 168, 720)]

    def offset(X: pd.DataFrame, h: int) -> Array:
        return X[f"log_season_ahead_{h}h"].to_numpy() if seasonal else np.full(len(X), np.log(h))

    made = fitted(kind).predict_log(later.X)
    for h in (1, 24):
        fits, rows = {}, {}
        for symbol in ("BBBUSDT", slice(None)):
            X, v = train.X.loc[[symbol] if symbol == "BBBUSDT" else symbol], train.y[h]
            v = v.reindex(X.index)
            known = (v.notna() & X[names[2]].notna()).to_numpy()
            ladder = X[names].ffill(axis=1).to_numpy()[known]
            fits[str(symbol)] = qlike_fit(ladder, (np.log(v) - offset(X, h)).to_numpy()[known], np.ones(len(ladder)))
            rows[str(symbol)] = len(ladder)
        own, pooled = fits.values()
        share = rows["BBBUSDT"] / (rows["BBBUSDT"] + 20_000)
        mixed = share * own + (1 - share) * pooled
        X = later.X.loc[["BBBUSDT"]]
        by_hand = mixed[0] + X[names].to_numpy() @ mixed[1:] + offset(X, h)
        np.testing.assert_allclose(made.loc["BBBUSDT", h], by_hand, atol=1e-8)


def test_least_squares_is_that_of_statsmodels() -> None:
    design, target = planted(500)
    weights = np.random.default_rng(1).uniform(0.2, 3.0, (2, 500))
    full, targets = np.vstack([np.ones(500), design.T]), np.stack([target, np.exp(target)])
    parts = [Part(full[:, at], targets[:, at], weights[:, at]) for at in (slice(100), slice(100, None))]
    by_peer = [sm.WLS(y, full.T, weights=w).fit().params for y, w in zip(targets, weights, strict=True)]
    np.testing.assert_allclose(least_squares(parts), by_peer, rtol=1e-6)


def test_the_empty_hours_before_a_market_wakes_do_not_set_its_level(sample: Any) -> None:
    """What is known of the first hours stands a hundred-thousandfold below what follows."""
    part = sample.rows(0, 900)
    clean = HAR(window_days=None).fit(part.X, part.y)
    X, first = part.X.copy(), np.asarray(part.X.groupby(level="symbol").cumcount() == 0)
    X.loc[first, ["log_rv_1h", "log_rv_4h"]] = np.log(1e-8)
    ignored = HAR(window_days=None).fit(X, part.y)
    np.testing.assert_array_equal(ignored.coefficients_, clean.coefficients_)
    # As if a day of such hours were known.
    X.loc[first, "log_rv_24h"] = np.log(1e-8)
    asleep = HAR(window_days=None).fit(X, part.y)
    above = asleep.predict_log(part.X[~first])[1] - clean.predict_log(part.X[~first])[1]
    assert above.median() > 0.1


def test_har_levels_are_right_where_it_was_fitted(fitted: Callable[[str], Member], train: Any) -> None:
    ratio = train.y / fitted("har_seasonal").predict(train.X)
    np.testing.assert_allclose(ratio.mean(), 1.0, atol=0.02)


def test_season_helps_where_there_is_one(fitted: Callable[[str], Member], later: Any) -> None:
    losses = {}
    for kind in ("har", "har_seasonal"):
        ratio = later.y[1] / fitted(kind).predict(later.X)[1]
        losses[kind] = float((ratio - np.log(ratio) - 1).mean())
    assert losses["har_seasonal"] < 0.9 * losses["har"]


def test_window_and_weights_of_har(sample: Any) -> None:
    part = sample.rows(0, 1500)
    origins = part.X.index.get_level_values("origin")
    recent = np.asarray(origins > origins.max() - pd.Timedelta(days=30))
    cut = HAR(window_days=None).fit(part.X[recent], part.y[recent])
    np.testing.assert_array_equal(HAR(window_days=30).fit(part.X, part.y).coefficients_, cut.coefficients_)
    weighted = HAR(window_days=None).fit(part.X, part.y, sample_weight=recent.astype(float))
    np.testing.assert_allclose(weighted.pooled_, cut.pooled_, rtol=1e-6)


def test_har_needs_rows(sample: Any) -> None:
    few = sample.rows(0, 42)
    with pytest.raises(DataInvalid, match=r"57 complete rows for horizon 1 h and needs 60"):
        HAR().fit(few.X, few.y.fillna(1e-4))
