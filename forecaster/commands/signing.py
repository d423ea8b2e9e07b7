"""Who stands behind a schedule: keys, signatures, bounds and overrides, and commitments to accounts."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from features.errors import DataInvalid, UsageError
from features.store import write_atomically
from forecaster.policy.audit.bounds import Bounds
from forecaster.policy.audit.chain import EVENTS, SCHEDULE, micros, read_chain, since_epoch
from forecaster.policy.audit.commitments import (
    Account,
    commitment,
    included,
    inclusion_path,
    merkle_levels,
    salt_of,
)
from forecaster.policy.audit.keys import Registry, load_private_key, new_private_key, public_hex, seed, write_secret
from forecaster.policy.audit.override import Governance, append_bounds, append_override, read_events
from forecaster.policy.audit.signatures import add_signature, attest, sign, signature_path, verify
from forecaster.policy.replay import replay
from forecaster.policy.schedule import canonical, iso
from forecaster.policy.types import Override

__all__ = [
    "Facts",
    "policy_bounds",
    "policy_commit",
    "policy_included",
    "policy_keys",
    "policy_override",
    "policy_prove",
    "policy_sign",
    "policy_verify",
]

COLUMNS: Final = ["account", "equity_micro_usd", "maintenance_micro_usd"]
WHOLE: Final = re.compile("-?[0-9]{1,19}")


@dataclass(frozen=True)
class Facts:
    """A result: facts for programs, a sentence for people."""

    facts: dict[str, Any]
    text: str

    def to_dict(self) -> dict[str, Any]:
        """The facts as one JSON object."""
        return dict(self.facts)

    def summary(self) -> str:
        """The facts in a few lines."""
        return self.text


def policy_keys(registry: str | Path | None = None, new: str | Path | None = None) -> Facts:
    """Check and list a registry of public keys, or make a new private key in a file of its own."""
    if (registry is None) == (new is None):
        raise UsageError("policy keys needs --registry keys.toml or --new FILE.pem, one of them")
    if new is not None:
        public = new_private_key(new)
        text = f'{new}: private key, mode 0600; keep it\npublic_key = "{public}"'
        return Facts({"path": str(new), "public_key": public}, text)
    assert registry is not None
    found = Registry.load(registry)
    clocks = ("valid_from", "valid_until")
    keys = [asdict(key) | {name: iso(getattr(key, name)) for name in clocks} for key in found.keys]
    rows = [
        f"{key['public_key']}  {key['name']}, {key['valid_from']} to {key['valid_until']}{', revoked' * key['revoked']}"
        for key in keys
    ]
    head = f"{found.threshold} of {len(found.keys)} keys must sign"
    return Facts({"threshold": found.threshold, "keys": keys}, "\n".join([head, *rows]))


def policy_sign(key: str | Path, registry: str | Path, events: str | Path, schedule: str | Path | None = None) -> Facts:
    """Sign the last line of a schedule, or of the log of events where no schedule is named.

    Nothing is signed that does not hold: of a schedule, its chain, invariants and the bounds in force; of the
    log, its chain and every event.
    """
    keys, private = Registry.load(registry), load_private_key(key)
    chain, target = (EVENTS, events) if schedule is None else (SCHEDULE, schedule)
    lines: Iterable[dict[str, Any]] = read_events(events, keys)
    if schedule is not None:
        replay(schedule)
        lines = Governance.read(events, keys).guard(read_chain(schedule, chain), schedule)
    held = attest(lines, chain, signature_path(target), keys)
    update = held.last
    if update is None:
        raise DataInvalid(f"{target}: holds no line to sign")
    holder = keys.find(public_hex(private))
    if holder is None:
        raise UsageError(f"{key}: its public key is not in {registry}; register it, or sign with a registered one")
    if reason := holder.refusal(micros(update.timestamp, str(target))):
        raise UsageError(f"{key}: {reason}; another holder must sign")
    if held.vouched.get(holder.name) == held.lines:
        raise UsageError(f"{target}: {holder.name} has signed line {held.lines} already; nothing to do")
    add_signature(signature_path(target), sign(update, private))
    facts = {"signer": holder.name, "line": held.lines, "head": update.new, "path": str(signature_path(target))}
    return Facts(facts, f"{holder.name} vouches for {held.lines:,} lines of {target}; head {update.new}")


def policy_verify(schedule: str | Path, registry: str | Path, events: str | Path) -> Facts:
    """Check that a schedule holds by itself, and that k of n keys vouch for every line, within the bounds they set."""
    keys = Registry.load(registry)
    replay(schedule)
    rules = Governance.read(events, keys)
    lines = rules.guard(read_chain(schedule, SCHEDULE), schedule)
    found = verify(lines, SCHEDULE, signature_path(schedule), keys)
    facts = {
        "lines": found.lines,
        "head": found.last.new if found.last else None,
        "threshold": found.threshold,
        "vouched": dict(found.vouched),
        "events_head": rules.head,
        "events_waiting": rules.waiting,
    }
    signers = ", ".join(sorted(found.vouched))
    text = f"{schedule}: {found.lines:,} lines, {found.threshold} signatures needed, signed by {signers}, within bounds"
    text += f"\n{events}: head {rules.head}; {rules.waiting} events still wait for signatures"
    return Facts(facts, text)


def policy_bounds(events: str | Path, bounds: str | Path, at: str | None = None) -> Facts:
    """Propose bounds from a TOML file; they hold once k of n have signed the log."""
    return _proposed(events, append_bounds(events, Bounds.load(bounds), _dated(at)))


def policy_override(
    events: str | Path,
    symbol: str,
    who: str,
    why: str,
    expires: str,
    *,
    im_floor_ppm: int | None = None,
    im_cap_ppm: int | None = None,
    start: str | None = None,
    at: str | None = None,
    acknowledged: bool = False,
) -> Facts:
    """Propose an override; it takes effect once k of n, ``who`` among them, have signed the log."""
    dated = _dated(at)
    begins = dated if start is None else _instant(start)
    override = Override(symbol, begins, _instant(expires), im_floor_ppm, im_cap_ppm, who, why, acknowledged)
    return _proposed(events, append_override(events, override, dated))


def policy_commit(accounts: str | Path, key: str | Path, as_of: str, out: str | Path) -> Facts:
    """Commit to every account's margin: writes the Merkle root that the venue publishes."""
    instant = _instant(as_of)
    _, _, leaves = _opened(accounts, key, instant)
    root = merkle_levels(sorted(leaves))[-1][0].hex()
    document = {"schema_version": 1, "type": "commitment", "as_of": iso(instant), "accounts": len(leaves), "root": root}
    write_atomically(Path(out), canonical(document) + b"\n")
    return Facts({**document, "path": str(out)}, f"{out}: {len(leaves):,} accounts under root {root}")


