"""Registered models: a new one is the challenger, and becomes champion through a gate.

A version is an artifact folder kept by the tracking store, with the sha256 of its manifest and its validation
losses as tags. Whatever is fetched is checked against that sha256 before it is used.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from features.errors import ArtifactRefused, UsageError
from models import artifact
from models.artifact import Artifact
from training.tracking import Run, Tracking, Version

__all__ = ["CHALLENGER", "CHAMPION", "PREVIOUS", "Registry", "ResolvedModel"]

CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"
TOLERANCE: Final = 0.02

SHA256: Final = "artifact_sha256"
LOSS: Final = "loss."
MODEL_URI: Final = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([\w-]+))")
NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class ResolvedModel:
    """A verified model: its canonical URI, the sha256 of its manifest, where it lies, and what it holds."""

    uri: str
    sha256: str
    folder: Path
    artifact: Artifact


class Registry:
    """The versions of one registered model.

    ``cache`` is a local folder; verified artifacts are kept in it under their sha256.
    """

    def __init__(self, tracking: Tracking, cache: str | Path, name: str = "forecaster") -> None:
        if not NAME.fullmatch(name):
            raise UsageError(f"model name {name!r}: use letters, digits and _ . -")
        self._tracking = tracking
        self._cache = Path(cache)
        self.name = name

    def register(self, folder: str | Path, *, run_id: str, metrics: Mapping[str, float]) -> int:
        """Keep the artifact with its run and register it as the challenger; returns its version.

        ``metrics`` are out-of-sample losses (lower is better) by name; the gate compares them. Raises
        ``ArtifactRefused`` where the artifact fails verification.
        """
        root = Path(folder)
        digest = artifact.sha256(root)
        artifact.load(root, expected_sha256=digest)
        tags = {SHA256: digest} | {LOSS + key: repr(float(value)) for key, value in metrics.items()}
        # The digest in the path keeps a reopened run from mixing the files of two artifacts.
        Run(self._tracking, run_id).artifacts(root, _folder(digest))
        version = self._tracking.create_version(self.name, run_id, _folder(digest), tags).version
        self._tracking.set_alias(self.name, CHALLENGER, version)
        return version

    def promote(self, version: int | None = None, *, force: bool = False, tolerance: float = TOLERANCE) -> int:
        """Make a version (None: the challenger) champion; the champion before it becomes ``previous``.

        Refuses, with ``ArtifactRefused``, a version that fails verification, and one whose losses are missing
        or exceed the champion's by more than ``tolerance`` (a fraction), naming the figures; ``force`` skips
        the comparison of losses, never the verification. Raises ``UsageError`` where no such version exists.
        """
        aliases = self._tracking.aliases(self.name)
        chosen = aliases.get(CHALLENGER) if version is None else version
        if chosen is None:
            raise UsageError(f"model {self.name} has no challenger; run `forecaster train` first")
        candidate = self._version(self.name, chosen)
        self._fetch(candidate)
        champion = aliases.get(CHAMPION)
        if champion == chosen:
            return chosen
        if not force:
            before = None if champion is None else _losses(self._version(self.name, champion))
            _gate(candidate, _losses(candidate), before, tolerance)
        if champion is not None:
            self._tracking.set_alias(self.name, PREVIOUS, champion)
        self._tracking.set_alias(self.name, CHAMPION, chosen)
        return chosen

    def champion(self) -> ResolvedModel:
        """The champion, fetched and verified."""
        return self.resolve(f"models:/{self.name}@{CHAMPION}")

    def resolve(self, uri: str) -> ResolvedModel:
        """Fetch and verify ``models:/name@alias``, ``models:/name/3``, or the artifact in a plain folder.

        Raises ``UsageError`` where nothing has that name, ``ArtifactRefused`` where it fails verification.
        """
        if not uri.startswith("models:"):
            return _verified(uri, Path(uri), artifact.sha256(uri))
        parts = MODEL_URI.fullmatch(uri)
        if parts is None or not NAME.fullmatch(parts[1]):
            raise UsageError(
                f"model URI {uri!r}: write models:/{self.name}@{CHAMPION}, models:/{self.name}/3 or a folder"
            )
        name, number, alias = parts.groups()
        if alias is not None:
            number = self._tracking.aliases(name).get(alias)
            if number is None:
                cure = "run `forecaster promote`" if alias == CHAMPION else "run `forecaster train`"
                raise UsageError(f"{uri}: no version of {name} is its {alias}; {cure} first")
        return self._fetch(self._version(name, int(number)))

    def _version(self, name: str, number: int) -> Version:
        found = self._tracking.version(name, number)
        if found is None:
            raise UsageError(f"models:/{name}/{number}: no such version; `forecaster train` registers one")
        return found

    def _fetch(self, version: Version) -> ResolvedModel:
        uri = f"models:/{version.name}/{version.version}"
        digest = version.tags.get(SHA256, "")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ArtifactRefused(f"{uri}: has no {SHA256} tag; it was not registered by `forecaster train`")
        kept = self._cache / digest
        if not kept.exists():
            self._cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._cache) as staging:
                fetched = self._tracking.download(version.run_id, _folder(digest), Path(staging))
                return self._keep(_verified(uri, fetched, digest), kept)
        return _verified(uri, kept, digest)

    def _keep(self, model: ResolvedModel, kept: Path) -> ResolvedModel:
        try:
            model.folder.rename(kept)
        except OSError:
            if not kept.is_dir():  # else another process has just kept the same bytes
                raise
        return ResolvedModel(model.uri, model.sha256, kept, model.artifact)


def _folder(digest: str) -> str:
    return f"model/{digest}"


def _verified(uri: str, folder: Path, digest: str) -> ResolvedModel:
    return ResolvedModel(uri, digest, folder, artifact.load(folder, expected_sha256=digest))


def _losses(version: Version) -> dict[str, float]:
    return {key.removeprefix(LOSS): float(value) for key, value in version.tags.items() if key.startswith(LOSS)}


def _gate(
    version: Version, losses: Mapping[str, float], champion: Mapping[str, float] | None, tolerance: float
) -> None:
    faults = [f"{key} is {value}" for key, value in sorted(losses.items()) if not math.isfinite(value)]
    if not losses:
        faults.append("no validation loss is recorded")
    for key, best in sorted((champion or {}).items()):
        if key not in losses:
            faults.append(f"{key} is missing (champion {best:.6g})")
        elif losses[key] > best + tolerance * abs(best):
            faults.append(f"{key} {losses[key]:.6g} against the champion's {best:.6g}")
    if faults:
        raise ArtifactRefused(
            f"models:/{version.name}/{version.version} is not promoted: {'; '.join(faults)}"
            f" (tolerance {tolerance:.1%}); train a better one, or promote with force"
        )
