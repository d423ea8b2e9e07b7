"""The modes as a table: limits of each, and the state machine explored to its last state.

calm or normal -> stress -> crisis, back through stress and cooldown; failsafe from anywhere, back to
cooldown; override is published over whatever the machine is in. The moves themselves are compiled, in
``governor.next_mode``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import governor
from .margin import ppm
from .params import Params
from .types import HOUR, MODES, Mode

__all__ = ["Place", "Signal", "advance", "explore", "rules"]


@dataclass(frozen=True, slots=True)
class Signal:
    """What a usable line says of the regime; a NaN (unknown) triggers nothing."""

    p_calm: float
    p_normal: float
    p_stress: float
    p_crisis: float
    sigma_ratio: float
    breaker: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A state of the machine: mode, and hours since its trigger last stood above its release level."""

    mode: Mode
    quiet: int


def rules(params: Params) -> governor.Rules:
    """The constants that the dynamics read, as the compiled code takes them."""
    limits = [params.by_mode[mode] for mode in MODES if mode is not Mode.OVERRIDE]
    exposure, modes, breakers = params.exposure, params.modes, params.breakers
    caps = {
        Mode.STRESS: exposure.stress_cap,
        Mode.COOLDOWN: exposure.stress_cap,
        Mode.CRISIS: exposure.crisis_cap,
        Mode.FAILSAFE: exposure.failsafe_cap,
    }
    pace = [[x.step_up, x.step_hours, x.half_life_hours, x.dead_band, x.day_rise] for x in limits]
    least, fee, haircut = ppm(
        np.array([params.margin.im_min, params.penalty.minimum, params.collateral.haircut_cap])
    ).tolist()
    return governor.Rules(
        pace=np.array(pace, dtype=np.float64),
        exposure_cap=np.array([int(caps.get(mode, exposure.scale_max) * 1e6) for mode in MODES], dtype=np.int64),
        day_rise=params.limits.day_rise,
        five_day_rise=params.limits.five_day_rise,
        stress_probability=modes.stress_probability,
        crisis_probability=modes.crisis_probability,
        stress_sigma_ratio=modes.stress_sigma_ratio,
        release_share=modes.release_share,
        quiet_hours=modes.quiet_hours,
        hold_hours=params.failsafe.hold_hours,
        escalate_hours=breakers.escalate_hours,
        action_hours=np.array(
            [
                0,
                breakers.reduce_only_hours,
                breakers.price_band_hours,
                breakers.halt_hours,
                breakers.withdraw_gate_hours,
                breakers.grace_hours,
            ],
            dtype=np.int64,
        ),
        loosening_hours=params.limits.loosening_delay_hours,
        no_trade_band=exposure.no_trade_band,
        penalty_share=params.penalty.share_of_mm,
        gap=params.clamp_gap * 1e6,
        im_min=least,
        safe_penalty=fee,
        safe_haircut=haircut,
    )


def advance(mode: Mode, loud_at: int, signal: Signal | None, as_of: int, limits: governor.Rules) -> tuple[Mode, int]:
    """The machine's next mode and the instant at which its trigger last stood above its release level.

    ``signal`` None means that no usable forecast exists.
    """
    if signal is None:
        return Mode.FAILSAFE, as_of
    odds = np.array([signal.p_calm, signal.p_normal, signal.p_stress, signal.p_crisis])
    code, loud_at = governor.next_mode(
        MODES.index(mode), loud_at, as_of, odds, signal.sigma_ratio, signal.breaker, limits
    )
    return MODES[code], loud_at


def explore(signals: Mapping[str, Signal | None], params: Params) -> dict[Place, dict[str, Place]]:
    """Every state that hourly lines can reach from rest, and where each signal leads from it."""
    limits, quiet_hours = rules(params), params.modes.quiet_hours
    found: dict[Place, dict[str, Place]] = {}
    open_places = [Place(Mode.NORMAL, 0)]
    while open_places:
        place = open_places.pop()
        if place in found:
            continue
        found[place] = {}
        for name, signal in signals.items():
            mode, loud_at = advance(place.mode, -place.quiet * HOUR, signal, HOUR, limits)
            found[place][name] = Place(mode, min(quiet_hours, (HOUR - loud_at) // HOUR))
        open_places += found[place].values()
    return found
