"""The ensemble continued hour by hour, against one pass over the whole history, on a dozen symbols with holes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from models.ensemble import Assembly, Ensemble, LiveEnsemble
from models.past import Hour, Outcome, Record

SYMBOLS, HOURS, BEGIN = 12, 1500, 1380
NEWCOMER, JOINS = 5, 1400
HORIZONS = (1, 6)
MEMBERS = ("ewma", "har", "har_seasonal", "har_x", "gjr", "lightgbm")
# 2024-02-19 is a refresh of the four-week clock, and comes after BEGIN.
TIMES = pd.date_range(end="2024-02-21 12:00", periods=HOURS, freq="h", tz="UTC", unit="us")


def record(h: int) -> Record:
    rng = np.random.default_rng(h)
    truth = -9 + np.log(h) + 0.3 * np.cumsum(rng.normal(0, 0.1, (SYMBOLS, HOURS)), axis=1)
    variance = np.exp(truth + rng.normal(0, 0.6, truth.shape))
    move = np.sqrt(variance) * rng.standard_t(4, truth.shape)
    excursions = (np.abs(move) * rng.uniform(0.5, 1.5, truth.shape) for _ in range(2))
    outcome = [variance, move, *(np.clip(x, 0, 0.5) for x in excursions)]
    members = {name: truth + rng.normal(0.1, 0.2 + 0.05 * k, truth.shape) for k, name in enumerate(MEMBERS)}
    gone = np.zeros(truth.shape, dtype=bool)
    gone[2, 700:760] = gone[7, 1390:1398] = gone[9, :400] = gone[NEWCOMER, :JOINS] = True
    for x in (*members.values(), *outcome):
        x[gone] = np.nan
    members["lightgbm"][3, 1300:1420] = members["har_x"][3, 1385:1410] = np.nan  # the ladder answers
    levels = np.nanquantile(variance, [0.3, 0.9, 0.975])
    thresholds = np.repeat(np.repeat(levels[:, None, None], SYMBOLS, axis=1), HOURS, axis=2)
    thresholds[:, 9, :600] = np.nan
    before = np.concatenate([np.full((SYMBOLS, h), np.nan), variance[:, :-h]], axis=1)
    now = np.where(np.isnan(before), np.nan, (before > thresholds).sum(axis=0).astype(float))
    for x in outcome:
        x[:, HOURS - h :] = np.nan
    return Record(h, members, Outcome(*outcome), thresholds, now)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [record(h) for h in HORIZONS]


@pytest.fixture(scope="module")
def batch(records: list[Record]) -> Mapping[int, Assembly]:
    return Ensemble().assemble(records, TIMES)


def started(records: list[Record], keep: np.ndarray) -> LiveEnsemble:
    """As it stood at BEGIN, on some of the symbols."""
    known = []
    for r in records:
        outcome = [x[keep, :BEGIN].copy() for x in vars(r.outcome).values()]
        for x in outcome:
            x[:, BEGIN - r.horizon :] = np.nan
        members = {name: f[keep, :BEGIN] for name, f in r.members.items()}
        known.append(Record(r.horizon, members, Outcome(*outcome), r.thresholds[:, keep, :BEGIN], r.now[keep, :BEGIN]))
    return LiveEnsemble(Ensemble(), known, TIMES[:BEGIN])


def stepped(live: LiveEnsemble, records: list[Record], t: int, keep: np.ndarray) -> Mapping[int, Assembly]:
    told = {
        r.horizon: Hour(
            {name: f[keep, t] for name, f in r.members.items()},
            Outcome(*(x[keep, t - r.horizon] for x in vars(r.outcome).values())),
            r.thresholds[:, keep, t],
            r.now[keep, t],
        )
        for r in records
    }
    return live.step(told)


def assert_column(found: Mapping[int, Assembly], batch: Mapping[int, Assembly], t: int, keep: np.ndarray) -> None:
    for h, assembly in found.items():
        assert list(assembly.columns) == list(batch[h].columns)
        for model, columns in assembly.columns.items():
            assert set(columns) == set(batch[h].columns[model])
            for name, x in columns.items():
                expected = batch[h].columns[model][name][keep, t]
                assert np.array_equal(x[:, 0], expected, equal_nan=True), (h, model, name, TIMES[t])
        assert np.array_equal(assembly.answered[:, 0], batch[h].answered[keep, t])
        weights = batch[h].combination.weights
        assert np.array_equal(assembly.combination.weights.iloc[0], weights[: TIMES[t]].iloc[-1])


def test_every_hour_is_the_column_of_one_pass(records: list[Record], batch: Mapping[int, Assembly]) -> None:
    keep = np.arange(SYMBOLS)
    live = started(records, keep)
    for t in range(BEGIN, HOURS):
        assert_column(stepped(live, records, t, keep), batch, t, keep)
    assert {int(k) for k in batch[1].answered[3, BEGIN:]} == {0, 1}  # the ensemble, and who stood in for it


def test_a_symbol_may_join(records: list[Record], batch: Mapping[int, Assembly]) -> None:
    keep = np.delete(np.arange(SYMBOLS), NEWCOMER)
    live = started(records, keep)
    for t in range(BEGIN, HOURS):
        if t == JOINS:
            live.place(
                np.where(np.arange(SYMBOLS) == NEWCOMER, -1, np.arange(SYMBOLS) - (np.arange(SYMBOLS) > NEWCOMER))
            )
            keep = np.arange(SYMBOLS)
        assert_column(stepped(live, records, t, keep), batch, t, keep)


def test_a_history_too_short_to_learn_from_is_continued_too(records: list[Record]) -> None:
    """It begins after the last refresh: what stands in before anything is resolved stays in force."""
    first, keep = BEGIN - 30, np.arange(SYMBOLS)
    late = [
        Record(
            r.horizon,
            {name: f[:, first:] for name, f in r.members.items()},
            Outcome(*(x[:, first:] for x in vars(r.outcome).values())),
            r.thresholds[:, :, first:],
            r.now[:, first:],
        )
        for r in records
    ]
    whole = Ensemble().assemble(late, TIMES[first:])
    known = [
        Record(
            r.horizon,
            {name: f[:, :30] for name, f in r.members.items()},
            Outcome(*(np.where(np.arange(30) < 30 - r.horizon, x[:, :30], np.nan) for x in vars(r.outcome).values())),
            r.thresholds[:, :, :30],
            r.now[:, :30],
        )
        for r in late
    ]
    live = LiveEnsemble(Ensemble(), known, TIMES[first:BEGIN])
    for t in range(BEGIN, HOURS):
        found = stepped(live, records, t, keep)
        for h, assembly in found.items():
            for model, columns in assembly.columns.items():
                for name, x in columns.items():
                    expected = whole[h].columns[model][name][:, t - first]
                    assert np.array_equal(x[:, 0], expected, equal_nan=True), (h, model, name, TIMES[t])
