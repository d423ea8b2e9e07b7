"""Boosting on the residual of the seasonal HAR: its inputs, its objectives, its repeatability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid
from models.boosting import LightGBM, equal_by_symbol, is_level
from models.har import HAR
from models.members import Member
from models.training_rows import TrainingRows

KINDS = ("lightgbm", "lightgbm_gamma")
Made = Callable[[str], Member]


@pytest.fixture(scope="module")
def flow_market(train: Any, later: Any) -> tuple[Any, Any]:
    """The sample with a flow that multiplies the next V by up to e, which no HAR can know."""
    out = []
    for part in (train, later):
        X = part.X.assign(flow_imbalance_4h=np.random.default_rng(len(part.X)).uniform(-1, 1, len(part.X)))
        out.append(type(part)(X, part.y.mul(np.exp(X["flow_imbalance_4h"]), axis=0)))
    return out[0], out[1]


@pytest.mark.parametrize("objective", ["l2", "gamma"])
def test_trees_find_what_har_cannot_see(objective: Any, flow_market: tuple[Any, Any]) -> None:
    train, later = flow_market
    member = LightGBM(objective, rounds=80, min_data_in_leaf=40).fit(train.X, train.y)
    boosted, base = member.predict_log(later.X), HAR().fit(train.X, train.y).predict_log(later.X)
    for h in later.y:
        gain = boosted[h] - base[h]
        assert np.corrcoef(gain, later.X["flow_imbalance_4h"])[0, 1] > 0.8
    assert "flow_imbalance_4h" in member.feature_names_


def test_gamma_fits_the_mean_and_l2_the_log(flow_market: tuple[Any, Any]) -> None:
    train, _ = flow_market
    surprise = {}
    for objective in ("l2", "gamma"):
        member = LightGBM(objective, rounds=80, min_data_in_leaf=40, largest_residual=20.0, every_hours=1)
        surprise[objective] = np.log(train.y / member.fit(train.X, train.y).predict(train.X))
    np.testing.assert_allclose(np.exp(surprise["gamma"]).mean(), 1.0, atol=0.06)
    np.testing.assert_allclose(surprise["l2"].mean(), 0.0, atol=0.03)
    assert (np.exp(surprise["l2"]).mean() > 1.1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_objective_and_raw_score(kind: str, fitted: Made, later: Any) -> None:
    """The raw score is a log of V / F_har under both objectives; under gamma, LightGBM's own output is its exp."""
    member = fitted(kind)
    assert isinstance(member, LightGBM)
    base = member.base_.predict_log(later.X)
    for j, h in enumerate(member.horizons_):
        booster = lightgbm.Booster(model_str=member.boosters_[j])
        said = np.asarray(booster.predict(member.inputs(later.X, j)))
        gain = (member.predict_log(later.X)[h] - base[h]).to_numpy()
        np.testing.assert_allclose(np.log(said) if kind == "lightgbm_gamma" else said, gain, atol=1e-12)
        objective = "objective=gamma" if kind == "lightgbm_gamma" else "objective=regression"
        assert objective in member.boosters_[j]


@pytest.mark.parametrize("kind", KINDS)
def test_training_again_gives_the_same_text(kind: str, fitted: Made, fresh: Made, train: Any) -> None:
    again = fresh(kind).fit(train.X, train.y)
    assert again.state()["boosters"] == fitted(kind).state()["boosters"]
    other = fresh(kind).set_params(seed=2).fit(train.X, train.y)
    assert other.state()["boosters"] != fitted(kind).state()["boosters"]


@pytest.mark.parametrize("kind", KINDS)
def test_boosters_survive_as_text(kind: str, fitted: Made) -> None:
    for text in fitted(kind).state()["boosters"]:
        assert lightgbm.Booster(model_str=text).model_to_string(num_iteration=-1) == text


def test_inputs_are_distances_from_the_har(fitted: Made, later: Any) -> None:
    member = fitted("lightgbm")
    assert isinstance(member, LightGBM)
    base = member.base_.predict_log(later.X)
    for j, h in enumerate(member.horizons_):
        made = pd.DataFrame(member.inputs(later.X, j), index=later.X.index, columns=member.feature_names_)
        season = later.X[f"log_scheduled_ahead_{h}h"]
        har = base[h] - season
        for name in ("log_rv_1h", "log_rv_720h", "log_ew_12h", "market_log_ew_24h"):
            np.testing.assert_array_equal(made[name], later.X[name] - har)
        for name in ("flow_imbalance_4h", "hour", "log_return_1h", "log_season_1h"):
            np.testing.assert_array_equal(made[name], later.X[name])
        np.testing.assert_array_equal(made["season_ahead_per_hour"], season - np.log(h))
        np.testing.assert_array_equal(made["log_har_deseasonalised"], har)
    unused = [
        name for name in later.X if name.startswith(("log_rv_raw", "log_ew_raw", "log_ew_down", "age_", "log_listing"))
    ]
    assert len(unused) == 18
    assert not {*unused, "log_season_ahead_1h", "log_scheduled_ahead_1h", "log_hourly_quarticity_24h"} & set(
        member.feature_names_
    )


