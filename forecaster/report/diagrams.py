"""Figures over models and probabilities: gains, reliability, loss by month, importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from forecaster.report.canvas import COLOURS, INK, MUTED, model_colour
from forecaster.report.evidence import BINS, REFERENCE, Horizon, Reliability
from models.base import ENSEMBLE

__all__ = ["gains", "importances", "loss_by_month", "reliability"]

_OWN: Final = COLOURS["ensemble"][0]
_FULL_SHADE: Final = 0.25
"""Relative loss at which a heat-map cell has its full colour."""
_MOST_MONTHS_WITH_NUMBERS: Final = 30


def gains(figure: Figure, rows: Sequence[Mapping[str, Any]], floors: Mapping[tuple[str, int], float]) -> None:
    """Gain of the ensemble with its 90 % interval, one panel per horizon, one line per opponent."""
    horizons = sorted({row["horizon_hours"] for row in rows})
    opponents = list(dict.fromkeys(row["opponent"] for row in rows))
    grid = figure.subplots(1, len(horizons), sharex=True, sharey=True, squeeze=False)[0]
    for axes, hours in zip(grid, horizons, strict=True):
        axes.axvline(0, color=MUTED, lw=0.8)
        for row in rows:
            if row["horizon_hours"] != hours or row["gain"] is None:
                continue
            y = opponents.index(row["opponent"])
            colour = model_colour(row["opponent"], opponents)
            if row["low"] is not None:
                axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, lw=2.2)
            axes.plot(100 * row["gain"], y, "o", ms=6, color=colour)
            if (floor := floors.get((row["opponent"], hours))) is not None:
                axes.plot([100 * floor] * 2, [y - 0.3, y + 0.3], color=INK, lw=1.2)
        axes.set_title(f"{hours} h ahead")
        axes.set_xlabel("% lower QLIKE than the opponent's")
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
    grid[0].set_yticks(range(len(opponents)), opponents)
    grid[0].set_ylim(len(opponents) - 0.5, -0.5)


def reliability(figure: Figure, evidence: Sequence[Horizon]) -> None:
    """Observed frequency over forecast probability with the rows per bin beneath: stress, then onset."""
    grid = figure.subplots(4, len(evidence), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 0.8, 3, 0.8])
    for k, horizon in enumerate(evidence):
        for top, name, curves in ((0, "stress or crisis", horizon.stress), (2, "onset", horizon.onset)):
            _curves(grid[top][k], curves)
            grid[top][k].set_title(f"{name}, {horizon.hours} h ahead")
            _counts(grid[top + 1][k], curves.get(ENSEMBLE))
        grid[3][k].set_xlabel("forecast probability")
    for top in (0, 2):
        grid[top][0].set_ylabel("observed frequency")
        grid[top + 1][0].set_ylabel("rows")
    handles, labels = grid[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))


def loss_by_month(figure: Figure, evidence: Sequence[Horizon]) -> None:
    """Heat map per horizon: each model's monthly QLIKE relative to the reference, whose own QLIKE is printed."""
    grid = figure.subplots(len(evidence), 1, sharex=True, squeeze=False)[:, 0]
    for axes, horizon in zip(grid, evidence, strict=True):
        _heat_map(axes, horizon)
        axes.set_title(f"{horizon.hours} h ahead")


def importances(figure: Figure, importance: pd.DataFrame, most: int) -> None:
    """The features with the largest share of the gain, per horizon."""
    grid = figure.subplots(1, importance.shape[1], squeeze=False)[0]
    for axes, column in zip(grid, importance.columns, strict=True):
        values = 100 * importance[column].dropna().sort_values(ascending=False, kind="stable").head(most)
        axes.barh(range(len(values)), values.to_numpy(), height=0.66, color=_OWN)
        axes.set_yticks(range(len(values)), [str(name) for name in values.index])
        axes.set_ylim(most - 0.4, -0.6)
        axes.set_title(f"{column} h ahead")
        axes.set_xlabel("% of gain")
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)


def _curves(axes: Axes, curves: Mapping[str, Reliability]) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=(0, (3, 3)))
    for model, curve in sorted(curves.items(), reverse=True):
        own = model == ENSEMBLE
        colour = model_colour(model, curves)
        if own:
            axes.fill_between(curve.forecast, curve.low, curve.high, color=colour, alpha=0.2, lw=0)
        axes.plot(
            curve.forecast,
            curve.observed,
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


def _counts(axes: Axes, curve: Reliability | None) -> None:
    if curve is not None:
        centres = (np.minimum((curve.forecast * BINS).astype(int), BINS - 1) + 0.5) / BINS
        axes.bar(centres, curve.count, width=0.9 / BINS, color=_OWN, alpha=0.45)
        axes.set_yscale("log")
        axes.set_ylim(bottom=1)
        axes.yaxis.set_major_formatter(FuncFormatter(_short_count))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _short_count(value: float, _: Any) -> str:
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def _heat_map(axes: Axes, horizon: Horizon) -> None:
    reference = horizon.models.index(REFERENCE) if REFERENCE in horizon.models else None
    order = sorted(range(len(horizon.models)), key=lambda m: (m == reference, horizon.models[m] != ENSEMBLE, m))
    cells, shades = [], []
    numbers = len(horizon.months) <= _MOST_MONTHS_WITH_NUMBERS
    for y, m in enumerate(order):
        for x, loss in enumerate(horizon.monthly[m]):
            base = horizon.monthly[reference, x] if reference is not None else np.nan
            relative = loss / base - 1 if m != reference else np.nan
            text = f"{100 * relative:+.0f}".replace("-", "−") if np.isfinite(relative) else f"{loss:.2f}"
            if np.isnan(loss):
                continue
            cells.append(Rectangle((x + 0.03, y + 0.04), 0.94, 0.92))
            shades.append(_shade(relative))
            if numbers:
                axes.text(x + 0.5, y + 0.53, text, ha="center", va="center", fontsize=6.8)
    axes.add_collection(PatchCollection(cells, facecolors=shades, linewidths=0))
    axes.set(xlim=(0, len(horizon.months)), ylim=(len(order), 0))
    axes.set_yticks(np.arange(len(order)) + 0.5, [horizon.models[m] for m in order])
    every = max(1, len(horizon.months) // 12)
    shown = range(0, len(horizon.months), every)
    axes.set_xticks([x + 0.5 for x in shown], [horizon.months[x] for x in shown])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _shade(relative: float) -> tuple[float, float, float, float]:
    """Blue where the loss is below the reference, red where above, deeper with distance."""
    if not np.isfinite(relative):
        return to_rgba(MUTED, 0.12)
    strength = min(1.0, abs(relative) / _FULL_SHADE) ** 0.7
    return to_rgba(COLOURS["ensemble" if relative < 0 else "missed"][0], 0.06 + 0.6 * strength)
