"""The online correction: against a plain re-telling of it, its coverage under a wrong law, and one hour at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from models.base import ENSEMBLE, EXCURSION_COLUMNS, RETURN_LEVELS, SHORTFALL_LEVELS, VARIANCE_LEVELS
from models.conformal import COLUMNS, FORGETTING_HOURS, LARGEST, LEVELS, OF_FAMILY, STEPS, Conformal, track
from models.parts import Fixed, Hours, Made, Run
from models.past import Outcome, Past

Array = NDArray[np.float64]
SYMBOLS = 3
SIGMA = 0.01


class Told(Fixed):
    """The ensemble's columns, given beforehand."""

    makes = ("learnt",)

    def __init__(self, columns: dict[str, Array], learnt: Array) -> None:
        self.columns = columns
        self.learnt = learnt

    def apply(self, state: None, hours: Hours) -> Made:
        return Made(
            {"learnt": self.learnt[:, hours.span]},
            {ENSEMBLE: {name: x[:, hours.span] for name, x in self.columns.items()}},
        )


def normal_law(n: int, hours: int, sd: float = SIGMA) -> dict[str, Array]:
    """Of returns with this deviation, of excursions as large as their absolute values, and of log V about -9."""
    law = stats.norm(0, sd)

    def whole(x: float) -> Array:
        return np.full((n, hours), x)

    out = {name: whole(float(np.exp(stats.norm.ppf(p, -9, sd * 50)))) for name, p in VARIANCE_LEVELS.items()}
    out |= {name: whole(law.ppf(p)) for name, p in RETURN_LEVELS.items()}
    for name, p in SHORTFALL_LEVELS.items():
        side = min(p, 1 - p)
        out[name] = whole(np.sign(p - 0.5) * sd * stats.norm.pdf(stats.norm.ppf(side)) / side)
    for name, p in EXCURSION_COLUMNS["long"].items():
        out[name] = whole(-np.expm1(-law.ppf((1 + p) / 2)))
    for name, p in EXCURSION_COLUMNS["short"].items():
        out[name] = whole(np.expm1(law.ppf((1 + p) / 2)))
    return out


def outcome(rng: np.random.Generator, n: int, hours: int, own: Array, horizon: int = 1) -> Outcome:
    """What comes is ``own`` times as far out as ``normal_law`` has it; the last ``horizon`` hours are not known yet."""
    noise = rng.normal(size=(4, n, hours)) * own[:, None] * SIGMA
    variance = np.exp(-9 + 50 * noise[0])
    came = [variance, noise[1], -np.expm1(-np.abs(noise[2])), np.expm1(np.abs(noise[3]))]
    for x in came:
        x[:, hours - horizon :] = np.nan
    return Outcome(*came)


def run_of(columns: dict[str, Array], came: Outcome, horizon: int, learnt: Array | None = None) -> Run:
    times = pd.date_range("2024-01-03 05:00", periods=came.variance.shape[1], freq="h", tz="UTC").as_unit("us")
    past = Past.beginning(times, horizon, came.fields())
    return Run([Told(columns, np.ones(came.variance.shape) if learnt is None else learnt), Conformal(horizon)], past)


def corrected(columns: dict[str, Array], came: Outcome, horizon: int = 1) -> dict[str, Array]:
    run = run_of(columns, came, horizon)
    return run.advance(slice(0, came.variance.shape[1]))[ENSEMBLE]


def plain(base: Array, unit: Array, outcome: Array, horizon: int) -> Array:
    """One level of one symbol, all its outcomes given at their origins."""
    theta, out = 0.0, np.empty(len(base))
    for t in range(len(base)):
        s = t - horizon
        if s >= 0 and not np.isnan(outcome[s]):
            hit = float(outcome[s] < base[s] + theta * unit[s])
            theta = (1 - 1 / FORGETTING_HOURS) * theta + STEPS[0] / np.sqrt(horizon) * (LEVELS[0] - hit)
            theta = float(np.clip(theta, -LARGEST, LARGEST))
        out[t] = theta
    return out


