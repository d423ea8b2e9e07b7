"""The members by name: what a configuration may ask for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from features.errors import UsageError
from models.boosting import LightGBM
from models.ewma import EWMA, SeasonalEWMA
from models.har import HAR
from models.har_threshold import HARThreshold
from models.har_variants import HARQ, LevelHAR
from models.heavy_member import HeavyX
from models.members import Member
from models.panel_har import HARX
from models.regime_classifier import RegimeClassifier
from models.seasonal_garch import SeasonalGARCH, SeasonalGARCHX

__all__ = ["KINDS", "classifier", "make"]

# A kind is a class and the arguments that make it that kind; a configuration may set the others.
KINDS: Mapping[str, tuple[type[Member], Mapping[str, Any]]] = {
    "ewma": (EWMA, {}),
    "ewma_seasonal": (SeasonalEWMA, {}),
    "har": (HAR, {"seasonal": False, "scheduled": False}),
    "har_seasonal": (HAR, {"seasonal": True, "scheduled": False}),
    "har_scheduled": (HAR, {"seasonal": True, "scheduled": True}),
    "har_wls": (LevelHAR, {}),
    "harq": (HARQ, {}),
    "har_threshold": (HARThreshold, {}),
    "har_x": (HARX, {}),
    "garch": (SeasonalGARCH, {"o": 0}),
    "gjr": (SeasonalGARCH, {"o": 1}),
    "garch_x": (SeasonalGARCHX, {"o": 0}),
    "heavy_x": (HeavyX, {}),
    "lightgbm": (LightGBM, {"objective": "l2"}),
    "lightgbm_gamma": (LightGBM, {"objective": "gamma"}),
}


def make(kind: str, params: Mapping[str, Any] | None = None) -> Member:
    """A member of this kind with these constructor arguments; ``UsageError`` names what is unknown."""
    if kind not in KINDS:
        raise UsageError(f"unknown member kind '{kind}'{_nearest(kind, KINDS)}; kinds are {', '.join(KINDS)}")
    cls, fixed = KINDS[kind]
    _check(f"member '{kind}'", params or {}, [name for name in inspect.signature(cls).parameters if name not in fixed])
    return cls(**fixed, **(params or {}))


def classifier(params: Mapping[str, Any] | None = None) -> RegimeClassifier:
    """The classifier of regimes with these constructor arguments; ``UsageError`` names what is unknown."""
    _check("regimes", params or {}, list(inspect.signature(RegimeClassifier).parameters))
    return RegimeClassifier(**(params or {}))


def _check(of: str, params: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in params:
        if name not in known:
            raise UsageError(
                f"{of} has no parameter '{name}'{_nearest(name, known)}; parameters are {', '.join(known)}"
            )


def _nearest(word: str, known: Any) -> str:
    found = get_close_matches(word, list(known), n=1)
    return f", did you mean '{found[0]}'?" if found else ""
