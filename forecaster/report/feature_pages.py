"""The page of the feature study: verdicts in words, what each step is worth, and what the features are like."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

from matplotlib.figure import Figure

from features.store import write_atomically
from forecaster.report.canvas import COLOURS, MUTED, css_variables, inline_svg
from forecaster.report.feature_tables import LOG_MEAN, clusters, coverage, drift, levels, step_table, year_table
from forecaster.report.tables import Cell, Group, Row, definitions, number, table, yes_no

__all__ = ["write_features"]

KINDS: Final = {
    "ladder": "Each group, added to the groups before it",
    "removed": "Each group, in the full set against the set without it",
    "family_added": "Each family, in the first group against that group without it",
    "family_removed": "Each family, in the full set against the set without it",
}
# Two questions on each subject: is it worth adding, and is it worth keeping?
QUESTIONS: Final = (("groups", "ladder", "removed"), ("families", "family_added", "family_removed"))
WORDS: Final = {
    "pays": "pays",
    "harms": "harms",
    "no evidence": "shows no evidence of a gain",
    "not scored": "could not be scored",
}
WIDTH: Final = 11.0
_GLOSSARY: Final = (
    ("QLIKE", "mean of V/F − ln(V/F) − 1 for forecast F of variance V; here without the shock day of each horizon"),
    ("QLIKE saved", "share of the smaller set's QLIKE that the larger set saves; symbols with equal weight"),
    ("full", "the same with the shock day"),
    ("onset skill", "share of the trailing climatology's squared error that the probability of stress ahead saves, on rows "
     "that are calm or normal now; its change, in points"),
    ("har_x, lightgbm, log_mean", "ridge panel; boosted trees on the seasonal HAR; the mean of both log forecasts, on which "
     "verdicts rest"),
    ("interval", "90 %, from resampled blocks of ten days on average, all symbols together; under about 200 days too narrow"),
    ("pays", "some joint interval (90 % for both losses at all horizons at once) above zero and none below; harms: any "
     "below; otherwise there is no evidence"),
    ("stability index", "Σ (p − q) ln(p/q) over the deciles of the first half of a feature's months. A persistent feature "
     "reaches 1 and more by chance alone: compare features of the same look-back. Drift is no fault by itself"),
    ("cluster", "average linkage of features whose 1 − |Spearman correlation| is at most 0.1"),
)  # fmt: skip


def write_features(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write the page of ``training.feature_study.study``'s document; equal documents give equal bytes."""
    parts = (
        ("summary", "What pays and what does not", _summary(document)),
        ("worth", "What each step is worth", _worth(document)),
        ("levels", "Where each set stands", [levels(document)]),
        ("coverage", "Coverage", coverage(document)),
        ("drift", "Drift", [drift(document)]),
        ("clusters", "What tells the same", [clusters(document)]),
        ("method", "How it was measured", [definitions(_method(document))]),
        ("glossary", "How to read the names", [definitions(_GLOSSARY)]),
    )
    package = files(__package__)
    scored = f"of {document['focus']}" if document["focus"] else f"of {len(document['symbols'])} symbols"
    page = Template((package / "page.html").read_text("utf-8")).substitute(
        title="What the features are worth",
        light=css_variables(0),
        dark=css_variables(1),
        style=(package / "page.css").read_text("utf-8"),
        lead=html.escape(
            f"Forecasts {scored}, {', '.join(map(str, document['horizons']))} hours ahead, out of sample from "
            f"{document['start'][:10]} up to {document['end'][:10]}, with and without each group of features."
        ),
        links="".join(f'<a href="#{key}">{name}</a>' for key, name, _ in parts),
        sections="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{name}</h2>{"".join(body)}</section>'
            for key, name, body in parts
        ),
    )
    write_atomically(Path(path), page.encode())


def _summary(document: Mapping[str, Any]) -> Iterator[str]:
    told = [
        f"{verdict['subject']} {WORDS[verdict['verdict']]} on top of the groups before it: {verdict['reason']}."
        for verdict in document["verdicts"]
        if verdict["kind"] == "ladder"
    ]
    if not told:
        told = ["There is one group of features only, so there is no ladder to climb."]
    left_out = [f["family"] for f in document["families"] if not f["default"]]
    told.append(
        f"Not built by default: {', '.join(left_out)}."
        if left_out
        else "Every family that was studied is built by default."
    )
    judged = [row for row in document["steps"] if row["model"] == LOG_MEAN]
    intervals = sum(row[f"{name}_low"] is not None for row in judged for name in ("gain", "onset"))
    if intervals:
        told.append(
            f"{intervals} intervals were judged, those of a step at 90 % jointly: were no feature worth anything, one step in "
            "twenty would seem to pay by chance, and one in twenty to harm."
        )
    yield "<ul class=plain>" + "".join(f"<li>{html.escape(line)}</li>" for line in told) + "</ul>"
    yield _verdicts(document)


