"""The leak check of the whole path: features and targets, then the forecasts made from them.

Forecasts are checked at cuts ``t`` by making them again from ``market.as_of(t)``: the fold that contains ``t`` is refitted
on what was known at ``t``, the folds before it stand, and every column of the forecast table up to ``t`` must have the same
bits. At a fold's border a label that reaches into the test period is unknown, so a fit that reads one is found there; at
the refreshes of levels, weights and laws, in mid-fold and at gaps, what is updated between refits is.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from features import leakage
from features.leak_report import Finding, LeakReport, differences
from features.market import Market
from features.pipeline import FAMILIES, FeaturePipeline
from models.trailing import FOUR_WEEKS, refreshes
from training.assembly import Origin, Provenance, assemble, table_rows
from training.config import RunConfig
from training.engine import Engine
from training.folds import FoldResult, classifier_of, forecast_fold
from training.material import Material, prepare
from training.splits import Fold
from training.walkforward import plan, run_folds

__all__ = ["LeakReport", "check_forecasts", "leakcheck"]

Progress = Callable[[str, int, int], None]

KEY: Final = ["symbol", "origin", "horizon_hours", "model"]
TESTED_MONTHS: Final = 2
WARMUP_MONTHS: Final = 3
# A fit on one year goes through the same code as one on all of the past, in a fraction of the time.
WINDOW_MONTHS: Final = 12
ROWS_BACK: Final = pd.Timedelta(days=7)
HOUR: Final = pd.Timedelta(hours=1)


def leakcheck(
    market: Market,
    config: RunConfig | None = None,
    *,
    cuts: int = 50,
    forecast_cuts: int = 6,
    deep_cuts: int = 5,
    live_bars: int = 48,
    restarts: int = 4,
    seed: int = 0,
    jobs: int = 2,
    progress: Progress | None = None,
) -> LeakReport:
    """Check features and targets at ``cuts`` instants and forecasts at ``forecast_cuts``.

    ``deep_cuts``, ``live_bars``, ``restarts``: as in ``features.leakage.check``.

    Raises ``LeakFound`` naming the first bad cell, ``UsageError`` where the market is too short to be cut or forecast.
    """
    config = config or RunConfig.recommended()
    pipeline = FeaturePipeline(config.features.families or tuple(FAMILIES), config.horizons, config.proxy)
    report = leakage.check(
        market,
        pipeline,
        config.horizons,
        config.proxy,
        cuts,
        seed,
        deep_cuts=deep_cuts,
        live_bars=live_bars,
        restarts=restarts,
        jobs=jobs,
        progress=progress,
    )
    report.raise_if_found()
    if forecast_cuts:
        report = report.joined(check_forecasts(market, config, forecast_cuts, seed, jobs=jobs, progress=progress))
        report.raise_if_found()
    return report


def check_forecasts(
    market: Market,
    config: RunConfig,
    cuts: int = 6,
    seed: int = 0,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> LeakReport:
    """Check every column of the forecast table at ``cuts`` instants of the last five months; see the module."""
    from joblib import Parallel, delayed

    walk = config.walkforward.model_copy(update={"warmup_months": WARMUP_MONTHS, "window_months": WINDOW_MONTHS})
    config = config.model_copy(update={"walkforward": walk})
    material = prepare(market, config)
    end = material.times[-1] + HOUR
    folds = plan(material, config, end - pd.DateOffset(months=TESTED_MONTHS), end)
    with tempfile.TemporaryDirectory() as scratch:
        results = run_folds(folds, material, config, market.data_sha256, Path(scratch), Engine(jobs), progress)
    instants = _cut_times(material, folds, cuts, seed)
    whole = [_table(material, config, results, t) for t in instants]
    trials = (
        delayed(_trial)(market, config, folds, results, t, expected)
        for t, expected in zip(instants, whole, strict=True)
    )
    findings = []
    with warnings.catch_warnings():
        # A process that has grown by 300 MB is replaced between its tasks, with this warning.
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        for finding in Parallel(n_jobs=jobs, return_as="generator")(trials):
            findings.append(finding)
            if progress is not None:
                progress("forecasts", len(findings), len(instants))
    scope = (
        f"Forecasts: at {len(instants)} cuts the fold refitted (on {WINDOW_MONTHS} months) and every column of the table of "
        f"the {ROWS_BACK.days} days before."
    )
    return LeakReport.of(instants, findings, scope)


def _trial(
    market: Market,
    config: RunConfig,
    folds: Sequence[Fold],
    results: Sequence[FoldResult],
    t: pd.Timestamp,
    expected: pd.DataFrame,
) -> Finding:
    """Forecast again from what was known at ``t`` and compare."""
    material = prepare(market.as_of(t), config)
    before = [result for result in results if result.first_origin <= t][:-1]
    again = forecast_fold(
        folds[len(before)], material.rows, config.members, config.walkforward.exclude, classifier_of(config)
    )
    found = _table(material, config, [*before, again], t)
    return differences(expected, found, "prefix", "forecasts", t)


def _table(material: Material, config: RunConfig, results: Sequence[FoldResult], t: pd.Timestamp) -> pd.DataFrame:
    """The forecast table of the last days up to ``t``."""
    forecasts = pd.concat([result.forecasts for result in results]).sort_index(kind="stable")
    assemblies, span = assemble(material, forecasts, config)
    models = {result.first_origin: result.params_sha256 for result in results if result.first_origin <= t}
    provenance = Provenance(config.sha256, "", models)
    origin = Origin.of(material, span)
    newest = t + pd.Timedelta(microseconds=1)
    rows = table_rows(assemblies, material, span, origin, provenance, t - ROWS_BACK, newest, material.symbols)
    return pd.concat(rows).set_index(KEY)


def _cut_times(material: Material, folds: Sequence[Fold], count: int, seed: int) -> list[pd.Timestamp]:
    """Fold borders, refreshes of what is estimated between them, hours in mid-fold, ends of gaps and midnights, in turn.

    A refresh that reads rows not resolved yet shows only until they are: an hour after it, at a horizon of one hour.
    """
    rng = np.random.default_rng(seed)
    first = folds[0].test_start
    later = np.asarray(material.times > first)
    times, alive = material.times.asi8[later], material.alive[:, later]
    resumed = (~alive[:, :-1] & alive[:, 1:]).any(axis=0)
    midnight = np.asarray(material.times.hour == 0)[later]
    borders = pd.DatetimeIndex([fold.test_start for fold in folds]).as_unit("us").asi8
    refreshed = np.intersect1d(material.times.asi8[refreshes(material.times, FOUR_WEEKS)], times)
    pools = [borders, refreshed, times, times[1:][resumed], times[midnight]]
    shuffled: list[Iterator[np.int64]] = [iter(rng.permutation(pool)) for pool in pools]
    chosen: dict[np.int64, None] = {}
    for pool in cycle(shuffled):
        at = next(pool, None)
        if at is not None:
            chosen[at] = None
        if len(chosen) >= min(count, len(times)):
            break
    return list(pd.DatetimeIndex(np.sort([*chosen]).astype("datetime64[us]"), tz="UTC"))
