"""What the policy decides on and returns: modes, reasons, the governed vector, states and decisions.

Instants are integers, microseconds since 1970-01-01 UTC; margins, penalties and scales are integers in parts
per million, so that every decision is exact and the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

__all__ = ["HOUR", "PPM", "REASONS", "STAGES", "Decision", "Mode", "PolicyState", "SymbolState", "Vector"]

PPM: Final = 1_000_000
HOUR: Final = 3_600_000_000


class Mode(StrEnum):
    """The governor's modes, in their order of severity where they have one."""

    CALM = "calm"
    NORMAL = "normal"
    COOLDOWN = "cooldown"
    STRESS = "stress"
    CRISIS = "crisis"
    FAILSAFE = "failsafe"


# The closed set of reasons that this version emits, in the order in which a line lists them.
REASONS: Final = (
    "VOL_UP",
    "REGIME_STRESS",
    "DEPTH_THIN",
    "OI_CROWD",
    "FUNDING_SKEW",
    "STRESS_FLOOR",
    "LONGRUN_FLOOR",
    "DECAY",
    "DEADBAND_HOLD",
    "STEP_CAP",
    "NOTICE",
    "CB1",
    "CB3",
    "STALE",
    "NAN",
    "SENTINEL",
    "INVARIANT_HOLD",
    "MARK_ABSENT",
    "OI_ABSENT",
    "NEW_LISTING",
)

# Stages of the decomposition of IM, in the order in which they are applied.
STAGES: Final = (
    "core",
    "conformal",
    "stress",
    "floor",
    "liquidity",
    "funding",
    "open_interest",
    "insurance",
    "bounds",
    "scale",
    "governor",
    "override",
)


@dataclass(frozen=True, slots=True)
class Vector:
    """What the governor moves as one: IM and MM of every tier, penalty, haircut; all in ppm."""

    parts: tuple[int, ...]

    @property
    def tiers(self) -> int:
        """Number of size tiers."""
        return (len(self.parts) - 2) // 2

    @property
    def im(self) -> tuple[int, ...]:
        """Initial margin by tier."""
        return self.parts[: self.tiers]

    @property
    def mm(self) -> tuple[int, ...]:
        """Maintenance margin by tier."""
        return self.parts[self.tiers : -2]

    @property
    def penalty(self) -> int:
        """Liquidation penalty."""
        return self.parts[-2]

    @property
    def haircut(self) -> int:
        """Haircut of the quote asset."""
        return self.parts[-1]


@dataclass(frozen=True, slots=True)
class SymbolState:
    """What one symbol carries from line to line."""

    as_of: int
    vector: Vector
    stages: tuple[int, ...]  # increments of the decomposition's stages, summing to the published IM
    mode: Mode
    loud_at: int  # last instant at which the mode's trigger was above its release level
    risen_at: int  # last upward step
    good_at: int  # last usable forecast
    effective_at: int
    exposure: int
    caps: tuple[int, ...]
    window: tuple[tuple[int, int], ...]  # (as_of, IM) of the past five days, only rising minima kept
    breakers: tuple[tuple[str, int], ...]  # tripped breakers and the instant at which each ends
    safe_im: float  # last known static safe margin, a fraction
    insurance: int


@dataclass(frozen=True)
class PolicyState:
    """All symbols seen so far."""

    symbols: Mapping[str, SymbolState] = field(default_factory=dict)

    @classmethod
    def initial(cls) -> PolicyState:
        """The state before the first line."""
        return cls()


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the schedule without its place in the chain. USD whole, instants in microseconds."""

    symbol: str
    as_of: int
    announced_at: int
    effective_at: int
    expires_at: int
    mode: Mode
    vector: Vector
    caps: tuple[int, ...]
    exposure: int
    insurance_target: int
    breakers: tuple[tuple[str, int], ...]
    breaker_band: int
    reasons: tuple[str, ...]
    bounds_hit: tuple[tuple[str, str, str], ...]  # parameter, bound, side
    decomposition: tuple[int, ...]  # by STAGES; sums to the change of IM
    forecast_hash: str
    params_hash: str
    model_sha256: str
    fallback: bool
