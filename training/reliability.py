"""How often what was given a probability came: reliability curves with bands that know of dependence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.errors import DataInvalid
from training.comparison import BLOCK_DAYS

__all__ = ["BINS", "Reliability", "reliability"]

FloatArray = npt.NDArray[np.float64]

BINS: Final = 10
_DRAWS: Final = 500
_SEED: Final = 20230701
# A sum of probabilities may miss one by its rounding.
_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Reliability:
    """Mean forecast probability and observed frequency per occupied bin of width 0.1, with the 90 % band and the rows."""

    forecast: FloatArray
    observed: FloatArray
    low: FloatArray
    high: FloatArray
    count: npt.NDArray[np.int64]


def reliability(probability: Any, outcome: Any, day: Any) -> Reliability:
    """The reliability curve (Murphy and Winkler 1977) of probabilities of outcomes 0 or 1.

    The band resamples blocks of ten days, all symbols together: hours of one storm are one event, not many.

    Args:
        probability: of every row, in [0, 1].
        outcome: 0 or 1.
        day: number of the row's day.

    Raises:
        DataInvalid: for no rows, different lengths, nulls, or probabilities outside [0, 1].
    """
    p, o, d = (np.asarray(values) for values in (probability, outcome, day))
    if p.ndim != 1 or not p.size or not p.shape == o.shape == d.shape:
        raise DataInvalid(f"shapes {p.shape}, {o.shape}, {d.shape}: pass rows of probability, outcome and day")
    if not ((p >= -_ROUNDING) & (p <= 1 + _ROUNDING)).all() or not np.isin(o, (0, 1)).all():
        raise DataInvalid("probabilities must lie in [0, 1] and outcomes be 0 or 1; drop rows without them")
    # A bin holds its lower edge; the last one both.
    of_bin = np.clip((p * BINS).astype(np.int64), 0, BINS - 1)
    block = d // BLOCK_DAYS - d.min() // BLOCK_DAYS
    blocks = int(block.max()) + 1
    cell = block * BINS + of_bin

    def per_block(weights: FloatArray | None = None) -> FloatArray:
        return np.bincount(cell, weights, blocks * BINS).astype(np.float64).reshape(blocks, BINS)

    n, sum_p, sum_o = per_block(), per_block(p), per_block(o)
    occupied = n.any(axis=0)
    n, sum_p, sum_o = n[:, occupied], sum_p[:, occupied], sum_o[:, occupied]
    drawn = np.random.default_rng(_SEED).integers(blocks, size=(_DRAWS, blocks))
    weights = np.stack([np.bincount(row, minlength=blocks) for row in drawn]).astype(np.float64)
    # A draw without any row of a bin says nothing about it.
    rows = np.einsum("db,bk->dk", weights, n)
    share = np.divide(np.einsum("db,bk->dk", weights, sum_o), rows, out=np.full(rows.shape, np.nan), where=rows > 0)
    low, high = np.nanquantile(share, [0.05, 0.95], axis=0)
    count = n.sum(axis=0)
    return Reliability(sum_p.sum(axis=0) / count, sum_o.sum(axis=0) / count, low, high, count.astype(np.int64))
