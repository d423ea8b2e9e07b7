"""The model card: what the model is, what it was made of and chosen by, how well it does, and where it does not.

Every number comes from the run that writes the card (Mitchell et al. 2019, Model Cards for Model Reporting).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from features.market import Market
from features.schemas import TABLES
from models.catalogue import KINDS
from training.config import RunConfig
from training.evaluation import Evaluation
from training.goal_figures import Measured
from training.goal_report import figure_texts, goals_markdown, opponents_markdown
from training.goals import BELOW, LEVELS

__all__ = ["data_facts", "model_card"]

IMPORTANT: Final = 12
# The strata that say whether a gain is one of the model or of a corner of the sample.
STRATA: Final = (
    "without_best",
    "worst_quartile",
    "volatility",
    "year",
    "regime",
    "onset",
    "feed",
    "listing",
    "grid",
    "shock",
)
LIMITS: Final = (
    "It forecasts variance and its law, not direction, and it says nothing about why volatility comes.",
    "Regimes are classes of realised variance against a symbol's own past, not states of the world; under 90 days of history "
    "there are none.",
    "Persistence does most of the work: most alarms come once volatility has begun to rise. What beats it is told by the "
    "onset rows.",
    "A gain over one proxy is not a gain over another; the proxy stands in every table.",
    "Symbols are correlated and crashes are few: a year holds less evidence than its hours suggest, so intervals are by date.",
    "These are walk-forward figures on history that is known by now; only forecasts published beforehand are a track record.",
    "Exchange outages, changed contract terms and delistings are in the data only as missing bars.",
)


def data_facts(market: Market) -> list[dict[str, Any]]:
    """One row a table of the market: rows, symbols (or series), first and last instant."""
    facts = []
    for spec in TABLES.values():
        rows = market.table(spec.name)
        if len(rows):
            facts.append(
                {
                    "table": spec.name,
                    "rows": len(rows),
                    "entities": sorted(rows[spec.entity].unique()),
                    "first": f"{rows[spec.clock].min():%Y-%m-%d}",
                    "last": f"{rows[spec.clock].max():%Y-%m-%d}",
                }
            )
    return facts


def model_card(
    evaluation: Evaluation,
    scorecard: Mapping[str, Any],
    measured: Sequence[Measured],
    data: Sequence[Mapping[str, Any]],
    tuning: Mapping[str, Any] | None,
) -> str:
    """The card in Markdown.

    ``scorecard``: the document of ``training.goal_report``; ``measured``: what it was made of, in the same order; ``data``:
    as ``data_facts`` tells; ``tuning``: the document of ``training.tuning``, or None where no search was run.
    """
    parts = [
        _head(scorecard),
        _what(evaluation.config),
        _data(data),
        _members(evaluation),
        _chosen(tuning),
        *(_scores(window) for window in scorecard["windows"]),
        _misses(scorecard),
        *(_strata(found) for found in measured),
        _importance(evaluation.importance),
        _limits(scorecard),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _head(scorecard: Mapping[str, Any]) -> list[str]:
    suspect = ["", "**This run is suspect: see its tripwires below.**"] if scorecard["suspect"] else []
    return [
        "# Model card",
        "",
        "Written by `forecaster scorecard` from the run it describes; not to be edited by hand. Configuration "
        f"`{scorecard['config_sha256']}`, data `{scorecard['data_sha256']}`, code `{scorecard['code_sha256']}`.",
        *suspect,
    ]


def _what(config: RunConfig) -> list[str]:
    hours = ", ".join(map(str, config.horizons))
    return [
        "## What it is",
        "",
        f"Forecasts of the variance of perpetual futures over the next {hours} hours, made every hour for every symbol: the "
        "mean, five quantiles of it, quantiles of the return with expected shortfall, quantiles of the adverse excursion on "
        "both sides, and probabilities of four regimes and of the onset of stress. Meant for setting margin and exposure. "
        f"The target is the sum of hourly {config.proxy.replace('_', ' ')} variance. Members are fitted on all symbols "
        f"together every {config.walkforward.refit_months} months, on labels known by then; levels, weights, laws and "
        "calibration are learnt from resolved out-of-sample forecasts alone.",
    ]


def _data(data: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        f"| {row['table']} | {row['rows']:,} | {', '.join(row['entities'])} | {row['first']} | {row['last']} |"
        for row in data
    ]
    return ["## Data", "", "| table | rows | of | from | to |", "|---|---|---|---|---|", *rows]


def _members(evaluation: Evaluation) -> list[str]:
    weights = evaluation.weights
    horizons = list(evaluation.config.horizons)
    lines = [
        "## Members and weights",
        "",
        "Mean weight over the refreshes of the evaluation, least to most in brackets; members without one are forecast and "
        "scored beside the combination, and answer where it cannot.",
        "",
        f"| member | arguments | {' | '.join(f'{h} h' for h in horizons)} |",
        f"|---|---|{'---|' * len(horizons)}",
    ]
    for member in evaluation.config.members:
        cells = []
        for h in horizons:
            of = weights.xs(h, level="horizon_hours") if len(weights) else weights
            if member.kind not in of or of[member.kind].isna().all():
                cells.append("")
            else:
                w = of[member.kind]
                cells.append(f"{w.mean():.2f} [{w.min():.2f}, {w.max():.2f}]")
        lines.append(f"| {member.kind} | {_arguments(member.kind, member.params)} | {' | '.join(cells)} |")
    combination = evaluation.config.ensemble
    return [
        *lines,
        "",
        f"Combination: {', '.join(f'{k} {v}' for k, v in combination.params.items()) or 'as by default'}.",
    ]


def _arguments(kind: str, params: Mapping[str, Any]) -> str:
    """Every argument with its value, those that the configuration set in bold."""
    cls, fixed = KINDS[kind]
    known = inspect.signature(cls).parameters
    told = [
        f"**{name} {params[name]}**" if name in params else f"{name} {parameter.default}"
        for name, parameter in known.items()
        if name not in fixed
    ]
    return ", ".join(told)


def _chosen(tuning: Mapping[str, Any] | None) -> list[str]:
    lines = ["## Chosen values and their sensitivity", ""]
    if tuning is None:
        return [*lines, "No search was run beside this scorecard: the values above are the configured ones."]
    lines += [
        f"Searched on inner folds from {tuning['folds'][0][0]} to {tuning['folds'][-1][1]}, on what was known on "
        f"{tuning['before'][:10]}; loss is the mean over horizons of QLIKE as a share of har_seasonal's, without the shock "
        "day. Best values are taken where what they save is clear of zero.",
        "",
        "| subject | trials (cut short) | configured | best | loss configured → best | saves | taken |",
        "|---|---|---|---|---|---|---|",
    ]
    for told in tuning["subjects"]:
        gain = told["gain"]
        saves = "–" if gain["value"] is None else f"{gain['value']:+.2%} [{gain['low']:+.2%}, {gain['high']:+.2%}]"
        lines.append(
            f"| {told['subject']} | {told['finished']} ({told['cut_short']}) | {_listed(told['configured'])} | "
            f"{_listed(told['best'])} | {told['loss_configured']:.4f} → {told['loss_best']:.4f} | {saves} | "
            f"{'yes' if told['taken'] else 'no'} |"
        )
    lines += [
        "",
        "Sensitivity: each argument's share of the loss's variance over the space; mean (least) loss along its values.",
        "",
        "| subject | argument | share | loss along its values |",
        "|---|---|---|---|",
    ]
    for told in tuning["subjects"]:
        for entry in told["sensitivity"]:
            share = "–" if entry["importance"] is None else f"{entry['importance']:.0%}"
            along = "; ".join(_part(part) for part in entry["losses"])
            lines.append(f"| {told['subject']} | {entry['argument']} | {share} | {along} |")
    return lines


def _part(part: Mapping[str, Any]) -> str:
    low, high = _value(part["from"]), _value(part["to"])
    where = low if low == high else f"{low} to {high}"
    return f"{where}: {part['mean']:.4f} ({part['least']:.4f})"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _scores(window: Mapping[str, Any]) -> list[str]:
    title = f"## Scores: {window['name']}"
    span = f"Origins from {window['start'][:10]} to {window['end'][:10]}, {len(window['symbols'])} symbols."
    return [title, "", span, "", *goals_markdown(window["goals"]), "", *opponents_markdown(window)]


def _misses(scorecard: Mapping[str, Any]) -> list[str]:
    """Every demand of a floor or target that the first window does not meet."""
    lines = ["## Misses", ""]
    for goal in scorecard["windows"][0]["goals"]:
        if goal["reached"] in LEVELS[1:]:
            continue
        worst = [figure for figure in goal["figures"] if figure["value"] is None or _missed(figure)]
        # A goal that asks for no more than its floor misses nothing where it has reached that.
        if not worst:
            continue
        what = "; ".join(figure_texts(worst))
        word = "misses its floor" if goal["reached"] == BELOW else goal["reached"]
        lines.append(f"- {goal['goal']} ({word}): {what}")
    return lines if len(lines) > 2 else [*lines, "None: every target is reached."]


def _missed(figure: Mapping[str, Any]) -> bool:
    bound = figure["target"] if figure["target"] is not None else figure["floor"]
    if bound is None:
        return False
    if isinstance(bound, list):
        return not bound[0] <= figure["value"] <= bound[1]
    return bool(figure["value"] > bound if figure["less_is_better"] else figure["value"] < bound)


def _strata(found: Measured) -> list[str]:
    rows = [row for row in found.diagnostics["strata"] if row["kind"] in STRATA]
    if not rows:
        return []
    lines = [
        f"## Where the gain lives: {found.window.name}",
        "",
        f"What the ensemble saves of {rows[0]['opponent']}'s QLIKE, without the shock day but for the last stratum. Strata by "
        "outcome (the best and the worst symbols) bound the gain; no claim rests on them.",
        "",
        "| hours | stratum | rows | saves | symbols better | returns below the 1 % quantile |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        interval = "" if row["low"] is None else f" [{row['low']:+.1%}, {row['high']:+.1%}]"
        gain = "–" if row["gain"] is None else f"{row['gain']:+.1%}{interval}"
        hits = "–" if row["var_hit_010"] is None else f"{row['var_hit_010']:.2%}"
        lines.append(
            f"| {row['horizon_hours']} | {row['kind']}: {row['value']} | {row['rows']:,} | {gain} | "
            f"{row['symbols_better']} of {row['symbols']} | {hits} |"
        )
    return lines


def _importance(importance: pd.DataFrame) -> list[str]:
    if importance.empty:
        return []
    lines = [
        "## Importance",
        "",
        "How much a feature moves ln F: the standard deviation over test rows of its accumulated local effect, mean over the "
        "scored folds.",
    ]
    for member, table in importance.groupby(level="member"):
        of = table.droplevel("member")
        top = of.mean(axis=1).sort_values(ascending=False, kind="stable").index[:IMPORTANT]
        lines += ["", f"| {member} | {' | '.join(f'{h} h' for h in of.columns)} |", f"|---|{'---|' * len(of.columns)}"]
        lines += [
            f"| {name} | {' | '.join('–' if np.isnan(x) else f'{x:.3f}' for x in of.loc[name])} |" for name in top
        ]
    return lines


def _limits(scorecard: Mapping[str, Any]) -> list[str]:
    return ["## Limits", "", *(f"- {limit}" for limit in [*LIMITS, *_of_this_run(scorecard)])]


def _of_this_run(scorecard: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{scorecard['configurations']} configurations were tried in this tracking store; the more were tried, the less the "
        "best of them is worth."
    )
    for window in scorecard["windows"]:
        if scorecard["chosen_before"] is not None and window["start"] < scorecard["chosen_before"]:
            yield (
                f"Values were chosen on months up to {scorecard['chosen_before'][:10]}, and the window '{window['name']}' "
                f"begins on {window['start'][:10]}: until then its figures are not out of sample for the choice."
            )
        for reason in window["tripped"]:
            yield f"Suspect: {reason}."
