"""One file of many trades into one-minute bars, against pandas, Polars streaming and DuckDB.

    python benchmarks/trades_to_bars.py --trades 50000000 [--folder DIR] [--csv] [--encoding delta|default] [--rounds 3]

Generates a seeded file of aggregate trades over one month (once a folder) and runs every tool on it in a process of its
own: ``ours`` makes all measures, the volume clock included, and the others the plain bar alone (prices, volumes, taker
volumes, counts). ``import`` is the command line's whole import into a store, of one-minute and hourly bars. CPU time is
user and system time of the process: ``cpu_seconds`` all of it, ``startup_cpu_seconds`` until its libraries are imported
and its compiled code is loaded from numba's cache. JSON lines on stdout: one a run, then the ratios of CPU time (best of
the rounds), with and without the start, and the quality gate: every minute's sums equal to DuckDB's (relative 1e-12),
counts and prices exactly. The goals are for the ratios without the start, as compilation is no part of them.

``--encoding delta`` packs instants and ids as differences (DELTA_BINARY_PACKED, zstd), a quarter of the size of
``default``, which is what pyarrow writes unasked (snappy). Polars is measured if it can be imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

START: Final = 1_704_067_200_000
MONTH: Final = 31 * 86_400_000
CHUNK: Final = 2**20
PLACE: Final = "futures/um/monthly/aggTrades/BTCUSDT"
STEM: Final = "BTCUSDT-aggTrades-2024-01"
SUMS: Final = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
EXACT: Final = ("open", "high", "low", "close", "trades")
PEERS: Final = ("pandas", "polars", "duckdb")
MAX_RSS: Final = 800
GOALS: Final = {"pandas": 8.0, "polars": 1.5}


def main() -> None:
    """Parse, generate, measure."""
    options = _options()
    if options.run:
        found = RUNS[options.run](Path(options.file), options)
        _tell({"tool": options.run, **(found or {})})
        return
    with tempfile.TemporaryDirectory() as temporary:
        _measure(options, Path(options.folder or temporary))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=50_000_000)
    parser.add_argument("--folder", help="where the files are generated and kept; default: a temporary one")
    parser.add_argument("--encoding", choices=("delta", "default"), default="delta")
    parser.add_argument("--csv", action="store_true", help="measure the zipped CSV file, too")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--run", choices=sorted(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(options: argparse.Namespace, folder: Path) -> None:
    place = folder / f"{options.encoding}-{options.trades}" / PLACE
    parquet, archive = place / f"{STEM}.parquet", place / f"{STEM}.zip"
    for file, made in ((parquet, "generate"), *([(archive, "compress")] if options.csv else [])):
        if not file.exists():
            _child(made, file, options)
    tools = ["ours", "import", *(tool for tool in PEERS if importlib.util.find_spec(tool))]
    _child("warm", parquet, options)
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for tool in tools:
            runs.setdefault(tool, []).append(_child(tool, parquet, options))
            _tell(runs[tool][-1])
    if options.csv:
        _tell(_child("ours", archive, options))
    ratios = _ratios(runs, lambda run: run["cpu_seconds"] - run["startup_cpu_seconds"])
    whole = _ratios(runs, lambda run: run["cpu_seconds"])
    peak = max(run["peak_rss_mib"] for tool in ("ours", "import") for run in runs[tool])
    met = {tool: ratios[tool] >= goal for tool, goal in GOALS.items() if tool in ratios}
    gate = _child("gate", parquet, options)
    met["memory"] = peak <= MAX_RSS
    _tell({"cpu_ratio": ratios, "cpu_ratio_with_start": whole, "goals": GOALS, "peak_rss_mib": peak, "met": met})
    _tell({key: gate[key] for key in ("tool", "minutes", "largest_relative_difference", "equal")})


def _ratios(runs: dict[str, list[dict[str, Any]]], cost: Callable[[dict[str, Any]], float]) -> dict[str, float]:
    """Each peer's cost over ours, the best round of each."""
    best = {tool: min(map(cost, made)) for tool, made in runs.items() if tool in ("ours", *PEERS)}
    return {tool: round(best[tool] / best["ours"], 2) for tool in PEERS if tool in best}


