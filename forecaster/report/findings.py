"""What held and what did not: every figure beside the floor that was set for it, from numbers alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from forecaster.report.evidence import REFERENCE, Horizon
from models.base import ENSEMBLE
from training.goals import HIT_TESTS, never_failed

__all__ = ["GAIN_FLOORS", "Finding", "Numbers", "findings", "percent", "sentences"]

HORIZONS: Final = (1, 4, 24)
GAIN_FLOORS: Final = {
    **{(REFERENCE, h): floor for h, floor in ((1, 0.04), (4, 0.04), (24, 0.04), (72, 0.0))},
    **{("garch", h): 0.12 for h in HORIZONS},
}
"""Least gain on qlike_x by opponent and horizon."""
_BETTER: Final = 16 / 18
_SIGNIFICANT: Final = {1: 0.8, 4: 0.6, 24: 0.4}
_STRESS: Final = {1: 0.295, 4: 0.315, 24: 0.295}
_ONSET: Final = {1: 0.135, 4: 0.155, 24: 0.110}
_SUSPECT: Final = {1: 0.15, 4: 0.20, 24: 0.25}
_SUSPECT_ONSET: Final = 0.30
_BACK_TESTS: Final = {
    "kupiec": ("Kupiec, 1 % hits, p ≥ 0.05", 0.75),
    "christoffersen": ("Christoffersen, 1 % hits, p ≥ 0.05", 0.75),
    "dynamic_quantile": ("DQ, 1 % hits, p ≥ 0.05", 0.75),
    "z2": ("Z2, 2.5 % shortfall, p ≥ 0.05", 0.80),
    "esr": ("ESR, 2.5 % shortfall, p ≥ 0.05", 0.80),
}
_ALARM_HOURS: Final = 24
_ALARM_RATE: Final = 15.0


@dataclass(frozen=True)
class Finding:
    """One figure: ``verdict`` is held, missed, shown (no floor was set) or unknown (it could not be computed)."""

    check: str
    hours: int
    figure: str
    floor: str
    verdict: str


@dataclass(frozen=True)
class Numbers:
    """Everything a finding may read."""

    scores: Mapping[str, Any]
    diagnostics: Mapping[str, Any]
    evidence: list[Horizon]
    excursions: pd.DataFrame
    margins: pd.DataFrame | None

    def score(self, hours: int, field: str, model: str = ENSEMBLE, symbol: str = "*") -> float | None:
        """One field of ``scores.json``; None where it is null or the row is absent."""
        for row in self.scores["scores"]:
            if (row["model"], row["horizon_hours"], row["symbol"]) == (model, hours, symbol):
                value = row[field]
                return None if value is None else float(value)
        return None

    def by_symbol(self, hours: int, field: str) -> list[float]:
        """The ensemble's known values of a field, one per symbol."""
        rows = self.scores["scores"]
        own = [r for r in rows if (r["model"], r["horizon_hours"]) == (ENSEMBLE, hours) and r["symbol"] != "*"]
        return [float(row[field]) for row in own if row[field] is not None]

    def gain(self, hours: int, opponent: str, loss: str = "qlike_x") -> Mapping[str, Any] | None:
        """The row of ``diagnostics["gains"]``, None where there is none or its gain is null."""
        for row in self.diagnostics.get("gains", ()):
            key = (row["horizon_hours"], row["opponent"], row["loss"])
            if key == (hours, opponent, loss) and row["gain"] is not None:
                found: Mapping[str, Any] = row
                return found
        return None

    def row(self, part: str, **key: Any) -> Mapping[str, Any] | None:
        """The first row of a part of the diagnostics with these values; None where there is none."""
        for row in self.diagnostics.get(part, ()):
            if all(row[name] == value for name, value in key.items()):
                found: Mapping[str, Any] = row
                return found
        return None

    def pooled(self, hours: int, field: str) -> float | None:
        """The ensemble's figure over the rows of all symbols."""
        for row in self.diagnostics.get("pooled", ()):
            if (row["model"], row["horizon_hours"]) == (ENSEMBLE, hours):
                value = row[field]
                return None if value is None else float(value)
        return None


