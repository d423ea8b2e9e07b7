"""What filter members share: the variance ahead, the clock, and a start of the filter that does not look ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.filtering import HourlyFilter, mean_ahead
from models.members import Member

Made = Callable[[str], Member]
KINDS = ("garch", "gjr", "garch_x", "heavy_x")


@pytest.mark.parametrize("persistence", [0.0, 0.7, 0.9999999, 1.0, 1.01])
def test_mean_ahead_is_the_mean_of_the_steps(persistence: float) -> None:
    variance, inflow = np.array([2.0, 0.5, 3.0]), np.array([0.1, 0.0, 0.4])
    steps = [variance]
    for _ in range(71):
        steps.append(inflow + persistence * steps[-1])
    expected = np.column_stack([np.mean(steps[:h], axis=0) for h in (1, 4, 72)])
    np.testing.assert_allclose(mean_ahead(variance, inflow, persistence, (1, 4, 72)), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_stands_at_its_newest_hour(kind: str, fitted: Made, train: Any) -> None:
    member = fitted(kind)
    assert isinstance(member, HourlyFilter)
    newest = train.X.index.get_level_values("origin").max()
    assert set(member.last_.values()) == {newest}
    assert sorted(member.filters_) == ["AAAUSDT", "BBBUSDT", "CCCUSDT"]


@pytest.mark.parametrize("kind", KINDS)
def test_asking_does_not_move_a_filter_and_following_does(kind: str, fitted: Made, fresh: Made, later: Any) -> None:
    member = fresh(kind).restore(fitted(kind).state())
    assert isinstance(member, HourlyFilter)
    before = member.state()
    first = member.predict_log(later.X)
    pd.testing.assert_frame_equal(member.predict_log(later.X), first, check_exact=True)
    for name in ("filters", "calibration"):
        np.testing.assert_array_equal(member.state()[name], before[name])
    member.follow(later.X)
    assert (member.state()["filters"] != before["filters"]).any()
    assert set(member.last_.values()) == {later.X.index.get_level_values("origin").max()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_day_of_a_market_teaches_nothing(kind: str, fresh: Made, train: Any) -> None:
    """An empty market, a thousandfold below what follows, would set the level for as long as it is in the window."""
    labels = train.y.copy()
    labels[train.X.groupby(level="symbol").cumcount() < 24] *= 1e-3
    other, usual = fresh(kind).fit(train.X, labels), fresh(kind).fit(train.X, train.y)
    np.testing.assert_array_equal(other.state()["calibration"], usual.state()["calibration"])
    labels[train.X.groupby(level="symbol").cumcount() == 40] *= 2.0
    moved = fresh(kind).fit(train.X, labels)
    assert (moved.state()["calibration"] != usual.state()["calibration"]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_young_symbol_is_calibrated_as_the_pool_is(kind: str, fresh: Made, train: Any) -> None:
    """Ten hours that teach are none; two hundred count by their share."""
    young = {name: train.X.loc["BBBUSDT"].iloc[-hours:] for name, hours in (("TENUSDT", 30), ("YOUNGUSDT", 224))}
    extra = pd.concat(young, names=["symbol", "origin"])
    labels = pd.concat({name: train.y.loc["BBBUSDT"].loc[X.index.get_level_values(-1)] for name, X in young.items()})
    labels.index.names = ["symbol", "origin"]
    member = fresh(kind).fit(pd.concat([train.X, extra]), pd.concat([train.y, 3.0 * labels]))
    assert isinstance(member, HourlyFilter)
    np.testing.assert_array_equal(member.calibration_["TENUSDT"], member.pooled_calibration_)
    away = np.abs(member.calibration_["YOUNGUSDT"] - member.pooled_calibration_).max(axis=1)
    assert (away > 0).all()
    old = np.abs(member.calibration_["BBBUSDT"][:, 0] - member.pooled_calibration_[:, 0]).max()
    assert old < 1.0
    assert away.max() < 1.0
