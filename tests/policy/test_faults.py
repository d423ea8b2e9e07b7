"""A thousand faults in a good stream: none loosens a margin, each is told, and every contract invariant holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid
from features.market import Market
from forecaster.policy import Params, PolicyState, decide, prepare
from forecaster.policy.types import PPM, REASONS, Decision, Mode

HOUR: Final = pd.Timedelta(hours=1)
SEEDS, EACH = 5, 200
NUMBERS: Final = (
    "variance",
    "vol_annualised",
    "var_q50",
    "ret_q005",
    "ret_es990",
    "mae_long_q990",
    "mae_long_q995",
    "mae_short_q990",
    "mae_short_q999",
)
# What a symbol of the market always has; an absent open interest or fund is no fault.
MUST: Final = (
    "daily_volume_usd",
    "hour_share",
    "ladder_volume_usd",
    "sentinel_variance",
    "stress_move",
    "stress_fall",
    "safe_im",
    "history_days",
    "conformal_im",
    "conformal_mm",
)
SEEN: Final = (
    *MUST,
    "funding_q",
    "funding_interval_hours",
    "open_interest_usd",
    "hour_move",
    "sigma_median",
    "drawdown",
    "usual_vol",
)
Rng = np.random.Generator
Fault = Callable[[pd.DataFrame, pd.Index, Rng], pd.DataFrame]


def number(value: float) -> Fault:
    def inject(frame: pd.DataFrame, rows: pd.Index, rng: Rng) -> pd.DataFrame:
        frame.loc[rows, rng.choice(NUMBERS)] = value
        return frame

    return inject


def observable(value: float, names: tuple[str, ...] = SEEN) -> Fault:
    def inject(frame: pd.DataFrame, rows: pd.Index, rng: Rng) -> pd.DataFrame:
        frame.loc[rows, "obs_" + rng.choice(names)] = value
        return frame

    return inject


def replaced(column: str, value: object) -> Fault:
    def inject(frame: pd.DataFrame, rows: pd.Index, rng: Rng) -> pd.DataFrame:
        frame.loc[rows, column] = value
        return frame

    return inject


def crossing(frame: pd.DataFrame, rows: pd.Index, rng: Rng) -> pd.DataFrame:
    low, high = (("mae_long_q990", "mae_long_q999"), ("ret_q005", "ret_q995"), ("var_q25", "var_q75"))[rng.integers(3)]
    frame.loc[rows, [low, high]] = frame.loc[rows, [high, low]].to_numpy()
    return frame


def shifted(hours: int) -> Fault:
    def inject(frame: pd.DataFrame, rows: pd.Index, rng: Rng) -> pd.DataFrame:
        frame.loc[rows, "data_asof"] += hours * HOUR
        return frame

    return inject


def wrong_sum(frame: pd.DataFrame, rows: pd.Index, rng: Rng) -> pd.DataFrame:
    frame.loc[rows, rng.choice(["p_calm", "p_crisis"])] += rng.choice([0.3, 1.0, -2.0, np.nan])
    return frame


def absent(frame: pd.DataFrame, rows: pd.Index, rng: Rng) -> pd.DataFrame:
    return frame.drop(index=rows)


def no_day(frame: pd.DataFrame, rows: pd.Index, rng: Rng) -> pd.DataFrame:
    return frame.drop(index=rows[frame.loc[rows, "horizon_hours"] == 24])


FAULTS: Final[dict[str, Fault]] = {
    "NaN": number(np.nan),
    "infinite": number(np.inf),
    "minus infinite": number(-np.inf),
    "absurd": replaced("variance", 1e6),
    "zero": replaced("variance", 0.0),
    "negative": replaced("variance", -1e-4),
    "margin above everything": replaced("mae_long_q999", 7.0),
    "crossing": crossing,
    "future data": shifted(1),
    "reversed clock": shifted(500),
    "old data": shifted(-3),
    "day-old data": shifted(-30),
    "wrong sum": wrong_sum,
    "absent symbol": absent,
    "no margin horizon": no_day,
    "blocked": replaced("status", "blocked"),
    "unknown status": replaced("status", "fine"),
    "observable infinite": observable(np.inf),
    "observable negative": observable(-1.0),
    "observable absurd": observable(1e30),
    "observable missing": observable(np.nan, MUST),
    "old bars": replaced("obs_bar_age_hours", 100.0),
    "bars from the future": replaced("obs_bar_age_hours", -1.0),
    "lost feed": replaced("obs_feed_lost", 1.0),
}


@pytest.fixture(scope="module")
def good(forecasts: pd.DataFrame, market: Market, params: Params) -> pd.DataFrame:
    return prepare(forecasts, market, params).reset_index(drop=True)


def injected(good: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, dict[tuple[str, pd.Timestamp], str]]:
    """The stream with ``EACH`` faulty lines, alone and in runs, and what is wrong with each."""
    rng, frame = np.random.default_rng(seed), good.copy()
    groups = good.groupby(["symbol", "origin"]).groups
    keys = [key for key in groups if key[1] > good["origin"].min()]
    chosen: dict[tuple[str, pd.Timestamp], str] = {}
    kinds = list(FAULTS)
    while len(chosen) < EACH:
        symbol, origin = keys[rng.integers(len(keys))]
        kind = kinds[len(chosen) % len(kinds)]
        for step in range(int(rng.integers(1, 4))):
            key = (symbol, origin + step * HOUR)
            if key in groups and key not in chosen and len(chosen) < EACH:
                frame = FAULTS[kind](frame, groups[key], rng)
                chosen[key] = kind
    return frame, chosen


def lawful(line: Decision, params: Params) -> bool:
    """The invariants that the contract of the schedule states for every line."""
    im, mm, fee = line.vector.im, line.vector.mm, line.vector.penalty
    return (
        0 < fee < mm[0]
        and all(m < i <= PPM for i, m in zip(im, mm, strict=True))
        and list(im) == sorted(im)
        and list(mm) == sorted(mm)
        and list(line.caps) == sorted(set(line.caps))
        and 0 <= line.vector.haircut <= PPM
        and 0 <= line.exposure <= params.exposure.scale_max * PPM
        and line.insurance_target >= 0
        and line.as_of <= line.announced_at <= line.effective_at < line.expires_at
        and set(line.reasons) <= set(REASONS)
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_fault_loosens_a_margin(good: pd.DataFrame, params: Params, seed: int) -> None:
    frame, chosen = injected(good, seed)
    assert set(chosen.values()) == set(FAULTS)
    lines, state = decide(frame, PolicyState.initial(), params)
    last: dict[str, Decision] = {}
    met, held = 0, 0
    for line in lines:
        before, key = last.get(line.symbol), (line.symbol, pd.Timestamp(line.as_of, unit="us", tz="UTC"))
        assert lawful(line, params), (key, chosen.get(key))
        assert sum(line.decomposition) == line.vector.im[0] - (before.vector.im[0] if before else 0)
        if key in chosen:
            assert before is not None
            met += 1
            looser = [now < then for now, then in zip(line.vector.parts, before.vector.parts, strict=True)]
            assert not any(looser), (key, chosen[key])
            assert {"STALE", "NAN"} & {*line.reasons}, (key, chosen[key])
            held += line.mode is Mode.FAILSAFE
        last[line.symbol] = line
    assert met == EACH
    assert held > EACH / 2
    # The stream loosens where nothing is wrong: the invariant is not met by standing still.
    clean = [line for line in lines if "DECAY" in line.reasons]
    assert len(clean) > 50
    assert state.symbols.keys() == {line.symbol for line in lines}


def test_every_kind_of_fault_is_told_at_its_line_and_gone_after_it(good: pd.DataFrame, params: Params) -> None:
    start = good["origin"].min() + 20 * HOUR
    stream = good[(good["origin"] <= start + 3 * HOUR) & (good["origin"] >= start - 3 * HOUR)]
    clean, _ = decide(stream, PolicyState.initial(), params)
    assert not {"STALE", "NAN"} & {reason for line in clean for reason in line.reasons}
    for kind, fault in FAULTS.items():
        rows = stream.index[(stream["origin"] == start) & (stream["symbol"] == "BTCUSDT")]
        lines, _ = decide(fault(stream.copy(), rows, np.random.default_rng(4)), PolicyState.initial(), params)
        told = {
            (line.symbol, (pd.Timestamp(line.as_of, unit="us", tz="UTC") - start) / HOUR)
            for line in lines
            if {"STALE", "NAN"} & {*line.reasons}
        }
        assert told == {("BTCUSDT", 0.0)}, kind


def test_a_repeated_key_is_refused_by_name(good: pd.DataFrame, params: Params) -> None:
    """Which of two rows is meant nobody can say: the file is broken, and no line is decided on it."""
    for repeated in (good.iloc[[700]], good.iloc[[700]].assign(variance=1e-9)):
        twice = pd.concat([good, repeated], ignore_index=True)
        with pytest.raises(DataInvalid, match=f"{good['symbol'][700]} .* h stands twice"):
            decide(twice, PolicyState.initial(), params)
