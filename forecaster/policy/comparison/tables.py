"""The scoreboard as Markdown: headline rows, differences with their intervals, back-tests, goals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from .ground import ALL, WHOLE
from .inference import Difference

__all__ = ["differences_table", "rows_table"]

COLUMNS: Final = {
    "mean_im": "mean IM",
    "coverage_24h_995": "coverage",
    "es_beyond_margin": "ES beyond, bp",
    "pinball_995": "pinball, bp",
    "matched_mean_im": "matched mean IM",
    "peak_to_trough": "PTT",
    "max_rise_1d": "rise 1 d",
    "max_rise_5d": "rise 5 d",
    "lead_hours": "lead, h",
    "false_alarms_per_symbol_year": "false alarms",
    "lead_skill": "lead skill",
}
IN_BASIS_POINTS: Final = ("es_beyond_margin", "pinball_995")


def rows_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """All symbols over the whole span, one line a policy."""
    pooled = [row for row in rows if row["symbol"] == ALL and row["window"] == WHOLE]
    head = ["| policy | " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    return "\n".join([*head, *(f"| {row['policy']} | {' | '.join(_cells(row))} |" for row in pooled)]) + "\n"


def differences_table(differences: Sequence[Difference]) -> str:
    """Relative differences with 90 % intervals, by year, and the share of symbols below zero."""
    lines = [
        "| policy vs opponent | metric | difference [90 %] | sd | by year | DM p | symbols below 0 |",
        "|---|---|---|---|---|---|---|",
    ]
    for d in differences:
        years = ", ".join(f"{year}: {100 * value:+.1f} %" for year, value in d.by_year.items())
        interval = f"{100 * d.value:+.1f} % [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        shares = f"{interval} | {100 * d.sd:.1f} | {years} | {_p(d.dm_p)} | {100 * d.symbols_better:.0f} %"
        lines.append(f"| {d.policy} vs {d.opponent} | {d.metric} | {shares} |")
    return "\n".join(lines) + "\n"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    for name in COLUMNS:
        value = row[name]
        if value is None:
            yield "–"
        else:
            yield (
                f"{1e4 * value:.2f}"
                if name in IN_BASIS_POINTS
                else f"{value:.4f}"
                if abs(value) < 1
                else f"{value:.2f}"
            )
