"""What the page of a back-test says of events, goals and experiments, against the rows and runs behind it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from forecaster.commands.evaluation import Evaluated
from forecaster.policy import Params
from forecaster.policy.comparison.contest import Contest, contest
from forecaster.policy.types import STAGES
from forecaster.report.backtest_events import by_event, hours
from forecaster.report.backtest_tables import COLUMNS, goals
from forecaster.report.backtest_trials import reverse_stress
from forecaster.report.episodes import Episode
from forecaster.report.experiments import SHOCKS, STEP, experiments
from forecaster.venue import Margins, VenueParams
from forecaster.venue.impulse import measure
from forecaster.venue.scenarios import SEED, Setting
from forecaster.venue.stress import Shock, bad_debt_usd

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture(scope="module")
def met(evaluated: Evaluated, store: Path) -> Contest:
    return contest(evaluated.evaluation.path, Market.open(store), Params.default(), start="2023-04-12")


@pytest.fixture(scope="module")
def tried(met: Contest) -> dict[str, Any]:
    return experiments(met, VenueParams.default())


def cells(markup: str) -> list[list[str]]:
    """Texts of the rows of a table, heads left out."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', markup)
    return [[re.sub("<[^>]+>", "", cell) for cell in re.split(r"</t[hd]>", row)][:-1] for row in rows]


def test_the_answer_to_a_step_is_that_of_the_path_shown(tried: dict[str, Any]) -> None:
    told = tried["impulse"]
    for row in told["rows"]:
        path = np.array(told["paths"][row["rule"]])
        assert len(path) == STEP.hours + STEP.after - told["first_hour"]
        again = measure(path, -told["first_hour"], STEP.hours)
        assert row["peak"] == pytest.approx(again.peak, abs=1e-6)
        assert row["settled"] == pytest.approx(again.settled, abs=1e-6)
        assert row["hours_to_90"] == again.hours_to_90


def test_the_gap_told_breaks_the_policy_and_a_smaller_one_does_not(tried: dict[str, Any], met: Contest) -> None:
    setting = Setting(VenueParams.default(), met.variant.params, SEED)
    rows = [row for row in tried["reverse_stress"]["rows"] if (row["policy"], row["level"]) == ("fhs", "mean")]
    assert {(row["side"], row["depth"], row["concentration"]) for row in rows} == {
        (s, *x) for s in (-1, 1) for x in SHOCKS
    }
    im = met.runs["raw"]["fhs"].im[met.ground.scored]
    for row in rows:
        assert row["im"] == pytest.approx(im.mean())
        margins = Margins.constant(row["im"], 12, row["mm"] / row["im"])
        for gap, broken in ((row["gap"], True), (row["gap"] - 0.002, False)):
            shock = Shock(row["side"] * gap, row["depth"], row["concentration"])
            assert (bad_debt_usd(margins, shock, setting) > 0) == broken
    assert {row["policy"] for row in tried["reverse_stress"]["rows"]} == {*met.runs["raw"]}


def test_without_a_venue_no_shock_is_tried(met: Contest) -> None:
    told = experiments(met, None)
    assert told["reverse_stress"]["rows"] == []
    assert "was not run" in reverse_stress(told["reverse_stress"])


def test_a_policy_that_nothing_breaks_is_told_by_the_limit() -> None:
    row = {"policy": "a", "level": "mean", "im": 1.0, "mm": 0.5, "depth": 1.0, "concentration": 0.0}
    rows = [{**row, "side": -1, "gap": None}, {**row, "side": 1, "gap": 0.25}]
    assert cells(reverse_stress({"limit": 0.6, "rows": rows})) == [["a", "100.00", "&gt; 60", "25.0"]]


def test_rates_of_an_event_are_amounts_of_it() -> None:
    rows = [
        {"policy": "fhs", "symbol": "*", "window": window} | dict.fromkeys(COLUMNS) for window in ("all", "ftx_2022_11")
    ]
    rows[1] |= {"mean_im": 0.25, "liquidations_per_oi_year": 182.5, "shortfall_bps_oi_year": 365.0}
    found = by_event(rows)
    assert cells(found) == [["fhs", "25.00", "–", "–", "–", "2.000", "100.0"]]  # two days of the year
    assert "policy-made" not in found
    assert found.count("outside these forecasts") == 5


def test_reasons_of_every_hour_are_said_once() -> None:
    times = pd.date_range("2022-11-07", periods=48, freq="h", tz="UTC")
    values = {"close": 100.0, "excursion": 0.1, "ensemble": 0.3, "mode": "calm"}
    table = pd.DataFrame(values, index=times)
    quiet = dict.fromkeys(STAGES, 0)
    lines = [
        {"as_of": f"{at:%Y-%m-%dT%H:%M:%SZ}", "mode": "calm", "im_ppm": 310_000, "mm_ppm": 155_000, "bounds_hit": [],
         "reasons": ["DECAY", "OI_ABSENT"] if at.hour else ["OI_ABSENT"],
         "decomposition": quiet | ({"core": 20_000, "governor": -400} if at.hour == 5 else {})}
        for at in times
    ]  # fmt: skip
    found = hours(Episode("ftx_2022_11", "BTCUSDT", times[24], times[47], table, tuple(lines)))
    assert "beside those named: OI_ABSENT." in found
    body = cells(found)
    assert len(body) == 47
    assert body[0] == ["11-07 00:00", "100.0", "10.0", "calm", "30.00", "31.00", "15.50", "0", "–", "–"]
    assert body[5][-3:] == ["+1.96", "core +2.00", "DECAY"]


@pytest.mark.parametrize(
    ("value", "note"),
    [(1.5, "misses the floor"), (0.9, "meets the floor"), (0.5, "meets the target"), (0.1, "meets the moonshot")],
)
def test_a_figure_is_told_by_the_highest_level_it_meets(value: float, note: str) -> None:
    bounds = {"floor": 1.0, "target": 0.5, "moonshot": 0.2}
    figure = {
        "figure": "x",
        "value": value,
        "low": None,
        "high": None,
        "why": "",
        "unit": "number",
        "less_is_better": True,
    }
    assert note in goals([{"goal": "1", "metric": "m", "reached": "floor", "figures": [figure | bounds]}])
