"""A trained model on disk: JSON, plain arrays, LightGBM text and tables under a manifest of hashes.

The folder::

    manifest.json              size and sha256 of every other file; its own sha256 names the model
    meta.json                  configuration, versions, data hash: whatever the trainer recorded
    arrays/<name>.npy          numeric, boolean or text arrays, never objects
    boosters/<name>.txt        LightGBM models, with golden rows in arrays/golden_X/<name>.npy and golden_y
    tables/<name>.parquet

Never a pickle. Nothing read from it is trusted before it is checked, in this order: size, hashes, form of
every file, structure of the LightGBM text, golden predictions in a child process.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import ArtifactRefused, UsageError
from models.booster_check import check_behaviour, check_structure, golden_rows

__all__ = ["Artifact", "load", "save", "sha256"]

AnyArray: TypeAlias = npt.NDArray[Any]

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
META: Final = "meta.json"
MAX_BYTES: Final = 2**30
MAX_MANIFEST_BYTES: Final = 2**24
SUFFIXES: Final = {"arrays": ".npy", "boosters": ".txt", "tables": ".parquet"}
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
PLAIN_KINDS: Final = "biufMmUS"  # numpy's codes of everything but objects and records


@dataclass(frozen=True)
class Artifact:
    """A model taken apart. Names consist of letters, digits and ``_.-``, with ``/`` between levels.

    ``boosters`` maps names to LightGBM text; each needs ``arrays["golden_X/<name>"]`` (n, n_features) and
    ``arrays["golden_y/<name>"]`` (n,), which ``with_golden`` makes.
    """

    meta: dict[str, Any]
    arrays: dict[str, AnyArray] = field(default_factory=dict)
    boosters: dict[str, str] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def with_golden(self, booster: str, features: AnyArray) -> Artifact:
        """The artifact with golden rows for one booster, chosen from ``features`` (n, n_features)."""
        rows, predictions = golden_rows(self.boosters[booster], features)
        golden = {f"golden_X/{booster}": rows, f"golden_y/{booster}": predictions}
        return Artifact(self.meta, self.arrays | golden, self.boosters, self.tables)


def save(artifact: Artifact, folder: str | Path) -> str:
    """Write the artifact as ``folder``, whole or not at all; returns the sha256 of its manifest.

    Equal artifacts give equal bytes. Raises ``ArtifactRefused`` for what ``load`` would refuse, and
    ``UsageError`` where ``folder`` already holds something else.
    """
    target = Path(folder)
    files = _encode(artifact)
    _check_boosters(artifact, target)
    entries = {name: {"bytes": len(data), "sha256": _hash(data)} for name, data in files.items()}
    files[MANIFEST] = _json({"format": FORMAT, "files": entries})
    digest = _hash(files[MANIFEST])
    if target.exists():
        if (target / MANIFEST).is_file() and sha256(target) == digest:
            return digest
        raise UsageError(f"{target} exists and is not this artifact; an artifact is never overwritten, name another")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        _write(files, beside)
        beside.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return digest


def sha256(folder: str | Path) -> str:
    """The sha256 of the manifest: 64 lower-case hex digits that name the model."""
    try:
        return _hash((Path(folder) / MANIFEST).read_bytes())
    except OSError as error:
        raise ArtifactRefused(f"{folder}: no readable {MANIFEST} ({error}); this is not a model artifact") from None


def load(folder: str | Path, *, expected_sha256: str | None = None, max_bytes: int = MAX_BYTES) -> Artifact:
    """Read and verify an artifact; see the module for the order of checks.

    Raises ``ArtifactRefused`` naming the file and the cause.
    """
    root = Path(folder)
    files = _read(root, expected_sha256, max_bytes)
    artifact = _decode(root, files)
    _check_boosters(artifact, root)
    if artifact.boosters:
        golden_x, golden_y = (
            {name: artifact.arrays[f"golden_{side}/{name}"] for name in artifact.boosters} for side in "Xy"
        )
        check_behaviour(artifact.boosters, golden_x, golden_y, str(root))
    return artifact


def _encode(artifact: Artifact) -> dict[str, bytes]:
    files = {META: _json(artifact.meta)}
    for name, values in artifact.arrays.items():
        files[_path("arrays", name)] = _array_bytes(name, values)
    for name, text in artifact.boosters.items():
        files[_path("boosters", name)] = text.encode()
    for name, table in artifact.tables.items():
        files[_path("tables", name)] = table.to_parquet(compression="zstd")
    return files


def _path(kind: str, name: str) -> str:
    if not NAME.fullmatch(name):
        raise ArtifactRefused(f"{kind}: {name!r} is no plain name; use letters, digits, _ . - and / between levels")
    return f"{kind}/{name}{SUFFIXES[kind]}"


def _array_bytes(name: str, values: AnyArray) -> bytes:
    if values.dtype.kind not in PLAIN_KINDS:
        raise ArtifactRefused(f"array {name}: {values.dtype} is not plain; store numbers, booleans or fixed text")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(values, order="C"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    try:
        text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ArtifactRefused(f"{META}: {error}; meta holds plain JSON values and finite numbers only") from None
    return (text + "\n").encode()


def _write(files: dict[str, bytes], folder: Path) -> None:
    for name, data in sorted(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for inside in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _sync(inside)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(root: Path, expected_sha256: str | None, max_bytes: int) -> dict[str, bytes]:
    present = _present(root, max_bytes)
    if MANIFEST not in present:
        raise ArtifactRefused(f"{root}: no {MANIFEST}; this is not a model artifact")
    if present[MANIFEST] > MAX_MANIFEST_BYTES:
        raise ArtifactRefused(f"{root / MANIFEST}: over {MAX_MANIFEST_BYTES} bytes; this is not a model artifact")
    raw = (root / MANIFEST).read_bytes()
    if expected_sha256 is not None and _hash(raw) != expected_sha256:
        raise ArtifactRefused(f"{root / MANIFEST}: sha256 {_hash(raw)}, expected {expected_sha256}; fetch it again")
    entries = _entries(root, raw)
    for name in sorted(entries.keys() | present.keys() - {MANIFEST}):
        if name not in entries:
            raise ArtifactRefused(f"{root / name}: not listed in {MANIFEST}; remove it or restore the artifact")
        if present.get(name) != entries[name][0]:
            raise ArtifactRefused(f"{root / name}: missing or of another size than listed; restore the artifact")
    files = {}
    for name, (_, digest) in sorted(entries.items()):
        files[name] = (root / name).read_bytes()
        if _hash(files[name]) != digest:
            raise ArtifactRefused(f"{root / name}: its sha256 is not the listed one; restore the artifact")
    return files


def _present(root: Path, max_bytes: int) -> dict[str, int]:
    if not root.is_dir():
        raise ArtifactRefused(f"{root}: no such folder; name the folder of a model artifact")
    sizes: dict[str, int] = {}
    for parent, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ArtifactRefused(f"{path}: neither a plain file nor a folder; an artifact holds nothing else")
        sizes |= {(path := Path(parent, name)).relative_to(root).as_posix(): path.stat().st_size for name in names}
        if sum(sizes.values()) > max_bytes:
            raise ArtifactRefused(f"{root}: over {max_bytes} bytes; raise the cap only for an artifact you trust")
    return sizes


def _entries(root: Path, raw: bytes) -> dict[str, tuple[int, str]]:
    try:
        manifest = json.loads(raw)
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}, this version reads {FORMAT}")
        entries = {str(name): (int(e["bytes"]), str(e["sha256"])) for name, e in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactRefused(f"{root / MANIFEST}: damaged ({error!r}); restore the artifact") from None
    for name in entries:
        kind, _, rest = name.partition("/")
        suffix = SUFFIXES.get(kind, "")
        plain = suffix and rest.endswith(suffix) and NAME.fullmatch(rest.removesuffix(suffix))
        if name != META and not plain:
            raise ArtifactRefused(f"{root / MANIFEST}: lists {name!r}, which is no file of an artifact")
    if META not in entries:
        raise ArtifactRefused(f"{root / MANIFEST}: does not list {META}; restore the artifact")
    return entries


def _decode(root: Path, files: dict[str, bytes]) -> Artifact:
    artifact = Artifact(meta={})
    for path, data in files.items():
        kind, _, rest = path.partition("/")
        name = rest.removesuffix(SUFFIXES.get(kind, ""))
        try:
            if kind == META:
                artifact.meta.update(json.loads(data))
            elif kind == "arrays":
                artifact.arrays[name] = _array(data)
            elif kind == "boosters":
                artifact.boosters[name] = data.decode()
            else:
                artifact.tables[name] = pd.read_parquet(io.BytesIO(data))
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises on foreign bytes, they are refused
            raise ArtifactRefused(f"{root / path}: unreadable ({error}); restore the artifact") from None
    return artifact


def _array(data: bytes) -> AnyArray:
    """Decode one ``.npy`` file; its header may not promise more, or other, than the bytes that follow."""
    buffer = io.BytesIO(data)
    if np.lib.format.read_magic(buffer) != (1, 0):
        raise ValueError("not an array file of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    if fortran or dtype.kind not in PLAIN_KINDS:
        raise ValueError(f"an array of {dtype} is not plain")
    return np.frombuffer(data, dtype, offset=buffer.tell()).reshape(shape).copy()


def _check_boosters(artifact: Artifact, root: Path) -> None:
    for name, text in artifact.boosters.items():
        file = root / _path("boosters", name)
        n_features = check_structure(text, str(file))
        rows, values = (artifact.arrays.get(f"golden_{side}/{name}") for side in "Xy")
        if rows is None or values is None:
            raise ArtifactRefused(f"{file}: has no golden rows to test it by; add them with Artifact.with_golden")
        sound = rows.dtype == values.dtype == np.float64 and rows.shape == (values.size, n_features)
        if not sound or values.ndim != 1 or not values.size:
            raise ArtifactRefused(f"{file}: its golden rows have shape {rows.shape}, it takes {n_features} features")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
