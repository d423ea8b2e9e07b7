"""The gate of the walk-forward's benchmark: what is compared, and that no row is passed over."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from plain_walkforward import compared

INDEX = pd.MultiIndex.from_product(
    [["A", "B"], pd.date_range("2024-01-01", periods=50, freq="h")], names=["symbol", "origin"]
)


@pytest.fixture
def came() -> pd.Series:
    return pd.Series(np.random.default_rng(1).normal(size=len(INDEX)), INDEX)


def test_losses_are_qlike_at_each_symbols_best_level(came: pd.Series) -> None:
    swing = pd.Series(np.tile([0.2, -0.2], len(INDEX) // 2), INDEX)
    ours, peer, missing = compared(came + swing, came - 0.3, came)
    ratio = np.exp(-swing) / np.exp(-swing).mean()
    assert ours == pytest.approx(float((ratio - np.log(ratio) - 1).mean()))
    assert peer == pytest.approx(0.0, abs=1e-12)  # off by a level alone
    assert missing == 0


def test_a_row_that_only_the_peer_answers_is_counted(came: pd.Series) -> None:
    ours, peer = came + 0.0, came - 0.3
    ours.iloc[:3], ours.iloc[3] = np.nan, np.inf
    assert compared(ours, peer, came)[2] == 4
    # A row that is not there at all is as open as one without a value.
    assert compared(ours.dropna(), peer, came)[2] == 4


def test_what_the_peer_leaves_open_or_never_came_is_not_asked(came: pd.Series) -> None:
    ours, peer = came + 0.0, came - 0.3
    ours.iloc[:6] = np.nan
    peer.iloc[:3] = np.nan
    came.iloc[3:6] = [np.nan, -np.inf, np.nan]
    assert compared(ours, peer, came)[2] == 0
    assert compared(ours, peer, came)[0] == 0.0
