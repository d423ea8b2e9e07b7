"""Parameter packs of the venue: every constant of the simulator, stated in one TOML file, frozen and hashed.

The code holds no default for any of them: a pack that leaves one out, or holds one too many, is refused by key.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from features.errors import UsageError
from forecaster.policy.params import build

__all__ = ["VenueParams"]

ADL_METHODS: Final = ("water_filling", "queue", "pro_rata", "none")


@dataclass(frozen=True)
class PathConstants:
    """How volatility and volume are read from past bars, hours."""

    sigma_half_life_hours: int
    sigma_median_hours: int
    volume_median_hours: int
    unknown_daily_volume_usd: float


@dataclass(frozen=True)
class PopulationConstants:
    """The accounts and their exogenous sequences of positions."""

    seed: int
    slots: int
    hold_hours: float
    idle_hours: float
    long_share: float
    size_log_sd: float
    leverage_median: float
    leverage_log_sd: float
    topup_propensity: float
    deleveraging_propensity: float
    open_interest_days: float


@dataclass(frozen=True)
class LiquidationConstants:
    """Triggers and steps; levels are multiples of the maintenance margin."""

    restore_level: float
    warning_level: float
    release_level: float
    backstop_level: float
    topup_level: float
    topups: int
    step_share: float
    step_move: float
    participation: float
    cooldown_seconds: float
    step_least_usd: float
    dust_usd: float
    penalty_cap: float
    rounds: int
    adverse_first: bool
    auction: bool


@dataclass(frozen=True)
class ImpactConstants:
    """The square-root impact law and its memory."""

    coefficient: float
    spread: float
    transient_share: float
    permanent_share: float
    half_life_hours: float
    slip_cap: float
    print_band: float


@dataclass(frozen=True)
class LiquidatorConstants:
    """Competing liquidators: capital in shares of the daily volume; latency in minutes and charge of each."""

    latency_minutes: tuple[float, ...]
    capital_share: float
    capital_charge: tuple[float, ...]
    risk_charge: float
    reward_share: float
    gas_usd: float


@dataclass(frozen=True)
class AuctionConstants:
    """The Dutch auction; fractions of the price, minutes."""

    buffer: float
    cut: float
    step_minutes: float
    tail_minutes: float
    cusp: float
    chip: float
    tip_usd: float


@dataclass(frozen=True)
class FundConstants:
    """The insurance fund, in shares of the nominal open interest at the first bar, and what loss comes after it."""

    size_share: float
    junior_share: float
    adl: str


@dataclass(frozen=True)
class BreakerConstants:
    """Breakers on observed prices; a move of 1 or more never trips."""

    reduce_only_move: float
    reduce_only_hours: int
    halt_move: float
    halt_hours: int
    grace_hours: int


@dataclass(frozen=True)
class FeeConstants:
    """Trading fees, fractions of notional, and the fund's share of them."""

    taker: float
    fund_share: float


@dataclass(frozen=True)
class VenueParams:
    """One parameter pack of the venue."""

    name: str
    path: PathConstants
    population: PopulationConstants
    liquidation: LiquidationConstants
    impact: ImpactConstants
    liquidators: LiquidatorConstants
    auction: AuctionConstants
    fund: FundConstants
    breakers: BreakerConstants
    fees: FeeConstants

    @classmethod
    def default(cls) -> VenueParams:
        """The pack that ships with the package."""
        text = files("forecaster.venue").joinpath("packs/default-1.toml").read_text("utf-8")
        return cls.from_dict(tomllib.loads(text), "packs/default-1.toml")

    @classmethod
    def load(cls, path: str | Path) -> VenueParams:
        """Read a pack. Raises UsageError naming file and key where it is missing, malformed or incomplete."""
        try:
            values = tomllib.loads(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such venue pack; copy venue/packs/default-1.toml and edit it") from None
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: not a TOML file: {error}") from None
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "venue params") -> VenueParams:
        """A checked pack from nested tables."""
        params = build(cls, values, source, "")
        params._check(source)
        return params

    def replace(self, **sections: dict[str, Any]) -> VenueParams:
        """The same pack with some keys of some sections changed, checked again."""
        values = asdict(self)
        for section, changes in sections.items():
            values[section] = {**values[section], **changes} if section in values else changes
        for key in ("latency_minutes", "capital_charge"):
            values["liquidators"][key] = list(values["liquidators"][key])
        return VenueParams.from_dict(values, f"{self.name}, changed")

    @cached_property
    def sha256(self) -> str:
        """Hash of all values, in canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _check(self, source: str) -> None:
        people, rule, impact, fund = self.population, self.liquidation, self.impact, self.fund
        shares = {
            "population.long_share": people.long_share,
            "population.topup_propensity": people.topup_propensity,
            "population.deleveraging_propensity": people.deleveraging_propensity,
            "liquidation.step_share": rule.step_share,
            "liquidation.backstop_level": rule.backstop_level,
            "liquidation.penalty_cap": rule.penalty_cap,
            "impact.transient_share": impact.transient_share,
            "impact.permanent_share": impact.permanent_share,
            "impact.slip_cap": impact.slip_cap,
            "liquidators.reward_share": self.liquidators.reward_share,
            "fund.junior_share": fund.junior_share,
            "fees.fund_share": self.fees.fund_share,
        }
        above = {
            "path.sigma_half_life_hours": self.path.sigma_half_life_hours,
            "path.sigma_median_hours": self.path.sigma_median_hours,
            "path.volume_median_hours": self.path.volume_median_hours,
            "path.unknown_daily_volume_usd": self.path.unknown_daily_volume_usd,
            "population.slots": people.slots,
            "population.hold_hours": people.hold_hours,
            "population.leverage_median": people.leverage_median,
            "population.open_interest_days": people.open_interest_days,
            "liquidation.rounds": rule.rounds,
            "liquidation.cooldown_seconds": rule.cooldown_seconds,
            "impact.half_life_hours": impact.half_life_hours,
            "auction.step_minutes": self.auction.step_minutes,
        }
        rules = {f"{key}: must lie in [0, 1]": 0 <= value <= 1 for key, value in shares.items()}
        rules |= {f"{key}: must be above 0": value > 0 for key, value in above.items()}
        rules |= {
            "liquidation.restore_level: must exceed 1": rule.restore_level > 1,
            "liquidation.release_level: must exceed restore_level": rule.release_level > rule.restore_level,
            "liquidation.warning_level: must be at least release_level": rule.warning_level >= rule.release_level,
            "liquidators.latency_minutes: must name at least one, ascending": bool(self.liquidators.latency_minutes)
            and list(self.liquidators.latency_minutes) == sorted(self.liquidators.latency_minutes),
            "liquidators.capital_charge: must name one per latency": len(self.liquidators.capital_charge)
            == len(self.liquidators.latency_minutes),
            "auction.cut: must lie in (0, 1)": 0 < self.auction.cut < 1,
            f"fund.adl: must be one of {', '.join(ADL_METHODS)}": fund.adl in ADL_METHODS,
        }
        for text, holds in rules.items():
            if not holds:
                raise UsageError(f"{source}: {text}")