def percent(value: float, digits: int = 1, *, signed: bool = False) -> str:
    """``0.0512`` as ``5.1 %``, with a true minus and a space that does not break."""
    return f"{100 * value:{'+' if signed else ''}.{digits}f}\u00a0%".replace("-", "−")


def findings(numbers: Numbers) -> list[Finding]:
    """Every check at every horizon that was forecast."""
    return [found for horizon in numbers.evidence for found in _at(numbers, horizon)]


def sentences(numbers: Numbers, found: list[Finding]) -> Iterator[str]:
    """The summary in plain words, misses before hits."""
    held, missed, unknown = ([f for f in found if f.verdict == v] for v in ("held", "missed", "unknown"))
    hours = [horizon.hours for horizon in numbers.evidence]
    text = f"Of {len(held) + len(missed)} figures with a floor, {len(held)} held and {len(missed)} missed it"
    yield text + (f"; {len(unknown)} could not be computed." if unknown else ".")
    if suspects := [str(h) for h in hours if _suspect(numbers, h)]:
        yield (
            f"Suspect: the gain at {', '.join(suspects)} h, or its onset skill, is larger than honest forecasts "
            "have shown on real markets, or every back-test of its hits passed. Until a search for look-ahead is "
            "closed, take it for a leak or for a market made to be predictable."
        )
    yield from (_gain_sentence(numbers, h) for h in hours)
    yield from _shock_sentences(numbers)
    yield from _margin_sentences(numbers)
    for word, part in (("Missed", missed), ("Held", held)):
        if part:
            yield f"{word}: {_by_check(part, len(hours))}."


def _at(n: Numbers, horizon: Horizon) -> Iterator[Finding]:
    hours = horizon.hours
    for opponent in (REFERENCE, "garch"):
        yield _gain(n, hours, opponent)
    row = n.gain(hours, REFERENCE)
    yield _share(f"symbols with lower QLIKE than {REFERENCE}", hours, row, "symbols_better", _BETTER)
    yield _share(
        "symbols where lower by Diebold-Mariano, p < 0.05", hours, row, "symbols_significant", _SIGNIFICANT.get(hours)
    )
    inside = n.by_symbol(hours, "in_mcs90")
    yield _passes("symbols where it is in the 90 % confidence set", hours, inside, 0.85)
    yield _bounded(f"CRPS of log variance against {REFERENCE}", hours, _crps_gain(n, hours), low=0.03)
    worst = max(n.by_symbol(hours, "coverage_var_90"), key=lambda value: abs(value - 0.9), default=None)
    yield _bounded("coverage of the 90 % variance interval, worst symbol", hours, worst, low=0.86, high=0.94)
    yield _bounded("skill of stress probability", hours, n.score(hours, "brier_skill_stress"), low=_STRESS.get(hours))
    yield _bounded("skill of onset probability", hours, n.score(hours, "brier_skill_onset"), low=_ONSET.get(hours))
    yield _bounded("calibration error of stress, pooled", hours, n.pooled(hours, "ece_stress"), high=0.018, digits=2)
    worst = max(n.by_symbol(hours, "ece_stress"), default=None)
    yield _bounded("calibration error of stress, worst symbol", hours, worst, high=0.05, digits=2)
    # Overlapping windows make long horizons noisier: three times the width at 24 h, none set in between.
    width = {1: 1.0, 24: 3.0}.get(hours)
    for level, half in ((0.01, 0.0015), (0.05, 0.005)):
        low, high = (level - half * width, level + half * width) if width else (None, None)
        hit = n.pooled(hours, f"var_hit_{round(level * 1000):03d}")
        name = f"returns below their {level:.0%} quantile, pooled".replace("%", " %")
        yield _bounded(name, hours, hit, low, high, 2)
    yield from _risk(n, hours)
    for side in ("long", "short"):
        rows = n.excursions.query("horizon_hours == @hours and side == @side")["share"].dropna()
        value = float(rows.iloc[0]) if len(rows) else None
        yield _bounded(f"{side} excursions beyond their 99.5 % quantile", hours, value, 0.0035, 0.0065, 2)
    yield _months(horizon)


