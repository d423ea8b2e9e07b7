"""Symbols that nothing is learnt from: the market of their listings, and that no outcome of theirs reaches a forecast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.errors import UsageError
from features.market import Market
from models.base import ENSEMBLE
from training.assembly import OUTCOMES, assemble
from training.config import Component, RunConfig, WalkForward
from training.engine import Engine
from training.folds import code_sha256, forecast_fold
from training.leave_out import DOCUMENT, LISTED_DAYS, figures, leave_out, relisted
from training.material import Material
from training.rows import training_rows
from training.walkforward import plan

START, END = pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-06-15", tz="UTC")
STRANGER = "ETHUSDT"


@pytest.fixture(scope="module")
def excluding(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"walkforward": WalkForward(warmup_months=1, exclude=(STRANGER,))})


def forecasts(material: Material, config: RunConfig) -> pd.DataFrame:
    folds = plan(material, config, START, END)
    made = [forecast_fold(f, material.rows, config.members, config.walkforward.exclude).forecasts for f in folds]
    return pd.concat(made).sort_index(kind="stable")


def with_other_outcomes(material: Material, symbol: str) -> Material:
    """The same bars, other outcomes of one symbol: ten times the variance, no return, no excursion."""
    i = material.symbols.index(symbol)
    targets = {h: dict(arrays) for h, arrays in material.targets.items()}
    for arrays in targets.values():
        for name in OUTCOMES:
            changed = arrays[name].copy()
            changed[i] = changed[i] * 10.0 if name == "variance" else np.where(np.isnan(changed[i]), np.nan, 0.0)
            arrays[name] = changed
    variance = material.rows.variance.copy()
    variance[material.rows.symbol == i] *= 10.0
    return replace(material, targets=targets, rows=replace(material.rows, variance=variance))


def test_no_row_of_an_excluded_symbol_trains(material: Material, excluding: RunConfig) -> None:
    [fold, *_] = plan(material, excluding, START, END)
    past = training_rows(fold, material.rows, excluding.walkforward.exclude)
    assert {name for name, _ in past.by_symbol(np.arange(len(past)))} == {"BTCUSDT", "SOLUSDT"}
    assert len(past) < len(training_rows(fold, material.rows))


def test_no_outcome_of_an_excluded_symbol_reaches_any_forecast(material: Material, excluding: RunConfig) -> None:
    changed = with_other_outcomes(material, STRANGER)
    ours, theirs = (assemble(m, forecasts(m, excluding), excluding)[0] for m in (material, changed))
    for h, assembly in ours.items():
        for name, column in assembly.columns[ENSEMBLE].items():
            np.testing.assert_array_equal(column, theirs[h].columns[ENSEMBLE][name], err_msg=f"{h} {name}")
        stranger = assembly.columns[ENSEMBLE]["variance"][material.symbols.index(STRANGER)]
        assert np.isfinite(stranger).any()


def test_without_the_exclusion_they_do(material: Material, config: RunConfig) -> None:
    changed = with_other_outcomes(material, STRANGER)
    ours, theirs = (assemble(m, forecasts(m, config), config)[0] for m in (material, changed))
    assert not np.array_equal(
        ours[1].columns[ENSEMBLE]["variance"], theirs[1].columns[ENSEMBLE]["variance"], equal_nan=True
    )


def test_a_served_model_learns_from_every_symbol(market: Market, excluding: RunConfig, tmp_path: Path) -> None:
    from training.serving import fit

    with pytest.raises(UsageError, match="a served model learns from every symbol"):
        fit(market, excluding, out=tmp_path)


def test_a_listing_has_the_rows_of_its_days_and_no_others(market: Market) -> None:
    at = [pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-06-01", tz="UTC")]
    cut, names = relisted(market, [STRANGER], at)
    assert names == {"ETHUSDT@20230501": STRANGER, "ETHUSDT@20230601": STRANGER}
    assert set(cut.symbols) == {"BTCUSDT", "SOLUSDT", *names}
    for label, first in zip(names, at, strict=True):
        for name, clock in (("bars", "close_time"), ("funding", "funding_time"), ("mark", "close_time")):
            whole, part = market.table(name), cut.table(name)
            until = first + pd.Timedelta(days=LISTED_DAYS)
            own = whole[(whole["symbol"] == STRANGER) & (whole[clock] > first) & (whole[clock] <= until)]
            kept = part[part["symbol"] == label].drop(columns="symbol").reset_index(drop=True)
            pd.testing.assert_frame_equal(kept, own.drop(columns="symbol").reset_index(drop=True), check_dtype=False)
        bars = cut.table("bars", "1h")
        assert cut.first_bar[label] == bars.loc[bars["symbol"] == label, "close_time"].min()
    assert STRANGER not in cut.first_bar.index
    pd.testing.assert_frame_equal(cut.bars("1h", ["BTCUSDT"]), market.bars("1h", ["BTCUSDT"]), check_dtype=False)


def test_a_listing_before_the_first_bar_is_none(market: Market) -> None:
    _, names = relisted(market, ["SOLUSDT"], [pd.Timestamp("2023-01-10", tz="UTC")])
    assert names == {}


def test_the_comparison_is_with_the_strangers_own_fully_trained_har(market: Market, tmp_path: Path) -> None:
    members = tuple(Component(kind=kind) for kind in ("ewma", "har_seasonal", "har_x"))
    config = RunConfig(horizons=(1,), members=members, walkforward=WalkForward(warmup_months=1))
    told = leave_out(market, config, [STRANGER], start=START, end=END, out=tmp_path, engine=Engine(1))
    assert json.loads((tmp_path / DOCUMENT).read_text()) == json.loads(json.dumps(told))
    assert told["listings"] == ["2023-05-01"]
    assert told["code_sha256"] == code_sha256()
    [stranger], [listed] = told["stranger"], told["listed"]
    assert 0 < listed["rows"] <= LISTED_DAYS * 24 < stranger["rows"]
    for row in (stranger, listed):
        assert row["low"] <= row["excess"] <= row["high"]
        assert row["excess_by_symbol"] == {STRANGER: pytest.approx(row["excess"])}
    # The pool's coefficients and level serve a stranger nearly as well; with a month of history they serve it less.
    assert -0.2 < stranger["excess"] < 0.5
    assert figures(told)["stranger's excess loss, 1 h"].value == listed["excess"]


@pytest.mark.parametrize(
    ("symbols", "told"),
    [(["XRPUSDT"], "XRPUSDT has no bars"), ([], "0 of 3"), (["BTCUSDT", "ETHUSDT", "SOLUSDT"], "3 of 3")],
)
def test_what_cannot_be_left_out(
    market: Market, quick: RunConfig, symbols: list[str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        leave_out(market, quick, symbols, start=START, end=END, out=tmp_path)


def test_classical_members_alone_are_no_stranger(market: Market, tmp_path: Path) -> None:
    members = tuple(Component(kind=kind) for kind in ("ewma", "har", "har_seasonal"))
    config = RunConfig(horizons=(1,), members=members, walkforward=WalkForward(warmup_months=1))
    with pytest.raises(UsageError, match="add har_x or lightgbm"):
        leave_out(market, config, [STRANGER], start=START, end=END, out=tmp_path)
