from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features import replay
from features.errors import UsageError
from features.families.memory import HAR_HOURS
from features.market import Market
from features.panel import Panel
from features.pipeline import FeaturePipeline

HOUR = pd.Timedelta(hours=1)


@pytest.fixture(scope="module")
def pipeline() -> FeaturePipeline:
    return FeaturePipeline.default()


@pytest.fixture(scope="module")
def batch(rough_market: Market, pipeline: FeaturePipeline) -> pd.DataFrame:
    return pipeline.transform(rough_market)


def test_stretches_played_live_have_the_bits_of_the_batch(
    rough_market: Market, pipeline: FeaturePipeline, batch: pd.DataFrame
) -> None:
    found = list(replay.check(rough_market, pipeline, batch, bars=20, restarts=2, seed=3))
    assert len({start for start, _ in found}) == 2
    assert all(not finding.leaks for _, finding in found)
    assert sum(sum(finding.cells.values()) for _, finding in found) >= 20 * 8 * len(pipeline.describe())


def test_an_outage_of_every_feed_is_played_in_one_step(rough_market: Market, pipeline: FeaturePipeline) -> None:
    start = rough_market.bars().index.get_level_values("close_time").min() + pd.Timedelta(days=95)
    silent = {}
    for name in ("bars", "mark", "spot", "funding", "open_interest", "implied_vol", "daily"):
        rows = rough_market.table(name)
        out = (rows["available_at"] > start + 3 * HOUR) & (rows["available_at"] <= start + 8 * HOUR)
        silent[name] = rows[~out]
    market = Market.from_tables(silent)
    played = replay.replay(market, pipeline, start, 12)
    assert played.index.get_level_values("origin").nunique() == 7
    whole = pipeline.transform(market)
    assert np.array_equal(played.to_numpy(), whole.loc[played.index].to_numpy(), equal_nan=True)


def test_what_only_a_whole_history_knows_is_found_live(
    rough_market: Market, pipeline: FeaturePipeline, batch: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Panel.mean

    def of_all_columns(self: Panel, x: np.ndarray, lengths: tuple[int, ...], coverage: float = 0.8) -> np.ndarray:
        out = shipped(self, x, lengths, coverage)
        return out if lengths != HAR_HOURS else np.repeat(np.nansum(out, axis=2, keepdims=True), out.shape[2], axis=2)

    monkeypatch.setattr(Panel, "mean", of_all_columns)
    finding = next(replay.check(rough_market, pipeline, pipeline.transform(rough_market), 4, 1))[1]
    named = {leak.column for leak in finding.leaks}
    assert {leak.check for leak in finding.leaks} == {"live"}
    assert {"log_rv_24h", "log_rv_raw_720h"} <= named
    assert "log_ew_12h" not in named


def test_stretches_must_fit(rough_market: Market, pipeline: FeaturePipeline, batch: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="ask for fewer"):
        next(replay.check(rough_market, pipeline, batch, bars=10_000, restarts=2))
