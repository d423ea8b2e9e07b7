"""A small market and forecasts in the contract's shape, made from known volatility."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from forecaster.policy import Params
from models.base import FORECAST_SCHEMA, RETURN_LEVELS, SHORTFALL_LEVELS

DAYS = 420
FIRST = pd.Timestamp("2023-01-01", tz="UTC")
SYMBOLS = ("ADAUSDT", "BTCUSDT", "ETHUSDT")
# Factors on the standard deviation: quantiles of the return, and of the excursion of a driftless walk.
RETURN_Z = {
    1: -3.6,
    5: -2.8,
    10: -2.5,
    25: -2.0,
    50: -1.65,
    500: 0.0,
    950: 1.65,
    975: 2.0,
    990: 2.5,
    995: 2.8,
    999: 3.6,
}
SHORTFALL_Z = {10: -3.0, 25: -2.6, 975: 2.6, 990: 3.0}
EXCURSION_Z = {950: 2.0, 990: 2.8, 995: 3.2, 999: 4.0}
VARIANCE_F = {"var_q05": 0.3, "var_q25": 0.55, "var_q50": 0.8, "var_q75": 1.2, "var_q95": 2.4}


# The limits of the design's own starting values, for worked examples of notice, of a crisis that only holds, and of an
# exposure that may exceed the whole.
DESIGNED = {
    "exposure": {"target_vol": 0.6, "scale_min": 0.25, "scale_max": 1.5, "no_trade_band": 0.1},
    "governor": {
        "normal": {"notice_hours": 8, "ramp_hours": 12},
        "stress": {"notice_hours": 1, "ramp_hours": 4},
        "crisis": {"notice_hours": 0, "ramp_hours": 1, "half_life_hours": 0},
    },
}


@pytest.fixture(scope="session")
def params() -> Params:
    return Params.default()


@pytest.fixture(scope="session")
def designed() -> Params:
    return Params.default().overlaid(DESIGNED, "designed")


def _bars(symbol: str, index: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Hourly bars and the standard deviation behind them: a persistent log volatility with one storm."""
    rng = np.random.default_rng(1000 + index)
    hours = DAYS * 24
    log_vol = np.zeros(hours)
    for t in range(1, hours):
        log_vol[t] = 0.995 * log_vol[t - 1] + 0.04 * rng.standard_normal()
    storm = slice(hours - 12 * 24, hours - 10 * 24)
    log_vol[storm] += 1.4
    sigma = 0.006 * np.exp(log_vol)
    log_price = np.log(100.0 * (index + 1)) + np.cumsum(sigma * rng.standard_normal(hours))
    close = np.exp(log_price)
    opened = np.concatenate([close[:1], close[:-1]])
    span = np.abs(rng.standard_normal(hours)) * sigma / 2
    volume = 2e7 / close * np.exp(0.3 * rng.standard_normal(hours)) * (1 + (np.arange(hours) % 24 == 14))
    bars = pd.DataFrame(
        {
            "interval": "1h",
            "symbol": symbol,
            "close_time": pd.date_range(FIRST + pd.Timedelta(hours=1), periods=hours, freq="h").as_unit("us"),
            "open": opened,
            "high": np.maximum(opened, close) * np.exp(span),
            "low": np.minimum(opened, close) * np.exp(-span),
            "close": close,
            "volume": volume,
        }
    )
    return bars.assign(available_at=bars["close_time"], source="simulated"), sigma


