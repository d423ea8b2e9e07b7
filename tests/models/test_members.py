"""One contract for every kind of member."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from features.errors import DataInvalid
from models.catalogue import KINDS, make
from models.members import Member, require

ALL = tuple(KINDS)
POOLED = tuple(kind for kind in ALL if KINDS[kind][0].independent_rows)
FILTERS = tuple(kind for kind in ALL if kind not in POOLED)
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

Made = Callable[[str], Member]


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def same_state(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same_state(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ALL)
def test_constructor_arguments_are_stored_verbatim_and_clone_works(kind: str, fitted: Made) -> None:
    cls, fixed = KINDS[kind]
    member = make(kind)
    for name, value in fixed.items():
        assert getattr(member, name) is value
    windowed = cls(**fixed, window_days=77)
    assert windowed.get_params()["window_days"] == 77
    assert clone(windowed).get_params() == windowed.get_params()
    assert not hasattr(clone(fitted(kind)), "horizons_")


@pytest.mark.parametrize("kind", ALL)
def test_forecasts_are_positive_and_sit_on_the_rows(kind: str, fitted: Made, later: Any) -> None:
    made = fitted(kind).predict(later.X)
    assert made.index.equals(later.X.index)
    assert made.columns.tolist() == later.y.columns.tolist()
    assert made.columns.name == "horizon_hours"
    assert np.isfinite(made.to_numpy()).all()
    assert (made.to_numpy() > 0).all()
    same(made, np.exp(fitted(kind).predict_log(later.X)))


@pytest.mark.parametrize("kind", ALL)
def test_forecasts_tell_something(kind: str, fitted: Made, later: Any) -> None:
    """Better than each symbol's own mean of the whole test span, which no forecaster could know."""
    made = fitted(kind).predict(later.X)
    for h in later.y:
        known = later.y[h].notna()
        v, f = later.y[h][known], made[h][known]
        mean = v.groupby(level="symbol").transform("mean")
        level = (v / f).groupby(level="symbol").transform("mean")
        assert (np.log(f * level)).mean() < np.log(mean).mean()
        if kind != "lightgbm":  # which learns the mean of the log: its level is set afterwards
            assert level.between(0.7, 1.4).all()


@pytest.mark.parametrize("kind", ALL)
def test_fit_always_refits(kind: str, fitted: Made, fresh: Made, train: Any) -> None:
    elsewhere = train.rows(0, 1500).scaled(3.0)
    again = fresh(kind).fit(elsewhere.X, elsewhere.y).fit(train.X, train.y)
    same_state(again.state(), fitted(kind).state())


@pytest.mark.parametrize("kind", POOLED)
def test_a_forecast_does_not_depend_on_other_rows(kind: str, fitted: Made, later: Any) -> None:
    whole = fitted(kind).predict(later.X)
    chosen = np.sort(np.random.default_rng(1).choice(len(later.X), 101, replace=False))
    same(fitted(kind).predict(later.X.iloc[chosen]), whole.iloc[chosen])
    same(fitted(kind).predict(later.X.iloc[[7]]), whole.iloc[[7]])


@pytest.mark.parametrize("kind", ALL)
def test_a_forecast_does_not_depend_on_later_rows(kind: str, fitted: Made, later: Any) -> None:
    whole = fitted(kind).predict(later.X)
    part = later.rows(0, 150)
    same(fitted(kind).predict(part.X), whole.loc[part.X.index])
    same(fitted(kind).predict(later.X), whole)


@pytest.mark.parametrize("kind", ALL)
def test_a_silent_feed_and_a_short_history_still_give_forecasts(kind: str, fitted: Made, later: Any) -> None:
    X = later.X.copy()
    X["flow_imbalance_4h"] = np.nan
    X[[name for name in X if name.endswith(("168h", "720h"))]] = np.nan
    assert np.isfinite(fitted(kind).predict(X).to_numpy()).all()


