"""Coverage and level of margins, against arithmetic on the published lines."""

from __future__ import annotations

import json
from dataclasses import replace

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


@pytest.mark.parametrize("delay", [1, 4])
def test_margin_in_force_is_the_newest_effective_line(
    delay: int, forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    limits = replace(params.limits, loosening_delay_hours=delay)
    lines = list(make_schedule(forecasts, market, replace(params, limits=limits)))
    frame = margins_in_force(lines)
    objects = [line for line in map(json.loads, lines) if line["symbol"] == "ETHUSDT"]
    found = frame.loc[frame["symbol"] == "ETHUSDT", ["ensemble", "mm"]].to_numpy().tolist()
    waited = set()
    for number, (line, margins) in enumerate(zip(objects, found, strict=True)):
        force = [x for x in objects[: number + 1] if x["effective_at"] <= line["as_of"]][-1]
        assert margins == [force["im_ppm"] / 1e6, force["mm_ppm"] / 1e6]
        waited.add(line["seq"] - force["seq"])
    assert max(waited) == delay * 3  # three symbols a line each, and a loosening that waited the whole delay


def test_a_tightening_ends_the_wait_of_an_older_loosening() -> None:
    hours = [f"2024-01-01T0{hour}:00:00Z" for hour in range(7)]
    margins, delays = (9, 8, 7, 20, 20, 20, 20), (0, 4, 4, 0, 0, 0, 0)
    lines = [
        {"symbol": "A", "as_of": hours[at], "effective_at": hours[at + wait], "im_ppm": im, "mm_ppm": im}
        for at, (im, wait) in enumerate(zip(margins, delays, strict=True))
    ]
    found = margins_in_force(json.dumps(line).encode() for line in lines)
    assert (found["ensemble"] * 1e6).round().tolist() == [9, 9, 9, 20, 20, 20, 20]


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
