"""``decide`` and ``govern``: from checked inputs and the state so far to one line per symbol and origin.

Pure: no clock, no I/O. Both are the same pass of the compiled governor over the lines; ``govern`` leaves them
as columns, ``decide`` and the schedule read the columns line by line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError

from . import governor, margin
from .breakers import BREAKERS, Action, tripped
from .feeds import speaking
from .hedges import infeasible, standing_hedges
from .hedging.reference import described
from .inputs import NAN, STALE, USABLE, Inputs, read
from .modes import rules
from .params import Params
from .types import (
    ALL_SYMBOLS,
    BIT,
    HOUR,
    MODES,
    PPM,
    REASONS,
    STAGES,
    Decision,
    Governed,
    Override,
    PolicyState,
    SymbolState,
    Vector,
)

__all__ = ["ACTIONS", "advance", "decide", "decisions", "govern"]

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

NO_ROWS: Final = sha256(b"").hexdigest()
NO_MODEL: Final = "0" * 64
FEEDS: Final = BIT["MARK_ABSENT"] | BIT["OI_ABSENT"]
# Reason, and the flag of the targets that it repeats.
TARGET_REASONS: Final = {
    "DEPTH_THIN": "depth_thin",
    "OI_CROWD": "oi_crowd",
    "FUNDING_SKEW": "funding_skew",
    "STRESS_FLOOR": "stress_floor",
    "LONGRUN_FLOOR": "longrun_floor",
    "SENTINEL": "sentinel",
    "NEW_LISTING": "new_listing",
    "IF_LOW": "fund_low",
}
SCALARS: Final = (
    *("as_of", "loud_at", "risen_at", "good_at", "effective_at", "exposure"),
    *("action", "since", "causes", "feeds", "insurance", "safe"),
)
ACTIONS: Final = tuple(action.name.lower() for action in Action)


def decide(
    forecasts: pd.DataFrame,
    state: PolicyState,
    params: Params,
    overrides: Sequence[Override] = (),
) -> tuple[tuple[Decision, ...], PolicyState]:
    """Decide on every origin of ``forecasts``, in order, starting from ``state``.

    ``forecasts``: rows of the forecast table (other models than ``params.model`` are ignored), best with the
    market's observables joined by ``inputs.prepare``; without them those inputs count as absent. A symbol of
    the state that has no row at an origin gets a fail-safe decision. Origins at or before a symbol's last one
    are skipped, so that repeating a call changes nothing. Feeding origins one by one, the state handed on,
    gives the same decisions. ``overrides`` as in ``govern``.

    Raises DataInvalid where columns are missing or a key stands twice; bad values never raise, they never
    loosen. UsageError where the state was made with another number of tiers.
    """
    inputs = read(forecasts, params)
    governed, hedges, after = advance(inputs, state, params, overrides)
    return tuple(_decisions(governed, inputs, hedges)), after


def advance(
    inputs: Inputs, state: PolicyState, params: Params, overrides: Sequence[Override] = ()
) -> tuple[Governed, Integers, PolicyState]:
    """``decide`` as columns: the lines, their hedges as records (len(lines), R), and the state after the last one."""
    governed, windows = _walked(inputs, state, params, overrides=overrides)
    hedges = standing_hedges(governed, inputs, [_hedge(state, name) for name in governed.symbols])
    after = PolicyState({**state.symbols, **_carried(governed, windows, hedges)})
    return governed, hedges[len(governed.symbols) :], after


def govern(
    inputs: Inputs,
    params: Params,
    scale: Floats | None = None,
    symbols: Collection[str] | None = None,
    overrides: Sequence[Override] = (),
    wanted: margin.Targets | None = None,
) -> Governed:
    """The governed lines of all inputs, as columns, from the first line of each symbol; without their hedges.

    ``scale`` (len(inputs),) multiplies the targets of a comparison; ``symbols`` limits the lines (each is the
    same as without the limit). ``wanted`` are targets of these inputs to be governed in the place of those of
    ``params``, whose governor they meet; ``scale`` does not touch them.
    """
    return _walked(inputs, PolicyState.initial(), params, scale, symbols, overrides, wanted)[0]


def decisions(governed: Governed, inputs: Inputs) -> Iterator[Decision]:
    """The lines that ``govern`` made of ``inputs`` one by one, with their hedges, as the schedule writes them."""
    hedges = standing_hedges(governed, inputs, [None] * len(governed.symbols))
    return _decisions(governed, inputs, hedges[len(governed.symbols) :])


def _walked(
    inputs: Inputs,
    state: PolicyState,
    params: Params,
    scale: Floats | None = None,
    symbols: Collection[str] | None = None,
    overrides: Sequence[Override] = (),
    wanted: margin.Targets | None = None,
) -> tuple[Governed, governor.Windows]:
    """``govern`` from a state on, and each symbol's window after its last line."""
    names = sorted(name for name in {*state.symbols, *inputs.symbol} if symbols is None or name in symbols)
    wanted = margin.targets(inputs, params, scale) if wanted is None else wanted
    lines = _lines(inputs, names, state, overrides)
    facts = _facts(inputs, wanted, params)
    course, windows = _start(names, lines, state, facts, params)
    governor.walk(lines, facts, rules(params), course, windows)
    governed = Governed(
        params=params,
        symbols=tuple(names),
        code=lines.symbol,
        row=lines.row,
        reasons=_reasons(inputs, wanted, lines, course, facts),
        before=lines.before,
        course=course,
    )
    return governed, windows