def _risk(n: Numbers, hours: int) -> Iterator[Finding]:
    for test, (name, least) in _BACK_TESTS.items():
        row = n.row("risk", model=ENSEMBLE, horizon_hours=hours, test=test)
        check = f"symbol-years that pass {name}"
        if row is None:
            yield Finding(check, hours, "–", f"≥ {least:.0%}".replace("%", "\u00a0%"), "unknown")
        else:
            yield _count(check, hours, row["passed"], row["symbol_years"], least)
    row = n.row("shortfall", model=ENSEMBLE, horizon_hours=hours, level=0.025)
    saved = None if row is None else row["saved"]
    yield _bounded("FZ0 saved against filtered simulation", hours, saved, low=0.0, signed=True)
    row = n.row("strata", horizon_hours=hours, kind="onset", value="just begun")
    yield _bounded(
        "returns below their 1 % quantile where stress has just begun",
        hours,
        None if row is None else row["var_hit_010"],
        high=0.03,
        digits=2,
    )
    if hours == _ALARM_HOURS:
        row = n.row("alarm_points", model=ENSEMBLE, event="trailing", rate=_ALARM_RATE)
        told = row is not None and None not in (row["recall"], row["shifted_recall"])
        above = row["recall"] - row["shifted_recall"] if row is not None and told else None
        yield _bounded("events announced beyond chance, 15 false alarms a symbol-year", hours, above, signed=True)


def _by_check(found: list[Finding], horizons: int) -> str:
    """Names of checks, with their horizons where these are not all."""
    hours: dict[str, list[str]] = {}
    for finding in found:
        hours.setdefault(finding.check, []).append(str(finding.hours))
    return "; ".join(
        check if len(at) == horizons else f"{check} ({', '.join(at)}\u00a0h)" for check, at in hours.items()
    )


def _gain(n: Numbers, hours: int, opponent: str) -> Finding:
    row, floor = n.gain(hours, opponent), GAIN_FLOORS.get((opponent, hours))
    found = _bounded(f"QLIKE saved against {opponent}", hours, row["gain"] if row else None, low=floor, signed=True)
    if row is None or row["low"] is None:
        return found
    interval = f" ({percent(row['low'])[:-2]} to {percent(row['high'])[:-2]})"
    return Finding(found.check, hours, found.figure + interval, found.floor, found.verdict)


def _crps_gain(n: Numbers, hours: int) -> float | None:
    own, other = n.score(hours, "crps_log"), n.score(hours, "crps_log", REFERENCE)
    return 1 - own / other if own is not None and other else None


def _months(horizon: Horizon) -> Finding:
    name = f"months with lower QLIKE than {REFERENCE}"
    if REFERENCE not in horizon.models:
        return Finding(name, horizon.hours, "–", "", "unknown")
    own, other = (horizon.monthly[horizon.models.index(model)] for model in (ENSEMBLE, REFERENCE))
    return Finding(name, horizon.hours, f"{int((own < other).sum())} of {len(own)}", "", "shown")


def _bounded(
    check: str,
    hours: int,
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    digits: int = 1,
    *,
    signed: bool = False,
) -> Finding:
    bounds = [f"{100 * bound:.4g}" for bound in (low, high) if bound is not None]
    sign = "" if low is not None and high is not None else "≥ " if low is not None else "≤ "
    floor = f"{sign}{' to '.join(bounds)}\u00a0%" if bounds else ""
    if value is None or not math.isfinite(value):
        return Finding(check, hours, "–", floor, "unknown")
    held = (low is None or value >= low) and (high is None or value <= high)
    verdict = "shown" if not bounds else "held" if held else "missed"
    return Finding(check, hours, percent(value, digits, signed=signed), floor, verdict)


