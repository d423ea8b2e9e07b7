"""Order flow where nobody says who was the taker: bulk-volume classification of plain bars.

A proxy: it infers the side from the return, so it holds no flow that the price did not show. Its columns bear ``bvc`` in
their names and never stand in for taker volume. Reference: Easley, Lopez de Prado and O'Hara (2012), Review of Financial
Studies 25.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np
from scipy.special import ndtr

from features.families import Column, Family
from features.families.transforms import SCALE_REACH, ratio, scaled_return, trailing_sd
from features.panel import Panel

__all__ = ["FlowProxy"]

HOURS: Final = (4, 24, 72)
REFERENCE: Final = "Easley, Lopez de Prado and O'Hara (2012)"


class FlowProxy(Family):
    """Imbalance and toxicity of volume whose buy share is guessed from the return of its hour."""

    name: ClassVar[str] = "flow_proxy"
    group: ClassVar = "flow"

    def columns(self, panel: Panel) -> Iterator[Column]:
        """Imbalance, its size, and toxicity at three scales, from hourly bars alone."""
        volume = panel.field("volume")
        # Twice the buy share less one: what bought less what sold, as a fraction of the hour's volume.
        lean = 2 * ndtr(scaled_return(panel, trailing_sd(panel))) - 1
        classified = np.where(np.isnan(lean), np.nan, volume)
        gross = panel.mean(classified, HOURS)
        net, onesided = panel.mean(lean * volume, HOURS), panel.mean(np.abs(lean) * volume, HOURS)
        lean_formula = "b = 2 Phi(r / sd_168h(r)) - 1"
        for j, length in enumerate(HOURS):
            reach = length + SCALE_REACH
            imbalance = ratio(net[j], gross[j])
            formula = f"proxy: sum(b volume) / sum volume over {length}h, {lean_formula}"
            yield Column(
                f"bvc_imbalance_{length}h", imbalance, formula, "fraction", reach, reference=REFERENCE, sign="-"
            )
            yield Column(
                f"abs_bvc_imbalance_{length}h",
                np.abs(imbalance),
                f"|{formula}|",
                "fraction",
                reach,
                reference=REFERENCE,
                sign="+",
            )
            yield Column(
                f"bvc_toxicity_{length}h",
                ratio(onesided[j], gross[j]),
                f"proxy: sum(|b| volume) / sum volume over {length}h, {lean_formula}",
                "fraction",
                reach,
                reference=REFERENCE,
                sign="+",
            )