def _decisions(governed: Governed, inputs: Inputs, hedges: Integers) -> Iterator[Decision]:
    params, column = governed.params, governed.column
    band, expiry = int(params.breakers.hour_move * PPM), params.limits.expiry_hours * HOUR
    doubtful = inputs.fallback | (inputs.fault != USABLE)
    columns = (
        *(governed.code, governed.row, governed.as_of, governed.effective_at, governed.mode, governed.exposure),
        *(governed.vector, governed.decomposition, governed.reasons + BIT["HEDGE_INFEASIBLE"] * infeasible(hedges)),
        *(column("caps"), column("action"), _until(governed), column("causes"), hedges),
        *(column("insurance"), column("bound"), column("part")),
    )
    for start in range(0, len(governed), 4096):  # lists of a few thousand lines, not of a whole history
        block = (values[start : start + 4096].tolist() for values in columns)
        for code, row, as_of, effective_at, mode, exposure, vector, moved, reasons, *rest in zip(*block, strict=True):
            caps, action, until, causes, hedge, insurance, bound, part = rest
            yield Decision(
                symbol=governed.symbols[code],
                as_of=as_of,
                announced_at=as_of,
                effective_at=effective_at,
                expires_at=effective_at + expiry,
                mode=MODES[mode],
                vector=Vector(tuple(vector)),
                caps=tuple(caps),
                exposure=exposure,
                hedge=described(hedge),
                insurance_target=insurance,
                breakers=_causes(causes),
                breaker_state=ACTIONS[action],
                breaker_until=until if action else None,
                breaker_band=band,
                reasons=_names(reasons),
                bounds_hit=((_part(part, len(caps)), *governor.BOUNDS[bound]),) if bound >= 0 else (),
                decomposition=tuple(moved),
                forecast_hash=inputs.forecast_hash[row] if row >= 0 else NO_ROWS,
                params_hash=params.sha256,
                model_sha256=inputs.model_sha256[row] if row >= 0 else NO_MODEL,
                fallback=row < 0 or bool(doubtful[row]),
            )


def _lines(inputs: Inputs, names: list[str], state: PolicyState, overrides: Sequence[Override]) -> governor.Lines:
    """Every symbol at every origin from its first row, or from its last line, on."""
    origins, at = np.unique(inputs.origin, return_inverse=True)
    code = pd.Index(names).get_indexer(pd.Index(inputs.symbol))
    mine = np.flatnonzero(code >= 0)
    row_of = np.full((len(origins), len(names)), -1, dtype=np.int64)
    row_of[at[mine], code[mine]] = mine
    past = [state.symbols[name].as_of if name in state.symbols else governor.NEVER for name in names]
    known = np.array([name in state.symbols for name in names], dtype=bool)
    begun = known | np.logical_or.accumulate(row_of >= 0, axis=0)
    time, symbol = np.nonzero(begun & (origins[:, None] > np.array(past, dtype=np.int64)))
    order = np.lexsort((time, symbol))
    before = np.empty(len(symbol), dtype=np.int64)
    before[order[1:]] = order[:-1] + len(names)
    first = np.diff(symbol[order], prepend=-1) > 0
    before[order[first]] = symbol[order[first]]
    as_of = origins[time]
    return governor.Lines(symbol, as_of, row_of[time, symbol], before, *_asked(overrides, names, symbol, as_of))


