"""The goals of the venue, judged on rows whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from forecaster.venue.goals import BASELINES, dominated, judge


def row(policy: str, short: float | None, induced: float | None, ratio: float) -> dict[str, Any]:
    return {
        "policy": policy, "symbol": "*", "window": "all", "shortfall_bps_oi_year": short,
        "policy_induced_liquidations_per_oi_year": induced, "peak_to_trough": ratio, "adl_haircut_ratio": 1.0,
    }  # fmt: skip


def rows(short: float | None, induced: float | None, ratio: float, **others: tuple[float, float, float]) -> list[Any]:
    told = dict.fromkeys(BASELINES, (9.0, 9.0, 9.0)) | others
    return [row("ensemble", short, induced, ratio), *(row(name, *values) for name, values in told.items())]


@pytest.mark.parametrize(
    ("own", "others", "level"),
    [
        ((5.0, 1.0, 4.0), {"static": (1.0, 0.0, 1.0)}, "below floor"),
        ((5.0, 1.0, 4.0), {"static": (5.0, 1.0, 4.0), "ewma": (4.0, 9.0, 9.0)}, "floor"),
        ((5.0, 1.0, 4.3), {}, "floor"),
        ((5.0, 5.0, 4.0), {"fhs": (5.0, 9.0, 9.0)}, "target"),
        ((5.0, 4.0, 4.0), {"fhs": (5.0, 9.0, 9.0)}, "moonshot"),
        ((None, None, 4.0), {}, "not measured"),
    ],
)
def test_frontier(own: tuple[Any, Any, float], others: dict[str, Any], level: str) -> None:
    frontier, _ = judge(rows(*own, **others), {"adl_haircut_ratio": 1.2}, 1.0)
    assert frontier["reached"] == level


def test_a_draw_in_everything_dominates_nothing() -> None:
    one, same, better = row("a", 1, 1, 2), row("b", 1, 1, 2), row("c", 1, 0.5, 2)
    assert not dominated(one, same)
    assert dominated(one, better)
    assert not dominated(better, one)
    assert not dominated(row("d", None, 1, 2), better)


@pytest.mark.parametrize(
    ("derived", "queue", "level"),
    [(0.99, 1.2, "below floor"), (1.0, 0.9, "floor"), (1.0, 1.2, "moonshot"), (None, 1.2, "not measured")],
)
def test_integrity_and_haircut(derived: float | None, queue: float, level: str) -> None:
    _, integrity = judge(rows(5.0, 1.0, 4.0), {"adl_haircut_ratio": queue}, derived)
    assert integrity["reached"] == level