@pytest.fixture(scope="session")
def tables() -> dict[str, pd.DataFrame]:
    bars = pd.concat([_bars(symbol, i)[0] for i, symbol in enumerate(SYMBOLS)], ignore_index=True)
    clock = pd.date_range(FIRST, periods=DAYS * 3, freq="8h").as_unit("us")
    rng = np.random.default_rng(5)
    funding = pd.DataFrame(
        {
            "exchange": "binance",
            "symbol": "BTCUSDT",
            "funding_time": clock,
            "funding_rate": 1e-4 * (1 + rng.standard_normal(len(clock))),
            "interval_hours": 8.0,
            "available_at": clock,
            "source": "simulated",
        }
    )
    oi_clock = pd.date_range(FIRST, periods=DAYS * 24, freq="h").as_unit("us")
    oi = pd.DataFrame(
        {
            "symbol": "BTCUSDT",
            "event_time": oi_clock,
            "open_interest": 1e4,
            "open_interest_value": 5e9,
            "available_at": oi_clock,
            "source": "simulated",
        }
    )
    mark = bars.loc[bars["symbol"] == "BTCUSDT", ["interval", "symbol", "close_time", "open", "high", "low", "close"]]
    mark = mark.assign(available_at=mark["close_time"], source="simulated")
    return {"bars": bars, "mark": mark, "funding": funding, "open_interest": oi}


@pytest.fixture(scope="session")
def market(tables: dict[str, pd.DataFrame]) -> Market:
    return Market.from_tables(tables)


def make_rows(symbol: str, origins: pd.DatetimeIndex, hourly_sigma: np.ndarray, horizons: tuple[int, ...] = (1, 4, 24)):
    frames = []
    for h in horizons:
        sigma = hourly_sigma * np.sqrt(h)
        data: dict[str, object] = {
            "schema_version": np.int16(1),
            "symbol": symbol,
            "origin": origins,
            "horizon_hours": np.int16(h),
            "target_end": origins + pd.Timedelta(hours=h),
            "model": "ensemble",
            "variance": sigma**2,
            "vol_annualised": hourly_sigma * np.sqrt(8760.0),
        }
        data |= {name: sigma**2 * f for name, f in VARIANCE_F.items()}
        data |= {name: sigma * RETURN_Z[round(p * 1000)] for name, p in RETURN_LEVELS.items()}
        data |= {name: sigma * SHORTFALL_Z[round(p * 1000)] for name, p in SHORTFALL_LEVELS.items()}
        data |= {f"mae_long_q{p}": 1 - np.exp(-sigma * z) for p, z in EXCURSION_Z.items()}
        data |= {f"mae_short_q{p}": np.exp(sigma * z) - 1 for p, z in EXCURSION_Z.items()}
        stress = np.clip((hourly_sigma / 0.012) ** 2 * 0.1, 0.0, 0.5)
        data |= {"p_calm": 0.9 * (0.4 - 0.4 * stress), "p_crisis": 0.3 * stress, "p_stress": 0.7 * stress}
        data["p_normal"] = 1 - data["p_calm"] - stress  # type: ignore[operator]
        data |= {
            "p_onset": np.nan,
            "threshold_normal": 1e-4,
            "threshold_stress": 1e-3,
            "threshold_crisis": 1e-2,
        }
        data |= {"status": "ok", "reason": "", "made_at": origins, "data_asof": origins}
        data |= {"model_uri": "fold:x/ensemble", "model_sha256": "a" * 64, "config_sha256": "b" * 64}
        frames.append(pd.DataFrame(data | {"data_sha256": hashlib.sha256(b"store").hexdigest()}))
    rows = pd.concat(frames, ignore_index=True)[FORECAST_SCHEMA.names]
    return rows.sort_values(["symbol", "origin", "horizon_hours"], ignore_index=True)


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., pd.DataFrame]:
    """Forecast rows of one symbol: ``rows_of(symbol, origins, hourly sigma[, horizons])``."""
    return make_rows


@pytest.fixture(scope="session")
def forecasts(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Hourly origins of the last 30 days: an EWMA of past squared returns, through the storm."""
    frames = []
    for symbol, bars in tables["bars"].groupby("symbol"):
        squared = np.log(bars["close"]).diff() ** 2
        sigma = np.sqrt(squared.ewm(halflife=24).mean()).to_numpy()
        last = slice(-30 * 24, None)
        frames.append(make_rows(str(symbol), pd.DatetimeIndex(bars["close_time"])[last], sigma[last]))
    return pd.concat(frames, ignore_index=True)
