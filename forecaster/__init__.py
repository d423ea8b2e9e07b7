"""Forecasts of crypto volatility and its regimes, and the margins that follow from them.

``import forecaster as fc; fc.read(store)``, ``fc.evaluate(...)``, ``fc.forecast(...)``, ``fc.policy(...)``,
``fc.backtest(...)``: the commands as functions. Each is imported when it is first used, so that importing the
package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from forecaster.commands.backtesting import backtest
    from forecaster.commands.evaluation import evaluate
    from forecaster.commands.inputs import read
    from forecaster.commands.schedules import policy
    from forecaster.commands.serving import forecast

__all__ = ["backtest", "evaluate", "forecast", "policy", "read"]

HOMES: Final = {"backtest": "backtesting", "evaluate": "evaluation", "forecast": "serving", "read": "inputs"}


def __getattr__(name: str) -> Any:
    if name == "policy":
        return import_module("forecaster.policy")
    if name not in HOMES:
        raise AttributeError(f"module 'forecaster' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"forecaster.commands.{HOMES[name]}"), name)
