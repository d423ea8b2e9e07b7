from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.comparison import gain
from training.sample import Sample, samples
from training.strata import KINDS, gains_by_stratum

SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE")
GAINS = dict(zip(SYMBOLS, (0.4, 0.3, 0.2, 0.1, -0.2), strict=True))
START, END, DAYS = "2023-12-01", "2024-03-10", 100
HOUR = pd.Timedelta(hours=1)


@pytest.fixture(scope="module")
def made() -> tuple[Sample, pd.DataFrame, np.ndarray]:
    """A 4 h sample of two models, the same rows as one flat table, and the regimes at the origin."""
    rng = np.random.default_rng(4)
    origins = pd.date_range(START, periods=DAYS * 24, freq="h", tz="UTC", unit="us")
    flat = []
    for k, symbol in enumerate(SYMBOLS):
        n = len(origins)
        truth = np.exp(rng.normal(-8 + k / 3, 1.0, n))
        now = rng.choice(4, n, p=[0.4, 0.5, 0.07, 0.03]).astype(float)
        regime = rng.choice(4, n, p=[0.4, 0.5, 0.07, 0.03]).astype(float)
        regime[: 24 * 20] = np.nan
        frame = pd.DataFrame({"symbol": symbol, "origin": origins, "variance": truth, "now": now, "regime": regime})
        frame["onset"] = np.where((now < 2) & ~np.isnan(regime), regime >= 2, np.nan)
        frame["log_return"] = np.sqrt(truth) * rng.normal(size=n)
        frame["status"] = np.where(rng.uniform(size=n) < 0.05, "degraded", "ok")
        frame["own"] = truth * np.exp(rng.normal(0, 0.8 * np.sqrt(1 - GAINS[symbol]), n))
        frame["other"] = truth * np.exp(rng.normal(0, 0.8, n))
        frame.loc[1000:1003, "variance"] *= 300
        flat.append(frame)
    table = pd.concat(flat, ignore_index=True)
    keys = {"horizon_hours": np.int16(4)}
    pieces = [
        table[["symbol", "origin", "status"]].assign(
            model=name, variance=table[column], ret_q010=-2.2 * np.sqrt(table["other"]), **keys
        )
        for name, column in (("ensemble", "own"), ("har_seasonal", "other"))
    ]
    realised = table.assign(**keys).set_index(["symbol", "origin", "horizon_hours"])
    (sample,) = samples(pd.concat(pieces, ignore_index=True), realised, START, END)
    now = table.pivot(index="symbol", columns="origin", values="now").to_numpy()
    for name in ("own", "other"):
        ratio = table["variance"] / table[name]
        table[f"loss_{name}"] = ratio - np.log(ratio) - 1
    table["shocked"] = table["origin"].map(dict(zip(origins, sample.shocked, strict=True)))
    return sample, table, now


@pytest.fixture(scope="module")
def rows(made: tuple[Sample, pd.DataFrame, np.ndarray]) -> dict[tuple[str, str], dict[str, Any]]:
    sample, _, now = made
    return {(r["kind"], r["value"]): r for r in gains_by_stratum(sample, "ensemble", "har_seasonal", now)}


def plain(part: pd.DataFrame) -> float:
    means = part.groupby("symbol")[["loss_own", "loss_other"]].mean().mean()
    return float(1 - means["loss_own"] / means["loss_other"])


def test_every_stratum_is_the_gain_over_its_rows(
    made: tuple[Sample, pd.DataFrame, np.ndarray], rows: dict[tuple[str, str], dict[str, Any]]
) -> None:
    table = made[1]
    left = table[~table["shocked"]]
    origin = left["origin"].dt
    before = table.groupby("symbol")["now"].shift(4)[~table["shocked"]]
    expected = {
        ("all", "all"): left,
        ("without_best", "without AAA"): left[left["symbol"] != "AAA"],
        ("worst_quartile", "EEE, DDD"): left[left["symbol"].isin(["EEE", "DDD"])],
        ("symbol", "CCC"): left[left["symbol"] == "CCC"],
        ("volatility", "calmest: AAA, BBB"): left[left["symbol"].isin(["AAA", "BBB"])],
        ("volatility", "wildest: EEE"): left[left["symbol"] == "EEE"],
        ("year", "2024"): left[origin.year == 2024],
        ("quarter", "2023 Q4"): left[origin.year == 2023],
        ("month", "2024-02"): left[origin.month == 2],
        ("hour", "07:00"): left[origin.hour == 7],
        ("regime", "stress"): left[left["now"] == 2],
        ("onset", "just begun"): left[(left["now"] >= 2) & (before < 2)],
        ("onset", "ahead"): left[left["onset"] == 1],
        ("onset", "not ahead"): left[left["onset"] == 0],
        ("feed", "stale"): left[(left["status"] == "degraded") & left["regime"].notna()],
        ("feed", "whole"): left[(left["status"] == "ok") & left["regime"].notna()],
        ("listing", "under 90 days"): left[left["regime"].isna()],
        ("listing", "older"): left[left["regime"].notna()],
        ("grid", "non-overlapping"): left[origin.hour % 4 == 0],
        ("shock", "shock days"): table[table["shocked"]],
    }
    for key, part in expected.items():
        assert rows[key]["gain"] == pytest.approx(plain(part)), key
        assert rows[key]["rows"] == len(part), key
        assert rows[key]["symbols"] == part["symbol"].nunique(), key


def test_hits_are_shares_of_returns_below_the_quantile(
    made: tuple[Sample, pd.DataFrame, np.ndarray], rows: dict[tuple[str, str], dict[str, Any]]
) -> None:
    stressed = made[1].query("now == 3")
    hits = stressed["log_return"] < -2.2 * np.sqrt(stressed["other"])
    assert rows["regime", "crisis"]["var_hit_010"] == pytest.approx(hits.mean())


def test_strata_split_all_rows(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    total = rows["all", "all"]["rows"]
    assert {kind for kind, _ in rows} == set(KINDS)
    for kind in ("symbol", "volatility", "year", "quarter", "month", "hour", "regime", "listing"):
        parts = [row["rows"] for (of, _), row in rows.items() if of == kind]
        assert sum(parts) == total, kind


def test_intervals_come_from_days_and_only_where_there_are_enough(
    made: tuple[Sample, pd.DataFrame, np.ndarray], rows: dict[tuple[str, str], dict[str, Any]]
) -> None:
    sample = made[0]
    loss = sample.qlike_x
    found = gain(loss[0], loss[1], sample.days, reps=500)
    whole = rows["all", "all"]
    assert (whole["gain"], whole["low"], whole["high"]) == pytest.approx(found[:3])
    assert rows["month", "2024-02"]["low"] is None
    assert rows["shock", "shock days"]["low"] is None
    assert rows["year", "2024"]["low"] is not None


def test_without_regimes_at_the_origin_there_are_no_strata_by_them(
    made: tuple[Sample, pd.DataFrame, np.ndarray],
) -> None:
    found = list(gains_by_stratum(made[0], "ensemble", "har_seasonal"))
    assert "regime" not in {row["kind"] for row in found}
    assert {row["value"] for row in found if row["kind"] == "onset"} == {"ahead", "not ahead"}