def _verdicts(document: Mapping[str, Any]) -> str:
    """Each subject with the answers to both questions, and whether it is built by default."""
    found = {(verdict["kind"], verdict["subject"]): verdict for verdict in document["verdicts"]}
    default = {family["family"]: family["default"] for family in document["families"]}
    body: list[Row] = []
    for title, adding, keeping in QUESTIONS:
        subjects = dict.fromkeys(subject for kind, subject in found if kind in (adding, keeping))
        body += [Group(title)] if subjects else []
        for subject in subjects:
            built = yes_no(default[subject]) if title == "families" else Cell("", None, "n")
            body.append([subject, *(_word(found.get((kind, subject))) for kind in (adding, keeping)), built])
    head = ["", "worth adding?", "worth keeping in the full set?", "default"]
    return table("verdicts", "Verdicts by the mean of the members, QLIKE and onset skill together", head, body)


def _word(verdict: Mapping[str, Any] | None) -> Cell:
    if verdict is None:
        return number(None, 0)
    kind = {"pays": "n held", "harms": "n missed"}.get(verdict["verdict"], "n")
    return Cell(verdict["verdict"], None, kind, verdict["reason"])


def _worth(document: Mapping[str, Any]) -> Iterator[str]:
    for kind, title in KINDS.items():
        rows = [row for row in document["steps"] if row["kind"] == kind]
        if not rows:
            continue
        subjects = list(dict.fromkeys(row["subject"] for row in rows))
        note = (
            "Above: share of QLIKE saved by having it. Below: points of onset skill added. Bars: 90 % intervals; blue, the "
            "mean of the members; grey, each alone. Left of zero, it costs."
        )
        height = 1.4 + 0.6 * len(subjects)
        picture = inline_svg(kind, f"{title}: what it is worth", (WIDTH, height), lambda f, r=rows: _draw(f, r))  # type: ignore[misc]
        yield f"<figure><div>{picture}</div><figcaption>{html.escape(f'{title}. {note}')}</figcaption></figure>"
        yield step_table(kind, title, rows)
        if len(rows[0]["gain_by_year"]) > 1:
            yield year_table(kind, title, rows)


def _draw(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    """Panels: QLIKE saved over onset skill added, horizons across; one line a subject and model."""
    horizons = sorted({row["horizon_hours"] for row in rows})
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    grid = figure.subplots(2, len(horizons), sharey=True, sharex="row", squeeze=False)
    for line, (field, told) in zip(
        grid, (("gain", "% of QLIKE saved"), ("onset", "points of onset skill")), strict=True
    ):
        for axes, hours in zip(line, horizons, strict=True):
            axes.axvline(0, color=MUTED, lw=0.8)
            for row in rows:
                if row["horizon_hours"] != hours or row[field] is None:
                    continue
                own = row["model"] == LOG_MEAN
                y = subjects.index(row["subject"]) + 0.18 * (models.index(row["model"]) - models.index(LOG_MEAN))
                colour = COLOURS["ensemble"][0] if own else MUTED
                ends = [100 * row[f"{field}_low"], 100 * row[f"{field}_high"]]
                axes.plot(ends, [y, y], color=colour, lw=2.2 if own else 1.0)
                axes.plot(100 * row[field], y, "o", ms=5 if own else 3, color=colour)
            axes.set_title(f"{hours} h ahead")
            axes.set_xlabel(told)
            axes.grid(axis="x")
            axes.grid(visible=False, axis="y")
            axes.spines["left"].set_visible(False)
        line[0].set_yticks(range(len(subjects)), subjects)
        line[0].set_ylim(len(subjects) - 0.4, -0.6)


def _method(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "data", document["data_sha256"]
    yield "configuration", document["config_sha256"]
    yield "proxy of variance", document["proxy"]
    yield "symbols scored", ", ".join(document["symbols"])
    if document["focus"]:
        yield (
            "hours scored",
            "those at which more than half of the subject's own columns exist for this symbol, and had existed for 720 hours "
            "before the fold's border",
        )
    yield "members", "; ".join(f"{m['kind']} {m['params']}" for m in document["members"])
    yield (
        "folds",
        f"{document['scored_folds']} scored after {document['warmup_folds']} to warm up, refitted every "
        f"{document['refit_months']} months on rows whose targets were known at the fold's border",
    )
    own = f", and every hour of {document['focus']}; har_x_own: the latter alone" if document["focus"] else ""
    yield "training rows", f"every {document['training_every_hours']} hours, all symbols together{own}"
    yield "level", "every forecast's mean of V/F over its own resolved forecasts of a year, shrunk to the pool, daily"
    shocks = "; ".join(f"{hours} h: {', '.join(days)}" for hours, days in document["shock_days"].items())
    yield "shock days", f"where ewma, har and har_seasonal together lose most, and the days beside: {shocks}"
    for family in document["families"]:
        needed = ", in every set" if family["needed"] else ""
        yield f"family {family['family']}", f"{family['group']}, {len(family['columns'])} features{needed}"
