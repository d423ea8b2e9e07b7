"""Vectors for other languages: the files are what the code gives, and another language finds the same."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forecaster.policy.audit.chain import EVENTS, SCHEDULE
from forecaster.policy.audit.commitments import Account, commitment, inclusion_path, merkle_levels, salt_of
from forecaster.policy.audit.keys import public_hex, seed
from forecaster.policy.audit.signatures import Update, sign
from forecaster.policy.schedule import canonical, line_hash

from .conftest import NAMES, VECTORS, make_lines, private_key

NODE = shutil.which("node")
SCRIPT = Path(__file__).with_name("verify.mjs")
# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = json.loads((VECTORS / "rfc8032.json").read_text())


def canonical_vectors() -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = [
        {"b": 1, "a": [True, None, -2], "Z": {}, "_": {"y": 0, "x": ""}},
        {"text": 'é "quoted" \\ \n\u2028 €', "large": 2**53 - 1},
        make_lines([100_000])[0],
    ]
    pairs = [(value, canonical(value)) for value in values]
    return [{"value": value, "bytes": raw.hex(), "hash": line_hash(value)} for value, raw in pairs]


def signature_vectors() -> dict[str, Any]:
    lines = make_lines([100_000, 120_000, 110_000])
    updates = [Update.of(line, SCHEDULE) for line in lines]
    good = [sign(updates[2], private_key("ann")), sign(updates[1], private_key("bob"))]
    other = Update(**(asdict(updates[2]) | {"type": EVENTS.name}))
    ann = json.loads(good[0])
    wrong = [
        json.loads(sign(updates[2], private_key("eve"))),
        json.loads(sign(other, private_key("ann"))),
        ann | {"signature": json.loads(good[1])["signature"]},
        ann | {"reference": 1},
        ann | {"key": public_hex(private_key("bob"))},
    ]
    return {
        "threshold": 2,
        "keys": [public_hex(private_key(name)) for name in NAMES],
        "lines": lines,
        "messages": [update.message.hex() for update in updates],
        "signatures": [json.loads(record) for record in good],
        "effective": 2,
        "refused": wrong,
    }


def commitment_vectors() -> dict[str, Any]:
    secret, as_of = seed(private_key("venue")), 1_704_067_200_000_000
    accounts = [Account("ann", 5_000_000, 1), Account("bob", -(2**53), 2**53), Account("zoë", 0, 0)]
    salts = [salt_of(secret, as_of, account.name) for account in accounts]
    leaves = [commitment(account, as_of, salt) for account, salt in zip(accounts, salts, strict=True)]
    levels = merkle_levels(sorted(leaves))
    rows = [
        {
            "account": account.name,
            "equity_micro_usd": str(account.equity),
            "maintenance_micro_usd": str(account.maintenance),
            "salt": salt.hex(),
            "leaf": leaf.hex(),
            "index": sorted(leaves).index(leaf),
            "path": [sibling.hex() for sibling in inclusion_path(levels, sorted(leaves).index(leaf))],
        }
        for account, salt, leaf in zip(accounts, salts, leaves, strict=True)
    ]
    root = levels[-1][0].hex()
    return {"as_of_micros": str(as_of), "secret": secret.hex(), "accounts": rows, "root": root}


VECTORS_OF = {
    "canonical": canonical_vectors,
    "signatures": signature_vectors,
    "commitments": commitment_vectors,
}


@pytest.mark.parametrize("name", VECTORS_OF)
def test_the_code_gives_the_vectors(name: str):
    assert VECTORS_OF[name]() == json.loads((VECTORS / f"{name}.json").read_text())


def test_the_library_gives_the_signatures_of_the_standard():
    for secret, public, message, signature in RFC_8032:
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        assert (public_hex(key), key.sign(bytes.fromhex(message)).hex()) == (public, signature)


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    assert NODE is not None
    return subprocess.run([NODE, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(NODE is None, reason="node is not installed: the vectors are not checked in a second language")
def test_node_finds_the_same():
    done = run(VECTORS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"canonical": 3, "signatures": 10, "rfc8032": 3, "merkle": 36, "commitments": 9}


@pytest.mark.skipif(NODE is None, reason="node is not installed: the vectors are not checked in a second language")
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("canonical", '"large": 9007199254740991', '"large": 9007199254740990'),
        ("signatures", '"effective": 2', '"effective": 3'),
        ("signatures", '"refused": [', '"refused": [], "other": ['),
        ("commitments", '"equity_micro_usd": "5000000"', '"equity_micro_usd": "5000001"'),
        ("merkle", "6e340b9c", "6e340b9d"),
        ("rfc8032", "e5564300", "e5564301"),
    ],
)
def test_node_refuses_vectors_that_were_changed(tmp_path: Path, name: str, before: str, after: str):
    shutil.copytree(VECTORS, tmp_path / "vectors")
    file = tmp_path / "vectors" / f"{name}.json"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    assert run(tmp_path / "vectors").returncode == 1
