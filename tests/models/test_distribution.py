"""The predictive law: Pareto tails against scipy, coverage on independent draws, and what stands in at the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from models.base import ENSEMBLE, EXCURSION_COLUMNS, RETURN_LEVELS, SHORTFALL_LEVELS, THRESHOLDS, VARIANCE_LEVELS
from models.distribution import ExcursionLaw, Reference, ReturnLaw, States, VarianceLaw
from models.parts import Part, Run
from models.past import Outcome, Past, levelled
from models.residuals import NORMAL, PRIOR_SHAPE, SHAPE_LEVELS, SHAPE_SHRINKAGE, Law, Tail, residual_quantiles

Array = NDArray[np.float64]
SYMBOLS, HOURS, SETTLED = 4, 12_000, 3000
TIMES = pd.date_range("2024-01-03 05:00", periods=HOURS, freq="h", tz="UTC").as_unit("us")
OWN = np.array([0.7, 1.0, 1.0, 1.4])[:, None]  # how far each symbol's returns go beyond what is forecast


def run_of(parts: list[Part[Any]], past: Past) -> dict[str, Array]:
    """The ensemble's columns."""
    return Run(parts, past).advance(slice(0, len(past))).get(ENSEMBLE, {})


def past_of(log_forecast: Array, outcome: Outcome, state: Array, horizon: int = 1) -> Past:
    with np.errstate(divide="ignore"):
        came = outcome.fields()
    known = {"forecast": log_forecast, "sigma": np.exp(0.5 * log_forecast), "state": state, "now": np.ones_like(state)}
    fields = came | known | dict.fromkeys(THRESHOLDS, np.exp(log_forecast))
    return Past.beginning(TIMES, horizon, fields)


def states(log_forecast: Array, times: pd.DatetimeIndex) -> Array:
    nothing = np.full_like(log_forecast, np.nan)
    past = Past.beginning(times, 1, {"forecast": log_forecast, "variance": nothing})
    run_of([States()], past)
    return past["state"]


def variance_columns(past: Past) -> dict[str, Array]:
    return run_of([VarianceLaw()], past)


def return_columns(past: Past) -> dict[str, Array]:
    return run_of([ReturnLaw()], past)


def excursion_columns(past: Past) -> dict[str, Array]:
    return run_of([ExcursionLaw("long"), ExcursionLaw("short")], past)


def reference(residual: Array, horizon: int) -> tuple[Reference, Run]:
    """A member whose ``ln V - ln F`` is ``residual``, taken through its textbook law."""
    quiet = np.zeros_like(residual)
    outcome = Outcome(np.exp(residual), quiet, quiet, quiet)
    past = past_of(quiet, outcome, np.ones_like(residual), horizon)
    past = Past.beginning(TIMES, horizon, {name: past[name] for name in past.names} | {levelled("har"): quiet})
    part = Reference("har")
    run = Run([part], past)
    run.advance(slice(0, len(past)))
    return part, run


@pytest.fixture(scope="module")
def past(log_forecast: Array, outcome: Outcome, state: Array) -> Callable[[], Past]:
    return lambda: past_of(log_forecast, outcome, state)


@pytest.fixture(scope="module")
def log_forecast() -> Array:
    steps = np.random.default_rng(0).normal(scale=0.04, size=(SYMBOLS, HOURS))
    for t in range(1, HOURS):
        steps[:, t] += 0.995 * steps[:, t - 1]
    return -9 + steps


@pytest.fixture(scope="module")
def state(log_forecast: Array) -> Array:
    return states(log_forecast, TIMES)


@pytest.fixture(scope="module")
def outcome(log_forecast: Array, state: Array) -> Outcome:
    """Independent draws: Student t returns with five degrees of freedom, log V wider in high states."""
    rng = np.random.default_rng(1)
    sigma = OWN * np.exp(0.5 * log_forecast)
    surprise = np.log(OWN) - 0.2 + np.choose(state.astype(int), [0.4, 0.6, 0.9]) * rng.normal(size=state.shape)
    below, above = (np.abs(rng.standard_t(5, state.shape)) * sigma * (rng.random(state.shape) < 0.8) for _ in range(2))
    return Outcome(
        np.exp(log_forecast + surprise),
        sigma * rng.standard_t(5, state.shape) * np.sqrt(3 / 5),
        -np.expm1(-below),
        np.expm1(above),
    )


def binomial_band(count: int, p: float) -> tuple[float, float]:
    low, high = stats.binom.interval(1 - 1e-4, count, p)
    return low / count, high / count


