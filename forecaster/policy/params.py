"""Parameter packs: every constant of the policy, stated in one TOML file, frozen and hashed.

The code holds no default for any of them: a pack that leaves one out, or holds one too many, is refused by
key.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from features.errors import UsageError

from .types import Mode

__all__ = ["ModeLimits", "Params"]

T = TypeVar("T")


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
    """Haircut of the quote asset and its hard cap."""

    haircut: float
    haircut_cap: float


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
    scale_min: float
    scale_max: float
    no_trade_band: float
    stress_cap: float
    crisis_cap: float
    failsafe_cap: float


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
    """Triggers and duration of the circuit breakers."""

    hour_move: float
    depth_ratio: float
    reduce_only_hours: int


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
    """Constants of the margins without a forecast."""

    quantile: float
    min_observations: int
    fhs_half_life_hours: int
    ewma_half_life_hours: int


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


@dataclass(frozen=True)
class Params:
    """One parameter pack."""

    name: str
    tuned: bool
    model: str
    margin: Margin
    liquidity: Liquidity
    penalty: Penalty
    collateral: Collateral
    conformal: Conformal
    exposure: Exposure
    modes: Modes
    breakers: Breakers
    failsafe: Failsafe
    baselines: Baselines
    limits: Limits
    governor: Governor

    @classmethod
    def default(cls) -> Params:
        """The pack that ships with the package."""
        text = files("forecaster.policy").joinpath("packs/default-1.toml").read_text("utf-8")
        return cls.from_dict(tomllib.loads(text), "packs/default-1.toml")

    @classmethod
    def load(cls, path: str | Path) -> Params:
        """Read a pack. Raises UsageError naming file and key where it is missing, malformed or incomplete."""
        try:
            values = tomllib.loads(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such parameter pack; copy packs/default-1.toml and edit it") from None
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: not a TOML file: {error}") from None
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "params") -> Params:
        """A checked pack from nested tables."""
        params = _build(cls, values, source, "")
        params._check(source)
        return params

    @cached_property
    def sha256(self) -> str:
        """Hash of all values, in canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def by_mode(self) -> dict[Mode, ModeLimits]:
        """The governor's limits of each mode."""
        table = self.governor
        failsafe = ModeLimits(**{**asdict(table.stress), "dead_band": 0.0, "half_life_hours": 0})
        return {
            Mode.CALM: table.normal,
            Mode.NORMAL: table.normal,
            Mode.COOLDOWN: table.normal,
            Mode.STRESS: table.stress,
            Mode.CRISIS: table.crisis,
            Mode.FAILSAFE: failsafe,
        }

    @property
    def clamp_gap(self) -> float:
        """Least distance of IM above MM, so that |funding| <= c * (IM - MM) (dYdX's funding clamp)."""
        return self.margin.funding_cap / self.margin.funding_clamp

    def _check(self, source: str) -> None:
        shares, liquidity = self.liquidity.tier_shares, self.liquidity
        slowest = liquidity.detection_hours + shares[-1] * 24 / liquidity.participation if shares else 0.0
        rules = {
            "margin.im_min: must be at least 2 * funding_cap / funding_clamp": self.margin.im_min >= 2 * self.clamp_gap,
            "margin.im_max: must lie in (im_min, 1]": self.margin.im_min < self.margin.im_max <= 1,
            "liquidity.tier_shares: must rise strictly from above 0": bool(shares)
            and all(low < high for low, high in zip((0.0, *shares), shares, strict=False)),
            "liquidity.tier_shares: the last tier must be closable within horizon_max_hours": slowest
            <= liquidity.horizon_max_hours,
            "liquidity.oi_high: must exceed oi_low": liquidity.oi_high > liquidity.oi_low,
            "penalty.minimum: must lie in (0, share_of_mm * im_min / 2)": 0
            < self.penalty.minimum
            < self.penalty.share_of_mm * self.margin.im_min / 2,
            "conformal.factor_min: must lie in (0, 1]": 0 < self.conformal.factor_min <= 1,
            "conformal.factor_max: must be at least 1": self.conformal.factor_max >= 1,
        }
        for rule, holds in rules.items():
            if not holds:
                raise UsageError(f"{source}: {rule}")


def _build(kind: type[T], values: Any, source: str, prefix: str) -> T:
    if not isinstance(values, dict):
        raise UsageError(f"{source}: {prefix.rstrip('.')} must be a table")
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise UsageError(f"{source}: unknown key {prefix}{name}; known here: {', '.join(names)}")
    for name in names:
        if name not in values:
            raise UsageError(f"{source}: key {prefix}{name} is missing; the code holds no default for it")
    return kind(**{name: _value(hints[name], values[name], source, prefix + name) for name in names})


def _value(kind: Any, value: Any, source: str, key: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, value, source, key + ".")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number and abs(value) < float("inf"):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    if kind == tuple[float, ...] and isinstance(value, list):
        return tuple(_value(float, item, source, key) for item in value)
    raise UsageError(f"{source}: {key} = {value!r} is not of type {getattr(kind, '__name__', 'list of numbers')}")
