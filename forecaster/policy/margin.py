"""Margin targets: what initial and maintenance margin should be, before the governor limits their speed.

All at once for every line. Margins are fractions of notional at size X (USD), the caps of the size tiers; the
headline is the first tier. Formula numbers are those of the policy's margin table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from . import exposure
from .inputs import Inputs
from .params import Params
from .types import PPM, STAGES, Vector

__all__ = ["Targets", "excursion_quantile", "targets"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DAY_ROOT: Final = (24 / 8760) ** 0.5  # a day's share of annual volatility


@dataclass(frozen=True)
class Targets:
    """Ungoverned targets of n lines with K tiers; ppm unless noted."""

    vector: Integers  # (n, 2 K + 2), laid out as Vector.parts
    stages: Integers  # (n, len(STAGES)): increments of IM's stages, the last two zero
    caps: Integers  # (n, K), USD
    exposure: Integers  # of the reference portfolio, before mode caps and the no-trade band
    insurance_usd: Integers
    feasible: npt.NDArray[np.bool_]
    sigma_ratio: Floats  # 24 h volatility over its 30-day median
    depth_ratio: Floats  # modelled depth over its 30-day median
    sentinel: npt.NDArray[np.bool_]
    depth_thin: npt.NDArray[np.bool_]
    oi_crowd: npt.NDArray[np.bool_]
    funding_skew: npt.NDArray[np.bool_]
    stress_floor: npt.NDArray[np.bool_]
    longrun_floor: npt.NDArray[np.bool_]
    new_listing: npt.NDArray[np.bool_]
    fund_low: npt.NDArray[np.bool_]  # the insurance fund is known and too small: its term is at work


def targets(inputs: Inputs, params: Params, scale: Floats | None = None) -> Targets:
    """Targets of every line; rows with a fault hold numbers without meaning.

    ``scale`` (n,), positive: multiplies the bounded IM and MM of every tier, which then meet the bounds anew; what
    it adds is the stage ``scale``. None, the production value, is the same as ones.
    """
    seen, margin, liquidity = inputs.observed, params.margin, params.liquidity
    with np.errstate(invalid="ignore", divide="ignore"):
        floor_variance = params.failsafe.sentinel_share**2 * np.nan_to_num(seen["sentinel_variance"])
        lift = np.sqrt(np.maximum(1.0, floor_variance / inputs.variance))
        sigma = np.sqrt(inputs.variance) * lift
        volume = _or(seen["daily_volume_usd"], liquidity.unknown_daily_volume_usd)
        caps = tier_caps(_or(seen["ladder_volume_usd"], volume), params)
        size = caps.astype(np.float64)

        # 1, 4, 5: liquidation horizon, liquidity, funding at each cap; penalty before its clip
        hourly = volume / 24 * _or(seen["hour_share"], 1.0)
        h = np.clip(
            liquidity.detection_hours + size / (liquidity.participation * hourly)[:, None],
            liquidity.horizon_min_hours,
            liquidity.horizon_max_hours,
        )
        cost = liquidity.spread / 2 + liquidity.impact * sigma[:, None] * np.sqrt(size / volume[:, None])
        settlement = _or(seen["funding_interval_hours"], 8.0)
        rate = np.nan_to_num(seen["funding_q"]) if margin.funding_quantile else np.zeros(len(inputs))
        funding = h / settlement[:, None] * rate[:, None]
        penalty = _penalty(sigma, volume, params)

        # 2, 3, 6, 7: core, conformal factor, stress leg, long-run floor
        core = inputs.q_im * lift
        r_im = core * _or(seen["conformal_im"], 1.0)
        worst = np.maximum(margin.gap, np.nan_to_num(seen["stress_move"]))
        stressed = (1 - margin.stress_share) * r_im + margin.stress_share * np.maximum(r_im, worst)
        new_listing = seen["history_days"] < params.failsafe.new_listing_days
        floor = np.nan_to_num(np.where(new_listing, seen["safe_im"], seen["floor_im"]))
        floored = np.fmax(np.maximum(stressed, floor), margin.implied_vol_factor * seen["implied_vol"] * DAY_ROOT)

        # 9: crowding of open interest against the depth that would have to absorb it
        depth = volume * (liquidity.depth_move / (liquidity.impact * sigma)) ** 2
        crowd = (seen["open_interest_usd"] / depth - liquidity.oi_low) / (liquidity.oi_high - liquidity.oi_low)
        crowd = np.nan_to_num(np.clip(crowd, 0.0, 1.0))[:, None]

        # 11, 12, 14: every leg as the marginal rate between caps, then the larger leg
        mm_core = excursion_quantile(inputs.q_mm, inputs.horizons, h) * lift[:, None]
        mm_core = mm_core * _or(seen["conformal_mm"], 1.0)[:, None]
        mm_leg = chord(mm_core + cost, size) + penalty[:, None]
        based = floored[:, None] + chord(cost, size)
        funded = based + chord(funding, size)
        crowded = np.maximum(funded, funded + crowd * (1 - funded))

        # 10: the fund's target is that of the margins before this term: no circle
        far = np.maximum(worst, inputs.q_far * lift)
        insured = crowded + _fund_term(crowded, far, seen["insurance_fund_usd"], size, params)

        im, mm = _lawful(_bounded(insured, mm_leg, params), mm_leg, params)
        before_scale = im[:, 0]
        if scale is not None:
            wide = scale[:, None]
            im, mm = _lawful(_bounded(wide * im / PPM, wide * mm / PPM, params), wide * mm / PPM, params)
        fee = np.minimum(ppm(penalty), (params.penalty.share_of_mm * mm[:, 0]).astype(np.int64) - 1)
        haircut = np.full(len(inputs), int(ppm(np.array(params.collateral.haircut))))

        cumulative = [core, r_im, stressed, floored, based[:, 0], funded[:, 0], crowded[:, 0], insured[:, 0]]
        steps = np.column_stack([*(ppm(x) for x in cumulative), before_scale, im[:, 0]])
        stages = np.zeros((len(inputs), len(STAGES)), dtype=np.int64)
        stages[:, : steps.shape[1]] = np.diff(steps, axis=1, prepend=0)
        held = exposure.scale(inputs.sigma_annual * lift, seen["drawdown"], inputs.q_far * lift, depth, params)
        thinness = volume / inputs.variance / seen["depth_median"]
        return Targets(
            vector=np.column_stack([im, mm, fee, haircut]),
            stages=stages,
            caps=caps,
            exposure=np.floor(PPM * held).astype(np.int64),
            insurance_usd=_insurance(far, _bounded(crowded, mm_leg, params), size, params),
            feasible=mm_leg[:, 0] + params.clamp_gap <= margin.im_max,
            sigma_ratio=np.sqrt(inputs.variance) / seen["sigma_median"],
            depth_ratio=thinness,
            sentinel=lift > 1,
            depth_thin=(thinness < liquidity.depth_thin_ratio) | np.isnan(seen["daily_volume_usd"]),
            oi_crowd=crowd[:, 0] > 0,
            funding_skew=(seen["funding_last"] >= seen["funding_q"]) & (seen["funding_last"] > 0),
            stress_floor=worst > r_im,
            longrun_floor=floor > stressed,
            new_listing=new_listing,
            fund_low=(insured > crowded).any(axis=1),
        )


def excursion_quantile(quantiles: Floats, horizons: tuple[int, ...], hours: Floats) -> Floats:
    """Quantile at any horizon: linear in ln Q over ln h between those present, root of time beyond.

    ``quantiles`` (n, H) with NaN where a row lacks the horizon; ``hours`` (n, K). Returns (n, K).
    """
    out = np.full(hours.shape, np.nan)
    present = ~np.isnan(quantiles)
    for pattern in np.unique(present, axis=0):
        lines = (present == pattern).all(axis=1)
        if not pattern.any():
            continue
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


def safe_vector(im: float, params: Params) -> Vector:
    """The static safe vector: MM = IM/2 in every tier, least penalty, haircut at its hard cap."""
    margin = int(ppm(np.array(min(max(im, params.margin.im_min), params.margin.im_max))))
    tiers = len(params.liquidity.tier_shares)
    fee, haircut = (int(ppm(np.array(x))) for x in (params.penalty.minimum, params.collateral.haircut_cap))
    return Vector((margin,) * tiers + (margin // 2,) * tiers + (fee, haircut))


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
    """``values`` where they are known and positive, ``default`` elsewhere."""
    return np.where(values > 0, values, default)
