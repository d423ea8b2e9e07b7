"""Does a live process grow? Thirty days of minutes, from the feeds' rows to forecasts, and the memory that it takes.

    python benchmarks/live_memory.py [--days 30] [--symbols 20] [--model DIR] [--quick]

A model of all members is trained on simulated bars. Then every simulated minute brings one bar a symbol (and every eighth
hour the funding), drawn on the fly and never stored: minutes become bars of 15 minutes and of an hour, and each hour the
features, the members with their filters, the ensemble, and the margin decisions (without the market's observables, which the
policy takes from a store) go one step. Memory is read every six simulated hours after two days of warm-up: what is resident,
and what is allocated, where a leak shows first. The gate comes before: a short stretch of the same draws, recorded, has at
its last origin the forecasts of ``serving.forecast`` and the features of the batch, bit for bit; where it fails, the loop is
not run. One JSON line on stdout.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow
from measuring import machine, note

from features.market import Market
from features.minutes import MinuteBars
from features.pipeline import FeaturePipeline
from forecaster.policy import Params, PolicyState, decide
from training import serving
from training.config import Component, RunConfig, WalkForward
from training.live import LiveForecaster

HOUR = pd.Timedelta(hours=1)
START = pd.Timestamp("2024-01-01", tz="UTC")
HISTORY_DAYS = 900  # more than any feature looks back: no memory is still being filled
WARM_UP_DAYS = 2
LATENCY = pd.Timedelta(milliseconds=400)
GATE_HOURS = 30
MODEL_URI = "models:/live-memory/1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="four days of six symbols")
    parser.add_argument("--model", type=Path, help="keep the trained model here, or take it from here")
    given = parser.parse_args()
    days, symbols = (4, 6) if given.quick else (given.days, given.symbols)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or Path(scratch) / "model"
        feed = Feed(symbols)
        history = feed.history()
        if not (folder / "manifest.json").is_file():
            note(f"training on {HISTORY_DAYS} days of {symbols} symbols")
            serving.fit(history, settings(), out=folder, jobs=2)
        gate = same_as_batch(folder, history, feed)
        note(f"gate: {gate}")
        passed, figures = bool(gate.pop("passed")), {"growth_percent": None}
        if passed:
            # In a process of its own: what training has left free would hide growth.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                figures = alone.submit(live, folder, symbols, days).result()
    line = {
        "goal": f"resident memory of a {days}-day live loop",
        "case": f"{symbols} symbols, bars of one minute",
        **figures,
        "floor": 5.0,
        "aim": 0.0,
        "gate": {
            "passed": passed,
            "what": "forecasts and features of the last origin equal the batch's, bit for bit",
            **gate,
        },
        "machine": machine(),
    }
    print(json.dumps(line, default=float), flush=True)
    return 0 if passed else 1


def settings() -> RunConfig:
    """All members; the boosters are small, since only their number and not their depth is a matter of memory."""
    trees = {"rounds": 60, "min_data_in_leaf": 200}
    members = [Component(kind=kind) for kind in ("ewma", "har", "har_seasonal", "har_x", "garch", "gjr")]
    return RunConfig(
        horizons=(1, 4, 24, 72),
        members=(*members, Component(kind="lightgbm", params=trees)),
        walkforward=WalkForward(warmup_months=12, refit=4),
    )


class Feed:
    """Bars of one minute with clustered variance and a season, drawn as they are asked for; the same for the same seed."""

    def __init__(self, symbols: int, seed: int = 5) -> None:
        self.symbols = [f"S{i:02d}USDT" for i in range(symbols)]
        self._random = np.random.default_rng(seed)
        self._log_price = np.log(np.geomspace(0.1, 50_000, symbols))
        self._log_variance = np.zeros(symbols)

    def _draw(self, opens: pd.Timestamp, step: pd.Timedelta) -> dict[str, np.ndarray]:
        """One bar of every symbol, its moves common to a third."""
        minutes, n = step / pd.Timedelta(minutes=1), len(self.symbols)
        self._log_variance += -0.0003 * minutes * self._log_variance + 0.02 * minutes**0.5 * self._random.normal(size=n)
        season = 0.4 * np.sin(2 * np.pi * (opens.hour + opens.minute / 60) / 24)
        sigma = 0.006 * (minutes / 60) ** 0.5 * np.exp(0.5 * (self._log_variance + season))
        inside = self._random.normal(size=(n, 4)) + 0.7 * self._random.normal(size=4)
        path = self._log_price[:, None] + sigma[:, None] * np.cumsum(inside / 2.4, axis=1)
        path = np.column_stack([self._log_price, path])
        self._log_price = path[:, -1]
        prices = np.exp(path)
        volume = np.exp(self._random.normal(size=n) + 0.3 * self._log_variance) * minutes
        taker = volume * self._random.uniform(0.3, 0.7, n)
        return {
            "open": prices[:, 0], "high": prices.max(axis=1), "low": prices.min(axis=1), "close": prices[:, -1],
            "volume": volume, "quote_volume": volume * prices[:, -1], "trades": np.ceil(10 * volume),
            "taker_buy_volume": taker, "taker_buy_quote_volume": taker * prices[:, -1],
        }  # fmt: skip

    def _bars(self, opens: pd.Timestamp, interval: str, latency: pd.Timedelta) -> pd.DataFrame:
        close = opens + pd.Timedelta(interval.replace("m", "min"))
        keys = {"interval": interval, "symbol": self.symbols, "close_time": close, "available_at": close + latency}
        bars = pd.DataFrame(keys | self._draw(opens, close - opens) | {"source": "simulated"})
        return bars.astype({"close_time": "datetime64[us, UTC]", "available_at": "datetime64[us, UTC]"})

    def history(self) -> Market:
        """Bars of an hour and of 15 minutes, and funding, before the live loop begins."""
        opens = pd.date_range(START - pd.Timedelta(days=HISTORY_DAYS), START, freq="15min", inclusive="left", unit="us")
        drawn = [self._draw(at, pd.Timedelta(minutes=15)) for at in opens]
        fields = {name: np.concatenate([one[name] for one in drawn]) for name in drawn[0]}
        closes = (opens + pd.Timedelta(minutes=15)).repeat(len(self.symbols))
        fine = pd.DataFrame({"symbol": self.symbols * len(opens), "close_time": closes, "interval": "15m"} | fields)
        hour = fine.assign(close_time=fine["close_time"].dt.ceil("h")).groupby(["symbol", "close_time"], sort=False)
        prices = {"open": "first", "high": "max", "low": "min", "close": "last"}
        hours = hour.agg(prices | {name: "sum" for name in fields if name not in prices}).reset_index()
        bars = pd.concat([fine, hours.assign(interval="1h")], ignore_index=True)
        settled = pd.date_range(opens[0], START, freq="8h", inclusive="neither", unit="us")
        funding = pd.concat([self.funding(at) for at in settled], ignore_index=True)
        bars = bars.assign(available_at=bars["close_time"], source="simulated")
        return Market.from_tables({"bars": bars, "funding": funding}, checked=False)

    def funding(self, at: pd.Timestamp) -> pd.DataFrame:
        """A settlement of every symbol, known a little later."""
        keys = {"exchange": "binance", "symbol": self.symbols, "funding_time": at, "available_at": at + LATENCY}
        rates = self._random.normal(1e-4, 5e-5, len(self.symbols))
        rows = pd.DataFrame(keys | {"funding_rate": rates, "interval_hours": 8.0, "source": "simulated"})
        return rows.astype({"funding_time": "datetime64[us, UTC]", "available_at": "datetime64[us, UTC]"})

    def minutes(self, hours: int) -> Iterator[dict[str, pd.DataFrame]]:
        """What each minute after the start brings."""
        for opens in pd.date_range(START, periods=60 * hours, freq="min", unit="us"):
            rows = {"bars": self._bars(opens, "1m", LATENCY)}
            close = opens + pd.Timedelta(minutes=1)
            if close == close.floor("8h"):
                rows["funding"] = self.funding(close)
            yield rows


def live(folder: Path, symbols: int, days: int) -> dict[str, object]:
    """Memory and time of the loop."""
    feed, minutes = Feed(symbols), MinuteBars()
    forecaster = LiveForecaster(folder, feed.history(), model_uri=MODEL_URI)
    state, params = PolicyState(), Params.default()
    # Taken at once: the notes must not grow themselves.
    minute_s, hour_s = np.zeros(1440 * days), np.zeros(24 * days)
    at, resident, used, objects = np.zeros((4, 4 * (days - WARM_UP_DAYS)))
    sample = 0
    begin = time.perf_counter()
    for count, rows in enumerate(feed.minutes(24 * days), start=1):
        before = time.perf_counter()
        hours = minutes.push(rows)
        between = time.perf_counter()
        minute_s[count - 1] = between - before
        for tables in hours:
            table = forecaster.push(tables, made_at=forecaster.origin + HOUR + LATENCY)
            _, state = decide(table, state, params)
            hour_s[count // 60 - 1] = time.perf_counter() - between
        if count % 360 == 0 and count > 1440 * WARM_UP_DAYS:
            at[sample], resident[sample] = count / 1440, resident_mib()
            gc.collect()
            used[sample], objects[sample] = allocated_mib(), len(gc.get_objects())
            sample += 1
            if count % 1440 == 0:
                note(
                    f"day {count // 1440}: resident {resident[sample - 1]:.1f} MiB, allocated {used[sample - 1]:.2f} MiB"
                )
    slope, error = trend(at, resident)
    used_slope, used_error = trend(at, used)
    first, last = np.median(resident[:4]), np.median(resident[-4:])
    return {
        "growth_percent": round(100 * (last / first - 1), 3),
        "slope_mib_per_day": round(slope, 4),
        "slope_se": round(error, 4),
        "first_day_mib": round(first, 1),
        "last_day_mib": round(last, 1),
        "most_mib": round(resident.max(), 1),
        "allocated_slope_mib_per_day": round(used_slope, 4),
        "allocated_slope_se": round(used_error, 4),
        "objects_per_day": round(trend(at, objects)[0], 1),
        "minute_ms": round(1e3 * np.median(minute_s), 3),
        "hour_ms": round(1e3 * np.median(hour_s), 1),
        "slowest_hour_ms": round(1e3 * hour_s.max(), 1),
        "wall_s": round(time.perf_counter() - begin, 1),
    }


def same_as_batch(folder: Path, history: Market, feed: Feed) -> dict[str, object]:
    """A recorded stretch: the live rows at its last origin against those of the whole market."""
    minutes = MinuteBars()
    forecaster = LiveForecaster(folder, history, model_uri=MODEL_URI)
    pipeline = FeaturePipeline.default()
    pipeline.update(tables_of(history), checked=False)
    recorded: dict[str, list[pd.DataFrame]] = {name: [rows] for name, rows in tables_of(history).items()}
    for rows in feed.minutes(GATE_HOURS):
        for tables in minutes.push(rows):
            forecasts = forecaster.push(tables, made_at=START)
            features = pipeline.update(tables)
            for name, frame in tables.items():
                recorded[name].append(frame)
    market = Market.from_tables({name: pd.concat(frames) for name, frames in recorded.items()}, checked=False)
    served = serving.forecast(market, folder, model_uri=MODEL_URI, made_at=START)
    batch = pipeline.transform(market).loc[features.index]
    live_rows, batch_rows = (table.drop(columns="data_sha256") for table in (forecasts, served))
    cells = {
        "forecast_cells": live_rows.size,
        "forecast_cells_differing": int((~same(live_rows, batch_rows)).sum()) if len(served) == len(forecasts) else -1,
        "feature_cells": features.size,
        "feature_cells_differing": int((~same(features, batch)).sum()),
        "origin": str(forecaster.origin),
    }
    return {"passed": cells["forecast_cells_differing"] == 0 == cells["feature_cells_differing"], **cells}


def tables_of(market: Market) -> dict[str, pd.DataFrame]:
    return {name: market.table(name) for name in ("bars", "funding")}


def same(a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
    """Which cells are equal, missing ones alike."""
    x, y = a.reset_index(drop=True), b.reset_index(drop=True)[list(a.columns)]
    return ((x == y) | (x.isna() & y.isna())).to_numpy()


def trend(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of the least-squares line and its standard error."""
    away, values = x - x.mean(), y - y.mean()
    slope = float(away @ values / (away @ away))
    residual = values - slope * away
    return slope, float(np.sqrt(residual @ residual / max(len(x) - 2, 1) / (away @ away)))


def resident_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def allocated_mib() -> float:
    """Memory in use as glibc and Arrow count it, whatever lies free between; a leak shows here before it shows outside."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    facts = libc.mallinfo2()
    return (facts.uordblks + facts.hblkhd + pyarrow.total_allocated_bytes()) / 2**20


if __name__ == "__main__":
    sys.exit(main())
