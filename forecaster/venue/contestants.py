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

__all__ = ["OURS", "QUEUED", "VARIANTS", "Contestants", "Entry"]

OURS: Final = "ensemble"
QUEUED: Final = "ensemble_adl_queue"
VARIANTS: Final[dict[str, Variant]] = {
    OURS: "notice",
    QUEUED: "notice",
    "ensemble_now": "now",
    "ensemble_grandfathered": "grandfathered",
}
MICROSECONDS_AN_HOUR: Final = 3_600_000_000
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
        opens = path.close_time - MICROSECONDS_AN_HOUR
        lines = self.governed.of(path.symbol)
        as_of, effective = self.governed.as_of[lines], self.governed.effective_at[lines]
        newest = in_force(np.zeros(len(lines), dtype=np.int64), as_of, effective)
        # A path begins at a forecast, hence never before the first line.
        held = lines[newest[np.searchsorted(as_of, opens, side="right") - 1]]
        im, mm = self.governed.im[held], self.governed.mm[held]
        penalty = self._penalty(self.governed.vector[held, -2], mm)
        notice, ramp = self._delays(self.governed.mode[held])
        hours = path.hours
        out = {
            name: Entry(0, Margins.published(im, mm, penalty, hours, notice, ramp, variant))
            for name, variant in VARIANTS.items()
        }
        return out | self._baselines(path, opens, self.governed.vector[held, -2])

    def _baselines(self, path: Path, opens: Integers, penalty: Integers) -> dict[str, Entry]:
        ground, out = self.met.ground, {}
        row = ground.symbols.index(path.symbol)
        column = np.searchsorted(ground.times.asi8, opens)
        for name, margins in self.met.runs[self.comparison].items():
            im, mm = _carried(margins.im[row, column]), _carried(margins.mm[row, column])
            known = np.flatnonzero(~np.isnan(im))
            if name == OURS or not len(known):
                continue
            first = int(known[0])
            initial = np.minimum(_ppm(im[first:]), PPM)
            binding = np.minimum(_ppm(mm[first:]), initial - 1)
            own = self._penalty(penalty[first:], binding)
            out[name] = Entry(first, Margins(initial, binding, binding, own))
        return out

    def _penalty(self, wanted: Integers, mm: Integers) -> Integers:
        """The published penalty, at most the venue's share of the maintenance margin that stands."""
        most = np.floor(self.params.liquidation.penalty_cap * mm).astype(np.int64)
        return np.clip(wanted, 1, np.maximum(np.minimum(most, mm - 1), 1))

    def _delays(self, mode: Integers) -> tuple[Floats, Floats]:
        """Notice and ramp, hours, of a rise published in each mode; an override gives the longest notice."""
        params = self.met.variant.params
        limits = [params.governor.normal if m is Mode.OVERRIDE else params.by_mode[m] for m in MODES]
        notice, ramp = (np.array([getattr(x, n) for x in limits], np.float64) for n in ("notice_hours", "ramp_hours"))
        return notice[mode], ramp[mode]


def _carried(values: Floats) -> Floats:
    """The last known value over hours without one; NaN before the first."""
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(last >= 0, values[np.maximum(last, 0)], np.nan)


def _ppm(fraction: Floats) -> Integers:
    return np.ceil(fraction * PPM).astype(np.int64)
