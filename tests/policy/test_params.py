"""Parameter packs: complete, checked, hashed."""

from __future__ import annotations

import dataclasses
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from features.errors import UsageError
from forecaster.policy import Params
from forecaster.policy.audit.rollout import Limits

TEXT = files("forecaster.policy").joinpath("packs/default-2.toml").read_text("utf-8")


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
        ("quorum = 3", "quorum = 2", "oracle.quorum: must be at least 3"),
        ("gap_limits = [0.01, 0.02, 0.05]", "gap_limits = [0.01, 0.02]", "breakers.gap_limits"),
        ("[100000000.0, 10000000.0]", "[1.0, 10000000.0]", "breakers.gap_volumes_usd: must fall"),
        ("halt_hours = 1", "halt_hours = 0", "breakers.halt_hours: must be at least 1"),
        ("search_level = 1.1", "search_level = 1.4", "accounts: must hold"),
        ("tranche_caps = [0.25, 1.0]", "tranche_caps = [1.0, 0.25]", "insurance.tranche_caps"),
        ("drawdown = 0.30", "drawdown = 0.0", "exposure.drawdown"),
        ("put_cap = 1.0", "put_cap = 1.5", "hedging.put_cap"),
        ("level = 0.99 ", "level = 1.0 ", "hedging.level"),
        ("put_steps = [0.0, 0.5", "put_steps = [0.5, 0.0", "hedging.put_steps: must rise"),
        ("vol_of_vol = 4.4 ", "vol_of_vol = 0.0 ", "hedging.vol_of_vol: must be above 0"),
        ("iv_skew = 0.10", "iv_skew = -0.10", "hedging.iv_skew: must not be negative"),
        ("fund_weight = 0.5", "fund_weight = -0.5", "margin.fund_weight"),
        ("retained = 1.0", "retained = 1.5", "protection.retained"),
        ("block_hours = 720", "block_hours = 0", "rollout.block_hours"),
        ("coverage_ppm = 992000", "coverage_ppm = 1992000", "rollout.coverage_ppm"),
        ("silent_steps = 2", "silent_steps = -1", "rollout.silent_steps"),
        ('canaries = ["BTCUSDT", "ETHUSDT"]', "canaries = []", "rollout.canaries"),
        ('canaries = ["BTCUSDT", "ETHUSDT"]', "canaries = [1]", "rollout.canaries = 1 is not of type str"),
        ('canaries = ["BTCUSDT", "ETHUSDT"]', 'canaries = "BTCUSDT"', "is not of type list of words"),
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


@pytest.mark.parametrize("name", ["default-1", "default-2"])
def test_every_pack_holds_the_limits_of_the_roll_out(name: str) -> None:
    values = tomllib.loads(files("forecaster.policy").joinpath(f"packs/{name}.toml").read_text("utf-8"))
    terms = dataclasses.asdict(Params.from_dict(values).rollout)
    assert terms == values["rollout"] | {"canaries": ("BTCUSDT", "ETHUSDT")}
    limits = Limits(block_origins=terms.pop("block_hours"), **terms)
    assert limits.misses == 5  # of 720 origins, at 99.2 %


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such parameter pack"):
        Params.load(tmp_path / "absent.toml")


def test_tiers_of_protection_are_overlays_and_nothing_else(tmp_path: Path) -> None:
    base = Params.default()
    assert base.protected("basic") == base
    for tier in ("basic", "hedged", "insured"):
        pack = base.protected(tier)
        assert pack.protection.tier == tier
        assert dataclasses.replace(pack, protection=base.protection) == base
    assert len({base.protected(tier).sha256 for tier in ("basic", "hedged", "insured")}) == 3
    with pytest.raises(UsageError, match="'golden' is no tier of protection; known: basic, hedged, insured"):
        base.protected("golden")
    with pytest.raises(UsageError, match=r"'\.\./default-1' is no tier"):
        base.protected("../default-1")


def test_an_overlay_replaces_leaves_and_is_checked() -> None:
    base = Params.default()
    mine = base.overlaid({"governor": {"normal": {"step_up": 0.2}}, "name": "mine"}, "mine.toml")
    assert (mine.governor.normal.step_up, mine.name) == (0.2, "mine")
    assert mine.governor.normal.notice_hours == base.governor.normal.notice_hours
    assert mine.governor.stress == base.governor.stress
    assert base.overlaid({}, "nothing") == base
    for values, message in (
        ({"governor": {"normal": {"stepup": 0.2}}}, "unknown key governor.normal.stepup"),
        ({"margin": 3.0}, "margin must be a table"),
        ({"margin": {"im_min": 0.0}}, "margin.im_min"),
        ({"name": {"a": 1}}, "name = "),
    ):
        with pytest.raises(UsageError, match=f"mine.toml: {message}"):
            base.overlaid(values, "mine.toml")
