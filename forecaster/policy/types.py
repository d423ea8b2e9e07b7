"""What the policy decides on and returns: modes, reasons, the governed vector, states and decisions.

Instants are integers, microseconds since 1970-01-01 UTC; margins, penalties and scales are integers in parts
per million, so that every decision is exact and the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from features.errors import UsageError

__all__ = [
    "ALL_SYMBOLS",
    "BIT",
    "HOUR",
    "MODES",
    "PPM",
    "REASONS",
    "STAGES",
    "Decision",
    "Governed",
    "Mode",
    "Override",
    "PolicyState",
    "SymbolState",
    "Vector",
]

if TYPE_CHECKING:
    from .governor import Course
    from .params import Params

Integers: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

PPM: Final = 1_000_000
HOUR: Final = 3_600_000_000
ALL_SYMBOLS: Final = "*"


class Mode(StrEnum):
    """The governor's modes, in their order of severity where they have one."""

    CALM = "calm"
    NORMAL = "normal"
    COOLDOWN = "cooldown"
    STRESS = "stress"
    CRISIS = "crisis"
    FAILSAFE = "failsafe"
    OVERRIDE = "override"


MODES: Final = tuple(Mode)  # a mode's place is its code

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
    "CB2",
    "CB3",
    "CB4",
    "IF_LOW",
    "STALE",
    "NAN",
    "SENTINEL",
    "OVERRIDE",
    "INVARIANT_HOLD",
    "MARK_ABSENT",
    "OI_ABSENT",
    "HEDGE_INFEASIBLE",
    "NEW_LISTING",
)

BIT: Final = {name: 1 << place for place, name in enumerate(REASONS)}

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
class Override:
    """What a person asks of a symbol's margin, or of all (``*``), over ``start <= as_of < expires``.

    A floor lifts initial margins at once, a cap lowers the vector to it, with neither the last vector is frozen.
    It wins over everything but a standing breaker. ``acknowledged`` lets a floor exceed the limits of 1 and 5
    days. Where several meet, the highest acknowledged floor and the highest plain one inside those limits both
    hold, also above a frozen vector; the lowest cap holds above the floors and yields to a freeze.

    Raises UsageError where it names nobody or no reason, never applies, or asks for bounds outside (0, 1].
    """

    symbol: str
    start: int
    expires: int
    im_floor_ppm: int | None
    im_cap_ppm: int | None
    who: str
    why: str
    acknowledged: bool

    def __post_init__(self) -> None:
        low = 1 if self.im_floor_ppm is None else self.im_floor_ppm
        high = PPM if self.im_cap_ppm is None else self.im_cap_ppm
        rules = {
            "who and why must be said": bool(self.who.strip() and self.why.strip()),
            "expires must lie after start": self.start < self.expires,
            "im_floor_ppm <= im_cap_ppm must lie in 1 to 1000000": 0 < low <= high <= PPM,
        }
        for rule, holds in rules.items():
            if not holds:
                raise UsageError(f"override of {self.symbol!r} by {self.who!r}: {rule}")

    @property
    def frozen(self) -> bool:
        """Whether it holds the last vector."""
        return self.im_floor_ppm is None and self.im_cap_ppm is None


@dataclass(frozen=True, slots=True)
class SymbolState:
    """What one symbol carries from line to line."""

    as_of: int
    vector: Vector
    stages: tuple[int, ...]  # increments of the decomposition's stages, summing to the published IM
    mode: Mode  # of the state machine, also under an override
    loud_at: int  # last instant at which the mode's trigger was above its release level
    risen_at: int  # last upward step
    good_at: int  # last usable forecast
    effective_at: int
    exposure: int
    action: int  # what stands of the breakers, a breakers.Action ...
    since: int  # ... the instant since which it does ...
    causes: int  # ... and the breakers that tripped since the first action began, as bits
    feeds: int  # bits of the feeds that spoke so far, by feeds.speaking
    caps: tuple[int, ...]
    window: tuple[tuple[int, int], ...]  # (as_of, IM) of the past five days, only rising minima kept
    safe: int  # IM of the last known static safe vector
    insurance: int
    hedge: tuple[int, ...]  # record of the last published hedge


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
    hedge: Mapping[str, int | str]  # the published object
    insurance_target: int
    breakers: tuple[str, ...]  # that tripped since the action in force began; empty while it is "clear"
    breaker_state: str
    breaker_until: int | None  # the action's latest end; None while clear
    breaker_band: int
    reasons: tuple[str, ...]
    bounds_hit: tuple[tuple[str, str, str], ...]  # parameter, bound, side
    decomposition: tuple[int, ...]  # by STAGES; sums to the change of IM
    forecast_hash: str
    params_hash: str
    model_sha256: str
    fallback: bool


@dataclass(frozen=True)
class Governed:
    """What was decided of n lines, by origin and then symbol; ppm unless noted, instants in microseconds."""

    params: Params
    symbols: tuple[str, ...]
    code: Integers  # (n,) place in ``symbols``
    row: Integers  # place in the inputs; -1 where the symbol has no forecast row at this origin
    reasons: Integers  # bits in the order of REASONS, without that of the hedge: ``decisions`` adds both
    before: Integers  # place in ``course`` of the record that each line follows
    course: Course  # one record per symbol, then one per line

    def __len__(self) -> int:
        return len(self.code)

    def column(self, name: str) -> Integers:
        """(n, ...) a column of ``course`` without the records that symbols bring along."""
        values: Integers = getattr(self.course, name)[len(self.symbols) :]
        return values

    @cached_property
    def as_of(self) -> Integers:
        """(n,)."""
        return self.column("as_of")

    @cached_property
    def effective_at(self) -> Integers:
        """(n,)."""
        return self.column("effective_at")

    @cached_property
    def vector(self) -> Integers:
        """(n, P), laid out as Vector.parts."""
        return self.column("vector")

    @cached_property
    def im(self) -> Integers:
        """(n,) headline initial margin."""
        return self.vector[:, 0]

    @cached_property
    def mm(self) -> Integers:
        """(n,) headline maintenance margin."""
        return self.vector[:, (self.vector.shape[1] - 2) // 2]

    @cached_property
    def exposure(self) -> Integers:
        """(n,) exposure scale."""
        return self.column("exposure")

    @cached_property
    def mode(self) -> Integers:
        """(n,) published mode, a place in MODES."""
        return np.where(self.has("OVERRIDE"), MODES.index(Mode.OVERRIDE), self.column("mode"))

    @cached_property
    def decomposition(self) -> Integers:
        """(n, stages); sums to the change of IM."""
        return self.column("stages") - self.course.stages[self.before]

    def of(self, symbol: str) -> Integers:
        """Places of one symbol's lines, in time. Raises UsageError where it has none."""
        if symbol not in self.symbols:
            raise UsageError(f"{symbol!r} is not governed here; symbols: {', '.join(self.symbols)}")
        return np.flatnonzero(self.code == self.symbols.index(symbol))

    def has(self, reason: str) -> Flags:
        """(n,) whether a line gives the reason."""
        return np.asarray((self.reasons & BIT[reason]) != 0)