@pytest.mark.parametrize("kind", ALL)
def test_an_empty_row_gives_nothing_and_harms_no_other(kind: str, fitted: Made, later: Any) -> None:
    X = later.X.copy()
    X.iloc[60] = np.nan
    whole, made = fitted(kind).predict(later.X), fitted(kind).predict(X)
    assert made.iloc[60].isna().all()
    spared = np.delete(np.arange(len(X)), 60) if kind in POOLED else np.arange(60)
    same(made.iloc[spared], whole.iloc[spared])
    assert np.isfinite(np.delete(made.to_numpy(), 60, axis=0)).all()


@pytest.mark.parametrize("kind", POOLED)
def test_rows_without_labels_do_not_enter_a_fit(kind: str, fitted: Made, fresh: Made, train: Any) -> None:
    """Purging nulls labels; the features of purged rows must not matter either."""
    y = train.y.copy()
    newest = np.asarray(train.X.groupby(level="symbol").cumcount() >= 1700)
    y[newest] = np.nan
    noise = train.X.copy()
    noise[newest] += np.random.default_rng(2).normal(size=noise[newest].shape)
    purged = fresh(kind).fit(train.X, y)
    same_state(fresh(kind).fit(noise, y).state(), purged.state())
    differs = [key for key, value in purged.state().items() if not _equal(value, fitted(kind).state()[key])]
    assert differs  # the purge itself did change the fit


@pytest.mark.parametrize(
    "kind", ["har", "har_seasonal", "harq", "har_wls", "har_threshold", "har_x", "lightgbm", "lightgbm_gamma"]
)
def test_rows_without_weight_do_not_enter_a_fit(kind: str, fresh: Made, train: Any, later: Any) -> None:
    weight = np.where(train.X.groupby(level="symbol").cumcount() < 1500, 1.0, 0.0)
    wrong = train.y.mul(np.where(weight > 0, 1.0, 7.0), axis=0)
    made = fresh(kind).fit(train.X, wrong, sample_weight=weight).predict(later.X)
    same(made, fresh(kind).fit(train.X, train.y, sample_weight=weight).predict(later.X))
    assert not made.equals(fresh(kind).fit(train.X, train.y).predict(later.X))


@pytest.mark.parametrize("kind", ["garch", "gjr", "garch_x", "heavy_x"])
def test_the_scale_of_labels_is_the_scale_of_a_filters_forecasts(
    kind: str, fitted: Made, fresh: Made, train: Any, later: Any
) -> None:
    other = fresh(kind).fit(train.X, train.y * 5)
    np.testing.assert_allclose(other.predict(later.X), 5.0 * fitted(kind).predict(later.X), rtol=1e-4)


@pytest.mark.parametrize("kind", FILTERS)
def test_following_the_rows_in_pieces_changes_no_bit(kind: str, fitted: Made, fresh: Made, later: Any) -> None:
    """Hour by hour, then in pieces of any length, with a silent stretch, a symbol that comes late, and a new one."""
    X = later.X.drop(later.X.loc[["BBBUSDT"]].index[40:75]).drop(later.X.loc[["CCCUSDT"]].index[:30])
    X = pd.concat([X, later.X.loc[["AAAUSDT"]].iloc[20:].rename(index={"AAAUSDT": "NEWUSDT"}, level="symbol")])
    whole = fitted(kind).predict_log(X)
    live = fresh(kind).restore(fitted(kind).state())
    origins = X.index.get_level_values("origin")
    hours = origins.unique().sort_values()
    for start, stop in pairwise([*hours[[*range(90), 100, 171, 300]], hours[-1] + pd.Timedelta(hours=1)]):
        piece = X[(origins >= start) & (origins < stop)]
        same(live.predict_log(piece), whole.loc[piece.index])
        live.follow(piece)
        live = fresh(kind).restore(live.state())


def _equal(a: Any, b: Any) -> bool:
    return pickle.dumps(a) == pickle.dumps(b)


@pytest.mark.parametrize("kind", ALL)
def test_state_restores_the_member(kind: str, fitted: Made, fresh: Made, later: Any) -> None:
    member = fitted(kind)
    again = fresh(kind).restore(pickle.loads(pickle.dumps(member.state())))
    same(again.predict(later.X), member.predict(later.X))
    same_state(again.state(), member.state())
    for h, quantiles in member.predict_quantiles(later.X, LEVELS).items():
        same(again.predict_quantiles(later.X, LEVELS)[h], quantiles)


