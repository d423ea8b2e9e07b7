"""The report: one HTML file that asks nothing of any network and shows misses as plainly as hits."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

import pandas as pd

from features.store import write_atomically
from forecaster.report import listings, sections
from forecaster.report.canvas import css_variables
from forecaster.report.evidence import REFERENCE, Horizon, excursion_hits, gather
from forecaster.report.findings import Numbers
from forecaster.report.tables import definitions
from models.base import ENSEMBLE

__all__ = ["write"]

_PROXIES: Final = {
    "garman_klass": "the Garman-Klass variance of hourly bars",
    "squared_returns": "squared returns inside the hour",
}
_GLOSSARY: Final = (
    ("V", "what is forecast: the sum of bar variances over the horizon, floored at 1e-8"),
    ("volatility", "the square root of V, scaled to a year of 8,760 hours, in per cent"),
    ("qlike", "mean of V/F − ln(V/F) − 1 for forecast F; 0 is perfect, and a noisy V does not bias it"),
    ("qlike_x", "qlike without the UTC day of the largest loss of the classical models and the days beside it"),
    ("mse_log, crps_log", "squared error of ln F; ranked probability score of the five quantiles of ln V"),
    ("coverage_var_90", "share of V inside the 5 % to 95 % quantiles; right is 0.90"),
    ("pinball_ret", "mean quantile loss of the return over its 11 levels, in forecast standard deviations"),
    ("var_hit_010", "share of returns below their 1 % quantile; right is 0.01"),
    (
        "kupiec_p, christoffersen_p",
        "p-values of right and independent 1 % hits, non-overlapping origins; a mean of p-values is no test",
    ),
    ("es_z2_025", "Acerbi and Szekely's Z2 of the 2.5 % shortfall; right is 0, below 0 risk was understated"),
    ("DQ", "Engle and Manganelli's test that hits cannot be foreseen from earlier hits and the quantile"),
    ("ESR", "Bayer and Dimitriadis' test that what returns leave beside their forecast shortfall has a shortfall of 0"),
    ("FZ0", "loss of quantile and shortfall together; lower is better, a logarithm in the unit of the return"),
    ("SPA", "Hansen's test whether the best of several models is better, its selection counted"),
    ("regime", "calm, normal, stress, crisis: V split at its own trailing 30, 90 and 97.5 % quantiles of two years"),
    ("brier_stress", "squared error of the probability of stress or crisis"),
    ("brier_skill", "share of the squared error of the trailing climatology that the forecast saves"),
    ("onset", "stress or crisis ahead, given calm or normal now; its climatology counts such rows only"),
    ("log_loss_regime", "mean of −ln of the probability given to the regime that came"),
    ("ece_stress", "mean gap between probability and frequency over 20 bins of equal mass"),
    ("in_mcs90", "whether the 90 % model confidence set on qlike_x keeps the model"),
    ("excursion", "worst move against a long or a short position within the horizon, a share of the price"),
)


def write(
    path: str | Path,
    *,
    title: str,
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    scores: Mapping[str, Any],
    diagnostics: Mapping[str, Any],
    importance: pd.DataFrame,
    margins: pd.DataFrame | None = None,
    schedule: pd.DataFrame | None = None,
    facts: Mapping[str, Any] | None = None,
    examples: Sequence[str] | None = None,
) -> None:
    """Write the report of one evaluation as a self-contained HTML file; equal inputs give equal bytes.

    Args:
        path: of the file; it is replaced whole or not at all.
        title: of the page.
        forecasts: the forecast table, all members and ``ensemble``.
        realised: targets indexed (symbol, origin, horizon_hours), as ``features.targets.realised`` makes them.
        scores: the document of ``training.scorecard.score``.
        diagnostics: the document of ``training.diagnostics.diagnostics``; parts may be absent.
        importance: standard deviation of each feature's effect on ``ln F``, features × horizons; may be empty.
        margins: comparison of policies, as ``forecaster.policy.compare`` makes it.
        schedule: margins in force: symbol, as_of, and im and mm as fractions of notional.
        facts: names and values printed under provenance, in their order; ``oracle`` (horizon -> name -> number)
            becomes a table.
        examples: symbols shown at length; by default, the one with the median gain at the longest horizon and
            the one with the smallest.

    Raises:
        DataInvalid: where a horizon has no forecast of the ensemble, or targets of a forecast symbol lack.
        UsageError: where the scored window is empty.
    """
    facts = facts or {}
    evidence = gather(forecasts, realised, start=scores["start"], end=scores["end"])
    numbers = Numbers(scores, diagnostics, evidence, excursion_hits(forecasts, realised), margins)
    chosen = tuple(examples) if examples else _examples(numbers)
    parts = (
        ("summary", "What held and what did not", sections.summary(numbers, facts)),
        ("volatility", "Volatility forecast against what came", sections.volatility(evidence, chosen)),
        ("regimes", "Regimes", sections.regimes(numbers, chosen[0])),
        ("alarms", "Alarms of stress", sections.alarms(numbers)),
        ("scores", "Scores", sections.scores(numbers, forecasts)),
        ("strata", "Where the gain lives", sections.strata(numbers)),
        ("tests", "What the claims are worth", sections.tests(numbers)),
        ("risk", "Value at risk and shortfall", sections.risk(numbers)),
        ("margin", "Margin against excursions", sections.margin(forecasts, realised, margins, schedule, chosen[0])),
        ("features", "What the boosted trees do", sections.importance(importance)),
        ("provenance", "Data and provenance", [definitions(listings.facts_list(facts, forecasts))]),
        ("glossary", "How to read the names", [definitions(_GLOSSARY)]),
    )
    package = files(__package__)
    page = Template((package / "page.html").read_text("utf-8")).substitute(
        title=html.escape(title),
        light=css_variables(0),
        dark=css_variables(1),
        style=(package / "page.css").read_text("utf-8"),
        lead=html.escape(_lead(scores, evidence)),
        links="".join(f'<a href="#{key}">{name}</a>' for key, name, _ in parts),
        sections="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{name}</h2>{"".join(body)}</section>'
            for key, name, body in parts
        ),
    )
    write_atomically(Path(path), page.encode())


def _examples(numbers: Numbers) -> tuple[str, ...]:
    """Neither the best nor hand-picked: the symbol in the middle and the one at the end of the list of gains."""
    longest = numbers.evidence[-1]
    ratios = {}
    for symbol in longest.symbols:
        own, other = (numbers.score(longest.hours, "qlike_x", m, symbol) for m in (ENSEMBLE, REFERENCE))
        ratios[symbol] = own / other if own is not None and other else 0.0
    ranked = sorted(ratios, key=lambda symbol: (ratios[symbol], symbol))
    return tuple(dict.fromkeys((ranked[(len(ranked) - 1) // 2], ranked[-1])))


def _lead(scores: Mapping[str, Any], evidence: Sequence[Horizon]) -> str:
    horizons = ", ".join(str(horizon.hours) for horizon in evidence)
    symbols = len({symbol for horizon in evidence for symbol in horizon.symbols})
    return (
        f"{symbols} symbols, hourly forecasts of the next {horizons} hours, made out of sample from "
        f"{scores['start'][:10]} up to {scores['end'][:10]}. What came is measured by {_PROXIES[scores['proxy']]}."
    )
