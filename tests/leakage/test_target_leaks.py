"""Planted leaks of targets: intervals of the wrong hours, thresholds and classes that know what comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from features import kernels, targets
from features.targets import THRESHOLD_HOURS

Array = np.ndarray[Any, np.dtype[np.float64]]
LONG = {"table": "targets", "of": "long_market", "horizons": (1, 24), "families": ("calendar",), "cuts": 12}
THRESHOLDS = {"threshold_normal", "threshold_stress", "threshold_crisis"}


def earlier(x: Array, hours: int) -> Array:
    out = np.full_like(x, np.nan)
    out[..., : x.shape[-1] - hours] = x[..., hours:]
    return out


def test_regime_smoothed(trial: Any) -> None:
    shipped = targets._regime

    def smoothed(variance: Array, thresholds: Array) -> Array:
        classes = pd.DataFrame(shipped(variance, thresholds).T)
        return classes.rolling(5, center=True, min_periods=1).median().where(classes.notna()).to_numpy().T

    trial.plant(targets, "_regime", smoothed)
    trial.is_found_by("prefix", {"regime_now"}, only="regime|onset", **LONG)


def test_thresholds_of_the_whole_sample(trial: Any) -> None:
    def whole(x: Array, length: int, minimum: int, levels: Array) -> Array:
        return np.repeat(pd.DataFrame(x.T).quantile(levels).to_numpy()[:, :, None], x.shape[1], axis=2)

    trial.plant(kernels, "trailing_quantiles", whole)
    trial.is_found_by("prefix", THRESHOLDS, only="threshold|regime|onset", **LONG)


def test_thresholds_read_intervals_that_have_not_ended(trial: Any) -> None:
    shipped = kernels.trailing_quantiles

    def unresolved(x: Array, length: int, minimum: int, levels: Array) -> Array:
        return shipped(earlier(x, THRESHOLD_HOURS - length), length, minimum, levels)

    trial.plant(kernels, "trailing_quantiles", unresolved)
    trial.is_found_by("prefix", THRESHOLDS, only="threshold|regime|onset", **LONG)


def test_target_one_bar_early(trial: Any) -> None:
    shipped = targets._ahead
    trial.plant(targets, "_ahead", lambda x, h: shipped(x, h - 1))
    only = "variance|log_return|mae|regime|onset"
    trial.is_found_by("prefix", {"variance", "log_return"}, only=only, **LONG)


def test_interval_shifted_by_an_hour(trial: Any) -> None:
    shipped = targets._ahead
    trial.plant(targets, "_ahead", lambda x, h: shipped(x, h + 1))
    only = "variance|log_return|mae|regime|onset"
    trial.is_found_by("prefix", {"variance", "log_return"}, only=only, **LONG)


def test_excursion_overlaps_the_next_interval(trial: Any) -> None:
    shipped = targets._extremes_ahead

    def longer(low: Array, high: Array, h: int) -> tuple[Array, Array]:
        return shipped(low, high, h + 1)

    trial.plant(targets, "_extremes_ahead", longer)
    trial.is_found_by("prefix", {"mae_long", "mae_short"}, only="mae", **LONG)


def test_onset_by_the_coming_regime(trial: Any) -> None:
    shipped = targets._regime

    def coming(variance: Array, thresholds: Array) -> Array:
        return earlier(shipped(variance, thresholds), 1)

    trial.plant(targets, "_regime", coming)
    trial.is_found_by("prefix", {"regime_now", "onset"}, only="regime|onset", **LONG)
