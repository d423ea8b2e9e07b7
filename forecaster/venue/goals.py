"""The goals that the simulated venue decides (rows 9 and 10), from a scoreboard's rows and a replayed schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from forecaster.policy.comparison.goals import told
from forecaster.policy.comparison.rows import ALL, WHOLE
from training.goals import Demand, Figure, Goal

__all__ = ["FRONTIER", "GOALS", "judge"]

FRONTIER: Final = ("shortfall_bps_oi_year", "policy_induced_liquidations_per_oi_year", "peak_to_trough")
"""Protection, what the policy itself did to accounts, and how far it moves: less is better in each."""
BASELINES: Final = ("static", "exchange", "ewma", "fhs", "fhs_apc")

GOALS: Final = (
    Goal(
        "9",
        "simulated venue: shortfall, policy-made liquidations, peak-to-trough",
        (
            Demand("baselines as good in all three", (0.0, 0.0, 0.0), most=True, unit="number"),
            Demand("shortfall less ewma's, bp", (None, 0.0, 0.0), most=True, unit="number"),
            Demand("peak_to_trough at equal mean margin", (None, 4.2, 4.2), most=True, unit="number"),
            Demand("shortfall less fhs's, bp", (None, None, 0.0), most=True, unit="number"),
            Demand("policy-made liquidations vs fhs", (None, None, -0.5), most=True),
        ),
    ),
    Goal(
        "10",
        "schedule derived again byte for byte; what winners give up over the deficit",
        (
            Demand("lines derived again", (1.0, 1.0, 1.0)),
            Demand("haircut over deficit less the queue's", (None, 0.0, 0.0), most=True, unit="number"),
            Demand("haircut over deficit", (None, None, 1.05), most=True, unit="number"),
        ),
    ),
)


def judge(rows: Iterable[Mapping[str, Any]], queue: Mapping[str, float], derived: float | None) -> list[dict[str, Any]]:
    """Rows of the goals' table; ``rows`` at equal mean margin.

    ``queue``: fields of the same policy where a queue of winners bears what is left; ``derived``: share of the schedule's
    lines that a replay derived byte for byte.
    """
    whole = {row["policy"]: row for row in rows if row["symbol"] == ALL and row["window"] == WHOLE}
    figures = {name: Figure.of(value) for name, value in _values(whole, queue).items()}
    figures["lines derived again"] = Figure.of(derived)
    return [
        {
            "goal": goal.name,
            "metric": goal.metric,
            "reached": goal.reached(figures),
            "figures": [told(demand, figures[demand.figure]) for demand in goal.demands],
        }
        for goal in GOALS
    ]


def dominated(own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the other is as good in everything and better in something; unknown figures dominate nothing."""
    pairs = [(own[name], other[name]) for name in FRONTIER]
    if any(None in pair for pair in pairs):
        return False
    return all(b <= a for a, b in pairs) and any(b < a for a, b in pairs)


def _values(whole: Mapping[str, Mapping[str, Any]], queue: Mapping[str, float]) -> dict[str, float | None]:
    own = whole["ensemble"]
    known = None not in [own[name] for name in FRONTIER]
    short, induced, _ = FRONTIER
    made = whole["fhs"][induced]
    haircut = own["adl_haircut_ratio"]
    return {
        "baselines as good in all three": float(sum(dominated(own, whole[n]) for n in BASELINES)) if known else None,
        "shortfall less ewma's, bp": _less(own[short], whole["ewma"][short]),
        "peak_to_trough at equal mean margin": own["peak_to_trough"],
        "shortfall less fhs's, bp": _less(own[short], whole["fhs"][short]),
        "policy-made liquidations vs fhs": own[induced] / made - 1 if made and own[induced] is not None else None,
        "haircut over deficit less the queue's": _less(haircut, queue.get("adl_haircut_ratio")),
        "haircut over deficit": haircut,
    }


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
