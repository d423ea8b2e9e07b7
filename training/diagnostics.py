"""What a reader needs beside the scores: gains with intervals, shock days, coverage, pooled calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.base import ENSEMBLE
from training import losses
from training.comparison import diebold_mariano, gain, newey_west_lags
from training.sample import Sample, samples, scored
from training.scorecard import nullable

__all__ = ["OPPONENTS", "diagnose", "diagnostics", "headline", "joined"]

FloatArray = npt.NDArray[np.float64]

OPPONENTS: Final = ("har_seasonal", "garch", "har", "ewma")
_GAIN_COLUMNS: Final = (
    "horizon_hours",
    "opponent",
    "loss",
    "gain",
    "low",
    "high",
    "symbols_better",
    "symbols_significant",
    "symbols",
)


def headline(
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    model: str = ENSEMBLE,
    opponents: Sequence[str] = OPPONENTS,
    *,
    start: pd.Timestamp | str | None = None,
    end: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """The model's gain over each opponent, per horizon, with and without the shock day.

    Returns:
        One row per horizon_hours, opponent and loss (``qlike``, ``qlike_x``): gain with its 90 % interval by
        date (low, high), symbols_better of symbols, and symbols_significant (Diebold-Mariano p < 0.05 among
        those better). Opponents without forecasts are left out.
    """
    first, last = forecasts["origin"].min(), forecasts["origin"].max() + pd.Timedelta(hours=1)
    found = samples(forecasts, realised, first if start is None else start, last if end is None else end)
    rows = [row for sample in found for row in _gains(sample, model, opponents)]
    return pd.DataFrame(rows, columns=_GAIN_COLUMNS)


def diagnostics(
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    *,
    start: pd.Timestamp | str,
    end: pd.Timestamp | str,
    model: str = ENSEMBLE,
    opponents: Sequence[str] = OPPONENTS,
) -> dict[str, Any]:
    """What a reader needs beside the scores, ready for ``to_json_bytes``.

    Returns:
        ``shock_days`` (per horizon, the UTC days that ``qlike_x`` leaves out), ``coverage`` (per model and
        horizon: origins with a complete target, how many of them it forecast, and how many were scored),
        ``gains`` (the rows of ``headline``) and ``pooled`` (hits and calibration error over all symbols).
    """
    return joined(diagnose(sample, model, opponents) for sample in samples(forecasts, realised, start, end))


def diagnose(sample: Sample, model: str = ENSEMBLE, opponents: Sequence[str] = OPPONENTS) -> dict[str, Any]:
    """What ``diagnostics`` tells of one horizon."""
    days = np.unique(sample.days[sample.shocked])
    keys = [{"model": name, "horizon_hours": sample.horizon} for name in sample.models]
    return {
        "shock_days": {str(sample.horizon): [str(np.datetime64(int(day), "D")) for day in days]},
        "coverage": [key | _coverage(sample, m) for m, key in enumerate(keys)],
        "gains": list(_gains(sample, model, opponents)),
        "pooled": [key | _pooled(sample, m) for m, key in enumerate(keys)],
    }


def joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``diagnose`` told of several horizons, as one document."""
    found: dict[str, Any] = {"shock_days": {}, "coverage": [], "gains": [], "pooled": []}
    for part in parts:
        found["shock_days"] |= part["shock_days"]
        for name in ("coverage", "gains", "pooled"):
            found[name] += part[name]
    for name in ("coverage", "pooled"):
        found[name].sort(key=lambda row: (row["model"], row["horizon_hours"]))
    return found


def _gains(sample: Sample, model: str, opponents: Sequence[str]) -> Iterator[dict[str, Any]]:
    if model not in sample.models:
        return
    own = sample.models.index(model)
    for opponent in opponents:
        if opponent not in sample.models:
            continue
        other = sample.models.index(opponent)
        for name, loss in (("qlike", sample.qlike), ("qlike_x", sample.qlike_x)):
            found = gain(loss[own], loss[other], sample.days)
            values = (sample.horizon, opponent, name, *map(nullable, found[:3]), found.better)
            significant = sum(
                _clearly_better(a, b, sample.horizon) for a, b in zip(loss[own], loss[other], strict=True)
            )
            yield dict(zip(_GAIN_COLUMNS, (*values, significant, found.symbols), strict=True))


def _clearly_better(own: FloatArray, other: FloatArray, horizon: int) -> bool:
    known = np.isfinite(own) & np.isfinite(other)
    if known.sum() <= newey_west_lags(horizon):
        return False
    test = diebold_mariano(own[known], other[known], horizon)
    return test.statistic < 0 and test.p_value < 0.05


def _coverage(sample: Sample, m: int) -> dict[str, Any]:
    complete = ~np.isnan(sample.truth["variance"])
    rows = sample.rows[m][complete & (sample.rows[m] >= 0)]
    forecast = int(np.isfinite(sample.forecasts["variance"].to_numpy()[rows]).sum())
    scored_rows = int(np.isfinite(sample.qlike[m]).sum())
    return {"origins": int(complete.sum()), "forecast": forecast, "scored": scored_rows}


def _pooled(sample: Sample, m: int) -> dict[str, Any]:
    def pool(name: str) -> FloatArray:
        return np.concatenate([sample.column(m, s, name) for s in range(len(sample.symbols))])

    r, stress = sample.truth["log_return"].ravel(), sample.truth["stress"].ravel()
    return {
        "var_hit_010": nullable(scored(losses.hit_rate, r, pool("ret_q010"))),
        "var_hit_050": nullable(scored(losses.hit_rate, r, pool("ret_q050"))),
        "ece_stress": nullable(scored(losses.ece, stress, pool("p_stress") + pool("p_crisis"))),
    }