def assert_covers(quantiles: Mapping[str, Array], levels: Mapping[str, float], realised: Array) -> None:
    late = slice(SETTLED, HOURS - 1)
    for name, p in levels.items():
        hits = realised[:, late] <= quantiles[name][:, late]
        low, high = binomial_band(hits.size, p)
        assert low <= hits.mean() <= high, name
        for own in hits:
            low, high = binomial_band(own.size, p)
            # Each symbol's scale is learnt, not known: allow for a tenth of the misses, and for the band.
            assert low - 0.1 * min(p, 1 - p) <= own.mean() <= high + 0.1 * min(p, 1 - p), name


@pytest.mark.parametrize("shape", [-0.2, 0.0, 1e-12, 0.15, 0.45])
@pytest.mark.parametrize("p", [0.95, 0.975, 0.99, 0.995, 0.999])
def test_tail_is_the_generalised_pareto(shape: float, p: float) -> None:
    tail = Tail(1.7, shape, 0.6)
    law = stats.genpareto(shape, loc=1.7, scale=0.6)

    def quantile(level: float) -> float:
        return float(law.ppf((level - 0.95) / 0.05))

    assert tail.quantile(p) == pytest.approx(quantile(p), rel=1e-9)
    mean_beyond = integrate.quad(quantile, p, 1, limit=400)[0] / (1 - p)
    assert tail.shortfall(p) == pytest.approx(mean_beyond, rel=1e-4)


@pytest.mark.parametrize(("shape", "fitted"), [(-0.3, -0.3), (0.0, 0.0), (0.25, 0.25), (0.9, 0.5)])
def test_tail_finds_a_planted_shape(shape: float, fitted: float) -> None:
    x = stats.genpareto(shape, scale=1.5).rvs(400_000, random_state=3)
    tail = Tail.fit(x)
    assert tail.start == pytest.approx(np.quantile(x, 0.95))
    assert tail.shape == pytest.approx(fitted, abs=0.03)
    if shape < 0.5:
        # Beyond a threshold u a Pareto tail is one again, its scale grown by shape * u.
        assert tail.scale == pytest.approx(1.5 + shape * tail.start, rel=0.03)
        for p in (0.99, 0.999):
            assert tail.quantile(p) == pytest.approx(stats.genpareto(shape, scale=1.5).ppf(p), rel=0.05)


@pytest.mark.parametrize(("count", "horizon"), [(4000, 1), (80_000, 24), (80_000, 1)])
def test_tail_of_few_rows_that_do_not_overlap_is_drawn_to_the_usual_shape(count: int, horizon: int) -> None:
    x = stats.genpareto(-0.2, scale=1.5).rvs(count, random_state=4)
    excesses = count / 20
    own = (Tail.fit(np.repeat(x, 1000)).shape - 0.25 * 200 / (excesses * 1000 + 200)) * (1 + 200 / (excesses * 1000))
    assert own == pytest.approx(-0.2, abs=0.2)
    found = Tail.fit(x, horizon)
    share = SHAPE_SHRINKAGE / (excesses / horizon + SHAPE_SHRINKAGE)
    assert found.shape == pytest.approx((1 - share) * own + share * PRIOR_SHAPE, abs=0.01)
    # Whatever its shape, a tail keeps the mean excess of its sample.
    assert found.scale / (1 - found.shape) == pytest.approx((x[x > found.start] - found.start).mean())


def test_tail_matches_the_mean_excess_of_its_sample() -> None:
    x = np.random.default_rng(0).standard_t(3, 5000)
    tail = Tail.fit(x)
    excess = x[x > tail.start] - tail.start
    assert tail.scale / (1 - tail.shape) == pytest.approx(excess.mean())
    assert tail.shortfall(0.95) == pytest.approx(x[x > tail.start].mean())


def test_tail_of_too_few_is_exponential() -> None:
    tail = Tail.fit(np.arange(100.0))
    assert tail.shape == 0
    assert tail.shortfall(0.95) == pytest.approx(tail.start * 4 / 3)
    assert Tail.fit(np.zeros(1000)).scale > 0


def test_return_quantiles_cover(past: Callable[[], Past], outcome: Outcome) -> None:
    columns = return_columns(past())
    assert_covers(columns, RETURN_LEVELS, outcome.log_return)
    ordered = np.stack([columns[name] for name in RETURN_LEVELS])
    assert (np.diff(ordered, axis=0) >= 0).all()


