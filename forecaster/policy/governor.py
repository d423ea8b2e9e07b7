"""The dynamics, compiled: how fast margins may move, and that they move together.

One pass over the lines in schedule order: the record of a line is also the state that its symbol's next line
starts from, so that batch, hour by hour and the schedule's bytes are this code. The whole vector takes one
share of the way to its target, the largest for which no component breaks a limit: clamping one parameter alone
has liquidated healthy positions elsewhere. Maxima, minima and convex combinations keep every invariant of the
vector, and so does rounding margins up and the penalty down. The caps of the size tiers follow under the same law:
one that falls tightens, one that grows loosens the margin of every larger position.

Codes are this module's own constants, not imported ones: a compiled kernel is cached with the values that its
own file gave it. The reference of modes, limits and windows is sections 5.1 to 5.4 of the policy's design.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["BOUNDS", "FLAGS", "Course", "Facts", "Lines", "Rules", "requirement", "walk", "window_minima"]

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Step: TypeAlias = tuple[Integers, int, int, int]  # vector, flags, bound met, part that met it

HOUR: Final = 3_600_000_000
DAY: Final = 24 * HOUR
FIVE_DAYS: Final = 5 * DAY
NEVER: Final = -(10**18)
PPM: Final = 1_000_000

CALM, NORMAL, COOLDOWN, STRESS, CRISIS, FAILSAFE, OVERRIDE = range(7)  # in the order of types.Mode
LEVEL: Final = (0, 0, 1, 2, 3)
CLEAR, REDUCE_ONLY, PRICE_BAND, HALT, WITHDRAW_GATE, GRACE = range(6)  # in the order of breakers.Action
USABLE: Final = 0

FLAGS: Final = ("DECAY", "DEADBAND_HOLD", "STEP_CAP", "OVERRIDE", "INVARIANT_HOLD")  # reasons given here, as bits
DECAY, DEADBAND_HOLD, STEP_CAP, OVERRIDDEN, INVARIANT_HOLD = 1, 2, 4, 8, 16

# Bounds that a line can meet, and from which side; a code is a place in this tuple, FREE is none.
BOUNDS: Final = (
    ("step_hours", "high"),
    ("step_up", "high"),
    ("rise_1d", "high"),
    ("rise_5d", "high"),
    ("override", "low"),
    ("override", "high"),
    ("acknowledged", "high"),
    ("im_min", "low"),
)
STEP_HOURS, STEP_UP, RISE_1D, RISE_5D, AT_FLOOR, AT_CAP, ACKNOWLEDGED, IM_MIN = range(8)
FREE: Final = -1


class Rules(NamedTuple):
    """What the dynamics read of a parameter pack. Shares are fractions, margins ppm, durations hours."""

    pace: Floats  # (6, 5) by mode: step_up, step_hours, half_life_hours, dead_band, day_rise
    exposure_cap: Integers  # by mode
    day_rise: float
    five_day_rise: float
    stress_probability: float
    crisis_probability: float
    stress_sigma_ratio: float
    release_share: float
    quiet_hours: int
    hold_hours: int
    escalate_hours: int
    action_hours: Integers  # longest duration of each breaker's action
    loosening_hours: int
    no_trade_band: float
    penalty_share: float  # of MM
    gap: float  # least IM - MM
    im_min: int
    safe_penalty: int
    safe_haircut: int


class Facts(NamedTuple):
    """Checked inputs and ungoverned targets, one row per (origin, symbol) with forecast rows."""

    fault: Integers  # USABLE or a fault
    vector: Integers  # (rows, P): IM by tier, MM by tier, penalty, haircut
    stages: Integers  # (rows, stages) of IM; the last two, the governor's and the override's, are zero
    caps: Integers  # (rows, K), USD
    exposure: Integers
    insurance: Integers  # USD
    feasible: Flags
    may_loosen: Flags
    odds: Floats  # (rows, 4): calm, normal, stress, crisis; NaN (unknown) triggers nothing
    sigma_ratio: Floats
    tripped: Integers  # bits of the breakers that trip
    feeds: Integers  # bits of the feeds that speak
    safe: Integers  # IM of the static safe vector; -1 unknown


class Lines(NamedTuple):
    """The lines to decide, by origin and then symbol, and what overrides ask of them."""

    symbol: Integers  # place of its window
    as_of: Integers  # microseconds
    row: Integers  # place in Facts; -1 where the symbol has no row at this origin
    before: Integers  # place in Course of the symbol's record before
    frozen: Flags
    low: Integers  # least IM within the limits of 1 and 5 days; 0 for none
    high: Integers  # greatest IM; PPM for none
    acknowledged: Integers  # least IM that may break the limits of 1 and 5 days; 0 for none


class Course(NamedTuple):
    """First one record per symbol, what it brings along, then one per line, what is decided and carried on."""

    as_of: Integers  # instants in microseconds; NEVER where a symbol brings nothing along
    mode: Integers  # of the state machine, also under an override
    loud_at: Integers  # the mode's trigger last stood above its release level
    risen_at: Integers  # last upward step of the governor
    good_at: Integers  # last usable forecast
    effective_at: Integers
    exposure: Integers
    action: Integers  # what stands of the breakers, and since when
    since: Integers
    causes: Integers  # bits of the breakers that tripped since the first action began
    feeds: Integers  # bits of the feeds that spoke so far
    insurance: Integers
    safe: Integers
    flags: Integers  # bits of FLAGS
    bound: Integers  # place in BOUNDS or FREE
    part: Integers  # place in the vector of the part that met the bound
    vector: Integers  # (n, P)
    stages: Integers  # (n, stages), summing to the published IM
    caps: Integers  # (n, K)


class Windows(NamedTuple):
    """Each symbol's IM of the past five days: entries rise in both columns, the minima that still matter."""

    last: Integers  # last instant in force
    im: Integers
    head: Integers  # (S,) first entry of each symbol
    tail: Integers  # (S,) one past its last


