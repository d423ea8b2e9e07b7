"""Train on everything up to an instant, and forecast with what was trained.

A trained model is an artifact: the members' fitted state, and the out-of-sample history of the year before, from which
levels, weights, the predictive law and calibration are read. Serving appends the newest forecasts to that history and runs
the same assembly as the walk-forward.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.errors import ArtifactRefused, DataStale, UsageError
from features.market import Market
from models import artifact
from models.artifact import Artifact
from models.base import ENSEMBLE
from models.boosting import LightGBM
from models.catalogue import make
from models.members import Member
from models.regime_classifier import RegimeClassifier
from training.assembly import Origin, Provenance, assemble, table_rows
from training.config import RunConfig
from training.contributions import Published, contributions, feature_families, member_terms
from training.engine import Engine
from training.fold_store import flat, wide
from training.folds import REGIMES, classifier_of, code_sha256
from training.losses import qlike
from training.material import Material, prepare
from training.rows import micros, training_rows
from training.splits import Fold
from training.walkforward import plan, run_folds

__all__ = ["Trained", "fit", "forecast", "open_model", "predicted", "serve", "since_trained"]

GOLDEN_ROWS = 5000
HISTORY = "history"
# A symbol without a bar for this long is taken as delisted: no forecast is owed for it.
DELISTED = pd.Timedelta(days=30)


@dataclass(frozen=True)
class Trained:
    """A model read back: configuration, members by name, their out-of-sample history, and when they were fitted.

    ``regimes``: the classifier beside the members, if there is one.
    """

    config: RunConfig
    members: Mapping[str, Member]
    regimes: RegimeClassifier | None
    history: pd.DataFrame
    as_of: pd.Timestamp
    sha256: str
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Served:
    """Rows of the forecast table, and what each of the ensemble's is the sum of."""

    forecasts: pd.DataFrame
    contributions: pd.DataFrame


def fit(
    market: Market, config: RunConfig, *, as_of: pd.Timestamp | None = None, out: str | Path, jobs: int = 2
) -> Path:
    """Fit every member on what was known at ``as_of`` (None: all of it) and write the artifact to ``out``.

    The walk-forward of the months before supplies the history. Raises ``UsageError`` where there is too little of it.
    """
    if config.walkforward.exclude:
        raise UsageError(
            "walkforward.exclude is for evaluations; a served model learns from every symbol: leave it out"
        )
    view = market if as_of is None else market.as_of(as_of)
    material = prepare(view, config)
    at = material.times[-1]
    folds = plan(material, config, at, at + pd.Timedelta(hours=1))
    if len(folds) < 2:
        raise UsageError(
            f"training as of {at:%Y-%m-%d} leaves no month to forecast out of sample before it; import older data, or set "
            "walkforward.refit to fewer months"
        )
    data = view.data_sha256
    with tempfile.TemporaryDirectory() as scratch:
        results = run_folds(folds[:-1], material, config, data, Path(scratch), Engine(jobs))
    history = pd.concat([result.forecasts for result in results]).sort_index(kind="stable")
    members, regimes = _fitted(folds[-1], material, config)
    meta = {
        "config": config.model_dump(mode="json"),
        "as_of": at.isoformat(),
        "config_sha256": config.sha256,
        "data_sha256": data,
        "code_sha256": code_sha256(),
        "losses": _losses(material, history, config),
    }
    saved = Artifact(meta, {}, {}, {HISTORY: flat(history)})
    newest = material.rows.origin >= np.sort(material.rows.origin)[-GOLDEN_ROWS:][0]
    golden = material.rows.frame(newest)[0]
    for name, member in members.items():
        saved = _pack(saved, name, member.state())
        if isinstance(member, LightGBM):
            for j in range(len(member.horizons_)):
                saved = saved.with_golden(f"{name}/boosters/{j}", member.inputs(golden, j))
    if regimes is not None:
        saved = _pack(saved, REGIMES, regimes.state())
        for k in range(len(regimes.boosters_)):
            inputs = regimes.inputs(golden, *material.rows.regimes(newest), k % len(regimes.horizons_))
            saved = saved.with_golden(f"{REGIMES}/boosters/{k}", inputs)
    artifact.save(saved, out)
    return Path(out)


