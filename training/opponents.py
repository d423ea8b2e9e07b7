"""B*: the classical opponent, chosen per horizon by its loss before the window that is judged, never after."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from training.evaluation import Evaluation
from training.fold_store import read_fold
from training.levelled import levelled, rows
from training.sample import samples
from training.splits import PurgedWalkForward
from training.walkforward import FOLDS

__all__ = ["CLASSICAL", "best_classical"]

CLASSICAL: Final = ("ewma", "garch", "gjr", "har", "har_wls", "har_seasonal", "harq", "har_x")
"""Which members may be B*."""


def best_classical(evaluation: Evaluation, start: pd.Timestamp) -> dict[int, dict[str, float]]:
    """Loss before ``start`` of each classical member, by horizon, the least first; empty without folds before ``start``.

    The members' out-of-sample forecasts of all folds before ``start``, warm-up folds among them, are put on the level of
    what was resolved, as in the product; the loss is ``qlike_x`` on their common sample, symbols with equal weight.
    """
    places = sorted((evaluation.out / FOLDS).iterdir())
    folds = [read_fold(place) for place in places if place.is_dir() and not place.name.startswith(".")]
    # The folder may still hold folds of an evaluation that was refitted at other times.
    borders = _borders(evaluation)
    before = [fold.forecasts for fold in folds if fold.first_origin in borders and fold.first_origin < start]
    if not before:
        return {}
    table = pd.concat(before).sort_index(kind="stable")
    members = [kind for kind in CLASSICAL if kind in table.columns.get_level_values(0)]
    symbols = tuple(sorted(set(table.index.get_level_values("symbol"))))
    origins = pd.DatetimeIndex(table.index.get_level_values("origin"))
    times = pd.date_range(origins.min(), min(origins.max(), start - pd.Timedelta(hours=1)), freq="h").as_unit("us")
    found = {}
    for h in evaluation.config.horizons:
        came = evaluation.realised[evaluation.realised.index.get_level_values("horizon_hours") == h]
        variance = came["variance"].droplevel("horizon_hours").unstack("origin").reindex(index=symbols, columns=times)
        grids = {kind: levelled(table[kind, h], variance.to_numpy(), symbols, times, h) for kind in members}
        # What ends by ``start`` was known by then.
        end = min(times[-1], start - pd.Timedelta(hours=h)) + pd.Timedelta(hours=1)
        [sample] = samples(rows(grids, symbols, times, h), came, times[0], end)
        scored = [model[np.isfinite(model).any(axis=1)] for model in sample.qlike_x]
        losses = {name: float(np.nanmean(x, axis=1).mean()) for name, x in zip(sample.models, scored, strict=True)}
        found[h] = dict(sorted(losses.items(), key=lambda item: item[1]))
    return found


def _borders(evaluation: Evaluation) -> set[pd.Timestamp]:
    """When the evaluation's folds begin, warm-up folds among them."""
    settings = evaluation.config.walkforward
    warmup = -(-settings.warmup_months // settings.refit_months)
    folds = PurgedWalkForward(
        evaluation.start, evaluation.end, step=f"{settings.refit_months}MS", warmup=warmup
    ).folds()
    return {fold.test_start for fold in folds}
