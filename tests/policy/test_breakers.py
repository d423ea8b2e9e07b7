"""Breakers: each trips for its cause alone; their actions escalate, end, and spare who was moved while halted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import pytest

from forecaster.policy import Params
from forecaster.policy.breakers import BREAKERS, Action, may_liquidate, tripped
from forecaster.policy.governor import next_action
from forecaster.policy.inputs import read
from forecaster.policy.margin import targets
from forecaster.policy.modes import rules
from forecaster.policy.types import HOUR

START = pd.DatetimeIndex(["2024-03-01T00:00Z"]).as_unit("us")
SIGMA = 0.005


def trips(rows_of: Callable[..., pd.DataFrame], params: Params, **seen: float) -> set[str]:
    known = {"daily_volume_usd": 1e9, "depth_median": 1e9 / (SIGMA**2 * 24)} | seen
    row = rows_of("BTCUSDT", START, np.array([SIGMA])).assign(**{f"obs_{k}": v for k, v in known.items()})
    inputs = read(row, params)
    found = tripped(inputs, targets(inputs, params), params)
    assert tuple(found) == BREAKERS
    assert all(flags.dtype == np.bool_ and flags.shape == (1,) for flags in found.values())
    return {name for name, flags in found.items() if flags[0]}


def test_each_breaker_trips_for_its_cause_alone(rows_of: Callable[..., pd.DataFrame], params: Params) -> None:
    five_minutes = 8 * SIGMA / np.sqrt(12)
    inputs = read(rows_of("BTCUSDT", START, np.array([SIGMA])).assign(obs_daily_volume_usd=1e9), params)
    target = int(targets(inputs, params).insurance_usd[0])
    assert target > 0
    cases: list[tuple[dict[str, float], set[str]]] = [
        ({}, set()),
        ({"hour_move": 0.0999}, set()),
        ({"hour_move": 0.10}, {"CB1"}),
        ({"five_minute_move": five_minutes * 0.999}, set()),
        ({"five_minute_move": five_minutes * 1.001}, {"CB1"}),
        ({"oracle_gap": 0.0099}, set()),
        ({"oracle_gap": 0.0101}, {"CB2"}),
        ({"oracle_gap": 0.0101, "daily_volume_usd": 5e7, "depth_median": np.nan}, set()),
        ({"oracle_gap": 0.0201, "daily_volume_usd": 5e7, "depth_median": np.nan}, {"CB2"}),
        ({"oracle_gap": 0.0499, "daily_volume_usd": np.nan, "depth_median": np.nan}, set()),
        ({"oracle_gap": 0.0501, "daily_volume_usd": np.nan, "depth_median": np.nan}, {"CB2"}),
        ({"mark_gap": 0.0099}, set()),
        ({"mark_gap": 0.0101}, {"CB2"}),
        ({"mark_gap": 0.0101, "oracle_gap": 0.0}, {"CB2"}),
        ({"mark_gap": 0.0, "oracle_gap": 0.0101}, {"CB2"}),
        ({"depth_median": 1e300, "daily_volume_usd": np.nan}, set()),  # depth is not known without a volume
        ({"depth_median": 1e-9, "daily_volume_usd": 0.0}, {"CB3"}),
        ({"depth_median": 4.9e9 / (SIGMA**2 * 24)}, set()),
        ({"depth_median": 5.1e9 / (SIGMA**2 * 24)}, {"CB3"}),
        ({"insurance_fund_usd": 0.26 * target}, set()),
        ({"insurance_fund_usd": 0.24 * target}, {"CB4"}),
        ({"insurance_fund_usd": -1.0}, {"CB4"}),
    ]
    for seen, wanted in cases:
        assert trips(rows_of, params, **seen) == wanted, seen


@dataclasses.dataclass(frozen=True)
class Standing:
    """The action in force, and the hour since which it is."""

    action: Action = Action.CLEAR
    since: int = 0


def advance(standing: Standing, trips: bool, hour: int, params: Params) -> Standing:
    action, since = next_action(standing.action, standing.since * HOUR, hour * HOUR, trips, rules(params))
    return Standing(Action(action), since // HOUR)


def reachable(params: Params) -> dict[tuple[Action, int], set[tuple[Action, int]]]:
    """Every (action, hours it has lasted) that any sequence of trips leads to, with its successors."""
    edges: dict[tuple[Action, int], set[tuple[Action, int]]] = {}
    frontier = {(Action.CLEAR, 0)}
    while frontier:
        state = frontier.pop()
        action, lasted = state
        after = set()
        for flag in (False, True):
            standing = advance(Standing(action, 0), flag, lasted, params)
            begun = standing.action is not action
            assert standing.since == (lasted if begun else 0)
            # Clear stands for ever; how long does not matter.
            hours = 0 if begun or action is Action.CLEAR else lasted
            after.add((standing.action, hours + (standing.action is not Action.CLEAR)))
        edges[state] = after
        frontier |= after - set(edges)
    return edges


DURATIONS = list(product([1, 2], [1, 4], [1, 2], [1, 3], [1, 2], [1, 2]))


@pytest.mark.parametrize("hours", DURATIONS, ids=str)
def test_every_state_ends_in_clear_whatever_trips(params: Params, hours: tuple[int, ...]) -> None:
    names = ("escalate", "reduce_only", "price_band", "halt", "withdraw_gate", "grace")
    limits = {f"{name}_hours": value for name, value in zip(names, hours, strict=True)}
    pack = dataclasses.replace(params, breakers=dataclasses.replace(params.breakers, **limits))
    edges = reachable(pack)
    reached = {action for action, _ in edges}
    assert reached == set(Action)
    longest = sum(limits[f"{name}_hours"] for name in names[1:])
    for state in edges:
        for flag in (False, True):
            standing, hour, path = Standing(state[0], -state[1]), 0, []
            while standing.action is not Action.CLEAR:
                path.append(standing.action)
                standing = advance(standing, flag, hour, pack)
                hour += 1
                assert hour <= longest + 1, "no way back to clear"
            if Action.HALT in path or Action.WITHDRAW_GATE in path:
                assert path[-1] is Action.GRACE
            order = [a for a, b in zip(path, [None, *path], strict=False) if a is not b]
            assert order == sorted(order), "actions do not escalate in their order"


def test_a_halt_lasts_no_longer_than_it_may_and_is_followed_by_grace(params: Params) -> None:
    standing, seen = Standing(), []
    for hour in range(30):
        standing = advance(standing, True, hour, params)
        seen.append(standing.action)
    run = seen[: seen.index(Action.GRACE) + 1]
    assert run == [1, 2, 3, 4, 4, 5]
    limits = params.breakers
    stretch = sum(action in (Action.HALT, Action.WITHDRAW_GATE) for action in run)
    assert stretch <= limits.halt_hours + limits.withdraw_gate_hours


def test_without_a_cause_the_first_action_lasts_its_time(params: Params) -> None:
    standing = advance(Standing(), True, 100, params)
    ends = [advance(standing, False, 100 + h, params).action for h in range(1, 6)]
    assert ends == [Action.REDUCE_ONLY] * 3 + [Action.CLEAR] * 2


def test_nobody_is_liquidated_for_a_move_made_while_halted() -> None:
    for action, now, then in product(Action, (False, True), (False, True)):
        allowed = may_liquidate(action, now, then)
        if action in (Action.HALT, Action.WITHDRAW_GATE) or not now:
            assert not allowed
        elif action is Action.GRACE:
            assert allowed == then
        else:
            assert allowed
