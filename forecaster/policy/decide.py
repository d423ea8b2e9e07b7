"""``decide``: from forecast rows and the state so far to one decision per symbol and origin. Pure: no clock,
no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Final

import numpy as np
import pandas as pd

from . import governor, margin, modes
from .inputs import NAN, STALE, USABLE, Inputs, read
from .params import Params
from .types import HOUR, PPM, REASONS, STAGES, Decision, Mode, PolicyState, SymbolState, Vector

__all__ = ["decide", "decide_lines"]

NEVER: Final = -(10**18)
NO_ROWS: Final = sha256(b"").hexdigest()
NO_MODEL: Final = "0" * 64
GOVERNOR, OVERRIDE = STAGES.index("governor"), STAGES.index("override")
FEED_REASONS: Final = ("MARK_ABSENT", "OI_ABSENT")
# Reason, and the flag of the targets that it repeats.
TARGET_REASONS: Final = (
    ("DEPTH_THIN", "depth_thin"),
    ("OI_CROWD", "oi_crowd"),
    ("FUNDING_SKEW", "funding_skew"),
    ("STRESS_FLOOR", "stress_floor"),
    ("LONGRUN_FLOOR", "longrun_floor"),
    ("SENTINEL", "sentinel"),
    ("NEW_LISTING", "new_listing"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """What one line rests on. ``vector`` and ``stages`` are ungoverned targets, meaningless with a fault."""

    symbol: str
    fault: int
    vector: Vector
    stages: tuple[int, ...]
    caps: tuple[int, ...]
    exposure: int
    insurance: int
    feasible: bool
    may_loosen: bool
    stale_feed: bool
    signal: modes.Signal
    breakers: tuple[str, ...]
    safe_im: float
    reasons: tuple[str, ...]
    forecast_hash: str
    model_sha256: str
    fallback: bool


def decide(forecasts: pd.DataFrame, state: PolicyState, params: Params) -> tuple[tuple[Decision, ...], PolicyState]:
    """Decide on every origin of ``forecasts``, in order, starting from ``state``.

    ``forecasts``: rows of the forecast table (other models than ``params.model`` are ignored), best with the
    market's observables joined by ``inputs.prepare``; without them those inputs count as absent. A symbol of
    the state that has no row at an origin gets a fail-safe decision. Origins at or before a symbol's last one
    are skipped, so that repeating a call changes nothing. Feeding origins one by one, the state handed on,
    gives the same decisions.

    Raises DataInvalid where columns are missing or a key stands twice; bad values never raise, they never
    loosen.
    """
    symbols = dict(state.symbols)
    decisions = tuple(decide_lines(read(forecasts, params), symbols, params))
    return decisions, PolicyState(symbols)


def decide_lines(inputs: Inputs, symbols: dict[str, SymbolState], params: Params) -> Iterator[Decision]:
    """Decisions of checked inputs, one by one; ``symbols`` is brought up to date as they are drawn."""
    lines = zip(inputs.origin.tolist(), _lines(inputs, params), strict=True)
    for as_of, rows in groupby(lines, key=lambda pair: pair[0]):
        present = {line.symbol: line for _, line in rows}
        for symbol in sorted({*symbols, *present}):
            prior = symbols.get(symbol)
            if prior is not None and as_of <= prior.as_of:
                continue
            decision, symbols[symbol] = _step(symbol, as_of, present.get(symbol), prior, params)
            yield decision


def _lines(inputs: Inputs, params: Params) -> Iterator[Line]:
    wanted, seen = margin.targets(inputs, params), inputs.observed
    flags = {name: getattr(wanted, flag).tolist() for name, flag in TARGET_REASONS}
    flags["MARK_ABSENT"] = (~(seen["mark_present"] > 0)).tolist()
    flags["OI_ABSENT"] = np.isnan(seen["open_interest_usd"]).tolist()
    breakers = {
        "CB1": (seen["hour_move"] >= params.breakers.hour_move).tolist(),
        "CB3": (wanted.depth_ratio < params.breakers.depth_ratio).tolist(),
    }
    vectors, stages, caps = wanted.vector.tolist(), wanted.stages.tolist(), wanted.caps.tolist()
    exposure, insurance = wanted.exposure.tolist(), wanted.insurance_usd.tolist()
    ratio, odds = wanted.sigma_ratio.tolist(), inputs.probabilities.tolist()
    feasible, fault = wanted.feasible.tolist(), inputs.fault.tolist()
    doubtful = (inputs.fallback | inputs.stale_feed).tolist()
    safe_im = seen["safe_im"].tolist()
    for i, symbol in enumerate(inputs.symbol):
        tripped = tuple(name for name, trips in breakers.items() if trips[i])
        usable = fault[i] == USABLE
        calm, normal, stress, crisis = odds[i]
        yield Line(
            symbol=symbol,
            fault=fault[i],
            vector=Vector(tuple(vectors[i])),
            stages=tuple(stages[i]),
            caps=tuple(caps[i]),
            exposure=exposure[i],
            insurance=insurance[i],
            feasible=feasible[i],
            may_loosen=not doubtful[i] and not flags["SENTINEL"][i],
            stale_feed=bool(inputs.stale_feed[i]),
            signal=modes.Signal(calm, normal, stress, crisis, ratio[i], bool(tripped)),
            breakers=tripped,
            safe_im=safe_im[i],
            reasons=tuple(name for name in flags if flags[name][i] and (usable or name in FEED_REASONS)),
            forecast_hash=inputs.forecast_hash[i],
            model_sha256=inputs.model_sha256[i],
            fallback=bool(inputs.fallback[i]),
        )


def _step(
    symbol: str, as_of: int, line: Line | None, prior: SymbolState | None, params: Params
) -> tuple[Decision, SymbolState]:
    """One line: mode, bounded vector, exposure, decomposition, reasons, and the symbol's next state."""
    usable = line is not None and line.fault == USABLE
    breakers = _breakers(line, prior, as_of, params)
    signal = line.signal if line is not None and usable else None
    mode, loud_at = modes.advance(
        prior.mode if prior else Mode.NORMAL, prior.loud_at if prior else NEVER, signal, as_of, params
    )
    safe_im = _safe_im(line, prior, params)
    step = _move(as_of, line if usable else None, prior, mode, safe_im, params)
    vector = step.vector
    stages = _stages(vector.im[0], line if usable else None, prior)
    decomposition = tuple(now - then for now, then in zip(stages, prior.stages, strict=True)) if prior else stages
    target = line.exposure if line is not None and usable else 0
    exposure = _exposure(target, prior, mode, bool(breakers), params)
    caps = line.caps if line is not None and (usable or prior is None) else prior.caps if prior else ()
    insurance = line.insurance if line is not None and usable else prior.insurance if prior else 0
    effective_at = _effective_at(as_of, vector, prior, params)
    reasons = {*step.reasons, *(line.reasons if line else FEED_REASONS), *(name for name, _ in breakers)}
    reasons |= _movement(vector, mode, decomposition, prior)
    reasons |= {"STALE"} if line is None or line.fault == STALE or line.stale_feed else set()
    reasons |= {"NAN"} if line is not None and line.fault == NAN else set()
    decision = Decision(
        symbol=symbol,
        as_of=as_of,
        announced_at=as_of,
        effective_at=effective_at,
        expires_at=effective_at + params.limits.expiry_hours * HOUR,
        mode=mode,
        vector=vector,
        caps=caps,
        exposure=exposure,
        insurance_target=insurance,
        breakers=breakers,
        breaker_band=int(params.breakers.hour_move * PPM),
        reasons=tuple(name for name in REASONS if name in reasons),
        bounds_hit=step.bounds,
        decomposition=decomposition,
        forecast_hash=line.forecast_hash if line else NO_ROWS,
        params_hash=params.sha256,
        model_sha256=line.model_sha256 if line else NO_MODEL,
        fallback=not usable or (line is not None and line.fallback),
    )
    rose = step.rose or prior is None
    return decision, SymbolState(
        as_of=as_of,
        vector=vector,
        stages=stages,
        mode=mode,
        loud_at=loud_at,
        risen_at=as_of if prior and rose else prior.risen_at if prior else NEVER,
        good_at=as_of if usable else prior.good_at if prior else NEVER,
        effective_at=effective_at,
        exposure=exposure,
        caps=caps,
        window=governor.window_push(prior.window if prior else (), as_of, vector.im[0]),
        breakers=breakers,
        safe_im=safe_im,
        insurance=insurance,
    )


