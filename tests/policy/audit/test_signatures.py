from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from features.errors import DataInvalid, UsageError
from forecaster.commands.signing import policy_keys, policy_sign, policy_verify
from forecaster.policy.audit.bounds import Bounds
from forecaster.policy.audit.chain import SCHEDULE, read_chain
from forecaster.policy.audit.keys import ORDER_8, PRIME, SMALL_ORDER, Registry, load_private_key, new_private_key
from forecaster.policy.audit.signatures import Update, attest, sign, signature_path
from forecaster.policy.schedule import canonical, line_hash

from .conftest import bounds_text, make_lines, private_key, registry_text, write


def check(desk: Path) -> dict:
    return policy_verify(desk / "schedule.jsonl", desk / "keys.toml", desk / "events.jsonl").to_dict()


def put(desk: Path, *records: bytes) -> None:
    signature_path(desk / "schedule.jsonl").write_bytes(b"".join(record + b"\n" for record in records))


def head(desk: Path) -> Update:
    return Update.of(list(read_chain(desk / "schedule.jsonl", SCHEDULE))[-1], SCHEDULE)


def test_k_of_n_make_a_schedule_effective_and_one_fewer_does_not(desk: Path, signed: Callable[..., None]):
    signed("ann")
    with pytest.raises(DataInvalid, match=r"0 of 3 lines have 2 signatures .*ann 3"):
        check(desk)
    signed("cid")
    assert check(desk)["vouched"] == {"ann": 3, "cid": 3}


def test_a_signature_vouches_for_the_lines_before_it_and_none_after(desk: Path):
    updates = [Update.of(line, SCHEDULE) for line in read_chain(desk / "schedule.jsonl", SCHEDULE)]
    put(desk, sign(updates[2], private_key("ann")), sign(updates[1], private_key("bob")))
    registry, path = Registry.load(desk / "keys.toml"), desk / "schedule.jsonl"
    found = attest(read_chain(path, SCHEDULE), SCHEDULE, signature_path(path), registry)
    assert (found.effective, dict(found.vouched)) == (2, {"ann": 3, "bob": 2})


def test_unknown_revoked_expired_and_doubled_keys_are_refused(desk: Path, signed: Callable[..., None]):
    good = [sign(head(desk), private_key(name)) for name in ("ann", "bob")]
    put(desk, *good, sign(head(desk), private_key("eve")))
    with pytest.raises(DataInvalid, match=r"line 3: key \w+ is not registered"):
        check(desk)
    put(desk, good[0], good[0])
    with pytest.raises(DataInvalid, match="line 2: ann signs line 2 a second time"):
        check(desk)
    put(desk, *good)
    check(desk)
    (desk / "keys.toml").write_text(registry_text(revoked="bob"))
    with pytest.raises(DataInvalid, match="the key of bob is revoked"):
        check(desk)
    (desk / "keys.toml").write_text(registry_text(until="2023-12-31T00:00:00Z"))
    with pytest.raises(DataInvalid, match=r"schedule\.sig\.jsonl: line 1: the key of ann is not valid at that instant"):
        check(desk)


@pytest.mark.parametrize("field", ["new", "previous", "timestamp", "type", "reference"])
def test_a_signature_over_another_line_is_refused(desk: Path, field: str):
    line = list(read_chain(desk / "schedule.jsonl", SCHEDULE))[-1]
    values = Update.of(line, SCHEDULE)
    other = {"new": "0" * 64, "previous": "1" * 64, "timestamp": "2024-01-01T05:00:00Z", "type": "events"}
    changed = {name: getattr(values, name) for name in values.__slots__} | {field: other.get(field, 1)}
    put(desk, sign(Update(**changed), private_key("ann")), sign(values, private_key("bob")))
    with pytest.raises(DataInvalid, match="signs another line"):
        check(desk)


def test_one_key_cannot_sign_for_another_nor_a_signature_move_to_another_line(desk: Path):
    record = json.loads(sign(head(desk), private_key("eve")))
    ann = json.loads(sign(head(desk), private_key("ann")))
    put(desk, canonical(record | {"key": ann["key"]}))
    with pytest.raises(DataInvalid, match="the signature of ann is wrong"):
        check(desk)
    first = Update.of(make_lines([100_000])[0], SCHEDULE)
    put(desk, canonical(json.loads(sign(first, private_key("ann"))) | {"signature": ann["signature"]}))
    with pytest.raises(DataInvalid, match="the signature of ann is wrong"):
        check(desk)


def test_a_shortened_or_rewritten_schedule_is_refused(desk: Path, signed: Callable[..., None]):
    signed("ann", "bob")
    lines = make_lines([100_000, 120_000, 110_000])
    write(desk / "schedule.jsonl", lines[:2])
    with pytest.raises(DataInvalid, match="which ends before"):
        check(desk)
    write(desk / "schedule.jsonl", make_lines([100_000, 120_000, 110_001]))
    with pytest.raises(DataInvalid, match="signs another line"):
        check(desk)
    lines[1]["im_ppm"] += 1
    write(desk / "schedule.jsonl", lines)
    with pytest.raises(DataInvalid, match="line 2: hash"):
        check(desk)


def test_every_changed_byte_of_a_signature_file_is_refused(desk: Path, signed: Callable[..., None]):
    signed("ann", "bob")
    path = signature_path(desk / "schedule.jsonl")
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataInvalid):
            check(desk)


