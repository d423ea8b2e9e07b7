"""Participants who play against the rules: sizes, windows, announcements, splits and wash trades."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from forecaster.policy.decide import govern
from forecaster.policy.inputs import Inputs
from forecaster.policy.margin import targets
from forecaster.policy.notice import allowed_mm
from forecaster.policy.params import Params
from forecaster.venue.adl import reductions
from forecaster.venue.engine import VenueResult, fills, simulate
from forecaster.venue.kernels import MICRO
from forecaster.venue.margins import PPM, Margins
from forecaster.venue.synthetic import path_of, people_of

from .outcome import (
    DAILY_VOLUME,
    SIGMA,
    SYMBOL,
    WITHOUT_LIMIT,
    Outcome,
    Setting,
    crowd,
    flat_margins,
    holds_up_to,
    inputs_of,
    policy_margins,
    shortfall_usd,
)

__all__ = ["liquidation_sandwich", "splitting_adl", "splitting_tiers", "wash_open_interest", "withdrawing_whale"]

Floats = npt.NDArray[np.float64]

HOURLY: Final = SIGMA / 24**0.5
WHALES: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # daily volumes


def withdrawing_whale(setting: Setting, defended: bool) -> Outcome:
    """A whale takes its profit out every hour, then lets the venue liquidate what is left (12 March 2025, adapted)."""
    loss = 1e4 * shortfall_usd(_whale(setting, 1.0, defended)) / DAILY_VOLUME
    liquidated = _whale(setting, 1.0, defended).tally["liquidated"] / MICRO
    most = holds_up_to(WHALES, lambda size: shortfall_usd(_whale(setting, size, defended)) == 0)
    return Outcome(
        name="withdrawing_whale",
        done="a position of a whole daily volume rides a rise, takes its profit out every hour, and is liquidated in a fall",
        defence="initial margin by volatility and depth, against 4 % for everyone (25 times leverage)",
        expectation="its liquidation costs neither fund nor winners anything",
        measured={
            "shortfall_bps_of_position": loss,
            "liquidated_usd": liquidated,
            "holds_up_to_daily_volumes": most,
        },
        holds=loss == 0 and liquidated > 0,
    )


def _whale(setting: Setting, size: float, defended: bool) -> VenueResult:
    """The run of a whale with a position of ``size`` daily volumes."""
    up, down = 12, 48
    hours = up + down
    closes = 100 * np.cumprod(np.concatenate([np.full(up, 1.01), np.full(down, 0.985)]))
    weights = closes[:up] / closes[up - 1] * size / setting.venue.population.open_interest_days
    people = people_of(weights, WITHOUT_LIMIT, hours, np.arange(up), [*range(1, up), hours + 1])
    people = replace(people, slot=np.zeros(up, np.int64), slots=1)  # one account that closes and opens again
    margins = policy_margins(setting, hours) if defended else flat_margins(0.04, hours)
    return simulate(path_of(closes, SIGMA, DAILY_VOLUME), margins, people, setting.venue)


def liquidation_sandwich(setting: Setting, defended: bool) -> Outcome:
    """Someone sees a liquidation step coming, sells before it and buys back after it, at the best size for that."""
    rule = setting.venue.liquidation
    venue = setting.venue
    position = 0.05 * DAILY_VOLUME
    band = DAILY_VOLUME * (rule.step_move / (venue.impact.coefficient * SIGMA)) ** 2
    step = min(rule.step_share * position, rule.participation * band) if defended else position
    sizes = step * np.linspace(0.0, 1.0, 101)[1:]
    gains = [_round_trip(setting, float(size), step) for size in sizes]
    best = float(np.max(gains))
    gain, fee = 1e4 * best / step, 1e4 * venue.fees.taker
    return Outcome(
        name="liquidation_sandwich",
        done="a position of 5 % of the daily volume is liquidated; an attacker sells ahead of a step and buys back after it",
        defence="a step takes a fifth of the position at most, and a tenth of the depth of a move of 1 %",
        expectation=f"the best gain is below the taker fee ({fee:g} bps) of what is liquidated, even if depth recovers "
        "between steps and each is attacked anew",
        measured={"step_usd": step, "gain_bps_of_liquidated": gain},
        holds=gain < fee,
    )


def _round_trip(setting: Setting, size: float, step: float) -> float:
    """USD that selling ``size`` before a sale of ``step`` and buying it back after it brings, by the venue's own fills."""
    sold, _, bought = fills(path_of(np.full(2, 100.0), SIGMA, DAILY_VOLUME), (size, step, -size), setting.venue)
    return size * (sold - bought - 2 * setting.venue.fees.taker)


