"""Is there one path? Law T on every row of the history, and a live replay with restarts, both bit for bit.

    python benchmarks/one_path.py --store STORE [--cuts 200] [--bars 10000] [--restarts 100] [--jobs 2]

At each cut, half of them at borders of the data and half at random, all features are computed from what was known then and
compared with the same rows of the whole history. Then stretches of bars are fed to ``update`` one by one, each by a new
pipeline that begins with its warm-up alone, and compared with the batch. Exit code 5 where a bit differs. One JSON object a
line on stdout. ``forecaster leakcheck`` asks more (poison, late feeds, targets, forecasts) at fewer cuts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator

from features import leak_cuts, replay
from features.leak_report import Finding, Part, differences
from features.market import Market
from features.pipeline import FAMILIES, FeaturePipeline


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--bars", type=int, default=10_000)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    market, pipeline = Market.open(given.store), FeaturePipeline(tuple(FAMILIES))
    whole = pipeline.transform(market)

    def prefixes() -> Iterator[Finding]:
        for t in leak_cuts.cut_times(market, given.cuts, given.seed):
            known = pipeline.transform(market.as_of(t))
            yield differences(Part.of(whole, upto=t), Part.of(known), "prefix", "features", t)

    bad = told("prefix", prefixes(), given.cuts, whole.shape) if given.cuts else 0
    if given.bars:
        played = replay.check(market, pipeline, whole, given.bars, given.restarts, given.seed, jobs=given.jobs)
        bad += told("live", (finding for _, finding in played), given.restarts, whole.shape)
    return 5 if bad else 0


def told(check: str, findings: Iterator[Finding], count: int, shape: tuple[int, int]) -> int:
    """Print what a check found; the number of columns with a differing bit."""
    begun, total, seen = time.perf_counter(), Finding({}, ()), 0
    for seen, finding in enumerate(findings, start=1):
        total = total + finding
        if seen % 20 == 0:
            print(f"{check}: {seen} of {count}, {len(total.leaks)} bad", file=sys.stderr)
    facts = {"rows": shape[0], "features": shape[1], "cells": sum(total.cells.values()), "bad": len(total.leaks)}
    first = [str(leak) for leak in total.leaks[:5]]
    print(
        json.dumps(
            {"check": check, "n": seen} | facts | {"first": first, "seconds": round(time.perf_counter() - begun)}
        )
    )
    return len(total.leaks)


if __name__ == "__main__":
    sys.exit(main())