def _asked(
    overrides: Sequence[Override], names: list[str], symbol: Integers, as_of: Integers
) -> tuple[Flags, Integers, Integers, Integers]:
    """What overrides ask of each line: a hold where any asks for it, the highest plain floor, the lowest cap and
    the highest acknowledged floor, apart: a plain floor above an acknowledged one must not undo it.
    """
    n = len(symbol)
    frozen, high = np.zeros(n, dtype=bool), np.full(n, PPM, dtype=np.int64)
    low, acknowledged = np.zeros((2, n), dtype=np.int64)
    for override in overrides:
        at = (as_of >= override.start) & (as_of < override.expires)
        if override.symbol != ALL_SYMBOLS:
            at &= np.array([name == override.symbol for name in names], dtype=bool)[symbol]
        frozen |= at & override.frozen
        if override.im_floor_ppm is not None:
            floor = acknowledged if override.acknowledged else low
            floor[at] = np.maximum(floor[at], override.im_floor_ppm)
        if override.im_cap_ppm is not None:
            high[at] = np.minimum(high[at], override.im_cap_ppm)
    return frozen, low, high, acknowledged


def _facts(inputs: Inputs, wanted: margin.Targets, params: Params) -> governor.Facts:
    safe_im = inputs.observed["safe_im"]
    trips = tripped(inputs, wanted, params)
    bits = np.zeros(len(inputs), dtype=np.int64)
    for place, name in enumerate(BREAKERS):
        bits += trips[name].astype(np.int64) << place
    return governor.Facts(
        fault=inputs.fault,
        vector=wanted.vector,
        stages=wanted.stages,
        caps=wanted.caps,
        exposure=wanted.exposure,
        insurance=wanted.insurance_usd,
        feasible=wanted.feasible,
        may_loosen=~(inputs.fallback | inputs.stale_feed | wanted.sentinel),
        odds=inputs.probabilities,
        sigma_ratio=wanted.sigma_ratio,
        tripped=bits,
        feeds=speaking(inputs.observed),
        safe=np.where(np.isnan(safe_im), -1, _safe_im(safe_im, params)),
    )


def _start(
    names: list[str], lines: governor.Lines, state: PolicyState, facts: governor.Facts, params: Params
) -> tuple[governor.Course, governor.Windows]:
    """The records that symbols bring along, room for those of all lines, and windows with room for all of them."""
    count = len(names)
    wide = {
        "vector": facts.vector.shape[1],
        "stages": len(STAGES),
        "caps": facts.caps.shape[1],
    }
    course = governor.Course(
        **{
            name: np.zeros((count + len(lines.row), *([wide[name]] if name in wide else [])), dtype=np.int64)
            for name in governor.Course._fields
        }
    )
    for name in ("as_of", "loud_at", "risen_at", "good_at", "effective_at"):
        getattr(course, name)[:count] = governor.NEVER
    course.mode[:count] = governor.NORMAL
    course.safe[:count] = _safe_im(np.array(params.failsafe.im_without_history), params)
    priors = [state.symbols.get(name) for name in names]
    width = np.array([len(prior.window) if prior else 0 for prior in priors], dtype=np.int64)
    room = width + np.bincount(lines.symbol, minlength=count)
    head = np.cumsum(room) - room
    last, im = np.zeros((2, int(room.sum())), dtype=np.int64)
    windows = governor.Windows(last, im, head, head + width)
    for s, prior in enumerate(priors):
        if prior is None:
            continue
        if len(prior.vector.parts) != wide["vector"]:
            raise UsageError(
                f"the state of {names[s]} has {prior.vector.tiers} tiers, the parameter pack {wide['caps']}; "
                "start from the initial state"
            )
        for name in SCALARS:
            getattr(course, name)[s] = getattr(prior, name)
        course.mode[s], course.vector[s] = MODES.index(prior.mode), prior.vector.parts
        course.stages[s], course.caps[s] = prior.stages, prior.caps
        mine = slice(int(head[s]), int(head[s] + width[s]))
        windows.last[mine], windows.im[mine] = np.array(prior.window, dtype=np.int64).T
    return course, windows


