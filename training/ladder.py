"""The ablation ladder: what each group of data adds, rung by rung, and what machine learning adds on each rung.

Folds, rows and levels are those of the feature study (see ``training.feature_arms``). Data are judged by the step from one
rung to the next of the same model, the linear twin, the boosted member and their log mean; machine learning by the step
from the linear twin to the boosted member on the same rung.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features import locking
from features.errors import UsageError
from features.market import Market
from features.pipeline import FAMILIES
from features.store import write_atomically
from training.comparison import gain
from training.config import Features, RunConfig
from training.engine import Engine, Progress
from training.evaluation import CLIMATOLOGY
from training.feature_arms import LOG_MEAN, REFERENCES, RIDGE, Arm, Forecasts, forecast, trainable
from training.feature_gains import Step, gains
from training.feature_study import blocks, steps
from training.folds import code_sha256
from training.goals import Figure
from training.levelled import rows
from training.material import Material, prepare
from training.sample import samples
from training.scorecard import nullable, to_json_bytes
from training.walkforward import FOLDS, plan

__all__ = ["ALL_FEEDS", "DOCUMENT", "figures", "ladder"]

DOCUMENT: Final = "ladder.json"
ALL_FEEDS: Final = "all feeds"
BOOSTED: Final = "lightgbm"


def ladder(
    market: Market,
    config: RunConfig,
    *,
    start: pd.Timestamp,
    end: pd.Timestamp,
    out: str | Path,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Climb the ladder on forecasts of ``start <= origin < end``, and write ``ladder.json``.

    ``config``: the recommended run changed by ``feature_study.SETTINGS``. Finished fits are kept in ``out``. Raises
    ``UsageError`` where it lacks the two members, or the start leaves too little history.
    """
    if missing := sorted({RIDGE, BOOSTED} - {member.kind for member in config.members}):
        raise UsageError(f"members has no {missing[0]}: the ladder compares {RIDGE} with {BOOSTED}; add it")
    if config.walkforward.exclude:
        raise UsageError("walkforward.exclude: the ladder learns from every symbol; leave it out")
    families = config.features.families or tuple(FAMILIES)
    config, folder = config.model_copy(update={"features": Features(families=families)}), Path(out)
    found = blocks(config)
    planned = [step for step in steps(found, by_family=False) if step.kind == "ladder"]
    if not planned:
        raise UsageError("features.families are all of one group: there is no ladder to climb; name more of them")
    with locking.writing(folder):
        material = prepare(market, config)
        folds = trainable(plan(material, config, start, end), material.rows, config)
        first, last = planned[0].base, planned[-1].full
        fed = tuple(name for step in planned for name in step.columns)
        planned.append(Step(ALL_FEEDS, "ladder", first, last, fed))
        rungs = list(dict.fromkeys(families for step in planned for families in (step.base, step.full)))
        columns = {block.family: block.columns for block in found}
        made = forecast(
            [REFERENCES, *map(Arm, rungs)], columns, material, folds, config, market.data_sha256, folder / FOLDS,
            engine or Engine(), progress,
        )  # fmt: skip
        scores = gains(planned, made, material, config, folds, start, end, material.symbols)
        group = {block.family: block.group for block in found}
        document = {
            "schema_version": 1,
            "proxy": config.proxy,
            "config_sha256": config.sha256,
            "data_sha256": market.data_sha256,
            "code_sha256": code_sha256(),
            "start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
            "end": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            "symbols": list(material.symbols),
            "rungs": [
                {"groups": list(dict.fromkeys(group[f] for f in rung)), "families": list(rung)} for rung in rungs
            ],
            "data": scores.steps,
            "levels": scores.levels,
            "learning": _learning(made, rungs, material, config, start, end),
            "shock_days": scores.shock_days,
        }
        write_atomically(folder / DOCUMENT, to_json_bytes(document))
    return document


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """The figure of goal A8: what all feeds add to history alone, for the log mean of the two members."""
    return {
        f"all feeds over history alone, {row['horizon_hours']} h": Figure.of(
            row["gain"], row["gain_low"], row["gain_high"], why="log mean of har_x and lightgbm, all symbols and hours"
        )
        for row in document["data"]
        if row["subject"] == ALL_FEEDS and row["model"] == LOG_MEAN
    }


def _learning(
    made: Mapping[Arm, Forecasts],
    rungs: Sequence[tuple[str, ...]],
    material: Material,
    config: RunConfig,
    start: pd.Timestamp,
    end: pd.Timestamp,
) -> list[dict[str, Any]]:
    """What the boosted member saves of the linear twin's loss on every rung, by horizon."""
    realised, out = material.realised(start - CLIMATOLOGY, end), []
    for h in config.horizons:
        came = realised[realised.index.get_level_values("horizon_hours") == h]
        classical = {model: grid for (model, at), grid in made[REFERENCES].log_variance.items() if at == h}
        for rung in rungs:
            arm = made[Arm(rung)]
            grids = classical | {model: arm.log_variance[model, h] for model in (RIDGE, BOOSTED)}
            table = rows(grids, material.symbols, material.times[arm.span], h)
            [sample] = samples(table, came, start, end)
            own, twin = (sample.qlike_x[sample.models.index(model)] for model in (BOOSTED, RIDGE))
            found = gain(own, twin, sample.days)
            out.append(
                {
                    "families": list(rung),
                    "horizon_hours": h,
                    "gain": nullable(found.value),
                    "low": nullable(found.low),
                    "high": nullable(found.high),
                    "symbols_better": found.better,
                    "symbols": found.symbols,
                }
            )
    return out
