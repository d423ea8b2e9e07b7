"""The goal table as a document and as a page: every goal with its figures, beside the plain opponents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from models.base import ENSEMBLE
from training.diagnostics import REFERENCE
from training.goal_figures import Measured
from training.goals import LEVELS, Figure, judge, tripped

__all__ = ["document", "figure_texts", "goals_markdown", "investigation", "markdown", "opponents_markdown"]

SCHEMA_VERSION: Final = 1
LEAST_P: Final = 0.0001


def document(
    measured: Sequence[Measured],
    more: Mapping[str, Figure],
    best: Mapping[str, Mapping[int, Mapping[str, float]]],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """What ``scorecard.json`` holds.

    ``more``: figures that other commands measured, of the first window; ``best``: by window and horizon, the loss of every
    classical member before the window. The run is suspect where a window trips a wire.
    """
    windows = []
    for k, found in enumerate(measured):
        figures = {**found.figures, **(more if k == 0 else {})}
        window = found.window
        windows.append(
            {
                "name": window.name,
                "start": window.start.isoformat(),
                "end": window.end.isoformat(),
                "symbols": list(window.symbols),
                "shock_days": found.diagnostics["shock_days"],
                "best_classical": {str(h): losses for h, losses in best[window.name].items()},
                "goals": judge(figures),
                "opponents": list(_opponents(found)),
                "tests": found.diagnostics["tests"],
                "superiority": found.diagnostics["superiority"],
                "symbol_years": found.symbol_years,
                "tripped": tripped(figures, found.symbol_years),
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "suspect": any(window["tripped"] for window in windows),
        "windows": windows,
    }


def markdown(told: Mapping[str, Any]) -> str:
    """The page: one goal table and one table of opponents a window."""
    lines = [
        "# Scorecard",
        "",
        f"Proxy {told['proxy']}, walk-forward with a refit every {told['refit_months']} months; configuration "
        f"`{told['config_sha256'][:16]}`, data `{told['data_sha256'][:16]}`; {told['configurations']} configurations were "
        "tried in this tracking store. A level counts as reached by the figure itself; intervals are 90 %, by date.",
    ]
    for window in told["windows"]:
        lines += ["", f"## {window['name']}", "", _span(window), ""]
        if window["tripped"]:
            lines += ["**Suspect.** " + "; ".join(window["tripped"]) + ".", ""]
        lines += [*goals_markdown(window["goals"]), "", *opponents_markdown(window)]
    if told["suspect"]:
        lines += ["", investigation(told)]
    return "\n".join(lines) + "\n"


def investigation(told: Mapping[str, Any]) -> str:
    """What to do about a suspect run."""
    reasons = "; ".join(reason for window in told["windows"] for reason in window["tripped"])
    return (
        f"This run is suspect until a leak is ruled out ({reasons}). Begin with: forecaster leakcheck, on the same "
        "configuration and store; it names the first cell that depends on what came later."
    )


def goals_markdown(goals: Iterable[Mapping[str, Any]]) -> list[str]:
    """One row a goal; within it, one line a figure with its bounds."""
    lines = ["| # | metric | figures (floor / target / moonshot) | reached |", "|---|---|---|---|"]
    for goal in goals:
        figures = "<br>".join(figure_texts(goal["figures"]))
        lines.append(f"| {goal['goal']} | {goal['metric']} | {figures} | {goal['reached']} |")
    return lines


def opponents_markdown(window: Mapping[str, Any]) -> list[str]:
    """Losses of all models, and what the ensemble saves of them, with and without the shock day."""
    lines = [
        "| hours | model | QLIKE | without the shock day | ensemble saves, without the shock day | with it | symbols better |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in window["opponents"]:
        star = " (B*)" if row["best_classical"] else ""
        saved = [_interval(row[name]) for name in ("saved_x", "saved")]
        better = "" if row["saved_x"] is None else f"{row['symbols_better']} of {row['symbols']}"
        lines.append(
            f"| {row['horizon_hours']} | {row['model']}{star} | {_loss(row['qlike'])} | {_loss(row['qlike_x'])} | "
            f"{saved[0]} | {saved[1]} | {better} |"
        )
    days = "; ".join(f"{h} h: {', '.join(days)}" for h, days in window["shock_days"].items())
    return [*lines, "", f"Shock days left out: {days}.", *_deflated(window["tests"])]


def _deflated(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the gains over the reference are worth once everything that was tried is counted."""
    told = [
        f"{row['horizon_hours']} h: {row['dm_statistic']:.1f}, {_p_value(row['deflated_p'])}"
        for row in tests
        if row["opponent"] == REFERENCE and row["deflated_p"] is not None
    ]
    if not told:
        return []
    return [
        "",
        f"Ensemble against {REFERENCE}, equal ability (Diebold-Mariano statistic, negative in its favour; p deflated "
        f"by the number of configurations tried): {'; '.join(told)}.",
    ]


