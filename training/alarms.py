"""Alarms of coming stress: how many episodes they announce, how early, and how often for nothing.

Fixed beforehand. An *event* is the first origin at which the trailing 24 h interval is in stress or crisis after 48 h
without; a *burst* is the bar of largest variance in that interval, dated at its open, since part of any lead on a trailing
window is mechanical. An *alarm* is raised where the probability of stress or crisis over the coming 24 h exceeds a
threshold while it is not yet so, at most once in 24 h. It is true where an event follows within 24 h. Grids are symbols ×
hours, without gaps in time; null where nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from features.errors import DataInvalid
from training.scorecard import nullable

__all__ = [
    "HOURS",
    "RATES",
    "Performance",
    "Shifted",
    "alarm_tables",
    "alarms_at",
    "at_rate",
    "bursts",
    "curve",
    "events",
    "known_hours",
    "perform",
    "shifted_recall",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

HOURS: Final = 24
"""Horizon of the probability, time an alarm has to come true, and silence after it."""
RATES: Final = (8.0, 15.0, 30.0)
"""False alarms per symbol-year at which models are compared."""
_QUIET: Final = 48
_HOURS_A_YEAR: Final = 8760.0
_FIRST_STRESS_CLASS: Final = 2
_THRESHOLDS: Final = 80
_SEED: Final = 20230701


class Performance(NamedTuple):
    """Alarms at one threshold. ``recall``: events with an alarm in the 24 h before; ``lead``: their median hours ahead.

    ``false_alarms`` and ``alarms`` are per symbol-year; nan where there is nothing to divide by.
    """

    threshold: float
    alarms: float
    false_alarms: float
    precision: float
    recall: float
    lead: float


class Shifted(NamedTuple):
    """Recall of the same alarms at random times: its mean, and the p-value of the recall found."""

    recall: float
    p_value: float


def events(now: Any) -> BoolArray:
    """First origins in stress or crisis after 48 known hours without, from the class ``now`` of the trailing interval."""
    state = _grid(now)
    stressed = state >= _FIRST_STRESS_CLASS
    disturbed = np.cumsum(np.pad(stressed | np.isnan(state), ((0, 0), (1, 0))), axis=1)
    out = np.zeros(state.shape, dtype=np.bool_)
    out[:, _QUIET:] = stressed[:, _QUIET:] & (disturbed[:, _QUIET:-1] == disturbed[:, : -_QUIET - 1])
    return out


def bursts(event: BoolArray, bar_variance: Any) -> BoolArray:
    """Opens of the bars with the largest variance in the 24 h up to each event.

    Args:
        event: as ``events`` gives them.
        bar_variance: of the bar that opens at each hour (the variance target at 1 h).

    Events none of whose bars is known have no burst.
    """
    v = _grid(bar_variance)
    out = np.zeros(event.shape, dtype=np.bool_)
    for s, t in zip(*np.nonzero(event), strict=True):
        bars = v[s, t - HOURS : t]
        if np.isfinite(bars).any():
            out[s, t - HOURS + int(np.nanargmax(bars))] = True
    return out


def known_hours(probability: Any, now: Any) -> BoolArray:
    """Hours with a probability and a state: the time over which alarms are counted."""
    return np.isfinite(_grid(probability)) & np.isfinite(_grid(now))


def alarms_at(probability: Any, now: Any, threshold: float) -> BoolArray:
    """Where an alarm is raised: probability over the threshold, calm or normal now, none in the 24 h before."""
    return _raised(_probability_if_quiet(probability, now), threshold, HOURS)


def perform(alarm: BoolArray, event: BoolArray, known: BoolArray, threshold: float = float("nan")) -> Performance:
    """How alarms did on events, over the ``known`` hours; an alarm in the grid's last 24 h may not be judged yet."""
    hours = np.arange(alarm.shape[1])
    # Newest alarm strictly before each hour, nearest event strictly after it.
    never, far = -HOURS - 1, alarm.shape[1] + HOURS + 1
    newest: IntArray = np.maximum.accumulate(np.where(alarm, hours, never), axis=1)
    nearest: IntArray = np.minimum.accumulate(np.where(event, hours, far)[:, ::-1], axis=1)[:, ::-1]
    before = np.pad(newest, ((0, 0), (1, 0)), constant_values=never)[:, :-1]
    after = np.pad(nearest, ((0, 0), (0, 1)), constant_values=far)[:, 1:]
    lead = (hours - before)[event]
    found = lead[lead <= HOURS]
    raised = int(alarm.sum())
    true = int(((after - hours)[alarm] <= HOURS).sum())
    years = float(known.sum()) / _HOURS_A_YEAR
    return Performance(
        threshold,
        _over(raised, years),
        _over(raised - true, years),
        _over(true, raised),
        _over(len(found), len(lead)),
        float(np.median(found)) if len(found) else float("nan"),
    )


def curve(probability: Any, now: Any, event: BoolArray) -> list[Performance]:
    """Performance over the whole range of thresholds, from the most alarms to the fewest."""
    quiet = _probability_if_quiet(probability, now)
    known = known_hours(probability, now)
    if not np.isfinite(quiet).any():
        return []
    # Evenly on the log scale of the share of hours above: alarms that matter live in the last percent.
    shares = np.geomspace(0.5, 1e-4, _THRESHOLDS)
    thresholds = np.unique(np.quantile(quiet[np.isfinite(quiet)], 1.0 - shares))
    return [perform(_raised(quiet, float(t), HOURS), event, known, float(t)) for t in thresholds]


