"""The page: every figure, every miss by name, and a refusal of what is no figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import page as pages
import pytest

MACHINE = {
    "date": "2026-01-02", "cpu": "Some CPU", "cores": 2, "memory_gib": 8.0, "system": "Linux x86_64", "python": "3.11.7",
    "libraries": ["numpy 2.4.6"],
}  # fmt: skip


def line(**over: Any) -> dict[str, Any]:
    return {
        "goal": "cold fit", "case": "GJR-t", "ours_s": 0.00231, "peer_s": 0.5, "peer": "arch 8.0.0", "ratio": 216.4,
        "low": 200.0, "high": 230.0, "rounds": 5, "floor": 60, "aim": 200,
        "gate": {"passed": True, "what": "equal", "fits": 7}, "note": "a note", "machine": MACHINE,
    } | over  # fmt: skip


FAILED = {"ratio": None, "gate": {"passed": False, "what": "equal"}}


def write(folder: Path, name: str, *lines: dict[str, Any], code: str | None = "0") -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    if code is not None:
        (folder / f"{name}.exit").write_text(code + "\n")


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({}, "aim met"),
        ({"ratio": 199.9}, "floor met"),
        ({"ratio": 59.9}, "**floor missed**"),
        ({"ratio": 60.0}, "floor met"),
        ({"ratio": None, "gate": {"passed": False, "what": "equal"}}, "**gate failed**"),
        ({"floor": None, "aim": None}, "gate passed"),
        ({"ratio": None}, "**not measured**"),
        ({"ratio": float("nan")}, "**not measured**"),
        ({"ratio": None, "floor": None, "aim": None}, "gate passed"),
        ({"floor": None, "ratio": 3.0}, "aim missed"),
    ],
)
def test_verdicts(over: dict[str, Any], expected: str) -> None:
    assert pages.verdict(line(**over)) == expected


def test_a_row_holds_the_figure_its_range_and_both_goals() -> None:
    text = pages.page([line()])
    assert "| GJR-t | 2.31 ms | 500 ms | arch 8.0.0 | 216× [200 – 230], n = 5 | 60× | 200× | aim met |" in text
    assert "- GJR-t: gate passed: equal. fits 7. a note." in text
    assert "Measured 2026-01-02 on Some CPU, 2 cores, 8.0 GiB, Linux x86_64, Python 3.11.7; numpy 2.4.6." in text


def test_misses_are_listed_by_name_and_only_they() -> None:
    failed = line(case="failed", ratio=None, gate={"passed": False, "what": "equal"})
    unmeasured = line(case="untold", ratio=None)
    silent = pages.Remark("scaling", "gave no figure", failed=True)
    text = pages.page([line(case="fine"), line(case="slow", ratio=12.0), failed, unmeasured], [silent])
    missed = text[text.index("## Missed") : text.index("## Cold fit")]
    assert "cold fit, slow: floor missed (12×; asked 60×)." in missed
    assert "cold fit, failed: gate failed." in missed
    assert "cold fit, untold: not measured." in missed
    assert "`benchmarks/scaling.py` gave no figure" in missed
    assert "fine" not in missed
    assert "No floor, no gate." in pages.page([line()])


def test_growth_is_bounded_from_above(tmp_path: Path) -> None:
    bare = {"goal": "memory", "case": "30 days", "floor": 5.0, "aim": 0.0, "gate": {"passed": True, "what": "equal"}}
    grown = [bare | {"growth_percent": value, "last_day_mib": 400} for value in (-0.1, 4.9, 5.1)]
    write(tmp_path, "live_memory", *grown, bare | {"growth_percent": None, "gate": {"passed": False, "what": "equal"}})
    lines, _ = pages.read(tmp_path)
    assert [pages.verdict(one) for one in lines] == ["aim met", "floor met", "**floor missed**", "**gate failed**"]
    text = pages.page(lines)
    assert "| 30 days | – | – |  | 4.9 % | ≤ 5 % | ≤ 0 % | floor met |" in text
    assert "memory, 30 days: floor missed (5.1 %; asked 5 %)." in text
    assert "last day mib 400" in text


def test_figures_of_two_machines_are_told_apart() -> None:
    text = pages.page(
        [line(), line(machine=MACHINE | {"cpu": "Another"}), line(machine=MACHINE | {"date": "2026-01-05"})]
    )
    assert text.count("Measured ") == 2
    assert "Measured 2026-01-02 to 2026-01-05 on Some CPU" in text


def test_goals_come_in_their_order_and_unknown_files_after_them(tmp_path: Path) -> None:
    for name in ("zebra", "garch_process", "garch_refits"):
        write(tmp_path, name, line(goal=name))
    assert [one["goal"] for one in pages.read(tmp_path)[0]] == ["garch_refits", "garch_process", "zebra"]


@pytest.mark.parametrize(
    "text", ["oops", "{}", "[]", json.dumps(line(gate=None)), json.dumps(line(gate={"passed": True}))]
)
def test_what_is_no_figure_is_refused_by_file_and_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(line()) + "\n" + text + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2"):
        pages.read(tmp_path)


def test_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["page.py", str(tmp_path), str(target)])
    assert pages.main() == 2
    assert "no *.jsonl here" in capsys.readouterr().err
    write(tmp_path, "fine", line())
    assert pages.main() == 0
    assert target.read_text() == pages.page(*pages.read(tmp_path))
    write(tmp_path, "empty")
    assert pages.main() == 1
    assert "`benchmarks/empty.py` gave no figure" in target.read_text()
    (tmp_path / "empty.jsonl").unlink()
    write(tmp_path, "failed", line(**FAILED), code="1")
    assert pages.main() == 1


@pytest.mark.parametrize(
    ("code", "lines", "said", "failed"),
    [
        ("0", [line()], None, False),
        ("1", [line(), line(**FAILED)], None, True),
        ("1", [line()], "was cut short (exit code 1)", True),
        ("137", [line()], "was cut short (exit code 137)", True),
        ("137", [line(**FAILED)], "was cut short (exit code 137)", True),
        (None, [line()], "may have been cut short", False),
        ("", [line()], "may have been cut short", False),
        (None, [], "gave no figure", True),
    ],
)
def test_a_benchmark_that_did_not_end_well_is_told(
    code: str | None, lines: list[dict[str, Any]], said: str | None, failed: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in pages.FIRST[1:]:
        write(tmp_path, name, line())
    write(tmp_path, "garch_refits", *lines, code=code)
    remarks = pages.read(tmp_path)[1]
    assert [remark.name for remark in remarks] == (["garch_refits"] if said else [])
    assert all(remark.what.startswith(str(said)) for remark in remarks)
    monkeypatch.setattr(sys, "argv", ["page.py", str(tmp_path), str(tmp_path / "page.md")])
    assert pages.main() == int(failed)
    text = (tmp_path / "page.md").read_text()
    assert said is None or f"- `benchmarks/garch_refits.py` {said}" in text


def test_a_goal_without_a_file_is_told_and_is_no_failure(tmp_path: Path) -> None:
    write(tmp_path, "garch_refits", line())
    lines, remarks = pages.read(tmp_path)
    assert [remark.name for remark in remarks] == [name for name in pages.FIRST if name != "garch_refits"]
    assert "- `benchmarks/two_workers.py` was not measured." in pages.page(lines, remarks)
    assert not any(remark.failed for remark in remarks)
