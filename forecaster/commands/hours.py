"""Hours that a resumable command has spent, over all its sessions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from features.store import write_atomically
from forecaster.terminal import Progress

__all__ = ["Hours"]

FILE: Final = "hours.json"


class Hours:
    """Counts wall time into ``hours.json`` of a folder: at each step of progress, so that a kill loses one step's at most."""

    def __init__(self, folder: str | Path) -> None:
        self._file = Path(folder) / FILE
        held = json.loads(self._file.read_bytes()) if self._file.is_file() else {"hours": 0.0, "sessions": 0}
        self._before, self.sessions = float(held["hours"]), int(held["sessions"]) + 1
        self._begun, self._ended = time.monotonic(), float("inf")

    @property
    def total(self) -> float:
        """Hours of all sessions up to now."""
        return self._before + (min(time.monotonic(), self._ended) - self._begun) / 3600.0

    def counting(self, progress: Progress | None) -> Progress:
        """The same progress, with the hours kept at each step."""

        def told(stage: str, done: int, total: int) -> None:
            self._keep()
            if progress is not None:
                progress(stage, done, total)

        return told

    def summary(self) -> str:
        """One line."""
        sessions = "one session" if self.sessions == 1 else f"{self.sessions} sessions"
        return f"{self.total:.2f} hours in {sessions}"

    def _keep(self) -> None:
        write_atomically(self._file, json.dumps({"hours": self.total, "sessions": self.sessions}).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.monotonic()
        self._keep()
