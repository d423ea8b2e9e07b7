"""The filtered HMM: hmmlearn is the oracle of likelihoods and of EM, plain probabilities that of the filter."""

from __future__ import annotations

import copy
import itertools
import json
import logging

import numpy as np
import pytest
from hmmlearn.hmm import GaussianHMM as Peer
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.base import clone

from features.errors import DataInvalid, UsageError
from models.states.hmm import GaussianHMM

Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _quiet_peer() -> None:
    logging.getLogger("hmmlearn").setLevel(logging.CRITICAL)


def simulate(bars: int, seed: int = 0, states: int = 2) -> tuple[Array, NDArray[np.int64]]:
    """Bars of a level that rises with the state and a return whose spread does, and the states."""
    rng = np.random.default_rng(seed)
    chain = np.empty(bars, dtype=np.int64)
    chain[0] = 0
    for t in range(1, bars):
        chain[t] = chain[t - 1] if rng.random() < 0.97 else rng.integers(states)
    level = rng.normal(2.0 * chain, 1.0)
    return np.column_stack([level, rng.normal(0.0, np.exp(0.7 * chain))]), chain


def peer_of(model: GaussianHMM) -> Peer:
    """hmmlearn with our parameters."""
    peer = Peer(model.n_states, covariance_type="diag", min_covar=0, init_params="")
    peer.startprob_, peer.transmat_ = model.startprob_, model.transmat_
    peer.means_, peer.covars_ = model.means_, model.variances_
    return peer


def with_holes(x: Array, seed: int = 3) -> Array:
    x = x.copy()
    rng = np.random.default_rng(seed)
    x[rng.random(x.shape) < 0.05] = np.nan
    x[len(x) // 2 : len(x) // 2 + 20] = np.nan
    return x


@pytest.fixture(scope="module")
def bars() -> Array:
    return simulate(1500)[0]


@pytest.fixture(scope="module")
def fitted(bars: Array) -> GaussianHMM:
    return GaussianHMM().fit(bars)


@pytest.mark.parametrize(("states", "columns"), [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 2)])
def test_likelihood_is_that_of_hmmlearn(states: int, columns: int) -> None:
    x = simulate(1203, states=max(states, 2))[0][:, :columns]
    model = GaussianHMM(states).fit(x)
    assert model.loglikelihood_ == pytest.approx(peer_of(model).score(x), rel=1e-10)
    assert model.score(x[:700]) == pytest.approx(peer_of(model).score(x[:700]), rel=1e-10)


@pytest.mark.parametrize("bars_", [255, 256, 257, 513, 1000])
@pytest.mark.parametrize("states", [2, 3])
def test_em_goes_the_way_of_hmmlearn(bars_: int, states: int) -> None:
    """From the same start and after the same number of iterations: the same parameters (its priors switched off)."""
    x = simulate(bars_, seed=7, states=states)[0]
    begin = GaussianHMM(states, max_iterations=1, tolerance=-np.inf).fit(x)
    peer = peer_of(begin)
    peer.n_iter, peer.tol, peer.covars_prior, peer.covars_weight = 12, -np.inf, 0, 1
    peer.implementation = "scaling"
    peer.fit(x)
    ours = GaussianHMM(states, max_iterations=12, tolerance=-np.inf).fit(x, start=begin.state())
    order = np.argsort(peer.means_[:, 0])
    np.testing.assert_allclose(ours.means_, peer.means_[order], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.variances_, np.array([np.diag(c) for c in peer.covars_])[order], rtol=1e-7)
    np.testing.assert_allclose(ours.transmat_, peer.transmat_[order][:, order], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.startprob_, peer.startprob_[order], atol=1e-9)


