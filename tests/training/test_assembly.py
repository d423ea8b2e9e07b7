"""From members' forecasts to rows: status and reason of every kind of damage, the ladder, and what may be null."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from models import table
from models.base import ENSEMBLE, FORECAST_SCHEMA, PROBABILITIES, THRESHOLDS
from models.regimes import CLASSIFIED
from training.assembly import DEGRADING, Origin, Provenance, _status, assemble, records, table_rows
from training.config import RunConfig
from training.evaluation import Evaluation
from training.fold_store import read_fold
from training.material import Material, prepare

REGIME_COLUMNS = [*PROBABILITIES, *THRESHOLDS]
NUMBERS = [f.name for f in FORECAST_SCHEMA if str(f.type) == "double"]
DISTRIBUTION = [name for name in NUMBERS if name not in (*REGIME_COLUMNS, "p_onset")]


def at(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


@pytest.fixture(scope="module")
def forecasts(evaluation: Evaluation) -> pd.DataFrame:
    return table.read_parquet(evaluation.path)


@pytest.fixture(scope="module")
def ensemble(forecasts: pd.DataFrame) -> pd.DataFrame:
    return forecasts[forecasts["model"] == ENSEMBLE]


def of(rows: pd.DataFrame, symbol: str, first: str, last: str) -> pd.DataFrame:
    """Rows of a symbol with ``first <= origin <= last``."""
    return rows[(rows["symbol"] == symbol) & rows["origin"].between(at(first), at(last))]


def test_a_sound_symbol_is_ok_and_complete(ensemble: pd.DataFrame) -> None:
    sound = ensemble[ensemble["symbol"] == "BTCUSDT"]
    assert set(sound["status"]) == {"ok"}
    assert set(sound["reason"]) == {""}
    assert sound[[*DISTRIBUTION, *REGIME_COLUMNS]].notna().all(axis=None)


def test_members_leave_null_what_they_do_not_forecast(forecasts: pd.DataFrame) -> None:
    btc = forecasts[forecasts["symbol"] == "BTCUSDT"]
    ewma, har = (btc[btc["model"] == model] for model in ("ewma", "har"))
    assert ewma[["variance", "vol_annualised", *THRESHOLDS]].notna().all(axis=None)
    assert ewma[["var_q50", "ret_q010", "p_calm"]].isna().all(axis=None)
    assert har[["var_q50", *PROBABILITIES]].notna().all(axis=None)
    assert har["ret_q010"].isna().all()


def test_onset_is_given_where_it_is_defined(evaluation: Evaluation, ensemble: pd.DataFrame) -> None:
    keys = ["symbol", "origin", "horizon_hours"]
    now = evaluation.realised["regime_now"].reindex(pd.MultiIndex.from_frame(ensemble[keys]))
    defined = (now <= 1).to_numpy()
    given = ensemble["p_onset"].notna().to_numpy()
    known = ensemble["threshold_normal"].notna().to_numpy()
    np.testing.assert_array_equal(given & known, defined)
    expected = ensemble["p_stress"] + ensemble["p_crisis"]
    np.testing.assert_array_equal(ensemble["p_onset"][given], expected[given])


# -- status ----------------------------------------------------------------------------------------------------------


def test_a_stale_feed_degrades_from_its_end_of_life_to_its_return(ensemble: pd.DataFrame) -> None:
    """The last settlement known was that of 5 June 00:00; it lives for 24 hours; the next comes on the 10th at 08:00."""
    eth = of(ensemble, "ETHUSDT", "2023-06-04", "2023-06-12")
    stale = eth["origin"].between(at("2023-06-06 01:00"), at("2023-06-10 07:00"))
    assert set(eth["status"][stale]) == {"degraded"}
    assert set(eth["reason"][stale]) == {"funding is stale"}
    assert set(eth["status"][~stale]) == {"ok"}
    assert eth[[*DISTRIBUTION, *REGIME_COLUMNS]].notna().all(axis=None)


def test_a_feed_never_had_is_absent_and_not_stale(ensemble: pd.DataFrame) -> None:
    sol = ensemble[ensemble["symbol"] == "SOLUSDT"]
    assert not sol["reason"].str.contains("funding").any()
    assert set(sol["status"][sol["origin"] >= at("2023-06-14")]) == {"ok"}


def test_a_feed_is_stale_for_ninety_days_and_then_absent(market: Market, config: RunConfig) -> None:
    funding = market.table("funding")
    last = at("2023-02-01")
    material = prepare(market.with_tables(funding=funding[funding["funding_time"] <= last]), config)
    whole = slice(0, len(material.times))
    btc = Origin.of(material, whole).degraded[material.symbols.index("BTCUSDT")]
    stale = material.times[btc & 1 << DEGRADING.index("funding is stale") > 0]
    fresh_until = last + pd.Timedelta(hours=24)
    assert stale[0] == fresh_until + pd.Timedelta(hours=1)
    assert stale[-1] == fresh_until + pd.Timedelta(days=90) - pd.Timedelta(hours=1)
    assert len(stale) == 90 * 24 - 1


def test_what_came_before_the_span_counts_for_staleness(market: Market, config: RunConfig) -> None:
    """A span that begins after the feed fell silent tells the same as the whole."""
    funding = market.table("funding")
    material = prepare(market.with_tables(funding=funding[funding["funding_time"] <= at("2023-03-01")]), config)
    first = int(material.times.get_loc(at("2023-04-01")))
    whole = Origin.of(material, slice(0, len(material.times)))
    part = Origin.of(material, slice(first, len(material.times)))
    np.testing.assert_array_equal(part.degraded, whole.degraded[:, first:])
    assert (part.degraded[0] == 1 << DEGRADING.index("funding is stale")).sum() > 500


def test_a_young_symbol_has_everything_but_regimes(ensemble: pd.DataFrame) -> None:
    """Listed on 15 March: 2,160 complete intervals of h hours exist on 13 June at 00:00 + h."""
    for h in (1, 4):
        sol = ensemble[(ensemble["symbol"] == "SOLUSDT") & (ensemble["horizon_hours"] == h)]
        young = sol["origin"] < at("2023-06-13") + pd.Timedelta(hours=h)
        assert young.sum() > 1000
        assert set(sol["status"][young]) == {"degraded"}
        assert sol.loc[young, REGIME_COLUMNS].isna().all(axis=None)
        assert sol.loc[young, "p_onset"].isna().all()
        assert sol.loc[~young, REGIME_COLUMNS].notna().all(axis=None)
        assert sol[DISTRIBUTION].notna().all(axis=None)
    assert ensemble["reason"].str.startswith("under 90 days of bars").sum() > 2000


def test_a_missing_bar_has_no_row(forecasts: pd.DataFrame) -> None:
    gap = of(forecasts, "ETHUSDT", "2023-05-10 02:00", "2023-05-10 10:00")
    assert sorted(gap["origin"].unique()) == [at(f"2023-05-10 {h:02}:00") for h in (2, 3, 9, 10)]
    assert of(forecasts, "ETHUSDT", "2023-05-20 01:00", "2023-05-28").empty


def test_flat_prices_degrade_an_evaluation(ensemble: pd.DataFrame) -> None:
    """Flat from the 15th 01:00 to the 17th 00:00, so a whole day of it lies behind from the 16th 00:00 on."""
    eth = of(ensemble, "ETHUSDT", "2023-06-14", "2023-06-20")
    told = eth["reason"].str.contains("prices were flat for 24 hours")
    assert set(eth["status"][told]) == {"degraded"}
    assert of(eth[told], "ETHUSDT", "2023-06-16", "2023-06-17").shape[0] == 2 * 25
    assert eth["origin"][told].min() == at("2023-06-16")
    assert eth["origin"][told].max() <= at("2023-06-17 01:00")
    assert eth[DISTRIBUTION].notna().all(axis=None)


def test_down_the_ladder_after_a_long_gap(forecasts: pd.DataFrame) -> None:
    """The first bar after eight days has no variance and no window: the HARs cannot answer, the filter of the GJR can."""
    first = forecasts[(forecasts["symbol"] == "ETHUSDT") & (forecasts["origin"] == at("2023-05-28 01:00"))]
    for h in (1, 4):
        rows = first[first["horizon_hours"] == h].set_index("model")
        own = rows.loc[ENSEMBLE]
        assert own["status"] == "fallback"
        assert "gjr answered" in own["reason"]
        assert own["variance"] == rows.loc["gjr", "variance"]
        assert own[[*DISTRIBUTION, *REGIME_COLUMNS]].notna().all()
        for member in ("har", "har_seasonal", "lightgbm"):
            assert rows.loc[member, "status"] == "blocked"
            assert rows.loc[member, "reason"].endswith("not enough history for any forecast")
            assert rows.loc[member, [n for n in NUMBERS if n not in THRESHOLDS]].isna().all()
    second = forecasts[(forecasts["symbol"] == "ETHUSDT") & (forecasts["origin"] == at("2023-05-28 02:00"))]
    assert set(second["status"][second["model"] == ENSEMBLE]) == {"ok"}


def test_a_young_symbol_stays_degraded_when_a_simpler_model_answers() -> None:
    columns = {"variance": np.full((1, 2), 1e-4), "threshold_normal": np.array([[np.nan, 1e-5]])}
    assembly = SimpleNamespace(
        columns={ENSEMBLE: columns}, answered=np.array([[1, 1]]), ladder=(ENSEMBLE, "gjr"), horizon=1
    )
    nothing = np.zeros((1, 2), dtype=np.bool_)
    origin = Origin(nothing, nothing, np.zeros((1, 2), dtype=np.int64))
    status, reason = _status(assembly, ENSEMBLE, 0, np.array([0, 1]), origin, live=False)
    assert status.tolist() == ["degraded", "fallback"]
    assert all("gjr answered" in text for text in reason)


def test_the_ensembles_hash_is_that_of_its_members(evaluation: Evaluation, ensemble: pd.DataFrame) -> None:
    facts = json.loads((evaluation.out / "folds" / "20230501T0000" / "fold.json").read_text())
    joint = hashlib.sha256(json.dumps(facts["params_sha256"], sort_keys=True).encode()).hexdigest()
    may = ensemble[ensemble["origin"] < at("2023-06-01")]
    assert may["model_sha256"].unique().tolist() == [joint]
    assert may["model_uri"].unique().tolist() == ["fold:2023-05-01T00:00:00+00:00/ensemble"]


# -- the grid --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members(evaluation: Evaluation) -> pd.DataFrame:
    """The members' forecasts of all folds, as fitted."""
    folds = sorted((evaluation.out / "folds").iterdir())
    return pd.concat([read_fold(folder).forecasts for folder in folds]).sort_index(kind="stable")


