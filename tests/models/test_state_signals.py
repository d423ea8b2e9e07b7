"""State signals against planted states and the plain filters, from restart to restart, and blind to what comes later."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from features.errors import DataInvalid
from models.state_signals import FIT_HOURS, INPUT, JUMP_PENALTY, MINIMUM_HOURS, STRESS, StateSignals
from models.states.hmm import GaussianHMM
from models.states.jump import JumpModel
from models.training_rows import TrainingRows

Array = NDArray[np.float64]
HORIZONS = (1, 24)
HOURS = 4000
TIMES = pd.date_range("2023-01-01", periods=HOURS, freq="h", tz="UTC").as_unit("us")
LEVELS = {"AAAUSDT": -11.0, "BBBUSDT": -9.0, "CCCUSDT": -10.0}


def regimes(seed: int, hours: int = HOURS) -> NDArray[np.bool_]:
    """Stressed or not: a chain that stays for two days on average."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.random(hours) < 1 / 48) % 2 == 1


def one(symbol: str, seed: int, times: pd.DatetimeIndex = TIMES) -> pd.DataFrame:
    rng = np.random.default_rng([seed, 1])
    x = LEVELS.get(symbol, -10.0) + 2.0 * regimes(seed, len(times)) + 0.8 * rng.normal(size=len(times))
    index = pd.MultiIndex.from_arrays([[symbol] * len(times), times], names=["symbol", "origin"])
    return pd.DataFrame({INPUT: x, "other": rng.normal(size=len(times))}, index=index)


def rows_of(X: pd.DataFrame) -> TrainingRows:
    return TrainingRows.of(X, pd.DataFrame(np.nan, index=X.index, columns=list(HORIZONS)))


@pytest.fixture(scope="module")
def X() -> pd.DataFrame:
    """Three markets of half a year, and one that is a week old."""
    young = one("YOUNGUSDT", 9, TIMES[-168:])
    whole = pd.concat([*(one(symbol, k) for k, symbol in enumerate(LEVELS)), young])
    return whole.drop(whole.index[700:705])


@pytest.fixture(scope="module")
def border() -> pd.Timestamp:
    return TIMES[3000]


@pytest.fixture(scope="module")
def past(X: pd.DataFrame, border: pd.Timestamp) -> pd.DataFrame:
    return X[X.index.get_level_values("origin") < border]


@pytest.fixture(scope="module")
def later(X: pd.DataFrame, border: pd.Timestamp) -> pd.DataFrame:
    return X[X.index.get_level_values("origin") >= border]


@pytest.fixture(scope="module")
def signals(past: pd.DataFrame) -> StateSignals:
    return StateSignals().learn(rows_of(past))


def column(signals: StateSignals, values: Array, name: str) -> Array:
    return values[:, signals.names.index(name)]


def test_planted_states_are_found_as_they_come(signals: StateSignals, later: pd.DataFrame) -> None:
    made = signals.filter(later)
    assert made.shape == (len(later), len(signals.names))
    place = later.index.get_level_values("symbol") != "YOUNGUSDT"
    true = np.concatenate([regimes(k)[3000:] for k in range(3)])
    stress = column(signals, made, STRESS)[place]
    assert ((stress > 0.5) == true).mean() > 0.9
    # As probabilities, and not only as a guess.
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (stress >= low) & (stress < low + 0.2)
        if inside.sum() > 100:
            assert true[inside].mean() == pytest.approx(stress[inside].mean(), abs=0.1)
    assert ((column(signals, made, "state_jump")[place] > 0) == true).mean() > 0.7  # it waits until a change has paid
    since = np.concatenate([hours_since_change(regimes(k))[3000:] for k in range(3)])
    run = column(signals, made, "state_log_run")[place]
    assert np.corrcoef(run, np.log(since))[0, 1] > 0.4
    recent = column(signals, made, "state_recent_change")[place]
    assert recent[(since == 2) | (since == 3)].mean() > 2 * recent[since > 24].mean()


def hours_since_change(stressed: NDArray[np.bool_]) -> Array:
    changed = np.flatnonzero(np.diff(stressed, prepend=~stressed[0]))
    return (
        np.arange(len(stressed)) - changed[np.searchsorted(changed, np.arange(len(stressed)), side="right") - 1] + 1.0
    )


