"""The commands of keys, signatures, bounds, overrides and commitments, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from forecaster.cli import main
from forecaster.commands.schemas import Schema, schema

Invoke = Callable[..., dict[str, Any]]
AS_OF = "2024-01-01T00:00:00Z"


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Run ``forecaster policy NAME …``; its JSON, which must have the promised shape, or the error it ends in."""

    def run(name: str, *words: str | Path, code: int = 0) -> dict[str, Any]:
        capfd.readouterr()
        assert main(["policy", name, *map(str, words), "--json"]) == code
        told: dict[str, Any] = json.loads(capfd.readouterr().out)
        shape = schema(f"output.policy.{name}" if code == 0 else "error")
        assert isinstance(shape, Schema)
        jsonschema.validate(told, shape.to_dict())
        return told

    return run


def test_a_schedule_holds_once_two_of_three_have_signed(desk: Path, invoke: Invoke) -> None:
    common = ["--registry", desk / "keys.toml", "--events", desk / "events.jsonl"]
    schedule = desk / "schedule.jsonl"
    first = invoke("sign", "--key", desk / "ann.pem", *common, schedule)
    assert (first["signer"], first["line"]) == ("ann", 3)
    assert invoke("verify", schedule, *common, code=3)["error"]["type"] == "DataInvalid"
    invoke("sign", "--key", desk / "bob.pem", *common, schedule)
    assert invoke("verify", schedule, *common)["vouched"] == {"ann": 3, "bob": 3}


def test_bounds_and_overrides_wait_for_signatures(desk: Path, invoke: Invoke) -> None:
    events, common = desk / "events.jsonl", ["--registry", desk / "keys.toml", "--events", desk / "events.jsonl"]
    asked = invoke(
        "override", events, "BTCUSDT", "--who", "ann", "--why", "exchange outage", "--expires", "2024-01-02T00:00:00Z",
        "--floor", 150_000, "--cap", 300_000, "--at", AS_OF, "--start", "2024-01-01T06:00:00Z", "--acknowledged",
    )  # fmt: skip
    assert (asked["im_floor_ppm"], asked["im_cap_ppm"], asked["acknowledged"]) == (150_000, 300_000, True)
    assert (asked["start"], asked["at"]) == ("2024-01-01T06:00:00Z", AS_OF)
    assert invoke("bounds", events, desk / "bounds.toml", "--at", AS_OF)["seq"] == 2
    for name in ("ann", "bob"):
        invoke("sign", "--key", desk / f"{name}.pem", *common, desk / "schedule.jsonl")
    assert invoke("verify", desk / "schedule.jsonl", *common)["events_waiting"] == 2
    assert invoke("sign", "--key", desk / "ann.pem", *common)["line"] == 3  # without a schedule: the log


def test_an_owner_finds_the_account_under_the_published_root(desk: Path, tmp_path: Path, invoke: Invoke) -> None:
    accounts = tmp_path / "accounts.csv"
    accounts.write_text("account,equity_micro_usd,maintenance_micro_usd\na,500,100\nb,900,200\nc,50,10\n")
    common = ["--key", desk / "ann.pem", "--as-of", AS_OF]
    root = invoke("commit", accounts, *common, "--out", tmp_path / "root.json")
    invoke("prove", accounts, "b", *common, "--out", tmp_path / "b.json")
    assert invoke("included", tmp_path / "b.json", tmp_path / "root.json")["root"] == root["root"]
    proof = json.loads((tmp_path / "b.json").read_bytes())
    (tmp_path / "b.json").write_text(json.dumps(proof | {"equity_micro_usd": 901}))
    invoke("included", tmp_path / "b.json", tmp_path / "root.json", code=3)


def test_keys_are_listed_and_made(desk: Path, tmp_path: Path, invoke: Invoke) -> None:
    listed = invoke("keys", "--registry", desk / "keys.toml")["keys"]
    assert [key["name"] for key in listed] == ["ann", "bob", "cid"]
    assert (listed[0]["valid_from"], listed[0]["valid_until"]) == ("2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    made = invoke("keys", "--new", tmp_path / "new.pem")
    assert Path(made["path"]).stat().st_mode & 0o777 == 0o600
    assert invoke("keys", code=2)["error"]["type"] == "UsageError"
