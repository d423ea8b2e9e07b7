"""How speed is measured: in turn, after the gate, one line a figure."""

from __future__ import annotations

import json
import socket
import sys

import numpy as np
import pytest
from measuring import Gate, Result, Timing, child, machine, paired, tell


class Bench:
    """Ours takes one second on a clock of its own and the peer three, and ``calls`` keeps who ran."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, ""

    def ours(self) -> str:
        self.now += 1.0
        self.calls += "o"
        return "own"

    def peer(self) -> str:
        self.now += 3.0
        self.calls += "p"
        return "other"

    def clock(self) -> float:
        return self.now


def test_both_run_in_turn_and_the_order_alternates_after_a_round_that_is_not_timed() -> None:
    bench = Bench()
    timing = paired(bench.ours, bench.peer, 3, clock=bench.clock)
    assert bench.calls == "op" + "op" + "po" + "op"
    assert timing == Timing((1.0,) * 3, (3.0,) * 3, timing.gate)
    assert timing.ratios == [3.0] * 3


def test_the_gate_judges_the_results_of_both_before_anything_is_timed() -> None:
    bench, seen = Bench(), []

    def gate(ours: str, peer: str) -> Gate:
        seen.append((ours, peer, bench.calls))
        return Gate(False, "equal", {"gap": np.float64(0.5)})

    timing = paired(bench.ours, bench.peer, 5, gate=gate, clock=bench.clock)
    assert seen == [("own", "other", "op")]
    assert bench.calls == "op"
    line = json.loads(Result("goal", "case", "peer 1", timing, floor=2).line())
    assert line["ratio"] is None
    assert line["ours_s"] is None
    assert line["gate"] == {"passed": False, "what": "equal", "gap": 0.5}


def test_a_failed_gate_voids_seconds_that_were_taken_all_the_same() -> None:
    line = json.loads(Result("goal", "case", "peer 1", Timing((1.0,), (9.0,), Gate(False, "equal"))).line())
    assert (line["ratio"], line["low"], line["high"], line["rounds"]) == (None, None, None, 0)


def test_a_line_holds_the_median_and_the_range_of_the_ratios() -> None:
    timing = Timing((1.0, 2.0, 4.0), (10.0, 10.0, 10.0), Gate(True, "equal"))
    line = json.loads(Result("goal", "case", "peer 1", timing, floor=2, aim=8, note="n").line())
    assert line | {"machine": {}, "gate": {}} == {
        "goal": "goal", "case": "case", "ours_s": 2.0, "peer_s": 10.0, "peer": "peer 1", "ratio": 5.0, "low": 2.5,
        "high": 10.0, "rounds": 3, "floor": 2, "aim": 8, "gate": {}, "note": "n", "machine": {},
    }  # fmt: skip


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_tells_of_a_failed_gate(passed: bool, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    good, judged = Gate(True, "equal"), Gate(passed, "equal")
    results = [Result("goal", str(k), "peer", Timing((1.0,), (1.0,), gate)) for k, gate in enumerate((judged, good))]
    assert tell(results) == code
    assert [json.loads(line)["case"] for line in capsys.readouterr().out.splitlines()] == ["0", "1"]


def test_a_child_is_measured_alone_and_with_one_blas_thread() -> None:
    held = np.ones(40_000_000)  # 300 MiB that a child must not be charged with
    program = "import os, time\nwhile time.process_time() < 0.2: pass\nprint(os.environ['OMP_NUM_THREADS'])"
    done = child([sys.executable, "-S", "-c", program])
    assert done.told == "1\n"
    assert done.cpu_s >= 0.2
    assert done.peak_mib < 100 < held.nbytes / 2**20


def test_a_child_that_fails_is_an_error_that_names_it() -> None:
    with pytest.raises(RuntimeError, match=r"raise SystemExit\(3\) ended with exit code 3"):
        child([sys.executable, "-S", "-c", "raise SystemExit(3)"])


def test_machine_facts_name_no_machine() -> None:
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0
    assert f"numpy {np.__version__}" in facts["libraries"]
    assert socket.gethostname() not in json.dumps(facts).replace("localhost", "")
