"""How early a margin rises before stress sets in, how often for nothing, and whether that is skill or flicker.

An *event* is the first origin whose trailing 24 h are in stress or crisis after 48 h without; its *burst* is the bar of
largest variance in them. A margin *warns* while it stands at or above a multiple of its own median of the last 30 days.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from features.panel import Array
from forecaster.policy.observables import DAY
from training.alarms import bursts, events

from .ground import HOURS_A_YEAR, Floats, Ground, Mask

__all__ = ["MULTIPLE", "RATE", "Leads", "Onsets", "leads", "onsets"]

MULTIPLE: Final = 1.25
RATE: Final = 24.0
"""False alarms per symbol-year at which skill is measured."""
AHEAD: Final = 72
STANDING: Final = 5
SHIFTS: Final = 1000
SEED: Final = 20230701
MEDIAN_HOURS: Final = 30 * DAY
FEWEST_HOURS: Final = 7 * DAY
MULTIPLES: Final = np.round(np.geomspace(1.0001, 6.0, 120), 4)
STEPS_BETWEEN: Final = 9
TOLERANCE: Final = 0.25


class Onsets(NamedTuple):
    """Events and their bursts inside the scored span, the hours over which alarms count, and the events of any hour.

    An alarm shortly before an event beyond the span is not a false one.
    """

    event: Mask
    burst: Mask
    known: Mask
    every: Mask


class Leads(NamedTuple):
    """``lead_hours`` (median, -24 for an event without warning), the same on bursts, false alarms at 1.25 times the median.

    ``lead_skill``: share of bursts with a warning that stands 5 h before, less the mean of the same share over circular
    shifts in time, at the ``multiple`` that gives ``rate`` false alarms a symbol-year; ``sd`` of the shifted shares.
    """

    lead_hours: float
    lead_hours_burst: float
    false_alarms_per_symbol_year: float
    lead_skill: float
    sd: float
    multiple: float
    rate: float
    events: int

    @property
    def comparable(self) -> bool:
        """Whether the rate comes within a quarter of ``RATE``; the skill at another one says something else."""
        return abs(self.rate / RATE - 1) <= TOLERANCE


def onsets(ground: Ground) -> Onsets:
    """Events of the scored span, with the bursts of those very events."""
    every = events(ground.state)
    event = every & ground.scored
    # The panel dates a bar at its close, a burst is dated at its open.
    opening = np.pad(ground.history.panel.variance[:, 1:], ((0, 0), (0, 1)), constant_values=np.nan)
    burst = bursts(event, opening)
    return Onsets(event, burst, ground.scored & ~np.isnan(ground.state), every)


def leads(im: Array, found: Onsets) -> tuple[Leads, list[Leads]]:
    """How a margin (n_symbols, n_hours) warned: over all symbols, and by symbol at the multiple of all."""
    ratio = im / _median(im)
    known = found.known & ~np.isnan(ratio)
    years = known.sum() / HOURS_A_YEAR
    multiple = float("nan")
    if years:
        spurious = known & _uneventful(found.every)
        multiple = _multiple(lambda multiple: float((_crossings(ratio >= multiple) & spurious).sum() / years))
    every = np.arange(len(im))
    by_symbol = [_leads(ratio[s : s + 1], Onsets(*(x[s : s + 1] for x in found)), multiple) for s in every]
    return _leads(ratio, found, multiple), by_symbol


def _leads(ratio: Array, found: Onsets, multiple: float) -> Leads:
    known = found.known & ~np.isnan(ratio)
    spurious = known & _uneventful(found.every)
    share, null = _standing(ratio >= multiple, found.burst, known)
    per_year = HOURS_A_YEAR / known.sum() if known.any() else float("nan")
    warns = ratio >= MULTIPLE
    return Leads(
        lead_hours=_lead(warns, found.event & known),
        lead_hours_burst=_lead(warns, found.burst & known),
        false_alarms_per_symbol_year=float((_crossings(warns) & spurious).sum() * per_year),
        lead_skill=share - float(null.mean()),
        sd=float(null.std()),
        multiple=multiple,
        rate=float((_crossings(ratio >= multiple) & spurious).sum() * per_year),
        events=int((found.event & known).sum()),
    )


def _median(im: Array) -> Array:
    median = pd.DataFrame(im.T).rolling(MEDIAN_HOURS, min_periods=FEWEST_HOURS).median()
    return np.asarray(median.to_numpy().T)


def _lead(warns: Mask, onset: Mask) -> float:
    """Median over onsets of the hours from the first warning, within 72 h before to 24 h after, to the onset."""
    hours = np.arange(warns.shape[1])
    symbol, at = np.nonzero(onset)
    first = np.maximum(at - AHEAD, 0)
    coming = np.minimum.accumulate(np.where(warns, hours, warns.shape[1] + AHEAD)[:, ::-1], axis=1)[:, ::-1]
    lead = np.maximum(at - coming[symbol, first], -DAY)
    return float(np.median(lead)) if len(lead) else float("nan")


def _crossings(warns: Mask) -> Mask:
    """Hours at which a warning begins."""
    out = warns.copy()
    out[:, 1:] &= ~warns[:, :-1]
    return out


def _uneventful(event: Mask) -> Mask:
    """Hours neither followed by an event within 72 h nor within 24 h after one: a warning that begins there is false."""
    hours = np.arange(event.shape[1])
    far = event.shape[1] + 2 * AHEAD
    coming = np.minimum.accumulate(np.where(event, hours, far)[:, ::-1], axis=1)[:, ::-1]
    past = np.maximum.accumulate(np.where(event, hours, -far), axis=1)
    return np.asarray((coming - hours > AHEAD) & (hours - past > DAY))


def _multiple(rate: Callable[[float], float]) -> float:
    """Above the multiples that warn too often, the one whose rate lies nearest to ``RATE``; else that of the highest rate.

    Multiples near 1 flicker less often than higher ones: the branch of high multiples is meant.
    """
    rates = np.array([rate(m) for m in MULTIPLES])
    over = np.flatnonzero(rates > RATE)
    if not len(over):
        return float(MULTIPLES[rates.argmax()])
    low, high = MULTIPLES[over[-1]], MULTIPLES[min(over[-1] + 1, len(MULTIPLES) - 1)]
    between = np.linspace(low, high, STEPS_BETWEEN)
    return float(between[np.abs(np.array([rate(m) for m in between]) - RATE).argmin()])


def _standing(warns: Mask, burst: Mask, known: Mask) -> tuple[float, Floats]:
    """Share of bursts with a warning 5 h before, and that share for warnings shifted round each symbol's known span."""
    symbol, at = np.nonzero(burst)
    before = at - STANDING
    inside = (before >= 0) & known[symbol, np.maximum(before, 0)]
    symbol, before = symbol[inside], before[inside]
    if not len(symbol):
        return float("nan"), np.full(1, np.nan)
    first = known.argmax(axis=1)[symbol]
    length = known.shape[1] - known[:, ::-1].argmax(axis=1)[symbol] - first
    share = np.random.default_rng(SEED).random(SHIFTS)
    shifted = first[:, None] + (before - first)[:, None] - (share * length[:, None]).astype(np.int64)
    shifted = first[:, None] + (shifted - first[:, None]) % length[:, None]
    return float(warns[symbol, before].mean()), warns[symbol[:, None], shifted].mean(axis=0)
