"""The sections of the report: words, figures and tables, and a plain sentence where something is missing."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from forecaster.report import diagrams, figures, judgements, listings, probabilities
from forecaster.report.canvas import inline_svg
from forecaster.report.evidence import REFERENCE, Horizon, storm
from forecaster.report.findings import GAIN_FLOORS, Numbers, findings, sentences
from models.base import ENSEMBLE

__all__ = ["alarms", "importance", "margin", "regimes", "risk", "scores", "strata", "summary", "tests", "volatility"]

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


def regimes(numbers: Numbers, symbol: str) -> Iterator[str]:
    """Ribbons of one symbol, then the reliability of the probabilities over all symbols."""
    evidence = numbers.evidence
    yield _figure(
        "ribbons",
        f"Regimes of {symbol} that came, and the probabilities forecast for them, per horizon",
        f"Upper ribbon: share of origins whose interval fell into each regime, over {_step(evidence[-1].step_hours)}. "
        "Lower ribbon: mean probability forecast at the same origins. Right probabilities make both look alike.",
        0.6 + 1.5 * len(evidence),
        lambda figure: figures.ribbons(figure, evidence, symbol),
    )
    rows = numbers.diagnostics.get("reliability", ())
    if not rows:
        yield _absent("No regime probability could be judged: none was forecast, or no regime is known yet.")
        return
    hours = [horizon.hours for horizon in evidence]
    judged = {row["horizon_hours"] for row in rows if row["outcome"] == "onset"}
    if missing := [f"{h} h" for h in hours if h not in judged]:
        yield _absent(f"Onset could not be judged at {', '.join(missing)}: no row has both forecast and outcome.")
    yield _figure(
        "reliability",
        "Reliability of the probabilities of stress and of onset, per horizon, with the rows per bin",
        "How often stress, or its onset, came, over the probability given to it; all symbols, bins of 10 points. "
        "On the dashed line they agree. Band: 90 %, from blocks of ten days. Bars: rows per bin (log scale).",
        6.4,
        lambda figure: probabilities.reliability(figure, rows, hours),
    )


def alarms(numbers: Numbers) -> Iterator[str]:
    """Alarms of stress in the day ahead: the whole curve, then fixed rates beside their null."""
    curves, points = (numbers.diagnostics.get(name, ()) for name in ("alarm_curves", "alarm_points"))
    if not curves:
        yield _absent("No alarms are judged: they need forecasts of 24 h, and regimes known at their origins.")
        return
    yield "<p>An event is the first hour at which the trailing 24 h are in stress or crisis after 48 h without. An alarm is "
    yield "raised where the probability of stress in the next 24 h passes a threshold while it is calm or normal, at most "
    yield "once a day. It is false where no event follows within a day. Part of any lead on a trailing window is "
    yield "mechanical: to the right, what is to be announced is the opening of the bar that made the event.</p>"
    yield _figure(
        "alarms",
        "Share of events announced, and the median lead, over false alarms per symbol-year, for each model",
        "Every threshold, from many alarms to few; all symbols. Crosses: recall of the ensemble's alarms moved in time, "
        "mean of 1,000 shifts.",
        5.2,
        lambda figure: probabilities.alarms(figure, curves, points),
    )
    yield judgements.alarm_table(points)


def strata(numbers: Numbers) -> Iterator[str]:
    """Where the gain lives: by symbols, time, state of the market and of the data."""
    rows = numbers.diagnostics.get("strata", ())
    if not rows:
        yield _absent(f"The diagnostics hold no strata: they need {ENSEMBLE} and {REFERENCE}.")
        return
    labels, _, columns = judgements.strata_rows(rows)
    yield _figure(
        "strata",
        f"QLIKE saved against {REFERENCE} in every stratum, per horizon, with 90 % intervals",
        "Bars: 90 % interval from blocks of days, all symbols together; none where a stratum has under 60 days. Dotted: the "
        "gain over all rows. Red: it lost. The best and the worst symbols, and whether stress lies ahead, are known only "
        "afterwards: these rows describe and bound, no claim rests on them.",
        1.0 + 0.19 * len(labels),
        lambda figure: diagrams.strata(figure, columns, labels),
    )
    by_hour = [row for row in rows if row["kind"] == "hour"]
    if by_hour:
        yield _figure(
            "hours",
            f"QLIKE saved against {REFERENCE} by the hour of the origin, per horizon",
            "The same by the hour at which the forecast was made; band: 90 % interval.",
            2.2,
            lambda figure: diagrams.hours_of_day(figure, by_hour),
        )
    yield judgements.strata_table(rows)


def tests(numbers: Numbers) -> Iterator[str]:
    """Tests of equal ability, with everything claimed counted."""
    rows, over_all = (numbers.diagnostics.get(name, ()) for name in ("tests", "superiority"))
    if not rows:
        yield _absent("The diagnostics hold no tests of equal ability.")
        return
    yield "<p>DM: Diebold and Mariano on the hourly mean over symbols, Newey-West over three horizons, small-sample factor of "
    yield "Harvey, Leybourne and Newbold. Holm: adjusted for all rows of this table. Signs: "
    yield "symbols better, which describes, since symbols move together. GW: Giacomini and White's "
    yield "conditional test, given the difference one horizon ago, or the regime at the origin; t in each regime.</p>"
    yield judgements.tests_table(rows)
    if over_all:
        yield judgements.superiority_table(over_all)


def risk(numbers: Numbers) -> Iterator[str]:
    """The published law on the whole and by month; back-tests of value at risk and shortfall by symbol-year."""
    yield from _law(numbers)
    rows = [row for row in numbers.diagnostics.get("risk", ()) if row["model"] == ENSEMBLE]
    if not rows:
        yield _absent(
            "No back-test of value at risk was made: no return quantile was forecast, or the window is too short."
        )
        return
    shown = len({row["test"] for row in rows if row["p_values"]})
    yield judgements.risk_table(rows)
    yield _figure(
        "p-values",
        "Distribution of the p-values of each back-test over symbol-years and phase offsets, per horizon",
        "Symbol-years, and for overlapping horizons every way of taking origins a horizon apart. A right model's p-values "
        "are about even (dashed), but few hits make lumps of them.",
        0.6 + 1.25 * shown,
        lambda figure: probabilities.p_values(figure, rows, judgements.TESTS),
    )
    if compared := numbers.diagnostics.get("shortfall", ()):
        yield judgements.shortfall_table(compared)


def _law(numbers: Numbers) -> Iterator[str]:
    transforms, by_month = (numbers.diagnostics.get(name, ()) for name in ("pit", "coverage_by_month"))
    if not transforms:
        yield _absent("The published law is not judged: no row has both quantiles and what came.")
        return
    yield _figure(
        "law",
        "Probability integral transforms of variance and return, and hit rates by month, per horizon",
        "Above: where in its forecast law the realised variance (bars) and the return (line) fell; even (dashed) if the law "
        "is right. Below: share of each month's returns under their 1 % and 5 % quantile, and of its variances inside the "
        "90 % interval; dashed: as promised. All symbols; windows under two months have no months.",
        5.2,
        lambda figure: probabilities.law(figure, transforms, by_month),
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


def importance(effects: pd.DataFrame) -> Iterator[str]:
    """The features by how much they move the forecast."""
    if effects.empty or not effects.notna().any(axis=None):
        yield _absent("No feature importance was given: no boosted member took part.")
        return
    yield _figure(
        "importance",
        f"The {_FEATURES} features that move the boosted forecasts most, per horizon",
        "Accumulated local effects on test rows, mean over folds: the standard deviation over the rows of what the trees add "
        f"to ln F as a feature moves along its range, the rest of the row as it is; the first {_FEATURES} of {len(effects)}. "
        "It says what the trees do, not what causes volatility.",
        0.7 + 0.2 * min(_FEATURES, len(effects)),
        lambda figure: diagrams.importances(figure, effects, min(_FEATURES, len(effects))),
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
