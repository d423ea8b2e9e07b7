"""The goals: what each demands at its three levels, and which level the figures of a run reach.

A goal is a set of demands, each on one named figure. A level is reached where every demand it makes, and every demand of the
levels below it, is met by the figure itself; the interval beside it says how sure that is. What was not measured reaches
nothing, and says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from training.scorecard import nullable

__all__ = [
    *("BELOW", "GOALS", "HIT_TESTS", "LEVELS", "TESTS", "TRIPWIRES"),
    *("Demand", "Figure", "Goal", "judge", "never_failed", "tripped"),
]

Bound: TypeAlias = float | tuple[float, float] | None
"""Least, most, or both ends; None: nothing is demanded."""
Unit: TypeAlias = Literal["share", "number"]

LEVELS: Final = ("floor", "target", "moonshot")
BELOW: Final = "below floor"
UNMEASURED: Final = "not measured"
NOTHING: Final = "nothing to measure it on in this window"
SHORT: Final = (1, 4, 24)
ELSEWHERE: Final = {
    "A6": "run forecaster leave-out with --out OUT/leave-out, OUT that of this scorecard, and on the same window",
    "A8": "run forecaster ladder with --out OUT/ladder, OUT that of this scorecard, and on the same window",
    "D1": "forecaster leakcheck and the tests under tests/leakage are the gates; they end with exit code 5 and a failed test",
    "D2": "no forecasts have been published ahead of time yet",
}
"""Why a figure is not one of an evaluation."""
MEASURED: Final = -math.inf
"""The bound of what only has to be measured."""


@dataclass(frozen=True)
class Figure:
    """A measured value with its 90 % interval where it has one, or why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""

    @classmethod
    def of(cls, value: float | None, low: float | None = None, high: float | None = None, why: str = "") -> Figure:
        """From numbers of which any may be missing or nan."""
        known = [None if x is None else nullable(x) for x in (value, low, high)]
        return cls(known[0], known[1], known[2], why or ("" if known[0] is not None else NOTHING))


@dataclass(frozen=True)
class Demand:
    """What is asked of one figure: ``bounds`` for floor, target and moonshot; ``most``: less is better."""

    figure: str
    bounds: tuple[Bound, Bound, Bound]
    most: bool = False
    unit: Unit = "share"

    def met(self, level: int, value: float | None) -> bool:
        """Whether the value does at this level; what is not demanded is met."""
        bound = self.bounds[level]
        if bound is None:
            return True
        if value is None:
            return False
        if isinstance(bound, tuple):
            return bound[0] <= value <= bound[1]
        return value <= bound if self.most else value >= bound


@dataclass(frozen=True)
class Goal:
    """One row of the table."""

    name: str
    metric: str
    demands: tuple[Demand, ...] = field(default=())

    def reached(self, figures: Mapping[str, Figure]) -> str:
        """The highest level reached, ``below floor``, or ``not measured`` where a figure of the floor is missing."""
        values = {d.figure: figures.get(d.figure, Figure()).value for d in self.demands}
        first = [d for d in self.demands if d.bounds[0] is not None]
        if not first or any(values[d.figure] is None for d in first):
            return UNMEASURED
        reached = BELOW
        for level, name in enumerate(LEVELS):
            asked = [d for d in self.demands if d.bounds[level] is not None]
            if not asked or not all(d.met(level, values[d.figure]) for d in asked):
                break
            reached = name
        return reached


def _by_horizon(figure: str, bounds: Sequence[tuple[Bound, Bound, Bound]], **more: Any) -> tuple[Demand, ...]:
    return tuple(Demand(f"{figure}, {h} h", b, **more) for h, b in zip(SHORT, bounds, strict=True))


_SAME: Final = 3
TESTS: Final = {
    "kupiec": "Kupiec",
    "christoffersen": "Christoffersen",
    "dynamic_quantile": "DQ",
    "z2": "Z2",
    "esr": "ESR",
}
"""Back-tests by symbol-year, as figures name them."""
HIT_TESTS: Final = ("kupiec", "christoffersen", "dynamic_quantile")

