"""The figures that the goals are judged by, out of a scoreboard's rows and inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from features.panel import Array
from training.goals import Figure

from .ground import ALL, MISS, WHOLE, Floats, Ground, event_windows
from .inference import Difference
from .leads import RATE, Leads
from .rows import Exposures
from .scaling import matching_scale

__all__ = ["figures_of", "skill_figure"]

OURS: Final = "ensemble"
FEWEST_HOURS: Final = 720
"""A symbol or a year with fewer origins says little of a coverage of 99.5 %."""
RIVALS: Final = ("fhs", "fhs_apc")
UNSEEN: Final = "no named event lies in the scored span"


def figures_of(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    found: Mapping[str, Sequence[Difference]],
    raw: Mapping[str, Array],
    warned: Leads,
    core: Array,
    ground: Ground,
    exposures: Exposures,
) -> dict[str, Figure]:
    """Figures by the name that the demands of ``goals.GOALS`` use; ``warned``: leads of the governed margin as it stands."""
    out: dict[str, Figure] = {}
    for difference in found["raw"]:
        if difference.metric == "matched_mean_im":
            out[f"matched_mean_im vs {difference.opponent}"] = _figure(difference)
    for difference in found["equal_mean"]:
        if difference.metric != "matched_mean_im":
            out[f"{difference.metric} vs {difference.opponent}"] = _figure(difference)
    apc = out["matched_mean_im vs fhs_apc"]
    out["matched_mean_im vs fhs_apc, upper end"] = Figure.of(apc.high)
    cost = next(d for d in found["governor"] if d.metric == "matched_mean_im")
    out["matched_mean_im vs its ungoverned target"] = _figure(cost)
    whole = next(r for r in rows["raw"] if (r["policy"], r["symbol"], r["window"]) == (OURS, ALL, WHOLE))
    out["peak_to_trough"] = Figure.of(whole["peak_to_trough"])
    for name in ("max_rise_1d", "max_rise_5d"):
        out[f"{name}, worst symbol"] = Figure.of(whole[name])
    out["lead_skill"] = skill_figure(warned)
    return out | _core(core, ground) | _events(raw, ground) | _overlay(exposures)


def _figure(difference: Difference) -> Figure:
    return Figure.of(difference.value, difference.low, difference.high)


def skill_figure(told: Leads) -> Figure:
    """Lead skill, where the margin can be made to warn as often as the measure asks.

    A margin that moves too seldom for that stands above its median for weeks: what it then gains over shifted warnings is
    the clustering of volatility, which a slow average shows as well.
    """
    about = f"{told.events} onsets, {told.rate:.1f} false alarms a symbol-year, sd of shifted warnings {told.sd:.3f}"
    if not told.comparable:
        return Figure(why=f"{told.lead_skill:+.3f} with {about}: not the {RATE:.0f} at which policies are compared")
    return Figure.of(told.lead_skill, why=about)


def _core(core: Array, ground: Ground) -> dict[str, Figure]:
    known = ground.scored & ~np.isnan(core)
    within = np.where(known, ground.excursion <= core, np.nan)
    by_symbol = [np.nanmean(x) for x, k in zip(within, known, strict=True) if k.sum() >= FEWEST_HOURS]
    year = np.asarray(ground.times.year)
    by_year = [within[:, year == y] for y in np.unique(year[known.any(axis=0)])]
    far = [abs(np.nanmean(x) - (1 - MISS)) for x in by_year if np.isfinite(x).sum() >= FEWEST_HOURS]
    return {
        "core coverage": Figure.of(float(np.nanmean(within)) if known.any() else None),
        "core coverage, worst symbol": Figure.of(float(min(by_symbol)) if by_symbol else None),
        "core coverage, farthest year from 99.5 %": Figure.of(float(max(far)) if far else None),
    }


def _events(raw: Mapping[str, Array], ground: Ground) -> dict[str, Figure]:
    """Coverage in the named events, every policy times the scale that covers exactly 99.5 % of the whole span."""
    scales = {n: matching_scale((ground.excursion / raw[n])[ground.scored]) for n in (OURS, *RIVALS)}
    gaps, to_best = [], []
    for inside in event_windows(ground.times).values():
        rows = ground.scored & inside
        if rows.any():
            covered = {n: float((ground.excursion[rows] <= k * raw[n][rows]).mean()) for n, k in scales.items()}
            gaps.append(covered[OURS] - covered["fhs_apc"])
            to_best.append(covered[OURS] - max(covered[n] for n in RIVALS))
    values = (min(gaps), float(np.mean(np.array(gaps) >= 0)), min(to_best)) if gaps else (None, None, None)
    names = (
        "event coverage less fhs_apc's, worst window",
        "windows covered as well as by fhs_apc",
        "event coverage less the better of fhs and fhs_apc, worst window",
    )
    why = f"{len(gaps)} window{'s'[: len(gaps) > 1]}" if gaps else UNSEEN
    return {name: Figure.of(value, why=why) for name, value in zip(names, values, strict=True)}


def _overlay(exposures: Exposures) -> dict[str, Figure]:
    held, target = exposures.held(OURS), exposures.held("fhs")
    if held is None or target is None:
        return {}
    ratios = {
        "drawdown vs constant": _over(held.max_drawdown, held.constant_drawdown),
        "calmar less constant's": held.calmar - held.constant_calmar,
        "calmar vs constant": _over(held.calmar, held.constant_calmar),
        "turnover vs raw volatility target": _over(held.turnover, target.turnover),
    }
    return {name: Figure.of(_median(values)) for name, values in ratios.items()}


def _over(values: Floats, base: Floats) -> Floats:
    """Relative to a base; NaN where that is nothing or a loss, for a ratio then has no meaning."""
    out: Floats = np.full(np.shape(base), np.nan)
    return np.divide(values, base, out=out, where=base > 0) - 1


def _median(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None
