from __future__ import annotations

import hashlib
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest

from features.errors import ArtifactRefused, UsageError
from models.artifact import Artifact, load, save, sha256
from models.booster_check import check_behaviour, check_structure, golden_rows, predict

PARAMETERS = {"num_leaves": 7, "verbose": -1, "seed": 1, "num_threads": 1, "deterministic": True}
MANIFEST = "manifest.json"
BOOSTER = "boosters/h1/mean.txt"


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(800, 5))
    features[::7, 1] = np.nan
    features[:, 3] = generator.integers(0, 12, 800)
    return features


@pytest.fixture(scope="module")
def text(rows: np.ndarray) -> str:
    target = rows[:, 0] + np.isnan(rows[:, 1]) + np.random.default_rng(1).normal(size=len(rows))
    return lightgbm.train(PARAMETERS, lightgbm.Dataset(rows, target), 12).model_to_string()


@pytest.fixture(scope="module")
def artifact(text: str, rows: np.ndarray) -> Artifact:
    table = pd.DataFrame(
        {
            "symbol": ["BTCUSDT", "ETHUSDT"],
            "first": pd.to_datetime(["2024-01-01", "2024-02-01"], utc=True).as_unit("us"),
            "weight": [0.25, np.nan],
        }
    )
    plain = Artifact(
        meta={"config": {"horizons": [1, 24]}, "created": "2024-01-01T00:00:00Z", "note": "σ"},
        arrays={
            "har/coef": np.arange(6.0).reshape(2, 3).T,
            "names": np.array(["a", "bc"]),
            "one": np.array(3),
        },
        boosters={"h1/mean": text},
        tables={"weights": table},
    )
    return plain.with_golden("h1/mean", rows)


@pytest.fixture
def folder(artifact: Artifact, tmp_path: Path) -> Path:
    save(artifact, tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and list it in the manifest as if it had always been so."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def damage(content: bytes, chance: random.Random) -> bytes:
    position = chance.randrange(len(content))
    kind = chance.randrange(4)
    if kind == 0:
        return content[:position] + bytes([content[position] ^ 1 << chance.randrange(8)]) + content[position + 1 :]
    if kind == 1:
        return content[:position] + content[position + chance.randrange(1, 40) :]
    if kind == 2:
        return content[:position] + bytes([chance.choice(b"0123456789 -.\n")]) + content[position:]
    return content[:position] + bytes(8) + content[position + 8 :]


def test_what_is_saved_is_loaded(artifact: Artifact, folder: Path, rows: np.ndarray) -> None:
    back = load(folder, expected_sha256=sha256(folder))
    assert back.meta == artifact.meta
    assert back.boosters == artifact.boosters
    assert back.arrays.keys() == artifact.arrays.keys()
    for name, values in artifact.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], values, strict=True)
    pd.testing.assert_frame_equal(back.tables["weights"], artifact.tables["weights"])
    original = lightgbm.Booster(model_str=artifact.boosters["h1/mean"]).predict(rows)
    assert np.array_equal(predict(back.boosters["h1/mean"], rows), original)


