"""The tables of the report, each from the scores and diagnostics as they stand in their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import pandas as pd

from forecaster.report.evidence import REFERENCE
from forecaster.report.findings import Finding, percent
from forecaster.report.tables import Cell, Group, Row, count, number, table, yes_no
from models.base import ENSEMBLE, STATUSES

__all__ = [
    "coverage_table",
    "facts_list",
    "findings_table",
    "gain_table",
    "margin_tables",
    "oracle_table",
    "score_tables",
    "symbol_table",
]

_LOSS_FIELDS: Final = {"n": 0, "qlike": 4, "qlike_x": 4, "mse_log": 4, "crps_log": 4, "coverage_var_90": 3}
_RISK_FIELDS: Final = {
    "pinball_ret": 4,
    "var_hit_010": 4,
    "kupiec_p_010": 3,
    "christoffersen_p_010": 3,
    "es_z2_025": 3,
    "brier_stress": 4,
    "brier_skill_stress": 3,
    "brier_skill_onset": 3,
    "log_loss_regime": 4,
    "ece_stress": 4,
}
_LOWER_IS_BETTER: Final = frozenset(
    ("qlike", "qlike_x", "mse_log", "crps_log", "pinball_ret", "brier_stress", "log_loss_regime", "ece_stress")
)
_HIGHER_IS_BETTER: Final = frozenset(("brier_skill_stress", "brier_skill_onset"))
_MARK: Final = {"held": "✓ held", "missed": "✕ missed", "shown": "", "unknown": "not computed"}
_EVERY: Final = "*"


def findings_table(found: Sequence[Finding]) -> str:
    """Checks downward, horizons across, every figure with its floor and verdict."""
    horizons = sorted({f.hours for f in found})
    checks = list(dict.fromkeys(f.check for f in found))
    at = {(f.check, f.hours): f for f in found}
    rows: list[Row] = [[check, *(_verdict(at.get((check, hours))) for hours in horizons)] for check in checks]
    head = ["", *(f"{hours} h ahead" for hours in horizons)]
    caption = "Figures of the ensemble beside the floors set for it; gains in brackets: 90 % interval"
    return table("findings", caption, head, rows)


def score_tables(scores: Mapping[str, Any]) -> str:
    """The rows of all symbols, in two tables: losses, and risk and regimes. Best of each horizon in bold."""
    rows = [row for row in scores["scores"] if row["symbol"] == _EVERY]
    losses = _score_table(
        "losses", "Losses by horizon and model: mean over symbols, equal weights (n: their sum)", rows, _LOSS_FIELDS
    )
    risks = _score_table(
        "risks", "Risk and regimes by horizon and model: mean over symbols, equal weights", rows, _RISK_FIELDS
    )
    return losses + risks


def gain_table(scores: Mapping[str, Any]) -> str:
    """Each symbol's qlike_x of the ensemble and of the reference, and the share saved."""
    rows = {(r["symbol"], r["horizon_hours"], r["model"]): r for r in scores["scores"]}
    horizons = sorted({key[1] for key in rows})
    symbols = sorted({key[0] for key in rows} - {_EVERY})
    head = ["symbol"]
    for hours in horizons:
        head += [f"{hours} h: {ENSEMBLE}", REFERENCE, "saved"]
    body: list[Row] = []
    for symbol in (*symbols, _EVERY):
        cells: list[Cell | str] = ["all symbols" if symbol == _EVERY else symbol]
        for hours in horizons:
            own, other = (_field(rows.get((symbol, hours, m)), "qlike_x") for m in (ENSEMBLE, REFERENCE))
            cells += [number(own, 4), number(other, 4), _saved(own, other)]
        body.append(cells)
    return table("gains", f"QLIKE without the shock day, by symbol, against {REFERENCE}", head, body)


def symbol_table(scores: Mapping[str, Any]) -> str:
    """The ensemble's calibration, risk and regime scores, symbol by symbol."""
    fields = {
        "coverage_var_90": 3,
        "var_hit_010": 4,
        "kupiec_p_010": 3,
        "christoffersen_p_010": 3,
        "brier_skill_stress": 3,
        "brier_skill_onset": 3,
        "ece_stress": 4,
    }
    own = [r for r in scores["scores"] if r["model"] == ENSEMBLE and r["symbol"] != _EVERY]
    own.sort(key=lambda r: (r["horizon_hours"], r["symbol"]))
    rows: list[Row] = []
    for hours, part in groupby(own, key=lambda r: r["horizon_hours"]):
        rows.append(Group(f"{hours} h ahead"))
        rows += [
            [r["symbol"], *(number(r[f], digits) for f, digits in fields.items()), yes_no(r["in_mcs90"])] for r in part
        ]
    return table("symbols", "The ensemble, symbol by symbol", ["", *fields, "in_mcs90"], rows)


def coverage_table(diagnostics: Mapping[str, Any], forecasts: pd.DataFrame) -> str:
    """Origins with a complete target, those forecast and those scored, and the status of the rows."""
    statuses = forecasts.groupby(["model", "horizon_hours", "status"], observed=True).size()
    rows: list[Row] = []
    for row in diagnostics.get("coverage", ()):
        key = (row["model"], row["horizon_hours"])
        cells = [count(row[name]) for name in ("origins", "forecast", "scored")]
        cells += [count(int(statuses.get((*key, status), 0))) for status in STATUSES]
        rows.append([f"{key[0]}, {key[1]} h", *cells])
    if not rows:
        return "<p>The diagnostics hold no coverage of origins.</p>"
    head = ["", "origins", "forecast", "scored", *(f"rows {status}" for status in STATUSES)]
    return table("coverage", "Origins with a complete target, and the status of all forecast rows", head, rows)


