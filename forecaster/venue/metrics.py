"""What a run of the venue says about the margins it ran under."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from .engine import VenueResult
from .kernels import MICRO

__all__ = ["METRICS", "metrics"]

METRICS: Final = (
    "mean_open_interest_usd",
    "shortfall_bps_oi_year",
    "bad_debt_usd",
    "insurance_draw_usd",
    "liquidations_per_oi_year",
    "policy_induced_liquidations_per_oi_year",
    "unnecessary_liquidation_rate",
    "adl_haircut_ratio",
    "socialised_usd",
    "largest_hour_liquidations_oi",
    "fill_discount",
    "carried_legs",
    "carried_notional_oi",
    "untaken_rate",
    "backstops",
    "liquidator_profit_usd",
    "lasting_impact",
)
YEAR_HOURS: Final = 8766.0


def metrics(result: VenueResult) -> dict[str, float]:
    """The figures of one run by name (``METRICS``); NaN where nothing happened that a ratio could rest on.

    ``shortfall_bps_oi_year`` is 1e4 (fund draws + bad debt) / (mean open interest x years), bad debt being what
    is left after the fund; liquidations are notional over the same; ``policy_induced`` ones the maintenance
    margin of one bar earlier would have spared at the bar's prices; ``unnecessary`` is the share of liquidated
    notional whose account, untouched and without top-up, stays above zero for 24 h on the path of history;
    ``fill_discount`` is what fills lost against the mark; ``carried`` what K rounds left to the next leg;
    ``untaken_rate`` the notional no liquidator wanted over what was offered and liquidated.
    """
    tally = {name: value / MICRO for name, value in result.tally.items()}
    mean = float(result.open_interest.mean())
    years = float(result.hours[-1] + 1) / YEAR_HOURS
    scale = mean * years if mean > 0 else math.nan
    liquidated = tally["liquidated"]
    interest = np.where(result.open_interest > 0, result.open_interest, np.nan)
    share = result.liquidated / interest
    return {
        "mean_open_interest_usd": mean,
        "shortfall_bps_oi_year": 1e4 * (tally["drawn"] + tally["bad_debt"]) / scale,
        "bad_debt_usd": tally["bad_debt"],
        "insurance_draw_usd": tally["drawn"],
        "liquidations_per_oi_year": liquidated / scale,
        "policy_induced_liquidations_per_oi_year": tally["induced"] / scale,
        "unnecessary_liquidation_rate": _ratio(tally["unnecessary"], liquidated),
        "adl_haircut_ratio": _ratio(tally["haircut"], tally["haircut_deficit"]),
        "socialised_usd": tally["socialised"],
        "largest_hour_liquidations_oi": float(np.nanmax(share)) if np.isfinite(share).any() else math.nan,
        "fill_discount": _ratio(tally["discount"], liquidated),
        "carried_legs": result.tally["carried_legs"],
        "carried_notional_oi": tally["carried_notional"] / mean if mean > 0 else math.nan,
        "untaken_rate": _ratio(tally["untaken"], tally["untaken"] + liquidated),
        "backstops": result.tally["backstops"],
        "liquidator_profit_usd": result.balances["liquidators"] / MICRO,
        "lasting_impact": float(result.offset[-1]),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
