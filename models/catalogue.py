"""The members by name: what a configuration may ask for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from features.errors import UsageError
from models.baselines import EWMA, HAR
from models.boosting import LightGBM
from models.members import Member
from models.panel_har import HARX
from models.seasonal_garch import SeasonalGARCH

__all__ = ["KINDS", "make"]

# A kind is a class and the arguments that make it that kind; a configuration may set the others.
KINDS: Mapping[str, tuple[type[Member], Mapping[str, Any]]] = {
    "ewma": (EWMA, {}),
    "har": (HAR, {"seasonal": False}),
    "har_seasonal": (HAR, {"seasonal": True}),
    "har_x": (HARX, {}),
    "garch": (SeasonalGARCH, {"o": 0}),
    "gjr": (SeasonalGARCH, {"o": 1}),
    "lightgbm": (LightGBM, {"objective": "l2"}),
    "lightgbm_gamma": (LightGBM, {"objective": "gamma"}),
}


def make(kind: str, params: Mapping[str, Any] | None = None) -> Member:
    """A member of this kind with these constructor arguments; ``UsageError`` names what is unknown."""
    if kind not in KINDS:
        raise UsageError(f"unknown member kind '{kind}'{_nearest(kind, KINDS)}; kinds are {', '.join(KINDS)}")
    cls, fixed = KINDS[kind]
    known = [name for name in inspect.signature(cls).parameters if name not in fixed]
    for name in params or {}:
        if name not in known:
            raise UsageError(
                f"member '{kind}' has no parameter '{name}'{_nearest(name, known)}; parameters are {', '.join(known)}"
            )
    return cls(**fixed, **(params or {}))


def _nearest(word: str, known: Any) -> str:
    found = get_close_matches(word, list(known), n=1)
    return f", did you mean '{found[0]}'?" if found else ""
