from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from features.errors import DataInvalid, UsageError
from forecaster.policy.audit.chain import ROLLOUT, micros, read_chain
from forecaster.policy.audit.keys import Registry
from forecaster.policy.audit.override import Governance
from forecaster.policy.audit.progress import newest, proceed
from forecaster.policy.audit.rollout import Limits
from forecaster.policy.schedule import canonical, line_hash

from .conftest import make_lines, write

LIMITS = Limits(block_origins=6, coverage_ppm=800_000, silent_steps=26, canaries=("BTCUSDT",))
HOURS = 60
PACK = make_lines([1])[0]["params_hash"]


def at(hour: int) -> str:
    return f"2024-01-{1 + hour // 24:02d}T{hour % 24:02d}:00:00Z"


def step(desk: Path, hour: int, moves: dict[int, int] | None = None, **given: Any) -> dict[str, Any]:
    """One run at an hour of January 2024; ``moves``: excursions in ppm by the hour of their origin, zero elsewhere."""
    moves = dict.fromkeys(range(HOURS), 0) | (moves or {})
    known = {("BTCUSDT", at(origin)): move for origin, move in moves.items() if origin + 24 <= hour}
    rules = Governance.read(desk / "events.jsonl", Registry.load(desk / "keys.toml"))
    limits, pack = given.get("limits", LIMITS), given.get("pack", PACK)
    now = micros(at(hour), "") + given.get("late", 0)
    return proceed(desk / "rollout.jsonl", desk / "schedule.jsonl", pack, rules, known, limits, now)


@pytest.fixture
def flat(desk: Path) -> Path:
    """The desk with a schedule of 60 hours in which nothing moves."""
    write(desk / "schedule.jsonl", make_lines([100_000] * HOURS))
    return desk


def test_two_full_blocks_lead_to_live_at_the_hour_they_are_full(flat: Path):
    # The first origin is resolved after 24 h, so the sixth at hour 29 and the twelfth at hour 35.
    course = {hour: step(flat, hour) for hour in (0, 23, 24, 28, 29, 34, 35, 59)}
    stages = {hour: (line["stage"], line["origins"], line["cause"]) for hour, line in course.items()}
    assert stages == {
        0: ("shadow", 0, "START"),
        23: ("shadow", 0, "START"),
        24: ("shadow", 1, "START"),
        28: ("shadow", 5, "START"),
        29: ("canary", 0, "PASSED"),
        34: ("canary", 5, "PASSED"),
        35: ("live", 0, "PASSED"),
        59: ("live", 0, "PASSED"),
    }
    assert [line["since"] for line in course.values()] == [at(0)] * 4 + [at(29)] * 2 + [at(35)] * 2
    assert list(read_chain(flat / "rollout.jsonl", ROLLOUT)) == list(course.values())


def test_how_often_it_is_run_changes_nothing(flat: Path):
    moves = {3: 100_001, 14: 200_000, 15: 100_000, 20: 100_001, 21: 100_001, 40: 100_001}
    ends = []
    for stops in (range(HOURS), (7, 24, 25, 31, 44, 59), (59,)):
        (flat / "rollout.jsonl").unlink(missing_ok=True)
        for hour in stops:
            line = step(flat, hour, moves)
        ends.append({name: value for name, value in line.items() if name not in ("seq", "hash", "prev_hash")})
    assert ends[0] == ends[1] == ends[2]
    assert (ends[0]["cause"], ends[0]["since"]) == ("PASSED", at(57))  # after the retreat at 45: 46..51, 52..57


def test_a_second_miss_in_a_block_retreats_and_one_of_exactly_the_margin_is_none(flat: Path):
    assert step(flat, 35)["stage"] == "live"
    assert step(flat, 38, {12: 100_001, 13: 100_000, 14: 100_000})["misses"] == 1
    line = step(flat, 39, {15: 100_001})
    assert (line["stage"], line["why"], line["since"], line["origins"]) == ("shadow", "COVERAGE", at(39), 0)


def test_what_lies_ahead_is_not_counted(flat: Path):
    known = {("BTCUSDT", at(hour)): 0 for hour in range(HOURS)}
    rules = Governance.read(flat / "events.jsonl", Registry.load(flat / "keys.toml"))
    given = (flat / "rollout.jsonl", flat / "schedule.jsonl", PACK, rules, known, LIMITS)
    assert proceed(*given, micros(at(28), "") + 3_599_999_999)["origins"] == 5
    assert newest(flat / "rollout.jsonl")["schedule_lines"] == 29  # type: ignore[index]


