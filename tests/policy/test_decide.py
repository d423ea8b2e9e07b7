"""decide: idempotent, the same one by one; faults never loosen; every reason is emitted for its cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.errors import UsageError
from features.market import Market
from forecaster.policy import Params, PolicyState, decide, prepare
from forecaster.policy.decide import govern
from forecaster.policy.inputs import read
from forecaster.policy.types import MODES, REASONS, Decision, Mode, Override

HOUR = pd.Timedelta(hours=1)
START = pd.Timestamp("2024-03-01", tz="UTC")
Rows = Callable[..., pd.DataFrame]


def flat(rows_of: Rows, hours: int, sigma: float | np.ndarray = 0.005, symbol: str = "BTCUSDT") -> pd.DataFrame:
    origins = pd.date_range(START, periods=hours, freq="h").as_unit("us")
    return rows_of(symbol, origins, np.full(hours, sigma) if np.isscalar(sigma) else sigma)


def run(frame: pd.DataFrame, params: Params, overrides: Any = ()) -> tuple[Decision, ...]:
    return decide(frame, PolicyState.initial(), params, overrides)[0]


def override(hours: tuple[int, int] = (5, 15), symbol: str = "BTCUSDT", **asked: Any) -> Override:
    start, expires = ((START + hour * HOUR).value // 1000 for hour in hours)
    said: dict[str, Any] = {"im_floor_ppm": None, "im_cap_ppm": None, "who": "desk", "why": "drill"}
    return Override(symbol, start, expires, **(said | {"acknowledged": False} | asked))


@pytest.fixture(scope="module")
def prepared(forecasts: pd.DataFrame, market: Market, params: Params) -> pd.DataFrame:
    return prepare(forecasts, market, params)


def test_one_by_one_gives_the_same_as_all_at_once(prepared: pd.DataFrame, params: Params) -> None:
    frame = prepared[prepared["origin"] < prepared["origin"].min() + 60 * HOUR]
    together, end = decide(frame, PolicyState.initial(), params)
    state, single = PolicyState.initial(), []
    for _, rows in frame.groupby("origin"):
        before = state
        decisions, state = decide(rows, state, params)
        assert decide(rows, before, params)[0] == decisions
        single += decisions
    assert tuple(single) == together
    assert state == end


def test_columns_are_the_decisions_and_a_choice_of_symbols_changes_none(prepared: pd.DataFrame, params: Params) -> None:
    frame = prepared[prepared["origin"] < prepared["origin"].min() + 400 * HOUR]
    inputs = read(frame, params)
    columns, lines = govern(inputs, params), run(frame, params)
    assert len(columns) == len(lines) == 1200
    assert columns.im.tolist() == [d.vector.im[0] for d in lines]
    assert columns.mm.tolist() == [d.vector.mm[0] for d in lines]
    assert [MODES[code] for code in columns.mode] == [d.mode for d in lines]
    assert columns.has("STEP_CAP").tolist() == ["STEP_CAP" in d.reasons for d in lines]
    assert columns.decomposition.tolist() == [list(d.decomposition) for d in lines]
    alone = govern(inputs, params, symbols=("ETHUSDT",))
    assert alone.symbols == ("ETHUSDT",)
    np.testing.assert_array_equal(alone.vector, columns.vector[columns.of("ETHUSDT")])
    with pytest.raises(UsageError, match="symbols: ETHUSDT"):
        alone.of("BTCUSDT")


def test_a_state_of_other_tiers_is_refused(rows_of: Rows, params: Params) -> None:
    _, state = decide(flat(rows_of, 2), PolicyState.initial(), params)
    fewer = replace(params, liquidity=replace(params.liquidity, tier_shares=(0.001, 0.01)))
    with pytest.raises(UsageError, match="BTCUSDT has 6 tiers, the parameter pack 2"):
        decide(flat(rows_of, 3), state, fewer)


def test_repeating_origins_changes_nothing(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 5)
    _, state = decide(frame, PolicyState.initial(), params)
    again, same = decide(frame, state, params)
    assert again == ()
    assert same == state


def test_first_line_is_the_ungoverned_target_worked_by_hand(rows_of: Rows, designed: Params) -> None:
    (decision,) = run(flat(rows_of, 1, 0.005), designed)
    sigma = 0.005 * np.sqrt(24)
    core = np.exp(3.2 * sigma) - 1
    stressed = 0.75 * core + 0.25 * max(core, 0.30)
    lam = 0.00025 + sigma * np.sqrt(500 / 1e6)
    assert decision.vector.im[0] == int(np.ceil(1e6 * (stressed + lam)))
    assert decision.vector.mm[0] == -(-decision.vector.im[0] // 2)
    assert decision.caps == (500, 1000, 2000, 5000, 10000, 20000)
    assert decision.exposure == int(1e6 * np.clip(0.60 / (0.005 * np.sqrt(8760)), 0.25, 1.5))
    assert dict(zip(("core", "conformal", "stress"), decision.decomposition, strict=False)) == {
        "core": int(np.ceil(1e6 * core)),
        "conformal": 0,
        "stress": int(np.ceil(1e6 * stressed)) - int(np.ceil(1e6 * core)),
    }


def test_a_missing_symbol_is_held_then_walked_to_safety(rows_of: Rows, params: Params) -> None:
    both = pd.concat([flat(rows_of, 40), flat(rows_of, 2, symbol="ETHUSDT")], ignore_index=True)
    both["obs_safe_im"] = 0.9
    lines = [d for d in run(both, params) if d.symbol == "ETHUSDT"]
    assert len(lines) == 40
    margins = [d.vector.im[0] for d in lines]
    assert margins[:4] == [margins[0]] * 4  # two good lines, then a hold of two hours
    assert margins[4] > margins[3]
    assert np.diff(margins).min() >= 0
    assert max(b / a for a, b in pairwise(margins)) <= 1.25
    assert {d.mode for d in lines[2:]} == {Mode.FAILSAFE}
    assert all("STALE" in d.reasons and d.fallback for d in lines[2:])
    assert lines[2].decomposition == (0,) * 12
    assert lines[4].decomposition[-1] == margins[4] - margins[3]


def corrupt(frame: pd.DataFrame, at: pd.Series, fault: str, column: str) -> pd.DataFrame:
    """One injected fault at the rows ``at``."""
    out = frame.copy()
    if fault == "missing":
        return out[~at]
    if fault == "crossing":
        out.loc[at, "mae_long_q990"] = out.loc[at, "mae_long_q999"] * 1.5
    elif fault == "stale":
        out.loc[at, "data_asof"] -= 3 * HOUR
    elif fault == "clock":
        out.loc[at, "data_asof"] += HOUR
    elif fault == "blocked":
        out.loc[at, "status"] = "blocked"
    elif fault == "probabilities":
        out.loc[at, "p_calm"] += 0.5
    elif fault == "half_null":
        out.loc[at, "p_calm"] = np.nan
    elif fault == "absurd":
        out.loc[at, "variance"] = 1e4
    else:
        out.loc[at, column] = {"nan": np.nan, "inf": np.inf, "minus_inf": -np.inf, "negative": -1.0}[fault]
    return out


FAULTS = ("missing", "crossing", "stale", "clock", "blocked", "probabilities", "half_null", "absurd")
NUMBERS = ("nan", "inf", "minus_inf", "negative")
COLUMNS = ("variance", "vol_annualised", "mae_long_q995", "mae_short_q990", "mae_long_q999")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fault=st.sampled_from(FAULTS + NUMBERS),
    column=st.sampled_from(COLUMNS),
    hour=st.integers(1, 20),
    length=st.integers(1, 12),
    calm=st.floats(0.001, 0.02),
    after=st.floats(0.001, 0.02),
)
def test_bad_data_never_loosen(rows_of, params, fault, column, hour, length, calm, after) -> None:
    sigma = np.full(36, calm)
    sigma[hour:] = after
    frame = flat(rows_of, 36, sigma)
    other = flat(rows_of, 36, symbol="ETHUSDT")  # keeps every origin in the frame
    bad = frame["origin"].between(START + hour * HOUR, START + (hour + length - 1) * HOUR)
    lines = [d for d in run(pd.concat([corrupt(frame, bad, fault, column), other]), params) if d.symbol == "BTCUSDT"]
    assert len(lines) == 36
    for before, line in zip(lines[hour - 1 :], lines[hour : hour + length], strict=False):
        assert line.mode is Mode.FAILSAFE
        assert {"STALE", "NAN"} & {*line.reasons}
        assert all(now >= then for now, then in zip(line.vector.parts, before.vector.parts, strict=True))
        assert line.exposure <= before.exposure
    if hour + length < 36:
        assert lines[hour + length].mode is not Mode.FAILSAFE


@pytest.mark.parametrize("status", ["fallback", "degraded"])
def test_doubtful_rows_raise_but_never_loosen(rows_of: Rows, params: Params, status: str) -> None:
    frame = flat(rows_of, 60, np.r_[np.full(30, 0.01), np.full(30, 0.004)])
    clean = run(frame, params)
    assert clean[-1].vector.im[0] < clean[0].vector.im[0]
    doubtful = frame.assign(status=status, reason="open interest is stale")
    assert {d.vector for d in run(doubtful, params)} == {clean[0].vector}
    rising = flat(rows_of, 60, np.r_[np.full(30, 0.004), np.full(30, 0.01)]).assign(status=status)
    assert run(rising, params)[-1].vector.im[0] > run(rising, params)[0].vector.im[0]
    young = frame.assign(status="degraded", p_calm=np.nan, p_normal=np.nan, p_stress=np.nan, p_crisis=np.nan)
    assert run(young, params)[-1].vector.im[0] < clean[0].vector.im[0]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.floats(-3.0, 3.0), min_size=10, max_size=60),
    p=st.lists(st.floats(0, 1), min_size=60, max_size=60),
)
def test_limits_hold_on_any_path(rows_of, params, steps, p) -> None:
    sigma = np.clip(0.004 * np.exp(np.array(steps)), 1e-4, 0.5)
    frame = flat(rows_of, len(steps), sigma)
    stress = np.repeat(p[: len(steps)], 3)
    frame["p_crisis"], frame["p_stress"] = stress / 2, stress / 2
    frame["p_calm"], frame["p_normal"] = 0.0, 1 - stress
    margins: list[int] = []
    for line in run(frame, params):
        im, mm = line.vector.im, line.vector.mm
        assert 0 < line.vector.penalty < mm[0]
        assert all(m < i for i, m in zip(im, mm, strict=True))
        assert im[-1] <= 1_000_000
        assert list(im) == sorted(im)
        assert list(mm) == sorted(mm)
        assert im[0] <= 2 * min(margins[-24:], default=im[0])
        assert sum(line.decomposition) == im[0] - (margins[-1] if margins else 0)
        assert set(line.reasons) <= set(REASONS)
        margins.append(im[0])


def reasons(frame: pd.DataFrame, params: Params) -> set[str]:
    return {reason for d in run(frame, params) for reason in d.reasons}


def test_every_reason_is_emitted_for_its_cause(rows_of: Rows, params: Params) -> None:
    quiet = flat(rows_of, 20, 0.004).assign(
        obs_daily_volume_usd=1e9,
        obs_mark_present=1.0,
        obs_open_interest_usd=1e8,
        obs_depth_median=1e9 / (0.004**2 * 24),
    )
    emitted = {"STRESS_FLOOR"}
    assert reasons(quiet, params) == emitted
    rise = quiet.copy()
    rise.loc[30:, "mae_short_q995":"mae_short_q999"] *= 1.3  # type: ignore[misc]
    rise.loc[30:, "mae_short_q990"] *= 1.3
    fall = flat(rows_of, 20, np.r_[np.full(10, 0.008), np.full(10, 0.004)])
    step = flat(rows_of, 20, np.r_[np.full(10, 0.004), np.full(10, 0.02)])
    wobble = flat(rows_of, 20, np.r_[np.full(10, 0.004), np.full(10, 0.0041)])
    causes = {
        "VOL_UP": rise,
        "NOTICE": rise,
        "DECAY": fall,
        "STEP_CAP": step,
        "REGIME_STRESS": quiet.assign(obs_sigma_median=0.004 * np.sqrt(24) / 2),
        "DEADBAND_HOLD": wobble,
        "DEPTH_THIN": quiet.assign(obs_depth_median=1e13),
        "OI_CROWD": quiet.assign(obs_open_interest_usd=1e12),
        "FUNDING_SKEW": quiet.assign(obs_funding_q=1e-3, obs_funding_last=2e-3),
        "LONGRUN_FLOOR": quiet.assign(obs_floor_im=0.5),
        "CB1": quiet.assign(obs_hour_move=0.11),
        "CB2": quiet.assign(obs_oracle_gap=0.5),
        "CB3": quiet.assign(obs_depth_median=1e15),
        "CB4": quiet.assign(obs_insurance_fund_usd=1.0),
        "IF_LOW": quiet.assign(obs_insurance_fund_usd=1.0),
        "STALE": quiet.assign(status="blocked"),
        "NAN": quiet.assign(variance=np.nan),
        "SENTINEL": quiet.assign(obs_sentinel_variance=1.0),
        "MARK_ABSENT": quiet.drop(columns="obs_mark_present"),
        "OI_ABSENT": quiet.drop(columns="obs_open_interest_usd"),
        "NEW_LISTING": quiet.assign(obs_history_days=5.0),
    }
    for reason, frame in causes.items():
        assert reason in reasons(frame, params), reason
        emitted.add(reason)
    infeasible = quiet.copy()
    longs = [f"mae_long_q{p}" for p in (950, 990, 995, 999)]
    infeasible.loc[30:, longs] = 1.0
    assert "INVARIANT_HOLD" in reasons(infeasible, params)
    floor = override(im_floor_ppm=200_000)
    assert "OVERRIDE" in {name for d in run(quiet, params, [floor]) for name in d.reasons}
    thin = quiet.assign(obs_daily_volume_usd=np.where(quiet["origin"] == START + 7 * HOUR, 1e5, 1e9))
    thin.loc[thin["horizon_hours"] == 24, ["ret_q001", "ret_q005", "ret_q010"]] = [-0.5, -0.4, -0.3]
    assert [at for at, d in enumerate(run(thin, params)) if "HEDGE_INFEASIBLE" in d.reasons] == [7]
    assert emitted | {"INVARIANT_HOLD", "OVERRIDE", "HEDGE_INFEASIBLE"} == set(REASONS)


def test_breaker_stops_growth_and_stands_for_its_hours(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 12, np.r_[np.full(3, 0.02), np.full(9, 0.004)])
    frame["obs_hour_move"] = np.where(frame["origin"] == START + 3 * HOUR, 0.2, 0.0)
    lines = run(frame, params)
    standing = [bool(d.breakers) for d in lines]
    assert standing == [False] * 3 + [True] * 4 + [False] * 5
    assert {d.exposure for d in lines[:7]} == {lines[0].exposure}
    assert lines[3].mode is Mode.CRISIS


def test_a_cause_that_lasts_escalates_to_the_gate_and_ends_in_grace(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 12, 0.004)
    frame["obs_hour_move"] = np.where(frame["origin"] < START + 6 * HOUR, 0.2, 0.0)
    lines = run(frame, params)
    said = ["reduce_only", "price_band", "halt", "withdraw_gate", "withdraw_gate", "grace", *["clear"] * 6]
    assert [d.breaker_state for d in lines] == said
    assert [d.breakers for d in lines] == [("CB1",)] * 6 + [()] * 6
    assert [None if d.breaker_until is None else (d.breaker_until - d.as_of) // 3_600_000_000 for d in lines] == [
        *(4, 2, 1, 2, 1, 1),
        *[None] * 6,
    ]
    assert all(("CB1" in d.reasons) == (at < 6) for at, d in enumerate(lines))


def test_an_action_that_ended_in_silence_does_not_escalate(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 40, 0.004).assign(obs_hour_move=0.2)
    gap = (frame["origin"] <= START) | (frame["origin"] >= START + 30 * HOUR)
    lines = run(frame[gap], params)
    assert [d.breaker_state for d in lines[:3]] == ["reduce_only", "reduce_only", "price_band"]


def test_a_line_without_a_forecast_holds_the_last_hedge(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 12, np.r_[np.full(4, 0.02), np.full(8, 0.03)]).assign(obs_daily_volume_usd=1e9)
    late = frame["origin"] >= START + 4 * HOUR
    failing = frame.assign(status=np.where(late & (frame["origin"] < START + 8 * HOUR), "blocked", "ok"))
    lines, clean = run(failing, params), run(frame, params)
    assert lines[3].hedge["instrument"] == "perpetual"
    assert all(d.hedge == lines[3].hedge for d in lines[4:8])
    assert lines[8].hedge == clean[8].hedge != lines[3].hedge
    none = run(frame.assign(status=np.where(late, "ok", "blocked")), params)
    assert {d.hedge["reason"] for d in none[:4]} == {"no usable forecast"}
    assert {d.hedge["quantity_milli"] for d in none[:4]} == {0}


def test_sentinel_floors_the_volatility_at_half_of_what_was_seen(rows_of: Rows, params: Params) -> None:
    seen = (0.01 * np.sqrt(24)) ** 2
    low = flat(rows_of, 1, 0.001).assign(obs_sentinel_variance=seen)
    half = flat(rows_of, 1, 0.005)
    low_im, half_im = (run(frame, params)[0].vector.im[0] for frame in (low, half))
    assert low_im == pytest.approx(half_im, rel=0.02)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sigma=st.floats(1e-4, 0.05),
    factor=st.floats(1.0, 20.0),
    seen=st.floats(1e-8, 0.1),
    volume=st.floats(1e3, 1e11),
    crowd=st.floats(0.0, 1e11),
    worst=st.floats(0.0, 1.0),
)
def test_more_variance_never_lowers_margin_nor_raises_leverage(
    rows_of, params, sigma, factor, seen, volume, crowd, worst
) -> None:
    market = {
        "obs_sentinel_variance": seen,
        "obs_daily_volume_usd": volume,
        "obs_open_interest_usd": crowd,
        "obs_stress_move": worst,
    }
    first, second = (run(flat(rows_of, 1, s).assign(**market), params)[0] for s in (sigma, min(sigma * factor, 0.2)))
    if "NAN" in second.reasons or "NAN" in first.reasons:
        return
    for low, high in zip(first.vector.im + first.vector.mm, second.vector.im + second.vector.mm, strict=True):
        assert high >= low
    assert second.exposure <= first.exposure
    assert 1_000_000_000 // second.vector.im[0] <= 1_000_000_000 // first.vector.im[0]


def margins(lines: tuple[Decision, ...]) -> list[int]:
    return [line.vector.im[0] for line in lines]


def test_a_floor_lifts_initial_margins_alone_until_it_expires(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 30)
    free, held = run(frame, params), run(frame, params, [override(im_floor_ppm=200_000)])
    assert margins(held)[:5] == margins(free)[:5]
    assert margins(held)[5:15] == [200_000] * 10
    assert [d.mode for d in held[5:15]] == [Mode.OVERRIDE] * 10
    assert all(("OVERRIDE" in d.reasons) == (5 <= at < 15) for at, d in enumerate(held))
    assert {d.vector.mm for d in held[:15]} == {free[0].vector.mm}
    assert held[5].effective_at == held[5].as_of
    assert held[5].decomposition[-1] == 200_000 - free[0].vector.im[0]
    assert held[5].bounds_hit == (("im_ppm", "override", "low"),)
    # Once it has expired, the governor lowers what is left at its own half-life.
    left = margins(held)[14:]
    assert all(after < before for before, after in pairwise(left))
    assert left[1] == pytest.approx(free[0].vector.im[0] + (200_000 - free[0].vector.im[0]) * 0.5 ** (1 / 24), abs=2)
    for before, line in pairwise(held):
        assert sum(line.decomposition) == line.vector.im[0] - before.vector.im[0]


def test_a_cap_loosens_to_the_hard_floor_at_most_and_takes_effect_later(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 30)
    free = run(frame, params)
    capped = run(frame, params, [override(im_cap_ppm=100_000)])
    assert margins(capped)[5:15] == [100_000] * 10
    share = 100_000 / free[0].vector.im[0]
    for now, then in zip(capped[5].vector.im, free[5].vector.im, strict=True):
        assert now == pytest.approx(then * share, abs=1)  # the tiers keep their shape
    assert capped[5].effective_at == capped[5].as_of + params.limits.loosening_delay_hours * HOUR.value // 1000
    least = run(frame, params, [override(im_cap_ppm=1)])
    assert margins(least)[5:15] == [10_000] * 10
    assert least[5].bounds_hit == (("im_ppm", "im_min", "low"),)
    vector = least[5].vector
    assert 0 < vector.penalty <= params.penalty.share_of_mm * vector.mm[0]
    assert all(im - mm >= params.clamp_gap * 1e6 for im, mm in zip(vector.im, vector.mm, strict=True))


def test_a_floor_breaks_the_limits_of_days_only_when_acknowledged(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 60)
    start = margins(run(frame, params))[0]
    asked = {"hours": (5, 55), "im_floor_ppm": 4 * start}
    slow = run(frame, params, [override(**asked)])
    assert margins(slow)[5] == 2 * start
    assert slow[5].bounds_hit == (("im_ppm", "rise_1d", "high"),)
    for at, line in enumerate(slow):
        assert line.vector.im[0] <= 2 * min(margins(slow)[max(0, at - 25) : at + 1])
    assert max(margins(slow)) == 3 * start
    at_once = run(frame, params, [override(**asked, acknowledged=True)])
    assert margins(at_once)[5] == 4 * start
    assert at_once[5].bounds_hit == (("im_ppm", "acknowledged", "high"),)


def test_a_frozen_vector_moves_for_nothing_but_a_breaker(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 20, np.r_[np.full(8, 0.004), np.full(12, 0.02)])
    frozen = run(frame, params, [override((5, 18), "*")])
    assert len({d.vector for d in frozen[:18]}) == 1
    assert frozen[18].vector.im[0] > frozen[17].vector.im[0]
    tripped = frame.assign(obs_hour_move=np.where(frame["origin"] == START + 10 * HOUR, 0.2, 0.0))
    broken = run(tripped, params, [override((5, 18), "*")])
    assert [d.mode for d in broken[10:14]] == [Mode.CRISIS] * 4
    assert broken[10].vector.im[0] > broken[9].vector.im[0]
    assert not any("OVERRIDE" in d.reasons for d in broken[10:14])
    assert broken[14].mode is Mode.OVERRIDE


def test_the_highest_floor_holds_with_its_own_acknowledgement(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 10)
    start = margins(run(frame, params))[0]
    mild = override(im_floor_ppm=start + 1000, acknowledged=True)
    wild = override(im_floor_ppm=5 * start, im_cap_ppm=5 * start)
    for order in ((mild, wild), (wild, mild)):
        assert margins(run(frame, params, order))[5] == 2 * start
    capped = override(im_cap_ppm=20_000)
    assert margins(run(frame, params, (mild, capped)))[5] == start + 1000


def test_hour_by_hour_under_overrides_is_the_batch(rows_of: Rows, params: Params) -> None:
    frame = pd.concat([flat(rows_of, 40), flat(rows_of, 15, symbol="ETHUSDT")])
    asked = [override((3, 20), "*", im_floor_ppm=250_000), override((8, 30), im_cap_ppm=260_000), override((32, 36))]
    together, end = decide(frame, PolicyState.initial(), params, asked)
    state, single = PolicyState.initial(), []
    for _, rows in frame.groupby("origin"):
        decisions, state = decide(rows, state, params, asked)
        single += decisions
    assert tuple(single) == together
    assert state == end


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"who": " "}, "who and why"),
        ({"hours": (5, 5)}, "expires"),
        ({"im_floor_ppm": 0}, "im_floor_ppm"),
        ({"im_cap_ppm": 1_000_001}, "im_floor_ppm"),
        ({"im_floor_ppm": 5, "im_cap_ppm": 4}, "im_floor_ppm"),
    ],
)
def test_senseless_overrides_are_refused(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        override(**asked)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.integers(1, 12), quiet=st.integers(1, 12), low=st.floats(0.001, 0.006), high=st.floats(0.009, 0.05))
def test_a_tightening_is_never_delayed_by_a_loosening(rows_of, params, before, quiet, low, high) -> None:
    """A rise comes at the same line whether the margin was falling before it or stood still, and at once."""
    origins = before + quiet
    rise = np.full(12, high)
    falling = run(flat(rows_of, origins + 12, np.r_[np.full(before, 0.008), np.full(quiet, low), rise]), params)
    resting = run(flat(rows_of, origins + 12, np.r_[np.full(origins, 0.008), rise]), params)
    firsts = []
    for lines in (falling, resting):
        rises = [at for at in range(1, len(lines)) if lines[at].vector.im[0] > lines[at - 1].vector.im[0]]
        assert all(lines[at].effective_at == lines[at].as_of for at in rises)
        firsts.append(rises[:1])
    assert firsts[0] <= firsts[1] or not firsts[1]


def test_a_floor_beside_another_or_a_freeze_never_loosens(rows_of: Rows, params: Params) -> None:
    frame = flat(rows_of, 20)
    sure = override(im_floor_ppm=600_000, acknowledged=True)
    plain, same = override(im_floor_ppm=700_000), override(im_floor_ppm=600_000)
    held = override((3, 18))
    first = margins(run(frame, params, [sure]))
    assert first[5] == 600_000
    for others in ([plain], [same], [held], [plain, held], [override(im_floor_ppm=1, acknowledged=True)]):
        for asked in ([sure, *others], [*others, sure]):
            lines = run(frame, params, asked)
            assert margins(lines)[5:15] == first[5:15]
            assert lines[5].bounds_hit == (("im_ppm", "acknowledged", "high"),)
    start = margins(run(frame, params))[0]
    limited = run(frame, params, [held, plain, override((3, 18), im_cap_ppm=1000)])
    assert margins(limited)[4:6] == [start, 2 * start]
    assert limited[5].bounds_hit == (("im_ppm", "rise_1d", "high"),)


QUIET = {"bar_age_hours": 0.0, "history_days": 20.0, "hour_move": 0.0, "insurance_fund_usd": 1e9, "oracle_gap": 0.0}


@pytest.mark.parametrize(
    "lost",
    [("insurance_fund_usd",), ("oracle_gap",), ("bar_age_hours",), ("bar_age_hours", "history_days"), tuple(QUIET)],
)
def test_a_feed_that_falls_silent_never_loosens(rows_of: Rows, designed: Params, lost: tuple[str, ...]) -> None:
    silent = np.arange(40) // 10 == 1
    frame = flat(rows_of, 40, np.r_[np.full(5, 0.009), np.full(35, 0.004)]).assign(
        **{f"obs_{name}": value for name, value in QUIET.items()}
    )
    known = run(frame, designed)
    assert margins(known)[20] < margins(known)[9]
    assert known[20].exposure > known[0].exposure
    late = frame["origin"].isin(pd.date_range(START, periods=40, freq="h")[silent])
    frame.loc[late, [f"obs_{name}" for name in lost]] = np.nan
    together, end = decide(frame, PolicyState.initial(), designed)
    assert len(set(margins(together)[9:20])) == 1
    assert max(d.exposure for d in together[10:20]) <= together[9].exposure
    assert ["STALE" in d.reasons for d in together] == silent.tolist()
    assert margins(together)[20] < margins(together)[19]
    state, single = PolicyState.initial(), []
    for _, rows in frame.groupby("origin"):
        decisions, state = decide(rows, state, designed)
        single += decisions
    assert (tuple(single), state) == (together, end)


def test_a_venue_s_value_counts_on_whichever_row_it_stands_and_rows_that_disagree_are_a_broken_feed(
    rows_of: Rows, params: Params
) -> None:
    frame = flat(rows_of, 3).assign(**{f"obs_{name}": value for name, value in QUIET.items()})
    whole = read(frame, params).observed["insurance_fund_usd"]
    day = frame["horizon_hours"] == 24
    once = frame.assign(obs_insurance_fund_usd=frame["obs_insurance_fund_usd"].where(day))
    assert read(once, params).observed["insurance_fund_usd"].tolist() == whole.tolist() == [1e9] * 3
    torn = frame.assign(obs_insurance_fund_usd=frame["obs_insurance_fund_usd"].where(day, 2e9))
    assert np.isnan(read(torn, params).observed["insurance_fund_usd"]).all()
    assert read(torn, params).stale_feed.all()


def test_what_never_was_known_is_not_missed(rows_of: Rows, params: Params) -> None:
    falling = flat(rows_of, 30, np.r_[np.full(5, 0.009), np.full(25, 0.004)])
    for frame in (falling, falling.assign(obs_bar_age_hours=0.0, obs_history_days=20.0)):
        lines = run(frame, params)
        assert margins(lines)[-1] < margins(lines)[0]
        assert not any("STALE" in d.reasons for d in lines)


@pytest.mark.parametrize("fault", [{"status": "fallback"}, {"obs_drawdown": 7.0}, {"obs_drawdown": np.nan}])
def test_a_broken_feed_never_raises_exposure(rows_of: Rows, designed: Params, fault: dict[str, Any]) -> None:
    frame = flat(rows_of, 30, np.r_[np.full(5, 0.009), np.full(25, 0.004)])
    seen = dict.fromkeys(("sentinel_variance", "safe_im", "stress_move", "stress_fall", "floor_im"), 1e-6)
    seen |= {"daily_volume_usd": 1e9, "hour_share": 1.0, "ladder_volume_usd": 1e9, "history_days": 900.0}
    seen |= {"conformal_im": 1.0, "conformal_mm": 1.0, "bar_age_hours": 0.0, "drawdown": 0.0}
    frame = frame.assign(**{f"obs_{name}": value for name, value in seen.items()})
    late = frame["origin"] >= START + 5 * HOUR
    frame["obs_drawdown"] = np.where(late, 0.0, 0.1)
    clean = run(frame, designed)
    assert clean[-1].exposure > clean[4].exposure
    for name, value in fault.items():
        frame[name] = frame[name].mask(late, value)
    lines = run(frame, designed)
    assert {d.exposure for d in lines[4:]} == {clean[4].exposure}


def laddered(rows_of: Rows, volumes: Any, **columns: Any) -> pd.DataFrame:
    frame = flat(rows_of, len(volumes)).assign(obs_daily_volume_usd=1e9, obs_ladder_volume_usd=np.repeat(volumes, 3))
    return frame.assign(**columns)


def owed(line: Decision, size: float) -> tuple[float, float]:
    """IM and MM of a position, USD: each rate on its own part of the size."""
    edges = [0, *line.caps[:-1], np.inf]
    parts = [min(max(size - low, 0.0), high - low) for low, high in pairwise(edges)]
    return tuple(
        sum(p * r for p, r in zip(parts, rates, strict=True)) / 1e6 for rates in (line.vector.im, line.vector.mm)
    )


def test_a_wider_ladder_comes_at_the_pace_of_loosening_and_not_on_doubtful_lines(
    rows_of: Rows, designed: Params
) -> None:
    volumes = np.r_[np.full(5, 1e8), np.full(55, 3e8)]
    lines = run(laddered(rows_of, volumes), designed)
    assert lines[4].caps[0] == 50_000
    assert lines[59].caps == tuple(3 * cap for cap in lines[4].caps)
    grown = [at for at in range(1, 60) if lines[at].caps != lines[at - 1].caps]
    assert grown == list(range(5, 5 + len(grown)))
    assert len(grown) == int(np.ceil(designed.governor.normal.half_life_hours * np.log2(3)))
    for at in grown:
        assert lines[at].effective_at == lines[at].as_of + designed.limits.loosening_delay_hours * 3_600_000_000
        for size in (1e5, 4e5, 3e6, 1e8):
            for now, then in zip(owed(lines[at], size), owed(lines[at - 1], size), strict=True):
                assert 0.5 ** (1 / designed.governor.normal.half_life_hours) * then <= now <= then
    doubtful = run(laddered(rows_of, volumes, status="degraded", reason="open interest is stale"), designed)
    assert {line.caps for line in doubtful} == {lines[0].caps}
    crisis = run(laddered(rows_of, volumes, obs_hour_move=0.2), designed)
    assert {line.caps for line in crisis} == {lines[0].caps}


def test_a_narrower_ladder_tightens_at_once_and_nothing_falls_beside_it(rows_of: Rows, params: Params) -> None:
    volumes = np.r_[np.full(10, 1e8), np.full(10, 4e7)]
    frame = laddered(rows_of, volumes)
    falling = flat(rows_of, 20, np.r_[np.full(5, 0.008), np.full(15, 0.004)])
    frame = falling.assign(**{name: frame[name] for name in ("obs_daily_volume_usd", "obs_ladder_volume_usd")})
    for doubt in ({}, {"status": "degraded", "reason": "open interest is stale"}):
        lines = run(frame.assign(**doubt), params)
        assert [line.caps[0] for line in lines] == [50_000] * 10 + [20_000] * 10
        assert lines[10].effective_at == lines[10].as_of
        assert lines[10].vector == lines[9].vector
        assert (lines[11].vector == lines[10].vector) == bool(doubt)
    frozen = run(frame, params, [override((8, 14))])
    assert [line.caps[0] for line in frozen] == [50_000] * 14 + [20_000] * 6


def test_a_target_beyond_the_bounds_is_followed_up_to_them_and_never_down(rows_of: Rows, params: Params) -> None:
    sigma = np.r_[np.full(3, 0.01), np.full(30, 0.2), np.full(10, 0.15)]
    lines = run(flat(rows_of, 43, sigma), params)
    assert {"INVARIANT_HOLD" in line.reasons for line in lines[3:]} == {True}
    margins = [line.vector.im[0] for line in lines]
    assert np.diff(margins).min() >= 0
    assert margins[-1] > 1.5 * margins[2]