def test_level_columns_are_told_by_name() -> None:
    names = ("log_rv_4h", "log_rv_sd_24h", "log_rv_15m_1h", "log_ew_2h", "spillover_1h", "hour")
    assert [is_level(name) for name in names] == [True, False, False, True, True, False]


def test_boosters_on_shared_rows_are_those_of_each_alone(train: Any) -> None:
    """Two objectives share their inputs in bins; settings that change the bins share nothing."""
    past = TrainingRows.of(train.X, train.y)
    for objective, settings in (("gamma", {}), ("l2", {}), ("l2", {"max_bin": 31}), ("l2", {"every_hours": 1})):
        made = [LightGBM(objective, rounds=25, min_data_in_leaf=40, **settings) for _ in range(2)]  # type: ignore[arg-type]
        assert made[0].learn(past).boosters_ == made[1].fit(train.X, train.y).boosters_


@pytest.mark.parametrize("order", [("l2", "gamma"), ("gamma", "l2"), ("l2", "gamma", "l2")])
def test_one_dataset_serves_both_objectives_in_any_order(
    order: tuple[Any, ...], train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bins are made once a horizon; labels, objective and bagging of an earlier booster leave nothing behind."""
    fresh = [LightGBM(objective, rounds=25, min_data_in_leaf=40).fit(train.X, train.y) for objective in order]
    made = []

    class Counted(lightgbm.Dataset):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            made.append(self)

    monkeypatch.setattr(lightgbm, "Dataset", Counted)
    past = TrainingRows.of(train.X, train.y)
    for objective, alone in zip(order, fresh, strict=True):
        assert LightGBM(objective, rounds=25, min_data_in_leaf=40).learn(past).boosters_ == alone.boosters_
    assert len(made) == len(past.horizons)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_go_by_name_not_by_place(kind: str, fitted: Made, later: Any) -> None:
    turned = later.X[later.X.columns[::-1]].assign(unknown=1.0)
    pd.testing.assert_frame_equal(fitted(kind).predict(turned), fitted(kind).predict(later.X), check_exact=True)


def test_symbols_weigh_the_same() -> None:
    weights = equal_by_symbol(np.array([4, 4, 4, 1]))
    assert weights.mean() == pytest.approx(1)
    assert weights[:3].sum() == pytest.approx(weights[3])


def test_a_long_history_does_not_outvote_a_short_one(train: Any) -> None:
    """The same rows under two names, with opposite effects of the flow; one name has a fifth of the other's rows."""
    X = train.X.loc[["AAAUSDT"]].assign(flow_imbalance_4h=np.random.default_rng(0).uniform(-1, 1, 2000))
    young = X.iloc[-400:].rename(index={"AAAUSDT": "NEWUSDT"}, level="symbol")
    y = train.y.loc[["AAAUSDT"]]
    labels = [
        y.mul(np.exp(2 * X["flow_imbalance_4h"]), axis=0),
        y.iloc[-400:].set_axis(young.index).mul(np.exp(-2 * young["flow_imbalance_4h"]), axis=0),
    ]
    member = LightGBM(rounds=60, min_data_in_leaf=40, every_hours=1).fit(pd.concat([X, young]), pd.concat(labels))
    gain = (member.predict_log(X) - member.base_.predict_log(X))[1]
    slope = np.polyfit(X["flow_imbalance_4h"], gain, 1)[0]
    # Row by row the long history would pull it to 2 * (2000 - 400) / 2400 = 1.3.
    assert abs(slope) < 0.4


def test_only_every_fifth_hour_is_learnt_from(train: Any) -> None:
    """Other hours reach the trees through the HAR alone, whose own labels stay as they are."""
    member = LightGBM(rounds=5, min_data_in_leaf=40).fit(train.X, train.y)
    hours = train.X.index.get_level_values("origin").as_unit("us").asi8 // 3_600_000_000
    for thinned, changes in ((hours % 5 == 0, True), (hours % 5 != 0, False)):
        X = train.X.copy()
        X.loc[thinned, "flow_imbalance_4h"] = 7.0
        assert (LightGBM(rounds=5, min_data_in_leaf=40).fit(X, train.y).boosters_ != member.boosters_) is changes


def test_what_is_learnt_is_bounded(train: Any, later: Any) -> None:
    """Trees learn bounded surprises, so they hardly say more than the bound."""
    gains = {}
    for bound in (0.1, 2.5):
        member = LightGBM(rounds=60, min_data_in_leaf=40, largest_residual=bound).fit(train.X, train.y)
        gains[bound] = np.abs(member.predict_log(later.X) - member.base_.predict_log(later.X)).to_numpy()
    assert gains[0.1].max() < 0.12
    assert gains[2.5].max() > 0.3


def test_too_few_rows_are_refused(train: Any) -> None:
    with pytest.raises(DataInvalid, match=r"training rows for horizon 1 h and needs 2000; lower every_hours"):
        LightGBM().fit(train.X, train.y)