@njit(cache=True)
def walk(lines: Lines, facts: Facts, rules: Rules, course: Course, windows: Windows) -> None:
    """Decide every line in order; ``course`` and ``windows`` are written."""
    for line in range(len(lines.row)):
        i, p, row, now = len(windows.head) + line, lines.before[line], lines.row[line], lines.as_of[line]
        s, first, usable = lines.symbol[line], course.as_of[p] == NEVER, row >= 0 and facts.fault[row] == USABLE
        course.as_of[i], course.mode[i], course.loud_at[i] = now, FAILSAFE, now
        course.safe[i] = facts.safe[row] if row >= 0 and facts.safe[row] >= 0 else course.safe[p]
        trips = _breakers(i, p, row, facts, rules, course)
        halted = CLEAR < course.action[i] < GRACE
        if usable:
            odds, ratio = facts.odds[row], facts.sigma_ratio[row]
            course.mode[i], course.loud_at[i] = next_mode(
                course.mode[p], course.loud_at[p], now, odds, ratio, trips, rules
            )

        day, five_days = _least(windows, s, now - DAY), _least(windows, s, now - FIVE_DAYS)
        course.feeds[i] = course.feeds[p] | (facts.feeds[row] if row >= 0 else 0)
        may_loosen = usable and facts.may_loosen[row] and course.feeds[i] == facts.feeds[row]  # none fell silent
        narrows = usable and not first and (facts.caps[row] < course.caps[p]).any()  # a tightening: no margin falls
        vector, flags, bound, part = _move(
            i, p, row, usable, may_loosen and not narrows, day, five_days, facts, rules, course
        )
        governed, rises = vector[0], not first and _turn(course.vector[p], vector) > 0
        floored = max(lines.low[line], lines.acknowledged[line]) > 0
        if not halted and lines.frozen[line]:
            vector, flags, bound = vector if first else course.vector[p], OVERRIDDEN, FREE
        if not halted and (floored or (lines.high[line] < PPM and not lines.frozen[line])):
            vector, flags, bound, part = _override(line, vector, flags, bound, part, day, five_days, lines, rules)
        course.vector[i], course.flags[i], course.bound[i], course.part[i] = vector, flags, bound, part
        course.caps[i] = facts.caps[row] if first else course.caps[p]
        if usable and not first and (halted or not lines.frozen[line]):
            course.caps[i] = _ladder(i, p, row, may_loosen, facts, rules, course)
        _decompose(i, p, row, usable, governed, facts, course)
        _push(windows, s, now, vector[0])

        # A tightening takes effect at once, a loosening later, a hold with the line that it holds.
        turn = 1 if first else _turn(course.vector[p], vector)
        if turn == 0:
            turn = _turn(course.caps[i], course.caps[p])
        held = max(now, course.effective_at[p])
        course.effective_at[i] = now if turn > 0 else held if turn == 0 else now + rules.loosening_hours * HOUR
        course.exposure[i] = _exposure(i, p, row, usable, may_loosen and not halted, facts, rules, course)
        course.risen_at[i] = now if rises and turn > 0 else course.risen_at[p]  # an override may have undone it
        course.good_at[i] = now if usable else course.good_at[p]
        course.insurance[i] = facts.insurance[row] if usable else course.insurance[p]


