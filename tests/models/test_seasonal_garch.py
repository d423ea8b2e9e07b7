"""The GARCH members against the recursion by hand and one uninterrupted filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from features.errors import DataInvalid
from models.garch import GARCH
from models.members import Member
from models.seasonal_garch import SeasonalGARCH

KINDS = {"garch": 0, "gjr": 1}
HORIZONS = (1, 4, 24)
Made = Callable[[str], Member]


def parameters(member: SeasonalGARCH, symbol: str) -> tuple[float, float, float, float]:
    values = list(member.params_[symbol])
    omega, alpha = values[0], values[1]
    gamma = values[2] if member.o else 0.0
    return omega, alpha, gamma, values[2 + member.o]


def by_hand(member: SeasonalGARCH, symbol: str, returns: NDArray[np.float64], X: pd.DataFrame) -> NDArray[np.float64]:
    """``ln E[V]`` after each return, from the filter's stored lags, in plain Python."""
    omega, alpha, gamma, beta = parameters(member, symbol)
    square, negative, last, _ = member.filters_[symbol][:, 0]
    variance = omega + alpha * square + gamma * negative + beta * last
    out = np.empty((len(returns), len(HORIZONS)))
    for t, r in enumerate(returns):
        shock = variance if np.isnan(r) else r * r
        below = 0.5 * shock if np.isnan(r) else shock * (r < 0)
        variance = omega + alpha * shock + gamma * below + beta * variance
        path, step = [], variance
        for _ in range(max(HORIZONS)):
            path.append(step)
            step = omega + (alpha + 0.5 * gamma + beta) * step
        out[t] = [np.log(np.mean(path[:h])) + X[f"log_season_ahead_{h}h"].iloc[t] for h in HORIZONS]
    return out


def deseasonalised(X: pd.DataFrame) -> NDArray[np.float64]:
    return (X["log_return_1h"] / np.exp(0.5 * X["log_season_1h"])).to_numpy(copy=True)


def member_of(made: Made, kind: str) -> SeasonalGARCH:
    member = made(kind)
    assert isinstance(member, SeasonalGARCH)
    return member