@pytest.mark.parametrize("horizon", [1, 4, 24])
def test_track_is_descent_on_what_was_issued(horizon: int) -> None:
    rng = np.random.default_rng(horizon)
    base, unit, y = rng.normal(-1, 0.3, 600), rng.uniform(0.5, 2, 600), rng.normal(0, 1, 600)
    y[50:70] = np.nan
    carried = np.full((1, 1, 1 + 2 * horizon), np.nan)
    late = np.concatenate([np.full(horizon, np.nan), y[:-horizon]])
    found = track(
        carried, base[None, None], unit[None, None], late[None, None], 17, LEVELS[:1], STEPS[:1], OF_FAMILY[:1]
    )
    assert np.array_equal(found[0, 0], plain(base, unit, y, horizon))
    assert np.ptp(found) > 0


@pytest.mark.parametrize("horizon", [1, 4])
def test_one_hour_at_a_time_leaves_the_same_bits(horizon: int) -> None:
    rng, hours = np.random.default_rng(1), 900
    came = outcome(rng, SYMBOLS, hours, np.array([0.8, 1.0, 1.3]), horizon)
    columns = normal_law(SYMBOLS, hours)
    for x in columns.values():
        x[1, :400] = x[2, 500:520] = np.nan
    came.log_return[0, 300:310] = np.nan
    batch = corrected(columns, came, horizon)
    run = run_of(columns, came, horizon)
    for span in [slice(0, 37), slice(37, 610), *(slice(t, t + 1) for t in range(610, hours))]:
        made = run.advance(span)[ENSEMBLE]
        for name, whole in batch.items():
            assert np.array_equal(made[name], whole[:, span], equal_nan=True), (name, span)


@pytest.mark.parametrize("horizon", [1, 4])
def test_what_is_not_resolved_yet_changes_nothing(horizon: int) -> None:
    rng, hours, cut = np.random.default_rng(2), 700, 600
    came = outcome(rng, SYMBOLS, hours, np.ones(SYMBOLS), horizon)
    poisoned = Outcome(*(x.copy() for x in vars(came).values()))
    for x in vars(poisoned).values():
        x[:, cut - horizon + 1 :] = 0.9
    columns = normal_law(SYMBOLS, hours)
    whole, other = corrected(columns, came, horizon), corrected(columns, poisoned, horizon)
    for name in whole:
        assert np.array_equal(whole[name][:, : cut + 1], other[name][:, : cut + 1])
    assert any(not np.array_equal(whole[name], other[name]) for name in whole)


def test_a_wrong_law_is_brought_to_its_levels_and_a_right_one_hardly_moves() -> None:
    rng, hours, settled = np.random.default_rng(3), 20_000, 6000
    own = np.array([0.85, 1.0, 1.2])
    came = outcome(rng, SYMBOLS, hours, own)
    columns = normal_law(SYMBOLS, hours)
    found = corrected(columns, came)
    late = slice(settled, hours - 1)
    of_field = [*VARIANCE_LEVELS, *RETURN_LEVELS, *EXCURSION_COLUMNS["long"], *EXCURSION_COLUMNS["short"]]
    truth = [came.variance] * 5 + [came.log_return] * 11 + [came.mae_long] * 4 + [came.mae_short] * 4
    assert tuple(of_field) == COLUMNS
    for name, level, y in zip(COLUMNS, LEVELS, truth, strict=True):
        for i in range(SYMBOLS):
            miss = abs((y[i, late] < found[name][i, late]).mean() - level)
            before = abs((y[i, late] < columns[name][i, late]).mean() - level)
            error = np.sqrt(level * (1 - level) / (hours - settled))
            if own[i] == 1.0:
                assert miss < 4 * error, name
            elif before > 6 * error:  # a level that the wrong law visibly misses
                assert miss < 0.6 * before, (name, i)
    calm = np.abs(found["ret_q010"][1] / columns["ret_q010"][1] - 1)
    assert calm.max() < 0.15


