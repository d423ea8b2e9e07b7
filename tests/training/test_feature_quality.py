"""Coverage, drift and clusters of features, against counts made row by row."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from training import feature_quality
from training.feature_quality import clusters, correlations, coverage, drift
from training.rows import Rows


def rows(columns: dict[str, np.ndarray], origins: list[pd.DatetimeIndex], symbols: tuple[str, ...]) -> Rows:
    """Symbols one after the other, each with its own origins; columns hold all rows in that order."""
    lengths = [len(times) for times in origins]
    count = sum(lengths)
    return Rows(
        np.column_stack([np.asarray(values, dtype=np.float64) for values in columns.values()]),
        tuple(columns),
        np.ones((count, 1)),
        (1,),
        np.repeat(np.arange(len(symbols)), lengths),
        symbols,
        np.concatenate([times.as_unit("us").asi8 for times in origins]),
    )


def hours(start: str, count: int) -> pd.DatetimeIndex:
    return pd.date_range(start, periods=count, freq="h", tz="UTC")


def test_coverage_counts_rows_by_year_and_listing() -> None:
    generator = np.random.default_rng(1)
    origins = [hours("2022-12-20", 600), hours("2023-01-03", 300)]
    x = np.where(generator.random(900) < 0.3, np.nan, 1.0)
    late = np.full(900, np.nan)
    late[700:710] = [1, np.nan, 2, 3, 4, 5, 6, 7, 8, np.nan]
    told = coverage(rows({"x": x, "late": late, "never": np.full(900, np.nan)}, origins, ("AUSDT", "BUSDT")))
    frame = pd.DataFrame({"x": x, "at": [t for times in origins for t in times], "listed": [2022] * 600 + [2023] * 300})
    known = frame["x"].notna()
    assert [row["feature"] for row in told] == ["x", "late", "never"]
    assert told[0]["share"] == known.mean()
    assert told[0]["by_year"] == {str(y): g.notna().mean() for y, g in frame.groupby(frame["at"].dt.year)["x"]}
    assert told[0]["by_listing"] == {str(y): g.notna().mean() for y, g in frame.groupby("listed")["x"]}
    assert told[0]["first"] == f"{frame.loc[known, 'at'].min():%Y-%m-%dT%H:%MZ}"
    assert told[0]["last"] == f"{frame.loc[known, 'at'].max():%Y-%m-%dT%H:%MZ}"
    assert told[0]["symbols"] == 2
    first = origins[1][100]
    assert (told[1]["first"], told[1]["symbols"]) == (f"{first:%Y-%m-%dT%H:%MZ}", 1)
    assert told[1]["by_listing"] == {"2022": 0.0, "2023": 8 / 300}
    assert (told[2]["share"], told[2]["first"], told[2]["last"], told[2]["symbols"]) == (0.0, None, None, 0)


def stability(reference: np.ndarray, values: np.ndarray) -> float:
    """The index by its definition: cells between the reference's deciles, half a row added to each."""
    edges = [-np.inf, *sorted(set(np.quantile(reference, [k / 10 for k in range(1, 10)]))), np.inf]
    total = 0.0
    for low, high in itertools.pairwise(edges):
        p = (sum(low < v <= high for v in values) + 0.5) / (len(values) + 0.5 * (len(edges) - 1))
        q = (sum(low < v <= high for v in reference) + 0.5) / (len(reference) + 0.5 * (len(edges) - 1))
        total += (p - q) * np.log(p / q)
    return float(total)


