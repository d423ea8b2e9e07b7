"""Tables of the back-test, out of the documents of scores and goals; a dash where a figure does not exist."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from forecaster.policy.comparison.ground import EVENTS
from forecaster.report.episodes import Episode
from forecaster.report.tables import Cell, Group, Row, number, table

__all__ = [
    "ablations",
    "by_event",
    "by_symbol",
    "differences",
    "goals",
    "hours",
    "leads",
    "misses",
    "policies",
]

Scores = Sequence[Mapping[str, Any]]
ALL: Final = "*"
WHOLE: Final = "all"
OURS: Final = "ensemble"
SIDE: Final = (OURS, "fhs_apc", "fhs", "static", "exchange")
LEAST_PPM: Final = 50  # what rounds to a hundredth of a point
LEVELS: Final = ("floor", "target", "moonshot")
PPM_A_POINT: Final = 10_000.0
DAY_BEFORE: Final = pd.Timedelta(days=1)

# field -> title, factor, digits
COLUMNS: Final[dict[str, tuple[str, float, int]]] = {
    "mean_im": ("mean margin, %", 100.0, 2),
    "matched_mean_im": ("mean margin at 99.5 %, %", 100.0, 2),
    "coverage_24h_995": ("24 h coverage, %", 100.0, 2),
    "es_beyond_margin": ("beyond margin, bp", 1e4, 2),
    "pinball_995": ("pinball, bp", 1e4, 2),
    "peak_to_trough": ("peak / trough", 1.0, 2),
    "max_rise_1d": ("largest rise in 1 d, %", 100.0, 0),
    "max_rise_5d": ("5 d, %", 100.0, 0),
    "shortfall_bps_oi_year": ("shortfall, bp of OI a year", 1.0, 3),
    "liquidations_per_oi_year": ("liquidations, × OI a year", 1.0, 2),
    "policy_induced_liquidations_per_oi_year": ("policy-made", 1.0, 2),
    "unnecessary_liquidation_rate": ("unnecessary, %", 100.0, 1),
    "bad_debt_usd": ("bad debt, USD", 1.0, 0),
    "lead_hours": ("lead, h", 1.0, 1),
    "false_alarms_per_symbol_year": ("false alarms a symbol-year", 1.0, 1),
    "lead_skill": ("lead skill", 1.0, 3),
}
MARGIN: Final = ("mean_im", "matched_mean_im", "coverage_24h_995", "es_beyond_margin", "pinball_995", "peak_to_trough")
VENUE: Final = ("shortfall_bps_oi_year", "liquidations_per_oi_year", "policy_induced_liquidations_per_oi_year")
COMPARISONS: Final = {
    "equal_mean": "At equal mean margin, by scalars fitted on the past (the headline)",
    "equal_coverage": "At equal coverage, likewise",
    "raw": "As each policy stands",
}


def goals(judged: Scores) -> str:
    """Every figure of every goal with its interval, its three bounds, and the level that the goal reached."""
    body: list[Row] = []
    for goal in judged:
        body.append(Group(f"{goal['goal']}: {goal['metric']}. {goal['reached'].capitalize()}."))
        body += [_goal_row(figure) for figure in goal["figures"]]
    head = ["", "figure", "90 % interval", "floor", "target", "moonshot"]
    return table("goals", "Goals: what was found and what was asked", head, body)


def misses(goal: Mapping[str, Any]) -> list[str]:
    """Figures that do not meet the floor, beside it."""
    return [
        f"{figure['figure']} {_figure(figure['value'], figure['unit'])}, asked {_bounds(figure)[0]}"
        for figure in goal["figures"]
        if figure["value"] is not None and figure["floor"] is not None and not _met(figure, "floor")
    ]


def _goal_row(figure: Mapping[str, Any]) -> Row:
    value = figure["value"]
    level = next((name for name in LEVELS if figure[name] is not None), None)
    kind, note = "n", "" if value is not None else "not measured"
    if value is not None and level is not None:
        kind, note = ("n held", f"meets the {level}") if _met(figure, level) else ("n missed", f"misses the {level}")
    cell = Cell(_figure(value, figure["unit"]), None if value is None else repr(value), kind, note)
    known = figure["low"] is not None and figure["high"] is not None
    ends = " to ".join(_figure(figure[n], figure["unit"]) for n in ("low", "high")) if known else "–"
    title = f"{figure['figure']} ({figure['why']})" if figure["why"] else figure["figure"]
    return [title, cell, Cell(ends, None, "n"), *(Cell(bound, None, "n") for bound in _bounds(figure))]


def _bounds(figure: Mapping[str, Any]) -> list[str]:
    sign = "≤ " if figure["less_is_better"] else "≥ "
    return [_bound(figure[name], figure["unit"], sign) for name in LEVELS]


def _met(figure: Mapping[str, Any], level: str) -> bool:
    bound, value = figure[level], figure["value"]
    if isinstance(bound, list):
        return bool(bound[0] <= value <= bound[1])
    return bool(value <= bound if figure["less_is_better"] else value >= bound)


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return (f"{100 * value:.2f} %" if unit == "share" else f"{value:.3f}").replace("-", "−")


def _bound(bound: Any, unit: str, sign: str) -> str:
    if bound is None:
        return "–"
    ends = bound if isinstance(bound, list) else [bound]
    told = [(f"{100 * end:.7g} %" if unit == "share" else f"{end:.7g}").replace("-", "−") for end in ends]
    return " to ".join(told) if isinstance(bound, list) else sign + told[0]


def policies(scores: Mapping[str, Scores]) -> str:
    """All symbols over the whole span, under each comparison."""
    names = (*MARGIN, *VENUE, "unnecessary_liquidation_rate")
    body: list[Row] = []
    for comparison, title in COMPARISONS.items():
        body.append(Group(title))
        body += [_row(row["policy"], row, names) for row in _whole(scores[comparison])]
        if comparison == "equal_mean":
            mm = ("ensemble_now", "ensemble_grandfathered", "ensemble_adl_queue")
            body += [_row(row["policy"], row, names) for row in _whole(scores["extended"]) if row["policy"] in mm]
    return table("policies", "Policies over all symbols and the whole span", _head(names), body)


def differences(found: Mapping[str, Scores]) -> str:
    """The policy of the forecasts against each opponent, with what the difference is worth."""
    body: list[Row] = []
    for comparison in (*COMPARISONS, "governor"):
        body.append(
            Group("What the governor costs, as it stands" if comparison == "governor" else COMPARISONS[comparison])
        )
        body += [
            [
                f"{row['metric']} vs {row['opponent']}",
                *(_scaled(row[name], 100.0, 1) for name in ("value", "low", "high", "sd")),
                _scaled(row["symbols_better"], 100.0, 0),
            ]
            for row in found[comparison]
        ]
    head = ["", "difference, %", "90 %: from", "to", "sd", "symbols below 0, %"]
    return table("differences", "The ensemble's policy against its opponents; below zero it is better", head, body)


def by_event(rows: Scores) -> str:
    """Every named event, covered or not."""
    names = ("mean_im", "coverage_24h_995", "es_beyond_margin", "peak_to_trough", "max_rise_1d", *VENUE, "bad_debt_usd")
    body: list[Row] = []
    for window, (first, last) in EVENTS.items():
        own = [row for row in rows if row["window"] == window and row["symbol"] == ALL]
        covered = any(row["mean_im"] is not None for row in own)
        body.append(Group(f"{window}, {first} to {last}{'' if covered else ': outside these forecasts'}"))
        body += [_row(row["policy"], row, names) for row in own if covered]
    return table(
        "events",
        "Policies inside the named events, all symbols, at equal mean margin; rates as if a year were like it",
        _head(names),
        body,
    )


def by_symbol(rows: Scores) -> str:
    """Symbols that were scored, the policy beside its main opponents."""
    names = (*MARGIN, "max_rise_1d", *VENUE, "unnecessary_liquidation_rate")
    body: list[Row] = []
    whole = [row for row in rows if row["window"] == WHOLE and row["symbol"] != ALL and row["mean_im"] is not None]
    for symbol in dict.fromkeys(row["symbol"] for row in whole):
        body.append(Group(symbol))
        body += [_row(row["policy"], row, names) for row in whole if row["symbol"] == symbol and row["policy"] in SIDE]
    return table("symbols", "Symbols over the whole span, at equal mean margin", _head(names), body)


def ablations(scores: Mapping[str, Scores]) -> str:
    """The policy with one part taken out, its target stage by stage, and further opponents; without the venue."""
    names = (*MARGIN, "max_rise_1d", "max_rise_5d")
    rows = [row for row in _whole(scores["extended"]) if row["mean_im"] is not None]
    parts = {
        "The policy": [row for row in _whole(scores["equal_mean"]) if row["policy"] == OURS],
        "One part taken out": [row for row in rows if row["policy"].startswith("ensemble_no_")],
        "The target before the governor, stage by stage": [row for row in rows if row["policy"].startswith("target_")],
        "Further opponents": [row for row in rows if not row["policy"].startswith(("ensemble_", "target_"))],
    }
    body: list[Row] = []
    for title, own in parts.items():
        body += [Group(title), *(_row(row["policy"], row, names) for row in own)] if own else []
    return table("ablations", "What each part is worth, at equal mean margin, all symbols", _head(names), body)


def leads(scores: Mapping[str, Scores]) -> str:
    """How early each policy's margin rises before stress, how often for nothing, and whether that is skill."""
    names = ("lead_hours", "false_alarms_per_symbol_year", "lead_skill")
    body: list[Row] = [_row(row["policy"], row, names) for row in _whole(scores["equal_mean"])]
    return table("leads", "Warnings of each policy's margin, all symbols", _head(names), body)


