"""Parts and their past: refreshes on the clock, a history in any cuts to the same bits, and a state carried hour by hour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from models.base import THRESHOLDS
from models.parts import Fixed, Hours, Made, Part, Run, Sequential
from models.past import Hour, Outcome, Past, Record
from models.trailing import DAY, FOUR_WEEKS, refreshes, window

Array = NDArray[np.float64]
SYMBOLS, HOURS, HORIZON, MONTH = 4, 2000, 6, 30 * DAY
TIMES = pd.date_range("2024-01-03 05:00", periods=HOURS, freq="h", tz="UTC").as_unit("us")


@pytest.fixture(scope="module")
def record() -> Record:
    rng = np.random.default_rng(0)
    truth = rng.normal(-9, 1, (SYMBOLS, HOURS))
    truth[2, 900:] = np.nan  # gone
    variance = np.exp(truth + rng.normal(0, 0.5, truth.shape))
    variance[:, HOURS - HORIZON :] = np.nan
    quiet = np.where(np.isnan(variance), np.nan, 0.01)
    thresholds = np.exp(rng.normal(-9, 1, (3, SYMBOLS, HOURS)))
    inputs = {"logit_of_trees": rng.normal(size=truth.shape)}
    return Record(
        HORIZON, {"a": truth}, Outcome(variance, quiet, quiet, quiet), thresholds, np.ones_like(truth), inputs
    )


class Shift(Part[float]):
    """The mean of a month's resolved ``ln V``, put on top of a further input."""

    every = DAY
    reach = MONTH
    makes = ("shifted",)

    def learn(self, past: Past, at: int) -> float:
        known = past["log_variance"][:, window(at, past.horizon, MONTH)]
        known = known[np.isfinite(known)]  # a symbol without a past must not change the order of addition
        return float(known.mean()) if len(known) else 0.0

    def apply(self, state: float, hours: Hours) -> Made:
        shifted = hours["logit_of_trees"] + state
        return Made({"shifted": shifted}, {"trees": {"p": shifted}})


class Halved(Fixed):
    """Gives a column again, changed."""

    def apply(self, state: None, hours: Hours) -> Made:
        return Made(columns={"trees": {"p": hours.column("trees", "p") / 2}})


@numba.njit(cache=True)
def follow(bound: Array, base: Array, variance: Array, theta: Array, start: int, lag: int) -> Array:
    """Quantile tracking: ``theta`` goes on top of the base, and each outcome moves it in the hour in which it is resolved."""
    out = theta.copy()
    for t in range(start, bound.shape[1]):
        for i in range(len(bound)):
            s = t - lag
            if s >= 0 and not np.isnan(variance[i, s]) and not np.isnan(bound[i, s]):
                out[i] += 0.1 * ((variance[i, s] > np.exp(bound[i, s])) - 0.1)
            bound[i, t] = base[i, t] + out[i]
    return out


class Bound(Sequential[None]):
    """An upper bound of ``ln V`` that nine out of ten stay under."""

    every = None
    reach = 0
    makes = ("bound",)

    def learn(self, past: Past, at: int) -> None:
        """Nothing."""

    def begin(self, n_symbols: int) -> Array:
        return np.zeros(n_symbols)

    def follow(self, state: None, carried: Array, hours: Hours) -> tuple[Made, Array]:
        before = max(hours.span.start - hours.horizon, 0)
        seen = slice(before, hours.span.stop)
        bound = hours.past["bound"][:, seen].copy()
        start = hours.span.start - before
        after = follow(
            bound, hours.past["raw a"][:, seen], hours.past["variance"][:, seen], carried, start, hours.horizon
        )
        return Made({"bound": bound[:, start:]}, {"bound": {"q90": np.exp(bound[:, start:])}}), after


def parts() -> list[Part[Any]]:
    return [Shift(), Halved(), Bound()]


def advanced(run: Run, cuts: Sequence[int]) -> dict[str, Array]:
    made = [run.advance(slice(a, b)) for a, b in pairwise(cuts)]
    return {
        f"{model} {name}": np.concatenate([one[model][name] for one in made], axis=1)
        for model, columns in made[0].items()
        for name in columns
    }