def _move(
    as_of: int, line: Line | None, prior: SymbolState | None, mode: Mode, safe_im: float, params: Params
) -> governor.Step:
    """Where the vector goes. The first line is the ungoverned target; a fault holds, then walks to the safe
    vector.
    """
    if prior is None:
        return governor.Step(line.vector if line else margin.safe_vector(safe_im, params))
    if line is not None and not line.feasible:
        return governor.Step(prior.vector, reasons=("INVARIANT_HOLD",))
    if line is not None:
        target = line.vector
    elif as_of - prior.good_at <= params.failsafe.hold_hours * HOUR:
        return governor.Step(prior.vector)
    else:
        target = margin.safe_vector(safe_im, params)
    pace = governor.Pace(
        hours=(as_of - prior.as_of) / HOUR,
        since_rise=(as_of - prior.risen_at) / HOUR,
        day_minimum=governor.window_minimum(prior.window, as_of, governor.DAY),
        five_day_minimum=governor.window_minimum(prior.window, as_of, governor.FIVE_DAYS),
    )
    may_loosen = line is not None and line.may_loosen
    return governor.follow(prior.vector, target, params.by_mode[mode], pace, may_loosen, params)


def _safe_im(line: Line | None, prior: SymbolState | None, params: Params) -> float:
    if line is not None and line.safe_im == line.safe_im:
        return line.safe_im
    return prior.safe_im if prior else params.failsafe.im_without_history


