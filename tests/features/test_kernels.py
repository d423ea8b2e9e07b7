from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import kernels

HOURS = 400


@pytest.fixture
def series() -> np.ndarray:
    """Three series with scattered and long holes; the last one starts late."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3, HOURS))
    x[0, rng.random(HOURS) < 0.15] = np.nan
    x[1, 100:180] = np.nan
    x[2, :250] = np.nan
    return x


@pytest.mark.parametrize("coverage", [0.5, 0.8, 1.0])
def test_window_means_are_those_of_sql(series: np.ndarray, coverage: float) -> None:
    lengths = np.array([1, 4, 24, 72], dtype=np.int64)
    ours = kernels.window_mean(series, lengths, coverage, 7)
    rows, hours = np.indices(series.shape)
    frame = pd.DataFrame({"s": rows.ravel(), "t": hours.ravel(), "x": series.ravel()})
    for j, length in enumerate(lengths):
        over = f"over (partition by s order by t rows between {length - 1} preceding and current row)"
        query = f"""
            select avg(y) {over} as mean, count(y) {over} as n
            from (select s, t, case when isnan(x) then null else x end as y from frame) order by s, t"""
        answer = duckdb.query_df(frame, "frame", query).df()
        expected = answer["mean"].where((answer["n"] >= coverage * length) & (answer["n"] > 0))
        np.testing.assert_allclose(ours[j].ravel(), expected.to_numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("length", [5, 24, 168])
def test_window_sd_is_that_of_pandas(series: np.ndarray, length: int) -> None:
    ours = kernels.window_sd(series, length, 0.8, 7)
    needed = max(int(np.ceil(0.8 * length)), 2)
    theirs = pd.DataFrame(series.T).rolling(length, min_periods=needed).std().to_numpy().T
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", [5, 24, 168])
def test_window_pairs_are_the_moments_of_pandas(series: np.ndarray, length: int) -> None:
    y = 0.5 * series + np.random.default_rng(4).normal(size=series.shape)
    y[0, 50:70] = np.nan
    ours = kernels.window_pair(series, y, length, 0.8, 7)
    needed = max(int(np.ceil(0.8 * length)), 2)
    both = np.isfinite(series + y)
    a, b = (pd.DataFrame(np.where(both, z, np.nan).T).rolling(length, min_periods=needed) for z in (series, y))
    theirs = [
        a.mean(),
        b.mean(),
        a.var(ddof=0),
        b.var(ddof=0),
        a.cov(pd.DataFrame(np.where(both, y, np.nan).T), ddof=0),
    ]
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(ours_, theirs_.to_numpy().T, rtol=1e-9, atol=1e-12)


def test_constant_data_have_no_spread_at_all() -> None:
    flat = np.full((1, 400), 0.1)
    assert (kernels.window_sd(flat, 168, 0.5, 3)[0, 200:] == 0).all()
    assert (kernels.window_pair(flat, flat, 168, 0.5, 3)[2:, 0, 200:] == 0).all()


KERNELS = {
    "mean": (lambda x, hour, first: kernels.window_mean(x, np.array([3, 30]), 0.5, hour, first), 30),
    "sd": (lambda x, hour, first: kernels.window_sd(x, 50, 0.5, hour, first), 50),
    "pair": (lambda x, hour, first: kernels.window_pair(x, np.ascontiguousarray(x[::-1]), 50, 0.3, hour, first), 50),
    "ewma": (lambda x, hour, first: kernels.ewma(x, 6, hour, first), kernels.ewma_reach(6) + 24),
    "age": (lambda x, hour, first: kernels.hours_since_finite(x, 40, first), 41),
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_newest_columns_have_the_same_bits_from_the_declared_reach_alone(series: np.ndarray, name: str) -> None:
    kernel, reach = KERNELS[name]
    whole = kernel(series, 5, 0)
    for t in range(300, 380):
        for width in (1, 3):
            begin = t - width + 2 - reach
            recent = np.ascontiguousarray(series[:, begin : t + 1])
            newest = kernel(recent, (5 + begin) % 24, recent.shape[1] - width)
            assert np.array_equal(newest, whole[..., t - width + 1 : t + 1], equal_nan=True)
    # It must be possible to fail.
    short = np.ascontiguousarray(series[:, 300 - reach // 2 : 380])
    late = kernel(short, (5 + 300 - reach // 2) % 24, 0)
    assert not np.array_equal(
        late[..., : reach // 4], whole[..., 300 - reach // 2 :][..., : reach // 4], equal_nan=True
    )


@pytest.mark.parametrize(("half_life", "first_hour"), [(2.0, 0), (6.0, 17), (24.0, 23)])
def test_ewma_is_the_mean_under_explicit_weights_of_whole_days_and_today(
    series: np.ndarray, half_life: float, first_hour: int
) -> None:
    reach = kernels.ewma_reach(half_life)
    assert reach % 24 == 0
    assert 5 * half_life <= reach < 5 * half_life + 24
    ours = kernels.ewma(series, half_life, first_hour)
    expected = np.full_like(series, np.nan)
    full = sum(0.5 ** (k / half_life) for k in range(reach))
    for t in range(HOURS):
        begin = max(t - (first_hour + t) % 24 - reach, 0)
        weights = 0.5 ** ((t - np.arange(begin, t + 1)) / half_life)
        for i in range(len(series)):
            here = np.isfinite(series[i, begin : t + 1])
            weight = weights[here].sum()
            # The first day in the data begins where they do.
            if weight >= 0.5 * full:
                expected[i, t] = (weights[here] * series[i, begin : t + 1][here]).sum() / weight
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-13)


def test_ewma_has_the_same_bits_wherever_the_history_starts(series: np.ndarray) -> None:
    reach = kernels.ewma_reach(6)
    whole = kernels.ewma(series, 6, 0)
    for start in (1, 13, 24, 100):
        restarted = kernels.ewma(np.ascontiguousarray(series[:, start:]), 6, start % 24)
        settled = reach + 24
        assert np.array_equal(restarted[:, settled:], whole[:, start + settled :], equal_nan=True)


def test_hours_since_finite_counts_up_to_its_cap() -> None:
    x = np.array([[np.nan, np.nan, 1, np.nan, np.nan, np.nan, np.nan, 2]])
    assert kernels.hours_since_finite(x, 3).tolist() == [[3, 3, 0, 1, 2, 3, 3, 0]]


@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(2, 40),
    minimum=st.integers(1, 12),
    holes=st.floats(0, 0.7),
    ties=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_trailing_quantiles_are_those_of_numpy(seed: int, length: int, minimum: int, holes: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (2, 90)).astype(np.float64) if ties else rng.lognormal(size=(2, 90))
    x[rng.random(x.shape) < holes] = np.nan
    levels = np.array([0.0, 0.3, 0.9, 0.975, 1.0])
    ours = kernels.trailing_quantiles(x, length, minimum, levels)
    for i in range(2):
        for t in range(90):
            window = x[i, max(t - length + 1, 0) : t + 1]
            finite = window[np.isfinite(window)]
            if len(finite) < minimum:
                assert np.isnan(ours[:, i, t]).all()
            else:
                np.testing.assert_allclose(ours[:, i, t], np.quantile(finite, levels, method="linear"), rtol=1e-13)


def test_season_curves_recover_a_planted_season_from_the_past_alone() -> None:
    rng = np.random.default_rng(5)
    weeks, first_slot = 60, 30
    season = np.sin(np.arange(168) / 168 * 4 * np.pi) + 0.3 * np.cos(np.arange(168) / 24 * 2 * np.pi)
    season -= season.mean()
    slots = (first_slot + np.arange(weeks * 168)) % 168
    level = np.array([[-9.0], [-7.0]])
    log_v = level + season[slots] + 0.4 * rng.normal(size=(2, weeks * 168))
    refresh = np.array([0, 100, 30 * 168, 60 * 168], dtype=np.int64)
    curves = kernels.season_curves(log_v, refresh, first_slot, 52 * 168, 0.0 + 1e-9)
    assert not curves[:2].any()  # no full week yet
    np.testing.assert_allclose(curves.mean(axis=2), 0, atol=1e-12)
    assert np.abs(curves[2] - season).max() < 0.4
    assert np.corrcoef(curves[3, 0], season)[0, 1] > 0.99
    spoilt = log_v.copy()
    spoilt[:, 30 * 168 :] = 50.0
    assert np.array_equal(kernels.season_curves(spoilt, refresh[:3], first_slot, 52 * 168, 1e-9), curves[:3])
    older = log_v.copy()
    older[:, : 8 * 168] = 50.0
    assert np.array_equal(kernels.season_curves(older, refresh[3:], first_slot, 52 * 168, 1e-9), curves[3:])


def test_season_curves_shrink_by_the_formula_and_lend_the_pool_to_a_newcomer() -> None:
    rng = np.random.default_rng(6)
    log_v = rng.normal(size=(3, 5 * 168))
    log_v[2, : 4 * 168 + 50] = np.nan  # under one week: no curve of its own
    shrinkage = 26.0
    curve = kernels.season_curves(log_v, np.array([5 * 168]), 0, 10_000, shrinkage)[0]
    own = log_v[:2].reshape(2, 5, 168).mean(axis=1)
    own -= own.mean(axis=1, keepdims=True)
    pool = (5 * own).sum(axis=0) / (10 + shrinkage)
    expected = pool + 5 / (5 + shrinkage) * (own - pool)
    np.testing.assert_allclose(curve[:2], expected - expected.mean(axis=1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(curve[2], pool - pool.mean(), atol=1e-12)


def test_cross_sections_are_those_of_numpy_and_blind_to_symbols_not_yet_listed() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(19, 50))
    x[9:, :30] = np.nan
    x[rng.random(x.shape) < 0.1] = np.nan
    x[:, 7] = np.nan
    for ours, theirs in ((kernels.cross_mean, np.mean), (kernels.cross_sd, np.std)):
        values = ours(x)
        assert np.isnan(values[7])
        for t in set(range(50)) - {7}:
            assert values[t] == pytest.approx(theirs(x[np.isfinite(x[:, t]), t]), rel=1e-12, abs=1e-15)
        assert np.array_equal(ours(np.ascontiguousarray(x[:9, :30])), values[:30], equal_nan=True)
        alone = ours(np.ascontiguousarray(x[:, 3:4]))
        assert np.array_equal(alone, values[3:4], equal_nan=True)