@njit(cache=True)
def next_mode(
    mode: int, loud_at: int, now: int, odds: Floats, ratio: float, breaker: bool, rules: Rules
) -> tuple[int, int]:
    """The next mode of a usable line, and the instant at which its trigger last stood above its release level.

    Up any number of levels at once, down one level at a time after a quiet day; out of failsafe by cooldown.
    The mode selects limits only: the variance already carries the regime, a multiplier would count it twice.
    """
    if mode == FAILSAFE:
        mode, loud_at = COOLDOWN, now
    high, crisis = odds[2] + odds[3], odds[3]
    alarm = CALM
    if breaker or crisis >= rules.crisis_probability:
        alarm = CRISIS
    elif high >= rules.stress_probability or ratio >= rules.stress_sigma_ratio:
        alarm = STRESS
    if alarm != CALM and LEVEL[alarm] >= LEVEL[mode]:
        return alarm, now
    resting = CALM if odds[0] > odds[1] else NORMAL
    if LEVEL[mode] == 0:
        return resting, now
    share = rules.release_share
    if mode == CRISIS:
        loud = breaker or crisis >= share * rules.crisis_probability
    else:  # of the ratio, the excess over 1 counts
        quiet_ratio = 1 + share * (rules.stress_sigma_ratio - 1)
        loud = high >= share * rules.stress_probability or ratio >= quiet_ratio
    if loud:
        return mode, now
    if now - loud_at < rules.quiet_hours * HOUR:
        return mode, loud_at
    return (STRESS if mode == CRISIS else COOLDOWN if mode == STRESS else resting), now


@njit(cache=True)
def next_action(action: int, since: int, now: int, trips: bool, rules: Rules) -> tuple[int, int]:
    """What stands of the breakers, and since when.

    A breaker that still trips ``escalate_hours`` after an action began, or at its end, brings the next one; else an
    action ends with its longest duration. The last one ends even while a breaker trips, so that no market is closed
    for good. A halt ends in grace, all else in clear; trips count again after the grace.
    """
    while action != CLEAR and now - since > rules.action_hours[action] * HOUR:  # it ended between two lines
        since += rules.action_hours[action] * HOUR
        action = GRACE if action in (HALT, WITHDRAW_GATE) else CLEAR
    if action == CLEAR:
        return (REDUCE_ONLY, now) if trips else (CLEAR, since)
    lasted, longest = now - since, rules.action_hours[action] * HOUR
    if action < WITHDRAW_GATE and trips and lasted >= min(rules.escalate_hours * HOUR, longest):
        return action + 1, now
    if lasted < longest:
        return action, since
    return (GRACE if action in (HALT, WITHDRAW_GATE) else CLEAR), now


@njit(cache=True)
def _breakers(i: int, p: int, row: int, facts: Facts, rules: Rules, course: Course) -> bool:
    """Carry the breakers' action on; whether any trips now. Its causes are all that tripped since it began."""
    now, trips = course.as_of[i], facts.tripped[row] if row >= 0 else 0
    action, since = next_action(course.action[p], course.since[p], now, trips != 0, rules)
    fresh = action == REDUCE_ONLY and since == now
    course.action[i], course.since[i] = action, since
    course.causes[i] = 0 if action == CLEAR else trips if fresh else course.causes[p] | trips
    return bool(trips != 0)


