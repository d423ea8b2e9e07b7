"""Synthetic puts on simulated paths, where theory says what replication must give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecaster.policy.hedging.greeks import PUT, greeks
from forecaster.policy.hedging.replication import put_path, replicate, replication_study

SIGMA = 0.8


def paths(count: int, steps: int, seed: int = 1, sigma: float = SIGMA) -> np.ndarray:
    rng = np.random.default_rng(seed)
    step = sigma / math.sqrt(8760)
    moves = rng.standard_normal((count, steps)) * step - step**2 / 2
    return np.asarray(50 * np.exp(np.cumsum(np.pad(moves, ((0, 0), (1, 0))), axis=1)))


def test_a_put_at_a_known_volatility_is_replicated() -> None:
    prices = paths(400, 480)
    strikes = np.full(400, 47.5)
    made = replicate(prices, strikes, np.full((400, 480), SIGMA), 0.0, cost=0.0, risk_aversion=math.inf)
    premium = float(greeks(PUT, 50.0, 47.5, 480.0, SIGMA).price) / 50
    assert made.premium == pytest.approx(np.full(400, premium))
    assert abs(made.error.mean()) < 4 * made.error.std() / math.sqrt(400)
    # Discrete hedging errs by about sqrt(pi / 4 / n) * vega * sigma (Derman and Kamal 1999).
    vega = float(greeks(PUT, 50.0, 47.5, 480.0, SIGMA).vega) / 50
    assert made.error.std() == pytest.approx(math.sqrt(math.pi / 4 / 480) * vega * SIGMA, rel=0.35)
    assert made.price_paid.mean() == pytest.approx(premium, rel=0.02)


def test_delta_ends_at_the_payoff_s_slope() -> None:
    prices = paths(50, 100)
    delta = put_path(prices, np.full(50, 50.0), np.full((50, 100), SIGMA)).delta
    assert ((delta <= 0) & (delta >= -1)).all()
    far = np.abs(np.log(prices[:, -2] / 50)) > 0.05
    np.testing.assert_allclose(delta[far, -1], np.where(prices[far, -2] < 50, -1.0, 0.0), atol=1e-6)


def test_a_wider_band_trades_less_and_errs_more() -> None:
    prices = paths(300, 240, seed=4)
    study = replication_study(
        prices, np.full(300, 48.0), np.full((300, 240), SIGMA), 0.0, cost=5e-4, risk_aversions=[math.inf, 100, 1]
    )
    assert study["cost"].is_monotonic_decreasing
    assert study["trades"].is_monotonic_decreasing
    assert study["error_sd"].is_monotonic_increasing


def test_understated_volatility_is_paid_for_by_the_replicator() -> None:
    """A holder of the delta at too low a sigma loses gamma: gains miss the pay-off by more than the premium."""
    prices = paths(400, 240, seed=6, sigma=1.2)
    low = replicate(prices, np.full(400, 50.0), np.full((400, 240), 0.6), 0.0, cost=0.0, risk_aversion=math.inf)
    assert low.error.mean() < -5 * low.error.std() / math.sqrt(400)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hedging_on_the_forecast_errs_less_than_on_trailing_volatility(seed: int) -> None:
    """GARCH(1,1) markets, where the forecast up to expiry is known in closed form from the past alone.

    The delta itself gains little, most comes of pricing the put: the gap of the two errors is that of the premium.
    """
    count, steps, day = 1600, 72, 24
    persistence, reaction, level = 0.985, 0.06, SIGMA**2 / 8760
    noise = np.random.default_rng(seed).standard_normal((count, 4 * day + steps))
    variance, shocks = np.full((count, noise.shape[1] + 1), level), np.empty_like(noise)
    for t in range(noise.shape[1]):
        shocks[:, t] = np.sqrt(variance[:, t]) * noise[:, t]
        decayed = (persistence - reaction) * variance[:, t]
        variance[:, t + 1] = level * (1 - persistence) + reaction * shocks[:, t] ** 2 + decayed
    moves = (shocks - variance[:, :-1] / 2)[:, -steps:]
    prices = 100 * np.exp(np.cumsum(np.pad(moves, ((0, 0), (1, 0))), axis=1))
    left = np.arange(steps, 0, -1)
    excess = (variance[:, -steps - 1 : -1] - level) * (1 - persistence**left) / (1 - persistence) / left
    windows = np.lib.stride_tricks.sliding_window_view(shocks**2, day, axis=1)[:, -steps - 1 : -1]
    forecast, trailing = np.sqrt(8760 * (level + excess)), np.sqrt(8760 * windows.mean(axis=2))
    ahead, behind = (
        replicate(prices, np.full(count, 100.0), sigma, 0.0, cost=5e-4, risk_aversion=math.inf)
        for sigma in (forecast, trailing)
    )
    assert (ahead.payoff - ahead.gain).std() < (behind.payoff - behind.gain).std()
    assert ahead.cost.mean() < behind.cost.mean()
    assert ahead.error.std() < 0.9 * behind.error.std()


def test_funding_and_cost_enter_the_price_once() -> None:
    prices = paths(20, 48, seed=8)
    sigma = np.full((20, 48), SIGMA)
    strikes = np.full(20, 52.0)
    free = replicate(prices, strikes, sigma, 0.0, cost=0.0, risk_aversion=math.inf)
    paid = replicate(prices, strikes, sigma, 1e-4, cost=1e-3, risk_aversion=math.inf)
    # A short receives positive funding.
    assert (paid.funding < 0).all()
    np.testing.assert_allclose(paid.price_paid - free.price_paid, paid.cost + paid.funding, atol=1e-12)
    np.testing.assert_allclose(paid.error, free.error)