def _breakers(line: Line | None, prior: SymbolState | None, as_of: int, params: Params) -> tuple[tuple[str, int], ...]:
    """Breakers still standing, those that trip now anew."""
    standing = {name: until for name, until in (prior.breakers if prior else ()) if until > as_of}
    until = as_of + params.breakers.reduce_only_hours * HOUR
    standing.update(dict.fromkeys(line.breakers if line else (), until))
    return tuple(sorted(standing.items()))


def _stages(im: int, line: Line | None, prior: SymbolState | None) -> tuple[int, ...]:
    """Stage increments that sum to the published IM; the governor's, or the fail-safe's, part closes."""
    base = line.stages if line else prior.stages if prior else (0,) * len(STAGES)
    stages = [*base[:OVERRIDE], 0]
    closing = GOVERNOR if line else OVERRIDE
    stages[closing] += im - sum(stages)
    return tuple(stages)


def _exposure(target: int, prior: SymbolState | None, mode: Mode, halted: bool, params: Params) -> int:
    """Volatility target inside the mode's cap, traded outside the band only; never grown in trouble."""
    exposure = params.exposure
    caps = {
        Mode.STRESS: exposure.stress_cap,
        Mode.COOLDOWN: exposure.stress_cap,
        Mode.CRISIS: exposure.crisis_cap,
        Mode.FAILSAFE: exposure.failsafe_cap,
    }
    cap = int(caps.get(mode, exposure.scale_max) * PPM)
    if prior is None:
        return min(target, cap)
    if mode is Mode.FAILSAFE:
        return min(prior.exposure, cap)
    wanted = min(target, cap)
    if wanted > prior.exposure and (halted or mode is Mode.CRISIS):
        return prior.exposure
    within = abs(wanted - prior.exposure) <= exposure.no_trade_band * prior.exposure
    return min(prior.exposure, cap) if within else wanted


def _effective_at(as_of: int, vector: Vector, prior: SymbolState | None, params: Params) -> int:
    """A tightening takes effect at once, a loosening later, a hold with the line that it holds."""
    if prior is None or any(now > then for now, then in zip(vector.parts, prior.vector.parts, strict=True)):
        return as_of
    if vector == prior.vector:
        return max(as_of, prior.effective_at)
    return as_of + params.limits.loosening_delay_hours * HOUR


def _movement(vector: Vector, mode: Mode, decomposition: tuple[int, ...], prior: SymbolState | None) -> set[str]:
    reasons = {"REGIME_STRESS"} if mode in (Mode.STRESS, Mode.CRISIS) else set()
    if prior is None:
        return reasons
    if decomposition[0] + decomposition[1] > 0 and vector.im[0] > prior.vector.im[0]:
        reasons.add("VOL_UP")
    if any(now > then for now, then in zip(vector.mm, prior.vector.mm, strict=True)):
        reasons.add("NOTICE")
    return reasons