def _carried(governed: Governed, windows: governor.Windows, hedges: Integers) -> dict[str, SymbolState]:
    """Each symbol's last record, its window and its hedge."""
    course, newest = governed.course, np.arange(len(governed.symbols))
    newest[governed.code] = np.arange(len(governed)) + len(governed.symbols)
    out = {}
    for s, at in enumerate(newest.tolist()):
        mine = slice(int(windows.head[s]), int(windows.tail[s]))
        out[governed.symbols[s]] = SymbolState(
            vector=Vector(tuple(course.vector[at].tolist())),
            stages=tuple(course.stages[at].tolist()),
            mode=MODES[course.mode[at]],
            caps=tuple(course.caps[at].tolist()),
            window=tuple(zip(windows.last[mine].tolist(), windows.im[mine].tolist(), strict=True)),
            hedge=tuple(hedges[at].tolist()),
            **{name: int(getattr(course, name)[at]) for name in SCALARS},
        )
    return out


def _safe_im(fraction: Floats, params: Params) -> Integers:
    """IM of the static safe vector inside the hard bounds, ppm."""
    return margin.ppm(np.clip(fraction, params.margin.im_min, params.margin.im_max))


def _reasons(
    inputs: Inputs,
    wanted: margin.Targets,
    lines: governor.Lines,
    course: governor.Course,
    facts: governor.Facts,
) -> Integers:
    """Reasons of each line as bits: of its targets where usable, of its feeds and faults, and of its movement."""
    seen, usable = inputs.observed, inputs.fault == USABLE
    causes = {name: usable & getattr(wanted, flag) for name, flag in TARGET_REASONS.items()}
    causes["MARK_ABSENT"] = ~(seen["mark_present"] > 0)
    causes["OI_ABSENT"] = np.isnan(seen["open_interest_usd"])
    causes["STALE"] = (inputs.fault == STALE) | inputs.stale_feed
    causes["NAN"] = inputs.fault == NAN
    causes |= {name: (facts.tripped >> place) & 1 for place, name in enumerate(BREAKERS)}
    of_row = np.zeros(len(inputs), dtype=np.int64)
    for name, holds in causes.items():
        of_row += BIT[name] * holds
    reasons = np.where(lines.row >= 0, of_row[lines.row], FEEDS | BIT["STALE"])
    now = slice(len(course.mode) - len(lines.row), None)
    reasons |= BIT["STALE"] * ((lines.row >= 0) & (course.feeds[now] != facts.feeds[lines.row]))
    vector, before, stages = course.vector[now], course.vector[lines.before], course.stages
    forecast = (stages[now, :2] - stages[lines.before, :2]).sum(axis=1)
    begun, tiers = course.as_of[lines.before] != governor.NEVER, course.caps.shape[1]
    causes = {name: (course.flags[now] >> place) & 1 for place, name in enumerate(governor.FLAGS)}
    causes["REGIME_STRESS"] = np.isin(course.mode[now], (governor.STRESS, governor.CRISIS))
    causes["VOL_UP"] = begun & (forecast > 0) & (vector[:, 0] > before[:, 0])
    causes["NOTICE"] = begun & (vector > before)[:, tiers:-2].any(axis=1)
    for name, holds in causes.items():
        reasons += BIT[name] * holds
    for place, name in enumerate(BREAKERS):  # of this line's feeds, or of one since the action began
        reasons |= BIT[name] * ((course.causes[now] >> place) & 1)
    return reasons


def _hedge(state: PolicyState, symbol: str) -> tuple[int, ...] | None:
    return state.symbols[symbol].hedge if symbol in state.symbols else None


def _until(governed: Governed) -> Integers:
    """The latest end of the action that stands at each line (n,)."""
    longest = rules(governed.params).action_hours
    return np.asarray(governed.column("since") + longest[governed.column("action")] * HOUR)


@lru_cache(maxsize=1 << len(BREAKERS))
def _causes(bits: int) -> tuple[str, ...]:
    return tuple(name for place, name in enumerate(BREAKERS) if bits >> place & 1)


@lru_cache(maxsize=4096)
def _names(reasons: int) -> tuple[str, ...]:
    return tuple(name for name in REASONS if reasons & BIT[name])


def _part(index: int, tiers: int) -> str:
    if index >= 2 * tiers:
        return ("liquidation_penalty_ppm", "haircut_ppm")[index - 2 * tiers]
    name = "im_ppm" if index < tiers else "mm_ppm"
    return name if index % tiers == 0 else f"tiers[{index % tiers}].{name}"
