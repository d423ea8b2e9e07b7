"""A linear log-variance process: the ensemble comes close to the Kalman filter, and nobody passes it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from known_markets import KnownMarket, Linear, reversed_in_time, scaled
from known_walk import MEMBERS, Walk, configured, delayed, walked

from models.base import EXCURSION_COLUMNS, PROBABILITIES, RETURN_LEVELS, SHORTFALL_LEVELS, THRESHOLDS, VARIANCE_LEVELS
from training.material import Material

Array = npt.NDArray[np.float64]

HORIZONS = (1, 4)
DAYS = 120
# Of the optimum's loss: evaluation.md asks for 3 %.
CLOSE = 0.03


def exact(market: KnownMarket, at: int, h: int) -> Array:
    """``E[V | y up to the hour at]`` by conditioning the joint normal law itself, without a filter: (n_symbols,)."""
    law, n = market.law, at + 1 + h
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    covariance = sum(sd**2 * rho**lag for sd, rho in zip(law.sds, law.persistence, strict=True))
    covariance = covariance + law.noise**2 * np.eye(n)
    past, ahead = slice(at + 1), slice(at + 1, n)
    slope = np.linalg.solve(covariance[past, past], covariance[past, ahead])
    spread = np.diag(covariance[ahead, ahead] - slope.T @ covariance[past, ahead])
    level = law.level(len(market.symbols))[:, None]
    mean = level + (market.y[:, past] - level) @ slope
    return np.asarray(np.exp(mean + 0.5 * spread).sum(axis=1))


def excess(walk: Walk, h: int, best: Array) -> float:
    """Loss of the ensemble above that of the best forecast, as a share of it."""
    return -walk.gain(h, "ensemble", best).value


@pytest.mark.parametrize("h", [1, 4, 24])
def test_the_filter_is_the_conditional_mean(linear: KnownMarket, h: int) -> None:
    at = 1_200  # hours after which the filter has forgotten that it did not know where it began
    np.testing.assert_allclose(linear.best((h,))[h][:, at], exact(linear, at, h), rtol=1e-3)
    # An hour late, it is another one.
    assert np.abs(linear.best((h,), delay=1)[h][:, at] / exact(linear, at, h) - 1).max() > 0.005


def test_bars_have_the_variance_and_the_return_that_they_were_made_for(linear: KnownMarket, material: Material) -> None:
    np.testing.assert_allclose(material.targets[1]["variance"][:, :-1], np.exp(linear.y[:, 1:]), rtol=1e-8)
    np.testing.assert_allclose(material.targets[1]["log_return"][:, :-1], linear.returns[:, 1:], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("h", [1, 4])
def test_the_ensemble_is_within_three_per_cent_of_the_optimum_and_nobody_beats_it(
    linear: KnownMarket, walk: Walk, h: int
) -> None:
    best = linear.best((h,))[h]
    assert excess(walk, h, best) < CLOSE
    for model in (*MEMBERS, "ensemble"):
        assert walk.gain(h, model, best).low <= 0, model


def test_an_hour_of_delay_costs_what_it_must(linear: KnownMarket, material: Material, walk: Walk) -> None:
    """The loss grows as the optimum's does: had the origins been misaligned, an hour would be worth far more or nothing."""
    late = walked(material, configured(horizons=HORIZONS), DAYS, lambda known: delayed(known, 1))
    prompt, blind = linear.best(HORIZONS), linear.best(HORIZONS, delay=1)
    for h in HORIZONS:
        cost = float(np.nanmean(late.loss(h)) / np.nanmean(walk.loss(h))) - 1
        due = float(np.nanmean(walk.loss(h, blind[h])) / np.nanmean(walk.loss(h, prompt[h]))) - 1
        assert 0.03 < due < 0.2
        assert abs(cost - due) < 0.02
        # What the test before would have said of it: features of the bar before are not close to the optimum.
        assert excess(late, h, prompt[h]) > CLOSE


def test_an_hour_of_look_ahead_passes_the_optimum(linear: KnownMarket, material: Material, walk: Walk) -> None:
    """The twin of the tests above: the same walk with features of an hour later is caught by each of them."""
    early = walked(material, configured(("har_seasonal",), horizons=HORIZONS), DAYS, lambda known: delayed(known, -1))
    for h, best in linear.best(HORIZONS).items():
        assert early.gain(h, "ensemble", best).low > 0.1
        assert np.nanmean(walk.loss(h)) / np.nanmean(early.loss(h)) - 1 > 0.3


def test_time_reversed_the_skill_is_the_same(linear: KnownMarket, walk: Walk) -> None:
    """A stationary Gaussian law has no direction; what is better backwards reads the order of rows."""
    market = reversed_in_time(linear)
    back = walked(market.market(book=False), configured(horizons=HORIZONS), DAYS)
    for h, best in market.best(HORIZONS).items():
        assert excess(back, h, best) < CLOSE
        assert back.gain(h, "ensemble", best).low <= 0
        forth = walk.gain(h, "ensemble", "har_seasonal").value
        assert abs(back.gain(h, "ensemble", "har_seasonal").value - forth) < 0.02


def test_returns_twice_as_large_have_four_times_the_variance() -> None:
    """Of all columns of the law but excursions, which are fractions of a price and not logs; of the HAR to rounding."""
    market = KnownMarket.draw(Linear(), seed=4, days=300, symbols=3)
    config = configured(("har_seasonal", "har_x"), horizons=HORIZONS, combined=("har_seasonal",))
    one, two = (walked(m.market(book=False), config, 100) for m in (market, scaled(market, 2.0)))
    times = {"variance": 4.0, "vol_annualised": 2.0}
    times |= dict.fromkeys((*VARIANCE_LEVELS, *THRESHOLDS), 4.0)
    times |= dict.fromkeys((*RETURN_LEVELS, *SHORTFALL_LEVELS), 2.0) | dict.fromkeys((*PROBABILITIES, "p_onset"), 1.0)
    assert set(one.assemblies[1].columns["ensemble"]) - set(times) == {
        *EXCURSION_COLUMNS["long"],
        *EXCURSION_COLUMNS["short"],
    }
    for h in (1, 4):
        for name, factor in times.items():
            small, large = (walk.column(h, name) for walk in (one, two))
            assert np.isfinite(small).mean() > 0.5, name  # nobody speaks of an onset in hours of stress
            np.testing.assert_allclose(large, factor * small, rtol=1e-6, atol=1e-12, err_msg=f"{name}, {h} h")
        # One feature has a floor in units of variance; it may move the panel by a few parts in a thousand.
        ratio = two.column(h, "variance", "har_x") / one.column(h, "variance", "har_x")
        np.testing.assert_allclose(ratio, 4.0, rtol=0.01)


def test_a_shift_of_scale_within_the_history_is_not_taken_for_a_scale() -> None:
    """The twin: a market that doubles half-way is not four times the other, so the test above can fail."""
    market = KnownMarket.draw(Linear(), seed=4, days=300, symbols=3)
    half = market.y.shape[1] // 2
    jumped = scaled(market, 2.0)
    jumped.y[:, :half], jumped.returns[:, :half] = market.y[:, :half], market.returns[:, :half]
    config = configured(("har_seasonal",), horizons=(1,))
    one, two = (walked(m.market(book=False), config, 100) for m in (market, jumped))
    assert np.abs(two.column(1, "variance") / one.column(1, "variance") / 4 - 1).max() > 0.01
