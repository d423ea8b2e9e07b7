"""What a run costs, in this process and in those that work for it.

Costs are told beside results and never kept with them: a result is the same to the byte when it is made again, a cost is not.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from models.boosting import train_time

__all__ = ["Costs", "Meter", "Stage", "Usage", "peak_bytes"]

MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """CPU seconds in a process, those of them inside LightGBM (bins and trees), and the process's peak resident memory.

    ``process`` tells apart processes of different machines, too.
    """

    process: str
    cpu_s: float
    lightgbm_cpu_s: float
    peak_bytes: int

    @classmethod
    def now(cls) -> Self:
        """Of this process since it began."""
        return cls(_process(os.getpid()), time.process_time(), train_time(), peak_bytes())

    def since(self, earlier: Usage) -> Usage:
        """What was used after an earlier reading in the same process."""
        return Usage(
            self.process,
            self.cpu_s - earlier.cpu_s,
            self.lightgbm_cpu_s - earlier.lightgbm_cpu_s,
            self.peak_bytes,
        )


@dataclass(frozen=True)
class Stage:
    """One part of a run: wall seconds, CPU seconds of this process and of tasks, and this process's peak memory at its end."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Costs:
    """Wall seconds; CPU seconds of this process and of all tasks, and those inside LightGBM; peak resident memory.

    ``lightgbm_cpu_s`` counts what ``models.boosting.train_time`` does. What a worker took to start is no part of a task.
    ``peak_bytes`` is of this process, ``worker_peak_bytes`` of the largest of the ``workers`` processes that worked for it
    (None without any). Memory that processes map together, such as the rows, counts in each of them.
    """

    wall_s: float
    cpu_s: float
    lightgbm_cpu_s: float
    peak_bytes: int
    worker_peak_bytes: int | None
    workers: int
    stages: Mapping[str, Stage]

    def summary(self) -> str:
        """One line."""
        text = (
            f"cost: {self.wall_s:.1f} s, {self.cpu_s:.1f} s of CPU ({self.lightgbm_cpu_s:.1f} s inside LightGBM), "
            f"peak memory {self.peak_bytes / MIB:,.0f} MiB"
        )
        if self.worker_peak_bytes is None:
            return text
        return f"{text}, {self.worker_peak_bytes / MIB:,.0f} MiB in the largest of {self.workers} workers"


class Meter:
    """Counts what a run costs from now on."""

    def __init__(self) -> None:
        self._began, self._first = time.perf_counter(), Usage.now()
        self._workers: dict[str, int] = {}
        self._cpu = self._lightgbm = 0.0
        self._stages: dict[str, Stage] = {}

    def add(self, usage: Usage) -> None:
        """Count a task that was run for this process; one that it ran itself is counted already."""
        if usage.process == self._first.process:
            return
        self._cpu += usage.cpu_s
        self._lightgbm += usage.lightgbm_cpu_s
        self._workers[usage.process] = max(usage.peak_bytes, self._workers.get(usage.process, 0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what is done inside as a part of the run."""
        wall, cpu = time.perf_counter(), self._cpu_s
        try:
            yield
        finally:
            self._stages[name] = Stage(time.perf_counter() - wall, self._cpu_s - cpu, peak_bytes())

    def costs(self) -> Costs:
        """What was counted up to now."""
        own = Usage.now().since(self._first)
        return Costs(
            wall_s=time.perf_counter() - self._began,
            cpu_s=own.cpu_s + self._cpu,
            lightgbm_cpu_s=own.lightgbm_cpu_s + self._lightgbm,
            peak_bytes=own.peak_bytes,
            worker_peak_bytes=max(self._workers.values(), default=None),
            workers=len(self._workers),
            stages=dict(self._stages),
        )

    @property
    def _cpu_s(self) -> float:
        return time.process_time() + self._cpu


def peak_bytes() -> int:
    """Peak resident memory of this process.

    Read from ``/proc`` where there is one: ``getrusage`` starts a process at the peak of the one that spawned it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@cache
def _process(pid: int) -> str:
    return f"{platform.node()}:{pid}"
