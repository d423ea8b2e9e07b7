"""The feature study: what each group of features is worth out of sample, and what the matrix is like.

Groups are added to a ladder rung by rung, and taken away from the full set. Everything else stays the same: folds, rows,
members, levels. What a step is worth is the share of QLIKE that it saves and the onset skill that it adds, each with an
interval from blocks of days, all symbols together (see ``training.feature_gains``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pandas as pd

from features import locking
from features.errors import UsageError
from features.families import Group
from features.market import Market
from features.pipeline import FAMILIES, FeaturePipeline
from features.store import write_atomically
from training.config import Features, RunConfig
from training.engine import Engine, Progress
from training.feature_arms import EVERY_HOURS, LOG_MEAN, REFERENCES, Arm, forecast, trainable
from training.feature_gains import Kind, Step, gains
from training.feature_quality import clusters, coverage, drift
from training.material import NEEDED, Material, prepare
from training.rows import Rows, micros
from training.scorecard import to_json_bytes
from training.splits import Fold, utc
from training.walkforward import FOLDS, plan

__all__ = ["NEGLIGIBLE", "SETTINGS", "Block", "blocks", "steps", "study", "verdict"]

SETTINGS: Final = (
    'name="feature-study"',
    "horizons=[1, 4, 24]",
    'members=[{kind="har_x", params={every_hours=1}}, {kind="lightgbm", params={every_hours=1}}]',
    "walkforward.refit=3",
)
"""What the study changes of the recommended run: quarterly refits of the two members that read every feature, whose training
rows are thinned before they see them."""
SCHEMA_VERSION: Final = 1
NEGLIGIBLE: Final = 1e-5
"""A bound this near to zero is zero: two fits that tell the same differ in their last digits."""
BARS: Final = "bars"


@dataclass(frozen=True)
class Block:
    """One family: its group and columns, whether members cannot do without it, and whether it is built by default.

    ``feeds``: what each column needs.
    """

    family: str
    group: str
    columns: tuple[str, ...]
    feeds: tuple[str, ...]
    needed: bool
    default: bool


def blocks(config: RunConfig) -> list[Block]:
    """The families of the configuration (all there are, unless it names some), in order of columns."""
    names = config.features.families or tuple(FAMILIES)
    told = FeaturePipeline(names, config.horizons, config.proxy).describe()
    default = FeaturePipeline.default().families
    return [
        Block(
            family,
            FAMILIES[family].group,
            tuple(told.loc[told["family"] == family, "name"]),
            tuple(told.loc[told["family"] == family, "feeds"]),
            family in NEEDED,
            family in default,
        )
        for family in names
    ]


def steps(found: Sequence[Block], *, by_family: bool) -> list[Step]:
    """The ladder, each group taken from the full set, and, if asked, each family.

    A family is added to the first rung (and, where it belongs there, compared with that rung without it), and taken from
    the full set. Families that members cannot do without are in every set.
    """
    groups = [group for group in get_args(Group) if any(block.group == group for block in found)]
    every = {block.family: block for block in found}
    needed = {block.family for block in found if block.needed}

    def of(some: Sequence[str]) -> set[str]:
        return {block.family for block in found if block.group in some}

    def step(subject: str, kind: Kind, base: set[str], full: set[str]) -> Step:
        without, whole = (tuple(family for family in every if family in families | needed) for families in (base, full))
        new = [every[family] for family in whole if family not in without]
        pairs = [pair for block in new for pair in zip(block.columns, block.feeds, strict=True) if pair[1] != BARS]
        # What is made of prices alone is always there, and tells nothing about the feeds of what stands beside it.
        return Step(
            subject, kind, without, whole, tuple(name for name, _ in pairs) or tuple(n for b in new for n in b.columns)
        )

    out = [step(group, "ladder", of(groups[:k]), of(groups[: k + 1])) for k, group in enumerate(groups) if k]
    out += [step(group, "removed", set(every) - of([group]), set(every)) for group in groups[1:]]
    if by_family:
        first, optional = of(groups[:1]), [family for family in every if family not in needed]
        out += [step(family, "family_added", first - {family}, first | {family}) for family in optional]
        out += [step(family, "family_removed", set(every) - {family}, set(every)) for family in optional]
    return out


def study(
    market: Market,
    config: RunConfig,
    *,
    start: pd.Timestamp | str,
    end: pd.Timestamp | str,
    out: str | Path,
    symbols: Sequence[str] | None = None,
    focus: str | None = None,
    by_family: bool = False,
    jobs: int = 2,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Study every feature of the market, on forecasts of ``start <= origin < end``, and write ``features.json`` to ``out``.

    ``config``: the recommended run changed by ``SETTINGS``. ``symbols`` are scored and described, all train; ``focus`` is
    one symbol, scored where a group's own feeds exist. ``engine``: where fits are made (None: by ``jobs`` processes of this
    machine). Finished fits are kept beside the document, and the document is the same to the byte when they are read again.

    Raises ``UsageError`` for a symbol that has no bar in the span or a start that leaves too little history, ``DataStale``
    where the data end before it, ``Locked``, and ``Interrupted`` when stopped.
    """
    if config.walkforward.exclude:
        raise UsageError("walkforward.exclude: the feature study learns from every symbol; leave it out")
    first, last, folder = utc(start), utc(end), Path(out)
    families = config.features.families or tuple(FAMILIES)
    config = config.model_copy(update={"features": Features(families=families)})
    with locking.writing(folder):
        material = prepare(market, config)
        chosen = [focus] if focus else sorted(set(symbols)) if symbols else list(material.symbols)
        folds = trainable(plan(material, config, first, last), material.rows, config)
        _check(chosen, material, first, last)
        found = blocks(config)
        document = _facts(config, found, chosen, focus, first, last) | {"data_sha256": market.data_sha256}
        document |= _quality(material, chosen, last, progress)
        document |= _worth(
            found, material, folds, config, document, folder, by_family, engine or Engine(jobs), progress
        )
        write_atomically(folder / "features.json", to_json_bytes(document))
    return document


