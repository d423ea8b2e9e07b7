"""What a run costs: own work counted once, workers' added, memory as the system sees it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np

from training.costs import Meter, Usage, peak_bytes

MIB = 2**20


def test_tasks_of_other_processes_are_added_and_own_ones_are_not() -> None:
    meter = Meter()
    with meter.stage("work"):
        meter.add(Usage("elsewhere:1", 100.0, 60.0, 300 * MIB))
        meter.add(Usage("elsewhere:1", 50.0, 30.0, 400 * MIB))
        meter.add(Usage("elsewhere:2", 7.0, 0.0, 200 * MIB))
        meter.add(replace(Usage.now(), cpu_s=1000.0))
    costs = meter.costs()
    assert 157.0 <= costs.cpu_s < 160.0
    assert 157.0 <= costs.stages["work"].cpu_s <= costs.cpu_s
    assert costs.lightgbm_cpu_s == 90.0
    assert (costs.workers, costs.worker_peak_bytes) == (2, 400 * MIB)
    assert "400 MiB in the largest of 2 workers" in costs.summary()
    assert "s of CPU (90.0 s inside LightGBM), peak" in costs.summary()


def test_own_work_counts_in_its_stage_and_in_the_whole() -> None:
    meter = Meter()
    with meter.stage("busy"):
        begin = time.process_time()
        while time.process_time() < begin + 0.2:
            pass
    with meter.stage("idle"):
        time.sleep(0.05)
    costs = meter.costs()
    assert costs.stages["busy"].cpu_s >= 0.2
    assert costs.stages["idle"].cpu_s < 0.2
    assert costs.stages["idle"].wall_s >= 0.05
    assert costs.cpu_s >= costs.stages["busy"].cpu_s
    assert (costs.workers, costs.worker_peak_bytes) == (0, None)
    assert "workers" not in costs.summary()


ALLOCATE = """
import json, numpy as np
from training.costs import peak_bytes
before = peak_bytes()
held = np.ones(int(300 * 2**20 / 8))
told = before, peak_bytes()
del held
print(json.dumps([*told, peak_bytes()]))
"""


def test_peak_memory_is_the_process_s_own_highest() -> None:
    """In a child of a process that is larger than it: the system's own count would begin at the parent's peak."""
    held = np.ones(int(600 * MIB / 8))
    done = subprocess.run([sys.executable, "-c", ALLOCATE], capture_output=True, text=True, check=True)
    before, allocated, after = json.loads(done.stdout)
    assert before < peak_bytes() - 200 * MIB
    assert 290 * MIB < allocated - before < 320 * MIB
    assert abs(after - allocated) < MIB
    assert abs(peak_bytes() - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) < 300 * MIB
    assert held.nbytes < peak_bytes()
