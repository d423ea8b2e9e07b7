"""Tables of what the claims are worth: tests, strata, back-tests and alarms, as they stand in the diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from forecaster.report.findings import percent
from forecaster.report.tables import Cell, Group, Row, count, number, table
from models.base import ENSEMBLE

__all__ = [
    "TESTS",
    "alarm_table",
    "risk_table",
    "shortfall_table",
    "strata_rows",
    "strata_table",
    "superiority_table",
    "tests_table",
]

TESTS: Final = {
    "kupiec": "Kupiec, 1 % hits",
    "christoffersen": "Christoffersen, 1 % hits",
    "dynamic_quantile": "DQ, 1 % hits",
    "z2": "Z2, 2.5 % shortfall",
    "esr": "ESR, 2.5 % shortfall",
    "band": "1 % hits inside the 95 % band",
}
"""Back-tests by their name in the diagnostics, as the report calls them."""
_KINDS: Final = {
    "all": "all",
    "without_best": "without the best symbol",
    "worst_quartile": "worst quarter of symbols",
    "volatility": "symbols",
    "year": "year",
    "quarter": "quarter",
    "regime": "at the origin",
    "onset": "stress",
    "feed": "feeds",
    "listing": "listing",
    "grid": "origins",
    "shock": "shock",
}
_CHOSEN_AFTER: Final = ("without_best", "worst_quartile")
_P_DIGITS: Final = 4
_UNIQUE: Final = (*_CHOSEN_AFTER, "all", "shock", "grid")


def strata_rows(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[int], list[list[Mapping[str, Any] | None]]]:
    """Labels downward, horizons across, and the row of each; kinds that have a place of their own are left out."""
    horizons = sorted({row["horizon_hours"] for row in rows})
    shown = [row for row in rows if row["kind"] in _KINDS]
    order = {kind: k for k, kind in enumerate(_KINDS)}
    labels = list(dict.fromkeys(map(_label, sorted(shown, key=lambda row: order[row["kind"]]))))
    at = {(_label(row), row["horizon_hours"]): row for row in shown}
    return labels, horizons, [[at.get((label, hours)) for label in labels] for hours in horizons]


def strata_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Gain with its interval, rows, and 1 % hits of every stratum, per horizon."""
    labels, horizons, columns = strata_rows(rows)
    head = [""]
    for hours in horizons:
        head += [f"{hours} h: saved", "rows", "1 % hits"]
    body: list[Row] = []
    for k, label in enumerate(labels):
        cells: list[Cell | str] = [label]
        for column in columns:
            cells += _stratum(column[k])
        body.append(cells)
    caption = (
        "QLIKE saved against har_seasonal by stratum, without the shock day but in its own row; small: 90 % interval. "
        "1 % hits: share of returns below their 1 % quantile, shock days included"
    )
    return table("strata", caption, head, body)


def tests_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Equal ability against each opponent, with everything claimed counted."""
    fields = {
        "dm_statistic": 2,
        "dm_p": _P_DIGITS,
        "holm_p": _P_DIGITS,
        "sign_p": _P_DIGITS,
        "gw_lagged_p": _P_DIGITS,
        "gw_regime_p": _P_DIGITS,
        "t_calm": 2,
        "t_normal": 2,
        "t_stress": 2,
    }
    body: list[Row] = []
    for hours in sorted({row["horizon_hours"] for row in rows}):
        body.append(Group(f"{hours} h ahead"))
        chosen = [row for row in rows if row["horizon_hours"] == hours]
        body += [
            [row["opponent"], *(_statistic(row[name], digits) for name, digits in fields.items())] for row in chosen
        ]
    head = ["", "DM", "p", "p, Holm", "p, signs", "GW p, lagged", "GW p, regime"]
    head += ["t calm", "t normal", "t stress"]
    caption = f"{ENSEMBLE} against each opponent on qlike_x, all symbols together; negative is in its favour"
    return table("tests", caption, head, body)


def superiority_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether any other model beats the benchmark, once the search among all of them is counted."""
    fields = ("spa_p", "spa_lower", "spa_upper", "reality_check_p")
    body: list[Row] = [
        [
            f"{row['benchmark']}, {row['horizon_hours']} h",
            count(row["alternatives"]),
            row["best"],
            *(number(row[name], 3) for name in fields),
        ]
        for row in rows
    ]
    head = ["benchmark", "others", "best of them", "SPA p", "lower", "upper", "reality check p"]
    return table("superiority", "Is any other model better than the benchmark? Small p: one is", head, body)


