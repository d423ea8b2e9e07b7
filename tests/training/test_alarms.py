from __future__ import annotations

import numpy as np
import pytest

from features.errors import DataInvalid
from training.alarms import (
    alarm_tables,
    alarms_at,
    at_rate,
    bursts,
    curve,
    events,
    known_hours,
    perform,
    shifted_recall,
)

NAN = np.nan


def classes(rows: int, hours: int, seed: int) -> np.ndarray:
    """Regimes that last: calm, normal and stress, with a few unknown hours."""
    made = np.random.default_rng(seed)
    out = np.repeat(made.choice([0.0, 1.0, 2.0, 3.0], (rows, hours // 30 + 1), p=[0.5, 0.3, 0.15, 0.05]), 30, axis=1)
    out = out[:, :hours].copy()
    out[made.uniform(size=out.shape) < 0.002] = NAN
    return out


def market(seed: int = 1, years: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """States of three symbols, and a probability that is high in two of three days before stress."""
    now = classes(3, int(8760 * years), seed)
    made = np.random.default_rng(seed + 100)
    p = made.beta(1, 8, now.shape)
    for s, t in zip(*np.nonzero(events(now)), strict=True):
        if made.uniform() < 0.67:
            p[s, max(0, t - 10) : t] += 0.4
    return now, np.clip(p, 0, 1)


def test_events_by_brute_force() -> None:
    now = classes(4, 3000, 3)
    found = events(now)
    for s, t in np.ndindex(*now.shape):
        quiet = t >= 48 and (now[s, t - 48 : t] <= 1).all()
        assert found[s, t] == (quiet and now[s, t] >= 2), (s, t)
    assert found.sum() > 5


def test_bursts_are_the_largest_bars_of_the_day_before() -> None:
    now = classes(4, 3000, 3)
    event = events(now)
    v = np.random.default_rng(0).gamma(1.0, 1.0, now.shape)
    v[:, ::7] = NAN
    found = bursts(event, v)
    expected = np.zeros_like(found)
    for s, t in zip(*np.nonzero(event), strict=True):
        day = [(v[s, k], k) for k in range(t - 24, t) if not np.isnan(v[s, k])]
        expected[s, max(day)[1]] = True
    np.testing.assert_array_equal(found, expected)
    assert not bursts(event, np.full_like(v, NAN)).any()


def slow_alarms(p: np.ndarray, now: np.ndarray, threshold: float) -> np.ndarray:
    out = np.zeros(p.shape, dtype=bool)
    for s, t in np.ndindex(*p.shape):
        out[s, t] = p[s, t] > threshold and now[s, t] <= 1 and not out[s, max(0, t - 23) : t].any()
    return out


def test_alarms_and_their_performance_by_brute_force() -> None:
    now, p = market(years=0.5)
    p[:, 50:60] = NAN
    alarm = alarms_at(p, now, 0.35)
    np.testing.assert_array_equal(alarm, slow_alarms(p, now, 0.35))
    event, known = events(now), known_hours(p, now)
    leads = []
    for s, t in zip(*np.nonzero(event), strict=True):
        ahead = [t - a for a in np.flatnonzero(alarm[s]) if 1 <= t - a <= 24]
        leads += [min(ahead)] if ahead else []
    true = sum(any(event[s, a + 1 : a + 25]) for s, a in zip(*np.nonzero(alarm), strict=True))
    years = known.sum() / 8760
    found = perform(alarm, event, known, 0.35)
    assert found.recall == pytest.approx(len(leads) / event.sum())
    assert found.lead == np.median(leads)
    assert found.alarms == pytest.approx(alarm.sum() / years)
    assert found.false_alarms == pytest.approx((alarm.sum() - true) / years)
    assert found.precision == pytest.approx(true / alarm.sum())
    assert 0 < found.precision < 1


def test_nothing_to_divide_by_is_null() -> None:
    none = np.zeros((1, 100), dtype=bool)
    found = perform(none, none, none)
    assert np.isnan(found[1:]).all()


def test_the_curve_runs_from_many_alarms_to_few_and_a_rate_picks_its_best_point() -> None:
    now, p = market()
    points = curve(p, now, events(now))
    rates = [point.alarms for point in points]
    assert rates[0] > 20 * rates[-1]
    best = at_rate(points, 15.0)
    assert best is not None
    assert best.false_alarms <= 15.0
    assert best.recall == max(point.recall for point in points if point.false_alarms <= 15.0)
    assert at_rate(points, -1.0) is None
    assert curve(np.full_like(p, NAN), now, events(now)) == []


def test_shifted_alarms_by_brute_force() -> None:
    now, p = market(years=0.3)
    p[1, :500] = NAN  # listed later: its circle is shorter
    alarm, known = alarms_at(p, now, 0.35), known_hours(p, now)
    event = events(now) & known
    reps = 40
    shares = np.random.default_rng(20230701).random(reps)
    null = []
    for share in shares:
        hits = []
        for s in range(3):
            first, last = np.flatnonzero(known[s])[[0, -1]]
            size = last - first + 1
            moved = np.roll(alarm[s, first : last + 1], int(share * size))
            hits += [any(moved[(t - first - k) % size] for k in range(1, 25)) for t in np.flatnonzero(event[s])]
        null.append(np.mean(hits))
    own = perform(alarm, event, known).recall
    found = shifted_recall(alarm, event, known, reps=reps)
    assert found.recall == pytest.approx(np.mean(null))
    assert found.p_value == pytest.approx((1 + np.sum(np.array(null) >= own)) / (reps + 1))


def test_the_null_is_right_for_blind_alarms_and_rejects_for_seeing_ones() -> None:
    blind = []
    for seed in range(60):
        now, _ = market(seed, 0.5)
        p = np.random.default_rng(seed).beta(1, 8, now.shape)
        known = known_hours(p, now)
        blind.append(shifted_recall(alarms_at(p, now, 0.55), events(now) & known, known, reps=200).p_value < 0.10)
    assert np.mean(blind) < 0.25
    now, p = market()
    known = known_hours(p, now)
    seeing = shifted_recall(alarms_at(p, now, 0.4), events(now) & known, known)
    assert seeing.p_value == pytest.approx(1 / 1001)


def test_tables_compare_models_on_the_same_hours_and_at_the_same_number_of_alarms() -> None:
    now, p = market()
    blind = np.random.default_rng(5).beta(1, 8, p.shape)
    blind[0, :1000] = NAN
    bar = np.random.default_rng(6).gamma(1.0, 1.0, p.shape)
    found = alarm_tables({"own": p, "blind": blind, "silent": np.full_like(p, NAN)}, now, bar)
    points = {(r["model"], r["event"], r["rate"]): r for r in found["alarm_points"]}
    own, other = points["own", "trailing", 15.0], points["blind", "trailing", 15.0]
    assert own["recall"] > own["recall_at_same_alarms"]["blind"] + 0.2
    assert other["recall"] < other["recall_at_same_alarms"]["own"]
    assert own["recall"] > own["shifted_recall"] + 0.2
    assert abs(other["recall"] - other["shifted_recall"]) < 0.2
    assert own["events"] == other["events"] == (events(now) & known_hours(blind, now))[:, :-24].sum()
    assert {row["model"] for row in found["alarm_curves"]} == {"own", "blind"}
    matched = [r for r in found["alarm_curves"] if (r["model"], r["event"]) == ("blind", "trailing")]
    best = max(r["recall"] for r in matched if r["alarms"] <= own["alarms"])
    assert own["recall_at_same_alarms"]["blind"] == best
    # Whatever is said in the last day cannot be judged yet.
    late = p.copy()
    late[:, -24:] = 0.99
    assert alarm_tables({"own": late, "blind": blind}, now, bar) == found
    assert alarm_tables({"silent": np.full_like(p, NAN)}, now, bar) == {"alarm_curves": [], "alarm_points": []}


def test_refusals() -> None:
    with pytest.raises(DataInvalid, match="more than 48"):
        events(np.zeros((2, 48)))
    with pytest.raises(DataInvalid, match="same symbols and hours"):
        alarms_at(np.zeros((2, 60)), np.zeros((3, 60)), 0.5)
