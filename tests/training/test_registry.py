from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pytest

from features.errors import ArtifactRefused, UsageError
from models.artifact import Artifact, save, sha256
from training.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from training.tracking import Tracking


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    return Tracking(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db", "train")


@pytest.fixture
def registry(tracking: Tracking, tmp_path: Path, request: pytest.FixtureRequest) -> Registry:
    # One database for all tests, one model name each.
    return Registry(tracking, tmp_path / "cache", name=request.node.name.removeprefix("test_")[:60])


def register(registry: Registry, tracking: Tracking, folder: Path, mark: int, **metrics: float) -> int:
    save(Artifact({"mark": mark}, {"coef": np.arange(3.0) * mark}), folder / f"m{mark}")
    with tracking.run("train") as run:
        return registry.register(folder / f"m{mark}", run_id=run.run_id, metrics=metrics)


def test_from_challenger_to_champion_and_the_one_before(registry: Registry, tracking: Tracking, tmp_path: Path) -> None:
    first = register(registry, tracking, tmp_path, 1, qlike_1h=0.4, qlike_24h=0.3)
    assert tracking.aliases(registry.name) == {CHALLENGER: first}
    assert registry.promote() == first
    second = register(registry, tracking, tmp_path, 2, qlike_1h=0.39, qlike_24h=0.303)
    assert registry.champion().artifact.meta == {"mark": 1}
    assert registry.promote() == second
    assert tracking.aliases(registry.name) == {CHALLENGER: second, CHAMPION: second, PREVIOUS: first}
    champion = registry.champion()
    assert champion.uri == f"models:/{registry.name}/{second}"
    assert champion.sha256 == sha256(tmp_path / "m2") == sha256(champion.folder)
    np.testing.assert_array_equal(champion.artifact.arrays["coef"], [0.0, 2.0, 4.0])
    assert registry.promote(second) == second
    assert tracking.aliases(registry.name)[PREVIOUS] == first
    by_number = registry.resolve(f"models:/{registry.name}/{first}")
    assert by_number.artifact.meta == {"mark": 1}
    assert registry.resolve(str(tmp_path / "m1")).sha256 == by_number.sha256


def test_the_gate_names_the_figures(registry: Registry, tracking: Tracking, tmp_path: Path) -> None:
    registry.promote(register(registry, tracking, tmp_path, 1, qlike_1h=0.4, qlike_24h=0.3))
    worse = register(registry, tracking, tmp_path, 2, qlike_1h=0.45, qlike_24h=0.3)
    with pytest.raises(ArtifactRefused, match=r"qlike_1h 0\.45 against the champion's 0\.4 \(tolerance 2\.0%\)"):
        registry.promote()
    missing = register(registry, tracking, tmp_path, 3, qlike_1h=0.4)
    with pytest.raises(ArtifactRefused, match=r"qlike_24h is missing \(champion 0\.3\)"):
        registry.promote(missing)
    none = register(registry, tracking, tmp_path, 4)
    with pytest.raises(ArtifactRefused, match="no validation loss"):
        registry.promote(none)
    infinite = register(registry, tracking, tmp_path, 5, qlike_1h=float("nan"), qlike_24h=0.3)
    with pytest.raises(ArtifactRefused, match="qlike_1h is nan"):
        registry.promote(infinite)
    assert tracking.aliases(registry.name)[CHAMPION] == 1
    assert registry.promote(worse, tolerance=0.2) == worse
    assert registry.promote(none, force=True) == none


def test_even_the_first_champion_needs_a_loss(registry: Registry, tracking: Tracking, tmp_path: Path) -> None:
    register(registry, tracking, tmp_path, 1)
    with pytest.raises(ArtifactRefused, match="no validation loss"):
        registry.promote()


def test_a_changed_artifact_is_refused_wherever_it_changed(
    registry: Registry, tracking: Tracking, tmp_path: Path
) -> None:
    version = register(registry, tracking, tmp_path, 1, qlike=0.3)
    with tracking.calling() as client:
        uri = client.get_model_version(registry.name, str(version)).source
    stored = Path(uri.removeprefix("file://")) / "arrays" / "coef.npy"
    original = stored.read_bytes()
    stored.write_bytes(original[:-1] + b"\x41")
    with pytest.raises(ArtifactRefused, match=r"coef\.npy"):
        registry.promote(force=True)
    assert not list((tmp_path / "cache").glob("*"))
    stored.write_bytes(original)
    registry.promote()
    kept = registry.champion().folder / "arrays" / "coef.npy"
    kept.write_bytes(original[:-1] + b"\x41")
    with pytest.raises(ArtifactRefused, match=r"coef\.npy"):
        registry.champion()


def test_a_damaged_artifact_is_not_registered(registry: Registry, tracking: Tracking, tmp_path: Path) -> None:
    save(Artifact({"mark": 1}), tmp_path / "m")
    (tmp_path / "m" / "meta.json").write_text("{}")
    with tracking.run("train") as run, pytest.raises(ArtifactRefused, match=r"meta\.json"):
        registry.register(tmp_path / "m", run_id=run.run_id, metrics={"qlike": 0.3})
    assert tracking.aliases(registry.name) == {}


def test_a_booster_travels_unchanged(registry: Registry, tracking: Tracking, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 3))
    data = lightgbm.Dataset(rows, rows[:, 0])
    text = lightgbm.train({"num_leaves": 7, "verbose": -1, "num_threads": 1}, data, 5).model_to_string()
    save(Artifact({}, boosters={"mean": text}).with_golden("mean", rows), tmp_path / "m")
    with tracking.run("train") as run:
        version = registry.register(tmp_path / "m", run_id=run.run_id, metrics={"qlike": 0.3})
    assert registry.resolve(f"models:/{registry.name}/{version}").artifact.boosters == {"mean": text}


def test_what_does_not_exist_is_named(registry: Registry, tracking: Tracking, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no challenger"):
        registry.promote()
    with pytest.raises(UsageError, match="forecaster promote"):
        registry.champion()
    with pytest.raises(UsageError, match="no such version"):
        registry.resolve(f"models:/{registry.name}/7")
    with pytest.raises(UsageError, match="write models:/"):
        registry.resolve("models:/a/b/c")
    with pytest.raises(ArtifactRefused, match="nowhere"):
        registry.resolve(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="model name"):
        Registry(tracking, tmp_path, name="a' or 'b")
