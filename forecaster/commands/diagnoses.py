"""``diagnostics.json`` as a type."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, WithJsonSchema

__all__ = ["Diagnostics"]

_NUMBER: Final = {"type": ["number", "null"]}
_WEIGHTS: Final = {
    "type": "object",
    "description": "by member, in force from the origin on",
    "properties": {"horizon_hours": {"type": "integer"}, "origin": {"type": "string", "format": "date-time"}},
    "required": ["horizon_hours", "origin"],
    "additionalProperties": _NUMBER,
}


class Gain(BaseModel):
    """A model's gain over an opponent with its 90 % interval, and the symbols on which it is better."""

    horizon_hours: int
    opponent: str
    loss: Literal["qlike", "qlike_x"]
    gain: float | None
    low: float | None
    high: float | None
    symbols_better: int
    symbols_significant: int
    symbols: int


class Coverage(BaseModel):
    """Origins with a complete target, those forecast, and those scored."""

    model: str
    horizon_hours: int
    origins: int
    forecast: int
    scored: int


class Pooled(BaseModel):
    """Hit rates of the return quantiles and calibration error of stress, over all symbols."""

    model: str
    horizon_hours: int
    var_hit_010: float | None
    var_hit_050: float | None
    ece_stress: float | None


class EqualAbility(BaseModel):
    """Tests of a model against an opponent on qlike_x, all symbols together; negative statistics are in its favour.

    ``holm_p`` counts the claims, ``deflated_p`` the configurations that were tried.
    """

    horizon_hours: int
    opponent: str
    dm_statistic: float | None
    dm_p: float | None
    holm_p: float | None
    deflated_p: float | None
    sign_p: float | None
    gw_lagged_p: float | None
    gw_regime_p: float | None
    t_calm: float | None
    t_normal: float | None
    t_stress: float | None


class SuperiorAbility(BaseModel):
    """Whether any other model beats the benchmark: Hansen's test with its bounds, White's reality check."""

    horizon_hours: int
    benchmark: str
    alternatives: int
    best: str
    spa_p: float
    spa_lower: float
    spa_upper: float
    reality_check_p: float
    tried: int
    deflated_p: float


class InStratum(BaseModel):
    """Gain over the opponent on the rows of one stratum, without the shock day but in ``shock``."""

    horizon_hours: int
    opponent: str
    kind: str
    value: str
    rows: int
    gain: float | None
    low: float | None
    high: float | None
    symbols_better: int
    symbols: int
    var_hit_010: float | None


class BackTests(BaseModel):
    """Symbol-years that pass a back-test at 5 %, and its p-values in ten bins over all phase offsets."""

    model: str
    horizon_hours: int
    test: str
    symbol_years: int
    passed: int
    share: float
    p_values: list[int] | None


class Shortfall(BaseModel):
    """FZ0 of quantile and shortfall beside filtered simulation around ``base``, in nats."""

    model: str
    horizon_hours: int
    level: float
    base: str
    rows: int
    fz0: float
    fz0_filtered: float
    difference: float
    low: float
    high: float
    saved: float
    symbols_better: int
    symbols: int


class ReliabilityCurve(BaseModel):
    """Mean probability, observed frequency, its 90 % band, and rows, per occupied bin of width 0.1."""

    model: str
    horizon_hours: int
    outcome: Literal["stress", "onset"]
    forecast: list[float]
    observed: list[float]
    low: list[float]
    high: list[float]
    count: list[int]


class Alarms(BaseModel):
    """Alarms at one threshold; ``alarms`` and ``false_alarms`` are per symbol-year, ``lead`` is in hours."""

    model: str
    event: Literal["trailing", "burst"]
    events: int
    threshold: float
    alarms: float | None
    false_alarms: float | None
    precision: float | None
    recall: float | None
    lead: float | None


class AlarmsAtRate(Alarms):
    """At most ``rate`` false alarms per symbol-year, beside the same alarms shifted in time and other models' recall."""

    rate: float
    shifted_recall: float | None
    shifted_p: float | None
    recall_at_same_alarms: dict[str, float | None]


class Berkowitz(BaseModel):
    """Berkowitz's test of a symbol on non-overlapping origins; moments of its normal scores, right if 0, 1 and 0."""

    symbol: str
    n: int
    p: float | None
    mean: float | None
    sd: float | None
    autocorrelation: float | None


class Transforms(BaseModel):
    """Probability integral transforms of the ensemble's law: shares in 20 equal cells, all symbols together."""

    horizon_hours: int
    target: Literal["variance", "log_return"]
    rows: int
    histogram: list[float]
    berkowitz: list[Berkowitz]


class MonthlyCoverage(BaseModel):
    """Share of a month's rows below a quantile of the ensemble, and by how many standard errors that is above its level."""

    horizon_hours: int
    target: Literal["variance", "log_return"]
    month: str
    column: str
    level: float
    rows: int
    below: float
    z: float


class Clips(BaseModel):
    """Forecasts of the combination, and how many were held up or down to what their symbol has had before."""

    horizon_hours: int
    forecasts: int
    held_up: int
    held_down: int


class Diagnostics(BaseModel):
    """``diagnostics.json``: what a reader of an evaluation needs beside its scores."""

    shock_days: dict[str, list[str]]
    coverage: list[Coverage]
    gains: list[Gain]
    pooled: list[Pooled]
    tests: list[EqualAbility]
    superiority: list[SuperiorAbility]
    strata: list[InStratum]
    risk: list[BackTests]
    shortfall: list[Shortfall]
    reliability: list[ReliabilityCurve]
    alarm_curves: list[Alarms]
    alarm_points: list[AlarmsAtRate]
    pit: list[Transforms]
    coverage_by_month: list[MonthlyCoverage]
    weights: list[Annotated[dict[str, Any], WithJsonSchema(_WEIGHTS)]]
    clips: list[Clips]
