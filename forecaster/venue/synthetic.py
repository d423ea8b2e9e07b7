"""Markets, forecasts and accounts that can be followed by hand: a walk whose volatility is known.

Steps have the size of the volatility and a random sign, so that every estimate of variance is exact and only the
excursions are random; forecasts state the laws of the driftless walk (maxima by the reflection principle).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import norm

from models.base import (
    EXCURSION_COLUMNS,
    FORECAST_SCHEMA,
    PROBABILITIES,
    RETURN_LEVELS,
    SHORTFALL_LEVELS,
    VARIANCE_LEVELS,
)

from .path import DAY, Path
from .population import Population

__all__ = ["bars", "forecast_rows", "gaussian_walk", "path_of", "people_of", "sign_walk"]

Floats = npt.NDArray[np.float64]

HORIZONS: Final = (1, 4, 24, 72)
HOUR: Final = 3_600_000_000
YEAR_HOURS: Final = 8760


def sign_walk(sigma: Floats, seed: int) -> Floats:
    """Closes (T,) from 100 whose hourly log returns are +-sigma (T,), the sign drawn at random."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], len(sigma))
    return np.asarray(100 * np.exp(np.cumsum(signs * sigma)))


def gaussian_walk(sigma: Floats, seed: int) -> Floats:
    """Closes (T,) from 100 with normal hourly log returns of standard deviation sigma (T,)."""
    return np.asarray(100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(size=len(sigma)) * sigma)))


def bars(symbol: str, closes: Floats, times: pd.DatetimeIndex, daily_volume_usd: float) -> pd.DataFrame:
    """Hourly bars that go straight from close to close, in the columns of the store's table; ``times`` are closes."""
    opened = np.concatenate([closes[:1], closes[:-1]])
    return pd.DataFrame(
        {
            "interval": "1h",
            "symbol": symbol,
            "close_time": times,
            "open": opened,
            "high": np.maximum(opened, closes),
            "low": np.minimum(opened, closes),
            "close": closes,
            "volume": daily_volume_usd / DAY / closes,
            "available_at": times,
            "source": "simulated",
        }
    )


def forecast_rows(symbol: str, origins: pd.DatetimeIndex, hourly_sigma: Floats) -> pd.DataFrame:
    """Rows of the forecast table at ``origins`` by a forecaster that believes in ``hourly_sigma`` (n,) for good.

    Regime probabilities are null: the modes then follow the volatility alone.
    """
    frames = [_rows(symbol, origins, hourly_sigma, h) for h in HORIZONS]
    rows: pd.DataFrame = pd.concat(frames, ignore_index=True)[FORECAST_SCHEMA.names]
    return rows.sort_values(["symbol", "origin", "horizon_hours"], ignore_index=True)


def _rows(symbol: str, origins: pd.DatetimeIndex, hourly_sigma: Floats, h: int) -> pd.DataFrame:
    sigma = hourly_sigma * np.sqrt(h)
    words = {"model": "ensemble", "status": "ok", "reason": "", "model_uri": "simulated"}
    words |= dict.fromkeys(("model_sha256", "config_sha256", "data_sha256"), "0" * 64)
    numbers: dict[str, Floats | float] = {"variance": sigma**2, "vol_annualised": hourly_sigma * np.sqrt(YEAR_HOURS)}
    numbers |= dict.fromkeys(VARIANCE_LEVELS, sigma**2)
    numbers |= {name: sigma * norm.ppf(p) for name, p in RETURN_LEVELS.items()}
    numbers |= {
        name: sigma * norm.pdf(norm.ppf(p)) * (-1 / p if p < 0.5 else 1 / (1 - p))
        for name, p in SHORTFALL_LEVELS.items()
    }
    for side, sign in (("long", -1), ("short", 1)):
        for name, p in EXCURSION_COLUMNS[side].items():
            numbers[name] = np.abs(np.expm1(sign * sigma * norm.ppf(1 - (1 - p) / 2)))
    numbers |= dict.fromkeys(
        (*PROBABILITIES, "p_onset", "threshold_normal", "threshold_stress", "threshold_crisis"), np.nan
    )
    return pd.DataFrame(
        {
            "schema_version": np.int16(1),
            "symbol": symbol,
            "origin": origins,
            "horizon_hours": np.int16(h),
            "target_end": origins + pd.Timedelta(hours=h),
            "made_at": origins,
            "data_asof": origins,
            **numbers,
            **words,
        }
    )


def path_of(closes: Floats, sigma_day: float, daily_volume_usd: float) -> Path:
    """A venue's path through the closes, straight from one to the next, with mark equal to last and no funding."""
    opened = np.concatenate([closes[:1], closes[:-1]])
    prices = np.column_stack([opened, np.maximum(opened, closes), np.minimum(opened, closes), closes])
    n = len(closes)
    return Path(
        symbol="SIMULATED",
        close_time=np.arange(1, n + 1) * HOUR,
        last=prices,
        mark=prices.copy(),
        mark_modelled=np.zeros(n, np.bool_),
        funding=np.zeros(n),
        sigma=np.full(n, sigma_day),
        sigma_usual=np.full(n, sigma_day),
        volume=np.full(n, daily_volume_usd),
        depth_scale=np.ones(n),
        liquidators=np.ones(n),
        quorum=np.ones(n, np.bool_),
    )


def people_of(
    weights: Sequence[float] | Floats,
    leverage: float | Sequence[float] | Floats,
    hours: int,
    enter: int | Sequence[int] | npt.NDArray[np.int64] = 0,
    leave: int | Sequence[int] | npt.NDArray[np.int64] | None = None,
) -> Population:
    """One position a slot, signed weights with a mean size of 1, from ``enter`` to ``leave`` (the end, if None)."""
    n = len(weights)
    order = np.argsort(np.full(n, enter), kind="stable")
    return Population(
        slots=n,
        hours=hours,
        occupancy=1.0,
        enter=np.full(n, enter, np.int64)[order],
        leave=np.full(n, hours + 1 if leave is None else leave, np.int64)[order],
        slot=np.arange(n)[order],
        weight=np.asarray(weights, np.float64)[order],
        leverage=np.full(n, leverage, np.float64)[order],
        tops_up=np.zeros(n, np.bool_),
        deleverages=np.zeros(n, np.bool_),
    )
