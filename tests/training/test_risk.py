from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from models.base import RETURN_LEVELS
from training import backtests, losses
from training.risk import TESTS, back_tests, filtered_comparison, stack, symbol_years
from training.sample import Sample, samples

DAYS = 420
ES = {level: float(stats.norm.pdf(stats.norm.ppf(level))) / level for level in (0.01, 0.025)}


def sample_of(horizon: int, factor: float = 1.0, symbols: int = 3, seed: int = 0) -> Sample:
    """Normal returns and the quantiles of their law, times a factor; the last symbol is listed after half the window."""
    rng = np.random.default_rng(seed)
    origins = pd.date_range("2023-01-01", periods=DAYS * 24, freq="h", tz="UTC", unit="us")
    came, made = [], []
    for k in range(symbols):
        scale = np.exp(0.03 * np.cumsum(rng.normal(size=len(origins))) - 4)
        # Overlapping returns of white noise.
        noise = np.convolve(rng.normal(size=len(origins) + horizon - 1), np.ones(horizon), mode="valid") / np.sqrt(
            horizon
        )
        key = {"symbol": f"S{k}", "origin": origins, "horizon_hours": np.int16(horizon)}
        truth = pd.DataFrame(key | {"variance": scale**2, "log_return": scale * noise, "regime": 1.0, "onset": 0.0})
        came.append(truth)
        columns = {name: factor * scale * stats.norm.ppf(level) for name, level in RETURN_LEVELS.items()}
        columns |= {f"ret_es{1000 * level:03.0f}": -factor * scale * tail for level, tail in ES.items()}
        own = pd.DataFrame(key | {"model": "ensemble", "status": "ok", "variance": scale**2} | columns)
        # The other knows the scale only on average.
        flat = pd.DataFrame(key | {"model": "gjr", "status": "ok", "variance": (scale**2).mean()})
        late = len(origins) // 2 if k == symbols - 1 else 0
        made += [own.iloc[late:], flat.iloc[late:]]
    realised = pd.concat(came).set_index(["symbol", "origin", "horizon_hours"])
    (found,) = samples(pd.concat(made, ignore_index=True), realised, "2023-01-01", "2024-02-25")
    return found


def test_years_begin_with_the_symbol_and_the_rest_counts_from_half_a_year() -> None:
    year = 365 * 24
    known = np.zeros(3 * year, dtype=bool)
    assert symbol_years(known) == []
    known[100 : 100 + year + year // 2] = True
    assert symbol_years(known) == [slice(100, 100 + year), slice(100 + year, 100 + year + year // 2)]
    known[100 + year + year // 2 - 1] = False
    assert symbol_years(known) == [slice(100, 100 + year)]


def test_passes_are_those_of_the_tests_on_each_phase() -> None:
    sample = sample_of(4)
    own = sample.models.index("ensemble")
    found = {row["test"]: row for row in back_tests(sample, own)}
    assert tuple(found) == TESTS
    p: dict[str, list[tuple[int, float]]] = {"kupiec": [], "dynamic_quantile": [], "esr": []}
    for s in range(3):
        q, r = stack(sample, own, "ret_q010")[s], sample.truth["log_return"][s]
        at = np.flatnonzero(~np.isnan(q))
        pieces = [at[: 365 * 24]] if len(at) >= 365 * 24 else [at]
        for piece in pieces:
            for phase in range(4):
                rows = piece[sample.hours[piece] % 4 == phase]
                hits = (r[rows] < q[rows]).astype(float)
                p["kupiec"].append((phase, backtests.kupiec(hits, 0.01).p_value))
                p["dynamic_quantile"].append((phase, backtests.dynamic_quantile(hits, q[rows], 0.01).p_value))
                if phase == 0:
                    es = stack(sample, own, "ret_es025")[s]
                    p["esr"].append((0, backtests.shortfall_intercept(r[rows], es[rows], 0.025).p_value))
    for test, values in p.items():
        row, all_p = found[test], np.array([value for _, value in values])
        assert row["share"] == pytest.approx(np.nanmean(all_p[~np.isnan(all_p)] >= 0.05))
        assert row["passed"] == sum(value >= 0.05 for phase, value in values if phase == 0)
        assert row["symbol_years"] == sum(phase == 0 and not np.isnan(value) for phase, value in values)
        assert row["p_values"] == np.histogram(all_p[~np.isnan(all_p)], bins=np.arange(11) / 10)[0].tolist()
    assert found["kupiec"]["symbol_years"] == 3
    assert found["band"]["p_values"] is None


def test_a_right_law_passes_and_an_understated_one_fails() -> None:
    right = {row["test"]: row for row in back_tests(sample_of(1, symbols=6), 0)}
    low = {row["test"]: row for row in back_tests(sample_of(1, 0.85, symbols=6), 0)}
    for test in TESTS:
        assert right[test]["passed"] >= 4, test
    for test in ("kupiec", "christoffersen", "band", "z2", "esr"):
        assert low[test]["passed"] <= 1, test


def test_a_model_without_quantiles_has_no_back_tests() -> None:
    sample = sample_of(24)
    assert list(back_tests(sample, sample.models.index("gjr"))) == []
    few = {row["test"] for row in back_tests(sample, 0)}
    assert "kupiec" in few
    assert "esr" not in few


def test_comparison_is_the_mean_loss_on_the_rows_both_have() -> None:
    sample = sample_of(24)
    found = {row["level"]: row for row in filtered_comparison(sample, "ensemble")}
    assert set(found) == {0.01, 0.025}
    r = sample.truth["log_return"]
    q, e = stack(sample, 0, "ret_q025"), stack(sample, 0, "ret_es025")
    variance = stack(sample, 1, "variance")
    base_q, base_e = backtests.filtered_simulation(r, variance, sample.hours, 24, 0.025)
    means = []
    for quantile, shortfall in ((q, e), (base_q, base_e)):
        by_symbol = []
        for s in range(3):
            known = np.isfinite(r[s] + q[s] + base_q[s])
            by_symbol.append(losses.fz0(r[s][known], quantile[s][known], shortfall[s][known], 0.025))
        means.append(np.mean(by_symbol))
    row = found[0.025]
    assert (row["fz0"], row["fz0_filtered"]) == pytest.approx(tuple(means))
    assert row["difference"] == pytest.approx(means[1] - means[0])
    assert row["low"] < row["difference"] < row["high"]
    assert row["saved"] == pytest.approx(1 - np.exp(row["difference"] * -1))
    assert row["difference"] > 0.05
    assert row["symbols_better"] == row["symbols"] == 3
