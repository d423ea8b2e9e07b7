"""How every goal of speed is measured and told.

    from measuring import Gate, Result, paired, tell      # benchmarks run as scripts, this folder is their first path

Ours and the peer run in one process on the same data, in turn, and which of them goes first alternates, so that a slow
spell of the machine meets both. The figure is the median of the rounds' ratios, of CPU time (``time.process_time``: all
threads of the process) unless a clock is given. One round before the measured ones compiles and fills caches; its results
go to the quality gate, and where the gate fails nothing is timed: the ratio is null. ``child`` measures whole processes.

    timing = paired(ours, peer, rounds=5, gate=check)     # check(ours(), peer()) -> Gate
    sys.exit(tell([Result("warm refit", "GJR-t", "arch 8.0.0", timing, floor=200, aim=800)]))

One JSON object a line on stdout, one line a figure; progress goes to stderr. ``page.py`` turns the lines into a page.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

__all__ = [
    "ONE_THREAD",
    "Child",
    "Gate",
    "Result",
    "Timing",
    "child",
    "machine",
    "note",
    "of",
    "paired",
    "tell",
    "undated",
]

Ours = TypeVar("Ours")
Theirs = TypeVar("Theirs")

ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
LIBRARIES: Final = (
    "arch", "dask", "hmmlearn", "joblib", "jumpmodels", "lightgbm", "numba", "numpy", "pandas", "pyarrow", "scipy",
)  # fmt: skip
# A child's peak memory starts at that of whoever spawned it, so a small process stands between.
LAUNCHER: Final = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, used = os.wait4(process.pid, 0)
figures = {"cpu_s": used.ru_utime + used.ru_stime, "wall_s": time.perf_counter() - begin, "rss": used.ru_maxrss}
with open(int(sys.argv[1]), "w") as out:
    json.dump(figures | {"code": os.waitstatus_to_exitcode(status)}, out)
"""


@dataclass(frozen=True)
class Gate:
    """Whether the results are good enough for their speed to count: ``what`` was asked, and the figures found."""

    passed: bool
    what: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, ours and the peer's in pairs (none where the gate failed), and the gate."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]
    gate: Gate

    @property
    def ratios(self) -> list[float]:
        """How many times longer the peer took, one a round."""
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]


@dataclass(frozen=True)
class Result:
    """One figure. ``floor`` and ``aim`` are the ratios asked for; None where the case has no goal of its own."""

    goal: str
    case: str
    peer: str
    timing: Timing
    floor: float | None = None
    aim: float | None = None
    note: str = ""

    def line(self) -> str:
        """The figure as one line of JSON, with the facts of the machine that it was measured on."""
        gate, ratios = self.timing.gate, self.timing.ratios if self.timing.gate.passed else []
        facts = {
            "goal": self.goal,
            "case": self.case,
            "ours_s": _median(self.timing.ours),
            "peer_s": _median(self.timing.peer),
            "peer": self.peer,
            "ratio": _median(ratios),
            "low": min(ratios, default=None),
            "high": max(ratios, default=None),
            "rounds": len(ratios),
            "floor": self.floor,
            "aim": self.aim,
            "gate": {"passed": gate.passed, "what": gate.what, **gate.figures},
            "note": self.note,
            "machine": machine(),
        }
        return json.dumps(facts, default=_plain)


def paired(
    ours: Callable[[], Ours],
    peer: Callable[[], Theirs],
    rounds: int = 5,
    *,
    gate: Callable[[Ours, Theirs], Gate] | None = None,
    clock: Callable[[], float] = time.process_time,
) -> Timing:
    """Run both once for the gate, then time them in turn, ``rounds`` times each, the order alternating.

    ``clock=time.perf_counter`` measures wall time. Whoever has no results to compare passes no gate.
    """
    first = ours(), peer()
    found = gate(*first) if gate else Gate(True, "none: nothing to compare")
    del first
    if not found.passed:
        return Timing((), (), found)
    pairs = []
    for number in range(rounds):
        order: list[tuple[int, Callable[[], object]]] = [(0, ours), (1, peer)]
        seconds = [0.0, 0.0]
        for who, run in order if number % 2 == 0 else reversed(order):
            begin = clock()
            run()
            seconds[who] = clock() - begin
        pairs.append(seconds)
    return Timing(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs), found)


@dataclass(frozen=True)
class Child:
    """A finished process: CPU seconds (user and system), wall seconds, peak memory, and its standard output."""

    cpu_s: float
    wall_s: float
    peak_mib: float
    told: str


def child(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
    """Run a command to its end in a process of its own, with one BLAS thread; ``RuntimeError`` where it fails."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as measured:
        done = subprocess.run(
            [sys.executable, "-S", "-c", LAUNCHER, str(writer), *command],
            env={**os.environ, **ONE_THREAD, **(environment or {})},
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[writer],
            check=False,
        )
        os.close(writer)
        figures = json.loads(measured.read() or '{"code": "no"}')
    if figures["code"] != 0:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {figures['code']}: {done.stdout[-500:]}")
    return Child(figures["cpu_s"], figures["wall_s"], figures["rss"] / 1024, done.stdout)


def tell(results: Iterable[Result]) -> int:
    """Print each result as soon as it is there; the exit code: 1 where a gate failed."""
    failed = False
    for result in results:
        print(result.line(), flush=True)
        failed |= not result.timing.gate.passed
    return int(failed)


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def of(library: str) -> str:
    """A library's name and installed version, such as ``arch 8.0.0``."""
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"{library} (not installed)"


@cache
def machine() -> dict[str, Any]:
    """What the figures depend on: processor, memory, versions, and the date; nothing that names the machine."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": [of(name) for name in LIBRARIES if "not installed" not in of(name)],
    }


def undated(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a machine without the date: what must be equal for two figures to be comparable."""
    return {name: fact for name, fact in facts.items() if name != "date"}


def _cpu() -> str:
    """The processor's name where the system tells it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _plain(value: Any) -> Any:
    """A numpy scalar or array as Python's own kind."""
    return value.tolist()
