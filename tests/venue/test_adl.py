from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from features.errors import UsageError
from forecaster.venue.adl import reductions

FIGURE = st.floats(1.0, 1e6)
WINNERS = st.lists(st.tuples(FIGURE, st.floats(0.02, 1.0)), min_size=1, max_size=12)


def _arrays(winners: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    notional = np.array([size for size, _ in winners])
    return notional, notional * np.array([share for _, share in winners])


@settings(max_examples=200, deadline=None)
@given(WINNERS, st.floats(0.01, 0.99))
def test_water_filling_brings_the_highest_leverages_to_one_level(
    winners: list[tuple[float, float]], part: float
) -> None:
    notional, equity = _arrays(winners)
    amount = part * notional.sum()
    x = reductions("water_filling", notional, equity, np.zeros(len(notional)), notional, amount, 0.0)
    level = brentq(lambda lev: np.maximum(0, notional - lev * equity).sum() - amount, 0, (notional / equity).max())
    np.testing.assert_allclose(x, np.maximum(0, notional - level * equity), rtol=1e-6, atol=1e-6 * notional.sum())
    assert x.sum() == pytest.approx(amount, rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(WINNERS, st.floats(0.01, 0.99), st.floats(0.0, 0.3), st.sampled_from(["water_filling", "pro_rata", "queue"]))
def test_no_payer_is_pushed_below_its_maintenance(
    winners: list[tuple[float, float]], part: float, gap: float, method: str
) -> None:
    notional, equity = _arrays(winners)
    mm = np.full(len(notional), 0.05)
    x = reductions(method, notional, equity, mm, notional, part * notional.sum(), gap)  # type: ignore[arg-type]
    assert (x >= 0).all()
    assert (x <= notional * (1 + 1e-12)).all()
    paid = x > 0
    assert (equity - gap * x - mm * (notional - x) >= -1e-6 * notional)[paid].all()


@settings(max_examples=200, deadline=None)
@given(WINNERS, st.floats(0.01, 0.99), st.floats(0.0, 0.2), st.floats(0.1, 0.9))
def test_splitting_an_account_changes_no_total(
    winners: list[tuple[float, float]], part: float, gap: float, cut: float
) -> None:
    notional, equity = _arrays(winners)
    amount = part * notional.sum()

    def total(n: np.ndarray, e: np.ndarray) -> np.ndarray:
        return reductions("water_filling", n, e, np.full(len(n), 0.05), n, amount, gap)

    whole = total(notional, equity)
    pieces = np.concatenate([[cut * notional[0], (1 - cut) * notional[0]], notional[1:]])
    stakes = np.concatenate([[cut * equity[0], (1 - cut) * equity[0]], equity[1:]])
    split = total(pieces, stakes)
    tolerance = 1e-6 * notional.sum()
    assert split[0] + split[1] == pytest.approx(whole[0], abs=tolerance)
    np.testing.assert_allclose(split[2:], whole[1:], atol=tolerance)


def test_the_queue_closes_whole_positions_by_rank() -> None:
    notional = np.array([100.0, 50.0, 80.0, 40.0])
    x = reductions("queue", notional, notional, np.zeros(4), np.array([1.0, 4.0, 3.0, 2.0]), 60.0, 0.1)
    assert list(x) == [0.0, 50.0, 80.0, 0.0]


def test_pro_rata_takes_one_share_of_everybody() -> None:
    notional = np.array([100.0, 50.0, 50.0])
    x = reductions("pro_rata", notional, notional, np.zeros(3), notional, 50.0, 0.1)
    assert list(x) == [25.0, 12.5, 12.5]


def test_what_cannot_be_closed_is_not_invented() -> None:
    notional, equity = np.array([100.0, 100.0]), np.array([50.0, 1.0])
    x = reductions("water_filling", notional, equity, np.array([0.05, 0.05]), notional, 300.0, 0.1)
    assert list(x) == [100.0, 0.0]


def test_wrong_use_is_refused() -> None:
    one = np.ones(1)
    with pytest.raises(UsageError, match="lottery"):
        reductions("lottery", one, one, one, one, 1.0, 0.0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one length"):
        reductions("queue", one, np.ones(2), one, one, 1.0, 0.0)
