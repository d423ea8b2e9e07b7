"""One fold of the walk-forward: fit every member on the past, forecast the test block, keep it as a folder.

A fold depends on nothing but the features, the labels known at its border, the configuration and the code, so folds run in
any order and in any process. Its folder appears whole or not at all; a folder made under another key is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone

from features.errors import DataInvalid
from features.panel import MICROSECONDS_PER_HOUR
from models.boosting import LightGBM
from models.catalogue import classifier, make
from models.members import Member
from models.regime_classifier import RegimeClassifier
from models.training_rows import TrainingRows
from training.config import Component, RunConfig
from training.contributions import CONTRIBUTIONS, keep, member_terms
from training.effects import effects, strength
from training.splits import Fold

__all__ = [
    "LIBRARIES",
    "REGIMES",
    "FoldResult",
    "Rows",
    "classifier_of",
    "code_sha256",
    "commit",
    "committed",
    "flat",
    "fold_key",
    "forecast_fold",
    "micros",
    "purged_labels",
    "read_fold",
    "read_terms",
    "state_sha256",
    "tells_terms",
    "training_rows",
    "wide",
]

SOURCES: Final = {".py", ".csv"}
LIBRARIES: Final = ("arch", "lightgbm", "numba", "numpy", "pandas", "scikit-learn", "scipy")
# Settings on which a fold's forecasts depend; how they are combined comes after.
DECISIVE: Final = {"proxy", "horizons", "walkforward", "members", "features", "regimes"}
RESULT: Final = "fold.json"
FORECASTS: Final = "forecasts.parquet"
EFFECTS: Final = "effects.parquet"
REGIMES: Final = "regimes"
"""Under which name the classifier of regimes stands among the members' states."""


