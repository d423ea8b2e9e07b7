from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from training.claims import equal_ability, superiority
from training.comparison import diebold_mariano, giacomini_white
from training.diagnostics import diagnose, joined
from training.multiplicity import holm, sign_test, superior_ability
from training.sample import Sample, samples

NOISE = {"ensemble": 0.3, "har": 0.8, "har_seasonal": 0.5, "copy": 0.5}
DAYS = 60


@pytest.fixture(scope="module")
def realised() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    origins = pd.date_range("2024-01-01", periods=DAYS * 24, freq="h", tz="UTC", unit="us")
    came = []
    for horizon in (1, 24):
        for symbol in "AB":
            n = len(origins)
            frame = pd.DataFrame({"symbol": symbol, "origin": origins, "horizon_hours": np.int16(horizon)})
            frame["variance"] = np.exp(rng.normal(-8, 0.5, n))
            frame["log_return"] = np.sqrt(frame["variance"]) * rng.normal(size=n)
            frame["regime"] = rng.choice(4, n).astype(float)
            frame["regime_now"] = np.repeat(rng.choice(4, n // 30, p=[0.5, 0.3, 0.1, 0.1]), 30).astype(float)
            frame["onset"] = np.where(frame["regime_now"] < 2, frame["regime"] >= 2, np.nan)
            came.append(frame)
    return pd.concat(came).set_index(["symbol", "origin", "horizon_hours"]).sort_index()


@pytest.fixture(scope="module")
def found(realised: pd.DataFrame) -> dict[int, Sample]:
    rng = np.random.default_rng(2)
    table = realised.reset_index()
    names = ("ret_q001", "ret_q005", "ret_q010", "ret_q025", "ret_q050", "ret_es025", "p_onset")
    made = []
    for model, noise in NOISE.items():
        own = table[["symbol", "origin", "horizon_hours"]].assign(
            model=model, status="ok", **dict.fromkeys(names, np.nan)
        )
        own["variance"] = table["variance"] * np.exp(noise * rng.normal(size=len(table)))
        own["p_stress"] = rng.beta(2, 8, len(table)) if model in ("ensemble", "har") else np.nan
        own["p_crisis"] = 0.2 * (1 - own["p_stress"])
        made.append(own)
    rows = pd.concat(made, ignore_index=True)
    rows.loc[(rows["model"] == "copy") & (rows["symbol"] == "B"), "status"] = "blocked"
    return {s.horizon: s for s in samples(rows, realised, "2024-01-01", "2024-03-01")}


def grid(realised: pd.DataFrame, horizon: int, name: str) -> np.ndarray:
    return realised.xs(horizon, level="horizon_hours")[name].unstack("origin").to_numpy()


def test_equal_ability_is_tested_on_the_mean_over_symbols(found: dict[int, Sample], realised: pd.DataFrame) -> None:
    sample = found[24]
    own, other = (sample.qlike_x[sample.models.index(name)] for name in ("ensemble", "har"))
    now = grid(realised, 24, "regime_now")
    told = equal_ability(sample, "ensemble", "har", now, tried=7)
    kept = ~sample.shocked
    dm = diebold_mariano(own[:, kept].mean(axis=0), other[:, kept].mean(axis=0), 24)
    assert (told["dm_statistic"], told["dm_p"]) == pytest.approx((dm.statistic, dm.p_value))
    assert told["dm_statistic"] < 0
    assert told["deflated_p"] == pytest.approx(1 - (1 - dm.p_value) ** 7)
    assert told["sign_p"] == sign_test(2, 2)
    assert told["dm_p"] < 1e-6
    classes = np.stack([now == 0, now == 1, now >= 2]).astype(float)
    by_regime = giacomini_white(own, other, classes, 24)
    assert told["gw_regime_p"] == pytest.approx(by_regime.p_value)
    assert (told["t_calm"], told["t_normal"], told["t_stress"]) == pytest.approx(by_regime.t)
    assert equal_ability(sample, "ensemble", "har")["gw_regime_p"] is None


def test_equals_are_told_apart_only_by_what_was_resolved_at_the_origin(found: dict[int, Sample]) -> None:
    sample = found[24]
    own, other = (sample.qlike_x[sample.models.index(name)] for name in ("har_seasonal", "copy"))
    before = np.full_like(own, np.nan)
    before[:, 24:] = (own - other)[:, :-24]
    lagged = giacomini_white(own, other, np.stack([np.ones_like(own), before]), 24)
    assert lagged.p_value > 0.001
    assert equal_ability(sample, "har_seasonal", "copy")["gw_lagged_p"] == pytest.approx(lagged.p_value)


def test_superiority_is_tested_on_daily_means_of_the_rows_that_all_models_have(found: dict[int, Sample]) -> None:
    sample = found[1]
    loss = sample.qlike_x[:, 0]  # one model never forecasts the other symbol
    kept = ~sample.shocked
    days = sample.days[kept]
    daily = np.stack([[row[kept][days == day].mean() for day in np.unique(days)] for row in loss])
    reference = sample.models.index("har_seasonal")
    others = [m for m in range(4) if m != reference]
    expected = superior_ability(daily[reference], daily[others].T)
    (told, own) = superiority(sample, ("har_seasonal", "ensemble"), tried=3)
    assert (told["spa_p"], told["spa_lower"], told["spa_upper"], told["reality_check_p"]) == pytest.approx(expected[:4])
    assert (told["benchmark"], told["best"], told["alternatives"], told["tried"]) == ("har_seasonal", "ensemble", 3, 3)
    assert told["spa_p"] == pytest.approx(1 / 1001)
    assert told["deflated_p"] == pytest.approx(1 - (1 - told["spa_p"]) ** 3)
    assert (own["benchmark"], own["spa_p"]) == ("ensemble", 1.0)
    assert [row["benchmark"] for row in superiority(sample, ("nobody", "har"))] == ["har"]


def test_the_claims_of_all_horizons_are_one_family(found: dict[int, Sample], realised: pd.DataFrame) -> None:
    parts = [diagnose(sample, "ensemble", ("har", "har_seasonal"), realised) for sample in found.values()]
    told = joined(parts)["tests"]
    assert len(told) == 4
    assert [row["holm_p"] for row in told] == pytest.approx(holm([row["dm_p"] for row in told]))
    assert "holm_p" not in parts[0]["tests"][0]


def test_diagnoses_by_regime_and_alarms_need_what_came(found: dict[int, Sample], realised: pd.DataFrame) -> None:
    bare, full = diagnose(found[24], "ensemble", ("har",)), diagnose(found[24], "ensemble", ("har",), realised)
    assert bare["alarm_curves"] == []
    assert bare["tests"][0]["gw_regime_p"] is None
    assert {row["model"] for row in full["alarm_curves"]} == {"ensemble", "har"}
    assert full["tests"][0]["gw_regime_p"] is not None
    assert diagnose(found[1], "ensemble", ("har",), realised)["alarm_curves"] == []
    stress = next(row for row in full["reliability"] if row["outcome"] == "stress")
    assert sum(stress["count"]) == 2 * DAYS * 24


def test_a_window_too_short_for_a_test_has_none(found: dict[int, Sample], realised: pd.DataFrame) -> None:
    rows = found[24].forecasts
    (short,) = samples(rows[rows["horizon_hours"] == 24], realised, "2024-01-01", "2024-01-05")
    told = equal_ability(short, "ensemble", "har")
    assert told["dm_p"] is None
    assert list(superiority(short, ("har",))) == []
