"""A ground made of the small market, its last fortnight scored."""

from __future__ import annotations

import pandas as pd
import pytest

from features.market import Market
from forecaster.policy import Params
from forecaster.policy.comparison.contest import Contest, contest

START = pd.Timestamp("2024-02-10", tz="UTC")


@pytest.fixture(scope="session")
def met(forecasts: pd.DataFrame, market: Market, params: Params) -> Contest:
    return contest(forecasts, market, params, start=START)
