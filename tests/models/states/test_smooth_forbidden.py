"""``smooth`` looks ahead: it is defined here and called in notebooks, never in what makes a forecast."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGES = ("features", "models", "training", "forecaster")


def uses(source: str) -> Iterator[int]:
    """Lines that name ``smooth`` as an attribute, an import or a text handed to ``getattr``."""
    for node in ast.walk(ast.parse(source)):
        named = (
            (isinstance(node, ast.Attribute) and node.attr == "smooth")
            or (isinstance(node, ast.alias) and node.name.split(".")[-1] == "smooth")
            or (isinstance(node, ast.Constant) and node.value == "smooth")
        )
        if named:
            yield getattr(node, "lineno", 0)


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_calls_smooth(package: str) -> None:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files
    found = [f"{file.relative_to(REPOSITORY)}:{line}" for file in files for line in uses(file.read_text("utf-8"))]
    assert found == [], "smooth looks ahead; use filter"


@pytest.mark.parametrize(
    "planted",
    ["model.smooth(X)", "f = model.smooth", "getattr(model, 'smooth')(X)", "from models.x import smooth"],
)
def test_a_planted_call_is_found(planted: str) -> None:
    assert list(uses(f"def member(model, X):\n    {planted}\n")) == [2]


def test_the_definition_is_no_call() -> None:
    assert list(uses("class M:\n    def smooth(self, X):\n        return self.filter(X)\n")) == []
