"""A small simulated panel of features and targets, made by pandas alone, that the tests of the members share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from models.catalogue import make
from models.members import Member

HORIZONS = (1, 4, 24)
SYMBOLS = ("AAAUSDT", "BBBUSDT", "CCCUSDT")
LADDER = (1, 4, 24, 168, 720)
# Sizes at which a fit of trees takes no time.
QUICK = {kind: {"rounds": 25, "min_data_in_leaf": 40} for kind in ("lightgbm", "lightgbm_gamma")}


@dataclass(frozen=True)
class Sample:
    """Features and targets, both indexed by (symbol, origin), rows sorted."""

    X: pd.DataFrame
    y: pd.DataFrame

    def rows(self, start: int | None, stop: int | None) -> Sample:
        """Rows ``start:stop`` of each symbol."""
        place = self.X.groupby(level="symbol").cumcount()
        size = place.groupby(level="symbol").transform("size")
        first, last, _ = slice(start, stop).indices(int(size.iloc[0]))
        kept = ((place >= first) & (place < last)).to_numpy()
        return Sample(self.X[kept], self.y[kept])

    def scaled(self, c: float) -> Sample:
        """What the same market looks like with every return ``c`` times as large."""
        X = self.X.copy()
        levels = [name for name in X if name.startswith(("log_rv_", "log_ew_", "market_log_ew_"))]
        X[levels] += 2 * np.log(c)
        X["log_return_1h"] *= c
        return Sample(X, self.y * c**2)


def season_of(times: pd.DatetimeIndex) -> NDArray[np.float64]:
    """Log season of each hour, mean zero over the week."""
    return np.asarray(0.7 * np.sin(2 * np.pi * times.hour / 24) + 0.2 * np.cos(2 * np.pi * times.day_of_week / 7))


def one_symbol(times: pd.DatetimeIndex, level: float, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    season = pd.Series(season_of(times), index=times)
    returns, variance = np.empty(len(times)), np.empty(len(times))
    latent = 1.0
    for t, s in enumerate(np.exp(season.to_numpy())):
        steps = np.sqrt(level * s * latent / 4) * rng.standard_t(6, 4) * np.sqrt(4 / 6)
        returns[t], variance[t] = steps.sum(), (steps**2).sum()
        shock = returns[t] ** 2 / (level * s)
        latent = 0.03 + (0.08 + 0.05 * (returns[t] < 0)) * shock + 0.865 * latent
    v = pd.Series(variance, index=times)
    clean = v / np.exp(season)
    X = pd.DataFrame({"log_return_1h": returns, "log_season_1h": season}, index=times)
    for lag in LADDER:
        X[f"log_rv_{lag}h"] = np.log(clean.rolling(lag).mean())
        X[f"log_rv_raw_{lag}h"] = np.log(v.rolling(lag).mean())
    for half_life in (6, 12, 24, 48, 96, 192):
        X[f"log_ew_raw_{half_life}h"] = np.log(v.ewm(halflife=half_life).mean())
    falling = clean * (X["log_return_1h"] < 0)
    for half_life in (2, 6, 12, 24, 48):
        X[f"log_ew_{half_life}h"] = np.log(clean.ewm(halflife=half_life).mean())
        X[f"log_ew_down_{half_life}h"] = np.log(np.maximum(falling.ewm(halflife=half_life).mean(), 1e-8))
    X["log_hourly_quarticity_24h"] = np.log((clean**2).rolling(24).mean()) / 2 - X["log_rv_24h"]
    X["market_log_ew_24h"] = np.log(clean.ewm(halflife=24).mean())
    later = pd.date_range(times[0], periods=len(times) + max(HORIZONS) + 1, freq="h")
    ahead = np.concatenate([[0.0], np.cumsum(np.exp(season_of(later)))])
    at = np.arange(len(times))
    y = {}
    for h in HORIZONS:
        X[f"log_season_ahead_{h}h"] = np.log(ahead[at + 1 + h] - ahead[at + 1])
        X[f"log_scheduled_ahead_{h}h"] = X[f"log_season_ahead_{h}h"] + 0.3 * (at % 97 < h)
        y[h] = v.rolling(h).sum().shift(-h)
    X["flow_imbalance_4h"] = np.where(rng.random(len(times)) < 0.1, np.nan, rng.normal(size=len(times)))
    X["hour"] = times.hour.astype(float)
    X["age_funding"] = 1.0
    X["log_listing_age"] = np.log1p(at / 24)
    X.iloc[0, 0] = np.nan  # the first bar has no return
    return X, pd.DataFrame(y)


def simulated(hours: int, symbols: tuple[str, ...] = SYMBOLS, seed: int = 0) -> Sample:
    times = pd.date_range("2024-01-03 05:00", periods=hours, freq="h", tz="UTC").as_unit("us")
    parts = {
        symbol: one_symbol(times, 2e-5 * 2**i, np.random.default_rng([seed, i])) for i, symbol in enumerate(symbols)
    }
    X, y = (pd.concat({s: part[k] for s, part in parts.items()}, names=["symbol", "origin"]) for k in (0, 1))
    return Sample(X, y.rename(columns=int))


@pytest.fixture(scope="session")
def sample() -> Sample:
    """Three symbols, 100 days, seasonal GJR with Student t steps of a quarter of an hour."""
    return simulated(2400)


@pytest.fixture(scope="session")
def train(sample: Sample) -> Sample:
    """All but the last 400 hours, labels that are not complete by then nulled."""
    part = sample.rows(None, -400)
    border = part.X.index.get_level_values("origin").max()
    ends = {h: part.X.index.get_level_values("origin") + pd.Timedelta(hours=h) for h in HORIZONS}
    return Sample(part.X, pd.DataFrame({h: part.y[h].where(ends[h] <= border) for h in HORIZONS}))


@pytest.fixture(scope="session")
def later(sample: Sample) -> Sample:
    """The last 400 hours."""
    return sample.rows(-400, None)


@pytest.fixture(scope="session")
def fitted(train: Sample) -> Callable[[str], Member]:
    """A member of each kind fitted on ``train``, once; not to be changed."""
    known: dict[str, Member] = {}

    def member(kind: str) -> Member:
        if kind not in known:
            known[kind] = make(kind, QUICK.get(kind)).fit(train.X, train.y)
        return known[kind]

    return member


@pytest.fixture(scope="session")
def fresh() -> Callable[[str], Member]:
    """An unfitted member of a kind, of the sizes that ``fitted`` has."""
    return lambda kind: make(kind, QUICK.get(kind))
