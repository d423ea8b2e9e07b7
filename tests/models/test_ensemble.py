"""The assembled forecast: nothing from the future, bit for bit; the ladder; and a table that passes every check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from features.errors import UsageError
from models import table
from models.base import (
    ENSEMBLE,
    EXCURSION_COLUMNS,
    FORECAST_SCHEMA,
    PROBABILITIES,
    RETURN_LEVELS,
    SHORTFALL_LEVELS,
    THRESHOLDS,
    VARIANCE_LEVELS,
)
from models.combination import Clip, Combine, Levels
from models.ensemble import Assembly, Ensemble
from models.parts import Run
from models.past import Outcome, Past, Record, levelled
from models.trailing import DAY, FOUR_WEEKS, refreshes

Array = NDArray[np.float64]
SYMBOLS, HOURS, HORIZONS = 5, 3000, (1, 4)
NAMES = ("ewma", "har", "har_seasonal", "har_x", "lightgbm")
TIMES = pd.date_range("2024-01-03 05:00", periods=HOURS, freq="h", tz="UTC").as_unit("us")
BORDER = int(refreshes(TIMES, FOUR_WEEKS)[-1])


def ahead(x: Array, h: int, reduce: Any) -> Array:
    """``reduce`` over columns ``t + 1 … t + h``, NaN where they are not all there."""
    out = np.full(x.shape, np.nan)
    for t in range(x.shape[1] - h):
        out[:, t] = reduce(x[:, t + 1 : t + h + 1], axis=1)
    return out


def made_record(h: int, log_true: Array, path: Array, squares: Array) -> Record:
    rng = np.random.default_rng([3, h])
    price = np.exp(np.cumsum(path, axis=1))
    low, high = price * np.exp(-np.abs(0.3 * path)), price * np.exp(np.abs(0.3 * path))
    variance = ahead(squares, h, np.sum)
    outcome = Outcome(
        variance,
        ahead(path, h, np.sum),
        np.maximum(0, 1 - ahead(low, h, np.min) / price),
        np.maximum(0, ahead(high, h, np.max) / price - 1),
    )
    members = {
        name: log_true + np.log(h) + noise * rng.normal(size=log_true.shape) + bias
        for name, noise, bias in zip(NAMES, (0.5, 0.4, 0.35, 0.3, 0.25), (0.3, -0.2, 0.1, 0.0, -0.4), strict=True)
    }
    members["lightgbm"][:, 700:720] = np.nan
    members["har_seasonal"][2, 710:730] = members["har_x"][2, 710:730] = np.nan
    thresholds = np.nanquantile(variance, [0.3, 0.9, 0.975], axis=1)[:, :, None] * np.ones((3, SYMBOLS, HOURS))
    trailing = np.full(variance.shape, np.nan)
    trailing[:, h:] = variance[:, :-h]
    now = (trailing > thresholds).sum(axis=0).astype(float)
    now[np.isnan(trailing)] = np.nan
    thresholds[:, 4, :1000] = np.nan  # under 90 days of history
    now[4, :1000] = np.nan
    return Record(h, members, outcome, thresholds, now)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    rng = np.random.default_rng(0)
    wave = 0.05 * rng.normal(size=(SYMBOLS, HOURS))
    for t in range(1, HOURS):
        wave[:, t] += 0.99 * wave[:, t - 1]
    log_true = -9 + wave + np.linspace(-0.5, 0.5, SYMBOLS)[:, None]
    before = np.concatenate([log_true[:, :1], log_true[:, :-1]], axis=1)  # a bar follows the forecast before it
    path = np.exp(0.5 * before) * rng.standard_t(5, before.shape) * np.sqrt(3 / 5)
    squares = np.exp(before + 0.5 * rng.normal(size=before.shape) - 0.125)
    return [made_record(h, log_true, path, squares) for h in HORIZONS]


@pytest.fixture(scope="module")
def whole(records: list[Record]) -> dict[int, Assembly]:
    return Ensemble().assemble(records, TIMES)


def cut(record: Record, stop: int, unresolved: float | None) -> Record:
    """The record as of column ``stop - 1``; outcomes not resolved by then replaced, or left as they came (None)."""

    def known(x: Array) -> Array:
        out = x[:, :stop].copy()
        if unresolved is not None:
            out[:, max(stop - record.horizon, 0) :] = unresolved
        return out

    outcome = record.outcome
    return Record(
        record.horizon,
        {name: x[:, :stop].copy() for name, x in record.members.items()},
        Outcome(*map(known, (outcome.variance, outcome.log_return, outcome.mae_long, outcome.mae_short))),
        record.thresholds[:, :, :stop].copy(),
        record.now[:, :stop].copy(),
    )


def assert_prefix(part: Mapping[int, Assembly], whole: Mapping[int, Assembly], stop: int) -> None:
    for h, assembly in part.items():
        assert assembly.columns.keys() == whole[h].columns.keys()
        for model, columns in assembly.columns.items():
            assert columns.keys() == whole[h].columns[model].keys()
            for name, values in columns.items():
                expected = whole[h].columns[model][name][:, :stop]
                np.testing.assert_array_equal(values, expected, err_msg=f"{model} {name} {h} h")
        np.testing.assert_array_equal(assembly.answered, whole[h].answered[:, :stop])
        pd.testing.assert_frame_equal(
            assembly.combination.weights, whole[h].combination.weights[: TIMES[stop - 1]], check_exact=True
        )


# Mid-week; the last column before a refresh, the refresh, the one after; a daily border; early; one column.
@pytest.mark.parametrize("last", [2222, BORDER - 1, BORDER, BORDER + 1, BORDER + DAY, 600, 0])
@pytest.mark.parametrize("unresolved", [np.nan, 1e300, None])
def test_no_column_depends_on_the_future(
    last: int, unresolved: float | None, records: list[Record], whole: dict[int, Assembly]
) -> None:
    stop = last + 1
    part = Ensemble().assemble([cut(record, stop, unresolved) for record in records], TIMES[:stop])
    assert_prefix(part, whole, stop)


def test_what_is_resolved_does_matter(records: list[Record], whole: dict[int, Assembly]) -> None:
    """The other half of the test above: the newest resolved outcome moves the forecast at a refresh."""
    moved = []
    for record in records:
        variance = record.outcome.variance.copy()
        variance[:, BORDER - record.horizon] *= 1.5
        moved.append(replace(record, outcome=replace(record.outcome, variance=variance)))
    made = Ensemble().assemble(moved, TIMES)
    for h in HORIZONS:
        first, second = (a[h].columns[ENSEMBLE]["variance"] for a in (whole, made))
        np.testing.assert_array_equal(first[:, :BORDER], second[:, :BORDER])
        assert (first[:, BORDER] != second[:, BORDER]).all()


def test_records_may_come_in_any_order(records: list[Record], whole: dict[int, Assembly]) -> None:
    turned = Ensemble().assemble(records[::-1], TIMES)
    assert list(turned) == list(HORIZONS)
    assert_prefix(turned, whole, HOURS)


def test_the_ensemble_is_the_combination_of_levelled_members(records: list[Record], whole: dict[int, Assembly]) -> None:
    for record in records:
        h, past, combine = record.horizon, Past.of(record, TIMES), Combine(["har_x", "lightgbm"], 0.5, 0.02)
        run = Run([Levels(NAMES), combine, Clip()], past)
        run.advance(slice(0, HOURS))
        made, assembly = whole[h].columns, whole[h]
        own = assembly.answered == 0
        np.testing.assert_array_equal(made[ENSEMBLE]["variance"][own], np.exp(past["bounded"])[own])
        np.testing.assert_array_equal(assembly.clipped, past["clipped"])
        np.testing.assert_array_equal(assembly.combination.log_forecast, past["combined"])
        for name in NAMES:
            np.testing.assert_array_equal(made[name]["variance"], np.exp(past[levelled(name)]))
            np.testing.assert_array_equal(assembly.levelled[name], past[levelled(name)])
        at = refreshes(TIMES, FOUR_WEEKS)
        weights = pd.DataFrame([w for _, w in run.learnt(combine)], index=TIMES[at], columns=["har_x", "lightgbm"])
        pd.testing.assert_frame_equal(assembly.combination.weights, weights)


def test_members_come_from_the_constructor_and_must_exist(records: list[Record]) -> None:
    short = [cut(record, 300, None) for record in records]
    made = Ensemble(members=["har", "ewma"]).assemble(short, TIMES[:300])
    assert made[1].combination.weights.columns.tolist() == ["har", "ewma"]
    with pytest.raises(UsageError, match=r"ensemble\.members names garch, which is not among the members"):
        Ensemble(members=["garch", "har"]).assemble(short, TIMES[:300])
    only = [replace(record, members={"ewma": record.members["ewma"]}) for record in short]
    assert Ensemble().assemble(only, TIMES[:300])[1].combination.weights.columns.tolist() == ["ewma"]


def test_down_the_ladder(records: list[Record], whole: dict[int, Assembly]) -> None:
    """At 710-720 only har and ewma of symbol 2 know anything; at 2500 of symbol 1 only ewma; at 2501 nobody."""
    gone = []
    for record in records:
        members = {name: x.copy() for name, x in record.members.items()}
        for name in NAMES:
            members[name][1, 2500:2502] = np.nan
        members["ewma"][1, 2500] = record.members["ewma"][1, 2500]
        gone.append(replace(record, members=members))
    made = Ensemble().assemble(gone, TIMES)
    for h, assembly in made.items():
        assert assembly.ladder == (ENSEMBLE, "har_seasonal", "har", "ewma")
        assert assembly.answered[1, 2499:2503].tolist() == [0, 3, -1, 0]
        assert (assembly.answered[2, 710:720] == 2).all()
        assert (np.delete(whole[h].answered, np.s_[710:720], axis=1) == 0).all()
        columns = assembly.columns
        assert columns[ENSEMBLE]["variance"][1, 2500] == columns["ewma"]["variance"][1, 2500]
        np.testing.assert_array_equal(columns[ENSEMBLE]["variance"][2, 710:720], columns["har"]["variance"][2, 710:720])
        for name in (*VARIANCE_LEVELS, *RETURN_LEVELS, *SHORTFALL_LEVELS, *PROBABILITIES, "mae_long_q999"):
            assert np.isfinite(columns[ENSEMBLE][name][1, 2500])
        assert np.isnan(columns[ENSEMBLE]["variance"][1, 2501])


def test_the_law_keeps_its_order(whole: dict[int, Assembly]) -> None:
    for h, assembly in whole.items():
        columns = assembly.columns[ENSEMBLE]
        for group in (VARIANCE_LEVELS, RETURN_LEVELS, *EXCURSION_COLUMNS.values()):
            assert (np.diff(np.stack([columns[name] for name in group]), axis=0) >= 0).all()
        for p in (10, 25):
            assert (columns[f"ret_es{p:03d}"] < columns[f"ret_q{p:03d}"]).all()
            assert (columns[f"ret_es{1000 - p}"] > columns[f"ret_q{1000 - p}"]).all()
        for upper, lower in ((950, 50), (990, 10), (995, 5), (999, 1)):
            assert (columns[f"mae_long_q{upper}"] >= -np.expm1(columns[f"ret_q{lower:03d}"])).all()
            assert (columns[f"mae_short_q{upper}"] >= np.expm1(columns[f"ret_q{upper}"])).all()
        np.testing.assert_allclose(columns["vol_annualised"], np.sqrt(columns["variance"] * 8760 / h))


def test_a_longer_horizon_never_has_the_smaller_excursion(records: list[Record], whole: dict[int, Assembly]) -> None:
    for side in EXCURSION_COLUMNS.values():
        for name in side:
            assert (whole[4].columns[ENSEMBLE][name] >= whole[1].columns[ENSEMBLE][name]).all()
    # Where the long horizon expects less than the short one, the short one speaks.
    quiet = replace(records[1], members={name: x - 4 for name, x in records[1].members.items()})
    quiet = replace(quiet, outcome=Outcome(*(np.full_like(x, np.nan) for x in vars(quiet.outcome).values())))
    made = Ensemble().assemble([records[0], quiet], TIMES)
    for side in EXCURSION_COLUMNS.values():
        for name in side:
            np.testing.assert_array_equal(made[4].columns[ENSEMBLE][name], made[1].columns[ENSEMBLE][name])


def test_references_carry_lognormal_probabilities(whole: dict[int, Assembly]) -> None:
    for assembly in whole.values():
        for model, columns in assembly.columns.items():
            has = {*VARIANCE_LEVELS, *PROBABILITIES} <= columns.keys()
            assert has is (model in ("har", "har_seasonal", ENSEMBLE))
            assert ("ret_q010" in columns) is (model == ENSEMBLE)


def test_forecasts_are_right_on_average(records: list[Record], whole: dict[int, Assembly]) -> None:
    late = slice(1500, HOURS - 4)
    for record in records:
        columns = whole[record.horizon].columns[ENSEMBLE]
        variance = record.outcome.variance[:, late]
        assert (variance / columns["variance"][:, late]).mean() == pytest.approx(1, abs=0.06)
        covered = (variance > columns["var_q05"][:, late]) & (variance <= columns["var_q95"][:, late])
        assert covered.mean() == pytest.approx(0.9, abs=0.03)
        hits = variance > record.thresholds[1][:, late]
        stated = (columns["p_stress"] + columns["p_crisis"])[:, late]
        assert np.nanmean(stated) == pytest.approx(hits[np.isfinite(stated)].mean(), abs=0.03)
        assert np.nanmean(stated[hits]) > 1.5 * np.nanmean(stated[~hits])


def as_table(assemblies: Mapping[int, Assembly]) -> pd.DataFrame:
    """Rows of the forecast table, straight from the arrays."""
    frames = []
    for h, assembly in assemblies.items():
        for model, columns in assembly.columns.items():
            numbers = {name: columns[name].ravel() for name in FORECAST_SCHEMA.names if name in columns}
            frames.append(
                pd.DataFrame(
                    {
                        "symbol": np.repeat([f"S{i}USDT" for i in range(SYMBOLS)], HOURS),
                        "origin": np.tile(TIMES, SYMBOLS),
                        "horizon_hours": np.int16(h),
                        "model": model,
                        **numbers,
                    }
                )
            )
    rows = pd.concat(frames, ignore_index=True).reindex(columns=FORECAST_SCHEMA.names)
    young = (rows["symbol"] == "S4USDT") & (rows["origin"] < TIMES[1000])
    rows["status"] = np.select([rows["variance"].isna(), young], ["blocked", "degraded"], "ok")
    rows["schema_version"] = np.int16(1)
    rows["reason"], rows["model_uri"] = "", "fold:test"
    rows["target_end"] = rows["origin"] + pd.to_timedelta(rows["horizon_hours"].astype("int64"), unit="h")
    rows["made_at"] = rows["data_asof"] = rows["origin"]
    for name in ("model_sha256", "config_sha256", "data_sha256"):
        rows[name] = "a" * 64
    return rows


def test_a_table_of_it_passes_every_check(whole: dict[int, Assembly]) -> None:
    rows = as_table(whole)
    table.validate(rows)
    own = rows[rows["model"] == ENSEMBLE]
    assert len(own) == SYMBOLS * HOURS * len(HORIZONS)
    assert (own["status"] != "blocked").all()
    for name in (*PROBABILITIES, *THRESHOLDS):
        assert (own[name].isna() == (own["status"] == "degraded")).all()
