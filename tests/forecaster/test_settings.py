from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import UsageError
from forecaster.settings import Settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "STORE", "TRACKING_URI", "MODEL_NAME", "WORKERS"):
        monkeypatch.delenv(f"FORECASTER_{name}", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_stay_in_the_working_directory(tmp_path: Path) -> None:
    settings = Settings.load()
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/.forecaster/mlflow.db"
    assert settings.model_cache == Path(".forecaster/models")
    assert settings.store is None


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("FORECASTER_STORE", "some/store")
    monkeypatch.setenv("FORECASTER_WORKERS", "3")
    settings = Settings.load()
    assert settings.tracking_uri == "http://127.0.0.1:5000"
    assert settings.store == Path("some/store")
    assert settings.workers == 3
    monkeypatch.setenv("FORECASTER_TRACKING_URI", "sqlite:///own.db")
    assert Settings.load().tracking_uri == "sqlite:///own.db"


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECASTER_WORKERS", "many")
    with pytest.raises(UsageError, match="FORECASTER_WORKERS='many'"):
        Settings.load()
