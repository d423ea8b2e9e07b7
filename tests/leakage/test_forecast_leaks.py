"""Planted leaks of training and of what is learnt between refits: found in the forecast table, by refitting at a cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from features.errors import LeakFound
from features.market import Market
from models import combination, distribution, regimes, residuals
from models.training_rows import TrainingRows
from training import rows
from training.config import Component, RunConfig
from training.leakcheck import leakcheck
from training.rows import Rows

CONFIG = RunConfig(horizons=(1, 24), members=(Component(kind="ewma"), Component(kind="har_seasonal")))
BOTH = CONFIG.model_copy(update={"ensemble": CONFIG.ensemble.model_copy(update={"members": ("ewma", "har_seasonal")})})


def unresolved(at: int, horizon: int, length: int) -> slice:
    """``models.trailing.window`` that forgets the horizon."""
    return slice(max(at - length, 0), at)


def small(trial: Any) -> None:
    """Samples that a small market can fill."""
    trial.constant(combination, "MINIMUM_WEIGHT_ROWS", 100)
    trial.constant(residuals, "MINIMUM_ROWS", 100)
    trial.constant(regimes, "MINIMUM_ROWS", 100)


def test_label_not_purged(trial: Any) -> None:
    small(trial)
    trial.plant(rows, "purged_labels", lambda past, known_by: past)
    trial.is_found_in_forecasts({"variance", "model_sha256"}, BOTH)


def test_scaler_of_all_rows(trial: Any) -> None:
    shipped = Rows.training

    def scaled(self: Rows, mask: Any) -> TrainingRows:
        past = shipped(self, mask)
        return replace(past, features=past.features * (1 + 1e-6 * np.nan_to_num(self.features).std(axis=0)))

    small(trial)
    trial.plant(Rows, "training", scaled)
    trial.is_found_in_forecasts({"variance", "model_sha256"}, BOTH)


def test_weights_by_unresolved_losses(trial: Any) -> None:
    small(trial)
    trial.plant(combination, "window", unresolved)
    trial.is_found_in_forecasts({"variance", "vol_annualised"}, BOTH, only="^(?!model_sha256)")


def test_calibration_on_unresolved_rows(trial: Any) -> None:
    small(trial)
    trial.plant(regimes, "window", unresolved)
    trial.is_found_in_forecasts({"p_calm", "p_stress"}, BOTH, only="^p_", seed=2)


def test_residuals_and_tails_fed_before_they_are_resolved(trial: Any) -> None:
    small(trial)
    trial.plant(distribution, "window", unresolved)
    trial.is_found_in_forecasts({"var_q05", "ret_q010"}, BOTH, only="^(?!variance|model_sha256)")


def test_the_whole_check_is_clean_and_stops_at_the_first_stage_that_leaks(
    long_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int]] = []
    sizes = {"cuts": 2, "forecast_cuts": 1, "deep_cuts": 1, "live_bars": 2, "restarts": 1, "jobs": 1}
    report = leakcheck(long_market, CONFIG, **sizes, progress=lambda *step: seen.append(step))
    assert not report.leaks
    assert {"prefix features", "prefix targets", "poison features", "prefix forecasts"} <= set(report.cells)
    assert ("cuts", 2, 2) in seen
    assert ("forecasts", 1, 1) in seen
    assert report.to_dict()["clean"] is True
    shipped = rows.purged_labels
    monkeypatch.setattr("features.targets._ahead", lambda x, h: np.roll(x, -h - 1, axis=1))
    assert rows.purged_labels is shipped
    with pytest.raises(LeakFound, match="'targets'"):
        leakcheck(long_market, CONFIG, **(sizes | {"live_bars": 0}))