@pytest.fixture(scope="module")
def whole(record: Record) -> tuple[Run, dict[str, Array]]:
    run = Run(parts(), Past.of(record, TIMES))
    return run, advanced(run, [0, HOURS])


def test_what_is_learnt_stands_from_each_refresh_to_the_next(
    record: Record, whole: tuple[Run, dict[str, Array]]
) -> None:
    """Against a loop over the hours."""
    log_variance, at = np.log(record.outcome.variance), refreshes(TIMES, DAY)
    state = 0.0
    for t in range(HOURS):
        if t in at:
            known = [log_variance[:, s] for s in range(max(t - HORIZON + 1 - MONTH, 0), t - HORIZON + 1)]
            state = float(np.nanmean(known)) if known else 0.0
        expected = record.inputs["logit_of_trees"][:, t] + state
        np.testing.assert_allclose(whole[0].past["shifted"][:, t], expected, rtol=1e-12)
        np.testing.assert_array_equal(whole[1]["trees p"][:, t], whole[0].past["shifted"][:, t] / 2)


def test_a_carried_state_learns_from_each_outcome_once_it_is_resolved(
    record: Record, whole: tuple[Run, dict[str, Array]]
) -> None:
    theta, base, variance = np.zeros(SYMBOLS), record.members["a"], record.outcome.variance
    made = np.full(base.shape, np.nan)
    for t in range(HOURS):
        if t >= HORIZON:
            s = t - HORIZON
            known = np.isfinite(variance[:, s]) & np.isfinite(made[:, s])
            theta[known] += 0.1 * ((variance[:, s] > np.exp(made[:, s]))[known] - 0.1)
        made[:, t] = base[:, t] + theta
    np.testing.assert_allclose(whole[0].past["bound"], made, rtol=1e-12)
    late = slice(1000, HOURS - HORIZON)
    covered = (variance <= whole[1]["bound q90"])[[0, 1, 3], late]
    assert covered.mean() == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("cuts", [[0, 1, 2, 700, 701, HOURS], [0, 643, 644, HOURS], [*range(300), HOURS]])
def test_a_history_in_any_cuts_has_the_same_bits(
    cuts: list[int], record: Record, whole: tuple[Run, dict[str, Array]]
) -> None:
    run = Run(parts(), Past.of(record, TIMES))
    for name, values in advanced(run, cuts).items():
        np.testing.assert_array_equal(values, whole[1][name], err_msg=name)
    for name in run.past.names:
        np.testing.assert_array_equal(run.past[name], whole[0].past[name], err_msg=name)


def test_what_stood_is_told_with_its_hours(record: Record) -> None:
    shift = Shift()
    run = Run([shift], Past.of(record, TIMES))
    run.advance(slice(0, 100))
    first = run.past.first_hour
    at = [int(t) for t in refreshes(TIMES[:200], DAY)]
    assert [hour - first for hour, _ in run.learnt(shift)] == [t for t in at if t < 100]
    run.advance(slice(100, 101))  # between two refreshes: the last one stands
    assert [hour - first for hour, _ in run.learnt(shift)] == [max(t for t in at if t <= 100)]
    run.advance(slice(101, 200))
    assert [hour - first for hour, _ in run.learnt(shift)] == [
        max(t for t in at if t < 101),
        *(t for t in at if t > 100),
    ]


def hours_from(record: Record, begin: int, keep: NDArray[np.intp]) -> Iterator[Hour]:
    for t in range(begin, HOURS):
        yield Hour(
            {name: x[keep, t] for name, x in record.members.items()},
            Outcome(*(x[keep, t - HORIZON] for x in vars(record.outcome).values())),
            record.thresholds[:, keep, t],
            record.now[keep, t],
            {name: x[keep, t] for name, x in record.inputs.items()},
        )


def cut(record: Record, stop: int, keep: NDArray[np.intp]) -> Record:
    outcome = [x[keep, :stop].copy() for x in vars(record.outcome).values()]
    for x in outcome:
        x[:, stop - HORIZON :] = np.nan
    return Record(
        HORIZON,
        {name: x[keep, :stop] for name, x in record.members.items()},
        Outcome(*outcome),
        record.thresholds[:, keep, :stop],
        record.now[keep, :stop],
        {name: x[keep, :stop] for name, x in record.inputs.items()},
    )


