"""What the boosted trees do with a feature, on rows that did not train them: accumulated local effects.

For each feature, rows are cut at its quantiles; within a bin the prediction is compared at the bin's two edges, everything
else of the row as it is, and the mean differences are added up over the bins. Unlike a partial dependence it never asks the
trees about rows that cannot be, and unlike split gain it is measured out of sample and has a sign and a shape. Reference:
Apley and Zhu (2020), J. Royal Statistical Society B 82.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.boosting import LightGBM
from models.shapley import grouped_shapley
from models.training_rows import evenly

__all__ = ["accumulated", "effects", "strength"]

Array = npt.NDArray[np.float64]

ROWS: Final = 400
BINS: Final = 10
FEATURES: Final = 10


def effects(member: LightGBM, X: pd.DataFrame) -> pd.DataFrame:
    """The effects of the strongest features on ``ln F`` by horizon, on evenly spread rows of ``X``.

    Columns: horizon_hours, feature, value (a bin's edge), effect (on ``ln F`` there, its mean over the rows zero), rows (half
    of those in the bins on either side). Strongest by the mean absolute Shapley value on the same rows.
    """
    sample = X.iloc[evenly(len(X), ROWS)]
    names, told = member.feature_names_, []
    for j, h in enumerate(member.horizons_):
        inputs = member.inputs(sample, j)
        inputs = inputs[np.isfinite(inputs[:, -1])]
        alone = np.arange(len(names))
        values = grouped_shapley(member.boosters_[j], inputs, alone, len(names), member.num_threads)
        strongest = np.argsort(-np.abs(values[:, :-1]).mean(axis=0), kind="stable")[:FEATURES]
        for k in strongest:
            edges, effect, rows = accumulated(partial(member.raw, j), inputs, int(k))
            told.append(
                pd.DataFrame({"horizon_hours": h, "feature": names[k], "value": edges, "effect": effect, "rows": rows})
            )
    return pd.concat(told, ignore_index=True)


def accumulated(
    predict: Callable[[Array], Array], inputs: Array, k: int, bins: int = BINS
) -> tuple[Array, Array, Array]:
    """Edges, accumulated local effects there, and the rows that stand for each, of feature ``k``.

    ``predict`` maps (n_rows, n_features) to (n_rows,). Rows without the feature are left out; a feature that does not vary
    has one edge, and no effect.
    """
    known = inputs[np.isfinite(inputs[:, k])]
    x = known[:, k]
    edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1), method="inverted_cdf")) if len(x) else np.zeros(1)
    if len(edges) == 1:
        return edges, np.zeros(1), np.array([float(len(x))])
    # The first bin is closed on both sides, the others on the right.
    into = np.maximum(np.searchsorted(edges, x, side="left"), 1)
    low, high = known.copy(), known
    low[:, k], high[:, k] = edges[into - 1], edges[into]
    change = np.asarray(predict(np.vstack([low, high])))
    count = np.bincount(into - 1, minlength=len(edges) - 1).astype(np.float64)
    local = np.bincount(into - 1, weights=change[len(x) :] - change[: len(x)], minlength=len(edges) - 1) / count
    effect = np.concatenate([[0.0], np.cumsum(local)])
    rows = (np.append(count, 0.0) + np.append(0.0, count)) / 2
    return edges, effect - np.average(effect, weights=rows), rows


def strength(effects: pd.DataFrame) -> pd.DataFrame:
    """The standard deviation of each feature's effect on ``ln F`` over the rows, by horizon; NaN where it is not told.

    ``effects`` as from ``effects``, of several members by a column member; gives (member, feature) by horizons.
    """
    if effects.empty:
        return pd.DataFrame()
    by = [effects[name] for name in ("member", "feature", "horizon_hours")]
    mean_square = (effects["rows"] * effects["effect"] ** 2).groupby(by).sum() / effects["rows"].groupby(by).sum()
    return pd.DataFrame(np.sqrt(mean_square.unstack("horizon_hours")))
