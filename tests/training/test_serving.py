"""Train and serve: the served forecast is the walk-forward's own, and nothing later than the origin moves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.errors import ArtifactRefused, DataStale, UsageError
from features.leakage import poisoned
from features.market import Market
from models import artifact, table
from models.base import ENSEMBLE, FORECAST_SCHEMA, THRESHOLDS
from models.regimes import CLASSIFIED
from training.config import RunConfig, WalkForward
from training.evaluation import Evaluation, evaluate
from training.fold_store import read_fold
from training.folds import REGIMES, forecast_fold, state_sha256
from training.material import Material, prepare
from training.serving import Trained, fit, forecast, open_model
from training.walkforward import plan

BORDER = pd.Timestamp("2023-06-01", tz="UTC")
NOW = pd.Timestamp("2024-02-03 04:05:06.789", tz="UTC")
URI = "models:/forecaster@champion"
LIVE = ["made_at", "model_uri", "model_sha256"]
NUMBERS = [f.name for f in FORECAST_SCHEMA if str(f.type) == "double"]


@pytest.fixture(scope="module")
def folder(market: Market, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(market, config, as_of=BORDER, out=tmp_path_factory.mktemp("models") / "june", jobs=1)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    return open_model(folder)


@pytest.fixture(scope="module")
def small(market: Market, quick: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without boosters, which are tried in a child process whenever they are read."""
    return fit(market, quick, as_of=BORDER, out=tmp_path_factory.mktemp("models") / "small", jobs=1)


def served(market: Market, folder: Path, as_of: pd.Timestamp) -> pd.DataFrame:
    return forecast(market, folder, as_of=as_of, model_uri=URI, made_at=NOW)


# -- what is trained -------------------------------------------------------------------------------------------------


def test_a_fit_has_the_parameters_of_the_fold_at_the_same_border(evaluation: Evaluation, trained: Trained) -> None:
    fold = read_fold(evaluation.out / "folds" / "20230601T0000")
    assert trained.regimes is not None
    assert len(trained.regimes.boosters_) == 2 * len(trained.config.horizons)
    fitted = {**trained.members, REGIMES: trained.regimes}
    assert {name: state_sha256(part) for name, part in fitted.items()} == fold.params_sha256
    assert trained.as_of == BORDER


def test_the_history_is_the_fold_before(evaluation: Evaluation, trained: Trained) -> None:
    before = read_fold(evaluation.out / "folds" / "20230501T0000").forecasts
    pd.testing.assert_frame_equal(trained.history, before, check_exact=True)


def test_restored_members_forecast_the_fold_to_the_bit(
    evaluation: Evaluation, material: Material, trained: Trained
) -> None:
    june = material.rows.origin >= BORDER.value // 1000
    rows, _ = material.rows.frame(june)
    fold = read_fold(evaluation.out / "folds" / "20230601T0000").forecasts
    for name, member in trained.members.items():
        assert member.predict_log(rows).to_numpy().tobytes() == fold[name].to_numpy().tobytes(), name
    assert trained.regimes is not None
    told = trained.regimes.logits(rows, *material.rows.regimes(june))
    assert np.isfinite(told.to_numpy()).any()
    assert told.to_numpy().tobytes() == fold[list(CLASSIFIED)].to_numpy().tobytes()


def test_a_rolling_window_and_an_embargo_hold_in_training_too(market: Market, quick: RunConfig, tmp_path: Path) -> None:
    walk = WalkForward(warmup_months=1, window_months=2, embargo_hours=6)
    config = quick.model_copy(update={"walkforward": walk})
    model = open_model(fit(market, config, as_of=BORDER, out=tmp_path / "model", jobs=1))
    assert model.config.sha256 == config.sha256
    material = prepare(market, config)
    [*_, last] = plan(material, config, BORDER, BORDER + pd.Timedelta(hours=1))
    expected = forecast_fold(last, material.rows, config.members).params_sha256
    assert {name: state_sha256(member) for name, member in model.members.items()} == expected


