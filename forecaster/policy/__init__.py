"""From forecasts to parameter schedules: margins, leverage and exposure, each in an auditable line.

The package is also the command: ``forecaster.policy(forecasts, store, out=...)`` writes a schedule, as
``forecaster policy`` does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pandas as pd

from .comparison import compare
from .decide import decide, govern
from .explain import explain
from .inputs import prepare
from .notice import allowed_mm, position_mm
from .params import Params
from .replay import ReplayReport, replay
from .schedule import make_schedule, schedule_schema, write_schedule
from .types import Decision, Governed, Override, PolicyState

if TYPE_CHECKING:
    from forecaster.commands.inputs import StoreLike
    from forecaster.commands.schedules import Schedule

__all__ = [
    "Decision",
    "Governed",
    "Override",
    "Params",
    "PolicyState",
    "ReplayReport",
    "allowed_mm",
    "compare",
    "decide",
    "explain",
    "govern",
    "make_schedule",
    "position_mm",
    "prepare",
    "replay",
    "schedule_schema",
    "write_schedule",
]


class _Command(ModuleType):
    """A package and a command share the name that both are known by."""

    def __call__(
        self,
        forecasts: pd.DataFrame | str | Path,
        store: StoreLike = None,
        params: Params | str | Path | None = None,
        out: str | Path = "schedule.jsonl",
        events: str | Path | None = None,
        registry: str | Path | None = None,
    ) -> Schedule:
        """Write the parameter schedule that follows from forecasts and the market; see the command."""
        from forecaster.commands.schedules import policy

        return policy(forecasts, store, params, out, events, registry)


sys.modules[__name__].__class__ = _Command