def hours(episode: Episode) -> str:
    """What the policy said hour by hour, from a day before the event to its end, and why."""
    first, last = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (episode.begin - DAY_BEFORE, episode.end))
    stamps = pd.DatetimeIndex(episode.table.index).strftime("%Y-%m-%dT%H:%M:%SZ")
    market = dict(zip(stamps, zip(episode.table["close"], episode.table["excursion"], strict=True), strict=True))
    body = [_hour(line, *market[line["as_of"]]) for line in episode.lines if first <= line["as_of"] < last]
    head = [
        "",
        "price, USD",
        "next 24 h, %",
        "mode",
        "IM, %",
        "MM, %",
        "change",
        "of which, points",
        "reasons and bounds met",
    ]
    return table(
        f"hours-{episode.window}".replace(" ", "-"),
        f"{episode.symbol}, {episode.begin:%Y}: every line of the schedule as it was announced",
        head,
        body,
    )


def _hour(line: Mapping[str, Any], price: float, excursion: float) -> Row:
    parts = sorted(((n, v) for n, v in line["decomposition"].items() if v), key=lambda part: -abs(part[1]))
    moved = ", ".join(f"{name.replace('_', ' ')} {_points(value)}" for name, value in parts if abs(value) >= LEAST_PPM)
    bounds = [f"{hit['parameter']} met {hit['bound']}" for hit in line["bounds_hit"]]
    return [
        f"{line['as_of'][5:10]} {line['as_of'][11:16]}",
        number(price, 4 if price < 10 else 1),
        _scaled(excursion, 100.0, 1),
        line["mode"],
        *(_scaled(line[name], 1 / PPM_A_POINT, 2) for name in ("im_ppm", "mm_ppm")),
        Cell(_points(sum(line["decomposition"].values())), None, "n"),
        moved or "–",
        ", ".join([*line["reasons"], *bounds]) or "–",
    ]


def _points(ppm: int) -> str:
    return f"{ppm / PPM_A_POINT:+.2f}".replace("-", "−") if ppm else "0"


def _whole(rows: Scores) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["symbol"] == ALL and row["window"] == WHOLE]


def _head(names: Iterable[str]) -> list[str]:
    return ["", *(COLUMNS[name][0] for name in names)]


def _row(title: str, row: Mapping[str, Any], names: Iterable[str]) -> Row:
    return [title, *(_scaled(row[name], *COLUMNS[name][1:]) for name in names)]


def _scaled(value: float | None, factor: float, digits: int) -> Cell:
    """Shown in the column's unit; the value behind it as the document has it."""
    if value is None or math.isnan(value):
        return number(None, digits)
    rounded = round(value * factor, digits) or 0.0  # no minus before a zero
    return replace(number(rounded, digits), value=repr(value))
