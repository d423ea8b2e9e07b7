"""Small worlds for the venue: a path, a population and constants that a test can follow by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from forecaster.venue import Path, Population, VenueParams

HOUR = 3_600_000_000


def make_path(closes: Sequence[float], sigma: float = 0.03, volume: float = 1e8, wick: float = 0.0) -> Path:
    """Bars that go straight from close to close, with wicks of a share of the price on both sides."""
    close = np.asarray(closes, np.float64)
    opened = np.concatenate([close[:1], close[:-1]])
    high, low = np.maximum(opened, close) * (1 + wick), np.minimum(opened, close) * (1 - wick)
    prices = np.column_stack([opened, high, low, close])
    n = len(close)
    return Path(
        symbol="TEST",
        close_time=np.arange(1, n + 1) * HOUR,
        last=prices,
        mark=prices.copy(),
        mark_modelled=np.zeros(n, np.bool_),
        funding=np.zeros(n),
        sigma=np.full(n, sigma),
        sigma_usual=np.full(n, sigma),
        volume=np.full(n, volume),
        depth_scale=np.ones(n),
        liquidators=np.ones(n),
        quorum=np.ones(n, np.bool_),
    )


def make_people(weights: Sequence[float], leverages: Sequence[float], hours: int, tops_up: bool = False) -> Population:
    """One position a slot, entering at the first close and staying to the end."""
    n = len(weights)
    return Population(
        slots=n,
        hours=hours,
        occupancy=1.0,
        enter=np.zeros(n, np.int64),
        leave=np.full(n, hours + 1),
        slot=np.arange(n),
        weight=np.asarray(weights, np.float64),
        leverage=np.asarray(leverages, np.float64),
        tops_up=np.full(n, tops_up),
        deleverages=np.zeros(n, np.bool_),
    )


@pytest.fixture(scope="session")
def params() -> VenueParams:
    return VenueParams.default()


@pytest.fixture(scope="session")
def path_of() -> Callable[..., Path]:
    return make_path


@pytest.fixture(scope="session")
def people_of() -> Callable[..., Population]:
    return make_people


@pytest.fixture(scope="session")
def crash() -> Path:
    """Three weeks of a noisy market with a fall of a fifth within six hours, and a partial recovery."""
    rng = np.random.default_rng(11)
    steps = 0.006 * rng.standard_normal(500)
    steps[300:306] -= 0.037
    steps[306:330] += 0.004
    return make_path(100 * np.exp(np.cumsum(steps)), wick=0.003)