def _child(run: str, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own: what it told, and what it used."""
    arguments = ["--run", run, "--file", str(file), "--trades", str(options.trades), "--encoding", options.encoding]
    reader, writer = os.pipe()
    begin = time.perf_counter()
    program = [sys.executable, __file__, *arguments]
    child = os.posix_spawn(sys.executable, program, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)])
    os.close(writer)
    with os.fdopen(reader) as told:
        lines = told.read().splitlines()
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{run} on {file} failed: {' '.join(lines)}")
    measured = {
        "file": file.suffix[1:],
        "trades": options.trades,
        "encoding": options.encoding,
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "wall_seconds": round(time.perf_counter() - begin, 2),
        "peak_rss_mib": round(used.ru_maxrss / 1024),
    }
    return json.loads(lines[-1]) | measured


def _started() -> dict[str, float]:
    """The CPU time of this process until now."""
    return {"startup_cpu_seconds": round(time.process_time(), 2)}


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def generate(file: Path, options: argparse.Namespace) -> None:
    """Trades whose price walks in ticks, of log-normal size, a million at a time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    ints = ("agg_trade_id", "first_trade_id", "last_trade_id", "transact_time")
    packed = {
        "compression": "zstd",
        "use_dictionary": ["price", "quantity"],
        "column_encoding": dict.fromkeys(ints, "DELTA_BINARY_PACKED"),
    }
    kinds = {
        "agg_trade_id": pa.int64(), "price": pa.float64(), "quantity": pa.float64(), "first_trade_id": pa.int64(),
        "last_trade_id": pa.int64(), "transact_time": pa.int64(), "is_buyer_maker": pa.bool_(),
    }  # fmt: skip
    last_id, log_price, elapsed, beside = 0, 0.0, 0.0, file.with_suffix(".part")
    wait = 0.99 * MONTH / options.trades
    with pq.ParquetWriter(beside, pa.schema(kinds), **(packed if options.encoding == "delta" else {})) as writer:
        for done in range(0, options.trades, CHUNK):
            n = min(CHUNK, options.trades - done)
            waits = rng.exponential(wait, n).cumsum() + elapsed
            logs = rng.normal(0.0, 0.05 / np.sqrt(options.trades / 31), n).cumsum() + log_price
            last = rng.geometric(0.5, n).cumsum() + last_id
            columns = {
                "agg_trade_id": np.arange(done, done + n),
                "price": np.round(42_000 * np.exp(logs), 1),
                "quantity": np.round(rng.lognormal(-3.0, 1.5, n), 3) + 0.001,
                "first_trade_id": np.concatenate([[last_id], last[:-1]]) + 1,
                "last_trade_id": last,
                "transact_time": np.minimum(START + waits.astype(np.int64), START + MONTH - 1),
                "is_buyer_maker": rng.random(n) < 0.5,
            }
            writer.write_batch(pa.record_batch(columns, schema=pa.schema(kinds)))
            last_id, log_price, elapsed = int(last[-1]), logs[-1], waits[-1]
    beside.rename(file)


def compress(file: Path, options: argparse.Namespace) -> None:
    """The Parquet file as the archive's zipped CSV."""
    import zipfile

    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet as pq

    beside = file.with_suffix(".part")
    source = pq.ParquetFile(file.with_suffix(".parquet"))
    with (
        zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{STEM}.csv", "w", force_zip64=True) as member,
    ):
        for number, batch in enumerate(source.iter_batches(CHUNK)):
            spelt = pa.Table.from_batches([batch])
            spelt = spelt.set_column(6, "is_buyer_maker", pc.cast(spelt["is_buyer_maker"], pa.string()))
            style = pyarrow.csv.WriteOptions(include_header=number == 0, quoting_style="none", quoting_header="none")
            pyarrow.csv.write_csv(spelt, pa.PythonFile(member, "w"), style)
    beside.rename(file)


def _bars(file: Path) -> Any:
    from features.sources.trade_files import batches
    from features.trades.bars import TradeBars

    bars = TradeBars({"1m": 60_000_000})
    bars.begin(START * 1_000, continues=False)
    for batch in batches(file):
        bars.feed(batch.trades, (START, START + MONTH, 1_000))
    bars.finish((START + MONTH) * 1_000)
    return bars.closed()["1m"]


def ours(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All measures, without a store."""
    from features.sources import trade_files  # noqa: F401  # what the work needs is imported before it begins

    warm(file, options)
    started = _started()
    rows = _bars(file)
    return started | {"bars": len(rows), "volume": float(rows["volume"].sum()), "vpin": float(rows["vpin"][-1])}


def import_(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The command line's import, into a store of its own."""
    from forecaster.cli import main as command

    with tempfile.TemporaryDirectory() as store:
        code = command(["data", "import", "--from", "trades", str(file), "--store", store, "--quiet"])
    return {"exit": code}


def warm(file: Path, options: argparse.Namespace) -> None:
    """Compile, or load what was compiled."""
    import numpy as np

    from features.trades.bars import TradeBars, Trades

    bars = TradeBars({"1m": 60_000_000})
    bars.begin(START * 1_000, continues=False)
    ids, ones = np.arange(1), np.ones(1)
    bars.feed(Trades(ids + START, ones, ones, ids, ids, ids, np.zeros(1, np.uint8)), (START, START + MONTH, 1_000))
    bars.finish((START + MONTH) * 1_000)


def pandas(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The plain bar in pandas: the columns needed, a group by minute."""
    import pandas as pd

    started = _started()
    columns = ["transact_time", "price", "quantity", "first_trade_id", "last_trade_id", "is_buyer_maker"]
    held = pd.read_parquet(file, columns=columns)
    held["quote"] = held["price"] * held["quantity"]
    held["count"] = held["last_trade_id"] - held["first_trade_id"] + 1
    held["bought"] = held["quantity"].where(~held["is_buyer_maker"], 0.0)
    held["bought_quote"] = held["quote"].where(~held["is_buyer_maker"], 0.0)
    bars = held.groupby(held["transact_time"] // 60_000, sort=False).agg(
        open=("price", "first"), high=("price", "max"), low=("price", "min"), close=("price", "last"),
        volume=("quantity", "sum"), quote_volume=("quote", "sum"), trades=("count", "sum"),
        taker_buy_volume=("bought", "sum"), taker_buy_quote_volume=("bought_quote", "sum"),
    )  # fmt: skip
    return started | {"bars": len(bars), "volume": float(bars["volume"].sum())}


def polars(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The plain bar in Polars' streaming engine."""
    import polars as pl

    started = _started()
    quantity, bought = pl.col("quantity"), ~pl.col("is_buyer_maker")
    quote = pl.col("price") * quantity
    bars = (
        pl.scan_parquet(file)
        .group_by((pl.col("transact_time") // 60_000).alias("minute"))
        .agg(
            open=pl.col("price").first(), high=pl.col("price").max(), low=pl.col("price").min(),
            close=pl.col("price").last(), volume=quantity.sum(), quote_volume=quote.sum(),
            trades=(pl.col("last_trade_id") - pl.col("first_trade_id") + 1).sum(),
            taker_buy_volume=(quantity * bought).sum(), taker_buy_quote_volume=(quote * bought).sum(),
        )
        .collect(engine="streaming")
    )  # fmt: skip
    return started | {"bars": len(bars), "volume": float(bars["volume"].sum())}


def _duckdb_bars(file: Path) -> dict[str, Any]:
    import duckdb

    bought = "CASE WHEN is_buyer_maker THEN 0 ELSE quantity END"
    query = f"""
        SELECT transact_time // 60000 AS minute, arg_min(price, agg_trade_id) AS open, max(price) AS high,
            min(price) AS low, arg_max(price, agg_trade_id) AS close, sum(quantity) AS volume,
            sum(price * quantity) AS quote_volume, sum(last_trade_id - first_trade_id + 1)::BIGINT AS trades,
            sum({bought}) AS taker_buy_volume, sum(price * {bought}) AS taker_buy_quote_volume
        FROM read_parquet(?) GROUP BY minute ORDER BY minute
    """
    found: dict[str, Any] = duckdb.execute(query, [str(file)]).fetchnumpy()
    return found


def duckdb(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The plain bar in DuckDB."""
    import duckdb as _  # noqa: F401

    started = _started()
    bars = _duckdb_bars(file)
    return started | {"bars": len(bars["minute"]), "volume": float(bars["volume"].sum())}


def gate(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Ours against DuckDB, minute by minute."""
    import numpy as np

    rows, oracle = _bars(file), _duckdb_bars(file)
    rows = rows[rows["trades"] > 0]
    alike = np.array_equal(rows["start"] // 60_000_000, oracle["minute"])
    equal = alike and all(np.array_equal(rows[name], oracle[name]) for name in EXACT)
    apart = max(float(np.max(np.abs(rows[name] / oracle[name] - 1.0))) for name in SUMS) if alike else float("inf")
    return {"minutes": len(rows), "largest_relative_difference": apart, "equal": bool(equal and apart <= 1e-12)}


RUNS: Final[dict[str, Callable[[Path, argparse.Namespace], dict[str, Any] | None]]] = {
    "generate": generate, "compress": compress, "warm": warm, "ours": ours, "import": import_, "pandas": pandas,
    "polars": polars, "duckdb": duckdb, "gate": gate,
}  # fmt: skip

if __name__ == "__main__":
    main()