@pytest.mark.parametrize("kind", ALL)
def test_quantiles_are_ordered_and_cover_the_training_rows(kind: str, fitted: Made, train: Any) -> None:
    made = fitted(kind).predict_quantiles(train.X, LEVELS)
    assert list(made) == train.y.columns.tolist()
    for h, quantiles in made.items():
        assert quantiles.columns.tolist() == list(LEVELS)
        known = np.isfinite(quantiles).all(axis=1) & train.y[h].notna()
        assert (np.diff(quantiles[known].to_numpy(), axis=1) >= 0).all()
        below = [(train.y[h] <= quantiles[p])[known].mean() for p in LEVELS]
        # Where rows are independent, two thousand of them stand for all.
        np.testing.assert_allclose(below, LEVELS, atol=0.03 if fitted(kind).independent_rows else 0.002)


@pytest.mark.parametrize("kind", ALL)
def test_a_symbol_never_seen_gets_a_forecast(kind: str, fitted: Made, later: Any) -> None:
    member, X = fitted(kind), later.X.loc[["BBBUSDT"]]
    seen = member.predict_log(X)
    unseen = member.predict_log(X.rename(index={"BBBUSDT": "NEWUSDT"}, level="symbol"))
    assert np.isfinite(unseen.to_numpy()).all()
    # A filter without history needs about a day to find the level.
    settled = slice(48 if kind in FILTERS else 0, None)
    assert np.abs(unseen.to_numpy()[settled] - seen.to_numpy()[settled]).max() < 0.5


@pytest.mark.parametrize("kind", ["har_x", "lightgbm", "lightgbm_gamma"])
def test_pooled_members_do_not_know_names(kind: str, fitted: Made, fresh: Made, train: Any, later: Any) -> None:
    names = {"AAAUSDT": "ZZZUSDT", "BBBUSDT": "MMMUSDT", "CCCUSDT": "XXXUSDT"}

    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.rename(index=names, level="symbol")

    other = fresh(kind).fit(renamed(train.X), renamed(train.y)).predict(renamed(later.X))
    np.testing.assert_array_equal(other.to_numpy(), fitted(kind).predict(later.X).to_numpy())


@pytest.mark.parametrize(
    "kind", ["ewma", "ewma_seasonal", "har", "har_seasonal", "harq", "har_wls", "har_threshold", "garch", "gjr"]
)
def test_variance_scales_with_the_square_of_returns(
    kind: str, fitted: Made, fresh: Made, train: Any, later: Any
) -> None:
    larger = train.scaled(2.0)
    made = fresh(kind).fit(larger.X, larger.y).predict(later.scaled(2.0).X)
    np.testing.assert_allclose(made, 4.0 * fitted(kind).predict(later.X), rtol=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_a_member_names_itself_where_its_forecasts_lack_a_column(kind: str, fitted: Made, later: Any) -> None:
    assert make(kind).name == kind
    # Members that correct a seasonal HAR ask it first.
    asked = "har_scheduled" if kind in ("har_x", "lightgbm", "lightgbm_gamma") else kind
    with pytest.raises(DataInvalid, match=rf"model '{asked}' needs feature columns \['log_"):
        fitted(kind).predict_log(later.X[["hour"]])


@pytest.mark.parametrize("kind", ALL)
def test_what_cannot_be_fitted_is_refused_by_name(kind: str, fresh: Made, train: Any) -> None:
    with pytest.raises(DataInvalid, match=r"y\.reindex"):
        fresh(kind).fit(train.X, train.y.iloc[1:])
    with pytest.raises(DataInvalid, match=r"model '.*' needs feature columns \['log_"):
        fresh(kind).fit(train.X[["hour"]], train.y)


def test_require_gives_columns_in_the_order_asked_for() -> None:
    X = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    assert require(X, ["b", "a"], "any").tolist() == [[3.0, 1.0], [4.0, 2.0]]
    with pytest.raises(DataInvalid, match=r"model 'any' needs feature columns \['c'\].*\[features\]"):
        require(X, ["a", "c"], "any")
