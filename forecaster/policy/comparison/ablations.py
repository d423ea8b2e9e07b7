"""The policy of the forecasts and what each of its parts is worth: the same lines with one part taken out.

A part is taken out by replacing a constant or an observable with the value at which it does nothing; the code that decides
is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.panel import Array
from forecaster.policy.inputs import USABLE, Inputs
from forecaster.policy.margin import targets
from forecaster.policy.params import Params
from forecaster.policy.types import PPM, STAGES

from .ground import Ground, Margins, Mask

__all__ = ["ABLATIONS", "LADDER", "Variant", "core_margin", "ladder", "ungoverned"]

NEVER_DAYS: Final = 10**6
NO_DEPTH: Final = 1e-12


@dataclass(frozen=True)
class Variant:
    """Lines and constants to decide with."""

    inputs: Inputs
    params: Params

    def observing(self, **values: float) -> Variant:
        """With observables held at one value."""
        fixed = {name: np.full(len(self.inputs), value) for name, value in values.items()}
        return replace(self, inputs=replace(self.inputs, observed=self.inputs.observed | fixed))

    def assuming(self, section: str, **values: Any) -> Variant:
        """With constants of one section of the pack replaced."""
        return replace(self, params=replace(self.params, **{section: replace(getattr(self.params, section), **values)}))


ABLATIONS: Final[dict[str, Callable[[Variant], Variant]]] = {
    "ensemble_no_floor": lambda v: v.observing(floor_im=math.nan),
    "ensemble_no_stress": lambda v: v.assuming("margin", stress_share=0.0),
    "ensemble_no_conformal": lambda v: v.observing(conformal_im=1.0, conformal_mm=1.0),
    "ensemble_no_liquidity": lambda v: v.assuming("liquidity", impact=NO_DEPTH, spread=0.0),
    "ensemble_no_funding": lambda v: v.observing(funding_q=0.0),
    "ensemble_no_open_interest": lambda v: v.observing(open_interest_usd=math.nan),
    "ensemble_no_regime": lambda v: v.assuming(
        "modes", stress_probability=math.inf, crisis_probability=math.inf, stress_sigma_ratio=math.inf
    ),
}
"""Governed schedules with one part taken out. The floor is the one learnt with the conformal factor in every row."""

LADDER: Final = STAGES[: STAGES.index("bounds") + 1]
"""Stages of the target, each with all before it."""


def ungoverned(variant: Variant, ground: Ground) -> Margins:
    """Target margins of tier 1 before the governor; a line without a usable forecast repeats the last target."""
    wanted = targets(variant.inputs, variant.params)
    tiers = wanted.caps.shape[1]
    usable = (variant.inputs.fault == USABLE) & wanted.feasible
    return Margins(*(_held(wanted.vector[:, part], usable, ground) for part in (0, tiers)))


def ladder(variant: Variant, ground: Ground) -> dict[str, Array]:
    """The initial-margin target after each stage of ``LADDER``."""
    wanted = targets(variant.inputs, variant.params)
    usable = (variant.inputs.fault == USABLE) & wanted.feasible
    reached = wanted.stages.cumsum(axis=1)
    return {name: _held(reached[:, k], usable, ground) for k, name in enumerate(LADDER)}


def core_margin(inputs: Inputs, ground: Ground) -> Array:
    """The forecast's own 99.5 % quantile of the larger side's 24 h excursion, as it was published."""
    return ground.spread(np.where(inputs.fault == USABLE, inputs.q_im, np.nan))


def _held(values: npt.NDArray[np.int64], usable: Mask, ground: Ground) -> Array:
    """Parts per million of each line as fractions on the grid, the last usable one carried over faulty lines."""
    grid = ground.spread(np.where(usable, values / PPM, np.nan))
    last = np.maximum.accumulate(np.where(np.isnan(grid), -1, np.arange(grid.shape[1])), axis=1)
    held = np.take_along_axis(grid, np.maximum(last, 0), axis=1)
    return np.where(ground.origins & (last >= 0), held, np.nan)