@dataclass(frozen=True)
class Rows:
    """Features and targets of all origins as plain arrays, so that worker processes share them without a copy.

    ``features`` (n_rows, n_features), ``variance`` (n_rows, n_horizons), ``origin`` microseconds since the epoch,
    ``symbol`` codes into ``symbols``; rows are sorted by symbol, then origin. ``thresholds`` (n_rows, n_horizons, 3) of the
    regimes and ``now`` (n_rows, n_horizons), the class of the trailing interval, are for the classifier of regimes.
    """

    features: npt.NDArray[np.float64]
    columns: tuple[str, ...]
    variance: npt.NDArray[np.float64]
    horizons: tuple[int, ...]
    symbol: npt.NDArray[np.int64]
    symbols: tuple[str, ...]
    origin: npt.NDArray[np.int64]
    thresholds: npt.NDArray[np.float64] | None = None
    now: npt.NDArray[np.float64] | None = None

    def frame(self, mask: npt.NDArray[np.bool_]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Features and targets of the rows under ``mask``, indexed by (symbol, origin)."""
        origins = pd.DatetimeIndex(self.origin[mask].astype("datetime64[us]"), tz="UTC")
        index = pd.MultiIndex.from_arrays(
            [pd.Index(self.symbols)[self.symbol[mask]], origins], names=["symbol", "origin"]
        )
        X = pd.DataFrame(self.features[mask], index=index, columns=list(self.columns), copy=False)
        y = pd.DataFrame(self.variance[mask], index=index, columns=list(self.horizons), copy=False)
        return X, y

    def training(self, mask: npt.NDArray[np.bool_]) -> TrainingRows:
        """The rows under ``mask``, to be learnt from; features are not copied."""
        at = np.flatnonzero(mask)
        return TrainingRows(
            self.features, self.columns, at, self.symbol[at], self.symbols, self.origin[at], self.variance[at],
            self.horizons, None, *(None if x is None else x[at] for x in (self.thresholds, self.now)),
        )  # fmt: skip

    def regimes(self, mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Thresholds and present classes of the rows under ``mask``; raises ``DataInvalid`` where they were left out."""
        if self.thresholds is None or self.now is None:
            raise DataInvalid("these rows have no thresholds of the regimes; make Rows with thresholds and now")
        return self.thresholds[mask], self.now[mask]


@dataclass(frozen=True)
class FoldResult:
    """What a finished fold holds.

    ``forecasts``: indexed by (symbol, origin), columns (member, horizon): ``ln E[V]`` as fitted, not yet levelled; and
    beside the members the logits of the classifier of regimes, by ``models.regimes.CLASSIFIED``.
    ``params_sha256``: of each member's fitted state, and of the classifier's. ``effects``: accumulated local effects of each
    boosted member's strongest features on the test rows. ``terms``: of each member's forecasts, as ``member_terms``; on disk
    they stay there until ``read_terms``. A fold that is made only to warm up has neither.
    """

    first_origin: pd.Timestamp
    forecasts: pd.DataFrame
    params_sha256: Mapping[str, str]
    effects: pd.DataFrame = field(default_factory=pd.DataFrame)
    terms: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def importance(self) -> pd.DataFrame:
        """How much each told feature moves ``ln F``: its effect's standard deviation, (member, feature) by horizon."""
        return strength(self.effects)


def training_rows(fold: Fold, rows: Rows, exclude: Sequence[str] = ()) -> TrainingRows:
    """The rows that may train a fold: origins before its border, labels known by then (law P), no symbol of ``exclude``."""
    past = rows.origin < micros(fold.test_start)
    past &= ~np.isin(rows.symbol, [code for code, name in enumerate(rows.symbols) if name in exclude])
    if fold.train_start is not None:
        past &= rows.origin >= micros(fold.train_start)
    return purged_labels(rows.training(past), fold.train_end)


def purged_labels(past: TrainingRows, known_by: pd.Timestamp) -> TrainingRows:
    """The same rows with every label nulled whose interval ends after ``known_by`` (law P)."""
    ends = past.origin[:, None] + np.array(past.horizons) * MICROSECONDS_PER_HOUR
    return replace(past, variance=np.where(ends <= micros(known_by), past.variance, np.nan))


def fold_key(fold: Fold, config: RunConfig, data_sha256: str) -> str:
    """What decides the content of a fold; 64 hex digits."""
    parts = {
        "config": config.model_dump(mode="json", include=DECISIVE),
        "data": data_sha256,
        "code": code_sha256(),
        "borders": [str(t) for t in (fold.test_start, fold.test_end, fold.train_start, fold.train_end)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def code_sha256() -> str:
    """Hash of the source of the packages that make a forecast, and of the versions of the libraries they use."""
    import features
    import models
    import training

    digest = hashlib.sha256()
    for package in (features, models, training):
        for file in sorted(Path(str(package.__file__)).parent.rglob("*.*")):
            if file.suffix in SOURCES:
                digest.update(file.read_bytes())
    digest.update(" ".join(f"{name}=={version(name)}" for name in LIBRARIES).encode())
    return digest.hexdigest()


def forecast_fold(
    fold: Fold,
    rows: Rows,
    members: Sequence[Component],
    exclude: Sequence[str] = (),
    regimes: RegimeClassifier | None = None,
    families: Mapping[str, str] | None = None,
) -> FoldResult:
    """Fit each member on what was known at the fold's border, and forecast its test rows, also of symbols of ``exclude``.

    ``regimes``: the classifier to be fitted beside them. ``families``: the family of each feature, by which forecasts are
    explained (None: they are not).
    """
    past = training_rows(fold, rows, exclude)
    tested = (rows.origin >= micros(fold.test_start)) & (rows.origin < micros(fold.test_end))
    test, _ = rows.frame(tested)
    forecasts: dict[str, pd.DataFrame] = {}
    digests: dict[str, str] = {}
    told: dict[str, pd.DataFrame] = {}
    terms: dict[str, pd.DataFrame] = {}
    for component in members:
        member = make(component.kind, component.params).learn(past)
        forecasts[component.kind] = member.predict_log(test)
        digests[component.kind] = state_sha256(member)
        if families is None:
            continue
        terms[component.kind] = member_terms(member, test, families)
        if isinstance(member, LightGBM):
            told[component.kind] = effects(member, test)
    made = pd.concat(forecasts, axis=1, names=["member", "horizon_hours"])
    if regimes is not None:
        learnt = clone(regimes).learn(past)
        made = pd.concat([made, learnt.logits(test, *rows.regimes(tested))], axis=1)
        digests[REGIMES] = state_sha256(learnt)
    return FoldResult(
        fold.test_start,
        made,
        digests,
        pd.concat(told, names=["member"]).reset_index("member") if told else pd.DataFrame(),
        pd.concat(terms, axis=1, names=["member", "term", "horizon_hours"]) if terms else pd.DataFrame(),
    )


def classifier_of(config: RunConfig) -> RegimeClassifier | None:
    """The classifier of regimes that a configuration asks for, unfitted."""
    return classifier(config.regimes.params) if config.regimes.classifier else None


def state_sha256(member: Member | RegimeClassifier) -> str:
    """Hash of a fitted state, floats by their exact value."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value.hex() if isinstance(value, float) else value

    return hashlib.sha256(json.dumps(plain(member.state()), sort_keys=True).encode()).hexdigest()


def committed(folder: Path, key: str) -> bool:
    """Whether the folder holds a finished fold made under this key, undamaged."""
    try:
        facts = json.loads((folder / RESULT).read_text())
        return bool(facts["key"] == key and facts["files"] == _hashes(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_fold(folder: Path) -> FoldResult:
    """A finished fold."""
    facts = json.loads((folder / RESULT).read_text())
    return FoldResult(
        pd.Timestamp(facts["first_origin"]),
        wide(pd.read_parquet(folder / FORECASTS)),
        facts["params_sha256"],
        pd.read_parquet(folder / EFFECTS) if (folder / EFFECTS).is_file() else pd.DataFrame(),
    )


def tells_terms(folder: Path) -> bool:
    """Whether a finished fold holds the terms of its forecasts."""
    return (folder / CONTRIBUTIONS).is_file()


def read_terms(folder: Path) -> pd.DataFrame:
    """The terms of a finished fold's forecasts, where it ``tells_terms``."""
    return _split(pd.read_parquet(folder / CONTRIBUTIONS), ["member", "term", "horizon_hours"])


def flat(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Members' forecasts as a table: columns symbol, origin, ``<member>:<horizon>``."""
    return forecasts.set_axis(
        [":".join(map(str, column)) for column in forecasts.columns.tolist()], axis=1
    ).reset_index()


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The inverse of ``flat``."""
    return _split(table, ["member", "horizon_hours"])


def _split(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """A table as ``flat`` makes it, its columns' names taken apart again; the last part is a number of hours."""
    values = table.set_index(["symbol", "origin"])
    parts = [name.rsplit(":", len(names) - 1) for name in map(str, values.columns)]
    values.columns = pd.MultiIndex.from_tuples([(*words, int(hours)) for *words, hours in parts], names=names)
    return values


def commit(result: FoldResult, folder: Path, key: str) -> None:
    """Keep a fold: write beside, flush to disk, rename, so that a kill leaves the old state or the new one."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    beside.mkdir(parents=True)
    try:
        flat(result.forecasts).to_parquet(beside / FORECASTS, index=False)
        if not result.effects.empty:
            result.effects.to_parquet(beside / EFFECTS, index=False)
        if not result.terms.empty:
            keep(flat(result.terms), beside / CONTRIBUTIONS)
        facts = {
            "key": key,
            "first_origin": result.first_origin.isoformat(),
            "params_sha256": dict(result.params_sha256),
            "files": _hashes(beside),
        }
        (beside / RESULT).write_text(json.dumps(facts, sort_keys=True, indent=1))
        for file in [*beside.iterdir(), beside]:
            _sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every table in a fold's folder, by name."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.parquet")}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def micros(t: pd.Timestamp) -> int:
    """Microseconds since the epoch."""
    return t.value // 1000
