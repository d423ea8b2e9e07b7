"""What each policy of a contest hands to the venue: the margins in force over one symbol's path.

The forecasts' policy publishes a maintenance margin of its own, whose rises reach open positions by notice and ramp
(``ensemble``), at once (``ensemble_now``) or never (``ensemble_grandfathered``). A baseline's binds at once. The liquidation
penalty is the forecasts' policy's for all, so that runs differ by margins alone. ``ensemble_adl_queue`` differs from
``ensemble`` by who bears what the fund does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.governed import in_force
from forecaster.policy.comparison.scaling import equal_coverage, equal_mean
from forecaster.policy.decide import govern
from forecaster.policy.types import MODES, PPM, Governed, Mode

from .margins import Margins, Variant
from .params import VenueParams
from .path import Path

__all__ = ["OURS", "QUEUED", "VARIANTS", "Contestants", "Entry", "in_force_on", "published"]

OURS: Final = "ensemble"
QUEUED: Final = "ensemble_adl_queue"
VARIANTS: Final[dict[str, Variant]] = {
    OURS: "notice",
    QUEUED: "notice",
    "ensemble_now": "now",
    "ensemble_grandfathered": "grandfathered",
}
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Entry:
    """Margins of one policy over the bars of a path from ``first`` on, before which it has none."""

    first: int
    margins: Margins


@dataclass(frozen=True)
class Contestants:
    """All policies of one comparison of a contest."""

    met: Contest
    comparison: str
    governed: Governed
    params: VenueParams

    @classmethod
    def of(cls, met: Contest, comparison: str, params: VenueParams) -> Contestants:
        """``comparison``: ``raw``, ``equal_mean`` or ``equal_coverage``, as in ``Contest.runs``."""
        ours, reference, ground = met.runs["raw"][OURS].im, met.runs["raw"]["fhs"].im, met.ground
        scale = None
        if comparison == "equal_mean":
            scale = equal_mean(ours, reference, ground)
        elif comparison == "equal_coverage":
            scale = equal_coverage(ours, ground)
        factor = None if scale is None else np.nan_to_num(scale[ground.columns], nan=1.0)
        governed = govern(met.variant.inputs, met.variant.params, factor)
        return cls(met, comparison, governed, params)

    def on(self, path: Path) -> dict[str, Entry]:
        """Margins by policy over a path; a policy that has none on it is left out."""
        held = in_force_on(self.governed, path)
        out = {name: Entry(0, published(self.governed, held, path, self.params, VARIANTS[name])) for name in VARIANTS}
        return out | self._baselines(path, self.governed.vector[held, -2])

    def _baselines(self, path: Path, penalty: Integers) -> dict[str, Entry]:
        ground, out = self.met.ground, {}
        row = ground.symbols.index(path.symbol)
        column = np.searchsorted(ground.times.asi8, path.open_time, side="right") - 1
        for name, margins in self.met.runs[self.comparison].items():
            im, mm = _carried(margins.im[row, column]), _carried(margins.mm[row, column])
            known = np.flatnonzero(~np.isnan(im))
            if name == OURS or not len(known):
                continue
            first = int(known[0])
            initial = np.minimum(_ppm(im[first:]), PPM)
            binding = np.minimum(_ppm(mm[first:]), initial - 1)
            own = _penalty(penalty[first:], binding, self.params)
            out[name] = Entry(first, Margins(initial, binding, binding, own))
        return out


def in_force_on(governed: Governed, path: Path) -> Integers:
    """The line of a path's symbol that is in force at each bar's open (T,), a place in ``governed``."""
    lines = governed.of(path.symbol)
    as_of, effective = governed.as_of[lines], governed.effective_at[lines]
    newest = in_force(np.zeros(len(lines), dtype=np.int64), as_of, effective)
    # A path begins at a forecast, hence never before the first line.
    return np.asarray(lines[newest[np.searchsorted(as_of, path.open_time, side="right") - 1]])


def published(governed: Governed, held: Integers, path: Path, params: VenueParams, variant: Variant) -> Margins:
    """The margins of the lines ``held`` (T,) over a path's bars; rises reach open positions as the modes say."""
    im, mm, mode = governed.im[held], governed.mm[held], governed.mode[held]
    # An override gives the longest notice.
    packs = [governed.params.governor.normal if m is Mode.OVERRIDE else governed.params.by_mode[m] for m in MODES]
    notice, ramp = (np.array([getattr(x, n) for x in packs], np.float64) for n in ("notice_hours", "ramp_hours"))
    penalty = _penalty(governed.vector[held, -2], mm, params)
    return Margins.published(im, mm, penalty, path.hours, notice[mode], ramp[mode], variant)


def _penalty(wanted: Integers, mm: Integers, params: VenueParams) -> Integers:
    """The published penalty, at most the venue's share of the maintenance margin that stands."""
    most = np.floor(params.liquidation.penalty_cap * mm).astype(np.int64)
    return np.clip(wanted, 1, np.maximum(np.minimum(most, mm - 1), 1))


def _carried(values: Floats) -> Floats:
    """The last known value over hours without one; NaN before the first."""
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(last >= 0, values[np.maximum(last, 0)], np.nan)


def _ppm(fraction: Floats) -> Integers:
    return np.ceil(fraction * PPM).astype(np.int64)
