"""The page of mechanisms names nothing that does not exist."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from features.errors import DataInvalid
from forecaster.policy.comparison.rows import FIELDS
from forecaster.policy.mechanisms import Mechanism, faults, mechanisms, read, render
from forecaster.venue.metrics import METRICS
from forecaster.venue.scenarios import SCENARIOS, run

TESTS = Path(__file__).resolve().parents[1]
FIGURES = {*FIELDS, *METRICS}


def test_everything_named_exists() -> None:
    table = mechanisms()
    assert len({(row.section, row.name) for row in table}) == len(table) > 60
    held = {outcome.name for outcome in run() if outcome.holds}
    assert faults(table, held, FIGURES, TESTS) == []  # nothing is shown by a scenario that does not hold


def test_every_scenario_that_holds_shows_something() -> None:
    named = {name for row in mechanisms() for name in row.shown_by if name.startswith("scenario:")}
    assert named == {f"scenario:{name}" for name in SCENARIOS}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"modules": ("policy/wishes",)}, "no module policy/wishes"),
        ({"modules": ()}, "shown, but by no module"),
        ({"shown_by": ("scenario:peace",)}, "no scenario peace"),
        ({"shown_by": ("figure:beauty",)}, "no figure beauty"),
        (
            {"shown_by": ("test:policy/test_mechanisms.py::test_nothing",)},
            "no test policy/test_mechanisms.py::test_nothing",
        ),
        ({"shown_by": ("test:policy/test_wishes.py::test_it",)}, "no test policy/test_wishes.py::test_it"),
    ],
)
def test_a_name_that_is_gone_is_a_fault(change: dict[str, tuple[str, ...]], fault: str) -> None:
    row = Mechanism("S", "a mechanism", ("policy/margin",), "built", ("scenario:flash_print",))
    assert faults([row], SCENARIOS, FIGURES, TESTS) == []
    assert faults([replace(row, **change)], SCENARIOS, FIGURES, TESTS) == [f"a mechanism: {fault}"]


def test_without_the_tests_tree_only_the_rest_is_checked() -> None:
    row = Mechanism("S", "a", ("venue/scenarios",), "sim", ("test:no/test_file.py::test_x",))
    assert faults([row], SCENARIOS, FIGURES, None) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "wish"}, "none of built"),
        ({"shown_by": ["faith"]}, "'faith' is neither"),
        ({"more": 1}, "unknown keys more"),
    ],
)
def test_a_malformed_row_is_refused(change: dict[str, object], message: str) -> None:
    row = {"section": "S", "name": "a", "modules": [], "kind": "built", "shown_by": []}
    assert read({"mechanism": [row]}, "x.toml")[0].name == "a"
    with pytest.raises(DataInvalid, match=message):
        read({"mechanism": [row | change]}, "x.toml")


@dataclass(frozen=True)
class Told:
    name: str = "storm"
    done: str = "wind"
    defence: str = "a wall"
    expectation: str = "it stands"
    measured: dict[str, float] = field(default_factory=lambda: {"lost_usd": 12345.6, "share": 0.012345, "rest": 1e-15})
    holds: bool = False


def test_the_page_says_what_is_shown_and_what_is_not() -> None:
    table = [
        Mechanism("One", "here", ("policy/margin",), "built", ("test:a/test_b.py::test_c", "scenario:storm")),
        Mechanism("Two", "there", (), "sim", ()),
    ]
    page = render(table, [Told()])
    assert "| here | `policy/margin` | test `test_c`; scenario `storm` | built |" in page
    assert "| there | – | not shown | – |" in page
    assert "2 mechanisms" in page
    assert "1 of them are not shown" in page
    assert (
        "| `storm` | wind | a wall | it stands | `lost_usd` 12,346; `share` 0.0123; `rest` below 1e-6 | **no** |"
        in page
    )
    assert page.index("## One") < page.index("## Two") < page.index("## Scenarios")
