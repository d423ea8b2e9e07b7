"""Colours that keep their meaning from figure to figure, and figures as inline SVG that follow the page.

Every colour is drawn in its light shade and then named: ``#2563c9`` becomes ``var(--ensemble)``, so that one
picture serves light and dark pages and print.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["COLOURS", "INK", "MUTED", "css_variables", "inline_svg", "model_colour", "png"]

# name -> shade on light paper, shade on dark paper. No two light shades are equal: they are told apart by it.
COLOURS: Final[dict[str, tuple[str, str]]] = {
    "paper": ("#fffffe", "#14171c"),
    "ink": ("#1b2026", "#e4e7eb"),
    "muted": ("#636c77", "#98a2ae"),
    "rule": ("#dfe3e8", "#2e343c"),
    "ensemble": ("#2563c9", "#6ea8ff"),
    "har_seasonal": ("#d1661c", "#f59a55"),
    "har": ("#b08a2e", "#d6b45c"),
    "ewma": ("#7d8894", "#8e99a6"),
    "garch": ("#2a8c63", "#55c394"),
    "gjr": ("#5f9e2f", "#93cf63"),
    "lightgbm": ("#8a4bb8", "#c08ae8"),
    "other_1": ("#b8467c", "#ea86b5"),
    "other_2": ("#1f8fa3", "#5cc6d8"),
    "other_3": ("#76594b", "#b99584"),
    "calm": ("#8fb8de", "#3f6f9f"),
    "normal": ("#d5dbe2", "#3b434d"),
    "stress": ("#f2a33c", "#d98e2b"),
    "crisis": ("#c22f2a", "#e2574f"),
    "held": ("#1a7f4b", "#4cc38a"),
    "missed": ("#b3261d", "#ff8a80"),
}
INK: Final = COLOURS["ink"][0]
MUTED: Final = COLOURS["muted"][0]
_RULE: Final = COLOURS["rule"][0]

_STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": _RULE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    # A symbol may hold any character; none of them starts a formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.2,
    "lines.solid_joinstyle": "round",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "path.simplify_threshold": 0.3,
}
_NAMED: Final = {light: f"var(--{name.replace('_', '-')})" for name, (light, _) in COLOURS.items()}


def model_colour(model: str, models: Iterable[str]) -> str:
    """The model's light shade; models without a colour of their own share three, in order of name."""
    if model in COLOURS:
        return COLOURS[model][0]
    unknown = sorted(name for name in models if name not in COLOURS)
    return COLOURS[f"other_{unknown.index(model) % 3 + 1}"][0]


def css_variables(shade: int) -> str:
    """The colours as CSS custom properties: shade 0 for light paper, 1 for dark."""
    return "".join(f"--{name.replace('_', '-')}:{shades[shade]};" for name, shades in COLOURS.items())


def inline_svg(name: str, label: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """An SVG element that needs no file beside it: same drawing, same text.

    Args:
        name: unique on the page; identifiers inside the picture derive from it.
        label: what a reader who cannot see the picture is told.
        size: width and height in inches; the picture scales to its column.
        draw: fills the empty figure.
    """
    text = io.StringIO()
    with _styled({"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _lightened(tag[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    opened = f'<svg role="img" aria-label="{html.escape(label)}" {box[0] if box else ""}>'
    return re.sub(r"^<svg[^>]*>", lambda _: opened, svg).strip()


def _lightened(tag: str) -> str:
    """Colours by name, no identifiers of groups, coordinates to a hundredth of a point: half the bytes."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r"#[0-9a-f]{6}(?=[;\"])", lambda colour: _NAMED.get(colour[0], colour[0]), tag)
    return re.sub(r"\d+\.\d{3,}", lambda digits: f"{float(digits[0]):.2f}".rstrip("0").rstrip("."), tag)


def png(size: tuple[float, float], draw: Callable[[Figure], None]) -> bytes:
    """The drawing on light paper as PNG, two pixels a point."""
    content = io.BytesIO()
    with _styled({"savefig.facecolor": COLOURS["paper"][0]}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(content, format="png", dpi=144, metadata={"Software": None})
    return content.getvalue()


@contextmanager
def _styled(more: dict[str, Any]) -> Iterator[None]:
    with mpl.rc_context(), warnings.catch_warnings():
        # The reader's browser has glyphs for scripts that the layout font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(cast("Any", _STYLE | more))
        yield