@pytest.mark.parametrize("states", [2, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_optimum_is_not_below_hmmlearn(states: int, seed: int) -> None:
    x = simulate(1200, seed=seed, states=states)[0]
    peers = [
        Peer(states, covariance_type="diag", n_iter=300, tol=1e-4, random_state=r, covars_prior=0, covars_weight=1)
        for r in range(3)
    ]
    model = GaussianHMM(states).fit(x)
    assert model.certificate_.certified
    assert model.loglikelihood_ >= max(peer.fit(x).score(x) for peer in peers) - 0.05


def test_filter_is_the_sum_over_all_paths() -> None:
    """P(s_t | data <= t) by enumeration of every sequence of states, values missing."""
    x = simulate(7, seed=5)[0]
    x[2], x[4, 1] = np.nan, np.nan
    model = GaussianHMM().fit(simulate(400)[0])
    density = norm.pdf(x[:, None, :], model.means_, np.sqrt(model.variances_))
    density = np.where(np.isnan(density), 1.0, density).prod(axis=2)
    for t in range(len(x)):
        mass = np.zeros(2)
        for path in itertools.product(range(2), repeat=t + 1):
            weight = model.startprob_[path[0]]
            for u, s in enumerate(path):
                weight *= density[u, s] * (model.transmat_[path[u - 1], s] if u else 1.0)
            mass[path[-1]] += weight
        np.testing.assert_allclose(model.filter(x)[t], mass / mass.sum(), rtol=1e-10)


def test_filter_knows_no_future(fitted: GaussianHMM, bars: Array) -> None:
    x = with_holes(bars)
    whole = fitted.filter(x)
    for cut in np.unique(
        np.r_[1:40, np.random.default_rng(0).integers(1, len(x), 200), len(x) // 2 : len(x) // 2 + 21]
    ):
        np.testing.assert_array_equal(fitted.filter(x[:cut]), whole[:cut])


def test_fit_knows_no_future(bars: Array) -> None:
    other = bars.copy()
    other[1000:] += 5.0
    np.testing.assert_array_equal(GaussianHMM().fit(bars[:1000]).means_, GaussianHMM().fit(other[:1000]).means_)


def test_update_is_the_filter_bit_for_bit_and_survives_a_restart(bars: Array) -> None:
    x = with_holes(bars)
    model = GaussianHMM().fit(x[:900])
    whole = model.filter(x)
    np.testing.assert_array_equal(model.filtered_, whole[899])
    for t in range(900, 1000):
        np.testing.assert_array_equal(model.update(x[t]), whole[t])
    kept = model.state()
    text = json.loads(json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in kept.items()}))
    again = clone(model).restore(text)
    assert again.certificate_ == model.certificate_
    for t in range(1000, len(x)):
        np.testing.assert_array_equal(model.update(x[t]), whole[t])
        np.testing.assert_array_equal(again.update(x[t]), whole[t])
    np.testing.assert_array_equal(kept["filtered"], whole[999])


def test_missing_bars_pass_by_prediction_only(fitted: GaussianHMM, bars: Array) -> None:
    gap = np.full((5, 2), np.nan)
    filtered = fitted.filter(np.vstack([bars[:300], gap]))
    expected = filtered[299]
    for row in filtered[300:]:
        expected = expected @ fitted.transmat_
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_forecast_is_the_filter_times_powers(fitted: GaussianHMM) -> None:
    path = fitted.forecast(50)
    for h in (1, 2, 7, 50):
        expected = fitted.filtered_ @ np.linalg.matrix_power(fitted.transmat_, h)
        np.testing.assert_allclose(path[h - 1], expected, rtol=1e-12)
    with pytest.raises(UsageError, match="horizon is 0"):
        fitted.forecast(0)


def test_smooth_is_that_of_hmmlearn_and_looks_ahead(fitted: GaussianHMM, bars: Array) -> None:
    smoothed = fitted.smooth(bars)
    np.testing.assert_allclose(smoothed, peer_of(fitted).predict_proba(bars), atol=1e-9)
    assert np.abs(fitted.smooth(bars[:800]) - smoothed[:800]).max() > 1e-6


def test_states_are_sorted_and_recovered() -> None:
    x, chain = simulate(4000, seed=11, states=3)
    model = GaussianHMM(3).fit(x)
    assert (np.diff(model.means_[:, 0]) > 0).all()
    np.testing.assert_allclose(model.means_[:, 0], [0, 2, 4], atol=0.25)
    assert (model.filter(x).argmax(axis=1) == chain).mean() > 0.85
    returns = GaussianHMM(3, order_by="variance").fit(x[:, 1])
    assert (np.diff(returns.variances_[:, 0]) > 0).all()


def test_scale_and_order_of_columns_change_nothing_but_units(bars: Array, fitted: GaussianHMM) -> None:
    scaled = GaussianHMM().fit(bars * [1e-4, 1e3])
    np.testing.assert_allclose(scaled.means_, fitted.means_ * [1e-4, 1e3], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scaled.filter(bars * [1e-4, 1e3]), fitted.filter(bars), atol=1e-4)


def test_far_values_and_ruled_out_paths_stay_finite(fitted: GaussianHMM, bars: Array) -> None:
    x = bars.copy()
    x[100], x[200] = 1e6, -1e100
    filtered = fitted.filter(x)
    assert np.isfinite(filtered).all()
    np.testing.assert_allclose(filtered.sum(axis=1), 1.0)
    refitted = GaussianHMM().fit(np.vstack([bars, [[500.0, 0.0]]]))
    assert np.isfinite(refitted.loglikelihood_)


def test_gain_of_em_is_never_negative(bars: Array) -> None:
    x = with_holes(bars)
    reached = []
    model = GaussianHMM(3, max_iterations=1, tolerance=-np.inf).fit(x)
    for _ in range(40):
        reached.append(model.loglikelihood_)
        model = GaussianHMM(3, max_iterations=1, tolerance=-np.inf).fit(x, start=model.state())
    assert min(np.diff(reached)) > -1e-7


def test_warm_start_finds_the_same_optimum_sooner(bars: Array) -> None:
    cold = GaussianHMM(tolerance=1e-6).fit(bars)
    warm = GaussianHMM(tolerance=1e-6).fit(bars[:-1], start=cold.state())
    assert warm.certificate_.certified
    assert warm.certificate_.starts == 1
    assert warm.loglikelihood_ >= GaussianHMM(tolerance=1e-6).fit(bars[:-1]).loglikelihood_ - 1e-3


def test_certificate_tells_what_went_wrong(bars: Array) -> None:
    hurried = GaussianHMM(max_iterations=2, tolerance=1e-9).fit(
        with_holes(bars), start=GaussianHMM(2).fit(bars).state()
    )
    assert not hurried.certificate_.converged
    assert "max_iterations" in hurried.certificate_.reason
    spike = np.vstack([np.random.default_rng(0).normal(size=(300, 1)), [[1e4]], [[1e4]]])
    lonely = GaussianHMM(2).fit(spike)
    assert lonely.certificate_.degenerate
    assert not lonely.certificate_.certified


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.ones((300, 1)), "column 0 of X is flat"),
        (np.column_stack([np.arange(300.0), np.full(300, 2.0)]), "column 1 of X is flat"),
        (np.arange(39.0), "39 values in 39 bars"),
        (np.full(300, np.nan), "0 values in 300 bars"),
        (np.r_[np.arange(300.0), np.inf], r"X\[300, 0\] is infinite"),
    ],
)
def test_hopeless_data_are_refused(bad: Array, said: str) -> None:
    with pytest.raises(DataInvalid, match=said):
        GaussianHMM().fit(bad)


