"""Markets under stress: liquidators away, depth gone, gaps, a margin asset that breaks, quotes that are old."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from forecaster.policy.collateral import Prices, collateral_value, haircut
from forecaster.policy.hedging.variance_premium import stale_quotes
from forecaster.venue.engine import VenueResult, simulate
from forecaster.venue.kernels import MICRO
from forecaster.venue.margins import PPM, Margins
from forecaster.venue.params import VenueParams
from forecaster.venue.synthetic import path_of

from .outcome import (
    DAILY_VOLUME,
    SIGMA,
    WITHOUT_LIMIT,
    Outcome,
    Setting,
    crowd,
    flat_margins,
    holds_up_to,
    policy_margins,
    shortfall_usd,
)

__all__ = [
    "broken_peg",
    "gap_over_settlement",
    "liquidator_collusion",
    "liquidator_strike",
    "stale_quotes_taken",
    "thin_depth",
]

Floats = npt.NDArray[np.float64]

GAP: Final = 0.30
HOURS: Final = 72
SLIDE: Final = np.concatenate([np.full(24, 1.0), 0.97 ** np.arange(1, 9), np.full(HOURS - 32, 0.97**8)])  # -22 % in 8 h
HOURLY_FALLS: Final = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)
CRASHES: Final = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
CARTEL: Final = 0.05  # of the notional, asked for by liquidators who agree
PEG: Final = 0.05
ASSET_LOSS: Final = 0.002  # of a stablecoin, 99 % over the hours until it is sold; assumed
ASSET_CORRELATION: Final = 0.3  # with the position; assumed
TENOR: Final = 168.0
STALE: Final = 24


def liquidator_strike(setting: Setting, defended: bool) -> Outcome:
    """The four fastest of five liquidators, then all of them, stay away in a fall of 22 % in eight hours."""
    venue = setting.venue if defended else setting.venue.replace(liquidation={"backstop_level": 0.0})
    loss = {absent: _strike(setting, venue, absent, 0.03) for absent in (0, 4, 5)}
    most = holds_up_to(HOURLY_FALLS, lambda fall: _strike(setting, venue, 5, fall) < 1)
    return Outcome(
        name="liquidator_strike",
        done="none, the 4 fastest and all of 5 liquidators are offline in a fall of 22 % within 8 h",
        defence="below two thirds of the maintenance margin a position goes to the backstop, which waits for nobody",
        expectation="the fund pays less than a basis point of open interest, however many are offline",
        measured={f"shortfall_bps_of_oi_{absent}_absent": bps for absent, bps in loss.items()}
        | {"all_absent_holds_up_to_hourly_fall": most},
        holds=max(loss.values()) < 1,
    )


def liquidator_collusion(setting: Setting, defended: bool) -> Outcome:
    """The fastest liquidators, in the end all, agree to take nothing that does not bring them a twentieth of its value.

    In an auction outsiders end such an agreement as far as their capital reaches, and no further.
    """
    rules = setting.venue if defended else setting.venue.replace(liquidation={"auction": True})
    people, margins, path = (
        crowd(setting, HOURS),
        policy_margins(setting, HOURS),
        path_of(100 * SLIDE, SIGMA, DAILY_VOLUME),
    )
    gain, loss = {}, {}
    for members in (0, 4, 5):
        charges = [CARTEL if k < members else own for k, own in enumerate(rules.liquidators.capital_charge)]
        result = simulate(path, margins, people, rules.replace(liquidators={"capital_charge": charges}))
        gain[members] = 1e4 * result.balances["liquidators"] / result.tally["liquidated"]
        loss[members] = _bps(result)
    return Outcome(
        name="liquidator_collusion",
        done=f"none, the 4 fastest and all of 5 liquidators agree to ask {100 * CARTEL:g} % of what they take, in a fall of "
        "22 % within 8 h",
        defence="steps are sold at the market for a fixed share of the penalty, and the backstop waits for nobody, instead of "
        "an auction that falls until someone bids",
        expectation="no agreement gains a basis point of what is liquidated more than competition does; the fund pays less "
        "than a basis point of open interest",
        measured={f"gain_bps_of_liquidated_{members}_agree": value for members, value in gain.items()}
        | {f"shortfall_bps_of_oi_{members}_agree": value for members, value in loss.items()},
        holds=max(gain.values()) < gain[0] + 1 and max(loss.values()) < 1,
    )


def thin_depth(setting: Setting, defended: bool) -> Outcome:
    """Depth falls to a fifth as a crash begins."""
    margins = policy_margins(setting, HOURS) if defended else flat_margins(0.04, HOURS)
    loss = {depth: _thin(setting, margins, depth, 0.15) for depth in (1.0, 0.2)}
    most = holds_up_to(CRASHES, lambda fall: _thin(setting, margins, 0.2, fall) < 1)
    return Outcome(
        name="thin_depth",
        done="everyone holds the highest leverage; depth falls to a fifth as a fall of 15 % within 2 h begins",
        defence="initial margin by volatility and depth, against 4 % for everyone (25 times leverage)",
        expectation="less depth never costs the fund less, and a fifth of it less than a basis point of open interest",
        measured={f"shortfall_bps_of_oi_at_depth_{depth:g}": value for depth, value in loss.items()}
        | {"a_fifth_holds_up_to_fall": most},
        holds=loss[1.0] <= loss[0.2] < 1,
    )


def _strike(setting: Setting, venue: VenueParams, absent: int, fall: float) -> float:
    """Shortfall in bps of open interest in eight hours that fall by ``fall`` each, the fastest ``absent`` being away."""
    slide = np.concatenate([np.full(24, 1.0), (1 - fall) ** np.arange(1, 9), np.full(HOURS - 32, (1 - fall) ** 8)])
    people = venue.liquidators
    rest = slice(min(absent, len(people.latency_minutes) - 1), None)
    some = {"latency_minutes": list(people.latency_minutes[rest]), "capital_charge": list(people.capital_charge[rest])}
    path = path_of(100 * slide, SIGMA, DAILY_VOLUME).with_market(
        liquidators=float(absent < len(people.latency_minutes))
    )
    margins = policy_margins(setting, HOURS)
    return _bps(simulate(path, margins, crowd(setting, HOURS), venue.replace(liquidators=some)))


def _thin(setting: Setting, margins: Margins, depth: float, fall: float) -> float:
    """Shortfall in bps of open interest in a fall of ``fall`` within two hours, half of it in the first."""
    crash = 1 - fall * np.minimum(np.maximum(np.arange(HOURS) - 23, 0) / 2, 1)
    people = crowd(setting, HOURS)
    people = replace(people, leverage=np.full(len(people.leverage), WITHOUT_LIMIT))
    path = path_of(100 * crash, SIGMA, DAILY_VOLUME)
    path = path.with_market(depth_scale=np.where(np.arange(HOURS) < 24, 1.0, depth))
    return _bps(simulate(path, margins, people, setting.venue))


def gap_over_settlement(setting: Setting, defended: bool) -> Outcome:
    """A jump of 30 % up or down, with the largest funding to be settled in the same instant."""
    venue = setting.venue if defended else setting.venue.replace(fund={"adl": "none"})
    people, margins = crowd(setting, HOURS), policy_margins(setting, HOURS)
    measured: dict[str, float] = {}
    holds = True
    for name, side in (("down", -1), ("up", 1)):
        path = path_of(np.full(HOURS, 100.0), SIGMA, DAILY_VOLUME).with_gap(24, side * GAP)
        path = replace(path, funding=np.where(np.arange(HOURS) == 24, -side * setting.policy.margin.funding_cap, 0.0))
        result = simulate(path, margins, people, venue)
        debt = result.tally["bad_debt"]
        share = result.tally["socialised"] / debt
        measured |= {f"bad_debt_bps_of_oi_{name}": 1e4 * debt / MICRO / float(result.open_interest.max())}
        measured |= {f"socialised_share_{name}": share}
        holds &= debt > 0 and share < 0.5
    return Outcome(
        name="gap_over_settlement",
        done=f"the price jumps by {100 * GAP:g} % over a settlement at the funding cap, once down and once up",
        defence="winners are deleveraged at the bankruptcy price before the loss is spread over everyone",
        expectation="less than half of what the fund cannot pay is spread over everyone",
        measured=measured,
        holds=holds,
    )


def broken_peg(setting: Setting, defended: bool) -> Outcome:
    """The margin asset loses 5 %, then 12 %, in the hour in which the position loses its whole initial margin."""
    cut = float(haircut(*(np.array(x) for x in (ASSET_LOSS, setting.venue.impact.spread, PEG, ASSET_CORRELATION))))
    weights = {"stable": 1 - cut if defended else 1.0}
    im = policy_margins(setting, 1).im[0] / PPM
    par = Prices(0.0, {"stable": 1.0})
    amount = im / collateral_value({"stable": 1.0}, par, par, weights, setting.policy)
    loss = {depeg: 1e4 * max(0.0, float(im - amount * (1 - depeg))) for depeg in (PEG, 0.12)}
    return Outcome(
        name="broken_peg",
        done="the margin asset falls by 5 % (then 12 %, as a large stablecoin did in March 2023) while a position that it "
        "secures loses the whole initial margin",
        defence=f"a haircut of loss, cost, peg allowance of {100 * PEG:g} % and wrong-way risk",
        expectation="a broken peg within the allowance leaves no debt",
        measured={"haircut": cut if defended else 0.0}
        | {f"debt_bps_at_{100 * d:.0f}_percent": value for d, value in loss.items()},
        holds=loss[PEG] == 0,
    )


def stale_quotes_taken(setting: Setting, defended: bool) -> Outcome:
    """An arbitrageur trades straddles that are quoted at the implied volatility of a day ago."""
    rng, hours = np.random.default_rng(setting.seed), 16000
    log = np.zeros(hours)
    for t in range(1, hours):
        log[t] = 0.98 * log[t - 1] + 0.04 * rng.normal()
    iv, half = 0.6 * np.exp(log), hours // 2
    spread = setting.venue.impact.spread
    if defended:
        spread = float(stale_quotes(iv[:half], TENOR, [STALE], spread)["safe_spread"].iloc[0])
    row = stale_quotes(iv[half:], TENOR, [STALE], spread).iloc[0]
    return Outcome(
        name="stale_quotes_taken",
        done="straddles of a week are quoted at the implied volatility of 24 h ago; an arbitrageur sees the present one",
        defence="the half-spread that left 99 % of earlier hours nothing to take",
        expectation="in later hours at most 3 % of the quotes are worth taking",
        measured={
            "half_spread": spread,
            "taken_share": float(row["traded_share"]),
            "gain_bps_per_hour": 1e4 * float(row["gain_per_hour"]),
        },
        holds=bool(row["traded_share"] <= 0.03),
    )


def _bps(result: VenueResult) -> float:
    return 1e4 * shortfall_usd(result) / float(result.open_interest.max())
