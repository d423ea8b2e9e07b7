"""How much to hold: a volatility target under a drawdown floor and a depth cap.

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


def scale(sigma_annual: Floats, drawdown: Floats, worst_step: Floats, depth_usd: Floats, params: Params) -> Floats:
    """Target exposure, a multiple of wealth, at least 0 (n,).

    The least of: target volatility over forecast volatility, clipped (Moreira and Muir 2017 in form); the
    cushion ``m (W - (1 - d) peak) / W`` over the drawdown floor, where ``m <= 1 / worst_step`` so that the loss of
    one step cannot cross the floor (constant proportion portfolio insurance, Black and Perold 1992; with the
    peak of a window, Yang and Zhong 2012); depth over the position's notional.

    ``drawdown``: 1 - W / peak; ``worst_step``: 99.9 % loss of one step, a fraction; ``depth_usd``: what trades for
    the depth move. An unknown drawdown or depth limits nothing, an unknown volatility gives the least scale.
    """
    limits = params.exposure
    with np.errstate(divide="ignore", invalid="ignore"):
        target = np.clip(limits.target_vol / sigma_annual, limits.scale_min, limits.scale_max)
        multiplier = np.minimum(limits.multiplier, 1 / worst_step)
        cushion = multiplier * (1 - (1 - limits.drawdown) / (1 - drawdown))
    depth = depth_usd / limits.reference_usd if limits.reference_usd else np.inf
    known = np.nan_to_num(target, nan=limits.scale_min)
    return np.asarray(np.maximum(0.0, np.fmin(np.fmin(known, cushion), depth)))
