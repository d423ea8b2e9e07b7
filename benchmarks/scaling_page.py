"""The finished cells of ``scaling.py`` as a page: what was measured, how it grows, and what ten machines would do.

Beyond what was measured a cost is continued along a power law through the two largest measured sizes, memory along a straight
line in the rows, and the page says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from measuring import undated

__all__ = ["conditions", "latest", "page"]

Row = Mapping[str, Any]
STAGES: Final = ("prepare", "folds", "assemble", "write", "score")
SERIAL: Final = ("prepare", "assemble", "write", "score")
GIB: Final = 2**30
MIB: Final = 2**20
TARGET: Final = 2000
MACHINES: Final = 10
CORES: Final = (2, 16)
YEARS: Final = 2.0


def latest(told: str) -> dict[tuple[int, float, str], Row]:
    """The last row of each cell in a file of JSON lines."""
    return {tuple(row["cell"]): row for row in map(json.loads, told.splitlines())}


def conditions(row: Row) -> dict[str, Any]:
    """What two cells must have in common to stand in one table: code, jobs and machine."""
    return {"code": row.get("code_sha256"), "jobs": row["jobs"], "machine": undated(row["machine"])}


class Cells:
    """Measured cells, and what they say of sizes that were not measured."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {(row["cell"][0], row["cell"][1], row["cell"][2]): row for row in rows}
        full = [key for key in self.rows if key[2] == "all"]
        years = [key[1] for key in full]
        self.base_years = max(set(years), key=years.count)  # the series over symbols is of one length
        self.symbols = sorted({key[0] for key in full if key[1] == self.base_years})
        lengths = {symbols: sorted({key[1] for key in full if key[0] == symbols}) for symbols in self.symbols}
        self.year_symbols = max(lengths, key=lambda symbols: (len(lengths[symbols]), symbols))
        self.years = lengths[self.year_symbols]

    def by_symbols(self, value: Callable[[Row], float]) -> dict[float, float]:
        """A figure over symbols."""
        return {n: value(self.rows[n, self.base_years, "all"]) for n in self.symbols}

    def by_years(self, value: Callable[[Row], float]) -> dict[float, float]:
        """A figure over years."""
        return {y: value(self.rows[self.year_symbols, y, "all"]) for y in self.years}

    def at(self, value: Callable[[Row], float], symbols: float, years: float) -> float:
        """A figure at a size that was not measured, from the largest number of symbols that was.

        More symbols cost at least in proportion: what every run pays once makes small ones look cheaper to grow.
        """
        base = value(self.rows[self.symbols[-1], self.base_years, "all"])
        wider = (symbols / self.symbols[-1]) ** max(slope(self.by_symbols(value)), 1.0)
        over = self.by_years(value)
        if years in over:
            return float(base * wider * over[years] / over[self.base_years])
        return float(base * wider * (years / self.base_years) ** slope(over))

    def memory(self, name: str, symbols: float, years: float) -> float:
        """Peak memory in GiB: a straight line in the memory of the rows, through the two largest numbers of symbols."""
        (a, x), (b, y) = (
            (rows_bytes(row), row[name] or row["peak_bytes"])
            for row in (self.rows[n, self.base_years, "all"] for n in self.symbols[-2:])
        )
        return float(y + (y - x) / (b - a) * (self.at(rows_bytes, symbols, years) - b)) / GIB


def slope(points: Mapping[float, float]) -> float:
    """The exponent of a power law through the two largest sizes; NaN where there is one size."""
    if len(points) < 2:
        return math.nan
    (a, x), (b, y) = sorted(points.items())[-2:]
    return math.log(max(y, 1e-9) / max(x, 1e-9)) / math.log(b / a)


def stage(name: str, figure: str = "cpu_s") -> Callable[[Row], float]:
    """How to read a figure of a stage from a cell."""
    return lambda row: float(row["stages"][name][figure])


def rows_bytes(row: Row) -> float:
    """Memory of the features that every fold reads."""
    return float(row["rows"] * row["columns"] * 8)


def page(rows: Sequence[Row]) -> str:
    """The page in Markdown; ``ValueError`` where cells differ in code, jobs or machine."""
    common = conditions(rows[-1])
    for row in rows:
        if apart := [name for name, value in conditions(row).items() if value != common[name]]:
            raise ValueError(
                f"cell {row['cell']} and cell {rows[-1]['cell']} were measured with different {' and '.join(apart)}; "
                "run benchmarks/scaling.py again, or in a new --work, so that all are measured alike"
            )
    cells = Cells(rows)
    machine = rows[-1]["machine"]
    facts = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['date']}"
    return "\n\n".join([HEAD, _measured(cells, facts), _growth(cells), _cluster(cells), HOW_TO, WHY]) + "\n"


