from __future__ import annotations

import json
from pathlib import Path

import pytest

from forecaster.commands import hours
from forecaster.commands.hours import Hours


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the clock shows."""
    now = [0.0]
    monkeypatch.setattr(hours.time, "monotonic", lambda: now[0])
    return now


def stopped(clock: list[float], folder: Path) -> None:
    """A session of an hour that is interrupted."""
    with Hours(folder):
        clock[0] += 3600.0
        raise KeyboardInterrupt


def test_sessions_add_up(clock: list[float], tmp_path: Path) -> None:
    with Hours(tmp_path) as first:
        clock[0] = 1800.0
    clock[0] = 9000.0
    assert first.total == 0.5
    with pytest.raises(KeyboardInterrupt):
        stopped(clock, tmp_path)
    with Hours(tmp_path) as third:
        assert third.total == 1.5
        assert third.summary() == "1.50 hours in 3 sessions"


def test_each_step_of_progress_is_kept(clock: list[float], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    counted = Hours(tmp_path).counting(lambda *step: told.append(step))
    clock[0] = 3600.0
    counted("folds", 1, 9)
    assert told == [("folds", 1, 9)]
    assert json.loads((tmp_path / "hours.json").read_text()) == {"hours": 1.0, "sessions": 1}
