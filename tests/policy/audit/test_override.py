from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from features.errors import DataInvalid, UsageError
from features.locking import writing
from forecaster.commands.signing import policy_bounds, policy_override, policy_sign
from forecaster.policy.audit import chain
from forecaster.policy.audit.chain import EVENTS, append, micros, read_chain
from forecaster.policy.audit.keys import Registry, public_hex
from forecaster.policy.audit.override import Governance, read_events
from forecaster.policy.audit.signatures import Update, add_signature, sign, signature_path
from forecaster.policy.schedule import canonical, line_hash
from forecaster.policy.types import Override

from .conftest import bounds_text, make_lines, private_key, registry_text

AT = "2024-01-01T00:00:00Z"
WISH: dict[str, Any] = {"symbol": "BTCUSDT", "who": "ann", "why": "depeg", "expires": "2024-01-02T00:00:00Z", "at": AT}


def read(desk: Path) -> Governance:
    return Governance.read(desk / "events.jsonl", Registry.load(desk / "keys.toml"))


def propose(desk: Path, **changed: Any) -> None:
    policy_override(desk / "events.jsonl", **(WISH | {"im_floor_ppm": 200_000} | changed))


def sign_log(desk: Path, *names: str) -> None:
    for name in names:
        policy_sign(desk / f"{name}.pem", desk / "keys.toml", desk / "events.jsonl")


def test_an_override_takes_effect_with_k_signatures_and_not_before(desk: Path):
    propose(desk)
    assert (read(desk).overrides, read(desk).waiting) == ((), 1)
    sign_log(desk, "ann")
    assert read(desk).overrides == ()
    sign_log(desk, "bob")
    start, expires = (micros(text, "") for text in (AT, WISH["expires"]))
    assert read(desk).overrides == (Override("BTCUSDT", start, expires, 200_000, None, "ann", "depeg", False),)


def test_who_asks_must_have_signed(desk: Path):
    sign_log(desk, "cid")  # what stood before does not count
    propose(desk, who="cid")
    sign_log(desk, "ann", "bob")
    with pytest.raises(DataInvalid, match="who: cid has not signed"):
        read(desk)
    sign_log(desk, "cid")
    assert read(desk).overrides[0].who == "cid"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"im_floor_ppm": 9_999}, "outside the bounds 10000..900000"),
        ({"im_cap_ppm": 900_001}, "outside the bounds"),
        ({"symbol": "*", "im_floor_ppm": 900_001}, "outside the bounds"),
        ({"expires": "2024-01-03T00:00:01Z"}, "longer than the 48 hours"),
        ({"start": "2023-12-31T23:00:00Z"}, "neither looks back"),
        ({"at": "2023-11-01T00:00:00Z", "expires": "2023-11-02T00:00:00Z"}, "lies before the event ahead"),
        ({"symbol": " "}, "must be texts"),
    ],
)
def test_what_breaks_the_bounds_is_not_even_proposed(desk: Path, changed: dict[str, Any], message: str):
    before = (desk / "events.jsonl").read_bytes()
    with pytest.raises(DataInvalid, match=message):
        propose(desk, **changed)
    assert (desk / "events.jsonl").read_bytes() == before


def test_nobody_and_no_reason_are_refused(desk: Path):
    for changed in ({"who": ""}, {"why": " "}, {"expires": AT}, {"im_floor_ppm": 3, "im_cap_ppm": 2}):
        with pytest.raises(UsageError):
            propose(desk, **changed)


def test_a_log_written_by_hand_is_judged_like_a_proposed_one(desk: Path):
    body = {"kind": "OVERRIDE", "schema_version": 1, "at": AT, "start": AT, **WISH}
    body |= {"im_floor_ppm": 950_000, "im_cap_ppm": None, "acknowledged": True}
    event = append(desk / "events.jsonl", EVENTS, body)
    for name in ("ann", "bob"):
        add_signature(signature_path(desk / "events.jsonl"), sign(Update.of(event, EVENTS), private_key(name)))
    with pytest.raises(DataInvalid, match="line 2: im_ppm 950000 lies outside"):
        read(desk)
    with pytest.raises(DataInvalid, match="line 2: im_ppm 950000 lies outside"):
        sign_log(desk, "cid")


