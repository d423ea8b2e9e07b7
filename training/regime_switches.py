"""How often the forecast regime changes, against that of a filtered hidden Markov model at the same log-loss.

A regime that changes with every hour is of no use, and one that never changes tells nothing: rates compare at equal
log-loss only. The decided regime is the class with the largest forecast probability. Both forecasts are smoothed
exponentially, probabilities and thereby decisions, each with the longest half-life at which its log-loss is no larger than
that of the worse of the two as they come: steadiness is paid for in the loss, and the loss alone sets it.

The opponent is a Gaussian hidden Markov model (Hamilton 1989) of each symbol's log trailing variance over its own threshold,
one state a class. Its forecast is P(s_t | data <= t) times the frequencies of the classes after each state. Parameters and
frequencies are learnt on the newest year of what is known at the first scored origin, and again every 30 days. Two years,
quarters, trailing hours and variances without the threshold all gave it a larger log-loss from 2022-01 to 2023-06.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from features.errors import DataInvalid
from models.base import REGIMES
from models.states.hmm import GaussianHMM
from training import losses
from training.comparison import gain
from training.sample import scored

__all__ = ["Switches", "compare", "hmm_probabilities", "smoothed", "switched"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FIT_HOURS: Final = 365 * 24
MINIMUM_HOURS: Final = 90 * 24
REFIT_HOURS: Final = 30 * 24
# A market that stood still has a spread of nearly nothing, and no states.
SMALLEST_SPREAD: Final = 1e-3
# Nats over the whole history: more digits of a likelihood cost iterations and move no decision.
TOLERANCE: Final = 1e-2
PRIOR_HOURS: Final = 168.0
"""Weight of the classes' frequencies over all states in those of one state."""
NOMINAL: Final = np.array([0.30, 0.60, 0.075, 0.025])
"""Frequencies that the thresholds' levels name, counted as a week beside those found."""
HALF_LIVES: Final = np.concatenate([[0.0], np.geomspace(1.0, 1024.0, 31)])
"""Hours at which equality is looked for, before it is narrowed down between two of them."""
BISECTIONS: Final = 12
HOURS_PER_YEAR: Final = 8760.0


class Switches(NamedTuple):
    """Switch rates at equal log-loss.

    ``change``: own rate over the model's, less one, with its 90 % interval by date (``low``, ``high``) at these half-lives;
    not finite where the model never switches. ``own`` and ``hmm``: switches a symbol-year; ``as_forecast``: both without any
    smoothing; ``log_loss``: of both without any; ``half_life``: hours of the smoothing of each; ``equal``: whether the losses
    meet, or the longest half-life was not long enough.
    """

    change: float
    low: float
    high: float
    own: float
    hmm: float
    as_forecast: tuple[float, float]
    log_loss: tuple[float, float]
    half_life: tuple[float, float]
    equal: bool


def hmm_probabilities(log_variance: Any, regime: Any, first: int, horizon: int) -> FloatArray:
    """Class probabilities (symbols × hours × classes) of the filtered model, null before column ``first``.

    Args:
        log_variance: of the trailing interval, less the log of its threshold; symbols × hours, null where unknown.
        regime: class of the interval that begins at each hour and lasts ``horizon`` hours, null where unknown.
        first: the first column to forecast; the columns before it are history.
        horizon: hours.

    A symbol is forecast from its first 90 days of history on; where no model of two states or more is certified, not until
    the next refit. Nothing at a column depends on a log variance
    after it, or on a class whose interval ends after it.
    """
    x, came = np.asarray(log_variance, dtype=np.float64), np.asarray(regime, dtype=np.float64)
    if x.ndim != 2 or x.shape != came.shape or not 0 <= first <= x.shape[1]:
        raise DataInvalid(
            f"log variances {x.shape}, regimes {came.shape}, first column {first}: pass two grids of the same symbols and "
            "hours, and a column of theirs"
        )
    out = np.full((*x.shape, len(REGIMES)), np.nan)
    for series, classes, p in zip(x, came, out, strict=True):
        learnt = int(np.searchsorted(np.cumsum(np.isfinite(series)), MINIMUM_HOURS))
        for cut in range(max(first, learnt), x.shape[1], REFIT_HOURS):
            begin, end = max(cut + 1 - FIT_HOURS, 0), min(cut + REFIT_HOURS, x.shape[1])
            if (model := _fitted(series[begin : cut + 1])) is None:
                continue
            state = model.filter(series[begin:end])
            resolved = max(cut + 1 - horizon - begin, 0)
            followed = _frequencies(state[:resolved], classes[begin : begin + resolved])
            known = np.isfinite(series[cut:end])
            p[cut:end][known] = (state[cut - begin :] @ followed)[known]
    return out