def test_a_past_of_bounded_length_goes_on_to_the_same_bits(record: Record, whole: tuple[Run, dict[str, Array]]) -> None:
    begin, every = 1500, np.arange(SYMBOLS)
    run = Run(parts(), Past.of(cut(record, begin, every), TIMES[:begin]))
    run.advance(slice(0, begin))
    past = run.shorten()
    width = MONTH + HORIZON + FOUR_WEEKS
    assert len(past) == width < begin
    for t, hour in enumerate(hours_from(record, begin, every), start=begin):
        past.append(hour)
        made = run.advance(slice(len(past) - 1, len(past)))
        assert past.first_hour + len(past) - 1 == whole[0].past.first_hour + t
        for model, columns in made.items():
            for name, values in columns.items():
                np.testing.assert_array_equal(values[:, 0], whole[1][f"{model} {name}"][:, t], err_msg=f"{name} {t}")
    assert len(past) == width
    assert set(past.names) == set(whole[0].past.names)
    for name in past.names:  # what came of the last hours is not known yet
        np.testing.assert_array_equal(past[name], whole[0].past[name][:, -width:], err_msg=name)


def test_a_symbol_that_joins_begins_where_all_begin(record: Record) -> None:
    begin, joins, newcomer = 1500, 1530, 1
    late = cut(record, HOURS, np.arange(SYMBOLS))
    for x in (*late.members.values(), *late.inputs.values(), *vars(late.outcome).values()):
        x[newcomer, :joins] = np.nan
    run = Run(parts(), Past.of(late, TIMES))
    expected = advanced(run, [0, HOURS])
    keep = np.delete(np.arange(SYMBOLS), newcomer)
    live = Run(parts(), Past.of(cut(late, begin, keep), TIMES[:begin]))
    live.advance(slice(0, begin))
    past = live.shorten()
    few, all_ = hours_from(late, begin, keep), hours_from(late, begin, np.arange(SYMBOLS))
    for t, (hour, wide) in enumerate(zip(few, all_, strict=True), start=begin):
        if t == joins:
            rows = np.array([0, -1, 1, 2])
            past.place(rows)
            live.place(rows)
        past.append(hour if t < joins else wide)
        made = live.advance(slice(len(past) - 1, len(past)))
        there = keep if t < joins else np.arange(SYMBOLS)
        for model, columns in made.items():
            for name, values in columns.items():
                np.testing.assert_array_equal(
                    values[:, 0], expected[f"{model} {name}"][there, t], err_msg=f"{name} {t}"
                )


def test_a_field_has_one_maker(record: Record) -> None:
    with pytest.raises(ValueError, match="Shift makes 'shifted', which is there already"):
        Run([Shift(), Shift()], Past.of(record, TIMES))
    named = Record(HORIZON, {}, record.outcome, record.thresholds, record.now, {"shifted": record.now})
    with pytest.raises(ValueError, match="'shifted', which is there already"):
        Run([Shift()], Past.of(named, TIMES))


def test_what_is_carried_is_followed_not_applied(record: Record) -> None:
    past = Past.of(record, TIMES)
    with pytest.raises(TypeError, match="Bound carries a state"):
        Bound().apply(None, Hours(past, slice(0, 1), {}, slice(0, 1)))


def test_outcomes_are_learnt_from_on_the_log_scale(record: Record) -> None:
    fall, rise = np.array([0.0, 0.2]), np.array([0.3, 0.0])
    fields = Outcome(np.array([1.0, 2.0]), np.array([0.1, -0.1]), fall, rise).fields()
    np.testing.assert_allclose(np.exp(-fields["fall"]), 1 - fall)
    np.testing.assert_allclose(np.exp(fields["rise"]), 1 + rise)
    past = Past.of(record, TIMES)
    for name, threshold in zip(THRESHOLDS, record.thresholds, strict=True):
        np.testing.assert_array_equal(past[name], threshold)
