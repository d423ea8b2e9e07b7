"""The jump model: jumpmodels is the oracle of objectives and labels, enumeration of all sequences that of the minimum."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
from jumpmodels.jump import JumpModel as Peer
from numpy.typing import NDArray
from sklearn.base import clone

from features.errors import DataInvalid, UsageError
from models.states.jump import JumpModel

Array = NDArray[np.float64]


def simulate(bars: int, seed: int = 0, states: int = 2) -> Array:
    rng = np.random.default_rng(seed)
    chain = np.repeat(rng.integers(states, size=bars // 40 + 1), 40)[:bars]
    return np.column_stack([rng.normal(1.5 * chain, 1.0), rng.normal(-0.5 * chain, 1.0)])


def objective(x: Array, means: Array, path: tuple[int, ...], penalty: float) -> float:
    return 0.5 * np.nansum((x - means[list(path)]) ** 2) + penalty * np.count_nonzero(np.diff(path))


def peer_of(model: JumpModel, x: Array) -> Peer:
    """jumpmodels with our means."""
    peer = Peer(model.n_states, jump_penalty=model.jump_penalty, n_init=1, max_iter=1, random_state=0).fit(x)
    peer.centers_ = model.means_
    return peer


@pytest.fixture(scope="module")
def bars() -> Array:
    return simulate(1200)


@pytest.fixture(scope="module")
def fitted(bars: Array) -> JumpModel:
    return JumpModel(2, 8.0).fit(bars)


@pytest.mark.parametrize("states", [2, 3])
@pytest.mark.parametrize("penalty", [0.0, 0.7, 3.0])
def test_smooth_minimises_over_all_sequences(states: int, penalty: float) -> None:
    x = simulate(8, seed=states)
    x[3], x[5, 1] = np.nan, np.nan
    model = JumpModel(states, penalty).fit(simulate(300, states=states))
    best = min(itertools.product(range(states), repeat=8), key=lambda p: objective(x, model.means_, p, penalty))
    found = tuple(model.smooth(x))
    assert objective(x, model.means_, found, penalty) == pytest.approx(objective(x, model.means_, best, penalty))
    for t in range(1, 9):
        ends = [
            min(
                objective(x[:t], model.means_, (*p, s), penalty) for p in itertools.product(range(states), repeat=t - 1)
            )
            for s in range(states)
        ]
        np.testing.assert_allclose(model.costs(x)[t - 1], np.array(ends) - min(ends), atol=1e-12)
        assert model.filter(x)[t - 1] == np.argmin(ends)


@pytest.mark.parametrize("states", [2, 3, 4])
@pytest.mark.parametrize("penalty", [2.0, 10.0, 40.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_objective_is_not_above_jumpmodels(states: int, penalty: float, seed: int) -> None:
    x = simulate(900, seed=seed, states=states)
    model = JumpModel(states, penalty).fit(x)
    peer = Peer(states, jump_penalty=penalty, random_state=0).fit(x)
    assert model.objective_ <= peer.val_ * (1 + 1e-9)
    assert model.objective_ == pytest.approx(objective(x, model.means_, tuple(model.smooth(x)), penalty), rel=1e-10)


def test_descent_ends_where_that_of_jumpmodels_does(bars: Array) -> None:
    """From the same means: the same objective, means and labels."""
    begin = JumpModel(3, 5.0, random_starts=0, max_iterations=1).fit(bars)
    ours = JumpModel(3, 5.0).fit(bars, start=begin.state())
    peer = Peer(3, jump_penalty=5.0, random_state=0)
    peer.init_centers = lambda _: begin.means_[None]
    peer.fit(bars)
    assert ours.objective_ == pytest.approx(peer.val_, rel=1e-12)
    order = np.argsort(peer.centers_[:, 0])
    np.testing.assert_allclose(ours.means_, peer.centers_[order], rtol=1e-9)
    np.testing.assert_array_equal(ours.smooth(bars), np.argsort(order)[peer.labels_])


@pytest.mark.parametrize("states", [2, 3])
def test_labels_are_those_of_jumpmodels(states: int) -> None:
    x = simulate(1500, seed=4, states=states)
    model = JumpModel(states, 6.0).fit(x)
    np.testing.assert_array_equal(model.filter(x), peer_of(model, x).predict_online(x))
    np.testing.assert_array_equal(model.smooth(x), peer_of(model, x).predict(x))
    assert (np.diff(model.means_[:, 0]) > 0).all()


def test_filter_knows_no_future_and_smooth_does(fitted: JumpModel, bars: Array) -> None:
    x = bars.copy()
    x[np.random.default_rng(1).random(x.shape) < 0.05] = np.nan
    x[600:620] = np.nan
    states, costs, smoothed = fitted.filter(x), fitted.costs(x), fitted.smooth(x)
    moved = 0
    for cut in np.unique(np.r_[1:40, 250:262, 510:516, np.random.default_rng(0).integers(1, len(x), 200), 600:621]):
        np.testing.assert_array_equal(fitted.filter(x[:cut]), states[:cut])
        np.testing.assert_array_equal(fitted.costs(x[:cut]), costs[:cut])
        moved += np.count_nonzero(fitted.smooth(x[:cut]) != smoothed[:cut])
    assert moved > 0


def test_update_is_the_filter_bit_for_bit_and_survives_a_restart(bars: Array) -> None:
    x = bars.copy()
    x[900:905] = np.nan
    model = JumpModel(3, 6.0).fit(x[:800])
    states, costs = model.filter(x), model.costs(x)
    assert model.state_ == states[799]
    for t in range(800, 1000):
        assert model.update(x[t]) == states[t]
    kept = model.state()
    np.testing.assert_array_equal(kept["cost"], costs[999])
    text = json.loads(json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in kept.items()}))
    again = clone(model).restore(text)
    assert again.certificate_ == model.certificate_
    for t in range(1000, len(x)):
        assert model.update(x[t]) == again.update(x[t]) == states[t]
    np.testing.assert_array_equal(again.state()["cost"], costs[-1])


def test_missing_bars_change_nothing(fitted: JumpModel, bars: Array) -> None:
    gap = np.full((7, 2), np.nan)
    joined = np.vstack([bars[:500], gap, bars[500:]])
    np.testing.assert_array_equal(np.delete(fitted.filter(joined), range(500, 507)), fitted.filter(bars))


def test_a_large_penalty_never_pays_and_none_is_k_means(bars: Array) -> None:
    frozen = JumpModel(2, 1e9).fit(bars)
    assert len(set(frozen.smooth(bars))) == 1
    free = JumpModel(2, 0.0).fit(bars)
    nearest = ((bars[:, None] - free.means_) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(free.smooth(bars), nearest)
    np.testing.assert_array_equal(free.filter(bars), nearest)


def test_warm_start_and_certificate(bars: Array, fitted: JumpModel) -> None:
    warm = JumpModel(2, 8.0).fit(bars, start=fitted.state())
    assert warm.objective_ == pytest.approx(fitted.objective_, rel=1e-12)
    assert fitted.certificate_.certified
    assert fitted.certificate_.starts == 10
    assert fitted.certificate_.agreeing > 1
    hurried = JumpModel(4, 1.0, random_starts=0, max_iterations=1).fit(bars)
    assert "max_iterations" in hurried.certificate_.reason
    frozen = JumpModel(2, 1e9).fit(bars)
    assert len(frozen.certificate_.degenerate) == 1
    assert not frozen.certificate_.certified


def test_wrong_use_and_hopeless_data_are_refused(fitted: JumpModel, bars: Array) -> None:
    with pytest.raises(UsageError, match="call fit"):
        JumpModel().update(bars[0])
    with pytest.raises(UsageError, match="jump_penalty"):
        JumpModel(2, -1.0).fit(bars)
    with pytest.raises(UsageError, match="'means' of the given state"):
        JumpModel(3).fit(bars, start=fitted.state())
    with pytest.raises(UsageError, match="has 1 columns"):
        fitted.filter(bars[:, 0])
    with pytest.raises(DataInvalid, match="flat"):
        JumpModel().fit(np.zeros(500))
    with pytest.raises(DataInvalid, match=r"X\[3, 1\] is infinite"):
        fitted.filter(np.where(np.arange(20).reshape(10, 2) == 7, -np.inf, 1.0))
    with pytest.raises(DataInvalid, match="39 values"):
        JumpModel(2).fit(np.arange(39.0))


def test_advance_is_costs_from_where_it_stands_and_a_copy_goes_its_own_way(bars: Array) -> None:
    model = JumpModel(2, jump_penalty=5.0).fit(bars)
    costs, states = model.costs(bars), model.filter(bars)
    model.restart()
    np.testing.assert_array_equal(model.advance(bars[:50]), costs[:50])
    twin = copy.copy(model)
    np.testing.assert_array_equal(twin.advance(bars[50:]), costs[50:])
    assert (twin.state_, model.update(bars[50])) == (states[-1], states[50])
