"""Two experiments beside the history: a step of volatility, and the smallest shock that leaves bad debt.

History holds few events. How a rule answers a step, and what it takes to break it, can be asked of any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.ground import Margins
from forecaster.venue import Margins as Standing
from forecaster.venue import VenueParams
from forecaster.venue.impulse import Experiment, margins_under, measure
from forecaster.venue.scenarios import SEED, Setting
from forecaster.venue.stress import LIMIT, breaking_gap
from training.scorecard import nullable

__all__ = ["FILE", "LEVELS", "SHOCKS", "STEP", "experiments"]

FILE: Final = "policy_experiments.json"
STEP: Final = Experiment(
    sigma=0.006,
    step=3.0,
    hours=240,
    warm_up=400 * 24,
    forecasts=40 * 24,
    after=720,
    half_life=24,
    daily_volume_usd=1e9,
    seed=SEED,
)
"""Ten days of three times the volatility; the forecaster sees it by an average of 24 h half-life."""
BEFORE: Final = 48
"""Hours before the step from which the path is kept."""
SHOCKS: Final = ((1.0, 0.0), (0.5, 0.1), (0.2, 0.3))
"""Share of the depth left, and the largest account's share of open interest."""
LEVELS: Final = ("mean", "least")
BARS: Final = 12
PENALTY: Final = 0.0025


def experiments(met: Contest, venue: VenueParams | None) -> dict[str, Any]:
    """The document of ``policy_experiments.json``.

    ``impulse``: rows of ``venue.impulse.Response`` by rule, and ``paths`` from 48 h before the step on. ``reverse_stress``:
    by policy, level of its raw margin (``mean`` over the compared origins; ``least`` of the median symbol), side of the
    gap, and shock of ``SHOCKS``, the smallest gap that leaves bad debt, null where none up to ``limit`` does; no rows
    without a venue.
    """
    params = met.variant.params
    paths = margins_under(STEP, params)
    answers = {rule: asdict(measure(im, STEP.forecasts, STEP.hours)) for rule, im in paths.items()}
    rows = [] if venue is None else list(_shocks(met, Setting(venue, params, SEED)))
    return {
        "schema_version": 1,
        "impulse": {
            "step": asdict(STEP),
            "rows": [{"rule": r} | {k: nullable(v) for k, v in told.items()} for r, told in answers.items()],
            "first_hour": -BEFORE,
            "paths": {r: np.round(im[STEP.forecasts - BEFORE :], 6).tolist() for r, im in paths.items()},
        },
        "reverse_stress": {"limit": LIMIT.gap, "rows": rows},
    }


def _shocks(met: Contest, setting: Setting) -> Iterator[dict[str, Any]]:
    for policy, margins in met.runs["raw"].items():
        for level, (im, mm) in zip(LEVELS, _levels(margins, met), strict=True):
            if math.isnan(im):
                continue
            standing = Standing.constant(im, BARS, mm / im, min(PENALTY, mm / 2))
            for side in (-1, 1):
                for depth, share in SHOCKS:
                    gap = nullable(breaking_gap(standing, side, depth, share, setting))
                    shock = {"side": side, "depth": depth, "concentration": share, "gap": gap}
                    yield {"policy": policy, "level": level, "im": im, "mm": mm} | shock


def _levels(margins: Margins, met: Contest) -> Iterator[tuple[float, float]]:
    """Initial and maintenance margin at each of ``LEVELS``, at most the whole notional; nan where there are none."""
    scored = met.ground.scored & ~np.isnan(margins.im)
    if not scored.any():
        yield from ((math.nan, math.nan),) * len(LEVELS)
        return
    im, mm = (np.minimum(x, 1.0) for x in (margins.im, margins.mm))
    yield float(im[scored].mean()), float(mm[scored].mean())
    own = [(x[rows].min(), m[rows].min()) for x, m, rows in zip(im, mm, scored, strict=True) if rows.any()]
    yield tuple(float(v) for v in np.median(own, axis=0))  # type: ignore[misc]