def at_rate(found: list[Performance], rate: float, per: str = "false_alarms") -> Performance | None:
    """The point of a curve with the most recall among those with at most ``rate`` (of ``per``) a symbol-year."""
    allowed = [point for point in found if getattr(point, per) <= rate]
    return max(allowed, key=lambda point: (point.recall, -getattr(point, per)), default=None)


def shifted_recall(
    alarm: BoolArray, event: BoolArray, known: BoolArray, *, reps: int = 1000, seed: int = _SEED
) -> Shifted:
    """Recall that the alarms would have by their number alone: all of them moved in time by the same share of the span.

    Each symbol's alarms go round within its own first and last known hour, so that clusters across symbols and in time
    stay as they are. The p-value counts shifts whose recall reaches the one found.
    """
    symbols, times = np.nonzero(event & known)
    if not len(times):
        return Shifted(float("nan"), float("nan"))
    first, last = known.argmax(axis=1), known.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    length = last - first + 1
    running = np.cumsum(np.pad(alarm, ((0, 0), (1, 0))), axis=1)

    def recalled(position: IntArray) -> FloatArray:
        """Share of events with an alarm in the 24 h before ``position`` (events × shifts), on each symbol's circle."""
        s = symbols[:, None]
        start, stop = position - HOURS, position
        base, size = first[s], length[s]
        wrapped = start < base
        inside = running[s, stop] - running[s, np.maximum(start, base)]
        beyond = running[s, base + size] - running[s, np.where(wrapped, start + size, base + size)]
        return np.asarray(((inside + beyond) > 0).mean(axis=0))

    shift = (np.random.default_rng(seed).random(reps)[None, :] * length[symbols][:, None]).astype(np.int64)
    at = first[symbols][:, None] + (times[:, None] - first[symbols][:, None] - shift) % length[symbols][:, None]
    null = recalled(at)
    found = recalled(times[:, None])[0]
    return Shifted(float(null.mean()), float((1 + (null >= found).sum()) / (reps + 1)))


def alarm_tables(
    probability: Mapping[str, FloatArray], now: FloatArray, bar_variance: FloatArray
) -> dict[str, list[dict[str, Any]]]:
    """Alarms of several models on the hours all of them know, judged on events and on their bursts.

    Args:
        probability: of stress or crisis over the coming 24 h, by model, symbols × hours.
        now: class of the trailing 24 h interval.
        bar_variance: of the bar that opens at each hour.

    Returns:
        ``alarm_curves``: one row per model, event (``trailing``, ``burst``) and threshold, with the fields of
        ``Performance``. ``alarm_points``: one row per model, event and ``rate`` of ``RATES``, with the recall of the same
        alarms shifted in time, its p-value, and the recall of the other models at the same number of alarms. Both empty
        where there is nothing to judge.
    """
    p = {name: _grid(values).copy() for name, values in probability.items() if np.isfinite(values).any()}
    curves: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for values in p.values():
        values[:, -HOURS:] = np.nan  # too late to be judged
    known = (
        np.all([known_hours(values, now) for values in p.values()], axis=0)
        if p
        else np.zeros(now.shape, dtype=np.bool_)
    )
    state = np.where(known, now, np.nan)
    trailing = events(now) & known
    for kind, event in (("trailing", trailing), ("burst", bursts(trailing, bar_variance) & known)):
        key = {"event": kind, "events": int(event.sum())}
        found = {name: curve(values, state, event) for name, values in p.items()}
        for name, whole in found.items():
            curves += [key | {"model": name} | _told(point) for point in whole]
            for rate in RATES:
                if (best := at_rate(whole, rate)) is None:
                    continue
                shifted = shifted_recall(alarms_at(p[name], state, best.threshold), event, known)
                beside = {
                    other: at_rate(rival, best.alarms, "alarms") for other, rival in found.items() if other != name
                }
                told = {"shifted_recall": shifted.recall, "shifted_p": shifted.p_value}
                same = {other: nullable(point.recall) for other, point in beside.items() if point is not None}
                row = key | {"model": name, "rate": rate} | _told(best)
                points.append(row | {k: nullable(v) for k, v in told.items()} | {"recall_at_same_alarms": same})
    return {"alarm_curves": curves, "alarm_points": points}


def _told(point: Performance) -> dict[str, float | None]:
    return {name: nullable(value) for name, value in point._asdict().items()}


def _probability_if_quiet(probability: Any, now: Any) -> FloatArray:
    p, state = _grid(probability), _grid(now)
    if p.shape != state.shape:
        raise DataInvalid(f"probabilities {p.shape} for states {state.shape}; pass the same symbols and hours")
    return np.where(state < _FIRST_STRESS_CLASS, p, np.nan)


def _grid(values: Any) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] <= _QUIET:
        raise DataInvalid(f"shape {array.shape}: pass symbols × hours, more than {_QUIET} of them")
    return array


def _over(count: float, of: float) -> float:
    return count / of if of else float("nan")


@numba.njit(cache=True)
def _raised(probability: FloatArray, threshold: float, silence: int) -> BoolArray:
    n, hours = probability.shape
    out = np.zeros((n, hours), dtype=np.bool_)
    for i in range(n):
        free = 0
        for t in range(hours):
            if t >= free and probability[i, t] > threshold:
                out[i, t] = True
                free = t + silence
    return out
