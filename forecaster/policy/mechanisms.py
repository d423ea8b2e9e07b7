"""The table of mechanisms: what each is, where it lives, what shows it; and the page that says so.

``mechanisms.toml`` names modules, tests, scenarios and figures; ``faults`` finds every name that no longer exists,
so that the page cannot claim what is gone. Whatever nothing shows is printed as "not shown".
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Protocol

from features.errors import DataInvalid

__all__ = ["KINDS", "Mechanism", "Shown", "faults", "mechanisms", "read", "render"]

KINDS: Final = {
    "built": "runs on real or simulated data",
    "sim": "shown in the simulator only",
    "payload": "a signable update that a chain could apply; nothing is executed on one",
    "property": "a quality of the design, shown by a test",
}
NOT_SHOWN: Final = "not shown"


@dataclass(frozen=True)
class Mechanism:
    """One row. ``modules`` are paths under ``forecaster/`` without suffix; ``shown_by`` holds ``test:file::function``
    (under ``tests/``), ``scenario:name`` and ``figure:field``.
    """

    section: str
    name: str
    modules: tuple[str, ...]
    kind: str
    shown_by: tuple[str, ...]


class Shown(Protocol):
    """What the page reads of a scenario's outcome."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def done(self) -> str:
        """What is done."""

    @property
    def defence(self) -> str:
        """What stands against it."""

    @property
    def expectation(self) -> str:
        """What must come out."""

    @property
    def measured(self) -> Mapping[str, float]:
        """What came out."""

    @property
    def holds(self) -> bool:
        """Whether it did."""


def mechanisms() -> tuple[Mechanism, ...]:
    """The table that ships with the package."""
    source = files("forecaster.policy").joinpath("mechanisms.toml")
    return read(tomllib.loads(source.read_text("utf-8")), "mechanisms.toml")


def read(values: dict[str, Any], source: str) -> tuple[Mechanism, ...]:
    """The checked table. Raises DataInvalid naming the row whose keys, kind or references are not of the form above."""
    names = {field.name for field in fields(Mechanism)}
    table = []
    for number, row in enumerate(values.get("mechanism", []), start=1):
        where = f"{source}: mechanism {number} ({row.get('name', 'without a name')})"
        if row.keys() != names:
            odd = ", ".join(sorted(names.symmetric_difference(row)))
            raise DataInvalid(f"{where}: missing or unknown keys {odd}; each row has {', '.join(sorted(names))}")
        if row["kind"] not in KINDS:
            raise DataInvalid(f"{where}: kind {row['kind']!r} is none of {', '.join(KINDS)}")
        for reference in row["shown_by"]:
            if not re.fullmatch(r"test:[\w/]+\.py::\w+|scenario:\w+|figure:\w+", reference):
                raise DataInvalid(
                    f"{where}: {reference!r} is neither test:file::function, scenario:name nor figure:field"
                )
        table.append(Mechanism(**row | {"modules": tuple(row["modules"]), "shown_by": tuple(row["shown_by"])}))
    return tuple(table)


def faults(
    table: Iterable[Mechanism], scenarios: Collection[str], figures: Collection[str], tests: Path | None
) -> list[str]:
    """What the table names and does not exist, one sentence each.

    ``scenarios`` are those that hold; ``tests`` None leaves tests unchecked.
    """
    found = []
    for row in table:
        found += [f"{row.name}: no module {name}" for name in row.modules if not _module(name)]
        if row.shown_by and not row.modules:
            found.append(f"{row.name}: shown, but by no module")
        for reference in row.shown_by:
            sort, _, name = reference.partition(":")
            if sort == "test":
                exists = tests is None or _test(tests, name)
            else:
                exists = name in (scenarios if sort == "scenario" else figures)
            if not exists:
                found.append(f"{row.name}: no {sort} {name}")
    return found


def render(table: Sequence[Mechanism], outcomes: Sequence[Shown]) -> str:
    """The page, in Markdown."""
    missing = sum(not row.shown_by for row in table)
    lines = [
        "# Mechanisms",
        "",
        f"{len(table)} mechanisms, where each lives and what shows it; {missing} of them are {NOT_SHOWN}: nothing is "
        "claimed of them. Generated from `forecaster/policy/mechanisms.toml`; a test fails when a name in it is gone.",
        "",
        *(f"- **{kind}**: {meaning}" for kind, meaning in KINDS.items()),
        "",
        "No live venue, no execution on a chain, no proof system and no measured depth stands behind any row.",
    ]
    for section, rows in groupby(table, key=lambda row: row.section):
        lines += ["", f"## {section}", "", "| mechanism | lives in | shown by | kind |", "|---|---|---|---|"]
        lines += [_row(row) for row in rows]
    lines += ["", "## Scenarios", ""]
    lines.append(
        "Each is seeded, and a test shows that its expectation fails once its defence is switched off. "
        "One that does not hold is a weakness without a defence, and shows no mechanism. Sizes, moves and bounds were "
        "set after first runs, so that the defence decides the outcome: they show how a defence works, not how often it "
        "is needed nor that it suffices."
    )
    lines += ["", "| scenario | what is done | defence | expected | measured | holds |", "|---|---|---|---|---|---|"]
    lines += [_outcome(outcome) for outcome in outcomes]
    return "\n".join(lines) + "\n"


def _row(row: Mechanism) -> str:
    kind = row.kind if row.shown_by else "–"
    return f"| {row.name} | {_code(row.modules) or '–'} | {_shown(row.shown_by)} | {kind} |"


def _outcome(told: Shown) -> str:
    holds = "yes" if told.holds else "**no**"
    words = (f"`{told.name}`", told.done, told.defence, told.expectation, _figures(told.measured), holds)
    return f"| {' | '.join(words)} |"


def _module(name: str) -> bool:
    place = files("forecaster").joinpath(*name.split("/"))
    return place.is_dir() or files("forecaster").joinpath(*f"{name}.py".split("/")).is_file()


def _test(tests: Path, name: str) -> bool:
    file, _, function = name.partition("::")
    path = tests / file
    return path.is_file() and re.search(rf"^def {function}\(", path.read_text("utf-8"), re.MULTILINE) is not None


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _shown(references: Sequence[str]) -> str:
    parts = [reference.partition(":") for reference in references]
    words = [f"{sort} `{name.partition('::')[2] or name}`" for sort, _, name in parts]
    return "; ".join(words) or NOT_SHOWN


def _figures(measured: Mapping[str, float]) -> str:
    return "; ".join(f"`{name}` {_number(value)}" for name, value in measured.items())


def _number(value: float) -> str:
    """Three significant digits; exact zeros and whole counts stay whole; what rounding left is told as such."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-6 else "below 1e-6"