@njit(cache=True)
def _move(
    i: int,
    p: int,
    row: int,
    usable: bool,
    may_loosen: bool,
    day: int,
    five_days: int,
    facts: Facts,
    rules: Rules,
    course: Course,
) -> Step:
    """The governed vector, before overrides. The first line is the ungoverned target; a fault holds, then walks
    to the static safe vector. A target that needs more than the bounds allow is followed up to them, never down.
    """
    now, prior = course.as_of[i], course.vector[p]
    beyond = usable and not facts.feasible[row]
    target = facts.vector[row] if usable else _safe_vector(course.safe[i], len(prior), rules)
    if course.as_of[p] == NEVER:
        return target, INVARIANT_HOLD if beyond else 0, FREE, 0
    if not usable and now - course.good_at[p] <= rules.hold_hours * HOUR:
        return prior, 0, FREE, 0
    hours, since_rise = (now - course.as_of[p]) / HOUR, (now - course.risen_at[p]) / HOUR
    free = may_loosen and not beyond
    vector, flags, bound, part = follow(prior, target, course.mode[i], hours, since_rise, day, five_days, free, rules)
    return vector, flags | INVARIANT_HOLD if beyond else flags, bound, part


@njit(cache=True)
def follow(
    prior: Integers,
    target: Integers,
    mode: int,
    hours: float,
    since_rise: float,
    day: int,
    five_days: int,
    may_loosen: bool,
    rules: Rules,
) -> Step:
    """One bounded step of the vector toward its target.

    ``hours`` since the last line, ``since_rise`` since the last upward step; ``day`` and ``five_days``: IM's
    least over those windows (ppm).
    """
    half_life, band = rules.pace[mode, 2], rules.pace[mode, 3]
    flags, bound, part, up, down = 0, FREE, 0, False, False
    for k in range(len(prior)):
        up = up or target[k] > prior[k] * (1 + band)
        down = down or target[k] < prior[k] * (1 - band)
    if up:
        goals = np.maximum(prior, target)
        share, bound, part = _share_up(prior, goals, mode, since_rise, day, five_days, rules)
        flags = 0 if bound == FREE else STEP_CAP
    elif down and may_loosen and half_life > 0:
        goals = np.minimum(prior, target)
        share, flags = 1 - 0.5 ** (hours / half_life), DECAY
    else:
        return prior, 0 if _turn(target, prior) == 0 else DEADBAND_HOLD, FREE, 0
    # Margins and haircut are rounded up, the penalty down: none passes its goal.
    moved = prior + share * (goals - prior)
    vector = np.ceil(moved - 1e-6).astype(np.int64)
    vector[-2] = floor(moved[-2] + 1e-6)
    if lawful(vector, rules):
        return vector, flags, bound, part
    return prior, INVARIANT_HOLD, FREE, 0


@njit(cache=True)
def _share_up(
    prior: Integers, goals: Integers, mode: int, since_rise: float, day: int, five_days: int, rules: Rules
) -> tuple[float, int, int]:
    """The largest share of the way up that keeps every limit; the limit that binds, and its part."""
    if since_rise < rules.pace[mode, 1]:
        return 0.0, STEP_HOURS, 0
    share, bound, part = 1.0, FREE, 0
    for limit in range(len(prior) + 2):
        k = limit if limit < len(prior) else 0
        if limit < len(prior):
            name, cap = STEP_UP, _grown(prior[k], rules.pace[mode, 0])
        elif limit == len(prior):
            name, cap = RISE_1D, _grown(day, min(rules.pace[mode, 4], rules.day_rise))
        else:
            name, cap = RISE_5D, _grown(five_days, rules.five_day_rise)
        if goals[k] <= prior[k] or goals[k] <= cap:
            continue
        room = max(0.0, (cap - prior[k]) / (goals[k] - prior[k]))
        if room < share or room == 0.0:
            share, bound, part = room, name, k
    return share, bound, part


