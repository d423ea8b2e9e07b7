"""Is the optimum as good as arch's? Every series under every specification, by arch's own likelihood.

    python benchmarks/garch_likelihood.py [--store STORE] [--data DIR] [--series 2000] [--work DIR] [--quick]
    python benchmarks/garch_likelihood.py --only 1234 [--store ...] [--data ...]      # one series, all it is about

Series: six in ten simulated (GARCH, GJR, EGARCH, constant variance, shocks without effect, outliers; normal, Student and
skewed errors; persistence up to one), three in ten windows of the store's symbols (hourly and daily returns), one in ten
windows of daily S&P 500 returns (``realized_library/oxford_man_SPX-*.parquet`` in ``--data``, by default the folder that
the environment variable FORECASTER_REAL_DATA names); what is absent is simulated, and said in the figure's note. 250 to
4,000 returns, in per cent. A series is decided by its number, so any can be made again.

Two peers: arch from its own start, cold, on every series; and the best of five starts of arch on every tenth. Ours is
``fit_many``, cold. Demanded: no fit below arch's by more than 1e-6 of the log-likelihood, and none of those silent (a
certificate without a flag). What is not so, and the narrowest, goes to ``worst.jsonl`` in ``--work``; arch's results are
kept there, so that a run goes on where it stopped and a second run is quick. The ratio of times is told, without a goal:
arch's seconds are those of when its results were made.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, Final

import numpy as np
import pandas as pd
from arch.univariate import SkewStudent
from garch_peer import (
    SPECS,
    Array,
    arch_fit,
    arch_loglikelihood,
    compared,
    gate,
    hourly_returns,
    own_fits,
    specification,
)
from measuring import Gate, Result, Timing, note, of, tell
from threadpoolctl import threadpool_limits

GOAL: Final = "log-likelihood not below arch's, and no silent failure"
CHUNK: Final = 40
LENGTHS: Final = (250, 500, 1000, 2000, 4000)
EVERY_TENTH: Final = 10
PROCESSES: Final = ("garch", "gjr", "egarch", "constant", "no shocks", "outliers")
PERSISTENCE: Final = (0.3, 0.8, 0.95, 0.99, 0.999, 1.0)
# Where the best of five begins besides arch's own start: alpha, gamma, beta.
STARTS: Final = ((0.05, 0.0, 0.94), (0.1, 0.05, 0.8), (0.02, 0.05, 0.95), (0.3, 0.0, 0.6))
WORST: Final = 20


@dataclass(frozen=True)
class Sources:
    """Real returns in per cent by name; empty where a source is absent."""

    hourly: Mapping[str, Array]
    daily: Mapping[str, Array]
    index: Array

    @classmethod
    def of(cls, store: str | None, data: str | None) -> Sources:
        hourly = hourly_returns(store) if store else {}
        daily = {name: x[: x.size // 24 * 24].reshape(-1, 24).sum(axis=1) for name, x in hourly.items()}
        files = sorted(Path(data).glob("realized_library/oxford_man_SPX-*.parquet")) if data else []
        if not files:
            return cls(hourly, daily, np.empty(0))
        close = pd.read_parquet(files[0], columns=["close_price"])["close_price"].to_numpy(np.float64)
        return cls(hourly, daily, 100.0 * np.diff(np.log(close[np.isfinite(close)])))

    @property
    def absent(self) -> str:
        """Which sources simulated series stand in for; empty where all are there."""
        found = {"the store's returns": bool(self.hourly), "daily S&P 500 returns": bool(self.index.size)}
        return " and ".join(name for name, there in found.items() if not there)

    def series(self, number: int) -> tuple[str, Array]:
        """Where series ``number`` comes from, and its returns; chunks share one length."""
        length, rng = LENGTHS[number // CHUNK % len(LENGTHS)], np.random.default_rng([7, number])
        kind = number % EVERY_TENTH
        if kind in (6, 7) and self.hourly:
            return window("hourly", self.hourly, length, rng)
        if kind == 8 and any(x.size >= length for x in self.daily.values()):
            return window("daily", self.daily, length, rng)
        if kind == 9 and self.index.size >= length:
            return window("daily", {"S&P 500": self.index}, length, rng)
        return simulated(length, rng)


def window(what: str, known: Mapping[str, Array], length: int, rng: np.random.Generator) -> tuple[str, Array]:
    """A stretch of one of the series that are long enough."""
    name = str(rng.choice([name for name, x in known.items() if x.size >= length]))
    first = int(rng.integers(0, known[name].size - length + 1))
    return f"{what} {name} from {first}", known[name][first : first + length]


def simulated(length: int, rng: np.random.Generator) -> tuple[str, Array]:
    """A series of random make, of unconditional variance about one (omega is kept where persistence is one)."""
    process, persistence = str(rng.choice(PROCESSES)), float(rng.choice(PERSISTENCE))
    error, z = errors(length + 200, rng)
    alpha = 0.0 if process in ("constant", "no shocks") else float(rng.choice((0.02, 0.05, 0.1, 0.3))) * persistence
    gamma = alpha if process == "gjr" else 0.0
    alpha, beta = alpha - 0.5 * gamma, 0.0 if process == "constant" else persistence - alpha
    omega, variance, log_variance = max(1.0 - persistence, 0.001), 1.0, 0.0
    if process in ("constant", "no shocks"):
        omega = 1.0 - beta
    out = np.empty(z.size)
    for t, shock in enumerate(z):
        out[t] = np.sqrt(variance) * shock
        if process == "egarch":
            log_variance = 0.15 * (abs(shock) - 0.8) - 0.06 * shock + min(persistence, 0.999) * log_variance
            variance = float(np.exp(log_variance))
        else:
            variance = omega + (alpha + gamma * (shock < 0)) * out[t] ** 2 + beta * variance
    out = out[200:]
    if process == "outliers":
        out[rng.choice(length, 3, replace=False)] *= 12.0
    return f"simulated {process}, {error}, persistence {persistence}", out


def errors(count: int, rng: np.random.Generator) -> tuple[str, Array]:
    """Errors of mean zero and variance one."""
    kind = str(rng.choice(("normal", "t", "skewt")))
    if kind == "normal":
        return kind, rng.standard_normal(count)
    tail = float(rng.choice((3.5, 5.0, 10.0)))
    skew = float(rng.choice((-0.3, 0.2))) if kind == "skewt" else 0.0
    draw = SkewStudent(seed=rng).simulate(np.array([tail, skew]))
    return f"{kind} {tail:g} {skew:g}", np.asarray(draw(count), dtype=np.float64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="a store with hourly bars")
    parser.add_argument("--data", default=os.environ.get("FORECASTER_REAL_DATA"), help="folder of real market data")
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--work", default="build/bench/garch-likelihood", help="where arch's results are kept")
    parser.add_argument("--only", type=int, help="one series by its number")
    parser.add_argument("--quick", action="store_true", help="forty series")
    given = parser.parse_args()
    sources = Sources.of(given.store, given.data)
    with threadpool_limits(limits=1):
        if given.only is not None:
            return one(sources, given.only)
        return tell(results(sources, CHUNK if given.quick else given.series, Path(given.work)))


def results(sources: Sources, count: int, work: Path) -> Iterator[Result]:
    specs = [name for name in SPECS if specification(name)]
    default: list[dict[str, Any]] = []
    harder: list[dict[str, Any]] = []
    seconds = {"ours": 0.0, "default": 0.0, "harder": 0.0, "ours harder": 0.0}
    for first in range(0, count, CHUNK):
        numbers = range(first, min(first + CHUNK, count))
        named, windows = zip(*(sources.series(number) for number in numbers), strict=True)
        tenth = [i for i, number in enumerate(numbers) if (number // EVERY_TENTH + number) % EVERY_TENTH == 0]
        for name in specs:
            own, certificates, took = timed(windows, name)
            seconds["ours"] += took
            seconds["ours harder"] += took * len(tenth) / len(windows)
            for rows, peer, chosen in ((default, "default", list(range(len(windows)))), (harder, "harder", tenth)):
                theirs, spent = kept(work, f"{name}-{peer}", numbers, named, [windows[i] for i in chosen], name)
                seconds[peer] += spent
                found = compared(
                    [windows[i] for i in chosen], name, own[chosen], [certificates[i] for i in chosen], theirs
                )
                rows += [{"series": numbers[i], "of": named[i], **row} for i, row in zip(chosen, found, strict=True)]
        note(f"{numbers.stop} of {count} series: {gate(default).figures}")
    write_worst(work / "worst.jsonl", default, harder)
    for case, rows, own_s, peer_s in (
        ("arch from its own start", default, seconds["ours"], seconds["default"]),
        ("arch, the best of five starts, every tenth series", harder, seconds["ours harder"], seconds["harder"]),
    ):
        told = f"{len(rows)} fits of {len({row['series'] for row in rows})} series under {', '.join(specs)}"
        told += f"; {sources.absent} absent, simulated series in their place" if sources.absent else ""
        yield Result(GOAL, case, of("arch"), Timing((own_s,), (peer_s,), judged(rows)), note=told)


def judged(rows: list[dict[str, Any]]) -> Gate:
    """The common gate, and its verdicts by specification."""
    found = gate(rows)
    by_spec = {
        name: {
            verdict: sum(row["spec"] == name and row["verdict"] == verdict for row in rows)
            for verdict in sorted({row["verdict"] for row in rows})
        }
        for name in sorted({row["spec"] for row in rows})
    }
    return Gate(found.passed, found.what, {**found.figures, "by_specification": by_spec})


def timed(windows: tuple[Array, ...], name: str) -> tuple[Array, Any, float]:
    begin = process_time()
    params, certificates = own_fits(np.stack(windows), name)
    return params, certificates, process_time() - begin


def kept(
    work: Path, label: str, numbers: range, named: tuple[str, ...], windows: list[Array], name: str
) -> tuple[Array, float]:
    """arch's parameters (n, k) and its CPU seconds, from the folder where they are there for these very series."""
    file = work / f"{of('arch').replace(' ', '-')}-{label}-{numbers.start}.json"
    series = {"named": list(named), "sum": [float(np.abs(x).sum()) for x in windows]}
    if file.exists() and (held := json.loads(file.read_text()))["series"] == series:
        return np.array(held["params"]), held["seconds"]
    begin = process_time()
    params = np.stack([(best_of_five if label.endswith("harder") else arch_fit)(x, name) for x in windows])
    spent = process_time() - begin
    work.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps({"series": series, "seconds": spent, "params": params.tolist()}))
    beside.replace(file)
    return params, spent