def test_signals_are_those_of_the_plain_filters(signals: StateSignals, X: pd.DataFrame, past: pd.DataFrame) -> None:
    """Of one symbol, on its clock with a hole, from its first hour on, fitted on its newest two years."""
    own = past.loc["AAAUSDT", INPUT].reindex(TIMES[:3000]).to_numpy()
    assert np.isnan(own).sum() == 5
    assert len(own) < FIT_HOURS
    hmm = GaussianHMM(2).fit(own)
    whole = X.loc["AAAUSDT", INPUT].reindex(TIMES).to_numpy()
    filtered = hmm.filter(whole)
    present = np.isfinite(whole)
    made = np.vstack([signals.training[: present[:3000].sum()], signals.filter(X.loc[["AAAUSDT"]].iloc[2995:])])
    np.testing.assert_array_equal(column(signals, made, STRESS), filtered[present, 1])
    for h in HORIZONS:
        ahead = (filtered @ np.linalg.matrix_power(hmm.transmat_, h))[present, 1]
        np.testing.assert_allclose(column(signals, made, f"state_stress_ahead_{h}h"), ahead, rtol=1e-12)
    scaled = (whole - np.nanmean(own)) / np.nanstd(own)
    costs = JumpModel(2, jump_penalty=JUMP_PENALTY).fit(scaled[:3000]).costs(scaled)[present]
    np.testing.assert_allclose(
        column(signals, made, "state_jump"), np.clip((costs[:, 0] - costs[:, 1]) / JUMP_PENALTY, -1, 1), atol=1e-12
    )


def test_later_rows_change_nothing_and_hours_one_by_one_are_the_stretch(
    signals: StateSignals, later: pd.DataFrame
) -> None:
    whole = pd.DataFrame(signals.filter(later), index=later.index)
    origins = later.index.get_level_values("origin")
    part = later[origins < TIMES[3300]]
    np.testing.assert_array_equal(signals.filter(part), whole.loc[part.index])
    live = signals.copied()
    for t in TIMES[3000:3040]:
        hour = later[origins == t]
        np.testing.assert_array_equal(live.filter(hour), whole.loc[hour.index])
        live.follow(hour)
    rest = later[origins >= TIMES[3040]]
    np.testing.assert_array_equal(live.filter(rest), whole.loc[rest.index])
    # The one that was copied stands where it stood.
    np.testing.assert_array_equal(signals.filter(later), whole)


def test_an_hour_without_a_bar_passes_as_one_without_evidence(signals: StateSignals, later: pd.DataFrame) -> None:
    rows = later.loc[["BBBUSDT"]]
    holed = rows.copy()
    holed.iloc[10:14] = np.nan
    kept = np.r_[0:10, 14 : len(rows)]
    np.testing.assert_array_equal(signals.filter(rows.iloc[kept]), signals.filter(holed)[kept])


def test_a_young_symbol_takes_the_parameters_of_the_median_one(signals: StateSignals, later: pd.DataFrame) -> None:
    assert signals.donor_ is not None
    # The calm levels are -11, -9 and -10.
    assert signals.donor_.hmm.means_[0, 0] == pytest.approx(-10, abs=0.2)
    unknown = later.loc[["CCCUSDT"]].rename(index={"CCCUSDT": "NEWUSDT"}, level="symbol")
    made, seen = signals.filter(unknown), signals.filter(later.loc[["CCCUSDT"]])
    assert not np.array_equal(made[0], seen[0])
    np.testing.assert_allclose(made[100:, 0], seen[100:, 0], atol=1e-6)  # a filter forgets where it began
    assert np.isfinite(signals.filter(later.loc[["YOUNGUSDT"]])).all()


def test_rows_in_any_order_give_the_same(signals: StateSignals, past: pd.DataFrame, later: pd.DataFrame) -> None:
    order = np.random.default_rng(0).permutation(len(past))
    again = StateSignals().learn(rows_of(past.iloc[order]))
    np.testing.assert_array_equal(again.training, signals.training[order])
    order = np.random.default_rng(0).permutation(len(later))
    np.testing.assert_array_equal(signals.filter(later.iloc[order]), signals.filter(later)[order])


def test_state_restores_the_filters(signals: StateSignals, later: pd.DataFrame) -> None:
    again = StateSignals.restore(pickle.loads(pickle.dumps(signals.state())))
    np.testing.assert_array_equal(again.filter(later), signals.filter(later))
    new = later.rename(index={"AAAUSDT": "NEWUSDT"}, level="symbol")
    np.testing.assert_array_equal(again.filter(new), signals.filter(new))


def test_they_are_made_once_for_all_who_ask(past: pd.DataFrame) -> None:
    rows = rows_of(past)
    assert StateSignals.of(rows) is StateSignals.of(rows)


@pytest.mark.parametrize("hours", [MINIMUM_HOURS - 1, 2000])
def test_without_history_or_movement_nothing_is_said(hours: int) -> None:
    frame = one("AAAUSDT", 0).iloc[:hours]
    if hours > MINIMUM_HOURS:
        frame = frame.assign(**{INPUT: -18.4})
    silent = StateSignals().learn(rows_of(frame))
    assert np.isnan(silent.training).all()
    again = StateSignals.restore(silent.state())
    assert np.isnan(again.filter(frame)).all()
    again.follow(frame)


def test_a_missing_column_is_named(past: pd.DataFrame) -> None:
    with pytest.raises(DataInvalid, match=INPUT):
        StateSignals().learn(rows_of(past[["other"]]))