def test_forecasts_stand_at_their_symbol_and_hour(members: pd.DataFrame, material: Material, config: RunConfig) -> None:
    """The level is one factor a symbol and day, so within a day a member's forecasts keep their ratios."""
    assemblies, span = assemble(material, members, config)
    assert material.times[span][0] == at("2023-04-01")
    assert material.times[span][-1] == at("2023-06-30")
    day = pd.date_range("2023-05-15 00:00", periods=24, freq="h", tz="UTC")
    columns = material.times[span].get_indexer(day)
    for i, symbol in enumerate(material.symbols):
        raw = members.loc[[(symbol, t) for t in day], ("gjr", 4)].to_numpy()
        levelled = np.log(assemblies[4].columns["gjr"]["variance"][i, columns])
        shift = levelled - raw
        np.testing.assert_allclose(shift, shift[0], atol=1e-12)


def test_forecasts_of_what_the_market_lacks_change_nothing(
    members: pd.DataFrame, market: Market, config: RunConfig
) -> None:
    """A stored history may know a symbol that the store at hand does not, or hours before it begins."""
    bars = market.table("bars")
    begin = at("2023-01-20")
    kept = bars[(bars["symbol"] != "SOLUSDT") & (bars["close_time"] > begin)]
    material = prepare(market.with_tables(bars=kept), config)
    assert material.symbols == ("BTCUSDT", "ETHUSDT")
    known = members[members.index.get_level_values("symbol") != "SOLUSDT"]
    early = known.iloc[:5].rename(index=lambda t: t - pd.Timedelta(days=365), level="origin")
    found, found_span = assemble(material, pd.concat([early, members]).sort_index(), config)
    expected, span = assemble(material, known, config)
    assert found_span == span
    for h, assembly in expected.items():
        for model, columns in assembly.columns.items():
            for name, values in columns.items():
                np.testing.assert_array_equal(found[h].columns[model][name], values)


