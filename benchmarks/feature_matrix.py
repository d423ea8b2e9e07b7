"""The whole feature matrix of a store, against the same features through pandas' rolling windows.

    python benchmarks/feature_matrix.py --store STORE [--rounds 3]

Both run the same families, in one process, in turn; the pandas side answers every windowed operation with ``rolling`` and
``ewm`` on wide frames (hours by symbols), the layout in which pandas is fastest. Operations that pandas has no equivalent
for run on the same kernels on both sides, which makes the ratio smaller. One JSON object on stdout: CPU seconds, the
ratio, and the quality gate: the share of cells where both are finite and agree. ``ewm`` forgets nothing where ours stops
after five half-lives, so its columns agree to a few per cent, all others to rounding.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from features.families.carry_kernels import window_place, window_slope
from features.families.cross_kernels import window_max
from features.market import Market
from features.panel import Array, Panel
from features.pipeline import FAMILIES, FeaturePipeline


class PandasPanel(Panel):
    """A panel whose windowed operations are those of pandas."""

    def shift(self, x: Array, hours: int) -> Array:
        return _arrays(_frame(x).shift(hours))

    def mean(self, x: Array, lengths: tuple[int, ...], coverage: float = 0.8) -> Array:
        frame = _frame(x)
        return np.stack([_arrays(frame.rolling(n, min_periods=_least(n, coverage, 1)).mean()) for n in lengths])

    def sd(self, x: Array, length: int, coverage: float = 0.8) -> Array:
        return _arrays(_frame(x).rolling(length, min_periods=_least(length, coverage, 2)).std())

    def pair(self, x: Array, y: Array, length: int, coverage: float = 0.8) -> Array:
        return _pair(x, y, length, coverage)

    def ewma(self, x: Array, half_life: float) -> Array:
        frame = _frame(x)
        return _arrays(frame.ewm(halflife=half_life, min_periods=int(half_life)).mean().where(frame.notna()))

    def age(self, x: Array) -> Array:
        hours = pd.DataFrame(np.where(np.isnan(x.T), np.nan, np.arange(x.shape[1])[:, None]))
        return np.minimum(np.arange(x.shape[1]) - _arrays(hours.ffill().fillna(-720)), 720)

    def windowed(
        self,
        kernel: Callable[..., Array],
        reach: int,
        inputs: tuple[Array, ...],
        parameters: tuple[float | int, ...] = (),
    ) -> Array:
        equivalent = EQUIVALENTS.get(kernel.__name__)
        if equivalent is None:
            return super().windowed(kernel, reach, inputs, parameters)
        return equivalent(*inputs, *parameters)


def _frame(x: Array) -> pd.DataFrame:
    return pd.DataFrame(x.T)


def _arrays(frame: pd.DataFrame) -> Array:
    return np.ascontiguousarray(frame.to_numpy().T)


def _least(length: int, coverage: float, floor: int) -> int:
    return max(int(np.ceil(coverage * length)), floor)


def _pair(x: Array, y: Array, length: int, coverage: float) -> Array:
    both = np.isfinite(x + y)
    a, b = _frame(np.where(both, x, np.nan)), _frame(np.where(both, y, np.nan))
    least = _least(length, coverage, 2)
    rolled, other = a.rolling(length, min_periods=least), b.rolling(length, min_periods=least)
    results = rolled.mean(), other.mean(), rolled.var(ddof=0), other.var(ddof=0), rolled.cov(b, ddof=0)
    return np.stack([_arrays(result) for result in results])


def _place(x: Array, length: int, coverage: float) -> Array:
    rolled = _frame(x).rolling(length, min_periods=_least(length, coverage, 1))
    low, high = rolled.min(), rolled.max()
    middle = rolled.rank(pct=True) - 0.5 / rolled.count()  # pandas counts the value itself in full
    return np.stack([_arrays(middle), _arrays((_frame(x) - low) / (high - low))])


def _slope(x: Array, length: int, coverage: float) -> Array:
    clock = np.broadcast_to(np.arange(x.shape[1], dtype=np.float64), x.shape)
    moments = _pair(clock, x, length, coverage)
    return np.asarray(moments[4] / moments[2])


def _max(x: Array, days: int, coverage: float) -> Array:
    return _arrays(_frame(x).rolling(days * 24, min_periods=_least(days * 24, coverage, 1)).max())


EQUIVALENTS: dict[str, Callable[..., Array]] = {
    kernel.__name__: by
    for kernel, by in (
        (window_place, _place),
        (window_slope, _slope),
        (window_max, _max),
    )
}


def measured(
    pipeline: FeaturePipeline, make: Callable[[Market], Panel], market: Market
) -> tuple[pd.DataFrame, float, float]:
    """The matrix, and the CPU and wall seconds that it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    frame = pipeline.transform_panel(make(market))
    return frame, time.process_time() - cpu, time.perf_counter() - wall


def agreement(ours: pd.DataFrame, theirs: pd.DataFrame, tolerance: float) -> float:
    """Share of the cells that agree relative to their column's spread; one that only one side has does not."""
    agree = total = 0
    for name in ours:
        a, b = ours[name].to_numpy(), theirs[name].to_numpy()
        present = np.isfinite(a) | np.isfinite(b)
        if present.any():
            agree += int((np.abs(a[present] - b[present]) <= tolerance * max(np.nanstd(a), 1e-12)).sum())
            total += int(present.sum())
    return agree / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    market = Market.open(given.store)
    pipeline = FeaturePipeline(tuple(FAMILIES))
    ours, *_ = measured(pipeline, Panel, market)  # compiles, and reads the store
    gate: dict[str, Any] = {}
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "pandas": []}
    for _ in range(given.rounds):
        for name, make in (("ours", Panel), ("pandas", PandasPanel)):
            frame, cpu, wall = measured(pipeline, make, market)
            seconds[name].append((cpu, wall))
            if name == "pandas" and not gate:
                gate = {"agree_1e-6": agreement(ours, frame, 1e-6), "agree_5e-2": agreement(ours, frame, 5e-2)}
            del frame
    ratios = [b[0] / a[0] for a, b in zip(seconds["ours"], seconds["pandas"], strict=True)]
    walls = [b[1] / a[1] for a, b in zip(seconds["ours"], seconds["pandas"], strict=True)]
    result = {
        "benchmark": "feature_matrix",
        "rows": len(ours),
        "columns": ours.shape[1],
        "symbols": len(market.symbols),
        "cpu_seconds_ours": [round(cpu, 2) for cpu, _ in seconds["ours"]],
        "cpu_seconds_pandas": [round(cpu, 2) for cpu, _ in seconds["pandas"]],
        "cpu_ratio_median": round(float(np.median(ratios)), 2),
        "wall_ratio_median": round(float(np.median(walls)), 2),
        "gate": {name: round(value, 5) for name, value in gate.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