def risk_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Symbol-years that pass each back-test at 5 %."""
    horizons = sorted({row["horizon_hours"] for row in rows})
    at = {(row["test"], row["horizon_hours"]): row for row in rows}
    head = [""]
    for hours in horizons:
        head += [f"{hours} h: passed", "all offsets"]
    body: list[Row] = []
    for test, name in TESTS.items():
        cells: list[Cell | str] = [name]
        for hours in horizons:
            row = at.get((test, hours))
            passed = "–" if row is None else f"{row['passed']} of {row['symbol_years']}"
            cells += [Cell(passed, None, "n"), _percent(None if row is None else row["share"])]
        body.append(cells)
    caption = (
        f"Symbol-years in which the {ENSEMBLE} passes at 5 % (a right model: about 95 %): on origins divisible by the "
        "horizon, and over every way of taking origins a horizon apart"
    )
    return table("risk-tests", caption, head, body)


def shortfall_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """FZ0 beside filtered simulation."""
    body: list[Row] = [
        [
            f"{row['horizon_hours']} h, {100 * row['level']:g} %",
            count(row["rows"]),
            number(row["fz0"], 4),
            number(row["fz0_filtered"], 4),
            number(row["difference"], 4),
            _interval(row, lambda value: f"{value:.3f}"),
            _percent(row["saved"]),
            f"{row['symbols_better']} of {row['symbols']}",
        ]
        for row in rows
    ]
    head = ["", "rows", f"FZ0 {ENSEMBLE}", f"FZ0 {rows[0]['base']}", "lower by", "90 % interval", "saved", "better"]
    caption = (
        f"Quantile and shortfall together, against filtered simulation around {rows[0]['base']}; "
        "saved: 1 − exp(−difference)"
    )
    return table("shortfall", caption, head, body)


def alarm_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Alarms at fixed rates, beside the same alarms shifted in time and the others' at the same number of alarms."""
    models = list(dict.fromkeys(row["model"] for row in points))
    body: list[Row] = []
    for event, title in (
        ("trailing", "Event: the trailing day enters stress"),
        ("burst", "Event: its largest bar opens"),
    ):
        chosen = [row for row in points if row["event"] == event]
        if chosen:
            body.append(Group(f"{title} ({chosen[0]['events']} events)"))
        for row in chosen:
            same = [row["recall"] if m == row["model"] else row["recall_at_same_alarms"].get(m) for m in models]
            body.append(
                [
                    f"{row['model']}, ≤\u00a0{row['rate']:g}",
                    number(row["false_alarms"], 1),
                    number(row["alarms"], 1),
                    *(_percent(row[name]) for name in ("precision", "recall", "shifted_recall")),
                    number(row["shifted_p"], 3),
                    number(row["lead"], 1),
                    *map(_percent, same),
                ]
            )
    head = ["", "false a year", "alarms a year", "precision", "recall", "shifted", "p", "median lead, h"]
    head += [f"recall of {model}, as many alarms" for model in models]
    caption = "Alarms of stress in the next 24 h, at the threshold with at most so many false ones a symbol-year"
    return table("alarms", caption, head, body)


def _label(row: Mapping[str, Any]) -> str:
    kind, value = _KINDS[row["kind"]], str(row["value"])
    if row["kind"] in _UNIQUE:
        return {"grid": "origins a horizon apart", "shock": "shock days"}.get(row["kind"], kind)
    if row["kind"] in ("year", "quarter"):
        return value
    # The symbols of a quarter may differ from horizon to horizon.
    return f"{kind}: {value.split(':')[0]}"


def _stratum(row: Mapping[str, Any] | None) -> list[Cell | str]:
    if row is None:
        return [Cell("–", None, "n")] * 3
    kind = "n lost" if row["gain"] is not None and row["gain"] < 0 else "n"
    note = "" if row["low"] is None else f"{percent(row['low'])[:-2]} to {percent(row['high'])[:-2]}"
    saved = _percent(row["gain"])
    return [Cell(saved.text, saved.value, kind, note), count(row["rows"]), _percent(row["var_hit_010"], 2)]


def _percent(value: float | None, digits: int = 1) -> Cell:
    return Cell("–", None, "n") if value is None else Cell(percent(value, digits), repr(float(value)), "n")


def _statistic(value: float | None, digits: int) -> Cell:
    """A statistic of two digits, or a p-value of four, of which the smallest are only called small."""
    small = digits == _P_DIGITS and value is not None and value < 0.1**_P_DIGITS
    return Cell(f"<\u00a0{0.1**_P_DIGITS:.{_P_DIGITS}f}", repr(value), "n") if small else number(value, digits)


def _interval(row: Mapping[str, Any], told: Any) -> Cell:
    return Cell(f"{told(row['low'])} to {told(row['high'])}".replace("-", "−"), None, "n")
