"""The state machine, explored exhaustively: up at once, down slowly, and always back to rest."""

from __future__ import annotations

import itertools

import pytest

from forecaster.policy import Params
from forecaster.policy.modes import Place, Signal, advance, explore, rules
from forecaster.policy.types import HOUR, Mode

PARAMS = Params.default()
RULES = rules(PARAMS)
MACHINE = [mode for mode in Mode if mode is not Mode.OVERRIDE]
NAN = float("nan")
QUIET = Signal(0.5, 0.45, 0.04, 0.01, 1.0, False)
LINGERING = Signal(0.3, 0.5, 0.19, 0.01, 1.0, False)
STRESS = Signal(0.1, 0.5, 0.30, 0.10, 1.0, False)
CRISIS = Signal(0.0, 0.2, 0.40, 0.40, 3.0, False)
RATIO = Signal(0.5, 0.45, 0.04, 0.01, 1.5, False)
BREAKER = Signal(0.5, 0.45, 0.04, 0.01, 1.0, True)
NORMAL = Signal(0.4, 0.5, 0.09, 0.01, 1.0, False)
UNKNOWN = Signal(NAN, NAN, NAN, NAN, 1.0, False)


def walk(mode: Mode, signals: list[Signal | None]) -> list[Mode]:
    modes, loud = [], 0
    for hour, signal in enumerate(signals, start=1):
        mode, loud = advance(mode, loud, signal, hour * HOUR, RULES)
        modes.append(mode)
    return modes


@pytest.mark.parametrize(
    ("signal", "mode"),
    [
        (STRESS, Mode.STRESS),
        (RATIO, Mode.STRESS),
        (CRISIS, Mode.CRISIS),
        (BREAKER, Mode.CRISIS),
        (QUIET, Mode.CALM),
    ],
)
def test_up_any_number_of_levels_at_once(signal: Signal, mode: Mode) -> None:
    assert walk(Mode.NORMAL, [signal]) == [mode]


def test_unknown_regime_triggers_nothing() -> None:
    assert walk(Mode.CALM, [UNKNOWN]) == [Mode.NORMAL]


def test_down_one_level_a_quiet_day() -> None:
    modes = walk(Mode.NORMAL, [CRISIS] + [QUIET] * 80)
    runs = [(mode, len(list(group))) for mode, group in itertools.groupby(modes)]
    assert runs == [(Mode.CRISIS, 24), (Mode.STRESS, 24), (Mode.COOLDOWN, 24), (Mode.CALM, 9)]


def test_a_trigger_above_half_its_entry_value_restarts_the_clock() -> None:
    modes = walk(Mode.NORMAL, [STRESS] + [QUIET] * 20 + [LINGERING] + [QUIET] * 30)
    assert modes.index(Mode.COOLDOWN) == 21 + 24


def test_failsafe_from_anywhere_and_back_to_cooldown() -> None:
    for mode in MACHINE:
        assert walk(mode, [None]) == [Mode.FAILSAFE]
    assert walk(Mode.FAILSAFE, [QUIET]) == [Mode.COOLDOWN]
    assert walk(Mode.FAILSAFE, [CRISIS]) == [Mode.CRISIS]


def test_every_state_recovers_and_none_falls_two_levels() -> None:
    level = {Mode.CALM: 0, Mode.NORMAL: 0, Mode.COOLDOWN: 1, Mode.STRESS: 2, Mode.CRISIS: 3, Mode.FAILSAFE: 4}
    alphabet = [QUIET, LINGERING, STRESS, CRISIS, BREAKER, UNKNOWN, None]
    for start in MACHINE:
        for signals in itertools.product(alphabet, repeat=3):
            modes = [start, *walk(start, list(signals))]
            for before, after in itertools.pairwise(modes):
                if before is not Mode.FAILSAFE:
                    assert level[after] >= level[before] - 1
            assert walk(start, [*signals, *[QUIET] * 100])[-1] is Mode.CALM


CLASSES: dict[str, Signal | None] = {
    "quiet": QUIET,
    "normal": NORMAL,
    "lingering": LINGERING,
    "stress": STRESS,
    "crisis": CRISIS,
    "ratio": RATIO,
    "breaker": BREAKER,
    "unknown": UNKNOWN,
    "none": None,
}


def test_every_state_of_the_machine_has_an_exit_and_recovery_ends() -> None:
    table = explore(CLASSES, PARAMS)
    assert {place.mode for place in table} == set(MACHINE)
    for place, ways in table.items():
        assert ways.keys() == CLASSES.keys()
        assert set(ways.values()) != {place}
        # Without bad news every state comes to rest: three levels of a quiet day each, at most.
        for _ in range(4 * PARAMS.modes.quiet_hours):
            ways = table[ways["quiet"]]
        assert ways["quiet"] == Place(Mode.CALM, 0)


def test_failsafe_leads_to_no_mode_that_loosens_at_once() -> None:
    """Out of failsafe the rest waits a quiet day in cooldown; nothing leads from it to calm or normal directly."""
    for place, ways in explore(CLASSES, PARAMS).items():
        if place.mode is Mode.FAILSAFE:
            assert {ways[name].mode for name in ("quiet", "normal", "lingering", "unknown")} == {Mode.COOLDOWN}
            assert ways["none"].mode is Mode.FAILSAFE
        assert ways["none"].mode is Mode.FAILSAFE
    assert PARAMS.by_mode[Mode.FAILSAFE].half_life_hours == 0


def plain_advance(mode: Mode, quiet: int, signal: Signal) -> tuple[Mode, int]:
    """The machine as the design's table words it, on hours of quiet."""
    high = signal.p_stress + signal.p_crisis
    if mode is Mode.FAILSAFE:
        mode, quiet = Mode.COOLDOWN, -1
    if signal.breaker or signal.p_crisis >= 0.35:
        return Mode.CRISIS, 0
    if (high >= 0.35 or signal.sigma_ratio >= 1.5) and mode is not Mode.CRISIS:
        return Mode.STRESS, 0
    rest = Mode.CALM if signal.p_calm > signal.p_normal else Mode.NORMAL
    if mode in (Mode.CALM, Mode.NORMAL):
        return rest, 0
    released = signal.p_crisis < 0.175 if mode is Mode.CRISIS else high < 0.175 and signal.sigma_ratio < 1.25
    if not released:
        return mode, 0
    if quiet + 1 < 24:
        return mode, quiet + 1
    return {Mode.CRISIS: Mode.STRESS, Mode.STRESS: Mode.COOLDOWN, Mode.COOLDOWN: rest}[mode], 0


@pytest.mark.parametrize("mode", MACHINE)
def test_each_state_and_signal_against_the_table(mode: Mode) -> None:
    grid = itertools.product((0.0, 0.1, 0.3), (0.0, 0.05, 0.17, 0.18, 0.34, 0.35, 0.6), (0.9, 1.25, 1.3, 1.5), (0, 1))
    for (stress, crisis, ratio, breaker), quiet in itertools.product(grid, (0, 5, 22, 23, 24)):
        calm = (1 - stress - crisis) * 0.6
        signal = Signal(calm, 1 - stress - crisis - calm, stress, crisis, ratio, bool(breaker))
        wanted = plain_advance(mode, quiet, signal)
        found, loud = advance(mode, -quiet * HOUR, signal, HOUR, RULES)
        assert (found, (HOUR - loud) // HOUR) == wanted, (signal, quiet)
