"""One small simulated market with every kind of damage, and its evaluation, for the tests of the walk-forward.

BTCUSDT is sound. ETHUSDT loses the bars of ``SHORT_GAP`` and ``LONG_GAP``, settles no funding in ``SILENCE`` and does not
move in ``FLAT`` (each open on the left, closed on the right). SOLUSDT is listed at ``LISTED`` and never has funding.
"""

from __future__ import annotations

import pandas as pd
import pytest

from features.market import Market
from features.sources.simulated import simulate
from training.config import Component, Regimes, RunConfig, WalkForward
from training.evaluation import Evaluation, evaluate
from training.material import Material, prepare


def span(first: str, last: str) -> tuple[pd.Timestamp, pd.Timestamp]:
    return pd.Timestamp(first, tz="UTC"), pd.Timestamp(last, tz="UTC")


SHORT_GAP = span("2023-05-10 03:00", "2023-05-10 08:00")
LONG_GAP = span("2023-05-20", "2023-05-28")
SILENCE = span("2023-06-05", "2023-06-10")
FLAT = span("2023-06-15", "2023-06-17")
LISTED = pd.Timestamp("2023-03-15", tz="UTC")


def within(times: pd.Series, inside: tuple[pd.Timestamp, pd.Timestamp]) -> pd.Series:
    return (times > inside[0]) & (times <= inside[1])


def scarred(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    out = dict(tables)
    for name in ("bars", "mark", "spot"):
        rows = tables[name]
        eth, sol, closes = rows["symbol"] == "ETHUSDT", rows["symbol"] == "SOLUSDT", rows["close_time"]
        lost = eth & (within(closes, SHORT_GAP) | within(closes, LONG_GAP)) | sol & (closes <= LISTED)
        rows.loc[eth & within(closes, FLAT), ["open", "high", "low", "close"]] = float(
            rows.loc[eth & (closes == FLAT[0]), "close"].iloc[0]
        )
        out[name] = rows[~lost].reset_index(drop=True)
    funding = tables["funding"]
    silent = (funding["symbol"] == "ETHUSDT") & within(funding["funding_time"], SILENCE)
    out["funding"] = funding[~silent & (funding["symbol"] != "SOLUSDT")].reset_index(drop=True)
    return out


@pytest.fixture(scope="session")
def market() -> Market:
    return Market.from_tables(scarred(simulate(seed=7, days=180, symbols=3).tables))


@pytest.fixture(scope="session")
def config() -> RunConfig:
    plain = tuple(Component(kind=kind) for kind in ("ewma", "har", "har_seasonal", "gjr"))
    trees = Component(kind="lightgbm", params={"rounds": 30, "min_data_in_leaf": 50})
    regimes = Regimes(params={"rounds": 10, "rounds_stressed": 5, "min_data_in_leaf": 50})
    walkforward = WalkForward(warmup_months=1)
    return RunConfig(horizons=(1, 4), members=(*plain, trees), walkforward=walkforward, regimes=regimes)


@pytest.fixture(scope="session")
def quick() -> RunConfig:
    """Members that are fitted in no time, for tests of the machinery around them."""
    members = tuple(Component(kind=kind) for kind in ("ewma", "har_seasonal"))
    return RunConfig(horizons=(1,), members=members, walkforward=WalkForward(warmup_months=1))


@pytest.fixture(scope="session")
def material(market: Market, config: RunConfig) -> Material:
    return prepare(market, config)


@pytest.fixture(scope="session")
def evaluation(market: Market, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """May and June after a month of warm-up; the data end a day before the end that is asked for."""
    out = tmp_path_factory.mktemp("evaluation")
    return evaluate(market, config, start="2023-05-01", end="2023-07-01", out=out, jobs=1)
