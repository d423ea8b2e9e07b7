"""Windowed kernels: compiled, causal, and blind to where the history starts.

A kernel maps an array of shape (n_symbols, n_hours) to values of the columns from ``first`` on; columns before that are
history, and all of them without it (``first`` = 0). Columns are hours, without holes in the clock; a missing bar is NaN.
The value at column ``t`` depends on ``x[i, :t + 1]`` only, and only on a declared number of hours before ``t``. Nothing is
updated by adding and subtracting: a running sum carries the rounding of everything before it, so the same hour would
have other bits after a restart.
"""

from features.kernels.cross_section import cross_mean, cross_mean_of_others, cross_sd
from features.kernels.season import season_ahead, season_curves
from features.kernels.trailing import hours_since_finite, trailing_quantiles
from features.kernels.windows import ewma, ewma_reach, window_mean, window_pair, window_sd

__all__ = [
    "cross_mean",
    "cross_mean_of_others",
    "cross_sd",
    "ewma",
    "ewma_reach",
    "hours_since_finite",
    "season_ahead",
    "season_curves",
    "trailing_quantiles",
    "window_mean",
    "window_pair",
    "window_sd",
]