def test_moves_that_grow_less_than_the_forecast_are_covered_where_it_is_high_and_low(log_forecast: Array) -> None:
    high = log_forecast > np.median(log_forecast)
    sigma = np.exp(0.5 * log_forecast - 0.6 * (log_forecast + 9))
    rng = np.random.default_rng(2)
    returns, falls = sigma * rng.standard_t(6, sigma.shape), np.abs(sigma * rng.standard_t(6, sigma.shape))
    outcome = Outcome(np.exp(log_forecast), returns, -np.expm1(-falls), falls)
    past = past_of(log_forecast, outcome, np.ones_like(log_forecast))
    columns = return_columns(past) | excursion_columns(past)
    late = (np.arange(HOURS) > SETTLED) & (np.arange(HOURS) < HOURS - 1)
    for half in (high & late, ~high & late):
        for levels, y in ((RETURN_LEVELS, returns), (EXCURSION_COLUMNS["long"], outcome.mae_long)):
            for name, p in levels.items():
                low, up = binomial_band(int(half.sum()), p)
                share = (y[half] <= columns[name][half]).mean()
                assert low - 0.2 * min(p, 1 - p) <= share <= up + 0.2 * min(p, 1 - p), (name, share)


def test_variance_quantiles_cover_in_every_state(past: Callable[[], Past], outcome: Outcome, state: Array) -> None:
    columns = variance_columns(past())
    assert_covers(columns, VARIANCE_LEVELS, outcome.variance)
    ordered = np.stack([columns[name] for name in VARIANCE_LEVELS])
    assert (np.diff(ordered, axis=0) > 0).all()
    for k, spread in enumerate((0.4, 0.6, 0.9)):
        late = (state == k) & (np.arange(HOURS) > SETTLED)
        width = np.log(columns["var_q95"] / columns["var_q05"])[late].mean()
        assert width == pytest.approx(2 * 1.645 * spread, rel=0.07)


def test_excursion_quantiles_cover(past: Callable[[], Past], outcome: Outcome) -> None:
    columns = excursion_columns(past())
    for side, realised in (("long", outcome.mae_long), ("short", outcome.mae_short)):
        assert_covers(columns, EXCURSION_COLUMNS[side], realised)
        ordered = np.stack([columns[name] for name in EXCURSION_COLUMNS[side]])
        assert (np.diff(ordered, axis=0) > 0).all()
        assert (ordered > 0).all()
        if side == "long":
            assert (ordered < 1).all()


def test_shortfall_is_the_mean_beyond(past: Callable[[], Past], log_forecast: Array) -> None:
    columns = return_columns(past())
    law = stats.t(5, scale=np.sqrt(3 / 5))
    scale = OWN * np.exp(0.5 * log_forecast)
    for name, p in SHORTFALL_LEVELS.items():
        tail = min(p, 1 - p)
        expected = law.expect(lambda z: -z, ub=law.ppf(tail), conditional=True)
        made = np.abs(columns[name] / scale)[:, SETTLED:].mean()
        assert made == pytest.approx(expected, rel=0.05)
        beyond = columns[name.replace("es", "q")]
        assert (columns[name] < beyond).all() if p < 0.5 else (columns[name] > beyond).all()


def test_before_anything_is_resolved_wide_laws_stand_in() -> None:
    """Normal for log V; for the tails a Student t with four degrees of freedom. Sigma is the forecast's own."""
    level = np.zeros((1, 300))
    nothing = Outcome(*(np.full((1, 300), 1e-3) for _ in range(4)))  # 300 rows, under the 500 that are asked for
    past = past_of(level, nothing, np.ones((1, 300)))
    variances = variance_columns(past)
    for name, p in VARIANCE_LEVELS.items():
        np.testing.assert_allclose(variances[name], np.exp(stats.norm.ppf(p)), rtol=1e-3)
    assert (past["learnt"] == 0).all()
    returns = return_columns(past)
    for name in ("ret_q005", "ret_q010", "ret_q050", "ret_q950", "ret_q990", "ret_q995"):
        np.testing.assert_allclose(returns[name], stats.t.ppf(RETURN_LEVELS[name], 4), rtol=0.03)
    np.testing.assert_allclose(returns["ret_q500"], 0, atol=1e-9)
    excursions = excursion_columns(past)
    np.testing.assert_allclose(excursions["mae_short_q990"], np.expm1(stats.t.ppf(0.99, 4)), rtol=0.1)


def test_flat_prices_do_not_make_a_law() -> None:
    """Residuals without spread would forecast none; the stand-in stays."""
    flat = np.zeros((2, 2000))
    still = Outcome(np.full_like(flat, 1e-8), flat, flat, flat)
    past = past_of(flat, still, np.ones_like(flat))
    made = return_columns(past) | excursion_columns(past)
    np.testing.assert_allclose(made["ret_q010"], stats.t.ppf(0.01, 4), rtol=0.03)
    assert (made["mae_long_q950"] > 0.5).all()
    law = Law.learn(flat - 3.0, np.ones_like(flat), 1, centred=True)
    assert (law.scale == 1).all()
    assert not law.learnt