@njit(cache=True)
def _ladder(i: int, p: int, row: int, may_loosen: bool, facts: Facts, rules: Rules, course: Course) -> Integers:
    """The caps of a usable line: those that fall do so at once; they grow where the line may loosen and no margin
    rises, by no more than margins halve, and only if then no position's requirement falls faster than that.
    """
    caps, goal, vector, prior = course.caps[p], facts.caps[row], course.vector[i], course.vector[p]
    least: Integers = np.minimum(caps, goal)
    half_life, flags = rules.pace[course.mode[i], 2], course.flags[i]
    still = flags in (0, DECAY, DEADBAND_HOLD) and _turn(prior, vector) <= 0
    if not (may_loosen and still and half_life > 0) or _turn(caps, least) != 0 or _turn(least, goal) == 0:
        return least
    kept = 0.5 ** ((course.as_of[i] - course.as_of[p]) / HOUR / half_life)
    grown: Integers = np.minimum(goal, np.ceil(caps / kept)).astype(np.int64)
    tiers = len(caps)
    for sizes in (caps, grown):  # requirements are linear between these sizes, and beyond them the rates decide
        for size in sizes:
            for part in (0, tiers):
                then = requirement(size, caps, prior[part : part + tiers])
                if requirement(size, grown, vector[part : part + tiers]) < kept * then:
                    return least
    return grown


@njit(cache=True)
def requirement(size: float, caps: Integers, rates: Integers) -> float:
    """Margin of a position of ``size`` USD under marginal ``rates`` (ppm): their integral up to it, millionths of USD."""
    total, below = 0.0, 0.0
    for k in range(len(caps)):
        top = float(size) if k == len(caps) - 1 else min(float(size), float(caps[k]))
        total += max(0.0, top - below) * rates[k]
        below = float(caps[k])
    return total


