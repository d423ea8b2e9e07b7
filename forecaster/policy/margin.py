"""Margin targets: what initial and maintenance margin should be, before the governor limits their speed.

All at once for every line. Margins are fractions of notional at size X (USD), the caps of the size tiers; the
headline is the first tier. Formula numbers are those of the policy's margin table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from . import exposure
from .inputs import Inputs
from .params import Params
from .types import PPM, STAGES

__all__ = ["Targets", "excursion_quantile", "targets"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LEAST_VOLUME: Final = 1.0  # USD a day
DAY_ROOT: Final = (24 / 8760) ** 0.5  # a day's share of annual volatility


@dataclass(frozen=True)
class Targets:
    """Ungoverned targets of n lines with K tiers; ppm unless noted."""

    vector: Integers  # (n, 2 K + 2), laid out as Vector.parts
    stages: Integers  # (n, len(STAGES)): increments of IM's stages, the last two zero
    caps: Integers  # (n, K), USD
    exposure: Integers  # of the reference portfolio, before mode caps and the no-trade band
    insurance_usd: Integers
    feasible: Flags  # every tier's maintenance margin fits below the largest IM by the funding clamp's gap
    sigma_ratio: Floats  # 24 h volatility over its 30-day median
    depth_ratio: Floats  # modelled depth over its 30-day median
    sentinel: Flags
    depth_thin: Flags
    oi_crowd: Flags
    funding_skew: Flags
    stress_floor: Flags
    longrun_floor: Flags
    new_listing: Flags
    fund_low: Flags  # the insurance fund is known and too small: its term is at work


@dataclass(frozen=True)
class _Market:
    """What the market offers at each line's sizes; (n,) unless noted."""

    lift: Floats  # of volatility to the sentinel's share of what was seen, at least 1
    sigma: Floats  # 24 h, lifted
    volume: Floats  # USD a day
    caps: Integers  # (n, K)
    size: Floats  # (n, K): the caps as numbers
    hours: Floats  # (n, K): how long closing a position of that size takes
    cost: Floats  # (n, K): half the spread and the impact of closing it
    depth: Floats  # USD that trade for the depth move


@dataclass(frozen=True)
class _Core:
    """Initial margin before anything that depends on size, stage by stage (n,)."""

    core: Floats
    conformal: Floats
    stressed: Floats
    floored: Floats
    worst: Floats  # the stress leg's move
    floor: Floats
    new_listing: Flags


def targets(inputs: Inputs, params: Params, scale: Floats | None = None) -> Targets:
    """Targets of every line; rows with a fault hold numbers without meaning.

    ``scale`` (n,), positive: multiplies the bounded IM and MM of every tier, which then meet the bounds anew; what
    it adds is the stage ``scale``. None, the production value, is the same as ones.
    """
    seen = inputs.observed
    with np.errstate(invalid="ignore", divide="ignore"):
        market = _market(inputs, params)
        base = _core(inputs, market, params)
        penalty = _penalty(market.sigma, market.volume, params)
        mm_leg = _mm_leg(inputs, market, penalty, params)

        # 8, 9: liquidity and funding as marginal rates between caps, then crowding; 14: the larger leg wins below
        based = base.floored[:, None] + chord(market.cost, market.size)
        funded = based + chord(_funding(inputs, market, params), market.size)
        crowd = _crowd(seen["open_interest_usd"], market.depth, params)
        crowded = np.maximum(funded, funded + crowd * (1 - funded))

        # 10: the fund's target is that of the margins before this term: no circle
        far = np.maximum(base.worst, inputs.q_far * market.lift)
        insured = crowded + _fund_term(crowded, far, seen["insurance_fund_usd"], market.size, params)

        asked, (im, mm) = mm_leg, _lawful(_bounded(insured, mm_leg, params), mm_leg, params)
        bounded = im[:, 0]
        if scale is not None:
            wide = scale[:, None]
            asked = wide * mm / PPM
            im, mm = _lawful(_bounded(wide * im / PPM, asked, params), asked, params)
        headline = (stage[:, 0] for stage in (based, funded, crowded, insured))
        reached = [base.core, base.conformal, base.stressed, base.floored, *headline]
        held = exposure.scale(
            inputs.sigma_annual * market.lift,
            seen["usual_vol"],
            seen["drawdown"],
            inputs.q_far * market.lift,
            market.depth,
            params,
        )
        thinness = seen["daily_volume_usd"] / inputs.variance / seen["depth_median"]
        return Targets(
            vector=_vector(im, mm, penalty, params),
            stages=_stages([*(ppm(x) for x in reached), bounded, im[:, 0]]),
            caps=market.caps,
            exposure=np.floor(PPM * held).astype(np.int64),
            insurance_usd=_insurance(far, _bounded(crowded, mm_leg, params), market.size, params),
            feasible=np.asarray((asked + params.clamp_gap <= params.margin.im_max).all(axis=1)),
            sigma_ratio=np.sqrt(inputs.variance) / seen["sigma_median"],
            depth_ratio=thinness,
            sentinel=market.lift > 1,
            depth_thin=(thinness < params.liquidity.depth_thin_ratio) | np.isnan(seen["daily_volume_usd"]),
            oi_crowd=crowd[:, 0] > 0,
            funding_skew=(seen["funding_last"] >= seen["funding_q"]) & (seen["funding_last"] > 0),
            stress_floor=base.worst > base.conformal,
            longrun_floor=base.floor > base.stressed,
            new_listing=base.new_listing,
            fund_low=np.asarray((insured > crowded).any(axis=1)),
        )


