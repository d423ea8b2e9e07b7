"""The layout of the repository: folders, types, direction of imports, and nothing that may not be in it."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("features", "models", "training", "forecaster")
BIN = Path(sys.executable).parent
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal"}
UNPICKLING = {"read_pickle", "to_pickle", "joblib.load", "joblib.dump", "skops.io.load"}


def sources() -> list[Path]:
    return [file for package in PACKAGES for file in sorted((REPOSITORY / package).rglob("*.py"))]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)


def test_expected_files_and_folders_are_there() -> None:
    files = ("pyproject.toml", "README.md", "LICENSE", "Makefile", "requirements.lock", ".ci/run")
    assert [name for name in files if not (REPOSITORY / name).is_file()] == []
    folders = (*PACKAGES, "tests", "notebooks")
    assert [name for name in folders if not (REPOSITORY / name).is_dir()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_importable_and_typed(package: str) -> None:
    assert importlib.import_module(package).__file__ == str(REPOSITORY / package / "__init__.py")
    assert (REPOSITORY / package / "py.typed").is_file()
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert package in build["targets"]["wheel"]["packages"]


def test_packages_import_only_to_their_left() -> None:
    done = run(BIN / "lint-imports", "--no-cache", cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_a_foreign_module_in_the_working_directory_does_not_shadow_ours(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / f"{package}.py").write_text("raise RuntimeError('the foreign one')\n")
    done = run(BIN / "forecaster", "schema", "forecasts", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"horizon_hours"' in done.stdout


def test_nothing_is_pickled() -> None:
    found = [f"{file}: {name}" for file in sources() for name in _unpickled(ast.parse(file.read_text()))]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "import joblib; joblib.load('x')", "pd.read_pickle('x')",
     "np.load('x', allow_pickle=True)"],
)  # fmt: skip
def test_the_search_for_pickles_finds_one(line: str) -> None:
    assert _unpickled(ast.parse(line))


def _unpickled(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names += [node.attr, ast.unparse(node)]
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            names += ["pickle"] if ast.unparse(node.value) != "False" else []
    return [name for name in names if name.split(".")[0] in UNPICKLERS or name in UNPICKLING]


def test_no_file_names_a_place_on_this_machine() -> None:
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout, so nothing says which files belong to it")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY)
    assert listed.returncode == 0, listed.stderr
    places = [f"{place}/".encode() for place in {REPOSITORY.parent, Path.home()} if place != Path("/")]
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        content = (REPOSITORY / name).read_bytes() if (REPOSITORY / name).is_file() else b""
        found += [f"{name}: {place.decode()}" for place in places if place in content]
    assert found == []
