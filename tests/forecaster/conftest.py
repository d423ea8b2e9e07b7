"""A small simulated market on disk, and what the product makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from forecaster.commands.data import data_import
from forecaster.commands.evaluation import Evaluated, evaluate

CONFIG = """
name = "small"
horizons = [1, 24]
members = [{kind = "ewma"}, {kind = "har"}, {kind = "har_seasonal"}]
walkforward = {warmup_months = 1}
"""


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parameters of the market: 130 days from 2023-01-01, so that the last bar closes on 2023-05-11."""
    file = tmp_path_factory.mktemp("simulation") / "market.toml"
    file.write_text("seed = 7\ndays = 130\nsymbols = 2\n")
    return file


@pytest.fixture(scope="session")
def store(simulation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market") / "store"
    data_import("simulated", simulation, folder)
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "small.toml"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs and models of a whole test session are kept: opening a fresh tracking store takes seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def environment(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outside a temporary folder is read or written."""
    for name in ("FORECASTER_STORE", "FORECASTER_TRACKING_URI", "MLFLOW_TRACKING_URI", "FORECASTER_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORECASTER_HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def evaluated(store: Path, config: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECASTER_HOME", str(home))
        out = tmp_path_factory.mktemp("evaluation")
        return evaluate(config, store, start="2023-04-05", end="2023-04-25", out=out, jobs=1)
