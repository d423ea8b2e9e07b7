"""Parameter packs: complete, checked, hashed."""

from __future__ import annotations

import dataclasses
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from features.errors import UsageError
from forecaster.policy import Params

TEXT = files("forecaster.policy").joinpath("packs/default-1.toml").read_text("utf-8")


def leaves(values: dict, prefix: tuple[str, ...] = ()):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


@pytest.mark.parametrize("key", list(leaves(tomllib.loads(TEXT))), ids=".".join)
def test_no_constant_has_a_default_in_code(key: tuple[str, ...]) -> None:
    values = tomllib.loads(TEXT)
    table = values
    for part in key[:-1]:
        table = table[part]
    del table[key[-1]]
    with pytest.raises(UsageError, match=f"key {'.'.join(key)} is missing"):
        Params.from_dict(values)


def test_a_pack_is_read_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.replace("im_min = 0.01", "im_min = 0.02"))
    mine, default = Params.load(path), Params.default()
    assert mine.margin.im_min == 0.02
    assert mine.sha256 != default.sha256
    assert Params.default().sha256 == default.sha256
    assert dataclasses.replace(mine, margin=default.margin).sha256 == default.sha256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("im_min = 0.01", "im_min = 0.001", "margin.im_min"),
        ("im_max = 1.0", "im_max = 1.5", "margin.im_max"),
        ("gap = 0.30", 'gap = "0.30"', "margin.gap = '0.30' is not of type float"),
        ("gap = 0.30", "gap = inf", "margin.gap = inf"),
        ("gap = 0.30", "gap = 0.30\ngrap = 1", "unknown key margin.grap; known here: .*gap"),
        ("[0.0005, 0.001", "[0.001, 0.001", "tier_shares: must rise"),
        ("0.02]", "9.0]", "closable within"),
        ("factor_max = 2.0", "factor_max = 0.5", "factor_max"),
        ("minimum = 0.0025", "minimum = 0.01", "penalty.minimum"),
        ("hold_hours = 2", "hold_hours = 2.5", "hold_hours = 2.5 is not of type int"),
        ("[margin]", "[margin", "not a TOML file"),
    ],
)
def test_refusals_name_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    assert old in TEXT
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(UsageError, match=f"mine.toml: .*{message}") as refusal:
        Params.load(path)
    assert refusal.value.exit_code == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such parameter pack"):
        Params.load(tmp_path / "absent.toml")
