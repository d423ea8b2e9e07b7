"""What a scenario is given and what it returns, and the pieces of world that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecaster.policy.inputs import Inputs, read
from forecaster.policy.margin import targets
from forecaster.policy.params import Params
from forecaster.venue.engine import VenueResult
from forecaster.venue.kernels import MICRO
from forecaster.venue.margins import Margins
from forecaster.venue.params import VenueParams
from forecaster.venue.population import Population
from forecaster.venue.synthetic import forecast_rows, people_of

__all__ = [
    "DAILY_VOLUME",
    "FIRST",
    "SIGMA",
    "SYMBOL",
    "WITHOUT_LIMIT",
    "Outcome",
    "Scenario",
    "Setting",
    "crowd",
    "flat_margins",
    "gain_usd",
    "holds_up_to",
    "inputs_of",
    "policy_margins",
    "shortfall_usd",
]

Floats = npt.NDArray[np.float64]

DAILY_VOLUME: Final = 1e9  # USD
SIGMA: Final = 0.04  # of a day's log return
WITHOUT_LIMIT: Final = 1e9  # a leverage that the initial margin alone truncates
SYMBOL: Final = "SIMUSDT"
FIRST: Final = pd.Timestamp("2024-01-01T00:00:00Z")


@dataclass(frozen=True)
class Setting:
    """Constants of venue and policy, and the seed of everything that is drawn."""

    venue: VenueParams
    policy: Params
    seed: int


@dataclass(frozen=True)
class Outcome:
    """One scenario: what is done, what defends, what must come out, what came out, and whether it did."""

    name: str
    done: str
    defence: str
    expectation: str
    measured: Mapping[str, float]
    holds: bool


Scenario: TypeAlias = Callable[[Setting, bool], Outcome]


def crowd(setting: Setting, hours: int, count: int = 400) -> Population:
    """Positions of lognormal size and leverage by the pack's population, all open from the first bar to the end."""
    people, rng = setting.venue.population, np.random.default_rng(setting.seed)
    size = np.exp(rng.normal(-(people.size_log_sd**2) / 2, people.size_log_sd, count))
    side = np.where(rng.uniform(size=count) < people.long_share, 1.0, -1.0)
    leverage = people.leverage_median * np.exp(rng.normal(0.0, people.leverage_log_sd, count))
    return people_of(size * side, leverage, hours)


def inputs_of(hourly_sigma: Floats, params: Params, **observed: Floats | float) -> Inputs:
    """Checked forecast rows, one an hour, of a forecaster who knows ``hourly_sigma`` (n,); ``observed`` by name."""
    origins = pd.date_range(FIRST, periods=len(hourly_sigma), freq="h").as_unit("us")
    rows = forecast_rows(SYMBOL, origins, hourly_sigma)
    told = {"daily_volume_usd": DAILY_VOLUME, **observed}
    place = np.searchsorted(origins.asi8, pd.DatetimeIndex(rows["origin"]).asi8)
    columns = {f"obs_{name}": np.broadcast_to(value, len(origins))[place] for name, value in told.items()}
    return read(rows.assign(**columns), params)


def policy_margins(setting: Setting, bars: int, hourly_sigma: float = SIGMA / 24**0.5) -> Margins:
    """The policy's ungoverned headline margins at a constant volatility, the same in all bars."""
    wanted = targets(inputs_of(np.array([hourly_sigma]), setting.policy), setting.policy).vector[0]
    tiers = len(setting.policy.liquidity.tier_shares)
    im, mm, penalty = (np.full(bars, wanted[place]) for place in (0, tiers, 2 * tiers))
    return Margins(im, mm, mm, penalty)


def flat_margins(im: float, bars: int) -> Margins:
    """One initial margin, half of it for maintenance: a venue without a forecast."""
    return Margins.constant(im, bars)


def holds_up_to(values: Iterable[float], holds: Callable[[float], bool]) -> float:
    """The last of the rising ``values`` before the first that does not hold; 0 where that is the first of all."""
    return max(takewhile(holds, values), default=0.0)


def shortfall_usd(result: VenueResult) -> float:
    """Drawn from the fund, and bad debt after it."""
    return (result.tally["drawn"] + result.tally["bad_debt"]) / MICRO


def gain_usd(result: VenueResult) -> float:
    """What all accounts together took out beyond what they put in; for a venue whose fund began empty."""
    return -sum(value for name, value in result.balances.items() if name != "accounts") / MICRO
