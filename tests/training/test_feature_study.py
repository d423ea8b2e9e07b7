"""The feature study: planted signals are found, noise is not, and no forecast reads what it must not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.errors import Interrupted, UsageError
from features.market import Market
from features.pipeline import FAMILIES
from training.config import Features, RunConfig
from training.engine import Engine
from training.feature_arms import CLASSICAL, EVERY_HOURS, LOG_MEAN, REFERENCES, Arm, Forecasts, forecast, trainable
from training.feature_gains import OWN, REFERENCE, Scores, Step, gains
from training.feature_study import SETTINGS, Block, blocks, steps, study, verdict
from training.fold_store import read_fold
from training.losses import qlike_terms
from training.material import Material, prepare
from training.rows import micros
from training.scorecard import SCORED_COLUMNS, score
from training.splits import Fold
from training.walkforward import plan

START, END = pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-06-28", tz="UTC")
HORIZONS = (1, 4)
OPEN = pd.Timestamp("2023-04-25", tz="UTC")
"""From here on BTCUSDT has the feed of the family ``late``: for under 720 hours by May, for more by June."""
LEARNT = pd.Timestamp("2023-06-01", tz="UTC")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.load(
        None,
        [
            *SETTINGS,
            "horizons=[1, 4]",
            'features.families=["memory", "calendar", "volume"]',
            "walkforward.refit=1",
            "walkforward.warmup_months=1",
            "members.lightgbm.params.min_data_in_leaf=50",
            "members.lightgbm.params.rounds=30",
        ],
    )


@pytest.fixture(scope="module")
def found(config: RunConfig) -> list[Block]:
    planted = [
        Block("oracle", "cross", ("oracle",), ("feed",), needed=False, default=True),
        Block("noise", "funding", ("noise",), ("feed",), needed=False, default=True),
        Block("late", "flow", ("late", "age_late", "own_bars"), ("feed", "feed", "bars"), needed=False, default=False),
    ]
    return [replace(block, group="history") for block in blocks(config)] + planted


@pytest.fixture(scope="module")
def material(market: Market, config: RunConfig) -> Material:
    """The features of a small market, and planted ones: what is to come under noise, pure noise, a feed that opens late."""
    plain = prepare(market, config)
    rows, generator = plain.rows, np.random.default_rng(5)
    noise = generator.normal(size=(len(rows.origin), 2))
    with np.errstate(invalid="ignore"):
        oracle = np.log(rows.variance[:, 1]) + noise[:, 0]
    btc = rows.symbol == rows.symbols.index("BTCUSDT")
    late = np.where(btc & (rows.origin >= micros(OPEN)), noise[:, 1], np.nan)
    extra = [oracle, noise[:, 1], late, np.full(len(late), 720.0), noise[:, 0]]
    names = (*rows.columns, "oracle", "noise", "late", "age_late", "own_bars")
    return replace(plain, rows=replace(rows, features=np.column_stack([rows.features, *extra]), columns=names))


@pytest.fixture(scope="module")
def folds(material: Material, config: RunConfig) -> list[Fold]:
    return trainable(plan(material, config, START, END), material.rows, config)


@pytest.fixture(scope="module")
def planned(found: list[Block]) -> list[Step]:
    return steps(found, by_family=False)


@pytest.fixture(scope="module")
def forecasts(
    planned: list[Step], found: list[Block], material: Material, folds: list[Fold], config: RunConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Arm, Forecasts]:  # fmt: skip
    sets = {families for step in planned for families in (step.base, step.full)}
    arms = [REFERENCES, *map(Arm, sorted(sets))]
    arms += [Arm(families, who, "BTCUSDT") for families in sorted(sets) for who in ("signals", "own")]
    folder = tmp_path_factory.mktemp("folds")
    return forecast(arms, {b.family: b.columns for b in found}, material, folds, config, "data", folder, Engine(1))


@pytest.fixture(scope="module")
def realised(material: Material) -> pd.DataFrame:
    return material.realised(START - pd.Timedelta(days=731), END)


@pytest.fixture(scope="module")
def scores(
    planned: list[Step], forecasts: dict[Arm, Forecasts], material: Material, config: RunConfig, folds: list[Fold]
) -> Scores:
    return gains(planned, forecasts, material, config, folds, START, END, material.symbols)


def row(scores: Scores, subject: str, horizon: int, model: str = LOG_MEAN, kind: str = "ladder") -> dict[str, Any]:
    keys = {"subject": subject, "kind": kind, "model": model, "horizon_hours": horizon}
    (only,) = [r for r in scores.steps if keys.items() <= r.items()]
    return only


# -- which sets are compared


def test_ladder_removals_and_families_keep_what_members_need() -> None:
    def block(family: str, group: str, *, needed: bool = False) -> Block:
        return Block(family, group, (f"{family}_1h", f"age_{family}"), ("bars", "bars, feed"), needed, default=True)

    found = [block("memory", "history", needed=True), block("path", "history"), block("funding", "funding"),
             block("cross", "cross"), block("calendar", "history", needed=True)]  # fmt: skip
    history = ("memory", "path", "calendar")
    every = ("memory", "path", "funding", "cross", "calendar")
    cross = ("memory", "path", "cross", "calendar")
    bare = ("memory", "calendar")
    told = [(s.subject, s.kind, s.base, s.full) for s in steps(found, by_family=True)]
    assert told[:4] == [
        ("cross", "ladder", history, cross),
        ("funding", "ladder", cross, every),
        ("cross", "removed", ("memory", "path", "funding", "calendar"), every),
        ("funding", "removed", cross, every),
    ]
    assert told[4:7] == [
        ("path", "family_added", bare, history),
        ("funding", "family_added", history, ("memory", "path", "funding", "calendar")),
        ("cross", "family_added", history, cross),
    ]
    assert told[7] == ("path", "family_removed", ("memory", "funding", "cross", "calendar"), every)
    assert len(told) == 10


def test_columns_of_prices_do_not_vouch_for_a_feed(planned: list[Step]) -> None:
    columns = {step.subject: step.columns for step in planned if step.kind == "ladder"}
    assert columns["flow"] == ("late", "age_late")


def test_blocks_are_the_families_of_the_pipeline(config: RunConfig) -> None:
    every = blocks(config.model_copy(update={"features": Features()}))
    assert [block.family for block in every] == list(FAMILIES)
    assert all(block.group == FAMILIES[block.family].group and block.columns for block in every)
    assert {block.family for block in every if block.needed} == {"calendar", "memory"}
    assert [block.family for block in blocks(config)] == ["memory", "calendar", "volume"]


def test_verdict_is_the_worst_that_is_certain() -> None:
    def at(hours: int, gain: tuple[float, float], onset: tuple[float, float] | None = None) -> dict[str, Any]:
        low, high = onset or (None, None)
        onset_bounds = {"onset_joint_low": low, "onset_joint_high": high}
        return {"horizon_hours": hours, "gain_joint_low": gain[0], "gain_joint_high": gain[1], **onset_bounds}

    assert verdict([at(1, (0.01, 0.02)), at(4, (-0.01, 0.01))]) == {"verdict": "pays", "reason": "better: QLIKE at 1 h"}
    told = verdict([at(1, (0.01, 0.02)), at(4, (-0.02, -0.01))])
    assert told == {"verdict": "harms", "reason": "better: QLIKE at 1 h; worse: QLIKE at 4 h"}
    assert verdict([at(1, (-0.01, 0.01), (0.01, 0.02))])["verdict"] == "pays"
    assert verdict([at(1, (-0.01, 0.01), (-0.02, -0.01))])["verdict"] == "harms"
    assert verdict([at(1, (-0.01, 0.01), (0.0, 0.02))])["verdict"] == "no evidence"
    nothing = at(1, (0.0, 0.0)) | {"gain_joint_low": None, "gain_joint_high": None}
    assert verdict([nothing])["verdict"] == "not scored"


# -- forecasts


def test_a_planted_signal_pays_and_noise_does_not(scores: Scores) -> None:
    for horizon in HORIZONS:
        oracle = row(scores, "cross", horizon)
        assert oracle["gain_low"] > 0.05
        assert oracle["gain_better"] == oracle["gain_symbols"] == 3
        assert oracle["onset_low"] > 0
        assert abs(row(scores, "funding", horizon)["gain"]) < 0.02
        assert row(scores, "cross", horizon, kind="removed")["gain_low"] > 0.05
    judged = {s: verdict([row(scores, s, h) for h in HORIZONS])["verdict"] for s in ("cross", "funding")}
    assert judged["cross"] == "pays"
    assert judged["funding"] != "pays"


def test_an_arm_reads_its_own_columns_and_nothing_of_the_future(
    found: list[Block], material: Material, folds: list[Fold], config: RunConfig, tmp_path: Path
) -> None:
    ridge = config.model_copy(update={"members": config.members[:1]})
    columns, rows = {b.family: b.columns for b in found}, material.rows
    base = ("memory", "calendar", "volume")
    fold = folds[1]
    target_end = rows.origin[:, None] + np.array(HORIZONS) * 3_600_000_000
    poisoned = {
        "future": replace(rows, variance=np.where(target_end > micros(fold.train_end), 1e300, rows.variance)),
        "oracle": replace(rows, features=np.where(np.array(rows.columns) == "oracle", 1e300, rows.features)),
        "off the clock": replace(
            rows,
            variance=np.where(
                ((rows.origin < micros(fold.test_start)) & (rows.origin // 3_600_000_000 % EVERY_HOURS != 0))[:, None],
                1e300,
                rows.variance,
            ),
        ),
        "past": replace(
            rows, variance=np.where(target_end <= micros(fold.train_end), 2 * rows.variance, rows.variance)
        ),
    }
    made = {}
    for name, other in {"as it is": rows, **poisoned}.items():
        for families in (base, (*base, "oracle")):
            folder = tmp_path / f"{name} {len(families)}"
            forecast([Arm(families)], columns, replace(material, rows=other), [fold], ridge, name, folder, Engine(1))
            (place,) = folder.iterdir()
            made[name, len(families)] = read_fold(place).forecasts
    for name in ("future", "oracle", "off the clock"):
        pd.testing.assert_frame_equal(made[name, 3], made["as it is", 3], check_exact=True)
    assert not made["oracle", 4].equals(made["as it is", 4])
    moved = (made["past", 3] - made["as it is", 3]).dropna()
    np.testing.assert_allclose(moved, np.log(2), atol=0.05)
    tested = (rows.origin >= micros(fold.test_start)) & (rows.origin < micros(fold.test_end))
    assert len(made["as it is", 3]) == tested.sum()


def test_finished_fits_are_not_made_again(
    found: list[Block], material: Material, folds: list[Fold], config: RunConfig, tmp_path: Path
) -> None:
    columns, seen = {b.family: b.columns for b in found}, []

    def again() -> Iterator[tuple[str, int, int]]:
        seen.clear()
        forecast(
            [REFERENCES], columns, material, folds, config, "data", tmp_path, Engine(1), lambda *at: seen.append(at)
        )
        return iter(seen)

    assert next(again()) == ("fits", 0, len(folds))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.parquet")}
    assert next(again()) == ("fits", len(folds), len(folds))
    next(iter(before)).write_bytes(b"damaged")
    assert next(again()) == ("fits", len(folds) - 1, len(folds))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.parquet")} == before


def test_the_mean_of_members_is_levelled_on_its_own_resolved_forecasts(
    found: list[Block], material: Material, folds: list[Fold], config: RunConfig, tmp_path: Path
) -> None:
    columns, arm, horizon = {b.family: b.columns for b in found}, Arm(("memory", "calendar", "volume")), 4
    made = forecast([arm], columns, material, folds, config, "data", tmp_path, Engine(1))[arm]
    raw = pd.concat([read_fold(place).forecasts for place in sorted(tmp_path.iterdir())])
    log = 0.5 * (raw["har_x", horizon] + raw["lightgbm", horizon])
    came = material.realised(START - pd.Timedelta(days=90), END).xs(horizon, level="horizon_hours")["variance"]
    ratio = (came.reindex(log.index) / np.exp(log)).dropna()
    at = pd.Timestamp("2023-06-01", tz="UTC")  # the level is set daily
    past = ratio[ratio.index.get_level_values("origin") + pd.Timedelta(hours=horizon) <= at]
    column = material.times[made.span].get_loc(at)
    for i, symbol in enumerate(material.symbols):
        own = past[symbol]
        level = np.log((own.sum() + 8000 * past.mean()) / (len(own) + 8000))
        levelled = made.log_variance[LOG_MEAN, horizon][i, column]
        assert levelled == pytest.approx(log[symbol, at] + np.clip(level, -np.log(2), np.log(2)), rel=1e-9)


def test_too_little_history_is_refused_and_warm_up_is_shortened(material: Material, config: RunConfig) -> None:
    def needing(rows: int) -> RunConfig:
        trees = config.members[1].model_copy(update={"params": {"min_data_in_leaf": rows // 2}})
        return config.model_copy(update={"members": (config.members[0], trees)})

    planned = plan(material, config, START, END)
    assert [fold.index for fold in trainable(planned, material.rows, needing(700))] == [-1, 0, 1]
    assert [fold.index for fold in trainable(planned, material.rows, needing(1100))] == [0, 1]
    with pytest.raises(UsageError, match=r"the fold of 2023-05-01 has \d+ training rows .* need 4000; start later"):
        trainable(planned, material.rows, needing(4000))


def test_a_young_symbol_warms_up_later_on_its_own(
    found: list[Block], material: Material, folds: list[Fold], config: RunConfig, tmp_path: Path
) -> None:
    columns, families = {b.family: b.columns for b in found}, ("memory", "calendar")
    made = forecast([Arm(families, "own", "SOLUSDT")], columns, material, folds, config, "data", tmp_path, Engine(1))
    (own,) = made.values()
    assert [fold.index for fold in folds] == [-1, 0, 1]
    assert material.times[own.span][0] == START
    told = np.isfinite(own.log_variance[LOG_MEAN, 4]).any(axis=1)
    assert told.tolist() == [symbol == "SOLUSDT" for symbol in material.symbols]
    early = [replace(fold, train_end=fold.train_end - pd.Timedelta(days=30)) for fold in folds if fold.index >= 0]
    with pytest.raises(UsageError, match=r"training rows \(of SOLUSDT\)"):
        forecast([Arm(families, "own", "SOLUSDT")], columns, material, early, config, "data", tmp_path, Engine(1))


def test_a_stop_keeps_finished_fits(
    found: list[Block], material: Material, folds: list[Fold], config: RunConfig, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    columns = {b.family: b.columns for b in found}
    with pytest.raises(Interrupted, match=f"stopped at 2 of 3 fits; finished fits are kept in {tmp_path}"):
        forecast([REFERENCES], columns, material, folds, config, "data", tmp_path, Engine(1), stop)
    assert len(list(tmp_path.iterdir())) == 2


# -- scores


def by_hand(forecasts: Forecasts, model: str, horizon: int, material: Material) -> pd.DataFrame:
    """One model's scored rows as the forecast table has them."""
    times = material.times[forecasts.span]
    frames = []
    for i, symbol in enumerate(material.symbols):
        frame = pd.DataFrame({"symbol": symbol, "origin": times, "horizon_hours": horizon, "status": "ok"})
        frame["variance"] = np.exp(forecasts.log_variance[model, horizon][i])
        frame["p_onset"] = forecasts.p_onset[model, horizon][i] if (model, horizon) in forecasts.p_onset else np.nan
        frames.append(frame[frame["variance"].notna() & (frame["origin"] >= START) & (frame["origin"] < END)])
    return pd.concat(frames)


