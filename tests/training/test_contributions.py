"""Contributions: every row of the ensemble is there, adds up to the bit, and is the members' terms by their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features.market import Market
from models.base import ENSEMBLE
from models.catalogue import make
from models.table import read_parquet
from training.config import Component, RunConfig
from training.contributions import CONTRIBUTIONS, KEY, TERM, WEIGHT, feature_families, member_terms, merge, place, write
from training.engine import Engine
from training.evaluation import Evaluation, evaluate
from training.fold_store import read_fold, read_terms, tells_terms
from training.folds import forecast_fold
from training.material import Material, prepare
from training.splits import PurgedWalkForward
from training.walkforward import plan, run_folds


def read(path: Path) -> pd.DataFrame:
    frame: pd.DataFrame = pq.read_table(path, partitioning=None).to_pandas()
    return frame


def added(frame: pd.DataFrame) -> np.ndarray:
    """The terms of each row added in the order in which they stand."""
    out = np.zeros(len(frame))
    for name in frame.columns[frame.columns.str.startswith(TERM)]:
        out += frame[name].to_numpy(np.float64)
    return out


def joined(table: pd.DataFrame, path: Path, models: Sequence[str] = (ENSEMBLE,)) -> pd.DataFrame:
    rows = read_parquet(path, columns=[*KEY, "model", "variance", "status"], models=list(models))
    wide = rows.pivot(index=list(KEY), columns="model", values="variance")
    return table.merge(wide.reset_index(), on=list(KEY), how="outer", validate="one_to_one")


@pytest.fixture(scope="module")
def table(evaluation: Evaluation) -> pd.DataFrame:
    return read(evaluation.out / CONTRIBUTIONS)


def test_every_forecast_of_the_ensemble_adds_up_to_the_bit(table: pd.DataFrame, evaluation: Evaluation) -> None:
    both = joined(table, evaluation.path)
    assert len(both) == len(table) == len(evaluation.ensemble)
    assert np.array_equal(added(both), np.log(both[ENSEMBLE].to_numpy()))
    assert both[TERM + "remainder"].abs().max() < 1e-5
    assert not table.duplicated(list(KEY)).any()


def test_weights_are_those_in_force_and_make_the_mean_of_the_members(
    table: pd.DataFrame, evaluation: Evaluation
) -> None:
    names = [name.removeprefix(WEIGHT) for name in table.columns if name.startswith(WEIGHT)]
    both = joined(table, evaluation.path, [ENSEMBLE, *names])
    np.testing.assert_allclose(both[[WEIGHT + name for name in names]].sum(axis=1), 1.0, rtol=1e-12)
    mean = sum(both[WEIGHT + name] * np.log(both[name].fillna(1.0)) for name in names)
    np.testing.assert_allclose(mean + both[TERM + "adjustment"], np.log(both[ENSEMBLE]), rtol=1e-6)
    in_force = evaluation.weights.reset_index().sort_values("origin")
    for h, rows in both.groupby("horizon_hours"):
        late = rows[rows["origin"] > rows["origin"].max() - pd.Timedelta(days=1)]
        newest = in_force[in_force["horizon_hours"] == h].iloc[-1]
        for name in evaluation.weights.columns:
            np.testing.assert_allclose(late[WEIGHT + name], newest[name], rtol=1e-12)


def test_terms_are_the_folds_members_weighted(
    evaluation: Evaluation, material: Material, config: RunConfig, table: pd.DataFrame
) -> None:
    folder = sorted((evaluation.out / "folds").iterdir())[-1]
    terms = read_terms(folder)
    both = table[table["origin"] >= read_fold(folder).first_origin].set_index(["symbol", "origin"])
    names = [name.removeprefix(WEIGHT) for name in table.columns if name.startswith(WEIGHT)]
    for h, rows in both.groupby("horizon_hours"):
        at = terms.loc[rows.index]
        expected = sum(
            rows[WEIGHT + m].to_numpy() * at[m, "season", h].fillna(0.0).to_numpy()
            for m in names
            if m not in ("ewma", "har")
        )
        np.testing.assert_allclose(rows[TERM + "season"], expected, rtol=1e-5, atol=1e-7)
        path = sum(rows[WEIGHT + m].to_numpy() * at[m, "path", h].to_numpy() for m in ("lightgbm",))
        np.testing.assert_allclose(rows[TERM + "path"], path, rtol=1e-5, atol=1e-7)


def test_folds_that_warm_up_are_not_explained(evaluation: Evaluation) -> None:
    folders = sorted((evaluation.out / "folds").iterdir())
    assert [tells_terms(folder) for folder in folders] == [False, True, True]


def test_a_fold_that_was_not_explained_is_made_again_once_it_is_scored(
    quick: RunConfig, market: Market, tmp_path: Path
) -> None:
    material, start = prepare(market, quick), pd.Timestamp("2023-06-01", tz="UTC")
    folds = plan(material, quick, start, start + pd.Timedelta(days=20))

    def made(families: dict[str, str] | None) -> list[int]:
        told: list[int] = []
        run_folds(
            folds, material, quick, "data", tmp_path, Engine(1), lambda _, done, __: told.append(done),
            families=families,
        )  # fmt: skip
        return told

    assert made(None) == [0, 1, 2]
    assert made(feature_families(quick)) == [1, 2]  # the warm-up fold is as it should be
    assert made(None) == [2]


def test_only_wanted_symbols_and_the_same_bytes_again(market: Market, quick: RunConfig, tmp_path: Path) -> None:
    for out in ("one", "two"):
        evaluate(
            market, quick, start="2023-05-01", end="2023-05-10", out=tmp_path / out, symbols=["ETHUSDT"], jobs=1
        )  # fmt: skip
    one, two = ((tmp_path / out / CONTRIBUTIONS).read_bytes() for out in ("one", "two"))
    assert one == two
    assert set(read(tmp_path / "one" / CONTRIBUTIONS)["symbol"]) == {"ETHUSDT"}


def test_terms_of_a_member_add_up_on_every_row(material: Material, config: RunConfig) -> None:
    X, y = material.rows.frame(np.ones(len(material.rows.origin), dtype=bool))
    families = feature_families(config)
    assert set(families) >= set(X.columns)
    member = make("har_seasonal").fit(X, y)
    told = member_terms(member, X, families)
    assert (told.dtypes == np.float32).all()
    for h, forecast in member.predict_log(X).items():
        summed = told.xs(h, axis=1, level="horizon_hours").to_numpy().sum(axis=1)
        np.testing.assert_allclose(summed, forecast, rtol=1e-5)


def one_row() -> pd.DataFrame:
    origin = pd.DatetimeIndex(["2024-01-01"], tz="UTC").as_unit("us")
    key = {"symbol": ["A"], "origin": origin, "horizon_hours": np.array([1], np.int16)}
    return pd.DataFrame(key | {"term:usual": np.array([-1.0], np.float32), "weight:har": 1.0})


def test_the_last_row_written_for_a_key_stands(tmp_path: Path) -> None:
    rows = pd.concat([one_row().assign(symbol="B"), one_row()], ignore_index=True)
    path = tmp_path / "day.parquet"
    merge(rows, path)
    merge(rows.assign(**{"term:path": np.float32(0.5)})[:1], path)
    kept = read(path)
    assert kept["symbol"].tolist() == ["A", "B"]
    assert kept["term:usual"].tolist() == [-1.0, -1.0]
    assert np.isnan(kept["term:path"][0])
    assert kept["term:path"][1] == 0.5
    before = path.read_bytes()
    merge(kept[1:], path)
    assert path.read_bytes() == before


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / CONTRIBUTIONS
    path.write_bytes(b"before")

    def broken() -> object:
        yield one_row()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write(broken(), path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_where_contributions_lie(tmp_path: Path) -> None:
    assert place(tmp_path / "forecasts.parquet") == tmp_path / "contributions.parquet"
    assert place(tmp_path).parent == tmp_path


def test_without_families_a_fold_is_not_explained(material: Material) -> None:
    start = material.times[-1] - pd.Timedelta(days=5)
    fold = PurgedWalkForward(start, material.times[-1], step="1MS").folds()[-1]
    made = forecast_fold(fold, material.rows, [Component(kind="ewma")])
    assert made.terms.empty
    assert made.effects.empty


def test_rows_of_models_with_other_terms_keep_the_order_in_which_terms_are_added(tmp_path: Path) -> None:
    def row(symbol: str, *terms: str) -> pd.DataFrame:
        key = one_row().assign(symbol=symbol)[list(KEY)]
        return key.assign(**{TERM + name: 1.0 for name in (*terms, "remainder")}, **{WEIGHT + terms[1]: 1.0})

    path = tmp_path / "day.parquet"
    merge(row("A", "usual", "season", "filter", "level"), path)
    merge(row("B", "usual", "path", "level", "adjustment"), path)
    terms = ("usual", "season", "path", "filter", "level", "adjustment", "remainder")
    kept = read(path)
    assert list(kept.columns) == [*KEY, *(TERM + name for name in terms), WEIGHT + "season", WEIGHT + "path"]
    assert kept["symbol"].tolist() == ["A", "B"]