def _market(inputs: Inputs, params: Params) -> _Market:
    """1, 4: volatility, sizes, liquidation horizon and liquidity of each line."""
    seen, liquidity = inputs.observed, params.liquidity
    floor_variance = params.failsafe.sentinel_share**2 * np.nan_to_num(seen["sentinel_variance"])
    lift = np.sqrt(np.maximum(1.0, floor_variance / inputs.variance))
    sigma = np.sqrt(inputs.variance) * lift
    # A market known to have no volume is the thinnest of all, not an unknown one.
    volume = np.maximum(_or(seen["daily_volume_usd"], liquidity.unknown_daily_volume_usd), LEAST_VOLUME)
    caps = tier_caps(_or(seen["ladder_volume_usd"], volume), params)
    size = caps.astype(np.float64)
    hourly = volume / 24 * _or(seen["hour_share"], 1.0)
    hours = np.clip(
        liquidity.detection_hours + size / (liquidity.participation * hourly)[:, None],
        liquidity.horizon_min_hours,
        liquidity.horizon_max_hours,
    )
    cost = liquidity.spread / 2 + liquidity.impact * sigma[:, None] * np.sqrt(size / volume[:, None])
    depth = volume * (liquidity.depth_move / (liquidity.impact * sigma)) ** 2
    return _Market(lift, sigma, volume, caps, size, hours, cost, depth)


def _core(inputs: Inputs, market: _Market, params: Params) -> _Core:
    """2, 3, 6, 7: core, conformal factor, stress leg, long-run floor."""
    seen, margin = inputs.observed, params.margin
    core = inputs.q_im * market.lift
    r_im = core * _or(seen["conformal_im"], 1.0)
    worst = np.maximum(margin.gap, np.nan_to_num(seen["stress_move"]))
    stressed = (1 - margin.stress_share) * r_im + margin.stress_share * np.maximum(r_im, worst)
    new_listing = seen["history_days"] < params.failsafe.new_listing_days
    floor = np.nan_to_num(np.where(new_listing, seen["safe_im"], seen["floor_im"]))
    floored = np.fmax(np.maximum(stressed, floor), margin.implied_vol_factor * seen["implied_vol"] * DAY_ROOT)
    return _Core(core, r_im, stressed, floored, worst, floor, new_listing)


def _mm_leg(inputs: Inputs, market: _Market, penalty: Floats, params: Params) -> Floats:
    """11: what closing a position of each tier may cost, as the marginal rate between caps, and the penalty (n, K)."""
    core = excursion_quantile(inputs.q_mm, inputs.horizons, market.hours) * market.lift[:, None]
    core = core * _or(inputs.observed["conformal_mm"], 1.0)[:, None]
    return chord(core + market.cost, market.size) + penalty[:, None]


def _funding(inputs: Inputs, market: _Market, params: Params) -> Floats:
    """5: funding that falls due while a position of each size is closed (n, K)."""
    seen = inputs.observed
    settlement = _or(seen["funding_interval_hours"], 8.0)
    rate = np.nan_to_num(seen["funding_q"]) if params.margin.funding_quantile else np.zeros(len(inputs))
    return market.hours / settlement[:, None] * rate[:, None]


def _crowd(open_interest: Floats, depth: Floats, params: Params) -> Floats:
    """9: crowding of open interest against the depth that would have to absorb it, in [0, 1] (n, 1)."""
    low, high = params.liquidity.oi_low, params.liquidity.oi_high
    return np.nan_to_num(np.clip((open_interest / depth - low) / (high - low), 0.0, 1.0))[:, None]


def _vector(im: Integers, mm: Integers, penalty: Floats, params: Params) -> Integers:
    """The vector as it is published: margins, the penalty within its share of MM, the haircut."""
    fee = np.minimum(ppm(penalty), (params.penalty.share_of_mm * mm[:, 0]).astype(np.int64) - 1)
    haircut = np.full(len(im), int(ppm(np.array(params.collateral.haircut))))
    return np.column_stack([im, mm, fee, haircut])


def _stages(reached: Sequence[Integers]) -> Integers:
    """Increments of the stages (n, len(STAGES)) from IM after each; those of the governor and of overrides are 0."""
    steps = np.column_stack(reached)
    stages = np.zeros((len(steps), len(STAGES)), dtype=np.int64)
    stages[:, : steps.shape[1]] = np.diff(steps, axis=1, prepend=0)
    return stages