def test_drift_is_measured_against_the_first_half_of_a_features_own_months() -> None:
    times = hours("2022-01-01", 365 * 24)
    generator = np.random.default_rng(2)
    moved = generator.normal(size=len(times))
    moved[times.month == 11] += 2.0
    late = generator.normal(size=len(times))
    late[times.month < 7] = np.nan
    steps = generator.integers(0, 3, len(times)).astype(float)
    names = {"moved": moved, "late": late, "steps": steps, "never": np.full(len(times), np.nan)}
    told = {row["feature"]: row for row in drift(rows(names, [times], ("AUSDT",)))}
    assert told["moved"]["reference_until"] == "2022-07"
    assert told["moved"]["worst_month"] == "2022-11"
    thin = times.as_unit("us").asi8 // 3_600_000_000 % 5 == 0
    reference = moved[thin & (times.month < 7)]
    november = moved[thin & (times.month == 11)]
    assert told["moved"]["worst"] == pytest.approx(stability(reference, november))
    fourth = moved[thin & (times.quarter == 4)]
    assert told["moved"]["quarters"]["2022-Q4"] == pytest.approx(stability(reference, fourth))
    assert told["moved"]["quarters"].keys() == {"2022-Q3", "2022-Q4"}
    assert told["moved"]["quarters"]["2022-Q3"] < 0.1 < told["moved"]["quarters"]["2022-Q4"]
    assert told["late"]["reference_until"] == "2022-10"
    assert told["late"]["worst"] < 0.25
    months = [steps[thin & (times.month == m)] for m in range(7, 13)]
    assert told["steps"]["worst"] == pytest.approx(
        max(stability(steps[thin & (times.month < 7)], month) for month in months)
    )
    assert told["never"] == {
        "feature": "never", "reference_until": None, "quarters": {}, "worst_month": None, "worst": None
    }  # fmt: skip


def test_correlations_are_spearmans_and_read_rows_that_have_both() -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(2000, 4))
    x[:, 1] = np.round(x[:, 0] + x[:, 1], 1)  # ties
    part = rows({str(k): x[:, k] for k in range(4)}, [hours("2022-01-01", 2000)], ("AUSDT",))
    np.testing.assert_allclose(correlations(part), spearmanr(x).statistic, atol=1e-12)
    x[:1500, 2], x[1450:, 3] = np.nan, np.nan
    x[:, 0] = 7.0
    part = rows({str(k): x[:, k] for k in range(4)}, [hours("2022-01-01", 2000)], ("AUSDT",))
    rho = correlations(part)
    assert rho[2, 3] == 0.0  # no row has both
    assert (rho[0, 1:] == 0.0).all()  # a constant
    assert rho[1, 2] == pytest.approx(spearmanr(x[1500:, 1], x[1500:, 2]).statistic, abs=0.02)


def test_correlations_of_many_rows_still_see_every_hour_of_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_quality, "MOST_ROWS", 200)
    times = hours("2022-01-01", 24 * 200)
    hour = times.hour.to_numpy(dtype=float)
    part = rows({"hour": hour, "twice": 2 * hour}, [times], ("AUSDT",))
    assert correlations(part)[0, 1] == pytest.approx(1.0)


def test_clusters_gather_what_tells_the_same_under_the_best_covered() -> None:
    generator = np.random.default_rng(4)
    x, z = generator.normal(size=(2, 3000))
    holed = np.where(np.arange(3000) % 10 == 0, np.nan, np.exp(x))
    names = {"holed": holed, "falling": -x, "rough": x + 0.05 * z, "alone": z}
    told = clusters(rows(names, [hours("2022-01-01", 3000)], ("AUSDT",)))
    assert [set(c["features"]) for c in told] == [{"holed", "falling", "rough"}, {"alone"}]
    # Of the two with full coverage, the one less like the others stands for them.
    away = {name: abs(spearmanr(names[name], z).statistic) for name in ("falling", "rough")}
    assert told[0]["representative"] == min(away, key=lambda name: away[name]) == "falling"
    assert told[0]["rho"] > 0.99
    assert told[1] == {"representative": "alone", "features": ["alone"], "rho": None}


def test_one_feature_is_its_own_cluster() -> None:
    only = rows({"x": np.arange(500.0)}, [hours("2022-01-01", 500)], ("AUSDT",))
    assert clusters(only) == [{"representative": "x", "features": ["x"], "rho": None}]
