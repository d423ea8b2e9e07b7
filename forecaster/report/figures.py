"""Figures over time: volatility against what came, regime ribbons, a storm with its margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from forecaster.report.canvas import COLOURS, INK, MUTED
from forecaster.report.evidence import Horizon, annualised, grouped_mean
from models.base import PROBABILITIES, REGIMES

__all__ = ["levels", "multiples", "ribbons", "storm_panels"]

FloatArray = npt.NDArray[np.float64]

_OWN: Final = COLOURS["ensemble"][0]
_LONG_STEP_HOURS: Final = 168


def levels(figure: Figure, evidence: Sequence[Horizon], symbols: Sequence[str]) -> None:
    """Forecast and realised volatility: horizons downward, symbols across."""
    grid = figure.subplots(len(evidence), len(symbols), sharex=True, sharey=True, squeeze=False)
    for row, horizon in zip(grid, evidence, strict=True):
        for axes, symbol in zip(row, symbols, strict=True):
            at = horizon.symbols.index(symbol)
            _two_lines(axes, horizon.times, horizon.realised[at], horizon.forecast[at], horizon.hours)
            axes.set_title(f"{symbol}, {horizon.hours} h ahead")
        row[0].set_ylabel("% a year")
    _legend(figure, grid[0][0])


def multiples(figure: Figure, horizon: Horizon, symbols: Sequence[str], across: int) -> None:
    """One small panel per symbol on one scale, averaged to weeks where the window is long."""
    down = math.ceil(len(symbols) / across)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    times, realised, forecast = _weekly(horizon)
    for axes, symbol in zip(grid.flat, symbols, strict=False):
        at = horizon.symbols.index(symbol)
        _two_lines(axes, times, realised[at], forecast[at], horizon.hours)
        axes.set_title(symbol)
    for axes in grid.flat[len(symbols) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel("% a year")
    _legend(figure, grid[0][0])


def ribbons(figure: Figure, evidence: Sequence[Horizon], symbol: str) -> None:
    """Per horizon two ribbons: the regimes that came, and the probabilities given to them before."""
    grid = figure.subplots(2 * len(evidence), 1, sharex=True, squeeze=False)[:, 0]
    for k, horizon in enumerate(evidence):
        at = horizon.symbols.index(symbol)
        for axes, shares, name in (
            (grid[2 * k], horizon.regimes_realised[:, at], "came"),
            (grid[2 * k + 1], horizon.regimes_forecast[:, at], "forecast"),
        ):
            _ribbon(axes, horizon.times, shares)
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
        grid[2 * k].set_title(f"{symbol}, {horizon.hours} h ahead")
    _regime_legend(figure)


def storm_panels(figure: Figure, table: pd.DataFrame, symbol: str, hours: int) -> None:
    """Aligned on the hour: volatility with its band, regimes, and margin against the excursions it must bear.

    ``table`` is that of ``evidence.storm``; without ``im`` there is no margin panel.
    """
    with_margin = "im" in table and bool(table["im"].notna().any())
    heights = [3.0, 0.55, 0.55] + [2.6] * with_margin
    grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _band(grid[0], table, hours)
    grid[0].set_title(f"{symbol}: volatility of the next {hours} hours, forecast and realised")
    times = pd.DatetimeIndex(table.index)
    regime = table["regime"].to_numpy(dtype=np.float64)
    came = np.stack([np.where(np.isnan(regime), np.nan, regime == k) for k in range(len(REGIMES))])
    _ribbon(grid[1], times, came)
    _ribbon(grid[2], times, table[list(PROBABILITIES)].to_numpy(dtype=np.float64).T)
    grid[1].set_title(f"Regime of the next {hours} hours: what came, and its forecast probabilities")
    for axes, name in ((grid[1], "came"), (grid[2], "forecast")):
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    grid[1].legend(handles=_regime_patches(), ncols=4, loc="lower right", bbox_to_anchor=(1.0, 0.95), borderaxespad=0.2)
    if with_margin:
        _margin(grid[3], table)
        grid[3].set_title("Margin in force and the worst move against a position in the next 24 hours")
    grid[-1].set_xlabel("origin of the forecast (UTC)")


def _two_lines(axes: Axes, times: pd.DatetimeIndex, realised: FloatArray, forecast: FloatArray, hours: int) -> None:
    axes.plot(times, annualised(realised, hours), color=INK, lw=0.8, alpha=0.6, label="realised")
    axes.plot(times, annualised(forecast, hours), color=_OWN, lw=1.1, label="forecast (ensemble)")
    _volatility_axis(axes)
    _dates(axes, times)


def _band(axes: Axes, table: pd.DataFrame, hours: int) -> None:
    times = pd.DatetimeIndex(table.index)
    vol = {name: annualised(table[name], hours) for name in table if name == "realised" or "var" in str(name)}
    for low, high, alpha, label in (
        ("var_q05", "var_q95", 0.16, "90 % interval"),
        ("var_q25", "var_q75", 0.28, "50 % interval"),
    ):
        axes.fill_between(times, vol[low], vol[high], color=_OWN, alpha=alpha, lw=0, label=label)
    axes.plot(times, vol["variance"], color=_OWN, lw=1.5, label="forecast (ensemble)")
    axes.plot(times, vol["realised"], color=INK, lw=1.1, label="realised")
    axes.set_ylabel("% a year")
    axes.legend(ncols=4, loc="upper left", borderaxespad=0.2)
    _volatility_axis(axes)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top * (top / bottom) ** 0.14)  # room for the legend
    _dates(axes, times)


def _margin(axes: Axes, table: pd.DataFrame) -> None:
    times = pd.DatetimeIndex(table.index)
    initial, maintenance = (100.0 * table[name].to_numpy(dtype=np.float64) for name in ("im", "mm"))
    larger = 100.0 * table["excursion"].to_numpy(dtype=np.float64)
    axes.fill_between(times, 0, larger, color=MUTED, alpha=0.35, lw=0, step="mid", label="worst move, either side")
    axes.plot(times, initial, color=_OWN, lw=1.6, drawstyle="steps-post", label="initial margin")
    axes.plot(times, maintenance, color=_OWN, lw=1.1, ls=(0, (4, 2)), label="maintenance margin")
    beyond = larger > initial
    if beyond.any():
        axes.plot(times[beyond], larger[beyond], ".", ms=4, color=COLOURS["missed"][0], label="beyond the margin")
    axes.set_ylabel("% of notional")
    axes.set_ylim(0, 1.22 * np.nanmax(np.concatenate([initial, larger])))
    axes.legend(ncols=4, loc="upper left", borderaxespad=0.2)
    _dates(axes, times)


def _ribbon(axes: Axes, times: pd.DatetimeIndex, shares: FloatArray) -> None:
    """Stacked shares of the four regimes (4 × times), as steps; unknown stays empty."""
    step = times[1] - times[0] if len(times) > 1 else pd.Timedelta(hours=1)
    edges = times.append(pd.DatetimeIndex([times[-1] + step]))
    upper = np.cumsum(shares, axis=0)
    lower = np.vstack([np.zeros_like(upper[:1]), upper[:-1]])
    for regime, low, high in zip(REGIMES, lower, upper, strict=True):
        low, high = np.append(low, low[-1]), np.append(high, high[-1])
        drawn = np.isnan(high) | (high > low)
        if drawn.any():
            axes.fill_between(edges, low, high, color=COLOURS[regime][0], lw=0, step="post")
    axes.set(ylim=(0, 1), yticks=[])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    _dates(axes, times)


def _weekly(horizon: Horizon) -> tuple[pd.DatetimeIndex, FloatArray, FloatArray]:
    width = max(1, _LONG_STEP_HOURS // horizon.step_hours) if len(horizon.times) > 200 else 1
    starts = np.arange(0, len(horizon.times), width)
    return horizon.times[starts], grouped_mean(horizon.realised, starts), grouped_mean(horizon.forecast, starts)


def _volatility_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _plain(value: float, _: Any) -> str:
    return f"{value:g}"


def _dates(axes: Axes, times: pd.DatetimeIndex) -> None:
    short = times[-1] - times[0] < pd.Timedelta(days=120)
    locator = AutoDateLocator(minticks=3, maxticks=7 if short else 6)  # type: ignore[no-untyped-call]
    layout = DateFormatter("%d %b %Y" if short else "%b %Y")  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(layout)
    axes.margins(x=0.005)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))


def _regime_patches() -> list[Patch]:
    return [Patch(facecolor=COLOURS[regime][0], label=regime) for regime in REGIMES]


def _regime_legend(figure: Figure) -> None:
    figure.legend(handles=_regime_patches(), loc="outside upper right", ncols=len(REGIMES))
