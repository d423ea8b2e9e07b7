"""Private collateral health: each account's margin committed to under one published root.

A commitment is the SHA-256 of an account's integers and a salt that only venue and owner know. The tree is that
of RFC 6962 (section 2.1): leaves and nodes are hashed in domains of their own, and an odd node moves up
unpaired instead of being paired with itself, so that neither a node passes for a leaf nor a doubled leaf for
a longer list (CVE-2012-2459). The owner opens the own commitment and checks that it is included.

**This is not a zero-knowledge proof**: it shows that the published root binds the venue to what it told this
owner, not that the figures are true, that all accounts are solvent, or that no account is left out. The integer
layout is one that an arithmetic circuit could take in; no such circuit exists here.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeAlias

from features.errors import DataInvalid

__all__ = ["Account", "Levels", "commitment", "included", "inclusion_path", "merkle_levels", "salt_of"]

LEAF: Final = b"\x00"
NODE: Final = b"\x01"
MARGIN: Final = b"forecaster account margin v1\0"
SALT: Final = b"forecaster account salt v1\0"
WORD: Final = 8

Levels: TypeAlias = list[list[bytes]]


@dataclass(frozen=True, slots=True)
class Account:
    """What is committed to: equity and maintenance margin, whole micro-USD; equity may be negative."""

    name: str
    equity: int
    maintenance: int

    def __post_init__(self) -> None:
        numbers = type(self.equity) is int and type(self.maintenance) is int
        if not self.name or not numbers or abs(self.equity) >= 2**63 or not 0 <= self.maintenance < 2**63:
            raise DataInvalid(f"account {self.name!r}: needs a name, and whole micro-USD that fit into 63 bits")


def salt_of(secret: bytes, as_of: int, name: str) -> bytes:
    """The account's salt at an instant: HMAC-SHA-256 (RFC 2104) under the venue's secret, so that no table of
    salts has to be kept, and no owner learns another's. One commitment an instant: a second one with other figures
    would show an account's neighbours whether it stayed the same.
    """
    return hmac.digest(secret, SALT + _word(as_of) + name.encode(), "sha256")


def commitment(account: Account, as_of: int, salt: bytes) -> bytes:
    """SHA-256 of a tag, instant (microseconds), salt, hashed name, equity and maintenance margin.

    Every part has a fixed width (signed 8-byte big-endian integers), so that no two accounts share one input.
    """
    if len(salt) != 32:
        raise DataInvalid(f"account {account.name!r}: the salt has {len(salt)} bytes, not 32")
    amounts = _word(account.equity) + _word(account.maintenance)
    return sha256(MARGIN + _word(as_of) + salt + sha256(account.name.encode()).digest() + amounts).digest()


def merkle_levels(leaves: Sequence[bytes]) -> Levels:
    """The tree over leaf inputs, from the hashed leaves up to the root, ``levels[-1][0]``.

    Raises DataInvalid where there is no leaf, or one stands twice.
    """
    if not leaves or len(set(leaves)) != len(leaves):
        raise DataInvalid("commitments: no account, or one twice; name each account once")
    level = [sha256(LEAF + leaf).digest() for leaf in leaves]
    levels = [level]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [_node(left, right) for left, right in pairs] + level[len(level) & ~1 :]
        levels.append(level)
    return levels


def inclusion_path(levels: Levels, index: int) -> list[bytes]:
    """The siblings on the way from a leaf to the root (RFC 6962, section 2.1.1)."""
    path = []
    for level in levels[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index >>= 1
    return path


def included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf input stands at ``index`` of the ``size`` leaves under ``root`` (RFC 9162, 2.1.3.2).

    ``size`` and ``root`` must come from what the venue published, never from the proof.
    """
    if not 0 <= index < size or any(len(sibling) != 32 for sibling in path):
        return False
    found, last = sha256(LEAF + leaf).digest(), size - 1
    for sibling in path:
        if last == 0:
            return False
        if index & 1 or index == last:
            found = _node(sibling, found)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            found = _node(found, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and hmac.compare_digest(found, root)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(NODE + left + right).digest()


def _word(value: int) -> bytes:
    return value.to_bytes(WORD, "big", signed=True)
