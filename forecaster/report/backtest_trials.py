"""What the experiments beside the history say: a step of volatility, and the smallest shock that leaves bad debt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from forecaster.report.backtest_figures import policy_colour
from forecaster.report.backtest_tables import scaled
from forecaster.report.canvas import MUTED, inline_svg
from forecaster.report.tables import Cell, Group, Row, table

__all__ = ["impulse", "reverse_stress"]

RULES: Final = {
    "governed": ("the policy, governed", "ensemble"),
    "targets": ("its target, ungoverned", "target"),
    "fhs": ("fhs", "fhs"),
    "ewma": ("ewma", "ewma"),
    "static": ("static", "static"),
}
LEVELS: Final = {"mean": "At its mean margin", "least": "At its least margin, median symbol"}
SIDES: Final = {-1: "fall", 1: "rise"}


def impulse(told: Mapping[str, Any]) -> Iterator[str]:
    """The margins of five rules through a step of volatility, and how far and how fast each went."""
    step = told["step"]
    picture = inline_svg(
        "impulse",
        "Initial margin of five rules before, during and after a step of volatility",
        (11.0, 3.0),
        lambda figure: _paths(figure, told),
    )
    caption = (
        f"A made market: volatility times {step['step']:g} for {step['hours']} hours, between the dashed lines, and back. "
        f"The forecaster sees volatility by an average of {step['half_life']} h half-life."
    )
    yield f"<figure><div>{picture}</div><figcaption>{caption}</figcaption></figure>"
    titles = ["", "before, %", "settled, %", "peak, %", "overshoot, %", "hours to 90 %", "hours to return"]
    yield table(
        "impulse", "How each rule answers the step; a dash: not within the run", titles, map(_answer, told["rows"])
    )


def reverse_stress(told: Mapping[str, Any]) -> str:
    """The smallest gap that leaves bad debt, by policy; a notice where the venue was not run."""
    rows = told["rows"]
    if not rows:
        return '<p class="notice">The venue was not run, so no shock was tried on it.</p>'
    shocks = list(dict.fromkeys((row["side"], row["depth"], row["concentration"]) for row in rows))
    body: list[Row] = []
    for level, title in LEVELS.items():
        body.append(Group(title))
        own = [row for row in rows if row["level"] == level]
        body += [
            _breaking(policy, [row for row in own if row["policy"] == policy], told["limit"])
            for policy in dict.fromkeys(row["policy"] for row in own)
        ]
    titles = [
        f"{SIDES[side]}, %: {'whole' if depth == 1 else f'{100 * depth:.0f} % of'} depth, largest {100 * share:.0f} %"
        for side, depth, share in shocks
    ]
    caption = (
        "The smallest jump of the price that leaves bad debt behind account and fund, margins as each policy stands, with so "
        "much of the depth left and so large a share of open interest with one account at the highest leverage"
    )
    return table("shocks", caption, ["", "IM, %", *titles], body)


def _answer(row: Mapping[str, Any]) -> Row:
    margins = (scaled(row[name], 100.0, 2) for name in ("before", "settled", "peak"))
    hours = (scaled(row[name], 1.0, 0) for name in ("hours_to_90", "hours_to_return"))
    return [RULES[row["rule"]][0], *margins, scaled(row["overshoot"], 100.0, 1), *hours]


def _breaking(policy: str, rows: Sequence[Mapping[str, Any]], limit: float) -> Row:
    beyond = Cell(f"> {100 * limit:.0f}", None, "n")
    gaps = (beyond if row["gap"] is None else scaled(row["gap"], 100.0, 1) for row in rows)
    return [policy, scaled(rows[0]["im"], 100.0, 2), *gaps]


def _paths(figure: Figure, told: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    for border in (0, told["step"]["hours"]):
        axes.axvline(border, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    for rule, path in told["paths"].items():
        name, policy = RULES[rule]
        hours = told["first_hour"] + np.arange(len(path))
        axes.plot(hours, 100 * np.array(path), color=policy_colour(policy), lw=1.9 if rule == "governed" else 1.2,
                  drawstyle="steps-post", label=name)  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_ylabel("% of notional")
    axes.set_xlabel("hours from the step")
    axes.margins(x=0.005)
    axes.legend(ncols=len(told["paths"]), loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
