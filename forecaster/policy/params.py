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
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from features.errors import UsageError

from .constants import (
    Accounts,
    Baselines,
    Breakers,
    Collateral,
    Conformal,
    Exposure,
    Failsafe,
    Governor,
    Insurance,
    Limits,
    Liquidity,
    Margin,
    ModeLimits,
    Modes,
    Oracle,
    Penalty,
    Protection,
    Rollout,
)
from .hedging.params import HedgingParams
from .portfolio.params import PortfolioParams
from .types import PPM, Mode

__all__ = ["ModeLimits", "Params", "build"]

T = TypeVar("T")


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
    hedging: HedgingParams
    exposure: Exposure
    portfolio: PortfolioParams
    modes: Modes
    breakers: Breakers
    oracle: Oracle
    accounts: Accounts
    insurance: Insurance
    protection: Protection
    failsafe: Failsafe
    baselines: Baselines
    rollout: Rollout
    limits: Limits
    governor: Governor

    @classmethod
    def default(cls) -> Params:
        """The pack that ships with the package."""
        text = files("forecaster.policy").joinpath("packs/default-2.toml").read_text("utf-8")
        return cls.from_dict(tomllib.loads(text), "packs/default-2.toml")

    @classmethod
    def load(cls, path: str | Path) -> Params:
        """Read a pack. Raises UsageError naming file and key where it is missing, malformed or incomplete."""
        try:
            values = tomllib.loads(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such parameter pack; copy packs/default-2.toml and edit it") from None
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: not a TOML file: {error}") from None
        return cls.from_dict(values, str(path))

    def protected(self, tier: str) -> Params:
        """This pack with a tier of protection laid over it: ``basic``, ``hedged`` or ``insured``.

        Raises UsageError where there is no such overlay.
        """
        place = files("forecaster.policy").joinpath("packs/protection")
        names = sorted(path.name.removesuffix(".toml") for path in place.iterdir() if path.name.endswith(".toml"))
        if tier not in names:
            raise UsageError(f"{tier!r} is no tier of protection; known: {', '.join(names)}")
        values = tomllib.loads(place.joinpath(f"{tier}.toml").read_text("utf-8"))
        return self.overlaid(values, f"packs/protection/{tier}.toml")

    def overlaid(self, values: dict[str, Any], source: str) -> Params:
        """This pack with some keys of some tables replaced, checked anew; unknown keys are refused by name."""
        return self.from_dict(_merged(asdict(self), values), source)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "params") -> Params:
        """A checked pack from nested tables."""
        params = build(cls, values, source, "")
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
            **self._outer_rules(),
            **self._rollout_rules(),
            **self._portfolio_rules(),
            **self._hedging_rules(),
        }
        for rule, holds in rules.items():
            if not holds:
                raise UsageError(f"{source}: {rule}")

    def _outer_rules(self) -> dict[str, bool]:
        breakers, accounts, insurance = self.breakers, self.accounts, self.insurance
        exposure, protection = self.exposure, self.protection
        durations = ("escalate", "reduce_only", "price_band", "halt", "withdraw_gate", "grace")
        return {
            **{
                f"breakers.{name}_hours: must be at least 1": getattr(breakers, f"{name}_hours") >= 1
                for name in durations
            },
            "breakers.gap_limits: must rise, one more than gap_volumes_usd": _rising(breakers.gap_limits)
            and len(breakers.gap_limits) == len(breakers.gap_volumes_usd) + 1,
            "breakers.gap_volumes_usd: must fall": _rising(breakers.gap_volumes_usd[::-1]),
            "breakers.gap_observations: must be at least 1": breakers.gap_observations >= 1,
            "oracle.quorum: must be at least 3, or one lying source decides": self.oracle.quorum >= 3,
            "accounts: must hold 0 < backstop_level < 1 < search_level < release_level < warning_level": _rising(
                (
                    0.0,
                    accounts.backstop_level,
                    1.0,
                    accounts.search_level,
                    accounts.release_level,
                    accounts.warning_level,
                )
            ),
            "accounts.step_share: must lie in (0, 1]": 0 < accounts.step_share <= 1,
            "accounts.ruin_probability: must lie in (0, 1)": 0 < accounts.ruin_probability < 1,
            "insurance.tail: must lie in (0, 1)": 0 < insurance.tail < 1,
            "insurance.shortfall_quantile: must lie in (0, 1)": 0 < insurance.shortfall_quantile < 1,
            "insurance.tranche_caps: must rise strictly from above 0": _rising((0.0, *insurance.tranche_caps)),
            "exposure.drawdown: must lie in (0, 1]": 0 < exposure.drawdown <= 1,
            "exposure.target_vol: must not be negative": exposure.target_vol >= 0,
            "exposure.multiplier: must not be negative": exposure.multiplier >= 0,
            "exposure.usual_days: must be at least 60": exposure.usual_days >= 60,
            "exposure.usual_half_life_hours: must be at least 1": exposure.usual_half_life_hours >= 1,
            "exposure.scale_min: must lie between 0 and scale_max": 0 <= exposure.scale_min <= exposure.scale_max,
            "margin.fund_weight: must not be negative": self.margin.fund_weight >= 0,
            "protection.retained: must lie in [0, 1]": 0 <= protection.retained <= 1,
            "protection.hedged_share: must lie in [0, 1]": 0 <= protection.hedged_share <= 1,
        }

    def _rollout_rules(self) -> dict[str, bool]:
        rollout = self.rollout
        return {
            "rollout.block_hours: must be at least 1": rollout.block_hours >= 1,
            "rollout.coverage_ppm: must lie in 1 to 1000000": 0 < rollout.coverage_ppm <= PPM,
            "rollout.silent_steps: must not be negative": rollout.silent_steps >= 0,
            "rollout.canaries: must name some symbols, none twice": bool(rollout.canaries)
            and all(rollout.canaries)
            and len({*rollout.canaries}) == len(rollout.canaries),
        }

    def _portfolio_rules(self) -> dict[str, bool]:
        terms = self.portfolio
        shares = ("price_range", "vol_down", "shortfall_level", "offset_cap")
        rest = (
            *("vol_up", "vol_floor", "vega_power_short", "vega_power_long", "least_history_hours"),
            *("short_option_charge", "stable_carry", "volatile_carry", "borrow_rate"),
        )
        return {
            **{f"portfolio.{name}: must lie in (0, 1)": 0 < getattr(terms, name) < 1 for name in shares},
            **{f"portfolio.{name}: must not be negative": getattr(terms, name) >= 0 for name in rest},
            "portfolio.price_steps: must be at least 1": terms.price_steps >= 1,
            "portfolio.correlation_half_life_hours: must be above 0": terms.correlation_half_life_hours > 0,
            "portfolio.ladder_hours: must rise from 0": terms.ladder_hours[:1] == (0.0,)
            and _rising(terms.ladder_hours),
        }

    def _hedging_rules(self) -> dict[str, bool]:
        hedging = self.hedging
        positive = ("notional_usd", "risk_aversion", "vol_of_vol", "gamma_max", "participation", "budget")
        costs = ("iv_markup", "iv_skew", "option_fee", "option_fee_cap", "gas_usd", "trade_cost")
        return {
            **{f"hedging.{name}: must be above 0": getattr(hedging, name) > 0 for name in positive},
            **{f"hedging.{name}: must not be negative": getattr(hedging, name) >= 0 for name in costs},
            "hedging.budget: must be below 1": hedging.budget < 1,
            "hedging.level: must lie in (0, 1)": 0 < hedging.level < 1,
            "hedging.stress_weight: must lie in [0, 1)": 0 <= hedging.stress_weight < 1,
            "hedging.put_steps: must rise from 0 or more": bool(hedging.put_steps)
            and _rising((-1e-12, *hedging.put_steps)),
            "hedging.put_cap: must lie in (0, 1], or puts would leave a short position": 0 < hedging.put_cap <= 1,
        }


def _rising(values: tuple[float, ...]) -> bool:
    return all(low < high for low, high in pairwise(values))


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``over`` in the place of its own."""
    both = {key: (base.get(key), value) for key, value in over.items()}
    deep = {
        key: _merged(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
        for key, (old, new) in both.items()
    }
    return base | deep


def build(kind: type[T], values: Any, source: str, prefix: str) -> T:
    """A dataclass of numbers, words, their tuples and further dataclasses, from nested tables.

    Every key must be there and none beyond them: UsageError names ``source`` and the key, after ``prefix`` (empty
    for a whole pack, else ending in a dot).
    """
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
        return build(kind, value, source, key + ".")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number and abs(value) < float("inf"):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    if kind == tuple[float, ...] and isinstance(value, list | tuple):
        return tuple(_value(float, item, source, key) for item in value)
    if kind == tuple[str, ...] and isinstance(value, list | tuple):
        return tuple(_value(str, item, source, key) for item in value)
    name = {tuple[float, ...]: "list of numbers", tuple[str, ...]: "list of words"}.get(kind) or kind.__name__
    raise UsageError(f"{source}: {key} = {value!r} is not of type {name}")
