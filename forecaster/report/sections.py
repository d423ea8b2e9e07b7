"""The sections of the report: words, figures and tables, and a plain sentence where something is missing."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from forecaster.report import diagrams, figures, listings
from forecaster.report.canvas import inline_svg
from forecaster.report.evidence import REFERENCE, Horizon, storm
from forecaster.report.findings import GAIN_FLOORS, Numbers, findings, sentences

__all__ = ["importance", "margin", "regimes", "scores", "summary", "volatility"]

MARGIN_HOURS: Final = 24
STORM_DAYS: Final = 40
_WIDTH: Final = 11.0
_ACROSS: Final = 3
_MOST_MULTIPLES: Final = 36
_FEATURES: Final = 20


def summary(numbers: Numbers, facts: Mapping[str, Any]) -> Iterator[str]:
    """What held and what did not, in words, as a picture and as a table."""
    found = findings(numbers)
    yield "<ul class=plain>" + "".join(f"<li>{html.escape(s)}</li>" for s in sentences(numbers, found)) + "</ul>"
    gains = [row for row in numbers.diagnostics.get("gains", ()) if row["loss"] == "qlike_x"]
    if gains:
        opponents = len({row["opponent"] for row in gains})
        yield _figure(
            "gains",
            "QLIKE saved by the ensemble against each opponent, per horizon, with 90 % intervals",
            "Share of the opponent's QLIKE that the ensemble saves, without the shock days. Bar: 90 % interval from "
            "blocks of days, all symbols together. Black tick: the floor that was set. Left of zero, it lost.",
            1.0 + 0.34 * opponents,
            lambda figure: diagrams.gains(figure, gains, GAIN_FLOORS),
        )
    else:
        yield _absent("The diagnostics hold no gains, so no claim against an opponent is made.")
    yield listings.findings_table(found)
    if facts.get("oracle"):
        yield listings.oracle_table(facts["oracle"])


def volatility(evidence: Sequence[Horizon], examples: Sequence[str]) -> Iterator[str]:
    """Forecast and realised volatility of the example symbols, then of all symbols at the longest horizon."""
    longest = evidence[-1]
    hours = ", ".join(str(horizon.hours) for horizon in evidence)
    names = " and ".join(examples)
    yield _figure(
        "levels",
        f"Forecast and realised volatility of {names} at {hours} hours, over the scored window",
        f"Volatility of the next {hours} hours, forecast at each origin and realised, as the root of the mean "
        f"variance over {_step(longest.step_hours)}, in per cent a year (log scale). By default the symbols are "
        f"those with the median and with the smallest gain over {REFERENCE} at {longest.hours} h.",
        0.5 + 1.65 * len(evidence),
        lambda figure: figures.levels(figure, evidence, examples),
    )
    shown = longest.symbols[:_MOST_MULTIPLES]
    left_out = len(longest.symbols) - len(shown)
    more = f" {left_out} further symbols are in the tables." if left_out else ""
    yield _figure(
        "multiples",
        f"Forecast and realised volatility of {len(shown)} symbols at {longest.hours} hours",
        f"The same for every symbol, {longest.hours} hours ahead, on one scale; weekly means where the window "
        f"is long.{more}",
        0.5 + 1.25 * math.ceil(len(shown) / _ACROSS),
        lambda figure: figures.multiples(figure, longest, shown, _ACROSS),
    )


def regimes(evidence: Sequence[Horizon], symbol: str) -> Iterator[str]:
    """Ribbons of one symbol, then the reliability of the probabilities over all symbols."""
    yield _figure(
        "ribbons",
        f"Regimes of {symbol} that came, and the probabilities forecast for them, per horizon",
        f"Upper ribbon: share of origins whose interval fell into each regime, over {_step(evidence[-1].step_hours)}. "
        "Lower ribbon: mean probability forecast at the same origins. Right probabilities make both look alike.",
        0.6 + 1.5 * len(evidence),
        lambda figure: figures.ribbons(figure, evidence, symbol),
    )
    if not any(horizon.stress for horizon in evidence):
        yield _absent("No regime probability could be judged: none was forecast, or no regime is known yet.")
        return
    missing = [f"{horizon.hours} h" for horizon in evidence if not horizon.onset]
    if missing:
        yield _absent(f"Onset could not be judged at {', '.join(missing)}: no row has both forecast and outcome.")
    yield _figure(
        "reliability",
        "Reliability of the probabilities of stress and of onset, per horizon, with the rows per bin",
        "How often stress, or its onset, came, over the probability given to it; all symbols, bins of 10 points. "
        "On the dashed line they agree. Band: 90 %, from blocks of ten days. Bars: rows per bin (log scale).",
        6.4,
        lambda figure: diagrams.reliability(figure, evidence),
    )


def scores(numbers: Numbers, forecasts: pd.DataFrame) -> Iterator[str]:
    """Loss by month, and the tables of scores."""
    evidence = numbers.evidence
    rows = sum(len(horizon.models) for horizon in evidence)
    yield _figure(
        "months",
        f"QLIKE by model and month relative to {REFERENCE}, per horizon",
        f"QLIKE of each month, shock days included: per cent above (red) or below (blue) that of {REFERENCE}, "
        "whose own QLIKE is in the grey row. Symbols with equal weight.",
        0.6 + 0.27 * rows + 0.3 * len(evidence),
        lambda figure: diagrams.loss_by_month(figure, evidence),
    )
    yield listings.score_tables(numbers.scores)
    yield listings.gain_table(numbers.scores)
    yield listings.symbol_table(numbers.scores)
    yield listings.coverage_table(numbers.diagnostics, forecasts)


def margin(
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    margins: pd.DataFrame | None,
    schedule: pd.DataFrame | None,
    example: str,
) -> Iterator[str]:
    """The largest adverse excursion of one symbol hour by hour, and policies against each other."""
    symbol, hours = example, storm_hours(forecasts)
    if schedule is None or schedule.empty:
        schedule = None
        yield _absent("No margin schedule was made from these forecasts.")
    elif symbol not in set(schedule["symbol"]):
        symbol = min(map(str, schedule["symbol"].unique()))
    table = storm(forecasts, realised, schedule, symbol, hours, STORM_DAYS)
    with_margin = hours == MARGIN_HOURS and "im" in table and bool(table["im"].notna().any())
    words = (
        " Below: initial and maintenance margin in force at each hour, against the larger of the moves against a "
        "long and a short position in the 24 hours that follow."
    )
    if table.empty:
        yield _absent(f"No forecast of {symbol} at {hours} h is open, so no storm is shown.")
    else:
        yield _figure(
            "storm",
            f"{symbol} around its largest adverse move: volatility, regimes and margin, hour by hour",
            f"The {STORM_DAYS} days around the largest {hours} h move of {symbol} in the scored window. Bands: "
            f"forecast quantiles of the realised volatility.{words if with_margin else ''}",
            7.2 if with_margin else 4.4,
            lambda figure: figures.storm_panels(figure, table, symbol, hours),
        )
    if margins is None or margins.empty:
        yield _absent("Policies were not compared, so no coverage or cost of margin is shown.")
        return
    yield "<p>Mean excess is the mean of what the excursion took beyond the margin; the pinball loss judges a "
    yield "margin as a 99.5 % quantile (lower is better); the mean margin at 99.5 % is after scaling each policy "
    yield "to exactly that coverage over all symbols.</p>"
    yield listings.margin_tables(margins)


def importance(shares: pd.DataFrame) -> Iterator[str]:
    """The features by their share of the gain."""
    if shares.empty or not shares.notna().any(axis=None):
        yield _absent("No feature importance was given: no boosted member took part.")
        return
    yield _figure(
        "importance",
        f"The {_FEATURES} features with the largest share of the gain, per horizon",
        f"Share of the loss reduction in training that splits on a feature brought; the first {_FEATURES} of "
        f"{len(shares)}. It says what the trees used, not what causes volatility.",
        0.7 + 0.2 * min(_FEATURES, len(shares)),
        lambda figure: diagrams.importances(figure, shares, min(_FEATURES, len(shares))),
    )


def storm_hours(forecasts: pd.DataFrame) -> int:
    """The horizon of margins where it was forecast, else the longest."""
    known = set(map(int, forecasts["horizon_hours"].unique()))
    return MARGIN_HOURS if MARGIN_HOURS in known else max(known)


def _figure(name: str, label: str, caption: str, height: float, draw: Callable[[Figure], None]) -> str:
    picture = inline_svg(name, label, (_WIDTH, height), draw)
    return f"<figure><div>{picture}</div><figcaption>{html.escape(caption)}</figcaption></figure>"


def _absent(sentence: str) -> str:
    return f'<p class="notice">{html.escape(sentence)}</p>'


def _step(hours: int) -> str:
    return {1: "each hour", 24: "each day", 168: "each week"}.get(hours, f"each {hours} hours")
