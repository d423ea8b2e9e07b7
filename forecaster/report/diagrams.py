"""Figures over models: gains, and where they live, loss by month, importance."""

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

from forecaster.report.canvas import COLOURS, INK, MUTED, model_colour
from forecaster.report.evidence import REFERENCE, Horizon
from models.base import ENSEMBLE

__all__ = ["gains", "hours_of_day", "importances", "loss_by_month", "strata"]

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
        _across(axes)
    grid[0].set_yticks(range(len(opponents)), opponents)
    grid[0].set_ylim(len(opponents) - 0.5, -0.5)


def strata(figure: Figure, rows: Sequence[Sequence[Mapping[str, Any] | None]], labels: Sequence[str]) -> None:
    """Gain of the ensemble in every stratum with its interval, one panel per horizon; rows follow the labels."""
    grid = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axes, column in zip(grid, rows, strict=True):
        axes.axvline(0, color=MUTED, lw=0.8)
        known = [row for row in column if row is not None]
        for y, row in enumerate(column):
            if row is None or row["gain"] is None:
                continue
            if row["low"] is not None:
                axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=_OWN, lw=1.8, alpha=0.55)
            lost = row["gain"] < 0
            axes.plot(100 * row["gain"], y, "o", ms=4, color=COLOURS["missed"][0] if lost else _OWN)
        if known:
            axes.set_title(f"{known[0]['horizon_hours']} h ahead")
            axes.axvline(100 * known[0]["gain"], color=_OWN, lw=0.8, ls=(0, (2, 3)))
        axes.set_xlabel("% lower QLIKE")
        _across(axes)
    grid[0].set_yticks(range(len(labels)), labels)
    grid[0].set_ylim(len(labels) - 0.4, -0.6)


def hours_of_day(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    """Gain by the hour of the origin, one panel per horizon."""
    horizons = sorted({row["horizon_hours"] for row in rows})
    grid = figure.subplots(1, len(horizons), sharey=True, squeeze=False)[0]
    for axes, hours in zip(grid, horizons, strict=True):
        chosen = [row for row in rows if row["horizon_hours"] == hours and row["gain"] is not None]
        x = [int(row["value"][:2]) for row in chosen]
        axes.axhline(0, color=MUTED, lw=0.8)
        bounds = [
            [100 * (row[name] if row[name] is not None else row["gain"]) for row in chosen] for name in ("low", "high")
        ]
        axes.fill_between(x, *bounds, color=_OWN, alpha=0.2, lw=0)
        axes.plot(x, [100 * row["gain"] for row in chosen], color=_OWN, lw=1.3)
        axes.set(title=f"{hours} h ahead", xlabel="hour of the origin (UTC)", xlim=(0, 23), xticks=[0, 6, 12, 18, 23])
    grid[0].set_ylabel("% lower QLIKE")


def loss_by_month(figure: Figure, evidence: Sequence[Horizon]) -> None:
    """Heat map per horizon: each model's monthly QLIKE relative to the reference, whose own QLIKE is printed."""
    grid = figure.subplots(len(evidence), 1, sharex=True, squeeze=False)[:, 0]
    for axes, horizon in zip(grid, evidence, strict=True):
        _heat_map(axes, horizon)
        axes.set_title(f"{horizon.hours} h ahead")


def importances(figure: Figure, importance: pd.DataFrame, most: int) -> None:
    """The features that move the forecast most, per horizon."""
    grid = figure.subplots(1, importance.shape[1], squeeze=False)[0]
    for axes, column in zip(grid, importance.columns, strict=True):
        values = 100 * importance[column].dropna().sort_values(ascending=False, kind="stable").head(most)
        axes.barh(range(len(values)), values.to_numpy(), height=0.66, color=_OWN)
        axes.set_yticks(range(len(values)), [str(name) for name in values.index])
        axes.set_ylim(most - 0.4, -0.6)
        axes.set_title(f"{column} h ahead")
        axes.set_xlabel("% of the variance forecast")
        _across(axes)


def _across(axes: Axes) -> None:
    """Values run across: lines down the page, no axis at the left."""
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


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