def margin_tables(margins: pd.DataFrame) -> str:
    """Policies against each other over all symbols, then coverage and mean margin symbol by symbol."""
    records = margins.to_dict("records")
    shares = {"mean_im": 2, "coverage_24h_995": 3, "es_beyond_margin": 4, "pinball_995": 4, "matched_mean_im": 2}
    head = ["", "origins", "mean margin", "24 h coverage", "mean excess", "pinball loss"]
    head += ["mean margin at 99.5 %", "peak to trough"]
    overall: list[Row] = [
        [
            str(row["policy"]),
            count(int(row["n"])),
            *(_share(row[name], digits) for name, digits in shares.items()),
            number(row["peak_to_trough"], 2),
        ]
        for row in records
        if row["symbol"] == _EVERY
    ]
    policies = list(dict.fromkeys(str(row["policy"]) for row in records))
    at = {(str(row["symbol"]), str(row["policy"])): row for row in records}
    nothing = {"mean_im": float("nan"), "coverage_24h_995": float("nan")}
    by_symbol: list[Row] = []
    for symbol in sorted({symbol for symbol, _ in at} - {_EVERY}):
        rows = [at.get((symbol, policy), nothing) for policy in policies]
        cells = [_share(row["coverage_24h_995"], 2) for row in rows] + [_share(row["mean_im"], 1) for row in rows]
        by_symbol.append([symbol, *cells])
    titles = [f"{name}: {policy}" for name in ("24 h coverage", "mean margin") for policy in policies]
    caption = "Initial margins against the larger 24 h excursion, % of notional"
    return table("margins", caption, head, overall) + table(
        "margins-by-symbol", "The same by symbol", ["", *titles], by_symbol
    )


def oracle_table(oracle: Mapping[Any, Mapping[str, float]]) -> str:
    """The distance to the forecast that knows the true state, by horizon."""
    columns = list(dict.fromkeys(name for row in oracle.values() for name in row))
    rows: list[Row] = [
        [f"{hours} h ahead", *(number(row.get(name), 4) for name in columns)] for hours, row in oracle.items()
    ]
    caption = "On the simulated market: the forecast that knows the true state"
    return table("oracle", caption, ["", *columns], rows)


def facts_list(facts: Mapping[str, Any], forecasts: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Given facts first, then the provenance that the forecast table carries itself."""
    yield from ((str(name), str(value)) for name, value in facts.items() if name != "oracle")
    yield "forecast rows", f"{len(forecasts):,}".replace(",", "\u202f")
    yield "origins", f"{forecasts['origin'].min():%Y-%m-%d %H:%M} to {forecasts['origin'].max():%Y-%m-%d %H:%M} UTC"
    for name in ("config_sha256", "data_sha256"):
        yield name, ", ".join(sorted(map(str, forecasts[name].unique())))
    yield "model files", str(forecasts["model_sha256"].nunique())


def _verdict(found: Finding | None) -> Cell:
    """A dash where a check has no meaning at a horizon."""
    if found is None:
        return Cell("–", None, "n")
    mark = _MARK[found.verdict]
    note = f"{found.floor}  {mark}" if found.floor else mark
    return Cell(found.figure, None, f"n {found.verdict}", note.strip())


def _score_table(name: str, caption: str, rows: Sequence[Mapping[str, Any]], fields: Mapping[str, int]) -> str:
    with_set = "n" in fields
    body: list[Row] = []
    ordered = sorted(rows, key=lambda r: (r["horizon_hours"], r["model"] != ENSEMBLE, r["model"]))
    for hours, part in groupby(ordered, key=lambda r: r["horizon_hours"]):
        members = list(part)
        best = {field: _best([r[field] for r in members], field) for field in fields}
        body.append(Group(f"{hours} h ahead"))
        for row in members:
            cells = [
                count(row[field])
                if field == "n"
                else number(row[field], digits, "n best" if row[field] == best[field] else "n")
                for field, digits in fields.items()
            ]
            body.append([row["model"], *cells, *([yes_no(row["in_mcs90"])] if with_set else [])])
    return table(name, caption, ["", *fields, *(["in_mcs90"] if with_set else [])], body)


def _best(values: Sequence[float | None], field: str) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < 2 or field not in _LOWER_IS_BETTER | _HIGHER_IS_BETTER:
        return float("nan")
    return min(known) if field in _LOWER_IS_BETTER else max(known)


def _field(row: Mapping[str, Any] | None, name: str) -> float | None:
    return None if row is None or row[name] is None else float(row[name])


def _saved(own: float | None, other: float | None) -> Cell:
    if own is None or not other:
        return Cell("–", None, "n")
    share = 1 - own / other
    return Cell(percent(share, signed=True), repr(share), "n saved" if share >= 0 else "n lost")


def _share(value: float, digits: int) -> Cell:
    cell = number(value, digits)
    return Cell(percent(value, digits), cell.value, "n") if cell.value else cell
