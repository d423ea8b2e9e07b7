"""Tables of the named events: what each policy gave and took in them, and what the schedule said hour by hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from forecaster.policy.comparison.ground import ALL, EVENTS, HOURS_A_YEAR, WHOLE
from forecaster.policy.observables import DAY
from forecaster.policy.types import REASONS
from forecaster.report.backtest_tables import VENUE, Scores, head, known, row_of, scaled
from forecaster.report.episodes import Episode
from forecaster.report.tables import Cell, Group, Row, number, table

__all__ = ["by_event", "hours"]

LEAST_PPM: Final = 500  # a twentieth of a point
PPM_A_POINT: Final = 10_000.0
DAY_BEFORE: Final = pd.Timedelta(days=1)
# field -> title, factor, digits
EVENT_COLUMNS: Final[dict[str, tuple[str, float, int]]] = {
    "shortfall_bps_oi_year": ("shortfall, bp of OI", 1.0, 3),
    "liquidations_per_oi_year": ("liquidated, % of OI", 100.0, 1),
    "policy_induced_liquidations_per_oi_year": ("policy-made, % of OI", 100.0, 1),
}


def by_event(rows: Scores) -> str:
    """Every named event, covered or not; what the venue did in it over the open interest of that event."""
    names = ("mean_im", "coverage_24h_995", "es_beyond_margin", "peak_to_trough")
    rates = known([row for row in rows if row["window"] != WHOLE], VENUE)
    body: list[Row] = []
    for window, (first, last) in EVENTS.items():
        own = [row for row in rows if row["window"] == window and row["symbol"] == ALL]
        covered = any(row["mean_im"] is not None for row in own)
        years = ((pd.Timestamp(last) - pd.Timestamp(first)).days + 1) * DAY / HOURS_A_YEAR
        body.append(Group(f"{window}, {first} to {last}{'' if covered else ': outside these forecasts'}"))
        body += [[*row_of(row["policy"], row, names), *_in_event(row, rates, years)] for row in own if covered]
    titles = [*head(names), *(EVENT_COLUMNS[name][0] for name in rates)]
    return table("events", "Policies inside the named events, all symbols, at equal mean margin", titles, body)


def _in_event(row: Mapping[str, Any], rates: Sequence[str], years: float) -> list[Cell]:
    """Yearly rates as amounts of the event."""
    values = {name: None if row[name] is None else row[name] * years for name in rates}
    return [scaled(values[name], *EVENT_COLUMNS[name][1:]) for name in rates]


def hours(episode: Episode) -> str:
    """What the policy said hour by hour, from a day before the event to its end, and why."""
    first, last = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (episode.begin - DAY_BEFORE, episode.end))
    stamps = pd.DatetimeIndex(episode.table.index).strftime("%Y-%m-%dT%H:%M:%SZ")
    market = dict(zip(stamps, episode.table[["close", "excursion", "ensemble"]].to_numpy(), strict=True))
    lines = [line for line in episode.lines if first <= line["as_of"] < last]
    standing = [reason for reason in REASONS if lines and all(reason in line["reasons"] for line in lines)]
    titles = [
        *("", "price, USD", "next 24 h, %", "mode", "IM in force", "IM, %", "MM, %", "change"),
        *("of which, points", "reasons and bounds met"),
    ]
    always = f" Reasons at every hour, beside those named: {', '.join(standing)}." if standing else ""
    caption = (
        f"{episode.symbol}, {episode.begin:%Y}, hours in UTC: every line of the schedule as it was announced, beside it the "
        "margin in force and the worst move against a position in the 24 h after. Parts under a twentieth of a point are "
        f"left out.{always}"
    )
    return table(
        f"hours-{episode.window}".replace(" ", "-"),
        caption,
        titles,
        [_hour(line, market[line["as_of"]].tolist(), standing) for line in lines],
    )


def _hour(line: Mapping[str, Any], market: Sequence[float], standing: Sequence[str]) -> Row:
    price, excursion, in_force = market
    parts = sorted(((n, v) for n, v in line["decomposition"].items() if v), key=lambda part: -abs(part[1]))
    moved = ", ".join(f"{name.replace('_', ' ')} {_points(value)}" for name, value in parts if abs(value) >= LEAST_PPM)
    bounds = [f"{hit['parameter']} met {hit['bound']}" for hit in line["bounds_hit"]]
    return [
        f"{line['as_of'][5:10]} {line['as_of'][11:16]}",
        number(price, 4 if price < 10 else 1),
        scaled(excursion, 100.0, 1),
        line["mode"],
        scaled(in_force, 100.0, 2),
        *(scaled(line[name], 1 / PPM_A_POINT, 2) for name in ("im_ppm", "mm_ppm")),
        Cell(_points(sum(line["decomposition"].values())), None, "n"),
        moved or "–",
        ", ".join([*(r for r in line["reasons"] if r not in standing), *bounds]) or "–",
    ]


def _points(ppm: int) -> str:
    return f"{ppm / PPM_A_POINT:+.2f}".replace("-", "−") if ppm else "0"
