"""Impulse response of margin rules: constant volatility, a step of it, and back.

After Gurrola-Perez & Murphy (2024), "Filtered historical simulation and its procyclicality": how far a rule
overshoots, how soon it is there, how long it needs to come back. Every rule sees the same bars; the policy runs
whole, from forecast rows over targets to the governor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from features.market import Market
from forecaster.policy.decide import govern
from forecaster.policy.inputs import read_with_market
from forecaster.policy.margin import targets
from forecaster.policy.observables import MarketHistory
from forecaster.policy.params import Params

from .synthetic import bars, forecast_rows, sign_walk

__all__ = ["Experiment", "Response", "impulse", "margins_under", "measure"]

Floats = npt.NDArray[np.float64]

SYMBOL: Final = "SIMUSDT"
FIRST: Final = pd.Timestamp("2023-01-01T01:00:00Z")
SETTLED_SHARE: Final = 0.1  # of the step, at its end: where a rule is taken to have settled
PPM: Final = 1_000_000


@dataclass(frozen=True)
class Experiment:
    """The market of one impulse: hourly volatility ``sigma``, ``step`` times as much for ``hours``.

    ``warm_up`` hours of bars before the step (a year at least, or the long-run floor does not exist), ``forecasts``
    hours of them with forecasts, ``after`` hours past the step. The forecaster sees volatility by an EWMA of squared
    returns with ``half_life`` hours; 0 means that it knows the volatility as soon as it has changed.
    """

    sigma: float
    step: float
    hours: int
    warm_up: int
    forecasts: int
    after: int
    half_life: int
    daily_volume_usd: float
    seed: int

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.step > 1 and self.hours >= 1 and self.after >= 1):
            raise UsageError("an impulse needs sigma > 0, step > 1, and at least an hour of step and after it")
        if not 0 < self.forecasts < self.warm_up:
            raise UsageError(f"forecasts cover the last {self.forecasts} hours of a warm-up of {self.warm_up}; fewer")

    @property
    def volatility(self) -> Floats:
        """(T,) hourly volatility."""
        quiet, loud = self.sigma, self.sigma * self.step
        return np.repeat([quiet, loud, quiet], [self.warm_up, self.hours, self.after])


@dataclass(frozen=True)
class Response:
    """How one rule answered; margins are fractions, hours NaN where it did not come so far within the run."""

    before: float
    settled: float
    peak: float
    overshoot: float
    hours_to_90: float
    hours_to_return: float


def impulse(experiment: Experiment, params: Params) -> dict[str, Response]:
    """The responses of all rules of ``margins_under``."""
    start = experiment.forecasts
    return {name: measure(im, start, experiment.hours) for name, im in margins_under(experiment, params).items()}


def margins_under(experiment: Experiment, params: Params) -> dict[str, Floats]:
    """Initial margin by rule over the hours with forecasts, fractions (forecasts + hours + after,).

    ``governed`` is what the policy publishes, ``targets`` its targets without the governor, ``fhs`` and ``ewma`` the
    scaled quantiles with the pack's half-lives, ``static`` the expanding quantile.
    """
    sigma = experiment.volatility
    times = pd.date_range(FIRST, periods=len(sigma), freq="h").as_unit("us")
    market = Market.from_tables(
        {"bars": bars(SYMBOL, sign_walk(sigma, experiment.seed), times, experiment.daily_volume_usd)}
    )
    history = MarketHistory(market, params)
    kept = slice(experiment.warm_up - experiment.forecasts, None)
    inputs = read_with_market(forecast_rows(SYMBOL, times[kept], _seen(sigma, experiment.half_life)[kept]), history)
    base = params.baselines
    return {
        "governed": govern(inputs, params).im / PPM,
        "targets": targets(inputs, params).vector[:, 0] / PPM,
        "fhs": history.scaled_im(base.fhs_half_life_hours)[0, kept],
        "ewma": history.scaled_im(base.ewma_half_life_hours)[0, kept],
        "static": history.static_im[0, kept],
    }


def measure(im: Floats, start: int, hours: int) -> Response:
    """The response of a margin path to a step from index ``start`` on for ``hours``.

    ``before`` is the margin of the last hour before the step, ``settled`` the mean over the last tenth of the step,
    ``overshoot`` max IM / settled - 1 from the step on. ``hours_to_90`` counts from the step's first hour until nine
    tenths of the way to ``settled`` are gone, ``hours_to_return`` from its end until nine tenths of it are given back
    for good. A rule that did not rise has neither.
    """
    before = float(im[start - 1])
    end = start + hours
    settled = float(im[end - max(1, int(hours * SETTLED_SHARE)) : end].mean())
    peak = float(im[start:].max())
    rise = settled - before
    up = np.flatnonzero(im[start:] >= before + 0.9 * rise)
    above = np.flatnonzero(im[end:] > before + 0.1 * rise)
    last = int(above[-1]) + 1 if len(above) else 0
    back = math.nan if last == len(im) - end else float(last)
    rose = rise > 1e-9
    return Response(
        before=before,
        settled=settled,
        peak=peak,
        overshoot=peak / settled - 1,
        hours_to_90=float(up[0]) if rose and len(up) else math.nan,
        hours_to_return=back if rose else math.nan,
    )


def _seen(sigma: Floats, half_life: int) -> Floats:
    """Volatility as the forecaster believes it at each hour's end."""
    if half_life == 0:
        return sigma
    variance: Floats = pd.Series(sigma**2).ewm(halflife=half_life).mean().to_numpy()
    return np.sqrt(variance)