def test_every_changed_byte_of_the_log_is_refused(desk: Path):
    propose(desk)
    sign_log(desk, "ann", "bob")
    path = desk / "events.jsonl"
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataInvalid):
            read(desk)


def test_a_proposer_who_rewrites_the_bounds_stands_alone(desk: Path):
    (desk / "bounds.toml").write_text(bounds_text(im_ppm=(1, 1_000_000)))
    policy_bounds(desk / "events.jsonl", desk / "bounds.toml", AT)
    assert (len(read(desk).bounds), read(desk).waiting) == (1, 1)
    sign_log(desk, "ann", "cid")
    assert [held.of("X")["im_ppm"].cap for _, held in read(desk).bounds] == [900_000, 1_000_000]


def test_an_acknowledged_override_frees_the_step_and_never_the_cap(desk: Path):
    steep, beyond = (margins_alone(make_lines([100_000, im])) for im in (300_000, 950_000))
    for acknowledged in (False, True):
        propose(desk, acknowledged=acknowledged)
        sign_log(desk, "ann", "bob")
        with pytest.raises(DataInvalid, match="above the cap"):
            list(read(desk).guard(iter(beyond), "s"))
        if acknowledged:
            assert list(read(desk).guard(iter(steep), "s")) == steep
        else:
            with pytest.raises(DataInvalid, match="line 2: BTCUSDT: im_ppm rises"):
                list(read(desk).guard(iter(steep), "s"))


