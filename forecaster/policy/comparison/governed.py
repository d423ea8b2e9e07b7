"""What is in force at each hour once the governor has limited the targets' speed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.panel import Array
from forecaster.policy.decide import govern
from forecaster.policy.margin import Targets
from forecaster.policy.types import PPM

from .ablations import Variant
from .ground import Floats, Ground, Margins

__all__ = ["governed", "in_force"]

Integers = npt.NDArray[np.int64]


def governed(
    variant: Variant, ground: Ground, scale: Floats | None = None, wanted: Targets | None = None
) -> tuple[Margins, Array]:
    """Margins of tier 1 and exposure scale in force at each origin; ``scale`` (n_hours,) multiplies the targets.

    ``wanted``: other targets of the same lines, as ``govern`` takes them.

    The governor starts from targets times 1 where the scale is not known yet; those hours have no margin to compare.
    """
    factor = None if scale is None else np.nan_to_num(scale[ground.columns], nan=1.0)
    lines = govern(variant.inputs, variant.params, factor, wanted=wanted)
    newest = in_force(lines.code, lines.as_of, lines.effective_at)
    forecast = lines.row >= 0
    place = ground.rows[lines.row[forecast]], ground.columns[lines.row[forecast]]
    im, mm, exposure = (np.full(ground.excursion.shape, np.nan) for _ in range(3))
    for grid, values in ((im, lines.im), (mm, lines.mm), (exposure, lines.exposure)):
        grid[place] = values[newest][forecast] / PPM
    if scale is not None:
        im[:, np.isnan(scale)] = mm[:, np.isnan(scale)] = np.nan
    return Margins(im, mm), exposure


def in_force(entity: Integers, as_of: Integers, effective: Integers) -> Integers:
    """For each line the newest one of its entity that has taken effect by its ``as_of``; each entity's lines in time.

    A later line ends the wait of an older one; an entity's first line takes effect at once.
    """
    out = np.empty(len(entity), dtype=np.int64)
    order = np.argsort(entity, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(entity[order])) + 1):
        binds_from = np.searchsorted(as_of[own], effective[own])
        newest = np.zeros(len(own) + 1, dtype=np.int64)
        np.maximum.at(newest, np.minimum(binds_from, len(own)), np.arange(len(own)))
        out[own] = own[np.maximum.accumulate(newest[:-1])]
    return out
