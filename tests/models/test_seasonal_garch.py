"""The GARCH members against the recursion by hand and one uninterrupted filter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from features.errors import DataInvalid
from models.garch import GARCH
from models.members import Member
from models.seasonal_garch import SeasonalGARCH, SeasonalGARCHX

KINDS = {"garch": 0, "gjr": 1}
HORIZONS = (1, 4, 24)
Made = Callable[[str], Member]


def parameters(member: SeasonalGARCH, symbol: str) -> tuple[float, float, float, float]:
    values = list(member.params_.get(symbol, member.pooled_))
    omega, alpha = values[0], values[1]
    gamma = values[2] if member.o else 0.0
    return omega, alpha, gamma, values[2 + member.o]


def by_hand(
    member: SeasonalGARCH,
    symbol: str,
    X: pd.DataFrame,
    returns: NDArray[np.float64],
    measure: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """``ln E[V]`` after each return, from the filter's stored lags and its calibration, in plain Python."""
    omega, alpha, gamma, beta = parameters(member, symbol)
    square, negative, last, driven = member.filters_[symbol][:, 0]
    pi, ratio = (0.0, 0.0) if measure is None else member.params_[symbol][[3 + member.o, -1]]
    persistence = alpha + 0.5 * gamma + beta + pi * ratio
    persistence = persistence if measure is None else min(persistence, 1.0)
    variance = omega + alpha * square + gamma * negative + beta * last + driven
    out = np.empty((len(returns), len(HORIZONS)))
    for t, r in enumerate(returns):
        shock = variance if np.isnan(r) else r * r
        below = 0.5 * shock if np.isnan(r) else shock * (r < 0)
        seen = 0.0 if measure is None else ratio * variance if np.isnan(measure[t]) else measure[t]
        variance = omega + alpha * shock + gamma * below + beta * variance + pi * seen
        path, step = [], variance
        for _ in range(max(HORIZONS)):
            path.append(step)
            step = omega + persistence * step
        level, slope = member.calibration_[symbol].T
        season = [X[f"log_season_ahead_{h}h"].iloc[t] for h in HORIZONS]
        out[t] = level + slope * [np.log(np.mean(path[:h])) for h in HORIZONS] + season
    return out


