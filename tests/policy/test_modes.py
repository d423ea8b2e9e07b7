"""The state machine, explored exhaustively: up at once, down slowly, and always back to rest."""

from __future__ import annotations

import itertools

import pytest

from forecaster.policy import Params
from forecaster.policy.modes import Signal, advance
from forecaster.policy.types import HOUR, Mode

PARAMS = Params.default()
NAN = float("nan")
QUIET = Signal(0.5, 0.45, 0.04, 0.01, 1.0, False)
LINGERING = Signal(0.3, 0.5, 0.19, 0.01, 1.0, False)
STRESS = Signal(0.1, 0.5, 0.30, 0.10, 1.0, False)
CRISIS = Signal(0.0, 0.2, 0.40, 0.40, 3.0, False)
RATIO = Signal(0.5, 0.45, 0.04, 0.01, 1.5, False)
BREAKER = Signal(0.5, 0.45, 0.04, 0.01, 1.0, True)
UNKNOWN = Signal(NAN, NAN, NAN, NAN, 1.0, False)


def walk(mode: Mode, signals: list[Signal | None]) -> list[Mode]:
    modes, loud = [], 0
    for hour, signal in enumerate(signals, start=1):
        mode, loud = advance(mode, loud, signal, hour * HOUR, PARAMS)
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
    for mode in Mode:
        assert walk(mode, [None]) == [Mode.FAILSAFE]
    assert walk(Mode.FAILSAFE, [QUIET]) == [Mode.COOLDOWN]
    assert walk(Mode.FAILSAFE, [CRISIS]) == [Mode.CRISIS]


def test_every_state_recovers_and_none_falls_two_levels() -> None:
    level = {Mode.CALM: 0, Mode.NORMAL: 0, Mode.COOLDOWN: 1, Mode.STRESS: 2, Mode.CRISIS: 3, Mode.FAILSAFE: 4}
    alphabet = [QUIET, LINGERING, STRESS, CRISIS, BREAKER, UNKNOWN, None]
    for start in Mode:
        for signals in itertools.product(alphabet, repeat=3):
            modes = [start, *walk(start, list(signals))]
            for before, after in itertools.pairwise(modes):
                if before is not Mode.FAILSAFE:
                    assert level[after] >= level[before] - 1
            assert walk(start, [*signals, *[QUIET] * 100])[-1] is Mode.CALM
