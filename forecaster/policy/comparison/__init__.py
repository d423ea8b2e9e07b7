"""Policies side by side on real prices: baselines, past-only scalars, metrics, inference and goals."""

from .scoreboard import Scoreboard, scoreboard
from .summary import METRICS, compare, margins_in_force

__all__ = ["METRICS", "Scoreboard", "compare", "margins_in_force", "scoreboard"]