def test_no_line_leaves_the_bounds_however_many_sign_it(desk: Path):
    write(desk / "schedule.jsonl", make_lines([100_000, 160_000]))
    put(desk, *(sign(head(desk), private_key(name)) for name in ("ann", "bob", "cid")))
    with pytest.raises(DataInvalid, match="line 2: BTCUSDT: im_ppm rises from 100000 to 160000"):
        check(desk)
    write(desk / "schedule.jsonl", make_lines([950_000]))
    with pytest.raises(DataInvalid, match=r"im_ppm 950000 is above the cap 900000; .*mm_ppm"):
        policy_sign(desk / "ann.pem", desk / "keys.toml", desk / "events.jsonl", desk / "schedule.jsonl")
    upper = make_lines([100_000])
    upper[0]["tiers"].append({"cap_usd": 2000, "im_ppm": 950_000, "mm_ppm": 60_000})
    upper[0]["hash"] = line_hash(upper[0])
    write(desk / "schedule.jsonl", upper)
    with pytest.raises(DataInvalid, match="im_ppm 950000 is above the cap"):
        check(desk)


def test_a_registry_refuses_what_would_weaken_it(tmp_path: Path):
    path, good = tmp_path / "keys.toml", registry_text()
    public = good.split('public_key = "')[1][:64]
    forged = [height.to_bytes(32, "little").hex() for height in (*SMALL_ORDER, PRIME, PRIME + 1)]
    wrong = {
        "threshold = 4": good.replace("threshold = 2", "threshold = 4"),
        "threshold = 0": good.replace("threshold = 2", "threshold = 0"),
        "threshold = 3": registry_text(threshold=3, revoked="ann"),
        "stands twice": good.replace('"bob"', '"ann"'),
        "64 lower-case": good.replace(public, public.upper()),
        "odd": good + "odd = 1\n",
        "revoked": good.replace("revoked = false\n", "", 1),
        "valid_until must lie after": registry_text(until="2019-01-01T00:00:00Z"),
        "with its zone": registry_text(until="2030-01-01T00:00:00"),
    }
    cases = [*wrong.items(), *(("small order or badly encoded", good.replace(public, key)) for key in forged)]
    for message, text in cases:
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            policy_keys(registry=path)
    path.write_text(good)
    assert policy_keys(registry=path).to_dict()["threshold"] == 2


def test_the_points_of_small_order_are_those_of_the_curve():
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    assert {(d * y**4 + 2 * y**2) % PRIME for y in (ORDER_8, PRIME - ORDER_8)} == {1}


def test_private_keys_that_others_may_read_are_refused(tmp_path: Path):
    path = tmp_path / "a.pem"
    public = new_private_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_private_key(path).public_key().public_bytes_raw().hex() == public
    with pytest.raises(UsageError, match="never overwritten"):
        new_private_key(path)
    for mode in (0o640, 0o604, 0o644, 0o660, 0o610):
        path.chmod(mode)
        with pytest.raises(UsageError, match=f"mode {mode:04o} .* chmod 600"):
            load_private_key(path)
    path.chmod(0o600)
    path.write_text("nothing")
    with pytest.raises(UsageError, match="no unencrypted private key"):
        load_private_key(path)


def test_bounds_are_stated_in_full(desk: Path):
    text = bounds_text()
    for message, wrong in {
        "rise_ppm": text.replace("rise_ppm = 500000\n", "", 1),
        "floor is above cap": bounds_text(im_ppm=(2, 1)),
        r'symbols\."\*"': text.replace('"*"', "BTCUSDT"),
        "whole numbers": text.replace("cap = 900000", "cap = 0.9"),
    }.items():
        (desk / "bounds.toml").write_text(wrong)
        with pytest.raises(DataInvalid, match=message):
            Bounds.load(desk / "bounds.toml")


def test_a_step_is_bounded_to_the_ppm_and_from_zero_by_the_cap_alone(desk: Path):
    bounds = Bounds.load(desk / "bounds.toml")
    (line,) = make_lines([100_000])
    for last, now, held in ((100_000, 150_000, True), (100_000, 150_001, False), (100_000, 1_000, True)):
        found = bounds.breaches(line | {"exposure_scale_ppm": now}, line | {"exposure_scale_ppm": last})
        assert (found == []) is held
    zero = line | {"exposure_scale_ppm": 0}
    assert bounds.breaches(line | {"exposure_scale_ppm": 2_000_000}, zero) == []
    assert bounds.breaches(line | {"exposure_scale_ppm": 2_000_001}, zero) != []


def test_signers_do_not_make_an_unlawful_line_lawful(desk: Path):
    lines = make_lines([100_000, 100_000])
    del lines[1]["tiers"]
    lines[1]["hash"] = line_hash(lines[1])
    write(desk / "schedule.jsonl", lines)
    put(desk, *(sign(head(desk), private_key(name)) for name in ("ann", "bob", "cid")))
    with pytest.raises(DataInvalid, match="line 2: missing or unknown fields tiers"):
        check(desk)
    lines = make_lines([100_000, 100_000])
    lines[1]["mm_ppm"] = lines[1]["tiers"][0]["mm_ppm"] = 100_000
    lines[1]["hash"] = line_hash(lines[1])
    write(desk / "schedule.jsonl", lines)
    put(desk, *(sign(head(desk), private_key(name)) for name in ("ann", "bob", "cid")))
    with pytest.raises(DataInvalid, match=r"line 2: im_ppm: not in \(MM, 1\]"):
        check(desk)