def best_of_five(x: Array, name: str) -> Array:
    """The best of arch's optima from its own start and four others."""
    optima = [arch_fit(x, name), *(arch_fit(x, name, start) for start in starts(x, name))]
    return max(optima, key=lambda params: arch_loglikelihood(x, name, params))


def starts(x: Array, name: str) -> Iterator[Array]:
    spec, variance = SPECS[name], float(np.mean(x**2))
    shape = {"normal": [], "t": [5.0], "skewt": [5.0, 0.0]}[spec["dist"]]
    for alpha, gamma, beta in STARTS:
        if spec.get("vol") == "EGARCH":
            yield np.array([(1 - beta) * np.log(variance), 2 * alpha, -gamma, beta, *shape])
        else:
            threshold = [gamma] * spec["o"]
            omega = variance * max(1 - alpha - 0.5 * sum(threshold) - beta, 1e-3)
            yield np.array([omega, alpha, *threshold, beta, *shape])


def write_worst(file: Path, default: list[dict[str, Any]], harder: list[dict[str, Any]]) -> None:
    """Every fit that is neither better nor equal, and the narrowest of the others."""
    lines = []
    for peer, rows in (("own start", default), ("best of five", harder)):
        order = sorted(rows, key=lambda row: row["gap"])
        bad = [row for row in order if row["verdict"] not in ("better", "equal")]
        lines += [json.dumps({"peer": peer, **row}) for row in bad + [row for row in order if row not in bad][:WORST]]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def one(sources: Sources, number: int) -> int:
    """Everything about one series: a JSON line a specification and peer."""
    named, x = sources.series(number)
    for name in (name for name in SPECS if specification(name)):
        own, certificates = own_fits(x[None], name)
        for peer, theirs in (("own start", arch_fit(x, name)), ("best of five", best_of_five(x, name))):
            row = compared(x[None], name, own, certificates, theirs[None])[0]
            print(json.dumps({"series": number, "of": named, "peer": peer, **row}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