def test_wrong_use_is_refused(fitted: GaussianHMM, bars: Array) -> None:
    with pytest.raises(UsageError, match="call fit"):
        GaussianHMM().filter(bars)
    with pytest.raises(UsageError, match="has 1 columns"):
        fitted.filter(bars[:, 0])
    with pytest.raises(UsageError, match="order_by"):
        GaussianHMM(order_by="level").fit(bars)
    with pytest.raises(UsageError, match="'startprob' of the given state"):
        GaussianHMM(3).fit(bars, start=fitted.state())
    with pytest.raises(UsageError, match="number of states"):
        GaussianHMM(0).fit(bars)
    with pytest.raises(DataInvalid, match="infinite"):
        fitted.update([np.inf, 0.0])


def test_clone_keeps_arguments_and_nothing_else(fitted: GaussianHMM) -> None:
    copy = clone(GaussianHMM(3, "variance", 2, 7, 1e-3, 50))
    assert copy.get_params() == GaussianHMM(3, "variance", 2, 7, 1e-3, 50).get_params()
    assert not hasattr(clone(fitted), "means_")


def test_advance_is_the_filter_from_where_it_stands_and_a_copy_goes_its_own_way(bars: Array) -> None:
    x = bars.copy()
    x[40:43] = np.nan
    model = GaussianHMM(2).fit(x)
    whole = model.filter(x)
    model.restart()
    np.testing.assert_array_equal(model.advance(x[:50]), whole[:50])
    twin = copy.copy(model)
    np.testing.assert_array_equal(twin.advance(x[50:]), whole[50:])
    np.testing.assert_array_equal(model.update(x[50]), whole[50])
    np.testing.assert_array_equal(model.filtered_, whole[50])
