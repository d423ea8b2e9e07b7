"""``forecaster backtest`` end to end on the small market: files, schemas, resumption, and what the page says."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import forecaster as fc
from features.errors import UsageError
from features.market import Market
from forecaster.cli import main
from forecaster.commands.backtesting import Backtested
from forecaster.commands.evaluation import Evaluated
from forecaster.commands.schedules import policy_replay
from forecaster.commands.schemas import Schema, schema
from forecaster.policy import Params
from forecaster.policy.comparison.contest import Contest, contest
from forecaster.policy.comparison.rows import VENUE_FIELDS
from forecaster.policy.comparison.scoreboard import FILES
from forecaster.venue import Path as VenuePath
from forecaster.venue import VenueParams
from forecaster.venue.contestants import VARIANTS, Contestants

START, LAST = "2023-04-12", "2023-04-24T23:00:00Z"
HOUR = 3_600_000_000

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped venue with fewer accounts."""
    text = files("forecaster.venue").joinpath("packs/default-1.toml").read_text("utf-8")
    file = tmp_path_factory.mktemp("venue") / "small.toml"
    file.write_text(text.replace("slots = 10000", "slots = 2000"))
    return file


@pytest.fixture(scope="module")
def tested(evaluated: Evaluated, store: Path, pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Backtested:
    out = tmp_path_factory.mktemp("backtest")
    return fc.backtest(store=store, forecasts=evaluated.evaluation.path, out=out, venue=pack, start=START, jobs=1)


@pytest.fixture(scope="module")
def met(evaluated: Evaluated, store: Path) -> Contest:
    return contest(evaluated.evaluation.path, Market.open(store), Params.default(), start=START)


def document(name: str) -> dict[str, Any]:
    found = schema(name)
    assert isinstance(found, Schema)
    return found.to_dict()


def test_files_have_the_shapes_promised(tested: Backtested) -> None:
    for name in FILES.values():
        jsonschema.validate(json.loads((tested.out / name).read_bytes()), document("policy_scores"))
    for name in ("policy_goals", "policy_experiments"):
        jsonschema.validate(json.loads((tested.out / f"{name}.json").read_bytes()), document(name))
    jsonschema.validate(json.loads(json.dumps(tested.to_dict())), document("output.backtest"))
    broken = json.loads((tested.out / "policy_scores.json").read_bytes())
    del broken["rows"][0]["calmar"]
    with pytest.raises(jsonschema.ValidationError, match="calmar"):
        jsonschema.validate(broken, document("policy_scores"))


def test_every_policy_symbol_and_window_has_its_row(tested: Backtested) -> None:
    rows = json.loads((tested.out / "policy_scores.json").read_bytes())["rows"]
    assert {row["policy"] for row in rows} == {"static", "exchange", "ewma", "fhs", "fhs_apc", "ensemble", "oracle"}
    assert {row["symbol"] for row in rows} == {"*", "BTCUSDT", "ETHUSDT"}
    own = next(row for row in rows if (row["policy"], row["symbol"], row["window"]) == ("ensemble", "*", "all"))
    parts = [row for row in rows if (row["policy"], row["window"]) == ("ensemble", "all") and row["symbol"] != "*"]
    assert own["liquidations_per_oi_year"] > 0
    assert own["insurance_draw_usd"] == pytest.approx(sum(row["insurance_draw_usd"] for row in parts))
    # No event lies in the span: nulls, never absent.
    empty = [row for row in rows if row["window"] != "all"]
    assert len(empty) == 7 * 3 * 6
    assert {row[name] for row in empty for name in VENUE_FIELDS} == {None}


def test_variants_share_the_margins_and_differ_in_the_venue(tested: Backtested) -> None:
    extended = json.loads((tested.out / "policy_scores_extended.json").read_bytes())["rows"]
    rows = {row["policy"]: row for row in extended if (row["symbol"], row["window"]) == ("*", "all")}
    own = next(row for row in tested.to_dict()["policies"] if row["policy"] == "ensemble")
    for name in set(VARIANTS) - {"ensemble"}:
        assert {rows[name][field] == own[field] for field in own if field not in ("policy", *VENUE_FIELDS)} == {True}
        assert rows[name]["liquidations_per_oi_year"] is not None
    induced = "policy_induced_liquidations_per_oi_year"
    # What binds an open position never rises when it is grandfathered, and late with a week's notice.
    assert rows["ensemble_grandfathered"][induced] == 0 <= own[induced] < rows["ensemble_now"][induced]


def test_the_schedule_is_derived_again(tested: Backtested, evaluated: Evaluated, store: Path) -> None:
    assert policy_replay(tested.out / "schedule.jsonl", evaluated.evaluation.path, store).derived


def test_the_page_shows_the_numbers_of_the_files_and_asks_no_network(tested: Backtested) -> None:
    page = (tested.out / "report.html").read_text("utf-8")
    told = [goal["goal"] for goal in json.loads((tested.out / "policy_goals.json").read_bytes())["goals"]]
    assert told == ["1a", "1b", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]
    assert [goal for goal in told if f"Goal {goal}, " not in page] == []
    shown = set(re.findall(r'<data value="([^"]+)"', page))
    own = next(row for row in tested.to_dict()["policies"] if row["policy"] == "ensemble")
    assert {repr(own[name]) for name in ("mean_im", "shortfall_bps_oi_year", "peak_to_trough")} <= shown
    assert "No named event lies in this span" in page
    assert page.count("<svg") == 3
    assert json.loads((tested.out / "policy_experiments.json").read_bytes())["reverse_stress"]["rows"]
    assert not re.search(r'(src|href)="(?!#|data:)', page)


def test_a_second_run_reads_what_the_first_one_kept(
    tested: Backtested, evaluated: Evaluated, store: Path, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("simulated again")

    monkeypatch.setattr("forecaster.venue.backtest.simulate", refuse)
    before = {
        name: (tested.out / name).read_bytes()
        for name in (*FILES.values(), "policy_goals.json", "policy_experiments.json", "report.html")
    }
    words = ["backtest", "--store", store, "--forecasts", evaluated.evaluation.path, "--out", tested.out, "--venue", pack,
             "--start", START, "--jobs", "1"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    assert {name: (tested.out / name).read_bytes() for name in before} == before
    kept = tested.out / "venue" / "ETHUSDT.json"
    kept.write_text(kept.read_text()[:-20])
    with pytest.raises(AssertionError, match="simulated again"):
        fc.backtest(store=store, forecasts=evaluated.evaluation.path, out=tested.out, venue=pack, start=START, jobs=1)


def test_without_the_venue_its_fields_are_null(evaluated: Evaluated, store: Path, tmp_path: Path) -> None:
    told = fc.backtest(
        store=store, forecasts=evaluated.evaluation.path, out=tmp_path, start=START, simulated=False
    ).to_dict()
    assert {row[name] for row in told["policies"] for name in VENUE_FIELDS} == {None}
    reached = {goal["goal"]: goal["reached"] for goal in told["goals"]}
    assert (reached["9"], reached["10"]) == ("not measured", "floor")
    assert "The venue was not run" in (tmp_path / "report.html").read_text("utf-8")


def test_what_cannot_be_asked_is_refused_with_the_cure(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="forecaster evaluate"):
        fc.backtest(store=store, forecasts=tmp_path / "none.parquet", out=tmp_path)
    with pytest.raises(UsageError, match="--out DIR"):
        fc.backtest(store=store, forecasts=tmp_path / "none.parquet")


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_the_venue_is_given_the_margins_that_were_compared(met: Contest, store: Path, symbol: str) -> None:
    params = VenueParams.default()
    path = VenuePath.of(Market.open(store), symbol, START, "2023-04-24", params)
    row, column = met.ground.symbols.index(symbol), np.searchsorted(met.ground.times.asi8, path.close_time - HOUR)
    for comparison in ("raw", "equal_mean", "equal_coverage"):
        entries = Contestants.of(met, comparison, params).on(path)
        assert set(entries) == {*VARIANTS, "static", "exchange", "ewma", "fhs", "fhs_apc", "oracle"}
        for name, entry in entries.items():
            compared = met.runs[comparison]["ensemble" if name in VARIANTS else name]
            np.testing.assert_allclose(entry.margins.im, 1e6 * np.minimum(compared.im[row, column], 1), atol=1)
            assert (entry.margins.penalty <= 0.8 * entry.margins.mm).all()
        for name in ("static", "ewma", "fhs", "fhs_apc"):
            np.testing.assert_allclose(entries[name].margins.mm, entries[name].margins.im / 2, atol=1)
            np.testing.assert_array_equal(entries[name].margins.allowed, entries[name].margins.mm)
        never, notice, now = (
            entries[n].margins.allowed for n in ("ensemble_grandfathered", "ensemble", "ensemble_now")
        )
        assert (never <= notice).all()
        assert (notice <= now).all()
        # They differ exactly where a rise has been published.
        assert (never < now).any() == (np.diff(now) > 0).any()
