"""How a new policy comes into use: shadow, canary symbols, live; and back to shadow by itself.

In shadow a schedule is computed and compared, not applied. A stage is passed once a block of resolved origins
has at most the share of misses that the coverage asked for allows. The policy retreats to shadow as soon as
a block can no longer pass, a realised step breaks the bounds, or nothing has been heard for too long: silence
is no evidence of safety. A stage holds one block at a time, so that live use is judged on the newest
origins, not on its good years.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from features.errors import UsageError
from forecaster.policy.types import PPM

__all__ = ["Evidence", "Limits", "Stage", "State", "advance", "applies", "gather"]


class Stage(StrEnum):
    """Where a policy stands on its way into use."""

    SHADOW = "shadow"
    CANARY = "canary"
    LIVE = "live"


NEXT: Final = {Stage.SHADOW: Stage.CANARY, Stage.CANARY: Stage.LIVE, Stage.LIVE: Stage.LIVE}


@dataclass(frozen=True)
class Limits:
    """Constants of the roll-out: origins of a block, coverage asked of it in ppm, steps of silence (advances
    without a resolved origin) that are borne, symbols of the canary stage.
    """

    block_origins: int
    coverage_ppm: int
    silent_steps: int
    canaries: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.block_origins < 1 or self.silent_steps < 0 or not 0 < self.coverage_ppm <= PPM or not self.canaries:
            raise UsageError("rollout: block_origins >= 1, silent_steps >= 0, 0 < coverage_ppm <= 1e6, some canaries")

    @property
    def misses(self) -> int:
        """Most misses that a block of full length may have."""
        return self.block_origins * (PPM - self.coverage_ppm) // PPM


@dataclass(frozen=True, slots=True)
class State:
    """The stage, and its running block: resolved origins, misses among them, steps of silence since."""

    stage: Stage = Stage.SHADOW
    origins: int = 0
    misses: int = 0
    silent: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one step has brought: origins whose excursion is known by now, misses among them, broken bounds."""

    origins: int
    misses: int
    breaches: int

    def __post_init__(self) -> None:
        if not 0 <= self.misses <= self.origins or self.breaches < 0:
            raise UsageError(f"rollout: {self} is no count of origins, misses among them, and breaches")


def advance(state: State, evidence: Evidence, limits: Limits) -> tuple[State, str]:
    """The next state, and why: ``BOUNDS``, ``COVERAGE``, ``SILENCE`` (retreats), ``PASSED``, ``GATHERING``."""
    if evidence.breaches:
        return State(), "BOUNDS"
    origins, misses = state.origins + evidence.origins, state.misses + evidence.misses
    # Misses only add up, so a block with too many of them is lost before it is full; a longer block, filled by
    # the last step beyond its length, earns no further miss.
    if misses > limits.misses:
        return State(), "COVERAGE"
    silent = 0 if evidence.origins else state.silent + 1
    if silent > limits.silent_steps:
        return State(), "SILENCE"
    if origins >= limits.block_origins:
        return State(NEXT[state.stage]), "PASSED"
    return State(state.stage, origins, misses, silent), "GATHERING"


def applies(stage: Stage, symbol: str, limits: Limits) -> bool:
    """Whether the venue applies the policy's lines of a symbol at a stage."""
    return stage is Stage.LIVE or (stage is Stage.CANARY and symbol in limits.canaries)


def gather(lines: Iterable[Mapping[str, Any]], excursions: Mapping[tuple[str, str], int], breaches: int) -> Evidence:
    """The evidence of schedule lines whose larger 24 h excursion is resolved.

    ``excursions`` holds ppm of the price by (symbol, ``as_of``), only what is known by now; a line is missed
    where its excursion exceeds ``im_ppm``. ``breaches`` counts the lines beyond the bounds (``Bounds.breaches``).
    """
    known = [(line, excursions.get((line["symbol"], line["as_of"]))) for line in lines]
    resolved = [line["im_ppm"] < excursion for line, excursion in known if excursion is not None]
    return Evidence(len(resolved), sum(resolved), breaches)
