from __future__ import annotations

from itertools import pairwise

import pytest

from training.goals import GOALS, LEVELS, Demand, Figure, Goal, judge, tripped

GOAL = Goal("X", "both", (Demand("up", (1.0, 2.0, 3.0)), Demand("band", ((0.0, 9.0), (4.0, 6.0), None))))
LESS = Goal("Y", "less is better", (Demand("down", (0.1, 0.0, -0.05), most=True),))
ONCE = Goal("Z", "reported", (Demand("up", (0.0, None, None)),))


def figures(**values: float | None) -> dict[str, Figure]:
    return {name: Figure.of(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("goal", "values", "reached"),
    [
        (GOAL, {"up": 0.9, "band": 5.0}, "below floor"),
        (GOAL, {"up": 1.0, "band": 5.0}, "floor"),
        (GOAL, {"up": 3.5, "band": 9.5}, "below floor"),
        (GOAL, {"up": 3.5, "band": 7.0}, "floor"),
        (GOAL, {"up": 2.5, "band": 6.0}, "target"),
        (GOAL, {"up": 3.0, "band": 4.0}, "moonshot"),
        (GOAL, {"up": 3.0, "band": None}, "not measured"),
        (GOAL, {"up": 3.0}, "not measured"),
        (LESS, {"down": 0.11}, "below floor"),
        (LESS, {"down": 0.1}, "floor"),
        (LESS, {"down": -0.01}, "target"),
        (LESS, {"down": -0.05}, "moonshot"),
        (ONCE, {"up": 7.0}, "floor"),
    ],
)
def test_a_level_takes_every_demand_up_to_it(goal: Goal, values: dict[str, float | None], reached: str) -> None:
    assert goal.reached(figures(**values)) == reached


def test_no_number_is_no_figure_and_says_why() -> None:
    assert Figure.of(float("nan")).value is None
    assert Figure.of(float("nan")).why
    assert Figure.of(None, why="too short").why == "too short"


def test_every_row_of_the_table_is_told_even_when_nothing_was_measured() -> None:
    table = judge({})
    assert [row["goal"] for row in table] == [
        *("A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "B1", "B2", "B3", "B4", "B5", "C1", "C2", "C3", "C4", "C5"),
        *("D1", "D2", "72 h"),
    ]
    assert {row["reached"] for row in table} == {"not measured"}
    assert all(figure["why"] for row in table for figure in row["figures"])


def test_bounds_grow_stricter_from_level_to_level() -> None:
    for demand in (demand for goal in GOALS for demand in goal.demands):
        bounds = [bound for bound in demand.bounds if bound is not None]
        for easy, hard in pairwise(bounds):
            if isinstance(easy, tuple) and isinstance(hard, tuple):
                assert easy[0] <= hard[0] < hard[1] <= easy[1]
            elif not isinstance(easy, tuple) and not isinstance(hard, tuple):
                assert (hard <= easy) if demand.most else (hard >= easy)
    assert LEVELS == ("floor", "target", "moonshot")


@pytest.mark.parametrize(
    ("name", "value", "suspect"),
    [
        ("vs har_seasonal, 1 h", 0.151, True),
        ("vs har_seasonal, 1 h", 0.149, False),
        ("vs har_seasonal, 4 h", 0.201, True),
        ("vs har_seasonal, 4 h", 0.19, False),
        ("vs har_seasonal, 24 h", 0.251, True),
        ("vs har_seasonal, 24 h", 0.24, False),
        ("onset skill, 24 h", 0.301, True),
        ("onset skill, 24 h", 0.29, False),
        ("vs garch, 1 h", 0.9, False),
    ],
)
def test_what_is_too_good_trips_a_wire(name: str, value: float, suspect: bool) -> None:
    assert bool(tripped({name: Figure.of(value)}, symbol_years=5)) == suspect


@pytest.mark.parametrize(
    ("share", "symbol_years", "suspect"), [(1.0, 36, True), (1.0, 24, True), (1.0, 23, False), (0.97, 36, False)]
)
def test_tests_that_nothing_fails_are_suspect_where_there_were_many(
    share: float, symbol_years: int, suspect: bool
) -> None:
    passes = {f"pass {test}, 1 h": Figure.of(1.0) for test in ("Kupiec", "Christoffersen")}
    found = tripped(passes | {"pass DQ, 1 h": Figure.of(share)}, symbol_years)
    assert bool(found) == suspect
