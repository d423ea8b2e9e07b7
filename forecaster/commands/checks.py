"""The search for what could not have been known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forecaster.commands import inputs
from forecaster.commands.inputs import Configuration, StoreLike

if TYPE_CHECKING:
    from training.leakcheck import LeakReport

__all__ = ["leakcheck"]


def leakcheck(
    config: Configuration = None,
    store: StoreLike = None,
    cuts: int = 50,
    *,
    overrides: Sequence[str] = (),
) -> LeakReport:
    """Recompute features, targets and forecasts on data cut short; ``LeakFound`` names the first bad cell."""
    import training.leakcheck

    chosen = inputs.configuration(config, None, overrides)
    return training.leakcheck.leakcheck(inputs.read(store or chosen.data.store), chosen, cuts=cuts)
