"""From forecasts to parameter schedules: margins, leverage and exposure, each in an auditable line."""

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
