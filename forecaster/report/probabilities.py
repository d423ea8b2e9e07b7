"""Figures of probabilities: reliability, alarms, the published law, and p-values of back-tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from forecaster.report.canvas import COLOURS, INK, MUTED, model_colour
from models.base import ENSEMBLE
from training.reliability import BINS

__all__ = ["alarms", "law", "p_values", "reliability"]

_OWN: Final = COLOURS["ensemble"][0]
_EVENTS: Final = {"trailing": "the trailing day enters stress", "burst": "the largest bar of that day opens"}
_FEWEST_ALARMS: Final = 1.0
"""False alarms per symbol-year at the left edge; a log scale has no zero."""


def reliability(figure: Figure, rows: Sequence[Mapping[str, Any]], horizons: Sequence[int]) -> None:
    """Observed frequency over forecast probability with the rows per bin beneath: stress, then onset."""
    grid = figure.subplots(4, len(horizons), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 0.8, 3, 0.8])
    for k, hours in enumerate(horizons):
        for top, outcome, name in ((0, "stress", "stress or crisis"), (2, "onset", "onset")):
            curves = {r["model"]: r for r in rows if (r["horizon_hours"], r["outcome"]) == (hours, outcome)}
            _curves(grid[top][k], curves)
            grid[top][k].set_title(f"{name}, {hours} h ahead")
            _counts(grid[top + 1][k], curves.get(ENSEMBLE))
        grid[3][k].set_xlabel("forecast probability")
    for top in (0, 2):
        grid[top][0].set_ylabel("observed frequency")
        grid[top + 1][0].set_ylabel("rows")
    _legend(figure, grid[0][0])


def alarms(figure: Figure, curves: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> None:
    """Recall, and beneath it the median lead, over false alarms per symbol-year; beside: judged on the largest bar."""
    grid = figure.subplots(2, len(_EVENTS), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1.3])
    models = list(dict.fromkeys(row["model"] for row in curves))
    for k, (event, words) in enumerate(_EVENTS.items()):
        for model in models:
            chosen = [r for r in curves if (r["event"], r["model"]) == (event, model)]
            chosen = [r for r in chosen if r["recall"] is not None and r["false_alarms"] >= _FEWEST_ALARMS]
            x = [r["false_alarms"] for r in chosen]
            style = {"color": model_colour(model, models), "lw": 1.7 if model == ENSEMBLE else 1.1}
            grid[0][k].plot(x, [100 * r["recall"] for r in chosen], label=model, **style)
            grid[1][k].plot(x, [np.nan if r["lead"] is None else r["lead"] for r in chosen], **style)
        null = [r for r in points if (r["event"], r["model"]) == (event, ENSEMBLE) and r["shifted_recall"] is not None]
        shifted = [100 * r["shifted_recall"] for r in null]
        label = f"{ENSEMBLE}, shifted in time"
        grid[0][k].plot([r["false_alarms"] for r in null], shifted, "x", ms=5, color=INK, label=label)
        grid[0][k].set_title(f"Event: {words}")
        grid[1][k].set_xlabel("false alarms per symbol-year")
        grid[1][k].set_xscale("log")
        grid[1][k].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        grid[1][k].xaxis.set_minor_formatter(NullFormatter())
    grid[0][0].set(ylabel="% of events announced", ylim=(0, 100))
    grid[1][0].set(ylabel="median lead, h", ylim=(0, 24), yticks=[0, 6, 12, 18, 24])
    _legend(figure, grid[0][0])


def p_values(figure: Figure, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """Share of p-values in ten bins, a test to a row, a horizon to a column; the line is what a right model shows."""
    horizons = sorted({row["horizon_hours"] for row in rows})
    at = {(row["test"], row["horizon_hours"]): row["p_values"] for row in rows if row["p_values"]}
    tests = [test for test in names if any((test, hours) in at for hours in horizons)]
    grid = figure.subplots(len(tests), len(horizons), sharex=True, sharey=True, squeeze=False)
    left = np.arange(10) / 10
    for axes_row, test in zip(grid, tests, strict=True):
        for axes, hours in zip(axes_row, horizons, strict=True):
            axes.set_title(f"{names[test]}, {hours} h ahead")
            axes.axhline(10, color=MUTED, lw=0.8, ls=(0, (3, 3)))
            if (test, hours) not in at:
                axes.text(0.5, 20, "too few rows", ha="center", color=MUTED)
                continue
            counts = np.asarray(at[test, hours], dtype=np.float64)
            shares = 100 * counts / counts.sum()
            axes.bar(left, shares, width=0.094, align="edge", color=_OWN, alpha=0.6)
        axes_row[0].set_ylabel("% of tests")
    for axes in grid[-1]:
        axes.set(xlabel="p-value", xlim=(0, 1))


def law(figure: Figure, transforms: Sequence[Mapping[str, Any]], by_month: Sequence[Mapping[str, Any]]) -> None:
    """Histograms of probability integral transforms, above hit rates of returns and of the variance interval by month."""
    horizons = sorted({row["horizon_hours"] for row in transforms})
    grid = figure.subplots(3, len(horizons), sharey="row", squeeze=False)
    for (top, middle, bottom), hours in zip(grid.T, horizons, strict=True):
        _transforms(top, {r["target"]: r["histogram"] for r in transforms if r["horizon_hours"] == hours})
        top.set_title(f"{hours} h ahead")
        below = {(r["column"], r["month"]): 100 * r["below"] for r in by_month if r["horizon_hours"] == hours}
        months = sorted({month for _, month in below})
        for column, level, colour in (("ret_q010", 1, COLOURS["crisis"][0]), ("ret_q050", 5, COLOURS["stress"][0])):
            rates = [below.get((column, month), np.nan) for month in months]
            _by_month(middle, months, rates, level, colour, f"returns under their {level} % quantile")
        ends = [[below.get((name, month), np.nan) for month in months] for name in ("var_q05", "var_q95")]
        _by_month(bottom, months, np.subtract(ends[1], ends[0]), 90, _OWN, "variances inside the 90 % interval")
    for axes, label in zip(grid[:, 0], ("% of rows", "% of returns", "% of variances"), strict=True):
        axes.set_ylabel(label)
    handles = [x for axes in grid[:, 0] for x in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


def _transforms(axes: Axes, histograms: Mapping[str, Sequence[float]]) -> None:
    axes.set(xlim=(0, 1), xlabel="probability integral transform")
    for target, shares in histograms.items():
        edges = np.linspace(0, 1, len(shares) + 1)
        axes.axhline(100 / len(shares), color=MUTED, lw=0.8, ls=(0, (3, 3)))
        own: dict[str, Any] = (
            {"fill": True, "color": _OWN, "alpha": 0.45} if target == "variance" else {"color": INK, "lw": 1.1}
        )
        axes.stairs(100 * np.asarray(shares), edges, label=target.replace("_", " "), **own)


def _by_month(axes: Axes, months: Sequence[str], rates: Any, level: float, colour: str, label: str) -> None:
    axes.axhline(level, color=MUTED, lw=0.8, ls=(0, (3, 3)))
    axes.plot(range(len(months)), rates, color=colour, lw=1.2, marker="o", ms=2.5, label=label)
    every = max(1, len(months) // 4)
    axes.set_xticks(range(0, len(months), every), months[::every])


def _curves(axes: Axes, curves: Mapping[str, Mapping[str, Any]]) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=(0, (3, 3)))
    for model, curve in sorted(curves.items(), reverse=True):
        own = model == ENSEMBLE
        colour = model_colour(model, curves)
        if own:
            axes.fill_between(curve["forecast"], curve["low"], curve["high"], color=colour, alpha=0.2, lw=0)
        axes.plot(
            curve["forecast"],
            curve["observed"],
            color=colour,
            lw=1.4 if own else 1.0,
            marker="o",
            ms=4 if own else 3,
            label=f"{model}, with 90 % band" if own else model,
        )
    if not curves:
        axes.text(0.5, 0.5, "no forecast to judge", ha="center", va="center", color=MUTED)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _counts(axes: Axes, curve: Mapping[str, Any] | None) -> None:
    if curve is not None:
        centres = (np.minimum((np.asarray(curve["forecast"]) * BINS).astype(int), BINS - 1) + 0.5) / BINS
        axes.bar(centres, curve["count"], width=0.9 / BINS, color=_OWN, alpha=0.45)
        axes.set_yscale("log")
        axes.set_ylim(bottom=1)
        axes.yaxis.set_major_formatter(FuncFormatter(_short_count))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _short_count(value: float, _: Any) -> str:
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
