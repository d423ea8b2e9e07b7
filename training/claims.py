"""The tests behind "this model is better", on the common sample of one horizon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.comparison import BLOCK_DAYS, diebold_mariano, gain, giacomini_white, newey_west_lags
from training.multiplicity import deflated, sign_test, superior_ability
from training.sample import Sample
from training.scorecard import nullable

__all__ = ["equal_ability", "superiority"]

FloatArray = npt.NDArray[np.float64]

_FEWEST_DAYS: Final = 2 * BLOCK_DAYS


def equal_ability(
    sample: Sample, model: str, opponent: str, now: FloatArray | None = None, tried: int = 1
) -> dict[str, Any]:
    """Equal ability of two models on ``qlike_x``, all symbols together.

    Args:
        sample: the common sample.
        model: negative statistics are in its favour.
        opponent: the other.
        now: class of the trailing interval at each origin, symbols × hours; null where unknown.
        tried: configurations that were ever scored.

    Returns:
        ``dm_statistic`` and ``dm_p`` of Diebold and Mariano on the mean over the symbols of each hour, ``deflated_p`` by what
        was tried, ``sign_p`` over symbols, and p-values of Giacomini and White given a constant and the difference one
        horizon ago (``gw_lagged_p``) or the regime at the origin (``gw_regime_p``, with the t statistic of each, crisis
        counted as stress). Null where the window is too short.
    """
    own, other = (
        np.where(sample.shocked, np.nan, sample.qlike[sample.models.index(name)]) for name in (model, opponent)
    )
    found = gain(own, other, sample.days, reps=0)
    told: dict[str, Any] = {"opponent": opponent, "sign_p": nullable(sign_test(found.better, found.symbols))}
    told |= dict.fromkeys(("dm_statistic", "dm_p", "deflated_p", "gw_lagged_p", "gw_regime_p"))
    told |= dict.fromkeys(("t_calm", "t_normal", "t_stress"))
    known = np.isfinite(own) & np.isfinite(other)
    hours = known.any(axis=0)
    if hours.sum() <= 2 * newey_west_lags(sample.horizon):
        return told
    first, second = (np.where(known, loss, 0.0).sum(axis=0)[hours] / known.sum(axis=0)[hours] for loss in (own, other))
    dm = diebold_mariano(first, second, sample.horizon)
    told |= {"dm_statistic": dm.statistic, "dm_p": dm.p_value, "deflated_p": deflated(dm.p_value, tried)}
    # What was resolved by the origin: the difference one horizon ago.
    lagged = np.full_like(own, np.nan)
    lagged[:, sample.horizon :] = (own - other)[:, : -sample.horizon]
    told["gw_lagged_p"] = giacomini_white(own, other, [np.ones_like(own), lagged], sample.horizon).p_value
    # Under 90 days of history no symbol has a regime.
    if now is not None and (known & ~np.isnan(now)).any(axis=0).sum() > 2 * newey_west_lags(sample.horizon):
        unknown = np.isnan(now)
        classes = [np.where(unknown, np.nan, at) for at in (now == 0, now == 1, now >= 2)]
        by_regime = giacomini_white(own, other, classes, sample.horizon)
        told["gw_regime_p"] = by_regime.p_value
        told |= zip(("t_calm", "t_normal", "t_stress"), map(nullable, by_regime.t), strict=True)
    return told


def superiority(sample: Sample, benchmarks: Sequence[str], tried: int = 1) -> Iterator[dict[str, Any]]:
    """Whether any of all the other models beats each benchmark, on daily means over symbols of ``qlike_x``.

    Yields:
        ``benchmark``, number of ``alternatives``, the ``best`` of them, Hansen's ``spa_p`` with its bounds, White's
        ``reality_check_p``, ``tried`` and the ``deflated_p``. Nothing where the window is shorter than two blocks.
    """
    loss = sample.qlike_x
    compared = np.flatnonzero(np.isfinite(loss).any(axis=(1, 2)))
    names = [sample.models[m] for m in compared]
    loss = loss[compared]
    known = np.isfinite(loss).all(axis=0)
    _, starts = np.unique(sample.days, return_index=True)
    count = np.add.reduceat(known.sum(axis=0), starts)
    total = np.add.reduceat(np.where(known, loss, 0.0).sum(axis=1), starts, axis=1)[:, count > 0]
    daily = total / count[count > 0]
    for name in benchmarks:
        if name not in names or len(names) < 2 or daily.shape[1] < _FEWEST_DAYS:
            continue
        others = [k for k, other in enumerate(names) if other != name]
        found = superior_ability(daily[names.index(name)], daily[others].T)
        yield {
            "benchmark": name,
            "alternatives": len(others),
            "best": names[others[found.best]],
            "spa_p": found.p_value,
            "spa_lower": found.lower,
            "spa_upper": found.upper,
            "reality_check_p": found.reality_check,
            "tried": tried,
            "deflated_p": deflated(found.p_value, tried),
        }