def _measured(cells: Cells, facts: str) -> str:
    lines = [
        "## Measured",
        "",
        f"Simulated markets on {facts}, {next(iter(cells.rows.values()))['jobs']} local workers. CPU seconds by stage, of all "
        "processes; peak memory of the main process and of the largest worker, which both count the rows that they map "
        "together.",
        "",
        "| symbols | years | members | folds | rows | wall s | CPU s | of it LightGBM | "
        + " | ".join(STAGES) + " | main MiB | worker MiB |",
        "|" + "---|" * (10 + len(STAGES)),
    ]  # fmt: skip
    for (symbols, years, members), row in sorted(cells.rows.items()):
        stages = " | ".join(f"{stage(name)(row):.1f}" for name in STAGES)
        lines.append(
            f"| {symbols} | {years:g} | {members} | {row['folds']} | {row['rows']:,} | {row['wall_s']:.1f} | "
            f"{row['cpu_s']:.1f} | {row['lightgbm_cpu_s']:.1f} | {stages} | {row['peak_bytes'] / MIB:,.0f} | "
            f"{(row['worker_peak_bytes'] or 0) / MIB:,.0f} |"
        )
    return "\n".join(lines)


def _growth(cells: Cells) -> str:
    a, b = cells.symbols[-2:]
    c, d = cells.years[-2:]
    lines = [
        "## How it grows",
        "",
        f"Exponents of a power law through the two largest sizes measured ({a} and {b} symbols; {c:g} and {d:g} years): 1 is "
        "in proportion, 2 is fourfold for twice the size. Years bring more folds, and longer histories to each of them.",
        "",
        "| CPU of | with symbols | with years |",
        "|---|---|---|",
    ]
    readers: dict[str, Callable[[Row], float]] = {name: stage(name) for name in STAGES}
    readers |= {"the whole": lambda row: row["cpu_s"], "peak memory, main process": lambda row: row["peak_bytes"]}
    lines += [
        f"| {name} | {slope(cells.by_symbols(read)):.2f} | {slope(cells.by_years(read)):.2f} |"
        for name, read in readers.items()
    ]
    return "\n".join([*lines, "", _members(cells)])


def _members(cells: Cells) -> str:
    """What each step from the plain members to all adds to the CPU of the folds."""
    told = []
    for symbols in sorted({key[0] for key in cells.rows if key[2] == "plain"}):
        kinds = [key for key in cells.rows if key[:2] == (symbols, cells.base_years)]
        spent = sorted((stage("folds")(cells.rows[key]), key[2]) for key in kinds)
        told.append(f"{symbols} symbols: " + ", ".join(f"{name} {seconds:.1f} s" for seconds, name in spent))
    return "Members add up, since a fold fits one after the other; CPU of the folds on " + "; ".join(told) + "."


def _cluster(cells: Cells) -> str:
    shard = cells.symbols[-1]
    serial, folds = _split(cells, TARGET)
    held, main = cells.at(rows_bytes, TARGET, YEARS) / GIB, cells.memory("peak_bytes", TARGET, YEARS)
    parts = (
        f"## {TARGET:,} symbols on {MACHINES} machines",
        f"**Extrapolated** from {shard} symbols and {cells.base_years:g} years to {YEARS:g} years of history whose second "
        "half is scored, along the exponents above but at least in proportion to symbols, memory along a line in the rows: "
        "all members, cores like the measured ones, folds of equal length.",
        _machines(cells),
        "What does not scale:",
        f"- **Folds are the tasks**, here about {_folds(cells):.0f} of them: more workers than folds stand idle, and the "
        "last, longest fold is waited for.\n"
        f"- **The client is one process.** Features, assembly, writing and scoring are serial: {_time(serial)} for all "
        f"symbols at once, {serial / (serial + folds):.0%} of all CPU, whatever the cluster.\n"
        f"- **Memory of the rows**: {held:.0f} GiB for {TARGET:,} symbols. Every Dask worker holds a copy and fits on further "
        f"ones, and the client's peak would be about {main:.0f} GiB. One market of {TARGET:,} symbols is out of reach of "
        "ordinary machines, however many.\n"
        f"- **The network**: the rows leave the client once and are handed on from worker to worker, {held:.0f} GiB to each.",
        _sharding(cells),
        SHARDS,
    )
    return "\n\n".join(parts)


