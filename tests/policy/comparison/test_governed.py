"""Margins in force against the schedule's own bytes, and what each ablation takes out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from forecaster.policy import Params, make_schedule
from forecaster.policy.comparison import margins_in_force
from forecaster.policy.comparison.ablations import ABLATIONS, ladder, ungoverned
from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.governed import governed, in_force


def test_in_force_is_what_the_schedule_says(
    met: Contest, forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    table = margins_in_force(make_schedule(forecasts, market, params))
    rows, columns = met.ground.history.positions(table)
    ours = met.runs["raw"]["ensemble"]
    np.testing.assert_allclose(ours.im[rows, columns], table["ensemble"], rtol=1e-12)
    np.testing.assert_allclose(ours.mm[rows, columns], table["mm"], rtol=1e-12)


def test_in_force_in_a_loop() -> None:
    rng = np.random.default_rng(9)
    n = 400
    entity, as_of = rng.integers(0, 3, n), np.arange(n) // 2 * 2
    effective = as_of + rng.integers(0, 12, n)
    for e in range(3):
        effective[np.flatnonzero(entity == e)[0]] = as_of[np.flatnonzero(entity == e)[0]]
    keep = ~pd.DataFrame({"e": entity, "t": as_of}).duplicated().to_numpy()
    entity, as_of, effective = entity[keep], as_of[keep], effective[keep]
    expected = [
        max(j for j in range(i + 1) if entity[j] == entity[i] and effective[j] <= as_of[i]) for i in range(len(entity))
    ]
    assert in_force(entity, as_of, effective).tolist() == expected


def test_ladder_ends_at_the_target(met: Contest) -> None:
    steps = ladder(met.variant, met.ground)
    target = ungoverned(met.variant, met.ground).im
    np.testing.assert_allclose(steps["bounds"], target, rtol=1e-12)
    assert np.nanmin(steps["stress"] - steps["conformal"]) >= 0
    assert np.nanmax(steps["stress"] - steps["conformal"]) > 0


@pytest.mark.parametrize(
    ("name", "stage"),
    [("no_floor", "floor"), ("no_stress", "stress"), ("no_conformal", "conformal"), ("no_liquidity", "liquidity"),
     ("no_funding", "funding"), ("no_open_interest", "open_interest")],
)  # fmt: skip
def test_an_ablation_takes_out_its_stage(name: str, stage: str, met: Contest) -> None:
    names = list(ladder(met.variant, met.ground))
    before = names[names.index(stage) - 1]
    steps = ladder(ABLATIONS[f"ensemble_{name}"](met.variant), met.ground)
    assert np.nanmax(np.abs(steps[stage] - steps[before])) <= 2e-6


def test_without_regimes_only_breakers_change_the_mode(met: Contest) -> None:
    calm, exposure = governed(ABLATIONS["ensemble_no_regime"](met.variant), met.ground)
    ours = met.runs["raw"]["ensemble"]
    assert not np.array_equal(calm.im[met.ground.scored], ours.im[met.ground.scored])
    np.testing.assert_array_equal(
        ungoverned(ABLATIONS["ensemble_no_regime"](met.variant), met.ground).im, ungoverned(met.variant, met.ground).im
    )
    assert not np.isnan(exposure[met.ground.scored]).any()