@pytest.mark.parametrize("horizon", HORIZONS)
def test_figures_are_those_of_the_scorecard(
    horizon: int, scores: Scores, forecasts: dict[Arm, Forecasts], planned: list[Step], material: Material,
    realised: pd.DataFrame,
) -> None:  # fmt: skip
    step = next(s for s in planned if s.kind == "ladder" and s.subject == "cross")
    parts = [by_hand(forecasts[REFERENCES], m.kind, horizon, material).assign(model=m.kind) for m in CLASSICAL]
    for name, families in (("full", step.full), ("base", step.base)):
        parts.append(by_hand(forecasts[Arm(families)], LOG_MEAN, horizon, material).assign(model=name))
    table = pd.concat(parts, ignore_index=True)
    told = score(table.reindex(columns=list(SCORED_COLUMNS)), realised, start=START, end=END)["scores"]
    own = {(r["model"], r["symbol"]): r for r in told}
    found = row(scores, "cross", horizon)
    names = [symbol for symbol in material.symbols if own["full", symbol]["qlike_x"] is not None]
    for field, key in (("gain", "qlike_x"), ("gain_full", "qlike")):
        full, base = (sum(own[m, s][key] for s in names) for m in ("full", "base"))
        assert found[field] == pytest.approx(1 - full / base, rel=1e-9)
    skill = {m: own[m, "*"]["brier_skill_onset"] for m in ("full", "base", REFERENCE)}
    assert found["onset"] == pytest.approx(skill["full"] - skill["base"], rel=1e-9)
    assert found["gain_by_year"] == {"2023": pytest.approx(found["gain"])}
    level = next(
        r for r in scores.levels
        if (tuple(r["families"]), r["model"], r["horizon_hours"]) == (step.full, LOG_MEAN, horizon)
    )  # fmt: skip
    assert level["qlike_x"] == pytest.approx(own["full", "*"]["qlike_x"], rel=1e-9)
    assert level["onset_skill"] == pytest.approx(skill["full"], rel=1e-9)
    reference = next(r for r in scores.levels if (r["model"], r["horizon_hours"]) == (REFERENCE, horizon))
    assert reference["onset_skill"] == pytest.approx(skill[REFERENCE], rel=1e-9)
    assert reference["gain"] == 0.0