def _machines(cells: Cells) -> str:
    shard = cells.symbols[-1]
    shards, count = math.ceil(TARGET / shard), max(round(_folds(cells)), 1)
    rounds = math.ceil(shards / MACHINES)
    serial, folds = _split(cells, TARGET)
    shard_serial, shard_folds = _split(cells, shard)
    lines = [
        f"| {MACHINES} machines of | one market of all symbols | {shards} shards of {shard} symbols |",
        "|---|---|---|",
    ]
    for cores in CORES:
        # Whole folds are handed out: the last round may leave workers idle.
        whole = _time(serial + folds * math.ceil(count / (MACHINES * cores)) / count)
        sharded = _time(rounds * (shard_serial + shard_folds * math.ceil(count / cores) / count))
        lines.append(f"| {cores} cores | {whole}, {_time(serial)} of it serial | {sharded}, in {rounds} rounds |")
    return "\n".join(lines)


def _sharding(cells: Cells) -> str:
    shard = cells.symbols[-1]
    held = cells.at(rows_bytes, shard, YEARS) / GIB
    main, worker = (cells.memory(name, shard, YEARS) for name in ("peak_bytes", "worker_peak_bytes"))
    return (
        f"So **shard by symbols**. A shard of {shard} holds {held:.1f} GiB of rows, {main:.1f} GiB at the client's peak and "
        f"{worker:.1f} GiB in its largest worker; machines need nothing of each other, and its cost is close to what was "
        "measured. Give every shard the leading symbols (BTCUSDT and ETHUSDT), whose moves are features of all others, and "
        "keep sectors together. A shard is another model: the pooled members learn from its symbols alone, cross-sectional "
        "features rank among them, and no bit equals the one market's. Compare one shard with the same "
        "symbols of a larger one before trusting many. `--symbols` does not shard: it limits the rows that are written, and "
        "everything is learnt from all. Fill one store a shard:"
    )


def _split(cells: Cells, symbols: int) -> tuple[float, float]:
    """CPU seconds of the serial stages, and of the folds."""
    return sum(cells.at(stage(name), symbols, YEARS) for name in SERIAL), cells.at(stage("folds"), symbols, YEARS)


def _folds(cells: Cells) -> float:
    return cells.at(lambda row: row["folds"], cells.symbols[-1], YEARS)


def _time(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )


HEAD: Final = """# Past one machine

<!-- Generated by `python benchmarks/scaling.py --page docs/scaling.md`; do not edit. -->

`--engine` says where the folds of `forecaster evaluate`, `run` and `features report` are made: `loky`, the default, by
`--jobs` processes of this machine; `dask://HOST:PORT` by the workers of a running Dask cluster. Results are the same to the
byte, and engine and workers are no part of `config_sha256`; a run that was stopped on one engine resumes on another. Every
run prints what it cost."""

SHARDS: Final = """```
forecaster data import --from parquet shard-07/ --table bars --store stores/07     # and its other tables
forecaster evaluate --store stores/07 --start T --end T --out results/07 --jobs 16
```"""

HOW_TO: Final = """## A cluster

Install the same release, with `pip install 'forecaster[cluster]'` and the same lock file, on every machine. Then

```
dask scheduler --host 10.0.0.5 --port 8786
dask worker 10.0.0.5:8786 --nworkers 16 --nthreads 1 --memory-limit 0       # on each machine
forecaster evaluate --store STORE --start T --end T --out DIR --engine dask://10.0.0.5:8786
```

- **`--nthreads 1`.** A worker process makes one fold at a time, so that its bits and its costs are its own; further threads
  would wait. One process a core, fewer where memory is short: each holds the rows and what it fits on.
- **The same bits need the same build.** Before anything is computed, and again when a worker joins later, python, the numeric
  libraries, the processor family and every line of this package are compared; a difference is refused by name (exit 2). Bits
  are promised among processors of one kind: vectorised code may round differently on another.
- **Nothing is shared but the network.** The store is read and results are written by the client alone. Each fold is kept as
  it arrives, so a run that is stopped (exit 8) resumes with what is missing.
- **Lost workers** are replaced: their folds go to others, and the rows are sent again if the last copy went with them. A
  fold that ends worker after worker, most likely for want of memory, and a lost scheduler end the run with exit 8.
- **Trust.** A Dask scheduler runs whatever is sent to it: keep its port on a private network."""

WHY: Final = """## Why the client speaks to Dask itself

joblib has a Dask backend too. Measured with it: an object that holds arrays, but is none, is sent with every task (12 tasks
on 160 MB of rows moved 3.8 GB through loopback; sent ahead, 0.48 GB, which is three copies for two workers); where a cluster
has one thread left, tasks are run in the client without a word; and the number of tasks under way is fixed by the workers
that were there at the start. Sending the rows ahead and submitting every fold at once takes fewer lines and has none of
that."""