def _check(symbols: Sequence[str], material: Material, start: pd.Timestamp, end: pd.Timestamp) -> None:
    inside = np.asarray((material.times >= start) & (material.times < end))
    for symbol in symbols:
        if symbol not in material.symbols:
            raise UsageError(f"symbol {symbol} has no bars in this market; it has {', '.join(material.symbols)}")
        if not material.alive[material.symbols.index(symbol), inside].any():
            raise UsageError(f"symbol {symbol} has no bar from {start:%Y-%m-%d} up to {end:%Y-%m-%d}; name other dates")


def _facts(
    config: RunConfig,
    found: Sequence[Block],
    symbols: Sequence[str],
    focus: str | None,
    start: pd.Timestamp,
    end: pd.Timestamp,
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "proxy": config.proxy,
        "start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "end": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "horizons": list(config.horizons),
        "symbols": list(symbols),
        "focus": focus,
        "members": [member.model_dump(mode="json") for member in config.members],
        "refit_months": config.walkforward.refit_months,
        "training_every_hours": EVERY_HOURS,
        "config_sha256": config.sha256,
        "families": [
            {
                "family": block.family,
                "group": block.group,
                "columns": list(block.columns),
                "needed": block.needed,
                "default": block.default,
            }
            for block in found
        ],
    }


def _quality(
    material: Material, symbols: Sequence[str], end: pd.Timestamp, progress: Progress | None
) -> dict[str, Any]:
    """Coverage, drift and clusters of the symbols' rows before ``end``."""
    rows = material.rows
    kept = np.isin(rows.symbol, pd.Index(rows.symbols).get_indexer(pd.Index(list(symbols)))) & (
        rows.origin < micros(end)
    )
    if not kept.all():
        rows = replace(
            rows,
            features=rows.features[kept],
            variance=rows.variance[kept],
            symbol=rows.symbol[kept],
            origin=rows.origin[kept],
        )
    told = {}
    parts: Mapping[str, Callable[[Rows], Any]] = {"coverage": coverage, "drift": drift, "clusters": clusters}
    for done, (name, describe) in enumerate(parts.items(), start=1):
        told[name] = describe(rows)
        if progress is not None:
            progress("quality", done, len(parts))
    return told


def _worth(
    found: Sequence[Block],
    material: Material,
    folds: Sequence[Fold],
    config: RunConfig,
    facts: Mapping[str, Any],
    folder: Path,
    by_family: bool,
    engine: Engine,
    progress: Progress | None,
) -> dict[str, Any]:
    """Steps with their gains and verdicts, levels, shock days and folds."""
    first, last, focus = utc(facts["start"]), utc(facts["end"]), facts["focus"]
    planned = steps(found, by_family=by_family)
    sets = list(dict.fromkeys(families for step in planned for families in (step.base, step.full)))
    arms = [REFERENCES, *(Arm(families, "signals", focus) for families in sets)]
    arms += [Arm(families, "own", focus) for families in sets if focus]
    columns = {block.family: block.columns for block in found}
    data = facts["data_sha256"]
    forecasts = forecast(arms, columns, material, folds, config, data, folder / FOLDS, engine, progress)
    scores = gains(planned, forecasts, material, config, folds, first, last, facts["symbols"], focus)
    judged = [
        {"subject": step.subject, "kind": step.kind, "base": list(step.base), "full": list(step.full)}
        | verdict([row for row in scores.steps if _same(row, step)])
        for step in planned
    ]
    return {
        "verdicts": judged,
        "steps": scores.steps,
        "levels": scores.levels,
        "shock_days": scores.shock_days,
        "warmup_folds": sum(fold.index < 0 for fold in folds),
        "scored_folds": sum(fold.index >= 0 for fold in folds),
    }


def _same(row: Mapping[str, Any], step: Step) -> bool:
    return (row["subject"], row["kind"], row["model"]) == (step.subject, step.kind, LOG_MEAN)


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """One word on a step, and why, from its rows over horizons: ``pays``, ``harms``, ``no evidence`` or ``not scored``.

    It pays where some joint interval (of the QLIKE saved or of the change in onset skill, 90 % for all of them at once) lies
    above zero and none lies below; it harms where any lies below.
    """
    scored = [
        (f"{told} at {row['horizon_hours']} h", row[f"{name}_joint_low"], row[f"{name}_joint_high"])
        for name, told in (("gain", "QLIKE"), ("onset", "onset skill"))
        for row in rows
        if row[f"{name}_joint_low"] is not None
    ]
    if not scored:
        return {"verdict": "not scored", "reason": "no hour of the span has feeds that a fit could learn from"}
    better = [what for what, low, _ in scored if low > NEGLIGIBLE]
    worse = [what for what, _, high in scored if high < -NEGLIGIBLE]
    word = "harms" if worse else "pays" if better else "no evidence"
    parts = [f"better: {', '.join(better)}"] if better else []
    parts += [f"worse: {', '.join(worse)}"] if worse else []
    return {"verdict": word, "reason": "; ".join(parts) or f"all {len(scored)} intervals contain zero"}
