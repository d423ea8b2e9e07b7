"""The page of the longer versions: every line, every miss by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import known_truth
import pytest
from known_truth import Line, main, page

KEPT = Line("a market", "1 h: gain", "+1.0% [+0.5%, +1.5%]", "above 0", True)
MISSED = Line("another", "4 h: gain", "-1.0% [-1.5%, -0.5%]", "above 0", False)


def test_a_miss_stands_first_and_in_its_table() -> None:
    text = page([KEPT, MISSED])
    assert "- another; 4 h: gain: -1.0% [-1.5%, -0.5%], and not above 0." in text
    assert "| 4 h: gain | -1.0% [-1.5%, -0.5%] | above 0 | **no** |" in text
    assert "Nothing." in page([KEPT])


@pytest.mark.parametrize(("lines", "code"), [((KEPT,), 0), ((KEPT, MISSED), 1)])
def test_the_exit_code_says_whether_all_holds(
    lines: tuple[Line, ...], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def case() -> Iterator[Line]:
        return iter(lines)

    monkeypatch.setattr(known_truth, "CASES", {"one": case})
    written = tmp_path / "page.md"
    assert main(["--only", "one", "--page", str(written)]) == code
    assert written.read_text() == page(lines)


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "linaer"])
    assert "no case linaer" in capsys.readouterr().err
