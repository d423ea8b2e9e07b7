"""The search for what could not have been known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forecaster.commands import inputs
from forecaster.commands.inputs import Configuration, StoreLike
from forecaster.settings import Settings
from forecaster.terminal import Progress

if TYPE_CHECKING:
    from training.leakcheck import LeakReport

__all__ = ["leakcheck"]


def leakcheck(
    config: Configuration = None,
    store: StoreLike = None,
    cuts: int = 50,
    *,
    deep_cuts: int = 5,
    forecast_cuts: int = 6,
    live_bars: int = 48,
    restarts: int = 4,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> LeakReport:
    """Make features, targets and forecasts again from data cut short; ``LeakFound`` names the first bad cell.

    The sizes are those of ``training.leakcheck.leakcheck``.
    """
    import training.leakcheck

    environment = Settings.load()
    chosen = inputs.configuration(config, None, overrides)
    market = inputs.read(store or chosen.data.store, environment)
    jobs = inputs.workers(None, chosen, environment)
    return training.leakcheck.leakcheck(
        market,
        chosen,
        cuts=cuts,
        deep_cuts=deep_cuts,
        forecast_cuts=forecast_cuts,
        live_bars=live_bars,
        restarts=restarts,
        jobs=jobs,
        progress=progress,
    )
