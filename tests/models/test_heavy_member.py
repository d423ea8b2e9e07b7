"""HEAVY-X against its recursion by hand, and against weights that are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from features.errors import DataInvalid
from models.heavy_member import HeavyX
from models.members import Member

HORIZONS = (1, 4, 24)
Made = Callable[[str], Member]
Array = NDArray[np.float64]


def with_market(X: Any) -> Any:
    """A burst of the market that comes and goes."""
    hour = X.index.get_level_values("origin").hour
    return X.assign(market_log_ew_3h=-10.0 + 0.4 * np.sin(hour), market_log_ew_168h=-10.0)


def by_hand(member: HeavyX, symbol: str, X: Any) -> Array:
    """``ln E[V]`` after each row of one symbol without a gap, in plain Python."""
    month, week, day, market, v, square, negative, own = member.weights_
    units = dict(zip(("month", "week", "day", "market", "v", "square", "negative"), member.scale_, strict=True))
    variance, inflow = member.filters_[symbol]
    level, slope = member.calibration_[symbol].T
    out = np.full((len(X), len(HORIZONS)), np.nan)
    for t, row in enumerate(X.to_dict("records")):
        r2 = row["log_return_1h"] ** 2 / np.exp(row["log_season_1h"])
        windows = {
            name: np.exp(row[f"log_rv_{hours}h"]) for name, hours in (("month", 720), ("week", 168), ("day", 24))
        }
        burst = np.exp(row.get("market_log_ew_3h", 0.0) - row.get("market_log_ew_168h", 0.0))
        if np.isfinite(windows["month"]):
            inflow = month * windows["month"] / units["month"] + week * windows["week"] / units["week"]
            inflow += day * windows["day"] / units["day"] + market * windows["week"] * burst / units["market"]
        hour = np.exp(row["log_rv_1h"])
        step = inflow + own * variance
        step += v * (variance if np.isnan(hour) else hour / units["v"])
        step += square * (variance if np.isnan(r2) else r2 / units["square"])
        step += negative * (variance if np.isnan(r2) else r2 * (row["log_return_1h"] < 0) / units["negative"])
        variance, path = step, []
        for _ in range(max(HORIZONS)):
            path.append(step)
            step = inflow + (own + v + square + negative) * step
        season = np.array([row[f"log_season_ahead_{h}h"] for h in HORIZONS])
        out[t] = level + slope * [np.log(np.mean(path[:h])) for h in HORIZONS] + season
    return out


@pytest.fixture(scope="module")
def member(train: Any) -> HeavyX:
    return HeavyX().fit(with_market(train.X), train.y)


def test_forecast_is_the_recursion_by_hand(member: HeavyX, later: Any) -> None:
    X = with_market(later.X)
    made = member.predict_log(X)
    for symbol in ("AAAUSDT", "CCCUSDT"):
        np.testing.assert_allclose(made.loc[symbol], by_hand(member, symbol, X.loc[symbol]), atol=1e-10)


def test_what_is_missing_passes_at_its_expectation(member: HeavyX, later: Any) -> None:
    """A return, a measure, both, and bars that are not there at all, first of them the next after the fit."""
    X = with_market(later.X).loc[["AAAUSDT"]].copy()
    X.iloc[50, X.columns.get_loc("log_return_1h")] = np.nan
    X.iloc[60, X.columns.get_loc("log_rv_1h")] = np.nan
    empty = X.columns.str.startswith(("log_rv_", "log_return_"))
    for gap in (slice(0, 20), slice(100, 130)):
        X.iloc[gap, empty] = np.nan
    expected = by_hand(member, "AAAUSDT", X.loc["AAAUSDT"])
    kept = np.r_[20:100, 130:400]
    np.testing.assert_allclose(member.predict_log(X.iloc[kept]), expected[kept], atol=1e-10)


def test_without_a_market_its_burst_is_one(train: Any, later: Any) -> None:
    member = HeavyX().fit(train.X, train.y)
    made = member.predict_log(later.X)
    np.testing.assert_allclose(made.loc["BBBUSDT"], by_hand(member, "BBBUSDT", later.X.loc["BBBUSDT"]), atol=1e-10)
    quiet = later.X.assign(market_log_ew_3h=-9.0, market_log_ew_168h=-9.0)
    pd.testing.assert_frame_equal(member.predict_log(quiet), made)
    member.weights_ = np.full(8, 0.125)
    moved = member.predict_log(with_market(later.X)) - member.predict_log(quiet)
    assert moved.abs().to_numpy().mean() > 0.01


def test_weights_are_the_best_of_the_simplex(member: HeavyX, train: Any) -> None:
    """On the rows that teach, moving weight from one term to another does not lower QLIKE by more than the search leaves."""
    assert member.weights_.sum() == pytest.approx(1.0, abs=1e-12)
    assert (member.weights_ > 0).all()
    X = with_market(train.X)
    seasons = X[[f"log_season_ahead_{h}h" for h in HORIZONS]].to_numpy()
    error = np.log(train.y.to_numpy()) - seasons
    hour = X.index.get_level_values("origin").as_unit("us").asi8 // 3_600_000_000
    teaches = (hour % 3 == 0) & (X.groupby(level="symbol").cumcount() >= 24).to_numpy()

    def loss(weights: Array) -> float:
        other = HeavyX().restore(member.state())
        other.weights_, other.filters_, other.last_ = weights, {}, {}
        other.calibration_ = {}
        other.pooled_calibration_ = np.array([[0.0, 1.0]] * len(HORIZONS))
        left = error - (other.predict_log(X).to_numpy() - seasons)
        losses = []
        for rows in X.groupby(level="symbol").indices.values():
            for h in range(len(HORIZONS)):
                e = left[rows[teaches[rows]], h]
                e = e[np.isfinite(e)]
                losses.append(len(e) * (np.log(np.mean(np.exp(e))) - e.mean()))
        return float(np.sum(losses)) / len(error)

    best = loss(member.weights_)
    for k in range(len(member.weights_)):
        for factor in (0.5, 1.5):
            moved = member.weights_.copy()
            moved[k] *= factor
            assert loss(moved / moved.sum()) > best - 2e-4
    even = np.full_like(member.weights_, 1.0 / len(member.weights_))
    assert loss(even) > best + 1e-4


def simulated(hours: int, weights: tuple[float, float, float], rng: np.random.Generator) -> tuple[Any, Any]:
    """A flat season and ``h = w_month month + w_v v + w_h h`` with gamma noise; columns as the member reads them."""
    times = pd.date_range("2024-01-01", periods=hours, freq="h", tz="UTC").as_unit("us")
    of_month, of_variance, of_own = weights
    h, v = 1e-4, np.empty(hours)
    for t in range(hours):
        v[t] = h * rng.gamma(2.0, 0.5)
        month = v[max(0, t - 719) : t + 1].mean()
        h = of_month * month + of_variance * v[t] + of_own * h
    series = pd.Series(v, index=times)
    X = pd.DataFrame({f"log_rv_{n}h": np.log(series.rolling(n, min_periods=1).mean()) for n in (1, 24, 168, 720)})
    X["log_return_1h"], X["log_season_1h"] = rng.normal(size=hours) * 1e-2, 0.0  # returns that tell nothing
    X["log_season_ahead_1h"], X["log_season_ahead_4h"] = 0.0, np.log(4.0)
    y = pd.DataFrame({n: series.rolling(n).sum().shift(-n) for n in (1, 4)}, index=times)
    return X, y


def test_known_weights_are_found_and_serve_symbols_of_any_scale() -> None:
    rng = np.random.default_rng(3)
    parts = {name: simulated(6000, (0.1, 0.3, 0.6), rng) for name in ("AUSDT", "BUSDT", "CUSDT")}
    X, y = (pd.concat({name: part[k] for name, part in parts.items()}, names=["symbol", "origin"]) for k in (0, 1))
    member = HeavyX().fit(X, y)
    month, week, day, market, v, square, negative, own = member.weights_
    assert v == pytest.approx(0.3, abs=0.05)
    assert own == pytest.approx(0.6, abs=0.08)
    assert month + week + day + market == pytest.approx(0.1, abs=0.05)
    assert square + negative < 0.02
    np.testing.assert_allclose(member.pooled_calibration_[:, 1], 1.0, atol=0.05)
    levels = [name for name in X if name.startswith("log_rv_")]
    larger = X.copy()
    larger[levels] += np.log(1e3)
    larger["log_return_1h"] *= np.sqrt(1e3)
    again = HeavyX().fit(larger, y * 1e3)
    np.testing.assert_allclose(again.weights_, member.weights_, atol=1e-3)


def test_nothing_to_fit_is_refused(train: Any) -> None:
    short = train.rows(-200, None)
    with pytest.raises(DataInvalid, match="no symbol has 30 days of hours with labels"):
        HeavyX().fit(short.X, short.y)
    with pytest.raises(DataInvalid, match="no symbol has 30 days of hours with labels"):
        HeavyX().fit(train.X, train.y * np.nan)
