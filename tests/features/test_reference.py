from __future__ import annotations

from pathlib import Path

from features.pipeline import FAMILIES, FeaturePipeline
from features.reference import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "features.md"


def test_the_page_is_what_the_families_declare() -> None:
    assert PAGE.read_text(encoding="utf-8").strip() == markdown().strip(), "run: make docs"


def test_every_feature_and_family_is_told_once() -> None:
    page = markdown()
    for name in FeaturePipeline(tuple(FAMILIES)).describe()["name"]:
        assert page.count(f"| `{name}` |") == 1, name
    for family in FAMILIES:
        assert page.count(f"### {family}") >= 1
    assert all(line.count("|") - line.count("\\|") in (0, 8) for line in page.splitlines())