def test_equal_artifacts_are_equal_bytes_and_never_overwritten(artifact: Artifact, tmp_path: Path) -> None:
    first = save(artifact, tmp_path / "a")
    reordered = Artifact(artifact.meta, dict(reversed(artifact.arrays.items())), artifact.boosters, artifact.tables)
    assert save(reordered, tmp_path / "b") == first == sha256(tmp_path / "a")
    assert save(artifact, tmp_path / "a") == first
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        save(Artifact({"other": 1}), tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_any_damaged_byte_is_refused(folder: Path) -> None:
    chance = random.Random(5)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digest = sha256(folder)
    for path in files:
        content = path.read_bytes()
        for _ in range(12):
            path.write_bytes(damage(content, chance))
            if path.read_bytes() != content:
                with pytest.raises(ArtifactRefused, match=MANIFEST if path.name == MANIFEST else path.name):
                    load(folder, expected_sha256=digest)
        path.write_bytes(content)
    load(folder, expected_sha256=digest)


def test_damaged_booster_text_with_a_matching_manifest_never_crashes(folder: Path, text: str) -> None:
    """The hash cannot help here: structure and golden rows must keep harm away from this process."""
    chance = random.Random(7)
    golden = load(folder).arrays
    survivors: dict[str, str] = {}
    refused = 0
    for attempt in range(150):
        content = (
            damage(text[: text.index("parameters:")].encode(), chance) + text[text.index("parameters:") :].encode()
        )
        try:
            check_structure(content.decode(), "file")
            survivors[f"{attempt}"] = content.decode()
        except (ArtifactRefused, UnicodeDecodeError):
            refused += 1
    assert refused > 90
    x, y = golden["golden_X/h1/mean"], golden["golden_y/h1/mean"]
    harmless = {name: survivor for name, survivor in survivors.items() if same(survivor, x, y)}
    # What is left differs only where no golden row can see it, such as a gain or a count.
    check_behaviour(harmless, dict.fromkeys(harmless, x), dict.fromkeys(harmless, y), "file")
    for name in sorted(survivors.keys() - harmless.keys())[:2]:
        with pytest.raises(ArtifactRefused, match=r"file: booster .* (predicts other numbers|cannot be loaded)"):
            check_behaviour({name: survivors[name]}, {name: x}, {name: y}, "file")


def same(text: str, x: np.ndarray, y: np.ndarray) -> bool:
    try:
        return predict(text, x).tobytes() == y.tobytes()
    except lightgbm.basic.LightGBMError:
        return False


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("split_feature=0", "split_feature=9", "split_feature out of range"),
        ("left_child=", "left_child=1 ", "tree_sizes"),
        ("max_feature_idx=4", "max_feature_idx=400000000", "disagree"),
        ("version=v4", "version=v3", "v4"),
        ("num_class=1", "num_class=3", "one output"),
        ("num_leaves=7", "num_leaves=8", "entries"),
        ("num_leaves=7", "num_leaves=0", "num_leaves"),
        ("num_cat=0", "num_cat=1", "num_cat"),
        ("is_linear=0", "is_linear=1", "linear"),
        ("shrinkage=0.1", "shrinkage=nan", "damaged"),
        ("shrinkage=0.1", "shrinkage=-.1", "damaged"),
        ("end of trees", "end of weeds", "follows"),
        ("Tree=3\n", "Tree=4\n", "tree 3"),
        ("objective=regression", "objective=", "objective"),
    ],
)
def test_each_structural_fault_is_named(text: str, old: str, new: str, cause: str) -> None:
    assert old in text
    with pytest.raises(ArtifactRefused, match=f"here.txt: not a sound LightGBM model: .*{cause}"):
        check_structure(text.replace(old, new), "here.txt")


def test_children_must_form_a_tree(text: str) -> None:
    line = next(line for line in text.splitlines() if line.startswith("left_child=") and line.count(" ") == 5)
    children = line.removeprefix("left_child=").split(" ")
    inner = [index for index, child in enumerate(children) if int(child) > 0]
    cycle = children.copy()
    cycle[inner[-1]] = "0"
    out = children.copy()
    out[inner[-1]] = "6"
    for broken in (cycle, out):
        with pytest.raises(ArtifactRefused, match="tree"):
            check_structure(text.replace(line, "left_child=" + " ".join(broken), 1), "here.txt")


@pytest.mark.parametrize(
    "parameters",
    [{}, {"objective": "gamma"}, {"use_quantized_grad": True}, {"bagging_fraction": 0.5, "bagging_freq": 1}],
)
@pytest.mark.parametrize("categorical", [[], [3]])
def test_sound_models_pass(rows: np.ndarray, parameters: dict[str, object], categorical: list[int]) -> None:
    target = np.exp(rows[:, 0] / 4 + np.sin(9 * rows[:, 3]) + np.isnan(rows[:, 1]))
    data = lightgbm.Dataset(rows, target, categorical_feature=categorical)
    sound = lightgbm.train(PARAMETERS | parameters, data, 10).model_to_string()
    assert check_structure(sound, "file") == rows.shape[1]


def test_constant_models_pass(rows: np.ndarray) -> None:
    constant = lightgbm.train(PARAMETERS | {"min_data_in_leaf": 700}, lightgbm.Dataset(rows, rows[:, 0]), 2)
    assert check_structure(constant.model_to_string(), "file") == rows.shape[1]


def test_golden_rows_reach_every_leaf_that_the_data_reach(text: str, rows: np.ndarray) -> None:
    golden, _ = golden_rows(text, rows)
    booster = lightgbm.Booster(model_str=text)
    all_leaves, seen = (np.asarray(booster.predict(some, pred_leaf=True)) for some in (rows, golden))
    for tree in range(all_leaves.shape[1]):
        assert set(seen[:, tree]) == set(all_leaves[:, tree])
    assert len(golden) <= 256


