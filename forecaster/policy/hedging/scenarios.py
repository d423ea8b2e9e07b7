"""Weighted return draws from a predictive law and the stress library, and the expected shortfall over them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from features.errors import DataInvalid
from models.base import RETURN_LEVELS

__all__ = ["expected_shortfall", "predictive_draws", "tail_weights", "with_stress"]

Floats = npt.NDArray[np.float64]

LEVELS: Final = np.array(list(RETURN_LEVELS.values()))
# Cells of probability: fine in both tails, where shortfalls are made, coarse between.
_TAIL: Final = np.geomspace(1e-5, 0.05, 40)
EDGES: Final = np.concatenate([[0.0], _TAIL, np.linspace(0.05, 0.95, 61)[1:-1], 1 - _TAIL[::-1], [1.0]])
WEIGHTS: Final = np.diff(EDGES)
_SCORES: Final = ndtri((EDGES[1:] + EDGES[:-1]) / 2)
_LEFT: Final = np.clip(np.searchsorted(ndtri(LEVELS), _SCORES) - 1, 0, len(LEVELS) - 2)
_SHARE: Final = (_SCORES - ndtri(LEVELS)[_LEFT]) / np.diff(ndtri(LEVELS))[_LEFT]


def predictive_draws(quantiles: Floats) -> tuple[Floats, Floats]:
    """Log returns (n, m) and weights (m,) of laws given by their quantiles (n, 11) at ``RETURN_LEVELS``.

    The quantile function is linear in the normal score between the published levels and goes on beyond the outermost
    two at their slope. The draws are the same at every call: cells of probability, each at its middle.

    Raises DataInvalid naming the first law whose quantiles are not numbers or fall.
    """
    bad = ~np.isfinite(quantiles).all(axis=1) | (np.diff(quantiles, axis=1) < 0).any(axis=1)
    if bad.any():
        raise DataInvalid(
            f"law {int(bad.argmax())}: return quantiles must be numbers that never fall; mark it unusable"
        )
    return quantiles[:, _LEFT] * (1 - _SHARE) + quantiles[:, _LEFT + 1] * _SHARE, WEIGHTS.copy()


def with_stress(draws: Floats, weights: Floats, moves: Floats, weight: float) -> tuple[Floats, Floats]:
    """Draws (n, m + k) and weights (n, m + k) with the stress library's log returns ``moves`` (n, k) mixed in.

    A line's stresses share the mass ``weight``; a NaN move stands for none and its mass stays with the others.
    """
    known = ~np.isnan(moves)
    count = known.sum(axis=1, keepdims=True)
    each = np.where(known, weight / np.maximum(count, 1), 0.0)
    rest = np.where(count > 0, 1 - weight, 1.0) * weights
    return np.concatenate([draws, np.where(known, moves, 0.0)], axis=1), np.concatenate([rest, each], axis=1)


def tail_weights(losses: Floats, weights: Floats, level: float) -> Floats:
    """Weights (n, m), summing to 1 a line, of the worst 1 - ``level`` of the mass; the draw at the edge enters in part."""
    order = np.argsort(-losses, axis=-1, kind="stable")
    mass = np.take_along_axis(np.broadcast_to(weights, losses.shape), order, axis=-1)
    before = np.cumsum(mass, axis=-1) - mass
    taken = np.clip(1 - level - before, 0.0, mass) / (1 - level)
    out = np.empty_like(taken)
    np.put_along_axis(out, order, taken, axis=-1)
    return out


def expected_shortfall(losses: Floats, weights: Floats, level: float) -> Floats:
    """Mean of the worst 1 - ``level`` of the mass, (n,): CVaR of a discrete law (Rockafellar and Uryasev 2002)."""
    return np.asarray((losses * tail_weights(losses, weights, level)).sum(axis=-1))
