"""The goals of the margin policy that margins and prices alone decide, and which level a scoreboard reaches.

Levels and figures are those of ``training.goals``: a level counts where every demand up to it is met by the figure itself;
the interval beside it says how sure that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from training.goal_report import goals_markdown
from training.goals import LEVELS, MEASURED, Demand, Figure, Goal

__all__ = ["GOALS", "goals_table", "judge", "told"]

_VS: Final = "matched_mean_im vs "

GOALS: Final = (
    Goal(
        "1a",
        "margin that just covers 99.5 %, vs fhs_apc",
        (
            Demand(_VS + "fhs_apc", (0.01, -0.03, -0.07), most=True),
            Demand(_VS + "fhs_apc, upper end", (None, None, 0.0), most=True),
        ),
    ),
    Goal(
        "1b",
        "the same vs tuned fhs, vs static",
        (
            Demand(_VS + "fhs", (-0.09, -0.15, -0.19), most=True),
            Demand(_VS + "static", (-0.08, -0.14, -0.20), most=True),
        ),
    ),
    Goal("2", "pinball_995 vs fhs_apc", (Demand("pinball_995 vs fhs_apc", (0.02, -0.03, -0.06), most=True),)),
    Goal(
        "3",
        "es_beyond_margin at equal mean margin, vs fhs, vs fhs_apc",
        (
            Demand("es_beyond_margin vs fhs", (-0.15, -0.28, -0.45), most=True),
            Demand("es_beyond_margin vs fhs_apc", (0.05, -0.08, -0.25), most=True),
        ),
    ),
    Goal(
        "4",
        "peak_to_trough, median symbol",
        (
            Demand("peak_to_trough", (5.5, 4.2, 3.5), most=True, unit="number"),
            Demand(_VS + "fhs_apc", (None, None, -0.03), most=True),
        ),
    ),
    Goal(
        "5",
        "largest rise of any symbol; what the governor costs",
        (
            Demand("max_rise_1d, worst symbol", (1.0, 1.0, 1.0), most=True),
            Demand("max_rise_5d, worst symbol", (2.0, 2.0, 2.0), most=True),
            Demand(_VS + "its ungoverned target", (None, None, 0.01), most=True),
        ),
    ),
    Goal("6", "warnings that stand 5 h before the burst, above shifted ones",
         (Demand("lead_skill", (MEASURED, 0.07, 0.15), unit="number"),)),
    Goal(
        "7",
        "coverage of the published 99.5 % quantile, pooled; worst symbol; every year",
        (
            Demand("core coverage", ((0.992, 0.998), (0.993, 0.997), (0.993, 0.997))),
            Demand("core coverage, worst symbol", (0.989, 0.991, 0.991)),
            Demand("core coverage, farthest year from 99.5 %", (None, None, 0.002), most=True),
        ),
    ),
    Goal(
        "8",
        "coverage in the named events at the matching scale",
        (
            Demand("event coverage less fhs_apc's, worst window", (-0.06, None, None)),
            Demand("windows covered as well as by fhs_apc", (None, 0.51, None)),
            Demand("event coverage less the better of fhs and fhs_apc, worst window", (None, None, -0.01)),
        ),
    ),
    Goal(
        "11",
        "exposure overlay net of 5 bps and funding, median symbol, vs constant exposure of equal average",
        (
            Demand("drawdown vs constant", (0.0, 0.0, -0.40), most=True),
            Demand("calmar less constant's", (None, 0.0, None), unit="number"),
            Demand("calmar vs constant", (None, None, 0.30)),
            Demand("turnover vs raw volatility target", (None, None, -0.50), most=True),
        ),
    ),
)  # fmt: skip
"""Rows 1a to 8 and 11; those on the simulated venue are judged where it runs."""


def judge(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    """One row a goal: its figures with interval beside their bounds, and the level reached."""
    return [
        {
            "goal": goal.name,
            "metric": goal.metric,
            "reached": goal.reached(figures),
            "figures": [told(demand, figures.get(demand.figure, Figure.of(None))) for demand in goal.demands],
        }
        for goal in GOALS
    ]


def goals_table(judged: Iterable[Mapping[str, Any]]) -> str:
    """The judged goals as a table in Markdown."""
    return "\n".join(goals_markdown(judged)) + "\n"


def told(demand: Demand, figure: Figure) -> dict[str, Any]:
    """A figure beside its bounds, as a row of ``policy_goals.json``."""
    bounds = [None if b == MEASURED else list(b) if isinstance(b, tuple) else b for b in demand.bounds]
    row = {"figure": demand.figure, "unit": demand.unit, "less_is_better": demand.most}
    return row | asdict(figure) | dict(zip(LEVELS, bounds, strict=True))
