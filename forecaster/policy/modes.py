"""The governor's state machine: up any number of levels at once, down one level at a time after a quiet day.

calm or normal -> stress -> crisis, back through stress and cooldown; failsafe from anywhere, back to
cooldown. The mode selects the governor's limits only: the variance already carries the regime, a multiplier
would count it twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from .params import Params
from .types import HOUR, Mode

__all__ = ["Signal", "advance"]

LEVEL = {Mode.CALM: 0, Mode.NORMAL: 0, Mode.COOLDOWN: 1, Mode.STRESS: 2, Mode.CRISIS: 3}


@dataclass(frozen=True, slots=True)
class Signal:
    """What a usable line says of the regime; a NaN (unknown) triggers nothing."""

    p_calm: float
    p_normal: float
    p_stress: float
    p_crisis: float
    sigma_ratio: float
    breaker: bool


def advance(mode: Mode, loud_at: int, signal: Signal | None, as_of: int, params: Params) -> tuple[Mode, int]:
    """The next mode, and the instant at which its trigger last stood above its release level.

    ``signal`` None means that no usable forecast exists.
    """
    if signal is None:
        return Mode.FAILSAFE, as_of
    if mode is Mode.FAILSAFE:
        mode, loud_at = Mode.COOLDOWN, as_of
    alarm = _alarm(signal, params)
    if alarm is not None and LEVEL[alarm] >= LEVEL[mode]:
        return alarm, as_of
    resting = Mode.CALM if signal.p_calm > signal.p_normal else Mode.NORMAL
    if LEVEL[mode] == 0:
        return resting, as_of
    if _loud(mode, signal, params):
        return mode, as_of
    if as_of - loud_at < params.modes.quiet_hours * HOUR:
        return mode, loud_at
    down = {Mode.CRISIS: Mode.STRESS, Mode.STRESS: Mode.COOLDOWN, Mode.COOLDOWN: resting}
    return down[mode], as_of


def _alarm(signal: Signal, params: Params) -> Mode | None:
    limits = params.modes
    if signal.breaker or signal.p_crisis >= limits.crisis_probability:
        return Mode.CRISIS
    high = signal.p_stress + signal.p_crisis >= limits.stress_probability
    return Mode.STRESS if high or signal.sigma_ratio >= limits.stress_sigma_ratio else None


def _loud(mode: Mode, signal: Signal, params: Params) -> bool:
    """Whether the mode's trigger stands above its release level; of the ratio, the excess over 1 counts."""
    limits, share = params.modes, params.modes.release_share
    if mode is Mode.CRISIS:
        return signal.breaker or signal.p_crisis >= share * limits.crisis_probability
    return signal.p_stress + signal.p_crisis >= share * limits.stress_probability or signal.sigma_ratio >= 1 + share * (
        limits.stress_sigma_ratio - 1
    )