def policy_prove(accounts: str | Path, key: str | Path, as_of: str, account: str, out: str | Path) -> Facts:
    """Write what one owner needs to check the own margin against the published root; for that owner's eyes."""
    instant = _instant(as_of)
    held, salts, leaves = _opened(accounts, key, instant)
    place = next((i for i, item in enumerate(held) if item.name == account), None)
    if place is None:
        raise UsageError(f"{accounts}: no account {account!r}; name one that it lists")
    # Sorted commitments hide the order of the accounts.
    ordered = sorted(leaves)
    index = ordered.index(leaves[place])
    path = inclusion_path(merkle_levels(ordered), index)
    document = {
        "schema_version": 1,
        "type": "inclusion",
        "as_of": iso(instant),
        **dict(zip(COLUMNS, (held[place].name, held[place].equity, held[place].maintenance), strict=True)),
        "salt": salts[place].hex(),
        "index": index,
        "path": [sibling.hex() for sibling in path],
    }
    write_secret(out, canonical(document) + b"\n")
    return Facts({"path": str(out), "account": account}, f"{out}: proof of {account}, to be sent to its owner alone")


def policy_included(proof: str | Path, published: str | Path) -> Facts:
    """The owner's check: the account as the proof states it stands under the published root."""
    opening, root = _json(proof, "inclusion"), _json(published, "commitment")
    try:
        account = Account(*(opening[name] for name in COLUMNS))
        leaf = commitment(account, micros(opening["as_of"], str(proof)), bytes.fromhex(opening["salt"]))
        path = [bytes.fromhex(sibling) for sibling in opening["path"]]
        holds = opening["as_of"] == root["as_of"] and included(
            leaf, opening["index"], root["accounts"], path, bytes.fromhex(root["root"])
        )
    except (KeyError, TypeError, ValueError, AttributeError, DataInvalid) as error:
        raise DataInvalid(f"{proof}: malformed: {error}; ask the venue for the proof again") from None
    if not holds:
        raise DataInvalid(f"{proof}: the account does not stand under the root of {published}; ask the venue why")
    text = f"{account.name}: equity {account.equity}, maintenance {account.maintenance} micro-USD; included"
    return Facts({"account": account.name, "included": True, "root": root["root"]}, text)


def _proposed(events: str | Path, event: dict[str, Any]) -> Facts:
    text = f"{events}: event {event['seq']} ({event['kind']}) proposed; it takes effect once k of n have signed"
    return Facts({**event, "path": str(events)}, text)


def _instant(text: str) -> int:
    return micros(text, "instant")


def _dated(text: str | None) -> int:
    """The date of an event, now by default. One ahead of its time would bar every event before it from the log."""
    now = since_epoch(datetime.now(UTC).replace(microsecond=0))
    if text is not None and _instant(text) > now:
        raise UsageError(f"--at {text} lies ahead; an event is dated when it is proposed, --start tells when it acts")
    return now if text is None else _instant(text)


def _opened(accounts: str | Path, key: str | Path, as_of: int) -> tuple[list[Account], list[bytes], list[bytes]]:
    """Accounts, salts and commitments, in the order of the file."""
    secret = seed(load_private_key(key))
    held = _accounts(accounts)
    salts = [salt_of(secret, as_of, account.name) for account in held]
    return held, salts, [commitment(account, as_of, salt) for account, salt in zip(held, salts, strict=True)]


def _accounts(path: str | Path) -> list[Account]:
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataInvalid(f"{path}: no readable table of accounts: {error}; write UTF-8 CSV") from None
    if not rows or rows[0] != COLUMNS:
        raise DataInvalid(f"{path}: row 1: the columns must be {','.join(COLUMNS)}")
    held: dict[str, Account] = {}
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}: row {number}"
        # Digits alone: int() would also take 1_000, spaces, and digits of other scripts.
        if len(row) != len(COLUMNS) or not all(WHOLE.fullmatch(text) for text in row[1:]):
            raise DataInvalid(f"{where}: {','.join(row)!r} is no account; write a name and two whole numbers")
        try:
            account = Account(row[0], int(row[1]), int(row[2]))
        except DataInvalid as error:
            raise DataInvalid(f"{where}: {error}") from None
        if account.name in held:
            raise DataInvalid(f"{where}: account {account.name!r} stands twice; name each once")
        held[account.name] = account
    return list(held.values())


def _json(path: str | Path, kind: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_bytes(), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise DataInvalid(f"{path}: no readable JSON: {error}") from None
    if not isinstance(document, dict) or document.get("type") != kind:
        raise DataInvalid(f"{path}: no {kind} document; name the file that `forecaster policy` wrote")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of a key that stands twice, one reader takes the first value and another the last.
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} stands twice")
        found[name] = value
    return found