def test_other_golden_predictions_are_refused(folder: Path) -> None:
    file = folder / "arrays" / "golden_y" / "h1" / "mean.npy"
    values = np.load(file)
    values[3] = np.nextafter(values[3], np.inf)
    np.save(file, values)
    rewrite(folder, "arrays/golden_y/h1/mean.npy", file.read_bytes())
    with pytest.raises(ArtifactRefused, match="h1/mean predicts other numbers"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.npy",
        "arrays/../../outside.npy",
        "/etc/model.npy",
        "arrays/x.pkl",
        "model.pkl",
        "arrays/.npy",
    ],
)
def test_foreign_names_are_refused(folder: Path, name: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactRefused, match="no file of an artifact"):
        load(folder)


def test_pickles_are_refused_in_every_disguise(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ArtifactRefused, match=r"model\.pkl: not listed"):
        load(folder)
    (folder / "model.pkl").unlink()
    for name in ("arrays/har/coef.npy", "tables/weights.parquet", BOOSTER):
        original = (folder / name).read_bytes()
        rewrite(folder, name, pickle.dumps(np.zeros(3)))
        with pytest.raises(ArtifactRefused, match=Path(name).name):
            load(folder)
        rewrite(folder, name, original)
    np.save(folder / "arrays" / "one.npy", np.array([{}], object), allow_pickle=True)
    rewrite(folder, "arrays/one.npy", (folder / "arrays" / "one.npy").read_bytes())
    with pytest.raises(ArtifactRefused, match=r"one\.npy: unreadable .*not plain"):
        load(folder)


def test_an_array_header_may_not_promise_more_than_it_holds(folder: Path) -> None:
    name = "arrays/har/coef.npy"
    content = (folder / name).read_bytes()
    rewrite(folder, name, content.replace(b"(3, 2), }    ", b"(3, 2000), } "))
    with pytest.raises(ArtifactRefused, match=r"coef\.npy"):
        load(folder)


def test_links_sizes_and_absence_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match="no such folder"):
        load(tmp_path / "none")
    with pytest.raises(ArtifactRefused, match="over 1000 bytes"):
        load(folder, max_bytes=1000)
    with pytest.raises(ArtifactRefused, match="expected"):
        load(folder, expected_sha256="0" * 64)
    (folder / "arrays" / "link.npy").symlink_to(folder / "arrays" / "one.npy")
    with pytest.raises(ArtifactRefused, match=r"link\.npy: neither a plain file"):
        load(folder)


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        (Artifact({}, arrays={"a": np.array([{}], object)}), "array a"),
        (Artifact({}, arrays={"../a": np.zeros(1)}), "plain name"),
        (Artifact({"when": pd.Timestamp("2024-01-01")}), "plain JSON"),
        (Artifact({"loss": float("nan")}), "finite"),
        (Artifact({}, boosters={"b": "tree"}), "header is damaged"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(broken: Artifact, cause: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match=cause):
        save(broken, tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_a_booster_without_golden_rows_is_not_saved(text: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match="no golden rows"):
        save(Artifact({}, boosters={"b": text}), tmp_path / "model")


def test_a_writer_killed_between_files_leaves_no_artifact(tmp_path: Path) -> None:
    program = (
        "import os, sys, numpy as np\n"
        "from models import artifact\n"
        "sync, calls = os.fsync, []\n"
        "def dying(descriptor):\n"
        "    calls.append(1)\n"
        "    os._exit(9) if len(calls) == int(sys.argv[1]) else sync(descriptor)\n"
        "os.fsync = dying\n"
        "arrays = {name: np.arange(50.0) for name in 'abc'}\n"
        f"artifact.save(artifact.Artifact({{'v': 1}}, arrays), {str(tmp_path / 'model')!r})\n"
    )
    # Syncs: five files, two folders, the rename, and then the parent folder.
    for deadly in (1, 5, 7, 8):
        assert not (tmp_path / "model").exists()
        assert subprocess.run([sys.executable, "-c", program, str(deadly)], check=False).returncode == 9
    np.testing.assert_array_equal(load(tmp_path / "model").arrays["b"], np.arange(50.0))
