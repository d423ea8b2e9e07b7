"""One file of many trades into one-minute bars, against pandas, Polars streaming and DuckDB.

    python benchmarks/trades_to_bars.py --trades 50000000 [--folder DIR] [--csv] [--encoding delta|default] [--rounds 3]

Generates a seeded file of aggregate trades over one month (once a folder) and runs every tool on it in a process of its
own: ``ours`` makes all measures, the volume clock included, and the others the plain bar alone (prices, volumes, taker
volumes, counts). ``import`` is the command line's whole import into a store, of one-minute and hourly bars. CPU time is
user and system time of the process: ``cpu_seconds`` all of it, ``startup_cpu_seconds`` until its libraries are imported
and its compiled code is loaded from numba's cache. Runs are told on stderr; on stdout a JSON line a peer: ratio of CPU time
without the start, as compilation is no part of it, and the quality gate: every minute's sums equal to DuckDB's (relative
1e-12), counts and prices exactly, peak memory within its bound.

``--encoding delta`` packs instants and ids as differences (DELTA_BINARY_PACKED, zstd), a quarter of the size of
``default``, which is what pyarrow writes unasked (snappy). Polars is measured if it can be imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

from measuring import Gate, Result, Timing, child, note, of, tell

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


def main() -> int:
    """Parse, generate, measure."""
    options = _options()
    if options.run:
        found = RUNS[options.run](Path(options.file), options)
        print(json.dumps({"tool": options.run, **(found or {})}), flush=True)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        return _measure(options, Path(options.folder or temporary))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=50_000_000)
    parser.add_argument("--folder", help="where the files are generated and kept; default: a temporary one")
    parser.add_argument("--encoding", choices=("delta", "default"), default="delta")
    parser.add_argument("--csv", action="store_true", help="measure the zipped CSV file, too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two million trades, one round")
    parser.add_argument("--run", choices=sorted(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.trades, options.rounds = 2_000_000, 1
    return options


def _measure(options: argparse.Namespace, folder: Path) -> int:
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
            note(json.dumps(runs[tool][-1]))
    if options.csv:
        note(json.dumps(_child("ours", archive, options)))
    return tell(_results(runs, _child("gate", parquet, options), options))


def _results(
    runs: dict[str, list[dict[str, Any]]], gate: dict[str, Any], options: argparse.Namespace
) -> Iterator[Result]:
    """A figure a peer, without the start of either process; memory is part of the gate."""
    peak = max(run["peak_rss_mib"] for tool in ("ours", "import") for run in runs[tool])
    passed = gate["equal"] and peak <= MAX_RSS
    what = (
        f"every minute's sums equal to DuckDB's to 1e-12, counts and prices exactly, peak memory at most {MAX_RSS} MiB"
    )
    figures = {name: gate[name] for name in ("minutes", "largest_relative_difference", "equal")}
    for tool in (tool for tool in PEERS if tool in runs):
        whole = [_ratio(runs, tool, number, "cpu_seconds") for number in range(options.rounds)]
        found = {**figures, "peak_rss_mib": peak, "ratio_with_start": round(float(median(whole)), 2)}
        ours, peer = ([_cost(run) for run in runs[name]] for name in ("ours", tool))
        timing = (
            Timing(tuple(ours), tuple(peer), Gate(passed, what, found))
            if passed
            else Timing((), (), Gate(False, what, found))
        )
        case = f"{options.trades:,} trades, Parquet, {options.encoding}"
        yield Result("trades to one-minute bars", case, of(tool), timing, GOALS.get(tool))


def _cost(run: dict[str, Any]) -> float:
    """CPU seconds once the libraries are imported and the compiled code is loaded."""
    return float(run["cpu_seconds"] - run["startup_cpu_seconds"])


def _ratio(runs: dict[str, list[dict[str, Any]]], tool: str, number: int, what: str) -> float:
    return float(runs[tool][number][what] / runs["ours"][number][what])


def _child(run: str, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own: what it told, and what it used."""
    arguments = ["--run", run, "--file", str(file), "--trades", str(options.trades), "--encoding", options.encoding]
    done = child([sys.executable, __file__, *arguments])
    told: dict[str, Any] = json.loads(done.told.splitlines()[-1])
    return told | {
        "file": file.suffix[1:],
        "cpu_seconds": round(done.cpu_s, 3),
        "wall_seconds": round(done.wall_s, 2),
        "peak_rss_mib": round(done.peak_mib),
    }


def _started() -> dict[str, float]:
    """The CPU time of this process until now."""
    return {"startup_cpu_seconds": round(time.process_time(), 3)}


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
    sys.exit(main())
