"""Planted leaks of state: what depends on where the history began, or on how the rows came in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from features import kernels, live
from features import panel as panels
from features.market import Market
from features.panel import Panel
from features.pipeline import FeaturePipeline
from features.tape import Known, Tape

Array = np.ndarray[Any, np.dtype[np.float64]]
BLIND = ("prefix", "poison", "arrival")
# Enough for the books' windows of a week: the small markets are shorter than the shipped warm-up.
WARM_UP = 300
EXCESS = {"log_spread_excess_168h", "log_depth_excess_168h"}
BOOK: dict[str, Any] = {
    "families": ("order_book",),
    "tables": ("bars", "order_book"),
    "only": "excess|turnover",
    "cuts": 4,
    "seed": 2,
    "misses": BLIND,
}
LIVE: dict[str, Any] = {
    "families": ("flow", "path", "funding", "open_interest"),
    "tables": ("bars", "funding", "open_interest"),
    "cuts": 2,
    "live_bars": 16,
}


def test_memory_longer_than_the_warm_up(trial: Any) -> None:
    shipped = Panel.mean

    def growing(self: Panel, x: Array, lengths: tuple[int, ...], coverage: float = 0.8) -> Array:
        out = shipped(self, x, lengths, coverage)
        return np.stack([pd.DataFrame(mean.T).ewm(halflife=200).mean().to_numpy().T for mean in out])

    trial.constant(FeaturePipeline, "warmup", WARM_UP)
    trial.plant(Panel, "mean", growing)
    trial.is_found_by("restart", EXCESS, **BOOK)


def test_running_sum(trial: Any) -> None:
    def running(self: Panel, x: Array, lengths: tuple[int, ...], coverage: float = 0.8) -> Array:
        total = np.cumsum(np.nan_to_num(x), axis=1)
        before = [np.pad(total, ((0, 0), (length, 0)))[:, : x.shape[1]] for length in lengths]
        return np.stack([(total - past) / length for past, length in zip(before, lengths, strict=True)])

    trial.constant(FeaturePipeline, "warmup", WARM_UP)
    trial.plant(Panel, "mean", running)
    trial.is_found_by("restart", EXCESS, **BOOK)


def test_order_of_operations_depends_on_the_data(trial: Any) -> None:
    def quieter_first(self: Panel, x: Array, y: Array, length: int, coverage: float = 0.8) -> Array:
        swapped = np.nan_to_num(x[:, -1]).sum() > np.nan_to_num(y[:, -1]).sum()
        inputs = (y, x) if swapped else (x, y)
        (a, first), (b, _) = (self._tape.extend(f"pair {length}", values, length) for values in inputs)
        a, b = (b, a) if swapped else (a, b)
        return kernels.window_pair(a, b, length, coverage, self._hour(first), first)

    trial.plant(Panel, "pair", quieter_first)
    named = {"flow_autocorrelation_72h", "flow_return_correlation_168h"}
    only = "correlation|impact|beyond"
    trial.is_found_by("live", named, only=only, misses=BLIND, **LIVE)


def test_tape_forgets_a_column(trial: Any) -> None:
    shipped = Tape.extend
    trial.plant(Tape, "extend", lambda self, label, x, reach: shipped(self, label, x, max(reach - 1, 1)))
    named = {"log_return_1h", "abs_trend_2h"}
    trial.is_found_by("live", named, misses=BLIND, **LIVE)


def test_update_reads_a_settlement_before_it_is_known(trial: Any, market: Market) -> None:
    shipped = live.LiveMarket.step
    funding = market.table("funding")
    labelled = funding["funding_time"].dt.floor("h")

    def peeking(self: Any, rows: Any, *settings: Any) -> Panel:
        origin, last = rows["bars"]["close_time"].max(), self._tape.end
        news = (labelled <= origin) & (True if last is None else labelled > last)
        known = funding["available_at"].where(funding["available_at"] <= origin, origin)
        return shipped(self, {**rows, "funding": funding.assign(available_at=known)[news]}, *settings)

    trial.plant(live.LiveMarket, "step", peeking)
    named = {"age_funding", "funding_rate_1h"}
    trial.is_found_by("live", named, only="funding", misses=BLIND, **LIVE)


def test_newest_row_by_position(trial: Any) -> None:
    shipped = panels._in_order

    def by_position(before: Known | None, arrived: Known, rows: Any) -> Known:
        if before is None:
            return shipped(before, arrived, rows)
        rows = rows[np.argsort(arrived.available[rows], kind="stable")]
        available = np.concatenate([before.available, arrived.available[rows]])
        clock = np.concatenate([before.clock, arrived.clock[rows]])
        return Known(available, clock, np.concatenate([before.values, arrived.values[rows]]))

    trial.plant(panels, "_in_order", by_position)
    named = {"oi_change_4h", "age_open_interest"}
    only = "oi_|open_interest|liquidation|build_up"
    trial.is_found_by("live", named, only=only, misses=BLIND, **LIVE)
