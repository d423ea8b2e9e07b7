"""One small simulated market with every kind of damage, and its evaluation, for the tests of the walk-forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from features.market import Market
from features.sources.simulated import simulate
from training.config import Component, RunConfig, WalkForward
from training.evaluation import Evaluation, evaluate
from training.material import Material, prepare

HOUR = pd.Timedelta(hours=1)
PRICES = ["open", "high", "low", "close"]


def at(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


@dataclass(frozen=True)
class Scars:
    """What is wrong with the market, and when.

    ETHUSDT lacks ``short_gap`` and ``long_gap``, settles no funding in ``silence``, and does not move in ``flat`` (each
    open on the left, closed on the right). SOLUSDT is ``listed`` late and never has funding. BTCUSDT is sound.
    """

    last_bar: pd.Timestamp = at("2023-06-30")
    short_gap: tuple[pd.Timestamp, pd.Timestamp] = (at("2023-05-10 03:00"), at("2023-05-10 08:00"))
    long_gap: tuple[pd.Timestamp, pd.Timestamp] = (at("2023-05-20"), at("2023-05-28"))
    silence: tuple[pd.Timestamp, pd.Timestamp] = (at("2023-06-05"), at("2023-06-10"))
    flat: tuple[pd.Timestamp, pd.Timestamp] = (at("2023-06-15"), at("2023-06-17"))
    listed: pd.Timestamp = at("2023-03-15")


SCARS = Scars()
START, END = at("2023-05-01"), at("2023-07-01")
BORDER = at("2023-06-01")


def within(times: pd.Series, span: tuple[pd.Timestamp, pd.Timestamp]) -> pd.Series:
    return (times > span[0]) & (times <= span[1])


def scarred(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    out = {}
    for name in ("bars", "mark", "spot"):
        rows = tables[name]
        eth, sol = rows["symbol"] == "ETHUSDT", rows["symbol"] == "SOLUSDT"
        closes = rows["close_time"]
        lost = eth & (within(closes, SCARS.short_gap) | within(closes, SCARS.long_gap))
        rows = rows[~lost & ~(sol & (closes <= SCARS.listed))].reset_index(drop=True)
        still = (rows["symbol"] == "ETHUSDT") & within(rows["close_time"], SCARS.flat)
        before = rows[(rows["symbol"] == "ETHUSDT") & (rows["close_time"] == SCARS.flat[0])]
        rows.loc[still, PRICES] = float(before["close"].iloc[0])
        out[name] = rows
    funding = tables["funding"]
    silent = (funding["symbol"] == "ETHUSDT") & within(funding["funding_time"], SCARS.silence)
    out["funding"] = funding[~silent & (funding["symbol"] != "SOLUSDT")].reset_index(drop=True)
    return tables | out


@pytest.fixture(scope="session")
def scars() -> Scars:
    return SCARS


@pytest.fixture(scope="session")
def market() -> Market:
    return Market.from_tables(scarred(simulate(seed=7, days=180, symbols=3).tables))


@pytest.fixture(scope="session")
def config() -> RunConfig:
    plain = tuple(Component(kind=kind) for kind in ("ewma", "har", "har_seasonal", "gjr"))
    trees = Component(kind="lightgbm", params={"rounds": 30, "min_data_in_leaf": 50})
    return RunConfig(horizons=(1, 4), members=(*plain, trees), walkforward=WalkForward(warmup_months=1))


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
    """May and June, after a month of warm-up; the data end a day before the end that is asked for."""
    return evaluate(market, config, start=START, end=END, out=tmp_path_factory.mktemp("evaluation"), jobs=1)