def test_focus_scores_one_symbol_where_the_feed_is(
    planned: list[Step], forecasts: dict[Arm, Forecasts], material: Material, config: RunConfig, folds: list[Fold]
) -> None:
    only = gains(planned, forecasts, material, config, folds, START, END, ["BTCUSDT"], "BTCUSDT")
    assert {r["model"] for r in only.steps} == {"har_x", "lightgbm", LOG_MEAN, OWN}
    step = next(s for s in planned if s.kind == "ladder" and s.subject == "flow")
    i, horizon = material.symbols.index("BTCUSDT"), 4
    days = {np.datetime64(day, "D") for day in only.shock_days[str(horizon)]}
    made = {name: forecasts[Arm(f, "own", "BTCUSDT")] for name, f in (("full", step.full), ("base", step.base))}
    times = material.times[made["full"].span]
    kept = (
        (times >= LEARNT)
        & (times < END)
        & ~np.isin(times.tz_localize(None).to_numpy().astype("datetime64[D]"), list(days))
    )
    came = material.targets[horizon]["variance"][i, made["full"].span]
    log = {name: m.log_variance[LOG_MEAN, horizon][i] for name, m in made.items()}
    kept &= np.isfinite(came) & np.isfinite(log["full"]) & np.isfinite(log["base"])
    loss = {name: qlike_terms(came[kept], np.exp(f[kept])).mean() for name, f in log.items()}
    found = row(only, "flow", horizon, OWN)
    assert found["rows"] == kept.sum()
    assert found["gain"] == pytest.approx(1 - loss["full"] / loss["base"], rel=1e-9)
    assert found["gain_symbols"] == 1
    assert row(only, "cross", horizon, OWN)["rows"] > found["rows"]