def test_a_symbol_that_stood_still_keeps_a_spread(log_forecast: Array, outcome: Outcome, state: Array) -> None:
    returns = outcome.log_return.copy()
    returns[0] = 0.0
    still = Outcome(outcome.variance, returns, outcome.mae_long, outcome.mae_short)
    made = return_columns(past_of(log_forecast, still, state))
    width = (made["ret_q990"] / np.exp(0.5 * log_forecast))[:, -1]
    assert (width[1:] > 2).all()
    assert width[0] > 0.2


def test_states_are_distances_from_the_trailing_month() -> None:
    hours = 3000
    log_forecast = np.full((3, hours), -9.0)
    log_forecast[0, 2500:2520] += 1.0
    log_forecast[1, 2500:2520] -= 1.0
    log_forecast[2, 2500:2520] = np.nan
    made = states(log_forecast, TIMES[:hours])
    assert made[:, 2510].tolist() == [2, 0, 1]
    assert (np.delete(made, np.s_[2500:2520], axis=1) == 1).all()


def test_location_and_scale_by_hand() -> None:
    """Pooled moments, each symbol's own mixed in by its number of rows without overlap."""
    rng = np.random.default_rng(0)
    horizon = 24
    residual = rng.normal(size=(3, 4000)) * [[0.5], [1.0], [2.0]] + [[0.3], [0.0], [-0.3]]
    residual[2, :3000] = np.nan
    part, run = reference(residual, horizon)
    hour, law = run.learnt(part)[-1]
    column = hour - run.past.first_hour
    assert 3300 < column < 4000
    past = residual[:, max(column - horizon + 1 - 8760, 0) : column - horizon + 1]
    known = [row[np.isfinite(row)] for row in past]
    pool = np.concatenate(known)
    for i, own in enumerate(known):
        share = (len(own) / horizon) / (len(own) / horizon + 60)
        assert law.location[i, 1] == pytest.approx(pool.mean() + share * (own.mean() - pool.mean()))
        assert law.scale[i, 1] == pytest.approx(pool.std() * (own.std() / pool.std()) ** share)


def test_lognormal_law_is_the_textbook_one() -> None:
    part, run = reference(np.random.default_rng(0).exponential(size=(2, 2000)), 1)
    for _, learnt in run.learnt(part):
        law = learnt.at(np.ones((2, 2000)))
        x = law.location + np.linspace(-2, 2.5, 2000) * law.scale
        expected = stats.norm.sf(x, law.location, law.scale)
        np.testing.assert_allclose(law.exceedance(x), expected, atol=5e-4)
        for p in (0.05, 0.5, 0.95):
            np.testing.assert_allclose(law.quantile(p), stats.norm.ppf(p, law.location, law.scale), atol=1e-6)


def test_exceedance_inverts_quantile(log_forecast: Array, outcome: Outcome, state: Array) -> None:
    law = Law.learn(np.log(outcome.variance) - log_forecast, state, 1, centred=True).at(state)
    for p in (0.003, 0.05, 0.42, 0.95, 0.999):
        np.testing.assert_allclose(law.exceedance(law.quantile(p)), 1 - p, atol=1e-9)
    far = law.exceedance(np.full_like(log_forecast, 50.0))
    np.testing.assert_allclose(far, 1 - SHAPE_LEVELS[-1])
    assert np.isnan(law.exceedance(np.full_like(log_forecast, np.nan))).all()


def test_law_tells_from_where_on_it_is_learnt() -> None:
    residual = np.random.default_rng(0).normal(scale=0.3, size=(2, 2000))
    residual[:, :700] = np.nan
    outcome = Outcome(np.exp(residual), *(np.zeros((3, 2, 2000))))
    past, part = past_of(np.zeros_like(residual), outcome, np.ones_like(residual), 24), VarianceLaw()
    run = Run([part], past)
    run.advance(slice(0, 2000))
    first = int(np.argmax(past["learnt"][0] == 1))
    by_refresh = {hour - past.first_hour: law for hour, law in run.learnt(part)}
    assert first in by_refresh
    assert first >= 700 + 24 + 250
    assert (past["learnt"][:, first:] == 1).all()
    assert (past["learnt"][:, :first] == 0).all()
    for column, law in by_refresh.items():
        assert law.learnt == (column >= first)
        assert (law.scale == 1).all() == (not law.learnt)
        assert (law.shape == NORMAL).all() == (not law.learnt)


@settings(deadline=None)
@given(count=st.integers(1, 3000), seed=st.integers(0, 10), ties=st.booleans())
def test_quantiles_are_those_of_numpy_to_the_bit(count: int, seed: int, ties: bool) -> None:
    x = np.random.default_rng(seed).standard_t(3, count)
    x = np.round(x, 1) if ties else x
    np.testing.assert_array_equal(residual_quantiles(x, SHAPE_LEVELS), np.quantile(x, SHAPE_LEVELS))
