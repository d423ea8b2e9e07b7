"""The back-test's runs: crowds in common, windows as differences, fields as the venue's own metrics define them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.policy.comparison.rows import VENUE_FIELDS
from forecaster.venue import Margins, Path, VenueParams, metrics, simulate
from forecaster.venue.backtest import Amounts, Span, Task, compete, crowd, fields_of
from forecaster.venue.contestants import Entry

START, STOP = 290, 340  # the fall of the crash lies inside


@pytest.fixture(scope="module")
def few(params: VenueParams) -> VenueParams:
    return params.replace(population={"slots": 300})


@pytest.fixture(scope="module")
def task(crash: Path) -> Task:
    bars = len(crash)
    low, late = Margins.constant(0.06, bars), Margins.constant(0.06, bars - START - 5)
    spans = (Span("all", 0, 0, bars), Span("event", 100, START, STOP))
    entries = {("raw", "low"): Entry(0, low), ("raw", "ensemble_adl_queue"): Entry(0, low),
               ("raw", "late"): Entry(START + 5, late)}  # fmt: skip
    return Task(crash, spans, entries)


@pytest.fixture(scope="module")
def found(task: Task, few: VenueParams) -> dict[tuple[str, str, str], Amounts]:
    return dict(compete(task, few))


def test_fields_of_a_whole_run_are_the_venues_metrics(
    task: Task, found: dict[tuple[str, str, str], Amounts], few: VenueParams
) -> None:
    people = crowd(few, "TEST", len(task.path))
    told = metrics(simulate(task.path, task.entries["raw", "low"].margins, people, few))
    assert told["liquidations_per_oi_year"] > 0
    fields = fields_of(found["raw", "low", "all"], "all")
    assert fields == pytest.approx({name: told[name] for name in VENUE_FIELDS}, nan_ok=True)


def test_an_event_counts_what_happens_in_its_own_bars(
    task: Task, found: dict[tuple[str, str, str], Amounts], few: VenueParams
) -> None:
    event = found["raw", "low", "event"]
    lead = replace(
        task.path, **{n: getattr(task.path, n)[100:] for n in task.path.__dataclass_fields__ if n != "symbol"}
    )
    run = simulate(lead, Margins.constant(0.06, len(lead)), crowd(few, "TEST", len(task.path)).since(100), few)
    bars = slice(START - 100, STOP - 100)
    assert run.liquidated[: START - 100].sum() > 0  # else the difference would be no difference
    assert event.liquidated == pytest.approx(run.liquidated[bars].sum())
    assert event.drawn + event.bad_debt == pytest.approx(run.shortfall[bars].sum())
    assert event.interest == pytest.approx(run.open_interest[bars].mean() * (STOP - START) / 8766)
    assert np.isnan(fields_of(event, "event")["unnecessary_liquidation_rate"])


def test_a_policy_is_run_from_its_first_margin_on(
    task: Task, found: dict[tuple[str, str, str], Amounts], few: VenueParams
) -> None:
    first = task.entries["raw", "late"].first
    cut = replace(
        task.path, **{n: getattr(task.path, n)[first:] for n in task.path.__dataclass_fields__ if n != "symbol"}
    )
    run = simulate(cut, task.entries["raw", "late"].margins, crowd(few, "TEST", len(task.path)).since(first), few)
    assert found["raw", "late", "all"] == Amounts.of(run)
    assert found["raw", "late", "event"].liquidated == pytest.approx(run.liquidated[: STOP - first].sum())


def test_crowds_differ_by_symbol_and_by_nothing_else(few: VenueParams) -> None:
    one, same, other = crowd(few, "A", 200), crowd(few, "A", 200), crowd(few, "B", 200)
    np.testing.assert_array_equal(one.leverage, same.leverage)
    assert one.leverage[:50].tolist() != other.leverage[:50].tolist()


def test_the_key_knows_margins_path_and_pack(task: Task, few: VenueParams) -> None:
    key = task.key(few)
    assert task.key(few) == key
    entries = {**task.entries, ("raw", "low"): Entry(0, Margins.constant(0.0601, len(task.path)))}
    assert replace(task, entries=entries).key(few) != key
    assert replace(task, path=task.path.with_gap(40, 0.001)).key(few) != key
    assert task.key(few.replace(fund={"size_share": 0.003})) != key
