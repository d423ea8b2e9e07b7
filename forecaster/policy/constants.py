"""The tables of a parameter pack, one dataclass each; units and sources stand in the pack beside the values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Accounts",
    "Baselines",
    "Breakers",
    "Collateral",
    "Conformal",
    "Exposure",
    "Failsafe",
    "Governor",
    "Insurance",
    "Limits",
    "Liquidity",
    "Margin",
    "ModeLimits",
    "Modes",
    "Oracle",
    "Penalty",
    "Protection",
    "Rollout",
]


@dataclass(frozen=True)
class Margin:
    """Constants of initial and maintenance margin; fractions of notional, days, hours."""

    stress_share: float
    gap: float
    stress_vintage_hours: int
    floor_quantile: float
    floor_min_days: int
    im_min: float
    im_max: float
    funding_cap: float
    funding_clamp: float
    funding_quantile: float
    funding_days: int
    fund_weight: float
    implied_vol_factor: float


@dataclass(frozen=True)
class Liquidity:
    """Constants of the liquidation horizon, the impact law, the tiers and the open-interest term."""

    participation: float
    detection_hours: float
    horizon_min_hours: float
    horizon_max_hours: float
    impact: float
    spread: float
    tier_shares: tuple[float, ...]
    unknown_daily_volume_usd: float
    depth_move: float
    depth_thin_ratio: float
    oi_low: float
    oi_high: float


@dataclass(frozen=True)
class Penalty:
    """Constants of the liquidation penalty."""

    liquidation_size_usd: float
    gas_usd: float
    capital_charge: float
    minimum: float
    share_of_mm: float


@dataclass(frozen=True)
class Collateral:
    """Haircut of the quote asset and its hard cap; haircuts of other assets."""

    haircut: float
    haircut_cap: float
    concentration_usd: float
    match_tolerance_seconds: float


@dataclass(frozen=True)
class Conformal:
    """Constants of the adaptive conformal factor."""

    gain: float
    im_miss: float
    mm_miss: float
    factor_min: float
    factor_max: float


@dataclass(frozen=True)
class Exposure:
    """Constants of the exposure overlay."""

    target_vol: float
    usual_days: int
    usual_half_life_hours: int
    scale_min: float
    scale_max: float
    no_trade_band: float
    stress_cap: float
    crisis_cap: float
    failsafe_cap: float
    drawdown: float
    peak_days: int
    multiplier: float
    reference_usd: float


@dataclass(frozen=True)
class Modes:
    """Triggers of the state machine."""

    stress_probability: float
    crisis_probability: float
    stress_sigma_ratio: float
    release_share: float
    quiet_hours: int
    median_days: int


@dataclass(frozen=True)
class Breakers:
    """Triggers of the circuit breakers; how long their actions last at most."""

    hour_move: float
    five_minute_sigmas: float
    gap_limits: tuple[float, ...]
    gap_volumes_usd: tuple[float, ...]
    gap_observations: int
    depth_ratio: float
    fund_ratio: float
    escalate_hours: int
    reduce_only_hours: int
    price_band_hours: int
    halt_hours: int
    withdraw_gate_hours: int
    grace_hours: int


@dataclass(frozen=True)
class Oracle:
    """The oracle's quorum."""

    quorum: int
    max_age_seconds: float


@dataclass(frozen=True)
class Accounts:
    """Levels of an account in multiples of its maintenance margin, and what is done at them."""

    warning_level: float
    release_level: float
    search_level: float
    backstop_level: float
    step_share: float
    ruin_hours: float
    ruin_probability: float


@dataclass(frozen=True)
class Insurance:
    """The fund's target, the premium and the tranches."""

    largest_accounts: int
    shortfall_quantile: float
    shortfall_days: int
    load: float
    capital_charge: float
    tail: float
    tranche_caps: tuple[float, ...]


@dataclass(frozen=True)
class Protection:
    """A tier of protection: what a position bears itself, and who bears the rest."""

    tier: str
    retained: float
    hedged_share: float


@dataclass(frozen=True)
class Failsafe:
    """What counts as unusable, and what is safe then."""

    stale_hours: int
    hold_hours: int
    sigma_max: float
    sentinel_half_life_hours: int
    sentinel_share: float
    im_without_history: float
    own_history_days: int
    new_listing_days: int


@dataclass(frozen=True)
class Baselines:
    """Constants of the margins without a forecast, and of plain volatility targeting."""

    quantile: float
    min_observations: int
    fhs_half_life_hours: int
    ewma_half_life_hours: int
    target_vol: float
    target_scale_min: float
    target_scale_max: float


@dataclass(frozen=True)
class Rollout:
    """Constants of the roll-out from shadow over canaries to live; ``audit.rollout.Limits`` counts origins of all symbols."""

    block_hours: int
    coverage_ppm: int
    silent_steps: int
    canaries: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """Limits that hold in every mode, and the clocks of a line."""

    day_rise: float
    five_day_rise: float
    loosening_delay_hours: int
    expiry_hours: int


@dataclass(frozen=True)
class ModeLimits:
    """One row of the governor's table; a half-life of 0 means no decrease."""

    step_up: float
    step_hours: int
    half_life_hours: int
    dead_band: float
    day_rise: float
    notice_hours: int
    ramp_hours: int


@dataclass(frozen=True)
class Governor:
    """The governor's table."""

    normal: ModeLimits
    stress: ModeLimits
    crisis: ModeLimits
