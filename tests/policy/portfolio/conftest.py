"""A small state of four symbols with a known law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from forecaster.policy.portfolio import PortfolioParams
from forecaster.policy.portfolio.state import RiskState, ewma_correlation

NAMES = ("AUSDT", "BUSDT", "CUSDT", "DUSDT")
EXCURSION_SCORES = np.array([1.96, 2.576, 2.807, 3.29])


@pytest.fixture(scope="session")
def terms() -> PortfolioParams:
    return PortfolioParams(
        price_range=0.16,
        price_steps=4,
        vol_up=0.5,
        vol_down=0.25,
        vol_floor=0.5,
        vega_power_short=0.3,
        vega_power_long=0.13,
        shortfall_level=0.99,
        least_history_hours=500,
        correlation_half_life_hours=720,
        offset_cap=0.8,
        short_option_charge=0.01,
        ladder_hours=(0.0, 8.0, 24.0),
        stable_carry=0.05,
        volatile_carry=0.02,
        borrow_rate=0.10,
    )


@pytest.fixture(scope="session")
def state_of() -> Callable[..., RiskState]:
    """``state_of(rho=0.6, **changes)``: one common factor among normal standardised returns."""

    def made(rho: float = 0.6, **changes: Any) -> RiskState:
        rng = np.random.default_rng(11)
        common, own = rng.standard_normal((2000, 1)), rng.standard_normal((2000, len(NAMES)))
        standardised = np.sqrt(rho) * common + np.sqrt(1 - rho) * own
        sigma = np.array([0.03, 0.04, 0.05, 0.06])
        excursions = sigma[:, None, None] * np.sqrt([[1 / 24], [4 / 24], [1.0]]) * EXCURSION_SCORES
        rates = np.array([[160_000, 200_000, 300_000], [180_000, 190_000, 400_000]] * 2)
        values: dict[str, Any] = {
            "as_of": 1_700_000_000_000_000,
            "symbols": NAMES,
            "price": np.array([100.0, 20.0, 3.0, 0.5]),
            "caps": np.array([[50_000, 100_000, 1_000_000]] * 4),
            "im": rates,
            "mm": rates // 2,
            "usable": np.ones(4, dtype=np.bool_),
            "sigma": sigma,
            "standardised": standardised,
            "correlation": ewma_correlation(standardised, 1e9),
            "horizons": (1, 4, 24),
            "long": excursions,
            "short": 1.1 * excursions,
            "stress": np.array([0.4, 0.2, np.nan, 0.5]),
        }
        return RiskState(**(values | changes))

    return made
