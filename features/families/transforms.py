"""Terms that families share: ratios and logs that are NaN where they mean nothing, a value against its own past.

What compares with the past is bounded, so that one crash hour does not rule a linear model for weeks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from features.families import Column
from features.families.flow_kernels import same_hour_mean, same_hour_reach
from features.panel import Array, Panel

__all__ = [
    "MONTH",
    "SCALE_REACH",
    "SCORE_LIMIT",
    "SURPRISE_DAYS",
    "WEEK",
    "correlation",
    "for_every_symbol",
    "log_positive",
    "log_ratio",
    "positive",
    "quote_volume",
    "ratio",
    "row_of",
    "scaled_return",
    "score",
    "signed_log",
    "surprise",
    "trailing_sd",
]

WEEK: Final = 168
MONTH: Final = 720
SCALE_REACH: Final = WEEK + 1
SURPRISE_DAYS: Final = 14
SURPRISE_COVERAGE: Final = 0.5
# Beyond so many standard deviations an hour is an event, and its size no longer a measure of anything.
EVENT_SDS: Final = 4.0
SCORE_LIMIT: Final = 5.0
LOG_LIMIT: Final = float(np.log(10.0))
TINY: Final = 1e-9


def positive(x: Array) -> Array:
    """``x`` where it is positive, NaN elsewhere."""
    return np.where(x > 0, x, np.nan)


def ratio(part: Array, whole: Array) -> Array:
    """Part over whole; NaN where the whole is not positive."""
    return np.asarray(part / positive(whole))


def log_positive(x: Array) -> Array:
    """Natural log; NaN where x is not positive."""
    return np.asarray(np.log(positive(x)))


def log_ratio(part: Array, whole: Array) -> Array:
    """Log of part over whole, within ± ln 10; NaN where the whole is not positive.

    Nothing over something is the lower bound, and so is a negative slope over a positive one.
    """
    return np.clip(np.log(np.maximum(ratio(part, whole), TINY)), -LOG_LIMIT, LOG_LIMIT)


def correlation(moments: Array) -> Array:
    """Correlation out of ``Panel.pair``, within [-1, 1]; NaN where one side does not vary."""
    return np.clip(ratio(moments[4], np.sqrt(moments[2] * moments[3])), -1, 1)


def score(panel: Panel, x: Array, hours: int) -> Array:
    """``x`` in standard deviations from its mean, both over the last ``hours``; at most five either way."""
    mean, sd = panel.mean(x, (hours,))[0], panel.sd(x, hours)
    return np.clip(ratio(x - mean, sd), -SCORE_LIMIT, SCORE_LIMIT)


def surprise(panel: Panel, x: Array) -> Array:
    """Log of x less the mean of its logs at the same hour of the 14 days before; NaN with fewer than seven of them."""
    logs = log_positive(x)
    reach = same_hour_reach(SURPRISE_DAYS)
    return np.asarray(logs - panel.windowed(same_hour_mean, reach, (logs,), (SURPRISE_DAYS, SURPRISE_COVERAGE)))


def quote_volume(panel: Panel) -> Array:
    """Quote volume of each hour; volume at the close where the source has none."""
    quote = panel.field("quote_volume")
    return np.where(np.isnan(quote), panel.field("volume") * panel.close, quote)


def trailing_sd(panel: Panel) -> Array:
    """Standard deviation of the returns of the week before each hour, which it leaves out; reads 169 hours."""
    return positive(panel.shift(panel.sd(panel.log_return, WEEK), 1))


def scaled_return(panel: Panel, usual: Array) -> Array:
    """Log return over its ``usual`` size (``trailing_sd``), at most four either way."""
    return np.clip(panel.log_return / usual, -EVENT_SDS, EVENT_SDS)


def signed_log(x: Array, unit: float) -> Array:
    """``sign(x) ln(1 + |x| / unit)``: linear below ``unit``, logarithmic above, NaN where ``x`` is."""
    return np.sign(x) * np.log1p(np.abs(x) / unit)


def row_of(panel: Panel, symbol: str, x: Array) -> Array:
    """One symbol's row, shape (1, n_hours); all NaN where the market does not trade it."""
    return x[[panel.symbols.index(symbol)]] if symbol in panel.symbols else np.full_like(x[:1], np.nan)


def for_every_symbol(panel: Panel, columns: Iterable[Column]) -> Iterator[Column]:
    """The columns with one row, shape (1, n_hours), given to every symbol; others as they are."""
    shape = (len(panel.symbols), len(panel))
    for column in columns:
        yield replace(column, values=np.ascontiguousarray(np.broadcast_to(column.values, shape)))