def margins_alone(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines in which initial margins alone move, as a floor or a cap moves them."""
    for line in lines[1:]:
        line["mm_ppm"] = line["tiers"][0]["mm_ppm"] = lines[0]["mm_ppm"]
    return lines


def test_an_acknowledged_floor_frees_the_step_of_initial_margin_alone(desk: Path):
    propose(desk, acknowledged=True)
    sign_log(desk, "ann", "bob")
    for name, now in {"max_leverage_milli": 90_000, "exposure_scale_ppm": 2_000_000, "mm_ppm": 140_000}.items():
        lines = margins_alone(make_lines([100_000, 300_000]))
        lines[0] |= {"exposure_scale_ppm": 100_000}
        lines[1] |= {"exposure_scale_ppm": 100_000, name: now}
        with pytest.raises(DataInvalid, match=f"line 2: BTCUSDT: {name} rises"):
            list(read(desk).guard(iter(lines), "s"))


def test_an_acknowledged_cap_frees_the_step_of_leverage_alone(desk: Path):
    propose(desk, im_floor_ppm=None, im_cap_ppm=50_000, acknowledged=True)
    sign_log(desk, "ann", "bob")
    lines = margins_alone(make_lines([200_000, 50_000]))
    for line in lines:
        line["mm_ppm"] = line["tiers"][0]["mm_ppm"] = 20_000
    assert list(read(desk).guard(iter(lines), "s")) == lines
    lines[1]["exposure_scale_ppm"] = 2 * lines[0]["exposure_scale_ppm"]
    with pytest.raises(DataInvalid, match="exposure_scale_ppm rises"):
        list(read(desk).guard(iter(lines), "s"))


def test_the_step_of_every_tier_is_bounded(desk: Path):
    lines = make_lines([100_000, 100_000])
    for line, im in zip(lines, (200_000, 301_000), strict=True):
        line["tiers"].append({"cap_usd": 2000, "im_ppm": im, "mm_ppm": 100_000})
    with pytest.raises(DataInvalid, match="im_ppm rises from 200000 to 301000"):
        list(read(desk).guard(iter(lines), "s"))


def test_revoking_a_key_does_not_end_the_log(desk: Path):
    propose(desk)
    sign_log(desk, "ann", "bob", "cid")
    (desk / "keys.toml").write_text(registry_text(revoked="ann"))
    file = signature_path(desk / "events.jsonl")
    ann = f'"key":"{public_hex(private_key("ann"))}"'.encode()
    with pytest.raises(DataInvalid, match="the key of ann is revoked; remove the line"):
        read(desk)
    file.write_bytes(b"".join(raw for raw in file.read_bytes().splitlines(keepends=True) if ann not in raw))
    assert [override.who for override in read(desk).overrides] == ["ann"]


def test_who_is_not_registered_is_found_before_anybody_signs(desk: Path):
    propose(desk, who="mallory")
    with pytest.raises(DataInvalid, match="line 2: who: mallory is not in the registry"):
        sign_log(desk, "ann")


def test_an_event_is_not_dated_ahead(desk: Path):
    with pytest.raises(UsageError, match=r"--at 2999-01-01T00:00:00Z lies ahead; .* --start"):
        propose(desk, at="2999-01-01T00:00:00Z", expires="2999-01-02T00:00:00Z")
    with pytest.raises(UsageError, match="lies ahead"):
        policy_bounds(desk / "events.jsonl", desk / "bounds.toml", "2999-01-01T00:00:00Z")


def test_a_proposal_is_judged_on_the_log_it_is_written_to(desk: Path, monkeypatch: pytest.MonkeyPatch):
    path = desk / "events.jsonl"
    late = "2024-03-01T00:00:00Z"

    @contextmanager
    def overtaken(folder: Path) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(chain, "writing", writing)
            policy_bounds(path, desk / "bounds.toml", late)  # between the reading of one proposer and its writing
        with writing(folder):
            yield

    monkeypatch.setattr(chain, "writing", overtaken)
    with pytest.raises(DataInvalid, match="line 3: at: lies before the event ahead of it"):
        propose(desk)
    assert [event["at"] for event in read_events(path)] == ["2023-12-01T00:00:00Z", late]


def test_a_line_before_any_bounds_is_refused(desk: Path):
    early = make_lines([100_000])
    early[0]["announced_at"] = "2023-11-30T23:00:00Z"
    with pytest.raises(DataInvalid, match="no signed bounds hold at 2023-11-30T23:00:00Z"):
        list(read(desk).guard(iter(early), "s"))


def test_a_chain_names_what_is_wrong_with_it(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    lines = [append(path, EVENTS, {"at": AT, "n": n}) for n in range(3)]
    assert list(read_chain(path, EVENTS)) == lines
    raw = [canonical(line) for line in lines]
    for broken, message in {
        (raw[0], raw[2]): "line 2: prev_hash",
        (raw[1],): "line 1: prev_hash",
        (raw[0].replace(b":0,", b": 0,", 1),): "canonical",
        (b"[]",): "canonical",
        (b"{",): "not JSON",
        (b'{"a":NaN}',): "canonical|JSON",
    }.items():
        path.write_bytes(b"".join(line + b"\n" for line in broken))
        with pytest.raises(DataInvalid, match=message):
            list(read_chain(path, EVENTS))
    path.write_bytes(raw[0])
    with pytest.raises(DataInvalid, match="canonical"):
        list(read_chain(path, EVENTS))


@pytest.mark.parametrize("value", [1.0, 1e300, {"deep": [0.5]}])
def test_a_chain_holds_no_float(tmp_path: Path, value: Any):
    body = {"at": AT, "n": value, "prev_hash": "0" * 64, "seq": 0}
    path = tmp_path / "events.jsonl"
    path.write_bytes(canonical(body | {"hash": line_hash(body)}) + b"\n")
    with pytest.raises(DataInvalid, match="line 1: not JSON of integers"):
        list(read_chain(path, EVENTS))


def test_a_chain_nested_beyond_reason_is_refused(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n")
    with pytest.raises(DataInvalid, match="line 1"):
        list(read_chain(path, EVENTS))
