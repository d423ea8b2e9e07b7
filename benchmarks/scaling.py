"""How the cost of an evaluation grows with symbols, years and members.

    python benchmarks/scaling.py [--work DIR] [--jobs 2] [--quick]
    python benchmarks/scaling.py --page docs/scaling.md [--work DIR]

Each cell is one evaluation of a simulated market in a process of its own: all members on 2, 6, 18 and 72 symbols of one
year, 6 symbols of 1, 2 and 4 years, and 6 and 18 symbols with fewer members. The second half of the market is scored, with
monthly refits, after three months of warm-up; horizons 1, 4 and 24 h; the leaves of LightGBM are small enough for two
symbols. One JSON line a cell on stdout, with wall and CPU seconds, CPU inside LightGBM's train, and peak memory, as a whole
and by stage; finished cells are kept in ``DIR/cells.jsonl`` and are not measured again by the same code with as many jobs
on the same machine. ``--page`` writes the page from them. ``--quick`` runs small cells, to see that it works; they are kept
under names of their own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pandas as pd
from measuring import ONE_THREAD, child, machine, note
from scaling_page import conditions, latest, page

from features.market import Market
from features.sources.simulated import simulate
from features.sources.simulated_dynamics import PROFILES
from training.config import RunConfig
from training.costs import Meter
from training.evaluation import evaluate
from training.folds import code_sha256
from training.material import prepare
from training.splits import utc
from training.walkforward import plan

BEGIN: Final = pd.Timestamp("2019-01-01", tz="UTC")
PLAIN: Final = ("ewma", "har", "har_seasonal", "har_x")
MEMBERS: Final[Mapping[str, Sequence[str]]] = {
    "plain": PLAIN,
    "plain + garch": (*PLAIN, "garch", "gjr"),
    "all": (*PLAIN, "garch", "gjr", "lightgbm"),
}
SMALL_LEAVES: Final = {"min_data_in_leaf": 200}
CELLS: Final = (
    *((symbols, 1.0, "all") for symbols in (2, 6, 18)),
    *((symbols, 1.0, members) for symbols in (6, 18) for members in ("plain", "plain + garch")),
    (6, 2.0, "all"),
    (6, 4.0, "all"),
    (72, 1.0, "all"),
)
QUICK: Final = ((2, 0.7, "plain"), (2, 0.7, "plain + garch"), (2, 0.7, "all"), (4, 0.7, "all"), (2, 0.9, "all"))
Cell = tuple[int, float, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("scaling"), help="where finished cells are kept")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--page", type=Path, help="write this page from the finished cells, and measure nothing")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--simulate", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    kept = given.work / "cells.jsonl"
    if given.page:
        given.page.write_text(page(list(latest(kept.read_text()).values())))
    elif given.simulate:
        symbols, years = given.simulate
        _simulated(symbols, years, given.work)
    elif given.cell:
        print(json.dumps(_measured(given.cell, given.work, given.jobs)))
    else:
        given.work.mkdir(parents=True, exist_ok=True)
        _run(QUICK if given.quick else CELLS, kept, given.work, given.jobs)


def _run(cells: Sequence[Cell], kept: Path, work: Path, jobs: int) -> None:
    now = {"code_sha256": code_sha256(), "jobs": jobs, "machine": machine()}
    rows = latest(kept.read_text()) if kept.exists() else {}
    done = {cell: json.dumps(row) for cell, row in rows.items() if conditions(row) == conditions(now)}
    if set(cells) - set(done):
        note("a small evaluation that compiles all kernels, not kept")
        _told(QUICK[2], work, jobs)
    for cell in cells:
        if cell not in done:
            note(f"{cell[0]} symbols, {cell[1]:g} years, {cell[2]}")
            done[cell] = json.dumps(_told(cell, work, jobs) | now)
            with kept.open("a") as file:
                file.write(done[cell] + "\n")
        print(done[cell], flush=True)


def _told(cell: Cell, work: Path, jobs: int) -> dict[str, Any]:
    """A cell's figures, measured in a process that did not simulate the market."""
    options = ["--work", str(work), "--jobs", str(jobs)]
    here = [sys.executable, __file__, *options]
    subprocess.run([*here, "--simulate", json.dumps(cell[:2])], check=True)
    whole = child([*here, "--cell", json.dumps(cell)], ONE_THREAD)
    return {**json.loads(whole.told), "process_wall_s": whole.wall_s}


def _measured(cell: Cell, work: Path, jobs: int) -> dict[str, Any]:
    symbols, years, members = cell
    market = Market.from_tables({file.stem: pd.read_parquet(file) for file in _place(symbols, years, work).iterdir()})
    kinds = [{"kind": kind, "params": SMALL_LEAVES if kind == "lightgbm" else {}} for kind in MEMBERS[members]]
    config = RunConfig.model_validate(
        {"members": kinds, "horizons": (1, 4, 24), "walkforward": {"warmup_months": 3}}, strict=False
    )
    end = utc(market.table("bars", "1h")["close_time"].max())
    start = (BEGIN + (end - BEGIN) / 2).ceil("D")
    meter = Meter()
    with tempfile.TemporaryDirectory() as out:
        evaluate(market, config, start=start, end=end, out=out, jobs=jobs, meter=meter)
        size = Path(out, "forecasts.parquet").stat().st_size
    costs = asdict(meter.costs())
    material = prepare(market, config)
    return {
        "cell": cell,
        "folds": len(plan(material, config, start, end)),
        "rows": len(material.rows.features),
        "columns": len(material.rows.columns),
        "forecasts_bytes": size,
        **costs,
    }


def _simulated(symbols: int, years: float, work: Path) -> None:
    """Markets of at most as many symbols as there are profiles, side by side under names of their own."""
    place = _place(symbols, years, work)
    if place.exists():
        return
    parts = []
    for number, first in enumerate(range(0, symbols, len(PROFILES))):
        count = min(len(PROFILES), symbols - first)
        tables = simulate(seed=7 + number, days=round(365 * years), symbols=count, start=f"{BEGIN:%Y-%m-%d}").tables
        if number:  # the first part's market-wide series are everybody's
            tables = {name: frame for name, frame in tables.items() if "symbol" in frame}
            for frame in tables.values():
                frame["symbol"] = frame["symbol"].str.removesuffix("USDT") + f"{number}USDT"
        parts.append(tables)
    beside = place.with_suffix(".tmp")
    beside.mkdir(parents=True, exist_ok=True)
    for name in parts[0]:
        pd.concat([part[name] for part in parts if name in part]).to_parquet(beside / f"{name}.parquet", index=False)
    beside.rename(place)


def _place(symbols: int, years: float, work: Path) -> Path:
    return work / "markets" / f"{symbols}x{years:g}".replace(".", "_")


if __name__ == "__main__":
    main()
