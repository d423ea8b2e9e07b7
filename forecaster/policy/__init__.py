"""From forecasts to parameter schedules: margins, leverage and exposure, each in an auditable line.

The package is also the command: ``forecaster.policy(forecasts, store, out=...)`` writes a schedule, as
``forecaster policy`` does.
"""

import sys
from types import ModuleType
from typing import Any

from .comparison import compare
from .decide import decide
from .explain import explain
from .inputs import prepare
from .notice import position_mm
from .params import Params
from .replay import ReplayReport, replay
from .schedule import make_schedule, schedule_schema, write_schedule
from .types import Decision, PolicyState

__all__ = [
    "Decision",
    "Params",
    "PolicyState",
    "ReplayReport",
    "compare",
    "decide",
    "explain",
    "make_schedule",
    "position_mm",
    "prepare",
    "replay",
    "schedule_schema",
    "write_schedule",
]


class _Command(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from forecaster.commands.schedules import policy

        return policy(*args, **kwargs)


sys.modules[__name__].__class__ = _Command


class _Callable(ModuleType):
    """A package and a command share the name that both are known by."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        from forecaster.commands.schedules import policy

        return policy(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