def test_a_correction_is_bounded() -> None:
    rng, hours = np.random.default_rng(4), 12_000
    came = outcome(rng, SYMBOLS, hours, np.full(SYMBOLS, 6.0))
    columns = normal_law(SYMBOLS, hours)
    found = corrected(columns, came)
    for name in ("ret_q050", "ret_q950"):
        moved = np.abs(found[name] - columns[name]) / SIGMA
        assert moved.max() == pytest.approx(LARGEST, rel=1e-6)


def test_a_newcomer_starts_from_the_mean_of_the_others_and_goes_its_own_way() -> None:
    rng, hours, joins = np.random.default_rng(5), 9000, 6000
    came = outcome(rng, SYMBOLS, hours, np.array([1.3, 1.2, 1.0]))
    columns = normal_law(SYMBOLS, hours)
    for x in columns.values():
        x[2, :joins] = np.nan
    found = corrected(columns, came)["ret_q025"]
    assert np.isnan(found[2, :joins]).all()
    assert found[2, joins] == pytest.approx(found[:2, joins].mean(), rel=1e-9)
    assert found[2, joins] < 1.02 * columns["ret_q025"][2, joins]
    assert abs(found[2, -1]) < abs(found[2, joins])


def test_nothing_is_learnt_from_what_stands_in_for_a_law() -> None:
    rng, hours, begins = np.random.default_rng(6), 3000, 2000
    came = outcome(rng, SYMBOLS, hours, np.full(SYMBOLS, 2.0))
    columns = normal_law(SYMBOLS, hours)
    learnt = np.ones((SYMBOLS, hours))
    learnt[:, :begins] = 0
    found = run_of(columns, came, 1, learnt).advance(slice(0, hours))[ENSEMBLE]["ret_q050"]
    assert found[:, : begins + 1] == pytest.approx(columns["ret_q050"][:, : begins + 1])
    assert (found[:, -1] < 1.02 * columns["ret_q050"][:, -1]).all()


def test_corrected_columns_never_cross_and_shortfalls_stay_beyond() -> None:
    rng, hours = np.random.default_rng(7), 8000
    came = outcome(rng, SYMBOLS, hours, np.array([0.5, 1.0, 2.5]))
    columns = normal_law(SYMBOLS, hours)
    # Levels so close that their own corrections take them past one another.
    for outer, inner in (("ret_q001", "ret_q005"), ("ret_q999", "ret_q995"), ("mae_long_q999", "mae_long_q995")):
        columns[outer] = columns[inner] * (1 + 1e-6)
    found = corrected(columns, came)
    families = (VARIANCE_LEVELS, RETURN_LEVELS, *EXCURSION_COLUMNS.values())
    for family in families:
        stacked = np.stack([found[name] for name in family])
        assert (np.diff(stacked, axis=0) >= 0).all()
    for side in EXCURSION_COLUMNS.values():
        for name in side:
            assert ((found[name] >= 0) & (found[name] < 1)).all()
    assert (found["ret_es010"] <= found["ret_q010"]).all()
    assert (found["ret_es025"] <= found["ret_q025"]).all()
    assert (found["ret_es975"] >= found["ret_q975"]).all()
    assert (found["ret_es990"] >= found["ret_q990"]).all()
    assert (found["ret_es010"] <= found["ret_es025"]).all()


def test_symbols_taken_anew_keep_what_they_carry() -> None:
    part = Conformal(4)
    rng = np.random.default_rng(8)
    carried = rng.normal(size=part.begin(3).shape)
    placed = part.place(carried, np.array([1, -1, 0, 2]))
    assert np.array_equal(placed[[0, 2, 3]], carried[[1, 0, 2]])
    assert np.isnan(placed[1]).all()
