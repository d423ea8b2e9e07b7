"""A schedule, three key holders (two must sign), and a governance log with signed bounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forecaster.commands.signing import policy_bounds, policy_sign
from forecaster.policy.audit.keys import public_hex
from forecaster.policy.schedule import GENESIS, canonical, line_hash

VECTORS = Path(__file__).parent / "vectors"
BASE = json.loads((VECTORS.parent.parent / "vectors.json").read_text())[0]["bytes"]
NAMES = ("ann", "bob", "cid")
PARAMETERS = {
    "im_ppm": (10_000, 900_000),
    "mm_ppm": (5_000, 450_000),
    "liquidation_penalty_ppm": (1, 100_000),
    "haircut_ppm": (0, 100_000),
    "exposure_scale_ppm": (0, 2_000_000),
    "max_leverage_milli": (1_000, 100_000),
}


def private_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def make_lines(ims: list[int]) -> list[dict]:
    """Lawful hourly lines of one symbol whose initial margins are given."""
    lines, previous, last = [], GENESIS, 0
    for i, im in enumerate(ims):
        at = f"2024-01-{1 + i // 24:02d}T{i % 24:02d}:00:00Z"
        line = json.loads(BASE) | {"seq": i, "prev_hash": previous, "as_of": at, "announced_at": at, "effective_at": at}
        line |= {"expires_at": "2024-01-09T00:00:00Z", "im_ppm": im, "mm_ppm": im // 2, "reasons": []}
        line |= {"tiers": [{"cap_usd": 1000, "im_ppm": im, "mm_ppm": im // 2}], "liquidation_penalty_ppm": 2500}
        line |= {"max_leverage_milli": 10**9 // im, "liquidation_buffer_ppm": im - im // 2, "symbol": "BTCUSDT"}
        line["decomposition"] = dict.fromkeys(line["decomposition"], 0) | {"core": im - last}
        line["hash"] = previous = line_hash(line)
        lines.append(line)
        last = im
    return lines


def write(path: Path, lines: list[dict]) -> Path:
    path.write_bytes(b"".join(canonical(line) + b"\n" for line in lines))
    return path


def registry_text(threshold: int = 2, revoked: str = "", until: str = "2030-01-01T00:00:00Z") -> str:
    tables = [
        f'[[keys]]\nname = "{name}"\npublic_key = "{public_hex(private_key(name))}"\n'
        f"valid_from = 2020-01-01T00:00:00Z\nvalid_until = {until}\nrevoked = {str(name == revoked).lower()}\n"
        for name in NAMES
    ]
    return f"threshold = {threshold}\n" + "\n".join(tables)


def bounds_text(**changed: tuple[int, int]) -> str:
    rows = [
        f'[symbols."*".{name}]\nfloor = {floor}\ncap = {cap}\nrise_ppm = 500000\n'
        for name, (floor, cap) in (PARAMETERS | changed).items()
    ]
    return "override_hours = 48\n" + "\n".join(rows)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with keys.toml, the holders' PEM files, schedule.jsonl, and events.jsonl with signed bounds."""
    (tmp_path / "keys.toml").write_text(registry_text())
    (tmp_path / "bounds.toml").write_text(bounds_text())
    for name in (*NAMES, "eve"):
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (tmp_path / f"{name}.pem").write_bytes(private_key(name).private_bytes(*form))
        (tmp_path / f"{name}.pem").chmod(0o600)
    write(tmp_path / "schedule.jsonl", make_lines([100_000, 120_000, 110_000]))
    policy_bounds(tmp_path / "events.jsonl", tmp_path / "bounds.toml", "2023-12-01T00:00:00Z")
    for name in ("ann", "bob"):
        policy_sign(tmp_path / f"{name}.pem", tmp_path / "keys.toml", tmp_path / "events.jsonl")
    return tmp_path


@pytest.fixture
def signed(desk: Path) -> Callable[..., None]:
    """Let the named holders sign the schedule."""

    def sign_all(*names: str) -> None:
        for name in names:
            policy_sign(desk / f"{name}.pem", desk / "keys.toml", desk / "events.jsonl", desk / "schedule.jsonl")

    return sign_all
