"""The page on growth: exponents and extrapolations of costs whose law is known."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from scaling_page import GIB, Cells, conditions, latest, page, slope, stage

MACHINE = {"cpu": "a processor", "cores": 2, "memory_gib": 8.0, "date": "2026-01-31"}
EXPONENTS = {
    "prepare": (1.0, 1.0),
    "folds": (1.2, 2.0),
    "assemble": (0.5, 1.0),
    "write": (1.0, 1.0),
    "score": (2.0, 1.0),
}


def cell(symbols: int, years: float, members: str) -> dict[str, Any]:
    rows = round(symbols * years * 8760)
    stages = {
        name: {"wall_s": 1.0, "cpu_s": 3.0 * symbols**a * years**b, "peak_bytes": GIB}
        for name, (a, b) in EXPONENTS.items()
    }
    return {
        "cell": [symbols, years, members], "jobs": 2, "folds": round(12 * years), "rows": rows, "columns": 100,
        "wall_s": 1.0, "cpu_s": sum(s["cpu_s"] for s in stages.values()), "lightgbm_cpu_s": 0.5, "stages": stages,
        "peak_bytes": GIB + 5 * rows * 800, "worker_peak_bytes": GIB + 2 * rows * 800, "workers": 2, "machine": MACHINE,
    }  # fmt: skip


ROWS = [
    *(cell(n, 1.0, "all") for n in (2, 6, 18, 72)), cell(6, 2.0, "all"), cell(6, 4.0, "all"),
    *(cell(6, 1.0, kind) for kind in ("plain", "plain + garch")),
]  # fmt: skip


@pytest.mark.parametrize("name", EXPONENTS)
def test_exponents_are_found(name: str) -> None:
    cells = Cells(ROWS)
    assert cells.symbols == [2, 6, 18, 72]
    assert cells.years == [1.0, 2.0, 4.0]
    found = slope(cells.by_symbols(stage(name))), slope(cells.by_years(stage(name)))
    assert found == pytest.approx(EXPONENTS[name])


@pytest.mark.parametrize("name", EXPONENTS)
def test_more_symbols_cost_at_least_in_proportion(name: str) -> None:
    a, b = EXPONENTS[name]
    measured = 3.0 * 72**a
    expected = measured * (2000 / 72) ** max(a, 1.0) * 2.0**b
    assert Cells(ROWS).at(stage(name), 2000, 2.0) == pytest.approx(expected)


def test_memory_is_a_line_in_the_rows() -> None:
    cells = Cells(ROWS)
    assert cells.memory("peak_bytes", 2000, 2.0) == pytest.approx(1 + 5 * 2000 * 2 * 8760 * 800 / GIB)
    assert cells.memory("worker_peak_bytes", 72, 1.0) == pytest.approx(1 + 2 * 72 * 8760 * 800 / GIB)


def test_one_size_has_no_exponent() -> None:
    assert math.isnan(slope({6.0: 1.0}))


def test_the_page_tells_each_cell_and_says_what_is_extrapolated() -> None:
    text = page(ROWS)
    assert sum(line.startswith("| 72 | 1 | all | 12 | 630,720 |") for line in text.splitlines()) == 1
    assert "**Extrapolated** from 72 symbols and 1 years" in text
    assert "28 shards of 72 symbols" in text
    assert "| folds | 1.20 | 2.00 |" in text
    assert "in 3 rounds" in text
    assert "here about 24 of them" in text


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"machine": MACHINE | {"cpu": "another"}}, "machine"),
        ({"jobs": 16}, "jobs"),
        ({"code_sha256": "0" * 64}, "code"),
    ],
)
def test_cells_that_were_not_measured_alike_are_refused(other: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"different {named}; run benchmarks/scaling.py again"):
        page([ROWS[0] | other, *ROWS[1:]])


def test_the_date_is_no_difference() -> None:
    page([ROWS[0] | {"machine": MACHINE | {"date": "2026-02-01"}}, *ROWS[1:]])


def test_the_last_row_of_a_cell_counts() -> None:
    first, second = cell(2, 1.0, "all"), cell(2, 1.0, "all") | {"jobs": 4}
    rows = latest("".join(json.dumps(row) + "\n" for row in (first, cell(6, 1.0, "all"), second)))
    assert list(rows) == [(2, 1.0, "all"), (6, 1.0, "all")]
    assert conditions(rows[2, 1.0, "all"]) == conditions(second) != conditions(first)


def test_whole_folds_are_handed_to_workers() -> None:
    # 24 folds on 10 x 2 workers take two rounds of one fold each, not 24 / 20 of one; on 10 x 16 all at once.
    cells = Cells(ROWS)
    folds, count = cells.at(stage("folds"), 2000, 2.0), 24
    serial = sum(cells.at(stage(name), 2000, 2.0) for name in EXPONENTS if name != "folds")
    text = page(ROWS)
    for cores, rounds in ((2, 2), (16, 1)):
        assert f"| {cores} cores | {(serial + folds * rounds / count) / 3600:.1f} h, " in text
