"""The classifier of regimes: closed forms of what is implied, planted skill, and blind to names, later rows and batch size."""

from __future__ import annotations

import pickle
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from features.errors import DataInvalid, UsageError
from models.catalogue import classifier
from models.har import HAR
from models.panel_har import HARX
from models.regime_classifier import LARGEST_LOGIT, RegimeClassifier
from models.regimes import CLASSIFIED
from models.training_rows import TrainingRows

Array = NDArray[np.float64]
SMALL = {"rounds": 30, "rounds_stressed": 10, "min_data_in_leaf": 50, "every_hours": (1, 1)}


def regimes_of(y: pd.DataFrame) -> tuple[Array, Array]:
    """Thresholds from each symbol's first 1,000 intervals, and the class of the interval before; (n, h, 3) and (n, h)."""
    thresholds = np.full((*y.shape, 3), np.nan)
    now = np.full(y.shape, np.nan)
    for rows in y.groupby(level="symbol").indices.values():
        for j, h in enumerate(y):
            v = y[h].to_numpy()[rows]
            thresholds[rows, j] = np.nanquantile(v[:1000], [0.3, 0.85, 0.95])
            before = np.r_[np.full(int(h), np.nan), v[: -int(h)]]
            now[rows, j] = np.where(np.isnan(before), np.nan, (before[:, None] > thresholds[rows, j]).sum(axis=1))
    return thresholds, now


def training(sample: Any, thresholds: Array, now: Array) -> TrainingRows:
    rows = TrainingRows.of(sample.X, sample.y)
    return TrainingRows(
        rows.features, rows.columns, rows.row, rows.symbol, rows.symbols, rows.origin, rows.variance, rows.horizons,
        None, thresholds, now,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(sample: Any) -> tuple[Array, Array]:
    return regimes_of(sample.y)


def part(whole: tuple[Array, Array], of: Any, sample: Any) -> tuple[Array, Array]:
    at = sample.X.index.get_indexer(of.X.index)
    return whole[0][at], whole[1][at]


@pytest.fixture(scope="module")
def learnt(train: Any, sample: Any, whole: tuple[Array, Array]) -> RegimeClassifier:
    return RegimeClassifier(**SMALL).learn(training(train, *part(whole, train, sample)))


def hits(sample: Any, thresholds: Array) -> Array:
    return np.asarray(sample.y.to_numpy()[:, :, None] > thresholds, dtype=float)


def test_without_trees_the_logit_is_that_of_the_normal_law(train: Any, later: Any, sample: Any, whole: Any) -> None:
    model = RegimeClassifier(min_data_in_leaf=10**9).learn(training(train, *part(whole, train, sample)))
    assert model.boosters_ == []
    thresholds, now = part(whole, later, sample)
    made = model.logits(later.X, thresholds, now)
    assert made.columns.tolist() == [(name, h) for name in CLASSIFIED for h in later.y]
    base = model.base_.predict_log(later.X)
    for j, h in enumerate(later.y):
        for k, name in enumerate(CLASSIFIED):
            z = (np.log(thresholds[:, j, k]) - base[h] - model.location_[j]) / model.spread_[j]
            expected = np.clip(special.logit(stats.norm.sf(z)), -LARGEST_LOGIT, LARGEST_LOGIT)
            np.testing.assert_allclose(made[name, h], expected, atol=1e-6)


def test_the_law_is_that_of_the_training_rows(train: Any, learnt: RegimeClassifier) -> None:
    error = np.log(train.y) - learnt.base_.predict_log(train.X)
    by_symbol = error.groupby(level="symbol").mean()
    np.testing.assert_allclose(learnt.location_, by_symbol.mean(), atol=0.03)
    np.testing.assert_allclose(learnt.spread_, error.std(), rtol=0.05)


def test_what_the_boosters_began_at_is_added_back(
    learnt: RegimeClassifier, later: Any, sample: Any, whole: Any
) -> None:
    """LightGBM's ``predict`` gives the trees alone: the implied logit, the onset model's and the second one's add up."""
    thresholds, now = part(whole, later, sample)
    made = learnt.logits(later.X, thresholds, now)
    base = learnt.base_.predict_log(later.X).to_numpy()
    assert len(learnt.boosters_) == 2 * len(learnt.horizons_)
    for j, h in enumerate(learnt.horizons_):
        onset, second = (lightgbm.Booster(model_str=learnt.boosters_[k]) for k in (j, j + len(learnt.horizons_)))
        inputs = learnt.inputs(later.X, thresholds, now, j)
        distance = np.log(thresholds[:, j, 1]) - base[:, j]
        np.testing.assert_allclose(inputs[:, -1], distance, rtol=1e-6)
        implied = special.logit(stats.norm.sf((distance - learnt.location_[j]) / learnt.spread_[j]))
        implied = np.clip(implied, -LARGEST_LOGIT, LARGEST_LOGIT)
        raw = onset.predict(inputs, raw_score=True)
        assert np.std(raw) > 0.02
        stressed = now[:, j] >= 2
        assert 0 < stressed.sum() < len(stressed)
        expected = implied + raw + stressed * second.predict(inputs, raw_score=True)
        np.testing.assert_allclose(made["classified_stress", h], expected, atol=1e-6)


def test_it_learns_what_the_law_does_not_know(sample: Any, train: Any, later: Any) -> None:
    """A feed that doubles the odds of stress: without it the classifier is no better than the law implies."""
    thresholds, now = regimes_of(sample.y)
    rng = np.random.default_rng(0)
    ahead = np.nan_to_num(hits(sample, thresholds)[:, 0, 1])
    told = np.where(rng.random(len(ahead)) < 0.8, ahead, rng.random(len(ahead)) < ahead.mean())
    skill = {}
    for name, feed in (("planted", told), ("noise", rng.permutation(told))):
        wide = type(sample)(sample.X.assign(feed=feed), sample.y)
        then, since = wide.rows(None, -400), wide.rows(-400, None)
        y = train.y  # labels known by the border
        rows = training(type(sample)(then.X, y), *part((thresholds, now), then, sample))
        model, at = RegimeClassifier(**{**SMALL, "rounds": 120}).learn(rows), part((thresholds, now), since, sample)
        p = special.expit(model.logits(since.X, *at)["classified_stress", 1].to_numpy())
        hit = hits(since, at[0])[:, 0, 1]
        # The linear base sees the feed as well: what counts is the classifier beside its own implied logit.
        model.boosters_, model._loaded = [], None
        implied = special.expit(model.logits(since.X, *at)["classified_stress", 1].to_numpy())
        skill[name] = 1 - np.mean((p - hit) ** 2) / np.mean((implied - hit) ** 2)
    assert skill["planted"] > 0.15
    assert abs(skill["noise"]) < 0.05


def test_the_onset_models_do_not_learn_from_stressed_rows(
    learnt: RegimeClassifier, train: Any, sample: Any, whole: Any
) -> None:
    """Other labels where it is stressed now, the base and its law as they were: the second models alone are others."""
    thresholds, now = part(whole, train, sample)

    def trees(y: pd.DataFrame) -> list[str]:
        rows = training(type(train)(train.X, y), thresholds, now)
        none = np.zeros((len(rows), len(learnt.signals_.names)))
        sets = [learnt._rows(rows, thresholds[:, j], now[:, j], none, j) for j in range(len(learnt.horizons_))]
        return learnt._boosted(sets)

    other = train.y.where(now < 2, train.y * 5)
    before, after = trees(train.y), trees(other)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True] * 3 + [False] * 3


