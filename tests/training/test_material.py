"""Features and targets on arrays: the same numbers as the pipeline and the targets give, in the right places."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features import targets
from features.market import Market
from features.pipeline import FeaturePipeline
from training.assembly import Origin
from training.config import Features, RunConfig
from training.material import Material, prepare

FROM, UNTIL = pd.Timestamp("2023-05-09", tz="UTC"), pd.Timestamp("2023-05-12 07:00", tz="UTC")


def test_rows_are_the_pipelines_features(market: Market, config: RunConfig, material: Material) -> None:
    expected = FeaturePipeline(horizons=config.horizons).transform(market)
    X, y = material.rows.frame(np.ones(len(expected), dtype=np.bool_))
    pd.testing.assert_frame_equal(X, expected, check_exact=True)
    assert y.index.equals(X.index)
    assert list(y.columns) == list(config.horizons)


def test_labels_are_the_targets_of_their_own_row(market: Market, config: RunConfig, material: Material) -> None:
    _, y = material.rows.frame(np.ones(len(material.column), dtype=np.bool_))
    realised = targets.realised(market, config.horizons)["variance"]
    for h in config.horizons:
        expected = realised.xs(h, level="horizon_hours").reindex(y.index)
        np.testing.assert_array_equal(y[h].to_numpy(), expected.to_numpy())


def test_realised_is_the_half_open_span_of_the_targets(market: Market, config: RunConfig, material: Material) -> None:
    expected = targets.realised(market, config.horizons)
    origins = expected.index.get_level_values("origin")
    expected = expected[(origins >= FROM) & (origins < UNTIL)]
    found = material.realised(FROM, UNTIL).sort_index()
    assert len(found) < 2 * 3 * 79  # the gap of five hours has no rows
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_exact=True)


def test_a_bar_is_alive_and_a_gap_is_not(market: Market, material: Material) -> None:
    bars = market.bars("1h")
    cells = {(material.symbols[i], material.times[j]) for i, j in np.argwhere(material.alive)}
    assert cells == set(bars.index)


def test_a_feature_stands_at_its_symbol_and_hour(market: Market, material: Material) -> None:
    grid = material.feature("log_return_1h")
    close = market.bars("1h")["close"]
    hour = pd.Timestamp("2023-05-15 12:00", tz="UTC")
    j = material.times.get_loc(hour)
    for i, symbol in enumerate(material.symbols):
        expected = np.log(close[symbol, hour] / close[symbol, hour - pd.Timedelta(hours=1)])
        assert grid[i, j] == pytest.approx(expected, rel=1e-12)
    eth = material.symbols.index("ETHUSDT")
    assert np.isnan(grid[eth, material.times.get_loc(pd.Timestamp("2023-05-22", tz="UTC"))])


def test_a_feature_that_is_left_out_is_missing_everywhere(market: Market, config: RunConfig) -> None:
    plain = config.model_copy(update={"features": Features(families=("memory", "calendar"))})
    material = prepare(market, plain)
    assert np.isnan(material.feature("age_funding")).all()
    assert not np.isnan(material.feature("log_rv_24h")).all()
    assert material.feature("age_funding").shape == (3, len(material.times))


def test_what_is_settled_gives_the_same_status_and_targets(material: Material) -> None:
    settled, whole = material.settled(), slice(0, len(material.times))
    assert settled.rows.features.shape[1] == 2
    for name in ("absent", "flat", "degraded"):
        expected = getattr(Origin.of(material, whole), name)
        np.testing.assert_array_equal(getattr(Origin.of(settled, whole), name), expected)
    pd.testing.assert_frame_equal(settled.realised(FROM, UNTIL), material.realised(FROM, UNTIL))
