"""One fold of the walk-forward: fit every member on the past, forecast the test block, and what decides its content.

A fold depends on nothing but the features, the labels known at its border, the configuration and the code, so folds run in
any order and in any process; ``training.fold_store`` keeps them, and one made under another key is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.base import clone

from models.boosting import LightGBM
from models.catalogue import classifier, make
from models.members import Member
from models.regime_classifier import RegimeClassifier
from training.config import Component, RunConfig
from training.contributions import member_terms
from training.effects import effects, strength
from training.rows import Rows, micros, training_rows
from training.splits import Fold

__all__ = [
    "LIBRARIES",
    "REGIMES",
    "FoldResult",
    "classifier_of",
    "code_sha256",
    "fold_key",
    "forecast_fold",
    "state_sha256",
]

SOURCES: Final = {".py", ".csv"}
LIBRARIES: Final = ("arch", "lightgbm", "numba", "numpy", "pandas", "scikit-learn", "scipy")
# Settings on which a fold's forecasts depend; how they are combined comes after.
DECISIVE: Final = {"proxy", "horizons", "walkforward", "members", "features", "regimes"}
REGIMES: Final = "regimes"
"""Under which name the classifier of regimes stands among the members' states."""


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