def splitting_adl(setting: Setting, defended: bool) -> Outcome:
    """A winner splits its account in eight before it is deleveraged."""
    rng = np.random.default_rng(setting.seed)
    notional = 1e4 * np.exp(1.2 * rng.normal(size=40))
    notional[0] = notional.sum() / 4
    equity = notional / np.concatenate([[8.0], rng.uniform(2, 8, 39)])
    parts = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    amount, method = notional[0] / 2, "water_filling" if defended else "queue"

    def whole(shares: Floats) -> float:
        n, e = (np.concatenate([x[0] * shares, x[1:]]) for x in (notional, equity))
        score, mm = np.arange(len(n), 0.0, -1.0), np.full(len(n), 0.02)  # the queue begins with the splitter
        return float(reductions(method, n, e, mm, score, amount, 0.01)[: len(shares)].sum())  # type: ignore[arg-type]

    given, split = whole(np.ones(1)), whole(parts)
    change = abs(split - given) / given
    return Outcome(
        name="splitting_adl",
        done="a winner with a fifth of the winning side splits its account in eight before the deleveraging",
        defence="leverage water-filling: the reduction is homogeneous in notional and equity",
        expectation="what it has to give up does not change, to a billionth",
        measured={"given_share_of_position": given / float(notional[0]), "change": change},
        holds=change <= 1e-9,
    )


def splitting_tiers(setting: Setting, defended: bool) -> Outcome:
    """An account at the last tier's cap splits until every part is in the first tier."""
    liquidity = setting.policy.liquidity
    shares = liquidity.tier_shares if defended else (*liquidity.tier_shares, 1.0, 5.0)
    params = replace(setting.policy, liquidity=replace(liquidity, tier_shares=shares))
    wanted, tiers = targets(inputs_of(np.array([HOURLY]), params), params), len(shares)
    size, rates = wanted.caps[0].astype(np.float64), wanted.vector[0, :tiers] / PPM
    one = float((np.diff(size, prepend=0.0) * rates).sum() / size[-1])
    saved = 1 - float(rates[0]) / one
    return Outcome(
        name="splitting_tiers",
        done="an account at the last cap splits until all its parts lie in the first tier",
        defence=f"tiers end at {100 * liquidity.tier_shares[-1]:g} % of the daily volume: what must be sold within hours",
        expectation="it saves less than a tenth of its initial margin",
        measured={"margin_whole": one, "margin_split": float(rates[0]), "saved_share": saved},
        holds=saved < 0.1,
    )


def wash_open_interest(setting: Setting, defended: bool) -> Outcome:
    """Wash trades push the open interest, and with it the margin of everyone, for a day or the length of a shorter notice."""
    params, calm = setting.policy, 24
    attack = min(24, params.governor.normal.notice_hours)
    hours = calm + attack
    interest = np.where(np.arange(hours) < calm, 0.4, 30.0) * DAILY_VOLUME
    inputs = inputs_of(np.full(hours, HOURLY), params, open_interest_usd=interest)
    margins = _governed(inputs, params) if defended else _targets(inputs, params)
    closes = np.full(hours, 100.0)
    result = simulate(path_of(closes, SIGMA, DAILY_VOLUME), margins, crowd(setting, hours), setting.venue)
    share = result.tally["induced"] / MICRO / float(result.open_interest.max())
    rise = float(margins.im[-1] / margins.im[0] - 1)
    return Outcome(
        name="wash_open_interest",
        done=f"wash trades show an open interest of 30 daily volumes for {attack} h; prices stand still",
        defence="the governor bounds the rise, the notice keeps it from open positions",
        expectation=f"initial margin rises by {100 * params.governor.normal.day_rise:g} % at most, "
        "no open position is liquidated",
        measured={
            "initial_margin_rise": rise,
            "induced_share_of_oi": share,
            "attacker_margin_daily_volumes": 30.0 * float(margins.im[0]) / PPM,
        },
        holds=share == 0 and rise <= params.governor.normal.day_rise,
    )


def _governed(inputs: Inputs, params: Params) -> Margins:
    governed = govern(inputs, params)
    allowed = np.floor(allowed_mm(governed, SYMBOL)).astype(np.int64)
    return Margins(governed.im, governed.mm, allowed, governed.vector[:, -2])


def _targets(inputs: Inputs, params: Params) -> Margins:
    vector, tiers = targets(inputs, params).vector, len(params.liquidity.tier_shares)
    return Margins(vector[:, 0], vector[:, tiers], vector[:, tiers], vector[:, -2])
