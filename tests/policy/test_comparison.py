"""Coverage and level of margins, against arithmetic on the published lines."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from features.targets import realised
from forecaster.policy import Params, compare, make_schedule
from forecaster.policy.comparison import margins_in_force


@pytest.fixture(scope="module")
def lines(forecasts: pd.DataFrame, market: Market, params: Params) -> list[bytes]:
    return list(make_schedule(forecasts, market, params))


@pytest.fixture(scope="module")
def table(lines, forecasts: pd.DataFrame, market: Market, params: Params) -> pd.DataFrame:
    return compare(forecasts, realised(market, [24]), market, params, lines)


def test_margin_in_force_is_the_newest_effective_line(lines: list[bytes]) -> None:
    frame = margins_in_force(lines)
    objects = [line for line in map(json.loads, lines) if line["symbol"] == "ETHUSDT"]
    found = frame.loc[frame["symbol"] == "ETHUSDT", "ensemble"].tolist()
    for line, margin in list(zip(objects, found, strict=True))[::13]:
        force = [x for x in objects if x["seq"] <= line["seq"] and x["effective_at"] <= line["as_of"]]
        assert margin == force[-1]["im_ppm"] / 1e6


def test_scores_by_hand(table: pd.DataFrame, lines: list[bytes], market: Market) -> None:
    truth = realised(market, [24]).xs(24, level="horizon_hours")
    joined = margins_in_force(lines).join(truth, on=["symbol", "origin"]).dropna(subset="mae_long")
    worst = np.maximum(joined["mae_long"], joined["mae_short"])
    row = table[(table["policy"] == "ensemble") & (table["symbol"] == "*")].iloc[0]
    assert row["n"] == len(joined) == 3 * (720 - 24)
    assert row["mean_im"] == pytest.approx(joined["ensemble"].mean())
    assert row["coverage_24h_995"] == pytest.approx((worst <= joined["ensemble"]).mean())
    beyond = (worst - joined["ensemble"]).clip(lower=0).mean()
    assert row["es_beyond_margin"] == pytest.approx(beyond)
    loss = worst - joined["ensemble"]
    assert row["pinball_995"] == pytest.approx(np.where(loss > 0, 0.995 * loss, -0.005 * loss).mean())
    scale = row["matched_mean_im"] / row["mean_im"]
    covered = (worst <= scale * joined["ensemble"] * (1 + 1e-12)).mean()
    assert 0.995 <= covered <= 0.995 + 1.5 / len(joined)


def test_all_policies_on_the_same_origins(table: pd.DataFrame) -> None:
    assert table["policy"].unique().tolist() == ["static", "ewma", "ensemble"]
    assert table.groupby("symbol")["n"].nunique().eq(1).all()
    assert table.drop(columns=["policy", "symbol"]).notna().all(axis=None)


def test_schedule_is_made_where_none_is_given(
    table: pd.DataFrame, forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    again = compare(forecasts, realised(market, [24]), market, params)
    pd.testing.assert_frame_equal(again, table)
