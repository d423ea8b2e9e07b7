"""What a back-test and the commands that sign and commit write and print, as types for ``forecaster schema``."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from forecaster.commands import outputs
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


class NewKey(BaseModel):
    """Where a private key was written, and its public half."""

    path: str
    public_key: str


class ListedKey(BaseModel):
    """A key of the registry."""

    name: str
    public_key: str
    revoked: bool


class Keys(BaseModel):
    """A registry: so many of these keys must sign."""

    threshold: int
    keys: list[ListedKey]


class Signed(BaseModel):
    """Who has signed which line, and the hash that the signature vouches for."""

    signer: str
    line: int
    head: str
    path: str


class Verified(BaseModel):
    """Lines vouched for by k of n, and up to which line each signer vouches."""

    lines: int
    head: str | None
    threshold: int
    vouched: dict[str, int]
    events_waiting: int


class ProposedBounds(BaseModel):
    """An event of the log that sets bounds."""

    schema_version: Literal[1]
    seq: int
    prev_hash: str
    hash: str
    kind: Literal["BOUNDS"]
    at: str
    override_hours: int
    symbols: dict[str, dict[str, dict[str, int]]]
    path: str


class ProposedOverride(BaseModel):
    """An event of the log that overrides a symbol's margin."""

    schema_version: Literal[1]
    seq: int
    prev_hash: str
    hash: str
    kind: Literal["OVERRIDE"]
    at: str
    symbol: str
    start: str
    expires: str
    im_floor_ppm: int | None
    im_cap_ppm: int | None
    who: str
    why: str
    acknowledged: bool
    path: str


class Committed(BaseModel):
    """The Merkle root over the margins of all accounts."""

    schema_version: Literal[1]
    type: Literal["commitment"]
    as_of: str
    accounts: int
    root: str
    path: str


class Proven(BaseModel):
    """Where the proof of one account lies."""

    path: str
    account: str


class Included(BaseModel):
    """An account that stands under the published root; one that does not ends with an error."""

    account: str
    included: Literal[True]
    root: str


POLICY_FILES: Final[dict[str, Any]] = {"policy_scores": PolicyScores, "policy_goals": PolicyGoals}
POLICY_OUTPUTS: Final[dict[str, Any]] = {
    "demo": Demonstrated,
    "backtest": Backtested,
    "policy.keys": NewKey | Keys,
    "policy.sign": Signed,
    "policy.verify": Verified,
    "policy.override": ProposedOverride,
    "policy.bounds": ProposedBounds,
    "policy.commit": Committed,
    "policy.prove": Proven,
    "policy.included": Included,
}
