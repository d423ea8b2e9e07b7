"""Markets whose truth is known, and walks through them that several tests judge.

The markets, and the walk-forward through them, are those of ``benchmarks/known_truth.py``, which prints the longer versions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from known_markets import KnownMarket, Linear
from known_walk import Walk, configured, walked

from training.material import Material, prepare

HORIZONS = (1, 4)
DAYS = 120


@pytest.fixture(scope="session")
def linear() -> KnownMarket:
    """Three symbols, 420 days of hourly bars of a linear log-variance process, without a feed."""
    return KnownMarket.draw(Linear(), seed=1, days=420, symbols=3)


@pytest.fixture(scope="session")
def material(linear: KnownMarket) -> Material:
    """Its features and targets."""
    return prepare(linear.market(book=False), configured(horizons=HORIZONS))


@pytest.fixture(scope="session")
def walk(material: Material) -> Walk:
    """The product's walk through it; the last 120 days are scored."""
    return walked(material, configured(horizons=HORIZONS), DAYS)