def _p_value(p: float) -> str:
    return f"p = {p:.4f}" if p >= LEAST_P else f"p < {LEAST_P}"


def figure_texts(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every figure with its interval and bounds; those that are missing for one reason are told together."""
    told = [_text(figure) for figure in figures if figure["value"] is not None]
    missing: dict[str, list[str]] = {}
    for figure in figures:
        if figure["value"] is None:
            missing.setdefault(figure["why"], []).append(figure["figure"])
    return told + [f"not measured ({why}): {'; '.join(names)}" for why, names in missing.items()]


def _text(figure: Mapping[str, Any]) -> str:
    share = figure["unit"] == "share"

    def told(value: float) -> str:
        return f"{value * 100:.2f} %" if share else f"{value:.3f}"

    def bound(value: Any) -> str:
        if value is None:
            return "–"
        return f"{told(value[0])} to {told(value[1])}" if isinstance(value, list) else told(value)

    interval = "" if figure["low"] is None else f" [{told(figure['low'])}, {told(figure['high'])}]"
    bounds = " / ".join(bound(figure[level]) for level in LEVELS)
    why = f"; {figure['why']}" if figure["why"] else ""
    return f"{figure['figure']}: **{told(figure['value'])}**{interval} ({bounds}{why})"


def _opponents(found: Measured) -> Iterable[dict[str, Any]]:
    gains = {(row["horizon_hours"], row["opponent"], row["loss"]): row for row in found.diagnostics["gains"]}
    rows = [row for row in found.scores["scores"] if row["symbol"] == "*" and row["qlike"] is not None]
    for row in sorted(rows, key=lambda row: (row["horizon_hours"], row["model"] != ENSEMBLE, row["qlike_x"] or 0.0)):
        h, model = row["horizon_hours"], row["model"]
        saved, saved_x = (gains.get((h, model, loss)) for loss in ("qlike", "qlike_x"))
        yield {
            "horizon_hours": h,
            "model": model,
            "best_classical": found.window.best.get(h) == model,
            "qlike": row["qlike"],
            "qlike_x": row["qlike_x"],
            "saved": _bounds(saved),
            "saved_x": _bounds(saved_x),
            "symbols_better": None if saved_x is None else saved_x["symbols_better"],
            "symbols": None if saved_x is None else saved_x["symbols"],
        }


def _bounds(row: Mapping[str, Any] | None) -> dict[str, float | None] | None:
    return None if row is None else {"value": row["gain"], "low": row["low"], "high": row["high"]}


def _interval(saved: Mapping[str, float | None] | None) -> str:
    if saved is None or saved["value"] is None:
        return ""
    told = f"{saved['value']:+.1%}"
    return told if saved["low"] is None else f"{told} [{saved['low']:+.1%}, {saved['high']:+.1%}]"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _span(window: Mapping[str, Any]) -> str:
    best = ", ".join(f"{next(iter(losses))} at {h} h" for h, losses in window["best_classical"].items() if losses)
    return (
        f"Origins from {window['start'][:10]} to {window['end'][:10]}, {len(window['symbols'])} symbols: "
        f"{', '.join(window['symbols'])}. B*, chosen before the window: {best or 'none, for want of folds before it'}."
    )
