"""The named events hour by hour: price, what it did to positions, margins in force, and what the policy said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.ground import Ground, event_windows
from forecaster.policy.observables import DAY

__all__ = ["LARGEST", "SHOWN", "Episode", "episodes"]

SHOWN: Final = ("ensemble", "fhs_apc", "static", "exchange")
LARGEST: Final = "largest move"
AROUND: Final = 3 * DAY


@dataclass(frozen=True)
class Episode:
    """One event of one symbol.

    ``table``: indexed by hour, three days before the event to three after: ``close``, ``excursion`` (the larger 24 h move
    that follows, a fraction), raw margins in force of ``SHOWN`` and ``mode``. ``lines``: of the schedule in these hours.
    """

    window: str
    symbol: str
    begin: pd.Timestamp
    end: pd.Timestamp
    table: pd.DataFrame
    lines: tuple[Mapping[str, Any], ...]


def episodes(met: Contest, schedule: str | Path) -> list[Episode]:
    """Every named event inside the scored span, each with the symbol that moved most; else the largest move of the span.

    Raises OSError where the schedule cannot be read.
    """
    ground = met.ground
    spans = _spans(ground)
    wanted = {
        (ground.symbols[row], stamp): place
        for place, (_, row, first, stop) in enumerate(spans)
        for stamp in _stamps(ground, first - AROUND, stop + AROUND)
    }
    lines = _lines(schedule, wanted, len(spans))
    return [_episode(met, span, own) for span, own in zip(spans, lines, strict=True)]


def _spans(ground: Ground) -> list[tuple[str, int, int, int]]:
    """Window, symbol's row, first column and the one after the last."""
    out = []
    for window, inside in event_windows(ground.times).items():
        rows = ground.scored & inside
        if rows.any():
            at = np.flatnonzero(inside)
            out.append((window, _worst(ground, rows)[0], int(at[0]), int(at[-1]) + 1))
    if not out:
        row, column = _worst(ground, ground.scored)
        out.append((LARGEST, row, column, column + DAY))
    return out


def _worst(ground: Ground, rows: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Where the largest excursion of these origins begins."""
    row, column = np.unravel_index(np.where(rows, ground.excursion, -1.0).argmax(), rows.shape)
    return int(row), int(column)


def _episode(met: Contest, span: tuple[str, int, int, int], lines: Sequence[Mapping[str, Any]]) -> Episode:
    ground, (window, row, first, stop) = met.ground, span
    part = slice(max(0, first - AROUND), stop + AROUND)
    columns = {"close": ground.history.panel.close[row, part], "excursion": ground.excursion[row, part]}
    columns |= {name: met.runs["raw"][name].im[row, part] for name in SHOWN}
    table = pd.DataFrame(columns, index=ground.times[part])
    modes = {pd.Timestamp(line["as_of"]): line["mode"] for line in lines}
    table["mode"] = [modes.get(at, "") for at in table.index]
    last = min(stop, len(ground.times) - 1)
    return Episode(window, ground.symbols[row], ground.times[first], ground.times[last], table, tuple(lines))


def _stamps(ground: Ground, first: int, stop: int) -> list[str]:
    return [f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in ground.times[max(0, first) : stop]]


def _lines(path: str | Path, wanted: Mapping[tuple[str, str], int], count: int) -> list[list[dict[str, Any]]]:
    """The wanted lines of a schedule, which may not fit into memory: only those of wanted hours are parsed."""
    out: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    stamps = {stamp.encode() for _, stamp in wanted}
    with Path(path).open("rb") as file:
        for raw in file:
            at = raw.index(b'"as_of":"') + 9
            if raw[at : raw.index(b'"', at)] in stamps:
                line = json.loads(raw)
                if (line["symbol"], line["as_of"]) in wanted:
                    out[wanted[line["symbol"], line["as_of"]]].append(line)
    return out
