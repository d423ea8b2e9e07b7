"""Tables of the back-test, out of the documents of scores and goals; a dash where a figure does not exist."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, Final

from forecaster.policy.comparison.ground import ALL, WHOLE
from forecaster.report.tables import Cell, Group, Row, number, table

__all__ = [
    *(
        "COLUMNS",
        "VENUE",
        "Scores",
        "ablations",
        "by_symbol",
        "differences",
        "goals",
        "head",
        "known",
        "leads",
        "misses",
    ),
    *("policies", "row_of", "scaled", "venue"),
]

Scores = Sequence[Mapping[str, Any]]
OURS: Final = "ensemble"
SIDE: Final = (OURS, "fhs_apc", "fhs", "static", "exchange")
LEVELS: Final = ("floor", "target", "moonshot")

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
    "insurance_draw_usd": ("drawn from the fund, USD", 1.0, 0),
    "bad_debt_usd": ("bad debt, USD", 1.0, 0),
    "adl_haircut_ratio": ("haircut over deficit", 1.0, 3),
    "lead_hours": ("lead, h", 1.0, 1),
    "false_alarms_per_symbol_year": ("false alarms a symbol-year", 1.0, 1),
    "lead_skill": ("lead skill", 1.0, 3),
}
MARGIN: Final = ("mean_im", "matched_mean_im", "coverage_24h_995", "es_beyond_margin", "pinball_995", "peak_to_trough")
VENUE: Final = ("shortfall_bps_oi_year", "liquidations_per_oi_year", "policy_induced_liquidations_per_oi_year")
FULL_VENUE: Final = (*VENUE, "unnecessary_liquidation_rate", "insurance_draw_usd", "bad_debt_usd", "adl_haircut_ratio")
VARIANTS: Final = ("ensemble_now", "ensemble_grandfathered", "ensemble_adl_queue")
COMPARISONS: Final = {
    "equal_mean": "At equal mean margin, by scalars fitted on the past (the headline)",
    "equal_coverage": "At equal coverage, likewise",
    "raw": "As each policy stands",
}
DIFFERENCES: Final = {
    "levelled": "At one realised mean margin, by a number that only hindsight knows: the losses without the mismatch above",
    "governor": "What the governor costs, as it stands",
}


def goals(judged: Scores) -> str:
    """Every figure of every goal with its interval, its three bounds, and the level that the goal reached."""
    body: list[Row] = []
    for goal in judged:
        level = goal["reached"].capitalize()
        body.append(
            Group(f"{goal['goal']}: {goal['metric']}. {level}{' reached' if goal['reached'] in LEVELS else ''}.")
        )
        body += [_goal_row(figure) for figure in goal["figures"]]
    titles = ["", "figure", "90 % interval", "floor", "target", "moonshot"]
    return table("goals", "Goals: what was found and what was asked", titles, body)


def misses(goal: Mapping[str, Any]) -> list[str]:
    """Figures that do not meet the floor, beside it."""
    return [
        f"{figure['figure']} {_figure(figure['value'], figure['unit'])}, asked {_bounds(figure)[0]}"
        for figure in goal["figures"]
        if figure["value"] is not None and figure["floor"] is not None and not _met(figure, "floor")
    ]


def _goal_row(figure: Mapping[str, Any]) -> Row:
    value = figure["value"]
    asked = [name for name in LEVELS if figure[name] is not None]
    kind, note = "n", "" if value is not None else "not measured"
    if value is not None and asked:
        met = list(takewhile(lambda level: _met(figure, level), asked))
        kind, note = ("n held", f"meets the {met[-1]}") if met else ("n missed", f"misses the {asked[0]}")
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
    told = f"{100 * value:.2f} %" if unit == "share" else f"{value:.0f}" if value == round(value) else f"{value:.3f}"
    return told.replace("-", "−")


def _bound(bound: Any, unit: str, sign: str) -> str:
    if bound is None:
        return "–"
    ends = bound if isinstance(bound, list) else [bound]
    told = [(f"{100 * end:.7g} %" if unit == "share" else f"{end:.7g}").replace("-", "−") for end in ends]
    return " to ".join(told) if isinstance(bound, list) else sign + told[0]


def policies(scores: Mapping[str, Scores]) -> str:
    """All symbols over the whole span, under each comparison."""
    body: list[Row] = []
    for comparison, title in COMPARISONS.items():
        body += [Group(title), *(row_of(row["policy"], row, MARGIN) for row in _whole(scores[comparison]))]
    return table("policies", "Margins over all symbols and the whole span", head(MARGIN), body)


def venue(scores: Mapping[str, Scores]) -> str:
    """What the margins did to accounts, all symbols over the whole span; nothing where the venue was not run."""
    rows = [*_whole(scores["equal_mean"]), *(r for r in _whole(scores["extended"]) if r["policy"] in VARIANTS)]
    if not known(rows, FULL_VENUE):
        return ""
    caption = "In the simulated venue, at equal mean margin, all symbols over the whole span"
    return table("venue", caption, head(FULL_VENUE), [row_of(row["policy"], row, FULL_VENUE) for row in rows])


def differences(found: Mapping[str, Scores]) -> str:
    """The policy of the forecasts against each opponent, with what the difference is worth."""
    body: list[Row] = []
    for comparison, title in (COMPARISONS | DIFFERENCES).items():
        body.append(Group(title))
        body += [
            [
                f"{row['metric']} vs {row['opponent']}",
                *(scaled(row[name], 100.0, 1) for name in ("value", "low", "high", "sd")),
                scaled(row["dm_p"], 1.0, 3),
                scaled(row["symbols_better"], 100.0, 0),
            ]
            for row in found[comparison]
        ]
    titles = ["", "difference, %", "90 %: from", "to", "sd", "DM p", "symbols below 0, %"]
    caption = (
        "The ensemble's policy against its opponents. Below zero it is better, but for mean_im, which tells by how much the "
        "margins that were to be equal differ"
    )
    return table("differences", caption, titles, body)


def by_symbol(rows: Scores) -> str:
    """Symbols that were scored, the policy beside its main opponents."""
    body: list[Row] = []
    whole = [row for row in rows if row["window"] == WHOLE and row["symbol"] != ALL and row["mean_im"] is not None]
    names = (*MARGIN, "max_rise_1d", *known(whole, (*VENUE, "unnecessary_liquidation_rate")))
    for symbol in dict.fromkeys(row["symbol"] for row in whole):
        body.append(Group(symbol))
        body += [
            row_of(row["policy"], row, names) for row in whole if row["symbol"] == symbol and row["policy"] in SIDE
        ]
    return table("symbols", "Symbols over the whole span, at equal mean margin", head(names), body)


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
        body += [Group(title), *(row_of(row["policy"], row, names) for row in own)] if own else []
    return table("ablations", "What each part is worth, at equal mean margin, all symbols", head(names), body)


def leads(scores: Mapping[str, Scores]) -> str:
    """How early each policy's margin rises before stress, how often for nothing, and whether that is skill."""
    names = ("lead_hours", "false_alarms_per_symbol_year", "lead_skill")
    body: list[Row] = [row_of(row["policy"], row, names) for row in _whole(scores["equal_mean"])]
    return table("leads", "Warnings of each policy's margin, all symbols", head(names), body)


def _whole(rows: Scores) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["symbol"] == ALL and row["window"] == WHOLE]


def known(rows: Scores, names: Iterable[str]) -> tuple[str, ...]:
    """The fields that some row has."""
    return tuple(name for name in names if any(row[name] is not None for row in rows))


def head(names: Iterable[str]) -> list[str]:
    """Titles of the columns of these fields, after that of the names."""
    return ["", *(COLUMNS[name][0] for name in names)]


def row_of(title: str, row: Mapping[str, Any], names: Iterable[str]) -> list[Cell | str]:
    """A row's fields in the units of their columns."""
    return [title, *(scaled(row[name], *COLUMNS[name][1:]) for name in names)]


def scaled(value: float | None, factor: float, digits: int) -> Cell:
    """Shown in the column's unit; the value behind it as the document has it."""
    if value is None or math.isnan(value):
        return number(None, digits)
    rounded = round(value * factor, digits) or 0.0  # no minus before a zero
    cell = number(rounded, digits)
    text = f"{rounded:,.0f}".replace(",", "\u202f").replace("-", "−") if digits == 0 else cell.text
    return replace(cell, text=text, value=repr(value))
