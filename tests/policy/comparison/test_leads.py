"""Leads, false alarms and skill of margins whose warnings are known."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.figures import skill_figure
from forecaster.policy.comparison.leads import Onsets, leads, onsets

HOURS = 24 * 400
EVENTS = np.arange(1500, HOURS - 200, 700)


def _onsets() -> Onsets:
    event = np.zeros((2, HOURS), dtype=bool)
    event[0, EVENTS], event[1, EVENTS + 17] = True, True
    burst = np.roll(event, -3, axis=1)
    return Onsets(event, burst, np.ones(event.shape, dtype=bool), event)


def _margin(ahead: int, length: int = 12) -> np.ndarray:
    """0.1, doubled for ``length`` hours from ``ahead`` hours before each event."""
    im = np.full((2, HOURS), 0.1)
    for s, shift in ((0, 0), (1, 17)):
        for at in EVENTS + shift:
            im[s, at - ahead : at - ahead + length] = 0.2
    return im


def test_warnings_before_every_event_have_lead_and_skill() -> None:
    pooled, by_symbol = leads(_margin(10), _onsets())
    assert pooled.lead_hours == 10
    assert pooled.lead_hours_burst == 7
    assert pooled.false_alarms_per_symbol_year == 0
    assert pooled.lead_skill > 0.9
    assert pooled.events == 2 * len(EVENTS)
    assert [row.lead_hours for row in by_symbol] == [10, 10]


def test_a_warning_after_the_event_is_late() -> None:
    assert leads(_margin(-6), _onsets())[0].lead_hours == -6


def test_without_a_warning_the_lead_is_a_day_behind() -> None:
    pooled, _ = leads(np.full((2, HOURS), 0.1), _onsets())
    assert pooled.lead_hours == -24
    assert pooled.lead_skill == pytest.approx(0.0)


def test_warnings_far_from_events_are_false() -> None:
    pooled, _ = leads(_margin(300), _onsets())
    years = 2 * (HOURS - 167) / 8760  # the median needs a week
    assert pooled.false_alarms_per_symbol_year == pytest.approx(2 * len(EVENTS) / years)
    assert pooled.lead_hours == -24


def test_random_warnings_have_no_skill() -> None:
    rng = np.random.default_rng(5)
    im = np.full((2, HOURS), 0.1)
    for s in range(2):
        for at in rng.integers(0, HOURS - 60, 80):
            im[s, at : at + 40] = 0.2
    pooled, _ = leads(im, _onsets())
    assert abs(pooled.lead_skill) < 4 * pooled.sd
    assert pooled.sd > 0


def test_skill_counts_at_the_rate_of_false_alarms_only() -> None:
    told, _ = leads(_margin(10), _onsets())
    assert skill_figure(told).value is None
    assert "0.0 false alarms" in skill_figure(told).why
    assert skill_figure(told._replace(rate=22.0)).value == told.lead_skill


def test_an_alarm_before_an_event_beyond_the_span_is_not_false() -> None:
    hours = 2000
    im = np.full((1, hours), 0.1)
    im[0, 1480:1500] = 0.2
    later = np.zeros((1, hours), dtype=bool)
    later[0, 1490] = True
    known = np.zeros((1, hours), dtype=bool)
    known[0, 1000:1485] = True
    nothing = np.zeros((1, hours), dtype=bool)
    alone, _ = leads(im, Onsets(nothing, nothing, known, nothing))
    before, _ = leads(im, Onsets(nothing, nothing, known, later))
    assert alone.false_alarms_per_symbol_year > 0 == before.false_alarms_per_symbol_year


def test_a_burst_is_the_open_of_the_largest_of_the_24_bars_that_end_by_the_event(met: Contest) -> None:
    found, bars = onsets(met.ground), met.ground.history.panel.variance
    assert found.event.sum() > 1
    expected = {
        (s, max(range(t - 23, t + 1), key=lambda c, s=s: bars[s, c]) - 1)  # type: ignore[misc]
        for s, t in zip(*np.nonzero(found.event), strict=True)
    }
    assert set(zip(*np.nonzero(found.burst), strict=True)) == expected


def test_the_multiple_gives_the_rate_as_nearly_as_it_can() -> None:
    rng = np.random.default_rng(8)
    im = 0.1 * np.exp(0.2 * np.array([np.convolve(x, np.ones(6), "valid") for x in rng.normal(size=(2, HOURS + 5))]))
    nothing = np.zeros(im.shape, dtype=bool)
    told, _ = leads(im, Onsets(nothing, nothing, ~nothing, nothing))
    assert told.comparable
    assert told.rate == pytest.approx(24, abs=0.5)
    ratio = im / np.array([[np.median(row[max(0, t - 719) : t + 1]) for t in range(HOURS)] for row in im])
    above = ratio[:, 167:] >= told.multiple
    begun = (above[:, 1:] & ~above[:, :-1]).sum() + above[:, 0].sum()
    assert told.rate == pytest.approx(begun / (above.size / 8760))
