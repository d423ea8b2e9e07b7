"""Two local workers against one: the wall time of the same evaluation, to the same bytes.

    python benchmarks/two_workers.py [--store STORE] [--start T --end T] [--rounds 3] [--set key=value] [--quick]

Both sides are ``training.evaluation.evaluate`` into a fresh folder, in one process, in turn. Without a store, a simulated
market of six symbols. The span scored is by default the last six months of the data, after its year of warm-up. Gate: every
file of the two results, folds included, is the same to the byte. Two figures: the whole evaluation, which is the goal, and
its folds alone, the part that is made in parallel. It needs two cores that nobody else uses.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd
from measuring import Gate, Result, Timing, note, paired, tell

from features.market import Market
from features.sources.simulated import simulate
from training.config import RunConfig
from training.costs import Costs, Meter
from training.evaluation import evaluate

GOAL: Final = "two local workers against one"
FLOOR: Final = 1.6
AIM: Final = 1.85
QUICK: Final = (
    "walkforward.warmup_months=2",
    "horizons=[1]",
    "members=[{kind='ewma'}, {kind='gjr'}, {kind='lightgbm', params={min_data_in_leaf=200}}]",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="a store folder; default: a simulated market")
    parser.add_argument("--start", help="first origin scored, UTC")
    parser.add_argument("--end", help="end of the origins, exclusive")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="a small market and three members, to see that it runs")
    given = parser.parse_args()
    if given.store:
        market = Market.open(given.store)
    else:
        days, symbols = (280, 2) if given.quick else (900, 6)
        market = Market.from_tables(simulate(seed=7, days=days, symbols=symbols).tables)
    config = RunConfig.load(None, [*(QUICK if given.quick else ()), *given.overrides])
    end = pd.Timestamp(given.end or market.table("bars", "1h")["close_time"].max())
    start = pd.Timestamp(given.start or end - pd.DateOffset(months=6))
    note(f"{len(market.symbols)} symbols, {start:%Y-%m-%d} to {end:%Y-%m-%d}")
    with tempfile.TemporaryDirectory() as work:
        return tell(_measure(market, config, start, end, Path(work), 1 if given.quick else given.rounds))


def _measure(
    market: Market, config: RunConfig, start: pd.Timestamp, end: pd.Timestamp, work: Path, rounds: int
) -> Iterator[Result]:
    costs: dict[int, list[Costs]] = {1: [], 2: []}

    def made(jobs: int) -> Path:
        out = work / f"{jobs}"
        shutil.rmtree(out, ignore_errors=True)
        meter = Meter()
        evaluate(market, config, start=start, end=end, out=out, jobs=jobs, meter=meter)
        costs[jobs].append(meter.costs())
        note(f"{jobs} jobs: {meter.costs().summary()}")
        return out

    timing = paired(lambda: made(2), lambda: made(1), rounds, gate=_same, clock=time.perf_counter)
    two, one = costs[2][-1], costs[1][-1]
    stages = ", ".join(f"{name} {stage.wall_s:.1f} s" for name, stage in one.stages.items())
    told = f"{len(market.symbols)} symbols; one worker: {stages}; CPU {one.cpu_s:.0f} s with one, {two.cpu_s:.0f} s with two"
    whole = Result(GOAL, "evaluate", "one worker", timing, FLOOR, AIM, f"wall time; {told}")
    yield whole
    # The first of each was the gate's.
    ours, peer = (tuple(cost.stages["folds"].wall_s for cost in costs[jobs][1:]) for jobs in (2, 1))
    yield replace(whole, case="its folds alone", timing=Timing(ours, peer, timing.gate), floor=None, aim=None)


def _same(two: Path, one: Path) -> Gate:
    """Every file of both results, by its place in the folder."""
    found, expected = (
        {
            str(file.relative_to(out)): file.read_bytes()
            for file in sorted(out.rglob("*"))
            if file.is_file() and file.name != ".lock"
        }
        for out in (two, one)
    )
    different = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    return Gate(not different, "all files the same to the byte", {"files": len(expected), "different": different})


if __name__ == "__main__":
    sys.exit(main())