GOALS: Final = (
    Goal(
        "A1",
        "qlike_x reduction vs har_seasonal",
        _by_horizon("vs har_seasonal", [(0.04, 0.07, 0.12), (0.04, 0.07, 0.12), (0.04, 0.08, 0.15)]),
    ),
    Goal(
        "A2",
        "qlike_x reduction vs garch (multi-start, re-levelled)",
        _by_horizon("vs garch", [(0.12, 0.16, 0.22), (0.12, 0.15, 0.20), (0.12, 0.16, 0.24)]),
    ),
    Goal(
        "A3",
        "qlike_x reduction vs B*, the classical model with the least loss before the window",
        (
            Demand("vs B*, 24 h", (0.03, 0.06, 0.12)),
            Demand("years better than B*, 24 h", (None, None, 1.0)),
            Demand("quarters better than B*, 24 h", (None, None, 0.9)),
        ),
    ),
    Goal(
        "A4",
        "in the 90 % model confidence set, symbols x {1, 4, 24 h}; alone in it",
        (Demand("in the set", (0.85, 0.95, 1.0)), Demand("alone in the set", (None, 0.30, 0.60))),
    ),
    Goal(
        "A5",
        "symbols better than har_seasonal; with DM-HLN p < .05",
        (
            *_by_horizon("symbols better", [(16 / 18, 1.0, 1.0)] * _SAME),
            *_by_horizon("symbols clearly better", [(0.8, 0.9, 0.95), (0.6, 0.8, 0.95), (0.4, 0.6, 0.95)]),
        ),
    ),
    Goal(
        "A6",
        "symbol never trained on, up to 30 days of history: loss vs its own fully trained har_seasonal",
        _by_horizon("stranger's excess loss", [(0.10, 0.0, -0.05)] * _SAME, most=True),
    ),
    Goal(
        "A7",
        "crps_log reduction vs har_seasonal's lognormal; worst symbol's coverage_var_90 from .90",
        (
            *_by_horizon("crps_log vs har_seasonal", [(0.03, 0.06, 0.12)] * _SAME),
            *_by_horizon("worst coverage, distance", [(0.04, 0.02, 0.01)] * _SAME, most=True),
            *_by_horizon("worst coverage inside stress, distance", [(None, None, 0.02)] * _SAME, most=True),
        ),
    ),
    Goal(
        "A8",
        "gain of the data families together, where their data exist",
        (Demand("all feeds over history alone, 24 h", (MEASURED, 0.02, 0.05)),),
    ),
    Goal(
        "B1",
        "stress BSS",
        _by_horizon("stress skill", [(0.295, 0.33, 0.38), (0.315, 0.35, 0.40), (0.295, 0.33, 0.38)], unit="number"),
    ),
    Goal(
        "B2",
        "onset BSS",
        _by_horizon("onset skill", [(0.135, 0.17, 0.22), (0.155, 0.19, 0.24), (0.110, 0.15, 0.20)], unit="number"),
    ),
    Goal(
        "B3",
        "ece_stress, pooled; worst symbol",
        (
            *_by_horizon("calibration error", [(0.018, 0.012, 0.008)] * _SAME, most=True, unit="number"),
            *_by_horizon("worst calibration error", [(0.05, 0.03, 0.02)] * _SAME, most=True, unit="number"),
        ),
    ),
    Goal(
        "B4",
        "alarm recall above that of the same alarms shifted in time, at false alarms per symbol-year",
        (
            Demand("recall above shifted @ 15", (MEASURED, 0.15, None)),
            Demand("recall above shifted @ 8", (None, None, 0.30)),
            Demand("median lead on bursts @ 8, hours", (None, None, 6.0), unit="number"),
        ),
    ),
    Goal(
        "B5",
        "regime switches per year at equal log-loss, vs the filtered HMM",
        (Demand("switches vs filtered HMM", (-0.30, -0.60, -0.80), most=True),),
    ),
    Goal(
        "C1",
        "returns below the 1 % and the 5 % quantile, pooled (bands three times wider at 24 h)",
        (
            Demand("1 % hits, 1 h", ((0.0085, 0.0115), (0.0093, 0.0107), (0.0097, 0.0103))),
            Demand("5 % hits, 1 h", ((0.045, 0.055), (0.048, 0.052), (0.049, 0.051))),
            Demand("1 % hits, 24 h", ((0.0055, 0.0145), (0.0079, 0.0121), (0.0091, 0.0109))),
            Demand("5 % hits, 24 h", ((0.035, 0.065), (0.044, 0.056), (0.047, 0.053))),
            Demand("symbol-years in their 95 % band, 1 h", (None, None, (0.93, 0.97))),
        ),
    ),
    Goal(
        "C2",
        "symbol-years passing each back-test at 5 %",
        tuple(d for t in HIT_TESTS for d in _by_horizon(f"pass {TESTS[t]}", [(0.75, 0.88, (0.93, 0.97))] * _SAME)),
    ),
    Goal(
        "C3",
        "FZ0 vs filtered simulation around gjr; symbol-years passing Z2 and ESR",
        (
            *_by_horizon("FZ0 saved at 1 %", [(0.0, 0.03, 0.08)] * _SAME),
            *_by_horizon("FZ0 saved at 2.5 %", [(0.0, 0.03, 0.08)] * _SAME),
            *_by_horizon("pass Z2", [(0.80, 0.90, 0.94)] * _SAME),
            *_by_horizon("pass ESR", [(0.80, 0.90, 0.94)] * _SAME),
        ),
    ),
    Goal(
        "C4",
        "returns below the 1 % quantile in hours in which stress has just begun",
        _by_horizon("1 % hits at onset", [(0.03, 0.02, 0.013)] * _SAME, most=True),
    ),
    Goal(
        "C5",
        "excursions beyond the 99.5 % quantile, each side; when stressed at origin",
        tuple(
            demand
            for side in ("long", "short")
            for demand in (
                *_by_horizon(f"beyond mae_{side}_q995", [((0.0035, 0.0065), (0.0042, 0.0058), (0.0046, 0.0054))] * _SAME),
                *_by_horizon(f"beyond mae_{side}_q995 in stress", [(0.010, 0.0075, 0.006)] * _SAME, most=True),
            )
        ),
    ),
    Goal("D1", "leak gates", (Demand("gates without a failure", (1.0, 1.0, 1.0)),)),
    Goal(
        "D2",
        "live shadow ledger: realised QLIKE vs the walk-forward's",
        (Demand("shadow excess", (0.2, 0.1, 0.05), most=True),),
    ),
    Goal("72 h", "qlike_x reduction vs har_seasonal, reported", (Demand("vs har_seasonal, 72 h", (0.0, None, None)),)),
)  # fmt: skip

