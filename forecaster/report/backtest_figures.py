"""Figures of the back-test: margins through an event, and what protection costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from forecaster.report.canvas import COLOURS, INK, MUTED
from forecaster.report.episodes import SHOWN, Episode

__all__ = ["frontier", "policy_colour", "ribbon"]

# The name in canvas.COLOURS that stands for each policy.
SHADES: Final = {
    "ensemble": "ensemble",
    "ensemble_now": "ensemble",
    "ensemble_grandfathered": "ensemble",
    "fhs_apc": "lightgbm",
    "fhs": "garch",
    "static": "har",
    "exchange": "other_1",
    "ewma": "ewma",
    "oracle": "other_2",
    "target": "har_seasonal",
}
MARKS: Final = {"ensemble_now": "^", "ensemble_grandfathered": "s", "oracle": "x"}
MODES: Final = {
    "calm": "calm",
    "normal": "normal",
    "cooldown": "har",
    "stress": "stress",
    "crisis": "crisis",
    "failsafe": "lightgbm",
    "override": "other_1",
}
PANELS: Final = (
    ("mean_im", "mean margin, % of notional", 100.0),
    ("policy_induced_liquidations_per_oi_year", "policy-made liquidations, × open interest a year", 1.0),
    ("peak_to_trough", "peak over trough of the margin", 1.0),
)


def ribbon(figure: Figure, episode: Episode) -> None:
    """Price above; below, the moves that followed each hour and the margins that stood against them."""
    price, margin = figure.subplots(2, 1, sharex=True, height_ratios=[1.5, 2.4])
    table, times = episode.table, pd.DatetimeIndex(episode.table.index)
    _modes(price, table)
    price.plot(times, table["close"], color=INK, lw=1.2)
    price.set_title(f"{episode.symbol}: price, and the policy's mode")
    price.set_ylabel("USD")
    for axes in (price, margin):
        for border in (episode.begin, episode.end):
            axes.axvline(border, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    excursion = 100 * table["excursion"].to_numpy(np.float64)
    margin.fill_between(times, 0, excursion, color=MUTED, alpha=0.35, lw=0, step="mid", label="worst move, next 24 h")
    for name in SHOWN:
        own = 100 * table[name].to_numpy(np.float64)
        if not np.isnan(own).all():
            width = 1.9 if name == "ensemble" else 1.2
            margin.plot(times, own, color=policy_colour(name), lw=width, drawstyle="steps-post", label=name)
    missed = excursion > 100 * table["ensemble"].to_numpy(np.float64)
    if missed.any():
        margin.plot(times[missed], excursion[missed], ".", ms=4, color=COLOURS["missed"][0], label="beyond ensemble's")
    margin.set_title("Initial margin in force and the worst move against a position")
    margin.set_ylabel("% of notional")
    margin.set_ylim(bottom=0)
    margin.legend(ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.12), borderaxespad=0.2)
    margin.xaxis.set_major_locator(AutoDateLocator(minticks=4, maxticks=9))  # type: ignore[no-untyped-call]
    margin.xaxis.set_major_formatter(DateFormatter("%d %b %Y"))  # type: ignore[no-untyped-call]
    margin.margins(x=0.005)


def frontier(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    """Shortfall over capital, over liquidations that the policy itself made, and over how far its margin moves."""
    grid = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (field, told, unit) in zip(grid, PANELS, strict=True):
        for row in rows:
            if row[field] is not None and row["shortfall_bps_oi_year"] is not None:
                name = row["policy"]
                at = unit * row[field], row["shortfall_bps_oi_year"]
                axes.plot(
                    *at, MARKS.get(name, "o"), ms=8, color=policy_colour(name), label=name, alpha=0.85, clip_on=False
                )
        axes.set_xlabel(told)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.08)
        axes.grid(axis="x")
    grid[0].set_ylabel("shortfall, bp of open interest a year")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5)


def _modes(axes: Axes, table: pd.DataFrame) -> None:
    """The policy's modes as background."""
    seen = [mode for mode in MODES if (table["mode"] == mode).any()]
    hour = pd.Timedelta(hours=1)
    for _, run in table["mode"].groupby((table["mode"] != table["mode"].shift()).cumsum()):
        if run.iloc[0]:
            axes.axvspan(run.index[0], run.index[-1] + hour, color=COLOURS[MODES[run.iloc[0]]][0], alpha=0.4, lw=0)
    handles = [Patch(facecolor=COLOURS[MODES[mode]][0], alpha=0.4, label=mode) for mode in seen]
    axes.legend(
        handles=handles, ncols=max(1, len(seen)), loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2
    )


def policy_colour(policy: str) -> str:
    """The light shade that stands for a policy."""
    return COLOURS[SHADES[policy]][0]
