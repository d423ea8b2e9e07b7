"""How long a decision takes, and five years of ten thousand accounts.

    python benchmarks/policy_speed.py [--symbols 18] [--days 30] [--slots 10000] [--years 5] [--quick]

On a simulated market whose volatility the forecaster knows. A decision is what a service does every hour once the forecasts
are there: one origin's rows with the market's observables, and the state so far; out come canonical lines with decomposition
and hash, one a symbol. The figure is the median over the hours, a symbol; the gate: the same bytes as the schedule of all
origins at once. The accounts replay hourly bars with four loud days and a jump every second month, under the governed
margins of that policy; their gate is the venue's own, money conserved to the micro-dollar in every bar, which raises. Seconds
of this machine: one JSON line each on stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from measuring import machine, note

from features.market import Market
from forecaster.policy import Params, PolicyState, decide
from forecaster.policy.decide import govern
from forecaster.policy.inputs import prepare, read_with_market
from forecaster.policy.observables import MarketHistory
from forecaster.policy.schedule import GENESIS, chained, make_schedule
from forecaster.venue import Path, VenueParams, simulate
from forecaster.venue.backtest import crowd
from forecaster.venue.contestants import in_force_on, published
from forecaster.venue.synthetic import bars, forecast_rows, gaussian_walk

HISTORY_DAYS = 400  # the long-run floor needs a year
FIRST = pd.Timestamp("2019-01-01T01:00:00Z")
LOUD_EVERY, LOUD_HOURS = 60 * 24, 96
DAILY_VOLUME_USD = 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=18)
    parser.add_argument("--days", type=int, default=30, help="of decisions")
    parser.add_argument("--slots", type=int, default=10_000)
    parser.add_argument("--years", type=float, default=5)
    parser.add_argument("--quick", action="store_true", help="4 symbols, 3 days, 500 accounts, 3 months")
    given = parser.parse_args()
    if given.quick:
        given.symbols, given.days, given.slots, given.years = 4, 3, 500, 0.25
    told = [decisions(given.symbols, given.days), accounts(given.slots, round(given.years * 8766))]
    for line in told:
        print(json.dumps(line | {"machine": machine()}))
    return int(not all(line["gate"]["passed"] for line in told))


def decisions(symbols: int, days: int) -> dict[str, Any]:
    """Milliseconds a symbol of deciding one origin after the other."""
    names = [f"S{i:02d}USDT" for i in range(symbols)]
    market, rows = world(names, days * 24)
    params, frame = Params.default(), None
    frame = prepare(rows, market, params)
    origins = [hour for _, hour in frame.groupby("origin", sort=True)]
    state, seq, previous, lines, seconds = PolicyState.initial(), 0, GENESIS, [], []
    for hour in origins:
        begin = time.perf_counter()
        decided, state = decide(hour, state, params)
        made = list(chained(decided, seq, previous))
        seconds.append(time.perf_counter() - begin)
        lines += made
        seq, previous = seq + len(made), json.loads(made[-1])["hash"]
    note(f"{seq} decisions, slowest hour {1e3 * max(seconds[1:]) / symbols:.2f} ms a symbol")
    return {
        "goal": "a margin decision",
        "case": f"one origin of {symbols} symbols, line and hash, a symbol",
        "milliseconds": 1e3 * statistics.median(seconds[1:]) / symbols,
        "floor": 5.0,
        "slowest_hour_ms": 1e3 * max(seconds[1:]) / symbols,
        "hours": len(seconds) - 1,
        "gate": {
            "passed": lines == list(make_schedule(rows, market, params)),
            "what": "the same bytes as the schedule of all origins at once",
        },
    }


def accounts(slots: int, hours: int) -> dict[str, Any]:
    """Seconds of replaying one symbol's accounts under the policy's own margins."""
    policy, venue = Params.default(), VenueParams.default().replace(population={"slots": slots})
    market, rows = world(["SIMUSDT"], hours)
    inputs = read_with_market(rows, MarketHistory(market, policy))
    origins = pd.DatetimeIndex(rows["origin"])
    path = Path.of(market, "SIMUSDT", origins[0], origins[-1], venue)
    governed = govern(inputs, policy)
    margins = published(governed, in_force_on(governed, path), path, venue, "notice")
    people = crowd(venue, path.symbol, int(path.hours[-1]) + 1)
    short = crowd(venue, path.symbol, 48)
    simulate(path[:48], margins[:48], short, venue)  # compiles
    begin = time.process_time()
    result = simulate(path, margins, people, venue)
    seconds = time.process_time() - begin
    return {
        "goal": "the venue's accounts",
        "case": f"{slots:,} accounts, {len(path):,} hours, CPU",
        "seconds": seconds,
        "floor": 60.0,
        "liquidation_steps": int(result.tally["steps"]),
        "gate": {
            "passed": sum(result.balances.values()) == result.net_deposits and result.tally["steps"] > 0,
            "what": "money conserved to the micro-dollar in every bar, some accounts liquidated",
        },
    }


def world(names: list[str], hours: int) -> tuple[Market, pd.DataFrame]:
    """Bars of some walks, and forecasts of the last ``hours`` of them."""
    total = HISTORY_DAYS * 24 + hours
    times = pd.date_range(FIRST, periods=total, freq="h").as_unit("us")
    sigma = np.where(np.arange(total) % LOUD_EVERY < LOUD_HOURS, 0.012, 0.004)
    walks = [jumping(sigma, seed) for seed in range(len(names))]
    made = [bars(name, walk, times, DAILY_VOLUME_USD) for name, walk in zip(names, walks, strict=True)]
    rows = [forecast_rows(name, times[-hours:], sigma[-hours:]) for name in names]
    joined = pd.concat(rows, ignore_index=True).sort_values(["origin", "symbol", "horizon_hours"], ignore_index=True)
    return Market.from_tables({"bars": pd.concat(made, ignore_index=True)}), joined


def jumping(sigma: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    """A walk that falls or rises by a sixth in the midst of every loud spell, in turn."""
    jumps = np.arange(len(sigma)) % LOUD_EVERY == LOUD_HOURS // 2
    factor = np.where(jumps, np.where(np.cumsum(jumps) % 2 == 0, 6 / 5, 5 / 6), 1.0)
    return np.asarray(gaussian_walk(sigma, seed) * np.cumprod(factor))


if __name__ == "__main__":
    sys.exit(main())