TRIPWIRES: Final = {"vs har_seasonal, 1 h": 0.15, "vs har_seasonal, 4 h": 0.20, "vs har_seasonal, 24 h": 0.25}
"""Gains that honest forecasts are not known to have."""
ONSET_TRIPWIRE: Final = 0.30
# A right model passes all three tests of hits in about 88 % of symbol-years.
ALL_PASS: Final = 0.88
UNLIKELY: Final = 0.05


def judge(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    """The table: one row a goal, with its figures beside their bounds and the level that is reached."""
    return [
        {
            "goal": goal.name,
            "metric": goal.metric,
            "reached": goal.reached(figures),
            "figures": [
                _told(d, figures.get(d.figure, Figure(why=ELSEWHERE.get(goal.name, NOTHING)))) for d in goal.demands
            ],
        }
        for goal in GOALS
    ]


def tripped(figures: Mapping[str, Figure], symbol_years: int) -> list[str]:
    """Why the run is suspect: gains and skills too good to be believed, or risk tests that no symbol-year fails."""
    told = [
        f"{name}: {figures[name].value:.1%} is more than {limit:.0%}"
        for name, limit in TRIPWIRES.items()
        if name in figures and (figures[name].value or 0.0) > limit
    ]
    told += [
        f"{name}: {figure.value:.3f} is more than {ONSET_TRIPWIRE}"
        for name, figure in figures.items()
        if name.startswith("onset skill") and (figure.value or 0.0) > ONSET_TRIPWIRE
    ]
    passes = [
        figures[d.figure].value for goal in GOALS if goal.name == "C2" for d in goal.demands if d.figure in figures
    ]
    if never_failed([share for share in passes if share is not None], symbol_years):
        told.append(f"every risk test passes in all of {symbol_years} symbol-years; a right model fails some")
    return told


def never_failed(shares: Sequence[float], symbol_years: int) -> bool:
    """Whether tests of hits, each passing in this share of the symbol-years, fail nowhere, where a right model hardly would.

    A right model passes all of them in ``n`` symbol-years with a probability of ``ALL_PASS**n``, which must be ``UNLIKELY``.
    """
    return bool(shares) and min(shares) == 1.0 and ALL_PASS**symbol_years < UNLIKELY


def _told(demand: Demand, figure: Figure) -> dict[str, Any]:
    bounds = [None if b == MEASURED else list(b) if isinstance(b, tuple) else b for b in demand.bounds]
    return (
        {"figure": demand.figure, "unit": demand.unit, "less_is_better": demand.most}
        | asdict(figure)
        | dict(zip(LEVELS, bounds, strict=True))
    )