def test_the_artifact_records_what_made_it(market: Market, config: RunConfig, trained: Trained) -> None:
    assert trained.config == config
    assert trained.meta["config_sha256"] == config.sha256
    assert trained.meta["data_sha256"] == market.data_sha256
    assert set(trained.meta["losses"]) == {"qlike_1h", "qlike_4h"}
    assert all(0 < loss < 2 for loss in trained.meta["losses"].values())


def test_the_same_fit_gives_the_same_artifact(market: Market, quick: RunConfig, small: Path, tmp_path: Path) -> None:
    again = fit(market, quick, as_of=BORDER, out=tmp_path / "again", jobs=1)
    assert artifact.sha256(again) == artifact.sha256(small)


def test_too_little_history_is_refused(market: Market, quick: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="import older data"):
        fit(market, quick, as_of=pd.Timestamp("2023-03-10", tz="UTC"), out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


# -- what is served --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walked(
    market: Market, config: RunConfig, evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory
) -> pd.DataFrame:
    """The walk-forward that begins where the model was fitted; its folds are those of the longer one."""
    out = tmp_path_factory.mktemp("walked")
    for name in ("20230501T0000", "20230601T0000"):
        shutil.copytree(evaluation.out / "folds" / name, out / "folds" / name)
    told: list[int] = []
    one = evaluate(
        market, config, start=BORDER, end="2023-07-01", out=out, jobs=1, progress=lambda _, done, __: told.append(done)
    )
    assert told == [2]  # nothing was fitted again
    return table.read_parquet(one.path)


@pytest.mark.parametrize(
    "as_of",
    [
        "2023-06-01 00:00",  # the instant of the fit
        "2023-06-08 07:00",  # funding is stale
        "2023-06-20 12:45",  # between two bars
        "2023-06-30 00:00",  # the last bar, four weeks' statistics refreshed since
    ],
)
def test_what_is_served_is_what_the_walk_forward_forecast(
    market: Market, folder: Path, walked: pd.DataFrame, as_of: str
) -> None:
    t = pd.Timestamp(as_of, tz="UTC")
    found = served(market, folder, t)
    table.validate(found)
    expected = walked[walked["origin"] == t.floor("h")].reset_index(drop=True)
    assert len(found) == 3 * 2 * 6
    pd.testing.assert_frame_equal(found.drop(columns=LIVE), expected.drop(columns=LIVE), check_exact=True)
    assert set(found["made_at"]) == {NOW}
    assert set(found["model_uri"]) == {URI}
    assert set(found["model_sha256"]) == {artifact.sha256(folder)}


def test_a_forecast_depends_on_its_moment_in_made_at_alone(market: Market, small: Path) -> None:
    t = pd.Timestamp("2023-06-20", tz="UTC")
    one = served(market, small, t)
    other = forecast(market, small, as_of=t, model_uri=URI, made_at=NOW + pd.Timedelta(hours=1))
    pd.testing.assert_frame_equal(one.drop(columns="made_at"), other.drop(columns="made_at"), check_exact=True)
    assert (other["made_at"] - one["made_at"] == pd.Timedelta(hours=1)).all()


def test_the_newest_origin_is_served_where_no_instant_is_asked_for(market: Market, small: Path) -> None:
    newest = forecast(market, small, model_uri=URI, made_at=NOW)
    assert set(newest["origin"]) == {pd.Timestamp("2023-06-30", tz="UTC")}
    pd.testing.assert_frame_equal(newest, served(market, small, pd.Timestamp("2023-06-30", tz="UTC")))


@pytest.mark.parametrize("kind", ["1e300", "permutation"])
def test_what_became_known_later_moves_nothing(market: Market, small: Path, kind: str) -> None:
    t = pd.Timestamp("2023-06-12 09:00", tz="UTC")
    dark = poisoned(market, t, kind, np.random.default_rng(1))
    assert dark.data_sha256 != market.data_sha256
    found, expected = served(dark, small, t), served(market, small, t)
    pd.testing.assert_frame_equal(
        found.drop(columns="data_sha256"), expected.drop(columns="data_sha256"), check_exact=True
    )
    # The poison is strong enough to be seen where it may be.
    moved = served(dark, small, t + pd.Timedelta(hours=1))["variance"]
    assert not moved.equals(served(market, small, t + pd.Timedelta(hours=1))["variance"])