def smoothed(probabilities: FloatArray, half_life: float) -> FloatArray:
    """Exponentially smoothed in time (symbols × hours × classes) with a half-life in hours; 0: as they are.

    Hours without a probability stay so, and the smoothing goes on behind them.
    """
    return _smoothed(probabilities, 0.5 ** (1.0 / half_life) if half_life > 0.0 else 0.0)


def switched(probabilities: FloatArray) -> FloatArray:
    """1 where the likeliest class is not that of the hour before, 0 where it is, null where either is unknown."""
    known = np.asarray(np.isfinite(probabilities).all(axis=2))
    likeliest = np.where(known, np.nan_to_num(probabilities).argmax(axis=2), -1)
    out = np.full(known.shape, np.nan)
    both = known[:, 1:] & known[:, :-1]
    out[:, 1:][both] = (likeliest[:, 1:] != likeliest[:, :-1])[both]
    return out


def compare(own: FloatArray, hmm: FloatArray, regime: FloatArray, days: IntArray) -> Switches | None:
    """Switch rates of two forecasts (symbols × hours × classes) at equal log-loss, on the hours both forecast.

    ``regime`` (symbols × hours): the class that came; ``days``: the hours' day numbers, ascending. Symbols count by
    their hours. None where nothing can be compared.
    """
    known = np.isfinite(own).all(axis=2) & np.isfinite(hmm).all(axis=2) & np.isfinite(regime)
    forecasts = [np.where(known[:, :, None], p, np.nan) for p in (own, hmm)]
    if not np.isfinite(switched(forecasts[0])).any():
        return None
    loss = (_log_loss(forecasts[0], regime), _log_loss(forecasts[1], regime))
    ends = [_steadiest(p, regime, max(loss)) for p in forecasts]
    rows = [switched(smoothed(p, half_life)) for p, (half_life, _) in zip(forecasts, ends, strict=True)]
    # Both know the same hours, so that sums over symbols compare as rates do.
    totals = [np.nansum(row, axis=0)[None] for row in rows]
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw, or all of them, may be without a switch of the model
        found = gain(totals[0], totals[1], days)
    return Switches(
        -found.value, -found.high, -found.low, _rate(rows[0]), _rate(rows[1]),
        (_rate(switched(forecasts[0])), _rate(switched(forecasts[1]))), loss, (ends[0][0], ends[1][0]),
        all(equal for _, equal in ends),
    )  # fmt: skip


def _rate(row: FloatArray) -> float:
    return float(np.nanmean(row) * HOURS_PER_YEAR)


def _steadiest(p: FloatArray, regime: FloatArray, target: float) -> tuple[float, bool]:
    """The longest half-life at which the log-loss is at most ``target``, and whether a longer one exceeds it."""
    allowed = [_log_loss(smoothed(p, h), regime) <= target for h in HALF_LIVES]
    last = int(np.flatnonzero(allowed)[-1])
    if last == len(HALF_LIVES) - 1:
        return float(HALF_LIVES[last]), False
    low, high = float(HALF_LIVES[last]), float(HALF_LIVES[last + 1])
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _log_loss(smoothed(p, middle), regime) <= target else (low, middle)
    return low, True


def _log_loss(p: FloatArray, regime: FloatArray) -> float:
    return scored(losses.log_loss, regime.ravel(), p.reshape(-1, p.shape[2]))


def _fitted(past: FloatArray) -> GaussianHMM | None:
    """With as many states as classes, or as many as a certified fit can tell apart."""
    if not np.nanstd(past) > SMALLEST_SPREAD:
        return None
    fits = (GaussianHMM(k, tolerance=TOLERANCE).fit(past) for k in range(len(REGIMES), 1, -1))
    return next((model for model in fits if model.certificate_.certified), None)


def _frequencies(state: FloatArray, regime: FloatArray) -> FloatArray:
    """P(class | state), states × classes, from filtered probabilities (hours × states) and the classes that came."""
    known = np.isfinite(regime)
    came = np.eye(len(REGIMES))[regime[known].astype(np.intp)]
    everywhere = (came.sum(axis=0) + PRIOR_HOURS * NOMINAL) / (len(came) + PRIOR_HOURS)
    counted = state[known].T @ came + PRIOR_HOURS * everywhere
    return np.asarray(counted / counted.sum(axis=1, keepdims=True))


@numba.njit(cache=True)
def _smoothed(p: FloatArray, keep: float) -> FloatArray:
    out = np.full_like(p, np.nan)
    for i in range(p.shape[0]):
        begun = False
        level = np.zeros(p.shape[2])
        for t in range(p.shape[1]):
            if np.isnan(p[i, t]).any():
                continue
            level = keep * level + (1.0 - keep) * p[i, t] if begun else p[i, t].copy()
            begun = True
            out[i, t] = level
    return out
