from __future__ import annotations

from itertools import product

import pytest

from features.errors import UsageError
from forecaster.policy.audit.rollout import Evidence, Limits, Stage, State, advance, applies, gather

LIMITS = Limits(block_origins=6, coverage_ppm=800_000, silent_steps=2, canaries=("AUSDT",))
STEPS = [Evidence(n, m, b) for n, m, b in product(range(4), range(4), range(2)) if m <= n]
RANK = {Stage.SHADOW: 0, Stage.CANARY: 1, Stage.LIVE: 2}


def explore() -> dict[State, dict[Evidence, tuple[State, str]]]:
    """Every reachable state, and where each evidence leads from it."""
    graph: dict[State, dict[Evidence, tuple[State, str]]] = {}
    waiting = [State()]
    while waiting:
        state = waiting.pop()
        if state not in graph:
            graph[state] = {step: advance(state, step, LIMITS) for step in STEPS}
            waiting += [after for after, _ in graph[state].values()]
    return graph


GRAPH = explore()
EDGES = [(state, step, *found) for state, ways in GRAPH.items() for step, found in ways.items()]


def test_all_of_every_stage_is_reached_and_nothing_beyond_its_block():
    assert {state.stage for state in GRAPH} == set(Stage)
    held = all(s.origins < 6 and s.misses <= LIMITS.misses == 1 and s.silent <= 2 for s in GRAPH)
    assert held
    # Of the 6 * 2 - 1 pairs (origins, misses <= origins) silence has 3 values each.
    assert len(GRAPH) == 3 * 11 * 3


def test_a_stage_is_passed_only_on_a_full_block_that_covers_and_breaks_no_bound():
    for state, step, after, why in EDGES:
        if RANK[after.stage] > RANK[state.stage]:
            assert RANK[after.stage] == RANK[state.stage] + 1
            assert why == "PASSED"
        if why == "PASSED":
            assert state.origins + step.origins >= 6
            assert state.misses + step.misses <= 1
            assert step.breaches == 0


def test_every_breach_missed_block_and_long_silence_retreats_to_shadow():
    for state, step, after, why in EDGES:
        bad = step.breaches > 0 or state.misses + step.misses > 1 or (step.origins == 0 and state.silent == 2)
        assert (why in ("BOUNDS", "COVERAGE", "SILENCE")) is bad
        if bad:
            assert after == State()
        else:
            assert RANK[after.stage] >= RANK[state.stage]


def test_live_is_reached_from_everywhere_by_good_evidence_and_only_through_two_full_blocks():
    for start in GRAPH:
        state = start
        for _ in range(6 * 3):
            state, _ = advance(state, Evidence(1, 0, 0), LIMITS)
        assert state.stage is Stage.LIVE
    state, path = State(), []
    for _ in range(12):
        path.append(state.stage)
        state, _ = advance(state, Evidence(1, 0, 0), LIMITS)
    assert path == [Stage.SHADOW] * 6 + [Stage.CANARY] * 6
    assert state == State(Stage.LIVE)


def test_who_is_served_at_each_stage():
    assert [applies(stage, "AUSDT", LIMITS) for stage in Stage] == [False, True, True]
    assert [applies(stage, "BUSDT", LIMITS) for stage in Stage] == [False, False, True]


def test_evidence_counts_resolved_origins_alone():
    lines = [{"symbol": "A", "as_of": str(i), "im_ppm": 100} for i in range(4)]
    excursions = {("A", "0"): 100, ("A", "1"): 101, ("B", "2"): 500, ("A", "3"): 0}
    assert gather(lines, excursions, 2) == Evidence(3, 1, 2)


def test_absurd_constants_and_counts_are_refused():
    for values in ((0, 1, 0, ("A",)), (1, 0, 0, ("A",)), (1, 1, -1, ("A",)), (1, 1, 0, ())):
        with pytest.raises(UsageError):
            Limits(*values)
    for counts in ((1, 2, 0), (-1, -1, 0), (1, 0, -1)):
        with pytest.raises(UsageError):
            Evidence(*counts)
