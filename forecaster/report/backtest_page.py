"""The page of a back-test: goals with their misses, events hour by hour, and what protection costs whom."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

from features.store import write_atomically
from forecaster.policy.explain import REASON_TEXT
from forecaster.report import backtest_events, backtest_figures, backtest_tables, backtest_trials
from forecaster.report.backtest_tables import misses
from forecaster.report.canvas import css_variables, inline_svg
from forecaster.report.episodes import LARGEST, Episode
from forecaster.report.tables import definitions

__all__ = ["write_backtest"]

WIDTH: Final = 11.0
MARGIN_VARIANTS: Final = ("ensemble_now", "ensemble_grandfathered")
LIMITS: Final = (
    "Depth, the order of prices inside an hour and the leverage of accounts are modelled, not observed; so are who tops up "
    "and how liquidators behave. Compare policies with each other, not with a venue's history.",
    "Jumps that come from outside cannot be forecast. What surprised the policy is shown as beyond its margin, not left out.",
    "The exchange's tiers are known from the day on which a snapshot shows them; before the first there are none.",
    "Six events are too few for significance. Inside them figures describe, and no claim rests on them.",
    "Symbols that survived understate the losses of the tail.",
    "A margin scaled to another's mean is no margin that anyone set: it makes policies comparable. Scalars fitted on the past "
    "do not equalise exactly, and the mean margins printed show by how much.",
    "No margin is more than the whole notional, whatever its formula or its scalar says.",
    "An account holds one symbol. Behaviour does not answer the margin, except that leverage at entry is cut to what it "
    "allows.",
    "Nothing here is advice to trade or a certified margin model.",
)
GLOSSARY: Final = (
    ("ensemble", "the governed schedule of the forecasts. Rises of its maintenance margin reach open positions by notice "
     "and ramp; _now: at once; _grandfathered: never; _adl_queue: what the fund does not bear falls on a queue of winners"),
    ("static, ewma, fhs", "the expanding quantile of past excursions; the same in units of an exponentially weighted "
     "volatility; filtered historical simulation, half-life chosen on the past"),
    ("fhs_apc", "fhs with the stress weight and the long-run floor that the policy has: the opponent to beat"),
    ("exchange", "the venue's own tiers as of that day"),
    ("oracle", "knows the variance of the interval it covers: a ceiling, never a rival"),
    ("mean margin at 99.5 %", "mean initial margin once scaled to cover exactly 99.5 % of the larger 24 h moves"),
    ("beyond margin, pinball", "mean of what the move took beyond the margin; quantile loss of the margin at 99.5 %"),
    ("OI", "open interest; shortfall is what the fund and, after it, winners paid, liquidations are notional"),
    ("policy-made", "liquidations that the maintenance margin of one bar earlier would have spared at the same prices"),
    ("unnecessary", "share of liquidated notional whose account, left alone, would have stood through the next 24 h; not "
     "told of an event, whose run ends with it"),
    ("peak / trough", "largest over least initial margin, median symbol; rises: of the worst symbol"),
    ("DM p", "p-value of Diebold and Mariano's test that the losses are equal, hours as observations"),
    ("overshoot", "largest margin over the one that the rule settles at, less one"),
    ("lead", "hours from a margin 25 % above its own 30-day median to the onset of stress, median; −24: no warning"),
    ("lead skill", "share of onsets whose warning stood 5 h before the burst, less that of the same warnings moved in time, "
     "at about 24 false alarms a symbol-year; a dash where the margin cannot be made to give them"),
)  # fmt: skip


def write_backtest(
    path: str | Path,
    *,
    scores: Mapping[str, Mapping[str, Any]],
    goals: Mapping[str, Any],
    experiments: Mapping[str, Any],
    episodes: Sequence[Episode],
    facts: Mapping[str, str],
) -> None:
    """Write the page of a back-test as a self-contained HTML file; equal inputs give equal bytes.

    ``scores``: by comparison, the documents of ``scoreboard.FILES``; ``goals``: that of ``policy_goals.json``;
    ``experiments``: that of ``policy_experiments.json``; ``facts``: printed under provenance. Figures of policies come from
    these documents alone.
    """
    rows = {name: document["rows"] for name, document in scores.items()}
    parts = (
        ("summary", "What held and what did not", _summary(goals)),
        ("events", "Margins through the events", _events(episodes)),
        ("frontier", "What protection costs", _frontier(rows, goals)),
        ("by-event", "Inside the events", [backtest_events.by_event(rows["equal_mean"])]),
        ("experiments", "Beyond what history holds", _experiments(experiments)),
        ("by-symbol", "Symbol by symbol", [backtest_tables.by_symbol(rows["equal_mean"])]),
        ("ablations", "What each part is worth", [backtest_tables.ablations(rows)]),
        ("leads", "Leads and false alarms", _leads(rows)),
        ("limits", "Limits", [_listed(LIMITS)]),
        ("provenance", "Data and provenance", [definitions(facts.items())]),
        ("glossary", "How to read the names", [definitions((*GLOSSARY, *REASON_TEXT.items()))]),
    )
    package = files(__package__)
    page = Template((package / "page.html").read_text("utf-8")).substitute(
        title="Margin policies against each other",
        light=css_variables(0),
        dark=css_variables(1),
        style=(package / "page.css").read_text("utf-8"),
        lead=html.escape(_lead(rows["equal_mean"], goals)),
        links="".join(f'<a href="#{key}">{name}</a>' for key, name, _ in parts),
        sections="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{name}</h2>{"".join(body)}</section>'
            for key, name, body in parts
        ),
    )
    write_atomically(Path(path), page.encode())


def _lead(rows: Sequence[Mapping[str, Any]], goals: Mapping[str, Any]) -> str:
    symbols = {r["symbol"] for r in rows if r["window"] == "all" and r["symbol"] != "*" and r["mean_im"] is not None}
    policies = dict.fromkeys(row["policy"] for row in rows)
    venue = any(row["shortfall_bps_oi_year"] is not None for row in rows)
    where = "the store's prices and, account by account, in a simulated venue" if venue else "the store's prices"
    return (
        f"{len(policies)} margin policies over {len(symbols)} symbols from {goals['start'][:10]} to {goals['end'][:10]}, on "
        f"{where}. Forecasts are out of sample; no policy reads what lies ahead of it, but for the oracle, which is marked so."
    )


def _summary(goals: Mapping[str, Any]) -> Iterator[str]:
    """The goals in words, then as a table."""
    yield _listed(_told(goal) for goal in goals["goals"])
    yield backtest_tables.goals(goals["goals"])
    yield _listed(goals["notes"])


def _told(goal: Mapping[str, Any]) -> str:
    reached = goal["reached"]
    if reached == "not measured":
        reasons = dict.fromkeys(f["why"] for f in goal["figures"] if f["value"] is None)
        return f"Goal {goal['goal']}, {goal['metric']}: not measured ({'; '.join(reasons)})."
    if reached == "below floor":
        return f"Goal {goal['goal']}, {goal['metric']}: missed, so nothing is claimed ({'; '.join(misses(goal))})."
    verdict = "moonshot reached" if reached == "moonshot" else f"{reached} reached, and no more"
    return f"Goal {goal['goal']}, {goal['metric']}: {verdict}."


def _events(episodes: Sequence[Episode]) -> Iterator[str]:
    if [episode.window for episode in episodes] == [LARGEST]:
        yield '<p class="notice">No named event lies in this span; the largest 24 h move of any symbol stands in.</p>'
    for place, episode in enumerate(episodes):
        about = f"{episode.window}, {episode.symbol}"
        picture = inline_svg(
            f"ribbon-{place}",
            f"{about}: price and mode, margins of four policies and the moves they stood against",
            (WIDTH, 5.2),
            lambda figure, e=episode: backtest_figures.ribbon(figure, e),  # type: ignore[misc]
        )
        caption = (
            f"{about}: the symbol that moved most. Margins as each policy stands, not scaled. Between the dashed lines: the "
            "event. Background: mode of the policy."
        )
        yield f"<figure><div>{picture}</div><figcaption>{html.escape(caption)}</figcaption></figure>"
        said = "Hour by hour: what the policy said, and why"
        yield f"<details><summary>{said}</summary>{backtest_events.hours(episode)}</details>"


def _frontier(rows: Mapping[str, Sequence[Mapping[str, Any]]], goals: Mapping[str, Any]) -> Iterator[str]:
    extended = [row for row in rows["extended"] if row["policy"] in MARGIN_VARIANTS]
    whole = [row for row in (*rows["equal_mean"], *extended) if row["symbol"] == "*" and row["window"] == "all"]
    if any(row["shortfall_bps_oi_year"] is not None for row in whole):
        picture = inline_svg(
            "frontier",
            "Shortfall of each policy over mean margin, policy-made liquidations and peak over trough",
            (WIDTH, 3.9),
            lambda figure: backtest_figures.frontier(figure, whole),
        )
        caption = (
            "At equal mean margin; lower and further left is better. Triangle and square: the ensemble's margins with rises "
            "of maintenance margin that bind open positions at once, or never."
        )
        yield f"<figure><div>{picture}</div><figcaption>{caption}</figcaption></figure>"
    else:
        yield '<p class="notice">The venue was not run, so there is no shortfall and no liquidation to show.</p>'
    yield backtest_tables.venue(rows)
    yield backtest_tables.policies(rows)
    yield backtest_tables.differences(goals["differences"])


def _experiments(told: Mapping[str, Any]) -> Iterator[str]:
    yield "<p>History holds few events. How a rule answers a step of volatility, and what it takes to break it, can be "
    yield "asked of any size.</p>"
    yield from backtest_trials.impulse(told["impulse"])
    yield backtest_trials.reverse_stress(told["reverse_stress"])


def _leads(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    yield "<p>Notice takes protection away unless a margin rises earlier than notice and ramp. Raw leads reward margins that "
    yield "flicker; the skill counts only what warnings are worth beyond the same ones moved in time. A margin that cannot be "
    yield "made to warn about 24 times a symbol-year for nothing has no skill to compare: a slow one would gain from the "
    yield "clustering of volatility alone. Margins as each policy stands.</p>"
    yield backtest_tables.leads(rows)


def _listed(lines: Iterable[str]) -> str:
    return "<ul class=plain>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"
