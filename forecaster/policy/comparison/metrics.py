"""What a margin costs and what it covers, from margins and prices alone. Fractions are plain; n rows of one pool."""

from __future__ import annotations

from typing import Final

import numpy as np

from features.panel import Array
from forecaster.policy.observables import DAY

from .ground import MISS, Floats, Mask
from .scaling import matching_scale

__all__ = ["RISES", "coverage_metrics", "movement_metrics"]

RISES: Final = {"max_rise_1d": 1, "max_rise_5d": 5, "max_rise_30d": 30}
"""Days over which the largest relative rise is taken."""


def coverage_metrics(margin: Floats, excursion: Floats, scale: float | None = None) -> dict[str, float]:
    """Level, coverage and scores of margins (n,) over the larger 24 h excursions (n,) of the same origins.

    ``mean_im``; ``coverage_24h_995``, the share of excursions within the margin; ``es_beyond_margin``, the mean of
    max(0, excursion - margin); ``pinball_995``, the pinball loss of the margin as the 99.5 % quantile;
    ``matched_mean_im``, the mean margin times ``scale``, by default the one at which exactly 99.5 % lie within. All nan
    without rows.
    """
    names = ("mean_im", "coverage_24h_995", "es_beyond_margin", "pinball_995", "matched_mean_im")
    if not len(margin):
        return dict.fromkeys(names, float("nan"))
    mean = float(margin.mean())
    beyond = float(np.maximum(0.0, excursion - margin).mean())
    scale = matching_scale(excursion / margin) if scale is None else scale
    values = (
        mean,
        float((excursion <= margin).mean()),
        beyond,
        beyond + MISS * (mean - float(excursion.mean())),
        scale * mean,
    )
    return dict(zip(names, values, strict=True))


def movement_metrics(margin: Array, within: Mask) -> dict[str, Floats]:
    """How far margins (n_symbols, n_hours) move inside ``within``: one value a symbol, nan where it has none.

    ``peak_to_trough``: largest over least margin; ``max_rise_nd``: largest ``IM(t + n) / IM(t) - 1``, both hours inside
    (Murphy, Vasios and Vause 2014, "An investigation into the procyclicality of risk-based initial margin models").
    """
    inside = np.where(within, margin, np.nan)
    with np.errstate(invalid="ignore"):
        top, bottom = (_reduced(pick, inside) for pick in (np.fmax, np.fmin))
        out = {"peak_to_trough": top / bottom}
        for name, days in RISES.items():
            later, earlier = inside[:, days * DAY :], inside[:, : -days * DAY]
            # Margins are whole ppm, so that less than 1e-9 of a rise is only the rounding of their fractions.
            out[name] = np.round(_reduced(np.fmax, later / earlier - 1), 9)
    return out


def _reduced(pick: np.ufunc, x: Array) -> Floats:
    """Over the hours of each symbol, nan where all are."""
    if not x.shape[1]:
        return np.full(len(x), np.nan)
    return np.asarray(pick.reduce(x, axis=1))
