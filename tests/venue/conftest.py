"""Small worlds for the venue: a path, a population and constants that a test can follow by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from forecaster.venue import Path, Population, VenueParams
from forecaster.venue.synthetic import path_of, people_of


def make_path(closes: Sequence[float], sigma: float = 0.03, volume: float = 1e8, wick: float = 0.0) -> Path:
    """Bars that go straight from close to close, with wicks of a share of the price on both sides."""
    plain = path_of(np.asarray(closes, np.float64), sigma, volume)
    prices = plain.last * np.array([1.0, 1 + wick, 1 - wick, 1.0])
    return replace(plain, symbol="TEST", last=prices, mark=prices.copy())


def make_people(weights: Sequence[float], leverages: Sequence[float], hours: int, tops_up: bool = False) -> Population:
    """One position a slot, entering at the first close and staying to the end."""
    people = people_of(weights, leverages, hours)
    return replace(people, tops_up=np.full(len(weights), tops_up))


@pytest.fixture(scope="session")
def params() -> VenueParams:
    return VenueParams.default()


@pytest.fixture(scope="session", name="path_of")
def make_path_of() -> Callable[..., Path]:
    return make_path


@pytest.fixture(scope="session", name="people_of")
def make_people_of() -> Callable[..., Population]:
    return make_people


@pytest.fixture(scope="session")
def crash() -> Path:
    """Three weeks of a noisy market with a fall of a fifth within six hours, and a partial recovery."""
    rng = np.random.default_rng(11)
    steps = 0.006 * rng.standard_normal(500)
    steps[300:306] -= 0.037
    steps[306:330] += 0.004
    return make_path(100 * np.exp(np.cumsum(steps)), wick=0.003)
