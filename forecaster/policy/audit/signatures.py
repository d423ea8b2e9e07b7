"""Detached Ed25519 signatures over chained lines, effective only with k of n registered keys.

A signature is over an update: timestamp, new and previous value, reference and type, the fields of an on-chain
risk oracle's update (Chaos Labs, ``RiskParameterUpdate``). The values are the line's hash and that of the line
before, so that the previous value cannot be another market's or another type's. One signature on the newest
line of a batch therefore vouches for the batch and for all before it: with the newest line that each key has
signed, the file is effective up to the k-th newest of these.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from features.errors import DataInvalid
from features.locking import writing
from features.store import write_atomically
from forecaster.policy.schedule import canonical

from .chain import Chain, micros
from .keys import Key, Registry, public_hex

__all__ = ["Attestation", "Update", "add_signature", "attest", "sign", "signature_path", "verify"]

DOMAIN: Final = b"forecaster signed update v1\0"
FIELDS: Final = frozenset({"key", "new", "previous", "reference", "signature", "timestamp", "type"})


@dataclass(frozen=True, slots=True)
class Update:
    """What is signed: a line of a chain as its change from the line before."""

    type: str
    reference: int
    timestamp: str
    new: str
    previous: str

    @classmethod
    def of(cls, line: Mapping[str, Any], chain: Chain) -> Update:
        """The update that a line is."""
        return cls(chain.name, line["seq"], line[chain.clock], line["hash"], line["prev_hash"])

    @property
    def message(self) -> bytes:
        """The signed bytes: a domain of their own, so that no other protocol's message passes for one, then
        canonical JSON.
        """
        return DOMAIN + canonical(asdict(self))


@dataclass(frozen=True)
class Attestation:
    """How much of a chain is effective: its lines and the last of them as an update, the lines that k keys vouch
    for, and by name the lines that each key vouches for.
    """

    lines: int
    last: Update | None
    threshold: int
    effective: int
    vouched: Mapping[str, int]


def signature_path(path: str | Path) -> Path:
    """``schedule.jsonl`` has its signatures in ``schedule.sig.jsonl``."""
    return Path(path).with_suffix(".sig.jsonl")


def sign(update: Update, key: Ed25519PrivateKey) -> bytes:
    """One line of a signature file, without its end."""
    signature = key.sign(update.message).hex()
    return canonical({**asdict(update), "key": public_hex(key), "signature": signature})


def add_signature(path: str | Path, signature: bytes) -> None:
    """Append a line to a signature file, which is replaced as a whole."""
    target = Path(path)
    with writing(target.parent):
        held = target.read_bytes() if target.exists() else b""
        write_atomically(target, held + signature + b"\n")


def attest(lines: Iterable[Mapping[str, Any]], chain: Chain, signatures: str | Path, registry: Registry) -> Attestation:
    """How much of a chain k of n keys vouch for. No file of signatures means that nobody does.

    Raises DataInvalid, naming file and line, for a signature that is malformed, by an unknown, revoked or
    expired key, twice by one key, over something else than the line it names, or wrong.
    """
    waiting = _read(signatures, registry)
    vouched: dict[str, int] = {}
    count, last = 0, None
    for line in lines:
        update = Update.of(line, chain)
        for where, record, key in waiting.pop(update.reference, ()):
            _check(where, record, key, update, chain)
            vouched[key.name] = count + 1
        count, last = count + 1, update
    for items in waiting.values():
        where, record, _ = items[0]
        raise DataInvalid(
            f"{where}: signs line {record['reference']} of {chain.name}, which ends before; get all of it"
        )
    ranked = sorted(vouched.values(), reverse=True)
    effective = ranked[registry.threshold - 1] if len(ranked) >= registry.threshold else 0
    return Attestation(count, last, registry.threshold, effective, vouched)


def verify(lines: Iterable[Mapping[str, Any]], chain: Chain, signatures: str | Path, registry: Registry) -> Attestation:
    """As ``attest``, and every line must be effective. Raises DataInvalid where one is not."""
    found = attest(lines, chain, signatures, registry)
    if found.effective < found.lines or not found.lines:
        signed = ", ".join(f"{name} {lines}" for name, lines in found.vouched.items()) or "nobody"
        raise DataInvalid(
            f"{signatures}: {found.effective} of {found.lines} lines have {found.threshold} signatures "
            f"(lines vouched for: {signed}); the key holders sign the last line with `forecaster policy sign`"
        )
    return found


def _read(path: str | Path, registry: Registry) -> dict[int, list[tuple[str, dict[str, Any], Key]]]:
    """Signatures by the line they name; who made them is checked, what they say is not yet."""
    waiting: dict[int, list[tuple[str, dict[str, Any], Key]]] = defaultdict(list)
    if not Path(path).exists():
        return waiting
    seen: set[tuple[str, int]] = set()
    for number, raw in enumerate(Path(path).read_bytes().splitlines(keepends=True), start=1):
        where = f"{path}: line {number}"
        record = _record(raw, where)
        key = registry.find(record["key"])
        if key is None:
            raise DataInvalid(f"{where}: key {record['key']} is not registered; register it, or remove the line")
        if reason := key.refusal(micros(record["timestamp"], f"{where}: timestamp")):
            raise DataInvalid(f"{where}: {reason}; remove the line, another holder must sign")
        if (key.public_key, record["reference"]) in seen:
            raise DataInvalid(f"{where}: {key.name} signs line {record['reference']} a second time; remove one")
        seen.add((key.public_key, record["reference"]))
        waiting[record["reference"]].append((where, record, key))
    return waiting


def _record(raw: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(raw)
        whole = isinstance(record, dict) and record.keys() == FIELDS and canonical(record) + b"\n" == raw
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise DataInvalid(f"{where}: no signature in canonical form; remove the line and sign again")
    texts = all(isinstance(record[name], str) for name in FIELDS - {"reference"})
    if not texts or type(record["reference"]) is not int:
        raise DataInvalid(f"{where}: a field has the wrong type; remove the line and sign again")
    return record  # type: ignore[no-any-return]


def _check(where: str, record: dict[str, Any], key: Key, update: Update, chain: Chain) -> None:
    said = {name: record[name] for name in asdict(update)}
    if said != asdict(update):
        raise DataInvalid(f"{where}: signs another line than line {update.reference} of this {chain.name}")
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public_key))
        public.verify(bytes.fromhex(record["signature"]), update.message)
    except (InvalidSignature, ValueError):
        raise DataInvalid(f"{where}: the signature of {key.name} is wrong; {key.name} must sign again") from None