def _share(check: str, hours: int, row: Mapping[str, Any] | None, field: str, least: float | None) -> Finding:
    if row is None or not row["symbols"]:
        return Finding(check, hours, "–", "", "unknown")
    return _count(check, hours, row[field], row["symbols"], least)


def _passes(check: str, hours: int, values: list[float], least: float) -> Finding:
    if not values:
        return Finding(check, hours, "–", f"≥ {least:.0%}".replace("%", "\u00a0%"), "unknown")
    return _count(check, hours, int(sum(values)), len(values), least)


def _count(check: str, hours: int, count: int, of: int, least: float | None) -> Finding:
    text = f"{count} of {of}"
    if least is None:
        return Finding(check, hours, text, "", "shown")
    needed = math.ceil(least * of - 1e-9)
    return Finding(check, hours, text, f"≥ {needed}", "held" if count >= needed else "missed")


def _gain_sentence(n: Numbers, hours: int) -> str:
    row, whole = n.gain(hours, REFERENCE), n.gain(hours, REFERENCE, "qlike")
    if row is None:
        return f"{hours} h ahead: no comparison with {REFERENCE} could be made."
    way = "lower" if row["gain"] >= 0 else "higher"
    text = f"{hours} h ahead the ensemble's QLIKE is {percent(abs(row['gain']))} {way} than that of {REFERENCE}"
    if row["low"] is not None:
        text += f" (90 % interval of the gain {percent(row['low'])} to {percent(row['high'])})"
    text += f", and lower on {row['symbols_better']} of {row['symbols']} symbols"
    return text + (f"; with the shock days left in, the gain is {percent(whole['gain'])}." if whole else ".")


def _shock_sentences(n: Numbers) -> Iterator[str]:
    parts = [
        f"{days[0]} to {days[-1]} at {hours} h"
        for hours, days in sorted(n.diagnostics.get("shock_days", {}).items(), key=lambda item: int(item[0]))
        if days
    ]
    if parts:
        yield f"Left out of these gains as the shock day and the days beside it: {'; '.join(parts)}."


def _margin_sentences(n: Numbers) -> Iterator[str]:
    if n.margins is None:
        return
    overall = n.margins[n.margins["symbol"] == "*"].to_dict("records")
    rows: dict[str, dict[Hashable, Any]] = {str(row["policy"]): row for row in overall}
    own = rows.pop(ENSEMBLE, None)
    if own is None or own["n"] == 0:
        return
    text = (
        f"The margin schedule covered {percent(own['coverage_24h_995'], 2)} of the 24 h excursions "
        f"(aim 99.5 %) at a mean initial margin of {percent(own['mean_im'])}"
    )
    others = [
        f"{percent(abs(change))} {'less' if change <= 0 else 'more'} than {name}"
        for name, row in rows.items()
        if math.isfinite(row["matched_mean_im"])
        for change in [own["matched_mean_im"] / row["matched_mean_im"] - 1]
    ]
    yield text + (f"; scaled to the same coverage it asks {' and '.join(others)}." if others else ".")


def _suspect(n: Numbers, hours: int) -> bool:
    row, onset = n.gain(hours, REFERENCE), n.score(hours, "brier_skill_onset")
    limit = _SUSPECT.get(hours)
    too_good = row is not None and limit is not None and row["gain"] > limit
    return too_good or (onset is not None and onset > _SUSPECT_ONSET) or _all_passed(n, hours)


def _all_passed(n: Numbers, hours: int) -> bool:
    found = [n.row("risk", model=ENSEMBLE, horizon_hours=hours, test=test) for test in HIT_TESTS]
    rows = [row for row in found if row is not None and row["symbol_years"]]
    return len(rows) == len(HIT_TESTS) and never_failed(
        [row["passed"] / row["symbol_years"] for row in rows], min(row["symbol_years"] for row in rows)
    )
