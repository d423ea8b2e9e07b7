"""HTML tables: every text escaped, every number carried in full beside its rounded form."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Cell", "Group", "Row", "count", "definitions", "number", "table", "yes_no"]


@dataclass(frozen=True)
class Cell:
    """A cell: the text shown, the value behind it, and a class of the stylesheet."""

    text: str
    value: str | None = None
    kind: str = ""
    note: str = ""

    def markup(self) -> str:
        """The cell as a table datum."""
        text = html.escape(self.text)
        if self.value is not None:
            text = f'<data value="{html.escape(self.value)}">{text}</data>'
        note = f"<small>{html.escape(self.note)}</small>" if self.note else ""
        return f"<td{_class(self.kind)}>{text}{note}</td>"


@dataclass(frozen=True)
class Group:
    """A heading across the table, above the rows that follow."""

    title: str


Row: TypeAlias = Sequence[Cell | str] | Group
"""Cells side by side, or a heading over the rows that follow."""


def number(value: float | None, digits: int, kind: str = "n") -> Cell:
    """A rounded number; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return Cell("–", None, kind)
    return Cell(f"{value:.{digits}f}".replace("-", "−"), repr(float(value)), kind)


def count(value: int) -> Cell:
    """An integer with its thousands apart."""
    return Cell(f"{value:,}".replace(",", "\u202f"), str(int(value)), "n")


def yes_no(value: bool | None) -> Cell:
    """A truth value; a dash where it is unknown."""
    return Cell("–", None, "n") if value is None else Cell("yes" if value else "no", str(value).lower(), "n")


def table(name: str, caption: str, head: Sequence[str], rows: Iterable[Row]) -> str:
    """A table that scrolls by itself on narrow screens; the first cell of a row is its header.

    Args:
        name: identifier on the page, ``table-<name>``.
        caption: says what the table shows.
        head: column titles.
        rows: strings are text, cells are numbers; groups head the rows after them.
    """
    # Names with underscores may break after them, so that wide tables stay on the page.
    columns = "".join(f'<th scope="col">{html.escape(title).replace("_", "_<wbr>")}</th>' for title in head)
    body = "".join(_row(row, len(head)) for row in rows)
    return (
        f'<div class="scroll" role="region" aria-label="{html.escape(caption)}" tabindex="0">'
        f'<table id="table-{name}"><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{columns}</tr></thead>{body}</table></div>"
    )


def definitions(items: Iterable[tuple[str, str]]) -> str:
    """A list of names and what they are."""
    pairs = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in items)
    return f"<dl>{pairs}</dl>"


def _row(row: Row, width: int) -> str:
    if isinstance(row, Group):
        title = html.escape(row.title)
        return f'<tr class="group"><th scope="colgroup" colspan="{width}">{title}</th></tr>'
    first = row[0].text if isinstance(row[0], Cell) else row[0]
    cells = "".join(cell.markup() if isinstance(cell, Cell) else Cell(cell).markup() for cell in row[1:])
    return f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>'


def _class(kind: str) -> str:
    return f' class="{html.escape(kind)}"' if kind else ""
