"""Margin targets against formulas worked out one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.market import Market
from forecaster.policy import Params
from forecaster.policy.inputs import Inputs, read, read_with_market
from forecaster.policy.margin import Targets, chord, excursion_quantile, targets, tier_caps
from forecaster.policy.observables import MarketHistory
from forecaster.policy.types import STAGES

from .conftest import make_rows

START = pd.DatetimeIndex(["2024-03-01T00:00Z"]).as_unit("us")


def quantile_by_hand(grid: dict[int, float], h: float) -> float:
    hours = sorted(grid)
    if h <= hours[0]:
        return grid[hours[0]] * math.sqrt(h / hours[0])
    if h >= hours[-1]:
        return grid[hours[-1]] * math.sqrt(h / hours[-1])
    low = max(x for x in hours if x <= h)
    high = min(x for x in hours if x > h)
    weight = math.log(h / low) / math.log(high / low)
    return grid[low] ** (1 - weight) * grid[high] ** weight


@given(
    present=st.sets(st.sampled_from([1, 4, 24, 72]), min_size=1),
    levels=st.lists(st.floats(1e-4, 0.5), min_size=4, max_size=4),
    h=st.floats(0.1, 100.0),
)
def test_quantiles_between_and_beyond_horizons(present: set[int], levels: list[float], h: float) -> None:
    horizons = (1, 4, 24, 72)
    row = [level if hours in present else np.nan for hours, level in zip(horizons, levels, strict=True)]
    grid = {hours: level for hours, level in zip(horizons, row, strict=True) if hours in present}
    (found,) = excursion_quantile(np.array([row]), horizons, np.array([[h]]))[0]
    assert found == pytest.approx(quantile_by_hand(grid, h), rel=1e-9)


def test_rows_with_different_horizons_stand_side_by_side() -> None:
    rows = np.array([[0.01, 0.02, 0.05], [np.nan, np.nan, 0.05], [np.nan, np.nan, np.nan]])
    found = excursion_quantile(rows, (1, 4, 24), np.array([[2.0, 24.0]] * 3))
    assert found[0] == pytest.approx([0.01 * math.sqrt(2), 0.05])
    assert found[1] == pytest.approx([0.05 * math.sqrt(2 / 24), 0.05])
    assert np.isnan(found[2]).all()


@given(volume=st.floats(1.0, 1e12))
def test_caps_rise_strictly(volume: float) -> None:
    caps = tier_caps(np.array([volume]), Params.default())[0]
    assert caps[0] >= 1
    assert (np.diff(caps) > 0).all()


def test_marginal_rates_add_up_to_the_whole_requirement() -> None:
    size = np.array([[10.0, 20.0, 50.0]])
    average = np.array([[0.10, 0.11, 0.14]])
    rate = chord(average, size)[0]
    paid = np.cumsum(rate * np.diff(size[0], prepend=0.0))
    assert paid == pytest.approx((average * size)[0])
    assert rate[0] == pytest.approx(0.10)


def test_every_leg_of_a_line_by_hand(rows_of: Callable[..., pd.DataFrame], params: Params) -> None:
    sigma_h = 0.01
    seen = {
        "daily_volume_usd": 2e9,
        "ladder_volume_usd": 1e9,
        "hour_share": 0.5,
        "funding_q": 4e-4,
        "funding_interval_hours": 4.0,
        "open_interest_usd": 8e9,
        "stress_move": 0.45,
        "conformal_im": 1.2,
        "conformal_mm": 1.1,
        "floor_im": 0.1,
    }
    row = rows_of("BTCUSDT", START, np.array([sigma_h])).assign(**{f"obs_{k}": v for k, v in seen.items()})
    found = targets(read(row, params), params)
    caps = [500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000]
    assert found.caps[0].tolist() == caps
    sigma = sigma_h * math.sqrt(24)

    def leg(x: float) -> tuple[float, float, float]:
        h = min(72.0, max(1.0, 1.1 + x / (0.10 * 2e9 / 24 * 0.5)))
        lam = 0.00025 + sigma * math.sqrt(x / 2e9)
        grid = {t: math.exp(2.8 * sigma_h * math.sqrt(t)) - 1 for t in (1, 4, 24)}
        return lam, h / 4 * 4e-4, 1.1 * quantile_by_hand(grid, h)

    r_im = 1.2 * (math.exp(3.2 * sigma) - 1)
    base = 0.75 * r_im + 0.25 * max(r_im, 0.45)
    depth = 2e9 * (0.05 / sigma) ** 2
    crowd = min(1.0, max(0.0, (8e9 / depth - 2) / 18))
    fee = max(0.0025, 0.00025 + sigma * math.sqrt(2e4 / 2e9) + 1 / 2e4 + 0.0005)
    before = (0.0, 0.0, 0.0)
    for k, cap in enumerate(caps):
        totals = tuple(cap * value for value in leg(cap))
        width = cap - (caps[k - 1] if k else 0)
        lam, phi, core_mm = ((now - then) / width for now, then in zip(totals, before, strict=True))
        b = base + lam + phi
        im = max(b + crowd * (1 - b), core_mm + lam + fee + 0.00125)
        mm = max(im / 2, core_mm + lam + fee)
        assert found.vector[0, k] == pytest.approx(1e6 * im, abs=1.5)
        assert found.vector[0, 6 + k] == pytest.approx(1e6 * mm, abs=1.5)
        before = totals
    assert found.vector[0, 12] == pytest.approx(1e6 * fee, abs=1.5)
    assert found.oi_crowd[0]
    assert found.stages[0].sum() == found.vector[0, 0]


SEEN = {"daily_volume_usd": 2e9, "ladder_volume_usd": 1e9, "funding_q": 4e-4, "open_interest_usd": 1e9, "floor_im": 0.2}


def line(rows_of: Callable[..., pd.DataFrame], params: Params, **seen: float) -> Inputs:
    row = rows_of("BTCUSDT", START, np.array([0.01])).assign(**{f"obs_{k}": v for k, v in (SEEN | seen).items()})
    return read(row, params)


def stages(inputs: Inputs, params: Params) -> dict[str, int]:
    return dict(zip(STAGES, targets(inputs, params).stages[0].tolist(), strict=True))


def changed(params: Params, section: str, **values: float) -> Params:
    return params.overlaid({section: values}, "test")


def test_the_fund_term_by_hand(rows_of: Callable[..., pd.DataFrame], params: Params) -> None:
    full = targets(line(rows_of, params, stress_move=0.7), params)
    target = int(full.insurance_usd[0])
    assert target > 0
    assert not full.fund_low[0]
    place = STAGES.index("insurance")
    before = int(full.stages[0, :place].sum()) / 1e6
    largest = int(full.caps[0, -1])
    for fund in (20.0 * target, target, 0.4 * target, 0.0, -5.0):
        found = targets(line(rows_of, params, stress_move=0.7, insurance_fund_usd=fund), params)
        share = max(fund, 0.0) / (2 * largest)
        missing = max(0.0, 1 - share / (0.7 - before))
        assert found.fund_low[0] == (missing > 0)
        wanted = min(before * params.margin.fund_weight * missing, max(0.0, 0.7 - before - share))
        assert found.stages[0, place] == pytest.approx(1e6 * wanted, abs=2)
        assert found.insurance_usd[0] == target  # no circle: the term does not move its own target
        assert found.stages[0].sum() == found.vector[0, 0]
        assert (found.vector >= full.vector).all()
        if fund < target:
            assert found.fund_low[0]


@given(
    sigma=st.floats(1e-3, 0.03),
    factor=st.floats(1.0, 5.0),
    fund=st.floats(0.0, 1e7),
    worst=st.floats(0.0, 2.0),
    weight=st.floats(0.0, 3.0),
)
def test_more_variance_never_lowers_a_margin_whatever_the_fund_holds(
    sigma: float, factor: float, fund: float, worst: float, weight: float
) -> None:
    params = changed(Params.default(), "margin", fund_weight=weight)
    calm, wild = (
        make_rows("BTCUSDT", START, np.array([s])).assign(
            obs_daily_volume_usd=1e9, obs_insurance_fund_usd=fund, obs_stress_move=worst
        )
        for s in (sigma, sigma * factor)
    )
    assert (
        targets(read(wild, params), params).vector[0, :12] >= targets(read(calm, params), params).vector[0, :12]
    ).all()


@pytest.fixture(scope="module")
def storm(forecasts: pd.DataFrame) -> pd.DataFrame:
    """The last days of the market, a storm among them, of a venue whose fund is empty."""
    last = forecasts["origin"] > forecasts["origin"].max() - pd.Timedelta(days=13)
    return forecasts[last].assign(obs_insurance_fund_usd=0.0)


@pytest.fixture(scope="module")
def all_terms(market: Market, storm: pd.DataFrame) -> Targets:
    """Targets with every term at work; the floor is a high quantile, or this short past would hold none."""
    params = changed(Params.default(), "margin", floor_quantile=0.9)
    return targets(read_with_market(storm, MarketHistory(market, params)), params)


@pytest.mark.parametrize(
    ("stage", "section", "values"),
    [
        ("conformal", "conformal", {"gain": 0.0}),
        ("stress", "margin", {"stress_share": 0.0}),
        ("floor", "margin", {"floor_quantile": 0.0}),
        ("liquidity", "liquidity", {"impact": 0.0, "spread": 0.0}),
        ("funding", "margin", {"funding_quantile": 0.0}),
        ("open_interest", "liquidity", {"oi_low": 1e12, "oi_high": 1e13}),
        ("insurance", "margin", {"fund_weight": 0.0}),
    ],
)
def test_the_pack_alone_switches_each_term_off(
    market: Market,
    storm: pd.DataFrame,
    all_terms: Targets,
    params: Params,
    stage: str,
    section: str,
    values: dict[str, float],
) -> None:
    """Inputs in which the term is at work somewhere: it is zero everywhere once switched off."""
    place, pack = STAGES.index(stage), changed(params, section, **values)
    off = targets(read_with_market(storm, MarketHistory(market, pack)), pack)
    assert np.abs(all_terms.stages[:, place]).max() > 0
    assert (off.stages[:, place] == 0).all()


@given(scale=st.floats(0.05, 8.0))
def test_a_scale_multiplies_and_keeps_the_laws(scale: float) -> None:
    params = Params.default()
    inputs = line(make_rows, params)
    plain, scaled = targets(inputs, params), targets(inputs, params, np.array([scale]))
    im, mm, fee = scaled.vector[0, :6], scaled.vector[0, 6:12], scaled.vector[0, 12]
    wanted = np.clip(scale * plain.vector[0, :6], 1e6 * params.margin.im_min, 1e6 * params.margin.im_max)
    inside = scale * plain.vector[0, 6:12] + 1e6 * params.clamp_gap <= wanted
    assert im[inside] == pytest.approx(wanted[inside], abs=1.5)
    assert (np.diff(im) >= 0).all()
    assert (np.diff(mm) >= 0).all()
    assert 0 < fee <= params.penalty.share_of_mm * mm[0]
    assert (im - mm >= 1e6 * params.clamp_gap).all()
    assert im.max() <= 1_000_000
    assert scaled.stages[0, STAGES.index("scale")] == im[0] - plain.vector[0, 0]
    assert scaled.stages[0].sum() == im[0]


def test_a_scale_of_one_changes_nothing(rows_of: Callable[..., pd.DataFrame], params: Params) -> None:
    inputs = line(rows_of, params)
    assert (targets(inputs, params).vector == targets(inputs, params, np.ones(1)).vector).all()


def test_the_floor_of_implied_volatility_is_an_ablation(rows_of: Callable[..., pd.DataFrame], params: Params) -> None:
    inputs = line(rows_of, params, implied_vol=3.0)
    assert params.margin.implied_vol_factor == 0
    assert stages(inputs, params) == stages(line(rows_of, params), params)
    floored = stages(inputs, changed(params, "margin", implied_vol_factor=2.5))
    reached = sum(list(floored.values())[: STAGES.index("floor") + 1])
    assert reached == pytest.approx(1e6 * 2.5 * 3.0 * math.sqrt(24 / 8760), abs=1.5)
    unknown = stages(line(rows_of, params), changed(params, "margin", implied_vol_factor=2.5))
    assert unknown == stages(line(rows_of, params), params)


def test_a_market_without_volume_is_the_thinnest_and_not_an_unknown_one(
    rows_of: Callable[..., pd.DataFrame], params: Params
) -> None:
    def vector(**seen: float) -> np.ndarray:
        return targets(line(rows_of, params, **seen), params).vector[0, :12]

    assert (vector(daily_volume_usd=0.0) >= vector(daily_volume_usd=1.0)).all()
    assert (vector(daily_volume_usd=0.0)[6:] > vector(daily_volume_usd=np.nan)[6:]).all()
    assert (vector(hour_share=0.0) >= vector(hour_share=1e-9)).all()
    assert (vector(hour_share=0.0)[6:] > vector(hour_share=np.nan)[6:]).any()
    caps = targets(line(rows_of, params, ladder_volume_usd=0.0), params).caps[0]
    assert caps.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_target_is_feasible_where_every_tier_fits(rows_of: Callable[..., pd.DataFrame], params: Params) -> None:
    found = targets(line(rows_of, params), params)
    assert found.feasible.all()
    # The last tier takes three days to close, and its margin no longer fits below the whole price; the first one's does.
    row = rows_of("BTCUSDT", START, np.array([0.04]))
    thin = {"daily_volume_usd": 2e7, "ladder_volume_usd": 2e9, "funding_q": np.nan}
    beyond = read(row.assign(**{f"obs_{k}": v for k, v in (SEEN | thin).items()}), params)
    tight = changed(params, "liquidity", tier_shares=[1e-6, 0.02])
    found = targets(beyond, tight)
    mm = found.vector[0, 2:4] / 1e6
    assert mm[0] == pytest.approx(0.5)  # half the initial margin, which is the whole price
    assert mm[1] == pytest.approx(1 - params.clamp_gap)  # cut down to what is left of the price
    assert not found.feasible.any()