def without(market: Market, symbol: str, first: str, last: str) -> Market:
    bars = market.table("bars")
    span = bars["close_time"].between(pd.Timestamp(first, tz="UTC"), pd.Timestamp(last, tz="UTC"))
    return market.with_tables(bars=bars[~(span & (bars["symbol"] == symbol))])


def test_a_symbol_without_a_bar_at_the_origin_is_blocked(market: Market, small: Path) -> None:
    t = pd.Timestamp("2023-06-20 12:00", tz="UTC")
    found = served(without(market, "ETHUSDT", "2023-06-20 11:15", "2023-06-20 12:00"), small, t)
    table.validate(found)
    eth = found["symbol"] == "ETHUSDT"
    assert set(found["status"][eth]) == {"blocked"}
    assert set(found["reason"][eth]) == {"no bar closed at this origin"}
    assert found.loc[eth, [name for name in NUMBERS if name not in THRESHOLDS]].isna().all(axis=None)
    assert set(found["status"][~eth]) == {"ok"}
    assert found.groupby("symbol").size().to_dict() == {"BTCUSDT": 3, "ETHUSDT": 3, "SOLUSDT": 3}


def test_a_symbol_that_is_gone_for_a_month_is_owed_nothing(market: Market, small: Path) -> None:
    t = pd.Timestamp("2023-06-28 12:00", tz="UTC")
    found = served(without(market, "ETHUSDT", "2023-05-29 13:00", "2023-06-30"), small, t)
    assert set(found["symbol"]) == {"BTCUSDT", "SOLUSDT"}
    found = served(without(market, "ETHUSDT", "2023-05-29 14:00", "2023-06-30"), small, t)
    assert set(found["status"][found["symbol"] == "ETHUSDT"]) == {"blocked"}


def test_flat_prices_are_blocked_when_served(market: Market, small: Path) -> None:
    found = served(market, small, pd.Timestamp("2023-06-16 12:00", tz="UTC"))
    eth = found["symbol"] == "ETHUSDT"
    assert set(found["status"][eth]) == {"blocked"}
    assert found["reason"][eth].str.contains("prices were flat for 24 hours").all()
    assert found.loc[eth, "variance"].isna().all()
    own = found[~eth & (found["model"] == ENSEMBLE)]
    assert own["variance"].notna().all()


# -- refusals --------------------------------------------------------------------------------------------------------


def test_data_older_than_the_fit_are_refused(market: Market, small: Path) -> None:
    with pytest.raises(DataStale, match=r"fitted as of 2023-06-01.* end at 2023-05-31T23:00"):
        served(market, small, BORDER - pd.Timedelta(minutes=1))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: flip(root / "arrays" / "har_seasonal" / "coefficients.npy"),
        lambda root: flip(root / "boosters" / "lightgbm" / "boosters" / "1.txt"),
        lambda root: flip(root / "tables" / "history.parquet"),
        lambda root: flip(root / "meta.json"),
        lambda root: (root / "arrays" / "gjr" / "params.npy").unlink(),
        lambda root: (root / "arrays" / "more.npy").touch(),
        lambda root: (root / "manifest.json").unlink(),
    ],
)
def test_a_tampered_artifact_is_refused(folder: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(ArtifactRefused, match=str(copy)):
        open_model(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"members": [{"kind": "oracle"}]}},
        {"config": {"no_such_setting": 1}},
        {"members": {}},
        {"as_of": "yesterday"},
    ],
)
def test_an_artifact_of_another_version_is_refused(small: Path, tmp_path: Path, change: dict[str, object]) -> None:
    """Its hashes are right, what it holds is not ours."""
    held = artifact.load(small)
    other = artifact.Artifact(held.meta | change, held.arrays, held.boosters, held.tables)
    artifact.save(other, tmp_path / "other")
    with pytest.raises(ArtifactRefused, match="train it again"):
        open_model(tmp_path / "other")


def test_meta_is_plain_json(small: Path) -> None:
    meta = json.loads((small / "meta.json").read_text())
    assert meta["as_of"] == BORDER.isoformat()
    assert RunConfig.model_validate(meta["config"]).sha256 == meta["config_sha256"]
