"""What a back-test writes and prints, as types for ``forecaster schema``."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from forecaster.commands import outputs
from forecaster.commands.audit_outputs import AUDIT_OUTPUTS
from forecaster.commands.schedules import Schedule
from forecaster.policy.comparison.rows import FIELDS

__all__ = ["POLICY_FILES", "POLICY_OUTPUTS"]

_NUMBER: Final = {"type": ["number", "null"]}
_BOUND: Final = {
    "anyOf": [_NUMBER, {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}],
    "description": "null: nothing is demanded, or only that it be measured",
}
_ROW: Final = {
    "type": "object",
    "properties": {
        "policy": {"type": "string"},
        "symbol": {"type": "string", "description": "* is over all symbols"},
        "window": {"type": "string", "description": "all, or a named event"},
        **dict.fromkeys(FIELDS, _NUMBER),
    },
    "required": ["policy", "symbol", "window", *FIELDS],
}
_FIGURE: Final = {
    "type": "object",
    "properties": {
        "figure": {"type": "string"},
        "unit": {"enum": ["share", "number"]},
        "less_is_better": {"type": "boolean"},
        **dict.fromkeys(("value", "low", "high"), _NUMBER),
        "why": {"type": "string"},
        **dict.fromkeys(("floor", "target", "moonshot"), _BOUND),
    },
    "required": ["figure", "unit", "less_is_better", "value", "low", "high", "why", "floor", "target", "moonshot"],
}
Row = Annotated[dict[str, Any], WithJsonSchema(_ROW)]
FigureRow = Annotated[dict[str, Any], WithJsonSchema(_FIGURE)]


class PolicyScores(BaseModel):
    """``policy_scores.json`` and its siblings: one row per policy, symbol and window."""

    schema_version: Literal[1]
    start: str
    end: str
    comparison: Literal["equal_mean", "equal_coverage", "raw", "extended"]
    rows: list[Row]


class JudgedGoal(BaseModel):
    """A goal, the level it reached, and its figures beside their bounds."""

    goal: str
    metric: str
    reached: Literal["not measured", "below floor", "floor", "target", "moonshot"]
    figures: list[FigureRow]


class Difference(BaseModel):
    """``policy / opponent - 1`` of a metric with its 90 % interval; null where it could not be told."""

    policy: str
    opponent: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    sd: float | None
    by_year: dict[str, float | None]
    symbols_better: float | None
    dm_p: float | None
    n: int


class BacktestShare(BaseModel):
    """Share of symbol-years whose exceedances pass a test at 5 %."""

    test: str
    share: float | None
    symbol_years: int


class OverlayRow(BaseModel):
    """A policy's exposure overlay at one cost of trading, median symbol."""

    model_config = ConfigDict(extra="allow")

    policy: str
    cost_bps: float


class PolicyGoals(BaseModel):
    """``policy_goals.json``: the goals, and what the differences behind them are worth."""

    schema_version: Literal[1]
    start: str
    end: str
    goals: list[JudgedGoal]
    differences: dict[str, list[Difference]]
    backtests: dict[str, list[BacktestShare]]
    overlays: list[OverlayRow]
    notes: list[str]


class Impulse(BaseModel):
    """A step of volatility: figures of each rule's answer, and its margin hour by hour from ``first_hour`` on."""

    step: dict[str, float]
    rows: list[dict[str, str | float | None]]
    first_hour: int
    paths: dict[str, list[float | None]]


class Shock(BaseModel):
    """The smallest gap of the price that leaves bad debt under a policy's margins; null where none does."""

    policy: str
    level: Literal["mean", "least"]
    im: float
    mm: float
    side: Literal[-1, 1]
    depth: float
    concentration: float
    gap: float | None


class ReverseStress(BaseModel):
    """Gaps were tried up to ``limit``."""

    limit: float
    rows: list[Shock]


class PolicyExperiments(BaseModel):
    """``policy_experiments.json``: what margins do after a step of volatility, and what breaks them."""

    schema_version: Literal[1]
    impulse: Impulse
    reverse_stress: ReverseStress


class Backtested(BaseModel):
    """Where everything lies, the rows over all symbols and the whole span, and the goals."""

    scores: dict[str, str]
    goals_file: str
    report: str
    schedule: Schedule
    start: str
    end: str
    policies: list[Row]
    goals: list[JudgedGoal]


class Demonstrated(outputs.Demonstrated):
    """Everything the product does, once; ``oracle`` by horizon."""

    backtest: Backtested


POLICY_FILES: Final[dict[str, Any]] = {
    "policy_scores": PolicyScores,
    "policy_goals": PolicyGoals,
    "policy_experiments": PolicyExperiments,
}
POLICY_OUTPUTS: Final[dict[str, Any]] = {
    "demo": Demonstrated,
    "backtest": Backtested,
    **AUDIT_OUTPUTS,
}