def deseasonalised(X: pd.DataFrame) -> NDArray[np.float64]:
    return np.array(X["log_return_1h"] / np.exp(0.5 * X["log_season_1h"]), dtype=np.float64)


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
        np.testing.assert_allclose(made.loc[symbol], by_hand(member, symbol, X, deseasonalised(X)), atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_each_symbols_own_fit_shrunk_to_the_mean_of_all(kind: str, fitted: Made, train: Any) -> None:
    member = member_of(fitted, kind)
    returns = {symbol: deseasonalised(X)[1:] for symbol, X in train.X.groupby(level="symbol")}
    free = {}
    for symbol, r in returns.items():
        own = GARCH(o=KINDS[kind], dist="t").fit(r).params_.to_numpy()
        free[symbol] = own / np.array([np.mean(r**2), *np.ones(len(own) - 1)])
    pool = np.mean(list(free.values()), axis=0)  # of histories of one length
    for symbol, r in returns.items():
        share = len(r) / (len(r) + member.shrinkage)
        mixed = share * free[symbol] + (1 - share) * pool
        expected = mixed * np.array([np.mean(r**2), *np.ones(len(mixed) - 1)])
        np.testing.assert_allclose(member.params_[str(symbol)], expected, rtol=1e-12)
        assert member.certified_[str(symbol)]


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_is_the_regression_with_the_least_qlike(kind: str, train: Any) -> None:
    """Without shrinkage: moving level or slope of any symbol and horizon raises QLIKE on the rows that teach."""
    member = SeasonalGARCH(o=KINDS[kind], shrinkage=0.0).fit(train.X, train.y)
    X = train.X.loc[["CCCUSDT"]]
    ahead = X[[f"log_season_ahead_{h}h" for h in HORIZONS]].to_numpy()
    fresh = SeasonalGARCH(o=KINDS[kind], shrinkage=0.0).restore(member.state())
    made = fresh.predict_log(X).to_numpy() - ahead
    level, slope = member.calibration_["CCCUSDT"].T
    error = (np.log(train.y.loc["CCCUSDT"].to_numpy()) - ahead)[25:]
    centred = ((made - level) / slope)[25:]

    def qlike(a: float, b: float) -> NDArray[np.float64]:
        excess = error - (level + a) - (slope + b) * centred
        return np.asarray(np.nanmean(np.exp(excess) - excess, axis=0))

    best = qlike(0.0, 0.0)
    for h, mean in enumerate(np.nanmean(centred, axis=0)):
        for turn in (-0.02, 0.02):
            assert (qlike(turn, 0.0) > best).all()
            assert qlike(-turn * mean, turn)[h] > best[h] - 1e-4  # the slope's bounded residual costs this much at most


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_after_a_fit_is_one_uninterrupted_filter(kind: str, fitted: Made, sample: Any, later: Any) -> None:
    member = member_of(fitted, kind)
    made = member.predict_log(later.X)[1]
    for symbol, X in sample.X.groupby(level="symbol"):
        returns = deseasonalised(X)
        model = GARCH(o=KINDS[kind], dist="t")
        whole = model.fix(member.params_[str(symbol)], returns[1:-400], backcast=member.usual_)
        one_step = whole.filter(np.append(returns[1:], np.nan))[-400:]
        level, slope = member.calibration_[str(symbol)][0]
        season = later.X.loc[symbol, "log_season_ahead_1h"].to_numpy()
        np.testing.assert_array_equal(made.loc[symbol], level + slope * np.log(one_step) + season)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_bars_pass_at_their_expectation(kind: str, fitted: Made, later: Any) -> None:
    """Holes inside the rows, and rows that begin long after the fit ended."""
    member = member_of(fitted, kind)
    X = later.X.loc[["AAAUSDT"]]
    returns = deseasonalised(X)
    returns[:30] = returns[100:140] = np.nan
    expected = by_hand(member, "AAAUSDT", X.loc["AAAUSDT"], returns)
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


def test_a_hopeless_symbol_takes_the_parameters_of_all_others(with_hopeless: SeasonalGARCH, later: Any) -> None:
    member = with_hopeless
    sound = [name for name, certified in member.certified_.items() if certified]
    assert sound == ["AAAUSDT", "BBBUSDT", "CCCUSDT"]
    X = later.X.loc[["BBBUSDT"]]
    for name in ("FLATUSDT", "YOUNGUSDT", "MUTEUSDT"):
        assert name not in member.params_
        made = member.predict(X.rename(index={"BBBUSDT": name}, level="symbol")).to_numpy()
        assert np.isfinite(made).all()
        assert (made > 0).all()
    assert "MUTEUSDT" not in member.filters_


def test_a_young_symbol_goes_on_from_its_own_filter(with_hopeless: SeasonalGARCH, later: Any) -> None:
    X = later.X.loc[["BBBUSDT"]].rename(index={"BBBUSDT": "YOUNGUSDT"}, level="symbol")
    expected = by_hand(with_hopeless, "YOUNGUSDT", X, deseasonalised(X))
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


def test_a_new_filter_begins_at_the_usual_variance(fitted: Made, later: Any) -> None:
    """A first return that happens to be zero says next to nothing, and does not stop the filter."""
    member = member_of(fitted, "gjr")
    X = later.X.loc[["AAAUSDT"]].rename(index={"AAAUSDT": "NEWUSDT"}, level="symbol")
    X.iloc[0, X.columns.get_loc("log_return_1h")] = 0.0
    omega, _, _, beta = member.pooled_[:4]
    level, slope = member.pooled_calibration_[0]
    first = omega + beta * (omega + (member.pooled_[1] + 0.5 * member.pooled_[2] + beta) * member.usual_)
    expected = level + slope * np.log(first) + X["log_season_ahead_1h"].iloc[0]
    assert member.predict_log(X)[1].iloc[0] == pytest.approx(expected, abs=1e-12)
    scales = [np.nanmean(np.exp(later.X.loc[name, "log_rv_720h"])) for name in ("AAAUSDT", "BBBUSDT", "CCCUSDT")]
    assert 0.3 < member.usual_ / np.median(scales) < 3.0


def test_only_the_window_is_fitted(train: Any) -> None:
    member = SeasonalGARCH(window_days=40, shrinkage=0.0).fit(train.X, train.y)
    returns = deseasonalised(train.X.loc["AAAUSDT"])[-40 * 24 :]
    alone = GARCH(dist="t").fit(returns)
    np.testing.assert_allclose(member.params_["AAAUSDT"], alone.params_, rtol=1e-12)


class Doubtful(SeasonalGARCH):
    """As if the fit of BBBUSDT had ended where ``fate`` says."""

    fate: str

    def _fits(self, past: Any, old: Any, o: int) -> Any:
        params, value, certificates = super()._fits(past, old, o)
        at, changed = list(old).index("BBBUSDT"), list(certificates)
        value, params = value.copy(), params.copy()
        if self.fate == "stopped off the optimum":
            changed[at] = replace(changed[at], converged=False)
        elif self.fate == "on the edge":
            changed[at] = replace(changed[at], reason="on the edge of the range: tail high")
        elif self.fate == "below the GARCH" and o:
            value[at] = super()._fits(past, old, 0)[1][at] - 5.0
        elif self.fate == "variance out of bounds":
            params[at, 0] *= 300.0
        elif self.fate == "persistence of one":
            changed[at] = replace(changed[at], persistence=1.0, reason="not covariance stationary (persistence 1)")
        return params, value, changed


@pytest.mark.parametrize(
    ("fate", "own"),
    [
        ("as it is", True),
        ("persistence of one", True),
        ("stopped off the optimum", False),
        ("on the edge", False),
        ("below the GARCH", False),
        ("variance out of bounds", False),
    ],
)
def test_a_fit_that_is_not_to_be_trusted_is_replaced_by_the_pool(fate: str, own: bool, train: Any, later: Any) -> None:
    member = Doubtful(o=1)
    member.fate = fate
    member.fit(train.X, train.y)
    assert member.certified_ == {"AAAUSDT": True, "BBBUSDT": own, "CCCUSDT": True}
    assert ("BBBUSDT" in member.params_) == own
    assert np.isfinite(member.predict(later.X).to_numpy()).all()


def test_nothing_to_fit_is_refused(train: Any) -> None:
    short = train.rows(-200, None)
    with pytest.raises(DataInvalid, match="no symbol has 30 days of returns"):
        SeasonalGARCH().fit(short.X, short.y)


def test_without_shrinkage_symbols_do_not_move_one_another(train: Any, later: Any) -> None:
    """All are fitted in one batch: a symbol alone, or beside longer and broken ones, keeps its parameters and calibration."""
    one = train.X.loc[["CCCUSDT"]].iloc[700:]
    broken = train.X.loc[["AAAUSDT"]].copy()
    broken.iloc[300:340, 0] = np.nan
    beside = pd.concat([broken, train.X.loc[["BBBUSDT"]], one])
    alone, among = (SeasonalGARCH(o=1, shrinkage=0.0).fit(X, train.y.reindex(X.index)) for X in (one, beside))
    np.testing.assert_array_equal(alone.params_["CCCUSDT"], among.params_["CCCUSDT"])
    rows = later.X.loc[["CCCUSDT"]]
    # Their filters begin elsewhere, which the calibration hardly feels.
    np.testing.assert_allclose(alone.predict_log(rows), among.predict_log(later.X).loc[["CCCUSDT"]], atol=1e-3)


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
    expected = by_hand(drifting, "AAAUSDT", X.loc["AAAUSDT"], deseasonalised(X))
    np.testing.assert_allclose(drifting.predict_log(X), expected, atol=1e-10)
    assert omega > 0


def test_a_symbol_without_a_return_has_no_forecast(fitted: Made, later: Any) -> None:
    X = later.X.loc[["AAAUSDT"]].rename(index={"AAAUSDT": "MUTEUSDT"}, level="symbol").assign(log_return_1h=np.nan)
    assert fitted("gjr").predict(X).isna().all(axis=None)


def test_garch_x_is_the_recursion_by_hand(fitted: Made, later: Any) -> None:
    """Measures missing alone, and with their returns; the first rows missing altogether."""
    member = member_of(fitted, "garch_x")
    X = later.X.loc[["BBBUSDT"]].copy()
    X.iloc[60:64, X.columns.get_loc("log_rv_1h")] = np.nan
    returns, measure = deseasonalised(X), np.exp(X["log_rv_1h"].to_numpy())
    for gap in (slice(0, 30), slice(100, 140)):
        returns[gap] = measure[gap] = np.nan
    expected = by_hand(member, "BBBUSDT", X.loc["BBBUSDT"], returns, measure)
    kept = np.r_[30:100, 140:400]
    np.testing.assert_allclose(member.predict_log(X.iloc[kept]), expected[kept], atol=1e-10)
    assert member.params_["BBBUSDT"][3] > 0.01  # the measure has a weight


def test_garch_x_fits_what_garch_with_a_regressor_fits(train: Any) -> None:
    member = SeasonalGARCHX(shrinkage=0.0).fit(train.X, train.y)
    X = train.X.loc["AAAUSDT"]
    returns, measure = deseasonalised(X)[1:], np.exp(X["log_rv_1h"].to_numpy())[1:]
    own = GARCH(dist="t", exogenous=1).fit(returns, exogenous=measure)
    np.testing.assert_allclose(member.params_["AAAUSDT"][:-1], own.params_, rtol=1e-12)
    assert member.params_["AAAUSDT"][-1] == pytest.approx(measure.mean() / (returns**2).mean(), rel=1e-12)


def test_garch_x_persistence_above_one_is_taken_as_one(fitted: Made, later: Any) -> None:
    member = SeasonalGARCHX().restore(member_of(fitted, "garch_x").state())
    member.params_["AAAUSDT"] = member.params_["AAAUSDT"] * np.array([1.0, 1.0, 1.0, 5.0, 1.0, 1.0])
    X = later.X.loc[["AAAUSDT"]]
    expected = by_hand(member, "AAAUSDT", X.loc["AAAUSDT"], deseasonalised(X), np.exp(X["log_rv_1h"].to_numpy()))
    np.testing.assert_allclose(member.predict_log(X), expected, atol=1e-10)