def open_model(folder: str | Path) -> Trained:
    """Read, verify and restore a model; raises ``ArtifactRefused`` naming the file and the cause."""
    saved = artifact.load(folder)
    try:
        config = RunConfig.model_validate(saved.meta["config"])
        members = {m.kind: make(m.kind, m.params).restore(_unpack(saved, m.kind)) for m in config.members}
        regimes = classifier_of(config)
        if regimes is not None:
            regimes.restore(_unpack(saved, REGIMES))
        history, as_of = wide(saved.tables[HISTORY]), pd.Timestamp(saved.meta["as_of"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise ArtifactRefused(f"{folder}: no model of this version ({error!r}); train it again") from None
    return Trained(config, members, regimes, history, as_of, artifact.sha256(folder), saved.meta)


def forecast(
    market: Market,
    folder: str | Path,
    *,
    as_of: pd.Timestamp | None = None,
    model_uri: str,
    made_at: pd.Timestamp,
) -> pd.DataFrame:
    """The forecasts of ``serve``."""
    return serve(market, folder, as_of=as_of, model_uri=model_uri, made_at=made_at).forecasts


def serve(
    market: Market,
    folder: str | Path,
    *,
    as_of: pd.Timestamp | None = None,
    model_uri: str,
    made_at: pd.Timestamp,
) -> Served:
    """Rows of the forecast table at the newest origin known at ``as_of`` (None: of the market), all models.

    A symbol whose bar is missing at that origin is ``blocked``. Raises ``DataStale`` where the model was fitted on later
    data than the market holds, ``ArtifactRefused`` as ``open_model`` does.
    """
    trained = open_model(folder)
    view = market if as_of is None else market.as_of(as_of)
    material = prepare(view, trained.config)
    origin = material.times[-1]
    if origin < trained.as_of:
        raise DataStale(
            f"the model was fitted as of {trained.as_of.isoformat()}, the data end at {origin.isoformat()}; import newer "
            "data, or use an older model with --model"
        )
    rows, told = since_trained(trained, material)
    raw = pd.concat([trained.history, told])
    assemblies, span = assemble(material, raw.sort_index(kind="stable"), trained.config)
    names = [*trained.members, ENSEMBLE]
    provenance = Provenance(
        trained.config.sha256, view.data_sha256, {material.times[span][0]: dict.fromkeys(names, trained.sha256)},
        made_at, model_uri,
    )  # fmt: skip
    listed = _listed(material)
    frames = table_rows(
        assemblies, material, span, Origin.of(material, span), provenance, origin, origin + pd.Timedelta(hours=1),
        listed,
    )  # fmt: skip
    published = {h: Published.of(assembly, material.times[span]) for h, assembly in assemblies.items()}
    terms = _terms(trained, rows, origin)
    sums = contributions(terms, raw.loc[terms.index], published, material.symbols, material.times[span])
    return Served(pd.concat(list(frames), ignore_index=True), sums)


def _terms(trained: Trained, rows: pd.DataFrame, origin: pd.Timestamp) -> pd.DataFrame:
    """The terms of all members' forecasts made at ``origin``; ``rows`` lead up to it."""
    families = feature_families(trained.config)
    newest = rows[rows.index.get_level_values("origin") == origin]
    terms = {
        name: member_terms(member, newest if member.independent_rows else rows, families).loc[newest.index]
        for name, member in trained.members.items()
    }
    return pd.concat(terms, axis=1, names=["member", "term", "horizon_hours"])


def since_trained(trained: Trained, material: Material) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows since the model was fitted, and what it says of them, in the columns that the history has."""
    since = material.rows.origin >= micros(trained.as_of)
    rows, _ = material.rows.frame(since)
    told = predicted(trained, rows)
    if trained.regimes is not None:
        told = pd.concat([told, trained.regimes.logits(rows, *material.rows.regimes(since))], axis=1)
    return rows, told


def predicted(trained: Trained, rows: pd.DataFrame) -> pd.DataFrame:
    """What the members say of these rows' origins: ``ln E[V]``, columns (member, horizon)."""
    made = {name: member.predict_log(rows) for name, member in trained.members.items()}
    return pd.concat(made, axis=1, names=["member", "horizon_hours"])


def _fitted(fold: Fold, material: Material, config: RunConfig) -> tuple[dict[str, Member], RegimeClassifier | None]:
    past, regimes = training_rows(fold, material.rows), classifier_of(config)
    members = {m.kind: make(m.kind, m.params).learn(past) for m in config.members}
    return members, None if regimes is None else regimes.learn(past)


def _losses(material: Material, history: pd.DataFrame, config: RunConfig) -> dict[str, float]:
    """Out-of-sample QLIKE of the ensemble over the history, the mean over symbols, per horizon."""
    assemblies, span = assemble(material, history, config)
    losses = {}
    for h, assembly in assemblies.items():
        forecasts, realised = assembly.columns[ENSEMBLE]["variance"], material.targets[h]["variance"][:, span]
        known = np.isfinite(forecasts) & np.isfinite(realised)
        by_symbol = [qlike(realised[i, k], forecasts[i, k]) for i, k in enumerate(known) if k.any()]
        if not by_symbol:
            raise UsageError(
                f"no {h} h forecast is resolved before the training's end, so its loss is unknown; train as of a later time, "
                "or leave that horizon out"
            )
        losses[f"qlike_{h}h"] = float(np.mean(by_symbol))
    return losses


def _listed(material: Material) -> list[str]:
    hours = int(DELISTED / pd.Timedelta(hours=1))
    recent = material.alive[:, -hours:]
    return [symbol for i, symbol in enumerate(material.symbols) if recent[i].any()]


def _pack(saved: Artifact, path: str, state: Mapping[str, Any]) -> Artifact:
    """The artifact with a member's state: arrays and booster texts as files, the rest in ``meta``."""
    meta, arrays, boosters = dict(saved.meta), dict(saved.arrays), dict(saved.boosters)
    plain: dict[str, Any] = {}
    nested: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in state.items():
        if isinstance(value, np.ndarray):
            arrays[f"{path}/{key}"] = value
        elif key == "boosters":
            boosters |= {f"{path}/boosters/{j}": text for j, text in enumerate(value)}
        elif isinstance(value, Mapping):
            nested.append((f"{path}/{key}", value))
        else:
            plain[key] = value
    meta["members"] = {**meta.get("members", {}), path: plain}
    packed = Artifact(meta, arrays, boosters, saved.tables)
    for inner, value in nested:
        packed = _pack(packed, inner, value)
    return packed


def _unpack(saved: Artifact, path: str) -> dict[str, Any]:
    """The inverse of ``_pack`` for one member."""
    state: dict[str, Any] = dict(saved.meta["members"][path])
    prefix = f"{path}/"
    for name, value in saved.arrays.items():
        key = name.removeprefix(prefix)
        if name.startswith(prefix) and "/" not in key:
            state[key] = value
    texts = {name: text for name, text in saved.boosters.items() if name.startswith(f"{prefix}boosters/")}
    if texts:
        state["boosters"] = [texts[name] for name in sorted(texts, key=lambda name: int(name.rsplit("/", 1)[1]))]
    for inner in saved.meta["members"]:
        key = inner.removeprefix(prefix)
        if inner.startswith(prefix) and "/" not in key:
            state[key] = _unpack(saved, inner)
    return state
