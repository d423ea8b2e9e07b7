"""What ``--json`` shows of searches, goal tables and the studies beside them, as types for their schemas."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from forecaster.commands.diagnoses import EqualAbility, SuperiorAbility

__all__ = ["Climbed", "LeftOut", "Scored", "Searched"]

Bound = float | list[float] | None
Choice = bool | int | float | str


class Interval(BaseModel):
    """A figure with its 90 % interval by date."""

    value: float | None
    low: float | None
    high: float | None


class Pair(BaseModel):
    """Loss of the configured and of the best values, as a share of the seasonal HAR's."""

    configured: float
    best: float


class Along(BaseModel):
    """Losses of the trials with values in one part of an argument's range."""

    model_config = ConfigDict(populate_by_name=True)

    start: Choice = Field(alias="from")
    end: Choice = Field(alias="to")
    trials: int
    mean: float
    least: float


class Sensitivity(BaseModel):
    """One argument: its share of the loss's variance over the space, and the losses along its values."""

    argument: str
    importance: float | None
    losses: list[Along]


class Subject(BaseModel):
    """What was found for one member, or for the combination."""

    subject: str
    configured: dict[str, Choice]
    best: dict[str, Choice]
    taken: bool
    loss_configured: float
    loss_best: float
    by_horizon: dict[str, Pair]
    gain: Interval
    finished: int
    cut_short: int
    sensitivity: list[Sensitivity]


class Searched(BaseModel):
    """Where the configuration and the document of a search lie, and what was found."""

    config: str
    document: str
    subjects: list[Subject]
    hours: float


class GoalFigure(BaseModel):
    """One figure of a goal with its bounds; ``why``: a remark, or why there is no value."""

    figure: str
    unit: Literal["share", "number"]
    less_is_better: bool
    value: float | None
    low: float | None
    high: float | None
    why: str
    floor: Bound
    target: Bound
    moonshot: Bound


class GoalRow(BaseModel):
    """One goal, and the level that its figures reach."""

    goal: str
    metric: str
    reached: Literal["not measured", "below floor", "floor", "target", "moonshot"]
    figures: list[GoalFigure]


class Opponent(BaseModel):
    """A model's losses, mean over symbols, and what the ensemble saves of them (null for models it is not compared with)."""

    horizon_hours: int
    model: str
    best_classical: bool
    qlike: float
    qlike_x: float | None
    saved: Interval | None
    saved_x: Interval | None
    symbols_better: int | None
    symbols: int | None


class Judged(BaseModel):
    """One window: its goals, its opponents, what the claims are worth, and the tripwires that it sets off."""

    name: str
    start: str
    end: str
    symbols: list[str]
    shock_days: dict[str, list[str]]
    best_classical: dict[str, dict[str, float]]
    goals: list[GoalRow]
    opponents: list[Opponent]
    tests: list[EqualAbility]
    superiority: list[SuperiorAbility]
    symbol_years: int
    tripped: list[str]


class Scored(BaseModel):
    """The goal table, and where it lies."""

    scorecard: str
    page: str
    hours: float
    schema_version: Literal[1]
    proxy: str
    refit_months: int
    config_sha256: str
    data_sha256: str
    code_sha256: str
    configurations: int
    chosen_before: str | None
    suspect: bool
    windows: list[Judged]


class Excess(BaseModel):
    """A stranger's loss over that of the symbols' own seasonal HAR, with its 90 % interval by date."""

    horizon_hours: int
    rows: int
    excess: float | None
    low: float | None
    high: float | None
    symbols_better: int
    symbols: int
    excess_by_symbol: dict[str, float | None]
    coverage_var_90: float | None
    var_hit_010: float | None


class _Studied(BaseModel):
    document: str
    hours: float
    schema_version: Literal[1]
    proxy: str
    config_sha256: str
    data_sha256: str
    code_sha256: str
    start: str
    end: str
    symbols: list[str]


class LeftOut(_Studied):
    """Symbols that nothing was learnt from, with all of their past (``stranger``) and newly listed."""

    listings: list[str]
    listed_days: int
    stranger: list[Excess]
    listed: list[Excess]


class Rung(BaseModel):
    """A set of families, and the groups that they make up."""

    groups: list[str]
    families: list[str]


class Learnt(BaseModel):
    """What the boosted member saves of the linear twin's loss on one rung."""

    families: list[str]
    horizon_hours: int
    gain: float | None
    low: float | None
    high: float | None
    symbols_better: int
    symbols: int


class Climbed(_Studied):
    """The ladder: ``data``, the steps from rung to rung as of the feature study, and ``learning`` on each rung."""

    rungs: list[Rung]
    data: list[dict[str, Any]]
    levels: list[dict[str, Any]]
    learning: list[Learnt]
    shock_days: dict[str, list[str]]
