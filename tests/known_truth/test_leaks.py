"""Labels dealt out anew show no skill, a feature that is the target is caught, and the tripwire sees what it would gain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from known_markets import KnownMarket, Linear
from known_walk import HISTORY, climatology, configured, shuffled, walked

from features import leakage, pipeline, targets
from features.errors import LeakFound
from features.families import Column, Family
from features.market import Market
from features.panel import Panel
from features.pipeline import FeaturePipeline
from training.evaluation import evaluate
from training.goal_figures import Measured, Window, measure
from training.goal_report import document
from training.leakcheck import leakcheck
from training.material import Material

HORIZONS = (1, 4)
DAYS = 120
# Five days, no whole number of weeks: neighbours stay neighbours, and no season is left.
BLOCK_HOURS = 120
CANARY = "oracle"


class Oracle(Family):
    """The target itself, as a feature."""

    name: ClassVar[str] = CANARY

    def columns(self, panel: Panel) -> Iterator[Column]:
        """The log of what the next hours bring."""
        for h in HORIZONS:
            coming = np.log(targets.interval_arrays(panel, h)["variance"])
            yield Column(f"{CANARY}_{h}h", coming, "ln V", "ln variance", 0)


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    """The family's name, under which a configuration may ask for it."""
    monkeypatch.setattr(pipeline, "FAMILIES", {**pipeline.FAMILIES, CANARY: Oracle})
    return CANARY


def test_shuffled_targets_show_no_skill(material: Material) -> None:
    """What is fitted to labels of other hours never pays; on a few months of them, it costs a few per cent."""
    walk = walked(shuffled(material, BLOCK_HOURS, seed=7), configured(horizons=HORIZONS), DAYS)
    for h in HORIZONS:
        level = climatology(walk.material, h)
        for model in ("har", "har_seasonal", "har_x", "lightgbm", "ensemble"):
            assert walk.gain(h, model, level).low <= 0, model
        assert walk.gain(h, "har_seasonal", level).high >= 0
        assert walk.gain(h, "ensemble", level).value > -0.06


def test_shuffled_targets_show_the_skill_of_a_feature_that_knows_them(material: Material) -> None:
    """The twin: the same with one feature more, the shuffled label in noise as large as itself."""
    dealt = shuffled(material, BLOCK_HOURS, seed=7)
    rows = dealt.rows
    label = np.log(rows.variance[:, 0])
    spoilt = label + np.random.default_rng(0).standard_normal(len(label)) * np.nanstd(label)
    features = np.column_stack([rows.features, spoilt])
    rows = replace(rows, features=features, columns=(*rows.columns, "spread_of_labels"))
    config = configured(("har_seasonal", "lightgbm"), horizons=HORIZONS)
    walk = walked(replace(dealt, rows=rows), config, DAYS)
    assert walk.gain(1, "ensemble", climatology(dealt, 1)).low > 0


@pytest.fixture(scope="module")
def short() -> Market:
    """Forty days of two symbols."""
    return KnownMarket.draw(Linear(), seed=6, days=40, symbols=2).market(book=False)


def test_a_feature_that_is_the_target_is_named(short: Market, canary: str) -> None:
    made = FeaturePipeline((*HISTORY, canary), HORIZONS)
    report = leakage.check(short, made, HORIZONS, cuts=4, seed=1, deep_cuts=1, live_bars=0)
    columns = {f"{CANARY}_{h}h" for h in HORIZONS}
    assert {leak.column for leak in report.leaks} == columns
    checks = {leak.check for leak in report.leaks}
    assert {"prefix", "poison", "arrival"} <= checks
    first = report.leaks[0]
    assert first.time <= first.cut
    assert not leakage.check(
        short, FeaturePipeline(HISTORY, HORIZONS), HORIZONS, cuts=4, seed=1, deep_cuts=1, live_bars=0
    ).leaks


def test_the_whole_leak_check_stops_the_run(short: Market, canary: str) -> None:
    config = configured(("har_seasonal",), (*HISTORY, canary), HORIZONS)
    with pytest.raises(LeakFound, match=rf"'features', column '{CANARY}_[14]h', symbol S0USDT, time 20") as error:
        leakcheck(short, config, cuts=2, forecast_cuts=0, deep_cuts=0, live_bars=0, jobs=1)
    assert error.value.exit_code == 5


def judged(market: Market, families: tuple[str, ...], folder: Path) -> Measured:
    """The figures of an evaluation's last four months."""
    config = configured(("har_seasonal", "har_x", "lightgbm"), families, HORIZONS)
    result = evaluate(market, config, start="2021-08-01", end="2021-10-01", out=folder, jobs=1)
    window = Window("all", result.start, result.end, market.symbols, {})
    return measure(result.path, result.realised, [window], proxy="garman_klass")[0]


def test_the_tripwire_fires_on_the_canary_and_on_nothing_else(linear: KnownMarket, canary: str, tmp_path: Path) -> None:
    market = linear.market(book=False).as_of("2021-10-01")
    facts = {"proxy": "garman_klass"}
    honest = document([judged(market, HISTORY, tmp_path / "honest")], {}, {"all": {}}, facts)
    leaky = document([judged(market, (*HISTORY, canary), tmp_path / "leaky")], {}, {"all": {}}, facts)
    assert not honest["suspect"], honest["windows"][0]["tripped"]
    assert leaky["suspect"]
    told = " ".join(leaky["windows"][0]["tripped"])
    assert "vs har_seasonal, 1 h" in told
    assert "vs har_seasonal, 4 h" in told
