"""The plain loop is an honest peer: the same targets, the same members on the same rows, and nothing from the future."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import plain_loop
import plain_members
import plain_scores
import pytest
from feature_matrix import PandasPanel
from plain_members import Fold, Seconds

from features import targets
from features.market import Market
from features.sources.simulated import simulate
from models.catalogue import make
from training.config import Component, RunConfig

HORIZONS = (1, 4, 24)
BORDER = pd.Timestamp("2023-06-01", tz="UTC")
MEMBERS = {
    "ewma": {}, "har": {}, "har_seasonal": {}, "har_x": {"every_hours": 1}, "garch": {}, "gjr": {},
    "lightgbm": {"rounds": 20, "min_data_in_leaf": 50},
}  # fmt: skip


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.from_tables(simulate(seed=7, days=180, symbols=3).tables)


@pytest.fixture(scope="module")
def prepared(market: Market) -> tuple[pd.DataFrame, pd.DataFrame, dict[int, plain_scores.Frames]]:
    return plain_loop.prepared(market, RunConfig(horizons=HORIZONS))


@pytest.fixture(scope="module")
def fold(prepared: tuple[pd.DataFrame, pd.DataFrame, dict[int, plain_scores.Frames]]) -> Fold:
    features, labels, _ = prepared
    origins = pd.DatetimeIndex(features.index.get_level_values("origin"))
    past, ahead = origins < BORDER, (origins >= BORDER) & (origins < BORDER + pd.Timedelta(days=10))
    y = pd.DataFrame({h: labels[past][h].where(origins[past] + pd.Timedelta(hours=h) <= BORDER) for h in HORIZONS})
    return Fold(features[past], y, features[ahead], {})


def test_targets_are_the_products(market: Market) -> None:
    expected = targets.realised(market, HORIZONS)
    panel = PandasPanel(market)
    for h in HORIZONS:
        for name, frame in plain_scores.targets(panel, h).items():
            own = frame.T.stack(future_stack=True)
            want = expected.xs(h, level="horizon_hours")[name]
            np.testing.assert_allclose(own.reindex(want.index), want, rtol=1e-9, atol=1e-15, err_msg=f"{name} {h}")


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_members_forecast_as_ours_do(name: str, fold: Fold) -> None:
    seconds = Seconds()
    plain = plain_members.forecast(fold, {name: MEMBERS[name]}, seconds)
    ours = make(name, MEMBERS[name]).fit(fold.X, fold.y).predict_log(fold.test)
    if name in ("garch", "gjr"):
        # The peer neither shrinks its parameters nor calibrates what the filter says.
        alone = make(name, {"shrinkage": 0.0}).fit(fold.X, fold.y)
        season = fold.test[[f"log_season_ahead_{h}h" for h in HORIZONS]].to_numpy()
        ours = pd.DataFrame(alone._log_means(fold.test) + season, fold.test.index, list(HORIZONS))
    apart = (plain[name] - ours[list(HORIZONS)]).abs()
    # Least squares are the same to rounding; optimisers and boosters stop where they stop.
    assert apart.max().max() < {"garch": 0.1, "gjr": 0.1, "lightgbm": 1e-6, "har_x": 2e-2}.get(name, 1e-9)
    assert seconds[name] > 0


def test_parameters_of_an_earlier_fold_start_a_fit_that_is_not_counted(fold: Fold) -> None:
    seconds = Seconds()
    plain_members.forecast(fold, {"gjr": {}}, seconds)
    again, warm = Fold(fold.X, fold.y, fold.test, dict(fold.after)), Seconds()
    plain_members.forecast(again, {"gjr": {}}, warm)
    assert "gjr warm fits" not in seconds
    assert plain_loop.total(warm) == pytest.approx(warm["gjr"])
    assert plain_loop.total(warm, warm=True) == pytest.approx(
        plain_loop.total(warm) - warm["gjr fits"] + warm["gjr warm fits"]
    )


def test_a_member_that_is_not_asked_for_costs_nothing(fold: Fold) -> None:
    seconds = Seconds()
    plain_members.forecast(fold, {"har": {}}, seconds)
    assert set(seconds) == {"har"}


@pytest.mark.parametrize("early", [True, False])
def test_a_dataset_is_counted_alike_whoever_builds_it(early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]  # building takes 5 s by this clock and training 7
    construct, train = lightgbm.Dataset.construct, lightgbm.train

    def slow_construct(data: lightgbm.Dataset) -> lightgbm.Dataset:
        clock[0] += 5.0 if data._handle is None else 0.0
        return construct(data)

    def slow_train(*arguments: Any, **named: Any) -> lightgbm.Booster:
        clock[0] += 7.0
        return train(*arguments, **named)

    monkeypatch.setattr(lightgbm.Dataset, "construct", slow_construct)
    monkeypatch.setattr(lightgbm, "train", slow_train)
    monkeypatch.setattr(plain_members.time, "process_time", lambda: clock[0])
    rng, seconds = np.random.default_rng(3), Seconds()
    with plain_loop.boosting_counted(seconds):
        data = lightgbm.Dataset(rng.normal(size=(500, 3)), rng.normal(size=500), params={"verbosity": -1})
        if early:
            data.construct()
        lightgbm.train({"verbosity": -1, "num_threads": 1}, data, num_boost_round=2)
    assert seconds == {"datasets": 5.0, "train": 7.0, "boosters": 1}
    assert plain_loop.boosting(seconds) == 12.0
    assert (lightgbm.Dataset.construct, lightgbm.train) == (slow_construct, slow_train)


def test_folds_of_an_earlier_run_are_taken_over_and_counted(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Market, "open", lambda _: market)
    config = RunConfig(horizons=HORIZONS, members=(Component(kind="ewma"), Component(kind="har")))
    days = [str(BORDER + pd.Timedelta(days=7 * k)) for k in range(3)]
    borders = [(days[0], days[1], days[0]), (days[1], days[2], days[1])]
    first = plain_loop.loop("", config, (days[0], days[2]), borders, [0], tmp_path)
    second = plain_loop.loop("", config, (days[0], days[2]), borders, [0, 1], tmp_path)
    assert (first["taken_over"], second["taken_over"]) == (0, 1)
    assert second["folds"][0] == first["folds"][0]
    plain_loop.fold_file(tmp_path, days[1]).unlink()
    assert plain_loop.loop("", config, (days[0], days[2]), borders, [0, 1], tmp_path)["taken_over"] == 1


def test_folds_are_spread_evenly() -> None:
    assert plain_loop.spread(36, 6) == [3, 9, 15, 21, 27, 33]
    assert plain_loop.spread(36, 0) == list(range(36))
    assert plain_loop.spread(3, 6) == [0, 1, 2]


def test_what_follows_the_loop_learns_from_resolved_rows_alone(
    prepared: tuple[pd.DataFrame, pd.DataFrame, dict[int, plain_scores.Frames]],
) -> None:
    _, _, came = prepared
    h, hours = 24, 3 * plain_scores.FOUR_WEEKS  # an hour at which the law is refreshed
    log_forecast = np.log(came[h]["variance"]).ewm(halflife=48).mean().shift(h)
    spoilt = dict(came[h])
    for name in ("variance", "log_return", "mae_long", "mae_short"):
        spoilt[name] = came[h][name].copy()
        spoilt[name].iloc[hours - h + 1 :] *= 3.0  # rows that are not resolved at `hours`
    level, other = (plain_scores.levelled(log_forecast, truth["variance"], h) for truth in (came[h], spoilt))
    pd.testing.assert_frame_equal(level.iloc[: hours + 1], other.iloc[: hours + 1])
    assert not level.iloc[hours + 1 :].equals(other.iloc[hours + 1 :])
    known, changed = (plain_scores.law(log_forecast, truth, h) for truth in (came[h], spoilt))
    until = hours + plain_scores.FOUR_WEEKS
    for name in known:
        pd.testing.assert_frame_equal(known[name].iloc[:until], changed[name].iloc[:until])
    assert not known["var_q50"].iloc[until:].equals(changed["var_q50"].iloc[until:])


def test_the_law_covers_what_came_and_its_probabilities_sum_to_one(
    prepared: tuple[pd.DataFrame, pd.DataFrame, dict[int, plain_scores.Frames]], tmp_path: Path
) -> None:
    features, _, came = prepared
    raw = {("har_x", "24h"), ("lightgbm", "168h")}
    columns = {(name, h): features[f"log_rv_raw_{window}"] + np.log(h) for name, window in sorted(raw) for h in came}
    forecasts = pd.DataFrame(columns).rename_axis(columns=["member", "horizon_hours"])
    start, end = BORDER, pd.Timestamp("2023-06-25", tz="UTC")
    scores = plain_scores.finish(forecasts, came, start, end, tmp_path)
    assert set(scores) == {"har_x", "lightgbm", "ensemble"}
    for h in came:
        table = pd.read_parquet(tmp_path / f"forecasts-{h}h.parquet")
        chances = table[["p_calm", "p_normal", "p_stress", "p_crisis"]].dropna()
        assert len(chances) > 0
        np.testing.assert_allclose(chances.sum(axis=1), 1.0)
        fan = table[["var_q05", "var_q25", "var_q50", "var_q75", "var_q95"]].dropna().to_numpy()
        assert (np.diff(fan, axis=1) >= 0).all()
        assert 0.6 < scores["ensemble"][h]["coverage_var_90"] <= 1.0
        of_model = {name: scores[name][h] for name in scores}
        best = min(of_model, key=lambda name: of_model[name]["qlike"])
        assert of_model[best]["share_in_mcs90"] > 0.5
        mean = 0.5 * (np.log(table["variance_har_x"]) + np.log(table["variance_lightgbm"]))
        np.testing.assert_allclose(np.log(table["variance_ensemble"]), mean)