@njit(cache=True)
def _override(
    line: int, vector: Integers, flags: int, bound: int, part: int, day: int, five_days: int, lines: Lines, rules: Rules
) -> Step:
    """What an override's bounds make of the governed vector.

    A cap scales initial margins down to it, not below ``im_min``, and maintenance margins as far as the law
    demands; a frozen vector knows none. A floor lifts initial margins alone, within the limits of 1 and 5 days
    unless they are acknowledged: it asks more of new positions and liquidates no open one.
    """
    out, im, tiers = vector.copy(), vector[0], (len(vector) - 2) // 2
    day, five_days = _grown(day, rules.day_rise), _grown(five_days, rules.five_day_rise)
    top, asked, acknowledged = min(day, five_days), lines.low[line], lines.acknowledged[line]
    plain = min(asked, max(im, top))
    low = max(plain, acknowledged)
    high = PPM if lines.frozen[line] else max(low, lines.high[line])
    if high < im:
        bound, part, high = AT_CAP if high >= rules.im_min else IM_MIN, 0, max(high, rules.im_min)
        for k in range(tiers):
            out[k] = -((-vector[k] * high) // im)
            out[tiers + k] = min(vector[tiers + k], out[k] - ceil(rules.gap))
        out[-2] = min(vector[-2], floor(rules.penalty_share * out[tiers]))
    elif max(asked, acknowledged) > im:
        bound, part = AT_FLOOR if low <= top else ACKNOWLEDGED, 0
        if acknowledged <= plain < asked:
            bound = RISE_1D if day <= five_days else RISE_5D
        out[:tiers] = np.maximum(vector[:tiers], low)
    if lawful(out, rules):
        return out, flags | OVERRIDDEN, bound, part
    return vector, flags | OVERRIDDEN | INVARIANT_HOLD, FREE, 0


@njit(cache=True)
def lawful(vector: Integers, rules: Rules) -> bool:
    """0 < penalty < MM < IM <= 1, tiers rising, penalty share, funding clamp, haircut in [0, 1]."""
    tiers = (len(vector) - 2) // 2
    penalty, haircut, lowest = vector[-2], vector[-1], vector[tiers]
    holds = 0 < penalty < lowest and penalty <= rules.penalty_share * lowest and 0 <= haircut <= PPM
    for k in range(tiers):
        im, mm = vector[k], vector[tiers + k]
        holds = holds and mm < im <= PPM and im - mm >= rules.gap
        holds = holds and (k == 0 or (vector[k - 1] <= im and vector[tiers + k - 1] <= mm))
    return bool(holds)


@njit(cache=True)
def _decompose(i: int, p: int, row: int, usable: bool, governed: int, facts: Facts, course: Course) -> None:
    """Stages of the published IM: the governor's closes the governed IM, without a forecast the override's all."""
    im, closing = course.vector[i, 0], course.stages.shape[1] - 2
    stages = course.stages[i]
    stages[:] = facts.stages[row] if usable else course.stages[p]
    stages[closing + 1] = 0
    if usable:
        stages[closing] += governed - stages.sum()
    stages[closing + 1] = im - stages.sum()


@njit(cache=True)
def _exposure(
    i: int, p: int, row: int, usable: bool, may_grow: bool, facts: Facts, rules: Rules, course: Course
) -> int:
    """The target inside the mode's cap; without a usable forecast what is held, inside the cap."""
    held, mode = int(course.exposure[p]), course.mode[i]
    cap, first = int(rules.exposure_cap[mode]), course.as_of[p] == NEVER
    if not usable:
        return min(held, cap)
    target = min(int(facts.exposure[row]), cap)
    return target if first else next_exposure(held, target, cap, may_grow and mode != CRISIS, rules)


@njit(cache=True)
def next_exposure(held: int, target: int, cap: int, may_grow: bool, rules: Rules) -> int:
    """What is held next: the target inside the cap, traded outside the no-trade band only.

    Never grown where ``may_grow`` is false (crisis, a standing breaker, doubtful inputs). De-risking in high
    volatility is the mode's: its cap begins with stress and, by the machine's release level and quiet day, ends
    later than it began.
    """
    wanted = min(target, cap) if may_grow else min(target, cap, held)
    return wanted if abs(wanted - held) > rules.no_trade_band * held else min(held, cap)


@njit(cache=True)
def _safe_vector(im: int, parts: int, rules: Rules) -> Integers:
    """The static safe vector: MM = IM/2 in every tier, least penalty, haircut at its hard cap."""
    tiers = (parts - 2) // 2
    vector = np.empty(parts, dtype=np.int64)
    vector[:tiers], vector[tiers:-2] = im, im // 2
    vector[-2], vector[-1] = rules.safe_penalty, rules.safe_haircut
    return vector


@njit(cache=True)
def _grown(value: int, share: float) -> int:
    return floor(value * (1 + share) + 1e-6)


@njit(cache=True)
def _turn(then: Integers, now: Integers) -> int:
    """1 where any part rises, else -1 where any falls, else 0."""
    turn = 0
    for k in range(len(now)):
        if now[k] > then[k]:
            return 1
        if now[k] < then[k]:
            turn = -1
    return turn


@njit(cache=True)
def _least(windows: Windows, s: int, since: int) -> int:
    """Least IM in force at any instant from ``since`` on; the newest entry is in force until now. PPM if none."""
    for j in range(windows.head[s], windows.tail[s]):
        if windows.last[j] >= since or j == windows.tail[s] - 1:
            return int(windows.im[j])
    return PPM


@njit(cache=True)
def _push(windows: Windows, s: int, now: int, im: int) -> None:
    """Add a line's IM: the newest was in force until now; what ended five days ago, or is not less, goes."""
    head, tail = windows.head[s], windows.tail[s]
    if tail > head:
        windows.last[tail - 1] = now
    while head < tail and windows.last[head] < now - FIVE_DAYS:
        head += 1
    while tail > head and windows.im[tail - 1] >= im:
        tail -= 1
    windows.last[tail], windows.im[tail] = now, im
    windows.head[s], windows.tail[s] = head, tail + 1


@njit(cache=True)
def window_minima(as_of: Integers, im: Integers, span: int) -> Integers:
    """Least IM in force over the ``span`` microseconds (at most five days) before each of one symbol's lines.

    ``as_of`` ascends. PPM before the first line.
    """
    out, start = np.empty_like(im), np.zeros(1, dtype=np.int64)
    windows = Windows(np.empty_like(im), np.empty_like(im), start, start.copy())
    for i in range(len(im)):
        out[i] = _least(windows, 0, as_of[i] - span)
        _push(windows, 0, as_of[i], im[i])
    return out
