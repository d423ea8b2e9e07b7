"""Tables of the feature study: steps, levels, coverage, drift and clusters."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from forecaster.report.findings import percent
from forecaster.report.tables import Cell, Group, Row, count, number, table
from training.feature_study import NEGLIGIBLE

__all__ = ["LOG_MEAN", "clusters", "coverage", "drift", "levels", "step_table", "year_table"]

LOG_MEAN: Final = "log_mean"


def step_table(kind: str, title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What every step is worth, by horizon, subject and model."""
    head = ["", "model", "QLIKE saved", "full", "symbols better", "onset skill, points", "symbols better", "rows"]
    body: list[Row] = []
    for hours, part in groupby(_by_horizon(rows), key=lambda row: row["horizon_hours"]):
        body.append(Group(f"{hours} h ahead"))
        body += [
            [row["subject"], _text(row["model"]), _interval(row, "gain"), _share(row["gain_full"]), _better(row, "gain"),
             _interval(row, "onset"), _better(row, "onset"), count(row["rows"])]
            for row in part
        ]  # fmt: skip
    return table(kind, f"{title}: share of QLIKE saved and change in onset skill, with 90 % intervals", head, body)


def year_table(kind: str, title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The mean of the members, by year of the origin."""
    own = [row for row in _by_horizon(rows) if row["model"] == LOG_MEAN]
    years = sorted({year for row in own for year in row["gain_by_year"]})
    head = ["", *(f"{year}: QLIKE" for year in years), *(f"{year}: onset" for year in years)]
    body: list[Row] = []
    for hours, part in groupby(own, key=lambda row: row["horizon_hours"]):
        body.append(Group(f"{hours} h ahead"))
        body += [
            [
                row["subject"],
                *(_share(row[f"{name}_by_year"].get(year)) for name in ("gain", "onset") for year in years),
            ]
            for row in part
        ]
    return table(f"{kind}-years", f"{title}, by calendar year of the origin", head, body)


def levels(document: Mapping[str, Any]) -> str:
    """Where each set of families stands."""
    head = ["families", "model", "QLIKE", "with shock day", "saved against har_seasonal", "onset skill"]
    every = [family["family"] for family in document["families"]]
    body: list[Row] = []
    for hours, part in groupby(_by_horizon(document["levels"]), key=lambda row: row["horizon_hours"]):
        body.append(Group(f"{hours} h ahead"))
        body += [
            [_set(row["families"], every), _text(row["model"]), number(row["qlike_x"], 4), number(row["qlike"], 4),
             _interval(row, "gain"), number(row["onset_skill"], 3)]
            for row in part
        ]  # fmt: skip
    return table("levels", "Each set of families: its losses, and its gain over the seasonal HAR", head, body)


def _set(families: Sequence[str], every: Sequence[str]) -> str:
    """A set by its shorter description."""
    missing = [family for family in every if family not in families]
    if not missing:
        return "all"
    return f"all but {', '.join(missing)}" if len(missing) <= len(families) else ", ".join(families)


def coverage(document: Mapping[str, Any]) -> Iterator[str]:
    """Where each feature exists, family by family."""
    rows = {row["feature"]: row for row in document["coverage"]}
    years = sorted({year for row in rows.values() for year in row["by_year"]})
    listings = sorted({year for row in rows.values() for year in row["by_listing"]})
    listings = listings if len(listings) > 1 else []
    head = ["feature", "all rows", *years, *(f"listed {year}" for year in listings), "first", "last", "symbols"]
    body: list[Row] = []
    for family in document["families"]:
        body.append(Group(f"{family['family']} ({family['group']})"))
        for name in family["columns"]:
            row = rows[name]
            shares = [
                row["share"],
                *(row["by_year"].get(y) for y in years),
                *(row["by_listing"].get(y) for y in listings),
            ]
            ends = [_text(row[end] and row[end][:10]) for end in ("first", "last")]
            body.append([name, *(_share(share, signed=False) for share in shares), *ends, count(row["symbols"])])
    never = [name for name, row in rows.items() if not row["symbols"]]
    if never:
        yield f'<p class="notice">{html.escape("Never present in these data: " + ", ".join(never))}.</p>'
    yield table(
        "coverage", "Share of the rows with a bar at which a feature exists, by year and by year of listing", head, body
    )


def drift(document: Mapping[str, Any]) -> str:
    """How far each feature has moved."""
    told = sorted(document["drift"], key=lambda row: -(row["worst"] or 0.0))
    quarters = sorted({quarter for row in told for quarter in row["quarters"]})
    head = ["feature", "reference until", *quarters, "largest month", "index"]
    body = [
        [row["feature"], _text(row["reference_until"]), *(number(row["quarters"].get(q), 2) for q in quarters),
         _text(row["worst_month"]), number(row["worst"], 2)]
        for row in told
    ]  # fmt: skip
    return table(
        "drift", "Population stability index by quarter, and the month that moved most; most first", head, body
    )


def clusters(document: Mapping[str, Any]) -> str:
    """Features that tell the same."""
    several = [cluster for cluster in document["clusters"] if len(cluster["features"]) > 1]
    body = [
        [c["representative"], ", ".join(f for f in c["features"] if f != c["representative"]), number(c["rho"], 2)]
        for c in several
    ]
    alone = len(document["clusters"]) - len(several)
    caption = f"Features that tell the same, each cluster by its representative; {alone} features stand alone"
    return table("clusters", caption, ["representative", "others", "mean |ρ|"], body)


def _by_horizon(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """By horizon, and what is compared side by side there: models of one subject, or of one set."""
    order = list(dict.fromkeys(str(row.get("subject", row.get("families"))) for row in rows))
    return sorted(
        rows, key=lambda row: (row["horizon_hours"], order.index(str(row.get("subject", row.get("families")))))
    )


def _interval(row: Mapping[str, Any], name: str) -> Cell:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return number(None, 0)
    kind = "n held" if low > NEGLIGIBLE else "n missed" if high < -NEGLIGIBLE else "n"
    # A change of a skill is told in points, not as a share of anything.
    shown, least, most = (percent(x, 2, signed=True) for x in (value, low, high))
    if name == "onset":
        shown, least, most = (text.removesuffix("\u00a0%") for text in (shown, least, most))
    return Cell(shown, repr(float(value)), kind, f"{least} to {most}")


def _text(text: str | None) -> Cell:
    return Cell(text or "–", None, "n")


def _share(value: float | None, *, signed: bool = True) -> Cell:
    return number(None, 0) if value is None else Cell(percent(value, signed=signed), repr(float(value)), "n")


def _better(row: Mapping[str, Any], name: str) -> Cell:
    return Cell("–" if row[name] is None else f"{row[f'{name}_better']} of {row[f'{name}_symbols']}", None, "n")
