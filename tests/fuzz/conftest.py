"""The number of files a reader must stand, and the runner that makes them and counts what became of them."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

# The helpers are no package of the project, so their folder is named here.
sys.path.insert(0, str(Path(__file__).parent))

from fuzzing.harness import Harness, Sample

FILES = 200
TOLD = pytest.StashKey[list[str]]()

Fuzz = Callable[[str, st.SearchStrategy[Sample]], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-files",
        type=int,
        default=None,
        help=f"files a reader, at random; without it {FILES} files that are always the same",
    )
    parser.addoption("--fuzz-seed", type=int, default=None, help="make the same random files again")


@pytest.fixture
def harness() -> Iterator[Harness]:
    """Imports into a folder in memory where there is one: what is tested is no disk."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=place))
    yield Harness(folder)
    shutil.rmtree(folder)


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, harness: Harness) -> Fuzz:
    """Run a strategy's samples through the harness; ``--fuzz-files`` says how many."""
    asked = request.config.getoption("--fuzz-files", default=None)
    origin = request.config.getoption("--fuzz-seed", default=None)
    if asked is not None and origin is None:
        origin = random.SystemRandom().randrange(2**32)

    def run(name: str, samples: st.SearchStrategy[Sample]) -> None:
        how = settings(
            max_examples=asked or FILES,
            derandomize=origin is None,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
        )

        @how
        @given(samples)
        def every(sample: Sample) -> None:
            harness.check(sample)

        told = f"{name}: seed {origin}" if origin is not None else name
        try:
            (every if origin is None else seed(origin)(every))()
        finally:
            counts = ", ".join(f"{count:,} {what}" for what, count in harness.counts.items())
            line = f"{told}: {counts}; {1000 * harness.seconds / max(harness.counts['files'], 1):.1f} ms CPU a file"
            request.config.stash.setdefault(TOLD, []).append(line)
            print(line)  # noqa: T201

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for line in config.stash.get(TOLD, []):
        terminalreporter.write_line(f"fuzz {line}")
