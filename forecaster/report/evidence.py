"""What the figures show, condensed from forecasts and targets on the same rows that the scores judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from models.base import ENSEMBLE, EXCURSION_COLUMNS, PROBABILITIES, REGIMES
from training.diagnostics import REFERENCE
from training.sample import Sample, samples

__all__ = [
    "REFERENCE",
    "Horizon",
    "annualised",
    "excursion_hits",
    "gather",
    "grouped_mean",
    "storm",
]

FloatArray = npt.NDArray[np.float64]

_MOST_POINTS: Final = 800
_STEPS: Final = (1, 4, 12, 24, 168)


@dataclass(frozen=True)
class Horizon:
    """One horizon's evidence; means are over the hourly origins of a step."""

    hours: int
    step_hours: int
    symbols: tuple[str, ...]
    models: tuple[str, ...]
    times: pd.DatetimeIndex
    """Start of every step."""
    realised: FloatArray
    """Symbols × steps: mean V."""
    forecast: FloatArray
    """Symbols × steps: mean forecast V of the ensemble, on the same origins."""
    regimes_realised: FloatArray
    """Regimes × symbols × steps: share of origins."""
    regimes_forecast: FloatArray
    """Regimes × symbols × steps: mean probability."""
    months: tuple[str, ...]
    monthly: FloatArray
    """Models × months: QLIKE, symbols with equal weight."""


def gather(
    forecasts: pd.DataFrame, realised: pd.DataFrame, *, start: str | pd.Timestamp, end: str | pd.Timestamp
) -> list[Horizon]:
    """The evidence of every horizon, on the scored window ``start <= origin < end``.

    Raises:
        DataInvalid: where a horizon has no forecast of the ensemble.
        UsageError: where the window is empty.
    """
    return [_horizon(sample) for sample in samples(forecasts, realised, start, end)]


def annualised(variance: Any, hours: int) -> FloatArray:
    """Volatility in per cent a year of a variance summed over ``hours``."""
    return np.asarray(100.0 * np.sqrt(np.asarray(variance, dtype=np.float64) * 8760.0 / hours))


def excursion_hits(forecasts: pd.DataFrame, realised: pd.DataFrame) -> pd.DataFrame:
    """Exceedances of the ensemble's 99.5 % excursion quantiles, pooled over symbols.

    Returns:
        One row per horizon_hours and side (``long``, ``short``): share of origins beyond the quantile, n.
    """
    quantiles = {side: columns[2] for side, columns in ((s, list(c)) for s, c in EXCURSION_COLUMNS.items())}
    key = ["symbol", "origin", "horizon_hours"]
    own = forecasts.loc[_rows_of(forecasts, ENSEMBLE), [*key, *quantiles.values()]]
    rows = []
    for hours, part in own.groupby("horizon_hours"):
        came = realised.xs(hours, level="horizon_hours")[["mae_long", "mae_short"]]
        joined = part.join(came, on=key[:2])
        for side, column in quantiles.items():
            known = joined[[column, f"mae_{side}"]].dropna()
            share = float((known[f"mae_{side}"] > known[column]).mean()) if len(known) else float("nan")
            rows.append((int(str(hours)), side, share, len(known)))
    return pd.DataFrame(rows, columns=["horizon_hours", "side", "share", "n"])


