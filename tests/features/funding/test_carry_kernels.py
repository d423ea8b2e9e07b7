from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import percentileofscore

from features.families.carry_kernels import ar_surprise, venue_spread, window_place, window_slope

Array = npt.NDArray[np.float64]
LENGTH, LIFE, MINIMUM, TICK = 90, 12, 8, 1e-9


@pytest.fixture(scope="module")
def rough() -> Array:
    """Three random walks with scattered holes, a long one, and a stretch that stands still."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3, 400)).cumsum(axis=1) * 1e-4
    x[rng.random(x.shape) < 0.1] = np.nan
    x[1, 150:260] = np.nan
    x[2, 100:220] = 1e-4
    return x


@pytest.fixture(scope="module")
def settlements(rough: Array) -> Array:
    """Rates every four hours, later every hour; missing between."""
    x = np.full_like(rough, np.nan)
    x[:, :300:4], x[:, 300:] = rough[:, :300:4], rough[:, 300:]
    return x


def test_rank_and_place_are_those_of_the_window(rough: Array) -> None:
    rank, place = window_place(rough, LENGTH, 0.5, 0)
    for i, t in np.ndindex(rough.shape):
        window = rough[i, max(t - LENGTH + 1, 0) : t + 1]
        window = window[np.isfinite(window)]
        if np.isnan(rough[i, t]) or len(window) < 0.5 * LENGTH:
            assert np.isnan(rank[i, t])
            assert np.isnan(place[i, t])
            continue
        assert rank[i, t] == pytest.approx(percentileofscore(window, rough[i, t], kind="mean") / 100)
        width = np.ptp(window)
        assert place[i, t] == pytest.approx((rough[i, t] - window.min()) / width if width else np.nan, nan_ok=True)
    assert np.isnan(place[2, 200])
    assert rank[2, 200] == 0.5


def test_the_slope_is_least_squares(rough: Array) -> None:
    slope = window_slope(rough, 24, 0.8, 0)
    for i, t in np.ndindex(rough.shape):
        window = rough[i, max(t - 23, 0) : t + 1]
        there = np.isfinite(window)
        expected = np.polyfit(np.flatnonzero(there), window[there], 1)[0] if there.sum() >= 0.8 * 24 else np.nan
        assert slope[i, t] == pytest.approx(expected, rel=1e-8, abs=1e-15, nan_ok=True)


def forecast_error(x: Array, t: int) -> tuple[float, float]:
    """The newest settlement's standardised error and the coefficient, by a library's least squares."""
    hours = [s for s in range(max(t - LENGTH + 1, 0), t + 1) if np.isfinite(x[s])]
    if len(hours) < 3 or t - hours[-1] > LIFE or hours[-1] - hours[-2] > LIFE:
        return np.nan, np.nan
    pairs = [(a, b) for a, b in pairwise(hours[:-1]) if b - a <= LIFE]
    if len(pairs) < MINIMUM:
        return np.nan, np.nan
    lag, lead = np.array([x[a] for a, _ in pairs]), np.array([x[b] for _, b in pairs])
    if np.ptp(lag) < TICK:
        sd = np.sqrt(((lead - lead.mean()) ** 2).sum() / (len(pairs) - 2))
        return float((x[hours[-1]] - lead.mean()) / max(sd, TICK)), np.nan
    design = np.column_stack([np.ones(len(pairs)), lag])
    (constant, slope), *_ = np.linalg.lstsq(design, lead, rcond=None)
    sd = np.sqrt(((lead - design @ [constant, slope]) ** 2).sum() / (len(pairs) - 2))
    return float((x[hours[-1]] - constant - slope * x[hours[-2]]) / max(sd, TICK)), float(slope)


def test_the_surprise_is_the_error_of_a_fit_without_the_newest_settlement(settlements: Array) -> None:
    error, slope = ar_surprise(settlements, LENGTH, LIFE, MINIMUM, TICK, 0)
    expected = np.array([[forecast_error(x, t) for t in range(len(x))] for x in settlements])
    np.testing.assert_allclose(error, expected[..., 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slope, expected[..., 1], rtol=1e-6, atol=1e-9)
    assert np.isfinite(error).mean() > 0.5
    assert np.isnan(slope[2, 210])
    assert error[2, 210] == pytest.approx(0, abs=1e-6)
    assert np.isnan(error[1, 200])


def test_the_spread_over_venues_skips_those_that_are_silent() -> None:
    rng = np.random.default_rng(6)
    rates = rng.normal(size=(5, 2, 300))
    rates[rng.random(rates.shape) < 0.45] = np.nan
    out = venue_spread(rates, 2)
    counts = set()
    for i, t in np.ndindex(2, 300):
        alive = rates[:, i, t][np.isfinite(rates[:, i, t])]
        counts.add(len(alive))
        if len(alive) < 2:
            assert np.isnan(out[:, i, t]).all()
            continue
        first = rates[0, i, t]
        lead = first - np.median(alive[1:]) if np.isfinite(first) else np.nan
        expected = [alive.mean(), alive.std(), np.ptp(alive), len(alive), lead]
        np.testing.assert_allclose(out[:, i, t], expected, rtol=1e-12, atol=1e-15)
    assert counts == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("kernel", "reach", "parameters"),
    [
        (window_place, LENGTH, (LENGTH, 0.5)),
        (window_slope, 24, (24, 0.8)),
        (ar_surprise, LENGTH, (LENGTH, LIFE, MINIMUM, TICK)),
    ],
)
def test_only_the_declared_reach_is_read(
    kernel: Callable[..., Array], reach: int, parameters: tuple[Any, ...], settlements: Array, rough: Array
) -> None:
    x = settlements if kernel is ar_surprise else rough
    whole = kernel(x, *parameters, 0)
    for end in (reach, 171, 256, 333, 400):
        part = np.ascontiguousarray(x[:, end - reach : end])
        assert kernel(part, *parameters, reach - 1).tobytes() == whole[..., end - 1 : end].tobytes()
    short = np.ascontiguousarray(x[:, 400 - reach // 2 : 400])
    assert kernel(short, *parameters, len(short[0]) - 1).tobytes() != whole[..., 399:].tobytes()
