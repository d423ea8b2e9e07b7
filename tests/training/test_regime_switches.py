"""Switch rates at equal log-loss against simulated chains whose law is known, loops, and a future that changes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from features.errors import DataInvalid
from training.regime_switches import FIT_HOURS, PRIOR_HOURS, compare, hmm_probabilities, smoothed, switched

Array = NDArray[np.float64]
HOURS = 12_000
LEVELS = np.array([-2.0, 0.0, 2.0, 4.0])
STAY = 0.98


def chain(hours: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """States that last for fifty hours on average, and then move to any of the others."""
    state = np.zeros(hours, dtype=np.intp)
    for t in range(1, hours):
        state[t] = state[t - 1] if rng.random() < STAY else (state[t - 1] + rng.integers(1, 4)) % 4
    return state


def told(state: NDArray[np.intp], right: float) -> Array:
    """Probabilities of ``right`` for the states given."""
    return np.where(np.eye(4)[state] > 0, right, (1 - right) / 3)[None]


def days(hours: int) -> NDArray[np.int64]:
    return np.arange(hours) // 24


def test_the_filter_finds_the_planted_states() -> None:
    """The class an hour ahead stays with 98 %: so does the forecast say, where the states are well apart."""
    rng = np.random.default_rng(1)
    state = chain(HOURS, rng)
    x = LEVELS[state] + 0.15 * rng.normal(size=HOURS)
    ahead = np.append(state[1:], np.nan).astype(float)
    p = hmm_probabilities(x[None], ahead[None], FIT_HOURS, 1)[0]
    assert np.isnan(p[:FIT_HOURS]).all()
    known = p[FIT_HOURS:]
    np.testing.assert_allclose(known.sum(axis=1), 1.0)
    assert (known.argmax(axis=1) == state[FIT_HOURS:]).mean() > 0.999
    # The chain's own law, counted on a quarter of a year, beside a week of the frequencies over all states.
    law = STAY * np.eye(4) + (1 - STAY) / 3 * (1 - np.eye(4))
    expected = (FIT_HOURS / 4 * law + PRIOR_HOURS / 4) / (FIT_HOURS / 4 + PRIOR_HOURS)
    for s in range(4):
        np.testing.assert_allclose(known[state[FIT_HOURS:] == s].mean(axis=0), expected[s], atol=0.02)


@pytest.mark.parametrize("at", [FIT_HOURS + 300, FIT_HOURS + 800])
def test_nothing_depends_on_what_comes_later(at: int) -> None:
    rng = np.random.default_rng(2)
    horizon = 24
    state = chain(FIT_HOURS + 1600, rng)
    x = (LEVELS[state] + rng.normal(size=len(state)))[None]
    regime = np.roll(state, -horizon)[None].astype(float)
    whole = hmm_probabilities(x, regime, FIT_HOURS, horizon)
    later, unknown = x.copy(), regime.copy()
    later[:, at + 1 :] = 50.0 * rng.normal(size=later[:, at + 1 :].shape)
    unknown[:, at + 1 - horizon :] = 3.0 - unknown[:, at + 1 - horizon :]
    changed = hmm_probabilities(later, unknown, FIT_HOURS, horizon)
    np.testing.assert_array_equal(changed[:, : at + 1], whole[:, : at + 1])
    assert not np.array_equal(changed[:, at + 1 :], whole[:, at + 1 :])
    cut = hmm_probabilities(x[:, : at + 1], regime[:, : at + 1], FIT_HOURS, horizon)
    np.testing.assert_array_equal(cut, whole[:, : at + 1])


def test_the_newest_resolved_class_counts() -> None:
    """Were fewer classes taken than are known, changing the newest of them would change nothing."""
    rng = np.random.default_rng(3)
    horizon = 24
    state = chain(FIT_HOURS + 10, rng)
    x = (LEVELS[state] + rng.normal(size=len(state)))[None]
    regime = state[None].astype(float)
    other = regime.copy()
    other[0, FIT_HOURS - horizon] = (other[0, FIT_HOURS - horizon] + 1) % 4
    first, second = (hmm_probabilities(x, r, FIT_HOURS, horizon)[0, FIT_HOURS] for r in (regime, other))
    assert not np.array_equal(first, second)


def test_a_market_that_stood_still_or_is_new_is_not_forecast() -> None:
    x = np.zeros((2, 3000))
    x[1, :-1000] = np.nan
    x[1, -1000:] = np.random.default_rng(4).normal(size=1000)
    assert np.isnan(hmm_probabilities(x, np.ones_like(x), 2500, 24)).all()


def test_smoothing_is_the_recursion_and_passes_over_gaps() -> None:
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.ones(4), size=(2, 60))
    p[1, 20:25] = np.nan
    expected, half_life = np.full_like(p, np.nan), 7.0
    for s in range(2):
        level = None
        for t in range(60):
            if np.isfinite(p[s, t]).all():
                keep = 0.5 ** (1 / half_life)
                level = p[s, t] if level is None else keep * level + (1 - keep) * p[s, t]
                expected[s, t] = level
    np.testing.assert_allclose(smoothed(p, half_life), expected, rtol=1e-12)
    np.testing.assert_array_equal(smoothed(p, 0.0), p)


def test_switches_are_between_known_neighbours() -> None:
    p = np.eye(4)[[[0, 0, 1, 1, 2, 0]]]
    p[0, 3] = np.nan
    np.testing.assert_array_equal(switched(p), [[np.nan, 0, 1, np.nan, np.nan, 1]])


def test_identical_forecasts_differ_by_nothing() -> None:
    state = chain(HOURS, np.random.default_rng(6))
    p = told(state, 0.6)
    found = compare(p, p.copy(), state[None].astype(float), days(HOURS))
    assert found is not None
    assert (found.change, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.own == found.hmm > 0
    assert found.half_life[0] == found.half_life[1]


def test_a_forecast_that_flickers_comes_out_badly() -> None:
    """Right in every hour but each tenth, against one that lags each change by some hours with the same confidence."""
    rng = np.random.default_rng(7)
    state = chain(HOURS, rng)
    flicker = np.where(np.arange(HOURS) % 10 == 0, (state + 1) % 4, state)
    lagging = np.concatenate([state[:2], state[:-2]])
    own, other = told(flicker, 0.9), told(lagging, 0.9)
    found = compare(own, other, state[None].astype(float), days(HOURS))
    assert found is not None
    rates = [float((np.diff(path) != 0).mean() * 8760) for path in (flicker, lagging)]
    assert found.as_forecast == pytest.approx(tuple(rates), rel=1e-3)
    # The flickering one has the larger loss: it has nothing to pay for steadiness with, but what smoothing itself saves.
    assert found.log_loss[0] > found.log_loss[1]
    turned = compare(other, own, state[None].astype(float), days(HOURS))
    assert turned is not None
    assert 1 + turned.change == pytest.approx(1 / (1 + found.change))


def test_a_surplus_of_loss_is_spent_on_steadiness_until_the_losses_meet() -> None:
    rng = np.random.default_rng(8)
    state = chain(HOURS, rng)
    regime = state[None].astype(float)
    sharp, blunt = told(state, 0.97), told(state, 0.6)
    found = compare(sharp, blunt, regime, days(HOURS))
    assert found is not None
    assert found.equal
    came = np.take_along_axis(smoothed(sharp, found.half_life[0])[0], state[:, None], axis=1)
    assert -np.log(came).mean() == pytest.approx(-np.log(0.6), abs=1e-3)
    assert found.half_life[0] > 1.0 > found.half_life[1]
    switches = int((np.diff(smoothed(sharp, found.half_life[0])[0].argmax(axis=1)) != 0).sum())
    assert found.own == pytest.approx(switches / (HOURS - 1) * 8760)
    assert found.change == pytest.approx(found.own / found.hmm - 1)
    assert found.low <= found.change <= found.high


def test_where_a_longer_half_life_would_still_be_free_it_is_said() -> None:
    """A constant that is right nine times in ten, against one who sees each event and says so with .4."""
    state = np.where(np.arange(HOURS) % 100 < 10, 2, 0)
    constant = np.tile([0.88, 0.01, 0.1, 0.01], (1, HOURS, 1))
    found = compare(constant, told(state, 0.4), state[None].astype(float), days(HOURS))
    assert found is not None
    assert not found.equal
    assert found.change == -1.0
    assert found.hmm > 0.0


def test_against_a_model_that_never_switches_there_is_no_share() -> None:
    state = np.where(np.arange(HOURS) % 100 < 10, 2, 0)
    constant = np.tile([0.88, 0.01, 0.1, 0.01], (1, HOURS, 1))
    found = compare(told(state, 0.4), constant, state[None].astype(float), days(HOURS))
    assert found is not None
    assert found.own > found.hmm == 0.0
    assert not np.isfinite(found.change)


def test_only_hours_that_both_forecast_and_that_resolved_count() -> None:
    rng = np.random.default_rng(9)
    state = np.stack([chain(1500, rng) for _ in range(2)])
    p, q = (np.concatenate([told(path, right) for path in state]) for right in (0.9, 0.6))
    regime = state.astype(float)
    q[:, 1000:1200] = np.nan
    regime[:, 1200:] = np.nan
    whole, part = (compare(p[:, :n], q[:, :n], regime[:, :n], days(n)) for n in (1500, 1000))
    assert whole is not None
    assert part is not None
    # The interval draws days of the whole window, known or not.
    assert whole._replace(low=0.0, high=0.0) == part._replace(low=0.0, high=0.0)
    assert compare(p, np.full_like(q, np.nan), regime, days(1500)) is None


def test_grids_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataInvalid, match="same symbols"):
        hmm_probabilities(np.zeros((1, 10)), np.zeros((1, 9)), 5, 1)
