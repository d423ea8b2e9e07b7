from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from features.errors import UsageError
from forecaster.venue import VenueParams


@pytest.fixture
def values() -> dict[str, Any]:
    return tomllib.loads(files("forecaster.venue").joinpath("packs/default-1.toml").read_text("utf-8"))


def test_the_pack_states_every_constant(values: dict[str, Any]) -> None:
    assert VenueParams.from_dict(values) == VenueParams.default()
    for section, table in values.items():
        for key in table if isinstance(table, dict) else ():
            cut = {**values, section: {k: v for k, v in table.items() if k != key}}
            with pytest.raises(UsageError, match=f"{section}.{key} is missing"):
                VenueParams.from_dict(cut)


def test_unknown_keys_and_impossible_values_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown key impact\.colour"):
        VenueParams.from_dict({**values, "impact": {**values["impact"], "colour": 1.0}})
    default = VenueParams.default()
    for section, key, value in (
        ("fund", "adl", "lottery"),
        ("liquidation", "restore_level", 0.9),
        ("liquidation", "rounds", 0),
        ("impact", "half_life_hours", 0.0),
        ("population", "long_share", 1.2),
    ):
        with pytest.raises(UsageError, match=f"{section}.{key}"):
            default.replace(**{section: {key: value}})
    with pytest.raises(UsageError, match="no such venue pack"):
        VenueParams.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(UsageError, match="not a TOML file"):
        VenueParams.load(tmp_path / "bad.toml")


def test_a_change_changes_the_hash() -> None:
    default = VenueParams.default()
    assert default.replace().sha256 == default.sha256
    assert default.replace(liquidation={"rounds": 5}).sha256 != default.sha256
