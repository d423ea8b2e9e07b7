"""What a claim is worth once everything that was tried, and everything that is claimed, is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from features.errors import DataInvalid
from training.comparison import BLOCK_DAYS, SEED, day_weights

__all__ = ["Superiority", "deflated", "holm", "sign_test", "superior_ability"]

FloatArray = npt.NDArray[np.float64]


class Superiority(NamedTuple):
    """Whether any alternative beats the benchmark, once the search for the best one is counted.

    ``p_value`` is Hansen's consistent one, between his ``lower`` and ``upper`` bound; ``reality_check`` is White's.
    ``best``: the alternative with the largest studentised gain.
    """

    p_value: float
    lower: float
    upper: float
    reality_check: float
    best: int


def superior_ability(
    benchmark: Any, alternatives: Any, *, block: int = BLOCK_DAYS, reps: int = 1000, seed: int = SEED
) -> Superiority:
    """Superior predictive ability over all alternatives at once (Hansen 2005), and White's reality check (2000).

    Null: no alternative has a lower expected loss than the benchmark. Pass every model or configuration that was tried,
    not the winners: leaving one out understates the p-value.

    Args:
        benchmark: daily losses, all symbols together, in order of time.
        alternatives: days × alternatives.
        block: mean length of the stationary bootstrap's blocks, in days.
        reps: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        DataInvalid: for shapes that do not match, nulls, or fewer than two blocks of days.
    """
    own, other = np.asarray(benchmark, dtype=np.float64), np.asarray(alternatives, dtype=np.float64)
    if other.ndim != 2 or own.shape != other.shape[:1] or not (np.isfinite(own).all() and np.isfinite(other).all()):
        raise DataInvalid(
            f"losses of shapes {own.shape}, {other.shape}: pass days, and days × alternatives, without nulls"
        )
    n = len(own)
    if n < 2 * block:
        raise DataInvalid(f"{n} days are too few for blocks of {block}; use a longer window")
    gains = own[:, None] - other
    drawn = np.einsum("rd,dk->rk", day_weights(n, reps, seed, block), gains) / n
    mean, error = gains.mean(axis=0), drawn.std(axis=0)
    # An alternative that is the benchmark itself can neither beat it nor lose.
    told_apart = error > 0
    if not told_apart.any():
        return Superiority(1.0, 1.0, 1.0, 1.0, 0)
    mean, error, drawn = mean[told_apart], error[told_apart], drawn[:, told_apart]
    reach = mean / error
    far_worse = reach < -np.sqrt(2.0 * np.log(np.log(n)))

    def p_value(centre: FloatArray, scale: FloatArray) -> float:
        drawn_largest = np.maximum(((drawn - centre) / scale).max(axis=1), 0.0)
        # Where no alternative is better even in the sample, nothing speaks against the null: every draw reaches 0.
        reached = int((drawn_largest >= max(float((mean / scale).max()), 0.0)).sum())
        return (1 + reached) / (reps + 1)

    return Superiority(
        p_value(np.where(far_worse, 0.0, mean), error),
        p_value(np.maximum(mean, 0.0), error),
        p_value(mean, error),
        p_value(mean, np.ones_like(error)),
        int(np.flatnonzero(told_apart)[reach.argmax()]),
    )


def sign_test(better: int, of: int) -> float:
    """Two-sided exact p-value of ``better`` successes ``of`` so many, under even odds.

    Symbols move together, so that they are fewer independent trials than their number: it describes.
    """
    return min(1.0, 2.0 * float(bdtr(min(better, of - better), of, 0.5))) if of else float("nan")


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of claims, adjusted so that any false claim at all is as rare as the level (Holm 1979).

    Claims without a p-value (nan) stay without one and do not count.
    """
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def deflated(p_value: float, tried: int) -> float:
    """The p-value of the best of ``tried`` configurations, ``1 - (1 - p)^tried`` (Šidák 1967).

    For tries of which no losses are left, so that ``superior_ability`` cannot count them. It is too large rather than too
    small where the tries resemble each other.
    """
    return float(-np.expm1(tried * np.log1p(-p_value))) if p_value < 1.0 else 1.0