@pytest.mark.parametrize("kind", KINDS)
def test_forecast_is_the_recursion_by_hand(kind: str, fitted: Made, later: Any) -> None:
    member = member_of(fitted, kind)
    made = member.predict_log(later.X)
    for symbol in ("AAAUSDT", "CCCUSDT"):
        X = later.X.loc[symbol]
        np.testing.assert_allclose(made.loc[symbol], by_hand(member, symbol, deseasonalised(X), X), atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_garch_on_deseasonalised_returns(kind: str, fitted: Made, train: Any) -> None:
    returns = deseasonalised(train.X.loc["BBBUSDT"])
    assert np.isnan(returns[0])
    own = GARCH(o=KINDS[kind], dist="t").fit(returns[1:])
    np.testing.assert_array_equal(member_of(fitted, kind).params_["BBBUSDT"], own.params_)
    assert member_of(fitted, kind).certified_["BBBUSDT"]


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_after_a_fit_is_one_uninterrupted_filter(kind: str, fitted: Made, sample: Any, later: Any) -> None:
    member = member_of(fitted, kind)
    made = member.predict_log(later.X)[1]
    for symbol, X in sample.X.groupby(level="symbol"):
        returns = deseasonalised(X)
        whole = GARCH(o=KINDS[kind], dist="t").fix(member.params_[str(symbol)], returns[1:-400])
        one_step = whole.filter(np.append(returns[1:], np.nan))[-400:]
        season = later.X.loc[symbol, "log_season_ahead_1h"].to_numpy()
        np.testing.assert_array_equal(made.loc[symbol], np.log(one_step) + season)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_bars_pass_at_their_expectation(kind: str, fitted: Made, later: Any) -> None:
    """Holes inside the rows, and rows that begin long after the fit ended."""
    member = member_of(fitted, kind)
    X = later.X.loc[["AAAUSDT"]]
    returns = deseasonalised(X)
    returns[:30] = returns[100:140] = np.nan
    expected = by_hand(member, "AAAUSDT", returns, X)
    kept = np.r_[30:100, 140:400]
    np.testing.assert_allclose(member.predict_log(X.iloc[kept]), expected[kept], atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_season_is_put_back_and_nothing_else(kind: str, fitted: Made, later: Any) -> None:
    X = later.X.copy()
    X["log_season_ahead_4h"] += np.log(3.0)
    moved = member_of(fitted, kind).predict_log(X) - member_of(fitted, kind).predict_log(later.X)
    np.testing.assert_allclose(moved, [[0.0, np.log(3.0), 0.0]] * len(X), atol=1e-12)


@pytest.fixture(scope="module")
def with_hopeless(train: Any, fresh: Made) -> SeasonalGARCH:
    """A fit beside one symbol that never moves, one that is a month too young, and one without a return."""
    extra = {}
    for name, rows, returns in (("FLATUSDT", 2000, 0.0), ("MUTEUSDT", 900, np.nan), ("YOUNGUSDT", 300, None)):
        X = train.X.loc["BBBUSDT"].iloc[-rows:]
        extra[name] = X if returns is None else X.assign(log_return_1h=returns)
    added = pd.concat(extra, names=["symbol", "origin"])
    X = pd.concat([train.X, added])
    member = fresh("gjr").fit(X, train.y.reindex(X.index))
    assert isinstance(member, SeasonalGARCH)
    return member


def test_a_hopeless_symbol_takes_the_median_of_the_others(with_hopeless: SeasonalGARCH, later: Any) -> None:
    member = with_hopeless
    sound = [name for name, certified in member.certified_.items() if certified]
    assert sound == ["AAAUSDT", "BBBUSDT", "CCCUSDT"]
    median = np.median([member.params_[name] for name in sound], axis=0)
    X = later.X.loc[["BBBUSDT"]]
    for name in ("FLATUSDT", "YOUNGUSDT", "MUTEUSDT"):
        np.testing.assert_array_equal(member.params_[name], median)
        made = member.predict(X.rename(index={"BBBUSDT": name}, level="symbol")).to_numpy()
        assert np.isfinite(made).all()
        assert (made > 0).all()
    assert "MUTEUSDT" not in member.filters_


def test_a_young_symbol_goes_on_from_its_own_filter(with_hopeless: SeasonalGARCH, later: Any) -> None:
    X = later.X.loc[["BBBUSDT"]].rename(index={"BBBUSDT": "YOUNGUSDT"}, level="symbol")
    expected = by_hand(with_hopeless, "YOUNGUSDT", deseasonalised(X), X)
    np.testing.assert_allclose(with_hopeless.predict_log(X), expected, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_listing_does_not_borrow_from_its_future(kind: str, fitted: Made, later: Any) -> None:
    """Its first bars have no return yet; a scale taken from later ones would be known too early."""
    X = later.X.loc[["AAAUSDT"]].rename(index={"AAAUSDT": "NEWUSDT"}, level="symbol")
    X.iloc[:3, X.columns.get_loc("log_return_1h")] = np.nan
    member = member_of(fitted, kind)
    whole = member.predict(X)
    for rows in (1, 3, 4, 50):
        pd.testing.assert_frame_equal(member.predict(X.iloc[:rows]), whole.iloc[:rows], check_exact=True)
    assert whole.iloc[:3].isna().all(axis=None)
    assert np.isfinite(whole.iloc[3:].to_numpy()).all()


def test_first_return_of_zero_does_not_stop_a_filter(fitted: Made, later: Any) -> None:
    X = later.X.loc[["AAAUSDT"]].rename(index={"AAAUSDT": "NEWUSDT"}, level="symbol")
    X.iloc[0, X.columns.get_loc("log_return_1h")] = 0.0
    assert np.isfinite(fitted("gjr").predict(X).to_numpy()).all()


def test_only_the_window_is_fitted(train: Any) -> None:
    member = SeasonalGARCH(window_days=40).fit(train.X, train.y)
    returns = deseasonalised(train.X.loc["AAAUSDT"])[-40 * 24 :]
    alone = GARCH(dist="t").fit(returns)
    np.testing.assert_array_equal(member.params_["AAAUSDT"], alone.params_)


def test_nothing_to_fit_is_refused(train: Any) -> None:
    short = train.rows(-200, None)
    with pytest.raises(DataInvalid, match="no symbol has 30 days of returns"):
        SeasonalGARCH().fit(short.X, short.y)


def test_symbols_do_not_move_one_another(train: Any, later: Any) -> None:
    """All are fitted in one batch: a symbol alone, or beside longer and broken ones, keeps its bits."""
    one = train.X.loc[["CCCUSDT"]].iloc[700:]
    broken = train.X.loc[["AAAUSDT"]].copy()
    broken.iloc[300:340, 0] = np.nan
    beside = pd.concat([broken, train.X.loc[["BBBUSDT"]], one])
    alone, among = (SeasonalGARCH(o=1).fit(X, train.y.reindex(X.index)) for X in (one, beside))
    np.testing.assert_array_equal(alone.params_["CCCUSDT"], among.params_["CCCUSDT"])
    rows = later.X.loc[["CCCUSDT"]]
    pd.testing.assert_frame_equal(alone.predict(rows), among.predict(later.X).loc[["CCCUSDT"]], check_exact=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_variance_that_does_not_revert_is_summed_all_the_same(kind: str, fitted: Made, later: Any) -> None:
    """At a persistence of one the sum has no closed form with 1 - phi below the line."""
    member = member_of(fitted, kind)
    drifting = SeasonalGARCH(o=member.o).restore(member.state())
    omega, alpha, gamma, _ = parameters(member, "AAAUSDT")
    params = member.params_["AAAUSDT"].copy()
    params[2 + member.o] = 1.0 - alpha - 0.5 * gamma
    drifting.params_["AAAUSDT"] = params
    X = later.X.loc[["AAAUSDT"]]
    expected = by_hand(drifting, "AAAUSDT", deseasonalised(X), X.loc["AAAUSDT"])
    np.testing.assert_allclose(drifting.predict_log(X), expected, atol=1e-10)
    assert omega > 0


def test_a_symbol_without_a_return_has_no_forecast(fitted: Made, later: Any) -> None:
    X = later.X.loc[["AAAUSDT"]].rename(index={"AAAUSDT": "MUTEUSDT"}, level="symbol").assign(log_return_1h=np.nan)
    assert fitted("gjr").predict(X).isna().all(axis=None)
