"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A first example pays for compilation, and machines are busy: no test judges by the wall clock.
settings.register_profile("untimed", settings.get_profile("ci" if os.environ.get("CI") else "default"), deadline=None)
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real market data; the test skips where it is absent.

    ``FORECASTER_REAL_DATA`` names another place than the default beside the repository.
    """
    folder = Path(os.environ.get("FORECASTER_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real market data are absent; name their folder in FORECASTER_REAL_DATA")
    return folder