def test_without_its_feed_a_step_is_not_scored(
    planned: list[Step], forecasts: dict[Arm, Forecasts], material: Material, config: RunConfig, folds: list[Fold]
) -> None:
    early = gains(planned, forecasts, material, config, folds, START, LEARNT, ["BTCUSDT"], "BTCUSDT")
    told = [row(early, "flow", horizon) for horizon in HORIZONS]
    assert [(r["gain"], r["rows"], r["gain_by_year"]) for r in told] == [(None, 0, {})] * 2
    assert verdict(told)["verdict"] == "not scored"


# -- the whole


def test_study_is_one_document_that_is_the_same_again(
    market: Market, config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(FAMILIES["volume"], "group", "flow")
    plain = config.model_copy(update={"members": config.members[:1], "horizons": (4,)})

    def made() -> dict[str, Any]:
        return study(market, plain, start=START, end=END, out=tmp_path, symbols=["ETHUSDT", "BTCUSDT"], jobs=1)

    document = made()
    content = (tmp_path / "features.json").read_bytes()
    assert json.loads(content) == document
    assert made() == document
    assert (tmp_path / "features.json").read_bytes() == content
    assert [(v["subject"], v["kind"]) for v in document["verdicts"]] == [("flow", "ladder"), ("flow", "removed")]
    assert document["symbols"] == ["BTCUSDT", "ETHUSDT"]
    assert {r["gain_symbols"] for r in document["steps"]} == {2}
    assert [r["symbols"] for r in document["coverage"] if r["feature"] == "log_rv_1h"] == [2]
    names = [name for family in document["families"] for name in family["columns"]]
    assert [r["feature"] for r in document["coverage"]] == [r["feature"] for r in document["drift"]] == names
    assert sorted(name for cluster in document["clusters"] for name in cluster["features"]) == sorted(names)
    assert (document["warmup_folds"], document["scored_folds"]) == (1, 2)


def test_what_cannot_be_studied_is_refused(market: Market, config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="symbol XRPUSDT has no bars"):
        study(market, config, start=START, end=END, out=tmp_path, symbols=["XRPUSDT"])
    with pytest.raises(UsageError, match=r"SOLUSDT has no bar from 2023-03-12 up to 2023-03-13"):
        study(market, _light(config), start="2023-03-12", end="2023-03-13", out=tmp_path, focus="SOLUSDT")


def _light(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"features": Features(families=("memory", "calendar"))})