def test_a_row_does_not_depend_on_the_others(learnt: RegimeClassifier, later: Any, sample: Any, whole: Any) -> None:
    thresholds, now = part(whole, later, sample)
    made = learnt.logits(later.X, thresholds, now)
    kept = np.arange(len(later.X)) % 400 < 150
    early = learnt.logits(later.X[kept], thresholds[kept], now[kept])
    pd.testing.assert_frame_equal(early, made[kept], check_exact=True)
    live = pickle.loads(pickle.dumps(learnt))
    origins = later.X.index.get_level_values("origin")
    for t in origins.unique()[:20]:
        hour = np.asarray(origins == t)
        told = live.logits(later.X[hour], thresholds[hour], now[hour])
        pd.testing.assert_frame_equal(told, made[hour], check_exact=True)
        live.follow(later.X[hour])


def test_unknown_thresholds_are_null_and_an_unknown_class_is_calm(
    learnt: RegimeClassifier, later: Any, sample: Any, whole: Any
) -> None:
    thresholds, now = (x.copy() for x in part(whole, later, sample))
    made = learnt.logits(later.X, thresholds, now)
    thresholds[:5] = np.nan
    now[5:9] = np.nan
    holed = learnt.logits(later.X, thresholds, now)
    assert holed.iloc[:5].isna().all(axis=None)
    assert np.isfinite(holed.iloc[5:9].to_numpy()).all()
    pd.testing.assert_frame_equal(holed.iloc[9:], made.iloc[9:], check_exact=True)


def test_names_do_not_matter_and_the_same_rows_give_the_same_trees(
    learnt: RegimeClassifier, train: Any, later: Any, sample: Any, whole: Any
) -> None:
    names = {"AAAUSDT": "ZZZUSDT", "BBBUSDT": "MMMUSDT", "CCCUSDT": "XXXUSDT"}
    renamed = type(train)(*(x.rename(index=names, level="symbol") for x in (train.X, train.y)))
    again = RegimeClassifier(**SMALL).learn(training(renamed, *part(whole, train, sample)))
    assert again.boosters_ == learnt.boosters_
    at = part(whole, later, sample)
    new = later.X.rename(index=names, level="symbol")
    np.testing.assert_array_equal(again.logits(new, *at).to_numpy(), learnt.logits(later.X, *at).to_numpy())


def test_state_restores_it(learnt: RegimeClassifier, later: Any, sample: Any, whole: Any) -> None:
    again = RegimeClassifier(**SMALL).restore(pickle.loads(pickle.dumps(learnt.state())))
    at = part(whole, later, sample)
    pd.testing.assert_frame_equal(again.logits(later.X, *at), learnt.logits(later.X, *at), check_exact=True)


def test_with_few_rows_the_seasonal_har_stands_in_and_then_nothing_is_said(train: Any, sample: Any, whole: Any) -> None:
    def fitted(rows: int) -> tuple[RegimeClassifier, Any, tuple[Array, Array]]:
        few = train.rows(1100 - rows, 1100)
        at = part(whole, few, sample)
        return RegimeClassifier(**SMALL).learn(training(few, *at)), few, at

    assert isinstance(fitted(400)[0].base_, HARX)
    model, few, at = fitted(40)
    assert isinstance(model.base_, HAR)
    assert model.boosters_ == []
    assert model.logits(few.X, *at).isna().all(axis=None)


def test_rows_without_thresholds_and_unknown_arguments_are_refused(train: Any) -> None:
    with pytest.raises(DataInvalid, match="thresholds"):
        RegimeClassifier().learn(TrainingRows.of(train.X, train.y))
    with pytest.raises(UsageError, match="regimes has no parameter 'round', did you mean 'rounds'"):
        classifier({"round": 3})
    assert classifier({"rounds": 3}).rounds == 3
