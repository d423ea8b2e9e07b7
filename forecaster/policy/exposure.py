"""How much to hold: less when the forecast volatility is unusual, under a drawdown floor and a depth cap.

The schedule publishes the scale of a reference portfolio, one unit long of the symbol; an account calls the same
function with its own wealth and peak. What is then held follows in ``governor.next_exposure``: the cap of the mode
and the no-trade band.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .params import Params

__all__ = ["scale"]

Floats = npt.NDArray[np.float64]


def scale(
    sigma_annual: Floats, usual_annual: Floats, drawdown: Floats, worst_step: Floats, depth_usd: Floats, params: Params
) -> Floats:
    """Target exposure, a multiple of wealth, at least 0 (n,).

    The least of: target volatility over forecast volatility, clipped (Moreira and Muir 2017 in form), where the target
    is the pack's or, if that is 0, the symbol's own ``usual_annual``; where the pack has a multiplier, the cushion
    ``m (W - (1 - d) peak) / W`` over the drawdown floor, with ``m <= 1 / worst_step`` so that the loss of one step cannot
    cross the floor (constant proportion portfolio insurance, Black and Perold 1992; with the peak of a window, Yang and
    Zhong 2012); depth over the position's notional.

    ``drawdown``: 1 - W / peak; ``worst_step``: 99.9 % loss of one step, a fraction; ``depth_usd``: what trades for
    the depth move. An unknown depth limits nothing; what else is unknown gives the least scale.
    """
    limits = params.exposure
    target = np.full(len(sigma_annual), limits.target_vol) if limits.target_vol else usual_annual
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.clip(target / sigma_annual, limits.scale_min, limits.scale_max)
        multiplier = np.minimum(limits.multiplier, 1 / worst_step)
        cushion = multiplier * (1 - (1 - limits.drawdown) / (1 - drawdown))
    if limits.multiplier:
        wanted = np.minimum(wanted, cushion)
    depth = depth_usd / limits.reference_usd if limits.reference_usd else np.inf
    known = np.nan_to_num(wanted, nan=limits.scale_min)
    return np.asarray(np.maximum(0.0, np.fmin(known, depth)))
