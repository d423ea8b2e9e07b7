from __future__ import annotations

import json
from typing import Any

import duckdb
import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from arch.bootstrap import MCS
from scipy import stats

from features.errors import DataInvalid, UsageError
from models.base import PROBABILITIES, RETURN_LEVELS, VARIANCE_LEVELS
from training import backtests, losses
from training.diagnostics import diagnostics, headline
from training.scorecard import FIELDS, SCORED_COLUMNS, score, scores_schema, to_json_bytes

START, END = "2024-03-01", "2024-05-10"
DAYS = 70
HISTORY = 60 * 24
HORIZONS = (1, 24)
SYMBOLS = ("AAAUSDT", "BBBUSDT", "CCCUSDT")
NOISE = {"ensemble": 0.05, "har_seasonal": 0.2, "har": 0.3, "ewma": 0.6}
PROBABILISTIC = ("ensemble", "har")
SHOCK = pd.Timestamp("2024-04-10 13:00", tz="UTC")
HOUR = pd.Timedelta(hours=1)


@pytest.fixture(scope="module")
def market() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Forecasts of known quality with holes of every kind, and what came; hourly, with a crash hour."""
    rng = np.random.default_rng(3)
    first = pd.Timestamp(START, tz="UTC") - HISTORY * HOUR
    origins = pd.date_range(first, periods=HISTORY + DAYS * 24, freq="h", unit="us")
    came, made = [], []
    for symbol in SYMBOLS:
        for horizon in HORIZONS:
            truth = np.exp(-8 + stats.norm.rvs(size=len(origins), random_state=rng))
            realised = truth * rng.gamma(10, 0.1, len(origins))
            realised[origins == SHOCK] *= 400
            regime = rng.choice(4, len(origins), p=[0.3, 0.55, 0.1, 0.05]).astype(float)
            now = rng.choice(4, len(origins), p=[0.3, 0.55, 0.1, 0.05])
            regime[:100] = np.nan
            frame = pd.DataFrame(
                {
                    "symbol": symbol,
                    "origin": origins,
                    "horizon_hours": horizon,
                    "target_end": origins + horizon * HOUR,
                    "variance": realised,
                    "log_return": np.sqrt(truth) * rng.normal(size=len(origins)),
                    "regime": regime,
                    "regime_now": now.astype(float),
                    "onset": np.where((now < 2) & ~np.isnan(regime), regime >= 2, np.nan),
                }
            )
            frame.loc[frame.index[-horizon:], ["variance", "log_return", "regime", "onset"]] = np.nan
            came.append(frame)
            made += [member(symbol, horizon, origins[HISTORY:], truth[HISTORY:], m, rng) for m in NOISE]
    forecasts = pd.concat(made, ignore_index=True)
    rows = forecasts["model"].eq("har") & forecasts["symbol"].eq("AAAUSDT")
    forecasts = forecasts.drop(forecasts.index[rows][200:230])
    blocked = forecasts.index[forecasts["model"].eq("ensemble")][50:60]
    forecasts.loc[blocked, "status"] = "blocked"
    forecasts.loc[forecasts.index[forecasts["model"].eq("har_seasonal")][300:310], "variance"] = np.nan
    # One member never forecasts one symbol: it must not silence the others there.
    forecasts = forecasts[~(forecasts["model"].eq("ewma") & forecasts["symbol"].eq("CCCUSDT"))]
    realised = pd.concat(came).set_index(["symbol", "origin", "horizon_hours"]).sort_index()
    return forecasts.sample(frac=1, random_state=1).reset_index(drop=True), realised


def member(
    symbol: str,
    horizon: int,
    origins: pd.DatetimeIndex,
    truth: np.ndarray,
    model: str,
    rng: np.random.Generator,
) -> pd.DataFrame:
    variance = truth * np.exp(NOISE[model] * rng.normal(size=len(truth)))
    columns: dict[str, Any] = dict.fromkeys(SCORED_COLUMNS[6:], np.nan)
    columns |= {
        "symbol": symbol,
        "origin": origins,
        "horizon_hours": np.int16(horizon),
        "model": model,
        "status": "ok",
        "variance": variance,
    }
    if model in PROBABILISTIC:
        for name, level in VARIANCE_LEVELS.items():
            columns[name] = variance * np.exp(0.3 * stats.norm.ppf(level))
        for name, level in RETURN_LEVELS.items():
            columns[name] = np.sqrt(variance) * stats.norm.ppf(level)
        columns["ret_es025"] = -np.sqrt(variance) * 2.338
        table = rng.dirichlet([6, 11, 2, 1], len(truth))
        columns |= {name: table[:, k] for k, name in enumerate(PROBABILITIES)}
        columns["p_onset"] = rng.uniform(0.05, 0.25, len(truth))
    return pd.DataFrame(columns)[list(SCORED_COLUMNS)]


@pytest.fixture(scope="module")
def scores(market: tuple[pd.DataFrame, pd.DataFrame]) -> dict[str, Any]:
    return score(*market, start=START, end=END)


def query(sql: str, **tables: pd.DataFrame) -> pd.DataFrame:
    with duckdb.connect() as connection:
        for name, table in tables.items():
            # Instants cross as naive UTC: SQL then needs no time zone.
            naive = {column: pd.Index(table[column]) for column in table}
            naive |= {c: i.tz_localize(None) for c, i in naive.items() if isinstance(i, pd.DatetimeIndex)}
            connection.register(name, pa.table({c: pa.array(i, from_pandas=True) for c, i in naive.items()}))
        frame: pd.DataFrame = connection.sql(sql).to_arrow_table().to_pandas()
    return frame.assign(origin=frame["origin"].dt.tz_localize("UTC")) if "origin" in frame else frame


@pytest.fixture(scope="module")
def joined(market: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """The common sample written as SQL, independent of any grid."""
    return query(
        """
        with usable as (
            select f.* , t.variance as y, t.log_return as r, t.regime, t.onset
            from forecasts f join truth t using (symbol, origin, horizon_hours)
            where f.status <> 'blocked' and f.variance is not null and t.variance is not null
        ), members as (select symbol, horizon_hours, count(distinct model) as k from usable group by all)
        select *, y / variance - ln(y / variance) - 1 as qlike
        from usable join members using (symbol, horizon_hours)
        qualify count(*) over (partition by symbol, origin, horizon_hours) = k
        order by symbol, origin, horizon_hours, model
        """,
        forecasts=market[0],
        truth=market[1].reset_index(),
    )


def row(scores: dict[str, Any], model: str, horizon: int, symbol: str) -> dict[str, Any]:
    (found,) = [
        entry
        for entry in scores["scores"]
        if (entry["model"], entry["horizon_hours"], entry["symbol"]) == (model, horizon, symbol)
    ]
    return found


CELLS = [(m, h, s) for m in PROBABILISTIC for h in HORIZONS for s in SYMBOLS]


def test_the_document_is_the_pinned_one(scores: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(to_json_bytes(scores)), scores_schema())
    assert list(scores) == ["schema_version", "proxy", "start", "end", "scores"]
    assert (scores["proxy"], scores["start"]) == ("garman_klass", "2024-03-01T00:00:00Z")
    keys = [(entry["model"], entry["horizon_hours"], entry["symbol"]) for entry in scores["scores"]]
    assert keys == sorted(keys)
    assert len(keys) == len(NOISE) * len(HORIZONS) * (len(SYMBOLS) + 1)
    assert all(tuple(entry)[3:] == FIELDS for entry in scores["scores"])


def test_a_changed_document_fails_its_schema(scores: dict[str, Any]) -> None:
    for change in ({"extra": 1}, {"qlike": "0.1"}, {"n": None}, {"in_mcs90": 1}):
        broken = scores | {"scores": [scores["scores"][0] | change]}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, scores_schema())


def test_bytes_do_not_depend_on_the_order_of_rows(
    market: tuple[pd.DataFrame, pd.DataFrame], scores: dict[str, Any]
) -> None:
    forecasts, realised = market
    again = score(
        forecasts.sample(frac=1, random_state=9),
        realised.sample(frac=1, random_state=9),
        start=pd.Timestamp(START),
        end=pd.Timestamp(END, tz="UTC"),
    )
    assert to_json_bytes(again) == to_json_bytes(scores)


def test_means_equal_sql_over_the_common_sample(scores: dict[str, Any], joined: pd.DataFrame) -> None:
    means = query(
        """
        select model, horizon_hours, symbol, count(*) as n, avg(qlike) as qlike,
            avg((ln(y) - ln(variance)) ** 2) as mse_log,
            avg((var_q05 <= y and y <= var_q95)::int) as coverage_var_90,
            avg((r < ret_q010)::int) as var_hit_010
        from joined group by all order by all
        """,
        joined=joined,
    )
    assert len(means) == len(NOISE) * 6 - 2
    for entry in means.itertuples():
        found = row(scores, entry.model, entry.horizon_hours, entry.symbol)
        assert found["n"] == entry.n
        assert found["qlike"] == pytest.approx(entry.qlike)
        assert found["mse_log"] == pytest.approx(entry.mse_log)
        if entry.model in PROBABILISTIC:
            assert found["coverage_var_90"] == pytest.approx(entry.coverage_var_90)
            assert found["var_hit_010"] == pytest.approx(entry.var_hit_010)


@pytest.mark.parametrize(("model", "horizon", "symbol"), CELLS)
def test_cells_equal_the_losses_over_the_common_sample(
    scores: dict[str, Any], joined: pd.DataFrame, model: str, horizon: int, symbol: str
) -> None:
    mine = joined.query("model == @model and horizon_hours == @horizon and symbol == @symbol")
    found = row(scores, model, horizon, symbol)
    levels = mine[list(VARIANCE_LEVELS)].to_numpy()
    assert found["crps_log"] == pytest.approx(losses.crps_log(mine["y"], levels))
    quantiles = mine[list(RETURN_LEVELS)].to_numpy()
    assert found["pinball_ret"] == pytest.approx(losses.pinball_ret(mine["r"], quantiles, mine["variance"]))
    known = mine[mine["regime"].notna()]
    stress, p = (known["regime"] >= 2).astype(float), known["p_stress"] + known["p_crisis"]
    assert found["brier_stress"] == pytest.approx(((p - stress) ** 2).mean())
    assert found["ece_stress"] == pytest.approx(losses.ece(stress, p))
    table = known[list(PROBABILITIES)].to_numpy()
    assert found["log_loss_regime"] == pytest.approx(losses.log_loss(known["regime"], table))
    hours = mine["origin"].astype("int64") // 3_600_000_000
    spaced = mine[(hours % horizon == 0).to_numpy()].set_index("origin")
    grid = pd.date_range(START, END, freq=f"{horizon}h", tz="UTC", inclusive="left", unit="us")
    hits = (spaced["r"] < spaced["ret_q010"]).astype(float).reindex(grid)
    assert found["kupiec_p_010"] == pytest.approx(backtests.kupiec(hits, 0.01).p_value)
    assert found["christoffersen_p_010"] == pytest.approx(backtests.christoffersen(hits, 0.01).p_value)
    z2 = backtests.acerbi_szekely_z2(spaced["r"], spaced["ret_q025"], spaced["ret_es025"], 0.025)
    assert found["es_z2_025"] == pytest.approx(z2)


@pytest.mark.parametrize(("name", "prior"), [("stress", 0.10), ("onset", 0.05)])
def test_skill_is_against_the_trailing_rate_of_resolved_intervals(
    market: tuple[pd.DataFrame, pd.DataFrame],
    scores: dict[str, Any],
    joined: pd.DataFrame,
    name: str,
    prior: float,
) -> None:
    truth = market[1].reset_index()
    briers, references = [], []
    for symbol in SYMBOLS:
        past = truth.query("symbol == @symbol and horizon_hours == 24").copy()
        past["outcome"] = (past["regime"] >= 2).where(past["regime"].notna()) if name == "stress" else past["onset"]
        past = past[past["outcome"].notna()]
        mine = joined.query("model == 'har' and symbol == @symbol and horizon_hours == 24").copy()
        mine["p"] = mine["p_stress"] + mine["p_crisis"] if name == "stress" else mine["p_onset"]
        mine = mine.merge(past[["origin", "outcome"]], on="origin")
        start, known_at = pd.DatetimeIndex(past["origin"]), pd.DatetimeIndex(past["target_end"])
        outcome = past["outcome"].to_numpy()
        rate = []
        for origin in mine["origin"]:
            seen = outcome[(known_at <= origin) & (start > origin - pd.Timedelta(days=730))]
            rate.append((2160 * prior + seen.sum()) / (2160 + len(seen)))
        briers.append(((mine["p"] - mine["outcome"]) ** 2).mean())
        references.append(((np.array(rate) - mine["outcome"]) ** 2).mean())
        assert row(scores, "har", 24, symbol)[f"brier_skill_{name}"] == pytest.approx(1 - briers[-1] / references[-1])
    star = row(scores, "har", 24, "*")
    assert star[f"brier_skill_{name}"] == pytest.approx(1 - np.mean(briers) / np.mean(references))


def test_the_climatology_forgets_after_two_years() -> None:
    origins = pd.date_range("2021-01-01", periods=731 * 24, freq="h", tz="UTC", unit="us")
    regime = np.where(np.arange(len(origins)) < 24, 3.0, 0.0)
    index = pd.MultiIndex.from_product([["AAAUSDT"], origins, [1]], names=["symbol", "origin", "horizon_hours"])
    realised = pd.DataFrame(
        {"variance": 1e-4, "log_return": 0.0, "regime": regime, "onset": regime > 1}, index=index, dtype=float
    )
    made = member("AAAUSDT", 1, origins[-30:], np.full(30, 1e-4), "ensemble", np.random.default_rng(0))
    made[list(PROBABILITIES)] = (1.0, 0.0, 0.0, 0.0)
    # At origin i, s runs over (i - 17520, i - 1]: the 24 stressed hours leave one by one.
    at = np.arange(731 * 24)[-30:]
    rate = (216 + np.array([np.sum(regime[max(i - 17519, 0) : i] == 3) for i in at])) / (
        2160 + np.array([len(regime[max(i - 17519, 0) : i]) for i in at])
    )
    assert rate[0] > rate[-1]
    made[["p_stress", "p_crisis"]] = np.column_stack([rate / np.sqrt(2), np.zeros(30)])
    found = score(made, realised, start=origins[-30], end=origins[-1] + HOUR)
    assert row(found, "ensemble", 1, "*")["brier_skill_stress"] == pytest.approx(0.5)


@pytest.mark.parametrize("horizon", HORIZONS)
def test_the_shock_day_and_its_neighbours_are_left_out(
    market: tuple[pd.DataFrame, pd.DataFrame], scores: dict[str, Any], joined: pd.DataFrame, horizon: int
) -> None:
    rows = joined[(joined["horizon_hours"] == horizon)].assign(day=lambda frame: frame["origin"].dt.floor("D"))
    classical = rows[rows["model"].isin(["ewma", "har", "har_seasonal", "garch"])]
    worst = classical.groupby("day")["qlike"].sum().idxmax()
    assert worst == SHOCK.floor("D")
    kept = rows[(rows["day"] - worst).abs() > pd.Timedelta(days=1)]
    for (model, symbol), part in kept.groupby(["model", "symbol"]):
        assert row(scores, model, horizon, symbol)["qlike_x"] == pytest.approx(part["qlike"].mean())
    named = diagnostics(*market, start=START, end=END)["shock_days"][str(horizon)]
    assert named == ["2024-04-09", "2024-04-10", "2024-04-11"]


def test_only_classical_models_name_the_shock_day(market: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    forecasts, realised = market
    failed = forecasts["model"].eq("ensemble") & forecasts["origin"].dt.floor("D").eq("2024-04-20")
    worse = forecasts.assign(variance=forecasts["variance"].mask(failed, forecasts["variance"] * 1e-5))
    found = diagnostics(worse, realised, start=START, end=END)["shock_days"]
    assert found["1"] == ["2024-04-09", "2024-04-10", "2024-04-11"]


@pytest.mark.parametrize(("days", "enough"), [(22, False), (23, True)])
def test_a_confidence_set_needs_two_blocks_of_ten_days(
    market: tuple[pd.DataFrame, pd.DataFrame], days: int, enough: bool
) -> None:
    start = SHOCK.floor("D") - pd.Timedelta(days=5)
    found = score(*market, start=start, end=start + pd.Timedelta(days=days))
    for horizon in HORIZONS:
        assert (row(found, "ensemble", horizon, "AAAUSDT")["in_mcs90"] is not None) == enough


def test_stars_weigh_symbols_equally(scores: dict[str, Any]) -> None:
    for model in NOISE:
        parts = [row(scores, model, 1, symbol) for symbol in SYMBOLS]
        star = row(scores, model, 1, "*")
        assert star["n"] == sum(part["n"] for part in parts)
        for field in (
            "qlike",
            "qlike_x",
            "crps_log",
            "kupiec_p_010",
            "es_z2_025",
            "brier_stress",
            "ece_stress",
        ):
            values = [part[field] for part in parts if part[field] is not None]
            assert star[field] == (pytest.approx(np.mean(values)) if values else None)


def test_what_a_member_does_not_forecast_is_null(scores: dict[str, Any]) -> None:
    found = row(scores, "har_seasonal", 1, "AAAUSDT")
    given = {name for name in FIELDS if found[name] is not None}
    assert given == {"n", "qlike", "qlike_x", "mse_log", "in_mcs90"}
    absent = row(scores, "ewma", 1, "CCCUSDT")
    assert absent["n"] == 0
    assert all(absent[name] is None for name in FIELDS if name != "n")
    assert row(scores, "har", 1, "CCCUSDT")["n"] > 1600


@pytest.mark.parametrize("horizon", HORIZONS)
def test_the_confidence_set_is_that_of_daily_means_without_the_shock(
    scores: dict[str, Any], joined: pd.DataFrame, horizon: int
) -> None:
    rows = joined[(joined["horizon_hours"] == horizon) & (joined["symbol"] == "BBBUSDT")]
    day = rows["origin"].dt.floor("D")
    rows = rows[(day - SHOCK.floor("D")).abs() > pd.Timedelta(days=1)]
    hours = rows["origin"].astype("int64") // 3_600_000_000
    wide = rows[(hours % horizon == 0).to_numpy()].pivot(index="origin", columns="model", values="qlike")
    test = MCS(wide.groupby(wide.index.floor("D")).mean(), size=0.10, method="R", block_size=10, reps=2000, seed=1)
    test.compute()
    found = {model for model in NOISE if row(scores, model, horizon, "BBBUSDT")["in_mcs90"]}
    assert found == set(test.included)
    assert "ensemble" in found
    assert row(scores, "ensemble", horizon, "*")["in_mcs90"] is True
    assert row(scores, "ewma", horizon, "*")["in_mcs90"] is False


def test_headline_gains_are_those_of_the_scores(
    market: tuple[pd.DataFrame, pd.DataFrame], scores: dict[str, Any]
) -> None:
    table = headline(*market)
    assert set(table["opponent"]) == {"har_seasonal", "har", "ewma"}
    for line in table.query("opponent != 'ewma'").itertuples():
        own = row(scores, "ensemble", line.horizon_hours, "*")[line.loss]
        other = row(scores, line.opponent, line.horizon_hours, "*")[line.loss]
        assert line.gain == pytest.approx(1 - own / other)
        assert line.low < line.gain < line.high
        assert line.symbols == 3
        assert line.symbols_significant <= line.symbols_better <= 3
    assert (table.query("opponent == 'ewma'")["symbols"] == 2).all()
    assert (table.query("loss == 'qlike_x' and horizon_hours == 1")["symbols_significant"] >= 2).all()


def test_diagnostics_count_what_was_forecast_and_scored(
    market: tuple[pd.DataFrame, pd.DataFrame], joined: pd.DataFrame
) -> None:
    found = diagnostics(*market, start=START, end=END)
    assert json.loads(to_json_bytes(found)) == found
    coverage = {(entry["model"], entry["horizon_hours"]): entry for entry in found["coverage"]}
    targets = 3 * (DAYS * 24 - 1)
    assert coverage["har", 1] == {
        "model": "har",
        "horizon_hours": 1,
        "origins": targets,
        "forecast": targets - 30,
        "scored": len(joined.query("model == 'har' and horizon_hours == 1")),
    }
    pooled = {(entry["model"], entry["horizon_hours"]): entry for entry in found["pooled"]}
    mine = joined.query("model == 'ensemble' and horizon_hours == 24")
    assert pooled["ensemble", 24]["var_hit_050"] == pytest.approx((mine["r"] < mine["ret_q050"]).mean())
    assert pooled["ewma", 1]["ece_stress"] is None


def test_nothing_outside_the_window_is_scored(market: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    forecasts, realised = market
    start, end = pd.Timestamp("2024-03-10", tz="UTC"), pd.Timestamp("2024-03-12", tz="UTC")
    inside = forecasts[(forecasts["origin"] >= start) & (forecasts["origin"] < end)]
    narrow = score(inside, realised, start=start, end=end)
    assert to_json_bytes(score(forecasts, realised, start=start, end=end)) == to_json_bytes(narrow)
    found = row(narrow, "ensemble", 1, "AAAUSDT")
    assert found["n"] <= 48
    # Two days: the shock rule takes both, and there are too few days for a confidence set.
    assert (found["qlike_x"], found["in_mcs90"]) == (None, None)


def test_refusals_name_the_row(market: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    forecasts, realised = market
    twice = pd.concat([forecasts, forecasts.iloc[[7]]])
    with pytest.raises(DataInvalid, match=f"two rows for .*{forecasts.loc[7, 'symbol']}"):
        score(twice, realised, start=START, end=END)
    negative = forecasts.assign(variance=forecasts["variance"].mask(forecasts.index == 11, -1.0))
    with pytest.raises(DataInvalid, match=r"variance -1\.0 of .*, origin .* is not positive"):
        score(negative, realised, start=START, end=END)
    late = forecasts.assign(origin=forecasts["origin"].mask(forecasts.index == 5, SHOCK + HOUR / 2))
    with pytest.raises(DataInvalid, match="in row 5 is not on the hour"):
        score(late, realised, start=START, end=END)
    partial = realised.query("symbol != 'BBBUSDT' or horizon_hours != 24")
    with pytest.raises(DataInvalid, match="no 24 h targets of BBBUSDT"):
        score(forecasts, partial, start=START, end=END)
    with pytest.raises(UsageError, match="end must be later"):
        score(forecasts, realised, start=END, end=START)