def excursion_quantile(quantiles: Floats, horizons: tuple[int, ...], hours: Floats) -> Floats:
    """Quantile at any horizon: linear in ln Q over ln h between those present, root of time beyond.

    ``quantiles`` (n, H) with NaN where a row lacks the horizon; ``hours`` (n, K). Returns (n, K).
    """
    out = np.full(hours.shape, np.nan)
    present = ~np.isnan(quantiles)
    code = present @ (1 << np.arange(len(horizons)))  # rows with the same horizons go together
    for which in np.unique(code[code > 0]).tolist():
        lines = code == which
        pattern = (which >> np.arange(len(horizons)) & 1).astype(bool)
        grid = np.log(np.array(horizons, dtype=np.float64)[pattern])
        known = np.log(np.maximum(quantiles[lines][:, pattern], 1e-12))
        x = np.log(hours[lines])
        inside = np.clip(x, grid[0], grid[-1])
        right = np.clip(np.searchsorted(grid, inside, side="left"), 1, max(len(grid) - 1, 1))
        left = right - 1
        right = np.minimum(right, len(grid) - 1)
        span = np.where(right > left, grid[right] - grid[left], 1.0)
        weight = (inside - grid[left]) / span
        low, high = np.take_along_axis(known, left, 1), np.take_along_axis(known, right, 1)
        out[lines] = np.exp(low + weight * (high - low) + (x - inside) / 2)
    return out


def tier_caps(volume: Floats, params: Params) -> Integers:
    """Caps of the size tiers in whole USD, strictly rising: shares of the month's daily volume."""
    shares = np.array(params.liquidity.tier_shares)
    caps = np.maximum(1.0, np.floor(volume[:, None] * shares)).astype(np.int64)
    rank = np.arange(len(shares))
    return np.asarray(np.maximum.accumulate(caps - rank, axis=1) + rank)


def chord(average: Floats, size: Floats) -> Floats:
    """Marginal rate of each tier: the slope of size times average rate between its caps (n, K)."""
    total = average * size
    return np.diff(total, axis=1, prepend=0.0) / np.diff(size, axis=1, prepend=0.0)


def ppm(fraction: Floats) -> Integers:
    """Parts per million, rounded up; a millionth of a part absorbs the rounding of binary fractions."""
    safe = np.nan_to_num(fraction, nan=1.0, posinf=1e3, neginf=0.0)
    return np.asarray(np.ceil(np.minimum(safe, 1e3) * PPM - 1e-6), dtype=np.int64)


def _fund_term(im: Floats, worst: Floats, fund_usd: Floats, size: Floats, params: Params) -> Floats:
    """What a short insurance fund adds to each tier's rate; 0 where the fund is unknown (n, K).

    ``kappa * im * (1 - IF / IF*)`` with the target of positions margined at that rate, and no more than makes the
    fund suffice: a margin that rises lowers the target, and more variance must not lower the margin by that way.
    """
    share = np.maximum(fund_usd, 0.0)[:, None] / (params.insurance.largest_accounts * size[:, -1:])
    beyond = worst[:, None] - im
    missing = np.clip(1 - share / beyond, 0.0, 1.0)
    term = np.minimum(params.margin.fund_weight * im * missing, beyond - share)
    return np.nan_to_num(np.maximum(term, 0.0))


def _bounded(im: Floats, mm_leg: Floats, params: Params) -> Floats:
    """IM above the maintenance leg by the funding clamp's gap, inside the hard bounds."""
    return np.clip(np.maximum(im, mm_leg + params.clamp_gap), params.margin.im_min, params.margin.im_max)


def _lawful(im: Floats, mm_leg: Floats, params: Params) -> tuple[Integers, Integers]:
    """IM and MM in ppm that rise over the tiers and stand apart by the funding clamp's gap."""
    rising = np.maximum.accumulate(ppm(im), axis=1)
    mm = np.maximum.accumulate(ppm(np.maximum(im / 2, mm_leg)), axis=1)
    return rising, np.minimum(mm, rising - int(ppm(np.array(params.clamp_gap))))


def _penalty(sigma: Floats, volume: Floats, params: Params) -> Floats:
    """What a liquidator must earn on a median liquidation: spread, impact, gas, capital."""
    size = params.penalty.liquidation_size_usd
    impact = params.liquidity.impact * sigma * np.sqrt(size / volume)
    fee = params.liquidity.spread / 2 + impact + params.penalty.gas_usd / size + params.penalty.capital_charge
    return np.maximum(fee, params.penalty.minimum)


def _insurance(worst: Floats, im: Floats, size: Floats, params: Params) -> Integers:
    """Cover-2 without account records: so many positions at the largest cap meet the worst move."""
    required = (im * np.diff(size, axis=1, prepend=0.0)).sum(axis=1)
    loss = params.insurance.largest_accounts * np.maximum(0.0, worst * size[:, -1] - required)
    return np.asarray(np.ceil(np.nan_to_num(loss)), dtype=np.int64)


def _or(values: Floats, default: Floats | float) -> Floats:
    """``values`` where they are known, ``default`` elsewhere."""
    return np.where(np.isnan(values), default, values)
