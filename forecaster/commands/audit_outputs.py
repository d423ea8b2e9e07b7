"""What the commands of keys, signatures, events, roll-outs and commitments print, as types for ``forecaster schema``."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel

__all__ = ["AUDIT_OUTPUTS"]


class NewKey(BaseModel):
    """Where a private key was written, and its public half."""

    path: str
    public_key: str


class ListedKey(BaseModel):
    """A key of the registry."""

    name: str
    public_key: str
    valid_from: str
    valid_until: str
    revoked: bool


class Keys(BaseModel):
    """A registry: so many of these keys must sign."""

    threshold: int
    keys: list[ListedKey]


class Signed(BaseModel):
    """Who has signed which line, and the hash that the signature vouches for."""

    signer: str
    line: int
    head: str
    path: str


class Verified(BaseModel):
    """Lines vouched for by k of n, and up to which line each signer vouches."""

    lines: int
    head: str | None
    threshold: int
    vouched: dict[str, int]
    events_head: str | None
    events_waiting: int


class ProposedBounds(BaseModel):
    """An event of the log that sets bounds."""

    schema_version: Literal[1]
    seq: int
    prev_hash: str
    hash: str
    kind: Literal["BOUNDS"]
    at: str
    override_hours: int
    symbols: dict[str, dict[str, dict[str, int]]]
    path: str


class ProposedOverride(BaseModel):
    """An event of the log that overrides a symbol's margin."""

    schema_version: Literal[1]
    seq: int
    prev_hash: str
    hash: str
    kind: Literal["OVERRIDE"]
    at: str
    symbol: str
    start: str
    expires: str
    im_floor_ppm: int | None
    im_cap_ppm: int | None
    who: str
    why: str
    acknowledged: bool
    path: str


class RolloutLimits(BaseModel):
    """What a stage takes: resolved origins of a block, coverage asked of it, misses it may have, hours of silence."""

    block_origins: int
    coverage_ppm: int
    silent_steps: int
    canaries: list[str]
    misses: int


class RolledOut(BaseModel):
    """Where a policy stands on its way into use, why, and the running block of resolved origins."""

    path: str
    at: str
    stage: Literal["shadow", "canary", "live"]
    applied: list[str]
    why: Literal["START", "GATHERING", "PASSED", "COVERAGE", "BOUNDS", "SILENCE"]
    since: str
    cause: Literal["START", "PASSED", "COVERAGE", "BOUNDS", "SILENCE"]
    origins: int
    misses: int
    silent: int
    limits: RolloutLimits
    head: str


class Committed(BaseModel):
    """The Merkle root over the margins of all accounts."""

    schema_version: Literal[1]
    type: Literal["commitment"]
    as_of: str
    accounts: int
    root: str
    path: str


class Proven(BaseModel):
    """Where the proof of one account lies."""

    path: str
    account: str


class Included(BaseModel):
    """An account that stands under the published root; one that does not ends with an error."""

    account: str
    included: Literal[True]
    root: str


AUDIT_OUTPUTS: Final[dict[str, Any]] = {
    "policy.keys": NewKey | Keys,
    "policy.sign": Signed,
    "policy.verify": Verified,
    "policy.override": ProposedOverride,
    "policy.bounds": ProposedBounds,
    "policy.rollout": RolledOut,
    "policy.commit": Committed,
    "policy.prove": Proven,
    "policy.included": Included,
}
