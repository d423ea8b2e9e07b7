from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import UsageError
from models.catalogue import make
from training.config import Component, RunConfig
from training.space import DEFAULT, Range, Space, arguments, configured

CONFIG = RunConfig(
    members=(
        Component(kind="har_seasonal"),
        Component(kind="lightgbm", params={"rounds": 40, "every_hours": 7}),
    )
)


def load(tmp_path: Path, text: str, config: RunConfig = CONFIG) -> Space:
    file = tmp_path / "space.toml"
    file.write_text(text)
    return Space.load(file, config)


def test_the_shipped_space_starts_at_the_recommended_configuration() -> None:
    space = Space.load(None, RunConfig.recommended())
    assert space.members
    assert space.ensemble


def test_the_shipped_space_leaves_out_members_that_the_configuration_lacks() -> None:
    config = RunConfig(members=(Component(kind="har_seasonal"), Component(kind="har_x")))
    assert set(Space.load(None, config).members) == {"har_seasonal", "har_x"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[members.lightgbm]\nrounds = {low = 50, high = 100}", "the configured 40 is not among what may be chosen"),
        ("[members.lightgbm]\nrounds = [40]", "fewer than two choices"),
        ("[members.lightgbm]\nrounds = {low = 90, high = 10}", "needs low < high"),
        ("[members.lightgbm]\nlambda_l2 = {low = 0.0, high = 10.0, log = true}", "log needs low > 0"),
        ("[members.lightgbm]\nrunds = [40, 50]", "did you mean 'rounds'"),
        ("[members.har_x]\nridge = [0.02, 0.2]", "members.har_x: no member of the configuration"),
        ("[ensemble]\nshrinkag = [0.5, 1.0]", "no argument 'shrinkag'"),
        ("[members.lightgbm]\nrounds = {low = 20, high = 60, stp = 1}", "unknown key"),
        ("[member.lightgbm]\nrounds = [40, 50]", "members"),
        ("", "nothing to search"),
        ("rounds = ", "not a TOML file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read"):
        Space.load(tmp_path / "none.toml", CONFIG)


def test_values_become_arguments_beside_those_that_are_not_searched(tmp_path: Path) -> None:
    space = load(tmp_path, '[members.lightgbm]\nrounds = [40, 50]\nwindow_days = [365, "default"]').of("lightgbm")
    start = configured(space, "lightgbm", CONFIG)
    assert start == {"rounds": 40, "window_days": DEFAULT}
    assert arguments(start, "lightgbm", CONFIG) == {"rounds": 40, "every_hours": 7}
    changed = arguments({"rounds": 50, "window_days": 365}, "lightgbm", CONFIG)
    assert changed == {"rounds": 50, "window_days": 365, "every_hours": 7}
    assert make("lightgbm", arguments(start, "lightgbm", CONFIG)).get_params()["window_days"] is None


@pytest.mark.parametrize(
    ("low", "high", "step", "inside", "outside"),
    [
        (10, 20, None, (10, 15, 20), (9, 21, 12.5, True, "12")),
        (10, 20, 5, (10, 15, 20), (12, 25)),
        (0.5, 1.5, None, (0.5, 1, 1.25), (0.4, 1.6, None)),
        (0.0, 1.0, 0.1, (0.3, 0.7), (0.35,)),
    ],
)
def test_a_range_holds_what_it_can_draw(
    low: float, high: float, step: float | None, inside: tuple[object, ...], outside: tuple[object, ...]
) -> None:
    found = Range(low=low, high=high, step=step)
    assert all(found.holds(value) for value in inside)
    assert not any(found.holds(value) for value in outside)
