"""The whole feature matrix of a store, against the same features through pandas' rolling windows.

    python benchmarks/feature_matrix.py --store STORE [--rounds 3] [--quick]

Both run the same families, in one process, in turn; the pandas side answers every windowed operation with ``rolling`` and
``ewm`` on wide frames (hours by symbols), the layout in which pandas is fastest. Operations that pandas has no equivalent
for run on the same kernels on both sides, which makes the ratio smaller. Gate: the share of cells that agree. ``ewm``
forgets nothing where ours stops after five half-lives, so its columns agree to a few per cent, all others to rounding.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Final

import numpy as np
import pandas as pd
from measuring import Gate, Result, of, paired, tell

from features.families.carry_kernels import window_place, window_slope
from features.families.cross_kernels import window_max
from features.market import Market
from features.panel import Array, Panel
from features.pipeline import FAMILIES, FeaturePipeline

LEAST_CLOSE: Final = 0.75
LEAST_NEAR: Final = 0.95


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
    kernel.py_func.__name__: by
    for kernel, by in (
        (window_place, _place),
        (window_slope, _slope),
        (window_max, _max),
    )
}


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


def gate(ours: pd.DataFrame, theirs: pd.DataFrame) -> Gate:
    """Cells that agree: all to rounding but those made of ``ewm``, about a fifth, and these to a few per cent."""
    close, near = agreement(ours, theirs, 1e-6), agreement(ours, theirs, 5e-2)
    passed = close >= LEAST_CLOSE and near >= LEAST_NEAR
    what = (
        f"cells equal to 1e-6 of their column's spread: at least {LEAST_CLOSE:.0%}; to 5e-2: at least {LEAST_NEAR:.0%}"
    )
    return Gate(passed, what, {"agree_1e-6": round(close, 5), "agree_5e-2": round(near, 5)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    given = parser.parse_args()
    market = Market.open(given.store)
    pipeline = FeaturePipeline(tuple(FAMILIES))
    rows, columns = pipeline.transform(market).shape  # reads the store
    timing = paired(
        lambda: pipeline.transform_panel(Panel(market)),
        lambda: pipeline.transform_panel(PandasPanel(market)),
        1 if given.quick else given.rounds,
        gate=gate,
    )
    told = f"{rows:,} rows of {len(market.symbols)} symbols, {columns} features"
    return tell([Result("the whole feature matrix", "all families", of("pandas"), timing, floor=8, note=told)])


if __name__ == "__main__":
    sys.exit(main())