def storm(
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    schedule: pd.DataFrame | None,
    symbol: str,
    hours: int,
    days: int,
) -> pd.DataFrame:
    """Hour by hour around the largest adverse excursion of a symbol: forecast, what came, margin.

    Returns:
        Indexed by origin: the ensemble's columns, the targets under their own names with ``variance`` as
        ``realised``, ``excursion`` (the larger side, a fraction) and, where there is a schedule, ``im`` and
        ``mm`` in force. Empty where the symbol has no open row at this horizon.
    """
    chosen = _rows_of(forecasts, ENSEMBLE) & (forecasts["symbol"] == symbol).to_numpy(dtype=bool)
    chosen &= (forecasts["horizon_hours"] == hours).to_numpy(dtype=bool)
    columns = ["variance", "var_q05", "var_q25", "var_q75", "var_q95", *PROBABILITIES]
    table = forecasts.loc[chosen, ["origin", *columns]].set_index("origin").sort_index()
    targets = realised[["variance", "regime", "mae_long", "mae_short"]].set_axis(
        ["realised", "regime", "mae_long", "mae_short"], axis=1
    )
    table = table.join(targets.xs(symbol, level="symbol").xs(hours, level="horizon_hours"))
    table["excursion"] = table[["mae_long", "mae_short"]].max(axis=1)
    if schedule is not None:
        margins = schedule[schedule["symbol"] == symbol].set_index("as_of")[["im", "mm"]]
        table = table.join(margins.sort_index())
    if table["excursion"].notna().any():
        centre = pd.Timestamp(table.index[int(np.nanargmax(table["excursion"].to_numpy()))])
        half = pd.Timedelta(days=days) / 2
        table = table.loc[centre - half : centre + half]
    if table.empty:
        return table
    # A gap stays a gap in the picture.
    return table.reindex(pd.date_range(table.index[0], table.index[-1], freq="h", unit="us", name="origin"))


def _rows_of(forecasts: pd.DataFrame, model: str) -> npt.NDArray[np.bool_]:
    open_rows = (forecasts["status"] != "blocked").to_numpy(dtype=bool)
    return np.asarray((forecasts["model"] == model).to_numpy(dtype=bool) & open_rows)


def _horizon(sample: Sample) -> Horizon:
    if ENSEMBLE not in sample.models:
        raise DataInvalid(
            f"forecasts: no row of model {ENSEMBLE} at horizon {sample.horizon} h; evaluate with the ensemble"
        )
    own = sample.models.index(ENSEMBLE)
    step = next((s for s in _STEPS if len(sample.hours) <= s * _MOST_POINTS), _STEPS[-1])
    codes, starts = np.unique(sample.hours // step, return_index=True)
    forecast = _stack(sample, own, "variance")
    realised = np.where(np.isnan(forecast), np.nan, sample.truth["variance"])
    regime = sample.truth["regime"]
    classes = np.stack([np.where(np.isnan(regime), np.nan, regime == k) for k in range(len(REGIMES))])
    probabilities = np.stack([_stack(sample, own, name) for name in PROBABILITIES])
    month_of = (sample.hours.astype("datetime64[h]")).astype("datetime64[M]")
    months, month_starts = np.unique(month_of, return_index=True)
    return Horizon(
        hours=sample.horizon,
        step_hours=step,
        symbols=sample.symbols,
        models=sample.models,
        times=pd.DatetimeIndex((codes * step).astype("datetime64[h]").astype("datetime64[us]"), tz="UTC"),
        realised=grouped_mean(realised, starts),
        forecast=grouped_mean(forecast, starts),
        regimes_realised=grouped_mean(classes, starts),
        regimes_forecast=grouped_mean(probabilities, starts),
        months=tuple(str(month) for month in months),
        monthly=_mean_over_symbols(grouped_mean(sample.qlike, month_starts)),
    )


def _stack(sample: Sample, model: int, name: str) -> FloatArray:
    return np.stack([sample.column(model, s, name) for s in range(len(sample.symbols))])


def grouped_mean(values: FloatArray, starts: npt.NDArray[np.intp]) -> FloatArray:
    """Mean of the known values from each start to the next, along the last axis; null where none is known."""
    known = ~np.isnan(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts, axis=-1)
    count = np.add.reduceat(known.astype(np.float64), starts, axis=-1)
    return _ratio(total, count)


def _mean_over_symbols(values: FloatArray) -> FloatArray:
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def _ratio(total: FloatArray, count: FloatArray) -> FloatArray:
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