def test_a_line_beyond_the_bounds_retreats_at_its_hour(flat: Path):
    write(flat / "schedule.jsonl", make_lines([100_000] * 40 + [150_001] * 20))
    assert step(flat, 39)["stage"] == "live"
    line = step(flat, 40)
    assert (line["stage"], line["why"], line["since"]) == ("shadow", "BOUNDS", at(40))
    (flat / "rollout.jsonl").unlink()
    assert step(flat, 45)["cause"] == "BOUNDS"  # a step of 15 from hour 39, found in the middle of a run


def test_silence_of_lines_or_of_prices_retreats(flat: Path):
    write(flat / "schedule.jsonl", make_lines([100_000] * 40))
    assert step(flat, 63)["stage"] == "live"  # the last origin, of hour 39, is resolved now
    assert step(flat, 63 + 26)["stage"] == "live"
    line = step(flat, 63 + 27)
    assert (line["stage"], line["why"], line["since"]) == ("shadow", "SILENCE", at(90))
    (flat / "rollout.jsonl").unlink()
    write(flat / "schedule.jsonl", make_lines([100_000] * 120))
    rules = Governance.read(flat / "events.jsonl", Registry.load(flat / "keys.toml"))
    given = (flat / "rollout.jsonl", flat / "schedule.jsonl", PACK, rules, {}, LIMITS, micros(at(110), ""))
    assert proceed(*given)["cause"] == "SILENCE"


def test_the_same_hour_again_changes_no_byte_and_time_does_not_go_back(flat: Path):
    line = step(flat, 30)
    whole = (flat / "rollout.jsonl").read_bytes()
    assert step(flat, 30, late=1_800_000_000) == line
    assert (flat / "rollout.jsonl").read_bytes() == whole
    with pytest.raises(UsageError, match="has come to 2024-01-02T06:00:00Z already"):
        step(flat, 29)
    (flat / "rollout.jsonl").unlink()
    with pytest.raises(DataInvalid, match=r"schedule\.jsonl: holds 0 lines up to 2023-12-31T23:00:00Z, 1 are needed"):
        step(flat, 0, late=-1)


def test_another_schedule_pack_or_limit_begins_again(flat: Path):
    step(flat, 30)
    lines = make_lines([100_000] * HOURS)
    write(flat / "schedule.jsonl", make_lines([100_000] * 12 + [100_001] * 48))
    with pytest.raises(DataInvalid, match="line 31: is not the line that the roll-out has followed"):
        step(flat, 31)
    write(flat / "schedule.jsonl", lines[:20])
    with pytest.raises(DataInvalid, match="holds 20 lines up to 2024-01-02T07:00:00Z, 31 are needed"):
        step(flat, 31)
    write(flat / "schedule.jsonl", lines)
    with pytest.raises(UsageError, match="was begun with silent_steps = 26, not 99"):
        step(flat, 31, limits=Limits(6, 800_000, 99, ("BTCUSDT",)))
    with pytest.raises(UsageError, match="canaries"):
        step(flat, 31, limits=Limits(6, 800_000, 26, ("BTCUSDT", "ETHUSDT")))
    with pytest.raises(DataInvalid, match="line 1: params_hash"):
        step(flat, 31, pack="0" * 64)
    assert step(flat, 31)["stage"] == "canary"


def test_a_changed_record_is_refused(flat: Path):
    step(flat, 10)
    line = newest(flat / "rollout.jsonl")
    assert line is not None
    write(flat / "rollout.jsonl", [line | {"stage": "live"}])
    with pytest.raises(DataInvalid, match=r"rollout\.jsonl: line 1: hash"):
        step(flat, 11)
    other = {**line, "schema_version": 2}
    (flat / "rollout.jsonl").write_bytes(canonical(other | {"hash": line_hash(other)}) + b"\n")
    with pytest.raises(DataInvalid, match="schema_version 2 is unknown"):
        step(flat, 11)


def test_lines_that_no_signed_bounds_cover_are_refused(flat: Path):
    (flat / "events.sig.jsonl").unlink()
    with pytest.raises(DataInvalid, match=r"schedule\.jsonl: line 1: no signed bounds hold"):
        step(flat, 10)


def test_a_record_says_all_that_it_rests_on(flat: Path):
    line = step(flat, 30)
    head = json.loads((flat / "events.jsonl").read_bytes().splitlines()[-1])["hash"]
    assert (line["events_head"], line["params_hash"], line["schedule_lines"]) == (head, PACK, 31)
    assert line["limits"] == {"block_origins": 6, "coverage_ppm": 800_000, "silent_steps": 26, "canaries": ["BTCUSDT"]}
