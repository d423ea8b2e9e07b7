"""The contest: margins of every policy on one ground, raw and under the two past-only scalings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from features.market import Market
from features.panel import Array
from forecaster.policy.inputs import read_with_market
from forecaster.policy.observables import DAY, MarketHistory
from forecaster.policy.params import Params
from models.table import read_parquet
from training.splits import utc

from .ablations import ABLATIONS, Variant, ladder
from .baselines import anti_procyclical, baselines, extended
from .governed import governed
from .ground import Floats, Ground, Margins, ground_of
from .scaling import equal_coverage, equal_mean

__all__ = ["POLICIES", "Contest", "contest", "further"]

POLICIES: Final = ("static", "exchange", "ewma", "fhs", "fhs_apc", "ensemble", "oracle")
RAW_HAR: Final = "har"


@dataclass(frozen=True)
class Contest:
    """Margins in force by comparison (``raw``, ``equal_mean``, ``equal_coverage``) and policy."""

    ground: Ground  # scored where every policy but ``exchange`` has a margin and the outcome is known
    variant: Variant
    stress_move: Array
    exposure: Array  # exposure scale in force of the raw schedule
    runs: dict[str, dict[str, Margins]]


def contest(
    forecasts: str | Path | pd.DataFrame,
    market: Market,
    params: Params,
    *,
    start: pd.Timestamp | str | None = None,
    end: pd.Timestamp | str | None = None,
) -> Contest:
    """Every policy of ``POLICIES`` on the forecasts' origins with ``start <= origin < end``; arguments of ``scoreboard``.

    Raises UsageError where no origin is left, DataInvalid for a table without the model's rows.
    """
    history = MarketHistory(market, params)
    inputs = read_with_market(_model_rows(forecasts, params.model), history)
    ground = ground_of(inputs, history, *(None if x is None else utc(x) for x in (start, end)))
    variant, stress_move = Variant(inputs, params), ground.spread(inputs.observed["stress_move"])
    ours, exposure = governed(variant, ground)
    raw = baselines(ground, stress_move) | {"ensemble": ours}
    raw = {name: raw[name] for name in POLICIES}
    ground = _compared(ground, raw)
    mean = {name: equal_mean(margins.im, raw["fhs"].im, ground) for name, margins in raw.items()}
    coverage = {name: equal_coverage(margins.im, ground) for name, margins in raw.items()}
    runs = {
        "raw": raw,
        "equal_mean": _rescaled(raw, mean, variant, ground),
        "equal_coverage": _rescaled(raw, coverage, variant, ground),
    }
    return Contest(ground, variant, stress_move, exposure, runs)


def further(met: Contest, forecasts: str | Path | pd.DataFrame) -> tuple[dict[str, Array], dict[str, Array]]:
    """Initial margins of the further opponents, of the target after each stage, of the ablations: raw, at equal mean.

    ``har`` is raw: its volatility times the expanding quantile of past excursions in units of it; members of the ensemble
    publish no quantiles of the excursion. ``har_apc`` adds the stress weight and the floor.
    """
    ground, fhs = met.ground, met.runs["raw"]["fhs"].im
    alone = extended(ground, fhs)
    sigma = _sigma(_model_rows(forecasts, RAW_HAR, ["symbol", "origin", "horizon_hours", "variance"]), ground)
    if sigma is not None:
        core = ground.history.scaled(sigma)
        hardened = anti_procyclical(core, met.stress_move, ground.history)
        alone |= {RAW_HAR: Margins.of(core), "har_apc": Margins.of(hardened)}
    alone |= {f"target_{stage}": Margins.of(im) for stage, im in ladder(met.variant, ground).items()}
    free = {name: margins.im for name, margins in alone.items()}
    out = {name: margins.times(equal_mean(margins.im, fhs, ground)).im for name, margins in alone.items()}
    for name, change in ABLATIONS.items():
        changed = change(met.variant)
        free[name] = governed(changed, ground)[0].im
        out[name] = governed(changed, ground, equal_mean(free[name], fhs, ground))[0].im
    return free, out


def _rescaled(
    raw: dict[str, Margins], scales: dict[str, Floats], variant: Variant, ground: Ground
) -> dict[str, Margins]:
    """Every policy times its scalar; the governed one is scaled before its governor."""
    out = {name: margins.times(scales[name]) for name, margins in raw.items()}
    return out | {"ensemble": governed(variant, ground, scales["ensemble"])[0]}


def _sigma(rows: pd.DataFrame, ground: Ground) -> Array | None:
    """24 h volatility of a member's rows on the grid; None without any."""
    day = rows[rows["horizon_hours"] == DAY]
    symbol, hour = ground.history.positions(day)
    known = (symbol >= 0) & (hour >= 0)
    sigma = np.full(ground.excursion.shape, np.nan)
    sigma[symbol[known], hour[known]] = np.sqrt(day["variance"].to_numpy(np.float64)[known])
    return sigma if known.any() else None


def _model_rows(forecasts: str | Path | pd.DataFrame, model: str, columns: list[str] | None = None) -> pd.DataFrame:
    if isinstance(forecasts, pd.DataFrame):
        return forecasts.loc[forecasts["model"] == model, columns or list(forecasts.columns)]
    return read_parquet(forecasts, columns=columns, models=[model])


def _compared(ground: Ground, raw: dict[str, Margins]) -> Ground:
    """With only those origins scored at which every policy but ``exchange`` has a margin and the outcome is known."""
    known = ground.scored & ~np.isnan(ground.excursion)
    for name, margins in raw.items():
        if name != "exchange":  # its tiers are observed from 2022 on only
            known &= ~np.isnan(margins.im)
    return replace(ground, scored=known)