def test_columns_beside_the_members_are_inputs(members: pd.DataFrame, material: Material, config: RunConfig) -> None:
    """At their own symbol, hour and horizon, and they change no member."""
    wider = members.copy()
    wider["logit_stress", 4] = np.arange(len(members), dtype=float)
    made, span = records(material, wider, config)
    plain, plain_span = records(material, members, config)
    assert span == plain_span
    assert [sorted(record.inputs) for record in made] == [sorted(CLASSIFIED), sorted([*CLASSIFIED, "logit_stress"])]
    for number in (0, 1234, len(members) - 1):
        symbol, origin = members.index[number]
        cell = material.symbols.index(symbol), material.times[span].get_loc(origin)
        assert made[1].inputs["logit_stress"][cell] == number
    for record, expected in zip(made, plain, strict=True):
        assert list(record.members) == [component.kind for component in config.members]
        for name, grid in record.members.items():
            np.testing.assert_array_equal(grid, expected.members[name])


# -- rows ------------------------------------------------------------------------------------------------------------


def test_rows_are_the_grid_cell_by_cell(
    members: pd.DataFrame, material: Material, config: RunConfig, forecasts: pd.DataFrame
) -> None:
    """Each number of the table on disk stands in the assembly at its symbol, hour, horizon and model."""
    assemblies, span = assemble(material, members, config)
    times = material.times[span]
    for row in forecasts.sample(500, random_state=1).itertuples():
        columns = assemblies[row.horizon_hours].columns[row.model]
        cell = material.symbols.index(row.symbol), times.get_loc(row.origin)
        for name in NUMBERS:
            expected = columns[name][cell] if name in columns else np.nan
            if row.status == "blocked" and name not in THRESHOLDS:
                expected = np.nan
            np.testing.assert_equal(getattr(row, name), expected)


