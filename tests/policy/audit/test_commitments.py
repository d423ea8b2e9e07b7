from __future__ import annotations

import json
import os
import stat
from hashlib import sha256
from itertools import product
from pathlib import Path

import pytest

from features.errors import DataInvalid, UsageError
from forecaster.commands.signing import policy_commit, policy_included, policy_keys, policy_prove
from forecaster.policy.audit.commitments import (
    Account,
    commitment,
    included,
    inclusion_path,
    merkle_levels,
    salt_of,
)

from .conftest import VECTORS

MERKLE = json.loads((VECTORS / "merkle.json").read_text())
AS_OF = "2024-01-01T00:00:00Z"


def by_definition(leaves: list[bytes], leaf: bytes = b"\0", node: bytes = b"\1") -> bytes:
    """The tree hash as RFC 6962 defines it: split at the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return sha256(leaf + leaves[0]).digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    halves = (by_definition(part, leaf, node) for part in (leaves[:k], leaves[k:]))
    return sha256(node + b"".join(halves)).digest()


def root_of(leaves: list[bytes]) -> bytes:
    return merkle_levels(leaves)[-1][0]


def test_roots_are_those_published_for_certificate_transparency():
    leaves = [bytes.fromhex(leaf) for leaf in MERKLE["leaves"]]
    assert [root_of(leaves[: i + 1]).hex() for i in range(8)] == MERKLE["roots"]


def test_every_leaf_of_every_small_tree_is_included_at_its_place_alone():
    for size in range(1, 20):
        leaves = [bytes([i]) for i in range(size)]
        levels = merkle_levels(leaves)
        root = levels[-1][0]
        assert root == by_definition(leaves)
        for index, place in product(range(size), range(size)):
            path = inclusion_path(levels, index)
            assert included(leaves[index], place, size, path, root) is (place == index)


def test_forged_proofs_fail():
    leaves = [bytes([i]) for i in range(11)]
    levels = merkle_levels(leaves)
    path, root = inclusion_path(levels, 6), levels[-1][0]
    assert included(leaves[6], 6, 11, path, root)
    forged = [
        (b"x", 6, 11, path, root),
        (leaves[6], -1, 11, path, root),
        (leaves[6], 11, 11, path, root),
        (leaves[6], 6, 11, path[:-1], root),
        (leaves[6], 6, 11, [*path, root], root),
        (leaves[6], 6, 11, path[::-1], root),
        (leaves[6], 6, 11, [b"", *path], root),
        (leaves[6], 6, 6, path, root),
        (leaves[6], 6, 11, path, root[::-1]),
        *((leaves[6], 6, 11, [*path[:i], bytes(32), *path[i + 1 :]], root) for i in range(len(path))),
    ]
    assert not any(included(*case) for case in forged)


def test_a_node_does_not_pass_for_a_leaf():
    leaves = [bytes([i]) * 3 for i in range(4)]
    levels = merkle_levels(leaves)
    root = levels[-1][0]
    children = levels[0][0] + levels[0][1]
    assert not included(children, 0, 2, [levels[1][1]], root)
    assert not included(levels[1][0], 0, 2, [levels[1][1]], root)
    assert root_of([children, levels[0][2] + levels[0][3]]) != root
    # Without domains of their own the same attack succeeds.
    plain = [sha256(leaf).digest() for leaf in leaves]
    pairs = [plain[0] + plain[1], plain[2] + plain[3]]
    assert by_definition(pairs, b"", b"") == by_definition(leaves, b"", b"")


def test_a_doubled_last_leaf_changes_the_root_and_is_refused():
    three = [b"a", b"b", b"c"]
    assert root_of(three) != by_definition([*three, b"c"])
    with pytest.raises(DataInvalid, match="one twice"):
        merkle_levels([*three, b"c"])
    with pytest.raises(DataInvalid, match="no account"):
        merkle_levels([])
    pair = sha256(b"\1" + sha256(b"\0a").digest() + sha256(b"\0b").digest()).digest()
    assert included(b"c", 2, 3, [pair], root_of(three))
    assert not included(b"c", 3, 4, [sha256(b"\0c").digest(), pair], root_of(three))


def test_a_commitment_changes_with_all_that_it_binds():
    base = (Account("a", -5, 7), 11, bytes(32))
    others = [
        (Account("b", -5, 7), 11, bytes(32)),
        (Account("a", 5, 7), 11, bytes(32)),
        (Account("a", -5, 8), 11, bytes(32)),
        (Account("a", -5, 7), 12, bytes(32)),
        (Account("a", -5, 7), 11, b"\1" + bytes(31)),
    ]
    assert len({commitment(*case) for case in (base, *others)}) == 6
    salts = {salt_of(secret, at, name) for secret, at, name in product((b"s", b"t"), (1, 2), ("a", "b"))}
    assert len(salts) == 8
    with pytest.raises(DataInvalid, match="32"):
        commitment(base[0], 11, b"short")
    for wrong in (("", 1, 1), ("a", 2**63, 1), ("a", 1, -1), ("a", 1.0, 1), ("a", True, 1)):
        with pytest.raises(DataInvalid, match="whole micro-USD"):
            Account(*wrong)


def test_an_owner_checks_the_own_margin_against_the_published_root(tmp_path: Path):
    names = [f"acc{i:02d}" for i in range(13)]
    rows = "".join(f"{name},{(i - 3) * 10**9},{i * 10**6}\n" for i, name in enumerate(names))
    (tmp_path / "accounts.csv").write_text("account,equity_micro_usd,maintenance_micro_usd\n" + rows)
    policy_keys(new=tmp_path / "salts.pem")
    given = (tmp_path / "accounts.csv", tmp_path / "salts.pem", AS_OF)
    published = policy_commit(*given, tmp_path / "root.json").to_dict()
    assert policy_commit(*given, tmp_path / "again.json").to_dict()["root"] == published["root"]
    for name in names:
        policy_prove(*given, name, tmp_path / "proof.json")
        assert policy_included(tmp_path / "proof.json", tmp_path / "root.json").to_dict()["account"] == name
    proof = json.loads((tmp_path / "proof.json").read_text())
    for field, value in {
        "equity_micro_usd": 1,
        "salt": "00" * 32,
        "index": 99,
        "as_of": "2024-01-01T01:00:00Z",
    }.items():
        (tmp_path / "proof.json").write_text(json.dumps(proof | {field: value}))
        with pytest.raises(DataInvalid, match="does not stand under the root"):
            policy_included(tmp_path / "proof.json", tmp_path / "root.json")
    (tmp_path / "proof.json").write_text(json.dumps(proof | {"salt": 3}))
    with pytest.raises(DataInvalid, match="malformed"):
        policy_included(tmp_path / "proof.json", tmp_path / "root.json")
    with pytest.raises(UsageError, match="no account 'zed'"):
        policy_prove(*given, "zed", tmp_path / "proof.json")
    for line, message in {
        "a,1.5,2": "row 15",
        "a,1": "row 15",
        "acc01,1,1": r"row 15: account 'acc01' stands twice",
    }.items():
        given[0].write_text("account,equity_micro_usd,maintenance_micro_usd\n" + rows + line + "\n")
        with pytest.raises(DataInvalid, match=message):
            policy_commit(*given, tmp_path / "root.json")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (b"a,1_000,2\n", "row 2"),
        (b"a, 1,2\n", "row 2"),
        ("a,\u0663,2\n".encode(), "row 2"),
        (b"\xff,1,2\n", "UTF-8"),
        (b"a,1,-2\n", "row 2"),
        (b"a,9223372036854775808,2\n", "row 2"),
    ],
)
def test_a_table_of_accounts_is_read_to_the_letter(tmp_path: Path, rows: bytes, told: str):
    policy_keys(new=tmp_path / "salts.pem")
    path = tmp_path / "accounts.csv"
    path.write_bytes(b"account,equity_micro_usd,maintenance_micro_usd\n" + rows)
    with pytest.raises(DataInvalid, match=f"accounts.csv: .*{told}"):
        policy_commit(path, tmp_path / "salts.pem", AS_OF, tmp_path / "root.json")


@pytest.fixture
def proven(tmp_path: Path) -> Path:
    """A folder with accounts.csv, salts.pem, root.json and the proof of b."""
    (tmp_path / "accounts.csv").write_text("account,equity_micro_usd,maintenance_micro_usd\na,5,1\nb,9,2\nc,3,1\n")
    policy_keys(new=tmp_path / "salts.pem")
    given = (tmp_path / "accounts.csv", tmp_path / "salts.pem", AS_OF)
    policy_commit(*given, tmp_path / "root.json")
    policy_prove(*given, "b", tmp_path / "proof.json")
    return tmp_path


def test_a_document_that_says_two_things_is_refused(proven: Path):
    text = (proven / "root.json").read_text()
    (proven / "root.json").write_text('{"root":"' + "00" * 32 + '",' + text[1:])
    with pytest.raises(DataInvalid, match=r"root\.json: .*root stands twice"):
        policy_included(proven / "proof.json", proven / "root.json")


def test_an_impossible_account_names_the_file(proven: Path):
    proof = json.loads((proven / "proof.json").read_text())
    (proven / "proof.json").write_text(json.dumps(proof | {"equity_micro_usd": 2**70}))
    with pytest.raises(DataInvalid, match=r"proof\.json: .*63 bits"):
        policy_included(proven / "proof.json", proven / "root.json")


def test_an_instant_has_one_spelling_in_documents(proven: Path):
    given = (proven / "accounts.csv", proven / "salts.pem", AS_OF.replace("Z", ".000000Z"))
    policy_prove(*given, "b", proven / "proof.json")
    assert policy_included(proven / "proof.json", proven / "root.json").to_dict()["included"]


def test_secrets_are_never_on_disk_for_others_to_read(tmp_path: Path, proven: Path, monkeypatch: pytest.MonkeyPatch):
    modes: dict[str, set[int]] = {"key": set(), "proof": set()}
    kind = "key"
    fsync = os.fsync

    def watched(handle: int) -> None:
        info = os.fstat(handle)
        if stat.S_ISREG(info.st_mode):
            modes[kind].add(stat.S_IMODE(info.st_mode))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    policy_keys(new=tmp_path / "other.pem")
    kind = "proof"
    policy_prove(proven / "accounts.csv", proven / "salts.pem", AS_OF, "b", proven / "proof.json")
    assert modes == {"key": {0o600}, "proof": {0o600}}
    assert (proven / "proof.json").stat().st_mode & 0o777 == 0o600


def test_a_key_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            policy_keys(new=tmp_path / "a.pem")
    assert list(tmp_path.iterdir()) == []
    policy_keys(new=tmp_path / "a.pem")
