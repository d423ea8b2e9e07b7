"""Cross-margin against the sum of stand-alone margins, on real portfolios of the development window.

    python benchmarks/cross_margin.py --store STORE --forecasts FORECASTS --schedule SCHEDULE [--portfolios 60]

Once a day, random portfolios of perpetuals (two to eight symbols, lognormal sizes) are margined from the schedule's own lines
and from what was known then; the loss is that of the worst hourly close within the next 24 h. Three kinds: all long, each
position long or short at random, and longs against as large shorts. Forecasts rule which days are scored; the constants are
those of the design, none was chosen here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from features.market import Market
from features.panel import Panel, shift
from forecaster.policy import Params
from forecaster.policy.portfolio.cross_margin import Fallback, cross_margin
from forecaster.policy.portfolio.state import RiskState, ewma_correlation, tiers_of

KINDS: Final = ("long", "random", "balanced")
LEGS: Final = ("stand_alone", "scan", "shortfall", "parametric", "requirement")
COVERAGE: Final = 0.995
DAY: Final = 24
HALF_LIFE_HOURS: Final = 48  # of the EWMA that standardises returns before the forecasts begin
HISTORY_HOURS: Final = 2 * 8760
GROSS_USD: Final = 100_000.0
SEED: Final = 1
# No day from July 2023 on is looked at.
LAST: Final = pd.Timestamp("2023-06-30", tz="UTC")
TERMS: Final = Params.default().portfolio


class Past:
    """Hourly returns, and standard deviations known at each hour, as far as the development window."""

    def __init__(self, market: Market, forecasts: pd.DataFrame) -> None:
        panel = Panel(market)
        self.symbols, self.times, self.close = panel.symbols, panel.times, panel.close
        self.sigma = np.full(panel.close.shape, np.nan)
        rows = pd.Index(panel.symbols).get_indexer(pd.Index(forecasts["symbol"]))
        columns = panel.times.get_indexer(pd.DatetimeIndex(forecasts["origin"]).as_unit("us"))
        usable = (rows >= 0) & (columns >= 0) & (forecasts["status"] != "blocked").to_numpy()
        self.sigma[rows[usable], columns[usable]] = np.sqrt(forecasts["variance"].to_numpy(np.float64)[usable])
        ewma = np.sqrt(DAY * panel.ewma(panel.log_return**2, HALF_LIFE_HOURS))
        known = np.where(np.isnan(self.sigma), ewma, self.sigma)
        with np.errstate(divide="ignore", invalid="ignore"):
            self.standardised = (np.log(panel.close / shift(panel.close, DAY)) / shift(known, DAY)).T

    def state(self, column: int, lines: list[dict[str, Any]]) -> RiskState:
        """What was known at a column of the panel; lines in the panel's order of symbols."""
        as_of = int(self.times.asi8[column])
        tiers = tiers_of(lines, as_of)
        rows = pd.Index(self.symbols).get_indexer(pd.Index(tiers["symbols"]))
        history = self.standardised[max(0, column + 1 - HISTORY_HOURS) : column + 1, rows]
        unread = np.full((len(rows), 1, 4), np.nan)
        return RiskState(
            as_of=as_of,
            **tiers,
            price=self.close[rows, column],
            sigma=self.sigma[rows, column],
            standardised=history,
            correlation=ewma_correlation(history, TERMS.correlation_half_life_hours),
            horizons=(DAY,),
            long=unread,
            short=unread,
            stress=np.full(len(rows), np.nan),
        )

    def falls(self, column: int, symbols: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Gains (s, 24) per USD long at the 24 hourly closes after a column; NaN where a bar is missing."""
        rows = pd.Index(self.symbols).get_indexer(pd.Index(symbols))
        return np.asarray(self.close[rows, column + 1 : column + 1 + DAY] / self.close[rows, column, None] - 1)


def portfolios(kind: str, count: int, symbols: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Positions (count, symbols) in USD, each portfolio of the same gross size."""
    held = rng.random((count, symbols)).argsort(axis=1) < rng.integers(2, min(8, symbols) + 1, (count, 1))
    size = np.where(held, rng.lognormal(0.0, 0.7, (count, symbols)), 0.0)
    sign = np.ones_like(size)
    if kind != "long":
        sign = np.where(rng.random((count, symbols)) < 0.5, 1.0, -1.0)
    if kind == "balanced":
        sign = np.where(np.cumsum(held, axis=1) % 2 == 0, 1.0, -1.0)
        for side in (1.0, -1.0):
            chosen = np.where(sign == side, size, 0.0)
            size = np.where(sign == side, size / chosen.sum(axis=1, keepdims=True), size)
    return np.asarray(GROSS_USD * sign * size / size.sum(axis=1, keepdims=True))


def daily_lines(path: Path) -> Iterator[tuple[pd.Timestamp, list[dict[str, Any]]]]:
    """The schedule's lines of each midnight up to the end of the development window."""
    kept: dict[str, list[dict[str, Any]]] = {}
    with path.open(encoding="utf-8") as file:
        for text in file:
            if 'T00:00:00Z"' in text:
                line = json.loads(text)
                if line["as_of"].endswith("T00:00:00Z"):
                    kept.setdefault(line["as_of"], []).append(line)
    yield from ((pd.Timestamp(instant), lines) for instant, lines in kept.items() if pd.Timestamp(instant) < LAST)


def measured(past: Past, schedule: Path, count: int) -> dict[str, pd.DataFrame]:
    """One row a portfolio and day, by kind: margins and loss as shares of gross, and the reason without an offset."""
    rng = np.random.default_rng(SEED)
    tables: dict[str, list[pd.DataFrame]] = {kind: [] for kind in KINDS}
    for day, lines in daily_lines(schedule):
        column = int(past.times.searchsorted(day))
        state = past.state(column, lines)
        after = past.falls(column, state.symbols)
        for kind in KINDS:
            held = portfolios(kind, count, len(state.symbols), rng)
            whole = ~np.isnan(np.where(held[:, :, None] != 0, after, 0.0)).any(axis=(1, 2))
            held = held[whole]
            margin = cross_margin(held, state.symbols, state, TERMS)
            loss = np.maximum(0.0, -(held @ np.nan_to_num(after)).min(axis=1))
            apart = np.maximum(0.0, -(held[:, :, None] * np.nan_to_num(after)).min(axis=2))
            single = state.required(np.abs(held), state.im)
            row = {leg: getattr(margin, leg) / GROSS_USD for leg in LEGS} | {"reason": margin.reason}
            row |= {"loss": loss / GROSS_USD, "isolated": np.maximum(apart - single, 0.0).sum(axis=1) / GROSS_USD}
            tables[kind].append(pd.DataFrame(row | {"day": day}))
    return {kind: pd.concat(parts, ignore_index=True) for kind, parts in tables.items()}


def told(kind: str, table: pd.DataFrame) -> Iterator[str]:
    """Lines of the printed table, of the portfolios with an offset."""
    sound = table[table["reason"] == 0]
    for leg in LEGS:
        margin, over = sound[leg], (sound["loss"] - sound[leg]).clip(lower=0)
        # Scaled by one constant of the whole window so that exactly the goal is covered: it compares, and promises nothing.
        matched = margin.mean() * np.quantile(sound["loss"] / margin, COVERAGE)
        yield (
            f"| {kind} | {leg} | {margin.mean():.4f} | {margin.mean() / sound['stand_alone'].mean():.3f} | "
            f"{(over == 0).mean():.4f} | {matched:.4f} | {1e4 * over.mean():.3f} | {sound.loc[over > 0, 'day'].nunique()} |"
        )
    apart = sound["isolated"]
    yield (
        f"| {kind} | isolated | {sound['stand_alone'].mean():.4f} | 1.000 | {(apart == 0).mean():.4f} | - | "
        f"{1e4 * apart.mean():.3f} | {sound.loc[apart > 0, 'day'].nunique()} |"
    )


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--forecasts", required=True, help="forecasts.parquet of the development window")
    parser.add_argument("--schedule", required=True, type=Path, help="its schedule.jsonl")
    parser.add_argument("--portfolios", type=int, default=60, help="of each kind, a day")
    asked = parser.parse_args()
    wanted = [("model", "=", "ensemble"), ("horizon_hours", "=", DAY), ("origin", "<", LAST)]
    forecasts = pq.read_table(
        asked.forecasts, columns=["symbol", "origin", "variance", "status"], filters=wanted
    ).to_pandas()
    tables = measured(Past(Market.open(asked.store), forecasts), asked.schedule, asked.portfolios)
    print(
        "| portfolios | margin | mean | of the sum | coverage | mean at 99.5 % | loss beyond, bps of gross | its days |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind, table in tables.items():
        print(*told(kind, table), sep="\n", flush=True)
    whole = pd.concat(tables.values())
    print(f"{len(whole):,} portfolios, {whole['day'].nunique()} days; without an offset:", end=" ")
    print(*(f"{why.name} {(whole['reason'] == why).mean():.2%}" for why in Fallback if why), sep=", ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