def test_rows_that_are_served_stand_for_every_symbol_and_are_blocked_where_prices_stood_still(
    members: pd.DataFrame, material: Material, config: RunConfig
) -> None:
    assemblies, span = assemble(material, members, config)
    made_at = at("2023-06-16 12:00:07.000025")
    provenance = Provenance(
        "c" * 64, "d" * 64, {material.times[span][0]: {ENSEMBLE: "e" * 64}}, made_at, "registry:m/3"
    )
    origin = Origin.of(material, span)
    first, beyond = at("2023-06-16 12:00"), at("2023-06-16 13:00")
    frames = list(table_rows(assemblies, material, span, origin, provenance, first, beyond, material.symbols))
    rows = pd.concat(frames, ignore_index=True)
    table.validate(rows)
    assert rows.equals(rows.sort_values(["symbol", "origin", "horizon_hours", "model"], ignore_index=True))
    assert len(rows) == len(material.symbols) * sum(len(a.columns) for a in assemblies.values())
    assert set(rows["made_at"]) == {made_at}
    assert set(rows["model_uri"]) == {"registry:m/3"}
    still = rows[rows["symbol"] == "ETHUSDT"]
    assert set(still["status"]) == {"blocked"}
    assert still["reason"].str.startswith("prices were flat for 24 hours, the feed may be stale").all()
    assert still[[name for name in NUMBERS if name not in THRESHOLDS]].isna().all(axis=None)
    absent = table_rows(
        assemblies, material, span, origin, provenance, at("2023-05-22"), at("2023-05-22 01:00"), ["ETHUSDT"]
    )
    assert set(pd.concat(absent)["reason"].str.contains("no bar closed at this origin")) == {True}
    none = table_rows(assemblies, material, span, origin, provenance, beyond, beyond, ["BTCUSDT"])
    empty = pd.concat(none)
    assert len(empty) == 0
    assert (empty.dtypes == rows.dtypes).all()


def test_several_causes_are_told_together() -> None:
    columns = {"variance": np.array([[1e-4, np.nan]]), "threshold_normal": np.full((1, 2), np.nan)}
    assembly = SimpleNamespace(columns={"har": columns}, answered=np.zeros((1, 2)), ladder=(ENSEMBLE, "gjr"), horizon=1)
    nothing, flat = np.zeros((1, 2), dtype=np.bool_), np.ones((1, 2), dtype=np.bool_)
    causes = np.array([[0b1001, 0]])
    status, reason = _status(assembly, "har", 0, np.array([0, 1]), Origin(nothing, flat, causes), live=False)
    assert status.tolist() == ["degraded", "blocked"]
    assert reason.tolist() == [
        "funding is stale; under 90 days of bars; prices were flat for 24 hours, the feed may be stale; "
        "regimes are not defined yet",
        "prices were flat for 24 hours, the feed may be stale; regimes are not defined yet; "
        "not enough history for any forecast",
    ]
